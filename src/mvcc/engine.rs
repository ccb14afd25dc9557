//! The contract, written once: every [`StorageBackend`] method over what a backend does its own way.
//!
//! Owns the blanket implementation. A backend says, through [`Engine`], how a version becomes a block and how
//! a batch is committed; all checks on blocks, ids and transactions are here and in what both share
//! ([`Mvcc`]).

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Durability, OldestSnapshot, StorageBackend, StorageStats};
use crate::block::{Block, BlockId, Lsn, TransactionId};
use crate::callback;
use crate::error::{Error, Result};
use crate::mvcc::batch::{Batch, Operation};
use crate::mvcc::index::Versioned;
use crate::mvcc::state::Mvcc;
use crate::mvcc::turn::Turns;
use crate::mvcc::version::VersionLen;
use crate::order::ScanOrder;
use crate::sync::Process;
use crate::ticket::CommitTicket;
use crate::transaction::{IsolationLevel, Savepoint, ScanMark, ScanPage, WriteBatch};

/// Whoever reads a place that is gone looks for the new one, which is in the index before that. Without
/// one he would look for ever.
const UNMOVED: &str = "a segment went though somebody sees a block in it";

/// What a backend does its own way.
pub trait Engine: Send + Sync {
    /// A block's version as the index keeps it.
    #[expect(private_bounds, reason = "sealed: only the two backends of this crate implement it")]
    type Version: VersionLen;

    #[doc(hidden)]
    #[expect(private_interfaces, reason = "sealed, as above")]
    fn mvcc(&self) -> &Mvcc<Self::Version>;

    /// As [`StorageBackend::handle`].
    #[doc(hidden)]
    fn handle(&self) -> Option<Arc<dyn StorageBackend>>;

    #[doc(hidden)]
    /// The block of a version; `None` when the version was moved and the index knows its new place.
    fn fetch(&self, id: BlockId, version: &Self::Version) -> Result<Option<Block>>;

    #[doc(hidden)]
    #[expect(private_interfaces, reason = "sealed, as above")]
    fn hand_in(&self, batch: Batch, durability: Option<Durability>) -> Result<CommitTicket>;

    #[doc(hidden)]
    fn make_durable(&self) -> Result<()>;

    /// The newest commit known durable.
    #[doc(hidden)]
    fn durable_lsn(&self) -> Lsn;

    /// The time to some milliseconds, of which only differences mean anything.
    #[doc(hidden)]
    fn now(&self) -> Duration;

    /// Makes sure that somebody works at the commits that were handed in, if need be this thread.
    #[doc(hidden)]
    fn help_along(&self);

    /// Reads the blocks, this thread alone or together with others.
    #[doc(hidden)]
    fn read_many(&self, ids: &[BlockId]) -> Result<Vec<Block>>;

    /// Whether a commit may wait: for others, for a disk, or for a thread.
    #[doc(hidden)]
    fn commits_may_wait(&self) -> bool;

    /// Whether the store may be used: it is open, and this is the process that opened it. Comes before
    /// the first lock of every call.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Forked`].
    #[doc(hidden)]
    fn check_open(&self) -> Result<()>;

    /// The process that opened the store.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "sealed, as above")]
    fn process(&self) -> &Process;

    /// As [`Engine::check_open`], and refuses a store that is only read.
    #[doc(hidden)]
    fn check_writable(&self) -> Result<()> {
        self.check_open()
    }

    /// Adds what changes with each publication. Waits for nothing: the publisher waits meanwhile.
    #[doc(hidden)]
    fn tell_published(&self, stats: &mut StorageStats) {
        stats.durable_lsn = self.durable_lsn();
    }

    #[doc(hidden)]
    fn add_stats(&self, stats: &mut StorageStats);
}

impl<E: Engine> StorageBackend for E {
    fn write_block(&self, block: Block) -> Result<BlockId> {
        write(self, block, None)
    }

    fn write_block_with(&self, block: Block, durability: Durability) -> Result<BlockId> {
        write(self, block, Some(durability))
    }

