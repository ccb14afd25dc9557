//! Handles used as they should not be: every call answers, with the error that names what is wrong,
//! and the store goes on.

#[path = "support/backends.rs"]
mod backends;
#[path = "support/block.rs"]
mod block;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aegis_blocks::io::sim::{FaultKind, OperationKind, SimDisk};
use aegis_blocks::{
    Block, BlockId, BlockType, CommitTicket, Error, LocalBackend, Lsn, PoisonCause, Result,
    Savepoint, StorageBackend, StorageExt, TransactionId, TransactionState, WriteBatch, WriteMode,
};

use block::block;

/// Runs a check on each backend, with blocks 1 and 2 in the store.
fn on_each(check: impl Fn(Arc<dyn StorageBackend>)) {
    let local = LocalBackend::open_on(SimDisk::new(1), LocalBackend::options()).expect("opens");
    backends::on_each(local, check);
}

#[test]
fn transaction_of_a_closed_store_answers_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = LocalBackend::open(&path).expect("opens");
    store.write_block(block(1, "old")).expect("writes");
    let begin = || store.begin().expect("begins");
    let (tx, committed, submitted, dropped) = (begin(), begin(), begin(), begin());
    tx.write(block(2, "pending")).expect("writes");
    let savepoint = tx.savepoint().expect("marks");
    let snapshot = store.snapshot().expect("holds");
    let mut blocks = store.blocks(..).expect("lists");
    store.clone().close().expect("closes");

    let closed = |answer: Result<()>| assert!(matches!(answer, Err(Error::Closed)), "{answer:?}");
    closed(tx.read(BlockId(1)).map(|_| ()));
    closed(tx.write(block(3, "late")).map(|_| ()));
    closed(tx.delete(BlockId(1)));
    closed(tx.exists(BlockId(1)).map(|_| ()));
    closed(tx.range(..).map(|_| ()));
    closed(tx.savepoint().map(|_| ()));
    closed(tx.rollback_to(savepoint));
    closed(tx.rollback());
    closed(committed.commit().map(|_| ()));
    closed(submitted.submit().map(|_| ()));
    drop(dropped);
    closed(snapshot.read(BlockId(1)).map(|_| ()));
    closed(blocks.next().expect("an answer").map(|_| ()));
    assert!(blocks.next().is_none() && blocks.next_back().is_none());
    closed(store.begin().map(|_| ()));
    closed(store.begin_timeout(Duration::from_secs(300)).map(|_| ()));
    closed(store.blocks(..).map(|_| ()));
    closed(store.read_blocks(&[BlockId(1)]).map(|_| ()));
    closed(store.apply(WriteBatch::new()).map(|_| ()));
    closed(store.sync_to(Lsn(1)));
    drop((snapshot, blocks, store));

    let store = LocalBackend::open(&path).expect("opens again");
    assert_eq!(store.ids(..).expect("lists"), [BlockId(1)], "nothing of them was written");
}

#[test]
fn transaction_takes_operations_of_two_threads_by_its_id() {
    on_each(|store| {
        let tx = store.begin().expect("begins");
        let id = tx.id();
        std::thread::scope(|scope| {
            for thread in 0..2_u64 {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..200 {
                        let own = BlockId(10 + thread * 1000 + n);
                        let written =
                            store.write_block_in_tx(id, block(own.0, "by id")).expect("writes");
                        assert_eq!(written, own);
                        assert!(store.block_exists_in_tx(id, own).expect("looks"));
                        if n % 2 == 1 {
                            store.delete_block_in_tx(id, own).expect("deletes");
                        }
                    }
                });
            }
        });
        tx.commit().expect("commits");
        assert_eq!(store.stats().total_blocks, 2 + 200);
    });
}

#[test]
fn transaction_ended_by_its_id_says_so_to_its_handle() {
    on_each(|store| {
        let (committed, rolled_back) =
            (store.begin().expect("begins"), store.begin().expect("begins"));
        store.commit_transaction(committed.id()).expect("commits");
        store.rollback_transaction(rolled_back.id()).expect("rolls back");
        for (tx, how) in
            [(committed, TransactionState::Committed), (rolled_back, TransactionState::RolledBack)]
        {
            let over = |answer: Result<()>| {
                let named = matches!(answer, Err(Error::TransactionNotActive { state, .. }) if state == how);
                assert!(named, "{answer:?}");
            };
            over(tx.read(BlockId(1)).map(|_| ()));
            over(tx.write(block(3, "late")).map(|_| ()));
            over(tx.range(..).map(|_| ()));
            over(tx.commit().map(|_| ()));
        }
    });
}

