//! Permits: how many transactions may be open at once, and the callers that wait for one to end.
//!
//! Owns the permits that no thread slot has ([`SlotList`](super::slot_list::SlotList) keeps the
//! others), and the waiters. A slot draws some at a time. So threads that begin and end at the same
//! time do not share a counter. Invariants:
//!
//! 1. At most `count_max` transactions are open, as none opens without a permit.
//! 2. No begin is refused while a permit is left. Before a refusal all slots are searched, with all
//!    of them locked.
//! 3. No caller waits while a permit is left. A waiter is counted before it looks for a permit. A
//!    thread that adds permits to a slot looks for waiters after that, and gives the permits back.
//!    Either sees the other.
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
    #[inline]
    pub(crate) fn lock_with_permit<'a>(
        &self,
        pins: &'a Pins,
        slot: usize,
    ) -> Result<SlotGuard<'a>> {
        let mut guard = pins.lock_slot(slot);
        if guard.slot_list().permits > 0 {
            return Ok(guard);
        }
        let drawn = self.draw_common();
        if drawn == 0 {
            drop(guard);
            return self.collect_all_permits(pins, slot);
        }
        guard.slot_list().permits = drawn;
        self.give_back_surplus(&mut guard, 1);
        Ok(guard)
    }

    /// Runs `take` until it is not refused for want of a permit, up to `timeout`. `take` must not
    /// wake a waiter.
    pub(crate) fn wait_for_permit<R>(
        &self,
        timeout: Duration,
        mut take: impl FnMut() -> Result<R>,
    ) -> Result<R> {
        let mut waiting = self.waiting.lock();
        self.waiting_count.fetch_add(1, Ordering::SeqCst);
        let mut result = None;
        let full = |_: &mut ()| is_refused(result.insert(take()));
        let ended = self.freed.wait_while_for(&mut waiting, full, timeout);
        let result = match result {
            Some(result) if !ended.timed_out() || !is_refused(&result) => result,
            // One last try, now that the time is up.
            _ => take(),
        };
        self.waiting_count.fetch_sub(1, Ordering::SeqCst);
        drop(waiting);
        self.wake_waiter();
        result
    }

    /// Takes surplus permits back from a slot, and all of them while a caller waits. Called after
    /// permits were added to the slot; `kept` of them are about to be used.
    pub(crate) fn give_back_surplus(&self, guard: &mut SlotGuard<'_>, kept: u64) {
        let permits = &mut guard.slot_list().permits;
        debug_assert!(kept <= *permits, "the kept permits are in the slot");
        let is_awaited = self.waiting_count.load(Ordering::SeqCst) > 0;
        let surplus = match is_awaited {
            true => *permits - kept,
            false if *permits > 2 * self.drawn_count() => *permits - self.drawn_count(),
            false => return,
        };
        *permits -= surplus;
        self.common.fetch_add(surplus, Ordering::SeqCst);
    }

    /// Wakes a waiter, if there is one. Called with no slot locked, after
    /// [`Permits::give_back_surplus`].
    #[inline]
    pub(crate) fn wake_waiter(&self) {
        if self.waiting_count.load(Ordering::SeqCst) > 0 {
            self.notify_waiter();
        }
    }

    #[cold]
    fn notify_waiter(&self) {
        let _order = self.waiting.lock();
        self.freed.notify_one();
    }

    fn drawn_count(&self) -> u64 {
        (self.count_max / (4 * SLOT_COUNT as u64)).clamp(1, DRAWN_COUNT_MAX)
    }

    /// Takes some of the common permits.
    fn draw_common(&self) -> u64 {
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
    fn collect_all_permits<'a>(&self, pins: &'a Pins, slot: usize) -> Result<SlotGuard<'a>> {
        let mut guards: Vec<SlotGuard<'a>> =
            (0..SLOT_COUNT).map(|slot| pins.lock_slot(slot)).collect();
        let own: u64 =
            guards.iter_mut().map(|guard| std::mem::take(&mut guard.slot_list().permits)).sum();
        let permits = own + self.common.swap(0, Ordering::SeqCst);
        if permits == 0 {
            return Err(Error::TooManyTransactions { open: self.count_max, max: self.count_max });
        }
        debug_assert!(permits <= self.count_max, "permits and open transactions add up");
        let mut guard = guards.swap_remove(slot);
        guard.slot_list().permits = permits;
        self.give_back_surplus(&mut guard, 1);
        Ok(guard)
    }
}

fn is_refused<R>(result: &Result<R>) -> bool {
    matches!(result, Err(Error::TooManyTransactions { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(permits: &Permits, pins: &Pins, slot: usize) -> Result<u32> {
        let mut guard = permits.lock_with_permit(pins, slot)?;
        Ok(guard.slot_list().take_place().expect("there is a permit"))
    }

    #[test]
    fn permits_of_other_slots_are_found_before_a_refusal() {
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