    fn read_block(&self, id: BlockId) -> Result<Block> {
        self.check_open()?;
        let mvcc = self.mvcc();
        let mut version = mvcc.index.read(id)?.ok_or(Error::BlockNotFound { id })?;
        mvcc.counters.reads.add(1);
        loop {
            if let Some(block) = self.fetch(id, &version.value)? {
                return Ok(block);
            }
            let next = mvcc.index.read(id)?.ok_or(Error::BlockNotFound { id })?;
            assert!(next.value.place() != version.value.place(), "{UNMOVED}");
            version = next;
        }
    }

    fn delete_block(&self, id: BlockId) -> Result<()> {
        delete(self, id, None)
    }

    fn delete_block_with(&self, id: BlockId, durability: Durability) -> Result<()> {
        delete(self, id, Some(durability))
    }

    fn block_exists(&self, id: BlockId) -> Result<bool> {
        self.check_open()?;
        Ok(self.mvcc().index.read(id)?.is_some())
    }

    fn begin_transaction(&self) -> Result<TransactionId> {
        self.begin_transaction_at(IsolationLevel::Snapshot)
    }

    fn begin_transaction_at(&self, isolation: IsolationLevel) -> Result<TransactionId> {
        self.begin_transaction_within(isolation, Duration::ZERO)
    }

    fn begin_transaction_within(
        &self,
        isolation: IsolationLevel,
        timeout: Duration,
    ) -> Result<TransactionId> {
        self.check_open()?;
        let mvcc = self.mvcc();
        mvcc.keep_limits(|| self.now());
        let begun = mvcc.transactions.begin(isolation, self.now());
        match begun {
            Err(Error::TooManyTransactions { .. }) if !timeout.is_zero() => {
                callback::check_may_wait()?;
                self.help_along();
                mvcc.transactions.begin_within(isolation, timeout, || self.now())
            }
            begun => begun,
        }
    }

    fn write_block_in_tx(&self, tx: TransactionId, block: Block) -> Result<BlockId> {
        look_to_write(self)?;
        let mvcc = self.mvcc();
        mvcc.transactions.with(tx, |pending| {
            let is_named = block.header.block_id != BlockId(0);
            let block = mvcc.name_block(block, |id| pending.own(id).is_some())?;
            let id = block.header.block_id;
            pending.put(id, Operation::Write(block), mvcc.limits.transaction_len_max)?;
            if !is_named {
                pending.note_allocated(id);
            }
            Ok(id)
        })
    }

    fn read_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<Block> {
        look(self)?;
        // The transaction's lock is not held while the block is fetched: that may do I/O. Its pin
        // keeps the version; should it end meanwhile, this read came before the end.
        let mut gone = None;
        loop {
            match visible_in_tx(self.mvcc(), tx, id)? {
                ReadOutcome::Own(block) => return Ok(block),
                ReadOutcome::Committed(version) => {
                    if let Some(block) = self.fetch(id, &version.value)? {
                        self.mvcc().counters.reads.add(1);
                        return Ok(block);
                    }
                    let place = version.value.place();
                    assert!(gone.replace(place) != Some(place), "{UNMOVED}");
                }
                ReadOutcome::Nothing => return Err(Error::BlockNotFound { id }),
            }
        }
    }

    fn delete_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<()> {
        look_to_write(self)?;
        let mvcc = self.mvcc();
        mvcc.transactions.with(tx, |pending| {
            pending.note_read(id);
            let visible = match pending.own(id) {
                Some(own) => matches!(own, Operation::Write(_)),
                None => mvcc.read_for(pending.snapshot(), id)?.is_some(),
            };
            if !visible {
                return Err(Error::BlockNotFound { id });
            }
            pending.put(id, Operation::Delete, mvcc.limits.transaction_len_max)
        })
    }

    fn block_exists_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<bool> {
        look(self)?;
        Ok(!matches!(visible_in_tx(self.mvcc(), tx, id)?, ReadOutcome::Nothing))
    }

    fn commit_transaction(&self, tx: TransactionId) -> Result<()> {
        self.commit_transaction_with(tx, None).map(|_| ())
    }

