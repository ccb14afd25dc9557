//! User code on a store's threads: every callback beside every call that may wait. None of them
//! hangs: where others wait for the thread, the call is refused before it does anything, and the
//! store goes on.

use std::ops::ControlFlow::{self, Continue};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::{
    Block, BlockId, BlockType, CommitTicket, Durability, Error, IsolationLevel, LocalBackend,
    MemoryBackend, OpenProgress, Options, Result, StorageBackend, StorageExt, WriteBatch,
};
use bytes::Bytes;

type Store = LocalBackend<SimDisk>;

/// A call that may wait for a store.
type Call = fn(&Store) -> Result<()>;

/// Runs a call in a callback of the store that it is given, or of another one, and says what it
/// answered.
type Callback = fn(single: bool, call: Call) -> Result<()>;

/// What a callback may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// Neither wait nor close.
    Neither,
    /// Wait for a store, and not close one.
    Wait,
    /// Whatever its caller may.
    All,
}

const CALLBACKS: [(&str, May, Callback); 9] = [
    ("`on_durable`, later", May::Neither, on_durable_later),
    ("`on_durable`, at once", May::All, on_durable_at_once),
    ("`on_space_low`", May::Wait, on_space_low),
    ("`on_progress` of an open", May::All, on_progress),
    ("watcher of a backup", May::All, watcher_of_a_backup),
    ("watcher of a restore", May::All, watcher_of_a_restore),
    ("body of `transact`", May::All, body_of_transact),
    ("drop of a payload's owner, in a commit", May::Neither, drop_of_a_payload),
    ("drop of a payload's owner, by its reader", May::All, drop_of_a_payload_that_was_read),
];

const CALLS: [(&str, Call); 15] = [
    // First, because it is over in any case: what waits in spite of all hangs from the next one on.
    ("beginning at `open_transactions_max`", begin_beyond),
    ("`write_block`", |store| store.write_block(block(2)).map(|_| ())),
    ("`delete_block`", |store| store.delete_block(BlockId(9))),
    ("`apply`", apply),
    ("`Transaction::commit`", |store| filled(store, 2)?.commit().map(|_| ())),
    ("`commit_transaction`", commit_transaction),
    ("`CommitTicket::wait`", |store| filled(store, 3)?.submit()?.wait().map(|_| ())),
    ("`CommitTicket::wait_timeout`", wait_timeout),
    ("`sync`, `sync_to`", |store| store.sync_to(store.stats().visible_lsn).and(store.sync())),
    ("`prepare_space`", |store| store.prepare_space(64 << 10)),
    ("`checkpoint`", |store| store.checkpoint()),
    ("`compact_now`", |store| store.compact_now().map(|_| ())),
    ("`backup_to`, `backup_on`", backup),
    ("`repair`, `salvage`", salvage),
    ("`close`", |store| store.clone().close()),
];

fn block(id: u64) -> Block {
    Block::new(BlockId(id), BlockType::TableData, "in a callback")
}

fn filled(store: &Store, id: u64) -> Result<aegis_blocks::Transaction> {
    let tx = store.begin()?;
    tx.write(block(id))?;
    Ok(tx)
}

fn begin_beyond(store: &Store) -> Result<()> {
    let mut open = Vec::new();
    while let Ok(tx) = store.try_begin() {
        open.push(tx);
    }
    store.begin_timeout(Duration::from_millis(1)).map(|_| ())
}

fn apply(store: &Store) -> Result<()> {
    let mut batch = WriteBatch::new();
    batch.write(block(2));
    store.apply(batch).map(|_| ())
}

fn commit_transaction(store: &Store) -> Result<()> {
    let tx = store.begin_transaction()?;
    store.write_block_in_tx(tx, block(2))?;
    let committed = store.commit_transaction(tx);
    if committed.is_err() {
        // A commit that was refused leaves it open.
        assert!(store.read_block_in_tx(tx, BlockId(2)).is_ok());
        store.rollback_transaction(tx)?;
    }
    committed
}

fn wait_timeout(store: &Store) -> Result<()> {
    let ticket = filled(store, 3)?.submit()?;
    let answer = ticket.wait_timeout(Duration::from_secs(3600)).expect("an answer in an hour");
    if matches!(answer, Err(Error::InCallback)) {
        // It stays good for where it may be waited for.
        assert!(matches!(ticket.try_wait(), None | Some(Ok(_))));
    }
    answer.map(|_| ())
}

