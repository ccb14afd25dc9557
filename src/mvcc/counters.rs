//! Counters that many threads raise without waiting for each other.
//!
//! Owns [`Counter`] (one cell a slot, summed when read), [`Padded`] and [`thread_slot`], which gives
//! each thread the slot it keeps.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Slots that threads are spread over; more threads than this share.
pub(crate) const SLOT_COUNT: usize = 16;

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

/// The calling thread's slot, below [`SLOT_COUNT`].
pub(crate) fn thread_slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SLOT: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SLOT_COUNT);
    }
    SLOT.with(Cell::get)
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
