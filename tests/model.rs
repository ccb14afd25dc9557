//! Random sequences of calls against a map: what the contract says in a hundred lines, on memory,
//! on the simulated disk (with power cuts) and on the file system. A sequence that fails is
//! shortened to the few calls that it takes.
//!
//! `AEGIS_SEED` replays a run, `AEGIS_SOAK` multiplies the number of cases.

#[path = "support/drawn.rs"]
mod drawn;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use aegis_blocks::io::sim::{CrashChoice, SimDisk};
use aegis_blocks::testkit::{Rng, seed, soak};
use aegis_blocks::{
    Block, BlockId, BlockType, Durability, Error, IsolationLevel, LocalBackend, MemoryBackend,
    Options, Savepoint, StorageBackend, StorageExt, Transaction, WriteBatch,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use crate::drawn::Drawn;

/// Ids that calls choose from, so few that they meet.
const IDS: u64 = 6;
/// Transactions that may be open at once.
const SLOTS: usize = 3;
const STEPS_MAX: usize = 60;

/// One call.
#[derive(Debug, Clone)]
enum Call {
    Put(u64, u8),
    Remove(u64),
    Batch(Vec<(u64, Option<u8>)>),
    Begin(usize, IsolationLevel),
    Write(usize, u64, u8),
    Delete(usize, u64),
    Read(usize, u64),
    Range(usize, u64, u64, bool),
    Mark(usize),
    UndoTo(usize, usize),
    Commit(usize),
    Rollback(usize),
    Sync,
    Reopen,
    /// A power cut, by seed; where the store has no such thing, a reopening.
    Crash(u64),
}

/// What a call must answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Answer {
    #[default]
    Done,
    NotFound,
    Conflict,
    Blocks(Vec<(u64, u8)>),
}

/// The model: a map, and what changed when.
#[derive(Debug, Clone, Default)]
struct World {
    blocks: BTreeMap<u64, u8>,
    changed: BTreeMap<u64, u64>,
    commits: u64,
    open: BTreeMap<usize, Open>,
    answer: Answer,
}

#[derive(Debug, Clone)]
struct Open {
    level: IsolationLevel,
    begun: u64,
    snapshot: BTreeMap<u64, u8>,
    own: BTreeMap<u64, Option<u8>>,
    marks: Vec<BTreeMap<u64, Option<u8>>>,
    read: BTreeSet<u64>,
    ranges: Vec<(u64, u64)>,
}

impl World {
    fn commit(&mut self, changes: impl IntoIterator<Item = (u64, Option<u8>)>) {
        self.commits += 1;
        for (id, change) in changes {
            let before = match change {
                Some(byte) => self.blocks.insert(id, byte),
                None => self.blocks.remove(&id),
            };
            if change.or(before).is_some() {
                self.changed.insert(id, self.commits);
            }
        }
    }

    fn sees(&self, slot: usize, id: u64) -> Option<u8> {
        let open = &self.open[&slot];
        let newest = open.level == IsolationLevel::ReadCommitted;
        let below = if newest { &self.blocks } else { &open.snapshot };
        open.own.get(&id).copied().unwrap_or_else(|| below.get(&id).copied())
    }

    fn end(&mut self, slot: usize) -> Answer {
        let open = self.open.remove(&slot).expect("a precondition");
        let since = |id: &u64| self.changed.get(id).is_some_and(|at| *at > open.begun);
        let within = |id: &&u64| open.ranges.iter().any(|(a, b)| a <= *id && *id <= b);
        let lost = match open.level {
            IsolationLevel::ReadCommitted => false,
            IsolationLevel::Serializable if !open.own.is_empty() => {
                let listed = self.changed.keys().filter(within);
                open.own.keys().chain(&open.read).chain(listed).any(since)
            }
            _ => open.own.keys().any(since),
        };
        if lost {
            return Answer::Conflict;
        }
        if !open.own.is_empty() {
            self.commit(open.own);
        }
        Answer::Done
    }

