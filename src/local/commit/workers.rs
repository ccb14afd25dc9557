//! The workers: the threads that lead while no caller does.
//!
//! Owns the log flusher's sleep, and the count of workers that serve commits. The first worker is
//! the log flusher. It is woken for commits that no caller leads. The others are threads of another
//! pool, each called for one time of service where all workers that serve are busy. The
//! [`commit_lock`] runs their loops.

use std::time::Duration;

#[cfg(doc)]
use crate::local::commit::commit_lock;
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering};

/// The flusher tries a taken lock this often.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Has a thread of another pool serve once. Returns whether one will.
pub(crate) type CallHelper = Box<dyn Fn() -> bool + Send + Sync>;

/// How workers are had.
pub(crate) struct WorkerOptions {
    /// Workers beside the log flusher that may serve at a time.
    pub(crate) helper_count_max: u64,
    pub(crate) call_helper: CallHelper,
}

/// Which workers are at work, and the calls to them.
pub(crate) struct Workers {
    options: WorkerOptions,
    /// Workers that serve.
    serving: AtomicU64,
    /// Those of them that look for work.
    looking: AtomicU64,
    /// Helpers that were called and have not stopped serving.
    helpers: AtomicU64,
    /// The flusher sleeps until it is woken.
    is_asleep: AtomicBool,
    called: Mutex<FlusherCall>,
    changed: Condvar,
}

#[derive(Default)]
struct FlusherCall {
    work: bool,
    stop: bool,
    /// The flusher hears no call any more.
    ended: bool,
}

impl Workers {
    pub(crate) fn new(options: WorkerOptions) -> Workers {
        Workers {
            options,
            serving: AtomicU64::new(0),
            looking: AtomicU64::new(0),
            helpers: AtomicU64::new(0),
            is_asleep: AtomicBool::new(false),
            called: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn is_any_serving(&self) -> bool {
        self.serving.load(Ordering::SeqCst) > 0
    }

    /// A worker serves, and looks for work.
    pub(crate) fn begin_serving(&self) {
        self.serving.fetch_add(1, Ordering::SeqCst);
        self.begin_looking();
    }

    /// A worker that looked for work serves no longer.
    pub(crate) fn end_serving(&self) {
        self.end_looking();
        self.serving.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn begin_looking(&self) {
        self.looking.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn end_looking(&self) {
        self.looking.fetch_sub(1, Ordering::SeqCst);
    }

    /// Calls a helper if each worker that serves is busy.
    pub(crate) fn call_helper_if_of_use(&self) {
        if self.looking.load(Ordering::SeqCst) > 0 {
            return;
        }
        if self.helpers.fetch_add(1, Ordering::SeqCst) >= self.options.helper_count_max
            || !(self.options.call_helper)()
        {
            self.end_helper();
        }
    }

    /// A helper that was called serves no longer.
    pub(crate) fn end_helper(&self) {
        self.helpers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes the flusher. False if it has ended.
    pub(crate) fn wake_flusher(&self) -> bool {
        let mut called = self.called.lock();
        called.work = true;
        let heard = !called.ended;
        drop(called);
        self.changed.notify_one();
        heard
    }

    pub(crate) fn stop_flusher(&self) {
        self.called.lock().stop = true;
        self.changed.notify_all();
    }

    /// Whether the flusher sleeps until it is woken.
    pub(crate) fn is_flusher_asleep(&self) -> bool {
        self.is_asleep.load(Ordering::SeqCst)
    }

    pub(crate) fn note_flusher_asleep(&self, is_asleep: bool) {
        self.is_asleep.store(is_asleep, Ordering::SeqCst);
    }

    /// Has the flusher wait until it is woken, or until work is due. `led` is the time until then;
    /// `None` in it if nothing will be due, and no value if another thread leads. Returns at once
    /// unless it `may_sleep`. False if it is to end.
    pub(crate) fn wait_for_call(
        &self,
        led: Option<Option<Duration>>,
        may_sleep: impl FnOnce() -> bool,
    ) -> bool {
        let mut called = self.called.lock();
        if called.stop {
            called.ended = true;
            return false;
        }
        if !called.work && may_sleep() {
            match led {
                Some(None) => self.changed.wait(&mut called),
                None | Some(Some(_)) => {
                    let due = led.flatten().map_or(LOOK_EVERY, |due| due.min(LOOK_EVERY));
                    self.changed.wait_for(&mut called, due);
                }
            }
        }
        called.work = false;
        self.note_flusher_asleep(false);
        true
    }
}
