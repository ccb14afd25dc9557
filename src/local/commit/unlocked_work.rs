//! Unlocked work: group writes and answers. With many callers the leader does this work without the
//! commit lock, so that another thread can form the next group meanwhile.
//!
//! The log's syncs run one at a time: a sync starts when the one before it has succeeded, or has
//! poisoned the store. A disk may forget bytes that it could not sync, and then report success to
//! the next sync. A sync covers each group of its segment whose write ended before it began. So a
//! group that waited for its turn may find that it needs no sync any more. Syncs of zeros by
//! workers do not wait for the log's: the page cache reports a failure to each descriptor, and the
//! poison is checked again after each sync.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, IoOp, PoisonCause};
use crate::io::{Disk, Env};
use crate::local::commit::group::{Group, Outcome};
use crate::local::commit::log_write::LogWrite;
use crate::local::commit::phases::Took;
use crate::local::commit::shared::{LastSync, Shared};
use crate::stats::StallCause;
use crate::sync::Ordering;
use crate::ticket::{GroupAnswers, Reply};

/// A group of the log, from its forming to its answer. Its write is boxed, because the group is
/// moved some thirty times.
pub(crate) type LogGroup<D> = Group<Reply, Box<GroupWrite<<D as Disk>::File>>>;

/// The answers of published groups, and the write of the next group.
pub(crate) struct UnlockedWork<D: Disk> {
    pub(crate) disk: Arc<D>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) to_answer: Vec<LogGroup<D>>,
    pub(crate) to_write: Option<LogGroup<D>>,
}

/// The write of a group: its bytes, its times and its outcome.
pub(crate) struct GroupWrite<F> {
    pub(crate) bytes: LogWrite<F>,
    begun_at: Duration,
    written_at: Duration,
    /// When it was written and synced.
    pub(crate) ended_at: Duration,
    /// The time of the write and the sync alone, without the wait for another sync. `None` if there
    /// was no sync of its own.
    pub(crate) own_time: Option<Duration>,
    /// `None` before the end, and if a panic cut the write short.
    pub(crate) outcome: Option<Outcome>,
}

impl<D: Disk> UnlockedWork<D> {
    /// Bytes of the budget that the members of the group to write hold.
    pub(crate) fn budget_held_len(&self) -> u64 {
        let members = self.to_write.iter().flat_map(|group| &group.members);
        members.map(|member| member.submission.log_len).sum()
    }

    pub(crate) fn answer_and_write(&mut self) {
        for group in std::mem::take(&mut self.to_answer) {
            answer_callers::<D>(group, &*self.disk, &self.shared);
        }
        if let Some(group) = &mut self.to_write
            && let Some(write) = &mut group.write
        {
            write.write_and_record(group.sync, &*self.disk, &self.shared);
        }
    }
}

/// Answers the callers of a published group.
pub(crate) fn answer_callers<D: Disk>(group: LogGroup<D>, env: &impl Env, shared: &Shared) {
    let commit_count = group.user_commit_count();
    let mut answers = GroupAnswers::new(group.members.len());
    for member in group.members.into_iter().rev() {
        let conflict = matches!(&member.verdict, Err(error) if error.is_retryable());
        shared.mvcc.counters.conflicts.add(u64::from(conflict));
        shared.mvcc.end_transaction(member.submission.batch.transaction, &member.verdict);
        answers.answer_last(member.submission.tag, member.verdict, member.submission.batch);
    }
    answers.wake_callers();
    if let Some(write) = &group.write {
        shared.phases.add_group(commit_count, write.phase_times(env.now()));
    }
}

impl<F> GroupWrite<F> {
    pub(crate) fn new(bytes: LogWrite<F>, begun_at: Duration) -> Box<GroupWrite<F>> {
        let (written_at, ended_at) = (begun_at, begun_at);
        let (own_time, outcome) = (None, None);
        Box::new(GroupWrite { bytes, begun_at, written_at, ended_at, own_time, outcome })
    }

    /// The time of each phase, once its callers have been answered.
    fn phase_times(&self, answered_at: Duration) -> Took {
        Took {
            write: self.written_at.saturating_sub(self.begun_at),
            sync: self.ended_at.saturating_sub(self.written_at),
            wake: answered_at.saturating_sub(self.ended_at),
        }
    }
}

impl<F: crate::io::DiskFile> GroupWrite<F> {
    fn write_and_record<D: Disk<File = F>>(&mut self, sync: bool, disk: &D, shared: &Shared) {
        let done = self.write_and_sync(sync, disk, shared);
        self.ended_at = disk.now();
        let segment = self.bytes.segment_ends().last().map(|(_, number, _)| number);
        // Before any caller is answered: the next open would not find a file without a name.
        let named = done.and_then(|()| {
            let checked = shared.presence.check_names_if_due(disk, self.ended_at, segment);
            checked.map_err(|removed| (PoisonCause::Removed, removed))
        });
        self.outcome = Some(match named {
            Ok(()) => Outcome::Done,
            Err((cause, error)) => {
                shared.poison.set(cause);
                Outcome::Failed(cause, error)
            }
        });
    }

    /// Writes the group, and syncs it if that was asked for.
    fn write_and_sync<D: Disk<File = F>>(
        &mut self,
        sync: bool,
        disk: &D,
        shared: &Shared,
    ) -> Result<(), (PoisonCause, Error)> {
        let started = disk.now();
        if let Err(error) = self.bytes.write_extents(disk.path()) {
            return Err((PoisonCause::WriteFailed, error));
        }
        self.written_at = disk.now();
        let write_time = self.written_at.saturating_sub(started);
        shared.stalls.note(StallCause::Write, write_time);
        if !sync {
            return Ok(());
        }
        let sync_time = self.sync_in_turn(disk, shared)?;
        shared.stalls.note(StallCause::Sync, disk.now().saturating_sub(self.written_at));
        self.own_time = sync_time.map(|sync_time| write_time + sync_time);
        Ok(())
    }

    /// Syncs the group when no other sync runs, unless one that began after this write has covered
    /// it meanwhile. Returns the time of its own sync.
    fn sync_in_turn<D: Disk<File = F>>(
        &self,
        disk: &D,
        shared: &Shared,
    ) -> Result<Option<Duration>, (PoisonCause, Error)> {
        let number = shared.write_count.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last_sync = shared.sync_turn.lock();
        // The written group may be found at the next open, so its callers hear of a failed sync.
        let poisoned = || match shared.poison.cause() {
            Some(cause) => {
                let source = io::Error::other("not tried, since an earlier one failed");
                Err((cause, Error::io(IoOp::Sync, disk.path(), source)))
            }
            None => Ok(()),
        };
        poisoned()?;
        let segment = self.bytes.lone_segment();
        if segment.is_some() && segment == last_sync.segment && number <= last_sync.write_count {
            return Ok(None);
        }
        let write_count = shared.write_count.load(Ordering::SeqCst);
        debug_assert!(number <= write_count, "its own write has ended");
        let begun_at = disk.now();
        let sync_count = self.bytes.sync_segments(disk.path()).map_err(|error| {
            // Under the lock: the next sync must see the poison.
            shared.poison.set(PoisonCause::SyncFailed);
            (PoisonCause::SyncFailed, error)
        })?;
        let sync_time = disk.now().saturating_sub(begun_at);
        *last_sync = LastSync { segment, write_count };
        drop(last_sync);
        // A worker's failed sync of the same file must not be overtaken by our success.
        poisoned()?;
        shared.syncs.fetch_add(sync_count, Ordering::Relaxed);
        Ok(Some(sync_time))
    }
}
