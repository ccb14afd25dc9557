//! Which transactions of the reference backend are refused, and with which error.

use aegis_blocks::{Block, BlockId, Error, IsolationLevel, Lsn, TransactionId, TransactionState};

use super::{Open, State};
use crate::flaws::Flaw;

impl State {
    pub fn changed_since(&self, id: u64, snapshot: u64) -> bool {
        let last = self.versions.get(&id).and_then(|versions| versions.last());
        last.is_some_and(|version| version.lsn > snapshot)
    }

    /// Returns a block that another commit changed since the snapshot.
    pub fn validate(&self, id: TransactionId, tx: &Open) -> Option<u64> {
        if tx.reads_newest(self.flaw) {
            return None;
        }
        let lost = tx.ops.iter().find(|(key, op)| self.is_lost(id, tx, **key, op.as_ref()));
        let lost = lost.map(|(key, _)| *key);
        match self.flaw {
            Some(Flaw::NoValidation) => None,
            Some(Flaw::OneConflictForAll) if self.lsn > tx.snapshot => {
                tx.ops.keys().next().copied()
            }
            Some(Flaw::ValidatesReads) => {
                let read = tx.read.iter().find(|key| self.changed_since(**key, tx.snapshot));
                lost.or(read.copied())
            }
            _ => lost.or_else(|| self.read_is_lost(tx)),
        }
    }

    /// Returns a block that a serializable transaction has read, or a range it listed, and
    /// another commit changed.
    fn read_is_lost(&self, tx: &Open) -> Option<u64> {
        if tx.isolation != IsolationLevel::Serializable
            || tx.ops.is_empty()
            || self.has(Flaw::SerializableIsSnapshot)
        {
            return None;
        }
        let within = |key: &u64| tx.ranges.iter().any(|(first, last)| first <= key && key <= last);
        let seen = |key: &u64| {
            let absent = tx.absent.contains(key) && self.has(Flaw::AbsenceNotValidated);
            tx.read.contains(key) && !absent || within(key) && !self.has(Flaw::RangesNotValidated)
        };
        let mut keys = self.versions.keys().filter(|key| seen(key));
        keys.find(|key| self.changed_since(**key, tx.snapshot)).copied()
    }

    pub fn is_lost(&self, id: TransactionId, tx: &Open, key: u64, op: Option<&Block>) -> bool {
        let last = self.versions.get(&key).and_then(|versions| versions.last());
        let before = self.read_at(key, tx.snapshot);
        let changed = self.changed_since(key, tx.snapshot);
        match self.flaw {
            Some(Flaw::DeletesNotValidated) if op.is_none() => false,
            Some(Flaw::DeletesAreNoChange) => {
                changed && last.is_some_and(|version| version.block.is_some())
            }
            Some(Flaw::CreationsNotValidated) if before.is_none() => false,
            Some(Flaw::ComparesBytes) => {
                changed && before != last.and_then(|version| version.block.clone())
            }
            Some(Flaw::FirstWriterWins) => {
                changed || self.open.range(..id.0).any(|(_, older)| older.ops.contains_key(&key))
            }
            Some(Flaw::SingleOperationsNotSeen) => {
                changed && last.is_some_and(|version| !version.single)
            }
            Some(Flaw::RolledBackIsAChange) => changed || self.quirks.rolled_back.contains(&key),
            Some(Flaw::SnapshotOffByOne) => {
                changed || last.is_some_and(|version| version.lsn == tx.snapshot)
            }
            _ => changed,
        }
    }

    pub fn conflict(&self, id: u64, snapshot: u64) -> Error {
        let found = self.versions.get(&id).and_then(|versions| versions.last());
        let found = Lsn(found.map_or(snapshot + 1, |version| version.lsn));
        Error::Conflict { id: BlockId(id), snapshot: Lsn(snapshot), found }
    }

    pub fn refuse(&mut self, id: TransactionId, mut tx: Open, lost: u64) -> Error {
        self.counters.conflicts += 1;
        let named = match tx.ops.keys().next() {
            Some(first) if self.has(Flaw::ConflictNamesAnyBlock) => *first,
            _ => lost,
        };
        let error = self.conflict(named, tx.snapshot);
        if self.has(Flaw::ConflictAppliesTheRest) {
            tx.ops.remove(&lost);
            self.apply(tx.ops, false);
            self.end(id, TransactionState::RolledBack);
        } else if !self.has(Flaw::ConflictStaysOpen) {
            self.rolled_back(&tx);
            self.end(id, TransactionState::RolledBack);
        }
        error
    }
}
