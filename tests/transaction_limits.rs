//! Limits on transactions and snapshots: how many may be open, how old a snapshot may grow, and how
//! much may be kept for it. On memory and on local, with a clock that only the test moves.

#[path = "support/block.rs"]
mod block;

use std::sync::Arc;
use std::time::Duration;

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::{
    BlockId, Error, IsolationLevel, LocalBackend, Lsn, MemoryBackend, OldestSnapshot,
    SnapshotLimit, StorageBackend, StorageExt, WriteBatch,
};

use block::block;

/// The limits of a store under test; each test sets those that it is about.
#[derive(Clone, Copy)]
struct Limits {
    open: u64,
    age: Duration,
    pinned: u64,
}

const NONE: Limits = Limits { open: 100, age: Duration::MAX, pinned: u64::MAX };

/// Runs a check on each backend, with blocks 1 and 2 in the store, and the clock that moves it.
fn on_each(limits: Limits, check: impl Fn(Arc<dyn StorageBackend>, &SimDisk)) {
    let clock = SimDisk::new(1);
    let memory = MemoryBackend::options()
        .open_transactions_max(limits.open)
        .snapshot_age_max(limits.age)
        .snapshot_pinned_max(limits.pinned)
        .clock_of(clock.clone())
        .build();
    run(Arc::new(memory), &clock, &check);
    let disk = SimDisk::new(1);
    let local = LocalBackend::options()
        .single_threaded(true)
        .open_transactions_max(limits.open)
        .snapshot_age_max(limits.age)
        .snapshot_pinned_max(limits.pinned);
    let local = LocalBackend::open_on(disk.clone(), local).expect("opens");
    run(Arc::new(local), &disk, &check);
}

fn run(
    store: Arc<dyn StorageBackend>,
    clock: &SimDisk,
    check: &impl Fn(Arc<dyn StorageBackend>, &SimDisk),
) {
    for id in [1, 2] {
        store.write_block(block(id, "old")).expect("writes");
    }
    check(Arc::clone(&store), clock);
    let stats = store.stats();
    let left = (stats.open_transactions, stats.undo_entries, stats.pinned_bytes);
    assert_eq!(left, (0, 0, 0), "open transactions, versions and bytes that are left behind");
    assert_eq!(stats.oldest_snapshot, None);
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The limit that the answer says the snapshot was over.
fn limit_of<T: std::fmt::Debug>(answer: Result<T, Error>) -> SnapshotLimit {
    match answer {
        Err(Error::SnapshotTooOld { limit, .. }) => limit,
        other => panic!("the snapshot must have been given up, not {other:?}"),
    }
}

#[test]
fn begin_beyond_the_limit_is_refused_with_the_limit() {
    on_each(Limits { open: 3, ..NONE }, |store, _| {
        let mut held: Vec<_> = (0..3).map(|_| store.try_begin().expect("begins")).collect();
        let refused = [
            store.try_begin().map(|_| ()),
            store.begin_timeout(Duration::from_millis(1)).map(|_| ()),
            store.begin_transaction().map(|_| ()),
            store.snapshot().map(|_| ()),
            store.blocks(..).map(|_| ()),
        ];
        for refused in refused {
            let named = matches!(refused, Err(Error::TooManyTransactions { open: 3, max: 3 }));
            assert!(named, "{refused:?}");
        }
        // Neither does a refusal cost anything, nor are single operations concerned.
        store.write_block(block(3, "single")).expect("writes");
        held.pop();
        held.push(store.try_begin().expect("one has ended"));
        assert_eq!(store.stats().open_transactions, 3);
        held.remove(0).commit().expect("commits");
        store.begin().expect("one has ended");
    });
}

#[test]
fn begin_waits_for_a_transaction_to_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = LocalBackend::options().open_transactions_max(1);
    let local = options.open(dir.path().join("store")).expect("opens");
    let memory = MemoryBackend::options().open_transactions_max(1).build();
    let stores: [Arc<dyn StorageBackend>; 2] = [Arc::new(local), Arc::new(memory)];
    for store in stores {
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let store = &store;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let tx = store.begin_timeout(Duration::from_secs(300)).expect("begins");
                        tx.write(block(thread, "turn")).expect("writes");
                        tx.commit().expect("no other thread is in a transaction");
                    }
                });
            }
        });
        assert_eq!((store.stats().commits, store.stats().conflicts), (200, 0));
    }
}

#[test]
fn thread_with_more_commits_in_flight_than_may_be_open_goes_on() {
    on_each(Limits { open: 4, ..NONE }, |store, _| {
        let submit = |n: u64| {
            let tx = store.begin().expect("commits in flight end");
            tx.write(block(100 + n, "in flight")).expect("writes");
            tx.submit().expect("hands in")
        };
        let tickets: Vec<_> = (0..100).map(submit).collect();
        for ticket in tickets {
            ticket.wait().expect("commits");
        }
    });
}

