//! The versions, transactions and counters of the reference backend, and most of the places where a
//! [`Flaw`] can be planted.
//!
//! Owns [`State`]: a map from id to versions. A commit validates, takes the next LSN and pushes a
//! version for each of its operations; a snapshot is an LSN. Versions that no open transaction can
//! see are dropped at commit and at the end of transactions.

mod conflicts;
mod ids;
mod reopen;

use std::collections::{BTreeMap, BTreeSet};
use std::thread::{self, ThreadId};

use aegis_blocks::{
    Block, BlockId, Error, IsolationLevel, Lsn, Result, StorageStats, TransactionId,
    TransactionState,
};

use crate::flaws::Flaw;

pub struct State {
    pub flaw: Option<Flaw>,
    pub versions: BTreeMap<u64, Vec<Version>>,
    /// Ids with versions that may be dropped later.
    pub dirty: BTreeSet<u64>,
    pub lsn: u64,
    pub next_id: Option<u64>,
    /// The last id that was handed out when the top was used up.
    pub below: u64,
    pub next_tx: u64,
    pub open: BTreeMap<u64, Open>,
    pub ended: BTreeMap<u64, TransactionState>,
    pub counters: StorageStats,
    /// What only some flaws need.
    pub quirks: Quirks,
}

#[derive(Clone)]
pub struct Version {
    pub lsn: u64,
    pub block: Option<Block>,
    pub single: bool,
}

pub type Ops = BTreeMap<u64, Option<Block>>;

#[derive(Clone)]
pub struct Open {
    pub snapshot: u64,
    pub ops: Ops,
    pub owner: ThreadId,
    pub read: BTreeSet<u64>,
    pub touched: bool,
    pub block_snapshots: BTreeMap<u64, u64>,
    pub isolation: IsolationLevel,
    pub absent: BTreeSet<u64>,
    pub ranges: Vec<(u64, u64)>,
    pub savepoints: Vec<(u64, Ops)>,
    pub next_savepoint: u64,
}

#[derive(Default)]
pub struct Quirks {
    pub dead: BTreeSet<u64>,
    pub refused: Vec<Ops>,
    pub rolled_back: BTreeSet<u64>,
    pub rolled_back_bytes: u64,
    pub overwrites: u64,
    pub deletes_alone: u64,
    pub reads: u64,
    pub leaked: u64,
}

const ENDED_COUNT_MAX: usize = 1000;

/// Flaws that show older versions to a reader, and so need them kept.
const NEED_HISTORY: [Flaw; 12] = [
    Flaw::KeepsEveryVersion,
    Flaw::BeginMissesTheNewest,
    Flaw::SnapshotPerBlock,
    Flaw::StaleReads,
    Flaw::AcknowledgesBeforeVisible,
    Flaw::DeletesReturn,
    Flaw::ReopenLosesTheNewest,
    Flaw::HalfACommitAfterReopen,
    Flaw::CrashLosesTheNewest,
    Flaw::HalfACommitAfterCrash,
    Flaw::CrashLosesOneInTheMiddle,
    Flaw::AllocatesAboveCommitted,
];

impl State {
    pub fn new(flaw: Option<Flaw>) -> State {
        State {
            flaw,
            versions: BTreeMap::new(),
            dirty: BTreeSet::new(),
            lsn: 0,
            next_id: Some(1),
            below: 0,
            next_tx: 1,
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            counters: StorageStats::default(),
            quirks: Quirks::default(),
        }
    }

    pub fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub fn key(&self, id: BlockId) -> u64 {
        if self.has(Flaw::IdsOf32Bits) { id.0 & 0xFFFF_FFFF } else { id.0 }
    }

    pub fn check_header(&self, block: &Block) -> Result<()> {
        let honest = block.verify_checksum()
            && block.header.uncompressed_size == block.header.data_size
            || self.has(Flaw::TrustsHeaders);
        let (argument, reason) = ("block", "its header does not match its payload");
        if honest { Ok(()) } else { Err(Error::InvalidArgument { argument, reason }) }
    }

    pub fn read_at(&self, id: u64, lsn: u64) -> Option<Block> {
        let versions = self.versions.get(&id)?;
        versions.iter().rev().find(|version| version.lsn <= lsn)?.block.clone()
    }

    pub fn single_read(&self, id: u64) -> Option<Block> {
        if self.has(Flaw::DirtyReads)
            && let Some(op) = self.open.values().find_map(|tx| tx.ops.get(&id))
        {
            return op.clone();
        }
        match self.flaw {
            Some(Flaw::AcknowledgesBeforeVisible) => self.read_at(id, self.lsn.saturating_sub(1)),
            Some(Flaw::StaleReads) if self.quirks.reads.is_multiple_of(3) => {
                let versions = self.versions.get(&id)?;
                versions[versions.len().saturating_sub(2)].block.clone()
            }
            _ => self.read_at(id, u64::MAX),
        }
    }

