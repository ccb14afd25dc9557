//! The chart of a run: throughput and opening times over the number of blocks.

use crate::chart::{Chart, Panel, Series, Style};
use crate::growth::table::Table;
use crate::picture::{microseconds, per_second};

/// Draws both panels.
pub fn draw(table: &Table) -> String {
    let rounds = table.rows.iter().map(|row| row.rounds.len()).min().unwrap_or_default();
    let panel = |title: &str, y_text, series| Panel {
        title: title.into(),
        x_label: "thousands of blocks in the store (logarithmic)".into(),
        y_text,
        series,
    };
    let chart = Chart {
        title: "aegis-blocks as it grows".into(),
        subtitle: format!(
            "blocks of 16 bytes, overwritten with 4 KiB each; medians of {rounds} rounds, sizes interleaved"
        ),
        caption: "Commits: 64 threads, durable, one random block each.  Reads: one thread among 10,000 hot blocks spread \
                  over all ids.  After a kill: about 64 MiB of log to read."
            .into(),
        panels: vec![
            panel(
                "Operations per second (logarithmic)",
                per_second,
                vec![
                    series(table, "hot reads", "#0f766e", "read_per_s", 1.0),
                    series(table, "commits", "#0b5fd0", "commit_per_s", 1.0),
                ],
            ),
            panel(
                "Opening and one read (logarithmic)",
                microseconds,
                vec![
                    series(table, "after a kill", "#b42318", "open_killed_ms", 1e3),
                    series(table, "after a close", "#0b5fd0", "open_closed_ms", 1e3),
                ],
            ),
        ],
    };
    chart.to_svg()
}

fn series(table: &Table, name: &str, color: &'static str, figure: &str, scale: f64) -> Series {
    let mut points: Vec<(f64, f64)> = table
        .rows
        .iter()
        .map(|row| (row.blocks as f64 / 1e3, row.value(figure) * scale))
        .filter(|point| point.1 > 0.0)
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Series { name: name.into(), color, style: Style::Main, points }
}
