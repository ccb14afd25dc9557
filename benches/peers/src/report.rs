//! Tables: medians over rounds, one sheet after the other, as Markdown.

use std::fmt::Write;

use crate::cell::Workload;
use crate::driver::Cell;
use crate::engine::KINDS;
use crate::plan::Sheet;
use crate::workloads::views::median;

/// A finished run.
pub struct Report {
    /// The cells to measure.
    pub sheets: Vec<Sheet>,
    /// The measurements.
    pub cells: Vec<Cell>,
}

/// A column: its head, the figure's name, and how it is written.
pub type Column = (&'static str, &'static str, fn(f64) -> String);

const COMMITS: &[Column] = &[
    ("commits/s", "per_s", count),
    ("p50", "p50_us", time),
    ("p99", "p99_us", time),
    ("p99.9", "p999_us", time),
    ("longest", "max_us", time),
    ("CPU a commit", "cpu_us", time),
    ("syncs a commit", "syncs", ratio),
    ("bytes written / user bytes", "write_amplification", ratio),
];
const TRANSFERS: &[Column] = &[
    ("transfers/s", "per_s", count),
    ("p50", "p50_us", time),
    ("p99", "p99_us", time),
    ("p99.9", "p999_us", time),
    ("CPU a transfer", "cpu_us", time),
    ("syncs a transfer", "syncs", ratio),
    ("retries a transfer", "repeats", ratio),
];
const READS: &[Column] = &[
    ("reads/s", "per_s", count),
    ("p50", "p50_us", time),
    ("p99", "p99_us", time),
    ("p99.9", "p999_us", time),
    ("CPU a read", "cpu_us", time),
    ("first read after filling", "first_read_us", time),
    ("commits/s meanwhile", "commits_per_s", count),
    ("without readers", "commits_alone_per_s", count),
    ("CPU a commit", "commit_cpu_us", time),
    ("without readers", "commit_alone_cpu_us", time),
];
const VIEWS: &[Column] = &[
    ("read of 4 KiB", "read_ns", nanoseconds),
    ("begin and drop", "view_ns", nanoseconds),
    ("begin and drop / read", "view_over_read", ratio),
];
const OPENS: &[Column] = &[("open and one read, ms", "open_ms", ratio)];
const SPACES: &[Column] = &[
    ("MiB on disk", "disk_mib", count),
    ("disk bytes / user bytes", "space_amplification", ratio),
];

/// Numbers of threads that get a table of their own beside the sweep.
const DETAILED: [usize; 4] = [1, 8, 64, 256];

impl Report {
    /// The median over rounds of one figure, where it was measured.
    pub fn value(&self, sheet: &str, engine: &str, threads: usize, figure: &str) -> Option<f64> {
        let mut values = self.values(sheet, engine, threads, figure);
        (!values.is_empty()).then(|| median(&mut values))
    }

    /// One figure in all rounds.
    fn values(&self, sheet: &str, engine: &str, threads: usize, figure: &str) -> Vec<f64> {
        let is_it =
            |cell: &&Cell| (&*cell.sheet, &*cell.engine, cell.threads) == (sheet, engine, threads);
        let rounds = self.cells.iter().find(is_it).map_or(&[][..], |cell| &cell.rounds);
        rounds.iter().filter_map(|figures| figures.get(figure).copied()).collect()
    }

