//! The budget: bytes of commits on their way to the disk. Callers beyond it wait, so that memory
//! stays flat however fast they come.

use crate::sync::{AtomicU64, Condvar, Mutex, Ordering};

/// Bytes in flight and their limit.
#[derive(Debug)]
pub(crate) struct Budget {
    len_max: u64,
    used: AtomicU64,
    waiting_count: AtomicU64,
    waiting: Mutex<()>,
    released: Condvar,
}

impl Budget {
    pub(crate) fn new(len_max: u64) -> Budget {
        Budget {
            len_max,
            used: AtomicU64::new(0),
            waiting_count: AtomicU64::new(0),
            waiting: Mutex::new(()),
            released: Condvar::new(),
        }
    }

    /// Takes `len` bytes, waiting until they fit. What is larger than the whole budget fits alone.
    pub(crate) fn take(&self, len: u64) {
        if self.try_take(len) {
            return;
        }
        let mut waiting = self.waiting.lock();
        self.waiting_count.fetch_add(1, Ordering::SeqCst);
        while !self.try_take(len) {
            self.released.wait(&mut waiting);
        }
        self.waiting_count.fetch_sub(1, Ordering::SeqCst);
    }

    /// Gives bytes back.
    pub(crate) fn release(&self, len: u64) {
        self.used.fetch_sub(len, Ordering::SeqCst);
        // Either we see the waiter counted, or its attempt after counting sees these bytes free.
        if self.waiting_count.load(Ordering::SeqCst) > 0 {
            let _order = self.waiting.lock();
            self.released.notify_all();
        }
    }

    /// Bytes taken now.
    pub(crate) fn used_len(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn try_take(&self, len: u64) -> bool {
        let fits = |used: u64| (used == 0 || used + len <= self.len_max).then_some(used + len);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_waits_and_what_is_larger_than_all_fits_alone() {
        let budget = Budget::new(100);
        assert!(budget.try_take(60) && !budget.try_take(41) && budget.try_take(40));
        assert!(!budget.try_take(1) && !budget.try_take(1000));
        budget.release(100);
        assert!(budget.try_take(1000) && !budget.try_take(1));
        budget.release(1000);
    }

    #[test]
    fn who_waits_is_told_of_room() {
        let budget = Budget::new(100);
        budget.take(100);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.take(1));
            while budget.waiting_count.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            // The waiter sleeps or is about to: under its lock it looked, and found nothing.
            drop(budget.waiting.lock());
            assert!(!waiting.is_finished());
            budget.release(100);
        });
        assert_eq!(budget.used.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn threads_never_hold_more_than_the_budget_and_nobody_is_left_waiting() {
        let (budget, held) = (Budget::new(100), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 1..=8_u64 {
                let (budget, held) = (&budget, &held);
                scope.spawn(move || {
                    for round in 0..2000 {
                        let len = 1 + (thread * 31 + round * 17) % 60;
                        budget.take(len);
                        assert!(held.fetch_add(len, Ordering::SeqCst) + len <= 100);
                        held.fetch_sub(len, Ordering::SeqCst);
                        budget.release(len);
                    }
                });
            }
        });
        budget.take(1000);
        budget.release(1000);
        assert_eq!(budget.used.load(Ordering::SeqCst), 0);
    }
}
