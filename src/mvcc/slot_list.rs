//! SlotList: where one slot of threads keeps its open transactions, and how its latest ones ended.
//!
//! Owns [`SlotList`], plain data that its slot of the [pins](super::pins) guards: a begin takes a place and
//! a pin, an end gives both back, so one lock serves both. Invariants:
//!
//! 1. A place is taken or free; a free one is reused last in, first out, as its memory is warm.
//! 2. A *permit* is the right to open one more transaction. Nobody opens one without, and the permits of
//!    all slots, the common ones ([`Permits`](super::permits::Permits)) and the open transactions add up
//!    to the number that may be open.
//!
//! An outcome is remembered until [`ENDED_COUNT_MAX`] later ones of its slot have ended. So ended
//! transactions cost a constant, however many there were.

use std::collections::VecDeque;

use crate::mvcc::word::{Phase, Word};

/// Ended transactions that each slot of threads remembers.
pub(crate) const ENDED_COUNT_MAX: usize = 1024;

/// The places of one slot of threads.
#[derive(Debug, Default)]
pub(crate) struct SlotList {
    /// Transactions that may be opened here without asking for more.
    pub(crate) permits: u64,
    pub(crate) open_count: u64,
    pub(crate) rolled_back_count: u64,
    /// SlotList that were ever taken: those below this one.
    made: u32,
    free: Vec<u32>,
    ended: VecDeque<Word>,
}

impl SlotList {
    /// Takes a place for the price of a permit; `None` without one.
    pub(crate) fn take(&mut self) -> Option<u32> {
        self.permits = self.permits.checked_sub(1)?;
        self.open_count += 1;
        Some(self.free.pop().unwrap_or_else(|| {
            self.made += 1;
            self.made - 1
        }))
    }

    /// Notes how a transaction ended. Its place is free again, unless it is used up.
    #[inline]
    pub(crate) fn give_back(&mut self, place: u32, ended: Word) {
        self.permits += 1;
        self.open_count -= 1;
        self.rolled_back_count += u64::from(ended.phase() == Phase::RolledBack);
        if self.ended.len() == ENDED_COUNT_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
        if ended.has_next() {
            self.free.push(place);
        }
    }

    /// How one of the latest transactions ended.
    pub(crate) fn outcome(&self, id: u64) -> Option<Phase> {
        // Asked after a mistake of the caller's only, so it may take its time.
        self.ended.iter().rev().find(|word| word.id() == id).map(|word| word.phase())
    }

    /// SlotList that were ever taken.
    pub(crate) fn made(&self) -> u32 {
        self.made
    }

    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.ended.len()
    }
}
