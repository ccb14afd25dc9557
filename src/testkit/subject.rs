//! The store under test, and its model.
//!
//! Owns [`Subject`] and [`Tx`]: every call goes to the backend and to the [`Model`], and the
//! answers must agree. Any disagreement is a panic; the runner adds the claim's name. Invariant:
//! after the body of a check, [`Subject::check`] finds in the store exactly the blocks of the
//! model.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::Write;
use std::panic::{Location, resume_unwind};
use std::sync::Barrier;
use std::thread;

use bytes::Bytes;

use super::erased::{AnyFixture, Held};
use super::model::{Model, ModelTransaction};
use super::rng::Rng;
use crate::backend::{StorageBackend, StorageStats};
use crate::block::{Block, BlockId, BlockType, TransactionId};
use crate::error::{Error, Result};
use crate::order::ScanOrder;
use crate::transaction::{IsolationLevel, Savepoint, ScanMark, ScanPage};

/// Asserts that a call fails with this error and no other.
macro_rules! refused {
    ($call:expr, $pattern:pat $(if $guard:expr)?) => {
        match $call {
            Err($pattern) $(if $guard)? => {}
            other => panic!(
                "{} answered {:?}, it must be refused with {}",
                stringify!($call),
                other,
                stringify!($pattern $(if $guard)?),
            ),
        }
    };
}
pub(super) use refused;

/// The store under test. Lives as long as one check.
pub(super) struct Subject<'f> {
    fixture: &'f dyn AnyFixture,
    store: Option<Box<dyn Held>>,
    model: RefCell<Model>,
    seen: RefCell<BTreeSet<u64>>,
    open: Cell<u64>,
}

/// An open transaction on the store under test. Not ended when dropped.
pub(super) struct Tx<'s, 'f> {
    subject: &'s Subject<'f>,
    pub(super) id: TransactionId,
    pub(super) model: RefCell<ModelTransaction>,
}

/// A savepoint, and the pending changes of the transaction at it.
pub(super) struct Mark {
    pub(super) savepoint: Savepoint,
    model: ModelTransaction,
}

/// A block of type `TableData`.
pub(super) fn block(id: u64, data: impl Into<Bytes>) -> Block {
    Block::new(BlockId(id), BlockType::TableData, data)
}

/// The result of a call that has no reason to fail.
#[track_caller]
pub(super) fn ok<T>(result: Result<T>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(e) => panic!("{what} failed: {e} ({e:?})"),
    }
}

/// Runs `count` threads, each with its number, and returns their results in order. They begin
/// together. The first panic is resumed in the caller once all have ended.
pub(super) fn threads<T: Send>(count: u64, body: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let (body, start) = (&body, &Barrier::new(count as usize));
    let results: Vec<_> = thread::scope(|scope| {
        let run = |n| {
            start.wait();
            body(n)
        };
        let running: Vec<_> = (0..count).map(|n| scope.spawn(move || run(n))).collect();
        running.into_iter().map(|thread| thread.join()).collect()
    });
    let resume = |result: thread::Result<T>| result.unwrap_or_else(|panic| resume_unwind(panic));
    results.into_iter().map(resume).collect()
}

impl<'f> Subject<'f> {
    pub(super) fn open(fixture: &'f dyn AnyFixture) -> Subject<'f> {
        Subject {
            fixture,
            store: Some(fixture.open()),
            model: RefCell::default(),
            seen: RefCell::default(),
            open: Cell::new(0),
        }
    }

    pub(super) fn store(&self) -> &dyn StorageBackend {
        self.store.as_deref().expect("a check ends when its backend forgets")
    }

    pub(super) fn stats(&self) -> StorageStats {
        self.store().stats()
    }

    /// The model of the store, for checks that call the backend themselves.
    pub(super) fn model(&self) -> std::cell::RefMut<'_, Model> {
        self.model.borrow_mut()
    }

