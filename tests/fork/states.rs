//! States of a store that a fork finds it in.

use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::Scope;

use aegis_blocks::{
    BlockId, CommitTicket, Error, IsolationLevel, LocalBackend, MemoryBackend, Options,
    StorageBackend, StorageExt,
};

use crate::block::block;
use crate::child::{
    ends_well, exit, fork_here, forked, forked_raw, is_aborted, is_refused, local_is_refused,
    refused,
};
use crate::options::short_segments;

/// Forks of the states in which it matters when they happen.
const FORK_COUNT: u64 = 60;

fn small() -> Options {
    short_segments(256 << 10, 64 << 10).checkpoint_log_len(256 << 10)
}

fn open(dir: &Path) -> LocalBackend {
    let store = small().open(dir.join("store")).expect("opens");
    store.write_block(block(1, "parent")).expect("writes");
    store
}

/// The parent's half when a child has ended: its store is locked and whole, and goes on.
fn goes_on(store: LocalBackend, dir: &Path, count: u64) {
    let path = dir.join("store");
    let second = LocalBackend::open(&path);
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    store.write_block(block(u64::MAX - 1, "after")).expect("the parent writes");
    store.checkpoint().expect("the parent makes a checkpoint");
    store.close().expect("the parent closes");
    let verified = LocalBackend::verify(&path).expect("verifies");
    assert_eq!(verified.damage, []);
    let store = LocalBackend::open(&path).expect("opens again");
    assert!(store.recovery().clean);
    assert_eq!(store.stats().total_blocks, count + 1);
    assert_eq!(&store.read_block(BlockId(u64::MAX - 1)).expect("reads").data[..], b"after");
}

pub fn idle(dir: &Path) {
    let mut store = Some(open(dir));
    ends_well(forked(|| local_is_refused(store.clone().expect("open"), dir)));
    // The last handle, whose drop would close the store.
    ends_well(forked(|| drop(store.take())));
    goes_on(store.take().expect("open"), dir, 1);
}

pub fn single_threaded(dir: &Path) {
    let options = small().single_threaded(true);
    let store = options.open(dir.join("store")).expect("opens");
    store.write_block(block(1, "parent")).expect("writes");
    ends_well(forked(|| local_is_refused(store.clone(), dir)));
    goes_on(store, dir, 1);
}

pub fn raw_fork(dir: &Path) {
    let store = open(dir);
    ends_well(forked_raw(|| local_is_refused(store.clone(), dir)));
    goes_on(store, dir, 1);
}

