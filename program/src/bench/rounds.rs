//! Rounds: the order of measurements.
//!
//! The speed of a shared disk changes within seconds. So the time of a row is cut into slices of a
//! quarter of a second or so. In each slice bare loop, leader/follower loop and engine follow one
//! another, in the opposite order in every other slice. Ratios are taken within a slice. A round
//! goes through all rows; the engine gets a new store in each row of each round.

use std::sync::Arc;
use std::time::Duration;

use aegis_blocks::GROUP_SIZES;
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use crate::bench::engine::{Engine, EngineSample, ExpectedLoad, Setup};
use crate::bench::report::{Figures, Row};
use crate::bench::roofline::{self, LoopSample, Space, Writes};
use crate::bench::workload::{Payloads, Sample, Workload};
use crate::failure::Failure;
use crate::size::{Size, grouped};
use crate::{interrupt, output};

/// How long a slice is at most.
const SLICE_SECONDS_MAX: f64 = 0.25;

/// A benchmark under way.
pub struct Bench {
    dir: TempDir,
    setup: Setup,
    space: Space,
    /// Of one slice.
    length: Duration,
    slices: usize,
    lines: Vec<Line>,
    checked: u64,
    bar: ProgressBar,
}

/// A row to be.
struct Line {
    workload: Workload,
    payloads: Arc<Payloads>,
    slices: Vec<Figures>,
    groups: [u64; GROUP_SIZES],
    /// Commits a second to expect of the engine: how much space it will need.
    expected_per_s: f64,
}

/// Measurements of a row, slice by slice.
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

/// The engine goes last in the first slice, when the rooflines tell how much space it will need.
const SUBJECTS: [Subject; 3] = [Subject::Bare, Subject::Follower, Subject::Engine];

impl Bench {
    /// Prepares `rounds` rounds in which each subject of each row gets `seconds`.
    pub fn new(
        dir: TempDir,
        setup: Setup,
        workloads: Vec<Workload>,
        rounds: usize,
        seconds: f64,
    ) -> Result<Bench, Failure> {
        let slices = (seconds / SLICE_SECONDS_MAX).ceil().max(1.0) as usize;
        let steps = workloads.len() * rounds * slices * SUBJECTS.len();
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(steps as u64).with_style(style).with_message("zeroing space");
        bar.enable_steady_tick(Duration::from_millis(200));
        let line = |workload| Line {
            payloads: Arc::new(Payloads::new(&workload)),
            workload,
            slices: Vec::new(),
            groups: [0; GROUP_SIZES],
            expected_per_s: 0.0,
        };
        Ok(Bench {
            space: Space::create(dir.path())?,
            dir,
            setup,
            length: Duration::from_secs_f64(seconds / slices as f64),
            slices,
            lines: workloads.into_iter().map(line).collect(),
            checked: 0,
            bar,
        })
    }

    /// Measures all rows once; ends early when the user interrupts.
    pub fn run_round(&mut self, round: usize) -> Result<(), Failure> {
        for line in 0..self.lines.len() {
            let before = self.lines[line].slices.len();
            let mut engine = None;
            for slice in 0..self.slices {
                if !interrupt::requested() {
                    self.measure_slice(line, round, slice, &mut engine)?;
                }
            }
            if let Some(engine) = engine {
                self.checked += engine.finish()?;
            }
            if interrupt::requested() {
                return Ok(());
            }
            let Line { workload, slices, .. } = &self.lines[line];
            self.bar.suspend(|| report_round(workload, round, &Figures::median(&slices[before..])));
        }
        Ok(())
    }

