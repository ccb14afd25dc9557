//! `backup` and `restore`: a store copied as of one commit, and made a store again.

use std::ops::ControlFlow;
use std::path::PathBuf;

use aegis_blocks::{BackupReport, CopyProgress, LocalBackend};
use indicatif::{ProgressBar, ProgressStyle};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::size::Size;
use crate::unfinished::Unfinished;
use crate::{output, store, unfinished};

/// Copy a store, as of its newest commit, into an empty or missing directory.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Directory for the backup
    out: PathBuf,
    /// An earlier backup of this store: files that it has too are linked, not copied
    #[arg(long)]
    since: Option<PathBuf>,
}

/// Make a store out of a backup, in an empty or missing directory. The backup stays as it is.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// Directory of the backup
    backup: PathBuf,
    /// Directory for the store
    store: PathBuf,
}

/// Runs `backup`.
pub fn run(args: &Args) -> Outcome {
    let report = store::with_store(store::open_to_read(&args.store)?, |store| {
        let out = Unfinished::begin(&args.out)?;
        let since = args.since.as_deref();
        let report = with_progress_bar(|watch| store.backup_to(out.dir(), since, watch));
        let report = report.map_err(|error| Failure::or_interrupted(error, NOTHING_LEFT))?;
        out.finish()?;
        Ok(report)
    })?;
    print_report("backup of", &report)
}

/// Runs `restore`.
pub fn restore(args: &RestoreArgs) -> Outcome {
    unfinished::refuse_unfinished(&args.backup)?;
    let store = Unfinished::begin(&args.store)?;
    let report = with_progress_bar(|watch| LocalBackend::restore(&args.backup, store.dir(), watch));
    let report = report.map_err(|error| Failure::or_interrupted(error, NOTHING_LEFT))?;
    store.finish()?;
    print_report("restored", &report)
}

const NOTHING_LEFT: &str = "what was copied is removed again";

fn print_report(done: &str, report: &BackupReport) -> Outcome {
    let shared = match report.shared_bytes {
        0 => String::new(),
        bytes => format!(", {} of that from the earlier backup", Size(bytes)),
    };
    let cloned = match report.cloned_bytes {
        0 => String::new(),
        bytes => format!(", {} of that without space of its own", Size(bytes)),
    };
    let (files, size) = (report.files, Size(report.bytes));
    output::print(|out| {
        Ok(writeln!(out, "{done} lsn {}: {size} in {files} files{shared}{cloned}", report.lsn)?)
    })?;
    Ok(Exit::Done)
}

/// Runs `body` with a bar on standard error.
fn with_progress_bar<T>(body: impl FnOnce(&dyn Fn(CopyProgress) -> ControlFlow<()>) -> T) -> T {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}") {
        bar.set_style(style);
    }
    let done = body(&|progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
        store::continue_unless_stopped()
    });
    bar.finish_and_clear();
    done
}
