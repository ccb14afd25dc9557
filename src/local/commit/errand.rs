//! Errands: the leader's writes and answers. With many callers the leader runs an errand without
//! the commit lock, so that another thread can form the next group meanwhile.
//!
//! An [`Errand`] answers the callers of published groups, and writes the next group (a [`Trip`]).
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
use crate::local::commit::flight::Flight;
use crate::local::commit::group::{Group, Outcome};
use crate::local::commit::phases::Took;
use crate::local::commit::shared::{LastSync, Shared};
use crate::stats::StallCause;
use crate::sync::Ordering;
use crate::ticket::{GroupAnswers, Reply};

/// Answers to callers, and the next group to write.
pub(crate) struct Errand<D: Disk> {
    pub(crate) disk: Arc<D>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) answers: Vec<Answers>,
    pub(crate) trip: Option<Trip<D>>,
}

/// A published group whose callers are not answered yet.
pub(crate) struct Answers {
    pub(crate) group: Group<Reply>,
    pub(crate) took: Took,
    pub(crate) landed_at: Duration,
}

/// A group write under way.
pub(crate) struct Trip<D: Disk> {
    pub(crate) group: Group<Reply>,
    pub(crate) flight: Flight<D::File>,
    pub(crate) begun_at: Duration,
    /// The result; `None` if a panic cut the write short.
    pub(crate) landing: Option<Landing>,
}

/// The result of a group write, with its times.
pub(crate) struct Landing {
    pub(crate) outcome: Outcome,
    pub(crate) written_at: Duration,
    pub(crate) landed_at: Duration,
    /// The time of the write and the sync alone, without the wait for another sync. `None` if there
    /// was no sync of its own.
    pub(crate) flight_time: Option<Duration>,
}

impl<D: Disk> Errand<D> {
    /// Bytes of the budget that the members of the group hold.
    pub(crate) fn budget_held_len(&self) -> u64 {
        let members = self.trip.iter().flat_map(|trip| &trip.group.members);
        members.map(|member| member.submission.log_len).sum()
    }

    pub(crate) fn answer_and_write(&mut self) {
        for answers in std::mem::take(&mut self.answers) {
            answers.send_to_callers(&*self.disk, &self.shared);
        }
        if let Some(trip) = &mut self.trip {
            trip.write_and_record(&*self.disk, &self.shared);
        }
    }
}

impl Answers {
    pub(crate) fn send_to_callers(self, env: &impl Env, shared: &Shared) {
        let commit_count = self.group.user_commit_count();
        let mut answers = GroupAnswers::new(self.group.members.len());
        for member in self.group.members.into_iter().rev() {
            let conflict = matches!(&member.verdict, Err(error) if error.is_retryable());
            shared.mvcc.counters.conflicts.add(u64::from(conflict));
            shared.mvcc.end_transaction(member.submission.batch.transaction, &member.verdict);
            answers.answer_last(member.submission.tag, member.verdict);
        }
        answers.wake_callers();
        let wake = env.now().saturating_sub(self.landed_at);
        shared.phases.add_group(commit_count, Took { wake, ..self.took });
    }
}

impl<D: Disk> Trip<D> {
    /// The time of each phase.
    pub(crate) fn phase_times(&self, landing: &Landing) -> Took {
        Took {
            write: landing.written_at.saturating_sub(self.begun_at),
            sync: landing.landed_at.saturating_sub(landing.written_at),
            wake: Duration::ZERO,
        }
    }

    fn write_and_record(&mut self, disk: &D, shared: &Shared) {
        let mut written_at = self.begun_at;
        let made = self.write_and_sync(disk, shared, &mut written_at);
        let landed_at = disk.now();
        let segment = self.flight.segment_ends().last().map(|(_, number, _)| number);
        // Before any caller is answered: the next open would not find a file without a name.
        let here = made.and_then(|flight_time| {
            let looked = shared.presence.check_names_if_due(disk, landed_at, segment);
            looked.map_err(|removed| (PoisonCause::Removed, removed)).map(|()| flight_time)
        });
        let (outcome, flight_time) = match here {
            Ok(flight_time) => (Outcome::Done, flight_time),
            Err((cause, error)) => {
                shared.poison.set(cause);
                (Outcome::Failed(cause, error), None)
            }
        };
        self.landing = Some(Landing { outcome, written_at, landed_at, flight_time });
    }

    /// Writes the group, and syncs it if that was asked for. Returns the time that took without the
    /// wait for another sync; `None` if no sync was its own.
    fn write_and_sync(
        &mut self,
        disk: &D,
        shared: &Shared,
        written_at: &mut Duration,
    ) -> Result<Option<Duration>, (PoisonCause, Error)> {
        let started = disk.now();
        if let Err(error) = self.flight.write_extents(disk.path()) {
            return Err((PoisonCause::WriteFailed, error));
        }
        *written_at = disk.now();
        let write_time = written_at.saturating_sub(started);
        shared.stalls.note(StallCause::Write, write_time);
        if !self.group.sync {
            return Ok(None);
        }
        let sync_time = self.sync_in_turn(disk, shared)?;
        shared.stalls.note(StallCause::Sync, disk.now().saturating_sub(*written_at));
        Ok(sync_time.map(|sync_time| write_time + sync_time))
    }

    /// Syncs the group when no other sync runs, unless one that began after this write has covered
    /// it meanwhile. Returns the time of its own sync.
    fn sync_in_turn(
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
        let segment = self.flight.lone_segment();
        if segment.is_some() && segment == last_sync.segment && number <= last_sync.write_count {
            return Ok(None);
        }
        let write_count = shared.write_count.load(Ordering::SeqCst);
        debug_assert!(number <= write_count, "its own write has ended");
        let begun_at = disk.now();
        let sync_count = self.flight.sync_segments(disk.path()).map_err(|error| {
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
