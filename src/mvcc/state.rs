//! The state that both backends share: versions, transactions, ids, statistics.
//!
//! Owns [`Mvcc`], the limits on callers, and the giving up of snapshots that are over one. Index
//! changes are counted here as they are published. A backend publishes and loads; the contract
//! (`engine`) calls everything else.
//!
//! **Statistics are of one moment.** Publications change the totals, writes, deletes, commits,
//! groups and the visible and durable LSN under the [moment](Mvcc::lock_moment), and statistics are
//! read under it. So a call tells of all commits up to its visible LSN, and of no other. The
//! durable LSN never passes the visible one. Lock order: the moment comes before every lock of the
//! index and of the pins.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{OldestSnapshot, StorageStats};
use crate::block::{Block, BlockId, Lsn, TransactionId};
use crate::error::{Error, Result, SnapshotLimit};
use crate::mvcc::batch::{Batch, Operation, Precondition};
use crate::mvcc::counters::{Counters, Delta};
use crate::mvcc::ids::IdAllocator;
use crate::mvcc::index::{Deed, IdChange, Index, LookedUp, PublishedChange, Versioned};
use crate::mvcc::transactions::{Released, TransactionTable};
use crate::mvcc::turn::Turns;
use crate::mvcc::version::VersionLen;
use crate::mvcc::word::Phase;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, Process};
use crate::transaction::{BatchOperation, WriteBatch};

/// The state that both backends share.
#[derive(Debug)]
pub(crate) struct Mvcc<V> {
    pub(crate) limits: Limits,
    pub(crate) index: Index<V>,
    pub(crate) transactions: TransactionTable,
    pub(crate) ids: IdAllocator,
    pub(crate) counters: Counters,
    pub(crate) turns: Turns,
    /// Held by the publisher, and by a reader of the statistics. See the module header.
    moment: Mutex<()>,
    /// Nanoseconds on the clock until which no snapshot can be too old.
    age_due: AtomicU64,
}

/// The limits on callers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) block_len_max: u32,
    pub(crate) transaction_len_max: u64,
    pub(crate) open_transactions_max: u64,
    /// [`Duration::MAX`] for no limit.
    pub(crate) snapshot_age_max: Duration,
    /// `u64::MAX` for no limit.
    pub(crate) snapshot_pinned_max: u64,
}

/// Open transactions where no other limit is set: far above what threads begin, far below what
/// memory holds, and enough for all commits that one thread may have in flight.
pub(crate) const OPEN_TRANSACTIONS_MAX: u64 = 1 << 16;

impl<V: VersionLen> Mvcc<V> {
    pub(crate) fn new(limits: Limits) -> Mvcc<V> {
        let index = Index::default();
        let pins = Arc::clone(index.pins());
        Mvcc {
            limits,
            index,
            transactions: TransactionTable::new(limits.open_transactions_max, pins),
            ids: IdAllocator::default(),
            counters: Counters::default(),
            turns: Turns::new(Process::current()),
            moment: Mutex::default(),
            age_due: AtomicU64::new(0),
        }
    }