    fn commit_transaction_with(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<Option<Lsn>> {
        if let Err(refused) = check_may_commit(self) {
            look(self)?;
            // What changed nothing commits without waiting.
            let changes = self.mvcc().transactions.with(tx, |pending| Ok(!pending.is_empty()))?;
            return if changes { Err(refused) } else { self.submit_transaction(tx, None)?.wait() };
        }
        self.submit_transaction(tx, durability)?.wait()
    }

    fn submit_transaction(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<CommitTicket> {
        look(self)?;
        let mvcc = self.mvcc();
        let batch = mvcc.start_commit(tx)?;
        // A transaction that changed nothing commits by ending.
        if batch.operations.is_empty() {
            mvcc.counters.commits.add(1);
            mvcc.end_transaction(Some(tx), &Ok(mvcc.index.visible()));
            return Ok(CommitTicket::answered(Ok(None), Durability::Durable));
        }
        hand_in(self, batch, durability)
            .inspect_err(|error| mvcc.end_transaction(Some(tx), &Err(error.clone())))
    }

    fn ids_in_tx(&self, tx: TransactionId, first: BlockId, last: BlockId) -> Result<Vec<BlockId>> {
        let (order, mark) = (ScanOrder::Ascending, ScanMark::LATEST);
        self.scan_in_tx(tx, &ScanPage { first, last, order, count_max: usize::MAX, mark })
    }

    fn scan_mark_in_tx(&self, tx: TransactionId) -> Result<ScanMark> {
        look(self)?;
        let mvcc = self.mvcc();
        // A transaction without operations stays one of which reads need no lock.
        let none = mvcc.transactions.with_view(tx, |_| Ok(ScanMark::NOTHING));
        none.unwrap_or_else(|| mvcc.transactions.with(tx, |pending| Ok(pending.scan_mark())))
    }

    fn scan_in_tx(&self, tx: TransactionId, page: &ScanPage) -> Result<Vec<BlockId>> {
        look(self)?;
        let mvcc = self.mvcc();
        let plain = mvcc.transactions.with_view(tx, |view| mvcc.scan(view.snapshot, page));
        plain.unwrap_or_else(|| {
            mvcc.transactions.with(tx, |pending| {
                let (ids, covered) = mvcc.scan_with_own(pending, page)?;
                pending.note_range(covered.0, covered.1);
                Ok(ids)
            })
        })
    }

    fn savepoint_in_tx(&self, tx: TransactionId) -> Result<Savepoint> {
        look(self)?;
        self.mvcc().transactions.with(tx, |pending| Ok(pending.savepoint(tx)))
    }

    fn rollback_to_savepoint(&self, tx: TransactionId, savepoint: Savepoint) -> Result<()> {
        look(self)?;
        self.mvcc().transactions.with(tx, |pending| pending.rollback_to(tx, savepoint))
    }

    fn apply(&self, batch: WriteBatch) -> Result<Vec<BlockId>> {
        apply(self, batch, None)
    }

    fn apply_with(&self, batch: WriteBatch, durability: Durability) -> Result<Vec<BlockId>> {
        apply(self, batch, Some(durability))
    }

    fn read_blocks(&self, ids: &[BlockId]) -> Result<Vec<Block>> {
        self.check_open()?;
        self.read_many(ids)
    }

    fn rollback_transaction(&self, tx: TransactionId) -> Result<()> {
        self.check_open()?;
        let mvcc = self.mvcc();
        mvcc.release(mvcc.transactions.rollback(tx)?);
        Ok(())
    }

    fn handle(&self) -> Option<Arc<dyn StorageBackend>> {
        Engine::handle(self)
    }

    fn turns(&self) -> Option<&Turns> {
        Some(&self.mvcc().turns)
    }

    fn sync(&self) -> Result<()> {
        self.check_open()?;
        self.make_durable()
    }

    fn sync_to(&self, lsn: Lsn) -> Result<()> {
        self.check_open()?;
        if lsn > self.mvcc().index.visible() {
            return Err(Error::InvalidArgument { argument: "lsn", reason: "no commit has it yet" });
        }
        if lsn <= self.durable_lsn() { Ok(()) } else { self.make_durable() }
    }

    fn oldest_snapshot(&self) -> Option<OldestSnapshot> {
        self.process().check().ok()?;
        self.mvcc().oldest_snapshot(self.now())
    }

    fn stats(&self) -> StorageStats {
        if !self.process().is_current() {
            return StorageStats::default();
        }
        let mut stats = self.mvcc().stats(self.now(), |stats| self.tell_published(stats));
        self.add_stats(&mut stats);
        stats
    }
}

/// What an operation of a transaction begins with.
fn look<E: Engine>(engine: &E) -> Result<()> {
    engine.check_open()?;
    engine.mvcc().keep_limits(|| engine.now());
    Ok(())
}

/// What an operation begins with that changes something.
fn look_to_write<E: Engine>(engine: &E) -> Result<()> {
    engine.check_writable()?;
    engine.mvcc().keep_limits(|| engine.now());
    Ok(())
}

/// What a call begins with that waits for its commit.
fn check_may_commit<E: Engine>(engine: &E) -> Result<()> {
    if engine.commits_may_wait() { callback::check_may_wait() } else { Ok(()) }
}

/// Hands a commit in, behind a turn that claims what it changes.
fn hand_in<E: Engine>(
    engine: &E,
    batch: Batch,
    durability: Option<Durability>,
) -> Result<CommitTicket> {
    engine.mvcc().turns.pass(&batch);
    engine.hand_in(batch, durability)
}

fn write<E: Engine>(engine: &E, block: Block, durability: Option<Durability>) -> Result<BlockId> {
    look_to_write(engine)?;
    check_may_commit(engine)?;
    if block.header.block_id == BlockId(0) {
        return until_free(|| write_new(engine, block.clone(), durability));
    }
    let block = engine.mvcc().name_block(block, |_| false)?;
    let id = block.header.block_id;
    hand_in(engine, Batch::write(block), durability)?.wait().map(|_| id)
}

fn write_new<E: Engine>(
    engine: &E,
    block: Block,
    durability: Option<Durability>,
) -> Result<BlockId> {
    let block = engine.mvcc().name_block(block, |_| false)?;
    let id = block.header.block_id;
    let batch = Batch { allocated: vec![id], ..Batch::write(block) };
    hand_in(engine, batch, durability)?.wait().map(|_| id)
}

/// Writes again, under another id, what was refused because a caller named the one that was allocated.
fn until_free<T>(mut write: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match write() {
            Err(Error::Conflict { .. }) => {}
            written => return written,
        }
    }
}

fn delete<E: Engine>(engine: &E, id: BlockId, durability: Option<Durability>) -> Result<()> {
    look_to_write(engine)?;
    check_may_commit(engine)?;
    hand_in(engine, Batch::delete(id), durability)?.wait().map(|_| ())
}

fn apply<E: Engine>(
    engine: &E,
    batch: WriteBatch,
    durability: Option<Durability>,
) -> Result<Vec<BlockId>> {
    look_to_write(engine)?;
    if !batch.is_empty() {
        check_may_commit(engine)?;
    }
    if batch.allocates() {
        return until_free(|| apply_once(engine, batch.clone(), durability));
    }
    apply_once(engine, batch, durability)
}

fn apply_once<E: Engine>(
    engine: &E,
    batch: WriteBatch,
    durability: Option<Durability>,
) -> Result<Vec<BlockId>> {
    let (ids, batch) = engine.mvcc().name_batch(batch)?;
    if batch.operations.is_empty() {
        return Ok(ids);
    }
    hand_in(engine, batch, durability)?.wait().map(|_| ids)
}

enum ReadOutcome<V> {
    Own(Block),
    Committed(Versioned<V>),
    Nothing,
}

fn visible_in_tx<V: VersionLen>(
    mvcc: &Mvcc<V>,
    tx: TransactionId,
    id: BlockId,
) -> Result<ReadOutcome<V>> {
    let committed = mvcc.transactions.with_view(tx, |view| {
        Ok(match mvcc.read_for(view.snapshot, id)? {
            Some(version) => ReadOutcome::Committed(version),
            None => ReadOutcome::Nothing,
        })
    });
    if let Some(seen) = committed {
        return seen;
    }
    mvcc.transactions.with(tx, |pending| {
        pending.note_read(id);
        Ok(match pending.own(id) {
            Some(Operation::Write(block)) => ReadOutcome::Own(block.clone()),
            Some(_) => ReadOutcome::Nothing,
            None => match mvcc.read_for(pending.snapshot(), id)? {
                Some(version) => ReadOutcome::Committed(version),
                None => ReadOutcome::Nothing,
            },
        })
    })
}
