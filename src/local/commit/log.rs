//! The log: carries out what the commit core decides.
//!
//! Owns the core, the appender and the receiving end of the commit queue. A step takes all messages
//! from the queue, lets the core form a group, and lays it out. Then the leader writes and syncs
//! the group, publishes it in the index ([`publish`]), and wakes its callers. With many callers it
//! writes and wakes without the commit lock ([`unlocked_work`]). The [`commit_lock`] decides which
//! thread leads, and when.
//!
//! A few milliseconds after the last group the log writes its *durable mark* ([`control`]), so that
//! recovery can tell a torn tail from damage to acknowledged data.
//!
//! A failed write or sync is never tried again: the store is poisoned. A panic poisons it too.

mod control;
mod publish;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use control::{Frozen, LogEnd};

use crate::block::Lsn;
use crate::error::{Error, IoOp, PoisonCause, Result};
use crate::io::Disk;
use crate::local::commit::append::Appender;
use crate::local::commit::commit_lock::{LockedWork, Step};
use crate::local::commit::group::{
    Actions, CommitCore, CoreOptions, Event, Outcome, Pace, Submission,
};
use crate::local::commit::log_write::LogWrite;
use crate::local::commit::shared::Shared;
use crate::local::commit::unlocked_work::{GroupWrite, LogGroup, UnlockedWork, answer_callers};
#[cfg(doc)]
use crate::local::commit::{commit_lock, unlocked_work};
use crate::local::poison::Poison;
use crate::local::space::presence;
use crate::mvcc::batch::Batch;
use crate::sync::Ordering;
use crate::sync::channel::Receiver;
use crate::ticket::{Reply, reply_without_caller};

/// The log is idle for this long before the durable mark of the last group is written.
const WITNESS_AFTER: Duration = Duration::from_millis(5);
/// A group takes no further member beyond this many log bytes.
const GROUP_LEN_MAX: u64 = 8 << 20;
/// Maintenance checks the store after so many log bytes, or more often if an alarm asks for that.
pub(crate) const MAINTENANCE_EVERY: u64 = 4 << 20;

/// A message of a caller.
#[derive(Debug)]
pub(crate) enum Message {
    /// A commit, or a request to sync.
    Submit(Submission<Reply>),
    /// No more will come: write the end mark and stop.
    Close(Reply),
}

/// The log's state.
pub(crate) struct Log<D: Disk> {
    disk: Arc<D>,
    shared: Arc<Shared>,
    core: CommitCore<Reply, Box<GroupWrite<D::File>>>,
    appender: Appender<D>,
    queue: Receiver<Message>,
    sync_interval: Duration,
    /// A reader of the log knows that commits up to here are durable.
    witnessed: Lsn,
    /// Bytes of frames since open.
    written_len: u64,
    /// Bytes written and bytes that became dead since maintenance was woken.
    unseen_len: u64,
    /// Published groups, whose callers are to be answered without the lock.
    published: Vec<LogGroup<D>>,
    /// The segment that the log last rolled to on request, and the last commit before it.
    rolled_to: Option<(u64, Lsn)>,
    /// The time at which the last group write ended.
    ended_at: Duration,
    /// The time at which the oldest commit that is not durable yet was written.
    unsynced_since: Option<Duration>,
    /// A moving average of the time to write and sync a group.
    group_time: Duration,
    /// Bytes of the budget that commits taken from the queue hold until they are published. A group
    /// that is being written without the lock is not counted meanwhile.
    held_len: u64,
    /// Group writes under way.
    writing_count: usize,
    closing: Option<Reply>,
    closed: bool,
}

/// From how many callers on groups overlap, and how often the log syncs by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogOptions {
    pub(crate) many_callers_min: usize,
    /// Groups that are written at once, where many callers fill them.
    pub(crate) group_count_max: usize,
    pub(crate) sync_interval: Duration,
}

