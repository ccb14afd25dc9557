//! The driver: every cell in a process and a fresh directory of its own, cells interleaved over
//! rounds.
//!
//! A round goes through all cells of a sheet, engine after engine for each number of threads, every
//! other round backwards. So a change in the disk's speed meets all engines alike. A cell that
//! fails, or that has read back no acknowledged commit, fails the run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::RunArgs;
use crate::cell::{Figures, Spec, Workload};
use crate::engine::{ABSENT, Absent, KINDS};
use crate::failure::{Failure, Outcome};
use crate::plan::{self, Sheet};
use crate::report::Report;

/// How often a cell is measured when others disturb it.
const TRIES_MAX: usize = 5;

/// The figures of one cell in all rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// The sheet's name.
    pub sheet: String,
    /// The engine's name.
    pub engine: String,
    /// Its result.
    pub workload: Workload,
    /// How many threads did it.
    pub threads: usize,
    /// One entry a round.
    pub rounds: Vec<Figures>,
}

/// Measures, or reads an earlier run, and writes what was asked for.
pub fn run(args: &RunArgs) -> Outcome<()> {
    let sheets = plan::sheets(args)?;
    if args.list {
        sheets.iter().for_each(|sheet| println!("{:<20} {}", sheet.name, sheet.title));
        KINDS.iter().for_each(|kind| println!("{:<20} {}", kind.name, kind.durability));
        left_out().for_each(|line| eprintln!("{line}"));
        return Ok(());
    }
    let cells = match &args.from {
        Some(path) => {
            let file = File::open(path).map_err(Failure::io("cannot read", path))?;
            serde_json::from_reader(std::io::BufReader::new(file))?
        }
        None => {
            if args.engines.is_empty() {
                left_out().for_each(|line| eprintln!("{line}"));
            }
            measure(args, &sheets)?
        }
    };
    let report = Report { sheets, cells };
    print!("{}", report.to_markdown());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report.cells)?;
        std::fs::write(path, json).map_err(Failure::io("cannot write", path))?;
    }
    if let Some(dir) = &args.svg {
        std::fs::create_dir_all(dir).map_err(Failure::io("cannot make", dir))?;
        for (name, svg) in crate::picture::draw(&report) {
            let path = dir.join(format!("peers-{name}.svg"));
            std::fs::write(&path, svg).map_err(Failure::io("cannot write", &path))?;
        }
    }
    Ok(())
}

/// A line for each engine that the tables lack.
fn left_out() -> impl Iterator<Item = String> {
    ABSENT.iter().map(|Absent { name, needs }| format!("left out: {name} needs {needs}"))
}

fn measure(args: &RunArgs, sheets: &[Sheet]) -> Outcome<Vec<Cell>> {
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 3 });
    let seconds = args.seconds.unwrap_or(if args.quick { 0.1 } else { 1.0 });
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut cells: Vec<Cell> = sheets.iter().flat_map(cells_of).collect();
    for round in 0..rounds {
        let mut order: Vec<_> = (0..cells.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let cell = &mut cells[index];
            let figures = quietest(cell, seconds, &dir, args.others_max.unwrap_or(f64::INFINITY))?;
            eprintln!(
                "round {} {} {} x{}: {}",
                round + 1,
                cell.sheet,
                cell.engine,
                cell.threads,
                brief(&figures)
            );
            cell.rounds.push(figures);
            // Measurements so far survive an interruption.
            if let Some(path) = &args.json {
                let json = serde_json::to_string(&cells)?;
                std::fs::write(path, json).map_err(Failure::io("cannot write", path))?;
            }
        }
    }
    Ok(cells)
}

fn cells_of(sheet: &Sheet) -> Vec<Cell> {
    let cell = |engine: &str, threads| Cell {
        sheet: sheet.name.into(),
        engine: engine.into(),
        workload: sheet.workload,
        threads,
        rounds: Vec::new(),
    };
    let of_threads = |threads: &usize| {
        let threads = *threads;
        sheet.engines.iter().map(move |engine| cell(engine, threads))
    };
    sheet.threads.iter().flat_map(of_threads).collect()
}

fn brief(figures: &Figures) -> String {
    let keys = [
        "per_s",
        "p50_us",
        "syncs",
        "others_cpu",
        "open_ms",
        "space_amplification",
        "view_over_read",
    ];
    let text = |key: &&str| figures.get(*key).map(|value| format!("{key} {value:.2}"));
    keys.iter().filter_map(text).collect::<Vec<_>>().join("  ")
}

/// Tries to measure a cell while others leave the processors alone.
fn quietest(cell: &Cell, seconds: f64, dir: &Path, others_max: f64) -> Outcome<Figures> {
    let others = |figures: &Figures| figures.get("others_cpu").copied().unwrap_or_default();
    let mut best = start(cell, seconds, dir)?;
    for _ in 1..TRIES_MAX {
        if others(&best) <= others_max {
            break;
        }
        let next = start(cell, seconds, dir)?;
        if others(&next) < others(&best) {
            best = next;
        }
    }
    Ok(best)
}

fn start(cell: &Cell, seconds: f64, parent: &Path) -> Outcome<Figures> {
    let dir = tempfile::Builder::new()
        .prefix("aegis-peers-")
        .tempdir_in(parent)
        .map_err(Failure::io("cannot make a directory in", parent))?;
    let spec = Spec {
        engine: cell.engine.clone(),
        workload: cell.workload,
        threads: cell.threads,
        seconds,
        steps: None,
        dir: dir.path().to_path_buf(),
    };
    let figures = in_a_process(&spec, &[])?;
    if figures.get("checked").is_none_or(|checked| *checked < 1.0) {
        return Err(Failure::Unchecked { cell: spec.name() });
    }
    dir.close().map_err(Failure::io("cannot remove the store in", parent))?;
    Ok(figures)
}

/// Runs a cell in a process of its own, behind another program when `before` names one.
pub fn in_a_process(spec: &Spec, before: &[&str]) -> Outcome<Figures> {
    let program = std::env::current_exe().map_err(Failure::io("cannot find", PathBuf::new()))?;
    let mut words: Vec<std::ffi::OsString> = before.iter().map(Into::into).collect();
    words.push(program.into());
    let output = Command::new(&words[0])
        .args(&words[1..])
        .arg("cell")
        .arg(serde_json::to_string(spec)?)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Failure::io("cannot run", PathBuf::from(&words[0])))?;
    if !output.status.success() {
        return Err(Failure::Cell { cell: spec.name(), status: output.status });
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