    /// Has [`Subject::check`] read an id although no commit of the model touched it.
    pub(super) fn saw(&self, id: u64) {
        self.seen.borrow_mut().insert(id);
    }

    /// Writes a block on its own.
    #[track_caller]
    pub(super) fn put(&self, id: u64, data: impl Into<Bytes>) {
        self.put_block(block(id, data));
    }

    /// Writes a block on its own and returns its id, allocated if it was 0.
    #[track_caller]
    pub(super) fn put_block(&self, mut block: Block) -> u64 {
        let asked = block.header.block_id;
        let id = ok(self.store().write_block(block.clone()), "write_block");
        assert!(asked == BlockId(0) || asked == id, "write of block {asked} answered {id}");
        self.check_allocated(asked, id);
        block.header.block_id = id;
        self.model().write(block);
        id.0
    }

    /// Writes a block on its own, with an allocated id.
    #[track_caller]
    pub(super) fn allocate(&self, data: impl Into<Bytes>) -> u64 {
        self.put_block(block(0, data))
    }

    /// Deletes a block that exists, on its own.
    #[track_caller]
    pub(super) fn remove(&self, id: u64) {
        ok(self.store().delete_block(BlockId(id)), "delete_block");
        assert!(self.model().delete(id), "deleted block {id}, which did not exist");
    }

    /// Asserts that the newest committed version of a block has this payload.
    #[track_caller]
    pub(super) fn holds(&self, id: u64, data: impl Into<Bytes>) {
        let (found, data) = (ok(self.store().read_block(BlockId(id)), "read_block"), data.into());
        assert_eq!(found.header.block_id, BlockId(id), "read_block answered another block");
        assert!(found.data == data, "block {id} holds {:?}, not {data:?}", found.data);
        assert!(
            ok(self.store().block_exists(BlockId(id)), "block_exists"),
            "block {id} is missing"
        );
    }

    /// Asserts that no committed block has this id.
    #[track_caller]
    pub(super) fn lacks(&self, id: u64) {
        self.saw(id);
        let here = Location::caller();
        match self.store().read_block(BlockId(id)) {
            Err(Error::BlockNotFound { id: named }) if named.0 == id => {}
            other => panic!("{here}: block {id} must not exist, read_block answered {other:?}"),
        }
        assert!(!ok(self.store().block_exists(BlockId(id)), "block_exists"), "block {id} exists");
    }

    /// Begins a transaction.
    #[track_caller]
    pub(super) fn begin(&self) -> Tx<'_, 'f> {
        let id = ok(self.store().begin_transaction(), "begin_transaction");
        self.open.set(self.open.get() + 1);
        Tx { subject: self, id, model: RefCell::new(self.model().begin()) }
    }

    /// Begins a transaction that the model does not follow; `None` where the level is not offered.
    #[track_caller]
    pub(super) fn begin_at(&self, isolation: IsolationLevel) -> Option<TransactionId> {
        self.offered(self.store().begin_transaction_at(isolation), "begin_transaction_at")
    }

    /// The answer of a call that a backend need not offer; `None`, with a note, where it does not.
    #[track_caller]
    pub(super) fn offered<T>(&self, answer: Result<T>, call: &str) -> Option<T> {
        if let Err(Error::Unsupported { operation }) = answer {
            self.note_unsupported(call, operation);
            return None;
        }
        Some(ok(answer, call))
    }

    /// Says that a check is passed over. Around the test harness, which keeps what a test that
    /// passes has printed to itself.
    pub(super) fn note_unsupported(&self, call: &str, operation: &str) {
        let thread = thread::current();
        let test = thread.name().unwrap_or("a check");
        let note = format!("skipped: {test}: the backend does not offer {operation} ({call})\n");
        if std::io::stderr().write_all(note.as_bytes()).is_err() {
            eprint!("{note}");
        }
    }

