//! Charts for the terminal: throughput as bars, group sizes as a histogram, a commit's time in its
//! parts.

use std::fmt::Write;

use crate::bench::report::{Report, Row};
use crate::size::grouped;

const BAR_WIDTH: usize = 48;
const SMALL_BAR_WIDTH: usize = 30;

/// All charts, with their headings.
pub fn draw(report: &Report) -> String {
    let mut out = String::new();
    out += "commits/s of the engine (#) and of the leader/follower loop (-), logarithmic\n";
    let rates = report.rows.iter().flat_map(|row| {
        [row.median.commits_per_s, row.median.loop_commits_per_s].into_iter().filter(|r| *r > 0.0)
    });
    let (low, high) =
        rates.fold((f64::INFINITY, 0.0), |(l, h), r| (f64::min(l, r), f64::max(h, r)));
    for row in &report.rows {
        let m = &row.median;
        let engine = logarithmic(m.commits_per_s, low, high);
        let follower = logarithmic(m.loop_commits_per_s, low, high);
        let rate = grouped(m.commits_per_s.round() as u64);
        push_line(
            &mut out,
            &format_row_name(row),
            &format!("{} {rate}", draw_two_bars(engine, follower)),
        );
    }
    out += "\ntime of a commit, on average: q waiting for its group or for a core, w written, s synced, \
            k published and woken\n";
    for row in &report.rows {
        push_line(&mut out, &format_row_name(row), &draw_time_parts(row));
    }
    out += "\ngroups by the number of their commits\n";
    for row in report.rows.iter().filter(|row| row.threads > 1) {
        draw_histogram(&mut out, row);
    }
    out
}

fn push_line(out: &mut String, name: &str, text: &str) {
    writeln!(out, "{name:>26}  {text}").expect("a string takes every byte");
}

fn format_row_name(row: &Row) -> String {
    let threads = if row.threads == 1 { "thread" } else { "threads" };
    format!("{} {threads} x {}", row.threads, row.shape())
}

/// How long a bar for this value is; the lowest one is short, and no bar for nothing.
fn logarithmic(value: f64, low: f64, high: f64) -> usize {
    if value <= 0.0 || value.is_nan() {
        return 0;
    }
    let share = if high > low { (value / low).ln() / (high / low).ln() } else { 1.0 };
    2 + (share * (BAR_WIDTH - 2) as f64).round() as usize
}

fn draw_two_bars(front: usize, behind: usize) -> String {
    "#".repeat(front) + &"-".repeat(behind.saturating_sub(front))
}

/// The parts of a commit's time, the bar as long as the whole.
fn draw_time_parts(row: &Row) -> String {
    let m = &row.median;
    let times = [('q', m.wait_us), ('w', m.write_us), ('s', m.sync_us), ('k', m.wake_us)];
    let whole: f64 = times.iter().map(|(_, time)| time).sum();
    let (mut bar, mut end, mut said) = (String::new(), 0.0, String::new());
    for (letter, time) in times {
        end += time;
        let to = (end / whole.max(1e-9) * BAR_WIDTH as f64).round() as usize;
        bar.extend(std::iter::repeat_n(letter, to.saturating_sub(bar.len())));
        write!(said, "  {letter} {time:.0}").expect("a string takes every byte");
    }
    format!("{bar:<BAR_WIDTH$}{said} us")
}

fn draw_histogram(out: &mut String, row: &Row) {
    let total: u64 = row.groups.iter().sum();
    let most = row.groups.iter().copied().max().unwrap_or(0).max(1);
    push_line(
        out,
        &format_row_name(row),
        &format!("{} groups, {:.1} commits each", grouped(total), row.median.group),
    );
    for (class, count) in row.groups.iter().enumerate().filter(|(_, count)| **count > 0) {
        let bar = "#".repeat((count * SMALL_BAR_WIDTH as u64).div_ceil(most) as usize);
        let share = 100.0 * *count as f64 / total as f64;
        push_line(
            out,
            &format_size_class(class),
            &format!("{bar:<SMALL_BAR_WIDTH$} {share:5.1} %"),
        );
    }
}

/// Name of a class of sizes (see `StorageStats::group_sizes`).
fn format_size_class(class: usize) -> String {
    let low = 1_u64 << class;
    match class {
        0 => "1".into(),
        _ if class + 1 == aegis_blocks::GROUP_SIZES => format!("{low} and more"),
        _ => format!("{low} to {}", 2 * low - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Figures;

    fn row() -> Row {
        let median = Figures {
            commits_per_s: 1000.0,
            loop_commits_per_s: 2000.0,
            wait_us: 10.0,
            write_us: 10.0,
            sync_us: 20.0,
            wake_us: 8.0,
            group: 2.0,
            ..Figures::default()
        };
        Row { threads: 8, size: 4096, batch: 1, median, slices: vec![], groups: vec![1, 3, 0] }
    }

    #[test]
    fn parts_fill_the_bar_in_proportion() {
        let parts = draw_time_parts(&row());
        let count = |letter| parts.chars().take(BAR_WIDTH).filter(|c| *c == letter).count();
        assert_eq!(['q', 'w', 's', 'k'].map(count), [10, 10, 20, 8]);
    }

    #[test]
    fn histogram_names_classes_and_leaves_empty_ones_out() {
        let mut out = String::new();
        draw_histogram(&mut out, &row());
        assert!(out.contains("8 threads x 4 KiB") && out.contains("25.0 %"), "{out}");
        assert!(
            out.contains("2 to 3") && out.contains("75.0 %") && !out.contains("4 to 7"),
            "{out}"
        );
    }

    #[test]
    fn bars_of_one_value_and_of_none_are_drawn() {
        assert_eq!(logarithmic(5.0, 5.0, 5.0), BAR_WIDTH);
        assert_eq!(logarithmic(0.0, 5.0, 5.0), 0);
        assert_eq!(draw_two_bars(2, 4), "##--");
    }
}
