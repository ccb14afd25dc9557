//! `verify`: reads every record, checks every checksum and lists what is damaged.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use aegis_blocks::LocalBackend;

use crate::failure::Outcome;
use crate::output;
use crate::size::{Size, grouped};

/// Read every record and check every checksum; exit code 1 and a list of places when one is wrong.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let started = Instant::now();
    let report = LocalBackend::verify(&args.store)?;
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
