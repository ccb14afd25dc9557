//! A backend that is right by being simple, with places where one [`Flaw`] can be planted.
//!
//! Owns [`Reference`]: one lock around a [`State`]. Shares no code with the backends of the crate or
//! with the kit's model.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use aegis_blocks::{
    Block, BlockId, Error, Lsn, Result, StorageBackend, StorageStats, TransactionId,
    TransactionState,
};

use crate::flaws::Flaw;
use crate::state::{Ops, State};

pub struct Reference {
    flaw: Option<Flaw>,
    state: Mutex<State>,
}

impl Reference {
    pub fn new(flaw: Option<Flaw>) -> Reference {
        Reference { flaw, state: Mutex::new(State::new(flaw)) }
    }

    pub fn reopened(self) -> Reference {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.plant_at_reopen();
        state.restart();
        Reference { flaw: self.flaw, state: Mutex::new(state) }
    }

    pub fn crashed(self) -> Reference {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.plant_at_crash();
        state.restart();
        Reference { flaw: self.flaw, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets others in for a while where this flaw is planted.
    fn window<'a>(&'a self, state: MutexGuard<'a, State>, flaw: Flaw) -> MutexGuard<'a, State> {
        if self.flaw != Some(flaw) {
            return state;
        }
        drop(state);
        for _ in 0..200 {
            thread::yield_now();
        }
        self.lock()
    }
}

impl StorageBackend for Reference {
    fn write_block(&self, mut block: Block) -> Result<BlockId> {
        let mut state = self.lock();
        state.check_header(&block)?;
        let begun = state.lsn;
        state = self.window(state, Flaw::SingleWritesValidate);
        let next = state.next_id;
        state = self.window(state, Flaw::RacyAllocation);
        if state.has(Flaw::RacyAllocation) {
            state.next_id = next;
        }
        let id = state.place(&mut block)?;
        let pending = state.open.values().any(|tx| tx.ops.contains_key(&id));
        let changed = state.changed_since(id, begun);
        if state.has(Flaw::SingleWaitsForPending) && pending
            || state.has(Flaw::SingleWritesValidate) && changed
        {
            return Err(state.conflict(id, begun));
        }
        state.apply(BTreeMap::from([(id, Some(block))]), true);
        Ok(BlockId(id))
    }

    fn read_block(&self, id: BlockId) -> Result<Block> {
        let mut state = self.lock();
        state.quirks.reads += 1;
        let found = state.single_read(state.key(id));
        state.answer(id, found)
    }

    fn delete_block(&self, id: BlockId) -> Result<()> {
        let mut state = self.lock();
        let key = state.key(id);
        if state.read_at(key, u64::MAX).is_none() {
            let fine = state.has(Flaw::DeletingNothingIsFine);
            return if fine { Ok(()) } else { Err(Error::BlockNotFound { id }) };
        }
        state = self.window(state, Flaw::RacyDelete);
        if !state.has(Flaw::DeleteDoesNothing) {
            state.apply(BTreeMap::from([(key, None)]), true);
        }
        Ok(())
    }

    fn block_exists(&self, id: BlockId) -> Result<bool> {
        let state = self.lock();
        if id == BlockId(0) && state.has(Flaw::ZeroExists) {
            return Ok(true);
        }
        Ok(state.single_read(state.key(id)).is_some())
    }

    fn begin_transaction(&self) -> Result<TransactionId> {
        Ok(self.lock().begin())
    }

    fn write_block_in_tx(&self, tx: TransactionId, mut block: Block) -> Result<BlockId> {
        let mut state = self.lock();
        state.active(tx)?;
        if let Err(e) = state.check_header(&block) {
            return state.failed(tx, e);
        }
        let id = state.place(&mut block)?;
        if state.has(Flaw::CountsAttempts) {
            state.counters.write_ops += 1;
        }
        if state.has(Flaw::WritesThrough) {
            state.apply(BTreeMap::from([(id, Some(block))]), false);
            return Ok(BlockId(id));
        }
        let first_wins = state.has(Flaw::FirstOperationWins);
        let delete_wins = state.has(Flaw::PendingDeleteBeatsWrite);
        let ops = &mut state.active(tx)?.ops;
        match ops.get(&id) {
            Some(_) if first_wins => {}
            Some(None) if delete_wins => {}
            _ => drop(ops.insert(id, Some(block))),
        }
        Ok(BlockId(id))
    }

    fn read_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<Block> {
        let mut state = self.lock();
        let key = state.key(id);
        if state.has(Flaw::EndedStillReads) && !state.open.contains_key(&tx.0) {
            return state.answer(id, state.read_at(key, u64::MAX));
        }
        state.active(tx)?.read.insert(key);
        let found = state.read_in(tx, key)?;
        match state.answer(id, found) {
            Err(e) => state.failed(tx, e),
            block => block,
        }
    }

    fn delete_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<()> {
        let mut state = self.lock();
        let key = state.key(id);
        if state.read_in(tx, key)?.is_none() {
            let fine = state.has(Flaw::DeletingNothingIsFine);
            let absent = Error::BlockNotFound { id };
            return if fine { Ok(()) } else { state.failed(tx, absent) };
        }
        let first_wins = state.has(Flaw::FirstOperationWins);
        let write_wins = state.has(Flaw::PendingWriteBeatsDelete);
        let ops = &mut state.active(tx)?.ops;
        match ops.get(&key) {
            Some(_) if first_wins => {}
            Some(Some(_)) if write_wins => {}
            _ => drop(ops.insert(key, None)),
        }
        Ok(())
    }

    fn block_exists_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<bool> {
        let mut state = self.lock();
        let key = state.key(id);
        state.active(tx)?.read.insert(key);
        Ok(state.read_in(tx, key)?.is_some())
    }

    fn commit_transaction(&self, tx: TransactionId) -> Result<()> {
        let mut state = self.lock();
        if let Some(fine) = state.ended_before_commit(tx) {
            return fine;
        }
        let taken = state.active(tx)?.clone();
        state = self.window(state, Flaw::RacyEnd);
        state = self.window(state, Flaw::CommitForgetsLateWrites);
        if state.has(Flaw::CommitForgetsLateWrites) {
            state.active(tx)?;
        }
        if taken.ops.is_empty() && state.has(Flaw::EmptyCommitIsRefused) {
            return Err(Error::InvalidArgument { argument: "tx", reason: "it has no operations" });
        }
        if let Some(lost) = state.validate(tx, &taken) {
            return Err(state.refuse(tx, taken, lost));
        }
        state = self.window(state, Flaw::RacyValidation);
        let mut ops = taken.ops;
        if state.has(Flaw::CommitsHalf) {
            ops.split_off(&middle(&ops));
        }
        while ops.len() > 512 && state.has(Flaw::At512Operations) {
            ops.pop_last();
        }
        if state.has(Flaw::CommitInTwoSteps) {
            let rest = ops.split_off(&middle(&ops));
            state.apply(ops, false);
            ops = rest;
            state = self.window(state, Flaw::CommitInTwoSteps);
        }
        let copy = state.has(Flaw::RacyCopy).then(|| state.versions.clone());
        state = self.window(state, Flaw::RacyCopy);
        if let Some(copy) = copy {
            state.versions = copy;
        }
        state.apply(ops, false);
        state.end(tx, TransactionState::Committed);
        Ok(())
    }

    fn rollback_transaction(&self, tx: TransactionId) -> Result<()> {
        let mut state = self.lock();
        match state.ended.get(&tx.0) {
            Some(TransactionState::RolledBack) if !state.has(Flaw::RollbackTwiceIsRefused) => {
                return Ok(());
            }
            Some(TransactionState::Committed) if state.has(Flaw::RollbackAfterCommitIsFine) => {
                return Ok(());
            }
            _ => {}
        }
        let taken = state.active(tx)?.clone();
        state = self.window(state, Flaw::RacyEnd);
        state.rolled_back(&taken);
        state.end(tx, TransactionState::RolledBack);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.lock();
        if !state.has(Flaw::SyncDoesNothing) {
            state.counters.durable_lsn = Lsn(state.lsn);
        }
        Ok(())
    }

    fn stats(&self) -> StorageStats {
        self.lock().stats()
    }
}

/// The id at which the second half of the operations begins; the first half has at least one.
fn middle(ops: &Ops) -> u64 {
    ops.keys().nth(ops.len().div_ceil(2)).copied().unwrap_or(u64::MAX)
}
