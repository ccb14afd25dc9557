//! `checkpoint` and `compact`: maintenance that a store does by itself, now.

use std::fmt;
use std::path::PathBuf;

use aegis_blocks::{CompactionEnd, CompactionReport, LocalBackend, SpaceReport};

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::size::Size;
use crate::{interrupt, output, store};

/// Directory of the store to look after.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
}

/// The library has no way to stop these in the middle.
const LIKE_A_CRASH: &str =
    "the store was not closed; no block is lost, the next command on it replays the end of its log";

/// Runs `checkpoint`.
pub fn checkpoint(args: &Args) -> Outcome {
    let space = store::with_store(store::open(&args.store)?, |store| {
        interrupt::at_once(LIKE_A_CRASH, || Ok(store.checkpoint()?))?;
        Ok(store.space()?)
    })?;
    output::print(|out| Ok(writeln!(out, "checkpoint of {}", Size(space.checkpoint_bytes))?))?;
    Ok(Exit::Done)
}

/// Runs `compact`.
///
/// On a full disk it fails with the bytes that are missing, after saying what it gave back all the
/// same.
pub fn compact(args: &Args) -> Outcome {
    let compacted = store::with_store(store::open(&args.store)?, |store| {
        let before = store.space()?;
        let compacted = interrupt::at_once(LIKE_A_CRASH, || Ok(store.compact_now()))?;
        compacted.inspect_err(|_| say_what_is_left(&before, store)).map_err(Into::into)
    })?;
    output::print(|out| Ok(writeln!(out, "{}", Told(&compacted))?))?;
    Ok(exit_of_compaction(compacted.end))
}

/// Reports the space that an ended compaction gave back, where that is known.
fn say_what_is_left(before: &SpaceReport, store: &LocalBackend) {
    let Ok(after) = store.space() else { return };
    let given_back = log_len(before).saturating_sub(log_len(&after));
    output::warn(format_args!(
        "compaction stopped: log of {} brought to {} ({} given back), {} of that in force",
        Size(log_len(before)),
        Size(log_len(&after)),
        Size(given_back),
        Size(after.live_bytes),
    ));
}

fn log_len(space: &SpaceReport) -> u64 {
    space.live_bytes + space.dead_bytes + space.empty_bytes
}

/// A compaction that did not reach its goal is no success.
fn exit_of_compaction(end: CompactionEnd) -> Exit {
    match end {
        CompactionEnd::Dense => Exit::Done,
        CompactionEnd::Backup => Exit::Locked,
        _ => Exit::Refused,
    }
}

/// Result of a compaction, as a line.
struct Told<'a>(&'a CompactionReport);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        if report.end == CompactionEnd::Backup {
            let log = Size(report.log_bytes);
            return write!(f, "log of {log} left as it is: a backup reads the store");
        }
        write!(
            f,
            "log of {} brought to {}, {} of that in force",
            Size(report.log_bytes_before),
            Size(report.log_bytes),
            Size(report.live_bytes),
        )?;
        match report.snapshot_bytes {
            0 => Ok(()),
            kept => write!(f, ", {} kept for snapshots", Size(kept)),
        }
    }
}
