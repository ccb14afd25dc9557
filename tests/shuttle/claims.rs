//! The claims that hold for callers under any schedule.

use shuttle::thread;

use crate::callers::{Told, block, caller, check, check_again, is_failure, open, options, told_by};
use crate::disk::ModelDisk;
use crate::io::sim::{CrashChoice, FaultKind, OperationKind};
use crate::{
    BlockId, Claim, Durability, Error, IsolationLevel, MemoryBackend, Result, StorageBackend,
    StorageExt, TransactionId, WriteBatch, below, took,
};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        name: "what_is_acknowledged_survives",
        schedule: acknowledged,
        paths: &["acknowledged", "commits shared a group", "groups overlapped"],
    },
    Claim {
        name: "a_failed_sync_is_every_members_failure",
        schedule: failed_sync,
        paths: &["acknowledged", "Io", "Poisoned", "Io for several", "groups overlapped"],
    },
    Claim {
        name: "a_failed_sync_beside_another_ones_is_not_taken_back",
        schedule: failed_sync_beside_another,
        paths: &["Io", "groups overlapped"],
    },
    Claim {
        name: "a_failing_worker_loses_nothing_acknowledged",
        schedule: failing_worker,
        paths: &["acknowledged", "Io", "Poisoned", "StorageFull"],
    },
    Claim {
        name: "a_full_disk_refuses_and_poisons_nothing",
        schedule: full_disk,
        paths: &["acknowledged", "StorageFull"],
    },
    Claim {
        name: "commits_beside_the_closing_are_answered",
        schedule: closing,
        paths: &["acknowledged", "Closed"],
    },
    Claim {
        name: "a_panic_is_named_and_leaves_no_caller_waiting",
        schedule: panicking,
        paths: &["acknowledged", "Poisoned"],
    },
    Claim {
        name: "commits_go_on_across_segments_and_a_small_budget",
        schedule: rotating,
        paths: &["acknowledged", "second segment"],
    },
    Claim {
        name: "snapshots_are_whole_and_no_update_is_lost",
        schedule: isolated,
        paths: &["Conflict", "acknowledged"],
    },
    Claim {
        name: "an_allocated_id_replaces_no_block",
        schedule: allocated_beside_named,
        paths: &["named after it was given away", "another id", "given away twice", "memory"],
    },
    Claim {
        name: "statistics_are_of_one_moment",
        schedule: one_moment,
        paths: &["between two commits", "not all was durable", "memory", "groups overlapped"],
    },
    Claim {
        name: "a_transaction_that_several_end_leaves_nothing_behind",
        schedule: ended_by_several,
        paths: &["committed", "rolled back", "given up", "refused", "its place is another's"],
    },
];

fn acknowledged() {
    let disk = ModelDisk::new();
    let store = open(&disk, options());
    let told = told_by((1..=3).map(|number| caller(&store, number, 2, 8)).collect());
    assert_eq!(store.stats().in_flight_bytes, 0, "every caller is answered");
    assert!(told.iter().all(|told| told.answer.is_ok()));
    check(&store, &told, true);
    if store.stats().groups < 6 {
        took("commits shared a group");
    }
    if store.stats().overlapped_groups > 0 {
        took("groups overlapped");
    }
    if below(2) == 0 {
        store.close().expect("closes well");
        check_again(&disk, &told, true);
    } else {
        // No thread syncs a commit that is only buffered.
        check_again(&ModelDisk::clone(&disk).crash(), &told, false);
    }
}

fn failed_sync() {
    let disk = ModelDisk::new();
    let store = open(&disk, options());
    let kind = [FaultKind::Eio, FaultKind::EioAfterEffect][below(2) as usize];
    let operation = [OperationKind::SyncData, OperationKind::Write][below(2) as usize];
    disk.sim.inject_on(operation, None, below(4), kind, below(2) == 0);
    let told = told_by((1..=3).map(|number| caller(&store, number, 2, 8)).collect());
    assert_eq!(store.stats().in_flight_bytes, 0, "every caller is answered");
    for of_one in told.chunks(2) {
        let failed = of_one.iter().position(|told| told.answer.is_err());
        let later = &of_one[failed.map_or(of_one.len(), |at| at + 1)..];
        assert!(later.iter().all(|told| matches!(told.answer, Err(Error::Poisoned { .. }))));
    }
    for error in told.iter().filter_map(|told| told.answer.as_ref().err()) {
        assert!(is_failure(error), "{error:?}");
    }
    if told.iter().filter(|told| matches!(told.answer, Err(Error::Io { .. }))).count() > 1 {
        took("Io for several");
    }
    if store.stats().overlapped_groups > 0 {
        took("groups overlapped");
    }
    let closed = store.close();
    check_again(&disk, &told, closed.is_ok());
}

