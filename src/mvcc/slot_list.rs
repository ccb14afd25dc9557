//! Slot lists: the places of one thread slot's open transactions, and its latest outcomes.
//!
//! Owns [`SlotList`], plain data that its thread slot of the [pins](super::pins) guards. A begin
//! takes a place and a pin, an end gives both back, so one lock serves both. Invariants:
//!
//! 1. A place is taken or free; a free one is reused last in, first out, as its memory is warm.
//! 2. A *permit* is the right to open one more transaction, and none opens without. The permits of
//!    all slots, the common ones ([`Permits`](super::permits::Permits)) and the open transactions
//!    add up to the number that may be open.
//!
//! An outcome is remembered until [`ENDED_COUNT_MAX`] later transactions of its slot have ended. So
//! ended transactions cost a constant, however many there were.

use std::collections::VecDeque;

use crate::mvcc::word::{Phase, Word};

/// Ended transactions that each thread slot remembers.
pub(crate) const ENDED_COUNT_MAX: usize = 1024;

/// The places of one thread slot. A place below `made` is free, or taken by an open transaction, or
/// used up.
#[derive(Debug, Default)]
pub(crate) struct SlotList {
    /// Transactions that may be opened here without asking for more.
    pub(crate) permits: u64,
    pub(crate) open_count: u64,
    pub(crate) rolled_back_count: u64,
    /// Places that were ever taken: those below this one.
    made: u32,
    free: Vec<u32>,
    ended: VecDeque<Word>,
}

impl SlotList {
    /// Takes a place and a permit; `None` without a permit.
    pub(crate) fn take_place(&mut self) -> Option<u32> {
        self.permits = self.permits.checked_sub(1)?;
        self.open_count += 1;
        Some(self.free.pop().unwrap_or_else(|| {
            self.made += 1;
            self.made - 1
        }))
    }

    /// Notes how a transaction ended. Its place is free again, unless it is used up.
    #[inline]
    pub(crate) fn release_place(&mut self, place: u32, ended: Word) {
        debug_assert!(place < self.made, "a place was taken before it is free");
        debug_assert!(self.open_count > 0, "an open transaction ends");
        debug_assert!(!ended.phase().is_open(), "an outcome is remembered");
        self.permits += 1;
        self.open_count -= 1;
        self.rolled_back_count += u64::from(ended.phase() == Phase::RolledBack);
        if self.ended.len() == ENDED_COUNT_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
        debug_assert!(self.ended.len() <= ENDED_COUNT_MAX, "outcomes cost a constant");
        if ended.has_next_serial() {
            self.free.push(place);
        }
    }

    /// How one of the latest transactions ended.
    pub(crate) fn outcome_of(&self, id: u64) -> Option<Phase> {
        // Needed only after a mistake of the caller, so a linear search will do.
        self.ended.iter().rev().find(|word| word.id() == id).map(|word| word.phase())
    }

    /// Places that were ever taken.
    pub(crate) fn made_count(&self) -> u32 {
        self.made
    }

    #[cfg(test)]
    pub(crate) fn remembered_count(&self) -> usize {
        self.ended.len()
    }
}
