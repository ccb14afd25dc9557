//! The oracle: a plain model beside the store, and what must hold whenever the store is open.
//!
//! Owns the list of commits, each as the state of the whole store behind it, and how many of them
//! must survive. Knows the store by its public interface only. The store must show one of those
//! states, to the last byte: so commits are atomic, in order and without holes, and what was
//! refused never shows up.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::io::{Disk, Entry, FileName};
use aegis_blocks::{BlockId, Error, LocalBackend, PoisonCause, StorageBackend};
use bytes::Bytes;

/// The payload of every block.
pub type State = BTreeMap<u64, Bytes>;
/// Writes and deletes of one commit.
pub type Changes = Vec<(u64, Option<Bytes>)>;

/// What was committed, as far as the caller was told.
#[derive(Clone)]
pub struct History {
    /// The store behind its first `n` commits.
    states: Vec<Arc<State>>,
    /// Commits that survive a power cut.
    floor: usize,
    /// Commits at the end whose outcome is unknown.
    unknown: usize,
    /// Every id that a commit named, whatever became of it.
    named: BTreeSet<u64>,
}

impl History {
    pub fn new() -> History {
        let states = vec![Arc::new(State::new())];
        History { states, floor: 0, unknown: 0, named: BTreeSet::new() }
    }

    /// Commits that survive a power cut.
    pub fn floor(&self) -> usize {
        self.floor
    }

    /// Commits that a live store shows.
    pub fn live(&self) -> usize {
        self.states.len() - 1 - self.unknown
    }

    /// Commits that may be there at most.
    pub fn most(&self) -> usize {
        self.states.len() - 1
    }

    /// What a live store shows.
    pub fn state(&self) -> &State {
        &self.states[self.live()]
    }

    /// The largest id that a commit ever wrote, deleted or not.
    pub fn newest_id(&self) -> u64 {
        let states = &self.states[..=self.live()];
        states.iter().filter_map(|state| state.keys().next_back().copied()).max().unwrap_or(0)
    }

    /// A commit was acknowledged.
    pub fn acked(&mut self, changes: Changes, durable: bool) {
        assert_eq!(self.unknown, 0, "O1: a commit succeeds behind one whose outcome is unknown");
        self.push(changes);
        if durable {
            self.floor = self.most();
        }
    }

    /// A commit failed halfway.
    pub fn unknown(&mut self, changes: Changes) {
        self.push(changes);
        self.unknown += 1;
    }

    /// A commit was refused: it must never show up.
    pub fn refused(&mut self, changes: Changes) {
        self.named.extend(changes.iter().map(|(id, _)| *id));
    }

    /// Everything acknowledged became durable.
    pub fn synced(&mut self) {
        self.floor = self.live();
    }

    /// The store was opened again and shows this many commits: from here on they stay.
    pub fn settle(&mut self, count: usize) {
        self.states.truncate(count + 1);
        (self.floor, self.unknown) = (count, 0);
    }

    fn push(&mut self, changes: Changes) {
        let mut next = State::clone(&self.states[self.most()]);
        for (id, data) in changes {
            self.named.insert(id);
            match data {
                Some(data) => next.insert(id, data),
                None => next.remove(&id),
            };
        }
        self.states.push(Arc::new(next));
    }

    /// Checks that a store shows the commits up to one of `counts`, and returns that count.
    pub fn check(&self, store: &LocalBackend<SimDisk>, counts: RangeInclusive<usize>) -> usize {
        let (count, corrupt) = self.check_damaged(store, counts);
        assert_eq!(corrupt, 0, "O2: {corrupt} blocks of an undamaged store are corrupt");
        count
    }

    /// As [`History::check`], but a block may be reported as corrupt (O10). Returns how many are.
    pub fn check_damaged(
        &self,
        store: &LocalBackend<SimDisk>,
        counts: RangeInclusive<usize>,
    ) -> (usize, usize) {
        if matches!(store.ids(..), Err(Error::Corrupt { .. })) {
            return self.check_reads(store, counts);
        }
        // Moves take LSNs too, so there may be fewer commits than that; the blocks tell how many.
        let most = store.stats().visible_lsn.0 as usize;
        let seen = read_all(store);
        let mut possible = counts.clone().rev().filter(|count| *count <= most);
        let count = possible.find(|count| is_seen(&self.states[*count], &seen));
        let count = count.unwrap_or_else(|| {
            let all = 0..self.states.len();
            let other = all.rev().find(|count| is_seen(&self.states[*count], &seen));
            panic!("O1: {other:?} commits are there, expected {counts:?}")
        });
        (count, self.check_state(store, &self.states[count]))
    }