    fn batch(&mut self, operations: &[(u64, Option<u8>)]) -> Answer {
        let mut after = BTreeMap::new();
        for (id, operation) in operations {
            let there = match after.get(id) {
                Some(own) => Option::is_some(own),
                None => self.blocks.contains_key(id),
            };
            if operation.is_none() && !there {
                return Answer::NotFound;
            }
            after.insert(*id, *operation);
        }
        self.commit(after);
        Answer::Done
    }

    fn list(&mut self, slot: usize, first: u64, last: u64, backwards: bool) -> Answer {
        let seen = (first..=last).filter_map(|id| Some((id, self.sees(slot, id)?)));
        let mut seen: Vec<(u64, u8)> = seen.collect();
        let open = self.open.get_mut(&slot).expect("a precondition");
        open.ranges.push((first, last));
        open.read.extend(seen.iter().map(|(id, _)| *id));
        if backwards {
            seen.reverse();
        }
        Answer::Blocks(seen)
    }

    fn call(&mut self, call: &Call) -> Answer {
        match call {
            Call::Put(id, byte) => self.commit([(*id, Some(*byte))]),
            Call::Remove(id) if !self.blocks.contains_key(id) => return Answer::NotFound,
            Call::Remove(id) => self.commit([(*id, None)]),
            Call::Batch(operations) => return self.batch(operations),
            Call::Begin(slot, level) => {
                let open = Open {
                    level: *level,
                    begun: self.commits,
                    snapshot: self.blocks.clone(),
                    own: BTreeMap::new(),
                    marks: Vec::new(),
                    read: BTreeSet::new(),
                    ranges: Vec::new(),
                };
                self.open.insert(*slot, open);
            }
            Call::Range(slot, first, last, backwards) => {
                return self.list(*slot, *first, *last, *backwards);
            }
            Call::Commit(slot) => return self.end(*slot),
            Call::Rollback(slot) => drop(self.open.remove(slot)),
            Call::Reopen | Call::Crash(_) => self.open.clear(),
            Call::Sync => {}
            Call::Write(slot, ..)
            | Call::Delete(slot, _)
            | Call::Read(slot, _)
            | Call::Mark(slot)
            | Call::UndoTo(slot, _) => return self.operate(*slot, call),
        }
        Answer::Done
    }

    fn operate(&mut self, slot: usize, call: &Call) -> Answer {
        let seen = match call {
            Call::Delete(_, id) | Call::Read(_, id) => self.sees(slot, *id),
            _ => None,
        };
        let open = self.open.get_mut(&slot).expect("a precondition");
        match call {
            Call::Write(_, id, byte) => drop(open.own.insert(*id, Some(*byte))),
            Call::Delete(_, id) => {
                open.read.insert(*id);
                if seen.is_none() {
                    return Answer::NotFound;
                }
                open.own.insert(*id, None);
            }
            Call::Read(_, id) => {
                open.read.insert(*id);
                return seen.map_or(Answer::NotFound, |byte| Answer::Blocks(vec![(*id, byte)]));
            }
            Call::Mark(_) => open.marks.push(open.own.clone()),
            Call::UndoTo(_, mark) => {
                open.marks.truncate(mark + 1);
                open.own = open.marks[*mark].clone();
            }
            _ => unreachable!("not an operation of a transaction"),
        }
        Answer::Done
    }
}

impl ReferenceStateMachine for World {
    type State = World;
    type Transition = Call;

    fn init_state() -> BoxedStrategy<World> {
        Just(World::default()).boxed()
    }

