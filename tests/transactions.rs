//! Transactions as handles: isolation levels, savepoints, tickets, batches, on memory and local.

use std::sync::Arc;
use std::sync::mpsc;

use aegis_blocks::{
    Block, BlockId, BlockType, Durability, Error, IsolationLevel, LocalBackend, Lsn, MemoryBackend,
    StorageBackend, StorageExt, WriteBatch,
};

fn block(id: u64, data: &'static str) -> Block {
    Block::new(BlockId(id), BlockType::TableData, data)
}

/// Runs a check on each backend, with blocks 1 and 2 in the store.
fn on_each(check: impl Fn(Arc<dyn StorageBackend>)) {
    let dir = tempfile::tempdir().expect("a directory");
    let local = LocalBackend::open(dir.path().join("store")).expect("opens");
    let stores: [Arc<dyn StorageBackend>; 2] = [Arc::new(MemoryBackend::new()), Arc::new(local)];
    for store in stores {
        for id in [1, 2] {
            store.write_block(block(id, "old")).expect("writes");
        }
        check(Arc::clone(&store));
        let stats = store.stats();
        assert_eq!((stats.open_transactions, stats.undo_entries), (0, 0), "nothing is left behind");
    }
}

fn text(block: &Block) -> &str {
    std::str::from_utf8(&block.data).expect("text")
}

/// Each of two transactions reads what the other writes.
fn write_skew(store: &Arc<dyn StorageBackend>, isolation: IsolationLevel) -> Result<Lsn, Error> {
    let (a, b) = (store.begin_at(isolation)?, store.begin_at(isolation)?);
    a.read(BlockId(1))?;
    b.read(BlockId(2))?;
    a.write(block(2, "a"))?;
    b.write(block(1, "b"))?;
    a.commit()?;
    b.commit()
}

#[test]
fn write_skew_is_refused_when_serializable_and_only_then() {
    on_each(|store| {
        write_skew(&store, IsolationLevel::Snapshot).expect("snapshot isolation allows it");
        let refused = write_skew(&store, IsolationLevel::Serializable);
        assert!(matches!(refused, Err(Error::Conflict { id: BlockId(2), .. })), "{refused:?}");
    });
}

#[test]
fn phantom_in_a_range_is_refused_when_serializable() {
    on_each(|store| {
        let tx = store.begin_at(IsolationLevel::Serializable).expect("begins");
        assert_eq!(tx.range(BlockId(0)..BlockId(100)).expect("lists").count(), 2);
        store.write_block(block(50, "phantom")).expect("writes");
        tx.write(block(200, "sum")).expect("writes");
        assert!(matches!(tx.commit(), Err(Error::Conflict { id: BlockId(50), .. })));

        let tx = store.begin_at(IsolationLevel::Serializable).expect("begins");
        assert_eq!(tx.range(BlockId(0)..BlockId(100)).expect("lists").count(), 3);
        store.delete_block(BlockId(50)).expect("deletes");
        tx.write(block(200, "sum")).expect("writes");
        assert!(matches!(tx.commit(), Err(Error::Conflict { id: BlockId(50), .. })));

        let tx = store.begin_at(IsolationLevel::Serializable).expect("begins");
        assert_eq!(tx.range(BlockId(0)..BlockId(100)).expect("lists").count(), 2);
        store.write_block(block(100, "outside")).expect("writes");
        tx.write(block(200, "sum")).expect("writes");
        tx.commit().expect("the range was not touched");
    });
}

#[test]
fn absence_that_was_read_is_checked_when_serializable() {
    on_each(|store| {
        let tx = store.begin_at(IsolationLevel::Serializable).expect("begins");
        assert!(!tx.exists(BlockId(9)).expect("looks"));
        store.write_block(block(9, "now")).expect("writes");
        tx.write(block(1, "because 9 is absent")).expect("writes");
        assert!(matches!(tx.commit(), Err(Error::Conflict { id: BlockId(9), .. })));
        let reader = store.begin_at(IsolationLevel::Serializable).expect("begins");
        reader.read(BlockId(9)).expect("reads");
        store.write_block(block(9, "later")).expect("writes");
        reader.commit().expect("who only reads is never refused");
    });
}

#[test]
fn read_committed_sees_the_newest_commit_and_the_last_writer_wins() {
    on_each(|store| {
        let tx = store.begin_at(IsolationLevel::ReadCommitted).expect("begins");
        assert_eq!(text(&tx.read(BlockId(1)).expect("reads")), "old");
        store.write_block(block(1, "new")).expect("writes");
        assert_eq!(text(&tx.read(BlockId(1)).expect("reads")), "new");
        tx.write(block(1, "last")).expect("writes");
        store.write_block(block(1, "newer")).expect("writes");
        tx.commit().expect("nothing conflicts");
        assert_eq!(text(&store.read_block(BlockId(1)).expect("reads")), "last");
    });
}

#[test]
fn range_merges_own_writes_and_deletes_from_both_ends() {
    on_each(|store| {
        let tx = store.begin().expect("begins");
        tx.write(block(3, "own")).expect("writes");
        tx.delete(BlockId(1)).expect("deletes");
        let ids = |blocks: Vec<Result<Block, Error>>| -> Vec<u64> {
            blocks.into_iter().map(|b| b.expect("reads").header.block_id.0).collect()
        };
        assert_eq!(ids(tx.range(..).expect("lists").collect()), [2, 3]);
        assert_eq!(ids(tx.range(..).expect("lists").rev().collect()), [3, 2]);
        let backwards =
            (std::ops::Bound::Included(BlockId(5)), std::ops::Bound::Included(BlockId(2)));
        let refused = tx.range(backwards).map(|_| ());
        assert!(matches!(refused, Err(Error::InvalidArgument { argument: "range", .. })));
    });
}

