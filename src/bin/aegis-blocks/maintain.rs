//! `checkpoint` and `compact`: upkeep that a store does by itself, now.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::failure::Outcome;
use crate::size::Size;
use crate::{output, store};

/// Directory of the store to look after.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
}

/// Runs `checkpoint`.
pub fn checkpoint(args: &Args) -> Outcome {
    let space = store::with(store::open(&args.store)?, |store| {
        store.checkpoint()?;
        Ok(store.space()?)
    })?;
    output::print(|out| Ok(writeln!(out, "checkpoint of {}", Size(space.checkpoint_bytes))?))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `compact`.
pub fn compact(args: &Args) -> Outcome {
    let (before, after) = store::with(store::open(&args.store)?, |store| {
        let before = store.space()?;
        store.compact_now()?;
        Ok((before, store.space()?))
    })?;
    let log_len = |space: &aegis_blocks::SpaceReport| {
        Size(space.live_bytes + space.dead_bytes + space.empty_bytes)
    };
    output::print(|out| {
        writeln!(
            out,
            "log of {} brought to {}, {} of that in force",
            log_len(&before),
            log_len(&after),
            Size(after.live_bytes),
        )?;
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}
