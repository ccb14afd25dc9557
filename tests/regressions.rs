//! A story for every bug that was found: what was done, what happened, what happens now.

#[path = "support/fill.rs"]
mod fill;
#[path = "support/options.rs"]
mod options;

use aegis_blocks::io::FileName;
use aegis_blocks::io::sim::{CrashChoice, FaultKind, OperationKind, Profile, SimDisk};
use aegis_blocks::{
    Block, BlockId, Defect, Error, IoOp, LocalBackend, Options, ReadMode, StorageBackend,
    StorageExt, WriteBatch,
};

use fill::filling as block;
use options::short_segments;

fn options() -> Options {
    short_segments(64 << 10, 32 << 10).single_threaded(true).zero_ahead_len(0)
}

fn open(disk: &SimDisk) -> LocalBackend<SimDisk> {
    LocalBackend::open_on(disk.clone(), options()).expect("the store opens")
}

/// Commits six blocks of 16 KiB, more than a segment holds.
fn commit_big(store: &LocalBackend<SimDisk>) -> aegis_blocks::Result<()> {
    let tx = store.begin_transaction()?;
    for id in 60..66 {
        store.write_block_in_tx(tx, block(id, 16 << 10))?;
    }
    store.commit_transaction(tx)
}

/// A transaction longer than a segment, and shorter than the 1 MiB from which commits were split,
/// fit nowhere: the log made one segment after the other, until the disk or the memory was full.
#[test]
fn transaction_longer_than_a_short_segment_is_split() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(8 << 20));
    let store = open(&disk);
    commit_big(&store).expect("committed in parts");
    // Without a close the log is replayed; behind one the checkpoint answers.
    let (killed, cut) = (disk.freeze(), disk.crash(CrashChoice::Nothing));
    store.close().expect("closed");
    for (disk, how) in [(killed, "killed"), (cut, "cut"), (disk, "closed")] {
        let store = open(&disk);
        for id in 60..66 {
            let data = store.read_block(BlockId(id)).expect("there").data;
            assert_eq!(data, block(id, 16 << 10).data, "{how}, block {id}");
        }
    }
}

/// Recovery was interrupted after its cut counted and before it had removed what the cut voids. The
/// next recovery knew those segments as void, and left them there for ever.
#[test]
fn void_segments_of_an_interrupted_recovery_are_removed() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.write_block(block(1, 100)).expect("written");
    for operation in 0.. {
        let first = disk.crash(CrashChoice::Nothing);
        first.crash_at(operation, false);
        let interrupted = LocalBackend::open_on(first.clone(), options()).is_err();
        let second = first.crash(CrashChoice::Everything);
        let store = open(&second);
        let is_segment = |(name, _): &(FileName, u64)| matches!(name, FileName::Segment(_));
        let count = second.files().into_iter().filter(is_segment).count();
        assert_eq!(count as u64, store.stats().segments, "power cut at operation {operation}");
        if !interrupted {
            break;
        }
    }
}

/// A process died between naming a segment and syncing that name. The next one found the store
/// cleanly closed, used that segment as it was, and acknowledged commits in it; a power cut then
/// took the name, and the commits with it.
#[test]
fn name_of_a_segment_made_ahead_is_durable_before_use() {
    let disk = SimDisk::new(1);
    open(&disk).close().expect("closed");
    for operation in 0.. {
        let killed = disk.freeze();
        // The segment that is there already, so that a new one has to be made at once.
        let ahead = killed.files().into_iter().filter_map(|(name, _)| match name {
            FileName::Segment(number) => Some(number),
            _ => None,
        });
        killed.remove_file(FileName::Segment(ahead.max().expect("a segment")));
        killed.crash_at(operation, false);
        let interrupted = LocalBackend::open_on(killed.clone(), options()).is_err();
        let survivor = killed.freeze();
        let store = open(&survivor);
        // So that the next segment's name, which is made later, does not take this one along.
        survivor.inject_on(OperationKind::Create, None, 0, FaultKind::Enospc, true);
        for id in 1..3 {
            store.write_block(block(id, 30 << 10)).expect("written");
        }
        let store = open(&survivor.crash(CrashChoice::Nothing));
        for id in 1..3 {
            let data = store.read_block(BlockId(id)).expect("acknowledged").data;
            assert_eq!(data, block(id, 30 << 10).data, "killed at operation {operation}");
        }
        if !interrupted && operation > 60 {
            break;
        }
    }
}

