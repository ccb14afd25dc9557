//! Reclaim: frees space while the disk is full.
//!
//! A delete takes space before it frees any. So while the reserve is low, a caller that deletes
//! reclaims space first. The maintenance thread does so after a write that found no space. Steps:
//!
//! 1. Continue the log in the next segment, which frees the prepared space of the active one.
//! 2. Make a checkpoint, which releases dead segments.
//! 3. Unless compaction is paused, relocate the live blocks of segments. They must fit into the
//!    free space and half of the reserve.
//!
//! Freed space refills the reserve first.

use crate::error::Result;
use crate::io::Disk;
use crate::local::format::PAGE;
use crate::local::maintenance::compaction::Cause;
use crate::local::maintenance::{
    AGAIN_AFTER, Haste, Maintenance, MaintenanceState, SpaceReclaimed,
};
use crate::sync::Ordering;

/// Log bytes between two attempts.
const RECLAIM_EVERY: u64 = 6 * PAGE;

impl<D: Disk> Maintenance<D> {
    /// Reclaims space if the reserve is low.
    ///
    /// # Errors
    /// As [`Maintenance::checkpoint`]. The reserve may be shorter than before.
    pub(crate) fn reclaim_space(&self) -> Result<()> {
        self.reclaim_if_low(&mut *self.lock_open_state()?)
    }

    /// Reclaims space if the reserve is low or a write found no space.
    pub(super) fn reclaim_if_low(&self, state: &mut MaintenanceState) -> Result<()> {
        let reserve = &self.parts.space.reserve;
        let is_low = reserve.should_reclaim() && reserve.refill().is_err();
        let is_wanted = self.parts.shared.reclaim_wanted.swap(false, Ordering::Relaxed);
        // While a backup reads files, no segment can be released.
        if !(is_low || is_wanted) || state.hold_count > 0 {
            return Ok(());
        }
        if state.reclaimed.is_some_and(|last| self.is_too_soon(last)) {
            return Ok(());
        }
        state.is_reclaiming = true;
        let was_paused = self.pauses.is_paused();
        let made = self.reclaim_by_compaction(state, is_wanted && !is_low);
        state.is_reclaiming = false;
        let (log_len, at) = (self.written_len(), self.parts.disk.now());
        state.reclaimed = Some(SpaceReclaimed { log_len, at, was_paused });
        reserve.refill_best_effort();
        made
    }

    /// Whether another attempt would find the state that the last one found.
    fn is_too_soon(&self, last: SpaceReclaimed) -> bool {
        let has_grown = self.written_len() - last.log_len >= RECLAIM_EVERY;
        let has_rested = self.parts.disk.now().saturating_sub(last.at) >= AGAIN_AFTER;
        let goes_on = last.was_paused && !self.pauses.is_paused();
        !(has_grown || has_rested || goes_on)
    }

    /// Compacts all segments that are worth it, or until there is space for the next segment.
    fn reclaim_by_compaction(&self, state: &mut MaintenanceState, until_room: bool) -> Result<()> {
        self.parts.log.roll_to_next_segment()?;
        self.shrink_prepared(true)?;
        self.make_checkpoint(state, Haste::Space)?;
        // Segments that are begun from here on hold relocated blocks, and are dense.
        let newest =
            self.parts.shared.usage.all_segments().last().map_or(0, |segment| segment.sequence);
        let mut run = self.begin_run(Cause::Need);
        while let Some(victim) = self.victim_to_reclaim(state, &run, newest) {
            if self.must_stop(Cause::Need) || (until_room && self.has_space_for_segment()) {
                break;
            }
            self.empty_segment(state, &mut run, victim)?;
            self.make_checkpoint(state, Haste::Space)?;
        }
        Ok(())
    }

    /// Whether there is space for the next segment without drawing on the reserve.
    fn has_space_for_segment(&self) -> bool {
        let reserve = &self.parts.space.reserve;
        let wanted_len = self.parts.space.segment_capacity() + PAGE;
        reserve.refill().is_ok()
            && self.parts.disk.free_space().is_ok_and(|free| free >= wanted_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Block, BlockId, BlockType};
    use crate::error::Error;
    use crate::io::sim::SimDisk;
    use crate::local::space::reserve::SpaceClass;
    use crate::{LocalBackend, StorageBackend};

    /// A thin volume takes every byte, and has no space for them when they are synced.
    #[test]
    fn reserve_that_another_thread_refills_is_not_drawn_from_for_ever() {
        let options = LocalBackend::options().single_threaded(true);
        let store = LocalBackend::open_on(SimDisk::new(1), options).expect("opens");
        let reserve = &store.inner.space.reserve;
        let (before, mut step, mut count) = (reserve.len(), PAGE, 0);
        while reserve.draw_doubled_step(SpaceClass::Reserved, &mut step) {
            assert!(reserve.len() < before, "something was given back");
            reserve.refill().expect("there is space");
            count += 1;
            assert!(count < 64, "no end");
        }
        assert!(count > 1 && reserve.len() == before, "{count}");
    }

    #[test]
    fn full_store_takes_writes_again_when_a_pause_is_over() {
        let options = LocalBackend::options().single_threaded(true).segment_len_max(256 << 10);
        let options = options.block_len_max(32 << 10).max_bytes(8 << 20);
        let store = LocalBackend::open_on(SimDisk::new(1), options).expect("opens");
        let put =
            |id| store.write_block(Block::new(BlockId(id), BlockType::TableData, vec![1; 3900]));
        let maintenance = &store.inner.maintenance;
        maintenance.pauses.begin_pause();
        // Two segments of many are mostly dead: compaction is not due, and would free space.
        (1..=120).for_each(|id| put(id).map(|_| ()).expect("writes"));
        (1..=120).filter(|id| id % 5 > 0).for_each(|id| put(id).map(|_| ()).expect("writes"));
        let full = (1000..).find_map(|id| put(id).err()).expect("full at last");
        assert!(matches!(full, Error::StorageFull { .. }), "{full:?}");
        for _ in 0..3 {
            put(1).expect_err("paused");
        }
        maintenance.pauses.end_pause();
        let tries = (0..10).find(|_| put(1).is_ok());
        assert!(tries.is_some(), "refused for ever");
    }

    #[test]
    fn checkpoints_of_a_full_store_leave_no_row_of_deltas() {
        let options = LocalBackend::options().single_threaded(true).segment_len_max(64 << 10);
        let options = options.block_len_max(32 << 10);
        let store = LocalBackend::open_on(SimDisk::new(1), options).expect("opens");
        for id in 1..=100 {
            let block = Block::new(BlockId(id), BlockType::TableData, vec![1; 5000]);
            store.write_block(block).expect("writes");
        }
        store.checkpoint().expect("a base");
        let (maintenance, base_len) =
            (&store.inner.maintenance, store.inner.maintenance.checkpoint_len());
        for id in 1..=20 {
            store.delete_block(BlockId(id)).expect("a delete");
            assert!(
                store.inner.space.reserve.draw_space(SpaceClass::Reserved, PAGE),
                "nothing is kept"
            );
            store.checkpoint().expect("a checkpoint");
            let len = maintenance.checkpoint_len();
            assert!(len <= base_len * 3 / 2, "{len} bytes for {base_len}");
        }
    }
}
