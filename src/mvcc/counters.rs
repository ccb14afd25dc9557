//! Counters that many threads raise without waiting for each other.
//!
//! Owns [`Counter`] (one cell a slot, summed when read) and [`Padded`]. What they count is for
//! statistics only: nobody waits or decides by it.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

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
