//! Checkpoints, compaction and recycling against a plain model: nothing is lost, nothing comes
//! back, and the space of what was replaced does.

#[path = "support/log_len.rs"]
mod log_len;
#[path = "support/options.rs"]
mod options;
#[path = "support/versions.rs"]
mod versions;
#[path = "support/xorshift.rs"]
mod xorshift;

use std::collections::BTreeSet;

use aegis_blocks::io::sim::{CrashChoice, OperationKind, Profile, SimDisk};
use aegis_blocks::io::{Disk, Entry, FileName};
use aegis_blocks::{
    Block, BlockId, BlockType, Error, LocalBackend, Options, ReadMode, StorageBackend, StorageExt,
    WriteBatch,
};

use log_len::log_len;
use options::short_segments;
use versions::{Model, block, check, payload};
use xorshift::Rng;

const SEGMENT_LEN: u64 = 64 << 10;

fn small_segments() -> Options {
    short_segments(SEGMENT_LEN, SEGMENT_LEN / 2)
        .single_threaded(true)
        .checkpoint_log_len(3 * SEGMENT_LEN)
        // Reads are of the segments, not of what is kept of them in memory.
        .recent_len(0)
}

/// One random history; returns what it took: checkpoints, compactions, reopenings, crashes.
fn run(seed: u64) -> [u64; 4] {
    let mut rng = Rng(seed * 2 + 1);
    let mut disk = SimDisk::new(seed);
    let mut store = Some(LocalBackend::open_on(disk.clone(), small_segments()).expect("opens"));
    let (mut model, mut version, mut took) = (Model::new(), 0, [0; 4]);
    // Near ids, far ids and a few in between.
    let id_of = |n: u64| match n % 5 {
        0 => (n + 1) << 40,
        1 => 1000 + n * 9,
        _ => n + 1,
    };
    for step in 0..600 {
        let context = format!("seed {seed}, step {step}");
        let open = store.as_ref().expect("open");
        version += 1;
        let id = id_of(rng.below(150));
        match rng.below(100) {
            0..70 => {
                open.write_block(block(id, version)).expect("writes");
                model.insert(id, version);
            }
            70..80 => {
                let deleted = open.delete_block(BlockId(id)).is_ok();
                assert_eq!(deleted, model.remove(&id).is_some(), "{context}");
            }
            80..90 => {
                let mut batch = WriteBatch::new();
                for n in 0..rng.below(40) {
                    let id = id_of((n * 7 + version) % 150);
                    batch.write(block(id, version));
                    model.insert(id, version);
                }
                open.apply(batch).expect("applies");
            }
            90..93 => {
                open.checkpoint().expect("makes a checkpoint");
                took[0] += 1;
            }
            93..95 => {
                open.compact_now().expect("compacts");
                took[1] += 1;
            }
            95..97 => check(open, &model, &context),
            97 => {
                store.take().expect("open").close().expect("closes");
                store = Some(LocalBackend::open_on(disk.clone(), small_segments()).expect("opens"));
                took[2] += 1;
            }
            _ => {
                let choice =
                    if rng.below(2) == 0 { CrashChoice::Nothing } else { CrashChoice::Everything };
                let left = disk.crash(choice);
                drop(store.take());
                disk = left;
                let opened = LocalBackend::open_on(disk.clone(), small_segments());
                store = Some(opened.unwrap_or_else(|e| panic!("{context}: {e}")));
                check(store.as_ref().expect("open"), &model, &context);
                took[3] += 1;
            }
        }
    }
    check(store.as_ref().expect("open"), &model, &format!("seed {seed}, end"));
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
    took
}

#[test]
fn store_with_checkpoints_and_compaction_equals_a_map_through_crashes_and_reopenings() {
    let mut took = [0; 4];
    for seed in 1..=40 {
        for (sum, count) in took.iter_mut().zip(run(seed)) {
            *sum += count;
        }
    }
    println!("checkpoints, compactions, reopenings, crashes by the way: {took:?}");
    assert!(took.iter().all(|count| *count > 100), "{took:?}");
}

