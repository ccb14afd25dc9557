//! Visibility: nothing pending, nothing newer than the snapshot, always own writes.

use crate::testkit::subject::Subject;

pub(in crate::testkit) fn readers_never_see_pending_writes(s: &mut Subject<'_>) {
    s.put(1, "committed");
    let tx = s.begin();
    tx.put(1, "pending");
    tx.put(2, "pending");
    let id = tx.allocate("pending");
    s.holds(1, "committed");
    s.lacks(2);
    s.lacks(id);
    s.check();
    tx.commit();
    s.holds(1, "pending");
    s.holds(2, "pending");
}

pub(in crate::testkit) fn readers_never_see_pending_deletes(s: &mut Subject<'_>) {
    s.put(1, "committed");
    let tx = s.begin();
    tx.remove(1);
    s.holds(1, "committed");
    s.check();
    tx.commit();
    s.lacks(1);
}

pub(in crate::testkit) fn transactions_never_see_each_others_pending_operations(
    s: &mut Subject<'_>,
) {
    s.put(1, "committed");
    s.put(2, "committed");
    let (a, b) = (s.begin(), s.begin());
    a.put(1, "a's");
    a.put(3, "a's");
    a.remove(2);
    b.holds(1, "committed");
    b.holds(2, "committed");
    b.lacks(3);
    b.put(4, "b's");
    a.lacks(4);
    s.begin().rollback();
    let later = s.begin();
    later.holds(1, "committed");
    later.lacks(3);
    later.lacks(4);
    later.rollback();
    a.rollback();
    b.rollback();
}

pub(in crate::testkit) fn transaction_reads_its_own_writes(s: &mut Subject<'_>) {
    s.put(1, "committed");
    let tx = s.begin();
    tx.holds(1, "committed");
    tx.put(1, "own");
    tx.holds(1, "own");
    tx.put(2, "own");
    tx.holds(2, "own");
    let id = tx.allocate("allocated");
    tx.holds(id, "allocated");
    tx.put(1, "own again");
    tx.holds(1, "own again");
    tx.commit();
}

pub(in crate::testkit) fn transaction_sees_its_own_deletes(s: &mut Subject<'_>) {
    s.put(1, "committed");
    let tx = s.begin();
    tx.remove(1);
    tx.lacks(1);
    tx.put(2, "own");
    tx.remove(2);
    tx.lacks(2);
    s.put(3, "others'");
    tx.lacks(3);
    tx.commit();
}

pub(in crate::testkit) fn own_write_hides_newer_commits(s: &mut Subject<'_>) {
    s.put(1, "old");
    s.put(2, "old");
    let tx = s.begin();
    tx.put(1, "own");
    tx.remove(2);
    s.put(1, "newer");
    s.put(2, "newer");
    tx.holds(1, "own");
    tx.lacks(2);
    tx.rollback();
    s.holds(1, "newer");
}

pub(in crate::testkit) fn snapshot_is_taken_at_begin(s: &mut Subject<'_>) {
    s.put(1, "as of begin");
    s.put(2, "as of begin");
    let tx = s.begin();
    // The first read comes after these.
    s.put(1, "newer");
    s.remove(2);
    s.put(3, "newer");
    tx.holds(1, "as of begin");
    tx.holds(2, "as of begin");
    tx.lacks(3);
    tx.commit();
}

pub(in crate::testkit) fn reads_in_a_transaction_repeat(s: &mut Subject<'_>) {
    s.put(1, "first");
    s.put(2, "first");
    let tx = s.begin();
    for round in 0..5 {
        tx.holds(1, "first");
        tx.holds(2, "first");
        tx.lacks(3);
        s.put(1, format!("round {round}"));
        if round % 2 == 0 {
            s.remove(2);
            s.put(3, "comes and goes");
        } else {
            s.put(2, "back");
            s.remove(3);
        }
    }
    tx.rollback();
}

pub(in crate::testkit) fn snapshot_spans_all_blocks(s: &mut Subject<'_>) {
    for id in 1..=5 {
        s.put(id, "even");
    }
    let tx = s.begin();
    tx.holds(1, "even");
    let writer = s.begin();
    for id in 1..=4 {
        writer.put(id, "odd");
    }
    writer.remove(5);
    writer.commit();
    for id in 1..=5 {
        tx.holds(id, "even");
    }
    tx.commit();
    let after = s.begin();
    after.holds(1, "odd");
    after.lacks(5);
    after.rollback();
}

pub(in crate::testkit) fn blocks_deleted_after_begin_are_still_read(s: &mut Subject<'_>) {
    s.put(1, "single");
    s.put(2, "in a transaction");
    let tx = s.begin();
    s.remove(1);
    let other = s.begin();
    other.remove(2);
    other.commit();
    tx.holds(1, "single");
    tx.holds(2, "in a transaction");
    s.lacks(1);
    s.lacks(2);
    tx.rollback();
}

pub(in crate::testkit) fn blocks_created_after_begin_are_not_seen(s: &mut Subject<'_>) {
    let tx = s.begin();
    s.put(1, "single");
    let id = s.allocate("allocated");
    let other = s.begin();
    other.put(9, "in a transaction");
    other.commit();
    for id in [1, id, 9] {
        tx.lacks(id);
    }
    tx.rollback();
}

pub(in crate::testkit) fn every_open_snapshot_keeps_its_version(s: &mut Subject<'_>) {
    let version = |n: usize| format!("version {n}");
    let mut open = Vec::new();
    for n in 0..12 {
        s.put(1, version(n));
        if n % 4 == 3 {
            s.remove(2)
        } else {
            s.put(2, version(n))
        }
        open.push((n, s.begin()));
    }
    // End them in an order that is neither that of begin nor its reverse.
    while !open.is_empty() {
        for (n, tx) in &open {
            tx.holds(1, version(*n));
            if n % 4 == 3 { tx.lacks(2) } else { tx.holds(2, version(*n)) }
        }
        let (n, tx) = open.remove(open.len() * 2 / 3);
        if n % 2 == 0 {
            tx.commit()
        } else {
            tx.rollback()
        };
    }
}

pub(in crate::testkit) fn begin_sees_all_that_was_committed_before(s: &mut Subject<'_>) {
    for n in 0..20 {
        s.put(1, format!("single {n}"));
        let tx = s.begin();
        tx.holds(1, format!("single {n}"));
        tx.put(2, format!("transaction {n}"));
        tx.commit();
        let next = s.begin();
        next.holds(2, format!("transaction {n}"));
        next.remove(2);
        next.commit();
        s.lacks(2);
    }
}