    /// Closes the store and opens it again; `None` ends the check of a backend that forgets.
    pub(super) fn reopen(&mut self) -> Option<()> {
        let store = self.store.take().expect("a check ends when its backend forgets");
        self.opened_again(self.fixture.reopen(store))
    }

    /// Closes the store and opens it again, or a fresh one where the backend forgets.
    pub(super) fn reopen_or_begin_anew(&mut self) {
        if self.reopen().is_none() {
            *self = Subject::open(self.fixture);
        }
    }

    /// Stops the store without closing it and opens it again; `None` ends the check.
    pub(super) fn crash(&mut self) -> Option<()> {
        let store = self.store.take().expect("a check ends when its backend forgets");
        self.opened_again(self.fixture.crash(store))
    }

    /// This length, or the longest payload that the checks may write.
    pub(super) fn fitting(&self, len: usize) -> usize {
        len.min(self.fixture.payload_len_max())
    }

    /// Random bytes of this length, or of the longest payload that the checks may write.
    pub(super) fn bytes(&self, rng: &mut Rng, len: usize) -> Bytes {
        rng.bytes(self.fitting(len))
    }

    /// As [`Fixture::acknowledges_durably`].
    pub(super) fn acknowledges_durably(&self) -> bool {
        self.fixture.acknowledges_durably()
    }

    fn opened_again(&mut self, store: Option<Box<dyn Held>>) -> Option<()> {
        self.store = store;
        self.open.set(0);
        self.store.as_ref().map(|_| ())
    }

    /// Asserts that the store holds exactly the blocks of the model, read outside and inside a
    /// transaction, and that `stats` agrees.
    #[track_caller]
    pub(super) fn check(&self) {
        if self.store.is_none() {
            return;
        }
        let (store, model) = (self.store(), self.model());
        let tx = ok(store.begin_transaction(), "begin_transaction");
        let mut ids: BTreeSet<u64> = model.touched().collect();
        ids.extend(self.seen.borrow().iter());
        for id in ids.into_iter().map(BlockId) {
            let expected = model.read(id.0);
            expect_block(store.read_block(id), id, expected, "read_block");
            expect_block(store.read_block_in_tx(tx, id), id, expected, "read_block_in_tx");
            let exists = ok(store.block_exists(id), "block_exists");
            assert_eq!(exists, expected.is_some(), "block_exists({id})");
            let exists = ok(store.block_exists_in_tx(tx, id), "block_exists_in_tx");
            assert_eq!(exists, expected.is_some(), "block_exists_in_tx({id})");
        }
        ok(store.rollback_transaction(tx), "rollback_transaction");
        let stats = store.stats();
        assert_eq!(stats.total_blocks, model.total_blocks(), "stats().total_blocks against a scan");
        assert_eq!(stats.total_bytes, model.total_bytes(), "stats().total_bytes against a scan");
        assert_eq!(stats.open_transactions, self.open.get(), "stats().open_transactions");
    }

    /// An allocated id is above every id that a commit ever wrote; where there is none above, no
    /// block has it.
    #[track_caller]
    fn check_allocated(&self, asked: BlockId, id: BlockId) {
        self.saw(id.0);
        if asked == BlockId(0) {
            let max = self.model().max_id();
            let is_free = id.0 > 0 && self.model().read(id.0).is_none();
            assert!(is_free, "allocated id {id}, which is in use");
            let is_above = id.0 > max || max == u64::MAX;
            assert!(is_above, "allocated id {id} although id {max} was in use before");
        }
    }
}

/// Asserts the result of a read: this block to the last field, or `BlockNotFound`.
#[track_caller]
pub(super) fn expect_block(
    found: Result<Block>,
    id: BlockId,
    expected: Option<&Block>,
    call: &str,
) {
    match (found, expected) {
        (Ok(found), Some(expected)) => {
            assert_eq!(found.header, expected.header, "{call}({id}): header");
            assert!(found.data == expected.data, "{call}({id}): payload differs");
        }
        (Err(Error::BlockNotFound { id: named }), None) if named == id => {}
        (Ok(found), None) => panic!("{call}({id}) found {:?}, which must not exist", found.header),
        (Err(e), expected) => {
            let expected = expected.map(|block| block.header);
            panic!("{call}({id}) answered {e:?}, it must be {expected:?}")
        }
    }
}

