//! Release: removes the files that a checkpoint makes superfluous.
//!
//! Owns the order of steps 4 and 5 ([`super`]), and the rule which segments are dead.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Maintenance, MaintenanceState};
use crate::error::{Error, IoOp, PoisonCause, Result};
use crate::io::{Disk, FileName};
use crate::local::format::checkpoint::{SegmentUse, Summary};
use crate::local::maintenance::checkpoint::image::Image;

impl<D: Disk> Maintenance<D> {
    /// Steps 4 and 5: confirms the newest image, then releases old images and dead segments.
    pub(super) fn confirm_and_release(
        &self,
        state: &mut MaintenanceState,
        checkpoint: &Summary,
        segments: &[SegmentUse],
    ) -> Result<()> {
        assert_eq!(state.chain.summary(), Some(checkpoint), "the checkpoint is the newest one");
        let used = state.chain.image_names();
        if state.unconfirmed {
            self.parts.log.confirm_checkpoint(used[0])?;
            state.unconfirmed = false;
        }
        if state.hold_count > 0 {
            // The next checkpoint without a hold releases them.
            return Ok(());
        }
        let mut old = std::mem::take(&mut state.old);
        old.retain(|image| !used.contains(&image.header.name));
        // During a backup, several checkpoints may have listed the same image.
        old.sort_by_key(|image| image.header.name);
        old.dedup_by_key(|image| image.header.name);
        assert!(!state.unconfirmed, "the newest image is confirmed before old ones are removed");
        self.remove_images(old)?;
        self.release_dead(state, checkpoint, segments)
    }

    fn remove_images(&self, images: Vec<Arc<Image>>) -> Result<()> {
        if images.is_empty() {
            return Ok(());
        }
        for image in images {
            let name = FileName::Checkpoint(image.header.name.number);
            let is_unseen = Arc::into_inner(image).map(drop).is_some();
            match is_unseen {
                true => self.remove_unseen(name)?,
                false => self.remove_at_once(name)?,
            }
        }
        self.sync_directory()
    }

    /// Releases segments that had no live block at the freeze and that recovery from the checkpoint
    /// does not read.
    fn release_dead(
        &self,
        state: &mut MaintenanceState,
        checkpoint: &Summary,
        segments: &[SegmentUse],
    ) -> Result<()> {
        assert_eq!(state.hold_count, 0, "no backup reads files");
        let start = checkpoint.position.sequence;
        let dead = segments.iter().filter(|s| s.live_count == 0 && s.sequence < start);
        let dead: Vec<_> = dead.collect();
        if dead.is_empty() {
            return Ok(());
        }
        let mut pinned = BTreeSet::new();
        self.parts.log.run_between_groups(|| {
            let index = &self.parts.shared.mvcc.index;
            index.for_each_undo(|version| {
                pinned.insert(u64::from(version.segment));
            });
        });
        for segment in dead.into_iter().filter(|segment| !pinned.contains(&segment.sequence)) {
            self.parts.shared.usage.remove_segment(segment.sequence);
            // Overwriting bytes that a backup shares would take new space for each page.
            let is_cloned = state.cloned.remove(&segment.sequence);
            let is_unseen = self.parts.views.remove_segment(segment.sequence)
                && segment.sequence >= self.parts.own_from;
            let is_ours = is_unseen && !is_cloned;
            match is_ours && !self.parts.space.is_disk_or_quota_full() && self.wants_free_segment()
            {
                true => self.parts.space.keep_for_reuse(segment.number),
                false => self.parts.space.remove_segment_file(segment.number)?,
            }
        }
        Ok(())
    }

    /// Whether to keep a released segment for reuse: the log will grow into it, and all files
    /// together stay within bounds.
    fn wants_free_segment(&self) -> bool {
        let (totals, free_len) = (self.usage_totals(), self.parts.space.free_len());
        let excess = 2.3 * (self.parts.options.amplification_max - 1.0);
        let all_len = totals.used_len + free_len + self.parts.space.segment_capacity();
        all_len as f64 <= totals.live_len as f64 * (1.0 + excess) || free_len == 0
    }

    fn sync_directory(&self) -> Result<()> {
        self.parts.disk.sync_dir().map_err(|e| {
            self.parts.shared.poison.set(PoisonCause::SyncFailed);
            Error::io(IoOp::Sync, self.parts.disk.path(), e)
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::block::{Block, BlockId, BlockType};
    use crate::io::FileName;
    use crate::io::sim::SimDisk;
    use crate::{LocalBackend, Options, StorageBackend};

    fn options() -> Options {
        let options = LocalBackend::options().single_threaded(true).segment_len_max(1 << 20);
        options.block_len_max(64 << 10).zero_ahead_len(64 << 10)
    }

    fn put_all(store: &LocalBackend<SimDisk>) {
        for id in 1..=400 {
            let block = Block::new(BlockId(id), BlockType::TableData, vec![id as u8; 30_000]);
            store.write_block(block).expect("writes");
        }
    }

    /// Overwrites all blocks and returns how many earlier segments are kept for reuse.
    fn kept_count(store: &LocalBackend<SimDisk>, disk: &SimDisk) -> usize {
        let maintenance = &store.inner.maintenance;
        let used = store.inner.shared.usage.all_segments();
        maintenance.state.lock().hold_count += 1;
        put_all(store);
        maintenance.state.lock().hold_count -= 1;
        maintenance.checkpoint().expect("lets segments go");
        let there = disk.files();
        let is_there = |number| there.iter().any(|(name, _)| *name == FileName::Segment(number));
        used[..used.len() - 1].iter().filter(|segment| is_there(segment.number)).count()
    }

    /// Overwriting bytes that a backup shares would take new space page by page.
    #[test]
    fn segment_that_shares_its_bytes_with_a_backup_is_not_written_again() {
        for is_cloned in [false, true] {
            let disk = SimDisk::new(1);
            let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
            put_all(&store);
            let (maintenance, used) =
                (&store.inner.maintenance, store.inner.shared.usage.all_segments());
            if is_cloned {
                maintenance.state.lock().cloned.extend(used.iter().map(|segment| segment.sequence));
            }
            assert_eq!(kept_count(&store, &disk) == 0, is_cloned);
            assert!(
                maintenance.state.lock().cloned.len() <= 1,
                "a released segment is not forgotten"
            );
        }
    }

    /// Readers of the closed session may hold its bytes for any time.
    #[test]
    fn segment_of_an_earlier_session_is_not_written_again() {
        let disk = SimDisk::new(1);
        let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
        put_all(&store);
        store.close().expect("closes");
        let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
        assert_eq!(kept_count(&store, &disk), 0, "a reader's bytes change under it");
        assert!(kept_count(&store, &disk) > 0, "nothing is kept at all");
    }
}
