//! Target over a running store: bytes become commits, faults, power cuts and openings on a
//! simulated disk.
//!
//! The oracle is a list of states, each a `BTreeMap`, one for every commit. Commit sequence numbers
//! are dense, so the newest visible one says which state the store must show. A cut or a new
//! opening may go back to the last state that was durable, never further; nothing that was refused
//! shows up.

#[path = "../../support/fault_kinds.rs"]
mod fault_kinds;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::backend::{Durability, StorageBackend};
use crate::block::{Block, BlockId, BlockType};
use crate::error::{Error, PoisonCause, Result};
use crate::io::sim::{CrashChoice, Fault, FaultKind, Profile, Share, SimDisk, SyncFailure};
use crate::local::LocalBackend;
use crate::local::fuzz::store::options;
use crate::local::options::{Options, WriteMode};
use crate::transaction::StorageExt;
use fault_kinds::OF_THE_DISK;

/// Steps of one input at most: more would only make the fuzzer slow.
const STEP_COUNT_MAX: usize = 32;

type State = BTreeMap<u64, Bytes>;
/// Writes and deletes of one commit.
type Changes = Vec<(u64, Option<Bytes>)>;

/// A store and what it must show.
struct Run {
    disk: SimDisk,
    options: Options,
    store: Option<LocalBackend<SimDisk>>,
    /// The store behind its first `n` commits.
    states: Vec<State>,
    /// Commits that survive anything, and commits that the open store shows.
    floor: usize,
    live: usize,
    poisoned: bool,
    /// Changes tried: each writes bytes of its own.
    counter: u64,
}

/// Input: how the store is set up, then two bytes a step. True when the steps tried a commit.
pub(super) fn run(data: &[u8]) -> bool {
    let Some((set_up, steps)) = data.split_first() else { return false };
    let mut run = Run::new(*set_up);
    run.open();
    for step in steps.chunks_exact(2).take(STEP_COUNT_MAX) {
        run.step(step[0], step[1]);
    }
    run.disk.clear_faults();
    run.disk.set_capacity(None);
    run.restart(run.disk.crash(CrashChoice::Nothing));
    assert!(run.store.is_some(), "the store does not open on a disk that is well");
    run.commit(vec![(1, Some(10))], None);
    assert!(!run.poisoned && run.live > 0, "the store does not go on");
    run.close();
    assert_eq!(run.disk.violations(), [""; 0]);
    run.counter > 1
}

impl Run {
    fn new(set_up: u8) -> Run {
        let disk = SimDisk::new(7);
        let bit = |n: u32| set_up >> n & 1 != 0;
        disk.set_profile(match set_up & 3 {
            0 => Profile::Journaled,
            1 => Profile::Posix,
            _ => Profile::Paranoid,
        });
        let mode = if bit(2) { WriteMode::Direct } else { WriteMode::Buffered };
        let options = options().write_mode(mode).zero_ahead_len(if bit(3) { 64 << 10 } else { 0 });
        let states = vec![State::new()];
        Run { disk, options, store: None, states, floor: 0, live: 0, poisoned: false, counter: 0 }
    }

    fn step(&mut self, code: u8, argument: u8) {
        let id = u64::from(argument % 8) + 1;
        let len = usize::from(argument) * 16;
        match code % 16 {
            0 | 1 => self.commit(vec![(id, Some(len))], None),
            2 => self.commit(vec![(id, Some(20 << 10))], None),
            3 => self.commit(vec![(id, Some(len))], Some(Durability::Buffered)),
            4 | 5 => self.commit(vec![(id, None)], None),
            6 => {
                let many = (1..=u64::from(argument % 6) + 1).map(|id| (id, Some(len)));
                self.commit(many.chain([(8, None)]).collect(), None);
            }
            7 => self.commit((20..26).map(|id| (id, Some(16 << 10))).collect(), None),
            8 => self.sync(),
            9 => {
                self.close();
                self.open();
            }
            10 => {
                self.disk.clear_faults();
                self.restart(self.disk.crash(choice(argument)));
            }
            11 => {
                self.disk.clear_faults();
                self.restart(self.disk.freeze());
            }
            12 | 13 => {
                let at_operation = self.disk.operations() + u64::from(argument & 15);
                let kind = OF_THE_DISK[usize::from(argument >> 4) % OF_THE_DISK.len()];
                // Byte by byte is a matter of patience, and of what the simulated disk remembers.
                let slow = matches!(
                    kind,
                    FaultKind::ShortWrite(Share::OneByte) | FaultKind::ShortRead(Share::OneByte)
                );
                self.disk.inject(Fault { at_operation, kind, sticky: code & 16 != 0 && !slow });
            }
            14 => self.disk.clear_faults(),
            _ => {
                let capacity = 8 + u64::from(argument) * 4;
                self.disk.set_capacity((argument & 1 == 0).then_some(capacity << 10));
                self.disk.set_sync_failure(SyncFailure::CacheKept);
            }
        }
        self.check();
    }

    /// The store is gone without a close; what is left of its disk is opened.
    fn restart(&mut self, left: SimDisk) {
        drop(self.store.take());
        self.disk = left;
        self.open();
    }

