//! Ratios of our own store: costs of a batch, a snapshot, a ticket and a held view beside the plain
//! way.
//!
//! Both sides of a ratio use the same open store in alternating slices, in the opposite order in
//! every other pair. The ratio is taken within a pair, and the median of all pairs is reported.
//!
//! | name       | ratio                                                         | goal          |
//! |------------|---------------------------------------------------------------|---------------|
//! | `batch`    | `WriteBatch` of one over `write_block`, 64 threads, commits/s | at least 0.95 |
//! | `snapshot` | transaction that reads 4 and writes 1 over that write, CPU    | at most 1.25  |
//! | `snapshot` | the same over 4 reads and a write without a transaction, CPU  | none          |
//! | `tickets`  | 64 tickets of one thread over 64 threads, commits/s           | at least 0.80 |
//! | `views`    | begin and drop over a hot 4 KiB read, 4 million blocks, time  | at most 0.20  |
//! | `held`     | memory of a held snapshot, and what is left after its drop    | in proportion |
//!
//! The hot reads of `views` are random ones among 100,000 blocks, which the page cache holds. They
//! are repeated among 1,000, which the processor's own cache holds.

mod held;
mod steps;

use std::path::Path;
use std::time::Duration;

use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, StorageBackend, WriteBatch};
use bytes::Bytes;

use crate::OwnArgs;
use crate::closed_loop::{Length, Many, Sample, Worker, run as closed_loop};
use crate::failure::{Failure, Outcome};
use crate::payload::Payloads;
use crate::workloads::BLOCK_LEN;
use crate::workloads::views::median;
use steps::{Batch, Plain, Read, ReadsAndWrite, SnapshotWrite, Tickets, View};

/// Threads, and tickets in flight, of the ratios with many callers.
const CROWD: usize = 64;

/// Blocks of 4 KiB that hot reads and transactions choose from.
pub const HOT_BLOCKS: u64 = 1000;

/// Blocks of 4 KiB that the page cache holds, and the processor's cache does not.
const WIDE_BLOCKS: u64 = 100_000;

/// Shorthand for errors of our store.
pub fn failed(error: aegis_blocks::Error) -> Failure {
    Failure::of("aegis-blocks")(error)
}

/// A slice, and how many pairs of them.
#[derive(Clone, Copy)]
struct Pace {
    slice: Duration,
    pairs: usize,
    wide: u64,
    blocks: u64,
}

/// Measures the chosen ratios and prints a table.
pub fn run(args: &OwnArgs) -> Outcome<()> {
    let (slice, pairs, wide, blocks) =
        if args.quick { (50, 3, 10_000, 20_000) } else { (250, 9, WIDE_BLOCKS, 4_000_000) };
    let pairs = args.slices.unwrap_or(pairs);
    let pace = Pace { slice: Duration::from_millis(slice), pairs, wide, blocks };
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let is_asked = |name| args.only.is_empty() || args.only.iter().any(|asked| asked == name);
    println!("| name | what | one | other | ratio (least to most) | goal | reached |");
    println!("|---|---|---:|---:|---:|---|---|");
    for (name, measure) in RATIOS {
        if is_asked(name) {
            with_store(&parent, |store| measure(store, pace))?;
        }
    }
    if is_asked("held") {
        println!();
        with_store(&parent, |store| held::run(store, if args.quick { 4000 } else { 80_000 }))?;
    }
    Ok(())
}

type Measure = fn(&LocalBackend, Pace) -> Outcome<()>;
const RATIOS: [(&str, Measure); 4] =
    [("batch", batch), ("snapshot", snapshot), ("tickets", tickets), ("views", views)];

fn with_store(parent: &Path, body: impl FnOnce(&LocalBackend) -> Outcome<()>) -> Outcome<()> {
    let dir =
        tempfile::tempdir_in(parent).map_err(Failure::io("cannot make a directory in", parent))?;
    let store = LocalBackend::open(dir.path().join("store")).map_err(failed)?;
    fill(&store, HOT_BLOCKS, BLOCK_LEN)?;
    body(&store)?;
    store.close().map_err(failed)
}

/// Writes blocks 1 to `blocks`, or up from what is there.
pub fn fill(store: &LocalBackend, blocks: u64, len: usize) -> Outcome<()> {
    let payloads = Payloads::new(1, 0, len);
    let first = store.stats().total_blocks + 1;
    for start in (first..=blocks).step_by(10_000) {
        let mut batch = WriteBatch::new();
        for id in start..(start + 10_000).min(blocks + 1) {
            batch.write(Block::new(BlockId(id), BlockType::TableData, payloads.get(id).clone()));
        }
        store.apply(batch).map_err(failed)?;
    }
    store.sync().map_err(failed)
}

/// Compares a hot block with the bytes that [`fill`] wrote.
pub fn is_filled(id: u64, data: &Bytes, payloads: &Payloads) -> Outcome<()> {
    let (expected, found) = (payloads.get(id), data);
    let is_right = found.len() == expected.len() && found.last() == expected.last();
    if is_right { Ok(()) } else { Err(Failure::Lost { id }) }
}

