//! Maintenance: checkpoints, and the way of segments that nobody needs any more.
//!
//! Owns the chain of checkpoints in use and the thread that looks after the store; one job runs at a
//! time, on that thread or on a caller's. A checkpoint goes like this:
//!
//! 1. **Freeze**, between two groups: every commit so far is made durable, the index's entries are put
//!    aside, and the log's position is noted. Commits go on at once.
//! 2. **Write** the image (`checkpoint`), and give it its name durably.
//! 3. **Install** it below the index; the frozen entries are dropped.
//! 4. **Confirm** in the log that the image's name is durable. Without that, recovery does not rely on
//!    it: after a failed sync of a directory nobody can tell whether a name that is seen is durable.
//! 5. **Release.** Files of the old chain are removed. A segment goes when nothing in it was in force
//!    at the freeze, recovery will not read it (it lies before the noted position) and no snapshot
//!    sees a version in it. Whether its file is reused or removed is `space`'s business.
//!
//! Failing before step 3 changes nothing: the freeze is taken back, and the next call tries again.

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
use crate::local::commit::driver::Driver;
use crate::local::commit::log::Frozen;
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
use crate::local::space::reserve::{SpaceClass, StoreLoad, is_full};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::unheard::unheard;

/// The store counts as idle when the log has not grown for this long.
const IDLE_AFTER: Duration = Duration::from_millis(500);
/// After a failed job, the next try.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A checkpoint that nobody waits for may take until the log has grown by this share of what makes one due.
const SPREAD_SHARE: u64 = 2;

/// Failed jobs in a row after which the store is left alone until it is called for again.
const FAILED_COUNT_MAX: u32 = 10;

/// How long to wait after so many failed jobs in a row: each time twice as long, so that a store that nobody uses
/// becomes still on a full or damaged disk, too.
fn retry_delay(failed_count: u32) -> Option<Duration> {
    (failed_count <= FAILED_COUNT_MAX)
        .then(|| AGAIN_AFTER * 2_u32.pow(failed_count.saturating_sub(1)))
}

/// What a checkpoint is made for, and so how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// To open sooner.
    Spread,
    /// To have the index out of memory, of which commits take more meanwhile.
    Memory,
    /// For segments that go with it, and have to go before many more are filled: at once.
    Space,
}

/// How to look after a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaintenanceOptions {
    /// Log bytes after which a checkpoint is due.
    pub(crate) checkpoint_log_len: u64,
    /// Log bytes over bytes in force, above which segments are emptied.
    pub(crate) amplification_max: f64,
    /// What memory is for.
    pub(crate) memory_budget: MemoryBudget,
}

/// Looks after one store.
pub(crate) struct Maintenance<D: Disk> {
    disk: Arc<D>,
    store: Description,
    options: MaintenanceOptions,
    shared: Arc<Shared>,
    driver: Arc<Driver<D>>,
    space: Arc<Space<D>>,
    views: Arc<Views>,
    alarm: Alarm,
    /// Where the log of a store ends that is only read.
    ending: Option<Ending>,
    /// The first segment in the row that was not written to before open. Who holds bytes of an earlier one may have them from
    /// an earlier handle, of which we know nothing.
    own_from: u64,
    pub(crate) pauses: CompactionPauses,
    moved_len: AtomicU64,
    state: Mutex<MaintenanceState>,
    /// Callers that wait for the state.
    waiting: AtomicU64,
    /// Log bytes, since open, that the newest checkpoint covers.
    covered_len: AtomicU64,
    /// Log bytes from before open that it does not.
    replayed_len: AtomicU64,
    checkpoint_len: AtomicU64,
}

/// What an [`Maintenance`] is made of and works with.
pub(crate) struct MaintenanceParts<D: Disk> {
    pub(crate) disk: Arc<D>,
    pub(crate) store: Description,
    pub(crate) options: MaintenanceOptions,
    pub(crate) shared: Arc<Shared>,
    pub(crate) driver: Arc<Driver<D>>,
    pub(crate) space: Arc<Space<D>>,
    pub(crate) views: Arc<Views>,
    pub(crate) alarm: Alarm,
    /// Where the log of a store ends that is only read.
    pub(crate) ending: Option<Ending>,
    /// The first segment that was not written to before open.
    pub(crate) own_from: u64,
}

