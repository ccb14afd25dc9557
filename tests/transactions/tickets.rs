//! Tickets of commits that were handed in: their order, their answers, and those that are dropped.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::{
    BlockId, CommitTicket, Durability, LocalBackend, Lsn, StorageBackend, StorageExt,
};

use crate::block::block;
use crate::on_each;

#[test]
fn tickets_of_one_thread_share_groups_and_keep_their_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = LocalBackend::open(dir.path().join("store")).expect("opens");
    let before = store.stats();
    let tickets: Vec<_> = (0..500)
        .map(|_| {
            let tx = store.begin().expect("begins");
            tx.write(block(0, "in flight")).expect("writes");
            tx.submit().expect("hands in")
        })
        .collect();
    let lsns = tickets.into_iter().map(|ticket| ticket.wait().expect("commits"));
    let lsns: Vec<Lsn> = lsns.map(|lsn| lsn.expect("it wrote a block")).collect();
    assert!(lsns.windows(2).all(|pair| pair[0] < pair[1]));
    let stats = store.stats();
    assert!(stats.groups - before.groups < 500, "{} groups", stats.groups - before.groups);
    assert_eq!(stats.durable_lsn, lsns[499]);
    assert_eq!(stats.open_transactions, 0);
}

#[test]
fn ticket_that_is_dropped_or_called_back_does_not_lose_its_commit() {
    on_each(|store| {
        let begin = |data| {
            let tx = store.begin().expect("begins");
            tx.write(block(0, data)).expect("writes");
            tx
        };
        drop(begin("dropped").submit().expect("hands in"));
        let (sender, receiver) = mpsc::channel();
        let ticket = begin("called back").submit().expect("hands in");
        ticket.on_durable(move |result| sender.send(result.is_ok()).expect("the test waits"));
        assert!(receiver.recv().expect("the callback is called"));
        begin("last").commit_with(Durability::Durable).expect("commits");
        assert_eq!(store.stats().total_blocks, 5);
    });
}

/// Runs a check on a local store with threads and on one without.
fn with_and_without_threads(check: impl Fn(&LocalBackend<SimDisk>, bool)) {
    for single in [true, false] {
        let (disk, options) = (SimDisk::new(1), LocalBackend::options().zero_ahead_len(0));
        let options = options.single_threaded(single);
        let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
        store.write_block(block(20_000, "first")).expect("writes");
        if !single {
            // Behind the first commit's witness nothing is due any more, and every thread sleeps.
            let written_len = store.stats().log_bytes;
            disk.advance(Duration::from_secs(1));
            in_the_end(|| store.stats().log_bytes > written_len);
        }
        check(&store, single);
        // A transaction ends a moment after its commit can be seen.
        store.clone().close().expect("closes");
        assert_eq!(store.stats().open_transactions, 0);
    }
}

/// Hands a commit of one block in, as a program does that keeps to the trait.
fn submit(store: &impl StorageBackend, id: u64) -> CommitTicket {
    let tx = store.begin_transaction().expect("begins");
    store.write_block_in_tx(tx, block(id, "handed in")).expect("writes");
    store.submit_transaction(tx, None).expect("hands in")
}

/// Asks again and again; gives up after more time than any commit needs.
#[track_caller]
fn in_the_end(mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "not in a minute");
        std::thread::yield_now();
    }
}

#[test]
fn commit_whose_ticket_is_dropped_becomes_visible_by_itself() {
    with_and_without_threads(|store, single| {
        drop(submit(store, 1));
        let is_visible = || store.block_exists(BlockId(1)).expect("looks");
        if single {
            assert!(is_visible(), "there is no other thread to carry it out");
        }
        in_the_end(is_visible);
    });
}

#[test]
fn ticket_that_is_only_asked_gets_its_answer() {
    with_and_without_threads(|store, _| {
        let ticket = submit(store, 1);
        in_the_end(|| ticket.is_durable());
        assert_eq!(ticket.lsn(), Some(Lsn(2)));
        let ticket = submit(store, 2);
        in_the_end(|| ticket.lsn() == Some(Lsn(3)));
        let ticket = submit(store, 3);
        in_the_end(|| matches!(ticket.try_wait(), Some(Ok(Some(Lsn(4))))));
    });
}

#[test]
fn more_commits_than_the_inbox_holds_are_handed_in_before_one_is_waited_for() {
    with_and_without_threads(|store, _| {
        let before = store.stats().groups;
        let tickets: Vec<CommitTicket> = (1..=10_000).map(|id| submit(store, id)).collect();
        let last = tickets.into_iter().map(|ticket| ticket.wait().expect("commits")).last();
        assert_eq!(last, Some(Some(Lsn(10_001))));
        let groups = store.stats().groups - before;
        assert!(groups < 1000, "{groups} groups of 10,000 commits");
    });
}

#[test]
fn bytes_that_only_kept_tickets_hold_are_given_back_to_those_who_wait_for_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = LocalBackend::options().in_flight_len_max(15_000).zero_ahead_len(0);
    let store = options.open(dir.path().join("store")).expect("opens");
    let handed_in = std::thread::scope(|scope| {
        let store = &store;
        let callers = (0..4_u64).map(|caller| {
            scope.spawn(move || (0..500).map(|n| submit(store, 1 + caller * 500 + n)).collect())
        });
        let callers: Vec<_> = callers.collect();
        let told = callers.into_iter().map(|caller| caller.join().expect("no panic"));
        told.collect::<Vec<Vec<CommitTicket>>>()
    });
    for ticket in handed_in.into_iter().flatten() {
        ticket.wait().expect("commits");
    }
    assert_eq!(store.stats().total_blocks, 2000);
}