    /// All tables.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        for sheet in &self.sheets {
            append(&mut text, format_args!("\n#### {} (`{}`)\n\n", sheet.title, sheet.name));
            let columns = match sheet.workload {
                Workload::Commit { .. } | Workload::Overwrite { .. } => COMMITS,
                Workload::Transfer { .. } => TRANSFERS,
                Workload::Read { .. } => READS,
                Workload::View { .. } => VIEWS,
                Workload::Reopen { .. } => OPENS,
                Workload::Space { .. } => SPACES,
            };
            if sheet.threads.len() > 3 {
                self.sweep(&mut text, sheet, "median round", median);
                // On a machine that others use, the best round says what the disk would have given.
                self.sweep(&mut text, sheet, "best round", |values| {
                    values.iter().copied().fold(0.0, f64::max)
                });
            }
            for threads in &sheet.threads {
                if sheet.threads.len() <= 3 || DETAILED.contains(threads) {
                    self.detail(&mut text, sheet, *threads, columns);
                }
            }
        }
        append(&mut text, format_args!("\n{}", self.disturbance()));
        text
    }

    /// Throughput over threads.
    fn sweep(&self, text: &mut String, sheet: &Sheet, name: &str, of: fn(&mut [f64]) -> f64) {
        let heads: Vec<String> = sheet.threads.iter().map(usize::to_string).collect();
        append(text, format_args!("| commits/s at threads, {name} | {} |\n", heads.join(" | ")));
        append(text, format_args!("|---|{}\n", "---:|".repeat(heads.len())));
        for engine in &sheet.engines {
            let value = |threads: &usize| {
                let mut values = self.values(sheet.name, engine, *threads, "per_s");
                if values.is_empty() { "-".into() } else { count(of(&mut values)) }
            };
            let values: Vec<String> = sheet.threads.iter().map(value).collect();
            append(text, format_args!("| {engine} | {} |\n", values.join(" | ")));
        }
        text.push('\n');
    }

    /// Every figure at one number of threads.
    fn detail(&self, text: &mut String, sheet: &Sheet, threads: usize, columns: &[Column]) {
        let is_measured = |column: &&Column| {
            sheet.engines.iter().any(|e| self.value(sheet.name, e, threads, column.1).is_some())
        };
        let columns: Vec<&Column> = columns.iter().filter(is_measured).collect();
        if columns.is_empty() {
            return;
        }
        let is_read = matches!(sheet.workload, Workload::Read { .. });
        let is_transfer = matches!(sheet.workload, Workload::Transfer { .. });
        let last = if is_read {
            "verified | "
        } else if is_transfer {
            "isolation | "
        } else {
            ""
        };
        let heads: Vec<&str> = columns.iter().map(|column| column.0).collect();
        let noun = if threads == 1 { "thread" } else { "threads" };
        append(text, format_args!("| {threads} {noun} | {} | {last}\n", heads.join(" | ")));
        let notes = if last.is_empty() { "" } else { "---|" };
        append(text, format_args!("|---|{}{notes}\n", "---:|".repeat(heads.len())));
        for engine in &sheet.engines {
            let kind = KINDS.iter().find(|kind| kind.name == *engine);
            let note = match kind {
                Some(kind) if is_read => format!(" {} |", kind.read_check),
                Some(kind) if is_transfer => format!(" {} |", kind.transfers.unwrap_or("-")),
                _ => String::new(),
            };
            let cell = |column: &&Column| {
                self.value(sheet.name, engine, threads, column.1).map_or("-".into(), column.2)
            };
            let values: Vec<String> = columns.iter().map(cell).collect();
            append(text, format_args!("| {engine} | {} |{note}\n", values.join(" | ")));
        }
        text.push('\n');
    }

    /// How much of the machine others used, so that a reader can judge the figures.
    fn disturbance(&self) -> String {
        let all = self.cells.iter().flat_map(|cell| &cell.rounds);
        let mut shares: Vec<f64> = all.filter_map(|f| f.get("others_cpu").copied()).collect();
        if shares.is_empty() {
            return String::new();
        }
        let middle = median(&mut shares);
        let most = shares[shares.len() * 9 / 10];
        format!(
            "Other processes and the kernel's own threads used {:.0} % of the processors in the median cell, {:.0} % in one \
             of ten.\n",
            100.0 * middle,
            100.0 * most
        )
    }
}

/// Writing to a string cannot fail.
pub fn append(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes every byte");
}

/// A whole number, its thousands apart.
pub fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(us: f64) -> String {
    match us {
        ..0.95 => format!("{:.0} ns", us * 1e3),
        0.95..10.0 => format!("{us:.1} us"),
        10.0..1e3 => format!("{us:.0} us"),
        1e3..1e4 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.1} ms", us / 1e3),
    }
}

fn nanoseconds(ns: f64) -> String {
    time(ns / 1e3)
}

/// Two decimals, or as many as say something.
pub fn ratio(value: f64) -> String {
    match value {
        ..0.1 => format!("{value:.3}"),
        0.1..100.0 => format!("{value:.2}"),
        _ => count(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!([999.0, 1000.0, 1_234_567.0].map(count), ["999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.5, 2.25, 150.0, 2500.0, 1e5].map(time),
            ["500 ns", "2.2 us", "150 us", "2.50 ms", "100.0 ms"]
        );
        assert_eq!([0.019, 1.5, 5000.0].map(ratio), ["0.019", "1.50", "5,000"]);
    }
}
