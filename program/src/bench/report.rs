//! From samples to figures. The [`Figures`] of one slice come from engine and rooflines, measured
//! one right after the other. Those of a [`Row`] are the medians over its slices.
//!
//! Ratios are taken within each slice, where engine and roofline use the same disk in the same
//! seconds. Their median is reported: it need not be the ratio of the medians.

use serde::Serialize;

use crate::bench::engine::EngineSample;
use crate::bench::machine::Machine;
use crate::bench::roofline::{LoopSample, Writes};
use crate::bench::workload::{Sample, Workload};
use crate::size::{Size, grouped};
use crate::table::Table;

/// Everything a run found out; its JSON is the file of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// `durable` or `buffered`.
    pub durability: &'static str,
    /// `direct`, `buffered` or `default`.
    pub write_mode: &'static str,
    /// Length of each slice.
    pub seconds: f64,
    /// Blocks read back after the runs and found as acknowledged.
    pub checked: u64,
    /// One for each number of threads, size and batch.
    pub rows: Vec<Row>,
}

/// Medians of one workload.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Threads that commit at the same time.
    pub threads: usize,
    /// Bytes in a block.
    pub size: usize,
    /// Blocks in a commit.
    pub batch: usize,
    /// The medians.
    pub median: Figures,
    /// Values whose medians they are.
    pub slices: Vec<Figures>,
    /// Groups by size over all slices: of 1 commit, of 2 to 3, of 4 to 7, and so on.
    pub groups: Vec<u64>,
}