fn backup(store: &Store) -> Result<()> {
    store.backup_on(&SimDisk::new(3), None, &|_| Continue(())).map(|_| ())
}

/// Of a store that is not there, which is found out after that.
fn salvage(_: &Store) -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, out) = (dir.path().join("store"), dir.path().join("out"));
    let salvaged = LocalBackend::salvage(&store, &out).map(|_| ());
    let repaired = LocalBackend::repair(&store).map(|_| ());
    assert!(!out.exists());
    for answer in [&salvaged, &repaired] {
        if !matches!(answer, Err(Error::InCallback)) {
            assert!(matches!(answer, Err(Error::NotAStore { .. })), "{answer:?}");
        }
    }
    if matches!(salvaged, Err(Error::InCallback)) { repaired } else { Ok(()) }
}

fn options(single: bool) -> Options {
    // Nothing becomes durable, and no payload is kept, but on request.
    let options = LocalBackend::options().single_threaded(single).durability(Durability::Buffered);
    options.sync_interval(Duration::MAX).zero_ahead_len(0).open_transactions_max(8).recent_len(0)
}

fn open(disk: &SimDisk, single: bool) -> Store {
    open_with(disk, options(single))
}

fn open_with(disk: &SimDisk, options: Options) -> Store {
    let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
    store.write_block(block(9)).expect("writes");
    store
}

/// Hands in a commit of a block.
fn hand_in(store: &Store, block: Block) -> CommitTicket {
    let tx = store.begin_transaction().expect("begins");
    store.write_block_in_tx(tx, block).expect("writes");
    store.submit_transaction(tx, None).expect("hands in")
}

fn answer<T>(receiver: &Receiver<T>) -> T {
    receiver.recv().expect("the callback answers, and does not panic")
}

/// The store goes on, unless it was closed, and closes.
fn goes_on(store: Store, answer: Result<()>) -> Result<()> {
    let closed = matches!(store.sync(), Err(Error::Closed));
    if !closed {
        assert_eq!(store.stats().open_transactions, 0, "nothing is left behind");
        if matches!(answer, Err(Error::InCallback)) {
            assert!(!store.block_exists(BlockId(2)).expect("looks"), "nothing was done");
            assert!(store.block_exists(BlockId(9)).expect("looks"), "nothing was done");
        }
        store.write_block(block(1)).expect("the store goes on");
        store.close().expect("a clean close");
    }
    answer
}

fn on_durable_later(single: bool, call: Call) -> Result<()> {
    let (store, (sender, receiver)) = (open(&SimDisk::new(1), single), channel());
    let within = store.clone();
    hand_in(&store, block(1)).on_durable(move |committed| {
        committed.expect("commits");
        sender.send(call(&within)).expect("the test waits");
    });
    goes_on(store, answer(&receiver))
}

fn on_durable_at_once(single: bool, call: Call) -> Result<()> {
    let (store, (sender, receiver)) = (open(&SimDisk::new(1), single), channel());
    let ticket = hand_in(&store, block(1));
    while ticket.try_wait().is_none() {
        std::thread::yield_now();
    }
    let within = store.clone();
    ticket.on_durable(move |_| sender.send(call(&within)).expect("the test waits"));
    goes_on(store, answer(&receiver))
}

/// Options of a store that tells once that space is low, and gives the handle that it is sent to
/// `tell`.
fn told_of_space<T: Send + 'static>(
    single: bool,
    tell: impl Fn(Store) -> T + Send + Sync + 'static,
) -> (Options, Sender<Store>, Receiver<T>) {
    let ((to, stores), (sender, receiver)) = (channel::<Store>(), channel());
    let stores = Mutex::new(stores);
    let options = options(single).on_space_low(u64::MAX, move |_| {
        // The handle is there after the store was opened.
        if let Ok(store) = stores.lock().expect("no panic").recv() {
            sender.send(tell(store)).expect("the test waits");
        }
    });
    (options, to, receiver)
}

/// Has a store look at the space that is left: on the thread that looks after it, or in this write.
fn have_looked(store: &Store) {
    store.pause_compaction().expect("open");
    store.resume_compaction().expect("open");
    store.write_block(block(1)).expect("writes");
}

fn on_space_low(single: bool, call: Call) -> Result<()> {
    let disk = SimDisk::new(1);
    open(&disk, single).close().expect("closes");
    let (options, to, receiver) = told_of_space(single, move |store| call(&store));
    let store = LocalBackend::open_on(disk, options).expect("opens");
    to.send(store.clone()).expect("the callback waits");
    drop(to);
    have_looked(&store);
    goes_on(store, answer(&receiver))
}

