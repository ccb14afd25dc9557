//! The figures of all sizes as Markdown: a table of medians, and the losses of the largest store.

use serde::Serialize;

use crate::cell::Figures;
use crate::growth::SEED;
use crate::growth::store::{CROWD, SMALL_LEN};
use crate::report::{Column, append, count, ratio};
use crate::workloads::views::median;

/// A size and its figures.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Blocks that the store was filled with.
    pub blocks: u64,
    /// One entry a round.
    pub rounds: Vec<Figures>,
}

/// A finished run.
pub struct Table {
    /// From the first size to the last one.
    pub rows: Vec<Row>,
    /// How long a clock ran.
    pub seconds: f64,
}

const COLUMNS: &[Column] = &[
    ("open after a close, ms", "open_closed_ms", ratio),
    ("open after a kill, ms", "open_killed_ms", ratio),
    ("log it read, MiB", "replayed_mib", count),
    ("commits/s, 64 threads", "commit_per_s", count),
    ("written / user bytes", "commit_write_amplification", ratio),
    ("hot reads/s, 1 thread", "read_per_s", count),
    ("index heap, bytes a block", "index_bytes_a_block", ratio),
    ("checkpoint, bytes a block", "checkpoint_bytes_a_block", ratio),
    ("on disk, MiB", "disk_mib", count),
];

/// Allowed loss of the last size against the first one: the figure, its name, the least ratio.
const KEPT: &[(&str, &str, f64)] =
    &[("commits/s", "commit_per_s", 0.9), ("hot reads/s", "read_per_s", 0.75)];

/// Milliseconds of an open after a close, for every size.
const OPEN_CLOSED_MS_MAX: f64 = 3.0;

const _: () = assert!(CROWD == 64, "a head of a column says so");

impl Row {
    /// The median over rounds of one figure.
    pub fn value(&self, name: &str) -> f64 {
        let values = self.rounds.iter().filter_map(|figures| figures.get(name).copied());
        median(&mut values.collect::<Vec<_>>())
    }
}

impl Table {
    /// The table, and the ratios below it.
    pub fn to_markdown(&self) -> String {
        let rounds = self.rows.iter().map(|row| row.rounds.len()).min().unwrap_or_default();
        let mut text = format!(
            "Blocks of {SMALL_LEN} bytes, overwritten with 4 KiB; medians of {rounds} interleaved rounds, {} s a \
             clock; seed {SEED:#x}.\n\n",
            self.seconds
        );
        let heads: Vec<&str> = COLUMNS.iter().map(|column| column.0).collect();
        append(&mut text, format_args!("| blocks | {} |\n", heads.join(" | ")));
        append(&mut text, format_args!("|---:|{}\n", "---:|".repeat(heads.len())));
        for row in &self.rows {
            let cell = |column: &Column| column.2(row.value(column.1));
            let cells: Vec<String> = COLUMNS.iter().map(cell).collect();
            append(
                &mut text,
                format_args!("| {} | {} |\n", count(row.blocks as f64), cells.join(" | ")),
            );
        }
        if let [first, .., last] = &self.rows[..] {
            self.compare(&mut text, first, last);
        }
        text
    }

    fn compare(&self, text: &mut String, first: &Row, last: &Row) {
        append(
            text,
            format_args!(
                "\n| {} blocks over {} | median (least to most) | goal | reached |\n|---|---:|---|---|\n",
                count(last.blocks as f64),
                count(first.blocks as f64)
            ),
        );
        for (noun, name, least) in KEPT {
            let (middle, range) = ratios(first, last, name);
            let reached = yes(middle >= *least);
            append(text, format_args!("| {noun} | {range} | at least {least:.2} | {reached} |\n"));
        }
        let (_, range) = ratios(first, last, "open_closed_ms");
        append(text, format_args!("| open after a close | {range} | flat | |\n"));
        let open_ms = self.rows.iter().map(|row| row.value("open_closed_ms")).fold(0.0, f64::max);
        append(
            text,
            format_args!(
                "| open after a close, slowest size | {open_ms:.2} ms | at most {OPEN_CLOSED_MS_MAX} ms | {} |\n",
                yes(open_ms <= OPEN_CLOSED_MS_MAX)
            ),
        );
    }
}

/// The last size's figure over the first one's within each round: the median, and all as text.
fn ratios(first: &Row, last: &Row, name: &str) -> (f64, String) {
    let pairs = first.rounds.iter().zip(&last.rounds);
    let ratio = |(first, last): (&Figures, &Figures)| Some(last.get(name)? / first.get(name)?);
    let mut ratios: Vec<f64> = pairs.filter_map(ratio).collect();
    let middle = median(&mut ratios);
    let mut text = format!("{middle:.3}");
    if let [least, .., most] = ratios[..] {
        // Sorted by the median.
        append(&mut text, format_args!(" ({least:.3} to {most:.3})"));
    }
    (middle, text)
}

fn yes(is_reached: bool) -> &'static str {
    if is_reached { "yes" } else { "**no**" }
}

/// A turn in one line, while the run goes on.
pub fn brief(blocks: u64, figures: &Figures) -> String {
    let names =
        COLUMNS.iter().map(|column| column.1).chain(["commit_others_cpu", "read_others_cpu"]);
    let text = |name| figures.get(name).map(|value| format!("  {name} {value:.2}"));
    format!("{blocks} blocks:{}", names.filter_map(text).collect::<String>())
}
