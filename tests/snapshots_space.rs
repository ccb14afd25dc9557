//! What snapshots keep of the log: no more than they see, at their right versions through every
//! move, counted as what it takes on disk, and given up at the limit.

#[path = "support/compacting.rs"]
mod compacting;
#[path = "support/log_len.rs"]
mod log_len;
#[path = "support/versions.rs"]
mod versions;
#[path = "support/xorshift.rs"]
mod xorshift;

use std::sync::atomic::{AtomicU64, Ordering};

use aegis_blocks::io::sim::{CrashChoice, SimDisk};
use aegis_blocks::{
    Block, BlockId, BlockType, Error, LocalBackend, Snapshot, SnapshotLimit, StorageBackend,
    StorageExt, WriteBatch,
};

use compacting::{SEGMENT_LEN, options};
use log_len::log_len;
use versions::{Model, block, check, payload};
use xorshift::Rng;

fn check_snapshot(snapshot: &Snapshot, model: &Model, context: &str) {
    for (id, version) in model {
        let read = snapshot.read(BlockId(*id)).unwrap_or_else(|e| panic!("{context}: {id}: {e}"));
        assert!(read.data == payload(*id, *version), "{context}: block {id} is another version");
    }
    let ids = snapshot.range(..).expect("lists");
    assert!(
        ids.map(|b| b.expect("reads").header.block_id.0).eq(model.keys().copied()),
        "{context}: other ids"
    );
}

/// One random history with snapshots that come and go; returns how often one was looked at after
/// moves.
fn run(seed: u64) -> u64 {
    let (mut rng, mut disk) = (Rng(seed * 2 + 1), SimDisk::new(seed));
    let mut store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
    let (mut model, mut held, mut looks) = (Model::new(), Vec::new(), 0);
    for step in 0..500 {
        let context = format!("seed {seed}, step {step}");
        let id = rng.below(120) + 1;
        match rng.below(100) {
            0..60 => {
                store.write_block(block(id, step)).expect("writes");
                model.insert(id, step);
            }
            60..70 => {
                let deleted = store.delete_block(BlockId(id)).is_ok();
                assert_eq!(deleted, model.remove(&id).is_some(), "{context}");
            }
            70..80 => {
                let mut batch = WriteBatch::new();
                for n in 0..rng.below(30) {
                    let id = (n * 7 + step) % 120 + 1;
                    batch.write(block(id, step));
                    model.insert(id, step);
                }
                store.apply(batch).expect("applies");
            }
            80..86 => held.push((store.snapshot().expect("held"), model.clone())),
            86..90 if !held.is_empty() => {
                drop(held.swap_remove(rng.below(held.len() as u64) as usize));
            }
            90..93 => store.checkpoint().expect("makes a checkpoint"),
            93..98 => drop(store.compact_now().expect("compacts")),
            98 => {
                held.clear();
                let choice =
                    if rng.below(2) == 0 { CrashChoice::Nothing } else { CrashChoice::Everything };
                let left = disk.crash(choice);
                drop(store);
                disk = left;
                let opened = LocalBackend::open_on(disk.clone(), options());
                store = opened.unwrap_or_else(|e| panic!("{context}: {e}"));
                check(&store, &model, &context);
            }
            _ => {
                for (snapshot, model) in &held {
                    check_snapshot(snapshot, model, &context);
                    looks += u64::from(store.stats().moved_bytes > 0);
                }
            }
        }
    }
    check(&store, &model, &format!("seed {seed}, end"));
    held.iter().for_each(|(s, model)| check_snapshot(s, model, &format!("seed {seed}, end")));
    held.clear();
    store.compact_now().expect("compacts");
    let space = store.space().expect("a report");
    assert_eq!((space.pinned_bytes, space.empty_bytes), (0, 0), "seed {seed}: {space:?}");
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
    looks
}

#[test]
fn snapshots_see_their_versions_through_moves_checkpoints_and_crashes() {
    let looks: u64 = (1..=40).map(run).sum();
    assert!(looks > 400, "{looks} looks at snapshots");
}

/// Takes snapshots of which each sees a few old versions that nothing else needs, with a segment
/// and a bit of others between them.
fn write_between_snapshots(store: &LocalBackend<SimDisk>) -> Vec<(Snapshot, u64)> {
    let mut held = Vec::new();
    for version in 1..=60 {
        store.write_block(block(1, version)).expect("writes");
        held.push((store.snapshot().expect("held"), version));
        for n in 0..30 {
            store.write_block(block(2 + n % 2, 29)).expect("writes");
        }
    }
    held
}

