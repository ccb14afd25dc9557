//! Maintenance: makes checkpoints, compacts the log and releases dead segments.
//!
//! Owns the chain of checkpoints in use and the maintenance thread. One job runs at a time, on that
//! thread or on a caller's. A checkpoint takes five steps:
//!
//! 1. **Freeze**, between two groups: make every commit so far durable, freeze the entries of the
//!    index, and note the position of the log. Commits continue at once.
//! 2. **Write** the image (`checkpoint`), and make its name durable.
//! 3. **Install** it below the index and drop the frozen entries.
//! 4. **Confirm** in the log that the image's name is durable. Recovery uses confirmed images only:
//!    after a failed directory sync, a visible name may not be durable.
//! 5. **Release.** Remove the files of the old chain, and each dead segment. A segment is dead if
//!    it had no live block at the freeze, lies before the noted position, and holds nothing for
//!    snapshots. `space` decides whether its file is reused or removed.
//!
//! A failure before step 3 changes nothing: the index is thawed, and the next call tries again.

pub(crate) mod backup;
pub(crate) mod checkpoint;
pub(crate) mod compaction;
pub(crate) mod compaction_pauses;
pub(crate) mod memory;
mod reclaim;
mod release;
mod removal;
mod snapshots;
pub(crate) mod throttle;

use crate::local::wake::Woken;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::block::Lsn;
use crate::callback::{self, Duty};
use crate::error::{Error, IoOp, PoisonCause, Result};
use crate::io::{Disk, FileName};
use crate::local::commit::log::Frozen;
use crate::local::commit::log_handle::LogHandle;
use crate::local::commit::shared::Shared;
use crate::local::format::PAGE;
use crate::local::format::checkpoint::{LogPosition, Summary};
use crate::local::format::description::Description;
use crate::local::maintenance::checkpoint::image::Image;
use crate::local::maintenance::checkpoint::schedule::ImageSchedule;
use crate::local::maintenance::checkpoint::{Chain, ImageNotMade, ImagePlan};
use crate::local::maintenance::compaction::{PinnedDead, Pressure};
use crate::local::maintenance::compaction_pauses::CompactionPauses;
use crate::local::maintenance::memory::MemoryBudget;
use crate::local::read::segment::Views;
use crate::local::space::Space;
use crate::local::space::alarm::Alarm;
use crate::local::space::reserve::{SpaceClass, StoreLoad, is_out_of_space};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::unheard::unheard;

/// The store counts as idle when the log has not grown for this long.
const IDLE_AFTER: Duration = Duration::from_millis(500);
/// After a failed job, the next try.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A checkpoint that no caller waits for may take until the log has grown by this share of
/// `checkpoint_log_len`.
const SPREAD_SHARE: u64 = 2;

/// After so many failed jobs in a row, the thread waits for the next call.
const FAILED_COUNT_MAX: u32 = 10;

/// The delay after so many failed jobs in a row. It doubles each time, so that an idle store on a
/// full or damaged disk becomes still. `None` waits for the next call.
fn retry_delay(failed_count: u32) -> Option<Duration> {
    (failed_count <= FAILED_COUNT_MAX)
        .then(|| AGAIN_AFTER * 2_u32.pow(failed_count.saturating_sub(1)))
}

/// The reason for a checkpoint, which decides how fast it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// To shorten the next open: spread over time.
    Spread,
    /// To free memory of the index, of which commits take more meanwhile.
    Memory,
    /// To release dead segments: without pauses.
    Space,
}

/// The limits that maintenance keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaintenanceOptions {
    /// Log bytes after which a checkpoint is due.
    pub(crate) checkpoint_log_len: u64,
    /// Log bytes over live bytes, above which segments are compacted.
    pub(crate) amplification_max: f64,
    pub(crate) memory_budget: MemoryBudget,
}

