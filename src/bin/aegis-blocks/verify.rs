//! `verify`: reads every record, checks every checksum and lists what is damaged.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use aegis_blocks::{Error, LocalBackend, NotAStoreReason};

use crate::failure::Outcome;
use crate::output;
use crate::size::{Size, grouped};

/// Read every record and check every checksum; exit code 1 and a list of places when one is wrong.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store or backup
    store: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let started = Instant::now();
    let report = match LocalBackend::verify(&args.store) {
        Err(Error::NotAStore { reason: NotAStoreReason::Backup, .. }) => return backup(args),
        report => report?,
    };
    let elapsed = started.elapsed().as_secs_f64();
    output::print(|out| {
        for damage in &report.damage {
            writeln!(out, "{} in {}", damage.defect, damage.place)?;
        }
        writeln!(
            out,
            "{}: {} blocks ({}) in {} frames, {} segments and {} checkpoints checked in {elapsed:.2} s",
            if report.damage.is_empty() { "sound" } else { "DAMAGED" },
            grouped(report.blocks),
            Size(report.bytes),
            grouped(report.frames),
            report.segments,
            report.checkpoints,
        )?;
        Ok(())
    })?;
    Ok(if report.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compares the files of a backup with its manifest.
fn backup(args: &Args) -> Outcome {
    let check = LocalBackend::verify_backup(&args.store)?;
    output::print(|out| {
        for damage in &check.damage {
            writeln!(out, "{} in {}", damage.defect, damage.place)?;
        }
        writeln!(
            out,
            "{}: backup of lsn {}, {} in {} files",
            if check.damage.is_empty() { "sound" } else { "DAMAGED" },
            check.lsn,
            Size(check.bytes),
            check.files,
        )?;
        Ok(())
    })?;
    Ok(if check.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
