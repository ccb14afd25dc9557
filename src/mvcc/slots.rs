//! Slots: how many transactions may be open at once, and who waits until one ends.
//!
//! Owns the count of open transactions. Invariant: never more are taken than there are. A waiter is
//! counted before it looks, and whoever frees a slot looks for waiters after that: either sees the
//! other. Waiters are served in no special order.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering};

/// The slots of one store.
#[derive(Debug)]
pub(crate) struct Slots {
    count_max: u64,
    taken: AtomicU64,
    waiting_count: AtomicU64,
    waiting: Mutex<()>,
    freed: Condvar,
}

impl Slots {
    pub(crate) fn new(count_max: u64) -> Slots {
        Slots {
            count_max,
            taken: AtomicU64::new(0),
            waiting_count: AtomicU64::new(0),
            waiting: Mutex::new(()),
            freed: Condvar::new(),
        }
    }

    /// Takes a slot if one is free.
    ///
    /// # Errors
    /// - [`Error::TooManyTransactions`]: none is.
    pub(crate) fn try_take(&self) -> Result<()> {
        let more = |taken: u64| (taken < self.count_max).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .map(|_| ())
            .map_err(|open| Error::TooManyTransactions { open, max: self.count_max })
    }

    /// Takes a slot, waiting up to `timeout` for one.
    ///
    /// # Errors
    /// - [`Error::TooManyTransactions`]: none was free in time.
    pub(crate) fn take_within(&self, timeout: Duration) -> Result<()> {
        let mut waiting = self.waiting.lock();
        self.waiting_count.fetch_add(1, Ordering::SeqCst);
        let mut result = Ok(());
        let full = |_: &mut ()| {
            result = self.try_take();
            result.is_err()
        };
        let ended = self.freed.wait_while_for(&mut waiting, full, timeout);
        if ended.timed_out() {
            result = self.try_take();
        }
        self.waiting_count.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Gives a slot back.
    pub(crate) fn free(&self) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
        if self.waiting_count.load(Ordering::SeqCst) > 0 {
            let _order = self.waiting.lock();
            self.freed.notify_one();
        }
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_never_hold_more_than_there_are_and_nobody_is_left_waiting() {
        let (slots, held) = (Slots::new(3), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        slots.take_within(Duration::MAX).expect("it waits for ever");
                        assert!(held.fetch_add(1, Ordering::SeqCst) < 3);
                        held.fetch_sub(1, Ordering::SeqCst);
                        slots.free();
                    }
                });
            }
        });
        assert_eq!(slots.taken(), 0);
    }

    #[test]
    fn who_gets_no_slot_in_time_is_told_how_many_are_taken() {
        let slots = Slots::new(1);
        slots.try_take().expect("free");
        for refused in [slots.try_take(), slots.take_within(Duration::from_micros(1))] {
            assert!(matches!(refused, Err(Error::TooManyTransactions { open: 1, max: 1 })));
        }
        slots.free();
        slots.take_within(Duration::ZERO).expect("free again");
    }
}