/// The maintenance of one store. Each job holds the lock on `state`. No job begins once `is_ended`
/// is set.
pub(crate) struct Maintenance<D: Disk> {
    parts: MaintenanceParts<D>,
    pub(crate) pauses: CompactionPauses,
    moved_len: AtomicU64,
    state: Mutex<MaintenanceState>,
    /// Callers that wait for the lock on `state`.
    waiting: AtomicU64,
    /// Log bytes since open that the newest checkpoint covers.
    covered_len: AtomicU64,
    /// Log bytes from before open that it does not cover.
    replayed_len: AtomicU64,
    checkpoint_len: AtomicU64,
}

/// What a [`Maintenance`] works with.
pub(crate) struct MaintenanceParts<D: Disk> {
    pub(crate) disk: Arc<D>,
    pub(crate) store: Description,
    pub(crate) options: MaintenanceOptions,
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: Arc<LogHandle<D>>,
    pub(crate) space: Arc<Space<D>>,
    pub(crate) views: Arc<Views>,
    pub(crate) alarm: Alarm,
    /// The log end of a read-only session.
    pub(crate) ending: Option<Ending>,
    /// The first segment that was not written before open. Readers of an earlier session may still
    /// hold bytes of the segments before it.
    pub(crate) own_from: u64,
}

/// The state that one job at a time changes.
#[derive(Debug, Default)]
struct MaintenanceState {
    chain: Chain,
    /// The newest image is not confirmed in the log yet.
    unconfirmed: bool,
    /// Images of earlier chains. Their files are removed once the newest image is confirmed.
    old: Vec<Arc<Image>>,
    /// The last attempt to reclaim space.
    reclaimed: Option<SpaceReclaimed>,
    /// The last count of the bytes of the index's entries, behind the length of the log at that
    /// time.
    entries_seen: Option<(u64, u64)>,
    /// Space is being reclaimed.
    is_reclaiming: bool,
    /// Log bytes of users when an idle store was last found compact.
    idle_at: Option<u64>,
    /// Whether compaction keeps up with commits.
    pressure: Pressure,
    /// Segments with damage, which compaction leaves alone.
    stuck: BTreeSet<u64>,
    /// Segments without live blocks that remained after the last release, for snapshots.
    pinned_dead: Option<PinnedDead>,
    /// Backups that read files. While it is above 0, no file is changed or removed.
    hold_count: u64,
    /// Segments that share their bytes with a backup, by reflinks made since open.
    cloned: BTreeSet<u64>,
    /// The store is closed, and another session may own its files.
    is_ended: bool,
}

/// The log end of a read-only session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// The place behind the last frame that counts.
    pub(crate) position: LogPosition,
    /// The seed of frames in that segment.
    pub(crate) seed: u32,
    /// The last commit.
    pub(crate) lsn: Lsn,
    /// The last commit that is known to be durable.
    pub(crate) durable: Lsn,
}

/// An attempt to reclaim space.
#[derive(Debug, Clone, Copy)]
struct SpaceReclaimed {
    /// The length of the log then.
    log_len: u64,
    at: Duration,
    /// Compaction was paused and moved nothing.
    was_paused: bool,
}

impl<D: Disk> Maintenance<D> {
    /// The maintenance of a store with this chain of checkpoints and `replayed_len` bytes of log
    /// behind it.
    pub(crate) fn new(
        parts: MaintenanceParts<D>,
        chain: Chain,
        replayed_len: u64,
    ) -> Maintenance<D> {
        let checkpoint_len = AtomicU64::new(chain.file_len());
        let state = Mutex::new(MaintenanceState { chain, ..MaintenanceState::default() });
        let covered_len = AtomicU64::new(0);
        let replayed_len = AtomicU64::new(replayed_len);
        Maintenance {
            parts,
            pauses: CompactionPauses::default(),
            moved_len: AtomicU64::new(0),
            state,
            waiting: AtomicU64::new(0),
            covered_len,
            replayed_len,
            checkpoint_len,
        }
    }

