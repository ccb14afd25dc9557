//! `stats` against the operations done and against a scan.

use crate::block::BlockId;
use crate::error::Error;
use crate::testkit::rng::{Rng, seed};
use crate::testkit::subject::{Subject, refused};

pub(in crate::testkit) fn new_store_is_empty(s: &mut Subject<'_>) {
    let stats = s.stats();
    let found = (stats.total_blocks, stats.total_bytes, stats.open_transactions);
    assert_eq!(found, (0, 0, 0), "blocks, bytes and open transactions of a new store");
    s.lacks(1);
}

pub(in crate::testkit) fn totals_follow_every_change(s: &mut Subject<'_>) {
    let totals = |blocks: u64, bytes: u64, after: &str| {
        let stats = s.stats();
        assert_eq!((stats.total_blocks, stats.total_bytes), (blocks, bytes), "totals {after}");
    };
    s.put(1, "12345");
    totals(1, 5, "after a write");
    s.put(1, "123");
    totals(1, 3, "after a shorter overwrite");
    s.put(1, "1234567");
    totals(1, 7, "after a longer overwrite");
    s.put(2, "");
    totals(2, 7, "after an empty block");
    let tx = s.begin();
    tx.put(1, "1");
    tx.remove(2);
    tx.put(3, "12");
    tx.put(4, "never there");
    tx.remove(4);
    totals(2, 7, "while a transaction is open");
    tx.commit();
    totals(2, 3, "after a transaction");
    let tx = s.begin();
    tx.put(1, "rolled back");
    tx.remove(3);
    tx.rollback();
    totals(2, 3, "after a rollback");
    let tx = s.begin();
    tx.put(5, "refused");
    tx.remove(3);
    s.put(3, "1234");
    tx.loses(3);
    totals(2, 5, "after a conflict");
    refused!(s.store().delete_block(BlockId(9)), Error::BlockNotFound { .. });
    s.remove(1);
    s.remove(3);
    totals(0, 0, "after everything was deleted");
}

pub(in crate::testkit) fn counters_count_what_happened(s: &mut Subject<'_>) {
    let before = s.stats();
    s.put(1, "write 1");
    s.put(2, "write 2");
    s.remove(2);
    let tx = s.begin();
    tx.put(3, "write 3");
    tx.put(4, "write 4");
    tx.remove(1);
    tx.commit();
    let tx = s.begin();
    tx.put(5, "not committed");
    tx.rollback();
    let tx = s.begin();
    tx.put(3, "refused");
    s.put(3, "write 5");
    tx.loses(3);
    s.holds(3, "write 5");
    let after = s.stats();
    assert_eq!(after.write_ops - before.write_ops, 5, "write_ops: block writes committed");
    assert_eq!(after.delete_ops - before.delete_ops, 2, "delete_ops: block deletes committed");
    assert_eq!(after.commits - before.commits, 5, "commits: four single ones and a transaction");
    assert_eq!(after.conflicts - before.conflicts, 1, "conflicts");
    assert_eq!(after.rollbacks - before.rollbacks, 2, "rollbacks: one asked for, one by conflict");
    assert_eq!(after.read_ops - before.read_ops, 1, "read_ops");
}

pub(in crate::testkit) fn open_transactions_are_counted(s: &mut Subject<'_>) {
    let open = || s.stats().open_transactions;
    let (a, b, c) = (s.begin(), s.begin(), s.begin());
    assert_eq!(open(), 3, "open transactions after three begins");
    a.put(1, "a");
    b.put(1, "b");
    a.commit();
    assert_eq!(open(), 2, "open transactions after a commit");
    b.loses(1);
    assert_eq!(open(), 1, "open transactions after a conflict");
    let id = c.rollback();
    assert_eq!(open(), 0, "open transactions after a rollback");
    assert!(s.store().rollback_transaction(id).is_ok(), "rolling back twice is fine");
    assert_eq!(open(), 0, "open transactions after rolling back twice");
}

pub(in crate::testkit) fn every_commit_takes_a_later_lsn(s: &mut Subject<'_>) {
    let mut last = s.stats().visible_lsn;
    let mut later = |s: &Subject<'_>, what: &str| {
        let stats = s.stats();
        assert!(stats.visible_lsn > last, "{what}: lsn {} after lsn {last}", stats.visible_lsn);
        last = stats.visible_lsn;
    };
    s.put(1, "a");
    later(s, "a write");
    s.put(1, "b");
    later(s, "an overwrite");
    s.remove(1);
    later(s, "a delete");
    let tx = s.begin();
    tx.put(2, "c");
    tx.put(3, "c");
    tx.commit();
    later(s, "a transaction");
    if s.reopen().is_some() {
        s.put(4, "d");
        later(s, "a write after reopen");
    }
}

pub(in crate::testkit) fn sync_makes_every_commit_durable(s: &mut Subject<'_>) {
    assert!(s.store().sync().is_ok(), "sync of an empty store");
    for n in 0..5 {
        s.put(n + 1, "block");
        assert!(s.store().sync().is_ok(), "sync after a commit");
        assert!(s.store().sync().is_ok(), "sync with nothing to do");
        let stats = s.stats();
        assert!(stats.durable_lsn >= stats.visible_lsn, "sync left commits behind: {stats:?}");
    }
}

pub(in crate::testkit) fn totals_equal_a_scan_after_any_mix(s: &mut Subject<'_>) {
    let seed = seed(0x57A7);
    println!("seed {seed} (replay with AEGIS_SEED={seed})");
    let mut rng = Rng::new(seed);
    for round in 0..20 {
        for _ in 0..10 {
            let (id, len) = (1 + rng.below(12), rng.below(500) as usize);
            let exists = s.model().read(id).is_some();
            if exists && rng.once_in(3) { s.remove(id) } else { s.put(id, rng.bytes(len)) }
        }
        let tx = s.begin();
        for _ in 0..10 {
            let (id, len) = (1 + rng.below(12), rng.below(500) as usize);
            let exists = tx.model.borrow().read(id).is_some();
            if exists && rng.once_in(2) { tx.remove(id) } else { tx.put(id, rng.bytes(len)) }
        }
        match rng.below(3) {
            0 => tx.commit(),
            1 => tx.rollback(),
            _ => {
                tx.put(1, "refused");
                s.put(1, "winner's");
                tx.loses(1)
            }
        };
        s.check();
        if round % 5 == 4 && s.reopen().is_none() {
            return;
        }
    }
}
