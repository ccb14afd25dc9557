//! Replay: loads frames into the index in batches.
//!
//! Owns [`ReplayBatch`], the entries of counted frames that are not in the index yet, and the usage
//! of segments by them. Invariant: batches are loaded in the order of the chain, each in the order
//! of its frames. `mvcc::index` says how a batch may be sorted all the same.
//!
//! A batch takes the memory budget of replay, at [`STEP_LEN`] bytes an entry, and the entries of
//! one more frame. Its vector may reserve twice as much, untouched. In a larger batch, more entries
//! replace entries of the same checkpoint page. With 790,000 entries over an image of 10 million,
//! batches of 64, 256 and 1024 Ki took 0.7, 0.56 and 0.42 s of processor time.

use super::Recovery;
use crate::error::Result;
use crate::io::Disk;
use crate::local::format::frame::{ENTRY_LEN, TableRow};
use crate::local::format::location::Location;
use crate::local::maintenance::memory::MemoryBudget;
use crate::local::options::{Options, ReadMode};
use crate::local::read::scan::Frame;
use crate::local::space::usage::Tally;
use crate::mvcc::index::{Deed, IdChange};

/// Memory of an entry, with the key that it is sorted by.
const STEP_LEN: usize = size_of::<IdChange<Location>>() + size_of::<u128>();

const _: () = assert!(STEP_LEN == 64);

/// Bytes of a batch at most, whatever the memory budget. The index counts the entries of a batch in
/// 32 bits.
const BATCH_LEN_MAX: u64 = 1 << 30;

const _: () = assert!(
    BATCH_LEN_MAX as usize / STEP_LEN + u32::MAX as usize / ENTRY_LEN < u32::MAX as usize,
    "a batch, and a frame behind it"
);

/// The memory and threads that loading entries may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replay {
    /// Bytes of a batch.
    pub(crate) batch_len_max: u64,
    /// Whether several threads load a batch. If images are not mapped, they would read the disk in
    /// an unpredictable order.
    pub(crate) spread: bool,
}

impl Replay {
    pub(crate) fn from_options(options: &Options) -> Replay {
        Replay {
            batch_len_max: MemoryBudget::from_options(options).replay_len_max.min(BATCH_LEN_MAX),
            spread: !options.single_threaded && options.read_mode != ReadMode::Pread,
        }
    }
}

impl Default for Replay {
    /// For recovery without an open: one thread, and the default memory budget.
    fn default() -> Replay {
        Replay { spread: false, ..Replay::from_options(&Options::default()) }
    }
}

/// Entries of frames that count and are not in the index yet.
#[derive(Debug, Default)]
pub(super) struct ReplayBatch {
    steps: Vec<IdChange<Location>>,
}

impl ReplayBatch {
    /// Adds the entries of a frame of this segment.
    pub(super) fn push_frame(&mut self, sequence: u64, frame: &Frame) {
        for (offset, entry) in frame.rows_with_offsets() {
            let (id, lsn) = (entry.block_id(), frame.header.lsn);
            let place = |header| Location::new(header, sequence, offset);
            self.steps.push(match entry {
                TableRow::Write(header) => IdChange { id, lsn, deed: Deed::Write(place(header)) },
                TableRow::Delete(_) => IdChange { id, lsn, deed: Deed::Delete },
                TableRow::Move(header, lsn) => {
                    IdChange { id, lsn: *lsn, deed: Deed::Move(place(header)) }
                }
            });
        }
    }
}

impl<D: Disk> Recovery<'_, D> {
    /// Loads a batch into the index if it has reached its memory budget.
    ///
    /// # Errors
    /// As [`Recovery::load_batch`].
    pub(super) fn load_batch_if_full(&self, batch: &mut ReplayBatch) -> Result<()> {
        match (batch.steps.len() * STEP_LEN) as u64 >= self.replay.batch_len_max {
            true => self.load_batch(batch),
            false => Ok(()),
        }
    }

    /// Loads a batch into the index and leaves it empty.
    ///
    /// # Errors
    /// Part of the checkpoint is damaged or cannot be read.
    pub(super) fn load_batch(&self, batch: &mut ReplayBatch) -> Result<()> {
        assert!(u32::try_from(batch.steps.len()).is_ok(), "the index counts entries in 32 bits");
        let tallies =
            self.mvcc.load_log_batch(&batch.steps, self.replay.spread, Tally::count_replacement)?;
        tallies.iter().for_each(|tally| self.usage.apply_tally(tally));
        batch.steps.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::io::sim::{CrashChoice, SimDisk};
    use crate::local::format::checkpoint::SegmentUse;
    use crate::{Block, BlockId, BlockType, LocalBackend, StorageBackend, StorageExt, WriteBatch};

    /// Entries of a batch in 2 MiB of memory: enough for more than one thread.
    const BATCH_COUNT: u64 = (1 << 18) / super::STEP_LEN as u64;

    /// Live bytes and blocks of each segment, by the index.
    fn live_by_segment(store: &LocalBackend<SimDisk>) -> BTreeMap<u64, (u64, u64)> {
        let mut segments = BTreeMap::new();
        for id in store.blocks(..).expect("a walk") {
            let id = id.expect("readable").header.block_id;
            let found =
                store.inner.shared.mvcc.index.read_newest(id).expect("readable").expect("listed");
            let (len, count) = segments.entry(u64::from(found.value.segment)).or_default();
            *len += u64::from(found.value.len);
            *count += 1;
        }
        segments
    }

    #[test]
    fn log_of_several_batches_is_replayed_whole_and_in_its_order() {
        let disk = SimDisk::new(7);
        let options = || LocalBackend::options().single_threaded(true);
        let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
        let mut model = BTreeMap::new();
        for turn in 0..4 * BATCH_COUNT / 100 {
            let mut batch = WriteBatch::new();
            for n in 0..100 {
                let (id, byte) = (BlockId(1 + (turn * 7919 + n * 31) % 3000), turn as u8);
                if turn % 3 == 2 && model.remove(&id).is_some() {
                    batch.delete(id);
                } else {
                    let data = vec![byte; 1 + (turn % 50) as usize];
                    batch.write(Block::new(id, BlockType::TableData, data.clone()));
                    model.insert(id, data);
                }
            }
            store.apply(batch).expect("commits");
            if turn == BATCH_COUNT / 100 {
                store.checkpoint().expect("makes an image");
            }
        }
        store.sync().expect("is durable");
        let crashed = disk.crash(CrashChoice::Everything);
        drop(store);
        for single in [true, false] {
            let options = options().single_threaded(single).memory_len_max(2 << 20);
            let store = LocalBackend::open_on(crashed.freeze(), options).expect("opens");
            assert!(store.recovery().frames * 100 > 2 * BATCH_COUNT, "{:?}", store.recovery());
            let blocks = store.blocks(..).expect("a walk").map(|block| block.expect("readable"));
            let found: BTreeMap<_, _> =
                blocks.map(|block| (block.header.block_id, block.data.to_vec())).collect();
            assert!(found == model, "{} of {} blocks", found.len(), model.len());
            let len: usize = model.values().map(Vec::len).sum();
            let stats = store.stats();
            let totals = (stats.total_blocks, stats.total_bytes);
            assert_eq!(totals, (model.len() as u64, len as u64));
            let counted = store.inner.shared.usage.all_segments().into_iter();
            let counted = counted.filter(|segment| segment.live_count > 0);
            let counted = counted.map(|s: SegmentUse| (s.sequence, (s.live_len, s.live_count)));
            assert_eq!(counted.collect::<BTreeMap<_, _>>(), live_by_segment(&store));
        }
    }
}