    /// Bytes of the checkpoint files in use.
    pub(crate) fn checkpoint_len(&self) -> u64 {
        self.checkpoint_len.load(Ordering::Relaxed)
    }

    /// Payload bytes moved since open.
    pub(crate) fn moved_len(&self) -> u64 {
        self.moved_len.load(Ordering::Relaxed)
    }

    /// Runs the maintenance thread until the store is closed.
    pub(crate) fn run_thread(&self) {
        let (mut rest, mut seen_len, mut failed_count) = (None, 0, 0);
        loop {
            let woken = self.parts.shared.wake_up.wait(rest);
            if woken == Woken::Stopped {
                return;
            }
            // Maintenance itself writes to the log, too, and must not wake itself by that.
            let user_len = self.user_log_len();
            // After a call the store is not idle: a commit may be on its way to the log.
            let is_idle = woken == Woken::Rested && user_len == seen_len;
            if woken == Woken::Called || user_len != seen_len {
                failed_count = 0;
            }
            seen_len = user_len;
            let done = catch_unwind(AssertUnwindSafe(|| self.run_due(is_idle)));
            rest = match done.unwrap_or_else(|_panic| self.poison_after_panic()) {
                Ok(()) => (!is_idle).then_some(IDLE_AFTER),
                Err(_) if self.parts.shared.poison.cause().is_some() => None,
                // Full or damaged. A caller that needs the place gets the error.
                Err(_) => {
                    failed_count += 1;
                    retry_delay(failed_count)
                }
            };
        }
    }

    /// Poisons the store after a panic, which may have left any state.
    fn poison_after_panic(&self) -> Result<()> {
        self.parts.shared.poison.set(PoisonCause::ThreadPanicked);
        self.parts.shared.poison.check()
    }

    /// Does all work that is due; on an idle store, also the work that is only worth it then.
    ///
    /// # Errors
    /// The first error of a job. Reads and commits are not affected by it.
    pub(crate) fn run_due(&self, is_idle: bool) -> Result<()> {
        if self.parts.alarm.is_set()
            && let Ok(left) = self.parts.disk.free_space()
        {
            self.parts.alarm.ring_if_low(left);
        }
        // From here on, user code may run here when the last handle of a payload is dropped.
        let _duty = callback::begin(Duty::Working);
        let mut state = self.state.lock();
        if state.is_ended {
            return Ok(());
        }
        let made = match self.checkpoint_due(&mut state) {
            Some(haste) => self.make_checkpoint(&mut state, haste),
            None => Ok(()),
        };
        let index_len = self.entries_len(&mut state) + self.parts.shared.mvcc.index.undo_len();
        self.parts
            .shared
            .recent
            .set_len_max(self.parts.options.memory_budget.recent_len_beside(index_len));
        made?;
        let suited = self.parts.space.reserve.resize_for(self.store_load());
        unheard(suited, "the reserve stays short, and ordinary writes wait for it");
        self.reclaim_if_low(&mut state)?;
        self.compact_due(&mut state, is_idle)?;
        self.limit_snapshots(&mut state)?;
        if is_idle { self.shrink_prepared(false) } else { Ok(()) }
    }