/// What one job at a time changes.
#[derive(Debug, Default)]
struct MaintenanceState {
    chain: Chain,
    /// The log does not say yet that the newest image counts.
    unconfirmed: bool,
    /// Images that were in use before; their files go when the newest one counts.
    old: Vec<Arc<Image>>,
    /// When space was made last.
    reclaimed: Option<SpaceReclaimed>,
    /// How long the log was when the bytes of the index's entries were counted last, and how many those
    /// were.
    entries_seen: Option<(u64, u64)>,
    /// Space is being made.
    is_reclaiming: bool,
    /// How long the log was when an idle store came to rest.
    idle_at: Option<u64>,
    /// Whether segments are emptied in time.
    pressure: Pressure,
    /// Segments that could not be emptied: something in them is damaged.
    stuck: BTreeSet<u64>,
    /// What stayed behind when segments with nothing in force were let go last.
    pinned_dead: Option<PinnedDead>,
    /// Backups that read files: until they are done no file is changed or goes.
    hold_count: u64,
    /// Segments whose bytes are also a backup's, by reflinks made since open.
    cloned: BTreeSet<u64>,
    /// The store is closed, and its files may be another handle's.
    is_ended: bool,
}

/// Where the log of a store ends that is only read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// Behind the last frame that counts.
    pub(crate) position: LogPosition,
    /// The seed of frames in that segment.
    pub(crate) seed: u32,
    /// The last commit.
    pub(crate) lsn: Lsn,
    /// The last commit that was known durable.
    pub(crate) durable: Lsn,
}

/// An attempt to make space.
#[derive(Debug, Clone, Copy)]
struct SpaceReclaimed {
    /// How long the log was then.
    log_len: u64,
    at: Duration,
    /// Compaction was paused, and moved nothing.
    was_paused: bool,
}

impl<D: Disk> Maintenance<D> {
    /// Takes over a store with this chain of checkpoints and `replayed_len` bytes of log behind it.
    pub(crate) fn new(
        parts: MaintenanceParts<D>,
        chain: Chain,
        replayed_len: u64,
    ) -> Maintenance<D> {
        let checkpoint_len = AtomicU64::new(chain.file_len());
        let state = Mutex::new(MaintenanceState { chain, ..MaintenanceState::default() });
        let covered_len = AtomicU64::new(0);
        let replayed_len = AtomicU64::new(replayed_len);
        let MaintenanceParts {
            disk,
            store,
            options,
            shared,
            driver,
            space,
            views,
            alarm,
            ending,
            own_from,
        } = parts;
        Maintenance {
            disk,
            store,
            options,
            shared,
            driver,
            space,
            views,
            alarm,
            ending,
            own_from,
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

    /// What the thread does until the store is closed.
    pub(crate) fn run_thread(&self) {
        let (mut rest, mut seen_len, mut failed_count) = (None, 0, 0);
        loop {
            let woken = self.shared.wake_up.wait(rest);
            if woken == Woken::Stopped {
                return;
            }
            // Of users: what the upkeep itself writes is no reason to look again.
            let user_len = self.user_log_len();
            // Not because of two calls in a row: somebody writes who has just not got that far.
            let is_idle = woken == Woken::Rested && user_len == seen_len;
            if woken == Woken::Called || user_len != seen_len {
                failed_count = 0;
            }
            seen_len = user_len;
            let done = catch_unwind(AssertUnwindSafe(|| self.run_due(is_idle)));
            rest = match done.unwrap_or_else(|_panic| self.poison_after_panic()) {
                Ok(()) => (!is_idle).then_some(IDLE_AFTER),
                Err(_) if self.shared.poison.cause().is_some() => None,
                // Full, or damaged somewhere: whoever needs that place hears of it.
                Err(_) => {
                    failed_count += 1;
                    retry_delay(failed_count)
                }
            };
        }
    }

    /// After a panic, whose extent nobody knows.
    fn poison_after_panic(&self) -> Result<()> {
        self.shared.poison.set(PoisonCause::ThreadPanicked);
        self.shared.poison.check()
    }

    /// Does what is due; more of it while nobody writes.
    ///
    /// # Errors
    /// What stands in the way of the maintenance, and of nothing else.
    pub(crate) fn run_due(&self, is_idle: bool) -> Result<()> {
        if self.alarm.is_set()
            && let Ok(left) = self.disk.free_space()
        {
            self.alarm.look(left);
        }
        // From here on payloads may be dropped in the middle of things.
        let _duty = callback::begin(Duty::Working);
        let mut state = self.state.lock();
        if state.is_ended {
            return Ok(());
        }
        let made = match self.checkpoint_due(&mut state) {
            Some(haste) => self.make_checkpoint(&mut state, haste),
            None => Ok(()),
        };
        let index_len = self.entries_len(&mut state) + self.shared.mvcc.index.undo_len();
        self.shared.recent.limit(self.options.memory_budget.recent_len_beside(index_len));
        made?;
        let suited = self.space.reserve.resize_for(self.store_load());
        unheard(suited, "the reserve stays short, and ordinary writes wait for it");
        self.reclaim_if_low(&mut state)?;
        self.compact_due(&mut state, is_idle)?;
        self.limit_snapshots(&mut state)?;
        if is_idle { self.shrink_prepared(false) } else { Ok(()) }
    }

    /// Takes the state for somebody who calls: what is paced lets them have it.
    ///
    /// # Errors
    /// [`Error::Closed`]: nothing of the store may be changed any more.
    fn lock_open_state(&self) -> Result<MutexGuard<'_, MaintenanceState>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        match state.is_ended {
            true => Err(Error::Closed),
            false => Ok(state),
        }
    }

