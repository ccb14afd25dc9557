//! Numbers at the ends of their ranges, on files of gigabytes that take no space: the simulated
//! disk keeps what was written, and a forger writes frames that no store would.

use std::time::Duration;

use super::open;
use crate::io::FileName;
use crate::io::sim::SimDisk;
use crate::local::fuzz::{self, Forger, verify};
use crate::{
    Block, BlockId, BlockType, Defect, Durability, Error, LocalBackend, Lsn, StorageBackend,
};

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;

fn block(id: u64, data: &'static str) -> Block {
    Block::new(BlockId(id), BlockType::TableData, data)
}

/// The defect that an open is refused with, and its offset. `verify` comes to an end, too.
#[track_caller]
fn refused(forger: &Forger) -> (Defect, u64) {
    let disk = forger.disk();
    let before = disk.files();
    if let Err(error) = verify(&disk) {
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    }
    match open(&disk) {
        Err(Error::Corrupt { defect, place }) => {
            assert_eq!(disk.files(), before, "an open that was refused changed files");
            (defect, place.offset)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocks_up_to_the_last_page_below_four_gibibytes_are_read() {
    let mut forger = Forger::new();
    // One block takes all but three pages: its own first, one of a small block, one of the end
    // mark.
    let len = (4 * GIB - 3 * PAGE) as u32 - 96;
    forger.commit(1, b"", len);
    assert_eq!(forger.offset, 4 * GIB - 2 * PAGE);
    forger.commit(2, b"near the end", 12);
    forger.end();
    assert_eq!(forger.offset, 4 * GIB);
    let store = open(&forger.disk()).expect("the longest segment there can be");
    assert!(store.recovery().clean);
    assert_eq!(store.stats().total_bytes, u64::from(len) + 12);
    assert_eq!(store.read_block(BlockId(2)).expect("a block").data, "near the end");
    store.write_block(block(3, "behind it")).expect("a write");
    store.close().expect("a clean close");
    let store = open(&forger.disk()).expect("the store opens again");
    assert_eq!(store.read_block(BlockId(3)).expect("a block").data, "behind it");
    assert_eq!(store.read_block(BlockId(2)).expect("a block").data, "near the end");
}

#[test]
fn segment_over_four_gibibytes_is_refused() {
    let mut forger = Forger::new();
    forger.commit(1, b"small", 5);
    forger.end();
    forger.disk().truncate(forger.file(), 4 * GIB + 1);
    assert_eq!(refused(&forger), (Defect::Oversized, 4 * GIB));
    forger.disk().truncate(forger.file(), u64::MAX);
    assert_eq!(refused(&forger), (Defect::Oversized, 4 * GIB));
}

#[test]
fn frame_of_the_largest_length_is_refused_where_its_bytes_are_missing() {
    let mut forger = Forger::new();
    let (first, kept) = (forger.offset, PAGE * 4);
    forger.commit(1, b"", u32::MAX - 96);
    assert_eq!(forger.offset, page_up(first + u64::from(u32::MAX)));
    // A later group states that it was acknowledged.
    forger.disk().truncate(forger.file(), kept);
    forger.offset = kept;
    forger.end();
    assert_eq!(refused(&forger), (Defect::OpTable, first));
}

#[test]
fn operation_counts_that_no_frame_holds_are_no_frames() {
    for (op_count, frame_len) in [(u32::MAX, u32::MAX), (u32::MAX, 64), (1 << 27, 64), (1, 64)] {
        let mut forger = Forger::new();
        forger.lie(op_count, frame_len);
        forger.disk().truncate(forger.file(), PAGE * 2);
        forger.offset = PAGE * 2;
        forger.witness(1);
        assert_eq!(refused(&forger), (Defect::FrameHeader, PAGE), "{op_count} in {frame_len}");
    }
    // As many as a file has room for: the table is not what it says.
    let mut forger = Forger::new();
    let count = 1 << 15;
    forger.lie(count, 64 + count * 32);
    forger.witness(1);
    assert_eq!(refused(&forger), (Defect::OpTable, PAGE));
}

#[test]
fn lsns_near_the_largest_are_refused_and_do_not_overflow() {
    for lsn in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 32] {
        let mut forger = Forger::new();
        forger.commit(1, b"first", 5);
        forger.witness(lsn);
        let at = forger.offset;
        forger.disk().truncate(forger.file(), at + PAGE);
        // Behind the last intact frame stands something that is none.
        forger.disk().overwrite(forger.file(), at, b"AGF1");
        assert_eq!(refused(&forger), (Defect::BrokenChain, 2 * PAGE), "{lsn}");
        let report = verify(&forger.disk()).expect("a report");
        assert_eq!(report.frames, 2);
    }
}

#[test]
fn places_in_log_order_end_at_two_to_the_thirty_second() {
    for sequence in [0, 1 << 32, u64::MAX] {
        let mut forger = Forger::new();
        forger.commit(1, b"first", 5);
        let end = forger.offset;
        forger.segment(2, sequence);
        forger.cut(1, end);
        assert_eq!(refused(&forger), (Defect::SegmentHeader, 0), "{sequence}");
    }
    // The last place can be read; what needs another one finds no space.
    let mut forger = Forger::new();
    forger.commit(1, b"first", 5);
    let end = forger.offset;
    forger.segment(2, u64::from(u32::MAX));
    forger.cut(1, end);
    forger.commit(2, b"second", 6);
    forger.end();
    let disk = forger.disk();
    let store = open(&disk).expect("the last segment there can be");
    assert_eq!(store.read_block(BlockId(2)).expect("a block").data, "second");
    store.write_block(block(3, "third")).expect("there is room in the last segment");
    let error = (4..99)
        .find_map(|id| {
            let filling = Block::new(BlockId(id), BlockType::TableData, vec![1; 32 << 10]);
            store.write_block(filling).err()
        })
        .expect("there is no next segment");
    assert!(matches!(error, Error::StorageFull { .. }), "{error:?}");
    assert_eq!(store.read_block(BlockId(3)).expect("a block").data, "third");
    store.close().expect("a clean close");
    assert_eq!(open(&disk).expect("again").read_block(BlockId(1)).expect("a block").data, "first");
}

#[test]
fn file_numbers_near_the_largest_are_refused() {
    for number in [u64::MAX, u64::MAX - 1, 1 << 63] {
        for name in [FileName::Segment, FileName::Temporary, FileName::Checkpoint] {
            let mut forger = Forger::new();
            forger.end();
            forger.disk().put_file(name(number), b"planted");
            assert_eq!(refused(&forger), (Defect::FileNumber, 0), "{}", name(number));
        }
    }
    let mut forger = Forger::new();
    forger.segment(1 << 61, 2);
    forger.disk().remove_file(FileName::Segment(1 << 61));
    forger.disk().copy_file(FileName::Segment(1), FileName::Segment(1 << 61));
    forger.disk().remove_file(FileName::Segment(1));
    let store = open(&forger.disk()).expect("a large number is taken");
    store.write_block(block(1, "first")).expect("a write");
    store.close().expect("a clean close");
    let store = open(&forger.disk()).expect("the store opens again");
    assert_eq!(store.read_block(BlockId(1)).expect("a block").data, "first");
}

#[test]
fn smallest_and_largest_ids_are_kept() {
    let disk = SimDisk::new(1);
    let store = open(&disk).expect("a new store");
    let allocated = store.write_block(block(0, "zero asks for an id")).expect("a write");
    assert_eq!(allocated, BlockId(1));
    store.write_block(block(u64::MAX, "the last id")).expect("a write");
    store.write_block(block(u64::MAX - 1, "the one before")).expect("a write");
    let killed = disk.freeze();
    store.close().expect("a clean close");
    for disk in [killed, disk] {
        let store = open(&disk).expect("the store opens again");
        let ids = store.ids(..).expect("ids");
        assert_eq!(ids, [BlockId(1), BlockId(u64::MAX - 1), BlockId(u64::MAX)]);
        assert_eq!(store.read_block(BlockId(u64::MAX)).expect("a block").data, "the last id");
        assert!(matches!(store.read_block(BlockId(0)), Err(Error::BlockNotFound { .. })));
        assert_eq!(store.write_block(block(0, "below")).expect("a write"), BlockId(2));
        assert_eq!(store.stats().visible_lsn, Lsn(4));
    }
}

#[test]
fn id_zero_in_a_frame_is_refused() {
    let mut forger = Forger::new();
    forger.commit(0, b"orphan", 6);
    forger.end();
    assert_eq!(refused(&forger), (Defect::OpTable, PAGE));
}

#[test]
fn longest_sync_interval_is_one_that_never_ends() {
    for single in [true, false] {
        let disk = SimDisk::new(1);
        // Time has to have passed, or nothing overflows.
        disk.advance(Duration::from_secs(1));
        let options = fuzz::options().single_threaded(single).sync_interval(Duration::MAX);
        let options = options.durability(Durability::Buffered);
        let store = LocalBackend::open_on(disk.clone(), options).expect("a new store");
        for id in 1..20 {
            store.write_block(block(id, "buffered")).expect("a write");
        }
        assert_eq!(store.stats().durable_lsn, Lsn(0));
        store.sync().expect("a sync");
        assert_eq!(store.stats().durable_lsn, Lsn(19));
        store.write_block(block(20, "buffered")).expect("a write behind the sync");
        store.close().expect("a clean close");
        let store = open(&disk).expect("the store opens again");
        assert_eq!(store.stats().total_blocks, 20);
    }
}

fn page_up(offset: u64) -> u64 {
    offset.div_ceil(PAGE) * PAGE
}