/// Two groups are being written, the first sync fails, and the bytes that it dropped are gone.
fn failed_sync_beside_another() {
    let disk = ModelDisk::new();
    let store = open(&disk, options().many_callers_min(1));
    store.write_block(block(1, 1, 8)).expect("written before anything fails");
    disk.sim.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eio, false);
    let callers = [101, 201].map(|id| {
        let store = store.clone();
        thread::spawn(move || {
            let answer = store.write_block(block(id, id, 8)).map(|_| ());
            vec![Told { ids: vec![BlockId(id)], durable: true, answer }]
        })
    });
    let told = told_by(callers.into());
    if store.stats().overlapped_groups > 0 {
        took("groups overlapped");
    }
    drop(store);
    let left = disk.crash_with(CrashChoice::Nothing);
    check(&open(&left, options().single_threaded(true)), &told, false);
}

fn failing_worker() {
    let disk = ModelDisk::new();
    let fault = [FaultKind::Eio, FaultKind::Enospc][below(2) as usize];
    let store = open(&disk, options());
    let kinds =
        [OperationKind::Zero, OperationKind::Create, OperationKind::Rename, OperationKind::SyncDir];
    disk.sim.inject_on(kinds[below(4) as usize], None, below(2), fault, below(2) == 0);
    let told = told_by((1..=3).map(|number| caller(&store, number, 2, 12 << 10)).collect());
    for error in told.iter().filter_map(|told| told.answer.as_ref().err()) {
        assert!(is_failure(error) || matches!(error, Error::StorageFull { .. }), "{error:?}");
    }
    let closed = store.close();
    check_again(&disk, &told, closed.is_ok());
}

fn full_disk() {
    let disk = ModelDisk::new();
    let store = open(&disk, options());
    // Beside the reserve of a new store.
    disk.sim.set_capacity(Some((256 + 96 + below(64)) << 10));
    let told = told_by((1..=3).map(|number| caller(&store, number, 2, 12 << 10)).collect());
    for error in told.iter().filter_map(|told| told.answer.as_ref().err()) {
        assert!(matches!(error, Error::StorageFull { .. }), "{error:?}");
    }
    disk.sim.set_capacity(None);
    store.write_block(block(1, 1, 8)).expect("there is space again");
    check(&store, &told, true);
    store.close().expect("closes well");
    check_again(&disk, &told, true);
}

fn closing() {
    let disk = ModelDisk::new();
    let store = open(&disk, options());
    let callers = (1..=3).map(|number| caller(&store, number, 2, 8)).collect();
    let closer = {
        let store = store.clone();
        thread::spawn(move || store.close())
    };
    let told = told_by(callers);
    closer.join().expect("the closer returns").expect("closes well");
    for error in told.iter().filter_map(|told| told.answer.as_ref().err()) {
        assert!(matches!(error, Error::Closed), "{error:?}");
    }
    check_again(&disk, &told, true);
}

fn panicking() {
    let disk = ModelDisk::new();
    let store = open(&disk, options().in_flight_len_max(300));
    let callers = (1..=3).map(|number| caller(&store, number, 2, 8)).collect();
    disk.panic_after(below(6));
    let told = told_by(callers);
    for error in told.iter().filter_map(|told| told.answer.as_ref().err()) {
        assert!(is_failure(error), "{error:?}");
    }
    let handle = store.clone();
    let closed = store.close();
    assert_eq!(handle.stats().in_flight_bytes, 0, "no bytes are held for ever");
    check_again(&disk, &told, closed.is_ok());
}

