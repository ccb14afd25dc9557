//! The chart of a sweep: the engine over threads, a line for each shape of commit.

use super::{format_thousands, microseconds, series_of_rows};
use crate::bench::report::{Figures, Report, Row};
use crate::chart::{Chart, Panel, Series, Style};

const COLORS: [&str; 6] = ["#0b5fd0", "#c2570c", "#1a7f37", "#8250df", "#bf3989", "#6b7280"];

/// Bytes and blocks of a commit.
type Shape = (usize, usize);

/// The shapes that have several numbers of threads, in the order of their rows.
pub fn shapes(report: &Report) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Vec::new();
    for row in &report.rows {
        let shape = (row.size, row.batch);
        let rows = report.rows.iter().filter(|row| (row.size, row.batch) == shape).count();
        if rows > 1 && !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

/// Draws a line for each of these shapes.
pub fn draw(report: &Report, shapes: &[Shape]) -> Chart {
    let machine = &report.machine;
    let panel = |title: &str, y_text, value: fn(&Figures) -> f64| Panel {
        title: title.into(),
        x_label: "threads".into(),
        y_text,
        series: series_by_shape(report, shapes, value),
    };
    Chart {
        title: format!("aegis-blocks, {} commits by size", report.durability),
        subtitle: format!(
            "{} on {}, {} CPUs, Linux {}; medians of slices of {} s",
            machine.file_system, machine.device, machine.cpus, machine.kernel, report.seconds
        ),
        caption: "The engine alone; the tables have bare and leader/follower loops beside it."
            .into(),
        panels: vec![
            panel("Commits per second (logarithmic)", format_thousands, |m| m.commits_per_s),
            panel("p99 of a commit (logarithmic)", microseconds, |m| m.p99_us),
        ],
    }
}

fn series_by_shape(report: &Report, shapes: &[Shape], value: fn(&Figures) -> f64) -> Vec<Series> {
    let of = |(shape, color): (&Shape, &'static str)| {
        let matching = report.rows.iter().filter(|row| (row.size, row.batch) == *shape);
        let rows: Vec<&Row> = matching.collect();
        let name = rows.first().map_or(String::new(), |row| row.shape());
        series_of_rows(&rows, &name, color, Style::Plain, value)
    };
    shapes.iter().zip(COLORS.into_iter().cycle()).map(of).collect()
}