macro_rules! figures {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, Serialize)]
        pub struct $name { $($(#[$field_doc])* pub $field: f64,)+ }

        impl $name {
            /// The median of each field on its own.
            pub fn median(all: &[$name]) -> $name {
                $name { $($field: median_of_values(all.iter().map(|one| one.$field).collect()),)+ }
            }
        }
    };
}

figures! {
    /// The figures of one slice, or the medians over slices.
    Figures {
        /// Engine: commits acknowledged in a second.
        commits_per_s,
        /// Engine: user bytes committed in a second, in units of 1 000 000.
        mb_per_s,
        /// Engine: syncs that commits waited for, for each commit.
        syncs_per_commit,
        /// Engine: commits in a group, on average.
        group,
        /// Engine: latency that half of the commits stay within, in microseconds.
        p50_us,
        /// Engine: latency of 99 in 100.
        p99_us,
        /// Engine: latency of 999 in 1000.
        p999_us,
        /// Engine: average time of a commit before its group is written and after it was woken. It
        /// waits for the log, other commits and a core.
        wait_us,
        /// Engine: time in which a commit's group is laid out and written, on average.
        write_us,
        /// Engine: time in which it is synced.
        sync_us,
        /// Engine: time in which it is published and its callers are woken.
        wake_us,
        /// Engine: processor time of a commit, user and system, the benchmark's own included.
        cpu_us,
        /// Engine: bytes written to the log for each user byte.
        write_amplification,
        /// Engine: bytes zeroed ahead during the run for each user byte.
        zeroed_per_byte,
        /// Engine: bytes of space prepared before the first slice of a round.
        prepared_bytes,
        /// Bare loop, shared perfectly: commits in a second.
        bare_commits_per_s,
        /// Bare loop: 1 when the direct writes were the better ones, 0 when the buffered were.
        bare_direct,
        /// Bare loop: latency of half of the commits.
        bare_p50_us,
        /// Bare loop: processor time of a commit.
        bare_cpu_us,
        /// Leader/follower loop: commits in a second.
        loop_commits_per_s,
        /// Leader/follower loop: commits in a group.
        loop_group,
        /// Leader/follower loop: latency of half of the commits.
        loop_p50_us,
        /// Leader/follower loop: latency of 99 in 100.
        loop_p99_us,
        /// Leader/follower loop: processor time of a commit.
        loop_cpu_us,
        /// Engine over bare loop.
        efficiency,
        /// Engine over leader/follower loop.
        over_loop,
    }
}

impl Figures {
    /// Combines the measurements of one slice.
    pub fn new(
        workload: &Workload,
        engine: &EngineSample,
        bare: &(Writes, Sample),
        follower: &LoopSample,
    ) -> Figures {
        let sample = &engine.sample;
        let commits = sample.commits.max(1) as f64;
        let user_bytes = commits * workload.commit_len() as f64;
        let per_s = sample.commits_per_s();
        let phases_us = engine.counted.phases.map(|sum| sum.as_secs_f64() * 1e6 / commits);
        Figures {
            commits_per_s: per_s,
            mb_per_s: per_s * workload.commit_len() as f64 / 1e6,
            syncs_per_commit: engine.counted.log_syncs as f64 / commits,
            group: commits / engine.counted.groups.max(1) as f64,
            p50_us: sample.latency_us(0.5),
            p99_us: sample.latency_us(0.99),
            p999_us: sample.latency_us(0.999),
            wait_us: (sample.latency.mean() / 1e3 - phases_us.iter().sum::<f64>()).max(0.0),
            write_us: phases_us[0],
            sync_us: phases_us[1],
            wake_us: phases_us[2],
            cpu_us: sample.cpu_us(),
            write_amplification: engine.counted.log_bytes as f64 / user_bytes,
            zeroed_per_byte: engine.counted.zeroed_bytes as f64 / user_bytes,
            prepared_bytes: engine.prepared_len as f64,
            bare_commits_per_s: bare.1.commits_per_s(),
            bare_direct: f64::from(u8::from(bare.0 == Writes::Direct)),
            bare_p50_us: bare.1.latency_us(0.5),
            bare_cpu_us: bare.1.cpu_us(),
            loop_commits_per_s: follower.sample.commits_per_s(),
            loop_group: follower.sample.commits as f64 / follower.groups.max(1) as f64,
            loop_p50_us: follower.sample.latency_us(0.5),
            loop_p99_us: follower.sample.latency_us(0.99),
            loop_cpu_us: follower.sample.cpu_us(),
            efficiency: per_s / bare.1.commits_per_s(),
            over_loop: per_s / follower.sample.commits_per_s(),
        }
    }
}

impl Row {
    /// Takes the medians; `slices` is not empty.
    pub fn new(workload: &Workload, slices: Vec<Figures>, groups: Vec<u64>) -> Row {
        let Workload { threads, size, batch, .. } = *workload;
        Row { threads, size, batch, median: Figures::median(&slices), slices, groups }
    }

    /// How the row is called where rows differ in more than their threads.
    pub fn shape(&self) -> String {
        let size = Size(self.size as u64);
        if self.batch == 1 { size.to_string() } else { format!("{} x {size}", self.batch) }
    }
}

/// The middle value, or the mean of the two in the middle.
fn median_of_values(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (half, is_odd) = (values.len() / 2, values.len() % 2 == 1);
    if is_odd { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

impl Report {
    /// The table of results: the engine beside the limits of the disk.
    pub fn result_table(&self) -> Table {
        let mut table = Table::new(&[
            ("", &["threads", "commit"]),
            ("engine", &["commits/s", "MB/s", "p50", "p99", "p999"]),
            ("bare loop", &["commits/s", "efficiency"]),
            ("leader/follower", &["commits/s", "engine is"]),
        ]);
        for row in &self.rows {
            let m = &row.median;
            table.row(vec![
                row.threads.to_string(),
                row.shape(),
                grouped(m.commits_per_s.round() as u64),
                format!("{:.1}", m.mb_per_s),
                format_time(m.p50_us),
                format_time(m.p99_us),
                format_time(m.p999_us),
                grouped(m.bare_commits_per_s.round() as u64),
                format!("{:.0} %", 100.0 * m.efficiency),
                grouped(m.loop_commits_per_s.round() as u64),
                format!("{:.2} x", m.over_loop),
            ]);
        }
        table
    }

    /// The second table: costs of a commit.
    pub fn cost_table(&self) -> Table {
        let mut table = Table::new(&[
            ("", &["threads", "commit"]),
            ("engine", &["syncs/commit", "group", "CPU us", "log bytes", "zeroed", "prepared"]),
            ("bare loop", &["CPU us", "writes"]),
            ("leader/follower", &["group", "CPU us"]),
        ]);
        for row in &self.rows {
            let m = &row.median;
            table.row(vec![
                row.threads.to_string(),
                row.shape(),
                format!("{:.3}", m.syncs_per_commit),
                format!("{:.1}", m.group),
                format!("{:.1}", m.cpu_us),
                format!("{:.3} x", m.write_amplification),
                format!("{:.3} x", m.zeroed_per_byte),
                Size(m.prepared_bytes as u64).to_string(),
                format!("{:.1}", m.bare_cpu_us),
                if m.bare_direct > 0.5 { "direct" } else { "buffered" }.into(),
                format!("{:.1}", m.loop_group),
                format!("{:.1}", m.loop_cpu_us),
            ]);
        }
        table
    }

    /// Explains the table's columns and the steps around the measurements.
    pub fn legend(&self) -> String {
        let sync = if self.durability == "durable" { " + fdatasync" } else { "" };
        format!(
            "bare loop: one thread, one write{sync} for the commits of all threads together, \
             buffered or direct\n\
             leader/follower: the textbook group commit, direct writes{sync}, no checksums, no \
             index\n\
             log bytes, zeroed: written during the run for each user byte; prepared: zeroed \
             before it\n\
             {} acknowledged blocks were read back and compared\n",
            grouped(self.checked),
        )
    }
}

/// A latency with three digits or so.
pub fn format_time(us: f64) -> String {
    match us {
        ..1000.0 => format!("{us:.0} us"),
        1000.0..10_000.0 => format!("{:.2} ms", us / 1e3),
        10_000.0..1e6 => format!("{:.1} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median_of_values(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median_of_values(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median_of_values(vec![7.0]), 7.0);
    }

    #[test]
    fn a_row_takes_the_median_of_each_figure_on_its_own() {
        let workload = Workload { threads: 1, size: 4096, batch: 1, durable: true };
        let slice =
            |commits_per_s, over_loop| Figures { commits_per_s, over_loop, ..Figures::default() };
        let slices = vec![slice(1.0, 9.0), slice(2.0, 7.0), slice(3.0, 8.0)];
        let row = Row::new(&workload, slices, vec![]);
        assert_eq!((row.median.commits_per_s, row.median.over_loop), (2.0, 8.0));
    }

    #[test]
    fn latencies_read_well() {
        let read: Vec<String> = [37.4, 1234.0, 12_340.0, 2_500_000.0].map(format_time).into();
        assert_eq!(read, ["37 us", "1.23 ms", "12.3 ms", "2.50 s"]);
    }
}
