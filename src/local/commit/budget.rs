//! The budget: bytes of commits in flight. Callers beyond it wait, so memory stays bounded at any
//! rate of commits.
//!
//! Waiting callers stand in line, first come, first served: a long commit is not overtaken by short
//! ones that would still fit. One atomic word holds the bytes taken and whether a caller waits. So
//! taking bytes that are free needs no lock, nor does releasing bytes while no caller waits.
//!
//! Invariant: while callers stand in line the word has [`WAITED_FOR`], and only the head of the
//! line takes. A thread that releases bytes after that sees it, and admits the callers that fit.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{AtomicU64, Condvar, Mutex, Ordering};

/// Set in the word while a caller stands in line.
const WAITED_FOR: u64 = 1 << 63;

/// Bytes in flight and their limit.
#[derive(Debug)]
pub(crate) struct Budget {
    len_max: u64,
    /// Bytes taken, and [`WAITED_FOR`].
    used: AtomicU64,
    line: Mutex<Line>,
}

/// The waiting callers.
#[derive(Debug, Default)]
struct Line {
    /// The bytes that each wants and its wake-up, in the order of arrival.
    waiting: VecDeque<(u64, Arc<Condvar>)>,
    /// Callers that were admitted.
    let_in_count: u64,
}

impl Budget {
    pub(crate) fn new(len_max: u64) -> Budget {
        Budget { len_max, used: AtomicU64::new(0), line: Mutex::default() }
    }

    /// Takes `len` bytes, and waits until they fit and no caller stands before. A commit larger
    /// than the whole budget fits alone. A caller that has to wait calls `in_line` first, from its
    /// place in the line. Commits submitted after that find the budget [waited
    /// for](Budget::has_waiters).
    pub(crate) fn take_or_wait(&self, len: u64, in_line: impl FnOnce()) {
        if self.take_if_free(len) {
            return;
        }
        let called = Arc::new(Condvar::new());
        let mut line = self.line.lock();
        let number = line.let_in_count + line.waiting.len() as u64;
        line.waiting.push_back((len, Arc::clone(&called)));
        self.used.fetch_or(WAITED_FOR, Ordering::SeqCst);
        // A release just before that woke no caller.
        self.admit_waiters(&mut line);
        drop(line);
        in_line();
        let mut line = self.line.lock();
        while line.let_in_count <= number {
            called.wait(&mut line);
        }
    }

    /// Takes `len` bytes if they fit and no caller waits.
    pub(crate) fn take_if_free(&self, len: u64) -> bool {
        self.add_if_allowed(|used| used & WAITED_FOR == 0 && self.fits_limit(used, len), len)
    }

    /// Takes `len` bytes whether they fit or not, before all waiting callers.
    pub(crate) fn take_over_limit(&self, len: u64) {
        self.used.fetch_add(len, Ordering::SeqCst);
    }

    /// Gives bytes back.
    pub(crate) fn release_bytes(&self, len: u64) {
        let used = self.used.fetch_sub(len, Ordering::SeqCst);
        debug_assert!(used & !WAITED_FOR >= len, "more is given back than was taken");
        if used & WAITED_FOR != 0 {
            self.admit_waiters(&mut self.line.lock());
        }
    }

    /// Whether a caller waits for bytes.
    pub(crate) fn has_waiters(&self) -> bool {
        self.used.load(Ordering::SeqCst) & WAITED_FOR != 0
    }

    /// Bytes taken now.
    pub(crate) fn used_len(&self) -> u64 {
        self.used.load(Ordering::Relaxed) & !WAITED_FOR
    }

    /// Takes bytes for the head of the line while they fit, and wakes those callers.
    fn admit_waiters(&self, line: &mut Line) {
        while let Some((len, _)) = line.waiting.front() {
            if !self.add_if_allowed(|used| self.fits_limit(used & !WAITED_FOR, *len), *len) {
                return;
            }
            line.let_in_count += 1;
            if let Some((_, called)) = line.waiting.pop_front() {
                called.notify_one();
            }
        }
        self.used.fetch_and(!WAITED_FOR, Ordering::SeqCst);
    }

    fn fits_limit(&self, used: u64, len: u64) -> bool {
        used == 0 || used + len <= self.len_max
    }

    /// Adds `len` to the word if that is `allowed`.
    fn add_if_allowed(&self, allowed: impl Fn(u64) -> bool, len: u64) -> bool {
        let add = |used: u64| allowed(used).then_some(used + len);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_waits_and_what_is_larger_than_all_fits_alone() {
        let budget = Budget::new(100);
        assert!(budget.take_if_free(60) && !budget.take_if_free(41) && budget.take_if_free(40));
        assert!(!budget.take_if_free(1) && !budget.take_if_free(1000));
        budget.release_bytes(100);
        assert!(budget.take_if_free(1000) && !budget.take_if_free(1));
        budget.release_bytes(1000);
    }

    #[test]
    fn who_waits_is_told_of_room() {
        let budget = Budget::new(100);
        budget.take_or_wait(100, || panic!("there is room"));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.take_or_wait(1, || {}));
            stands_in_line(&budget, 1);
            assert!(!waiting.is_finished());
            budget.release_bytes(100);
        });
        assert_eq!(budget.used.load(Ordering::SeqCst), 1, "and no caller waits");
    }

    /// Returns when `count` callers stand in line.
    fn stands_in_line(budget: &Budget, count: usize) {
        while budget.line.lock().waiting.len() < count {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_waits_for_much_is_not_overtaken_by_who_wants_little() {
        let (budget, order) = (Budget::new(100), Mutex::new(Vec::new()));
        budget.take_or_wait(60, || {});
        budget.take_or_wait(30, || {});
        std::thread::scope(|scope| {
            let (budget, order) = (&budget, &order);
            for (place, len) in [1000, 50].into_iter().enumerate() {
                scope.spawn(move || {
                    budget.take_or_wait(len, || {});
                    order.lock().push(len);
                    budget.release_bytes(len);
                });
                stands_in_line(budget, place + 1);
            }
            if budget.take_if_free(10) {
                // It fits, and overtakes.
                order.lock().push(10);
                budget.release_bytes(10);
            }
            budget.release_bytes(60);
            assert!(budget.has_waiters() && budget.used_len() == 30, "1000 fit alone");
            budget.release_bytes(30);
        });
        assert_eq!(order.lock()[0], 1000);
        assert!(!budget.has_waiters() && budget.used_len() == 0);
        assert!(budget.take_if_free(10), "no caller waits any more");
    }

    #[test]
    fn thread_that_waits_is_in_line_before_it_looks_for_a_worker() {
        let budget = Budget::new(100);
        budget.take_or_wait(100, || {});
        budget.take_or_wait(1, || {
            assert!(budget.has_waiters());
            budget.release_bytes(100);
        });
        assert_eq!(budget.used_len(), 1);
    }

    #[test]
    fn threads_never_hold_more_than_the_budget_and_none_is_left_waiting() {
        let (budget, held) = (Budget::new(100), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 1..=8_u64 {
                let (budget, held) = (&budget, &held);
                scope.spawn(move || {
                    for round in 0..2000 {
                        let len = 1 + (thread * 31 + round * 17) % 60;
                        budget.take_or_wait(len, || {});
                        assert!(held.fetch_add(len, Ordering::SeqCst) + len <= 100);
                        held.fetch_sub(len, Ordering::SeqCst);
                        budget.release_bytes(len);
                    }
                });
            }
        });
        budget.take_or_wait(1000, || {});
        budget.release_bytes(1000);
        assert_eq!(budget.used.load(Ordering::SeqCst), 0);
    }
}
