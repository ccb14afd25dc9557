//! Counters that many threads raise without waiting for each other.
//!
//! Owns [`Counter`] (one cell a thread slot, summed when read), [`Padded`], and [`Counters`], those
//! of a store. They are for statistics only: no thread waits or decides by them.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mvcc::version::VersionLen;
use crate::sync::{SLOT_COUNT, thread_slot};

/// Keeps a value on cache lines of its own (two, for processors that fetch in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A sum that every thread adds to in its own cell.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    cells: [Padded<AtomicU64>; SLOT_COUNT],
}

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.cells[thread_slot()].fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.cells.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }
}

/// Statistics that callers and the publisher raise.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) deletes: Counter,
    pub(crate) commits: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) blocks_added: Counter,
    pub(crate) blocks_removed: Counter,
    pub(crate) bytes_added: Counter,
    pub(crate) bytes_removed: Counter,
}

/// The effect of a group of changes on the totals.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pub(crate) writes: u64,
    pub(crate) deletes: u64,
    removed: u64,
    bytes_added: u64,
    bytes_removed: u64,
}

impl Delta {
    pub(crate) fn count_change<V: VersionLen>(&mut self, old: Option<&V>, new: Option<&V>) {
        self.writes += u64::from(new.is_some());
        self.deletes += u64::from(new.is_none());
        self.removed += u64::from(old.is_some());
        self.bytes_added += new.map_or(0, V::payload_len);
        self.bytes_removed += old.map_or(0, V::payload_len);
    }
}

impl Counters {
    /// Adds recovered totals: committed blocks and the sum of their payload lengths.
    pub(crate) fn add_recovered_totals(&self, blocks: u64, bytes: u64) {
        self.blocks_added.add(blocks);
        self.bytes_added.add(bytes);
    }

    pub(crate) fn add_delta(&self, delta: &Delta) {
        self.blocks_added.add(delta.writes);
        self.blocks_removed.add(delta.removed);
        self.bytes_added.add(delta.bytes_added);
        self.bytes_removed.add(delta.bytes_removed);
    }
}
