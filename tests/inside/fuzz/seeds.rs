//! Seeds: inputs that reach every branch of the format, made by the encoders and by the store.

use crate::backend::{Durability, StorageBackend};
use crate::block::{Block, BlockId, BlockType, Lsn};
use crate::io::FileName;
use crate::io::sim::{CrashChoice, SimDisk};
use crate::local::LocalBackend;
use crate::local::format::description::Description;
use crate::local::format::frame::{Cut, FrameHeader, HEADER_LEN, Kind, TableRow};
use crate::local::format::segment::SegmentHeader;
use crate::local::fuzz::ImageWriter;
use crate::local::fuzz::store::options;
use crate::transaction::StorageExt;

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn sample(id: u64, data: &'static str) -> Block {
    let mut block = Block::new(BlockId(id), BlockType::IndexData, data);
    (block.header.version, block.header.flags) = (3, 0x8001);
    block
}

pub(super) fn blocks() -> Seeds {
    let encode = |block: Block| block.to_bytes().expect("encodes").to_vec();
    let empty = encode(Block::empty(BlockId(u64::MAX), BlockType::Metadata));
    let small = encode(sample(7, "seven"));
    let cut = small[..30].to_vec();
    vec![("empty", empty), ("small", small), ("cut", cut)]
}

fn description() -> Description {
    Description { store_id: [7; 16], salt: 0x0102_0304_0506_0708 }
}

pub(super) fn descriptions() -> Seeds {
    let page = description().encode();
    let mut newer = page.clone();
    for at in [8, 2048 + 8] {
        newer[at] += 1;
    }
    vec![("page", page.clone()), ("first", page[..64].to_vec()), ("newer", newer)]
}

pub(super) fn segment_headers() -> Seeds {
    let header = SegmentHeader { store_id: [7; 16], sequence: 9, salt: 5 };
    let last = SegmentHeader { sequence: u64::MAX, ..header };
    vec![
        ("page", header.encode()),
        ("last", last.encode()),
        ("short", header.encode()[..63].into()),
    ]
}

pub(super) fn frame_headers() -> Seeds {
    let mark = |kind| FrameHeader::control_record(kind, Lsn(9), Lsn(8), 0xAABB);
    let commit = FrameHeader {
        frame_len: (HEADER_LEN + 2 * 32 + 77) as u32,
        op_count: 2,
        payload_len: 77,
        group_end: false,
        last_part: false,
        part: 3,
        ..mark(Kind::Commit)
    };
    let cut = FrameHeader { frame_len: HEADER_LEN as u32 + 16, ..mark(Kind::Cut) };
    let end = FrameHeader { durable: Lsn(9), ..mark(Kind::End) };
    let encode = |header: FrameHeader| {
        let place = [&7_u32.to_le_bytes()[..], &4096_u64.to_le_bytes()].concat();
        [&place[..], &header.encode(7, 4096).0].concat()
    };
    vec![
        ("commit", encode(commit)),
        ("cut", encode(cut)),
        ("witness", encode(mark(Kind::Witness))),
        ("end", encode(end)),
        ("elsewhere", [&[0; 12], &commit.encode(7, 8192).0[..]].concat()),
    ]
}

pub(super) fn op_tables() -> Seeds {
    let rows = |entry: TableRow| {
        let mut rows = Vec::new();
        rows.extend(entry.rows().flatten());
        rows
    };
    let write = rows(TableRow::Write(sample(u64::MAX, "payload").header));
    let delete = rows(TableRow::Delete(BlockId(5)));
    vec![
        ("write", write.clone()),
        ("both", [&write[..], &delete].concat()),
        ("torn", delete[1..].to_vec()),
    ]
}

pub(super) fn cuts() -> Seeds {
    let cut = Cut { sequence: 1, offset: 8192 }.encode();
    vec![("cut", cut.to_vec()), ("short", cut[1..].to_vec())]
}

pub(super) fn file_names() -> Seeds {
    let names = [
        ("meta", "META"),
        ("lock", "LOCK"),
        ("segment", "SEG-00000000000000ff"),
        ("checkpoint", "CKPT-ffffffffffffffff"),
        ("unfinished", "TMP-0123456789abcdef"),
        ("stranger", "SEG-00000000000000FF"),
    ];
    names.map(|(name, text)| (name, text.as_bytes().to_vec())).into()
}