#[test]
fn overwriting_for_ever_takes_bounded_space() {
    let disk = SimDisk::new(7);
    let store = LocalBackend::open_on(disk.clone(), small_segments()).expect("opens");
    let mut model = Model::new();
    let mut rng = Rng(7);
    for version in 0..4000 {
        let id = rng.below(200) + 1;
        store.write_block(block(id, version)).expect("writes");
        model.insert(id, version);
    }
    let (live, len) = (store.stats().total_bytes, log_len(&disk));
    assert!(len < live * 2 + 8 * SEGMENT_LEN, "{len} bytes of log for {live} of blocks");
    store.compact_now().expect("compacts");
    let len = log_len(&disk);
    assert!(len < live * 5 / 4 + 3 * SEGMENT_LEN, "{len} bytes of log for {live} of blocks");
    check(&store, &model, "after compaction");
}

#[test]
fn snapshot_sees_its_blocks_through_checkpoints_and_compaction() {
    let disk = SimDisk::new(8);
    let store = LocalBackend::open_on(disk, small_segments()).expect("opens");
    for id in 1..=100 {
        store.write_block(block(id, 0)).expect("writes");
    }
    let snapshot = store.snapshot().expect("held");
    for version in 1..10 {
        for id in 1..=90 {
            store.write_block(block(id, version)).expect("writes");
        }
        if version == 5 {
            store.delete_block(BlockId(3)).expect("deletes");
        }
        store.checkpoint().expect("makes a checkpoint");
        store.compact_now().expect("compacts");
    }
    for id in 1..=100 {
        let read = snapshot.read(BlockId(id)).expect("the snapshot has it");
        assert!(read.data == payload(id, 0), "block {id}");
    }
    assert_eq!(snapshot.range(..).expect("lists").count(), 100);
    drop(snapshot);
    store.checkpoint().expect("makes a checkpoint");
    assert_eq!(store.stats().undo_entries, 0);
}

#[test]
fn checkpoint_of_nothing_lets_no_segment_go() {
    let disk = SimDisk::new(9);
    drop(LocalBackend::open_on(disk.clone(), small_segments()).expect("opens"));
    // Recovery makes a segment behind the first one, which is dead, and no checkpoint covers it.
    let left = disk.crash(CrashChoice::Nothing);
    let store = LocalBackend::open_on(left.clone(), small_segments()).expect("opens");
    store.checkpoint().expect("has nothing to do");
    store.write_block(block(1, 1)).expect("writes");
    let left = left.crash(CrashChoice::Nothing);
    let store = LocalBackend::open_on(left, small_segments()).expect("nothing is missing");
    check(&store, &Model::from([(1, 1)]), "after the second crash");
}

#[test]
fn segment_that_is_used_again_holds_what_is_new_and_nothing_of_before() {
    use_again(Profile::Posix);
}

/// Here a power cut in a renaming may leave both names.
#[test]
fn segment_that_is_used_again_has_one_name_whatever_a_power_cut_leaves() {
    use_again(Profile::Paranoid);
}

/// Cuts the power at every change of a commit that takes a segment out of use for the next one.
fn use_again(profile: Profile) {
    let disk = SimDisk::new(10);
    disk.set_profile(profile);
    let options = small_segments().space_amplification_max(4.0).read_mode(ReadMode::Mapped);
    let store = LocalBackend::open_on(disk.clone(), options.clone()).expect("opens");
    let (mut model, mut rng, mut reused) = (Model::new(), Rng(10), 0);
    // What readers hold must not change under them; the disk watches over that.
    let mut held = std::collections::VecDeque::new();
    disk.record_operations();
    disk.record_images();
    for version in 1..1500 {
        let id = rng.below(60) + 1;
        store.write_block(block(id, version)).expect("writes");
        if version % 40 == 0 {
            held.push_back(store.read_block(BlockId(id)).expect("reads"));
            held.drain(..held.len().saturating_sub(3));
        }
        let renamed = |op: &aegis_blocks::io::sim::Operation| {
            op.kind == OperationKind::Rename && matches!(op.name, Some(FileName::Segment(_)))
        };
        let images = disk.take_images();
        let before = model.clone();
        model.insert(id, version);
        if !disk.take_operations().iter().any(renamed) || reused == 6 {
            continue;
        }
        reused += 1;
        for image in images {
            for choice in image.disk.crash_choices(version) {
                let context = format!("version {version}, {:?} {choice:?}", image.operation);
                let left = image.disk.crash(choice);
                let store = LocalBackend::open_on(left, options.clone());
                let store = store.unwrap_or_else(|e| panic!("{context}: {e}"));
                let is_new =
                    store.read_block(BlockId(id)).is_ok_and(|b| b.data == payload(id, version));
                check(&store, if is_new { &model } else { &before }, &context);
            }
        }
    }
    println!("{reused} commits took a segment out of use");
    assert!(reused > 3, "{reused} commits took a segment out of use");
    check(&store, &model, "at the end");
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
    // What was sealed in a file that was used before is read again.
    let left = disk.crash(CrashChoice::Nothing);
    let store = LocalBackend::open_on(left, options).expect("opens");
    check(&store, &model, "after the last crash");
}

