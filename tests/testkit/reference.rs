//! A backend that is right by being simple, with places where one [`Flaw`] can be planted.
//!
//! Owns [`Reference`]: one lock around a [`State`]. Shares no code with the backends of the crate
//! or with the kit's model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use aegis_blocks::{
    BatchOperation, Block, BlockId, CommitTicket, Durability, Error, IsolationLevel, Lsn, Result,
    Savepoint, StorageBackend, StorageStats, TransactionId, TransactionState, WriteBatch,
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

    /// Commits and returns the LSN of what was changed, taken under the same lock.
    fn commit(&self, tx: TransactionId) -> Result<Option<u64>> {
        let mut state = self.lock();
        if let Some(fine) = state.ended_before_commit(tx) {
            return fine.map(|()| None);
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
        let changes = !ops.is_empty();
        state.apply(ops, false);
        state.end(tx, TransactionState::Committed);
        Ok(changes.then_some(state.lsn))
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
        let id = state.place(&mut block, &BTreeSet::new())?;
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
        self.begin_transaction_at(IsolationLevel::Snapshot)
    }

    fn write_block_in_tx(&self, tx: TransactionId, mut block: Block) -> Result<BlockId> {
        let mut state = self.lock();
        state.active(tx)?;
        if let Err(e) = state.check_header(&block) {
            return state.failed(tx, e);
        }
        let own = state.active(tx)?.ops.keys().copied().collect();
        let id = state.place(&mut block, &own)?;
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
        let found = state.read_in(tx, key)?;
        state.active(tx)?.note_read(key, found.is_some());
        match state.answer(id, found) {
            Err(e) => state.failed(tx, e),
            block => block,
        }
    }

    fn delete_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<()> {
        let mut state = self.lock();
        let key = state.key(id);
        let found = state.read_in(tx, key)?.is_some();
        state.active(tx)?.note_read(key, found);
        if !found {
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
        let found = state.read_in(tx, key)?.is_some();
        state.active(tx)?.note_read(key, found);
        Ok(found)
    }

    fn commit_transaction(&self, tx: TransactionId) -> Result<()> {
        self.commit(tx).map(|_| ())
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

    fn begin_transaction_at(&self, isolation: IsolationLevel) -> Result<TransactionId> {
        Ok(self.lock().begin(isolation))
    }

    fn submit_transaction(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<CommitTicket> {
        let done = match self.flaw {
            Some(Flaw::SubmitDoesNotCommit) => self.rollback_transaction(tx).map(|()| Some(1)),
            _ => self.commit(tx),
        };
        let lsn = match done {
            Err(Error::Conflict { .. }) if self.flaw == Some(Flaw::TicketHidesConflicts) => None,
            done => done?,
        };
        if durability == Some(Durability::Durable) && self.flaw != Some(Flaw::IgnoresDurability) {
            self.sync()?;
        }
        let lsn = lsn.map(|lsn| match self.flaw {
            Some(Flaw::TicketNamesAnother) => Lsn(lsn - 1),
            Some(Flaw::TicketsNameTheFirst) => Lsn(1),
            _ => Lsn(lsn),
        });
        Ok(CommitTicket::answered(Ok(lsn), Durability::Durable))
    }

    fn ids_in_tx(&self, tx: TransactionId, first: BlockId, last: BlockId) -> Result<Vec<BlockId>> {
        let mut state = self.lock();
        let open = state.active(tx)?;
        open.ranges.push((first.0, last.0));
        let mut keys: BTreeSet<u64> = open.ops.keys().copied().collect();
        let (own, snapshot) = (open.ops.clone(), open.snapshot);
        keys.extend(state.versions.keys());
        let mut ids = Vec::new();
        let flaw = self.flaw;
        for key in keys.range(first.0..=last.0) {
            let committed = state.read_at(*key, snapshot).is_some();
            let seen = match (flaw, own.get(key)) {
                (Some(Flaw::RangeWithoutOwnWrites), Some(Some(_))) => committed,
                (Some(Flaw::RangeWithOwnDeletes), Some(None)) => committed,
                (Some(Flaw::RangeOfTheNewest), None) => state.read_at(*key, u64::MAX).is_some(),
                _ => state.read_in(tx, *key)?.is_some(),
            };
            let cut = flaw == Some(Flaw::RangeWithoutItsEnd) && *key == last.0;
            ids.extend((seen && !cut).then_some(BlockId(*key)));
        }
        Ok(ids)
    }

    fn savepoint_in_tx(&self, tx: TransactionId) -> Result<Savepoint> {
        let mut state = self.lock();
        let open = state.active(tx)?;
        open.next_savepoint += 1;
        open.savepoints.push((open.next_savepoint, open.ops.clone()));
        Ok(Savepoint::new(tx, open.next_savepoint))
    }

    fn rollback_to_savepoint(&self, tx: TransactionId, savepoint: Savepoint) -> Result<()> {
        let mut state = self.lock();
        let (any, stay) =
            (state.has(Flaw::AnySavepointWillDo), state.has(Flaw::UndoneSavepointsStay));
        let (all, nothing) =
            (state.has(Flaw::SavepointUndoesAll), state.has(Flaw::SavepointUndoesNothing));
        let open = state.active(tx)?;
        let own = savepoint.transaction() == tx || any;
        let at = open.savepoints.iter().position(|(serial, _)| *serial == savepoint.serial());
        let Some(at) = at.filter(|_| own) else {
            let reason = "is of another transaction, or was undone";
            return Err(Error::InvalidArgument { argument: "savepoint", reason });
        };
        let marked = open.savepoints[at].1.clone();
        if !stay {
            open.savepoints.truncate(at + 1);
        }
        match (all, nothing) {
            (true, _) => open.ops.clear(),
            (_, true) => {}
            _ => open.ops = marked,
        }
        Ok(())
    }

    fn apply(&self, batch: WriteBatch) -> Result<Vec<BlockId>> {
        let (mut state, mut ids) = (self.lock(), Vec::new());
        let mut ops = Ops::new();
        let named = batch.operations().iter().filter_map(|operation| match operation {
            BatchOperation::Write(block) => Some(block.header.block_id.0),
            _ => None,
        });
        let named = named.collect();
        for operation in batch {
            let (key, op) = match operation {
                BatchOperation::Write(mut block) => {
                    state.check_header(&block)?;
                    let key = state.place(&mut block, &named)?;
                    ids.push(BlockId(key));
                    (key, Some(block))
                }
                BatchOperation::Delete(id) => {
                    let made = !state.has(Flaw::BatchDeletesOnlyCommitted);
                    let seen = match ops.get(&id.0) {
                        Some(op) if made => op.is_some(),
                        _ => state.read_at(id.0, u64::MAX).is_some(),
                    };
                    if !seen {
                        return Err(Error::BlockNotFound { id });
                    }
                    (id.0, None)
                }
                _ => return Err(Error::Unsupported { operation: "this operation of a batch" }),
            };
            if state.has(Flaw::BatchInSteps) {
                state.apply(Ops::from([(key, op)]), false);
            } else if !(state.has(Flaw::BatchFirstWins) && ops.contains_key(&key)) {
                ops.insert(key, op);
            }
        }
        if !ops.is_empty() {
            state.apply(ops, false);
        }
        Ok(ids)
    }

    fn read_blocks(&self, ids: &[BlockId]) -> Result<Vec<Block>> {
        let mut ids = ids.to_vec();
        if self.flaw == Some(Flaw::ReadsInStoreOrder) {
            ids.sort_unstable();
        }
        let read = ids.into_iter().map(|id| self.read_block(id));
        match self.flaw {
            Some(Flaw::ReadsLeaveOut) => Ok(read.filter_map(Result::ok).collect()),
            _ => read.collect(),
        }
    }

    fn sync_to(&self, lsn: Lsn) -> Result<()> {
        if lsn.0 > self.lock().lsn && self.flaw != Some(Flaw::SyncToTakesAnyLsn) {
            return Err(Error::InvalidArgument { argument: "lsn", reason: "no commit has it yet" });
        }
        if self.flaw == Some(Flaw::SyncToDoesNothing) { Ok(()) } else { self.sync() }
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
