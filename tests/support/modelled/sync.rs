//! What `src/sync.rs` names, over the primitives of a model checker.
//!
//! The crate root says which one: `use loom::sync as primitives` or
//! `use shuttle::sync as primitives`, and in `times_out` whether a timed wait ends by itself. Locks
//! have the shape of the product's: no poisoning, guards that a condition variable borrows. A queue
//! is a lock and a condition variable.

pub(crate) use crate::primitives::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub(crate) use crate::{thread_local, thread_slot};

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use crate::primitives;

/// Slots that threads are spread over.
pub(crate) const SLOT_COUNT: usize = 2;

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

/// Loom takes the release of a lock for no event of its own: it would never try a `try_lock` that
/// fails because the release comes after it. `tried` makes the two meet.
pub(crate) struct Mutex<T> {
    lock: primitives::Mutex<T>,
    tried: AtomicBool,
}

pub(crate) struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
    was_tried: bool,
    /// `None` only while the lock is let go of.
    held: Option<primitives::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex { lock: primitives::Mutex::new(value), tried: AtomicBool::new(false) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { lock: self, was_tried: false, held: Some(held) }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.tried.load(Ordering::Relaxed);
        let held = match self.lock.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { lock: self, was_tried: true, held: Some(held) })
    }

    /// Runs `body` without this lock, whose guard that is.
    pub(crate) fn unlocked<'a, R>(
        &'a self,
        guard: &mut MutexGuard<'a, T>,
        body: impl FnOnce() -> R,
    ) -> R {
        drop(guard.held.take());
        let result = body();
        guard.held = self.lock().held.take();
        result
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
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

/// How a wait ended.
pub(crate) struct Waited {
    timed_out: bool,
}

impl Waited {
    pub(crate) fn timed_out(&self) -> bool {
        self.timed_out
    }
}

pub(crate) struct Condvar(primitives::Condvar);

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar(primitives::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("held");
        guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends at once or never, whatever the time: nothing may depend on how long it is.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
        if crate::times_out() {
            guard.lock.unlocked(guard, || {});
        } else {
            self.wait(guard);
        }
    }

    /// As `wait_for`, while a condition holds.
    pub(crate) fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        timeout: Duration,
    ) -> Waited {
        while condition(guard) {
            let timed_out = crate::times_out();
            if timed_out {
                guard.lock.unlocked(guard, || {});
                return Waited { timed_out };
            }
            self.wait(guard);
        }
        let _ = timeout;
        Waited { timed_out: false }
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Condvar::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

pub(crate) struct RwLock<T>(primitives::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> RwLock<T> {
        RwLock(primitives::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> primitives::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> primitives::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        RwLock::new(T::default())
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
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
