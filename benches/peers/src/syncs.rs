//! Counts syncs from outside: `strace` follows a cell of one thread, some times without and once
//! with commits.
//!
//! The difference to the least of the former belongs to the commits. An engine with less than one
//! sync a commit is refused. So must be the control, which never syncs: if it passes, the check
//! itself has failed.

use std::path::Path;

use crate::SyncsArgs;
use crate::cell::{Figures, Spec, Workload};
use crate::driver::in_a_process;
use crate::engine::{CONTROL, KINDS, Role};
use crate::failure::{Failure, Outcome};

const COMMITS: u64 = 50;
/// Runs without commits. Space that a store's threads prepare may be synced before the close or
/// not. The least of some runs is the need of opening and closing.
const IDLE_RUNS: u64 = 3;

/// System calls that make bytes durable.
const CALLS: &str = "fsync,fdatasync,msync,sync,syncfs";

/// Checks all engines, and that the control is refused.
pub fn run(args: &SyncsArgs) -> Outcome<()> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    println!("| engine | syncs a commit by `strace` | by the benchmark's own count |");
    println!("|---|---:|---:|");
    for kind in KINDS.iter().filter(|kind| kind.role != Role::Reader) {
        if args.engines.is_empty() || args.engines.iter().any(|name| name == kind.name) {
            check(kind.name, &dir)?;
        }
    }
    match check(CONTROL.name, &dir) {
        Err(Failure::Unsynced { .. }) => Ok(()),
        Err(failure) => Err(failure),
        Ok(()) => Err(Failure::BlindCheck),
    }
}

fn check(engine: &str, dir: &Path) -> Outcome<()> {
    let mut idle = u64::MAX;
    for _ in 0..IDLE_RUNS {
        idle = idle.min(count(engine, dir, 0)?.0);
    }
    let (busy, figures) = count(engine, dir, COMMITS)?;
    let per_commit = (busy as f64 - idle as f64) / COMMITS as f64;
    let own = figures.get("syncs").copied().unwrap_or_default();
    println!("| {engine} | {per_commit:.2} | {own:.2} |");
    if per_commit < 1.0 {
        return Err(Failure::Unsynced { engine: engine.into(), per_commit });
    }
    Ok(())
}

/// Syncs of a whole cell of one thread with so many commits.
fn count(engine: &str, parent: &Path, commits: u64) -> Outcome<(u64, Figures)> {
    let dir =
        tempfile::tempdir_in(parent).map_err(Failure::io("cannot make a directory in", parent))?;
    let trace = dir.path().join("trace");
    let store = dir.path().join("cell");
    std::fs::create_dir(&store).map_err(Failure::io("cannot make", &store))?;
    let spec = Spec {
        engine: engine.into(),
        workload: Workload::Commit { size: 4096, batch: 1 },
        threads: 1,
        seconds: 0.0,
        steps: Some(commits),
        dir: store,
    };
    let calls = format!("trace={CALLS}");
    let before = ["strace", "-f", "-o", &trace.to_string_lossy(), "-e", &calls];
    let figures = in_a_process(&spec, &before)?;
    let text = std::fs::read_to_string(&trace).map_err(Failure::io("cannot read", &trace))?;
    let is_call = |line: &&str| CALLS.split(',').any(|call| line.contains(&format!(" {call}(")));
    Ok((text.lines().filter(is_call).count() as u64, figures))
}