    /// Lets files go again that a backup has read.
    fn release_hold(&self) {
        self.state.lock().hold_count -= 1;
        self.shared.wake_up.call();
    }

    #[cfg(test)]
    fn set_waiting_count(&self, count: u64) {
        self.waiting.store(count, Ordering::Relaxed);
    }

    /// Whether a caller waits for the state.
    fn has_waiting_caller(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Gives space that was made ahead back, `all` of it or what nobody had prepared. Between two groups: a
    /// file is not cut while the log may be writing behind the place of the cut.
    fn shrink_prepared(&self, all: bool) -> Result<()> {
        self.driver.run_between_groups(|| self.space.shrink(all))
    }

    /// Makes a checkpoint of what is committed now, if anything is since the last one.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.make_checkpoint(&mut *self.lock_open_state()?, Haste::Spread)
    }

    /// Ends the maintenance, once the job under way is done; all later ones are refused. Makes a last checkpoint of
    /// what was committed: it vouches for the log's end, should that be lost later, and saves the next open time.
    ///
    /// # Errors
    /// As [`Maintenance::checkpoint`]; it has ended all the same.
    pub(crate) fn end_session(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.is_ended = true;
        if self.shared.poison.cause().is_some() {
            return Ok(());
        }
        // The caller's thread has the rest of the store to end, whatever happens here.
        let last = AssertUnwindSafe(|| self.make_checkpoint(&mut state, Haste::Spread));
        match catch_unwind(last).unwrap_or_else(|_panic| self.poison_after_panic()) {
            // All commits are durable; only the next open has a little more to do.
            Err(error) if error.is_shortage() => Ok(()),
            done => done,
        }
    }

    /// Ends what is done beside reading: later backups are refused.
    pub(crate) fn end_reading(&self) {
        assert!(self.ending.is_some(), "a session that writes ends its log");
        self.state.lock().is_ended = true;
    }

    /// What the reserve is for.
    pub(crate) fn store_load(&self) -> StoreLoad {
        StoreLoad {
            block_count: self.shared.mvcc.totals().0,
            log_len: self.usage_totals().used_len,
            checkpoint_len: self.checkpoint_len(),
        }
    }

    /// Log bytes that may be written while an image is.
    fn log_len_beside(&self, haste: Haste) -> u64 {
        match haste {
            Haste::Spread => self.options.checkpoint_log_len / SPREAD_SHARE,
            Haste::Memory => self.options.memory_budget.check_interval_len(),
            Haste::Space => 0,
        }
    }

    fn checkpoint_due(&self, state: &mut MaintenanceState) -> Option<Haste> {
        let (entries_len, undo_len) = (self.entries_len(state), self.shared.mvcc.index.undo_len());
        if self.options.memory_budget.needs_checkpoint(entries_len, undo_len) {
            return Some(Haste::Memory);
        }
        (self.uncovered_len() >= self.options.checkpoint_log_len).then_some(Haste::Spread)
    }