    fn open(&mut self) {
        if self.store.is_some() {
            return;
        }
        match LocalBackend::open_on(self.disk.clone(), self.options.clone()) {
            Ok(store) => {
                let range = self.floor..self.states.len();
                // Not by the number of the last commit: making room on a full disk takes some, too.
                let found = range.clone().find(|count| self.shows(&store, &self.states[*count]));
                let Some(count) = found else {
                    panic!("the store is not one of {range:?} commits")
                };
                // What an open store shows stays.
                self.states.truncate(count + 1);
                (self.floor, self.live, self.poisoned) = (count, count, false);
                self.store = Some(store);
            }
            Err(error) => check_failure(&error),
        }
        self.check();
    }

    fn close(&mut self) {
        match self.store.take().map(LocalBackend::close) {
            Some(Ok(())) => {
                assert!(!self.poisoned, "a poisoned store closes as if nothing had happened");
                self.floor = self.live;
            }
            Some(Err(error)) => check_failure(&error),
            None => {}
        }
    }

    fn sync(&mut self) {
        let Some(store) = &self.store else { return };
        match store.sync() {
            Ok(()) => {
                assert!(!self.poisoned, "a poisoned store syncs");
                self.floor = self.live;
            }
            Err(error) => {
                check_failure(&error);
                self.poisoned |=
                    !matches!(error, Error::StorageFull { .. } | Error::ResourceExhausted { .. });
            }
        }
    }

    fn commit(&mut self, operations: Vec<(u64, Option<usize>)>, durability: Option<Durability>) {
        let Some(store) = self.store.clone() else { return };
        let mut changes = Changes::new();
        for (id, len) in operations {
            self.counter += 1;
            match len {
                Some(len) => {
                    changes.push((id, Some(payload(self.counter, len))));
                }
                None if self.states[self.live].contains_key(&id) => {
                    changes.push((id, None));
                }
                None => {}
            }
        }
        if changes.is_empty() {
            return;
        }
        let durable = durability != Some(Durability::Buffered);
        match apply(&store, &changes, durable) {
            Ok(()) => {
                assert!(!self.poisoned, "a poisoned store takes a commit");
                self.push(&changes);
                self.live = self.states.len() - 1;
                self.floor = if durable { self.live } else { self.floor };
            }
            Err(error) => {
                check_failure(&error);
                if matches!(error, Error::Io { .. }) {
                    assert!(!self.poisoned, "a poisoned store tries another commit");
                    self.push(&changes);
                }
                self.poisoned |=
                    !matches!(error, Error::StorageFull { .. } | Error::ResourceExhausted { .. });
            }
        }
    }

    fn push(&mut self, changes: &Changes) {
        let mut next = self.states.last().expect("never empty").clone();
        for (id, data) in changes {
            match data {
                Some(data) => next.insert(*id, data.clone()),
                None => next.remove(id),
            };
        }
        self.states.push(next);
    }

    /// The open store shows exactly the state of the live commits.
    fn check(&self) {
        let Some(store) = &self.store else { return };
        let live = self.live;
        assert!(
            self.shows(store, &self.states[live]),
            "not the blocks of the first {live} commits"
        );
        assert!(store.stats().visible_lsn.0 as usize >= live, "{live} commits");
    }

    /// Whether a store holds these blocks and no others, as far as a failing disk lets it say.
    fn shows(&self, store: &LocalBackend<SimDisk>, state: &State) -> bool {
        let ids = store.ids(..).expect("an open store");
        ids.iter().map(|id| id.0).eq(state.keys().copied())
            && state.iter().all(|(id, data)| match store.read_block(BlockId(*id)) {
                Ok(block) => block.data == *data,
                Err(Error::Io { .. }) => self.disk.faults_struck() > 0,
                Err(error) => panic!("block {id}: {error:?}"),
            })
    }
}

fn apply(store: &LocalBackend<SimDisk>, changes: &Changes, durable: bool) -> Result<()> {
    let durability = if durable { Durability::Durable } else { Durability::Buffered };
    let transaction = store.begin()?;
    for (id, data) in changes {
        match data {
            Some(data) => {
                let block = Block::new(BlockId(*id), BlockType::TableData, data.clone());
                transaction.write(block)?;
            }
            None => transaction.delete(BlockId(*id))?,
        }
    }
    transaction.commit_with(durability).map(|_| ())
}

/// What a power cut leaves.
fn choice(argument: u8) -> CrashChoice {
    match argument {
        0 => CrashChoice::Nothing,
        1 => CrashChoice::Everything,
        seed => CrashChoice::Random { seed: u64::from(seed), garbage: seed & 1 == 0 },
    }
}

/// Injected failures never look like damage, and never panic.
fn check_failure(error: &Error) {
    match error {
        Error::Io { .. } | Error::StorageFull { .. } | Error::ResourceExhausted { .. } => {}
        Error::Poisoned { cause } => assert_ne!(*cause, PoisonCause::ThreadPanicked),
        error => panic!("a failing disk is reported as {error:?}"),
    }
}

/// Bytes that no other commit writes.
fn payload(counter: u64, len: usize) -> Bytes {
    let words = (0..len as u64 / 8 + 1).map(|at| counter << 32 | at);
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes.into()
}
