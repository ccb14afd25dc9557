//! What commits in the middle of a checkpoint or a compaction, and what fails there: nothing is
//! lost, nothing counts too early, and no reader sees what may go away again. And what ends a store
//! or disturbs its threads: a drop, a panic, a clock that jumps.

#[path = "support/gated.rs"]
mod gated;
#[path = "support/options.rs"]
mod options;

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use aegis_blocks::io::FileName;
use aegis_blocks::io::sim::{CrashChoice, FaultKind, OperationKind, SimDisk, SyncFailure};
use aegis_blocks::{
    Block, BlockId, BlockType, Durability, Error, IoOp, LocalBackend, Options, PoisonCause,
    Resource, StorageBackend, StorageExt,
};

use gated::GatedDisk;
use options::short_segments;

const SEGMENT_LEN: u64 = 64 << 10;
/// A third of a segment.
const LONG: usize = 20 << 10;

fn options() -> Options {
    short_segments(SEGMENT_LEN, SEGMENT_LEN / 2)
        .single_threaded(true)
        .zero_ahead_len(0)
        .recent_len(0)
}

fn block(id: u64, version: u8, len: usize) -> Block {
    Block::new(BlockId(id), BlockType::TableData, vec![version; len])
}

fn is_image(name: FileName) -> bool {
    matches!(name, FileName::Checkpoint(_))
}

fn is_sealed(name: FileName) -> bool {
    matches!(name, FileName::Segment(_))
}

fn is_segment(name: FileName) -> bool {
    // The log writes on in the file that it made under an unfinished name.
    matches!(name, FileName::Segment(_) | FileName::Temporary(_))
}

/// With threads of its own: without, a caller looks after the store behind each commit.
fn open(disk: &GatedDisk) -> LocalBackend<GatedDisk> {
    LocalBackend::open_on(disk.clone(), options().single_threaded(false)).expect("opens")
}

/// Makes a checkpoint; `beside` runs when its image is written, but has no name yet.
fn checkpoint_beside(
    disk: &GatedDisk,
    store: &LocalBackend<GatedDisk>,
    beside: impl FnOnce(&LocalBackend<GatedDisk>) + Send + 'static,
) {
    let handle = store.clone();
    disk.before(OperationKind::Rename, is_image, move || beside(&handle));
    store.checkpoint().expect("makes a checkpoint");
    assert!(disk.has_passed(), "the image got its name");
}

/// The version of a block in a store, to the last byte.
#[track_caller]
fn version<D: aegis_blocks::io::Disk>(store: &LocalBackend<D>, id: u64) -> u8 {
    let data = store.read_block(BlockId(id)).expect("the block is there").data;
    assert!(data.iter().all(|byte| *byte == data[0]), "block {id} is of two versions");
    data[0]
}

#[test]
fn commit_while_an_image_is_written_is_read_behind_it() {
    let disk = GatedDisk::over(SimDisk::new(1));
    let store = open(&disk);
    for id in 1..=3 {
        store.write_block(block(id, 1, 100)).expect("writes");
    }
    checkpoint_beside(&disk, &store, |store| {
        store.write_block(block(1, 2, 100)).expect("writes");
        store.delete_block(BlockId(2)).expect("deletes");
        store.write_block(block(4, 2, 100)).expect("writes");
    });
    let check = |store: &LocalBackend<GatedDisk>| {
        assert_eq!([1, 3, 4].map(|id| version(store, id)), [2, 1, 2]);
        assert!(!store.block_exists(BlockId(2)).expect("an answer"), "it was deleted");
        assert_eq!(store.stats().total_blocks, 3);
    };
    check(&store);
    store.checkpoint().expect("makes another one");
    check(&store);
    check(&open(&GatedDisk::over(disk.sim.crash(CrashChoice::Nothing))));
}

