//! A process that dies by SIGKILL leaves exactly what its threads acknowledged, and of what was
//! under way either all or nothing.
//!
//! The parent starts this test binary again as a writer. Its threads overwrite, delete and allocate
//! blocks of their own, singly and in transactions, and print each acknowledgement to a pipe. The
//! parent, which can tell from the seed what every thread does next, kills the writer after a
//! seeded number of acknowledgements, or while it still opens the store; then it opens the store
//! itself and compares all of it with its own record, block by block. One store lives through all
//! restarts.
//!
//! `AEGIS_KILLS` sets their number, `AEGIS_SEED` replays a run: what the threads do, not how far
//! each of them gets.

#[path = "support/counted.rs"]
mod counted;
#[path = "support/options.rs"]
mod options;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Mutex;

use aegis_blocks::testkit::{Rng, seed};
use aegis_blocks::{
    Block, BlockId, BlockType, Durability, LocalBackend, Options, Result, StorageBackend,
};

use options::short_segments;

const THREADS: u64 = 4;
/// Explicit ids of each thread; allocated ones are above all of these.
const OWN_IDS: u64 = 8;
/// A thread deletes before it allocates more than this.
const ALLOCATED_COUNT_MAX: usize = 10;

/// Short segments, so that the log moves on to the next one under the kills.
fn options(cycle: u64) -> Options {
    // A buffered commit is in the operating system's hands, so it survives this, too.
    let durability = if cycle % 4 == 3 { Durability::Buffered } else { Durability::Durable };
    short_segments(256 << 10, 64 << 10).durability(durability)
}

/// What a thread has in the store: for each block the tag that its payload is made from.
type State = BTreeMap<u64, u64>;

/// One operation on a block. `Allocate` gets its id from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Write { id: u64, tag: u64 },
    Allocate { tag: u64 },
    Delete { id: u64 },
}

/// What one thread of one writer does, decided by the seed and by what it has in the store.
struct Script {
    thread: u64,
    rng: Rng,
}

impl Script {
    fn new(seed: u64, cycle: u64, thread: u64) -> Script {
        Script { thread, rng: Rng::new(seed ^ cycle << 8 ^ thread) }
    }

    /// The next commit: one operation alone, or several in a transaction, each on another block.
    fn next(&mut self, state: &State) -> Vec<Part> {
        let count = if self.rng.once_in(3) { 2 + self.rng.below(5) } else { 1 };
        let mut state = state.clone();
        let mut parts = Vec::new();
        for _ in 0..count {
            let part = self.part(&state);
            // Out of sight for the rest of this commit, so that no block is touched twice.
            if let Part::Write { id, .. } | Part::Delete { id } = &part {
                state.insert(*id, UNTOUCHABLE);
                let again = |other: &Part| {
                    matches!(other, Part::Write { id: o, .. }
                    | Part::Delete { id: o } if o == id)
                };
                if parts.iter().any(again) {
                    continue;
                }
            }
            parts.push(part);
        }
        parts
    }

    fn part(&mut self, state: &State) -> Part {
        let tag = (self.rng.next_u64() << 8 | self.thread) & !UNTOUCHABLE;
        let own = 1 + self.thread * OWN_IDS + self.rng.below(OWN_IDS);
        let mut allocated =
            state.range(1 + THREADS * OWN_IDS..).filter(|(_, t)| **t != UNTOUCHABLE);
        let full = state.range(1 + THREADS * OWN_IDS..).count() >= ALLOCATED_COUNT_MAX;
        let own_exists = state.get(&own).is_some_and(|tag| *tag != UNTOUCHABLE);
        match self.rng.below(8) {
            0 | 1 if full => match allocated.next() {
                Some((id, _)) => Part::Delete { id: *id },
                None => Part::Write { id: own, tag },
            },
            0 | 1 => Part::Allocate { tag },
            2 if own_exists => Part::Delete { id: own },
            _ => Part::Write { id: own, tag },
        }
    }
}

/// No tag has this bit, so it marks blocks that a commit has touched already.
const UNTOUCHABLE: u64 = 1 << 63;

/// A payload that says what it is, then bytes made from that. Some are empty but for the tag, a few
/// are long.
fn payload(tag: u64) -> bytes::Bytes {
    let mut rng = Rng::new(tag);
    let len = match rng.below(20) {
        0 => rng.below(40_000),
        1..=4 => 0,
        _ => rng.below(600),
    };
    [&tag.to_le_bytes()[..], &rng.bytes(len as usize)].concat().into()
}

fn block(id: u64, tag: u64) -> Block {
    Block::new(BlockId(id), BlockType::DocumentData, payload(tag))
}