fn open(disk: &SimDisk) -> LocalBackend<SimDisk> {
    LocalBackend::open_on(disk.clone(), options()).expect("a disk that is well")
}

/// A closed store with a commit of every kind.
fn closed() -> SimDisk {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    commits(&store);
    store.close().expect("a clean close");
    disk
}

fn commits(store: &LocalBackend<SimDisk>) {
    store.write_block(sample(3, "the third block")).expect("a write");
    let transaction = store.begin().expect("a transaction");
    for (id, data) in [(3, "replaced"), (4, ""), (u64::MAX - 1, "a block of a large id")] {
        transaction.write(sample(id, data)).expect("a write");
    }
    transaction.commit().expect("a commit");
    store.delete_block(BlockId(4)).expect("a delete");
}

/// A store whose power was cut twice, so that a cut opens its last segment.
fn recovered() -> SimDisk {
    let disk = SimDisk::new(2);
    let store = open(&disk);
    commits(&store);
    let disk = disk.crash(CrashChoice::Everything);
    let store = open(&disk);
    store.write_block(sample(9, "after the first cut")).expect("a write");
    let disk = disk.crash(CrashChoice::Everything);
    drop(store);
    let store = open(&disk);
    store.write_block(sample(10, "after the second cut")).expect("a write");
    disk.crash(CrashChoice::Everything)
}

/// A store of two segments, the first one full of zeros.
fn rotated() -> SimDisk {
    let disk = SimDisk::new(3);
    fill_two_segments(&disk).close().expect("a clean close");
    disk
}

/// The same, killed: recovery walks both segments.
fn killed() -> SimDisk {
    let disk = SimDisk::new(3);
    let store = fill_two_segments(&disk);
    let left = disk.freeze();
    drop(store);
    left
}

fn fill_two_segments(disk: &SimDisk) -> LocalBackend<SimDisk> {
    let store = open(disk);
    for id in 1..=4 {
        let zeros = Block::new(BlockId(id), BlockType::TableData, vec![0; 16 << 10]);
        store.write_block(zeros).expect("a write");
    }
    commits(&store);
    store
}

/// A store with commits that nothing vouches for: half of them are written again at the next
/// opening.
fn torn() -> SimDisk {
    let disk = SimDisk::new(4);
    let store = open(&disk);
    for id in 1..4 {
        let transaction = store.begin().expect("a transaction");
        transaction.write(sample(id, "buffered")).expect("a write");
        transaction.commit_with(Durability::Buffered).expect("a commit");
    }
    store.sync().expect("written");
    let left = disk.crash(CrashChoice::Everything);
    let (name, len) = *left.files().last().expect("a segment");
    left.overwrite(name, len.min(5 * 4096) - 4096, b"AGF1torn");
    left
}

pub(super) fn segments() -> Seeds {
    let no_description = closed();
    no_description.remove_file(FileName::Meta);
    vec![
        ("closed", ImageWriter::of_disk(&closed())),
        ("recovered", ImageWriter::of_disk(&recovered())),
        ("no_description", ImageWriter::of_disk(&no_description)),
    ]
}

pub(super) fn stores() -> Seeds {
    let new = SimDisk::new(5);
    open(&new).close().expect("a clean close");
    let unfinished = closed();
    unfinished.put_file(FileName::Temporary(40), b"unfinished");
    vec![
        ("new", ImageWriter::of_disk(&new)),
        ("closed", ImageWriter::of_disk(&closed())),
        ("recovered", ImageWriter::of_disk(&recovered())),
        ("rotated", ImageWriter::of_disk(&rotated())),
        ("killed", ImageWriter::of_disk(&killed())),
        ("torn", ImageWriter::of_disk(&torn())),
        ("unfinished", ImageWriter::of_disk(&unfinished)),
        ("not_an_image", b"not an image".to_vec()),
    ]
}

pub(super) fn operations() -> Seeds {
    let commits = [4, 0, 9, 1, 33, 6, 200, 4, 1, 8, 0, 9, 0, 7, 0, 3, 12, 10, 40].to_vec();
    let faults = [8, 0, 9, 28, 3, 6, 100, 9, 0, 12, 0x24, 2, 0, 2, 1, 14, 0, 11, 0].to_vec();
    let full = [1, 15, 32, 2, 0, 2, 1, 7, 0, 2, 2, 15, 1, 2, 3, 10, 1].to_vec();
    vec![("commits", commits), ("faults", faults), ("full", full), ("nothing", vec![0])]
}