/// The newest image says that the blocks are in the first segments. What replaces them just before
/// segments are let go may be lost.
#[test]
fn segment_replaced_behind_an_image_stays_for_the_image() {
    let disk = GatedDisk::over(SimDisk::new(2));
    let store = open(&disk);
    let write_all = |store: &LocalBackend<GatedDisk>, version, durability| {
        for id in 1..=6 {
            store.write_block_with(block(id, version, LONG), durability).expect("writes");
        }
    };
    write_all(&store, 1, Durability::Durable);
    store.checkpoint().expect("makes a checkpoint");
    write_all(&store, 2, Durability::Durable);
    // The older image goes when the newer one counts; then segments do.
    let handle = store.clone();
    disk.before(OperationKind::Remove, is_image, move || {
        write_all(&handle, 3, Durability::Buffered);
    });
    store.checkpoint().expect("makes another one");
    assert!(disk.has_passed(), "the older image was removed");
    let mut lost = 0;
    for choice in [CrashChoice::Nothing, CrashChoice::Everything] {
        let left = open(&GatedDisk::over(disk.sim.crash(choice)));
        // Commits survive in their order.
        let versions: Vec<u8> = (1..=6).map(|id| version(&left, id)).collect();
        assert!(versions.is_sorted_by(|a, b| a >= b) && versions[5] >= 2, "{versions:?}");
        lost += versions.iter().filter(|version| **version == 2).count();
    }
    assert!(lost > 0, "what replaced the blocks was durable at once: nothing was tried");
}

/// The mark says that the image counts. What was committed meanwhile may be lost in a power cut all
/// the same, and is no damage then.
#[test]
fn mark_of_an_image_does_not_vouch_for_commits_that_are_not_durable() {
    let disk = GatedDisk::over(SimDisk::new(3));
    let store = open(&disk);
    store.write_block(block(1, 1, 100)).expect("writes");
    disk.sim.record_images();
    checkpoint_beside(&disk, &store, |store| {
        store.write_block_with(block(2, 1, 3000), Durability::Buffered).expect("writes");
    });
    let mut lost = 0;
    for image in disk.sim.take_images() {
        for choice in image.disk.crash_choices(image.operation) {
            let context = format!("operation {}, {choice:?}", image.operation);
            let left = LocalBackend::open_on(image.disk.crash(choice), options());
            let left = left.unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(version(&left, 1), 1, "{context}");
            lost += u64::from(!left.block_exists(BlockId(2)).expect("an answer"));
        }
    }
    assert!(lost > 0, "the second commit was never lost: nothing was tried");
}

/// A block that was moved is read at its new place only once that is durable: a failed sync may
/// take the bytes there away from the cache.
#[test]
fn moved_block_is_read_though_a_sync_fails_that_reverts_the_cache() {
    let mut failed = 0;
    for skip in 0.. {
        let disk = SimDisk::new(4);
        let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
        for version in 1..=3 {
            for id in (1..=8).filter(|id| version == 1 || id % 4 != 0) {
                store.write_block(block(id, version, LONG / 2)).expect("writes");
            }
        }
        store.checkpoint().expect("makes a checkpoint");
        disk.set_sync_failure(SyncFailure::CacheReverted);
        disk.inject_on(OperationKind::SyncData, None, skip, FaultKind::Eio, false);
        let done = store.compact_now();
        let has_failed = disk.faults_struck() > 0;
        if !has_failed {
            // The fault is still armed for a sync to come: have it strike the next one.
            done.expect("compacts, when nothing fails");
            disk.clear_faults();
            disk.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eio, false);
            store.write_block(block(9, 1, 10)).expect_err("the sync fails");
        }
        for id in 1..=8 {
            let newest = if id % 4 == 0 { 1 } else { 3 };
            assert_eq!(version(&store, id), newest, "sync {skip}, block {id}");
        }
        if !has_failed {
            break;
        }
        failed += 1;
    }
    assert!(failed > 1, "compacting syncs {failed} times: nothing was tried");
}

