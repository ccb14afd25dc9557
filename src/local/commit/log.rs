//! The log: carries out what the commit core decides.
//!
//! Owns the core, the appender and the receiving end of the commit queue. A step takes all messages
//! from the queue, lets the core form a group, and lays it out. Then the leader writes and syncs
//! the group (see `errand`), publishes it in the index, and wakes its callers. With many callers it
//! writes and wakes without the commit lock. The `handover` decides which thread leads, and when.
//!
//! A few milliseconds after the last group the log writes its *durable mark* (see `log_end`), so
//! that recovery can tell a torn tail from damage to acknowledged data.
//!
//! A failed write or sync is never tried again: the store is poisoned. A panic poisons it too.

mod log_end;

use crate::local::commit::shared::Shared;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use log_end::{Frozen, LogEnd};

use crate::block::Lsn;
use crate::error::{Error, IoOp, PoisonCause, Result};
use crate::io::Disk;
use crate::local::commit::append::Appender;
use crate::local::commit::errand::{Answers, Errand, Landing, Trip};
use crate::local::commit::flight::{Changes, Flight};
use crate::local::commit::group::{
    Actions, CommitCore, CoreOptions, Event, Group, Outcome, Pace, Submission,
};
use crate::local::commit::handover::{Load, LogStep};
use crate::local::commit::phases::Took;
use crate::local::format::location::Location;
use crate::local::poison::Poison;
use crate::local::space::presence::{self};
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
    core: CommitCore<Reply>,
    appender: Appender<D>,
    inbox: Receiver<Message>,
    sync_interval: Duration,
    /// A reader of the log knows that commits up to here are durable.
    witnessed: Lsn,
    /// Bytes of frames since open.
    written_len: u64,
    /// Bytes written and bytes that became dead since maintenance was woken.
    unseen_len: u64,
    /// Groups that are written and not published yet.
    landed: Vec<Landed<D>>,
    /// Published groups, whose callers are to be answered without the lock.
    published: Vec<Answers>,
    /// The segment that the log last rolled to on request, and the last commit before it.
    rolled_to: Option<(u64, Lsn)>,
    /// The time at which the last group write ended.
    landed_at: Duration,
    /// The time at which the oldest commit that is not durable yet was written.
    unsynced_since: Option<Duration>,
    /// A moving average of the time to write and sync a group.
    flight_time: Duration,
    /// Bytes of the budget that commits taken from the queue hold until they are published. A group
    /// that is being written without the lock is not counted meanwhile.
    held_len: u64,
    /// Group writes under way.
    away_count: usize,
    closing: Option<Reply>,
    closed: bool,
}

/// From how many callers on groups overlap, and how often the log syncs by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogOptions {
    pub(crate) crowd_min: usize,
    /// Groups that are written at once, where many callers fill them.
    pub(crate) flight_count_max: usize,
    pub(crate) sync_interval: Duration,
}

/// A group that is written, and synced if that was asked for.
struct Landed<D: Disk> {
    number: u64,
    flight: Flight<D::File>,
    took: Took,
}

impl<D: Disk> Log<D> {
    pub(crate) fn new(
        disk: Arc<D>,
        shared: Arc<Shared>,
        appender: Appender<D>,
        inbox: Receiver<Message>,
        options: LogOptions,
    ) -> Log<D> {
        let last = shared.mvcc.index.visible_lsn();
        let group_len_max = GROUP_LEN_MAX;
        let LogOptions { crowd_min, flight_count_max, sync_interval } = options;
        let options = CoreOptions { flight_count_max, crowd_min, group_len_max };
        let landed_at = disk.now();
        Log {
            core: CommitCore::new(options, Pace::for_flight_time(Duration::ZERO), last),
            disk,
            shared,
            appender,
            inbox,
            sync_interval,
            witnessed: last,
            written_len: 0,
            unseen_len: 0,
            landed: Vec::new(),
            published: Vec::new(),
            rolled_to: None,
            landed_at,
            unsynced_since: None,
            flight_time: Duration::ZERO,
            held_len: 0,
            away_count: 0,
            closing: None,
            closed: false,
        }
    }

