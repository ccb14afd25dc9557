//! Durable commits of aegis-blocks beside other embedded stores and beside bare limits.
//!
//! | command                | what it does                                                       |
//! |------------------------|--------------------------------------------------------------------|
//! | `run`                  | measures all cells in rounds; table, JSON and charts               |
//! | `run --quick`          | the same for a minute or two: does everything still work?          |
//! | `run --only transfers` | one workload; `run --list` names them                              |
//! | `own`                  | ratios of our own store: batches, snapshots, tickets               |
//! | `growth`               | costs of our own store from thousands of blocks to millions        |
//! | `syncs`                | counts syncs a commit with `strace`, refuses an engine without any |
//!
//! The source, from here down: `plan` lists the cells, and `driver` starts each as a process of its
//! own. `cell` is that process, which runs one of `workloads` on one of `engines`. `report` and
//! `picture` print the results.

mod cell;
#[path = "../../../program/src/chart.rs"]
mod chart;
mod closed_loop;
mod driver;
mod engine;
mod engines;
mod failure;
mod growth;
mod meter;
mod own;
mod payload;
mod picture;
mod plan;
mod report;
mod syncs;
mod workloads;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::failure::{Failure, Outcome};

/// Measures durable commits of embedded stores side by side.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures all cells and writes table, JSON and charts.
    Run(RunArgs),
    /// Measures ratios of our own store.
    Own(OwnArgs),
    /// Measures the costs of our own store as it grows.
    Growth(GrowthArgs),
    /// Counts syncs a commit with strace and refuses engines that do not sync.
    Syncs(SyncsArgs),
    /// One cell; the driver calls this.
    #[command(hide = true)]
    Cell {
        /// The cell to measure, as JSON.
        spec: String,
    },
    /// Fills a store and waits; a cell calls this.
    #[command(hide = true)]
    Fill {
        /// The cell, as JSON.
        spec: String,
    },
    /// Writes until it is killed; `growth` calls this.
    #[command(hide = true)]
    Victim {
        /// The task, as JSON.
        spec: String,
    },
}

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Fewer cells, shorter, one round: shows that everything works, measures little.
    #[arg(long)]
    quick: bool,
    /// Only these workloads.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these engines.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Only these numbers of threads.
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Names workloads and engines, and ends.
    #[arg(long)]
    list: bool,
    /// Rounds; the median is reported. Default: 3, quick: 1.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of a cell's clock. Default: 1, quick: 0.1.
    #[arg(long)]
    seconds: Option<f64>,
    /// Where the stores are made, on the disk to measure. Default: the directory for temporary
    /// files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Measures a cell again, up to 5 times, while others use more than this share of the
    /// processors meanwhile, and keeps the quietest. Their kernel threads count, and so do ours.
    #[arg(long)]
    others_max: Option<f64>,
    /// Writes every figure of every cell to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes charts into this directory, one SVG a sweep over threads.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Makes the tables of an earlier run's JSON instead of measuring.
    #[arg(long)]
    from: Option<PathBuf>,
}

/// Arguments of `own`.
#[derive(Debug, Clone, Args)]
pub struct OwnArgs {
    /// Fewer blocks, shorter slices.
    #[arg(long)]
    quick: bool,
    /// Only these: batch, snapshot, tickets, views, held.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Pairs of slices; the median of their ratios is reported.
    #[arg(long)]
    slices: Option<usize>,
    /// Where the stores are made.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Arguments of `growth`.
#[derive(Debug, Clone, Args)]
pub struct GrowthArgs {
    /// Small stores, short clocks, one round.
    #[arg(long)]
    quick: bool,
    /// Blocks of each store, at least 1,000. Default: 10,000 to 20 million, quick: 1,000 and
    /// 20,000.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1000..))]
    blocks: Vec<u64>,
    /// Rounds; the median is reported. Default: 3, quick: 1.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of a clock. Default: 2, quick: 0.1.
    #[arg(long)]
    seconds: Option<f64>,
    /// Where the stores are made, on the disk to measure. Default: the directory for temporary
    /// files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes every figure of every round to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes the chart `growth.svg` into this directory.
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// Arguments of `syncs`.
#[derive(Debug, Clone, Args)]
pub struct SyncsArgs {
    /// Only these engines.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Where the stores are made.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => driver::run(&args),
        Command::Own(args) => own::run(&args),
        Command::Growth(args) => growth::run(&args),
        Command::Syncs(args) => syncs::run(&args),
        Command::Cell { spec } => one_cell(&spec),
        Command::Fill { spec } => serde_json::from_str(&spec)
            .map_err(Failure::from)
            .and_then(|spec| workloads::reopen::fill_here(&spec)),
        Command::Victim { spec } => serde_json::from_str(&spec)
            .map_err(Failure::from)
            .and_then(|victim: growth::Victim| victim.write()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("error: {failure}");
            let mut source = failure.source();
            while let Some(error) = source {
                eprint!(": {error}");
                source = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn one_cell(spec: &str) -> Outcome<()> {
    let figures = cell::run(&serde_json::from_str(spec)?)?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