pub fn writers(dir: &Path) {
    let (store, stop, written) = (open(dir), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (store, stop, written) = (store.clone(), &stop, &written);
            scope.spawn(move || {
                let mut id = 10 + thread;
                while !stop.load(Ordering::Relaxed) {
                    let tx = store.begin().expect("begins");
                    tx.write(block(id, "beside forks")).expect("writes");
                    tx.commit().expect("commits");
                    written.fetch_add(1, Ordering::Relaxed);
                    id += 4;
                }
            });
        }
        for _ in 0..FORK_COUNT {
            let before = written.load(Ordering::Relaxed);
            ends_well(forked(|| local_is_refused(store.clone(), dir)));
            // The writers are not held up by it.
            while written.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    goes_on(store, dir, 1 + written.into_inner());
}

pub fn transaction(dir: &Path) {
    let store = open(dir);
    let begin = || store.begin().expect("begins");
    let (mut ended, mut kept) = (Some([begin(), begin(), begin()]), Some(begin()));
    kept.as_ref().expect("open").write(block(2, "pending")).expect("writes");
    let mut held = Some((store.snapshot().expect("holds"), store.blocks(..).expect("lists")));
    let child = forked(|| {
        let tx = kept.take().expect("open");
        refused(tx.read(BlockId(1)));
        refused(tx.write(block(3, "child")));
        refused(tx.delete(BlockId(1)));
        refused(tx.exists(BlockId(1)));
        refused(tx.range(..).map(|_| ()));
        refused(tx.savepoint());
        assert!(format!("{tx:?}").contains("Transaction"));
        let [committed, submitted, rolled_back] = ended.take().expect("open");
        refused(committed.commit());
        refused(submitted.submit());
        refused(rolled_back.rollback());
        let (snapshot, mut blocks) = held.take().expect("held");
        refused(snapshot.read(BlockId(1)));
        refused(snapshot.range(..).map(|_| ()));
        refused(blocks.next().expect("an answer"));
        assert!(blocks.next().is_none());
        drop((tx, snapshot, blocks));
        local_is_refused(store.clone(), dir);
    });
    ends_well(child);
    assert_eq!(store.stats().open_transactions, 6);
    let (snapshot, mut blocks) = held.take().expect("held");
    assert_eq!(&snapshot.read(BlockId(1)).expect("reads").data[..], b"parent");
    assert!(blocks.next().expect("an answer").is_ok());
    kept.take().expect("open").commit().expect("commits");
    drop((snapshot, blocks, ended));
    goes_on(store, dir, 2);
}

fn hand_in(store: &impl StorageBackend, id: u64) -> CommitTicket {
    let tx = store.begin_transaction().expect("begins");
    store.write_block_in_tx(tx, block(id, "handed in")).expect("writes");
    store.submit_transaction(tx, None).expect("hands in")
}

pub fn ticket(dir: &Path) {
    for single in [true, false] {
        let dir = dir.join(single.to_string());
        std::fs::create_dir(&dir).expect("a directory");
        let store = small().single_threaded(single).open(dir.join("store")).expect("opens");
        let mut tickets = Some([2, 3, 4, 5].map(|id| hand_in(&store, id)));
        let child = forked(|| {
            let [waited, asked, called, dropped] = tickets.take().expect("held");
            assert!(asked.lsn().is_none() && !asked.is_durable());
            refused(asked.try_wait().expect("an answer"));
            refused(asked.wait_timeout(std::time::Duration::MAX).expect("an answer"));
            assert!(format!("{asked:?}").contains("CommitTicket"));
            refused(waited.wait());
            let (sender, receiver) = channel();
            called.on_durable(move |answer| sender.send(answer).expect("the test waits"));
            refused(receiver.recv().expect("it is called at once"));
            drop((asked, dropped));
            local_is_refused(store.clone(), &dir);
        });
        ends_well(child);
        for ticket in tickets.take().expect("held") {
            assert!(ticket.wait().expect("commits").is_some());
        }
        goes_on(store, &dir, 4);
    }
}

/// A ticket whose commit another thread carries at the fork: it holds what the child would wait
/// for.
pub fn carried_ticket(dir: &Path) {
    let store = open(dir);
    let (within, is_within) = channel();
    let (go_on, goes) = channel::<()>();
    hand_in(&store, 2).on_durable(move |_| {
        within.send(()).expect("the test waits");
        // The test lets go by dropping its end.
        assert!(goes.recv().is_err());
    });
    is_within.recv().expect("the callback is called");
    let mut tickets = Some([hand_in(&store, 3), hand_in(&store, 4)]);
    ends_well(forked(|| {
        let [waited, dropped] = tickets.take().expect("held");
        refused(waited.wait());
        drop(dropped);
        local_is_refused(store.clone(), dir);
    }));
    drop(go_on);
    for ticket in tickets.take().expect("held") {
        assert!(ticket.wait().expect("commits").is_some());
    }
    goes_on(store, dir, 4);
}

pub fn upkeep(dir: &Path) {
    let (store, stop, rounds) = (open(dir), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let round = rounds.load(Ordering::Relaxed);
                store.write_block(block(2 + round % 9, "moved")).expect("writes");
                store.checkpoint().expect("makes a checkpoint");
                store.compact_now().expect("compacts");
                let target = dir.join(format!("backup-{round}"));
                store.backup_to(&target, None, &|_| Continue(())).expect("a backup");
                let check = LocalBackend::verify_backup(&target).expect("a finished one");
                assert_eq!(check.damage, []);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..FORK_COUNT {
            ends_well(forked(|| local_is_refused(store.clone(), dir)));
        }
        let seen = rounds.load(Ordering::Relaxed);
        while rounds.load(Ordering::Relaxed) < seen + 9 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    goes_on(store, dir, 10);
}

/// Starts three threads that commit until they are told to stop.
fn write_beside_forks<'scope, S: StorageBackend + Clone + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    store: &S,
    stop: &'scope AtomicBool,
) {
    for thread in 0..3_u64 {
        let store = store.clone();
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                store.write_block(block(3 + thread, "beside forks")).expect("writes");
            }
        });
    }
}

