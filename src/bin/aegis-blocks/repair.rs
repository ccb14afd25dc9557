//! `repair` and `salvage`: what is intact of a damaged store, in its place or in a new directory.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use aegis_blocks::{BlockId, LocalBackend, SalvageReport};

use crate::failure::{Failure, Outcome};
use crate::output;
use crate::size::{Size, grouped};

/// Rebuild a damaged store from what is intact of it, and keep the damaged one beside it; exit code 1
/// when anything was lost.
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
    /// Directory of the new store; must not exist
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
    let report = LocalBackend::repair(&args.store)?;
    let Some(copy) = &report.copy else {
        return output::print(|out| {
            writeln!(out, "sound: nothing to repair")?;
            Ok(ExitCode::SUCCESS)
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
    Ok(code(&report.salvage))
}

/// Runs `salvage`.
pub fn run_salvage(args: &SalvageArgs) -> Outcome {
    let report = LocalBackend::salvage(&args.store, &args.out)?;
    output::print(|out| {
        for loss in &report.losses {
            writeln!(out, "{} in {}", loss.defect, loss.place)?;
        }
        print_losses(out, &report)
    })?;
    Ok(code(&report))
}

fn code(report: &SalvageReport) -> ExitCode {
    if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