    pub fn answer(&self, id: BlockId, found: Option<Block>) -> Result<Block> {
        match found {
            Some(block) if block.data.is_empty() && self.has(Flaw::EmptyIsAbsent) => {
                Err(Error::BlockNotFound { id })
            }
            Some(block) => Ok(block),
            None if self.has(Flaw::AbsentReadsEmpty) => {
                Ok(Block::empty(id, aegis_blocks::BlockType::TableData))
            }
            None => Err(Error::BlockNotFound { id }),
        }
    }

    pub fn begin(&mut self, isolation: IsolationLevel) -> TransactionId {
        let mut id = self.next_tx;
        self.next_tx += 1;
        if self.has(Flaw::ReusesTransactionIds) {
            id = (1..).find(|id| !self.open.contains_key(id)).expect("few are open");
            self.ended.remove(&id);
        }
        let missed = u64::from(self.has(Flaw::BeginMissesTheNewest));
        let open = Open {
            snapshot: self.lsn.saturating_sub(missed),
            ops: BTreeMap::new(),
            owner: thread::current().id(),
            read: BTreeSet::new(),
            touched: false,
            block_snapshots: BTreeMap::new(),
            isolation,
            absent: BTreeSet::new(),
            ranges: Vec::new(),
            savepoints: Vec::new(),
            next_savepoint: 0,
        };
        self.open.insert(id, open);
        TransactionId(id)
    }

    pub fn active(&mut self, id: TransactionId) -> Result<&mut Open> {
        let owned = self.flaw == Some(Flaw::OneThreadPerTransaction);
        let unknown_known = self.has(Flaw::UnknownIsRolledBack);
        match self.open.get_mut(&id.0) {
            Some(tx) if owned && tx.owner != thread::current().id() => {
                Err(Error::TransactionNotFound { id })
            }
            Some(tx) => Ok(tx),
            None => Err(match self.ended.get(&id.0) {
                Some(state) => Error::TransactionNotActive { id, state: *state },
                None if unknown_known => {
                    Error::TransactionNotActive { id, state: TransactionState::RolledBack }
                }
                None => Error::TransactionNotFound { id },
            }),
        }
    }

    pub fn read_in(&mut self, id: TransactionId, key: u64) -> Result<Option<Block>> {
        let (lsn, flaw) = (self.lsn, self.flaw);
        let tx = self.active(id)?;
        if flaw == Some(Flaw::SnapshotAtFirstRead) && !tx.touched {
            tx.snapshot = lsn;
        }
        tx.touched = true;
        let mut snapshot = match flaw {
            Some(Flaw::ReadsNewest) => u64::MAX,
            _ if tx.reads_newest(flaw) => u64::MAX,
            Some(Flaw::SnapshotPerBlock) => *tx.block_snapshots.entry(key).or_insert(lsn),
            _ => tx.snapshot,
        };
        let own = tx.ops.get(&key).cloned();
        if flaw == Some(Flaw::DirtyTransactions)
            && let Some(op) = self.open.values().find_map(|tx| tx.ops.get(&key))
        {
            return Ok(op.clone());
        }
        let newest = self.read_at(key, u64::MAX);
        let hidden = match (flaw, &own) {
            (Some(Flaw::OwnWritesUnseen), Some(Some(_))) => true,
            (Some(Flaw::OwnDeletesUnseen), Some(None)) => true,
            (Some(Flaw::NewerHidesOwn), Some(_)) => self.changed_since(key, snapshot),
            _ => false,
        };
        if hidden && flaw == Some(Flaw::NewerHidesOwn) {
            snapshot = u64::MAX;
        }
        if let (Some(op), false) = (own, hidden) {
            return Ok(op);
        }
        Ok(match (flaw, self.read_at(key, snapshot)) {
            (Some(Flaw::DeletesLeakIntoSnapshots), Some(_)) if newest.is_none() => None,
            (Some(Flaw::CreationsLeakIntoSnapshots), None) => newest,
            (_, found) => found,
        })
    }

    /// Answers an operation of a transaction that failed.
    pub fn failed<T>(&mut self, tx: TransactionId, error: Error) -> Result<T> {
        if self.has(Flaw::FailureEndsTransaction) {
            self.end(tx, TransactionState::RolledBack);
        }
        Err(error)
    }

    /// The answer to a commit where a flaw lets an ended transaction commit.
    pub fn ended_before_commit(&self, tx: TransactionId) -> Option<Result<()>> {
        let fine = match self.ended.get(&tx.0)? {
            TransactionState::Committed => self.has(Flaw::CommitTwiceIsFine),
            _ => self.has(Flaw::CommitAfterRollbackIsFine),
        };
        fine.then_some(Ok(()))
    }