/// Each snapshot kept every segment of which it saw anything, as a whole, until it ended.
#[test]
fn snapshots_that_see_little_keep_little() {
    let disk = SimDisk::new(1);
    let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
    let held = write_between_snapshots(&store);
    let written_len = store.stats().log_bytes;
    store.compact_now().expect("compacts");
    let (stats, space) = (store.stats(), store.space().expect("a report"));
    let needed_len = stats.total_bytes + stats.pinned_bytes;
    let len = log_len(&disk);
    println!("{len} bytes of log for {needed_len} of {written_len}: {space:?}");
    assert!(needed_len < written_len / 8, "{needed_len} bytes of {written_len} are seen");
    assert!(len < needed_len * 3 / 2 + 4 * SEGMENT_LEN, "{len} bytes of log for {needed_len}");
    assert!((stats.total_bytes..=len).contains(&space.pinned_bytes), "{space:?}");
    for (snapshot, version) in &held {
        assert!(snapshot.read(BlockId(1)).expect("seen").data == payload(1, *version));
    }
    drop(held);
    store.compact_now().expect("compacts");
    assert_eq!(store.space().expect("a report").pinned_bytes, 0);
}

/// With moves paused, whole segments stay for a block each: the limit sees those, too.
#[test]
fn snapshots_are_given_up_for_the_segments_that_they_keep() {
    const MAX: u64 = 1 << 20;
    for is_paused in [true, false] {
        let disk = SimDisk::new(1);
        let options = options().snapshot_pinned_max(MAX);
        let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
        if is_paused {
            store.pause_compaction().expect("pauses");
        }
        let mut held = Vec::new();
        for version in 1..=60 {
            store.write_block(block(1, version)).expect("writes");
            held.push((store.snapshot().expect("held"), version));
            // A segment and a bit in which nothing else stays in force.
            for n in 0..30 {
                store.write_block(block(2 + n % 2, 29)).expect("writes");
            }
            let pinned_len = store.space().expect("a report").pinned_bytes;
            assert!(pinned_len <= MAX + 4 * SEGMENT_LEN, "{pinned_len} bytes are kept");
        }
        let mut given_up_count = 0;
        for (snapshot, version) in &held {
            match snapshot.read(BlockId(1)) {
                Ok(read) => assert!(read.data == payload(1, *version), "version {version}"),
                Err(Error::SnapshotTooOld { limit: SnapshotLimit::PinnedBytes(MAX), .. }) => {
                    given_up_count += 1;
                }
                Err(error) => panic!("version {version}: {error:?}"),
            }
        }
        let is_oldest = |n: usize| held[n].0.read(BlockId(1)).is_err();
        assert!((0..60).map(is_oldest).is_sorted_by(|a, b| a >= b), "not the oldest ones");
        match is_paused {
            true => assert!((1..60).contains(&given_up_count), "{given_up_count} given up"),
            false => assert_eq!(given_up_count, 0, "what they see would have fitted"),
        }
    }
}

/// A block that says which batch wrote it.
fn stamped(id: u64, stamp: u64) -> Block {
    let mut data = stamp.to_le_bytes().to_vec();
    data.resize(8 + (id * 37 + stamp * 101) as usize % 3000, id as u8);
    Block::new(BlockId(id), BlockType::TableData, data)
}

fn stamp_of(snapshot: &Snapshot, id: u64) -> u64 {
    let data = snapshot.read(BlockId(id)).expect("seen").data;
    u64::from_le_bytes(data[..8].try_into().expect("a stamp"))
}

/// All blocks are of one batch at any moment, also while their versions are moved and segments go.
#[test]
fn snapshots_beside_writers_and_compaction_go_on_seeing_one_moment() {
    const BLOCKS: u64 = 20;
    let disk = SimDisk::new(3);
    let options = options().single_threaded(false);
    let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
    let (last, writers) = (AtomicU64::new(0), AtomicU64::new(3));
    let write = || {
        let mut batch = WriteBatch::new();
        let stamp = last.fetch_add(1, Ordering::Relaxed);
        for id in 1..=BLOCKS {
            batch.write(stamped(id, stamp));
        }
        store.apply(batch).expect("applies");
    };
    let is_over = || writers.load(Ordering::Relaxed) == 0;
    write();
    let looks = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                (0..200).for_each(|_| write());
                writers.fetch_sub(1, Ordering::Relaxed);
            });
            scope.spawn(|| {
                let mut held: Vec<(Snapshot, u64)> = Vec::new();
                while !is_over() {
                    let snapshot = store.snapshot().expect("held");
                    let stamp = stamp_of(&snapshot, 1);
                    held.push((snapshot, stamp));
                    for (snapshot, stamp) in &held {
                        for id in 1..=BLOCKS {
                            assert_eq!(stamp_of(snapshot, id), *stamp, "block {id}");
                        }
                    }
                    looks.fetch_add(held.len() as u64, Ordering::Relaxed);
                    if held.len() > 12 {
                        held.drain(..8);
                    }
                }
            });
        }
        scope.spawn(|| {
            while !is_over() {
                store.compact_now().expect("compacts");
            }
        });
    });
    println!("{looks:?} looks, {} bytes moved", store.stats().moved_bytes);
    assert!(looks.load(Ordering::Relaxed) > 10 && store.stats().moved_bytes > 0);
    store.compact_now().expect("compacts");
    assert_eq!(store.space().expect("a report").pinned_bytes, 0);
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
}