    /// Locks the state for a caller. A throttled job ends early for it.
    ///
    /// # Errors
    /// [`Error::Closed`]: the files may be another session's.
    fn lock_open_state(&self) -> Result<MutexGuard<'_, MaintenanceState>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        match state.is_ended {
            true => Err(Error::Closed),
            false => Ok(state),
        }
    }

    /// Ends the hold of a backup on the files.
    fn release_hold(&self) {
        let mut state = self.state.lock();
        assert!(state.hold_count > 0, "a backup releases its own hold once");
        state.hold_count -= 1;
        drop(state);
        self.parts.shared.wake_up.call();
    }

    #[cfg(test)]
    fn set_waiting_count(&self, count: u64) {
        self.waiting.store(count, Ordering::Relaxed);
    }

    /// Whether a caller waits for the state.
    fn has_waiting_caller(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Gives prepared space back: `all`, or what no caller asked for. Runs between two groups,
    /// because a file must not be shortened while the log writes to it.
    fn shrink_prepared(&self, all: bool) -> Result<()> {
        self.parts.log.run_between_groups(|| self.parts.space.shrink_ahead(all))
    }

    /// Makes a checkpoint, unless nothing was committed since the last one.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.make_checkpoint(&mut *self.lock_open_state()?, Haste::Spread)
    }

    /// Ends the maintenance behind the job under way, and refuses later ones. Makes a last
    /// checkpoint: it shortens the next open, and reveals a later loss of the log's end.
    ///
    /// # Errors
    /// As [`Maintenance::checkpoint`]. The maintenance has ended all the same.
    pub(crate) fn end_session(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.is_ended = true;
        if self.parts.shared.poison.cause().is_some() {
            return Ok(());
        }
        // After a panic here, the caller must still end the rest of the store.
        let last = AssertUnwindSafe(|| self.make_checkpoint(&mut state, Haste::Spread));
        match catch_unwind(last).unwrap_or_else(|_panic| self.poison_after_panic()) {
            // All commits are durable; the next open reads a little more of the log.
            Err(error) if error.is_shortage() => Ok(()),
            done => done,
        }
    }

    /// Ends the maintenance of a read-only session: later backups are refused.
    pub(crate) fn end_reading(&self) {
        assert!(self.parts.ending.is_some(), "the session is read-only");
        self.state.lock().is_ended = true;
    }

    /// The size of the store, from which the length of the reserve follows.
    pub(crate) fn store_load(&self) -> StoreLoad {
        StoreLoad {
            block_count: self.parts.shared.mvcc.block_totals().0,
            log_len: self.usage_totals().used_len,
            checkpoint_len: self.checkpoint_len(),
        }
    }

    /// Log bytes that may be written while an image is written.
    fn log_len_beside(&self, haste: Haste) -> u64 {
        match haste {
            Haste::Spread => self.parts.options.checkpoint_log_len / SPREAD_SHARE,
            Haste::Memory => self.parts.options.memory_budget.check_interval_len(),
            Haste::Space => 0,
        }
    }

    fn checkpoint_due(&self, state: &mut MaintenanceState) -> Option<Haste> {
        let (entries_len, undo_len) =
            (self.entries_len(state), self.parts.shared.mvcc.index.undo_len());
        if self.parts.options.memory_budget.needs_checkpoint(entries_len, undo_len) {
            return Some(Haste::Memory);
        }
        (self.uncovered_len() >= self.parts.options.checkpoint_log_len).then_some(Haste::Spread)
    }

    /// Heap bytes of the index's entries. Counted again only after the log has grown.
    fn entries_len(&self, state: &mut MaintenanceState) -> u64 {
        let written_len = self.parts.shared.written_len.load(Ordering::Relaxed);
        let valid_len = self.parts.options.memory_budget.check_interval_len() / 2;
        if let Some((at, len)) = state.entries_seen {
            debug_assert!(at <= written_len, "the written length only grows");
            if written_len - at < valid_len {
                return len;
            }
        }
        let len = self.parts.shared.mvcc.index.entries_len();
        state.entries_seen = Some((written_len, len));
        len
    }

    /// Log bytes that the newest checkpoint does not cover.
    fn uncovered_len(&self) -> u64 {
        let covered = self.covered_len.load(Ordering::Relaxed);
        let written = self.parts.shared.written_len.load(Ordering::Relaxed);
        debug_assert!(covered <= written, "a checkpoint covers written bytes");
        let written = written - covered;
        written + self.replayed_len.load(Ordering::Relaxed)
    }

    fn make_checkpoint(&self, state: &mut MaintenanceState, haste: Haste) -> Result<()> {
        let written_len = self.parts.shared.written_len.load(Ordering::Relaxed);
        let Frozen { summary, segments } = self.parts.log.freeze_index()?;
        let index = &self.parts.shared.mvcc.index;
        let newest = state.chain.summary().copied();
        let last_lsn = newest.map_or(Lsn(0), |newest| newest.lsn);
        assert!(last_lsn <= summary.lsn, "checkpoints are made in the order of commits");
        // A segment that a roll sealed without a commit is released only by a checkpoint behind it.
        let is_sealed = |newest: &Summary| {
            let sealed = newest.position.sequence..summary.position.sequence;
            segments.iter().any(|s| s.live_count == 0 && sealed.contains(&s.sequence))
        };
        let lets_go = haste == Haste::Space && newest.as_ref().is_some_and(is_sealed);
        if last_lsn == summary.lsn && !lets_go {
            index.thaw_entries();
            // The release of the last checkpoint may have failed, and may succeed now.
            return match newest {
                Some(newest) => self.confirm_and_release(state, &newest, &segments),
                None => Ok(()),
            };
        }
        let start = summary.position.sequence;
        let mut listed = segments.clone();
        listed.retain(|segment| segment.live_count > 0 || segment.sequence >= start);
        let (disk, number) = (&*self.parts.disk, self.parts.space.take_file_number());
        let (reserve, is_short_of_space) = (
            &self.parts.space.reserve,
            self.parts.space.is_disk_or_quota_full() || state.is_reclaiming,
        );
        let schedule = ImageSchedule {
            log_len: &|| self.written_len() - written_len,
            log_len_max: if is_short_of_space { 0 } else { self.log_len_beside(haste) },
            pause: &|time| self.parts.shared.wake_up.pause(time),
        };
        let order =
            ImagePlan { number, summary, segments: &listed, is_full: is_short_of_space, schedule };
        let mut more = PAGE;
        let made = loop {
            match state.chain.write_image(disk, &self.parts.store, index, &order) {
                Err(ImageNotMade::Disk(e))
                    if !e.names_unknown
                        && is_out_of_space(&e.source)
                        && reserve.draw_doubled_step(SpaceClass::Reserved, &mut more) =>
                {
                    let removed = disk.remove(FileName::Temporary(number));
                    unheard(removed, "the next try writes over it");
                }
                made => break made,
            }
        };
        let chain = made.map_err(|not_made| {
            index.thaw_entries();
            self.discard_image(number, not_made)
        })?;
        index.install_base(|| Arc::new(chain.clone()));
        state.entries_seen = None;
        self.covered_len.store(written_len, Ordering::Relaxed);
        self.replayed_len.store(0, Ordering::Relaxed);
        self.checkpoint_len.store(chain.file_len(), Ordering::Relaxed);
        let old = std::mem::replace(&mut state.chain, chain);
        assert_eq!(state.chain.summary(), Some(&summary), "the chain begins with the new image");
        state.unconfirmed = true;
        state.old.extend_from_slice(old.images());
        drop(old);
        self.confirm_and_release(state, &summary, &segments)
    }

    /// Removes the file of an image that was not made, and returns the reason as an error.
    fn discard_image(&self, number: u64, not_made: ImageNotMade) -> Error {
        let removed = self.parts.disk.remove(FileName::Temporary(number));
        unheard(removed, "the next open removes it");
        let not_written = match not_made {
            ImageNotMade::Damaged(error) => {
                // The new image may have its name and be the damaged one.
                let removed = self.parts.disk.remove(FileName::Checkpoint(number));
                unheard(removed, "nothing relies on that name");
                return error;
            }
            ImageNotMade::Disk(not_written) => not_written,
        };
        if not_written.names_unknown {
            self.parts.shared.poison.set(PoisonCause::SyncFailed);
        }
        let needed = self.parts.shared.mvcc.index.frozen_count() * 32;
        Error::space(IoOp::Write, self.parts.disk.path(), needed, not_written.source)
    }
}

#[cfg(test)]
mod tests;