    /// Checks a store whose index is damaged: each block of one state gives its bytes or says so.
    fn check_reads(
        &self,
        store: &LocalBackend<SimDisk>,
        counts: RangeInclusive<usize>,
    ) -> (usize, usize) {
        let read = |id: u64| match store.read_block(BlockId(id)) {
            Ok(block) => Ok(Some(block.data)),
            Err(Error::BlockNotFound { .. }) => Ok(None),
            Err(Error::Corrupt { .. }) => Err(()),
            Err(error) => panic!("O9: block {id}: {error:?}"),
        };
        let seen: Vec<_> = self.named.iter().map(|id| (*id, read(*id))).collect();
        let corrupt = seen.iter().filter(|(_, read)| read.is_err()).count();
        let fits = |state: &State| {
            seen.iter().all(|(id, read)| {
                read.as_ref().is_ok_and(|r| r.as_ref() == state.get(id)) || read.is_err()
            })
        };
        let count = counts.clone().rev().find(|count| fits(&self.states[*count]));
        let count = count.unwrap_or_else(|| panic!("O3: {seen:?} is no state of {counts:?}"));
        (count, corrupt.max(1))
    }

    fn check_state(&self, store: &LocalBackend<SimDisk>, state: &State) -> usize {
        let ids = store.ids(..).expect("ids of an open store");
        assert!(ids.iter().map(|id| id.0).eq(state.keys().copied()), "O2: blocks {ids:?}");
        let stats = store.stats();
        let total_bytes: u64 = state.values().map(|data| data.len() as u64).sum();
        let totals = (stats.total_blocks, stats.total_bytes);
        assert_eq!(totals, (state.len() as u64, total_bytes), "stats and a full scan");
        for id in self.named.iter().filter(|id| !state.contains_key(id)) {
            let read = store.read_block(BlockId(*id));
            assert!(matches!(read, Err(Error::BlockNotFound { .. })), "O4: {id} reads {read:?}");
        }
        let mut corrupt = 0;
        for (id, data) in state {
            match store.read_block(BlockId(*id)) {
                Ok(block) => assert!(block.data == *data, "O3: wrong bytes in block {id}"),
                Err(Error::Corrupt { .. }) => corrupt += 1,
                Err(error) => panic!("O9: block {id}: {error:?}"),
            }
        }
        corrupt
    }
}

/// All blocks of a store; `None` for one that is reported as corrupt.
fn read_all(store: &LocalBackend<SimDisk>) -> BTreeMap<u64, Option<Bytes>> {
    let ids = store.ids(..).expect("ids of an open store");
    let read = |id: BlockId| match store.read_block(id) {
        Ok(block) => Some(block.data),
        Err(Error::Corrupt { .. }) => None,
        Err(error) => panic!("O9: block {id}: {error:?}"),
    };
    ids.into_iter().map(|id| (id.0, read(id))).collect()
}

/// Whether what was read is this state.
fn is_seen(state: &State, seen: &BTreeMap<u64, Option<Bytes>>) -> bool {
    state.keys().eq(seen.keys())
        && state
            .values()
            .zip(seen.values())
            .all(|(data, seen)| seen.as_ref().is_none_or(|s| s == data))
}

/// O7, O8: every segment file is one that the store knows, and nothing unfinished is left.
pub fn check_files(store: &LocalBackend<SimDisk>, disk: &SimDisk) {
    let files = disk.files();
    let unfinished = files.iter().find(|(name, _)| matches!(name, FileName::Temporary(_)));
    assert_eq!(unfinished, None, "O8: an unfinished file is left");
    let count = files.iter().filter(|(name, _)| matches!(name, FileName::Segment(_))).count();
    assert_eq!(count as u64, store.stats().segments, "O7: leaked segments among {files:?}");
}

/// O9: an error that the world's failures explain. Injected ones never look like damage.
pub fn check_failure(error: &Error) {
    match error {
        Error::Io { .. }
        | Error::StorageFull { .. }
        | Error::ResourceExhausted { .. }
        | Error::Closed => {}
        Error::Poisoned { cause } => {
            assert_ne!(*cause, PoisonCause::ThreadPanicked, "O9: a thread of the store panicked");
        }
        error => panic!("O9: a failing disk is reported as {error:?}"),
    }
}

/// O9: an error that damage explains.
pub fn check_refusal(error: &Error) {
    let named = matches!(
        error,
        Error::Corrupt { .. } | Error::UnsupportedFormat { .. } | Error::NotAStore { .. }
    );
    assert!(named, "O9: damage is reported as {error:?}");
}

/// All bytes of all files, the lock apart: for O11.
pub fn all_bytes(disk: &SimDisk) -> BTreeMap<FileName, Vec<u8>> {
    let entries = disk.freeze().list().expect("a listing");
    let names = entries.into_iter().filter_map(|entry| match entry {
        Entry::File { name, .. } if name != FileName::Lock => Some(name),
        _ => None,
    });
    names.map(|name| (name, disk.contents(name).expect("listed"))).collect()
}