/// A ratio as a line of the table.
struct Line<'a> {
    name: &'a str,
    what: String,
    unit: &'a str,
    goal: (&'a str, fn(f64) -> bool),
    value: fn(&Sample) -> f64,
}

/// Runs both sides in alternating slices and prints the line: `one` over `other`.
fn compare(
    pace: Pace,
    line: &Line<'_>,
    one: impl Fn(Duration) -> Outcome<Sample>,
    other: impl Fn(Duration) -> Outcome<Sample>,
) -> Outcome<()> {
    let (mut ones, mut others, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pace.pairs {
        let (a, b) = if pair % 2 == 0 {
            let a = (line.value)(&one(pace.slice)?);
            (a, (line.value)(&other(pace.slice)?))
        } else {
            let b = (line.value)(&other(pace.slice)?);
            ((line.value)(&one(pace.slice)?), b)
        };
        ones.push(a);
        others.push(b);
        ratios.push(a / b);
    }
    let (one, other, ratio) = (median(&mut ones), median(&mut others), median(&mut ratios));
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    let unit = line.unit;
    let reached = if (line.goal.1)(ratio) { "yes" } else { "**no**" };
    println!(
        "| {} | {} | {one:.1} {unit} | {other:.1} {unit} | {ratio:.3} ({least:.3} to {most:.3}) | {} | {reached} |",
        line.name, line.what, line.goal.0
    );
    Ok(())
}

fn sample<W: Worker>(
    threads: usize,
    slice: Duration,
    make: impl Fn(usize) -> Outcome<W> + Sync,
) -> Outcome<Sample> {
    closed_loop(threads, Duration::from_millis(20), Length::Time(slice), make)
}

fn batch(store: &LocalBackend, pace: Pace) -> Outcome<()> {
    let line = Line {
        name: "batch",
        what: format!("`WriteBatch` of one write / `write_block`, {CROWD} threads"),
        unit: "commits/s",
        goal: ("at least 0.95", |ratio| ratio >= 0.95),
        value: Sample::per_s,
    };
    let batch = |slice| sample(CROWD, slice, |thread| Ok(Batch(Plain::new(store, thread))));
    compare(pace, &line, batch, |slice| {
        sample(CROWD, slice, |thread| Ok(Plain::new(store, thread)))
    })
}

fn snapshot(store: &LocalBackend, pace: Pace) -> Outcome<()> {
    for threads in [1, 8, CROWD] {
        let noun = if threads == 1 { "thread" } else { "threads" };
        let line = Line {
            name: "snapshot",
            what: format!(
                "transaction that reads 4 and writes 1 / `write_block`, {threads} {noun}, CPU"
            ),
            unit: "us",
            goal: ("at most 1.25", |ratio| ratio <= 1.25),
            value: Sample::cpu_us,
        };
        let one = |slice| sample(threads, slice, |thread| Ok(SnapshotWrite::new(store, thread)));
        compare(pace, &line, one, |slice| {
            sample(threads, slice, |thread| Ok(Plain::new(store, thread)))
        })?;
        let line = Line {
            what: format!(
                "the same / 4 times `read_block` and `write_block`, {threads} {noun}, CPU"
            ),
            goal: ("none", |_| true),
            ..line
        };
        compare(pace, &line, one, |slice| {
            sample(threads, slice, |thread| Ok(ReadsAndWrite::new(store, thread)))
        })?;
    }
    Ok(())
}

fn tickets(store: &LocalBackend, pace: Pace) -> Outcome<()> {
    let line = Line {
        name: "tickets",
        what: format!("one thread with {CROWD} tickets in flight / {CROWD} threads"),
        unit: "commits/s",
        goal: ("at least 0.80", |ratio| ratio >= 0.8),
        value: Sample::per_s,
    };
    let one = |slice| sample(1, slice, |thread| Ok(Tickets::new(store, thread, CROWD)));
    compare(pace, &line, one, |slice| sample(CROWD, slice, |thread| Ok(Plain::new(store, thread))))
}

fn views(store: &LocalBackend, pace: Pace) -> Outcome<()> {
    fill(store, pace.wide, BLOCK_LEN)?;
    fill(store, pace.blocks, 16)?;
    // No other work is left beside the measurement, and reads are hot.
    store.checkpoint().map_err(failed)?;
    for id in 1..=pace.wide {
        store.read_block(BlockId(id)).map_err(failed)?;
    }
    for (threads, among) in [(1, pace.wide), (8, pace.wide), (1, HOT_BLOCKS), (8, HOT_BLOCKS)] {
        let noun = if threads == 1 { "thread" } else { "threads" };
        let blocks = pace.blocks;
        let line = Line {
            name: "views",
            what: format!(
                "begin and drop / 4 KiB read among {among} of {blocks} blocks, {threads} {noun}"
            ),
            unit: "ns",
            goal: ("at most 0.20", |ratio| ratio <= 0.2),
            value: |sample| 1e9 / sample.per_s(),
        };
        let one = |slice| sample(threads, slice, |_| Ok(Many(View(store))));
        compare(pace, &line, one, |slice| {
            sample(threads, slice, |thread| Ok(Many(Read::new(store, thread, among))))
        })?;
    }
    Ok(())
}