/// Of the store as a whole; that the very segment which was left is emptied later is not looked at.
#[test]
fn pause_in_the_middle_of_a_segment_ends_its_moves_and_a_resume_takes_them_up_again() {
    let disk = GatedDisk::over(SimDisk::new(8));
    let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
    store.pause_compaction().expect("pauses");
    for id in 1..=240 {
        store.write_block(block(id, 1, LONG / 5)).expect("writes");
    }
    for id in (1..=240).filter(|id| id % 6 != 0) {
        store.delete_block(BlockId(id)).expect("deletes");
    }
    store.checkpoint().expect("makes a checkpoint");
    let space = store.space().expect("a report");
    assert!(space.dead_bytes > space.live_bytes, "there is nothing to empty: {space:?}");
    let handle = store.clone();
    // The first one to be opened is the one to be emptied.
    disk.before(OperationKind::Open, is_sealed, move || {
        handle.pause_compaction().expect("pauses");
    });
    store.resume_compaction().expect("resumes");
    store.write_block(block(241, 1, 100)).expect("writes");
    assert!(disk.has_passed(), "no segment was to be emptied");
    assert_eq!(store.stats().moved_bytes, 0, "moves went on after the pause");
    store.resume_compaction().expect("resumes");
    store.write_block(block(241, 2, 100)).expect("writes");
    let after = store.space().expect("a report");
    assert!(store.stats().moved_bytes > 0, "{after:?}");
    assert!(after.dead_bytes < space.dead_bytes / 2, "what was left was forgotten: {after:?}");
    assert!((6..=240).step_by(6).all(|id| version(&store, id) == 1));
}

/// What no caller waits for is committed all the same, and nothing of the store goes on.
#[test]
fn store_that_is_dropped_finishes_its_commits_and_ends_its_threads() {
    let disk = GatedDisk::over(SimDisk::new(6));
    for round in 0..20 {
        let store = open(&disk);
        assert!(disk.threads_alive() > 0, "a store with threads of its own");
        let others: Vec<_> = (0..3).map(|_| store.clone()).collect();
        for id in 1..=30 {
            let tx = store.begin().expect("begins");
            tx.write(block(id, round, 500)).expect("writes");
            drop(tx.submit().expect("handed in"));
        }
        let snapshot = store.snapshot().expect("held");
        std::thread::scope(|scope| {
            scope.spawn(move || drop(others));
            scope.spawn(move || drop((snapshot, store)));
        });
        assert_eq!(disk.threads_alive(), 0, "round {round}");
        // The lock is free, and everything is there without a close.
        let left = open(&GatedDisk::over(disk.sim.crash(CrashChoice::Nothing)));
        assert!((1..=30).all(|id| version(&left, id) == round), "round {round}");
    }
}

/// Every look at the clock finds it anywhere up to an hour ahead.
#[test]
fn clock_that_jumps_costs_no_commit_and_gives_up_no_snapshot() {
    for seed in 0..20 {
        let disk = GatedDisk::over(SimDisk::new(7));
        disk.sim.set_clock_jumps(Some(seed));
        let store = open(&disk);
        let snapshot = store.snapshot().expect("held");
        for version in 1..=4 {
            for id in 1..=10 {
                let durability = [Durability::Durable, Durability::Buffered][id as usize % 2];
                store.write_block_with(block(id, version, 3000), durability).expect("writes");
            }
            store.checkpoint().expect("makes a checkpoint");
            store.compact_now().expect("compacts");
        }
        let before = snapshot.read(BlockId(1));
        assert!(matches!(before, Err(Error::BlockNotFound { .. })), "{before:?}");
        let handed_in = store.begin().expect("begins");
        handed_in.write(block(11, 4, 10)).expect("writes");
        handed_in.submit().expect("handed in").wait().expect("answered");
        let left = open(&GatedDisk::over(disk.sim.crash(CrashChoice::Nothing)));
        assert!((1..=11).all(|id| version(&left, id) == 4), "seed {seed}");
        drop(snapshot);
        store.close().expect("closes");
    }
}

/// A store whose log panicked on the thread that carried it. There are no other threads, whose
/// writes the panic could hit.
fn panicked() -> (GatedDisk, LocalBackend<GatedDisk>) {
    let disk = GatedDisk::over(SimDisk::new(5));
    let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
    store.write_block(block(1, 1, 100)).expect("writes");
    disk.before(OperationKind::Write, is_segment, || panic!("a planned panic"));
    let error = store.write_block(block(2, 1, 100)).expect_err("the leader panics");
    assert!(is_named(&error), "{error:?}");
    (disk, store)
}