    fn measure_slice(
        &mut self,
        line: usize,
        round: usize,
        slice: usize,
        engine: &mut Option<Engine>,
    ) -> Result<(), Failure> {
        let mut subjects = SUBJECTS;
        if (round + slice) % 2 == 1 {
            subjects.reverse();
        }
        let mut measured = Measured::default();
        for subject in subjects {
            let name = match subject {
                Subject::Bare => "bare loop",
                Subject::Follower => "leader/follower loop",
                Subject::Engine => "engine",
            };
            let threads = self.lines[line].workload.threads;
            self.bar.set_message(format!("round {}, {threads} threads: {name}", round + 1));
            self.measure_subject(line, subject, engine, &mut measured)?;
            self.bar.inc(1);
        }
        let line = &mut self.lines[line];
        if let Measured { bare: Some(bare), follower: Some(follower), engine: Some(engine) } =
            &measured
            && !interrupt::requested()
        {
            for (sum, count) in line.groups.iter_mut().zip(&engine.counted.group_sizes) {
                *sum += count;
            }
            line.slices.push(Figures::new(&line.workload, engine, bare, follower));
        }
        Ok(())
    }

    fn measure_subject(
        &mut self,
        line: usize,
        subject: Subject,
        engine: &mut Option<Engine>,
        measured: &mut Measured,
    ) -> Result<(), Failure> {
        let Line { workload, payloads, expected_per_s, .. } = &mut self.lines[line];
        match subject {
            Subject::Bare => {
                let bare = better_bare(&self.space, workload, payloads, self.length)?;
                measured.bare = Some(bare);
            }
            Subject::Follower => {
                let sample =
                    roofline::leader_follower(&self.space, workload, payloads, self.length)?;
                // A disk that was slow for a slice may be fast in the next.
                *expected_per_s = expected_per_s.max(2.0 * sample.sample.commits_per_s());
                measured.follower = Some(sample);
            }
            Subject::Engine => {
                let engine = match engine {
                    Some(engine) => engine,
                    None => engine.insert(Engine::start(
                        self.dir.path().join("store"),
                        &self.setup,
                        workload,
                        payloads,
                        ExpectedLoad {
                            length: self.length * self.slices as u32,
                            commits_per_s: *expected_per_s,
                        },
                    )?),
                };
                let sample = engine.run_slice(self.length)?;
                *expected_per_s = expected_per_s.max(1.3 * sample.sample.commits_per_s());
                measured.engine = Some(sample);
            }
        }
        Ok(())
    }

    /// Returns the rows, how long a slice was, and how many blocks were read back.
    pub fn finish(self) -> (Vec<Row>, f64, u64) {
        self.bar.finish_and_clear();
        let rows = self
            .lines
            .into_iter()
            .filter(|line| !line.slices.is_empty())
            .map(|line| Row::new(&line.workload, line.slices, line.groups.to_vec()))
            .collect();
        (rows, self.length.as_secs_f64(), self.checked)
    }
}

/// The better of buffered and direct writes, half of the time each.
fn better_bare(
    space: &Space,
    workload: &Workload,
    payloads: &Payloads,
    length: Duration,
) -> Result<(Writes, Sample), Failure> {
    let buffered =
        roofline::run_bare_loop(space, Writes::Buffered, workload, payloads, length / 2)?;
    let direct = roofline::run_bare_loop(space, Writes::Direct, workload, payloads, length / 2)?;
    let samples = [(Writes::Buffered, buffered), (Writes::Direct, direct)];
    samples
        .into_iter()
        .filter_map(|(writes, sample)| Some((writes, sample?)))
        .max_by(|a, b| a.1.commits_per_s().total_cmp(&b.1.commits_per_s()))
        .ok_or_else(|| Failure::refused("the disk takes neither buffered nor direct writes"))
}

/// One line as soon as it is known.
fn report_round(workload: &Workload, round: usize, figures: &Figures) {
    output::note(format_args!(
        "round {}  {:>3} threads x {:>8}  {:>8} commits/s  {:>4.0} % of the bare loop, {:.2} x \
         leader/follower",
        round + 1,
        workload.threads,
        Size(workload.commit_len() as u64).to_string(),
        grouped(figures.commits_per_s as u64),
        100.0 * figures.efficiency,
        figures.over_loop,
    ));
}