    fn transitions(_: &World) -> BoxedStrategy<Call> {
        use IsolationLevel::{ReadCommitted, Serializable, Snapshot};
        let (id, byte, slot) = (|| 1..=IDS, any::<u8>, || 0..SLOTS);
        let level = prop_oneof![Just(Snapshot), Just(Serializable), Just(ReadCommitted)];
        let operations = prop::collection::vec((id(), any::<Option<u8>>()), 1..5);
        prop_oneof![
            4 => (id(), byte()).prop_map(|(id, byte)| Call::Put(id, byte)),
            2 => id().prop_map(Call::Remove),
            2 => operations.prop_map(Call::Batch),
            6 => (slot(), level).prop_map(|(slot, level)| Call::Begin(slot, level)),
            8 => (slot(), id(), byte()).prop_map(|(slot, id, byte)| Call::Write(slot, id, byte)),
            5 => (slot(), id()).prop_map(|(slot, id)| Call::Delete(slot, id)),
            4 => (slot(), id()).prop_map(|(slot, id)| Call::Read(slot, id)),
            3 => (slot(), id(), id(), any::<bool>())
                .prop_map(|(slot, a, b, back)| Call::Range(slot, a.min(b), a.max(b), back)),
            5 => slot().prop_map(Call::Mark),
            5 => (slot(), 0..4_usize).prop_map(|(slot, mark)| Call::UndoTo(slot, mark)),
            4 => slot().prop_map(Call::Commit),
            1 => slot().prop_map(Call::Rollback),
            1 => Just(Call::Sync),
            1 => Just(Call::Reopen),
            1 => any::<u64>().prop_map(Call::Crash),
        ]
        .boxed()
    }

    fn preconditions(world: &World, call: &Call) -> bool {
        let open = |slot| world.open.get(slot);
        match call {
            Call::Begin(slot, _) => open(slot).is_none(),
            Call::Write(slot, ..)
            | Call::Delete(slot, _)
            | Call::Read(slot, _)
            | Call::Range(slot, ..)
            | Call::Mark(slot)
            | Call::Commit(slot)
            | Call::Rollback(slot) => open(slot).is_some(),
            Call::UndoTo(slot, mark) => open(slot).is_some_and(|open| *mark < open.marks.len()),
            _ => true,
        }
    }

    fn apply(mut world: World, call: &Call) -> World {
        world.answer = world.call(call);
        world
    }
}

/// Where a store lives.
trait Home {
    fn new() -> Self;
    fn store(&self) -> Arc<dyn StorageBackend>;
    /// Closes the store and opens it again, or cuts the power by seed; open transactions are gone.
    fn reopen(self, crash: Option<u64>) -> Self;
}

struct Memory(MemoryBackend);

impl Home for Memory {
    fn new() -> Memory {
        Memory(MemoryBackend::new())
    }

    fn store(&self) -> Arc<dyn StorageBackend> {
        Arc::new(self.0.clone())
    }

    /// It forgets at its end, so it goes on.
    fn reopen(self, _: Option<u64>) -> Memory {
        self
    }
}

/// Each session of a store is opened with other options.
fn options(session: u64) -> Options {
    let drawn = Drawn::draw_lenient(&mut Rng::new(session));
    Drawn { durability: Durability::Durable, ..drawn }.options()
}

struct Simulated {
    disk: SimDisk,
    store: LocalBackend<SimDisk>,
    sessions: u64,
}

impl Simulated {
    fn on(disk: SimDisk, sessions: u64) -> Simulated {
        let options = options(sessions).single_threaded(true);
        let store = LocalBackend::open_on(disk.clone(), options).expect("the store opens");
        Simulated { disk, store, sessions: sessions + 1 }
    }
}

impl Home for Simulated {
    fn new() -> Simulated {
        Simulated::on(SimDisk::new(1), 0)
    }

    fn store(&self) -> Arc<dyn StorageBackend> {
        Arc::new(self.store.clone())
    }

    fn reopen(self, crash: Option<u64>) -> Simulated {
        let Simulated { disk, store, sessions } = self;
        let left = match crash {
            Some(seed) => disk.crash(CrashChoice::Random { seed, garbage: seed % 2 == 0 }),
            None => {
                store.clone().close().expect("the store closes");
                disk
            }
        };
        drop(store);
        Simulated::on(left, sessions)
    }
}

struct OnDisk {
    directory: tempfile::TempDir,
    store: LocalBackend,
    sessions: u64,
}