impl<D: Disk> Log<D> {
    pub(crate) fn new(
        disk: Arc<D>,
        shared: Arc<Shared>,
        appender: Appender<D>,
        queue: Receiver<Message>,
        options: LogOptions,
    ) -> Log<D> {
        let last = shared.mvcc.index.visible_lsn();
        let group_len_max = GROUP_LEN_MAX;
        let LogOptions { many_callers_min, group_count_max, sync_interval } = options;
        let options = CoreOptions { group_count_max, many_callers_min, group_len_max };
        let ended_at = disk.now();
        Log {
            core: CommitCore::new(options, Pace::for_group_time(Duration::ZERO), last),
            disk,
            shared,
            appender,
            queue,
            sync_interval,
            witnessed: last,
            written_len: 0,
            unseen_len: 0,
            published: Vec::new(),
            rolled_to: None,
            ended_at,
            unsynced_since: None,
            group_time: Duration::ZERO,
            held_len: 0,
            writing_count: 0,
            closing: None,
            closed: false,
        }
    }

    /// Takes all messages from the queue.
    fn take_queued_messages(&mut self) {
        while let Ok(message) = self.queue.try_recv() {
            if let Message::Submit(taken) = &message {
                self.held_len += taken.log_len;
            }
            match message {
                Message::Submit(refused) if self.closed => {
                    self.refuse_submission(refused, Error::Closed)
                }
                Message::Submit(submission) => self.submit_to_core(submission),
                Message::Close(reply) => self.closing = Some(reply),
            }
        }
    }

    fn submit_to_core(&mut self, submission: Submission<Reply>) {
        let now = self.disk.now();
        if let Some(cause) = self.shared.poison.cause() {
            let actions =
                self.core.handle_event(now, Event::Poison(cause), &self.shared.mvcc.index);
            self.publish_and_refuse(actions);
        }
        let actions =
            self.core.handle_event(now, Event::Submit(submission), &self.shared.mvcc.index);
        self.publish_and_refuse(actions);
    }

    /// The time at which a sync of buffered commits is due.
    fn sync_due_at(&self) -> Option<Duration> {
        // An interval may be as long as never.
        self.unsynced_since.map(|since| since.saturating_add(self.sync_interval))
    }

    /// Submits a request to sync that no caller waits for.
    fn submit_own_sync(&mut self) {
        self.submit_to_core(sync_request(reply_without_caller()));
    }

    /// Carries out the publications and refusals that the core decided.
    fn publish_and_refuse(&mut self, actions: Actions<Reply, Box<GroupWrite<D::File>>>) {
        for group in actions.publish {
            self.publish_group(group);
        }
        for (reply, error) in actions.refuse {
            self.refuse_submission(reply, error);
        }
    }

    /// Lays a group out for its write, or refuses it.
    fn start_group_write(&mut self, mut group: LogGroup<D>) -> Option<LogGroup<D>> {
        let begun_at = self.disk.now();
        match self.check_and_lay_out(&group) {
            Ok(bytes) => {
                self.shared.overlapped.fetch_add(u64::from(group.follows), Ordering::Relaxed);
                group.write = Some(GroupWrite::new(bytes, begun_at));
                Some(group)
            }
            Err(error) => {
                let error = self.check_files_present(&error).err().unwrap_or(error);
                self.report_outcome(group, outcome_of_refusal(&self.shared.poison, error));
                None
            }
        }
    }

    /// Checks whether the store's files are gone, if that may explain the error.
    fn check_files_present(&self, error: &Error) -> Result<bool> {
        match error {
            Error::Io { .. } => presence::check_names_exist(&*self.disk, None),
            _ => Ok(true),
        }
    }

    /// Does everything that may fail before the first byte is written. From that byte on, the group
    /// is published or the store is poisoned.
    fn check_and_lay_out(&mut self, group: &LogGroup<D>) -> Result<LogWrite<D::File>> {
        self.check_reserve(group)?;
        let written = group.members.iter().filter(|member| member.commit_lsn().is_some());
        let operations = written.flat_map(|member| &member.submission.batch.operations);
        let below = self.shared.mvcc.index.look_up_below(operations.map(|(id, _)| *id))?;
        let mut write = self.appender.lay_out_group(group)?;
        write.changes.below = below;
        Ok(write)
    }