/// Every way to fail the sync of a name and go on: none may leave a store that does not open again.
fn fail_syncs_of_names(prepared: &SimDisk, commit_count: u64) {
    for skip in 0..6 {
        let disk = prepared.freeze();
        disk.inject_on(OperationKind::SyncDir, None, skip, FaultKind::Eio, false);
        let store = match LocalBackend::open_on(disk.clone(), options()) {
            Ok(store) => store,
            Err(_) => open(&disk),
        };
        let mut acked = Vec::new();
        for id in 1..=commit_count {
            acked.extend(store.write_block(block(id, 30 << 10)).map(|id| id.0));
        }
        for choice in [CrashChoice::Nothing, CrashChoice::Everything] {
            let store = open(&disk.crash(choice));
            for id in &acked {
                assert!(store.block_exists(BlockId(*id)).expect("an answer"), "lost {id}");
            }
        }
    }
}

/// The sync of the name `META` failed, so open failed. The next open found the name in the cache,
/// used the store, and a power cut took the name with everything in it.
#[test]
fn store_whose_creation_failed_is_made_anew() {
    fail_syncs_of_names(&SimDisk::new(1), 1);
}

/// The sync of the name of the segment that recovery makes failed. The next recovery built upon
/// that segment; a power cut took its name, and with it the way to everything behind it.
#[test]
fn recovery_does_not_build_on_a_name_that_may_be_lost() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.write_block(block(9, 100)).expect("written");
    fail_syncs_of_names(&disk.crash(CrashChoice::Nothing), 1);
}

/// The name of the next segment was given but its sync failed. The log tried again with another
/// file and the same place in the row; two segments with one place made the store unreadable.
#[test]
fn segment_is_never_made_twice() {
    let disk = SimDisk::new(1);
    open(&disk).close().expect("closed");
    fail_syncs_of_names(&disk, 6);
}

/// The renaming of a new segment failed, or so it was reported: it had its name. Another one was
/// made for the same place in the row.
#[test]
fn segment_whose_renaming_failed_is_not_made_twice() {
    for kind in [FaultKind::EioAfterEffect, FaultKind::Eio] {
        for skip in 0..4 {
            let disk = SimDisk::new(skip);
            let store = open(&disk);
            disk.inject_on(OperationKind::Rename, None, skip, kind, false);
            // Others are made in its place, and no caller is told.
            for id in 1..=40 {
                store.write_block(block(id, 8000)).expect("written");
            }
            assert_eq!(disk.faults_struck(), 1, "{kind:?} at {skip}");
            drop(store);
            for choice in [CrashChoice::Nothing, CrashChoice::Everything] {
                let store = open(&disk.crash(choice));
                assert_eq!(store.ids(..).expect("open").len(), 40, "{kind:?} at {skip}");
            }
        }
    }
}

/// The sync of the end mark failed, and with it that of the file's length. The next session wrote
/// into the length that the cache showed; a power cut made the file as short as it had been.
#[test]
fn length_of_a_closed_log_is_durable_before_use() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    disk.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eio, false);
    store.close().expect_err("the end mark is not durable");
    let store = open(&disk);
    store.write_block(block(1, 100)).expect("written");
    let store = open(&disk.crash(CrashChoice::Nothing));
    assert!(store.block_exists(BlockId(1)).expect("an answer"));
}

/// The same where the next session goes on in the next segment: its syncs do not cover the page of
/// the end mark, so opening has to.
#[test]
fn end_of_a_closed_log_is_durable_before_the_next_segment_is_used() {
    let mut rolled_count = 0;
    for count in 1..=8 {
        // Each sync of the close fails in turn: those of the checkpoint, then that of the end mark.
        let mut last = None;
        for skip in 0.. {
            let disk = SimDisk::new(count);
            let store = open(&disk);
            for id in 1..=count {
                store.write_block(block(id, 8000)).expect("written");
            }
            disk.inject_on(OperationKind::SyncData, None, skip, FaultKind::Eio, false);
            let closed = store.close();
            if disk.faults_struck() == 0 {
                closed.expect("no sync failed");
                break;
            }
            let store = open(&disk);
            let (before, was_clean) = (store.stats().segments, store.recovery().clean);
            store.write_block(block(100, 8000)).expect("written");
            last = Some((closed, was_clean, store.stats().segments - before));
            let store = open(&disk.crash(CrashChoice::Nothing));
            let context = format!("{count} blocks before, sync {skip} of the close failed");
            assert!(store.block_exists(BlockId(100)).expect("an answer"), "{context}");
        }
        let (closed, was_clean, segment_count) = last.expect("a close syncs");
        closed.expect_err("the end mark is not durable");
        assert!(was_clean, "the end mark is in the page cache");
        rolled_count += segment_count;
    }
    assert!(rolled_count > 0, "the next segment was used");
}