/// What the store holds, by thread; every payload is checked to the last byte.
fn scan(store: &LocalBackend) -> Vec<State> {
    let mut found = vec![State::new(); THREADS as usize];
    let (mut blocks, mut bytes) = (0, 0);
    for id in store.ids(..).expect("the ids of an open store") {
        let block = store.read_block(id).expect("a block that is listed");
        let tag = block.data.first_chunk().map(|tag| u64::from_le_bytes(*tag));
        let tag = tag.unwrap_or_else(|| panic!("block {id} holds {:?}", block.data));
        assert!(block.data == payload(tag), "block {id} holds bytes that no thread wrote");
        (blocks, bytes) = (blocks + 1, bytes + block.data.len() as u64);
        let thread = (tag & 0xFF) as usize;
        found[thread].insert(id.0, tag);
    }
    let stats = store.stats();
    assert_eq!((stats.total_blocks, stats.total_bytes), (blocks, bytes), "stats against a scan");
    found
}

// The writer.

const DIRECTORY: &str = "AEGIS_CRASH_DIRECTORY";
const CYCLE: &str = "AEGIS_CRASH_CYCLE";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number in the environment"))
}

/// The child's half: does nothing unless the parent has started it.
#[test]
fn writer_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let cycle = number(CYCLE).expect("the parent names the cycle");
    let acks = Mutex::new(std::io::stderr());
    say(&acks, "opening\n");
    let store = options(cycle).open(directory).expect("the store opens after a kill");
    let states = scan(&store);
    say(&acks, "open\n");
    std::thread::scope(|scope| {
        for (thread, state) in (0..).zip(states) {
            let (store, acks) = (&store, &acks);
            scope.spawn(move || write_for_ever(store, cycle, thread, state, acks));
        }
    });
}

/// One call, one line: a kill cuts no line in two.
fn say(acks: &Mutex<std::io::Stderr>, line: &str) {
    let mut acks = acks.lock().expect("no panic while it is held");
    acks.write_all(line.as_bytes()).expect("the parent listens");
}

fn write_for_ever(
    store: &LocalBackend,
    cycle: u64,
    thread: u64,
    mut state: State,
    acks: &Mutex<std::io::Stderr>,
) {
    let mut script = Script::new(seed(SEED), cycle, thread);
    loop {
        let parts = script.next(&state);
        let allocated = carry_out(store, &parts).expect("a commit that nothing disturbs");
        let ids: Vec<String> = allocated.iter().map(u64::to_string).collect();
        say(acks, &format!("ack {thread} {}\n", ids.join(" ")));
        apply(&mut state, &parts, &allocated);
    }
}

/// Commits the parts and returns the allocated ids.
fn carry_out(store: &LocalBackend, parts: &[Part]) -> Result<Vec<u64>> {
    let mut allocated = Vec::new();
    if let [part] = parts {
        match part {
            Part::Write { id, tag } => drop(store.write_block(block(*id, *tag))?),
            Part::Allocate { tag } => allocated.push(store.write_block(block(0, *tag))?.0),
            Part::Delete { id } => store.delete_block(BlockId(*id))?,
        }
        return Ok(allocated);
    }
    let tx = store.begin_transaction()?;
    for part in parts {
        match part {
            Part::Write { id, tag } => drop(store.write_block_in_tx(tx, block(*id, *tag))?),
            Part::Allocate { tag } => {
                allocated.push(store.write_block_in_tx(tx, block(0, *tag))?.0)
            }
            Part::Delete { id } => store.delete_block_in_tx(tx, BlockId(*id))?,
        }
    }
    store.commit_transaction(tx)?;
    Ok(allocated)
}

fn apply(state: &mut State, parts: &[Part], allocated: &[u64]) {
    let mut allocated = allocated.iter();
    for part in parts {
        match part {
            Part::Write { id, tag } => drop(state.insert(*id, *tag)),
            Part::Allocate { tag } => {
                let id = allocated.next().expect("an id for every allocation");
                let old = state.insert(*id, *tag);
                assert_eq!(old, None, "id {id} was allocated although it is in use");
            }
            Part::Delete { id } => drop(state.remove(id)),
        }
    }
}

// The parent.

const SEED: u64 = 0xDEAD;

/// When to kill a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// While it opens the store.
    Opening,
    /// After this many acknowledgements.
    Acks(u64),
}

