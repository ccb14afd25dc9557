//! Opening stores for commands, and the store's options on the command line.
//!
//! A store that was not closed cleanly is reported in one line on standard error. Rule: a command
//! that changes nothing opens the store read-only. So it works on a read-only mount and beside
//! others of its kind.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use aegis_blocks::{BlockType, Durability, LocalBackend, Options, RecoveryReport, WriteMode};
use clap::ValueEnum;
use indicatif::ProgressBar;

use crate::failure::Failure;
use crate::size::{Size, grouped};
use crate::{interrupt, output, unfinished};

/// The longest block of a store that this program opens.
pub const BLOCK_LEN_MAX: u32 = 32 << 20;

/// `--durability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DurabilityArg {
    /// A commit returns when it would survive power loss.
    Durable,
    /// A commit returns at once; power loss leaves a prefix of the commit order.
    Buffered,
}

impl From<DurabilityArg> for Durability {
    fn from(arg: DurabilityArg) -> Durability {
        match arg {
            DurabilityArg::Durable => Durability::Durable,
            DurabilityArg::Buffered => Durability::Buffered,
        }
    }
}

/// `--write-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WriteModeArg {
    /// Through the page cache.
    Buffered,
    /// Past the page cache, from aligned buffers.
    Direct,
}

impl From<WriteModeArg> for WriteMode {
    fn from(arg: WriteModeArg) -> WriteMode {
        match arg {
            WriteModeArg::Buffered => WriteMode::Buffered,
            WriteModeArg::Direct => WriteMode::Direct,
        }
    }
}

/// `--type` of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TypeArg {
    TableData,
    TimeSeriesData,
    DocumentData,
    IndexData,
    LogEntry,
    Metadata,
}

impl From<TypeArg> for BlockType {
    fn from(arg: TypeArg) -> BlockType {
        match arg {
            TypeArg::TableData => BlockType::TableData,
            TypeArg::TimeSeriesData => BlockType::TimeSeriesData,
            TypeArg::DocumentData => BlockType::DocumentData,
            TypeArg::IndexData => BlockType::IndexData,
            TypeArg::LogEntry => BlockType::LogEntry,
            TypeArg::Metadata => BlockType::Metadata,
        }
    }
}

/// The name of a type, as `--type` takes it.
pub fn type_name(block_type: BlockType) -> &'static str {
    match block_type {
        BlockType::TableData => "table-data",
        BlockType::TimeSeriesData => "time-series-data",
        BlockType::DocumentData => "document-data",
        BlockType::IndexData => "index-data",
        BlockType::LogEntry => "log-entry",
        BlockType::Metadata => "metadata",
        _ => "unknown",
    }
}

/// Opens a store that exists and changes nothing in it.
pub fn open_to_read(path: &Path) -> Result<LocalBackend, Failure> {
    unfinished::refuse_unfinished(path)?;
    open_with_options(LocalBackend::options().read_only(true), path)
}

/// Opens a store that exists, to change it.
pub fn open(path: &Path) -> Result<LocalBackend, Failure> {
    unfinished::refuse_unfinished(path)?;
    open_with_options(LocalBackend::options().create(false), path)
}

/// Opens a store, creating an empty one where there is none.
pub fn open_or_create(path: &Path, durability: DurabilityArg) -> Result<LocalBackend, Failure> {
    open_with_options(LocalBackend::options().durability(durability.into()), path)
}

/// Runs `body` on a store and closes it even if `body` fails: a failed command is no crash.
pub fn with_store<T>(
    store: LocalBackend,
    body: impl FnOnce(&LocalBackend) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let result = body(&store);
    let closed = store.close();
    let value = result?;
    closed?;
    Ok(value)
}

fn open_with_options(options: Options, path: &Path) -> Result<LocalBackend, Failure> {
    let spinner = ProgressBar::new_spinner();
    let started = Instant::now();
    let shown = spinner.clone();
    let store = options
        .block_len_max(BLOCK_LEN_MAX)
        .on_progress(move |progress| {
            if started.elapsed() > QUIET {
                let (done, total) = (Size(progress.bytes_done), Size(progress.bytes_total));
                shown.set_message(format!("opening: {done} of {total} of log replayed"));
                shown.tick();
            }
            continue_unless_stopped()
        })
        .open(path);
    spinner.finish_and_clear();
    let store = store?;
    report_recovery(path, store.recovery());
    Ok(store)
}

/// Answer of a callback to the library: a signal ends the call that it watches.
pub fn continue_unless_stopped() -> ControlFlow<()> {
    if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Opening faster than this shows nothing.
const QUIET: Duration = Duration::from_millis(300);

fn report_recovery(path: &Path, recovery: &RecoveryReport) {
    if !recovery.clean {
        output::note(format_args!(
            "{} was not closed cleanly: recovered {} frames ({}) from {} segments in {:.0} ms, \
             without {} bytes of a torn tail",
            path.display(),
            grouped(recovery.frames),
            Size(recovery.bytes),
            recovery.segments,
            recovery.elapsed.as_secs_f64() * 1e3,
            recovery.torn_bytes,
        ));
    }
}
