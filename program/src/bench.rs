//! `bench`: durable commits from many threads, beside the simplest programs on the same disk in the
//! same minutes.
//!
//! Bare loop, leader/follower loop and engine take turns (see [`rounds`]), so that a change in the
//! disk's speed meets all three. The report gives medians. Owns the options of the command;
//! measures nothing itself.

mod bars;
mod earlier;
mod engine;
mod machine;
mod page;
mod picture;
mod report;
mod roofline;
mod rounds;
mod workload;

use std::path::PathBuf;

use crate::bench::earlier::Earlier;
use crate::bench::engine::Setup;
use crate::bench::machine::Machine;
use crate::bench::report::Report;
use crate::bench::rounds::Bench;
use crate::bench::workload::Workload;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::outfile::OutFile;
use crate::size::Size;
use crate::store::{DurabilityArg, WriteModeArg};
use crate::{interrupt, output, overlap};

/// Measure group commit: commits/s, latency, syncs and processor time beside the disk's roofline.
#[derive(clap::Args)]
pub struct Args {
    /// Directory for the temporary store, on the disk to measure; by default that for temporary
    /// files, or the current one where that lies in memory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Numbers of threads, a row each: 1,2,4,8,16,32,64, or 1,4,16,64 with --sweep
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,
    /// Lengths of a block, a row each: 4KiB, or 512B,4KiB,32KiB,256KiB with --sweep
    #[arg(long, value_delimiter = ',')]
    size: Vec<Size>,
    /// Measure numbers of threads by lengths of blocks, 0.4 seconds and 2 rounds each
    #[arg(long)]
    sweep: bool,
    /// Blocks in a commit
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Seconds that a row gives to the engine and to each loop in a round: 2, or 0.4 with --quick
    #[arg(long)]
    seconds: Option<f64>,
    /// Times to go through all rows: 5, or 3 with --quick
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// When a commit returns
    #[arg(long, value_enum, default_value = "durable")]
    durability: DurabilityArg,
    /// How the log is written; the store's own choice by default
    #[arg(long, value_enum)]
    write_mode: Option<WriteModeArg>,
    /// Finish within a minute
    #[arg(long)]
    quick: bool,
    /// Also write all figures, those of each slice too, to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw throughput and latency over threads
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Also write one page with chart, tables and figures
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print the figures beside those of an earlier run, a file of --json
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

const THREADS: [u16; 7] = [1, 2, 4, 8, 16, 32, 64];
const SWEEP_THREADS: [u16; 4] = [1, 4, 16, 64];
const SIZE: Size = Size(4096);
const SWEEP_SIZES: [Size; 4] = [Size(512), SIZE, Size(32 << 10), Size(256 << 10)];

/// The row that `bench` adds without an option for other shapes: one transaction of 16 x 1 MiB.
const LARGE: Workload = Workload { threads: 1, size: 1 << 20, batch: 16, durable: true };

impl Args {
    fn workloads(&self) -> Result<Vec<Workload>, Failure> {
        // The payloads and queues of all threads must fit in memory.
        const IN_FLIGHT_LEN_MAX: u64 = 2 << 30;
        let mut workloads = Vec::new();
        let (threads, sizes) = (self.threads(), self.sizes());
        let shapes = sizes.iter().flat_map(|size| threads.iter().map(move |n| (size, n)));
        for (size, threads) in shapes {
            let in_flight = size.0.checked_mul(u64::from(self.batch) * u64::from(*threads));
            if size.0 == 0 || in_flight.is_none_or(|len| len > IN_FLIGHT_LEN_MAX) {
                return Err(Failure::usage(format!(
                    "--threads x --batch x --size must be from 1 B to {}",
                    Size(IN_FLIGHT_LEN_MAX)
                )));
            }
            workloads.push(Workload {
                threads: usize::from(*threads),
                size: size.0 as usize,
                batch: usize::from(self.batch),
                durable: self.durability == DurabilityArg::Durable,
            });
        }
        let is_default = sizes == [SIZE] && self.batch == 1 && threads.len() > 1;
        if is_default && self.durability == DurabilityArg::Durable {
            workloads.push(LARGE);
        }
        Ok(workloads)
    }

    fn threads(&self) -> &[u16] {
        match (&self.threads[..], self.sweep) {
            ([], true) => &SWEEP_THREADS,
            ([], false) => &THREADS,
            (asked, _) => asked,
        }
    }

