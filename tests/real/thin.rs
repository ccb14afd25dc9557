//! A volume that promises more space than there is: `fdatasync` really fails, and the next one
//! would succeed.
//!
//! A sparse image with 200 MiB of ext4 lies on a file system of 24 MiB in memory. ext4 hands out
//! blocks that cannot be written, so what fails is the write-back, the sync or the direct write.
//! Then the store must refuse every further write, and answer from what it acknowledged. After that
//! the memory is made larger, as an operator would, and the store opened again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;

use aegis_blocks::testkit::{Rng, seed};
use aegis_blocks::{Error, IoOp, LocalBackend, Options, StorageBackend, WriteMode};

use crate::arena::{Arena, Skipped, resize_memory, say, tell};
use crate::options::short_segments;
use crate::oracle::{Summary, check, nothing, scan};
use crate::volume::{Kind, Volume, unmount};
use crate::workload::{State, run};

const SEED: u64 = 0x7419;
const PROMISED_LEN: u64 = 200 << 20;
/// Tries of each thread after the first failure: a retry must never be acknowledged.
const TRIES: u64 = 4;

/// Cycles in which it is a commit's own sync that fails. With the page cache below them and nothing
/// zeroed ahead, no direct write and no worker comes upon the end of the volume first.
fn is_of_commits(cycle: u64) -> bool {
    cycle.is_multiple_of(4)
}

fn options(cycle: u64, rng: &mut Rng) -> Options {
    let mode = if cycle.is_multiple_of(2) { WriteMode::Buffered } else { WriteMode::Direct };
    let drawn = [0, 256 << 10, 8 << 20][rng.below(3) as usize];
    let ahead_len = if is_of_commits(cycle) { 0 } else { drawn };
    short_segments(4 << 20, 64 << 10).write_mode(mode).zero_ahead_len(ahead_len)
}

/// Lets the sync of a store fail this many times.
pub fn failed_syncs(arena: &Arena, cycles: u64) -> Result<(), Skipped> {
    let seed = seed(SEED);
    say(&format!("{cycles} failed syncs, seed {seed}"));
    let mut rng = Rng::new(seed);
    let (mut summary, mut failures) = (Summary::default(), BTreeMap::new());
    for cycle in 0..cycles {
        let memory = arena.memory(&format!("thin-{cycle}"), "size=24m")?;
        let mut volume = Volume::new(Kind::Ext4, &memory, PROMISED_LEN)?;
        volume.mount("");
        volume.take_single_pages();
        let syncs = failures.get("sync").copied().unwrap_or(0);
        summary += one_failure(&mut volume, &options(cycle, &mut rng), &mut failures, || {
            resize_memory(&memory, "size=230m");
        });
        volume.unmount();
        unmount(&memory);
        let failed = failures.get("sync").copied().unwrap_or(0) > syncs;
        assert!(failed || !is_of_commits(cycle), "cycle {cycle}: no sync of a commit failed");
    }
    say(&format!(
        "{cycles} failing volumes, {} commits acknowledged before, none lost; {} unanswered were kept; \
         first failures {failures:?}",
        summary.kept, summary.unknown_kept
    ));
    tell("failing volumes", cycles);
    tell("failed syncs", failures.get("sync").copied().unwrap_or(0));
    Ok(())
}

fn one_failure(
    volume: &mut Volume,
    options: &Options,
    failures: &mut BTreeMap<String, u64>,
    repair: impl FnOnce(),
) -> Summary {
    let path = volume.path().join("store");
    let store = options.clone().open(&path).expect("a new store");
    let tries = Mutex::new(BTreeMap::<u64, u64>::new());
    let first = Mutex::new(None);
    let records = run(&store, 1, nothing(), |thread, answer| {
        let Err(error) = answer else { return (0, ControlFlow::Continue(())) };
        first.lock().expect("no panic").get_or_insert_with(|| error.clone());
        let mut tries = tries.lock().expect("no panic");
        let tries = tries.entry(thread).or_default();
        *tries += 1;
        (0, if *tries > TRIES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    let first = first.into_inner().expect("no panic").expect("every thread saw an error");
    *failures.entry(failure(&first)).or_default() += 1;
    assert!(matches!(store.sync(), Err(Error::Poisoned { .. })), "a sync of a poisoned store");
    // Reads go on, of all that was acknowledged.
    check(&scan(&store), &records, |_| true);
    assert!(store.close().is_err(), "a clean close of a poisoned store");
    volume.unmount();
    repair();
    volume.mount("");
    let report = LocalBackend::verify(&path).expect("a report");
    assert_eq!(report.damage, [], "damage after {first:?}");
    let store = options.clone().open(&path).expect("the store opens on repaired space");
    let found = scan(&store);
    let summary = check(&found, &records, |_| true);
    goes_on(&store, found);
    store.close().expect("a clean close");
    summary
}

/// The operation that failed first.
fn failure(error: &Error) -> String {
    match error {
        Error::Io { op: op @ (IoOp::Sync | IoOp::Write | IoOp::Allocate), .. } => op.to_string(),
        // A worker failed before any commit did.
        Error::Poisoned { cause } => format!("ahead: {cause}"),
        error => panic!("no commit may answer {error:?} here"),
    }
}

/// Each thread commits a few times more.
pub fn goes_on(store: &LocalBackend, states: Vec<State>) {
    let records = run(store, 2, states, |_, answer| {
        assert!(answer.is_ok(), "{answer:?}");
        (0, ControlFlow::Break(()))
    });
    check(&scan(store), &records, |_| true);
}
