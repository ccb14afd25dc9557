//! A synchronous, crash-safe, transactional block store for programs that have threads and no async
//! runtime.
//!
//! A store keeps blocks (a `u64` id, a small header, opaque bytes) in an append-only log, lets many
//! threads read and write them through a blocking API, and commits groups of changes atomically.
//! Concurrent commits share one `fdatasync`.
//!
//! - [`StorageBackend`]: the contract.
//! - [`MemoryBackend`], [`LocalBackend`]: the two backends.
//! - [`Error`]: one variant per decision that the caller makes.
//! - `testkit` (feature of the same name): the contract as a suite that any backend can be held to.

pub mod io;

mod backend;
mod block;
mod callback;
mod checksum;
mod durability;
mod error;
#[cfg(test)]
#[path = "../tests/inside/mod.rs"]
mod inside;
mod local;
mod memory;
mod mvcc;
mod order;
mod stats;
mod sync;
#[cfg(feature = "testkit")]
pub mod testkit;
mod thread_pool;
mod ticket;
mod transaction;
mod unheard;

pub use backend::StorageBackend;
pub use block::{
    Block, BlockHeader, BlockId, BlockType, Compression, Encryption, Lsn, TransactionId,
};
pub use durability::Durability;
pub use error::{
    Defect, Error, IoOp, NotAStoreReason, Place, PoisonCause, Resource, Result, SnapshotLimit,
    SpaceLimit, TransactionState,
};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use local::fuzz;
pub use local::{
    BackupCheck, BackupReport, CompactionEnd, CompactionReport, CopyProgress, Damage, LocalBackend,
    Loss, OlderVersion, OpenPhase, OpenProgress, Options, Probe, ReadMode, RecoveryReport,
    RepairReport, SalvageReport, SpaceReport, VerifyReport, WriteMode,
};
pub use memory::{MemoryBackend, MemoryOptions};
pub use mvcc::turn::Turns;
pub use order::ScanOrder;
pub use stats::{GROUP_SIZES, OldestSnapshot, Stall, StallCause, Stalls, StorageStats};
pub use ticket::CommitTicket;
pub use transaction::{
    BEGIN_WAIT_MAX, BatchOperation, Blocks, Ids, IsolationLevel, Savepoint, ScanMark, ScanPage,
    Snapshot, StorageExt, TRANSACT_TRIES_MAX, Transaction, WriteBatch,
};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
