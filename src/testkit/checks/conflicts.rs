//! First committer wins: which transactions get `Conflict`, which never do, and its effects.

use crate::block::BlockId;
use crate::error::{Error, TransactionState};
use crate::testkit::subject::{Subject, block, ok, refused, threads};

pub(in crate::testkit) fn write_after_a_concurrent_write_conflicts(s: &mut Subject<'_>) {
    s.put(1, "old");
    let (first, second) = (s.begin(), s.begin());
    first.put(1, "first");
    second.put(1, "second");
    first.commit();
    second.loses(1);
    s.holds(1, "first");
}

pub(in crate::testkit) fn write_after_a_concurrent_delete_conflicts(s: &mut Subject<'_>) {
    s.put(1, "old");
    let (first, second) = (s.begin(), s.begin());
    first.remove(1);
    second.put(1, "second");
    first.commit();
    second.loses(1);
    s.lacks(1);
}

pub(in crate::testkit) fn delete_after_a_concurrent_write_conflicts(s: &mut Subject<'_>) {
    s.put(1, "old");
    let (first, second) = (s.begin(), s.begin());
    first.put(1, "first");
    second.remove(1);
    first.commit();
    second.loses(1);
    s.holds(1, "first");
}

pub(in crate::testkit) fn delete_after_a_concurrent_delete_conflicts(s: &mut Subject<'_>) {
    s.put(1, "old");
    let (first, second) = (s.begin(), s.begin());
    first.remove(1);
    second.remove(1);
    first.commit();
    second.loses(1);
    s.lacks(1);
}

pub(in crate::testkit) fn creating_the_same_id_twice_conflicts(s: &mut Subject<'_>) {
    let (first, second) = (s.begin(), s.begin());
    first.put(7, "first");
    second.put(7, "second");
    first.commit();
    second.loses(7);
    s.holds(7, "first");
}

pub(in crate::testkit) fn block_that_came_and_went_conflicts(s: &mut Subject<'_>) {
    let tx = s.begin();
    tx.put(7, "mine");
    s.put(7, "came");
    s.remove(7);
    tx.loses(7);
    s.lacks(7);
}

pub(in crate::testkit) fn rewriting_the_same_bytes_conflicts(s: &mut Subject<'_>) {
    s.put(1, "same");
    let tx = s.begin();
    tx.put(1, "same");
    s.put(1, "other");
    s.put(1, "same");
    tx.loses(1);
    s.holds(1, "same");
}

pub(in crate::testkit) fn first_committer_wins_not_first_writer(s: &mut Subject<'_>) {
    s.put(1, "old");
    let early = s.begin();
    early.put(1, "written first");
    let late = s.begin();
    late.put(1, "committed first");
    late.commit();
    s.holds(1, "committed first");
    early.loses(1);
    s.holds(1, "committed first");
}

pub(in crate::testkit) fn only_one_of_many_writers_wins(s: &mut Subject<'_>) {
    s.put(1, "old");
    let mut open: Vec<_> = (0..5).map(|_| s.begin()).collect();
    for (n, tx) in open.iter().enumerate() {
        tx.put(1, format!("writer {n}"));
    }
    open.remove(2).commit();
    for tx in open {
        tx.loses(1);
    }
    s.holds(1, "writer 2");
}

pub(in crate::testkit) fn single_operation_beats_an_open_transaction(s: &mut Subject<'_>) {
    for id in 1..=3 {
        s.put(id, "old");
    }
    let (writer, deleter, creator) = (s.begin(), s.begin(), s.begin());
    writer.put(1, "lost");
    deleter.remove(2);
    creator.put(4, "lost");
    s.remove(1);
    s.put(2, "single");
    s.put(4, "single");
    writer.loses(1);
    deleter.loses(2);
    creator.loses(4);
    s.lacks(1);
    s.holds(2, "single");
    s.holds(4, "single");
}

pub(in crate::testkit) fn conflict_changes_nothing(s: &mut Subject<'_>) {
    s.put(1, "old");
    s.put(2, "old");
    s.put(3, "old");
    let tx = s.begin();
    tx.put(1, "lost");
    tx.remove(2);
    tx.put(3, "lost");
    tx.put(4, "lost");
    let id = tx.allocate("lost");
    s.put(3, "winner's");
    tx.loses(3);
    s.holds(1, "old");
    s.holds(2, "old");
    s.holds(3, "winner's");
    s.lacks(4);
    s.lacks(id);
}