/// The same in the middle of a mark, behind a checkpoint. All is durable and published, so the last
/// checkpoint of a close has nothing to do and stumbles over nothing.
fn panicked_in_a_mark() -> (GatedDisk, LocalBackend<GatedDisk>) {
    let disk = GatedDisk::over(SimDisk::new(5));
    let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
    store.write_block(block(1, 1, 100)).expect("writes");
    store.checkpoint().expect("makes a checkpoint");
    disk.before(OperationKind::Write, is_segment, || panic!("a planned panic"));
    let back_up = || store.backup_on(&SimDisk::new(6), None, &|_| ControlFlow::Continue(()));
    catch_unwind(AssertUnwindSafe(back_up)).expect_err("the witness of the backup panics");
    assert!(disk.has_passed(), "the log was not written to");
    (disk, store)
}

fn is_named(error: &Error) -> bool {
    matches!(error, Error::Poisoned { cause: PoisonCause::ThreadPanicked })
}

#[test]
fn store_is_not_closed_cleanly_after_a_panic_of_the_leader() {
    for (disk, store) in [panicked(), panicked_in_a_mark()] {
        let error = store.close().expect_err("a clean close");
        assert!(is_named(&error), "{error:?}");
        let left = open(&GatedDisk::over(disk.sim.crash(CrashChoice::Everything)));
        assert!(!left.recovery().clean, "the store was closed as if nothing had happened");
        assert_eq!(version(&left, 1), 1);
    }
}

#[test]
fn store_takes_no_commit_after_a_panic_of_the_leader() {
    for (_disk, store) in [panicked(), panicked_in_a_mark()] {
        for error in [
            store.write_block(block(3, 1, 100)).expect_err("a write behind the panic"),
            store.sync().expect_err("a sync behind the panic"),
            store.checkpoint().expect_err("a checkpoint behind the panic"),
        ] {
            assert!(is_named(&error), "{error:?}");
        }
        assert_eq!(version(&store, 1), 1, "reads go on");
    }
}

/// A store that is open again would be changed by the rest of the checkpoint.
#[test]
fn close_waits_for_the_checkpoint_of_another_handle() {
    let disk = GatedDisk::over(SimDisk::new(1));
    let store = open(&disk);
    store.write_block(block(1, 1, 100)).expect("writes");
    let (closing, other) = (store.clone(), store.clone());
    let (tell, told) = std::sync::mpsc::channel();
    disk.before(OperationKind::Rename, is_image, move || {
        let closing = std::thread::spawn(move || closing.close());
        while other.read_block(BlockId(1)).is_ok() {
            std::thread::yield_now();
        }
        // Closing has begun. As many turns as it would need to end, many times over.
        for _ in 0..20_000 {
            assert!(!closing.is_finished(), "closed in the middle of a checkpoint");
            std::thread::yield_now();
        }
        tell.send(closing).expect("is awaited");
    });
    store.checkpoint().expect("is finished");
    let closing = told.recv().expect("the image got its name");
    closing.join().expect("no panic").expect("closes");
    assert!(matches!(store.checkpoint(), Err(Error::Closed)));
    let store = open(&disk);
    store.write_block(block(2, 1, 100)).expect("writes");
    let store = open(&GatedDisk::over(disk.sim.crash(CrashChoice::Nothing)));
    assert_eq!((version(&store, 1), version(&store, 2)), (1, 1));
}

#[test]
fn open_that_finds_no_threads_leaves_none_and_the_next_one_succeeds() {
    let disk = GatedDisk::over(SimDisk::new(1));
    let store = open(&disk);
    let count = disk.threads_alive();
    store.write_block(block(1, 1, 100)).expect("writes");
    store.close().expect("closes");
    assert_eq!(disk.threads_alive(), 0);
    for startable in 0..count {
        disk.let_start(startable);
        let options = options().single_threaded(false);
        let opened = LocalBackend::open_on(disk.clone(), options).map(|_| ());
        let named = Resource::Threads;
        assert!(
            matches!(&opened, Err(Error::ResourceExhausted { resource, op: IoOp::Spawn, .. }) if *resource == named),
            "{opened:?}"
        );
        assert_eq!(disk.threads_alive(), 0, "{startable} of {count}");
    }
    disk.let_start(count);
    assert_eq!(version(&open(&disk), 1), 1);
}
