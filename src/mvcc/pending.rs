//! An open transaction's own state: its operations, what it read, its savepoints.
//!
//! Owns [`Pending`]. Invariant: `payload_len` is the sum of the operations and of what the
//! savepoints keep. A savepoint keeps, for each id that was changed between it and the next one,
//! the operation that was pending at it. So memory is bounded by `transaction_len_max`, however
//! often an id is written again between savepoints.

use std::collections::BTreeMap;

use crate::block::{BlockId, Lsn, TransactionId};
use crate::error::{Error, Result};
use crate::mvcc::batch::{Batch, Operation, Precondition, Reads};
use crate::mvcc::entry::SnapshotView;
use crate::order::ScanOrder;
use crate::transaction::{IsolationLevel, Savepoint, ScanMark};

/// An open transaction: what it sees, and its operations so far.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// `None` reads the newest commits.
    snapshot: Option<Lsn>,
    isolation: IsolationLevel,
    operations: BTreeMap<BlockId, Own>,
    /// Ids that came to `operations` so far. Tells scans which were there before them.
    named_count: u64,
    payload_len: u64,
    /// The reads of a serializable transaction.
    reads: Reads,
    savepoints: Vec<Mark>,
    next_savepoint: u64,
}

/// An operation of the transaction itself.
#[derive(Debug)]
struct Own {
    operation: Operation,
    /// Which of the ids this was, in the order in which they came to the transaction.
    number: u64,
    /// Whether the id was allocated for the transaction.
    is_allocated: bool,
}

/// A savepoint.
#[derive(Debug)]
struct Mark {
    serial: u64,
    /// The operations pending at it, of the ids that were changed before the next savepoint.
    before: BTreeMap<BlockId, Option<Own>>,
}

impl Pending {
    /// Sets the snapshot of the transaction, known from its begin on.
    pub(crate) fn set_view(&mut self, view: SnapshotView) {
        (self.snapshot, self.isolation) = (view.snapshot, view.isolation);
    }

    /// The snapshot that reads see; `None` for the newest commit.
    pub(crate) fn snapshot(&self) -> Option<Lsn> {
        self.snapshot
    }

    /// Notes that a block was looked at, there or not.
    pub(crate) fn note_read(&mut self, id: BlockId) {
        if self.isolation == IsolationLevel::Serializable {
            self.reads.ids.insert(id);
        }
    }

    /// Notes that a range was listed.
    pub(crate) fn note_range_read(&mut self, first: BlockId, last: BlockId) {
        if self.isolation == IsolationLevel::Serializable {
            self.reads.add_range(first, last);
        }
    }

    /// A mark for scans: they skip what the transaction writes later.
    pub(crate) fn scan_mark(&self) -> ScanMark {
        ScanMark(self.named_count)
    }

    /// The ids of a range that the transaction had written before a mark, in an order.
    pub(crate) fn own_written_ids(
        &self,
        (first, last): (BlockId, BlockId),
        order: ScanOrder,
        mark: ScanMark,
    ) -> impl Iterator<Item = BlockId> {
        let mut operations = self.operations.range(first..=last);
        let in_order = std::iter::from_fn(move || match order {
            ScanOrder::Ascending => operations.next(),
            ScanOrder::Descending => operations.next_back(),
        });
        let was_written =
            move |own: &Own| own.number <= mark.0 && matches!(own.operation, Operation::Write(_));
        in_order.filter(move |(_, own)| was_written(own)).map(|(id, _)| *id)
    }

    /// The transaction's own last operation on an id.
    pub(crate) fn own_operation(&self, id: BlockId) -> Option<&Operation> {
        self.operations.get(&id).map(|own| &own.operation)
    }

    /// Adds an operation, which replaces an earlier one on the same id.
    ///
    /// # Errors
    /// - [`Error::TransactionTooLarge`]: the operation was not added.
    pub(crate) fn add_operation(
        &mut self,
        id: BlockId,
        operation: Operation,
        len_max: u64,
    ) -> Result<()> {
        // The first change of an id since a savepoint keeps what it replaces.
        let keeps = self.savepoints.last().is_some_and(|mark| !mark.before.contains_key(&id));
        let own = self.operations.get(&id);
        let replaced = own.map_or(0, |own| own.operation.payload_len());
        let number = own.map_or(self.named_count + 1, |own| own.number);
        let is_allocated = own.is_some_and(|own| own.is_allocated);
        let freed = if keeps { 0 } else { replaced };
        debug_assert!(freed <= self.payload_len, "a pending operation is counted");
        let len = self.payload_len - freed + operation.payload_len();
        if len > len_max {
            return Err(Error::TransactionTooLarge { len, len_max });
        }
        self.payload_len = len;
        self.named_count = self.named_count.max(number);
        let before = self.operations.insert(id, Own { operation, number, is_allocated });
        if keeps && let Some(mark) = self.savepoints.last_mut() {
            mark.before.insert(id, before);
        }
        Ok(())
    }

    /// Whether its commit changes nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Notes that the id of an operation was allocated for it.
    pub(crate) fn note_allocated(&mut self, id: BlockId) {
        if let Some(own) = self.operations.get_mut(&id) {
            own.is_allocated = true;
        }
    }