    /// Heap bytes of the index's entries, not counted again before the log has grown a little.
    fn entries_len(&self, state: &mut MaintenanceState) -> u64 {
        let written_len = self.shared.written_len.load(Ordering::Relaxed);
        let valid_len = self.options.memory_budget.check_interval_len() / 2;
        if let Some((at, len)) = state.entries_seen
            && written_len - at < valid_len
        {
            return len;
        }
        let len = self.shared.mvcc.index.entries_len();
        state.entries_seen = Some((written_len, len));
        len
    }

    /// Log bytes that the newest checkpoint does not cover.
    fn uncovered_len(&self) -> u64 {
        let covered = self.covered_len.load(Ordering::Relaxed);
        let written = self.shared.written_len.load(Ordering::Relaxed) - covered;
        written + self.replayed_len.load(Ordering::Relaxed)
    }

    fn make_checkpoint(&self, state: &mut MaintenanceState, haste: Haste) -> Result<()> {
        let written_len = self.shared.written_len.load(Ordering::Relaxed);
        let Frozen { summary, segments } = self.driver.freeze_index()?;
        let index = &self.shared.mvcc.index;
        let newest = state.chain.summary().copied();
        // What a roll has sealed without a commit goes with a checkpoint behind it only.
        let is_sealed = |newest: &Summary| {
            let sealed = newest.position.sequence..summary.position.sequence;
            segments.iter().any(|s| s.live_count == 0 && sealed.contains(&s.sequence))
        };
        let lets_go = haste == Haste::Space && newest.as_ref().is_some_and(is_sealed);
        if newest.map_or(Lsn(0), |newest| newest.lsn) == summary.lsn && !lets_go {
            index.thaw();
            // What stood in the way of the rest the last time may be gone by now.
            return match newest {
                Some(newest) => self.confirm_and_release(state, &newest, &segments),
                None => Ok(()),
            };
        }
        let start = summary.position.sequence;
        let mut listed = segments.clone();
        listed.retain(|segment| segment.live_count > 0 || segment.sequence >= start);
        let (disk, number) = (&*self.disk, self.space.take_number());
        let (reserve, is_short_of_space) =
            (&self.space.reserve, self.space.is_full() || state.is_reclaiming);
        let schedule = ImageSchedule {
            log_len: &|| self.written_len() - written_len,
            log_len_max: if is_short_of_space { 0 } else { self.log_len_beside(haste) },
            pause: &|time| self.shared.wake_up.rest(time),
        };
        let order =
            ImagePlan { number, summary, segments: &listed, is_full: is_short_of_space, schedule };
        let mut more = PAGE;
        let made = loop {
            match state.chain.write_image(disk, &self.store, index, &order) {
                Err(ImageNotMade::Disk(e))
                    if !e.names_unknown
                        && is_full(&e.source)
                        && reserve.draw_again(SpaceClass::Reserved, &mut more) =>
                {
                    let removed = disk.remove(FileName::Temporary(number));
                    unheard(removed, "the next try writes over it");
                }
                made => break made,
            }
        };
        let chain = made.map_err(|not_made| {
            index.thaw();
            self.discard_image(number, not_made)
        })?;
        index.install(|| Arc::new(chain.clone()));
        state.entries_seen = None;
        self.covered_len.store(written_len, Ordering::Relaxed);
        self.replayed_len.store(0, Ordering::Relaxed);
        self.checkpoint_len.store(chain.file_len(), Ordering::Relaxed);
        let old = std::mem::replace(&mut state.chain, chain);
        state.unconfirmed = true;
        state.old.extend_from_slice(old.images());
        drop(old);
        self.confirm_and_release(state, &summary, &segments)
    }

    fn discard_image(&self, number: u64, not_made: ImageNotMade) -> Error {
        let removed = self.disk.remove(FileName::Temporary(number));
        unheard(removed, "the next open removes it");
        let not_written = match not_made {
            ImageNotMade::Damaged(error) => {
                // It may have got its name and be what is damaged.
                let removed = self.disk.remove(FileName::Checkpoint(number));
                unheard(removed, "nothing relies on that name");
                return error;
            }
            ImageNotMade::Disk(not_written) => not_written,
        };
        if not_written.names_unknown {
            self.shared.poison.set(PoisonCause::SyncFailed);
        }
        let needed = self.shared.mvcc.index.frozen_count() * 32;
        Error::space(IoOp::Write, self.disk.path(), needed, not_written.source)
    }
}

#[cfg(test)]
mod tests;
