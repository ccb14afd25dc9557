//! Allocation: dense, increasing, above explicit ids that were committed, never twice, and below
//! the top when that is used up.

use std::collections::BTreeSet;

use crate::block::BlockId;
use crate::error::Error;
use crate::testkit::subject::{Subject, block, ok, refused, threads};

pub(in crate::testkit) fn allocation_is_dense_and_increasing(s: &mut Subject<'_>) {
    for expected in 1..=20 {
        assert_eq!(s.allocate("single"), expected, "the next id of a store that began empty");
    }
    let tx = s.begin();
    for expected in 21..=30 {
        assert_eq!(tx.allocate("in a transaction"), expected, "the next id");
    }
    tx.commit();
    assert_eq!(s.allocate("single"), 31, "the next id");
}

pub(in crate::testkit) fn allocation_stays_above_explicit_ids(s: &mut Subject<'_>) {
    s.put(10, "explicit");
    assert_eq!(s.allocate("a"), 11, "the id above explicit id 10");
    s.put(5, "explicit, below");
    assert_eq!(s.allocate("b"), 12, "an explicit id below changes nothing");
    s.put(13, "explicit, next");
    assert_eq!(s.allocate("c"), 14, "the id above explicit id 13");
    let tx = s.begin();
    tx.put(1 << 40, "explicit, far");
    tx.commit();
    assert_eq!(s.allocate("d"), (1 << 40) + 1, "the id above an explicit id of a transaction");
}

pub(in crate::testkit) fn allocation_passes_over_the_transactions_own_ids(s: &mut Subject<'_>) {
    let tx = s.begin();
    tx.put(1, "explicit");
    tx.put(3, "explicit");
    let ids: Vec<u64> = (0..4).map(|_| tx.allocate("allocated")).collect();
    assert!(!ids.contains(&1) && !ids.contains(&3), "allocated {ids:?} beside explicit 1 and 3");
    tx.commit();
    s.holds(1, "explicit");
    s.holds(3, "explicit");
    s.check();
}

pub(in crate::testkit) fn open_transactions_never_share_an_allocated_id(s: &mut Subject<'_>) {
    let (a, b) = (s.begin(), s.begin());
    let mut seen = BTreeSet::new();
    for n in 0..10 {
        let ids = [a.allocate("a"), b.allocate("b"), s.allocate("single")];
        assert!(ids.iter().all(|id| seen.insert(*id)), "round {n} allocated {ids:?} again");
    }
    b.commit();
    a.commit();
    assert_eq!(s.stats().total_blocks, 30, "each id is a block of its own");
}

pub(in crate::testkit) fn deleted_ids_are_not_allocated_again(s: &mut Subject<'_>) {
    let mut last = 0;
    for n in 0..10 {
        let id = s.allocate("short life");
        assert!(id > last, "allocated id {id} after id {last} was used and deleted");
        last = id;
        if n % 2 == 0 {
            s.remove(id);
        } else {
            let tx = s.begin();
            tx.remove(id);
            tx.commit();
        }
    }
    // Made and deleted in one transaction: the id was committed, if only as a delete.
    s.put(100, "explicit");
    s.remove(100);
    assert_eq!(s.allocate("next"), 101, "the id above explicit id 100, although deleted");
}

pub(in crate::testkit) fn names_that_are_not_committed_change_nothing(s: &mut Subject<'_>) {
    assert_eq!(s.allocate("a"), 1, "the first id");
    let (open, lost, undone) = (s.begin(), s.begin(), s.begin());
    undone.put(u64::MAX, "rolled back");
    undone.rollback();
    s.put(1, "first committer");
    lost.put(1, "second committer");
    lost.put(1 << 50, "refused");
    lost.loses(1);
    refused!(s.store().delete_block(BlockId(5000)), Error::BlockNotFound { id: BlockId(5000) });
    open.put(1 << 52, "still open");
    assert_eq!(s.allocate("b"), 2, "the next id: ids named and not committed do not count");
    open.commit();
    assert_eq!(s.allocate("c"), (1 << 52) + 1, "the id above one that was committed");
}

pub(in crate::testkit) fn allocation_goes_on_below_the_top(s: &mut Subject<'_>) {
    for id in 1..=3 {
        s.put(id, "explicit");
    }
    s.put(u64::MAX - 2, "explicit");
    assert_eq!(s.allocate("last but one"), u64::MAX - 1);
    assert_eq!(s.allocate("last"), u64::MAX);
    // Which ids they are is the backend's choice: no block has them, which the subject checks.
    for _ in 0..3 {
        s.allocate("below");
    }
    s.remove(u64::MAX);
    s.allocate("after the last one was deleted");
    let tx = s.begin();
    tx.allocate("in a transaction");
    tx.put(70, "explicit ids work as ever");
    tx.allocate("in a transaction");
    tx.commit();
    s.put(u64::MAX, "explicit");
    s.allocate("after the last one was written again");
    s.lacks(0);
    s.check();
    if s.reopen().is_some() {
        for _ in 0..3 {
            s.allocate("after reopen");
        }
        s.put(90, "explicit ids work as ever");
        s.check();
    }
}

pub(in crate::testkit) fn threads_allocate_distinct_ids(s: &mut Subject<'_>) {
    let store = s.store();
    let ids = threads(8, |thread| {
        let text = || format!("of {thread}");
        let mut ids = Vec::new();
        for _ in 0..10 {
            ids.push(ok(store.write_block(block(0, text())), "write_block"));
            let tx = ok(store.begin_transaction(), "begin_transaction");
            for _ in 0..3 {
                ids.push(ok(store.write_block_in_tx(tx, block(0, text())), "write_block_in_tx"));
            }
            ok(store.commit_transaction(tx), "commit of blocks with allocated ids");
        }
        ids
    });
    let mut all = BTreeSet::new();
    for (thread, ids) in ids.iter().enumerate() {
        assert!(ids.is_sorted(), "the ids of one thread do not increase: {ids:?}");
        for id in ids {
            assert!(all.insert(*id), "id {id} was allocated twice");
            s.model().write(block(id.0, format!("of {thread}")));
        }
    }
    let dense: BTreeSet<BlockId> = (1..=320).map(BlockId).collect();
    assert_eq!(all, dense, "all transactions committed, so no id is left out");
}
