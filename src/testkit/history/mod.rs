//! Histories: operations and reads of transactions as plain data, and a checker of their isolation.
//!
//! Owns the data ([`History`], [`Record`], [`Operation`], [`Outcome`]) and the names of anomalies
//! ([`Anomaly`]). These follow Adya, "Weak Consistency", 1999, and Fekete et al., "A Read-Only
//! Transaction Anomaly Under Snapshot Isolation", 2004. Three parts work on them:
//!
//! - [`Recorder`] stands between a program and a [`StorageBackend`](crate::StorageBackend) and
//!   writes down every call and its answer. Each write carries a value that no other write has.
//! - [`Workload`] is a seeded program for many threads that gets in its own way.
//! - [`check`] judges a history. It knows LSNs and values, and nothing of how a store works.
//!
//! A history says nothing of durability. An error other than those of the contract ends the
//! recording: such a store has no history.
//!
//! # Examples
//! ```
//! use aegis_blocks::MemoryBackend;
//! use aegis_blocks::testkit::history::{Workload, check};
//! let history = Workload { transactions: 500, ..Workload::new(7) }.run(&MemoryBackend::new())?;
//! let verdict = check(&history);
//! assert!(verdict.findings.is_empty(), "{verdict}");
//! # Ok::<(), aegis_blocks::Error>(())
//! ```

mod check;
mod cycles;
mod record;
mod versions;
mod workload;

use std::fmt;

use crate::transaction::IsolationLevel;

pub use check::{FINDING_COUNT_MAX, Verdict, check};
pub use record::{GARBAGE, Recorder, Recording};
pub use workload::Workload;

/// The operations on some blocks of a store, from a moment at which it was at rest and had none of
/// them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The newest LSN at that moment.
    pub base: u64,
    /// In the order in which they ended, as far as that can be told.
    pub transactions: Vec<Record>,
}

/// One transaction, or one call outside any. Moments are ticks of a clock that all threads share.
/// Of two that do not overlap, the earlier ended at a smaller tick than the later began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `None` for a call outside transactions: a single operation or a batch.
    pub isolation: Option<IsolationLevel>,
    /// The moment before it began.
    pub begun: u64,
    /// The moment before its commit was asked for; `u64::MAX` if it never was.
    pub committing: u64,
    /// The moment after its end.
    pub ended: u64,
    /// Where its snapshot is, from the newest LSN known before it began to the newest after. For
    /// [`IsolationLevel::ReadCommitted`], which has none, up to the newest LSN after its last read.
    pub snapshot: Bounds,
    /// In order.
    pub operations: Vec<Operation>,
    /// How it ended.
    pub outcome: Outcome,
}

/// A span of LSNs, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The lowest.
    pub from: u64,
    /// The highest.
    pub to: u64,
}

/// An operation and its observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A block was read.
    Read {
        /// The block.
        id: u64,
        /// The value that it held; `None` where there was no block.
        seen: Option<u64>,
    },
    /// The ids of a range were listed, or one id was found to be there or not.
    Range {
        /// The first id of the range.
        first: u64,
        /// The last id of the range.
        last: u64,
        /// The ids listed.
        seen: Vec<u64>,
    },
    /// A block was written.
    Write {
        /// The block.
        id: u64,
        /// No other write of the history has this value.
        value: u64,
    },
    /// A block was deleted.
    Delete {
        /// The block.
        id: u64,
    },
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its writes took one place in commit order, which is within these bounds.
    Committed(Bounds),
    /// It committed and had nothing to write.
    ReadOnly,
    /// The caller rolled it back, or the store refused it.
    RolledBack,
}

/// A defect of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Anomaly {
    /// Two commits are in one place of commit order.
    SharedLsn,
    /// A value was read that no transaction wrote there.
    Garbage,
    /// A transaction did not read back its own write.
    OwnWriteLost,
    /// A value was read whose writer was rolled back (G1a).
    AbortedRead,
    /// A value was read that its writer replaced before it committed (G1b).
    IntermediateRead,
    /// A value was read before its writer asked for its commit.
    DirtyRead,
    /// A block was read twice with different answers.
    NonRepeatableRead,
    /// Blocks were read as of different moments (read skew, G-single).
    FracturedRead,
    /// A range was listed as of another moment than blocks were read.
    PhantomRead,
    /// All is as of one moment, which is before something acknowledged earlier.
    StaleRead,
    /// All is as of one moment, which is after the transaction's begin.
    LateRead,
    /// Two committed transactions that overlap wrote one block.
    LostUpdate,
    /// Serializable transactions each read what the other overwrote (G2-item).
    WriteSkew,
    /// As write skew, by way of a range that gained or lost a block (G2).
    RangeSkew,
    /// Serializable transactions are in order, except for a read-only transaction.
    ReadOnlyAnomaly,
    /// A cycle of dependencies of another shape.
    Cycle,
    /// A block that a serializable transaction had read was changed before it committed. No cycle
    /// came of it, but commit order is not the serial order.
    UnvalidatedRead,
}

/// An anomaly, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The defect.
    pub anomaly: Anomaly,
    /// The transactions involved, as indices into [`History::transactions`]. The first is the
    /// transaction with the wrong read or write. Of a cycle all, in order, from the first of two
    /// anti-dependencies in a row.
    pub transactions: Vec<usize>,
    /// The block at which it shows.
    pub id: Option<u64>,
}

impl Record {
    /// Whether it committed, with or without something to write.
    pub fn is_committed(&self) -> bool {
        self.outcome != Outcome::RolledBack
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of transactions {:?}", self.anomaly, self.transactions)?;
        self.id.map_or(Ok(()), |id| write!(f, " at block {id}"))
    }
}
