//! Contention: where threads change the same blocks, every call of `transact` gets through, and
//! none waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aegis_blocks::{
    Block, BlockId, BlockType, Error, IsolationLevel, LocalBackend, MemoryBackend, Result,
    StorageBackend, StorageExt, Transaction,
};

const COUNTER: BlockId = BlockId(1);

fn number(id: BlockId, number: u64) -> Block {
    Block::new(id, BlockType::TableData, number.to_le_bytes().to_vec())
}

fn read(tx: &Transaction, id: BlockId) -> Result<u64> {
    Ok(u64::from_le_bytes(tx.read(id)?.data[..].try_into().expect("a number")))
}

fn add_one(tx: &Transaction, id: BlockId) -> Result<()> {
    tx.write(number(id, read(tx, id)? + 1)).map(drop)
}

/// Runs `check` on a store in memory and on a local one. Both have blocks 1 to 9, with the number
/// 0.
fn on_both(check: impl Fn(&Arc<dyn StorageBackend>)) {
    let dir = tempfile::tempdir().expect("a directory");
    let local = LocalBackend::open(dir.path().join("store")).expect("the store opens");
    for store in [MemoryBackend::new().shared(), local.shared()] {
        for id in 1..10 {
            store.write_block(number(BlockId(id), 0)).expect("a block is written");
        }
        check(&store);
    }
}

#[test]
fn counter_that_many_threads_change_gives_no_call_up() {
    const THREADS: u64 = 64;
    const CALLS: u64 = 30;
    on_both(|store| {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..CALLS {
                        let counted =
                            store.transact(IsolationLevel::Snapshot, |tx| add_one(tx, COUNTER));
                        counted.expect("it gets through");
                    }
                });
            }
        });
        let tx = store.begin().expect("begins");
        assert_eq!(read(&tx, COUNTER).expect("is there"), THREADS * CALLS);
    });
}

/// Runs `body` for each try until it commits, beside writers of some ids that never cease. Says how
/// often it ran.
fn tries_beside_writers(
    store: &Arc<dyn StorageBackend>,
    ids: std::ops::Range<u64>,
    mut body: impl FnMut(&Transaction, u64) -> Result<()>,
) -> u64 {
    let (written, is_done) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut tries = 0;
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (written, is_done, ids) = (&written, &is_done, ids.clone());
            scope.spawn(move || {
                for id in ids.cycle().skip(writer) {
                    if is_done.load(Ordering::Relaxed) {
                        return;
                    }
                    store.write_block(number(BlockId(id), id)).expect("commits");
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let answer = store.transact(IsolationLevel::Serializable, |tx| {
            tries += 1;
            body(tx, tries)?;
            // Longer than the writers take, if they write: who is not protected has lost by now.
            let before = written.load(Ordering::Relaxed);
            let mut patience = 3000;
            while written.load(Ordering::Relaxed) < before + 20 && patience > 0 {
                std::thread::yield_now();
                patience -= 1;
            }
            Ok(())
        });
        is_done.store(true, Ordering::Relaxed);
        answer.expect("it gets through");
    });
    tries
}

#[test]
fn long_transaction_gets_through_beside_writers_of_its_blocks() {
    on_both(|store| {
        let tries = tries_beside_writers(store, 1..4, |tx, _| {
            (1..4).try_for_each(|id| add_one(tx, BlockId(id)))
        });
        println!("it wrote: {tries} tries");
        let tries = tries_beside_writers(store, 1..4, |tx, _| {
            (1..4).try_for_each(|id| read(tx, BlockId(id)).map(drop))?;
            add_one(tx, BlockId(5))
        });
        println!("it read: {tries} tries");
        let tries = tries_beside_writers(store, 1..4, |tx, _| {
            tx.ids(BlockId(1)..BlockId(9))?.try_for_each(|id| id.map(drop))?;
            add_one(tx, BlockId(9))
        });
        println!("it listed: {tries} tries");
        let tries = tries_beside_writers(store, 1..4, |tx, tries| {
            // Another block each time: nothing that a try before it could have told.
            add_one(tx, BlockId(1 + tries % 3))
        });
        println!("it moved on: {tries} tries");
    });
}

/// Loses the first tries of a call of `transact` to `store`, so that the next one is its turn.
fn lose_until(store: &Arc<dyn StorageBackend>, tries: u64, turn: u64) {
    if tries < turn {
        store.write_block(number(COUNTER, 100)).expect("commits");
    }
}

/// A call that loses four tries, and does something in its turn. Says how often its body ran.
fn in_its_turn(store: &Arc<dyn StorageBackend>, mut act: impl FnMut() -> Result<()>) -> u64 {
    let mut tries = 0;
    let answer = store.transact(IsolationLevel::Snapshot, |tx| {
        tries += 1;
        add_one(tx, COUNTER)?;
        lose_until(store, tries, 5);
        if tries == 5 { act() } else { Ok(()) }
    });
    answer.expect("it gets through");
    tries
}

#[test]
fn body_that_waits_in_its_turn_for_a_thread_that_commits_loses_the_turn() {
    on_both(|store| {
        let tries = in_its_turn(store, || {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| store.write_block(number(COUNTER, 200)));
                other.join().expect("it is let in").map(drop)
            })
        });
        assert_eq!(tries, 6, "the turn that it waited in was lost, and the next was not");
        let tx = store.begin().expect("begins");
        assert_eq!(read(&tx, COUNTER).expect("is there"), 201);
    });
}