pub(in crate::testkit) fn conflict_rolls_the_transaction_back(s: &mut Subject<'_>) {
    s.put(1, "old");
    let tx = s.begin();
    tx.put(1, "lost");
    s.put(1, "winner's");
    let id = tx.loses(1);
    assert_eq!(s.stats().open_transactions, 0, "a refused transaction is not open");
    let rolled_back = TransactionState::RolledBack;
    let again = s.store().commit_transaction(id);
    refused!(again, Error::TransactionNotActive { state, .. } if state == rolled_back);
    let written = s.store().write_block_in_tx(id, block(2, "late"));
    refused!(written, Error::TransactionNotActive { state, .. } if state == rolled_back);
    ok(s.store().rollback_transaction(id), "rollback of a transaction that lost");
    s.lacks(2);
    // Running it again on a newer snapshot wins.
    let tx = s.begin();
    tx.holds(1, "winner's");
    tx.put(1, "second try");
    tx.commit();
    s.holds(1, "second try");
}

pub(in crate::testkit) fn conflict_names_the_block_and_the_commit(s: &mut Subject<'_>) {
    s.put(5, "old");
    let snapshot_before = s.stats().visible_lsn;
    let tx = s.begin();
    tx.put(9, "fine");
    tx.put(5, "lost");
    tx.put(1, "fine");
    s.put(8, "somewhere else");
    s.put(5, "winner's");
    let winner = s.stats().visible_lsn;
    let id = tx.id;
    let answer = s.store().commit_transaction(id);
    tx.ended();
    refused!(answer, Error::Conflict { id: BlockId(5), snapshot, found }
        if snapshot == snapshot_before && found == winner);
    s.lacks(1);
    s.lacks(9);
}

pub(in crate::testkit) fn rolled_back_work_never_conflicts(s: &mut Subject<'_>) {
    s.put(1, "old");
    let (doomed, tx) = (s.begin(), s.begin());
    doomed.put(1, "doomed");
    doomed.put(2, "doomed");
    tx.put(1, "mine");
    tx.put(2, "mine");
    doomed.rollback();
    tx.commit();
    s.holds(1, "mine");
    s.holds(2, "mine");
}

pub(in crate::testkit) fn work_committed_before_begin_never_conflicts(s: &mut Subject<'_>) {
    for n in 0..5 {
        s.put(1, format!("single {n}"));
        let earlier = s.begin();
        earlier.put(1, "transaction");
        earlier.commit();
        let tx = s.begin();
        tx.put(1, format!("next {n}"));
        tx.commit();
        let deleter = s.begin();
        deleter.remove(1);
        deleter.commit();
        let creator = s.begin();
        creator.put(1, "again");
        creator.commit();
    }
}

pub(in crate::testkit) fn disjoint_transactions_never_conflict(s: &mut Subject<'_>) {
    let open: Vec<_> = (1..=10).map(|id| (id, s.begin())).collect();
    for (id, tx) in &open {
        tx.put(*id, format!("of {id}"));
    }
    for (_, tx) in open.into_iter().rev() {
        tx.commit();
    }
    for id in 1..=10 {
        s.holds(id, format!("of {id}"));
    }
}

pub(in crate::testkit) fn reading_what_others_change_never_conflicts(s: &mut Subject<'_>) {
    s.put(1, "old");
    s.put(2, "old");
    let (reader, writer) = (s.begin(), s.begin());
    reader.holds(1, "old");
    writer.holds(1, "old");
    writer.put(3, "from what was read");
    s.put(1, "newer");
    s.remove(2);
    reader.holds(2, "old");
    reader.commit();
    writer.commit();
    s.holds(3, "from what was read");
}

pub(in crate::testkit) fn single_operations_never_conflict(s: &mut Subject<'_>) {
    s.put(1, "old");
    let pending = s.begin();
    pending.put(1, "pending");
    pending.put(2, "pending");
    s.put(1, "single");
    s.put(2, "single");
    s.remove(1);
    s.put(1, "single again");
    s.holds(1, "single again");
    pending.rollback();
}

pub(in crate::testkit) fn single_writes_to_one_block_never_conflict(s: &mut Subject<'_>) {
    let store = s.store();
    threads(8, |thread| {
        for n in 0..25 {
            let text = format!("{thread}: {n}");
            ok(store.write_block(block(1, text)), "a single write among 8 threads");
        }
    });
    let last = ok(store.read_block(BlockId(1)), "read_block").data;
    let text = String::from_utf8_lossy(&last).into_owned();
    assert!(text.ends_with(": 24"), "the last write of a thread is the last of all, not {text}");
    s.model().write(block(1, last));
}