#[test]
fn savepoints_nest_and_belong_to_their_transaction() {
    on_each(|store| {
        let tx = store.begin().expect("begins");
        tx.write(block(3, "kept")).expect("writes");
        let outer = tx.savepoint().expect("marks");
        tx.write(block(3, "changed")).expect("writes");
        tx.delete(BlockId(1)).expect("deletes");
        let inner = tx.savepoint().expect("marks");
        tx.write(block(1, "again")).expect("writes");
        tx.rollback_to(inner).expect("undoes");
        assert!(!tx.exists(BlockId(1)).expect("looks"));
        tx.rollback_to(outer).expect("undoes");
        assert_eq!(text(&tx.read(BlockId(3)).expect("reads")), "kept");
        assert_eq!(text(&tx.read(BlockId(1)).expect("reads")), "old");
        let gone = tx.rollback_to(inner);
        assert!(matches!(gone, Err(Error::InvalidArgument { argument: "savepoint", .. })));
        let other = store.begin().expect("begins");
        let foreign = other.rollback_to(outer);
        assert!(matches!(foreign, Err(Error::InvalidArgument { argument: "savepoint", .. })));
        tx.commit().expect("commits");
        assert_eq!(text(&store.read_block(BlockId(3)).expect("reads")), "kept");
    });
}

#[test]
fn dropped_transaction_leaves_no_trace_and_a_panic_is_a_drop() {
    on_each(|store| {
        let tx = store.begin().expect("begins");
        tx.write(block(3, "dropped")).expect("writes");
        drop(tx);
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let tx = store.begin().expect("begins");
            tx.write(block(3, "unwound")).expect("writes");
            panic!("expected by the test");
        }));
        assert!(unwound.is_err());
        assert!(!store.block_exists(BlockId(3)).expect("looks"));
    });
}

#[test]
fn tickets_of_one_thread_share_groups_and_keep_their_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = LocalBackend::open(dir.path().join("store")).expect("opens");
    let before = store.stats();
    let tickets: Vec<_> = (0..500)
        .map(|_| {
            let tx = store.begin().expect("begins");
            tx.write(block(0, "in flight")).expect("writes");
            tx.submit().expect("hands in")
        })
        .collect();
    let lsns: Vec<Lsn> = tickets.into_iter().map(|t| t.wait().expect("commits")).collect();
    assert!(lsns.windows(2).all(|pair| pair[0] < pair[1]));
    let stats = store.stats();
    assert!(stats.groups - before.groups < 500, "{} groups", stats.groups - before.groups);
    assert_eq!(stats.durable_lsn, lsns[499]);
    assert_eq!(stats.open_transactions, 0);
}

#[test]
fn ticket_that_is_dropped_or_called_back_does_not_lose_its_commit() {
    on_each(|store| {
        let begin = |data| {
            let tx = store.begin().expect("begins");
            tx.write(block(0, data)).expect("writes");
            tx
        };
        drop(begin("dropped").submit().expect("hands in"));
        let (sender, receiver) = mpsc::channel();
        let ticket = begin("called back").submit().expect("hands in");
        ticket.on_durable(move |result| sender.send(result.is_ok()).expect("the test waits"));
        assert!(receiver.recv().expect("the callback is called"));
        begin("last").commit_with(Durability::Durable).expect("commits");
        assert_eq!(store.stats().total_blocks, 5);
    });
}

#[test]
fn batch_is_one_commit_and_refused_as_a_whole() {
    on_each(|store| {
        let commits = store.stats().commits;
        let mut batch = WriteBatch::new();
        batch.write(block(0, "new")).write(block(1, "changed")).delete(BlockId(2));
        let ids = store.apply(batch).expect("applies");
        assert_eq!(store.stats().commits, commits + 1);
        let found = store.read_blocks(&[BlockId(1), ids[0]]).expect("reads");
        assert_eq!(found.iter().map(text).collect::<Vec<_>>(), ["changed", "new"]);
        let mut batch = WriteBatch::new();
        batch.write(block(1, "not written")).delete(BlockId(2));
        assert!(matches!(store.apply(batch), Err(Error::BlockNotFound { id: BlockId(2) })));
        assert_eq!(text(&store.read_block(BlockId(1)).expect("reads")), "changed");
    });
}

#[test]
fn transfers_between_threads_keep_the_sum_under_retries() {
    on_each(|store| {
        let amount = |block: &Block| text(block).parse::<i64>().expect("a number");
        let with =
            |id: u64, money: i64| Block::new(BlockId(id), BlockType::TableData, money.to_string());
        for id in 1..=8 {
            store.write_block(with(id, 100)).expect("writes");
        }
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..50 {
                        let (from, to) =
                            (1 + (thread + round) % 8, 1 + (thread * 3 + round * 5) % 8);
                        let moved = store.transact(IsolationLevel::Serializable, |tx| {
                            let (a, b) = (tx.read(BlockId(from))?, tx.read(BlockId(to))?);
                            if from != to {
                                tx.write(with(from, amount(&a) - 1))?;
                                tx.write(with(to, amount(&b) + 1))?;
                            }
                            Ok(())
                        });
                        assert!(matches!(moved, Ok(()) | Err(Error::Conflict { .. })), "{moved:?}");
                    }
                });
            }
        });
        let snapshot = store.snapshot().expect("holds");
        let sum: i64 = snapshot.range(..).expect("lists").map(|b| amount(&b.expect("reads"))).sum();
        assert_eq!(sum, 800);
    });
}