#[test]
fn snapshot_over_its_age_is_given_up_and_others_go_on() {
    on_each(Limits { age: seconds(60), ..NONE }, |store, clock| {
        let (old, writer) = (store.snapshot().expect("holds"), store.begin().expect("begins"));
        writer.write(block(9, "pending")).expect("writes");
        let newest = store.begin_at(IsolationLevel::ReadCommitted).expect("begins");
        store.write_block(block(1, "new")).expect("writes");
        assert_eq!(store.stats().undo_entries, 1);
        clock.advance(seconds(60));
        old.read(BlockId(1)).expect("it may be that old");
        clock.advance(seconds(1));
        // Another thread's operation is enough: the owner may never come back.
        let young = store.snapshot().expect("holds");
        assert_eq!(store.stats().undo_entries, 0, "nothing is kept for them any more");

        let age = SnapshotLimit::Age(seconds(60));
        assert_eq!(limit_of(old.read(BlockId(1))), age);
        assert_eq!(limit_of(old.exists(BlockId(2))), age);
        assert_eq!(limit_of(old.range(..).map(|_| ())), age);
        assert_eq!(limit_of(writer.write(block(9, "more"))), age);
        assert_eq!(limit_of(writer.delete(BlockId(1))), age);
        assert_eq!(limit_of(writer.savepoint()), age);
        let id = writer.id();
        assert_eq!(limit_of(writer.commit()), age);
        let over = store.commit_transaction(id);
        assert!(matches!(over, Err(Error::TransactionNotActive { .. })), "{over:?}");
        assert!(!store.block_exists(BlockId(9)).expect("looks"), "nothing of it was written");

        assert_eq!(&young.read(BlockId(1)).expect("reads").data[..], b"new");
        newest.read(BlockId(1)).expect("read committed holds no snapshot");
        let given_up = store.begin().expect("begins");
        clock.advance(seconds(61));
        given_up.rollback().expect("rolling back is all that is left");
    });
}

#[test]
fn oldest_snapshot_is_given_up_when_too_much_is_kept() {
    on_each(Limits { pinned: 100_000, ..NONE }, |store, _| {
        let oldest = store.snapshot().expect("holds");
        store.write_block(block(3, vec![1; 60_000])).expect("writes");
        let middle = store.snapshot().expect("holds");
        store.write_block(block(3, vec![2; 60_000])).expect("writes");
        let youngest = store.snapshot().expect("holds");
        assert!(store.stats().pinned_bytes > 60_000);
        oldest.read(BlockId(1)).expect("there is room for one version");
        store.write_block(block(3, vec![3; 60_000])).expect("writes");
        // Two are kept now, for `middle` and `youngest`; `oldest` needs none, but it goes first.
        let pinned = SnapshotLimit::PinnedBytes(100_000);
        assert_eq!(limit_of(middle.read(BlockId(3))), pinned);
        assert_eq!(limit_of(oldest.read(BlockId(1))), pinned);
        assert_eq!(youngest.read(BlockId(3)).expect("reads").data[..], [2; 60_000]);
        let stats = store.stats();
        assert!((60_000..=100_000).contains(&stats.pinned_bytes), "{stats:?}");
        assert_eq!(stats.open_transactions, 3, "each is its owner's to end");
    });
}

#[test]
fn walk_whose_snapshot_is_given_up_says_so_once() {
    on_each(Limits { age: seconds(60), ..NONE }, |store, clock| {
        let mut blocks = store.blocks(..).expect("lists");
        blocks.next().expect("block 1").expect("reads");
        clock.advance(seconds(61));
        let answer = blocks.next_back().expect("an answer");
        assert_eq!(limit_of(answer), SnapshotLimit::Age(seconds(60)));
        assert!(blocks.next().is_none() && blocks.next_back().is_none());
    });
}

#[test]
fn oldest_snapshot_tells_its_lsn_and_age() {
    on_each(NONE, |store, clock| {
        assert_eq!(store.oldest_snapshot(), None);
        let newest = store.begin_at(IsolationLevel::ReadCommitted).expect("begins");
        assert_eq!(store.oldest_snapshot(), None, "read committed holds no snapshot");
        let first = store.snapshot().expect("holds");
        store.write_block(block(1, "new")).expect("writes");
        clock.advance(seconds(5));
        let second = store.begin().expect("begins");
        clock.advance(seconds(2));
        let oldest = OldestSnapshot { lsn: Lsn(2), age: seconds(7) };
        assert_eq!(store.oldest_snapshot(), Some(oldest));
        let stats = store.stats();
        let stated = (stats.oldest_snapshot, stats.oldest_snapshot_age);
        assert_eq!(stated, (Some(Lsn(2)), seconds(7)));
        assert!(stats.pinned_bytes >= 3, "the three bytes of the block are kept: {stats:?}");
        drop(first);
        let oldest = OldestSnapshot { lsn: Lsn(3), age: seconds(2) };
        assert_eq!(store.oldest_snapshot(), Some(oldest));
        assert_eq!(store.stats().pinned_bytes, 0);
        drop((second, newest));
    });
}

/// A batch counts what it writes in the end.
#[test]
fn batch_over_the_length_of_a_transaction_is_refused_as_a_whole() {
    let options = LocalBackend::options().single_threaded(true).transaction_len_max(1000);
    let store = LocalBackend::open_on(SimDisk::new(1), options).expect("opens");
    let batch = |lens: &[usize]| {
        let mut batch = WriteBatch::new();
        for (id, len) in (1..).zip(lens) {
            // Written twice, and only the second time it counts.
            batch.write(block(id, vec![1; 900])).write(block(id, vec![2; *len]));
        }
        batch
    };
    let refused = store.apply(batch(&[500, 501])).expect_err("a byte too long");
    assert!(
        matches!(refused, Error::TransactionTooLarge { len: 1001, len_max: 1000 }),
        "{refused:?}"
    );
    assert_eq!(store.stats().total_blocks, 0);
    store.apply(batch(&[500, 500])).expect("as long as it may be");
    assert_eq!(store.stats().total_bytes, 1000);
}

#[test]
fn limit_of_no_transactions_is_refused_at_open() {
    let options = LocalBackend::options().open_transactions_max(0);
    let refused = LocalBackend::open_on(SimDisk::new(1), options).map(|_| ());
    let argument = "open_transactions_max";
    assert!(matches!(refused, Err(Error::InvalidArgument { argument: a, .. }) if a == argument));
}
