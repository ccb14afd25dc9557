//! `bench`: durable commits from many threads, beside what the same disk gives to the simplest
//! programs in the same minutes.
//!
//! Every round measures each workload three times over: bare loop, leader/follower loop and engine
//! (in the opposite order in every other round), so that a disk that changes its mood changes it
//! for all three. The report gives medians over rounds.

mod engine;
mod machine;
mod picture;
mod report;
mod roofline;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use crate::bench::engine::{EngineSample, Setup};
use crate::bench::machine::Machine;
use crate::bench::report::{Report, Round, Row};
use crate::bench::roofline::{LoopSample, Space, Writes};
use crate::bench::workload::{Payloads, Sample, Workload};
use crate::failure::{Failure, Outcome};
use crate::size::{Size, grouped};
use crate::store::{DurabilityArg, WriteModeArg};
use crate::{interrupt, output};

/// Measure group commit: commits/s, latency, syncs and processor time beside the disk's roofline.
#[derive(clap::Args)]
pub struct Args {
    /// Directory for the temporary store, on the disk to measure; by default that for temporary
    /// files, or the current one where that lies in memory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Numbers of threads, a row each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64],
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,
    /// Length of a block
    #[arg(long, default_value = "4KiB")]
    size: Size,
    /// Blocks in a commit
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Seconds for each measurement: 2, or 0.4 with --quick
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds to take medians over: 5, or 3 with --quick
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
    /// Also write all figures, those of each round too, to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw throughput and latency over threads
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The row that `bench` adds when nobody asks for other shapes: one transaction of 16 x 1 MiB.
const LARGE: Workload = Workload { threads: 1, size: 1 << 20, batch: 16, durable: true };

impl Args {
    fn workloads(&self) -> Result<Vec<Workload>, Failure> {
        // The payloads and queues of all threads must fit in memory.
        const IN_FLIGHT_LEN_MAX: u64 = 2 << 30;
        let mut workloads = Vec::new();
        for threads in &self.threads {
            let in_flight = self.size.0.checked_mul(u64::from(self.batch) * u64::from(*threads));
            if self.size.0 == 0 || in_flight.is_none_or(|len| len > IN_FLIGHT_LEN_MAX) {
                return Err(Failure::usage(format!(
                    "--threads x --batch x --size must be from 1 B to {}",
                    Size(IN_FLIGHT_LEN_MAX)
                )));
            }
            workloads.push(Workload {
                threads: usize::from(*threads),
                size: self.size.0 as usize,
                batch: usize::from(self.batch),
                durable: self.durability == DurabilityArg::Durable,
            });
        }
        let is_default = self.size == Size(4096) && self.batch == 1 && self.threads.len() > 1;
        if is_default && self.durability == DurabilityArg::Durable {
            workloads.push(LARGE);
        }
        Ok(workloads)
    }

    fn rounds(&self) -> usize {
        usize::from(self.rounds.unwrap_or(if self.quick { 3 } else { 5 }))
    }

    fn seconds(&self) -> Result<f64, Failure> {
        let seconds = self.seconds.unwrap_or(if self.quick { 0.4 } else { 2.0 });
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
    let parent = args.dir.clone().unwrap_or_else(machine::default_dir);
    let failed = |e| Failure::io("cannot make a directory in", &parent, e);
    let dir = tempfile::Builder::new().prefix("aegis-blocks-bench-").tempdir_in(&parent);
    let dir = dir.map_err(failed)?;
    interrupt::listen()?;
    let machine = Machine::of(&parent);
    introduce(&machine)?;

    let mut bench = Bench::new(args, dir, workloads, seconds)?;
    for round in 0..args.rounds() {
        bench.round(round)?;
        if interrupt::requested() {
            break;
        }
    }
    let report = bench.finish(args, machine);
    if report.rows.is_empty() {
        return Err(Failure::interrupted("no round was finished"));
    }
    conclude(args, &report)?;
    if interrupt::requested() {
        return Err(Failure::interrupted("the medians are over fewer rounds"));
    }
    Ok(ExitCode::SUCCESS)
}

fn introduce(machine: &Machine) -> Result<(), Failure> {
    let Machine { file_system, device, dir, cpus, cpu, kernel } = machine;
    output::print(|out| {
        writeln!(out, "{} ({file_system} on {device}), {cpus} x {cpu}, {kernel}", dir.display())?;
        Ok(())
    })?;
    if machine.is_in_memory() {
        eprintln!("{file_system} lies in memory: these figures say nothing about a disk");
    }
    Ok(())
}

fn conclude(args: &Args, report: &Report) -> Result<(), Failure> {
    output::print(|out| {
        write!(out, "\n{}\n{}\n{}", report.results(), report.costs(), report.legend())?;
        Ok(())
    })?;
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(report).map_err(std::io::Error::from)?;
        write_file(file, &json)?;
    }
    if let Some(file) = &args.svg {
        write_file(file, &picture::draw(report).to_svg())?;
    }
    Ok(())
}

fn write_file(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|e| Failure::io("cannot write", file, e))
}

/// A benchmark under way.
struct Bench {
    dir: TempDir,
    setup: Setup,
    space: Space,
    length: Duration,
    lines: Vec<Line>,
    checked: u64,
    bar: ProgressBar,
}

/// A row to be.
struct Line {
    workload: Workload,
    payloads: Payloads,
    rounds: Vec<Round>,
    /// The most commits a second seen so far: how much space the engine will need.
    fastest_per_s: f64,
}