/// A segment made ahead was cut within its first page, behind the header: it was taken for one
/// written as far as nothing, a subtraction went below zero, and with checks off its header would
/// have been zeroed.
#[test]
fn segment_cut_within_its_first_page_is_damaged() {
    let disk = SimDisk::new(1);
    open(&disk).close().expect("closed");
    let is_segment = |(name, _): &(FileName, u64)| matches!(name, FileName::Segment(_));
    let (ahead, _) = disk.files().into_iter().rfind(is_segment).expect("a segment");
    disk.truncate(ahead, 362);
    let error = LocalBackend::open_on(disk.clone(), options()).expect_err("damaged");
    assert!(matches!(error, Error::Corrupt { defect: Defect::Truncated, .. }), "{error:?}");
}

/// Behind a bulk load nothing is zeroed ahead until a short commit comes. Who asked for space in
/// between waited for ever, and kept all other callers waiting.
#[test]
fn space_is_prepared_behind_a_bulk_load() {
    let options = LocalBackend::options().single_threaded(true);
    let store = LocalBackend::open_on(SimDisk::new(1), options).expect("the store opens");
    let mut load = WriteBatch::new();
    for id in 1..=16 {
        load.write(block(id, 1 << 20));
    }
    store.apply(load).expect("written");
    let before = store.stats().zeroed_bytes;
    store.prepare_space(8 << 20).expect("prepared");
    assert!(store.stats().zeroed_bytes >= before + (7 << 20));
    store.write_block(block(100, 100)).expect("written");
}

/// A commit submitted while the store was being closed waited for ever: the log flusher ended
/// without looking at the queue again. `tests/loom` tries every schedule of it; this is the same
/// with real threads.
#[test]
fn commit_beside_the_closing_is_answered() {
    for seed in 0..100 {
        let store = LocalBackend::open_on(SimDisk::new(seed), options().single_threaded(false));
        let store = store.expect("the store opens");
        let write_on = &|id: u64| {
            let mut written = store.write_block(block(id, 100));
            while written.is_ok() {
                written = store.write_block(block(id, 100));
            }
            assert!(matches!(written, Err(Error::Closed)), "{written:?}");
        };
        std::thread::scope(|scope| {
            for id in 1..=3 {
                scope.spawn(move || write_on(id));
            }
            store.clone().close().expect("closed");
        });
    }
}

/// Two threads on a store in single-threaded mode: the one with the log had its answer, saw the
/// other's commit in the queue and looked at it for ever, without taking a turn for it.
#[test]
fn threads_may_share_a_single_threaded_store() {
    let store = open(&SimDisk::new(1));
    std::thread::scope(|scope| {
        for id in 1..=4 {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..500 {
                    store.write_block(block(id, 100)).expect("written");
                }
            });
        }
    });
    store.close().expect("closed");
}

/// Without threads of its own, a store whose ticket was answered already while later ones were not
/// looked for more to do for ever, and never did it: no other thread was there to carry the log.
#[test]
fn answered_ticket_does_not_wait_for_ever_beside_open_ones() {
    let store = open(&SimDisk::new(1));
    let submit = |id: u64| {
        let tx = store.begin().expect("begins");
        tx.write(block(id, 10)).expect("writes");
        tx.submit().expect("hands in")
    };
    let first = submit(1);
    assert!(first.try_wait().is_some_and(|answer| answer.is_ok()));
    let second = submit(2);
    first.wait().expect("it was answered");
    second.wait().expect("commits");
}

/// With the last 64 ids in a checkpoint, listing went on behind the last page: at the first one
/// again, for ever and into more and more memory (or into a panic, where overflows are checked).
#[test]
fn listing_ends_behind_the_last_id_of_a_checkpoint() {
    let store = open(&SimDisk::new(1));
    let ids = [1, 70, u64::MAX - 1, u64::MAX];
    for id in ids {
        store.write_block(block(id, 10)).expect("writes");
    }
    store.checkpoint().expect("a checkpoint");
    let listed = store.ids(..).expect("lists");
    assert!(listed.iter().map(|id| id.0).eq(ids), "{listed:?}");
    let from = store.ids(BlockId(u64::MAX)..).expect("lists");
    assert_eq!(from, [BlockId(u64::MAX)]);
    let blocks: Result<Vec<Block>, Error> = store.blocks(..).expect("walks").collect();
    assert_eq!(blocks.expect("reads").len(), ids.len());
}

/// The process that made a store was killed before the name of `META` was durable. Recovery saw the
/// name, wrote a segment behind the first one, and made the name durable last: a power cut in
/// between could take the name and leave the segment, which was then taken for a log that had lost
/// its `META`, for ever.
#[test]
fn store_killed_while_it_was_made_survives_a_power_cut_in_its_recovery() {
    for profile in [Profile::Posix, Profile::Journaled, Profile::Paranoid] {
        let disk = SimDisk::new(1);
        disk.set_profile(profile);
        disk.record_images();
        open(&disk).close().expect("a new store is closed");
        for killed in disk.take_images() {
            killed.disk.record_images();
            drop(open(&killed.disk));
            for image in killed.disk.take_images() {
                for choice in image.disk.crash_choices(1) {
                    let moments = (killed.operation, image.operation);
                    let left = LocalBackend::open_on(image.disk.crash(choice), options());
                    let left = left.unwrap_or_else(|e| panic!("{profile:?} {moments:?}: {e}"));
                    left.write_block(block(1, 10)).expect("it takes commits");
                }
            }
        }
    }
}

