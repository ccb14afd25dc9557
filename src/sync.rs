//! Synchronisation: the primitives through which threads of this crate share state and wait.
//!
//! Owns no state but the slot of each thread ([`thread_slot`]); everything else is a name for a
//! primitive of the standard library or of another crate, whose state lies in the primitive itself
//! (`lock`). One place names them so that the very same sources can be compiled over modelled ones:
//! `tests/loom` and `tests/shuttle` put their own module here and try the schedules of threads one
//! by one. So code that locks, waits or hands over says `crate::sync`; counters that only
//! statistics read do not.

pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub(crate) use std::thread::yield_now;
pub(crate) use std::thread_local;

/// Bounded queues from many threads to many.
pub(crate) use crossbeam_channel as channel;
pub(crate) use lock::{Condvar, Mutex, MutexGuard, RwLock};

/// The monotonic time. Only differences mean anything. A model checker's stands still.
pub(crate) use crate::io::os::monotonic_clock as now;
/// The process that something belongs to. A model checker knows of one only.
pub(crate) use crate::io::os::{Process, ProcessBound};

use std::cell::Cell;
use std::sync as primitives;
use std::sync::atomic::AtomicUsize;

mod lock;

/// Slots that threads are spread over; more threads than this share.
pub(crate) const SLOT_COUNT: usize = 16;

/// Looks at a queue, with other threads between them, before a worker without work sleeps. A
/// wake-up costs 5 to 7 us, which commits would wait for.
pub(crate) const LOOK_COUNT: u32 = 300;

/// The calling thread's slot, below [`SLOT_COUNT`].
pub(crate) fn thread_slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SLOT: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SLOT_COUNT);
    }
    SLOT.with(Cell::get)
}