fn rotating() {
    let disk = ModelDisk::new();
    let store = open(&disk, options().in_flight_len_max(40 << 10));
    let told = told_by((1..=3).map(|number| caller(&store, number, 2, 14 << 10)).collect());
    assert!(told.iter().all(|told| told.answer.is_ok()));
    check(&store, &told, true);
    if store.stats().segments > 2 {
        took("second segment");
    }
    store.close().expect("closes well");
    check_again(&disk, &told, true);
}

/// Two writers add 1 to two blocks at once, two readers compare them.
fn isolated() {
    let disk = ModelDisk::new();
    let store = open(&disk, options());
    let number = |block: crate::Block| u64::from_le_bytes(block.data[..8].try_into().expect("8"));
    let first = store.begin().expect("begins");
    for id in [1, 2] {
        first.write(block(id, 0, 8)).expect("written");
    }
    first.commit().expect("committed");
    let writers = [(); 2].map(|()| {
        let store = store.clone();
        thread::spawn(move || {
            let mut count = 0;
            for _ in 0..2 {
                let tx = store.begin().expect("begins");
                let was = number(tx.read(BlockId(1)).expect("is there"));
                for id in [1, 2] {
                    tx.write(block(id, was + 1, 8)).expect("written");
                }
                match tx.commit() {
                    Ok(_) => {
                        took("acknowledged");
                        count += 1;
                    }
                    Err(Error::Conflict { .. }) => took("Conflict"),
                    Err(error) => panic!("{error:?}"),
                }
            }
            count
        })
    });
    let reader = {
        let store = store.clone();
        thread::spawn(move || {
            for _ in 0..2 {
                let snapshot = store.snapshot().expect("begins");
                let [one, two] =
                    [1, 2].map(|id| number(snapshot.read(BlockId(id)).expect("is there")));
                assert_eq!(one, two, "a snapshot is one moment");
            }
        })
    };
    let count: u64 = writers.map(|writer| writer.join().expect("returns")).into_iter().sum();
    reader.join().expect("returns");
    assert_eq!(number(store.read_block(BlockId(2)).expect("is there")), count);
    assert_eq!(store.stats().undo_entries, 0, "no snapshot is held");
    store.close().expect("closes well");
}

/// One thread names the id that another one is about to be given.
fn allocated_beside_named() {
    if below(4) == 0 {
        took("memory");
        allocate_beside_named(&MemoryBackend::new());
        return;
    }
    let disk = ModelDisk::new();
    let store = open(&disk, options());
    allocate_beside_named(&store);
    store.close().expect("closes well");
}

fn allocate_beside_named<S: StorageBackend + Clone + 'static>(store: &S) {
    let namer = {
        let store = store.clone();
        thread::spawn(move || store.write_block(block(1, 77, 8)).expect("written"))
    };
    let new = block(0, 5, 8);
    let id = match below(2) {
        0 => store.write_block(new).expect("written"),
        _ => {
            let mut batch = WriteBatch::new();
            batch.write(new);
            store.apply(batch).expect("written")[0]
        }
    };
    namer.join().expect("returns");
    let named = store.read_block(BlockId(1)).expect("it is there");
    assert_eq!(named.data[0], 77, "an allocated id hides a block");
    match (id, store.stats().conflicts) {
        (BlockId(1), _) => took("named after it was given away"),
        (_, 0) => took("another id"),
        _ => took("given away twice"),
    }
    if id != BlockId(1) {
        assert_eq!(store.read_block(id).expect("it is there").data[0], 5);
    }
}

/// Three threads write two new blocks with each commit, one reads the statistics.
fn one_moment() {
    if below(4) == 0 {
        took("memory");
        watch(&MemoryBackend::new());
        return;
    }
    let disk = ModelDisk::new();
    let store = open(&disk, options().many_callers_min(1));
    watch(&store);
    if store.stats().overlapped_groups > 0 {
        took("groups overlapped");
    }
    store.close().expect("closes well");
}

