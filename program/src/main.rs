//! The program `aegis-blocks`: a command line over the library's public API.
//!
//! Owns the command line's shape. A failure is one line on standard error, `aegis-blocks: what and
//! where`, and an exit code ([`exit`]); results go to standard output ([`output`]). Every command
//! stops in order at a signal ([`interrupt`]). Each lives in the file of its name and knows nothing
//! of the others.

mod backup;
mod bench;
mod catalog;
mod chart;
mod content;
mod entry;
mod exit;
mod export;
mod failure;
mod get;
mod import;
mod interrupt;
mod ls;
mod maintain;
mod outfile;
mod output;
mod overlap;
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
mod unfinished;
mod unheard;
mod upload;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// A crash-safe block store: measure it, fill it, look into it.
#[derive(Parser)]
#[command(version, about, max_term_width = 100, after_help = exit::TABLE)]
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
    let ended =
        interrupt::listen().and_then(|()| parse_arguments()).and_then(|command| match command {
            Some(command) => run_command(command),
            None => Ok(Exit::Done),
        });
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let (line, exit) = failure.into_parts();
            output::warn(line);
            exit.into()
        }
    }
}

/// The command line as clap describes it.
fn command_line() -> clap::Command {
    let about_exit_codes = "The exit codes are listed by: aegis-blocks --help";
    Cli::command().mut_subcommands(|command| command.after_help(about_exit_codes))
}

/// Returns the command, or `None` when help or version was asked for and printed.
fn parse_arguments() -> Result<Option<Command>, Failure> {
    let parsed = command_line().try_get_matches().and_then(|found| Cli::from_arg_matches(&found));
    match parsed {
        Ok(cli) => Ok(Some(cli.command)),
        Err(error) if error.use_stderr() => Err(error.into()),
        Err(help) => output::print(|out| Ok(write!(out, "{help}")?)).map(|()| None),
    }
}

fn run_command(command: Command) -> Outcome {
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
