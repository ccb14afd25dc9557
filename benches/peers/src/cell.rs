//! A cell of a table: one engine under one workload, in a process and a directory of its own.
//!
//! The driver starts this program again with a [`Spec`] as JSON; the process prints its [`Figures`]
//! as one line of JSON and ends. Nothing that one engine leaves in memory or threads meets another.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::closed_loop::{Length, Sample};
use crate::engine::Kind;
use crate::failure::Outcome;
use crate::workloads::reads::Reading;
use crate::workloads::{commits, reads, reopen, space, transfers, views};

/// The work of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Workload {
    /// New blocks, `batch` of `size` bytes in each commit.
    Commit {
        /// Bytes of a block.
        size: usize,
        /// Blocks in a commit.
        batch: usize,
    },
    /// Overwrites of random ones of `ids` blocks of 4 KiB, one a commit.
    Overwrite {
        /// Blocks that exist.
        ids: u64,
    },
    /// Hot random reads of 4 KiB, with `writers` threads that commit 4 KiB each meanwhile.
    Read {
        /// Blocks that exist.
        blocks: u64,
        /// Threads that commit.
        writers: usize,
        /// What readers do with the bytes. JSON of earlier runs does not say: they had one way.
        #[serde(default)]
        reading: Reading,
    },
    /// Opening a store of 4 KiB blocks and reading one.
    Reopen {
        /// Blocks that exist.
        blocks: u64,
        /// Whether the process before ended by `kill -9`, not by closing.
        killed: bool,
    },
    /// Bytes on disk after every one of `blocks` blocks was overwritten `times` times.
    Space {
        /// Blocks that exist.
        blocks: u64,
        /// Overwrites of each.
        times: u64,
    },
    /// Serializable transfers between two random ones of `accounts` blocks of 4 KiB.
    Transfer {
        /// Blocks with a balance.
        accounts: u64,
    },
    /// Begin and drop of a read transaction beside a hot read of 4 KiB.
    View {
        /// Blocks that exist.
        blocks: u64,
    },
}

/// The engine to measure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Name of an engine.
    pub engine: String,
    /// Its work.
    pub workload: Workload,
    /// Threads that do it.
    pub threads: usize,
    /// How long.
    pub seconds: f64,
    /// Instead of a time: so many commits of each thread, without warm-up.
    pub steps: Option<u64>,
    /// An empty directory.
    pub dir: PathBuf,
}

/// Figures by name; the names with their units are the `*_us`, `per_s` ... below and in `report`.
pub type Figures = BTreeMap<String, f64>;

impl Spec {
    /// The engine.
    pub fn kind(&self) -> Outcome<Kind> {
        Kind::named(&self.engine)
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        format!("{} {:?} x{}", self.engine, self.workload, self.threads)
    }

    /// How long a thread goes on.
    pub fn length(&self) -> Length {
        self.steps.map_or(Length::Time(Duration::from_secs_f64(self.seconds)), Length::Steps)
    }

    /// How long it goes on before the clock starts.
    pub fn warm_up(&self) -> Duration {
        match self.steps {
            Some(_) => Duration::ZERO,
            None => Duration::from_secs_f64(self.seconds * 0.25),
        }
    }
}

/// Measures the cell in this process.
pub fn run(spec: &Spec) -> Outcome<Figures> {
    match spec.workload {
        Workload::Commit { size, batch } => commits::append(spec, size, batch),
        Workload::Overwrite { ids } => commits::overwrite(spec, ids),
        Workload::Read { blocks, writers, reading } => reads::run(spec, blocks, writers, reading),
        Workload::Reopen { blocks, killed } => reopen::run(spec, blocks, killed),
        Workload::Space { blocks, times } => space::run(spec, blocks, times),
        Workload::Transfer { accounts } => transfers::run(spec, accounts),
        Workload::View { blocks } => views::run(spec, blocks),
    }
}

/// The figures that every closed loop has; `user_len` is what an operation writes for its user.
pub fn figures(sample: &Sample, user_len: usize) -> Figures {
    let ops = sample.ops.max(1) as f64;
    let quantile = |q| sample.latency.value_at_quantile(q) as f64 / 1e3;
    let others = sample.used.machine_cpu.saturating_sub(sample.used.cpu).as_secs_f64();
    let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    let mut figures = Figures::from([
        ("per_s".into(), sample.per_s()),
        ("p50_us".into(), quantile(0.5)),
        ("p99_us".into(), quantile(0.99)),
        ("p999_us".into(), quantile(0.999)),
        ("max_us".into(), quantile(1.0)),
        ("cpu_us".into(), sample.cpu_us()),
        ("syncs".into(), sample.used.syncs as f64 / ops),
        ("repeats".into(), sample.repeats as f64 / ops),
        ("checked".into(), sample.checked as f64),
        ("others_cpu".into(), others / (sample.elapsed.as_secs_f64() * cores)),
    ]);
    if user_len > 0 {
        let user = ops * user_len as f64;
        figures.insert("write_amplification".into(), sample.used.written as f64 / user);
    }
    figures
}