    pub(crate) fn make_savepoint(&mut self, transaction: TransactionId) -> Savepoint {
        self.next_savepoint += 1;
        let serial = self.next_savepoint;
        debug_assert!(self.savepoints.last().is_none_or(|last| last.serial < serial));
        self.savepoints.push(Mark { serial, before: BTreeMap::new() });
        Savepoint::new(transaction, self.next_savepoint)
    }

    /// Undoes what was done since a savepoint.
    pub(crate) fn undo_to_savepoint(
        &mut self,
        id: TransactionId,
        savepoint: Savepoint,
    ) -> Result<()> {
        let at = self.savepoints.iter().position(|mark| mark.serial == savepoint.serial());
        let Some(at) = at.filter(|_| savepoint.transaction() == id) else {
            let reason = "is of another transaction, or was undone";
            return Err(Error::InvalidArgument { argument: "savepoint", reason });
        };
        while self.savepoints.len() > at {
            let Some(mark) = self.savepoints.pop() else { break };
            for (id, before) in mark.before {
                // The operation that the savepoint kept is pending again and still counts. The one
                // that replaced it is gone.
                let undone = match before {
                    Some(own) => self.operations.insert(id, own),
                    None => self.operations.remove(&id),
                };
                let undone_len = undone.map_or(0, |own| own.operation.payload_len());
                debug_assert!(undone_len <= self.payload_len, "a pending operation is counted");
                self.payload_len -= undone_len;
            }
        }
        self.savepoints.push(Mark { serial: savepoint.serial(), before: BTreeMap::new() });
        Ok(())
    }

    /// Payload bytes of the operations and of what the savepoints keep.
    fn held_len(&self) -> u64 {
        let kept = self.savepoints.iter().flat_map(|mark| mark.before.values().flatten());
        self.operations.values().chain(kept).map(|own| own.operation.payload_len()).sum()
    }

    /// Takes the operations for a commit.
    pub(crate) fn take_batch(&mut self, id: TransactionId) -> Batch {
        debug_assert!(self.payload_len == self.held_len(), "the length is the sum of what is held");
        self.savepoints.clear();
        // Without a snapshot no other check finds that another commit named the id first.
        let own = self.operations.iter().filter(|(_, own)| own.is_allocated);
        let allocated = match self.snapshot {
            None => own.map(|(id, _)| *id).collect(),
            Some(_) => Vec::new(),
        };
        let operations = std::mem::take(&mut self.operations).into_iter();
        let operations = operations.map(|(id, own)| (id, own.operation)).collect();
        let precondition = match self.snapshot {
            None => Precondition::None,
            Some(snapshot) => Precondition::UnchangedSince(snapshot),
        };
        let reads = (self.isolation == IsolationLevel::Serializable)
            .then(|| Box::new(std::mem::take(&mut self.reads)));
        Batch { operations, precondition, reads, allocated, transaction: Some(id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Block, BlockType};

    const TX: TransactionId = TransactionId(1);

    fn write(len: usize) -> Operation {
        Operation::Write(Block::new(BlockId(7), BlockType::TableData, vec![1; len]))
    }

    fn pending() -> Pending {
        Pending::default()
    }

    #[test]
    fn writing_again_between_savepoints_costs_no_more_than_the_first_time() {
        let mut tx = pending();
        tx.add_operation(BlockId(7), write(10), 100).expect("fits");
        let mark = tx.make_savepoint(TX);
        for _ in 0..1000 {
            tx.add_operation(BlockId(7), write(20), 30).expect("the first and the last write fit");
        }
        assert_eq!((tx.payload_len, tx.savepoints[0].before.len()), (30, 1));
        let refused = tx.add_operation(BlockId(7), write(21), 30);
        assert!(matches!(refused, Err(Error::TransactionTooLarge { len: 31, len_max: 30 })));
        tx.undo_to_savepoint(TX, mark).expect("its own");
        assert_eq!(
            (tx.payload_len, tx.own_operation(BlockId(7)).map(Operation::payload_len)),
            (10, Some(10))
        );
    }

    #[test]
    fn bytes_are_counted_through_nested_savepoints() {
        let mut tx = pending();
        let outer = tx.make_savepoint(TX);
        tx.add_operation(BlockId(1), write(1), 100).expect("fits");
        tx.add_operation(BlockId(2), write(2), 100).expect("fits");
        let inner = tx.make_savepoint(TX);
        tx.add_operation(BlockId(1), Operation::Delete, 100).expect("fits");
        tx.add_operation(BlockId(3), write(4), 100).expect("fits");
        assert_eq!(tx.payload_len, 7);
        tx.undo_to_savepoint(TX, inner).expect("its own");
        assert_eq!((tx.payload_len, tx.operations.len()), (3, 2));
        tx.add_operation(BlockId(1), write(8), 100).expect("fits");
        tx.undo_to_savepoint(TX, outer).expect("its own");
        assert_eq!((tx.payload_len, tx.operations.len()), (0, 0));
        tx.undo_to_savepoint(TX, outer).expect("it stays");
        assert!(tx.undo_to_savepoint(TX, inner).is_err(), "it is gone");
    }
}
