//! Locks and condition variables: those of the standard library, without poisoning.
//!
//! Owns the shape in which this crate uses them: `lock` returns a guard, a condition variable
//! borrows it, and a panic poisons nothing, since poisoning is the store's own decision. All state
//! of a lock lies in the lock. That is why they are not parking_lot's, whose waiters stand in a
//! table of the process: a forked child inherits it with threads that it does not have
//! (docs/decisions/0020).
//!
//! The model checkers' tests compile this file over their own primitives. The counter of waiters is
//! the standard library's there, too: it changes under a lock that the checkers know.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use super::{now, primitives};

/// A lock for one thread at a time.
#[derive(Default)]
pub(crate) struct Mutex<T>(primitives::Mutex<T>);

/// Holds a [`Mutex`] until it is dropped.
///
/// `None` only while a condition variable or [`Mutex::unlocked`] has let go of it.
pub(crate) struct MutexGuard<'a, T> {
    held: Option<primitives::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(primitives::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { held: Some(held) }
    }

    /// The guard, or `None` while another thread has it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = match self.0.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { held: Some(held) })
    }

    /// Runs `body` without this lock, whose guard that is.
    pub(crate) fn unlocked<'a, R>(
        &'a self,
        guard: &mut MutexGuard<'a, T>,
        body: impl FnOnce() -> R,
    ) -> R {
        guard.held = None;
        let result = body();
        guard.held = self.lock().held;
        result
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.held.as_ref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held")
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Lets threads wait for a change of what a [`Mutex`] holds.
#[derive(Default)]
pub(crate) struct Condvar {
    condvar: primitives::Condvar,
    /// Threads that wait. Changed with the mutex held, so who has changed what they wait for sees
    /// those that must know of it. The standard library's calls the kernel for each notice, heard
    /// or not.
    waiting: AtomicU64,
}

/// How a wait ended.
pub(crate) struct Waited(bool);

impl Waited {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar { condvar: primitives::Condvar::new(), waiting: AtomicU64::new(0) }
    }

    /// Whether a thread waits, for a caller that holds the lock.
    pub(crate) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits without the lock, which is held again at the return. May return for no cause.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let held = guard.held.take().expect("held");
        guard.held = Some(self.condvar.wait(held).unwrap_or_else(PoisonError::into_inner));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// As [`Condvar::wait`], for `timeout` at most.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> Waited {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let held = guard.held.take().expect("held");
        let waited = self.condvar.wait_timeout(held, timeout);
        let (held, result) = waited.unwrap_or_else(PoisonError::into_inner);
        guard.held = Some(held);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Waited(result.timed_out())
    }

    /// Waits while `condition` holds, for `timeout` at most; has timed out where it holds still.
    pub(crate) fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        timeout: Duration,
    ) -> Waited {
        let start = now();
        while condition(guard) {
            let left = timeout.saturating_sub(now().saturating_sub(start));
            if left.is_zero() {
                return Waited(true);
            }
            if self.wait_for(guard, left).timed_out() {
                return Waited(condition(guard));
            }
        }
        Waited(false)
    }

    /// Wakes one thread that waits. Called after the change, with or without the lock.
    #[inline]
    pub(crate) fn notify_one(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.condvar.notify_one();
        }
    }

    /// Wakes each thread that waits.
    #[inline]
    pub(crate) fn notify_all(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.condvar.notify_all();
        }
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

/// A lock for many readers or one writer.
#[derive(Default)]
pub(crate) struct RwLock<T>(primitives::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> RwLock<T> {
        RwLock(primitives::RwLock::new(value))
    }

    #[inline]
    pub(crate) fn read(&self) -> primitives::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(crate) fn write(&self) -> primitives::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn panic_of_a_holder_poisons_nothing() {
        let (lock, shared) = (Mutex::new(1), RwLock::new(1));
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let _held = (lock.lock(), shared.write());
            panic!("the holder");
        }));
        assert!(ended.is_err());
        assert_eq!(lock.try_lock().map(|held| *held), Some(1));
        *lock.lock() += 1;
        *shared.write() += 1;
        assert_eq!((*lock.lock(), *shared.read()), (2, 2));
    }

    #[test]
    fn lock_that_is_held_is_not_tried_in_vain() {
        let lock = Mutex::new(1);
        let mut held = lock.lock();
        assert!(lock.try_lock().is_none());
        lock.unlocked(&mut held, || *lock.try_lock().expect("let go of") = 2);
        assert!(lock.try_lock().is_none(), "held again");
        assert_eq!(*held, 2);
    }

    /// Each waiter counts itself, whichever way its wait ends: a notice too few would be for ever.
    #[test]
    fn notices_reach_all_that_wait() {
        let (lock, changed) = (Mutex::new((0, false)), Condvar::new());
        std::thread::scope(|scope| {
            for is_timed in [false, true, false, true] {
                let (lock, changed) = (&lock, &changed);
                scope.spawn(move || {
                    let mut state = lock.lock();
                    state.0 += 1;
                    while !state.1 {
                        match is_timed {
                            true => drop(changed.wait_for(&mut state, Duration::from_micros(50))),
                            false => changed.wait(&mut state),
                        }
                    }
                });
            }
            while lock.lock().0 < 4 {
                std::thread::yield_now();
            }
            lock.lock().1 = true;
            changed.notify_all();
        });
        assert_eq!(changed.waiting.load(Ordering::Relaxed), 0);
        let mut state = lock.lock();
        let never = changed.wait_while_for(&mut state, |state| state.1, Duration::from_micros(50));
        let at_once = changed.wait_while_for(&mut state, |state| !state.1, Duration::MAX);
        assert!(never.timed_out() && !at_once.timed_out());
    }
}
