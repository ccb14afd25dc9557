//! System calls that fail: the store in a process whose calls `strace` answers in the kernel's
//! place, and in one whose files may not grow.
//!
//! The parent starts this test binary again as a writer, below `strace` with an injected error for
//! the n-th call of a kind (of each thread), or below a limit on file lengths, where a write that
//! crosses the limit is really cut short and the next one fails. The writer prints an answer a line
//! and goes on after errors. Then the parent opens the store undisturbed and compares.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use aegis_blocks::{Error, LocalBackend, Lsn, Options, Result, WriteMode};

use crate::arena::{Arena, Skipped, say, tell, tool};
use crate::options::short_segments;
use crate::oracle::{Summary, check, nothing, scan};
use crate::thin::goes_on;
use crate::workload::{Commit, Outcome, Record, THREADS, outcome, run};

/// What is injected: call and error.
const FAULTS: [(&str, &str); 11] = [
    ("fdatasync", "EIO"),
    ("fdatasync", "ENOSPC"),
    ("fsync", "EIO"),
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("pwrite64", "EDQUOT"),
    ("pwrite64", "EINTR"),
    ("fallocate", "ENOSPC"),
    ("fallocate", "EIO"),
    ("ftruncate", "EIO"),
    ("/rename", "EIO"),
];

const COMMITS_PER_THREAD: u64 = 12;
const DIRECTORY: &str = "AEGIS_TRACED_DIRECTORY";
const MODE: &str = "AEGIS_TRACED_MODE";

fn options(mode: &str) -> Options {
    let (write_mode, len) = match mode {
        "direct" => (WriteMode::Direct, 64 << 10),
        "buffered" => (WriteMode::Buffered, 64 << 10),
        "direct, long" => (WriteMode::Direct, 4 << 20),
        mode => panic!("no mode {mode}"),
    };
    short_segments(len, 32 << 10).write_mode(write_mode)
}

#[derive(Debug, Default)]
struct Tally {
    summary: Summary,
    runs: u64,
    injected: u64,
    opens_refused: u64,
    refused: u64,
    unknown: u64,
}

/// Every fault at its first calls, up to the `depth`-th.
pub fn failed_calls(arena: &Arena, depth: u64) -> std::result::Result<(), Skipped> {
    tool("strace")?;
    let mut tally = Tally::default();
    let trace = arena.path().join("trace");
    for (call, error) in FAULTS {
        let before = tally.injected;
        for when in 1..=depth {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o"]).arg(&trace).arg("-e").arg(format!("trace={call}"));
            command.arg("-e").arg(format!("inject={call}:error={error}:when={when}"));
            command.arg(std::env::current_exe().expect("this binary"));
            let mode = if when % 2 == 0 { "direct" } else { "buffered" };
            trial(arena.path(), &mut command, &mut tally, mode);
            let traced = fs::read_to_string(&trace).expect("a trace");
            tally.injected += traced.matches("(INJECTED)").count() as u64;
        }
        assert!(tally.injected > before, "{call} never failed with {error}");
    }
    say(&format!("{} faults, to the {depth}. call: {tally:?}", FAULTS.len()));
    assert!(tally.refused > 0 && tally.unknown > 0, "no commit failed");
    tell("injected calls", tally.injected);
    Ok(())
}

/// Files that end where a limit says.
pub fn limited_files(arena: &Arena, limits: u64) -> std::result::Result<(), Skipped> {
    tool("sh")?;
    let mut tally = Tally::default();
    for n in 0..limits {
        // In units of 512 bytes and mostly not on a page: in the first reservation, or in the zeros
        // ahead of commits that go well.
        let (mode, limit) = match n % 4 {
            0 => ("direct", 9 + n * 17 % 119),
            1 => ("buffered", 9 + n * 17 % 119),
            _ => ("direct, long", 2050 + n * 997 % 6000),
        };
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\""));
        command.arg(std::env::current_exe().expect("this binary"));
        trial(arena.path(), &mut command, &mut tally, mode);
    }
    say(&format!("{limits} limits: {tally:?}"));
    assert!(tally.summary.kept > 0 && tally.refused > 0, "no commit failed, or none went well");
    assert_eq!(tally.unknown, 0, "a file's limit left it open what became of a commit");
    Ok(())
}