#[test]
fn id_of_a_block_in_a_checkpoint_is_not_given_out_again() {
    let disk = SimDisk::new(11);
    let store = LocalBackend::open_on(disk.clone(), small_segments()).expect("opens");
    let written: Vec<_> =
        (0..10).map(|n| store.write_block(block(0, n)).expect("writes")).collect();
    store.delete_block(written[9]).expect("deletes");
    store.checkpoint().expect("makes a checkpoint");
    store.close().expect("closes");
    let store = LocalBackend::open_on(disk, small_segments()).expect("opens");
    assert_eq!(store.recovery().frames, 2, "the log says that the checkpoint counts, and ends");
    goes_on_above(&store, &written);
}

#[test]
fn id_of_a_block_in_the_log_is_not_given_out_again() {
    let disk = SimDisk::new(11);
    let store = LocalBackend::open_on(disk.clone(), small_segments()).expect("opens");
    let written: Vec<_> =
        (0..10).map(|n| store.write_block(block(0, n)).expect("writes")).collect();
    store.delete_block(written[9]).expect("deletes");
    let store = LocalBackend::open_on(disk.freeze(), small_segments()).expect("opens");
    assert!(store.recovery().frames >= 11, "{:?} is no whole log", store.recovery());
    goes_on_above(&store, &written);
}

/// The next ids are none of those that were given out. A write that is given the id of a block
/// takes another one by itself, and a transaction conflicts. Neither sees a deleted block's id.
fn goes_on_above(store: &LocalBackend<SimDisk>, written: &[BlockId]) {
    let tx = store.begin_transaction().expect("begins");
    let first = store.write_block_in_tx(tx, block(0, 10)).expect("a pending write");
    store.commit_transaction(tx).expect("commits");
    let second = store.write_block(block(0, 11)).expect("writes");
    for id in [first, second] {
        assert!(!written.contains(&id), "{id:?} was given out before");
    }
}

/// Overwrites blocks at random, so that what is dead is everywhere.
fn overwrite(store: &LocalBackend<SimDisk>, model: &mut Model, rng: &mut Rng, count: u64) {
    for version in 1..=count {
        let id = rng.below(200) + 1;
        store.write_block(block(id, version)).expect("writes");
        model.insert(id, version);
    }
}

