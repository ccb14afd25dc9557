//! Failures of a benchmark: each ends the cell, and the run names the cell.

use std::path::PathBuf;

/// Why a cell or a run has no figures.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A store returned an error.
    #[error("{engine} failed")]
    Engine {
        /// The store.
        engine: &'static str,
        /// Its own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An acknowledged write is missing, or differs.
    #[error("block {id} does not hold what was acknowledged")]
    Lost {
        /// The block.
        id: u64,
    },
    /// A cell ended without having read back anything, so its figures prove nothing.
    #[error("nothing was read back of {cell}")]
    Unchecked {
        /// Engine, workload and threads.
        cell: String,
    },
    /// Transfers made or destroyed money.
    #[error("{found} units of money instead of {expected}")]
    Money {
        /// The sum paid in.
        expected: u64,
        /// The sum of the accounts afterwards.
        found: u64,
    },
    /// The engine cannot do this; the table shows a dash.
    #[error("{engine} does not offer {what}")]
    Unsupported {
        /// The engine.
        engine: &'static str,
        /// The operation.
        what: &'static str,
    },
    /// No engine or workload has this name.
    #[error("nothing here is called {name:?}")]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// The program was built without this engine.
    #[error("{name} is not built in: it needs {needs}")]
    Absent {
        /// The engine.
        name: &'static str,
        /// What a build with it needs.
        needs: &'static str,
    },
    /// A thread ended by a panic, or another thread's failure ended this one.
    #[error("a thread of the benchmark ended early")]
    Thread,
    /// A cell's process ended without figures.
    #[error("the process of {cell} ended with {status}")]
    Cell {
        /// Engine, workload and threads.
        cell: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// An engine acknowledged commits without a sync for each.
    #[error("{engine} is refused: {per_commit:.2} syncs for each commit of a single thread")]
    Unsynced {
        /// The engine.
        engine: String,
        /// Syncs that strace counted, for each commit.
        per_commit: f64,
    },
    /// The control passed the check of syncs, so the check proves nothing.
    #[error("the control that never syncs was not refused: the check is broken")]
    BlindCheck,
    /// A file or a process could not be used.
    #[error("{what} {}", path.display())]
    Io {
        /// The step that failed.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Figures of another process could not be read.
    #[error("figures are not readable")]
    Json(#[from] serde_json::Error),
}

/// The result of everything here.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// For `map_err` on the calls of a store.
    pub fn of<E>(engine: &'static str) -> impl Fn(E) -> Failure
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |error| Failure::Engine { engine, source: error.into() }
    }

    /// For `map_err` on files.
    pub fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Failure {
        let path = path.into();
        move |source| Failure::Io { what, path, source }
    }
}