/// One run of the writer on a new store, and what it left.
fn trial(directory: &Path, command: &mut Command, tally: &mut Tally, mode: &str) {
    let path = directory.join("traced-store");
    command.args(["--exact", "traced::writer_started_by_a_test", "--nocapture"]);
    command.env(DIRECTORY, &path).env(MODE, mode).stdin(Stdio::null()).stderr(Stdio::inherit());
    let what = format!("{command:?}");
    let output = command.output().expect("its end");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{what}: {}: {words}", output.status);
    let records = records(&words);
    tally.runs += 1;
    tally.opens_refused += u64::from(words.contains("open: "));
    for (outcome, _) in records.iter().flat_map(|record| &record.outcomes) {
        tally.refused += u64::from(*outcome == Outcome::Refused);
        tally.unknown += u64::from(*outcome == Outcome::Unknown);
    }
    let known = records.iter().any(|record| !record.outcomes.is_empty());
    match LocalBackend::verify(&path) {
        Ok(report) => assert_eq!(report.damage, [], "{what}: damage"),
        Err(error) => assert!(!known, "{what}: {error:?}"),
    }
    let store = options(mode).open(&path).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let found = scan(&store);
    tally.summary += check(&found, &records, |_| true);
    goes_on(&store, found);
    store.close().expect("a clean close");
    fs::remove_dir_all(&path).expect("the store is gone");
}

/// What the writer's lines say.
fn records(words: &str) -> Vec<Record> {
    let new = |base| Record { session: 1, base, ..Record::default() };
    let mut records: Vec<Record> = nothing().into_iter().map(new).collect();
    for line in words.lines().filter_map(|line| line.strip_prefix("answer: ")) {
        let (thread, answer) = line.split_once(' ').expect("a thread and an answer");
        let thread: u64 = thread.parse().expect("a thread");
        let outcomes = &mut records[thread as usize].outcomes;
        let outcome = match answer {
            "refused" => Outcome::Refused,
            "unknown" => Outcome::Unknown,
            lsn => {
                let number = outcomes.len() as u64 + 1;
                let durability = Commit::new(1, thread, number).durability;
                Outcome::Acknowledged { lsn: Lsn(lsn.parse().expect("an lsn")), durability }
            }
        };
        outcomes.push((outcome, 0));
    }
    records
}

/// The writer's half. Does nothing unless a test has started it.
#[test]
fn writer_started_by_a_test() {
    let Some(path) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let mode = std::env::var(MODE).expect("a mode");
    let store = match options(&mode).open(path) {
        Ok(store) => store,
        Err(error @ (Error::Io { .. } | Error::StorageFull { .. })) => {
            println!("open: {error}");
            return;
        }
        Err(error) => panic!("an open answers {error:?}"),
    };
    let counts = Mutex::new([0; THREADS as usize]);
    run(&store, 1, nothing(), |thread, answer| {
        print_answer(thread, answer);
        let count = &mut counts.lock().expect("no panic")[thread as usize];
        *count += 1;
        let is_last = *count == COMMITS_PER_THREAD;
        (0, if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    println!("close: {:?}", store.close());
}

/// Durability does not matter to the line: the parent knows it.
fn print_answer(thread: u64, answer: &Result<Lsn>) {
    let word = match outcome(answer.clone(), aegis_blocks::Durability::Durable) {
        Outcome::Acknowledged { lsn, .. } => lsn.to_string(),
        Outcome::Refused => "refused".to_string(),
        Outcome::Unknown => "unknown".to_string(),
    };
    let line = format!("answer: {thread} {word}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent listens");
}
