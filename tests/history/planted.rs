//! Stores with a flaw, run by the recorder: the workload provokes each flaw, and its name is found.
//!
//! Owns [`Planted`]: memory, with one promise broken on the way in.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use aegis_blocks::IsolationLevel::{self, ReadCommitted, Serializable, Snapshot};
use aegis_blocks::testkit::history::Anomaly::{self, *};
use aegis_blocks::testkit::history::{Workload, check};
use aegis_blocks::testkit::{Rng, seed};
use aegis_blocks::{
    Block, BlockId, BlockType, CommitTicket, Durability, MemoryBackend, Result, StorageBackend,
    StorageStats, TransactionId, WriteBatch,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// None: the wrapper itself breaks nothing.
    None,
    /// Serializable transactions are not validated.
    SerializableIsSnapshot,
    /// Every transaction is read committed.
    AllReadCommitted,
    /// Writes are visible at once, and stay after rollback.
    WritesThrough,
    /// Reads in a transaction do not look at its own writes.
    ReadsPastOwnWrites,
    /// A transaction gets the snapshot that was taken when the one before it began.
    BeginsAhead,
    /// One read in a thousand returns other bytes.
    Garbles,
    /// Tickets tell what is visible, not where the commit is.
    VagueTickets,
}

struct Planted {
    inner: MemoryBackend,
    flaw: Flaw,
    ahead: Mutex<BTreeMap<u8, TransactionId>>,
    reads: AtomicU64,
}

impl Planted {
    fn new(flaw: Flaw) -> Planted {
        let inner = MemoryBackend::new();
        Planted { inner, flaw, ahead: Mutex::default(), reads: AtomicU64::new(0) }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn garbled(&self, block: Block) -> Block {
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        if self.has(Flaw::Garbles) && read % 1000 == 999 {
            return Block::new(block.header.block_id, BlockType::TableData, "other bytes");
        }
        block
    }
}

impl StorageBackend for Planted {
    fn begin_transaction(&self) -> Result<TransactionId> {
        self.begin_transaction_at(Snapshot)
    }

    fn begin_transaction_at(&self, isolation: IsolationLevel) -> Result<TransactionId> {
        let level = match self.flaw {
            Flaw::SerializableIsSnapshot if isolation == Serializable => Snapshot,
            Flaw::AllReadCommitted | Flaw::WritesThrough => ReadCommitted,
            _ => isolation,
        };
        let begun = self.inner.begin_transaction_at(level)?;
        if !self.has(Flaw::BeginsAhead) || isolation == ReadCommitted {
            return Ok(begun);
        }
        let mut ahead = self.ahead.lock().expect("no panic while it is held");
        let before = ahead.insert(u8::from(isolation == Serializable), begun);
        before.map_or_else(|| self.inner.begin_transaction_at(level), Ok)
    }

    fn write_block_in_tx(&self, tx: TransactionId, block: Block) -> Result<BlockId> {
        if self.has(Flaw::WritesThrough) {
            self.inner.write_block(block.clone())?;
        }
        self.inner.write_block_in_tx(tx, block)
    }

    fn read_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<Block> {
        if self.has(Flaw::ReadsPastOwnWrites) {
            return self.inner.read_block(id);
        }
        self.inner.read_block_in_tx(tx, id).map(|block| self.garbled(block))
    }