/// The three things that a round measures of a workload, as they come in.
#[derive(Default)]
struct Measured {
    bare: Option<(Writes, Sample)>,
    follower: Option<LoopSample>,
    engine: Option<EngineSample>,
}

#[derive(Clone, Copy)]
enum Subject {
    Bare,
    Follower,
    Engine,
}

/// The engine goes last in the first round, when the rooflines tell how much space it will need.
const SUBJECTS: [Subject; 3] = [Subject::Bare, Subject::Follower, Subject::Engine];

impl Bench {
    fn new(
        args: &Args,
        dir: TempDir,
        workloads: Vec<Workload>,
        seconds: f64,
    ) -> Result<Bench, Failure> {
        let steps = workloads.len() * args.rounds() * SUBJECTS.len();
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(steps as u64).with_style(style).with_message("zeroing space");
        bar.enable_steady_tick(Duration::from_millis(200));
        let line = |workload| Line {
            payloads: Payloads::new(&workload),
            workload,
            rounds: Vec::new(),
            fastest_per_s: 0.0,
        };
        Ok(Bench {
            space: Space::create(dir.path())?,
            dir,
            setup: Setup { durability: args.durability, write_mode: args.write_mode },
            length: Duration::from_secs_f64(seconds),
            lines: workloads.into_iter().map(line).collect(),
            checked: 0,
            bar,
        })
    }

    fn round(&mut self, round: usize) -> Result<(), Failure> {
        let mut subjects = SUBJECTS;
        if round % 2 == 1 {
            subjects.reverse();
        }
        for i in 0..self.lines.len() {
            let mut measured = Measured::default();
            for subject in subjects {
                self.measure(i, subject, round, &mut measured)?;
                self.bar.inc(1);
                if interrupt::requested() {
                    return Ok(());
                }
            }
            let line = &mut self.lines[i];
            if let Measured { bare: Some(bare), follower: Some(follower), engine: Some(engine) } =
                &measured
            {
                let figures = Round::new(&line.workload, engine, bare, follower);
                self.bar.suspend(|| live(&line.workload, round, &figures));
                line.rounds.push(figures);
                self.checked += engine.checked;
            }
        }
        Ok(())
    }

    fn measure(
        &mut self,
        line: usize,
        subject: Subject,
        round: usize,
        measured: &mut Measured,
    ) -> Result<(), Failure> {
        let Line { workload, payloads, fastest_per_s, .. } = &mut self.lines[line];
        let name = match subject {
            Subject::Bare => "bare loop",
            Subject::Follower => "leader/follower loop",
            Subject::Engine => "engine",
        };
        self.bar.set_message(format!("round {}, {} threads: {name}", round + 1, workload.threads));
        match subject {
            Subject::Bare => {
                let bare = better_bare(&self.space, workload, payloads, self.length)?;
                // Few engines outrun a loop without locks; this one is alone.
                if workload.threads == 1 {
                    *fastest_per_s = fastest_per_s.max(1.2 * bare.1.commits_per_s());
                }
                measured.bare = Some(bare);
            }
            Subject::Follower => {
                let sample =
                    roofline::leader_follower(&self.space, workload, payloads, self.length)?;
                *fastest_per_s = fastest_per_s.max(2.0 * sample.sample.commits_per_s());
                measured.follower = Some(sample);
            }
            Subject::Engine => {
                let path = self.dir.path().join("store");
                let expected = *fastest_per_s;
                let sample =
                    engine::measure(&path, &self.setup, workload, payloads, self.length, expected)?;
                *fastest_per_s = 1.3 * sample.sample.commits_per_s();
                measured.engine = Some(sample);
            }
        }
        Ok(())
    }

    fn finish(self, args: &Args, machine: Machine) -> Report {
        self.bar.finish_and_clear();
        let rows = self
            .lines
            .into_iter()
            .filter(|line| !line.rounds.is_empty())
            .map(|line| Row::new(&line.workload, line.rounds))
            .collect();
        Report {
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
            seconds: self.length.as_secs_f64(),
            checked: self.checked,
            rows,
        }
    }
}

/// The better of buffered and direct writes, half of the time each.
fn better_bare(
    space: &Space,
    workload: &Workload,
    payloads: &Payloads,
    length: Duration,
) -> Result<(Writes, Sample), Failure> {
    let buffered = roofline::bare(space, Writes::Buffered, workload, payloads, length / 2)?;
    let direct = roofline::bare(space, Writes::Direct, workload, payloads, length / 2)?;
    let samples = [(Writes::Buffered, buffered), (Writes::Direct, direct)];
    samples
        .into_iter()
        .filter_map(|(writes, sample)| Some((writes, sample?)))
        .max_by(|a, b| a.1.commits_per_s().total_cmp(&b.1.commits_per_s()))
        .ok_or_else(|| Failure::new("the disk takes neither buffered nor direct writes"))
}

/// One line as soon as it is known.
fn live(workload: &Workload, round: usize, figures: &Round) {
    eprintln!(
        "round {}  {:>3} threads x {:>8}  {:>8} commits/s  {:>4.0} % of the bare loop, {:.2} x \
         leader/follower",
        round + 1,
        workload.threads,
        Size(workload.commit_len() as u64).to_string(),
        grouped(figures.commits_per_s as u64),
        100.0 * figures.efficiency,
        figures.over_loop,
    );
}