    /// The one place where blocks change.
    pub fn apply(&mut self, ops: Ops, single: bool) {
        if ops.is_empty() {
            self.counters.commits += 1;
            return;
        }
        self.lsn += 1;
        self.counters.commits += 1;
        if ops.values().all(Option::is_none) {
            self.quirks.deletes_alone += 1;
        }
        for (id, op) in ops {
            if !self.has(Flaw::IgnoresExplicitIds) {
                self.stay_above(id);
            }
            match &op {
                Some(_) if !self.has(Flaw::CountsAttempts) => self.counters.write_ops += 1,
                Some(_) => {}
                None => self.counters.delete_ops += 1,
            }
            let old = self.read_at(id, u64::MAX);
            if old.is_some() && op.is_some() {
                self.quirks.overwrites += 1;
            }
            if op.is_none() {
                self.quirks.dead.insert(id);
            } else if self.has(Flaw::DeletedForEver) && self.quirks.dead.contains(&id) {
                continue;
            }
            let block = op.map(|block| self.stored(block, old));
            let version = Version { lsn: self.lsn, block, single };
            self.versions.entry(id).or_default().push(version);
            self.dirty.insert(id);
        }
        self.prune();
    }

    /// The block as it is stored.
    pub fn stored(&self, mut block: Block, old: Option<Block>) -> Block {
        match (self.flaw, old) {
            (Some(Flaw::OverwriteKeepsOldHeader), Some(old)) => block.header = old.header,
            (Some(Flaw::DropsFlags), _) => block.header.flags = 0,
            (Some(Flaw::TrimsZeros), _) => {
                let end = block.data.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                block.data.truncate(end);
            }
            (Some(Flaw::CutsLongPayloads), _) => block.data.truncate((1 << 20) - 1),
            _ => {}
        }
        block
    }

    pub fn end(&mut self, id: TransactionId, outcome: TransactionState) {
        if outcome == TransactionState::RolledBack {
            self.counters.rollbacks += 1;
            self.quirks.leaked += 1;
        }
        self.open.remove(&id.0);
        self.ended.insert(id.0, outcome);
        let bounded = !self.has(Flaw::RemembersEveryTransaction);
        while bounded && self.ended.len() > ENDED_COUNT_MAX {
            self.ended.pop_first();
        }
        self.prune();
    }

    pub fn rolled_back(&mut self, tx: &Open) {
        self.quirks.rolled_back.extend(tx.ops.keys());
        let bytes = tx.ops.values().flatten().map(|block| block.data.len() as u64);
        self.quirks.rolled_back_bytes += bytes.sum::<u64>();
        if self.has(Flaw::RolledBackReturns) {
            self.quirks.refused.push(tx.ops.clone());
        }
        if self.has(Flaw::RollbackUndoesOthers) {
            let undo = tx.ops.keys().map(|id| (*id, self.read_at(*id, tx.snapshot))).collect();
            self.apply(undo, false);
        }
    }

    /// Drops versions that no open transaction can see.
    pub fn prune(&mut self) {
        if NEED_HISTORY.iter().any(|flaw| self.has(*flaw)) {
            return;
        }
        let horizon = self.open.values().map(|tx| tx.snapshot).min().unwrap_or(self.lsn);
        let two = self.has(Flaw::KeepsTwoVersions);
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.retain(|id| {
            let Some(versions) = self.versions.get_mut(id) else { return false };
            let seen = versions.iter().rposition(|version| version.lsn <= horizon).unwrap_or(0);
            let old = if two { versions.len().saturating_sub(2) } else { seen };
            versions.drain(..old);
            let last = versions.last().expect("the newest version is never drained");
            if versions.len() == 1 && last.lsn <= horizon {
                if last.block.is_none() {
                    self.versions.remove(id);
                }
                return false;
            }
            true
        });
        self.dirty = dirty;
    }

    pub fn stats(&self) -> StorageStats {
        let live = |versions: &Vec<Version>| versions.last().and_then(|v| v.block.clone());
        let live: Vec<Block> = self.versions.values().filter_map(live).collect();
        let count: usize = self.versions.values().map(Vec::len).sum();
        let mut stats = self.counters;
        stats.total_blocks = live.len() as u64;
        stats.total_bytes = live.iter().map(|block| block.data.len() as u64).sum();
        stats.open_transactions = self.open.len() as u64;
        stats.visible_lsn = Lsn(self.lsn);
        stats.index_bytes = 40 * count as u64;
        stats.undo_entries = (count - self.versions.len()) as u64;
        stats.read_ops = self.quirks.reads;
        match self.flaw {
            Some(Flaw::CountsARoot) => stats.total_blocks += 1,
            Some(Flaw::OverwritesCountTwice) => stats.total_blocks += self.quirks.overwrites,
            Some(Flaw::CountsRolledBackBytes) => stats.total_bytes += self.quirks.rolled_back_bytes,
            Some(Flaw::DeletesTakeNoLsn) => stats.visible_lsn.0 -= self.quirks.deletes_alone,
            Some(Flaw::RemembersEveryTransaction) => {
                stats.index_bytes += 16 * self.ended.len() as u64;
            }
            Some(Flaw::RollbackLeaksOpen) => stats.open_transactions += self.quirks.leaked,
            _ => {}
        }
        stats
    }
}

impl Open {
    pub fn note_read(&mut self, key: u64, found: bool) {
        self.read.insert(key);
        if !found {
            self.absent.insert(key);
        }
    }

    fn reads_newest(&self, flaw: Option<Flaw>) -> bool {
        self.isolation == IsolationLevel::ReadCommitted
            && flaw != Some(Flaw::ReadCommittedIsSnapshot)
    }
}