    fn submit_transaction(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<CommitTicket> {
        let ticket = self.inner.submit_transaction(tx, durability)?;
        if !self.has(Flaw::VagueTickets) {
            return Ok(ticket);
        }
        ticket.wait()?;
        std::thread::yield_now();
        Ok(CommitTicket::answered(Ok(Some(self.inner.stats().visible_lsn)), Durability::Durable))
    }

    fn write_block(&self, block: Block) -> Result<BlockId> {
        self.inner.write_block(block)
    }

    fn read_block(&self, id: BlockId) -> Result<Block> {
        self.inner.read_block(id)
    }

    fn delete_block(&self, id: BlockId) -> Result<()> {
        self.inner.delete_block(id)
    }

    fn block_exists(&self, id: BlockId) -> Result<bool> {
        self.inner.block_exists(id)
    }

    fn delete_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<()> {
        self.inner.delete_block_in_tx(tx, id)
    }

    fn block_exists_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<bool> {
        self.inner.block_exists_in_tx(tx, id)
    }

    fn ids_in_tx(&self, tx: TransactionId, first: BlockId, last: BlockId) -> Result<Vec<BlockId>> {
        self.inner.ids_in_tx(tx, first, last)
    }

    fn commit_transaction(&self, tx: TransactionId) -> Result<()> {
        self.inner.commit_transaction(tx)
    }

    fn rollback_transaction(&self, tx: TransactionId) -> Result<()> {
        self.inner.rollback_transaction(tx)
    }

    fn apply(&self, batch: WriteBatch) -> Result<Vec<BlockId>> {
        self.inner.apply(batch)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn stats(&self) -> StorageStats {
        self.inner.stats()
    }
}

/// Histories that are recorded until all names are found.
const RUN_COUNT_MAX: u64 = 30;

/// Runs the workload on a flawed store until every expected name was found.
fn assert_caught(flaw: Flaw, expected: &[Anomaly]) {
    let fixed = seed(0x00F1_A305);
    let (mut rng, mut missing) = (Rng::new(fixed), expected.to_vec());
    for run in 1..=RUN_COUNT_MAX {
        let store = Planted::new(flaw);
        let history = Workload::new(rng.next_u64()).run(&store).expect("the store breaks no call");
        let verdict = check(&history);
        missing.retain(|anomaly| !verdict.has(*anomaly));
        if missing.is_empty() {
            let mut count: BTreeMap<Anomaly, u32> = BTreeMap::new();
            verdict.findings.iter().for_each(|found| *count.entry(found.anomaly).or_default() += 1);
            return println!(
                "{flaw:?}, caught after {run} runs (seed {fixed}); the last: {count:?}"
            );
        }
    }
    panic!("{flaw:?} is not caught as {missing:?} (seed {fixed})");
}

#[test]
fn wrapper_without_a_flaw_is_clean() {
    let store = Planted::new(Flaw::None);
    let history = Workload::new(seed(0x00F1_A305)).run(&store).expect("the store breaks no call");
    crate::assert_clean(&history, &check(&history));
}

#[test]
fn skew_and_read_only_anomaly_are_caught_where_serializable_is_snapshot() {
    let expected = [WriteSkew, RangeSkew, ReadOnlyAnomaly, UnvalidatedRead];
    assert_caught(Flaw::SerializableIsSnapshot, &expected);
}

#[test]
fn lost_updates_and_moving_snapshots_are_caught_where_all_is_read_committed() {
    let expected = [NonRepeatableRead, FracturedRead, PhantomRead, LateRead, LostUpdate];
    assert_caught(Flaw::AllReadCommitted, &expected);
}

#[test]
fn dirty_aborted_and_intermediate_reads_are_caught_where_writes_go_through() {
    assert_caught(Flaw::WritesThrough, &[DirtyRead, AbortedRead, IntermediateRead]);
}

#[test]
fn own_writes_unseen_are_caught() {
    assert_caught(Flaw::ReadsPastOwnWrites, &[OwnWriteLost]);
}

#[test]
fn old_snapshots_are_caught() {
    assert_caught(Flaw::BeginsAhead, &[StaleRead]);
}

#[test]
fn bytes_that_no_thread_wrote_are_caught() {
    assert_caught(Flaw::Garbles, &[Garbage]);
}

#[test]
fn tickets_with_the_lsn_of_another_commit_are_caught() {
    assert_caught(Flaw::VagueTickets, &[SharedLsn]);
}
