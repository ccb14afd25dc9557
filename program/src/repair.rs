//! `repair` and `salvage`: rebuild a damaged store from its intact blocks, in its place or in a new
//! directory.

use std::io::Write;
use std::path::{Path, PathBuf};

use aegis_blocks::{BlockId, LocalBackend, SalvageReport};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::size::{Size, grouped};
use crate::unfinished::Unfinished;
use crate::{interrupt, output, unfinished};

/// Rebuild a damaged store from what is intact of it, and keep the damaged one beside it; exit code
/// 1 when anything was lost.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Do it: without this, nothing is changed
    #[arg(long)]
    yes: bool,
}

/// Copy every intact block out of a store, which is only read, into a new one; exit code 1 when
/// anything is missing.
#[derive(clap::Args)]
pub struct SalvageArgs {
    /// Directory of the damaged store
    store: PathBuf,
    /// Directory of the new store; empty or missing
    out: PathBuf,
}

/// Runs `repair`.
pub fn run(args: &Args) -> Outcome {
    if !args.yes {
        return Err(Failure::usage(
            "repair replaces the store and keeps the damaged one beside it: say --yes, or use \
             verify or salvage, which change nothing",
        ));
    }
    let repair = || Ok(LocalBackend::repair(&args.store)?);
    let report = interrupt::at_once(WHOLE_EITHER_WAY, repair)?;
    name_leftovers(&args.store);
    let Some(copy) = &report.copy else {
        return output::print(|out| {
            writeln!(out, "sound: nothing to repair")?;
            Ok(Exit::Done)
        });
    };
    output::print(|out| {
        for damage in &report.damage {
            writeln!(out, "{} in {}", damage.defect, damage.place)?;
        }
        print_losses(out, &report.salvage)?;
        writeln!(out, "repaired; the damaged store is kept in {}", copy.display())?;
        Ok(())
    })?;
    Ok(exit_of_salvage(&report.salvage))
}

const WHOLE_EITHER_WAY: &str = "the store is as it was, or repaired as a whole; what was made \
                                beside it is named .repairing-N";

/// Names the leftovers of ended repairs beside the store. They are not removed: a repair ended in
/// its last step may have left the damaged store there.
fn name_leftovers(store: &Path) {
    let Ok(store) = store.canonicalize() else { return };
    let (Some(dir), Some(name)) = (store.parent(), store.file_name()) else { return };
    let prefix = format!("{}.repairing-", name.to_string_lossy());
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let left = entry.path();
            output::note(format_args!("unfinished: an ended repair left {}", left.display()));
        }
    }
}

/// Runs `salvage`.
pub fn run_salvage(args: &SalvageArgs) -> Outcome {
    unfinished::refuse_unfinished(&args.store)?;
    let out = Unfinished::begin(&args.out)?;
    let salvage = || Ok(LocalBackend::salvage(&args.store, out.dir())?);
    let report = interrupt::at_once("the copy is unfinished; run it again", salvage)?;
    out.finish()?;
    output::print(|out| {
        for loss in &report.losses {
            writeln!(out, "{} in {}", loss.defect, loss.place)?;
        }
        print_losses(out, &report)
    })?;
    Ok(exit_of_salvage(&report))
}

fn exit_of_salvage(report: &SalvageReport) -> Exit {
    Exit::of_check(report.is_complete())
}

fn print_losses(out: &mut dyn Write, report: &SalvageReport) -> Result<(), Failure> {
    for loss in &report.losses {
        if let Some((first, last)) = loss.lsns {
            writeln!(out, "commits {first} to {last} are damaged: {}", loss.place)?;
        }
    }
    for older in &report.older {
        let (id, kept, lost) = (older.id, older.kept, older.lost);
        writeln!(out, "block {id}: commit {lost} is lost, saved as of commit {kept}")?;
    }
    print_ids(out, "lost", &report.lost)?;
    print_ids(out, "may have been deleted", &report.unsure)?;
    if report.deleted_may_reappear {
        writeln!(out, "no whole checkpoint is left: deleted blocks may be there again")?;
    }
    let word = if report.is_complete() { "all" } else { "INCOMPLETE" };
    writeln!(out, "{word}: {} blocks ({}) saved", grouped(report.blocks), Size(report.bytes))?;
    Ok(())
}

fn print_ids(out: &mut dyn Write, what: &str, ids: &[BlockId]) -> Result<(), Failure> {
    for id in ids {
        writeln!(out, "block {id}: {what}")?;
    }
    Ok(())
}