fn on_progress(single: bool, call: Call) -> Result<()> {
    let (disk, (sender, receiver)) = (SimDisk::new(1), channel());
    open(&disk, single).close().expect("closes");
    let (store, asked) = (open(&SimDisk::new(2), single), AtomicBool::new(false));
    let within = store.clone();
    let watch = move |_: OpenProgress| {
        if !asked.swap(true, Ordering::Relaxed) {
            sender.send(call(&within)).expect("the test waits");
        }
        Continue(())
    };
    open_with(&disk, options(single).on_progress(watch)).close().expect("closes");
    goes_on(store, answer(&receiver))
}

/// A watcher that calls once.
fn calling_once(
    store: &Store,
    call: Call,
    sender: Sender<Result<()>>,
) -> impl Fn(aegis_blocks::CopyProgress) -> ControlFlow<()> {
    let (within, asked) = (store.clone(), AtomicBool::new(false));
    move |_| {
        if !asked.swap(true, Ordering::Relaxed) {
            sender.send(call(&within)).expect("the test waits");
        }
        Continue(())
    }
}

fn watcher_of_a_backup(single: bool, call: Call) -> Result<()> {
    let (store, (sender, receiver)) = (open(&SimDisk::new(1), single), channel());
    let watch = calling_once(&store, call, sender);
    let copied = store.backup_on(&SimDisk::new(2), None, &watch);
    assert!(matches!(copied, Ok(_) | Err(Error::Closed)), "{copied:?}");
    drop(watch);
    goes_on(store, answer(&receiver))
}

fn watcher_of_a_restore(single: bool, call: Call) -> Result<()> {
    let (store, (sender, receiver)) = (open(&SimDisk::new(1), single), channel());
    let backup = SimDisk::new(2);
    store.backup_on(&backup, None, &|_| Continue(())).expect("copies");
    let watch = calling_once(&store, call, sender);
    LocalBackend::restore_on(&backup, &SimDisk::new(4), &watch).expect("restores");
    drop(watch);
    goes_on(store, answer(&receiver))
}

fn body_of_transact(single: bool, call: Call) -> Result<()> {
    let store = open(&SimDisk::new(1), single);
    let mut answer = Ok(());
    let done = store.transact(IsolationLevel::Snapshot, |_| {
        answer = call(&store);
        Ok(())
    });
    assert!(matches!(done, Ok(()) | Err(Error::Closed)), "{done:?}");
    goes_on(store, answer)
}

/// Bytes whose end is told.
struct Owner<F: FnMut()> {
    bytes: [u8; 8],
    at_end: F,
}

impl<F: FnMut()> AsRef<[u8]> for Owner<F> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<F: FnMut()> Drop for Owner<F> {
    fn drop(&mut self) {
        (self.at_end)();
    }
}

/// A block that calls when the last of its payload is dropped.
fn block_that_calls(id: u64, at_end: impl FnMut() + Send + 'static) -> Block {
    let payload = Bytes::from_owner(Owner { bytes: *b"borrowed", at_end });
    Block::new(BlockId(id), BlockType::TableData, payload)
}

fn drop_of_a_payload(single: bool, call: Call) -> Result<()> {
    let (store, (sender, receiver)) = (open(&SimDisk::new(1), single), channel());
    let within = store.clone();
    let tell = move || sender.send(call(&within)).expect("the test waits");
    hand_in(&store, block_that_calls(1, tell)).wait().expect("commits");
    goes_on(store, answer(&receiver))
}

/// A reader's own bytes are dropped where it drops them. In a store in memory they are the
/// writer's.
fn drop_of_a_payload_that_was_read(single: bool, call: Call) -> Result<()> {
    let (store, (sender, receiver)) = (open(&SimDisk::new(1), single), channel());
    let (memory, within) = (MemoryBackend::new(), store.clone());
    let tell = move || sender.send(call(&within)).expect("the test waits");
    memory.write_block(block_that_calls(1, tell)).expect("writes");
    let read = memory.read_block(BlockId(1)).expect("reads");
    memory.delete_block(BlockId(1)).expect("deletes");
    drop(read);
    goes_on(store, answer(&receiver))
}

/// What a call answers in a callback.
fn expected(may: May, call: &str) -> &'static str {
    match may {
        May::Neither => "`InCallback`",
        May::Wait if ["`close`", "`repair`, `salvage`"].contains(&call) => "`InCallback`",
        _ if call.starts_with("beginning") => "as ever, and waits",
        _ => "as ever",
    }
}

