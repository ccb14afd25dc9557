//! Transactions as handles, on memory and local: isolation levels, savepoints, batches,
//! [`tickets`], and [`walks`] over ranges.

#[path = "../support/backends.rs"]
mod backends;
#[path = "../support/block.rs"]
mod block;
mod tickets;
mod walks;

use std::sync::Arc;

use aegis_blocks::{
    Block, BlockId, BlockType, Durability, Error, IsolationLevel, LocalBackend, Lsn, MemoryBackend,
    StorageBackend, StorageExt, TransactionId, WriteBatch,
};

use block::block;

/// Runs a check on each backend, with blocks 1 and 2 in the store.
fn on_each(check: impl Fn(Arc<dyn StorageBackend>)) {
    let dir = tempfile::tempdir().expect("a directory");
    let local = LocalBackend::open(dir.path().join("store")).expect("opens");
    backends::on_each(local, check);
}

fn text(block: &Block) -> &str {
    std::str::from_utf8(&block.data).expect("text")
}

/// Each of two transactions reads what the other writes.
fn write_skew(
    store: &Arc<dyn StorageBackend>,
    isolation: IsolationLevel,
) -> Result<Option<Lsn>, Error> {
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
fn batch_is_allocated_no_id_that_it_names() {
    on_each(|store| {
        let mut batch = WriteBatch::new();
        batch.write(block(0, "a")).write(block(3, "b")).write(block(0, "c")).write(block(5, "d"));
        let ids = store.apply(batch).expect("applies");
        assert_eq!(ids, [4, 3, 6, 5].map(BlockId));
        let found = store.read_blocks(&ids).expect("reads");
        assert_eq!(found.iter().map(text).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    });
}

#[test]
fn id_that_was_allocated_and_named_by_another_commit_is_a_conflict_at_each_level() {
    on_each(|store| {
        let levels =
            [IsolationLevel::ReadCommitted, IsolationLevel::Snapshot, IsolationLevel::Serializable];
        for level in levels {
            let tx = store.begin_at(level).expect("begins");
            let id = tx.write(block(0, "allocated")).expect("writes");
            store.write_block(block(id.0, "named")).expect("writes");
            let refused = tx.commit();
            assert!(matches!(refused, Err(Error::Conflict { id: named, .. }) if named == id));
            assert_eq!(text(&store.read_block(id).expect("reads")), "named");
        }
    });
}

/// A backend that implements only what it must, and so has every default of the trait.
struct Plain(MemoryBackend);

impl StorageBackend for Plain {
    fn write_block(&self, block: Block) -> aegis_blocks::Result<BlockId> {
        self.0.write_block(block)
    }
    fn read_block(&self, id: BlockId) -> aegis_blocks::Result<Block> {
        self.0.read_block(id)
    }
    fn delete_block(&self, id: BlockId) -> aegis_blocks::Result<()> {
        self.0.delete_block(id)
    }
    fn block_exists(&self, id: BlockId) -> aegis_blocks::Result<bool> {
        self.0.block_exists(id)
    }
    fn begin_transaction(&self) -> aegis_blocks::Result<TransactionId> {
        self.0.begin_transaction()
    }
    fn write_block_in_tx(&self, tx: TransactionId, block: Block) -> aegis_blocks::Result<BlockId> {
        self.0.write_block_in_tx(tx, block)
    }
    fn read_block_in_tx(&self, tx: TransactionId, id: BlockId) -> aegis_blocks::Result<Block> {
        self.0.read_block_in_tx(tx, id)
    }
    fn delete_block_in_tx(&self, tx: TransactionId, id: BlockId) -> aegis_blocks::Result<()> {
        self.0.delete_block_in_tx(tx, id)
    }
    fn block_exists_in_tx(&self, tx: TransactionId, id: BlockId) -> aegis_blocks::Result<bool> {
        self.0.block_exists_in_tx(tx, id)
    }
    fn commit_transaction(&self, tx: TransactionId) -> aegis_blocks::Result<()> {
        self.0.commit_transaction(tx)
    }
    fn rollback_transaction(&self, tx: TransactionId) -> aegis_blocks::Result<()> {
        self.0.rollback_transaction(tx)
    }
    fn sync(&self) -> aegis_blocks::Result<()> {
        self.0.sync()
    }
    fn stats(&self) -> aegis_blocks::StorageStats {
        self.0.stats()
    }
}

/// Runs a check on each backend and on the trait's defaults.
fn on_each_and_defaults(check: impl Fn(Arc<dyn StorageBackend>)) {
    on_each(&check);
    let plain: Arc<dyn StorageBackend> = Arc::new(Plain(MemoryBackend::new()));
    for id in [1, 2] {
        plain.write_block(block(id, "old")).expect("writes");
    }
    check(plain);
}

/// Adds operations to a batch.
type Make = fn(&mut WriteBatch) -> &mut WriteBatch;

#[test]
fn batch_takes_effect_as_if_one_operation_followed_the_other() {
    on_each_and_defaults(|store| {
        let holds = |id, data: Option<&str>| match (store.read_block(BlockId(id)), data) {
            (Ok(found), Some(data)) => assert_eq!(text(&found), data, "block {id}"),
            (Err(Error::BlockNotFound { .. }), None) => {}
            (found, data) => panic!("block {id}: {found:?}, not {data:?}"),
        };
        let mut batch = WriteBatch::new();
        batch.write(block(7, "never there")).delete(BlockId(7));
        batch.write(block(1, "replaced")).delete(BlockId(1));
        batch.delete(BlockId(2)).write(block(2, "again")).write(block(2, "last"));
        batch.write(block(8, "first")).delete(BlockId(8)).write(block(8, "second"));
        let ids = store.apply(batch).expect("applies");
        assert_eq!(ids, [7, 1, 2, 2, 8, 8].map(BlockId));
        holds(7, None);
        holds(1, None);
        holds(2, Some("last"));
        holds(8, Some("second"));
        assert_eq!((store.stats().total_blocks, store.stats().total_bytes), (2, 10));

        let refused: [(Make, u64); 3] = [
            (|batch| batch.delete(BlockId(8)).delete(BlockId(8)), 8),
            (|batch| batch.delete(BlockId(9)).write(block(9, "too late")), 9),
            (|batch| batch.write(block(9, "own")).delete(BlockId(9)).delete(BlockId(9)), 9),
        ];
        for (make, absent) in refused {
            let mut batch = WriteBatch::new();
            batch.write(block(2, "not written"));
            make(&mut batch);
            let answer = store.apply(batch);
            assert!(matches!(answer, Err(Error::BlockNotFound { id }) if id.0 == absent));
            holds(2, Some("last"));
            holds(8, Some("second"));
            holds(9, None);
        }
    });
}

#[test]
fn commit_names_its_own_lsn_or_none() {
    on_each(|store| {
        assert_eq!(store.begin().expect("begins").commit().expect("commits"), None);
        let tx = store.begin().expect("begins");
        tx.write(block(0, "new")).expect("writes");
        assert_eq!(tx.commit().expect("commits"), Some(Lsn(3)));
    });
    let plain: Arc<dyn StorageBackend> = Arc::new(Plain(MemoryBackend::new()));
    for (durability, durable) in [(Durability::Buffered, false), (Durability::Durable, true)] {
        let tx = plain.begin().expect("begins");
        tx.write(block(0, "new")).expect("writes");
        let ticket = tx.submit_with(durability).expect("hands in");
        assert_eq!(
            (ticket.lsn(), ticket.is_durable()),
            (None, durable),
            "who cannot tell does not"
        );
        assert_eq!(ticket.wait().expect("commits"), None);
    }
}

#[test]
fn sync_to_refuses_an_lsn_that_no_commit_has() {
    on_each_and_defaults(|store| {
        store.sync_to(Lsn(0)).expect("nothing to do");
        store.sync_to(Lsn(2)).expect("syncs");
        let refused = store.sync_to(Lsn(3));
        assert!(matches!(refused, Err(Error::InvalidArgument { argument: "lsn", .. })));
        store.write_block_with(block(3, "three"), Durability::Buffered).expect("writes");
        store.sync_to(Lsn(3)).expect("syncs");
        assert!(store.stats().durable_lsn >= Lsn(3));
    });
}

#[test]
fn sync_to_does_nothing_for_what_is_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = LocalBackend::open(dir.path().join("store")).expect("opens");
    store.write_block(block(1, "durable")).expect("writes");
    store.write_block_with(block(2, "not yet"), Durability::Buffered).expect("writes");
    let syncs = store.stats().log_syncs;
    store.sync_to(Lsn(1)).expect("nothing to do");
    assert_eq!(store.stats().log_syncs, syncs, "the first commit was durable");
    store.sync_to(Lsn(2)).expect("syncs");
    assert!(store.stats().durable_lsn >= Lsn(2));
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