#[test]
fn savepoint_of_another_transaction_is_refused_and_undoes_nothing() {
    on_each(|store| {
        let (tx, other) = (store.begin().expect("begins"), store.begin().expect("begins"));
        let foreign = other.savepoint().expect("marks");
        let own = tx.savepoint().expect("marks");
        tx.write(block(3, "kept")).expect("writes");
        let wrong = [
            foreign,
            Savepoint::new(tx.id(), own.serial() + 1),
            Savepoint::new(TransactionId(u64::MAX), own.serial()),
        ];
        for savepoint in wrong {
            let refused = tx.rollback_to(savepoint);
            let argument = "savepoint";
            assert!(
                matches!(refused, Err(Error::InvalidArgument { argument: a, .. }) if a == argument)
            );
        }
        assert!(tx.exists(BlockId(3)).expect("looks"));
        tx.rollback_to(own).expect("its own");
        assert!(!tx.exists(BlockId(3)).expect("looks"));
    });
}

#[test]
fn range_that_ends_before_it_starts_is_refused_and_an_empty_one_is_empty() {
    use std::ops::Bound::{Excluded, Included};
    on_each(|store| {
        let tx = store.begin().expect("begins");
        let (low, high, end) = (BlockId(1), BlockId(2), BlockId(u64::MAX));
        let backwards = (Included(high), Included(low));
        let refused = [
            tx.range(backwards).map(|_| ()),
            store.snapshot().expect("holds").range(backwards).map(|_| ()),
            store.blocks(backwards).map(|_| ()),
        ];
        for refused in refused {
            let named = matches!(refused, Err(Error::InvalidArgument { argument: "range", .. }));
            assert!(named, "{refused:?}");
        }
        let empty = [
            (Included(low), Excluded(low)),
            (Excluded(low), Included(low)),
            (Excluded(low), Excluded(high)),
            (Excluded(end), Included(end)),
            (Included(BlockId(0)), Excluded(BlockId(0))),
        ];
        for range in empty {
            assert_eq!(tx.range(range).expect("lists").count(), 0, "{range:?}");
        }
        assert_eq!(tx.range(..=end).expect("lists").count(), 2);
    });
}

#[test]
fn ticket_waited_for_after_the_store_was_poisoned_says_so() {
    let disk = SimDisk::new(1);
    let options = LocalBackend::options().single_threaded(true).zero_ahead_len(0);
    let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
    let submit = |id: u64| {
        let tx = store.begin().expect("begins");
        tx.write(block(id, "in flight")).expect("writes");
        tx.submit()
    };
    let tickets = [1, 2].map(|id| submit(id).expect("hands in"));
    disk.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eio, false);
    let [first, second] = tickets;
    let failed = first.wait();
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    let timed = second.wait_timeout(Duration::from_secs(300)).expect("an answer");
    assert!(matches!(timed, Err(Error::Io { .. })), "{timed:?}");
    assert!(!second.is_durable() && second.lsn().is_none());
    let (sender, receiver) = std::sync::mpsc::channel();
    second.on_durable(move |result| sender.send(result.is_err()).expect("the test waits"));
    assert!(receiver.recv().expect("the callback is called"));

    let sync_failed = PoisonCause::SyncFailed;
    for refused in
        [submit(3).map(|_| ()), store.sync(), store.write_block(block(3, "x")).map(|_| ())]
    {
        assert!(matches!(refused, Err(Error::Poisoned { cause }) if cause == sync_failed));
    }
    assert_eq!(store.stats().open_transactions, 0);
}

/// Stores with threads and without, in which a commit takes all that may be in flight.
fn in_flight_one_by_one(check: impl Fn(&SimDisk, LocalBackend<SimDisk>)) {
    for single in [true, false] {
        let disk = SimDisk::new(1);
        let options = LocalBackend::options().zero_ahead_len(0).in_flight_len_max(1);
        let options = options.single_threaded(single);
        check(&disk, LocalBackend::open_on(disk.clone(), options).expect("opens"));
    }
}

/// Hands in a commit of one block, which is not answered yet.
fn hand_in(store: &LocalBackend<SimDisk>, id: u64) -> Result<CommitTicket> {
    let tx = store.begin_transaction()?;
    store.write_block_in_tx(tx, block(id, "handed in"))?;
    store.submit_transaction(tx, None)
}

