//! A closed, or crashed, and reopened store holds everything committed and nothing else.

use crate::backend::StorageBackend;
use crate::block::{Block, BlockId, BlockType};
use crate::error::Error;
use crate::testkit::Rng;
use crate::testkit::subject::{Subject, block, ok};

pub(in crate::testkit) fn committed_blocks_survive_reopen(s: &mut Subject<'_>) {
    s.put(1, "single");
    let id = s.allocate("allocated");
    let tx = s.begin();
    tx.put(3, "in a transaction");
    tx.put(1, "overwritten");
    tx.commit();
    if s.reopen().is_none() {
        return;
    }
    s.holds(1, "overwritten");
    s.holds(id, "allocated");
    s.holds(3, "in a transaction");
    s.put(1, "after reopen");
    s.holds(1, "after reopen");
}

pub(in crate::testkit) fn empty_store_reopens_empty(s: &mut Subject<'_>) {
    if s.reopen().is_none() {
        return;
    }
    s.lacks(1);
    s.check();
    if s.reopen().is_some() {
        assert_eq!(s.allocate("first"), 1, "the first id of a store that never held a block");
    }
}

pub(in crate::testkit) fn deletes_survive_reopen(s: &mut Subject<'_>) {
    for id in 1..=4 {
        s.put(id, "block");
    }
    s.remove(1);
    let tx = s.begin();
    tx.remove(2);
    tx.put(3, "then deleted");
    tx.remove(3);
    tx.commit();
    for _ in 0..2 {
        if s.reopen().is_none() {
            return;
        }
        (1..=3).for_each(|id| s.lacks(id));
        s.holds(4, "block");
    }
}

pub(in crate::testkit) fn pending_work_is_gone_after_reopen(s: &mut Subject<'_>) {
    s.put(1, "committed");
    s.put(2, "committed");
    let tx = s.begin();
    tx.put(1, "pending");
    tx.remove(2);
    tx.put(3, "pending");
    let id = tx.allocate("pending");
    if s.reopen().is_none() {
        return;
    }
    s.holds(1, "committed");
    s.holds(2, "committed");
    s.lacks(3);
    s.lacks(id);
    assert_eq!(s.stats().open_transactions, 0, "no transaction outlives its store");
}

pub(in crate::testkit) fn refused_work_is_gone_after_reopen(s: &mut Subject<'_>) {
    s.put(1, "committed");
    let (rolled_back, lost) = (s.begin(), s.begin());
    rolled_back.put(1, "rolled back");
    rolled_back.put(2, "rolled back");
    rolled_back.rollback();
    lost.put(1, "lost");
    lost.put(3, "lost");
    s.put(1, "winner's");
    lost.loses(1);
    if s.reopen().is_none() {
        return;
    }
    s.holds(1, "winner's");
    s.lacks(2);
    s.lacks(3);
}

pub(in crate::testkit) fn transactions_are_whole_after_reopen(s: &mut Subject<'_>) {
    let mut rng = Rng::new(5);
    s.put(1000, "deleted by the last one");
    for n in 0..10 {
        let tx = s.begin();
        for slot in 0..6 {
            let len = rng.below(2000) as usize;
            tx.put(1 + n * 6 + slot, rng.bytes(len));
        }
        tx.put(999, format!("transaction {n}"));
        if n == 9 {
            tx.remove(1000);
        }
        tx.commit();
    }
    if s.reopen().is_none() {
        return;
    }
    s.holds(999, "transaction 9");
    s.lacks(1000);
    s.check();
}

pub(in crate::testkit) fn large_commits_survive_reopen(s: &mut Subject<'_>) {
    let mut rng = Rng::new(6);
    let tx = s.begin();
    (1..=1000).for_each(|id| tx.put(id, rng.bytes(100)));
    tx.put(1001, s.bytes(&mut rng, 1 << 20));
    tx.commit();
    s.put(1002, s.bytes(&mut rng, 1 << 20));
    s.put(1003, "after the large ones");
    if s.reopen().is_some() {
        s.holds(1003, "after the large ones");
    }
}

pub(in crate::testkit) fn header_fields_survive_reopen(s: &mut Subject<'_>) {
    let mut rich = Block::new(BlockId(1), BlockType::TimeSeriesData, "samples");
    rich.header.version = 0xABCD;
    rich.header.flags = 0x1234;
    s.put_block(rich);
    s.put_block(Block::empty(BlockId(2), BlockType::Metadata));
    let tx = s.begin();
    tx.put_block(Block::new(BlockId(3), BlockType::IndexData, "node"));
    tx.commit();
    // The check that ends every claim compares each header.
    s.reopen();
}