fn start_writer(directory: &Path, cycle: u64) -> (Child, BufReader<ChildStderr>) {
    let mut writer = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "writer_until_killed", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(CYCLE, cycle.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the writer starts");
    let lines = BufReader::new(writer.stderr.take().expect("a pipe"));
    (writer, lines)
}

/// What one thread of a killed writer had acknowledged, and what it was about to commit.
struct Record {
    state: State,
    script: Script,
    next: Vec<Part>,
}

/// Runs a writer until its moment has come; returns what each thread must have left, and the number
/// of acknowledgements.
fn run_and_kill(
    directory: &Path,
    cycle: u64,
    before: Vec<State>,
    moment: Moment,
) -> (Vec<Record>, u64) {
    let records = (0..).zip(before).map(|(thread, state)| {
        let mut script = Script::new(seed(SEED), cycle, thread);
        Record { next: script.next(&state), state, script }
    });
    let mut records: Vec<Record> = records.collect();
    let (mut writer, lines) = start_writer(directory, cycle);
    let (mut acks, mut other) = (0, String::new());
    for line in lines.lines() {
        let line = line.expect("a line of the writer");
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        match words.next() {
            Some("opening") if moment == Moment::Opening => writer.kill().expect("SIGKILL"),
            Some("opening" | "open") => {}
            Some("ack") => {
                let mut numbers = words.map(|word| word.parse().expect("a number"));
                let thread: u64 = numbers.next().expect("a thread");
                let allocated: Vec<u64> = numbers.collect();
                let record = &mut records[thread as usize];
                apply(&mut record.state, &record.next, &allocated);
                record.next = record.script.next(&record.state);
                acks += 1;
                if moment == Moment::Acks(acks) {
                    writer.kill().expect("SIGKILL");
                }
            }
            _ => other = other + &line + "\n",
        }
    }
    let status = writer.wait().expect("the writer is dead");
    assert_eq!(status.code(), None, "the writer ended by itself:\n{other}");
    (records, acks)
}

/// Asserts that the store holds what a thread had acknowledged, or that and all of its next commit.
/// Returns whether the next commit is there.
fn check_thread(cycle: u64, thread: usize, record: &Record, found: &State) -> bool {
    if *found == record.state {
        return false;
    }
    // The ids that an unacknowledged commit was given are known to the store alone.
    let known = |id: &u64| record.state.contains_key(id);
    let tag_of = |part: &Part| match part {
        Part::Allocate { tag } => Some(*tag),
        _ => None,
    };
    let id_of = |tag| found.iter().find(|(id, found)| **found == tag && !known(id));
    let tags = record.next.iter().filter_map(tag_of);
    let allocated: Option<Vec<u64>> = tags.map(|tag| id_of(tag).map(|(id, _)| *id)).collect();
    let mut after = record.state.clone();
    if let Some(allocated) = allocated {
        apply(&mut after, &record.next, &allocated);
    }
    assert!(
        *found == after,
        "cycle {cycle}, thread {thread}: the store holds {found:?}\nacknowledged: {:?}\nunder \
         way: {:?}",
        record.state,
        record.next,
    );
    true
}

#[test]
fn kill_leaves_what_was_acknowledged_and_whole_commits() {
    let (kills, seed) = (number("AEGIS_KILLS").unwrap_or(200), seed(SEED));
    println!("seed {seed} (replay with AEGIS_SEED={seed})");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("store");
    let mut rng = Rng::new(seed);
    let (mut acks, mut unacked, mut opening, mut torn, mut resynced) = (0, 0, 0, 0, 0);
    let mut states = {
        let store = options(0).open(&path).expect("a new store");
        // Allocation stays above the threads' own ids.
        store.write_block(block(THREADS * OWN_IDS, THREADS - 1)).expect("a write");
        scan(&store)
    };
    for cycle in 1..=kills {
        let moment = if rng.once_in(8) { Moment::Opening } else { Moment::Acks(1 + rng.below(60)) };
        opening += u64::from(moment == Moment::Opening);
        let (records, count) = run_and_kill(&path, cycle, states, moment);
        let store = options(cycle + 1).open(&path).expect("the store opens after a kill");
        states = scan(&store);
        for (thread, (record, found)) in records.iter().zip(&states).enumerate() {
            unacked += u64::from(check_thread(cycle, thread, record, found));
        }
        acks += count;
        torn += u64::from(store.recovery().torn_bytes > 0);
        resynced += store.recovery().resynced_frames;
        if cycle % 2 == 0 {
            store.close().expect("a clean close");
        }
    }
    let report = LocalBackend::verify(&path).expect("a report");
    assert!(report.damage.is_empty(), "{report:?}");
    println!(
        "{kills} kills ({opening} while opening): {acks} acknowledged commits, none lost; {unacked} \
         more were there whole; {torn} torn tails, {resynced} frames synced again, {} segments",
        report.segments
    );
    assert!(acks > kills, "the writers got to work");
    counted::tell("kills", kills);
}
