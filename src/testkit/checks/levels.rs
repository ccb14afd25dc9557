//! Isolation levels: commits that serializable refuses, and reads of read committed.

use crate::backend::StorageBackend;
use crate::block::{BlockId, TransactionId};
use crate::error::{Error, Result};
use crate::testkit::subject::{Subject, block, ok};
use crate::transaction::IsolationLevel::{ReadCommitted, Serializable};

fn read(store: &dyn StorageBackend, tx: TransactionId, id: u64) {
    ok(store.read_block_in_tx(tx, BlockId(id)), "read_block_in_tx");
}

fn write(store: &dyn StorageBackend, tx: TransactionId, id: u64, data: &'static str) {
    ok(store.write_block_in_tx(tx, block(id, data)), "write_block_in_tx");
}

/// True for a commit, false for a conflict.
fn committed(answer: Result<()>) -> bool {
    match answer {
        Ok(()) => true,
        Err(Error::Conflict { .. }) => false,
        Err(error) => panic!("commit answered {error:?}, it must commit or conflict"),
    }
}

pub(in crate::testkit) fn serializable_refuses_write_skew(s: &mut Subject<'_>) {
    s.put(1, "on call");
    s.put(2, "on call");
    let Some(a) = s.begin_at(Serializable) else { return };
    let b = s.begin_at(Serializable).expect("as the one before");
    let store = s.store();
    for tx in [a, b] {
        read(store, tx, 1);
        read(store, tx, 2);
    }
    write(store, a, 1, "off");
    write(store, b, 2, "off");
    let (a, b) = (committed(store.commit_transaction(a)), committed(store.commit_transaction(b)));
    assert!(!(a && b), "both committed, although each changed what the other had read");
    assert!(a || b, "the first to commit has no rival");
    for (id, committed) in [(1, a), (2, b)] {
        if committed {
            s.model().write(block(id, "off"));
        }
    }
    assert_eq!(s.stats().open_transactions, 0);
}

pub(in crate::testkit) fn serializable_refuses_phantoms(s: &mut Subject<'_>) {
    s.put(10, "row");
    s.put(20, "row");
    // A row appears, vanishes, and stands outside of the range.
    let changes: [(&str, u64, bool); 3] =
        [("appeared", 15, true), ("vanished", 20, true), ("stands outside", 31, false)];
    for (what, id, conflicts) in changes {
        let Some(tx) = s.begin_at(Serializable) else { return };
        let listed = s.store().ids_in_tx(tx, BlockId(5), BlockId(30));
        if s.offered(listed, "ids_in_tx").is_none() {
            return ok(s.store().rollback_transaction(tx), "rollback_transaction");
        }
        if what == "vanished" {
            s.remove(id)
        } else {
            s.put(id, "phantom")
        }
        write(s.store(), tx, 100, what);
        let done = committed(s.store().commit_transaction(tx));
        assert_eq!(done, !conflicts, "the commit of a sum over a range, when a row {what}");
        if done {
            s.model().write(block(100, what));
        }
    }
}

pub(in crate::testkit) fn serializable_refuses_what_was_read_as_absent(s: &mut Subject<'_>) {
    let Some(tx) = s.begin_at(Serializable) else { return };
    assert!(!ok(s.store().block_exists_in_tx(tx, BlockId(1)), "block_exists_in_tx"));
    write(s.store(), tx, 2, "since 1 is absent");
    s.put(1, "there now");
    assert!(!committed(s.store().commit_transaction(tx)), "committed on an absence that is over");
    s.lacks(2);
}

/// Fekete, O'Neil and O'Neil, "A read-only transaction anomaly under snapshot isolation", 2004.
pub(in crate::testkit) fn serializable_refuses_the_read_only_anomaly(s: &mut Subject<'_>) {
    s.put(1, "checking 0");
    s.put(2, "savings 0");
    let Some(withdraw) = s.begin_at(Serializable) else { return };
    read(s.store(), withdraw, 1);
    read(s.store(), withdraw, 2);
    let deposit = s.begin_at(Serializable).expect("as the one before");
    read(s.store(), deposit, 2);
    write(s.store(), deposit, 2, "savings 20");
    assert!(committed(s.store().commit_transaction(deposit)), "no other transaction has committed");
    s.model().write(block(2, "savings 20"));
    let report = s.begin_at(Serializable).expect("as the ones before");
    read(s.store(), report, 1);
    read(s.store(), report, 2);
    let reported = committed(s.store().commit_transaction(report));
    write(s.store(), withdraw, 1, "checking -11, a penalty of 1 included");
    let withdrawn = committed(s.store().commit_transaction(withdraw));
    assert!(
        !(reported && withdrawn),
        "the report saw the deposit without the withdrawal, which had not seen the deposit"
    );
    if withdrawn {
        s.model().write(block(1, "checking -11, a penalty of 1 included"));
    }
}

pub(in crate::testkit) fn read_committed_sees_newer_commits(s: &mut Subject<'_>) {
    s.put(1, "old");
    let Some(tx) = s.begin_at(ReadCommitted) else { return };
    let seen = |id| s.store().read_block_in_tx(tx, BlockId(id)).map(|block| block.data);
    assert_eq!(ok(seen(1), "read_block_in_tx"), "old");
    s.put(1, "new");
    s.put(2, "new");
    assert_eq!(ok(seen(1), "read_block_in_tx"), "new", "the newest commit is seen");
    assert_eq!(ok(seen(2), "read_block_in_tx"), "new", "the newest commit is seen");
    write(s.store(), tx, 1, "last");
    s.put(1, "newer");
    assert_eq!(ok(seen(1), "read_block_in_tx"), "last", "an own write is seen before others'");
    assert!(committed(s.store().commit_transaction(tx)), "read committed never conflicts");
    s.model().write(block(1, "last"));
    s.holds(1, "last");
}
