//! `probe`: what opening a store would find.

use std::path::PathBuf;
use std::process::ExitCode;

use aegis_blocks::{LocalBackend, Probe};

use crate::failure::Outcome;
use crate::output;
use crate::size::Size;

/// Say whether a store was closed, needs replay or is damaged; exit code 1 when it is damaged.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let probe = LocalBackend::probe(&args.store)?;
    let (line, code) = match &probe {
        Probe::Clean { replay_bytes, .. } => {
            (format!("clean: {} to replay", Size(*replay_bytes)), ExitCode::SUCCESS)
        }
        Probe::Unclean { replay_bytes, torn_bytes, .. } => (
            format!("not closed: {} to replay, {torn_bytes} bytes torn", Size(*replay_bytes)),
            ExitCode::SUCCESS,
        ),
        Probe::Damaged(damage) => {
            (format!("DAMAGED: {} in {}", damage.defect, damage.place), ExitCode::FAILURE)
        }
        _ => ("in a state that this program does not know".to_string(), ExitCode::FAILURE),
    };
    output::print(|out| Ok(writeln!(out, "{line}")?))?;
    Ok(code)
}
