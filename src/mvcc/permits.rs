//! Permits: how many transactions may be open at once, and who waits until one ends.
//!
//! Owns the permits that no slot of threads has ([`SlotList`](super::slot_list::SlotList) keeps the others), and
//! the waiters. A slot draws some at a time, so that threads which begin and end at the same time do not
//! share a counter. Invariants:
//!
//! 1. Never more transactions are open than may be, as none opens without a permit.
//! 2. None is refused while a permit is left: before that, all slots are looked through, with all of them
//!    locked.
//! 3. Nobody waits while a permit is left: a waiter is counted before he looks, and whoever adds permits
//!    to a slot looks for waiters after that, and gives them back; either sees the other.
//!
//! Waiters are served in no special order.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::mvcc::pins::{Pins, SlotGuard};
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering, SLOT_COUNT};

/// Permits that a slot draws at a time, where there are many.
const DRAWN_COUNT_MAX: u64 = 32;

/// The permits of one store.
#[derive(Debug)]
pub(crate) struct Permits {
    count_max: u64,
    common: AtomicU64,
    waiting_count: AtomicU64,
    waiting: Mutex<()>,
    freed: Condvar,
}

impl Permits {
    pub(crate) fn new(count_max: u64) -> Permits {
        Permits {
            count_max,
            common: AtomicU64::new(count_max),
            waiting_count: AtomicU64::new(0),
            waiting: Mutex::new(()),
            freed: Condvar::new(),
        }
    }

    /// Makes sure that a slot has a permit, and locks it.
    ///
    /// # Errors
    /// - [`Error::TooManyTransactions`]: no slot has one.
    pub(crate) fn locked<'a>(&self, pins: &'a Pins, slot: usize) -> Result<SlotGuard<'a>> {
        let mut guard = pins.lock(slot);
        if guard.slots().permits == 0 {
            let drawn = self.draw();
            if drawn == 0 {
                drop(guard);
                return self.collect(pins, slot);
            }
            guard.slots().permits = drawn;
            self.look_after(&mut guard, 1);
        }
        Ok(guard)
    }

    /// Runs `take` until it is not refused for want of a permit, up to `timeout`. It must not wake.
    pub(crate) fn wait<R>(
        &self,
        timeout: Duration,
        mut take: impl FnMut() -> Result<R>,
    ) -> Result<R> {
        let mut waiting = self.waiting.lock();
        self.waiting_count.fetch_add(1, Ordering::SeqCst);
        let mut result = None;
        let full = |_: &mut ()| is_full(result.insert(take()));
        let ended = self.freed.wait_while_for(&mut waiting, full, timeout);
        let result = match result {
            Some(result) if !ended.timed_out() || !is_full(&result) => result,
            // Once more now that the time is up.
            _ => take(),
        };
        self.waiting_count.fetch_sub(1, Ordering::SeqCst);
        drop(waiting);
        self.wake();
        result
    }

    /// Takes back what a slot has too much of, and all of it while somebody waits. To be called after
    /// permits were added to it; `kept` are about to be used.
    pub(crate) fn look_after(&self, guard: &mut SlotGuard<'_>, kept: u64) {
        let permits = &mut guard.slots().permits;
        let is_awaited = self.waiting_count.load(Ordering::SeqCst) > 0;
        let surplus = match is_awaited {
            true => *permits - kept,
            false if *permits > 2 * self.drawn_count() => *permits - self.drawn_count(),
            false => return,
        };
        *permits -= surplus;
        self.common.fetch_add(surplus, Ordering::SeqCst);
    }

    /// Wakes a waiter, when there is one. To be called with no slot locked, after
    /// [`Permits::look_after`].
    pub(crate) fn wake(&self) {
        if self.waiting_count.load(Ordering::SeqCst) > 0 {
            let _order = self.waiting.lock();
            self.freed.notify_one();
        }
    }

    fn drawn_count(&self) -> u64 {
        (self.count_max / (4 * SLOT_COUNT as u64)).clamp(1, DRAWN_COUNT_MAX)
    }

    /// Takes some of the common permits.
    fn draw(&self) -> u64 {
        let mut drawn = 0;
        let less = |common: u64| {
            drawn = common.min(self.drawn_count());
            (drawn > 0).then(|| common - drawn)
        };
        match self.common.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(_) => drawn,
            Err(_) => 0,
        }
    }

    /// Moves all permits to one slot.
    fn collect<'a>(&self, pins: &'a Pins, slot: usize) -> Result<SlotGuard<'a>> {
        let mut guards: Vec<SlotGuard<'a>> = (0..SLOT_COUNT).map(|slot| pins.lock(slot)).collect();
        let own: u64 =
            guards.iter_mut().map(|guard| std::mem::take(&mut guard.slots().permits)).sum();
        let permits = own + self.common.swap(0, Ordering::SeqCst);
        if permits == 0 {
            return Err(Error::TooManyTransactions { open: self.count_max, max: self.count_max });
        }
        let mut guard = guards.swap_remove(slot);
        guard.slots().permits = permits;
        self.look_after(&mut guard, 1);
        Ok(guard)
    }
}

fn is_full<R>(result: &Result<R>) -> bool {
    matches!(result, Err(Error::TooManyTransactions { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(permits: &Permits, pins: &Pins, slot: usize) -> Result<u32> {
        let mut guard = permits.locked(pins, slot)?;
        Ok(guard.slots().take().expect("there is a permit"))
    }

    #[test]
    fn credits_of_other_slots_are_found_before_anybody_is_refused() {
        for count_max in [1, 2, 3, 100, 1000, 65_536] {
            let (permits, pins) = (Permits::new(count_max), Pins::default());
            for n in 0..count_max {
                let slot = n as usize * 7 % SLOT_COUNT;
                begin(&permits, &pins, slot).expect("one is left");
            }
            let refused = begin(&permits, &pins, 0);
            assert!(matches!(refused, Err(Error::TooManyTransactions { open, max })
                    if open == count_max && max == count_max));
        }
    }
}
