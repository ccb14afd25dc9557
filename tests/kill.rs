//! Killed processes: nothing acknowledged is lost when a writing process dies by SIGKILL.
//!
//! The parent starts this test binary again as a writer, reads an acknowledgement a line, kills the
//! writer after a seeded number of them, opens the store itself and compares. One store lives
//! through all restarts. `AEGIS_KILLS` sets their number.

#[path = "support/counted.rs"]
mod counted;
#[path = "support/options.rs"]
mod options;
#[path = "support/xorshift.rs"]
mod xorshift;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use aegis_blocks::{
    Block, BlockId, BlockType, Error, LocalBackend, Options, StorageBackend, StorageExt,
};

use options::short_segments;
use xorshift::Rng;

const WRITER_DIR: &str = "AEGIS_KILL_WRITER_DIR";
const WRITER_NUMBER: &str = "AEGIS_KILL_WRITER_NUMBER";
const SEED: u64 = 0x5EED_0001;
const WRITER_THREADS: u64 = 4;
const BLOCKS_PER_TRANSACTION: u64 = 3;

/// Small, so that segments are sealed and made ahead under the kills.
fn options() -> Options {
    short_segments(256 << 10, 64 << 10)
}

/// A payload that says what it is: the number of its commit, then bytes made from it.
fn payload(commit: u64) -> Vec<u8> {
    let len = 8 + commit % 3000;
    let fill = (8..len).map(|at| (at.wrapping_mul(commit | 1) >> 3) as u8);
    commit.to_le_bytes().into_iter().chain(fill).collect()
}

/// The writer's half. Does nothing unless the parent has started it.
#[test]
fn writer_started_by_the_parent() {
    let Ok(dir) = std::env::var(WRITER_DIR) else { return };
    let number = std::env::var(WRITER_NUMBER).map_or(0, |n| n.parse().expect("a number"));
    let store = options().open(dir).expect("the writer opens the store");
    std::thread::scope(|scope| {
        for thread in 0..WRITER_THREADS {
            let store = store.clone();
            scope.spawn(move || write_for_ever(&store, number * WRITER_THREADS + thread));
        }
    });
}

/// No two threads of all writers write the same commits: process ids would come again.
fn write_for_ever(store: &LocalBackend, thread: u64) {
    let mut rng = Rng((thread + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    loop {
        let commit = rng.next();
        let block = || Block::new(BlockId(0), BlockType::TableData, payload(commit));
        let ids = if commit.is_multiple_of(4) {
            let tx = store.begin().expect("begin");
            let ids: Vec<BlockId> =
                (0..BLOCKS_PER_TRANSACTION).map(|_| tx.write(block()).expect("write")).collect();
            tx.commit().expect("commit");
            ids
        } else {
            vec![store.write_block(block()).expect("write")]
        };
        let ids: Vec<String> = ids.iter().map(BlockId::to_string).collect();
        let line = format!("acknowledged {commit} {}\n", ids.join(" "));
        std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent reads");
    }
}

/// Starts the writer with this number, kills it after `count` acknowledgements, and returns all
/// that it printed.
fn acknowledged_before_a_kill(dir: &Path, number: u64, count: u64) -> Vec<(u64, Vec<u64>)> {
    let mut writer = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "writer_started_by_the_parent", "--nocapture"])
        .env(WRITER_DIR, dir)
        .env(WRITER_NUMBER, number.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the writer starts");
    let mut lines = BufReader::new(writer.stdout.take().expect("piped"));
    let (mut commits, mut line) = (Vec::new(), String::new());
    while lines.read_line(&mut line).expect("the writer prints") > 0 {
        // A line that the kill cut short was not acknowledged.
        if let (Some(rest), true) = (line.strip_prefix("acknowledged "), line.ends_with('\n')) {
            let numbers: Vec<u64> =
                rest.split_whitespace().map(|n| n.parse().expect("a number")).collect();
            commits.push((numbers[0], numbers[1..].to_vec()));
            if commits.len() as u64 == count {
                writer.kill().expect("SIGKILL");
            }
        }
        line.clear();
    }
    writer.wait().expect("the writer is dead");
    assert!(commits.len() as u64 >= count, "the writer ended by itself");
    commits
}

fn holds(store: &LocalBackend, id: u64, commit: u64) {
    let block = store.read_block(BlockId(id)).expect("an acknowledged block is there");
    assert!(block.data == payload(commit), "block {id} is not what commit {commit} wrote");
}

/// Everything in the store is whole: payloads, transactions, totals.
fn check_all(store: &LocalBackend) {
    let (mut per_commit, mut bytes) = (HashMap::<u64, u64>::new(), 0);
    let ids = store.ids(..).expect("open");
    for id in &ids {
        let data = store.read_block(*id).expect("a listed block is there").data;
        let commit = u64::from_le_bytes(data[..8].try_into().expect("8 bytes"));
        assert!(data == payload(commit), "block {id} is not what any commit wrote");
        *per_commit.entry(commit).or_default() += 1;
        bytes += data.len() as u64;
    }
    for (commit, count) in per_commit {
        let whole = if commit.is_multiple_of(4) { BLOCKS_PER_TRANSACTION } else { 1 };
        assert_eq!(count, whole, "commit {commit} is there in part");
    }
    let stats = store.stats();
    assert_eq!((stats.total_blocks, stats.total_bytes), (ids.len() as u64, bytes));
}

#[test]
fn no_acknowledged_commit_is_lost_when_the_writer_is_killed() {
    let kills: u64 = std::env::var("AEGIS_KILLS").map_or(200, |n| n.parse().expect("a number"));
    println!("seed {SEED:#x}, {kills} kills");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let (mut rng, mut acknowledged) = (Rng(SEED), Vec::new());
    for kill in 0..kills {
        let commits = acknowledged_before_a_kill(&path, kill, 1 + rng.below(60));
        let store = options().open(&path).expect("opens after a kill");
        for (commit, ids) in &commits {
            ids.iter().for_each(|id| holds(&store, *id, *commit));
        }
        if kill % 20 == 0 {
            check_all(&store);
        }
        acknowledged.extend(commits);
        // Every other session of the parent ends without a close, like the writer's.
        if kill % 2 == 0 {
            store.close().expect("closes");
        }
    }
    let store = options().open(&path).expect("opens");
    for (commit, ids) in &acknowledged {
        ids.iter().for_each(|id| holds(&store, *id, *commit));
    }
    check_all(&store);
    store.close().expect("closes");
    let report = LocalBackend::verify(&path).expect("verifies");
    assert_eq!(report.damage, []);
    println!("{kills} kills, {} acknowledged commits, none lost", acknowledged.len());
    counted::tell("kills", kills);
}

#[test]
fn store_of_a_live_process_is_locked_and_that_of_a_dead_one_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let mut writer = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "writer_started_by_the_parent", "--nocapture"])
        .env(WRITER_DIR, &path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the writer starts");
    let mut lines = BufReader::new(writer.stdout.take().expect("piped")).lines();
    let first = lines.find_map(|line| line.ok().filter(|line| line.starts_with("acknowledged")));
    assert!(first.is_some(), "the writer commits");
    assert!(matches!(options().open(&path), Err(Error::Locked { .. })));
    writer.kill().expect("SIGKILL");
    lines.for_each(drop);
    writer.wait().expect("the writer is dead");
    check_all(&options().open(&path).expect("the lock died with its holder"));
}
