//! The program `aegis-blocks`: a command line over the library's public API.
//!
//! Owns the command line's shape and the exit code: 0 done, 1 failed, 2 wrong usage, 130
//! interrupted. A failure is one line on standard error, `aegis-blocks: what and where`; results go
//! to standard output. Each command lives in the file of its name and knows nothing of the others.

mod backup;
mod bench;
mod catalog;
mod chart;
mod entry;
mod export;
mod failure;
mod get;
mod import;
mod interrupt;
mod ls;
mod maintain;
mod output;
mod probe;
mod put;
mod repair;
mod rm;
mod rooted;
mod size;
mod stat;
mod store;
mod table;
mod tree;
mod upload;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::{Failure, Outcome};

/// A crash-safe block store: measure it, fill it, look into it.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Args),
    Import(import::Args),
    Export(export::Args),
    Ls(ls::Args),
    Stat(stat::Args),
    Get(get::Args),
    Put(put::Args),
    Rm(rm::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Salvage(repair::SalvageArgs),
    Probe(probe::Args),
    /// Write an image of the index now, so that the next open reads less of the log.
    Checkpoint(maintain::Args),
    /// Move blocks out of segments that are partly dead, and give those back.
    Compact(maintain::Args),
    Backup(backup::Args),
    Restore(backup::RestoreArgs),
}

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => match run(cli.command) {
            Ok(code) => code,
            Err(failure) => failure.report(),
        },
        Err(error) if error.use_stderr() => Failure::from(error).report(),
        Err(help) => match help.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Bench(args) => bench::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Stat(args) => stat::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Put(args) => put::run(&args),
        Command::Rm(args) => rm::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Salvage(args) => repair::run_salvage(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Checkpoint(args) => maintain::checkpoint(&args),
        Command::Compact(args) => maintain::compact(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => backup::restore(&args),
    }
}