pub(in crate::testkit) fn deleted_ids_are_not_allocated_again_after_reopen(s: &mut Subject<'_>) {
    s.put(20, "explicit");
    let last = s.allocate("newest");
    s.remove(last);
    s.remove(20);
    if s.reopen().is_none() {
        return;
    }
    let next = s.allocate("next");
    assert!(next > last, "allocated id {next} after id {last} was used, deleted and reopened");
    assert_eq!(next, last + 1, "allocation is dense across reopen");
    let tx = s.begin();
    tx.remove(next);
    tx.commit();
    for _ in 0..2 {
        if s.reopen().is_none() {
            return;
        }
    }
    let after = s.allocate("after");
    assert!(after > next, "allocated id {after} after id {next} was used, deleted and reopened");
}

pub(in crate::testkit) fn many_reopens_lose_nothing(s: &mut Subject<'_>) {
    for n in 0..10 {
        s.put(1, format!("life {n}"));
        s.put(10 + n, "of one life");
        if n % 3 == 2 {
            s.remove(10 + n - 1);
        }
        if s.reopen().is_none() {
            return;
        }
        s.holds(1, format!("life {n}"));
        s.check();
    }
}

pub(in crate::testkit) fn synced_commits_survive_a_crash(s: &mut Subject<'_>) {
    for n in 0..5 {
        s.put(1, format!("round {n}"));
        s.put(10 + n, "single");
        let tx = s.begin();
        tx.put(20 + n, "in a transaction");
        tx.put(30, format!("round {n}"));
        tx.commit();
        if n == 3 {
            s.remove(11);
        }
        ok(s.store().sync(), "sync");
        if s.crash().is_none() {
            return;
        }
        s.check();
    }
}

pub(in crate::testkit) fn acknowledged_commits_survive_a_crash(s: &mut Subject<'_>) {
    if !s.acknowledges_durably() {
        return;
    }
    for n in 0..8 {
        let id = s.allocate(format!("round {n}"));
        let tx = s.begin();
        tx.put(1000, format!("round {n}"));
        if n % 2 == 1 {
            tx.remove(id)
        } else {
            tx.put(id, "again")
        }
        tx.commit();
        let pending = s.begin();
        pending.put(1000, "pending");
        if s.crash().is_none() {
            return;
        }
        s.check();
    }
}

pub(in crate::testkit) fn crash_keeps_whole_commits_in_order(s: &mut Subject<'_>) {
    let commits = 12;
    for round in 0..6 {
        let base = 1 + round * 1000;
        let mut prefixes = vec![s.model().clone()];
        for n in 0..commits {
            let tx = s.begin();
            tx.put(base, format!("commit {n}"));
            tx.put(base + 1 + n, "first of two");
            tx.put(base + 100 + n, vec![n as u8; 700]);
            tx.commit();
            s.saw(base);
            s.saw(base + 1 + n);
            s.saw(base + 100 + n);
            prefixes.push(s.model().clone());
        }
        if s.crash().is_none() {
            return;
        }
        let kept = commits_kept(s.store(), base, commits);
        *s.model() = prefixes.swap_remove(kept as usize);
        s.check();
    }
}

/// How many of the commits survived: one more than the last whose first block is there.
fn commits_kept(store: &dyn StorageBackend, base: u64, commits: u64) -> u64 {
    let there = |n: &u64| match store.read_block(BlockId(base + 1 + n)) {
        Ok(_) => true,
        Err(Error::BlockNotFound { .. }) => false,
        Err(e) => panic!("read_block failed: {e:?}"),
    };
    (0..commits).filter(there).max().map_or(0, |last| last + 1)
}

pub(in crate::testkit) fn crash_forgets_pending_work(s: &mut Subject<'_>) {
    s.put_block(block(1, "committed"));
    ok(s.store().sync(), "sync");
    let tx = s.begin();
    tx.put(1, "pending");
    tx.put(2, "pending");
    if s.crash().is_none() {
        return;
    }
    s.holds(1, "committed");
    s.lacks(2);
    assert_eq!(s.stats().open_transactions, 0, "no transaction outlives its store");
}