#[test]
fn body_in_its_turn_that_commits_beside_its_transaction_does_not_wait() {
    on_both(|store| {
        let tries = in_its_turn(store, || {
            // Of the block that it claims, alone and by a call that loses, too.
            store.write_block(number(COUNTER, 300))?;
            let mut inner = 0;
            store.transact(IsolationLevel::Snapshot, |tx| {
                inner += 1;
                add_one(tx, COUNTER)?;
                lose_until(store, inner, 9);
                Ok(())
            })?;
            assert_eq!(inner, 9);
            Ok(())
        });
        assert_eq!(tries, 6);
    });
}

#[test]
fn call_that_loses_every_try_gives_up_and_leaves_no_turn_behind() {
    on_both(|store| {
        let mut tries = 0;
        let answer = store.transact(IsolationLevel::Snapshot, |tx| {
            tries += 1;
            add_one(tx, COUNTER)?;
            lose_until(store, tries, u64::MAX);
            Ok(())
        });
        assert!(matches!(answer, Err(Error::Conflict { id: COUNTER, .. })), "{answer:?}");
        assert_eq!(tries, u64::from(aegis_blocks::TRANSACT_TRIES_MAX));
        let failed = store.transact(IsolationLevel::Snapshot, |tx| {
            lose_until(store, 0, 1);
            tx.read(BlockId(100)).map(drop)
        });
        assert!(matches!(failed, Err(Error::BlockNotFound { .. })), "{failed:?}");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| store.write_block(number(COUNTER, 1)));
            other.join().expect("no turn is in its way").expect("commits");
        });
    });
}

#[test]
fn panic_in_a_turn_ends_it() {
    on_both(|store| {
        let mut tries = 0;
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            store.transact(IsolationLevel::Snapshot, |tx| {
                tries += 1;
                add_one(tx, COUNTER)?;
                lose_until(store, tries, 5);
                assert!(tries < 5, "on purpose");
                Ok(())
            })
        }));
        assert!(answer.is_err() && tries == 5);
        for _ in 0..3 {
            std::thread::scope(|scope| {
                let other = scope
                    .spawn(|| store.transact(IsolationLevel::Snapshot, |tx| add_one(tx, COUNTER)));
                other.join().expect("it ends").expect("commits");
            });
        }
    });
}

#[test]
fn closing_beside_turns_leaves_no_caller_waiting() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = LocalBackend::open(dir.path().join("store")).expect("the store opens");
    store.write_block(number(COUNTER, 0)).expect("a block is written");
    let counted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    match store.transact(IsolationLevel::Snapshot, |tx| add_one(tx, COUNTER)) {
                        Ok(()) => counted.fetch_add(1, Ordering::Relaxed),
                        Err(Error::Closed) => return,
                        Err(error) => panic!("it gets through: {error}"),
                    };
                }
            });
        }
        while counted.load(Ordering::Relaxed) < 200 {
            std::thread::yield_now();
        }
        store.clone().close().expect("closes");
    });
}