    /// Takes a group back whose write has ended.
    fn complete_group_write(&mut self, mut group: LogGroup<D>) {
        let outcome = group.write.as_mut().and_then(|write| write.outcome.take());
        if let (Some(Outcome::Done), Some(write)) = (&outcome, &group.write) {
            self.count_written(&group, write);
        }
        // A panic cut it short.
        let cause = PoisonCause::ThreadPanicked;
        let cut_short = || Outcome::Failed(cause, Error::Poisoned { cause });
        self.report_outcome(group, outcome.unwrap_or_else(cut_short));
    }

    fn count_written(&mut self, group: &LogGroup<D>, write: &GroupWrite<D::File>) {
        self.ended_at = write.ended_at;
        if group.sync {
            self.unsynced_since = None;
            if let Some(own_time) = write.own_time {
                self.group_time = (self.group_time * 7 + own_time) / 8;
            }
            self.core.set_pace(Pace::for_group_time(self.group_time));
        } else {
            self.unsynced_since.get_or_insert(write.ended_at);
        }
        self.written_len += write.bytes.len();
        self.shared.written_len.store(self.written_len, Ordering::Relaxed);
        if group.user_commit_count() > 0 {
            self.count_user_bytes(&write.bytes);
        }
    }

    /// Reports the outcome of a group to the core.
    fn report_outcome(&mut self, group: LogGroup<D>, outcome: Outcome) {
        match &outcome {
            Outcome::Failed(cause, _) => self.shared.poison.set(*cause),
            Outcome::Refused(Error::StorageFull { .. }) => {
                self.shared.reclaim_wanted.store(true, Ordering::Relaxed);
                self.shared.wake_up.call();
            }
            Outcome::Refused(_) | Outcome::Done => {}
        }
        let event = Event::Written(group, outcome);
        let actions = self.core.handle_event(self.disk.now(), event, &self.shared.mvcc.index);
        self.publish_and_refuse(actions);
    }

    /// Answers the callers of published groups, and writes the next group: without the lock if
    /// there are many callers, which can make use of it, else at once.
    fn answer_and_write_next(&mut self, to_write: Option<LogGroup<D>>) -> Step<UnlockedWork<D>> {
        if to_write.is_none() && self.published.is_empty() {
            return Step::More;
        }
        let (disk, shared) = (Arc::clone(&self.disk), Arc::clone(&self.shared));
        let to_answer = std::mem::take(&mut self.published);
        // The write of a group that follows another must not delay the callers of the first.
        let follows = to_write.as_ref().is_some_and(|group| group.follows);
        let mut work = UnlockedWork { disk, shared, to_answer, to_write };
        if follows || self.core.allows_overlap() {
            self.held_len -= work.budget_held_len();
            self.writing_count += usize::from(work.to_write.is_some());
            return Step::Unlocked(work);
        }
        work.answer_and_write();
        match work.to_write {
            None => Step::More,
            Some(group) => {
                self.complete_group_write(group);
                self.answer_and_write_next(None)
            }
        }
    }

    /// Refuses a group that writes while the reserve is not complete and cannot be completed.
    fn check_reserve(&self, group: &LogGroup<D>) -> Result<()> {
        if group.only_frees_space() {
            return Ok(());
        }
        let block_count = self.shared.mvcc.block_totals().0;
        if self.appender.space().admit_ordinary_write(block_count)? {
            self.shared.wake_up.call();
        }
        Ok(())
    }
}

impl<D: Disk> LockedWork for Log<D> {
    type Unlocked = UnlockedWork<D>;

