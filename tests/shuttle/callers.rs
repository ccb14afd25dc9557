//! Callers: threads that commit in every possible way, and remember the answers.

use std::sync::Arc;

use shuttle::thread::{self, JoinHandle};

use crate::disk::ModelDisk;
use crate::sync::{Condvar, Mutex};
use crate::{
    Block, BlockId, BlockType, CommitTicket, Durability, Error, LocalBackend, Lsn, Options, Result,
    StorageBackend, StorageExt, below, one_in, took,
};

pub(crate) type Store = LocalBackend<ModelDisk>;

/// A commit and the answer to its caller.
pub(crate) struct Told {
    /// The blocks that it wrote, with the first one's number as their bytes.
    pub(crate) ids: Vec<BlockId>,
    pub(crate) durable: bool,
    pub(crate) answer: Result<()>,
}

pub(crate) fn options() -> Options {
    Options::default()
        .segment_len_max(64 << 10)
        .block_len_max(32 << 10)
        .zero_ahead_len(64 << 10)
        .recent_len(8 << 10)
        .many_callers_min([1, 12][below(2) as usize])
        .io_threads([1, 3][below(2) as usize])
}

pub(crate) fn open(disk: &ModelDisk, options: Options) -> Store {
    LocalBackend::open_on(disk.clone(), options).expect("the store opens")
}

/// A payload that names its block, of a length in bytes.
pub(crate) fn block(id: u64, first: u64, len: usize) -> Block {
    let mut data = vec![first as u8; len.max(8)];
    data[..8].copy_from_slice(&first.to_le_bytes());
    Block::new(BlockId(id), BlockType::TableData, data)
}

/// Starts a caller that commits `round_count` times under ids of its own.
pub(crate) fn caller(
    store: &Store,
    number: u64,
    round_count: u64,
    len: usize,
) -> JoinHandle<Vec<Told>> {
    let store = store.clone();
    thread::spawn(move || {
        (0..round_count).map(|round| commit(&store, 100 * number + 10 * round + 1, len)).collect()
    })
}

/// Commits in one of six ways.
fn commit(store: &Store, first: u64, len: usize) -> Told {
    let two = |store: &Store| -> Result<(crate::Transaction, Vec<BlockId>)> {
        let tx = store.begin()?;
        let ids =
            vec![tx.write(block(first, first, len))?, tx.write(block(first + 1, first, len))?];
        Ok((tx, ids))
    };
    let way = below(6);
    if way == 0 {
        let answer = store.write_block(block(first, first, len)).map(|_| ());
        return Told { ids: vec![BlockId(first)], durable: true, answer };
    }
    let (tx, ids) = match two(store) {
        Ok(begun) => begun,
        Err(error) => return Told { ids: Vec::new(), durable: true, answer: Err(error) },
    };
    let answer = match way {
        1 => tx.commit(),
        2 => tx.commit_with(Durability::Buffered),
        3 => tx.submit().and_then(CommitTicket::wait),
        4 => tx.submit().and_then(called_back),
        _ => tx.submit().and_then(polled),
    };
    Told { ids, durable: way != 2, answer: answer.map(|_| ()) }
}

/// Leaves a callback and waits until it is called, without leading.
fn called_back(ticket: CommitTicket) -> Result<Option<Lsn>> {
    let heard = Arc::new((Mutex::new(None), Condvar::new()));
    let told = Arc::clone(&heard);
    ticket.on_durable(move |answer| {
        *told.0.lock() = Some(answer);
        told.1.notify_all();
    });
    let mut answer = heard.0.lock();
    loop {
        match answer.take() {
            Some(answer) => return answer,
            None => heard.1.wait(&mut answer),
        }
    }
}

/// Polls the ticket until it is answered.
fn polled(ticket: CommitTicket) -> Result<Option<Lsn>> {
    loop {
        match ticket.wait_timeout(std::time::Duration::from_millis(1)) {
            Some(answer) => return answer,
            None => thread::yield_now(),
        }
    }
}

/// Checks that acknowledged blocks are there, as they were written.
pub(crate) fn check(store: &Store, told: &[Told], with_buffered: bool) {
    for told in told.iter().filter(|told| told.answer.is_ok() && (told.durable || with_buffered)) {
        for id in &told.ids {
            let found = store.read_block(*id).expect("an acknowledged block is there");
            assert_eq!(found.data[..8], told.ids[0].0.to_le_bytes(), "block {id}");
        }
    }
}

/// Opens the store again, with a power cut before or without, and checks it.
pub(crate) fn check_again(disk: &ModelDisk, told: &[Told], closed_well: bool) {
    let disk = if one_in(2) { disk.crash() } else { disk.clone() };
    disk.mend();
    let store = open(&disk, options().single_threaded(true));
    check(&store, told, closed_well);
    store.close().expect("a store without faults closes");
}

/// Waits for callers, counts the kinds of their answers, and returns all.
pub(crate) fn told_by(callers: Vec<JoinHandle<Vec<Told>>>) -> Vec<Told> {
    let told: Vec<_> =
        callers.into_iter().flat_map(|caller| caller.join().expect("a caller returns")).collect();
    for told in &told {
        took(match &told.answer {
            Ok(()) => "acknowledged",
            Err(Error::Io { .. }) => "Io",
            Err(Error::Poisoned { .. }) => "Poisoned",
            Err(Error::StorageFull { .. }) => "StorageFull",
            Err(Error::Closed) => "Closed",
            Err(_) => "another error",
        });
    }
    told
}

/// Whether a failure of the disk explains the error.
pub(crate) fn is_failure(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::Poisoned { .. })
}