/// The table of docs/reliability.md, which is to be this one.
#[test]
fn table_in_the_document_says_what_is_tested_here() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md");
    let document = std::fs::read_to_string(path).expect("the document");
    let row = |first: &str, cells: Vec<&str>| format!("| {first} | {} |\n", cells.join(" | "));
    let mut table = row("call", CALLBACKS.iter().map(|(callback, ..)| *callback).collect());
    table += &format!("|{}\n", "---|".repeat(1 + CALLBACKS.len()));
    for (called, _) in CALLS {
        let cell = |(_, may, _): &(_, May, _)| match expected(*may, called) {
            "`InCallback`" => "refused",
            _ => "done",
        };
        table += &row(called, CALLBACKS.iter().map(cell).collect());
    }
    assert!(document.contains(&table), "docs/reliability.md has not this table:\n{table}");
}

/// What ends the last handle.
type End = fn(Store);

const ENDS: [End; 2] = [drop, |store| {
    let refused = store.close();
    assert!(matches!(refused, Err(Error::InCallback)), "{refused:?}");
}];

/// Ends the last handle, and says whether the store is locked as long as the callback runs.
fn end_and_stay(disk: &SimDisk, store: Store, end: End) -> bool {
    end(store);
    (0..100).all(|_| {
        std::thread::yield_now();
        let second = LocalBackend::open_on(disk.clone(), LocalBackend::options());
        matches!(second, Err(Error::Locked { .. }))
    })
}

/// Waits until the store is closed, and looks at what it left.
fn check_closed(disk: &SimDisk, was_locked: bool) {
    assert!(was_locked, "a second handle got in while a thread of the first was alive");
    let reopened = loop {
        match LocalBackend::open_on(disk.clone(), LocalBackend::options()) {
            Err(Error::Locked { .. }) => std::thread::yield_now(),
            answer => break answer.expect("it was closed"),
        }
    };
    assert!(reopened.recovery().clean);
    assert!(reopened.block_exists(BlockId(1)).expect("looks"));
    reopened.close().expect("closes");
}

#[test]
fn last_handle_that_ends_in_a_callback_of_a_commit_closes_the_store_behind_it() {
    for (end, single) in ENDS.into_iter().flat_map(|end| [(end, true), (end, false)]) {
        let (disk, (sender, receiver)) = (SimDisk::new(1), channel());
        let (store, within) = (open(&disk, single), disk.clone());
        hand_in(&store, block(1)).on_durable(move |_| {
            sender.send(end_and_stay(&within, store, end)).expect("the test waits");
        });
        check_closed(&disk, answer(&receiver));
    }
}

#[test]
fn last_handle_that_ends_while_the_store_tells_of_low_space_closes_it_behind_that() {
    for end in ENDS {
        let disk = SimDisk::new(1);
        let within = disk.clone();
        let tell = move |store| end_and_stay(&within, store, end);
        let (options, to, receiver) = told_of_space(false, tell);
        let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
        have_looked(&store);
        to.send(store).expect("the callback waits");
        check_closed(&disk, answer(&receiver));
    }
}

#[test]
fn last_handle_that_ends_with_a_payload_closes_the_store_behind_that() {
    for (end, single) in ENDS.into_iter().flat_map(|end| [(end, true), (end, false)]) {
        let (disk, (sender, receiver)) = (SimDisk::new(1), channel());
        let store = open(&disk, single);
        let (within, mut last) = (disk.clone(), Some(store.clone()));
        let tell = move || {
            let last = last.take().expect("it is dropped once");
            sender.send(end_and_stay(&within, last, end)).expect("the test waits");
        };
        let ticket = hand_in(&store, block_that_calls(1, tell));
        drop(store);
        drop(ticket);
        check_closed(&disk, answer(&receiver));
    }
}

#[test]
fn every_call_that_may_wait_is_refused_or_done_in_every_callback() {
    for (called, call) in CALLS {
        for (callback, may, run) in CALLBACKS {
            for single in [true, false] {
                println!("{called} in {callback}, single-threaded: {single}");
                let answer = run(single, call);
                let as_expected = match expected(may, called) {
                    "`InCallback`" => matches!(answer, Err(Error::InCallback)),
                    "as ever" => answer.is_ok(),
                    _ => matches!(answer, Err(Error::TooManyTransactions { .. })),
                };
                assert!(as_expected, "{called} in {callback}: {answer:?}");
            }
        }
    }
}
