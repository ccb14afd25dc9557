//! The life of a transaction: calls refused after its end, and no cost then.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::backend::StorageBackend;
use crate::block::{BlockId, TransactionId};
use crate::error::{Error, Result, TransactionState};
use crate::testkit::subject::{Subject, block, ok, refused, threads};

pub(in crate::testkit) fn commit_twice_is_an_error(s: &mut Subject<'_>) {
    let tx = s.begin();
    tx.put(1, "once");
    let id = tx.commit();
    s.put(1, "since");
    for _ in 0..2 {
        refused!(s.store().commit_transaction(id), Error::TransactionNotActive { id: named, state }
            if named == id && state == TransactionState::Committed);
    }
    s.holds(1, "since");
}

pub(in crate::testkit) fn commit_after_rollback_is_an_error(s: &mut Subject<'_>) {
    let tx = s.begin();
    tx.put(1, "never");
    let id = tx.rollback();
    refused!(s.store().commit_transaction(id), Error::TransactionNotActive { id: named, state }
        if named == id && state == TransactionState::RolledBack);
    s.lacks(1);
}

pub(in crate::testkit) fn rollback_after_commit_is_an_error(s: &mut Subject<'_>) {
    let tx = s.begin();
    tx.put(1, "stays");
    let id = tx.commit();
    refused!(s.store().rollback_transaction(id), Error::TransactionNotActive { id: named, state }
        if named == id && state == TransactionState::Committed);
    s.holds(1, "stays");
}

pub(in crate::testkit) fn rollback_twice_is_fine(s: &mut Subject<'_>) {
    s.put(1, "old");
    let tx = s.begin();
    tx.put(1, "never");
    let id = tx.rollback();
    s.put(2, "between");
    for _ in 0..3 {
        ok(s.store().rollback_transaction(id), "rollback of a transaction rolled back before");
    }
    s.holds(1, "old");
    s.holds(2, "between");
}

/// Ids that no transaction of this store ever had, while `known` is the newest it handed out.
fn unknown_ids(known: TransactionId) -> [TransactionId; 3] {
    [known.0 + 1, known.0 + 1_000_000, u64::MAX].map(TransactionId)
}

pub(in crate::testkit) fn unknown_transaction_is_not_found(s: &mut Subject<'_>) {
    s.put(1, "there");
    let open = s.begin();
    open.put(2, "pending");
    for unknown in unknown_ids(open.id) {
        for answer in every_call(s.store(), unknown) {
            refused!(answer, Error::TransactionNotFound { id } if id == unknown);
        }
        let answer = s.store().rollback_transaction(unknown);
        refused!(answer, Error::TransactionNotFound { id } if id == unknown);
    }
    open.commit();
    s.holds(2, "pending");
    s.lacks(3);
}

/// Every call that names a transaction, except rollback.
fn every_call(store: &dyn StorageBackend, tx: TransactionId) -> [Result<()>; 6] {
    [
        store.read_block_in_tx(tx, BlockId(1)).map(|_| ()),
        store.block_exists_in_tx(tx, BlockId(1)).map(|_| ()),
        store.write_block_in_tx(tx, block(3, "late")).map(|_| ()),
        store.write_block_in_tx(tx, block(0, "late")).map(|_| ()),
        store.delete_block_in_tx(tx, BlockId(1)),
        store.commit_transaction(tx),
    ]
}

pub(in crate::testkit) fn ended_transaction_refuses_every_operation(s: &mut Subject<'_>) {
    s.put(1, "there");
    let (committed, rolled_back, lost) = (s.begin(), s.begin(), s.begin());
    committed.put(2, "committed");
    rolled_back.put(2, "rolled back");
    lost.put(2, "lost");
    let ended = [
        (committed.commit(), TransactionState::Committed),
        (rolled_back.rollback(), TransactionState::RolledBack),
        (lost.loses(2), TransactionState::RolledBack),
    ];
    for (id, outcome) in ended {
        for answer in every_call(s.store(), id) {
            refused!(answer, Error::TransactionNotActive { id: named, state }
                if named == id && state == outcome);
        }
    }
    s.holds(1, "there");
    s.holds(2, "committed");
    s.lacks(3);
}