impl Tx<'_, '_> {
    /// Adds a write.
    #[track_caller]
    pub(super) fn put(&self, id: u64, data: impl Into<Bytes>) {
        self.put_block(block(id, data));
    }

    /// Adds a write and returns its id, allocated if it was 0.
    #[track_caller]
    pub(super) fn put_block(&self, mut block: Block) -> u64 {
        let asked = block.header.block_id;
        let id = ok(self.store().write_block_in_tx(self.id, block.clone()), "write_block_in_tx");
        assert!(asked == BlockId(0) || asked == id, "write of block {asked} answered {id}");
        self.subject.check_allocated(asked, id);
        let mut model = self.model.borrow_mut();
        assert!(asked == id || !model.touches(id.0), "allocated id {id} twice in one transaction");
        block.header.block_id = id;
        model.write(block);
        id.0
    }

    /// Adds a write with an allocated id.
    #[track_caller]
    pub(super) fn allocate(&self, data: impl Into<Bytes>) -> u64 {
        self.put_block(block(0, data))
    }

    /// Asserts that the transaction sees the ids of the model in a range; passed over, with a note,
    /// where ranges are not offered.
    #[track_caller]
    pub(super) fn lists(&self, first: u64, last: u64) {
        let listed = self.store().ids_in_tx(self.id, BlockId(first), BlockId(last));
        let Some(found) = self.subject.offered(listed, "ids_in_tx") else { return };
        let expected = self.model.borrow().ids(first, last);
        let found: Vec<u64> = found.into_iter().map(|id| id.0).collect();
        assert_eq!(found, expected, "ids from {first} to {last}");
        for count_max in [1, 3, 512] {
            let up = self.scanned(first, last, ScanOrder::Ascending, count_max);
            assert_eq!(up, expected, "ids from {first} up to {last}, {count_max} at a time");
            let mut down = self.scanned(first, last, ScanOrder::Descending, count_max);
            down.reverse();
            assert_eq!(down, expected, "ids from {last} down to {first}, {count_max} at a time");
        }
    }

    /// Scans a range page by page.
    fn scanned(&self, first: u64, last: u64, order: ScanOrder, count_max: usize) -> Vec<u64> {
        let (mut rest, mut found) = (Some((first, last)), Vec::new());
        while let Some((first, last)) = rest {
            let (first, last, mark) = (BlockId(first), BlockId(last), ScanMark::LATEST);
            let page = ScanPage { first, last, order, count_max, mark };
            let ids = ok(self.store().scan_in_tx(self.id, &page), "scan_in_tx");
            found.extend(ids.iter().map(|id| id.0));
            let end = ids.last().filter(|_| ids.len() >= count_max);
            rest = end.and_then(|end| match order {
                ScanOrder::Ascending => Some((end.0.checked_add(1)?, last.0)),
                ScanOrder::Descending => Some((first.0, end.0.checked_sub(1)?)),
            });
            rest = rest.filter(|(first, last)| first <= last);
        }
        found
    }

    /// Makes a savepoint; `None`, with a note, where they are not offered.
    #[track_caller]
    pub(super) fn mark(&self) -> Option<Mark> {
        let answer = self.store().savepoint_in_tx(self.id);
        let savepoint = self.subject.offered(answer, "savepoint_in_tx")?;
        Some(Mark { savepoint, model: self.model.borrow().clone() })
    }

    /// Goes back to a savepoint.
    #[track_caller]
    pub(super) fn undo_to(&self, mark: &Mark) {
        let undone = self.store().rollback_to_savepoint(self.id, mark.savepoint);
        ok(undone, "rollback_to_savepoint");
        *self.model.borrow_mut() = mark.model.clone();
    }

