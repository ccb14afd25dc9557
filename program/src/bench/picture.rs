//! The chart of a report: throughput and latency over threads, engine and rooflines.

mod sweep;

use crate::bench::report::{Figures, Report, Row};
use crate::chart::{Chart, Panel, Series, Style};
use crate::size::Size;

const ENGINE: &str = "#0b5fd0";
const ENGINE_TAIL: &str = "#6ea8f7";
const LOOP: &str = "#c2570c";
const LOOP_TAIL: &str = "#eda66b";
const BARE: &str = "#6b7280";

/// Draws the engine alone, a line for each shape, where several shapes have several numbers of
/// threads. Else draws the rows with the first row's shape, beside the rooflines.
pub fn draw(report: &Report) -> Chart {
    let shapes = sweep::shapes(report);
    if shapes.len() > 1 {
        return sweep::draw(report, &shapes);
    }
    let first = report.rows.first();
    let rows: Vec<&Row> = report
        .rows
        .iter()
        .filter(|row| first.is_some_and(|f| (f.size, f.batch) == (row.size, row.batch)))
        .collect();
    let shape = first.map_or(String::new(), |row| match row.batch {
        1 => format!("one {} block each", Size(row.size as u64)),
        batch => format!("{batch} blocks of {} each", Size(row.size as u64)),
    });
    let (kind, what) = match report.durability {
        "durable" => ("Durable commits", "write + fdatasync"),
        _ => ("Buffered commits", "write"),
    };
    let machine = &report.machine;
    let slices = first.map_or(0, |row| row.slices.len());
    Chart {
        title: format!("{kind}, {shape}"),
        subtitle: format!(
            "{} on {}, {} CPUs, Linux {}; medians of {slices} interleaved slices of {} s",
            machine.file_system, machine.device, machine.cpus, machine.kernel, report.seconds
        ),
        caption: format!(
            "{what}: a bare loop into space written before, shared perfectly by all threads.  \
             leader/follower: the textbook group commit, no checksums, no index."
        ),
        panels: vec![throughput(&rows, what), latency_panel(&rows, what)],
    }
}

fn throughput(rows: &[&Row], what: &str) -> Panel {
    let series = |name: &str, color, style, value| series_of_rows(rows, name, color, style, value);
    Panel {
        title: "Commits per second (logarithmic)".into(),
        x_label: "threads".into(),
        y_text: format_thousands,
        series: vec![
            series(what, BARE, Style::Dashed, |m| m.bare_commits_per_s),
            series("leader/follower", LOOP, Style::Plain, |m| m.loop_commits_per_s),
            series("aegis-blocks", ENGINE, Style::Main, |m| m.commits_per_s),
        ],
    }
}

fn latency_panel(rows: &[&Row], what: &str) -> Panel {
    let series = |name: &str, color, style, value| series_of_rows(rows, name, color, style, value);
    Panel {
        title: "Time to acknowledge a commit (logarithmic)".into(),
        x_label: "threads".into(),
        y_text: microseconds,
        series: vec![
            series(what, BARE, Style::Dashed, |m| m.bare_p50_us),
            series("leader/follower p99", LOOP_TAIL, Style::Plain, |m| m.loop_p99_us),
            series("leader/follower p50", LOOP, Style::Plain, |m| m.loop_p50_us),
            series("aegis-blocks p99", ENGINE_TAIL, Style::Plain, |m| m.p99_us),
            series("aegis-blocks p50", ENGINE, Style::Main, |m| m.p50_us),
        ],
    }
}

fn series_of_rows(
    rows: &[&Row],
    name: &str,
    color: &'static str,
    style: Style,
    value: fn(&Figures) -> f64,
) -> Series {
    let mut points: Vec<(f64, f64)> =
        rows.iter().map(|row| (row.threads as f64, value(&row.median))).collect();
    points.retain(|(_, y)| *y > 0.0);
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Series { name: name.into(), color, style, points }
}

fn format_thousands(value: f64) -> String {
    match value {
        ..1000.0 => format!("{value:.0}"),
        1000.0..10_000.0 => trim_number(format!("{:.1}", value / 1e3)) + " k",
        1000.0..1e6 => format!("{:.0} k", value / 1e3),
        _ => trim_number(format!("{:.1}", value / 1e6)) + " M",
    }
}

fn microseconds(value: f64) -> String {
    match value {
        ..1000.0 => format!("{value:.0} \u{b5}s"),
        1000.0..10_000.0 => trim_number(format!("{:.1}", value / 1e3)) + " ms",
        10_000.0..1e6 => format!("{:.0} ms", value / 1e3),
        _ => trim_number(format!("{:.1}", value / 1e6)) + " s",
    }
}

fn trim_number(number: String) -> String {
    number.strip_suffix(".0").map_or(number.clone(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_labels_are_short() {
        let counts = [500.0, 1000.0, 1250.0, 20_000.0, 1e6].map(format_thousands);
        assert_eq!(counts, ["500", "1 k", "1.2 k", "20 k", "1 M"]);
        let times = [50.0, 2000.0, 20_000.0, 5e6].map(microseconds);
        assert_eq!(times, ["50 \u{b5}s", "2 ms", "20 ms", "5 s"]);
    }
}
