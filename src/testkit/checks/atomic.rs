//! Commits are all or nothing, and the last operation on an id wins.

use crate::testkit::Rng;
use crate::testkit::subject::Subject;

pub(in crate::testkit) fn write_then_delete_deletes(s: &mut Subject<'_>) {
    s.put(1, "old");
    let tx = s.begin();
    tx.put(1, "new");
    tx.remove(1);
    tx.lacks(1);
    tx.put(2, "made here");
    tx.remove(2);
    tx.lacks(2);
    tx.commit();
    s.lacks(1);
    s.lacks(2);
}

pub(in crate::testkit) fn delete_then_write_writes(s: &mut Subject<'_>) {
    s.put(1, "old");
    let tx = s.begin();
    tx.remove(1);
    tx.put(1, "new");
    tx.holds(1, "new");
    tx.commit();
    s.holds(1, "new");
}

pub(in crate::testkit) fn last_write_of_a_transaction_wins(s: &mut Subject<'_>) {
    let tx = s.begin();
    for n in 0..10 {
        tx.put(1, format!("version {n}"));
        tx.holds(1, format!("version {n}"));
    }
    tx.remove(1);
    tx.put(1, "last");
    tx.commit();
    s.holds(1, "last");
}

pub(in crate::testkit) fn commit_applies_every_operation(s: &mut Subject<'_>) {
    s.put(1, "overwritten");
    s.put(2, "deleted");
    s.put(3, "untouched");
    let tx = s.begin();
    tx.put(1, "overwritten now");
    tx.remove(2);
    tx.put(4, "created");
    let id = tx.allocate("allocated");
    tx.commit();
    s.holds(1, "overwritten now");
    s.lacks(2);
    s.holds(3, "untouched");
    s.holds(4, "created");
    s.holds(id, "allocated");
}

pub(in crate::testkit) fn empty_transaction_commits(s: &mut Subject<'_>) {
    s.put(1, "there");
    s.begin().commit();
    let tx = s.begin();
    tx.holds(1, "there");
    tx.commit();
    s.begin().rollback();
    s.holds(1, "there");
}

pub(in crate::testkit) fn rollback_leaves_no_trace(s: &mut Subject<'_>) {
    s.put(1, "one");
    s.put(2, "two");
    let tx = s.begin();
    tx.put(1, "pending");
    tx.remove(2);
    tx.put(3, "pending");
    let id = tx.allocate("pending");
    tx.rollback();
    s.holds(1, "one");
    s.holds(2, "two");
    s.lacks(3);
    s.lacks(id);
    let tx = s.begin();
    tx.holds(1, "one");
    tx.holds(2, "two");
    tx.lacks(3);
    tx.lacks(id);
    tx.rollback();
}

pub(in crate::testkit) fn rollback_leaves_others_work_alone(s: &mut Subject<'_>) {
    s.put(1, "old");
    s.put(2, "old");
    let (doomed, other) = (s.begin(), s.begin());
    doomed.put(1, "doomed");
    doomed.remove(2);
    doomed.put(3, "doomed");
    doomed.put(4, "doomed");
    other.put(1, "other's");
    other.put(3, "other's");
    other.commit();
    s.put(2, "single");
    s.put(4, "single");
    doomed.rollback();
    s.holds(1, "other's");
    s.holds(2, "single");
    s.holds(3, "other's");
    s.holds(4, "single");
}

pub(in crate::testkit) fn large_transaction_commits_whole(s: &mut Subject<'_>) {
    let mut rng = Rng::new(4);
    let tx = s.begin();
    for id in 1..=1000 {
        let len = rng.below(300) as usize;
        tx.put(id, rng.bytes(len));
    }
    tx.put(1001, s.bytes(&mut rng, 1 << 20));
    s.lacks(1);
    s.lacks(1001);
    tx.commit();
    s.check();
    let tx = s.begin();
    for id in 1..=1000 {
        if id % 3 == 0 { tx.remove(id) } else { tx.put(id, "replaced") }
    }
    tx.commit();
}