    /// Keeps statistics from being read. A publisher holds it until all its changes are made.
    pub(crate) fn lock_moment(&self) -> MutexGuard<'_, ()> {
        self.moment.lock()
    }

    /// Publishes a group of commits and counts what it changed. One publisher at a time, which
    /// holds the [moment](Mvcc::lock_moment). `below` and `replaced` are as for
    /// [`Index::publish_changes`].
    pub(crate) fn publish_and_count(
        &self,
        changes: impl IntoIterator<Item = PublishedChange<V>>,
        below: &LookedUp<V>,
        visible: Lsn,
        mut replaced: impl FnMut(Option<&V>, Option<&V>),
    ) {
        let mut delta = Delta::default();
        let changes = changes.into_iter().inspect(|(id, ..)| self.ids.note_committed_id(*id));
        self.index.publish_changes(changes, below, visible, |old, new| {
            delta.count_change(old, new);
            replaced(old, new);
        });
        self.counters.add_delta(&delta);
        self.counters.writes.add(delta.writes);
        self.counters.deletes.add(delta.deletes);
    }

    /// Loads a batch of the log while no thread reads, in recovery. Counts, and is counted, as
    /// [`Index::load_batch`].
    ///
    /// # Errors
    /// As [`Index::load_batch`].
    pub(crate) fn load_log_batch<T: Default + Send>(
        &self,
        steps: &[IdChange<V>],
        spread: bool,
        count: impl Fn(&mut T, Option<&V>, Option<&V>) + Sync,
    ) -> Result<Vec<T>> {
        let named = steps.iter().filter(|step| !matches!(step.deed, Deed::Move(_)));
        if let Some(highest) = named.map(|step| step.id).max() {
            self.ids.note_recovered_id(highest);
        }
        let count = |(delta, tally): &mut (Delta, T), old: Option<&V>, new: Option<&V>| {
            delta.count_change(old, new);
            count(tally, old, new);
        };
        let counted = self.index.load_batch(steps, spread, count)?;
        let tally = |(delta, tally): (Delta, T)| {
            self.counters.add_delta(&delta);
            tally
        };
        Ok(counted.into_iter().map(tally).collect())
    }

    /// Adds the totals of a checkpoint.
    pub(crate) fn load_checkpoint_totals(&self, blocks: u64, bytes: u64, id_max: BlockId) {
        self.counters.add_recovered_totals(blocks, bytes);
        self.ids.note_recovered_id(id_max);
    }

    /// Committed blocks, and the sum of their payload lengths.
    pub(crate) fn block_totals(&self) -> (u64, u64) {
        let c = &self.counters;
        // Removals are read first: an addition in between can only make the difference larger.
        let (removed, bytes_removed) = (c.blocks_removed.sum(), c.bytes_removed.sum());
        let (added, bytes_added) = (c.blocks_added.sum(), c.bytes_added.sum());
        debug_assert!(removed <= added, "a block is added before it is removed");
        debug_assert!(bytes_removed <= bytes_added, "a block is added before it is removed");
        (added - removed, bytes_added - bytes_removed)
    }

    /// Ends the transaction that a commit belonged to, now that its result is known.
    pub(crate) fn end_transaction(&self, tx: Option<TransactionId>, result: &Result<Lsn>) {
        let Some(tx) = tx else { return };
        let outcome = match result {
            Ok(_) => Phase::Committed,
            Err(_) => Phase::RolledBack,
        };
        self.drop_released(self.transactions.end_with_outcome(tx, outcome));
    }

    pub(super) fn drop_released(&self, released: Option<Released>) {
        if let Some(Released { lsn, was_last }) = released {
            self.index.drop_undo_of_released(lsn, was_last);
        }
    }

    /// Gives up snapshots that are over a limit, oldest first. Costs next to nothing while none is.
    #[inline]
    pub(super) fn enforce_snapshot_limits(&self, now: impl FnOnce() -> Duration) {
        if self.limits.snapshot_age_max != Duration::MAX {
            self.enforce_age_limit(now());
        }
        if self.index.pinned_len() > self.limits.snapshot_pinned_max {
            self.enforce_pinned_limit();
        }
    }

    fn enforce_pinned_limit(&self) {
        let pinned_max = self.limits.snapshot_pinned_max;
        while self.index.pinned_len() > pinned_max
            && let Some(oldest) = self.transactions.oldest_pinned()
            && self.index.pins_more_than(pinned_max, oldest.snapshot)
            && self.give_up_snapshot(oldest.id, SnapshotLimit::PinnedBytes(pinned_max))
        {}
    }

    fn enforce_age_limit(&self, now: Duration) {
        if now <= Duration::from_nanos(self.age_due.load(Ordering::Relaxed)) {
            return;
        }
        let age_max = self.limits.snapshot_age_max;
        let mut oldest = self.transactions.oldest_pinned();
        while let Some(old) = oldest
            && now.saturating_sub(old.begun_at) > age_max
        {
            if !self.give_up_snapshot(old.id, SnapshotLimit::Age(age_max)) {
                return;
            }
            oldest = self.transactions.oldest_pinned();
        }
        let due = oldest.map_or(now, |oldest| oldest.begun_at).saturating_add(age_max);
        let due = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        self.age_due.store(due, Ordering::Relaxed);
    }

    /// Gives up the oldest snapshot, because the versions kept for all of them are over a limit.
    /// False when there is none, or its versions are not free yet.
    pub(crate) fn give_up_oldest_snapshot(&self, limit: SnapshotLimit) -> bool {
        self.transactions
            .oldest_pinned()
            .is_some_and(|oldest| self.give_up_snapshot(oldest.id, limit))
    }

    /// False when its versions are not free yet.
    fn give_up_snapshot(&self, id: TransactionId, limit: SnapshotLimit) -> bool {
        let released = self.transactions.give_up_transaction(id, limit);
        self.drop_released(released);
        released.is_some()
    }

    /// Takes the operations of a transaction for its commit. A transaction that was given up ends.
    pub(super) fn start_commit(&self, tx: TransactionId) -> Result<Batch> {
        self.transactions.start_commit(tx).inspect_err(|error| {
            if matches!(error, Error::SnapshotTooOld { .. }) {
                self.end_transaction(Some(tx), &Err(error.clone()));
            }
        })
    }

    /// Assigns the ids of a batch's blocks, and lists the ids that its deletes need.
    pub(super) fn assign_batch_ids(&self, batch: WriteBatch) -> Result<(Vec<BlockId>, Batch)> {
        let (mut ids, mut operations, mut needed) = (Vec::new(), BTreeMap::new(), Vec::new());
        let named = batch.allocates_ids().then(|| batch.named_ids().collect::<HashSet<_>>());
        let is_named = |id: BlockId| named.as_ref().is_some_and(|named| named.contains(&id));
        let mut allocated = Vec::new();
        let mut len = 0;
        for operation in batch {
            match operation {
                BatchOperation::Write(block) => {
                    let asks = block.header.block_id == BlockId(0);
                    let block = self.assign_block_id(block, is_named)?;
                    let id = block.header.block_id;
                    ids.push(id);
                    allocated.extend(Some(id).filter(|_| asks));
                    len += block.data.len() as u64;
                    let before = operations.insert(id, Operation::Write(block));
                    len -= before.as_ref().map_or(0, Operation::payload_len);
                }
                BatchOperation::Delete(id) => match operations.insert(id, Operation::Delete) {
                    None => needed.push(id),
                    Some(Operation::Write(block)) => len -= block.data.len() as u64,
                    Some(_) => return Err(Error::BlockNotFound { id }),
                },
            }
        }
        let len_max = self.limits.transaction_len_max;
        if len > len_max {
            return Err(Error::TransactionTooLarge { len, len_max });
        }
        debug_assert!(operations.values().map(Operation::payload_len).sum::<u64>() == len);
        let operations = operations.into_iter().collect();
        let precondition = Precondition::Exist(needed);
        Ok((ids, Batch { allocated, ..Batch::with_precondition(operations, precondition) }))
    }

    pub(super) fn oldest_snapshot(&self, now: Duration) -> Option<OldestSnapshot> {
        let oldest = self.transactions.oldest_pinned()?;
        Some(OldestSnapshot { lsn: oldest.snapshot, age: now.saturating_sub(oldest.begun_at) })
    }

    /// The version of a block that a transaction sees beneath its own operations.
    pub(super) fn read_for_transaction(
        &self,
        snapshot: Option<Lsn>,
        id: BlockId,
    ) -> Result<Option<Versioned<V>>> {
        match snapshot {
            Some(snapshot) => self.index.read_at_snapshot(id, snapshot),
            None => self.index.read_newest(id),
        }
    }

    /// Gives a block its id. For `BlockId(0)` it allocates one of which `is_taken` does not hold.
    pub(super) fn assign_block_id(
        &self,
        mut block: Block,
        is_taken: impl Fn(BlockId) -> bool,
    ) -> Result<Block> {
        let (len, len_max) = (block.data.len() as u64, u64::from(self.limits.block_len_max));
        if len > len_max {
            return Err(Error::BlockTooLarge { len, len_max });
        }
        block.check_header()?;
        while block.header.block_id == BlockId(0) {
            let id = self.ids.allocate_id(&self.index)?;
            if !is_taken(id) {
                block.header.block_id = id;
            }
        }
        Ok(block)
    }

    /// `tell_published` adds what a backend changes with its publications.
    pub(super) fn collect_stats(
        &self,
        now: Duration,
        tell_published: impl FnOnce(&mut StorageStats),
    ) -> StorageStats {
        let c = &self.counters;
        // Before the moment, for which the publisher waits. No snapshot is newer than the visible
        // LSN then.
        let oldest = self.oldest_snapshot(now);
        let mut stats = StorageStats {
            read_ops: c.reads.sum(),
            conflicts: c.conflicts.sum(),
            rollbacks: self.transactions.rolled_back_count(),
            open_transactions: self.transactions.open_count(),
            index_bytes: self.index.heap_len(),
            oldest_snapshot: oldest.map(|oldest| oldest.lsn),
            oldest_snapshot_age: oldest.map_or(Duration::ZERO, |oldest| oldest.age),
            ..StorageStats::default()
        };
        let moment = self.lock_moment();
        (stats.total_blocks, stats.total_bytes) = self.block_totals();
        (stats.write_ops, stats.delete_ops) = (c.writes.sum(), c.deletes.sum());
        stats.commits = c.commits.sum();
        stats.visible_lsn = self.index.visible_lsn();
        (stats.undo_entries, stats.pinned_bytes) =
            (self.index.undo_count(), self.index.pinned_len());
        tell_published(&mut stats);
        drop(moment);
        assert!(stats.durable_lsn <= stats.visible_lsn, "what is durable is visible");
        stats
    }
}