#[test]
fn callback_hands_in_more_than_may_be_in_flight() {
    in_flight_one_by_one(|_, store| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let within = store.clone();
        hand_in(&store, 1).expect("hands in").on_durable(move |_| {
            let tickets = (2..10).map(|id| hand_in(&within, id).expect("hands in"));
            sender.send(tickets.collect::<Vec<_>>()).expect("the test waits");
        });
        for ticket in receiver.recv().expect("the callback ends") {
            ticket.wait().expect("commits");
        }
        let stats = store.stats();
        assert_eq!((stats.total_blocks, stats.in_flight_bytes), (9, 0));
        store.close().expect("a clean close");
    });
}

#[test]
fn callback_that_hands_in_more_than_the_queue_holds_is_told_so() {
    in_flight_one_by_one(|_, store| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let within = store.clone();
        hand_in(&store, 1).expect("hands in").on_durable(move |_| {
            let tickets = (0..5000).map(|n| hand_in(&within, 2 + n).expect("hands in"));
            sender.send(tickets.collect::<Vec<_>>()).expect("the test waits");
        });
        let tickets = receiver.recv().expect("the callback ends");
        let answers: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait()).collect();
        let (kept, refused) = answers.split_at(4096);
        assert!(kept.iter().all(|answer| answer.is_ok()));
        let told = |answer: &Result<_>| matches!(answer, Err(Error::InCallback));
        assert!(refused.iter().all(told), "{:?}", refused.first());
        let stats = store.stats();
        assert_eq!((stats.total_blocks, stats.in_flight_bytes), (4097, 0));
        assert_eq!(stats.open_transactions, 0);
        store.close().expect("a clean close");
    });
}

#[test]
fn callback_that_drops_the_last_handle_closes_the_store() {
    in_flight_one_by_one(|disk, store| {
        let ticket = hand_in(&store, 1).expect("hands in");
        ticket.on_durable(move |_| drop(store));
        let started = Instant::now();
        let reopened = loop {
            match LocalBackend::open_on(disk.clone(), LocalBackend::options()) {
                Err(Error::Locked { .. }) if started.elapsed() < Duration::from_secs(60) => {
                    std::thread::yield_now();
                }
                answer => break answer.expect("it was closed"),
            }
        };
        assert!(reopened.recovery().clean);
        assert!(reopened.block_exists(BlockId(1)).expect("looks"));
    });
}

/// As many ids as a caller may ask for by mistake.
const MANY: usize = 10_000_000;

#[test]
fn ten_million_ids_in_one_call_are_answered() {
    on_each(|store| {
        let ids: Vec<BlockId> = (0..MANY as u64).map(|n| BlockId(1 + n % 2)).collect();
        let blocks = store.read_blocks(&ids).expect("duplicates are fine");
        assert_eq!(blocks.len(), MANY);
        let in_order = blocks.iter().zip(&ids).all(|(block, id)| block.header.block_id == *id);
        assert!(in_order, "the answers are in the order of the ids");
        drop(blocks);
        let mut ids = ids;
        ids[1000] = BlockId(3);
        let refused = store.read_blocks(&ids).map(|blocks| blocks.len());
        assert!(matches!(refused, Err(Error::BlockNotFound { id: BlockId(3) })), "{refused:?}");
    });
}

#[test]
fn panic_that_unwinds_through_transactions_rolls_them_back() {
    on_each(|store| {
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let tx = store.begin().expect("begins");
            tx.write(block(3, "unwound")).expect("writes");
            tx.delete(BlockId(1)).expect("deletes");
            let _snapshot = store.snapshot().expect("holds");
            let _blocks = store.blocks(..).expect("lists");
            store.write_block(block(2, "new")).expect("writes");
            panic!("expected by the test");
        }));
        assert!(unwound.is_err());
        assert!(!store.block_exists(BlockId(3)).expect("looks"));
        assert!(store.block_exists(BlockId(1)).expect("looks"));
    });
}

/// A program's own parallel loops run on the same threads as work that the store would leave to
/// them.
#[test]
fn writes_from_parallel_loops_of_the_program_come_to_an_end() {
    use rayon::prelude::*;

    let options = LocalBackend::options().write_mode(WriteMode::Direct);
    let store = LocalBackend::open_on(SimDisk::new(1), options).expect("opens");
    let (round_count, round_len) = (50, 16);
    for round in 0..round_count {
        (1..=round_len).into_par_iter().for_each(|id| {
            let data = vec![round as u8; (64 << 10) + ((id as usize % 3) << 20)];
            let written = store.write_block(Block::new(BlockId(id), BlockType::TableData, data));
            written.expect("writes");
        });
    }
    assert_eq!(store.stats().commits, round_count * round_len);
}