    fn sizes(&self) -> &[Size] {
        match (&self.size[..], self.sweep) {
            ([], true) => &SWEEP_SIZES,
            ([], false) => &[SIZE],
            (asked, _) => asked,
        }
    }

    fn rounds(&self) -> usize {
        let default = match (self.sweep, self.quick) {
            (true, _) => 2,
            (false, true) => 3,
            (false, false) => 5,
        };
        usize::from(self.rounds.unwrap_or(default))
    }

    fn seconds(&self) -> Result<f64, Failure> {
        let seconds = self.seconds.unwrap_or(if self.quick || self.sweep { 0.4 } else { 2.0 });
        if (0.01..=3600.0).contains(&seconds) {
            Ok(seconds)
        } else {
            Err(Failure::usage("--seconds must be from 0.01 to 3600"))
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let workloads = args.workloads()?;
    let seconds = args.seconds()?;
    let earlier = args.compare.as_deref().map(Earlier::read).transpose()?;
    let files = Files::open(args)?;
    let parent = args.dir.clone().unwrap_or_else(machine::default_dir);
    let failed = |e| Failure::io("cannot make a directory in", &parent, e);
    overlap::refuse_inside_store(&parent)?;
    let dir = tempfile::Builder::new().prefix("aegis-blocks-bench-").tempdir_in(&parent);
    let dir = dir.map_err(failed)?;
    let machine = Machine::of(&parent);
    print_introduction(&machine)?;

    let setup = Setup { durability: args.durability, write_mode: args.write_mode };
    let mut bench = Bench::new(dir, setup, workloads, args.rounds(), seconds)?;
    for round in 0..args.rounds() {
        if !interrupt::requested() {
            bench.run_round(round)?;
        }
    }
    let (rows, seconds, checked) = bench.finish();
    let report = Report {
        machine,
        durability: match args.durability {
            DurabilityArg::Durable => "durable",
            DurabilityArg::Buffered => "buffered",
        },
        write_mode: match args.write_mode {
            None => "default",
            Some(WriteModeArg::Buffered) => "buffered",
            Some(WriteModeArg::Direct) => "direct",
        },
        seconds,
        checked,
        rows,
    };
    if report.rows.is_empty() {
        return Err(Failure::interrupted("nothing was measured"));
    }
    write_results(files, &report, earlier.as_ref())?;
    if interrupt::requested() {
        return Err(Failure::interrupted("the medians are over fewer slices"));
    }
    Ok(Exit::Done)
}

fn print_introduction(machine: &Machine) -> Result<(), Failure> {
    let Machine { file_system, device, dir, cpus, cpu, kernel } = machine;
    output::print(|out| {
        writeln!(out, "{} ({file_system} on {device}), {cpus} x {cpu}, {kernel}", dir.display())?;
        Ok(())
    })?;
    if machine.is_in_memory() {
        let says_nothing = "lies in memory: these figures say nothing about a disk";
        output::note(format_args!("{file_system} {says_nothing}"));
    }
    Ok(())
}

/// The files to write, opened before the minutes of measuring.
struct Files {
    json: Option<OutFile>,
    svg: Option<OutFile>,
    html: Option<OutFile>,
}

impl Files {
    fn open(args: &Args) -> Result<Files, Failure> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(OutFile::open).transpose();
        Ok(Files { json: open(&args.json)?, svg: open(&args.svg)?, html: open(&args.html)? })
    }
}

fn write_results(files: Files, report: &Report, earlier: Option<&Earlier>) -> Result<(), Failure> {
    let mut parts = vec![
        ("Results", report.result_table().to_string()),
        ("Costs", report.cost_table().to_string()),
        ("Charts", bars::draw(report)),
    ];
    parts.extend(earlier.map(|earlier| ("Compared", earlier.compare_with(report))));
    parts.push(("What is what", report.legend()));
    output::print(|out| {
        for (_, text) in &parts {
            write!(out, "\n{text}")?;
        }
        Ok(())
    })?;
    let json = serde_json::to_string_pretty(report).map_err(std::io::Error::from)?;
    let svg = || picture::draw(report).to_svg();
    if let Some(file) = files.json {
        file.write(json.as_bytes())?;
    }
    if let Some(file) = files.svg {
        file.write(svg().as_bytes())?;
    }
    if let Some(file) = files.html {
        file.write(page::write(report, &svg(), &parts, &json).as_bytes())?;
    }
    Ok(())
}