impl OnDisk {
    fn over(directory: tempfile::TempDir, sessions: u64) -> OnDisk {
        let options = options(sessions);
        let store = options.open(directory.path().join("store")).expect("the store opens");
        OnDisk { directory, store, sessions: sessions + 1 }
    }
}

impl Home for OnDisk {
    fn new() -> OnDisk {
        OnDisk::over(tempfile::tempdir().expect("a directory"), 0)
    }

    fn store(&self) -> Arc<dyn StorageBackend> {
        Arc::new(self.store.clone())
    }

    fn reopen(self, _: Option<u64>) -> OnDisk {
        let OnDisk { directory, store, sessions } = self;
        store.close().expect("the store closes");
        OnDisk::over(directory, sessions)
    }
}

/// A store under test with its open transactions.
struct Running<H> {
    home: Option<H>,
    open: BTreeMap<usize, (Transaction, Vec<Savepoint>)>,
}

fn block(id: u64, byte: u8) -> Block {
    // Some of several pages, so that segments fill up, and some as long as the shortest segment
    // allows.
    let len = if byte % 32 == 31 { 32 << 10 } else { 1 + usize::from(byte) * 40 };
    Block::new(BlockId(id), BlockType::TableData, vec![byte; len])
}

fn content(block: &Block) -> (u64, u8) {
    (block.header.block_id.0, block.data[0])
}

fn answered<T>(answer: Result<T, Error>) -> Answer {
    match answer {
        Ok(_) => Answer::Done,
        Err(Error::BlockNotFound { .. }) => Answer::NotFound,
        Err(Error::Conflict { .. }) => Answer::Conflict,
        Err(error) => panic!("no call here may answer {error:?}"),
    }
}

impl<H: Home> Running<H> {
    fn store(&self) -> Arc<dyn StorageBackend> {
        self.home.as_ref().expect("only a reopening takes it").store()
    }

    fn call(&mut self, call: &Call) -> Answer {
        let store = self.store();
        match call {
            Call::Put(id, byte) => answered(store.write_block(block(*id, *byte))),
            Call::Remove(id) => answered(store.delete_block(BlockId(*id))),
            Call::Batch(operations) => {
                let mut batch = WriteBatch::new();
                for (id, operation) in operations {
                    match operation {
                        Some(byte) => batch.write(block(*id, *byte)),
                        None => batch.delete(BlockId(*id)),
                    };
                }
                answered(store.apply(batch))
            }
            Call::Begin(slot, level) => {
                let tx = store.begin_at(*level).expect("begins");
                self.open.insert(*slot, (tx, Vec::new()));
                Answer::Done
            }
            Call::Commit(slot) => answered(self.take(*slot).commit()),
            Call::Rollback(slot) => answered(self.take(*slot).rollback()),
            Call::Sync => answered(store.sync()),
            Call::Reopen | Call::Crash(_) => {
                let crash = if let Call::Crash(seed) = call { Some(*seed) } else { None };
                drop(store);
                let home = self.home.take().expect("a reopening puts it back");
                // Transactions that are open at a close end with it, so they are dropped after it;
                // but memory goes on, and they with it.
                let open = std::mem::take(&mut self.open);
                self.home = Some(home.reopen(crash));
                drop(open);
                Answer::Done
            }
            Call::Write(slot, ..)
            | Call::Delete(slot, _)
            | Call::Read(slot, _)
            | Call::Range(slot, ..)
            | Call::Mark(slot)
            | Call::UndoTo(slot, _) => self.operate(*slot, call),
        }
    }

    fn take(&mut self, slot: usize) -> Transaction {
        self.open.remove(&slot).expect("a precondition").0
    }