#[test]
fn paused_store_moves_nothing_and_catches_up_when_the_last_pause_ends() {
    let disk = SimDisk::new(12);
    let store = LocalBackend::open_on(disk.clone(), small_segments()).expect("opens");
    let mut model = Model::new();
    let write = |model: &mut Model, version, ids: &mut dyn Iterator<Item = u64>| {
        for id in ids {
            store.write_block(block(id, version)).expect("writes");
            model.insert(id, version);
        }
    };
    store.pause_compaction().expect("pauses");
    store.clone().pause_compaction().expect("pauses again, through another handle");
    write(&mut model, 1, &mut (1..=1000));
    store.resume_compaction().expect("ends one of two pauses");
    // Of each segment a fifth stays in force.
    write(&mut model, 2, &mut (1..=1000).filter(|id| id % 5 != 0));
    let space = store.space().expect("a report");
    let (live, dead) = (space.live_bytes as f64, space.dead_bytes as f64);
    assert!(dead > 0.7 * live, "{dead} bytes are dead beside {live}: too little to move");
    assert_eq!(store.stats().moved_bytes, 0, "a paused store has moved blocks");
    store.resume_compaction().expect("ends the last pause");
    // What one turn writes is left alone by that turn.
    (3..8).for_each(|version| write(&mut model, version, &mut (1..=1)));
    let dead = store.space().expect("a report").dead_bytes as f64;
    // The segment that is written to is left alone.
    assert!(dead < 0.4 * live + SEGMENT_LEN as f64, "{dead} bytes are dead beside {live}");
    assert!(store.stats().moved_bytes > 0, "nothing was moved after the resume");
    check(&store, &model, "after a resume");
}

#[test]
fn resume_too_many_takes_no_later_pause_away() {
    let disk = SimDisk::new(13);
    let store = LocalBackend::open_on(disk, small_segments()).expect("opens");
    store.resume_compaction().expect("has nothing to end");
    store.pause_compaction().expect("pauses");
    overwrite(&store, &mut Model::new(), &mut Rng(13), 3000);
    assert_eq!(store.stats().moved_bytes, 0);
}

#[test]
fn compact_now_moves_blocks_of_a_paused_store_and_leaves_it_paused() {
    let disk = SimDisk::new(14);
    let store = LocalBackend::open_on(disk.clone(), small_segments()).expect("opens");
    let (mut model, mut rng) = (Model::new(), Rng(14));
    store.pause_compaction().expect("pauses");
    overwrite(&store, &mut model, &mut rng, 3000);
    store.compact_now().expect("compacts");
    let (live, len, moved) = (store.stats().total_bytes, log_len(&disk), store.stats().moved_bytes);
    assert!(moved > 0 && len < live * 5 / 4 + 3 * SEGMENT_LEN, "{len} bytes of log for {live}");
    overwrite(&store, &mut model, &mut rng, 3000);
    assert_eq!(store.stats().moved_bytes, moved, "compact_now ended the pause");
    check(&store, &model, "after another pause");
}

/// The budgets are small enough for every share of them to be used up many times.
#[test]
fn store_stays_within_its_memory_though_it_grows_and_is_overwritten_at_random() {
    const MEMORY: u64 = 1 << 20;
    for seed in 1..=4_u64 {
        let disk = SimDisk::new(seed);
        let options = LocalBackend::options().single_threaded(true).memory_len_max(MEMORY);
        let store = LocalBackend::open_on(disk, options).expect("opens");
        let (mut rng, mut peak, mut count) = (Rng(seed), 0, 500);
        let (mut checkpoints, mut checkpoint_bytes) = (0, 0);
        for _ in 0..400 {
            let mut batch = WriteBatch::new();
            for _ in 0..100 {
                count += rng.below(2);
                // Each in a page of its own: the dearest entries.
                let id = BlockId((rng.below(count) + 1) * 64);
                batch.write(Block::new(id, BlockType::TableData, vec![1; rng.below(100) as usize]));
            }
            // A commit begins with a turn of the upkeep.
            store.apply(batch).expect("applies");
            let stats = store.stats();
            let parts = stats.index_bytes + stats.recent_bytes + stats.in_flight_bytes;
            assert_eq!(stats.memory_bytes, parts, "seed {seed}");
            assert!(stats.memory_bytes <= MEMORY, "seed {seed}: {stats:?}");
            peak = peak.max(stats.memory_bytes);
            checkpoints += u64::from(stats.checkpoint_bytes != checkpoint_bytes);
            checkpoint_bytes = stats.checkpoint_bytes;
        }
        println!("seed {seed}: {peak} bytes of memory at most, {checkpoints} checkpoints");
        assert!(checkpoints > 5 && peak > MEMORY / 2, "seed {seed}: the budget was never used up");
    }
}

