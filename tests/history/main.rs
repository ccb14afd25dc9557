//! Isolation, checked on recorded histories of every backend by two checkers that share nothing:
//! the kit's own, which knows LSNs, and a black box, which sees values only. And both held to their
//! own claim: histories that are wrong are caught, by name.
//!
//! A default run judges a million transactions; `AEGIS_HISTORY=N` multiplies them, `AEGIS_SEED`
//! moves them elsewhere:
//!
//! ```text
//! AEGIS_HISTORY=50 cargo test --release --test history -- --nocapture
//! ```

mod black_box;
mod by_hand;
#[path = "../support/counted.rs"]
mod counted;
mod planted;

use std::time::Duration;

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::testkit::history::{Anomaly, Finding, History, Verdict, Workload, check};
use aegis_blocks::testkit::{Rng, seed};
use aegis_blocks::{
    Durability, IsolationLevel, LocalBackend, MemoryBackend, Options, StorageBackend,
};

use black_box::Question;

/// Transactions of one history, at most: enough that threads meet often, few enough to keep memory
/// flat.
const WINDOW_MAX: u64 = 20_000;

/// What a run adds up to.
#[derive(Debug, Default)]
struct Tally {
    transactions: u64,
    commits: u64,
    reads: u64,
    own_reads: u64,
    unplaced: u64,
    /// Committed transactions that the black box judged.
    shown: u64,
    /// Write skews under snapshot isolation, where they are allowed: transactions did meet.
    skews: u64,
    /// Histories in which the black box found such as well.
    skewed: u64,
}

/// Records and judges windows of transactions until `count` are judged, and half as many that
/// committed by the black box too.
fn judge_windows(name: &str, store: &dyn StorageBackend, count: u64) -> Tally {
    let count = count * scale();
    let fixed = seed(0x0815_7031);
    println!("{name}: seed {fixed} (replay with AEGIS_SEED={fixed})");
    let (mut rng, mut tally, mut first_id) = (Rng::new(fixed), Tally::default(), 1);
    let levels = [None, Some(IsolationLevel::Serializable), Some(IsolationLevel::Snapshot)];
    for window in 0.. {
        if tally.transactions >= count && tally.shown >= count / 2 {
            break;
        }
        let load = Workload {
            first_id,
            isolation: levels[window % levels.len()],
            transactions: WINDOW_MAX.min(count / 4),
            ..Workload::new(rng.next_u64())
        };
        judge_window(store, &load, &mut tally);
        first_id = load.ids().end;
    }
    println!("{name}: {tally:?}");
    assert!(tally.skews > 0, "no write skew under snapshot isolation: transactions did not meet");
    assert!(tally.skewed > 0, "the black box saw none of {} write skews", tally.skews);
    let stats = store.stats();
    assert_eq!((stats.open_transactions, stats.undo_entries), (0, 0), "something is left behind");
    counted::tell("transactions", tally.transactions);
    counted::tell("transactions judged by values alone", tally.shown);
    tally
}

fn judge_window(store: &dyn StorageBackend, load: &Workload, tally: &mut Tally) {
    let history = load.run(store).expect("the store breaks no call");
    assert_eq!(history.transactions.len() as u64, load.transactions, "all are recorded");
    let verdict = std::thread::scope(|scope| {
        let black = scope.spawn(|| judge_without_lsns(&history, load));
        let verdict = check(&history);
        assert_clean(&history, &verdict);
        let (shown, skewed) = black.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        tally.shown += shown;
        tally.skewed += u64::from(skewed);
        if load.isolation == Some(IsolationLevel::Snapshot) {
            tally.skews += skews(&as_serializable(&history));
        }
        verdict
    });
    tally.transactions += verdict.transactions;
    tally.commits += verdict.commits;
    tally.reads += verdict.reads;
    tally.own_reads += verdict.own_reads;
    tally.unplaced += verdict.unplaced;
}

/// The second opinion: how many committed transactions it saw, and whether there were skews among
/// them where they are allowed.
fn judge_without_lsns(history: &History, load: &Workload) -> (u64, bool) {
    let (registers, question) = (load.register_ids(), Question::StrictSerializability);
    let shown = black_box::assert_right(history, &registers, Question::SnapshotIsolation);
    if load.isolation == Some(IsolationLevel::Snapshot) {
        let (report, _) = black_box::judge(&as_serializable(history), &registers, question);
        return (shown, report.valid == adya::Valid::False);
    }
    black_box::assert_right(history, &registers, question);
    (shown, false)
}

/// Asserts that nothing was found; otherwise shows the transactions that are involved.
fn assert_clean(history: &History, verdict: &Verdict) {
    for finding in verdict.findings.iter().take(3) {
        println!("{finding}");
        for index in &finding.transactions {
            println!("  {index}: {:?}", history.transactions[*index]);
        }
    }
    assert!(verdict.findings.is_empty(), "{verdict}");
}

/// The same history, with all transactions claimed to be serializable.
fn as_serializable(history: &History) -> History {
    let mut claimed = history.clone();
    for record in &mut claimed.transactions {
        record.isolation = record.isolation.and(Some(IsolationLevel::Serializable));
    }
    claimed
}

fn skews(claimed: &History) -> u64 {
    let skew = |found: &&Finding| found.anomaly == Anomaly::WriteSkew;
    check(claimed).findings.iter().filter(skew).count() as u64
}

fn scale() -> u64 {
    std::env::var("AEGIS_HISTORY")
        .map_or(1, |text| text.parse().expect("AEGIS_HISTORY is a number"))
}

/// Segments so short that the log goes on in another one every few commits.
fn short_segments() -> Options {
    let options = LocalBackend::options().segment_len_max(64 << 10);
    options.block_len_max(32 << 10).zero_ahead_len(256 << 10)
}

#[test]
fn million_transactions_in_memory_are_isolated() {
    let tally = judge_windows("memory", &MemoryBackend::new(), 1_000_000);
    // Single calls tell no LSN. Where commits are made one by one their place is clear all the
    // same; if it were not, what they write would be judged leniently.
    assert!(tally.unplaced * 100 < tally.commits, "{} commits not placed", tally.unplaced);
}

#[test]
fn transactions_on_the_file_system_are_isolated() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, durability, count) in
        [("buffered", Durability::Buffered, 60_000), ("durable", Durability::Durable, 20_000)]
    {
        let options = LocalBackend::options().durability(durability);
        let store = options.open(dir.path().join(name)).expect("opens");
        judge_windows(&format!("local, {name}"), &store, count);
        store.close().expect("closes");
    }
}

#[test]
fn transactions_on_the_simulated_disk_are_isolated() {
    for durability in [Durability::Buffered, Durability::Durable] {
        let disk = SimDisk::new(seed(0x0815_7032));
        let options = short_segments().durability(durability);
        let options = options.sync_interval(Duration::from_secs(3600));
        let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
        judge_windows(&format!("simulated, {durability:?}"), &store, 60_000);
        store.close().expect("closes");
        assert!(disk.violations().is_empty(), "{:?}", disk.violations());
    }
}
