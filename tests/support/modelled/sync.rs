//! What `src/sync.rs` names, over the primitives of a model checker.
//!
//! The crate root says which one: `use loom::sync as primitives` or
//! `use shuttle::sync as primitives`, and in `times_out` whether a timed wait ends by itself. Locks
//! and condition variables are the product's own file, over the checker's primitives. A queue is a
//! lock and a condition variable.

pub(crate) use crate::primitives::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub(crate) use crate::{thread_local, thread_slot, yield_now};

pub(crate) use lock::{Condvar, Mutex, MutexGuard, RwLock};

use std::ops::Deref;
use std::time::Duration;

#[path = "../../../src/sync/lock.rs"]
mod lock;

/// Slots that threads are spread over.
pub(crate) const SLOT_COUNT: usize = 2;

/// Looks at a queue before a worker without work sleeps.
pub(crate) const LOOK_COUNT: u32 = 2;

/// The time, which does not pass.
pub(crate) fn now() -> Duration {
    Duration::ZERO
}

/// The process: a model has only one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process;

impl Process {
    pub(crate) fn current() -> Process {
        Process
    }

    pub(crate) fn number(&self) -> u64 {
        1
    }

    pub(crate) fn is_current(&self) -> bool {
        true
    }

    pub(crate) fn check(&self) -> crate::error::Result<()> {
        Ok(())
    }

    pub(crate) fn end_if_forked(&self) {}
}

/// Something that is dropped in the process that made it: in a model that is the only one.
#[derive(Debug)]
pub(crate) struct ProcessBound<T>(T);

impl<T> ProcessBound<T> {
    pub(crate) fn new(value: T) -> ProcessBound<T> {
        ProcessBound(value)
    }

    pub(crate) fn process(&self) -> &Process {
        &Process
    }
}

impl<T> Deref for ProcessBound<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The checker's primitives in the shape of the standard library's, for `src/sync/lock.rs`.
mod primitives {
    use std::ops::{Deref, DerefMut};
    use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
    use std::time::Duration;

    use super::{AtomicBool, Ordering};
    use crate::primitives as checker;
    pub use checker::{RwLock, RwLockReadGuard, RwLockWriteGuard};

    /// Loom takes the release of a lock for no event of its own: it would never try a `try_lock`
    /// that fails because the release comes after it. `tried` makes the two meet.
    #[derive(Default)]
    pub struct Mutex<T> {
        lock: checker::Mutex<T>,
        tried: AtomicBool,
    }

    pub struct MutexGuard<'a, T> {
        lock: &'a Mutex<T>,
        was_tried: bool,
        /// `None` once a condition variable has taken it.
        held: Option<checker::MutexGuard<'a, T>>,
    }

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Mutex<T> {
            Mutex { lock: checker::Mutex::new(value), tried: AtomicBool::new(false) }
        }

        pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(MutexGuard { lock: self, was_tried: false, held: Some(held) })
        }

        pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
            self.tried.load(Ordering::Relaxed);
            let held = match self.lock.try_lock() {
                Ok(held) => held,
                Err(TryLockError::Poisoned(held)) => held.into_inner(),
                Err(TryLockError::WouldBlock) => return Err(TryLockError::WouldBlock),
            };
            Ok(MutexGuard { lock: self, was_tried: true, held: Some(held) })
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            if self.was_tried && self.held.is_some() {
                self.lock.tried.store(true, Ordering::Relaxed);
            }
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.held.as_ref().expect("held")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.held.as_mut().expect("held")
        }
    }

    #[derive(Default)]
    pub struct Condvar(checker::Condvar);

    /// Whether a wait ended by itself.
    pub struct WaitTimeoutResult(bool);

    impl WaitTimeoutResult {
        pub fn timed_out(&self) -> bool {
            self.0
        }
    }

    impl Condvar {
        pub fn new() -> Condvar {
            Condvar(checker::Condvar::new())
        }

        pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
            let held = guard.held.take().expect("held");
            guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
            Ok(guard)
        }

        /// Ends at once or never, whatever the time: nothing may depend on how long it is.
        pub fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            _timeout: Duration,
        ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
            let is_over = crate::times_out();
            let guard = if is_over {
                let lock = guard.lock;
                drop(guard);
                lock.lock()
            } else {
                self.wait(guard)
            };
            Ok((guard.unwrap_or_else(PoisonError::into_inner), WaitTimeoutResult(is_over)))
        }

        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

/// The value is std's; when it becomes visible is the model's.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    is_set: AtomicBool,
    value: std::sync::OnceLock<T>,
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        OnceLock { is_set: AtomicBool::new(false), value: std::sync::OnceLock::new() }
    }
}

impl<T> OnceLock<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_set.load(Ordering::Acquire) { self.value.get() } else { None }
    }

    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.value.get_mut()
    }

    pub(crate) fn get_or_init(&self, value: impl FnOnce() -> T) -> &T {
        let kept = self.value.get_or_init(value);
        self.is_set.store(true, Ordering::Release);
        kept
    }
}

pub(crate) mod channel;