    /// Takes all messages from the queue.
    fn take_queued_messages(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
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
    fn publish_and_refuse(&mut self, actions: Actions<Reply>) {
        for group in actions.publish {
            self.publish_group(group);
        }
        for (reply, error) in actions.refuse {
            self.refuse_submission(reply, error);
        }
    }

    /// Lays a group out for its write, or refuses it.
    fn start_group_write(&mut self, group: Group<Reply>) -> Option<Trip<D>> {
        let begun_at = self.disk.now();
        match self.check_and_lay_out(&group) {
            Ok(flight) => {
                self.shared.overlapped.fetch_add(u64::from(group.follows), Ordering::Relaxed);
                Some(Trip { group, flight, begun_at, landing: None })
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
    fn check_and_lay_out(&mut self, group: &Group<Reply>) -> Result<Flight<D::File>> {
        self.check_reserve(group)?;
        let written = group.members.iter().filter(|member| member.commit_lsn().is_some());
        let operations = written.flat_map(|member| &member.submission.batch.operations);
        let below = self.shared.mvcc.index.look_up_below(operations.map(|(id, _)| *id))?;
        let mut flight = self.appender.lay_out_group(group)?;
        flight.changes.below = below;
        Ok(flight)
    }

    /// Takes a group write back that has ended.
    fn complete_trip(&mut self, mut trip: Trip<D>) {
        let cut_short = || {
            let cause = PoisonCause::ThreadPanicked;
            let outcome = Outcome::Failed(cause, Error::Poisoned { cause });
            let now = self.landed_at;
            Landing { outcome, written_at: now, landed_at: now, flight_time: None }
        };
        let landing = trip.landing.take().unwrap_or_else(cut_short);
        if matches!(landing.outcome, Outcome::Done) {
            let took = trip.phase_times(&landing);
            match trip.group.sync {
                true => {
                    self.unsynced_since = None;
                    if let Some(flight_time) = landing.flight_time {
                        self.flight_time = (self.flight_time * 7 + flight_time) / 8;
                    }
                    self.core.set_pace(Pace::for_flight_time(self.flight_time));
                }
                false => {
                    self.unsynced_since.get_or_insert(landing.landed_at);
                }
            }
            self.written_len += trip.flight.len();
            self.shared.written_len.store(self.written_len, Ordering::Relaxed);
            if trip.group.user_commit_count() > 0 {
                self.count_user_bytes(&trip.flight);
            }
            self.landed.push(Landed { number: trip.group.number(), flight: trip.flight, took });
        }
        self.landed_at = landing.landed_at;
        self.report_outcome(trip.group, landing.outcome);
    }

    /// Reports the outcome of a group to the core.
    fn report_outcome(&mut self, group: Group<Reply>, outcome: Outcome) {
        match &outcome {
            Outcome::Failed(cause, _) => self.shared.poison.set(*cause),
            Outcome::Refused(Error::StorageFull { .. }) => {
                self.shared.reclaim_wanted.store(true, Ordering::Relaxed);
                self.shared.wake_up.call();
            }
            Outcome::Refused(_) | Outcome::Done => {}
        }
        let event = Event::Landed(group, outcome);
        let actions = self.core.handle_event(self.disk.now(), event, &self.shared.mvcc.index);
        self.publish_and_refuse(actions);
    }

    /// Answers the callers of published groups, and writes the next group: without the lock if
    /// there are many callers, which can make use of it, else at once.
    fn answer_and_write_next(&mut self, trip: Option<Trip<D>>) -> LogStep<Errand<D>> {
        if trip.is_none() && self.published.is_empty() {
            return LogStep::More;
        }
        let (disk, shared) = (Arc::clone(&self.disk), Arc::clone(&self.shared));
        let answers = std::mem::take(&mut self.published);
        // The write of a group that follows another must not delay the callers of the first.
        let follows = trip.as_ref().is_some_and(|trip| trip.group.follows);
        let mut errand = Errand { disk, shared, answers, trip };
        if follows || self.core.allows_overlap() {
            self.held_len -= errand.budget_held_len();
            self.away_count += usize::from(errand.trip.is_some());
            return LogStep::Errand(errand);
        }
        errand.answer_and_write();
        match errand.trip {
            None => LogStep::More,
            Some(trip) => {
                self.complete_trip(trip);
                self.answer_and_write_next(None)
            }
        }
    }

    /// Refuses a group that writes while the reserve is not complete and cannot be completed.
    fn check_reserve(&self, group: &Group<Reply>) -> Result<()> {
        if group.only_frees_space() {
            return Ok(());
        }
        let block_count = self.shared.mvcc.block_totals().0;
        if self.appender.space().admit_ordinary_write(block_count)? {
            self.shared.wake_up.call();
        }
        Ok(())
    }

    /// Puts a group in the index, and queues the answers to its callers.
    fn publish_group(&mut self, group: Group<Reply>) {
        let at = self.landed.iter().position(|landed| landed.number == group.number());
        let (mut changes, mut took) = (Changes::default(), Took::default());
        if let Some(mut landed) = at.map(|at| self.landed.swap_remove(at)) {
            landed.flight.show_recent_bytes(&self.shared.recent);
            for (sequence, number, end) in landed.flight.segment_ends() {
                self.shared.usage.set_used_len(sequence, number, end);
            }
            (changes, took) = (std::mem::take(&mut landed.flight.changes), landed.took);
            self.appender.complete_flight(&landed.flight, group.sync);
        }
        let (mvcc, usage) = (&self.shared.mvcc, &self.shared.usage);
        // A relocated block is still the newest: a later operation on it comes later in the group.
        for (id, lsn, place) in changes.moved {
            let moved = mvcc.index.relocate_newest((id, lsn, place), &changes.below, |old| {
                usage.count_replacement(Some(old), Some(&place));
            });
            assert!(moved, "a relocation was checked when it was given its place");
        }
        for (id, from, place) in changes.moved_old {
            // Its last snapshot may have ended since: then its bytes are dead at both places.
            mvcc.index.relocate_undo_version(id, from, place);
        }
        let mut freed_len = 0;
        let count = |old: Option<&Location>, new: Option<&Location>| {
            usage.count_replacement(old, new);
            freed_len += old.map_or(0, |old| u64::from(old.len));
        };
        // Not the core's durable LSN: a later group that landed with this one is not visible yet.
        let durable = group.durable;
        debug_assert!(durable <= group.last_lsn, "no commit is durable that is not visible");
        debug_assert!(mvcc.index.visible_lsn() <= group.last_lsn, "groups are published in order");
        let user_commit_count = group.user_commit_count() as u64;
        let moment = mvcc.lock_moment();
        mvcc.publish_and_count(changes.changed, &changes.below, group.last_lsn, count);
        mvcc.counters.commits.add(user_commit_count);
        self.shared.durable.store(durable.0, Ordering::Release);
        self.shared.groups.fetch_add(u64::from(user_commit_count > 0), Ordering::Relaxed);
        drop(moment);
        let actions = self.core.handle_event(self.landed_at, Event::Published(group), &mvcc.index);
        if let Some(group) = actions.answer {
            let held_len = group.members.iter().map(|member| member.submission.log_len).sum();
            debug_assert!(held_len <= self.held_len, "released bytes were held");
            self.held_len -= held_len;
            self.shared.budget.release_bytes(held_len);
            self.published.push(Answers { group, took, landed_at: self.landed_at });
        }
        self.count_unseen_bytes(freed_len);
    }

    fn refuse_submission(&mut self, refused: Submission<Reply>, error: Error) {
        debug_assert!(refused.log_len <= self.held_len, "released bytes were held");
        self.held_len -= refused.log_len;
        self.shared.budget.release_bytes(refused.log_len);
        let refusal = Err(error);
        self.shared.mvcc.end_transaction(refused.batch.transaction, &refusal);
        refused.tag.send(refusal);
    }

    /// Counts the bytes that commits of users have written. Relocations do not count: maintenance
    /// makes them, and would wake itself for ever.
    fn count_user_bytes(&mut self, flight: &Flight<D::File>) {
        let (shared, len) = (&self.shared, flight.len());
        shared.user_len.fetch_add(len, Ordering::Relaxed);
        if let Some((sequence, ..)) = flight.segment_ends().last() {
            shared.user_sequence.fetch_max(sequence, Ordering::Relaxed);
        }
        self.count_unseen_bytes(len);
    }

    /// Wakes maintenance after every `look_every` bytes that were written or became dead.
    fn count_unseen_bytes(&mut self, len: u64) {
        self.unseen_len += len;
        if self.unseen_len >= self.shared.look_every {
            self.unseen_len = 0;
            self.shared.wake_up.call();
        }
    }
}

impl<D: Disk> Load for Log<D> {
    type Errand = Errand<D>;

    /// Forms and lays out a group, if one is due; writes it at once, or returns its write as an
    /// errand.
    fn take_step(&mut self) -> LogStep<Errand<D>> {
        self.take_queued_messages();
        let now = self.disk.now();
        if self.sync_due_at().is_some_and(|due| now >= due) {
            self.unsynced_since = None;
            self.submit_own_sync();
        }
        let mut actions = self.core.handle_event(now, Event::Tick, &self.shared.mvcc.index);
        let (group, waits) = (actions.write.take(), actions.wait_until.is_some());
        self.publish_and_refuse(actions);
        let took_off = group.is_some();
        let trip = group.and_then(|group| self.start_group_write(group));
        if trip.is_some() || !self.published.is_empty() {
            return self.answer_and_write_next(trip);
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
            return LogStep::More;
        }
        // Commits that wait for a group write are left to the thread that writes it.
        let goes_on = took_off || waits || !(self.core.is_idle() || self.is_write_under_way());
        if goes_on { LogStep::More } else { LogStep::Idle }
    }

    fn run_unlocked(errand: &mut Errand<D>) {
        errand.answer_and_write();
    }

    fn complete_errand(&mut self, errand: Errand<D>) -> LogStep<Errand<D>> {
        self.held_len += errand.budget_held_len();
        if let Some(trip) = errand.trip {
            self.away_count -= 1;
            self.complete_trip(trip);
        }
        self.answer_and_write_next(None)
    }

    fn is_write_under_way(&self) -> bool {
        self.away_count > 0
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
            .then(|| self.landed_at.saturating_add(WITNESS_AFTER));
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
            self.core.handle_event(self.landed_at, Event::Poison(cause), &self.shared.mvcc.index);
        for (submission, error) in actions.refuse {
            self.refuse_submission(submission, error);
        }
        // These are committed; only their callers are not answered yet.
        for answers in std::mem::take(&mut self.published) {
            answers.send_to_callers(&*self.disk, &self.shared);
        }
        // A group in this step was dropped by the panic, which answered its callers. Groups that
        // are being written are refused when their writes end.
        self.core.forget_groups_under_way();
        self.landed.clear();
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
