//! `probe`: reports the state that opening a store would find.

use std::path::PathBuf;

use aegis_blocks::{LocalBackend, Probe};

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::size::Size;
use crate::{interrupt, output, unfinished};

/// Say whether a store was closed, needs replay or is damaged; exit code 1 when it is damaged.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    unfinished::refuse_unfinished(&args.store)?;
    let probe =
        interrupt::at_once("nothing was changed", || Ok(LocalBackend::probe(&args.store)?))?;
    let (line, code) = match &probe {
        Probe::Clean { replay_bytes, .. } => {
            (format!("clean: {} to replay", Size(*replay_bytes)), Exit::Done)
        }
        Probe::Unclean { replay_bytes, torn_bytes, .. } => (
            format!("not closed: {} to replay, {torn_bytes} bytes torn", Size(*replay_bytes)),
            Exit::Done,
        ),
        Probe::Damaged(damage) => {
            (format!("DAMAGED: {} in {}", damage.defect, damage.place), Exit::Found)
        }
        _ => ("in a state that this program does not know".to_string(), Exit::Found),
    };
    output::print(|out| Ok(writeln!(out, "{line}")?))?;
    Ok(code)
}