pub fn memory(_: &Path) {
    let (store, stop) = (MemoryBackend::new(), AtomicBool::new(false));
    store.write_block(block(1, "parent")).expect("writes");
    let mut ticket = Some(hand_in(&store, 2));
    let mut tx = Some(store.begin().expect("begins"));
    ends_well(forked(|| {
        refused(ticket.take().expect("held").wait());
        refused(tx.take().expect("held").commit());
        assert!(format!("{store:?}").contains("MemoryBackend"));
    }));
    ticket.take().expect("held").wait().expect("committed");
    tx.take().expect("held").commit().expect("commits");
    std::thread::scope(|scope| {
        write_beside_forks(scope, &store, &stop);
        for _ in 0..FORK_COUNT {
            ends_well(forked(|| is_refused(&store.clone())));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(&store.read_block(BlockId(1)).expect("reads").data[..], b"parent");
}

pub fn turn(_: &Path) {
    let (store, stop) = (MemoryBackend::new(), AtomicBool::new(false));
    store.write_block(block(1, "parent")).expect("writes");
    std::thread::scope(|scope| {
        write_beside_forks(scope, &store, &stop);
        let (mut tries, mut is_child, mut ended) = (0, false, Vec::new());
        let answer = store.transact(IsolationLevel::Snapshot, |tx| {
            tx.write(block(1, "changed"))?;
            tries += 1;
            if tries < 5 {
                store.write_block(block(1, "faster"))?;
                return Ok(());
            }
            for _ in 0..FORK_COUNT {
                if fork_here() {
                    // Returns into the call, in the child, which has a turn of its parent.
                    is_child = true;
                    return Ok(());
                }
                ended.push(nix::sys::wait::wait().expect("a child"));
                if !matches!(ended.last(), Some(nix::sys::wait::WaitStatus::Exited(_, 0))) {
                    break;
                }
            }
            Ok(())
        });
        if is_child {
            refused(answer);
            exit(0);
        }
        stop.store(true, Ordering::Relaxed);
        answer.expect("the parent commits");
        assert_eq!(ended.len() as u64, FORK_COUNT, "a child failed or hung: {:?}", ended.last());
    });
    assert_eq!(&store.read_block(BlockId(1)).expect("reads").data[..], b"changed");
}

pub fn reader(dir: &Path) {
    let mut store = Some(open(dir));
    let read = || store.as_ref().expect("open").read_block(BlockId(1)).expect("reads");
    let mut blocks = Some(vec![read(), read()]);
    ends_well(forked(|| {
        let blocks = blocks.take().expect("held");
        // All handles that there are: the last one's drop is what would close the store.
        drop(store.take());
        for block in blocks {
            assert!(block.verify_checksum() && &block.data[..] == b"parent");
        }
    }));
    drop(blocks);
    goes_on(store.take().expect("open"), dir, 1);
}

pub fn callback(dir: &Path) {
    for single in [true, false] {
        let dir = dir.join(single.to_string());
        std::fs::create_dir(&dir).expect("a directory");
        let store = small().single_threaded(single).open(dir.join("store")).expect("opens");
        hand_in(&store, 1).on_durable(|_| {
            fork_here();
        });
        store.write_block(block(2, "beside it")).expect("writes");
        is_aborted();
        // A child that exits in the callback, or would exec, is fine.
        let (sender, receiver) = channel();
        let within = store.clone();
        hand_in(&store, 3).on_durable(move |_| {
            if fork_here() {
                is_refused(&within);
                exit(0);
            }
            sender.send(()).expect("the test waits");
        });
        store.write_block(block(4, "beside it")).expect("writes");
        receiver.recv().expect("the callback ends");
        let status = nix::sys::wait::wait().expect("a child");
        assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
        drop(receiver);
        goes_on(store, &dir, 4);
    }
}

pub fn space_callback(dir: &Path) {
    for single in [true, false] {
        let dir = dir.join(single.to_string());
        std::fs::create_dir(&dir).expect("a directory");
        let (sender, receiver) = channel();
        let options = small().single_threaded(single).on_space_low(u64::MAX, move |_| {
            fork_here();
            sender.send(()).expect("the test waits");
        });
        let store = options.open(dir.join("store")).expect("opens");
        store.write_block(block(1, "parent")).expect("writes");
        // What calls for a look at the store.
        store.resume_compaction().expect("open");
        let mut count = 1;
        while receiver.try_recv().is_err() {
            store.pause_compaction().expect("open");
            store.resume_compaction().expect("open");
            count += 1;
            store.write_block(block(count, "more")).expect("writes");
        }
        is_aborted();
        goes_on(store, &dir, count);
    }
}

pub fn backup_watch(dir: &Path) {
    let (store, has_forked) = (open(dir), AtomicBool::new(false));
    let target = dir.join("backup");
    let answer = store.backup_to(&target, None, &|_| {
        if !has_forked.swap(true, Ordering::Relaxed) && fork_here() {
            // Returns into the backup, in the child.
        }
        Continue(())
    });
    if answer.is_err() {
        // The child: its parent's backup is none of its business.
        refused(answer);
        local_is_refused(store, dir);
        exit(0);
    }
    let status = nix::sys::wait::wait().expect("a child");
    assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
    assert_eq!(LocalBackend::verify_backup(&target).expect("finished").damage, []);
    goes_on(store, dir, 1);
}

pub fn open_watch(dir: &Path) {
    drop(open(dir));
    let options = small().on_progress({
        let has_forked = AtomicBool::new(false);
        move |_| {
            if !has_forked.swap(true, Ordering::Relaxed) {
                fork_here();
            }
            Continue(())
        }
    });
    let opened = options.open(dir.join("store"));
    let Ok(store) = opened else {
        refused(opened);
        let again = LocalBackend::open(dir.join("store"));
        assert!(matches!(again, Err(Error::Locked { .. })), "{again:?}");
        exit(0);
    };
    let status = nix::sys::wait::wait().expect("a child");
    assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
    goes_on(store, dir, 1);
}
