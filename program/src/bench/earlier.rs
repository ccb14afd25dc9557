//! An earlier run, read back from the file that `--json` wrote, beside this one.
//!
//! Absolute figures of two runs differ with the hour. The ratio of the engine to the
//! leader/follower loop, measured on the same disk in the same seconds, says more. Reads only the
//! figures it compares, so files of versions with other figures can be read.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::bench::report::{Report, Row, format_time};
use crate::failure::Failure;
use crate::size::grouped;
use crate::table::Table;

/// Figures of an earlier run that are compared.
#[derive(Debug, Deserialize)]
struct Run {
    machine: Machine,
    durability: String,
    write_mode: String,
    rows: Vec<EarlierRow>,
}

#[derive(Debug, Deserialize)]
struct Machine {
    cpus: usize,
    cpu: String,
    kernel: String,
    file_system: String,
    device: String,
}

#[derive(Debug, Deserialize)]
struct EarlierRow {
    threads: usize,
    size: usize,
    batch: usize,
    median: EarlierFigures,
}

#[derive(Debug, Deserialize)]
struct EarlierFigures {
    commits_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
    over_loop: f64,
}

/// An earlier run and the file it was read from.
#[derive(Debug)]
pub struct Earlier {
    file: PathBuf,
    run: Run,
}

impl Earlier {
    /// Reads the file of an earlier run.
    pub fn read(file: &Path) -> Result<Earlier, Failure> {
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|e| Failure::io("cannot read", file, e))?;
        let run = serde_json::from_str(&text);
        let run = run.map_err(|e| {
            Failure::usage(format!("no figures of a benchmark in {}: {e}", file.display()))
        })?;
        Ok(Earlier { file: file.to_path_buf(), run })
    }

    /// The rows that both runs have, earlier and now, and what else differs.
    pub fn compare_with(&self, now: &Report) -> String {
        let mut table = Table::new(&[
            ("", &["threads", "commit"]),
            ("commits/s", &["earlier", "now", "ratio"]),
            ("p50", &["earlier", "now"]),
            ("p99", &["earlier", "now"]),
            ("CPU us", &["earlier", "now"]),
            ("over leader/follower", &["earlier", "now", "ratio"]),
        ]);
        let mut missing = 0;
        for row in &now.rows {
            match self.find_earlier_row(row) {
                Some(earlier) => table.row(compare_cells(row, &earlier.median)),
                None => missing += 1,
            }
        }
        let mut text = format!("beside {}\n{table}", self.file.display());
        for difference in self.differences(now) {
            text += &format!("not the same: {difference}\n");
        }
        if missing > 0 {
            text += &format!("{missing} rows are not in the earlier run\n");
        }
        text
    }

    fn find_earlier_row(&self, row: &Row) -> Option<&EarlierRow> {
        let shape = (row.threads, row.size, row.batch);
        self.run.rows.iter().find(|earlier| (earlier.threads, earlier.size, earlier.batch) == shape)
    }

    fn differences(&self, now: &Report) -> Vec<String> {
        let (then, machine) = (&self.run.machine, &now.machine);
        let pairs = [
            ("processors", then.cpus.to_string(), machine.cpus.to_string()),
            ("processor", then.cpu.clone(), machine.cpu.clone()),
            ("kernel", then.kernel.clone(), machine.kernel.clone()),
            ("file system", then.file_system.clone(), machine.file_system.clone()),
            ("device", then.device.clone(), machine.device.clone()),
            ("durability", self.run.durability.clone(), now.durability.to_string()),
            ("write mode", self.run.write_mode.clone(), now.write_mode.to_string()),
        ];
        let differing = pairs.into_iter().filter(|(_, then, now)| then != now);
        differing.map(|(what, then, now)| format!("{what}, {then} then and {now} now")).collect()
    }
}

fn compare_cells(row: &Row, then: &EarlierFigures) -> Vec<String> {
    let now = &row.median;
    let rate = |rate: f64| grouped(rate.round() as u64);
    vec![
        row.threads.to_string(),
        row.shape(),
        rate(then.commits_per_s),
        rate(now.commits_per_s),
        format!("{:.2}", now.commits_per_s / then.commits_per_s),
        format_time(then.p50_us),
        format_time(now.p50_us),
        format_time(then.p99_us),
        format_time(now.p99_us),
        format!("{:.1}", then.cpu_us),
        format!("{:.1}", now.cpu_us),
        format!("{:.2} x", then.over_loop),
        format!("{:.2} x", now.over_loop),
        format!("{:.2}", now.over_loop / then.over_loop),
    ]
}