    /// The commit was handed in, and will be made.
    pub(super) fn handed_in(self) {
        self.ended();
        self.subject.model().commit(self.model.into_inner());
    }

    /// Adds a delete of a block that the transaction sees.
    #[track_caller]
    pub(super) fn remove(&self, id: u64) {
        ok(self.store().delete_block_in_tx(self.id, BlockId(id)), "delete_block_in_tx");
        assert!(self.model.borrow_mut().delete(id), "deleted block {id}, which was not visible");
    }

    /// Asserts that the transaction sees this payload.
    #[track_caller]
    pub(super) fn holds(&self, id: u64, data: impl Into<Bytes>) {
        let found = ok(self.store().read_block_in_tx(self.id, BlockId(id)), "read_block_in_tx");
        let data = data.into();
        assert_eq!(found.header.block_id, BlockId(id), "read_block_in_tx answered another block");
        assert!(found.data == data, "the transaction sees {:?}, not {data:?}", found.data);
        let exists = self.store().block_exists_in_tx(self.id, BlockId(id));
        assert!(ok(exists, "block_exists_in_tx"), "the transaction misses block {id}");
    }

    /// Asserts that the transaction sees no block of this id.
    #[track_caller]
    pub(super) fn lacks(&self, id: u64) {
        self.subject.saw(id);
        let here = Location::caller();
        match self.store().read_block_in_tx(self.id, BlockId(id)) {
            Err(Error::BlockNotFound { id: named }) if named.0 == id => {}
            other => panic!("{here}: the transaction must not see block {id}, got {other:?}"),
        }
        let exists = self.store().block_exists_in_tx(self.id, BlockId(id));
        assert!(!ok(exists, "block_exists_in_tx"), "the transaction sees block {id}");
    }

    /// Commits.
    #[track_caller]
    pub(super) fn commit(self) -> TransactionId {
        ok(self.store().commit_transaction(self.id), "commit_transaction");
        self.ended();
        self.subject.model().commit(self.model.into_inner());
        self.id
    }

    /// Commits and asserts that the answer is `Conflict` on this block.
    #[track_caller]
    pub(super) fn loses(self, id: u64) -> TransactionId {
        let here = Location::caller();
        match self.store().commit_transaction(self.id) {
            Err(Error::Conflict { id: named, snapshot, found }) => {
                assert_eq!(named.0, id, "{here}: the block that the conflict names");
                assert!(
                    found > snapshot,
                    "{here}: a change at lsn {found} is in snapshot {snapshot}"
                );
            }
            other => panic!("{here}: block {id} changed, so Conflict is due, not {other:?}"),
        }
        self.ended();
        self.id
    }

    /// Commits and asserts the answer that the model gives.
    #[track_caller]
    pub(super) fn commit_as_modelled(self) {
        let verdict = self.subject.model().verdict(&self.model.borrow());
        let answer = self.store().commit_transaction(self.id);
        self.ended();
        match answer {
            Ok(()) if !verdict.must_conflict() => {
                self.subject.model().commit(self.model.into_inner());
            }
            Err(Error::Conflict { id, snapshot, found }) if verdict.may_conflict_on(id) => {
                assert!(found > snapshot, "a change at lsn {found} is in snapshot {snapshot}");
            }
            other => panic!("commit answered {other:?}, the model has {verdict:?}"),
        }
    }

    /// Rolls back.
    #[track_caller]
    pub(super) fn rollback(self) -> TransactionId {
        ok(self.store().rollback_transaction(self.id), "rollback_transaction");
        self.ended();
        self.id
    }

    pub(super) fn store(&self) -> &dyn StorageBackend {
        self.subject.store()
    }

    pub(super) fn ended(&self) {
        self.subject.open.set(self.subject.open.get() - 1);
    }
}