    /// Forms and lays out a group, if one is due; writes it at once, or returns its write as
    /// unlocked work.
    fn take_step(&mut self) -> Step<UnlockedWork<D>> {
        self.take_queued_messages();
        let now = self.disk.now();
        if self.sync_due_at().is_some_and(|due| now >= due) {
            self.unsynced_since = None;
            self.submit_own_sync();
        }
        let mut actions = self.core.handle_event(now, Event::Tick, &self.shared.mvcc.index);
        let (group, waits) = (actions.write.take(), actions.wait_until.is_some());
        self.publish_and_refuse(actions);
        let is_formed = group.is_some();
        let to_write = group.and_then(|group| self.start_group_write(group));
        if to_write.is_some() || !self.published.is_empty() {
            return self.answer_and_write_next(to_write);
        }
        if waits {
            self.disk.pause();
        }
        if self.core.is_idle()
            && !self.is_write_under_way()
            && let Some(reply) = self.closing.take()
        {
            self.closed = true;
            let ended = self.write_end_mark();
            reply.send(ended);
            return Step::More;
        }
        // Commits that wait for a group write are left to the thread that writes it.
        let goes_on = is_formed || waits || !(self.core.is_idle() || self.is_write_under_way());
        if goes_on { Step::More } else { Step::Idle }
    }

    fn run_unlocked(work: &mut UnlockedWork<D>) {
        work.answer_and_write();
    }

    fn complete_unlocked(&mut self, work: UnlockedWork<D>) -> Step<UnlockedWork<D>> {
        self.held_len += work.budget_held_len();
        if let Some(group) = work.to_write {
            self.writing_count -= 1;
            self.complete_group_write(group);
        }
        self.answer_and_write_next(None)
    }

    fn is_write_under_way(&self) -> bool {
        self.writing_count > 0
    }

    fn has_many_callers(&self) -> bool {
        self.core.has_many_callers()
    }

    fn missing_caller_count(&self) -> usize {
        self.core.missing_caller_count()
    }

    /// Writes the durable mark if it is due, and returns the time until that or a sync is due.
    fn run_due_work(&mut self) -> Option<Duration> {
        if self.is_write_under_way() {
            return Some(WITNESS_AFTER);
        }
        let unwitnessed = self.core.durable_lsn() > self.witnessed && !self.closed;
        let witness_due = (unwitnessed && self.shared.poison.cause().is_none())
            .then(|| self.ended_at.saturating_add(WITNESS_AFTER));
        let now = self.disk.now();
        let mut due = self.sync_due_at();
        if let Some(witness_due) = witness_due {
            if now >= witness_due {
                self.write_durable_mark();
            } else {
                due = Some(due.map_or(witness_due, |due| due.min(witness_due)));
            }
        }
        due.map(|due| due.saturating_sub(now))
    }

    fn is_idle(&self) -> bool {
        self.core.is_idle() && self.closing.is_none()
    }

    /// After a panic: poisons the store and refuses all waiting callers.
    fn fail_after_panic(&mut self) {
        let cause = PoisonCause::ThreadPanicked;
        self.shared.poison.set(cause);
        let actions =
            self.core.handle_event(self.ended_at, Event::Poison(cause), &self.shared.mvcc.index);
        for (submission, error) in actions.refuse {
            self.refuse_submission(submission, error);
        }
        // These are committed; only their callers are not answered yet.
        for group in std::mem::take(&mut self.published) {
            answer_callers::<D>(group, &*self.disk, &self.shared);
        }
        // A group in this step was dropped by the panic, which answered its callers. Groups that
        // are being written are refused when their writes end.
        self.core.forget_groups_under_way();
        self.unsynced_since = None;
        self.shared.budget.release_bytes(std::mem::take(&mut self.held_len));
    }
}

/// A request that everything before it be durable.
pub(crate) fn sync_request(tag: Reply) -> Submission<Reply> {
    Submission { batch: Batch::without_operations(), durable: true, log_len: 0, tag }
}

/// The outcome of a group that could not be laid out: nothing of it was written. A shortage refuses
/// the group alone. An error of the device or the file system counts as a failed write.
fn outcome_of_refusal(poison: &Poison, error: Error) -> Outcome {
    // A worker that poisoned the store knows more than the error says.
    if let Some(cause) = poison.cause() {
        return Outcome::Failed(cause, error);
    }
    match error {
        Error::Io { op: IoOp::Allocate, .. } => Outcome::Failed(PoisonCause::WriteFailed, error),
        Error::Poisoned { cause } => Outcome::Failed(cause, error),
        _ => Outcome::Refused(error),
    }
}
