//! State that the threads of a store share beside the log.
use crate::local::commit::budget::Budget;
use crate::local::commit::phases::Phases;
use crate::local::format::location::Location;
use crate::local::poison::Poison;
use crate::local::read::recent::Recent;
use crate::local::space::presence::Presence;
use crate::local::space::usage::Usage;
use crate::local::stall::StallLog;
use crate::local::wake::WakeUp;
use crate::mvcc::Mvcc;
use crate::sync::{AtomicBool, AtomicU64, Mutex};
use std::sync::Arc;

/// The last sync of the log, which groups that it covers need not repeat.
#[derive(Debug, Default)]
pub(crate) struct LastSync {
    /// Sequence of the segment, if it synced only one.
    pub(crate) segment: Option<u64>,
    /// The [`Shared::write_count`] when it began: it covers these writes to the segment.
    pub(crate) write_count: u64,
}

/// State that the log shares with callers and workers.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) mvcc: Mvcc<Location>,
    pub(crate) poison: Arc<Poison>,
    pub(crate) presence: Presence,
    pub(crate) budget: Budget,
    pub(crate) recent: Recent,
    /// Held while the log is synced.
    pub(crate) sync_turn: Mutex<LastSync>,
    /// Group writes that have ended and are to be synced.
    pub(crate) write_count: AtomicU64,
    pub(crate) durable: AtomicU64,
    pub(crate) groups: AtomicU64,
    /// Groups that started while another one was being written.
    pub(crate) overlapped: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) written_len: AtomicU64,
    /// Bytes of groups with commits of users: neither relocations alone nor marks.
    pub(crate) user_len: AtomicU64,
    /// Sequence of the last segment that a commit of a user reached, or that was there at open.
    pub(crate) user_sequence: AtomicU64,
    pub(crate) phases: Phases,
    pub(crate) usage: Usage,
    pub(crate) stalls: Arc<StallLog>,
    /// Log bytes after which maintenance checks the store.
    pub(crate) look_every: u64,
    /// A write found no space; relocating live blocks may free some.
    pub(crate) reclaim_wanted: AtomicBool,
    /// Wakes the maintenance thread.
    pub(crate) wake_up: WakeUp,
}