pub(in crate::testkit) fn failed_operation_does_not_end_the_transaction(s: &mut Subject<'_>) {
    s.put(1, "old");
    let tx = s.begin();
    tx.put(1, "new");
    let (store, id) = (s.store(), tx.id);
    refused!(store.read_block_in_tx(id, BlockId(5)), Error::BlockNotFound { id: BlockId(5) });
    refused!(store.delete_block_in_tx(id, BlockId(5)), Error::BlockNotFound { id: BlockId(5) });
    let mut liar = block(5, "lie");
    liar.header.checksum ^= 1;
    refused!(store.write_block_in_tx(id, liar), Error::InvalidArgument { .. });
    tx.holds(1, "new");
    tx.put(2, "goes on");
    tx.commit();
    s.holds(1, "new");
    s.holds(2, "goes on");
    s.lacks(5);
}

pub(in crate::testkit) fn transaction_ids_are_never_reused(s: &mut Subject<'_>) {
    let store = s.store();
    let seen = Mutex::new(BTreeSet::new());
    threads(4, |thread| {
        for n in 0..250 {
            let tx = ok(store.begin_transaction(), "begin_transaction");
            let fresh = seen.lock().expect("no thread panics here").insert(tx);
            assert!(fresh, "transaction id {tx} was handed out twice");
            let end = if (n + thread) % 2 == 0 {
                store.commit_transaction(tx)
            } else {
                store.rollback_transaction(tx)
            };
            ok(end, "end of an empty transaction");
        }
    });
}

pub(in crate::testkit) fn finished_transactions_cost_no_memory(s: &mut Subject<'_>) {
    s.put(1, "there");
    let first = s.begin().rollback();
    let index_bytes = s.stats().index_bytes;
    for n in 0..100_000 {
        let tx = ok(s.store().begin_transaction(), "begin_transaction");
        if n % 100 == 0 {
            ok(s.store().block_exists_in_tx(tx, BlockId(1)), "block_exists_in_tx");
            ok(s.store().commit_transaction(tx), "commit of a transaction that only read");
        } else {
            ok(s.store().write_block_in_tx(tx, block(1, "pending")), "write_block_in_tx");
            ok(s.store().rollback_transaction(tx), "rollback_transaction");
        }
    }
    let stats = s.stats();
    assert_eq!(stats.open_transactions, 0, "all of them have ended");
    assert_eq!(stats.undo_entries, 0, "no snapshot needs an older version");
    assert_eq!(stats.index_bytes, index_bytes, "the index holds blocks, not transactions");
    // The store remembers a bounded number of them: the first may be forgotten, and is never open.
    match s.store().commit_transaction(first) {
        Err(Error::TransactionNotFound { .. }) => {}
        Err(Error::TransactionNotActive { state: TransactionState::RolledBack, .. }) => {}
        other => panic!("commit of a transaction rolled back long ago answered {other:?}"),
    }
    s.holds(1, "there");
}

pub(in crate::testkit) fn versions_are_kept_only_for_open_snapshots(s: &mut Subject<'_>) {
    let fill = |round: u64| {
        for id in 1..=50 {
            s.put(id, format!("round {round}"));
        }
    };
    fill(0);
    let (old, young) = (s.begin(), s.begin());
    fill(1);
    (1..=25).for_each(|id| s.remove(id));
    old.rollback();
    young.holds(1, "round 0");
    young.rollback();
    fill(2);
    assert_eq!(s.stats().undo_entries, 0, "no snapshot needs an older version");
}

pub(in crate::testkit) fn transaction_is_shared_by_threads(s: &mut Subject<'_>) {
    let (store, tx) = (s.store(), s.begin());
    let id = tx.id;
    threads(2, |thread| {
        for n in 0..200 {
            let own = BlockId(1 + 2 * n + thread);
            let write = store.write_block_in_tx(id, block(own.0, format!("of {thread}")));
            assert_eq!(ok(write, "write_block_in_tx"), own);
            ok(store.read_block_in_tx(id, own), "read of a write of the same thread");
        }
    });
    for n in 0..400 {
        tx.holds(1 + n, format!("of {}", n % 2));
        tx.model.borrow_mut().write(block(1 + n, format!("of {}", n % 2)));
    }
    s.lacks(1);
    tx.commit();
}