#[test]
fn store_with_default_memory_makes_no_checkpoint_for_the_sake_of_it() {
    let disk = SimDisk::new(1);
    let options = LocalBackend::options().single_threaded(true);
    let store = LocalBackend::open_on(disk, options).expect("opens");
    for first in (1..50_000).step_by(1000) {
        let mut batch = WriteBatch::new();
        (first..first + 1000).for_each(|n| {
            batch.write(block(n * 64, 1));
        });
        store.apply(batch).expect("applies");
    }
    let stats = store.stats();
    assert_eq!(stats.checkpoint_bytes, 0, "{stats:?}");
    assert!(stats.recent_bytes > 1 << 20, "{stats:?}");
}

/// Old versions are the snapshot's: no checkpoint drops them, and none is tried with every commit.
#[test]
fn recent_bytes_give_way_to_old_versions_and_come_back() {
    let disk = SimDisk::new(2);
    let options = LocalBackend::options().single_threaded(true).memory_len_max(1 << 20);
    let store = LocalBackend::open_on(disk, options).expect("opens");
    let write_all = || {
        for first in (1..=8000).step_by(100) {
            let mut batch = WriteBatch::new();
            (first..first + 100).for_each(|id| {
                batch.write(Block::new(BlockId(id), BlockType::TableData, vec![1; 50]));
            });
            store.apply(batch).expect("applies");
        }
    };
    write_all();
    let snapshot = store.snapshot().expect("held");
    assert!(store.stats().recent_bytes > 100 << 10, "{:?}", store.stats());
    write_all();
    let stats = store.stats();
    assert!(stats.undo_entries == 8000 && stats.recent_bytes == 0, "{stats:?}");
    assert!(snapshot.read(BlockId(1)).is_ok(), "a snapshot was given up for want of memory");
    drop(snapshot);
    write_all();
    let stats = store.stats();
    assert!(stats.recent_bytes > 100 << 10 && stats.memory_bytes <= 1 << 20, "{stats:?}");
}

#[test]
fn many_small_checkpoints_leave_few_images_and_nothing_deleted_comes_back() {
    const BLOCKS: u64 = 2000;
    let disk = SimDisk::new(0x0de1_7a5e);
    let options = || small_segments().checkpoint_log_len(1 << 40);
    let mut store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
    let mut model: Model = (1..=BLOCKS).map(|id| (id, 0)).collect();
    for id in 1..=BLOCKS {
        store.write_block(block(id, 0)).expect("writes");
    }
    store.checkpoint().expect("makes a base");
    let images = || {
        let names = disk.list().expect("lists");
        let numbers = names.into_iter().filter_map(|entry| match entry {
            Entry::File { name: FileName::Checkpoint(number), .. } => Some(number),
            _ => None,
        });
        numbers.collect::<BTreeSet<u64>>()
    };
    for round in 1..=60 {
        store.write_block(block(round, round)).expect("writes");
        store.delete_block(BlockId(BLOCKS + 1 - round)).expect("deletes");
        model.insert(round, round);
        model.remove(&(BLOCKS + 1 - round));
        store.checkpoint().expect("makes a delta");
        assert!(images().len() <= 8, "round {round}: {:?}", images());
        if round % 10 == 0 {
            store.close().expect("closes");
            store = LocalBackend::open_on(disk.clone(), options()).expect("opens again");
            check(&store, &model, &format!("round {round}"));
        }
    }
}

#[test]
fn threads_that_prepare_space_at_once_all_get_theirs() {
    let store = LocalBackend::open_on(SimDisk::new(1), LocalBackend::options()).expect("opens");
    for round in 1..=30 {
        // Each wants more than is there; a caller that has enough first must not end the work for
        // the other.
        let len = |share: u64| (round * share) << 20;
        std::thread::scope(|scope| {
            for share in [1, 2, 3] {
                let store = &store;
                scope.spawn(move || store.prepare_space(len(share)).expect("there is space"));
            }
        });
        assert!(store.space().expect("a report").free_bytes >= len(3));
    }
    store.clone().close().expect("closes");
    assert!(matches!(store.prepare_space(1 << 30), Err(Error::Closed)));
}
