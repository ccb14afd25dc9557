//! Charts: throughput and the 99th percentile over threads, for every sheet that commits at
//! several numbers of threads.

use crate::cell::Workload;
use crate::chart::{Chart, Panel, Series, Style};
use crate::plan::Sheet;
use crate::report::Report;

/// Lines that are drawn, with their colours: stores in full, group commits by hand beside their
/// engine, one bare limit. More would hide one another.
const LINES: &[(&str, &str, Style)] = &[
    ("prewritten+group", "#6b7280", Style::Dashed),
    ("sqlite", "#8a6d3b", Style::Plain),
    ("redb", "#b42318", Style::Plain),
    ("lmdb", "#0f766e", Style::Plain),
    ("lmdb+group", "#14a89d", Style::Plain),
    ("fjall", "#7c3aed", Style::Plain),
    ("rocksdb", "#a21caf", Style::Plain),
    ("canopydb", "#c2570c", Style::Plain),
    ("leveldb", "#4d7c0f", Style::Plain),
    ("wiredtiger", "#db2777", Style::Plain),
    ("aegis-prepared", "#0b5fd0", Style::Dashed),
    ("aegis-blocks", "#0b5fd0", Style::Main),
];

/// The charts of a report, by sheet.
pub fn draw(report: &Report) -> Vec<(&'static str, String)> {
    let is_sweep = |sheet: &&Sheet| {
        sheet.threads.len() > 1 && matches!(sheet.workload, Workload::Commit { .. })
    };
    let sweeps = report.sheets.iter().filter(is_sweep);
    sweeps
        .map(|sheet| (sheet.name, chart(report, sheet.name, &sheet.title, &sheet.threads).to_svg()))
        .collect()
}

fn chart(report: &Report, sheet: &str, title: &str, threads: &[usize]) -> Chart {
    let rounds = report.cells.iter().map(|cell| cell.rounds.len()).min().unwrap_or_default();
    let panel = |title: &str, figure, y_text| Panel {
        title: title.into(),
        x_label: "threads".into(),
        y_text,
        series: lines(report, sheet, threads, figure),
    };
    Chart {
        title: title.into(),
        subtitle: format!(
            "strictest durability of each; every point a fresh store in its own process, median of {rounds} interleaved rounds"
        ),
        caption: "prewritten+group: bare leader/follower loop, no index, no checksums.  aegis-prepared: into space made \
                  before, as that loop.  lmdb+group: LMDB behind one writer thread that batches callers."
            .into(),
        panels: vec![
            panel("Commits per second (logarithmic)", "per_s", per_second),
            panel("99th percentile of a commit (logarithmic)", "p99_us", microseconds),
        ],
    }
}

fn lines(report: &Report, sheet: &str, threads: &[usize], figure: &str) -> Vec<Series> {
    let series = |(name, color, style): &(&str, &'static str, Style)| {
        let point = |threads: &usize| {
            let value = report.value(sheet, name, *threads, figure)?;
            (value > 0.0).then_some((*threads as f64, value))
        };
        Series {
            name: (*name).into(),
            color,
            style: *style,
            points: threads.iter().filter_map(point).collect(),
        }
    };
    LINES.iter().map(series).filter(|series| !series.points.is_empty()).collect()
}

/// A rate on an axis.
pub fn per_second(value: f64) -> String {
    match value {
        ..1000.0 => format!("{value:.0}"),
        1000.0..10_000.0 => format!("{:.1} k", value / 1e3),
        1e6.. => format!("{:.1} M", value / 1e6),
        _ => format!("{:.0} k", value / 1e3),
    }
}

/// A time on an axis.
pub fn microseconds(value: f64) -> String {
    match value {
        ..1000.0 => format!("{value:.0} \u{b5}s"),
        1000.0..10_000.0 => format!("{:.1} ms", value / 1e3),
        _ => format!("{:.0} ms", value / 1e3),
    }
}