pub(in crate::testkit) fn one_of_two_racing_commits_wins(s: &mut Subject<'_>) {
    for n in 1..=50 {
        let (store, tx) = (s.store(), s.begin());
        tx.put(n, "committed once");
        let id = tx.id;
        let answers = threads(2, |_| store.commit_transaction(id));
        let wins = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(wins, 1, "two commits of one transaction answered {answers:?}");
        for answer in answers.into_iter().filter(|answer| answer.is_err()) {
            let ending = [TransactionState::Committing, TransactionState::Committed];
            refused!(answer, Error::TransactionNotActive { state, .. } if ending.contains(&state));
        }
        tx.ended();
        s.model().write(block(n, "committed once"));
    }
}

pub(in crate::testkit) fn commit_or_rollback_wins_the_race(s: &mut Subject<'_>) {
    for n in 1..=100 {
        let (store, tx) = (s.store(), s.begin());
        tx.put(n, "perhaps");
        tx.put(1000 + n, "perhaps");
        let id = tx.id;
        let answers = threads(2, |thread| match (thread + n) % 2 {
            0 => (true, store.commit_transaction(id)),
            _ => (false, store.rollback_transaction(id)),
        });
        let winner = |commit| answers.iter().any(|(c, answer)| *c == commit && answer.is_ok());
        tx.ended();
        match (winner(true), winner(false)) {
            (true, false) => {
                s.model().write(block(n, "perhaps"));
                s.model().write(block(1000 + n, "perhaps"));
            }
            (false, true) => {
                s.lacks(n);
                s.lacks(1000 + n);
            }
            _ => panic!("commit and rollback of one transaction answered {answers:?}"),
        }
        s.check();
    }
}

pub(in crate::testkit) fn acknowledged_write_is_in_the_racing_commit(s: &mut Subject<'_>) {
    for round in 0..50 {
        let (store, tx) = (s.store(), s.begin());
        let id = tx.id;
        let mine = |n: u64| round * 1000 + n;
        tx.put(mine(1), "before");
        // One thread writes until it is refused; the other commits meanwhile.
        let written = threads(2, |thread| {
            if thread == 1 {
                ok(store.commit_transaction(id), "commit_transaction");
                return 0;
            }
            (2..1000)
                .find(|n| match store.write_block_in_tx(id, block(mine(*n), "racing")) {
                    Ok(_) => false,
                    Err(Error::TransactionNotActive { .. }) => true,
                    Err(e) => panic!("a write that races with a commit answered {e:?}"),
                })
                .unwrap_or(1000)
        })[0];
        tx.ended();
        s.model().write(block(mine(1), "before"));
        for n in 2..written {
            s.model().write(block(mine(n), "racing"));
        }
        s.lacks(mine(written));
    }
}

pub(in crate::testkit) fn storm_of_begins_and_ends_leaves_nothing(s: &mut Subject<'_>) {
    s.put(1, "there");
    let store = s.store();
    threads(8, |thread| {
        let mut open = Vec::new();
        for n in 0..500 {
            let tx = ok(store.begin_transaction(), "begin_transaction");
            ok(store.write_block_in_tx(tx, block(2 + thread, "pending")), "write_block_in_tx");
            ok(store.read_block_in_tx(tx, BlockId(1)), "read_block_in_tx");
            open.push(tx);
            if n % 7 == 6 {
                for tx in open.drain(..) {
                    ok(store.rollback_transaction(tx), "rollback_transaction");
                }
            }
        }
        for tx in open {
            ok(store.rollback_transaction(tx), "rollback_transaction");
        }
    });
    for thread in 0..8 {
        s.lacks(2 + thread);
    }
    assert_eq!(s.stats().undo_entries, 0, "no snapshot needs an older version");
}