fn watch<S: StorageBackend + Clone + 'static>(store: &S) {
    let writers = [1, 2, 3].map(|number| {
        let store = store.clone();
        thread::spawn(move || {
            for round in 0..2 {
                let mut batch = WriteBatch::new();
                for id in 1..=2 {
                    batch.write(block(100 * number + 10 * round + id, 7, 8));
                }
                let durability = [Durability::Durable, Durability::Buffered][below(2) as usize];
                store.apply_with(batch, durability).expect("written");
            }
        })
    });
    for _ in 0..4 {
        let stats = store.stats();
        let commits = stats.visible_lsn.0;
        let told = [stats.total_blocks, stats.write_ops, stats.total_bytes, stats.commits];
        assert_eq!(told, [2 * commits, 2 * commits, 16 * commits, commits], "{stats:?}");
        assert!(stats.durable_lsn <= stats.visible_lsn, "{stats:?}");
        if (1..6).contains(&commits) {
            took("between two commits");
        }
        if stats.durable_lsn < stats.visible_lsn {
            took("not all was durable");
        }
    }
    for writer in writers {
        writer.join().expect("returns");
    }
}

/// One thread works in a transaction and commits it, and one rolls it back. A third replaces the
/// blocks that it sees, which takes its snapshot over the limit, and begins others in its place.
fn ended_by_several() {
    let store = MemoryBackend::options().open_transactions_max(2).snapshot_pinned_max(0).build();
    store.write_block(block(1, 1, 8)).expect("written");
    let tx = store.begin_transaction().expect("none is open");
    let committer = {
        let store = store.clone();
        thread::spawn(move || work_and_commit(&store, tx))
    };
    let ender = {
        let store = store.clone();
        thread::spawn(move || {
            expect_own(
                store.read_block_in_tx(tx, BlockId(1)).map(|block| assert_eq!(block.data[0], 1)),
            );
            if below(2) == 0 {
                expect_own(store.rollback_transaction(tx).inspect(|()| took("rolled back")));
            }
        })
    };
    for round in 2..4 {
        store.write_block(block(1, round, 8)).expect("written");
        match store.begin_transaction_at(IsolationLevel::Serializable) {
            Ok(other) => {
                if other.0 >> 26 > tx.0 >> 26 {
                    took("its place is another's");
                }
                let ids = store.ids_in_tx(other, BlockId(2), BlockId(9)).expect("its own");
                let is_there = store.block_exists(BlockId(2)).expect("open");
                assert!(is_there || ids.is_empty(), "another transaction's write was seen");
                store.rollback_transaction(other).expect("its own");
            }
            Err(Error::TooManyTransactions { open: 2, max: 2 }) => panic!("two were never open"),
            Err(error) => panic!("{error:?}"),
        }
    }
    let is_committed = committer.join().expect("returns");
    ender.join().expect("returns");
    expect_own(store.rollback_transaction(tx));
    assert_eq!(store.block_exists(BlockId(2)).expect("open"), is_committed);
    let stats = store.stats();
    assert_eq!((stats.open_transactions, stats.undo_entries, stats.pinned_bytes), (0, 0, 0));
    assert_eq!(stats.oldest_snapshot, None);
}

/// Reads, writes, reads again and commits; true when that was acknowledged.
fn work_and_commit(store: &MemoryBackend, tx: TransactionId) -> bool {
    let read = |id| store.read_block_in_tx(tx, BlockId(id)).map(|block| block.data[0]);
    expect_own(read(1).map(|seen| assert_eq!(seen, 1, "a snapshot is one moment")));
    expect_own(
        store
            .write_block_in_tx(tx, block(2, 7, 8))
            .and_then(|_| read(2))
            .map(|own| assert_eq!(own, 7)),
    );
    expect_own(read(1).map(|seen| assert_eq!(seen, 1, "a snapshot is one moment")));
    match store.commit_transaction(tx) {
        Ok(()) => {
            took("committed");
            true
        }
        refused => {
            expect_own(refused);
            false
        }
    }
}

/// Checks the result of a call in a transaction that other threads may end.
fn expect_own(result: Result<()>) {
    match result {
        Ok(()) => {}
        Err(Error::TransactionNotActive { .. }) => took("refused"),
        Err(Error::SnapshotTooOld { .. }) => took("given up"),
        Err(error) => panic!("{error:?}"),
    }
}