    fn operate(&mut self, slot: usize, call: &Call) -> Answer {
        let (tx, marks) = self.open.get_mut(&slot).expect("a precondition");
        match call {
            Call::Write(_, id, byte) => answered(tx.write(block(*id, *byte))),
            Call::Delete(_, id) => answered(tx.delete(BlockId(*id))),
            Call::Read(_, id) => match tx.read(BlockId(*id)) {
                Ok(block) => Answer::Blocks(vec![content(&block)]),
                other => answered(other),
            },
            Call::Range(_, first, last, backwards) => {
                let range = tx.range(BlockId(*first)..=BlockId(*last)).expect("lists");
                let content = |block: Result<Block, Error>| content(&block.expect("reads"));
                Answer::Blocks(match backwards {
                    true => range.rev().map(content).collect(),
                    false => range.map(content).collect(),
                })
            }
            Call::Mark(_) => {
                marks.push(tx.savepoint().expect("marks"));
                Answer::Done
            }
            Call::UndoTo(_, mark) => {
                marks.truncate(mark + 1);
                answered(tx.rollback_to(marks[*mark]))
            }
            _ => unreachable!("not an operation of a transaction"),
        }
    }
}

struct Machine<H>(PhantomData<H>);

impl<H: Home> StateMachineTest for Machine<H> {
    type SystemUnderTest = Running<H>;
    type Reference = World;

    fn init_test(_: &World) -> Running<H> {
        Running { home: Some(H::new()), open: BTreeMap::new() }
    }

    fn apply(mut running: Running<H>, world: &World, call: Call) -> Running<H> {
        let answer = running.call(&call);
        assert_eq!(answer, world.answer, "the answer of {call:?}");
        running
    }

    fn check_invariants(running: &Running<H>, world: &World) {
        let store = running.store();
        let blocks = store.blocks(..).expect("lists").map(|block| content(&block.expect("reads")));
        let expected = world.blocks.iter().map(|(id, byte)| (*id, *byte));
        assert_eq!(blocks.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        let down = store.ids_in(..).expect("begins").rev().map(|id| id.expect("looks up").0);
        assert!(down.eq(world.blocks.keys().rev().copied()), "from the high end down");
        let middle = world.blocks.keys().nth(world.blocks.len() / 2).copied().unwrap_or(9);
        let first = world.blocks.range(middle..).next().map(|(id, _)| BlockId(*id));
        assert_eq!(store.first_in(BlockId(middle)..).expect("looks up"), first);
        let last = world.blocks.range(..middle).next_back().map(|(id, _)| BlockId(*id));
        assert_eq!(store.last_in(..BlockId(middle)).expect("looks up"), last);
        let stats = store.stats();
        assert_eq!(stats.total_blocks, world.blocks.len() as u64);
        assert_eq!(stats.open_transactions, world.open.len() as u64);
        let needed = world.open.values().any(|open| open.level != IsolationLevel::ReadCommitted);
        assert!(needed || stats.undo_entries == 0, "versions are kept for no snapshot: {stats:?}");
    }
}

/// Runs the cases, and says how many there were and how many conflicts among them.
fn check<H: Home>(cases: u32) {
    let seed = seed(0x300E1);
    let cases = cases * u32::try_from(soak()).expect("not that many");
    println!("seed {seed} (replay with AEGIS_SEED={seed})");
    let config = Config {
        cases,
        failure_persistence: None,
        // Calls that cannot be made, as on a transaction that is not open, are drawn again.
        max_local_rejects: u32::MAX,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let (runs, calls) = (Cell::new(0), Cell::new(0));
    let sequences = World::sequential_strategy(1..STEPS_MAX);
    let outcome = TestRunner::new(config.clone()).run(&sequences, |(world, steps, seen)| {
        runs.set(runs.get() + 1);
        calls.set(calls.get() + steps.len());
        Machine::<H>::test_sequential(config.clone(), world, steps, seen);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("seed {seed}: {failure}");
    }
    println!("{} cases, {} calls", runs.get(), calls.get());
    assert!(runs.get() >= cases, "every case was run");
}

#[test]
fn memory_does_what_the_model_does() {
    check::<Memory>(4000);
}

#[test]
fn simulated_store_does_what_the_model_does() {
    check::<Simulated>(600);
}

#[test]
fn store_on_disk_does_what_the_model_does() {
    check::<OnDisk>(30);
}