/// A lock belongs to the file that was opened, not to its name: while a store was open its `LOCK`
/// was removed, the next opener made a new one, locked that and wrote beside the first.
#[test]
fn removed_lock_file_lets_no_opener_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = options().open(&path).expect("the first opener");
    std::fs::remove_file(path.join("LOCK")).expect("the lock file is removed");
    let second = options().open(&path).expect_err("the store is open");
    assert!(matches!(second, Error::Locked { .. }), "{second:?}");
    store.write_block(block(1, 100)).expect("the first one goes on");
    store.close().expect("closed");
    options().open(&path).expect("free again").close().expect("closed");
}

/// Space was zeroed to the very byte that was asked for, and from there on: direct writes that are
/// not whole pages. A debug build's worker panicked and the store refused writes; a release build
/// gave up direct writes.
#[test]
fn space_is_prepared_in_whole_pages() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = LocalBackend::options().zero_ahead_len((2 << 20) + 77);
    let store = options.open(dir.path().join("store")).expect("opens");
    for len in [(3 << 20) + 1, (5 << 20) + 4095] {
        store.prepare_space(len).expect("there is space");
        store.write_block(block(1, 5000)).expect("writes");
    }
    store.close().expect("closes");
}

/// The publisher asked the image which version a commit replaces, after its bytes were in the log.
/// Where files are read and not mapped, a disk that failed just then was a panic under the lock of
/// a shard. The store was poisoned, and readers of that shard waited for a failing disk.
#[test]
fn disk_that_fails_to_read_the_image_refuses_a_commit_and_nothing_else() {
    let (mut refused, mut count) = (0, 0);
    for skip in 0.. {
        let disk = SimDisk::new(1);
        let options = options().read_mode(ReadMode::Pread).recent_len(0);
        let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
        for id in 1..=12 {
            store.write_block(block(id, 9000)).expect("writes");
        }
        store.checkpoint().expect("makes an image");
        let is_image = |name: &FileName| matches!(name, FileName::Checkpoint(_));
        let mut names = disk.files().into_iter().map(|(name, _)| name);
        let image = names.find(is_image).expect("an image");
        disk.inject_on(OperationKind::Read, Some(image), skip, FaultKind::Eio, true);
        let mut batch = WriteBatch::new();
        batch.write(block(1, 500));
        batch.write(block(2, 500));
        batch.delete(BlockId(3));
        let answers = [
            store.write_block(block(4, 700)).map(drop),
            store.delete_block(BlockId(5)),
            store.apply(batch).map(drop),
        ];
        let struck = disk.faults_struck() > 0;
        // Moves are published, too.
        let compacted = store.compact_now().map(drop);
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert!(matches!(error, Error::Io { op: IoOp::Read, .. }), "read {skip}: {error:?}");
            refused += 1;
        }
        if let Err(error) = compacted {
            assert!(matches!(error, Error::Io { op: IoOp::Read, .. }), "read {skip}: {error:?}");
        }
        disk.clear_faults();
        // Not poisoned, and nothing is counted that was refused.
        store.compact_now().expect("the disk reads again");
        store.write_block(block(20, 100)).expect("the disk reads again");
        let done = answers.map(|answer| answer.is_ok());
        let gone = u64::from(done[1]) + u64::from(done[2]);
        let len = |is_done: bool, id: u64, len: usize| {
            let expected = if is_done { len } else { 9000 };
            assert_eq!(store.read_block(BlockId(id)).expect("a block").data.len(), expected);
            expected as u64
        };
        let total = len(done[0], 4, 700) + len(done[2], 1, 500) + len(done[2], 2, 500);
        let stats = store.stats();
        assert_eq!(stats.total_blocks, 13 - gone, "read {skip}");
        assert_eq!(stats.total_bytes, total + (9 - gone) * 9000 + 100, "read {skip}");
        let killed = disk.freeze();
        store.close().expect("closes");
        for (disk, how) in [(killed, "killed"), (disk, "closed")] {
            let found = open(&disk).stats();
            assert_eq!(
                (found.total_blocks, found.total_bytes),
                (stats.total_blocks, stats.total_bytes),
                "read {skip}, {how}"
            );
        }
        count += 1;
        if !struck {
            break;
        }
    }
    assert!(count > 10 && refused > 10, "{count} places, {refused} refused");
}
