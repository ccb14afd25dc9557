//! Ranges and savepoints of transactions.

use crate::block::{BlockId, TransactionId};
use crate::error::Error;
use crate::testkit::subject::{Subject, refused};
use crate::transaction::Savepoint;

pub(in crate::testkit) fn range_lists_what_the_transaction_sees(s: &mut Subject<'_>) {
    for id in [1, 2, 3, 70, 500] {
        s.put(id, "old");
    }
    let tx = s.begin();
    tx.lists(0, u64::MAX);
    tx.put(4, "own");
    tx.put(2, "own");
    tx.remove(3);
    tx.put(65, "own");
    tx.remove(65);
    tx.lists(0, u64::MAX);
    // Concurrent changes are not seen.
    s.put(5, "newer");
    s.put(600, "newer");
    s.remove(70);
    s.remove(1);
    s.put(3, "newer");
    tx.lists(0, u64::MAX);
    let after = s.begin();
    after.lists(0, u64::MAX);
    after.rollback();
    tx.rollback();
}

pub(in crate::testkit) fn range_holds_both_its_ends(s: &mut Subject<'_>) {
    let ids = [1, 63, 64, 65, 1000, u64::MAX - 1, u64::MAX];
    for id in ids {
        s.put(id, "block");
    }
    let tx = s.begin();
    for first in ids {
        tx.lists(first, first);
        tx.lists(0, first);
        tx.lists(first, u64::MAX);
        tx.lists(first.saturating_sub(1), first.saturating_add(1));
    }
    tx.lists(2, 62);
    tx.put(62, "own");
    tx.lists(2, 62);
    tx.rollback();
}

pub(in crate::testkit) fn savepoints_nest(s: &mut Subject<'_>) {
    s.put(1, "old");
    s.put(2, "old");
    let tx = s.begin();
    tx.put(3, "before");
    let Some(outer) = tx.mark() else {
        tx.rollback();
        return;
    };
    tx.put(3, "between");
    tx.remove(1);
    let Some(inner) = tx.mark() else {
        tx.rollback();
        return;
    };
    tx.put(1, "after");
    tx.put(4, "after");
    tx.remove(2);
    tx.undo_to(&inner);
    tx.lacks(1);
    tx.holds(2, "old");
    tx.holds(3, "between");
    tx.lacks(4);
    tx.put(4, "after, again");
    tx.undo_to(&inner);
    tx.lacks(4);
    tx.undo_to(&outer);
    tx.holds(1, "old");
    tx.holds(3, "before");
    // The outer one stays, the inner one is gone with what it marked.
    let gone = s.store().rollback_to_savepoint(tx.id, inner.savepoint);
    refused!(gone, Error::InvalidArgument { .. });
    tx.put(5, "undone");
    tx.undo_to(&outer);
    tx.lacks(5);
    tx.put(6, "last");
    tx.commit();
    s.holds(1, "old");
    s.holds(3, "before");
    s.lacks(5);
    s.holds(6, "last");
}

pub(in crate::testkit) fn savepoint_belongs_to_its_transaction(s: &mut Subject<'_>) {
    let (tx, other) = (s.begin(), s.begin());
    let (Some(own), Some(foreign)) = (tx.mark(), other.mark()) else {
        other.rollback();
        tx.rollback();
        return;
    };
    tx.put(1, "kept");
    let unknown = Savepoint::new(TransactionId(u64::MAX), own.savepoint.serial());
    for wrong in [foreign.savepoint, unknown] {
        refused!(s.store().rollback_to_savepoint(tx.id, wrong), Error::InvalidArgument { .. });
        tx.holds(1, "kept");
    }
    other.rollback();
    let ended = s.store().savepoint_in_tx(foreign.savepoint.transaction());
    refused!(ended, Error::TransactionNotActive { .. });
    tx.commit();
    s.holds(1, "kept");
    assert!(s.store().ids_in_tx(TransactionId(u64::MAX), BlockId(0), BlockId(1)).is_err());
}
