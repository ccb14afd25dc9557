//! Many threads at once: commits appear whole and in order, and nothing is lost between them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::backend::StorageBackend;
use crate::block::{BlockId, TransactionId};
use crate::error::Error;
use crate::testkit::rng::{Rng, seed};
use crate::testkit::subject::{Subject, block, ok, threads};

fn number(n: u64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

fn read_number(store: &dyn StorageBackend, id: u64) -> u64 {
    from_bytes(&ok(store.read_block(BlockId(id)), "read_block").data)
}

/// Lets other threads in before it reads, so that reads of one transaction are some time apart.
fn read_number_in(store: &dyn StorageBackend, tx: TransactionId, id: u64) -> u64 {
    thread::yield_now();
    from_bytes(&ok(store.read_block_in_tx(tx, BlockId(id)), "read_block_in_tx").data)
}

fn from_bytes(data: &[u8]) -> u64 {
    u64::from_le_bytes(data.try_into().expect("a payload of 8 bytes comes back as 8 bytes"))
}

/// Sets the flag when a thread is done, also by panic, so that the others always end.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One thread writes number after number, three read, until each side has done enough while the
/// other was at work, or has failed. Readers read once more after the last write. Returns the last
/// number.
fn one_writes_three_read(write: impl Fn(u64) + Sync, read: impl Fn() + Sync) -> u64 {
    let (ended, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let written = threads(4, |thread| {
        if thread == 0 {
            let _ends = Ends(&ended);
            let enough = |n| n >= WRITE_COUNT && reads.load(Ordering::SeqCst) >= READ_COUNT;
            let last = (1..=WRITE_COUNT_MAX).find(|n| {
                write(*n);
                enough(*n) || ended.load(Ordering::SeqCst)
            });
            return last.unwrap_or(WRITE_COUNT_MAX);
        }
        let _ends = Ends(&ended);
        while !ended.load(Ordering::SeqCst) {
            read();
            reads.fetch_add(1, Ordering::SeqCst);
        }
        read();
        0
    });
    written[0]
}

const WRITE_COUNT: u64 = 200;
const READ_COUNT: u64 = 600;
/// Ends a run whose readers do not get a word in.
const WRITE_COUNT_MAX: u64 = 20_000;

pub(in crate::testkit) fn commits_appear_whole_to_single_reads(s: &mut Subject<'_>) {
    s.put(1, number(0));
    s.put(2, number(0));
    let store = s.store();
    let write = |n: u64| {
        let tx = ok(store.begin_transaction(), "begin_transaction");
        for id in [1 + n % 2, 2 - n % 2] {
            ok(store.write_block_in_tx(tx, block(id, number(n))), "write_block_in_tx");
        }
        ok(store.commit_transaction(tx), "commit of the only writer");
    };
    let read = || {
        for (a, b) in [(1, 2), (2, 1)] {
            let (first, second) = (read_number(store, a), read_number(store, b));
            assert!(second >= first, "block {a} of commit {first}, then block {b} of {second}");
        }
    };
    let last = one_writes_three_read(write, read);
    s.model().write(block(1, number(last)));
    s.model().write(block(2, number(last)));
}

pub(in crate::testkit) fn commits_appear_whole_to_transactions(s: &mut Subject<'_>) {
    for id in 1..=8 {
        s.put(id, number(0));
    }
    let store = s.store();
    let write = |n| {
        let tx = ok(store.begin_transaction(), "begin_transaction");
        for id in 1..=8 {
            ok(store.write_block_in_tx(tx, block(id, number(n))), "write_block_in_tx");
        }
        ok(store.commit_transaction(tx), "commit of the only writer");
    };
    let read = || {
        let tx = ok(store.begin_transaction(), "begin_transaction");
        let found: Vec<u64> = (1..=8).map(|id| read_number_in(store, tx, id)).collect();
        assert!(found.iter().all(|n| *n == found[0]), "a snapshot of several commits: {found:?}");
        assert_eq!(read_number_in(store, tx, 1), found[0], "a second read in the transaction");
        ok(store.rollback_transaction(tx), "rollback_transaction");
    };
    let last = one_writes_three_read(write, read);
    (1..=8).for_each(|id| s.model().write(block(id, number(last))));
}

pub(in crate::testkit) fn blocks_appear_and_vanish_together(s: &mut Subject<'_>) {
    s.put(2, "here");
    let store = s.store();
    let write = |n: u64| {
        let (from, to) = (1 + n % 2, 2 - n % 2);
        let tx = ok(store.begin_transaction(), "begin_transaction");
        ok(store.delete_block_in_tx(tx, BlockId(from)), "delete_block_in_tx");
        ok(store.write_block_in_tx(tx, block(to, "here")), "write_block_in_tx");
        ok(store.commit_transaction(tx), "commit of the only writer");
    };
    let read = || {
        let tx = ok(store.begin_transaction(), "begin_transaction");
        let exists = |id| {
            thread::yield_now();
            ok(store.block_exists_in_tx(tx, BlockId(id)), "block_exists_in_tx")
        };
        let first = exists(1);
        for _ in 0..3 {
            let found = (exists(2), exists(1));
            assert!(found == (!first, first), "block 1 exists: {first}, then 2 and 1: {found:?}");
        }
        ok(store.rollback_transaction(tx), "rollback_transaction");
    };
    let last = one_writes_three_read(write, read);
    let mut model = s.model();
    model.write(block(1, "here"));
    model.write(block(2, "here"));
    assert!(model.delete(1 + last % 2), "the last write deleted one of the two");
}

pub(in crate::testkit) fn reads_never_go_back(s: &mut Subject<'_>) {
    s.put(1, number(0));
    let store = s.store();
    let write = |n| {
        ok(store.write_block(block(1, number(n))), "write_block");
    };
    let read = || {
        let mut last = 0;
        for n in 0..20 {
            let found = if n % 2 == 0 {
                read_number(store, 1)
            } else {
                let tx = ok(store.begin_transaction(), "begin_transaction");
                let found = read_number_in(store, tx, 1);
                ok(store.commit_transaction(tx), "commit of a transaction that only read");
                found
            };
            assert!(found >= last, "read version {found} after version {last}");
            last = found;
        }
    };
    let last = one_writes_three_read(write, read);
    s.model().write(block(1, number(last)));
}

pub(in crate::testkit) fn acknowledged_commits_are_visible_to_every_reader(s: &mut Subject<'_>) {
    let store = s.store();
    // Pairs of threads: the writer of a pair tells its reader of every acknowledged commit.
    threads(4, |pair| {
        let id = 1 + pair;
        let (acks, acked) = mpsc::channel();
        threads_of_two(
            move || {
                for n in 1..=60 {
                    if n % 2 == 0 {
                        ok(store.write_block(block(id, number(n))), "write_block");
                    } else {
                        let tx = ok(store.begin_transaction(), "begin_transaction");
                        let write = store.write_block_in_tx(tx, block(id, number(n)));
                        ok(write, "write_block_in_tx");
                        ok(store.commit_transaction(tx), "commit of the block's only writer");
                    }
                    if acks.send(n).is_err() {
                        return;
                    }
                }
            },
            move || {
                for n in acked {
                    let tx = ok(store.begin_transaction(), "begin_transaction");
                    let found = (read_number(store, id), read_number_in(store, tx, id));
                    ok(store.rollback_transaction(tx), "rollback_transaction");
                    let seen = found.0 >= n && found.1 >= n;
                    assert!(seen, "commit {n} was acknowledged, then reads found {found:?}");
                }
            },
        );
    });
    (1..=4).for_each(|id| s.model().write(block(id, number(60))));
}

fn threads_of_two(a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
    let bodies: [Box<dyn FnOnce() + Send>; 2] = [Box::new(a), Box::new(b)];
    let bodies = bodies.map(|body| std::sync::Mutex::new(Some(body)));
    threads(2, |n| {
        let body = bodies[n as usize].lock().expect("taken once").take();
        body.expect("each thread has its own body")();
    });
}

pub(in crate::testkit) fn no_update_is_lost(s: &mut Subject<'_>) {
    s.put(1, number(0));
    let store = s.store();
    let conflicts: u64 = threads(8, |_| {
        let mut conflicts = 0;
        for _ in 0..20 {
            while !increment(store, 1) {
                conflicts += 1;
            }
        }
        conflicts
    })
    .into_iter()
    .sum();
    assert_eq!(read_number(store, 1), 160, "160 increments ({conflicts} conflicts retried)");
    assert_eq!(s.stats().conflicts, conflicts, "stats().conflicts");
    s.model().write(block(1, number(160)));
}

/// Adds 1 to a block; false when another thread came first.
fn increment(store: &dyn StorageBackend, id: u64) -> bool {
    let tx = ok(store.begin_transaction(), "begin_transaction");
    let n = read_number_in(store, tx, id);
    ok(store.write_block_in_tx(tx, block(id, number(n + 1))), "write_block_in_tx");
    // Others may come first here.
    thread::yield_now();
    committed(store, tx)
}

fn committed(store: &dyn StorageBackend, tx: TransactionId) -> bool {
    match store.commit_transaction(tx) {
        Ok(()) => true,
        Err(Error::Conflict { .. }) => false,
        Err(e) => panic!("commit_transaction failed: {e:?}"),
    }
}

const ACCOUNTS: u64 = 10;
const MONEY: u64 = 100;
/// Each writer goes on until it has done this much and the readers have read enough sums.
const TRANSFER_COUNT: u64 = 60;
const SUM_COUNT: u64 = 200;
const TRANSFER_COUNT_MAX: u64 = 5000;

pub(in crate::testkit) fn transfers_keep_the_sum(s: &mut Subject<'_>) {
    for id in 1..=ACCOUNTS {
        s.put(id, number(MONEY / ACCOUNTS));
    }
    let seed = seed(0x5033);
    println!("seed {seed} (replay with AEGIS_SEED={seed})");
    let store = s.store();
    let (ended, sums) = (AtomicBool::new(false), AtomicU64::new(0));
    threads(6, |thread| {
        let _ends = Ends(&ended);
        let mut rng = Rng::new(seed + thread);
        let done = |n| n >= TRANSFER_COUNT && sums.load(Ordering::SeqCst) >= SUM_COUNT;
        let going = |n: &u64| !ended.load(Ordering::SeqCst) && !done(*n);
        if thread < 3 {
            (0..TRANSFER_COUNT_MAX).take_while(going).for_each(|_| transfer(store, &mut rng));
            return;
        }
        while !ended.load(Ordering::SeqCst) {
            assert_eq!(sum(store), MONEY, "the sum of all accounts in one snapshot");
            sums.fetch_add(1, Ordering::SeqCst);
        }
    });
    assert_eq!(sum(store), MONEY, "the sum of all accounts at the end");
    for id in (1..=ACCOUNTS).map(BlockId) {
        match store.read_block(id) {
            Ok(found) => s.model().write(found),
            Err(_) => drop(s.model().delete(id.0)),
        }
    }
    s.check();
    if s.reopen().is_some() {
        assert_eq!(sum(s.store()), MONEY, "the sum of all accounts after reopen");
    }
}

/// An account without money has no block.
fn balance(store: &dyn StorageBackend, tx: TransactionId, id: u64) -> u64 {
    let exists = ok(store.block_exists_in_tx(tx, BlockId(id)), "block_exists_in_tx");
    if exists { read_number_in(store, tx, id) } else { 0 }
}

fn set_balance(store: &dyn StorageBackend, tx: TransactionId, id: u64, money: u64) {
    if money > 0 {
        ok(store.write_block_in_tx(tx, block(id, number(money))), "write_block_in_tx");
    } else {
        match store.delete_block_in_tx(tx, BlockId(id)) {
            Ok(()) | Err(Error::BlockNotFound { .. }) => {}
            Err(e) => panic!("delete_block_in_tx failed: {e:?}"),
        }
    }
}

/// Moves money between two accounts, however often others come first.
fn transfer(store: &dyn StorageBackend, rng: &mut Rng) {
    let from = 1 + rng.below(ACCOUNTS);
    let to = 1 + (from + rng.below(ACCOUNTS - 1)) % ACCOUNTS;
    let most = rng.below(MONEY);
    loop {
        let tx = ok(store.begin_transaction(), "begin_transaction");
        let (has, had) = (balance(store, tx, from), balance(store, tx, to));
        let moved = most.min(has);
        set_balance(store, tx, from, has - moved);
        set_balance(store, tx, to, had + moved);
        if committed(store, tx) {
            return;
        }
    }
}

fn sum(store: &dyn StorageBackend) -> u64 {
    let tx = ok(store.begin_transaction(), "begin_transaction");
    let sum = (1..=ACCOUNTS).map(|id| balance(store, tx, id)).sum();
    ok(store.commit_transaction(tx), "commit of a transaction that only read");
    sum
}

pub(in crate::testkit) fn disjoint_threads_all_commit(s: &mut Subject<'_>) {
    let store = s.store();
    threads(8, |thread| {
        for n in 0..20 {
            let tx = ok(store.begin_transaction(), "begin_transaction");
            for slot in 0..4 {
                let id = 1 + thread * 100 + slot;
                let write = store.write_block_in_tx(tx, block(id, format!("{thread} {n}")));
                ok(write, "write_block_in_tx");
                thread::yield_now();
            }
            ok(store.commit_transaction(tx), "commit of blocks that only one thread writes");
        }
    });
    for (thread, slot) in (0..8).flat_map(|thread| (0..4).map(move |slot| (thread, slot))) {
        s.model().write(block(1 + thread * 100 + slot, format!("{thread} 19")));
    }
    s.check();
    s.reopen();
}

pub(in crate::testkit) fn one_of_many_racing_transactions_wins(s: &mut Subject<'_>) {
    for round in 0..25 {
        let (store, id) = (s.store(), 1 + round % 5);
        let open: Vec<_> = (0..4).map(|_| s.begin()).collect();
        for (n, tx) in open.iter().enumerate() {
            tx.put(id, format!("round {round}, writer {n}"));
        }
        let ids: Vec<TransactionId> = open.iter().map(|tx| tx.id).collect();
        let won = threads(4, |n| committed(store, ids[n as usize]));
        open.iter().for_each(|tx| tx.ended());
        let winners: Vec<usize> = (0..4).filter(|n| won[*n]).collect();
        assert_eq!(winners.len(), 1, "winners among four writers of one block: {winners:?}");
        s.holds(id, format!("round {round}, writer {}", winners[0]));
        s.model().write(block(id, format!("round {round}, writer {}", winners[0])));
    }
}

pub(in crate::testkit) fn each_block_is_deleted_once(s: &mut Subject<'_>) {
    let blocks = 30;
    (1..=blocks).for_each(|id| s.put(id, "deleted once"));
    let store = s.store();
    let deleted: u64 = threads(8, |_| {
        let delete = |id: u64| match store.delete_block(BlockId(id)) {
            Ok(()) => true,
            Err(Error::BlockNotFound { id: named }) if named.0 == id => false,
            Err(e) => panic!("delete_block failed: {e:?}"),
        };
        (1..=blocks).filter(|id| delete(*id)).count() as u64
    })
    .into_iter()
    .sum();
    assert_eq!(deleted, blocks, "deletes acknowledged for {blocks} blocks");
    (1..=blocks).for_each(|id| assert!(s.model().delete(id), "the model holds block {id}"));
}
