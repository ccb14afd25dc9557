//! The commit lock: which thread leads, and when workers are woken.
//!
//! Owns the sending end of the commit queue, the lock around the load (in the product the log), and
//! the log flusher's sleep. Long work is an *errand*: a thread that leads releases the lock for it,
//! so that other threads can take steps. Who leads depends on the callers:
//!
//! - **Few callers.** A thread that submits a commit tries the lock. If the lock is free, the
//!   thread leads until its commit is answered. If the lock is taken, the leader will find the
//!   commit in the queue. So a lone caller pays for no switch between threads.
//! - **Many callers** ([`Load::has_many_callers`]). Callers submit and sleep. Workers serve: they
//!   take turns at the lock, and look for work for a moment before they sleep, so that no caller
//!   pays for waking one. The log flusher is the first worker. I/O workers help where one is of use
//!   ([`CallHelper`]).
//!
//! Invariants:
//!
//! 1. After releasing the lock, a leader checks the queue again. If a commit arrived in between, it
//!    wakes the log flusher. Without a flusher (stopped, or single-threaded mode) it leads on
//!    itself until nothing is left. A worker that stops serving does the same.
//! 2. A thread that writes a group without the lock takes a step when it is back, and then 1 holds
//!    for it. So other threads leave it the work that has to wait for its write.
//! 3. A caller that leaves its commit to workers finds one serving, or wakes the flusher. Both look
//!    at the queue after that.
//! 4. [`Handover::lock_between_steps`] has precedence: while a thread waits in it or holds the lock
//!    by it, no step begins. That thread checks the queue when it is done.
//!
//! Other threads wait for the leader and for a thread on an errand. So code of users must not wait
//! there ([`callback`]).
//!
//! The flusher also does the work that is due while no commit arrives. Lock order: the load, then
//! the flusher's call. `tests/loom` tries every schedule of this.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crate::callback::{self, Duty};
use crate::sync::channel::Sender;
use crate::sync::{
    AtomicBool, AtomicU64, Condvar, LOOK_COUNT, Mutex, MutexGuard, Ordering, yield_now,
};

/// The flusher tries a taken lock this often.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Has a thread of another pool call [`Handover::serve`] once. Returns whether one will.
pub(crate) type CallHelper = Box<dyn Fn() -> bool + Send + Sync>;

/// The threads that work while no caller leads.
pub(crate) struct WorkerOptions {
    /// Workers beside the log flusher that may serve at a time.
    pub(crate) helper_count_max: u64,
    pub(crate) call_helper: CallHelper,
}

/// The result of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogStep<E> {
    /// Take another step.
    More,
    /// Run this without the lock, then complete it.
    Errand(E),
    /// Nothing is left to do.
    Idle,
}

/// The state behind the commit lock: in the product the log.
pub(crate) trait Load {
    /// Work that runs without the lock: a group write, and the waking of callers.
    type Errand;

    /// Takes all messages from the queue and does the next piece of work.
    fn take_step(&mut self) -> LogStep<Self::Errand>;
    /// Runs an errand.
    fn run_unlocked(errand: &mut Self::Errand);
    /// Takes an errand back. A panic may have cut it short.
    fn complete_errand(&mut self, errand: Self::Errand) -> LogStep<Self::Errand>;
    /// Whether a group write is under way that the remaining work may have to wait for.
    fn is_write_under_way(&self) -> bool;
    /// Whether there are so many callers that workers serve them faster than they do themselves.
    fn has_many_callers(&self) -> bool;
    /// While a group write is under way, the number of callers that must submit before a step is of
    /// use. The writing thread takes the next step anyway.
    fn missing_caller_count(&self) -> usize;
    /// Does the work that is due while no commit arrives. Returns the time until more is due;
    /// `None` if nothing will be.
    fn run_due_work(&mut self) -> Option<Duration>;
    /// Whether everything taken from the queue is finished.
    fn is_idle(&self) -> bool;
    /// After a panic in a step or an errand: refuses all waiting callers.
    fn fail_after_panic(&mut self);
}

/// A load, its lock, the commit queue and the workers.
pub(crate) struct Handover<L, M> {
    pub(crate) inbox: Sender<M>,
    load: Mutex<L>,
    /// Threads that wait for the lock between steps, or hold it.
    holding: AtomicU64,
    /// A thread is back from an errand.
    landed: Condvar,
    /// The latest [`Load::missing_caller_count`].
    missing: AtomicU64,
    /// The latest [`Load::has_many_callers`].
    is_crowded: AtomicBool,
    keeper: Option<Keeper>,
}

/// How workers are called.
struct Keeper {
    options: WorkerOptions,
    /// Workers that serve.
    serving: AtomicU64,
    /// Those of them that look for work.
    looking: AtomicU64,
    /// Helpers that were called and have not stopped serving.
    helpers: AtomicU64,
    /// The flusher sleeps until it is woken.
    asleep: AtomicBool,
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

impl<L: Load, M> Handover<L, M> {
    /// With `workers`, a thread has to call [`Handover::run_flusher`].
    pub(crate) fn new(inbox: Sender<M>, load: L, workers: Option<WorkerOptions>) -> Handover<L, M> {
        let keeper = workers.map(Keeper::new);
        let (holding, landed) = (AtomicU64::new(0), Condvar::new());
        let (missing, is_crowded) = (AtomicU64::new(0), AtomicBool::new(false));
        Handover { inbox, load: Mutex::new(load), holding, landed, missing, is_crowded, keeper }
    }

    /// Whether a log flusher works while no caller leads.
    pub(crate) fn has_flusher(&self) -> bool {
        self.keeper.is_some()
    }

    /// The flusher's loop, until it is stopped.
    pub(crate) fn run_flusher(&self) {
        let Some(keeper) = &self.keeper else { return };
        let _duty = callback::begin(Duty::Working);
        loop {
            if self.is_served() {
                self.serve();
            }
            let carried = self.try_lock_load().map(|mut load| {
                let mut more = true;
                while more && !self.is_lock_reserved() {
                    (load, more) = self.run_locked_step(load);
                }
                let due = run_due_work_caught(&mut *load);
                // Set under the lock, so that the next leader sees it and wakes us.
                keeper.asleep.store(due.is_none(), Ordering::SeqCst);
                due
            });
            let mut called = keeper.called.lock();
            if called.stop {
                called.ended = true;
                drop(called);
                // A caller that submitted after our last step, and called before we ended, relies
                // on us.
                return self.lead_or_wake_flusher(|| false);
            }
            // While another thread leads, it wakes us for later commits.
            if !called.work && (carried.is_none() || self.inbox.is_empty()) {
                match carried {
                    Some(None) => keeper.changed.wait(&mut called),
                    None | Some(Some(_)) => {
                        let due = carried.flatten().map_or(LOOK_EVERY, |due| due.min(LOOK_EVERY));
                        keeper.changed.wait_for(&mut called, due);
                    }
                }
            }
            called.work = false;
            keeper.asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Ends the flusher. From here on callers alone lead.
    pub(crate) fn stop_flusher(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.called.lock().stop = true;
            keeper.changed.notify_all();
        }
    }

    /// Leads, if the lock is free, until `enough` or until nothing is left to do. With many callers
    /// it leaves that to workers.
    pub(crate) fn lead_until(&self, enough: impl Fn() -> bool) {
        if !(self.is_served() && self.leave_to_workers()) {
            self.lead_or_wake_flusher(enough);
        }
    }

    /// Leads as long as there are few callers. Then makes sure that a thread does the rest.
    fn lead_or_wake_flusher(&self, enough: impl Fn() -> bool) {
        let mut alone = false;
        loop {
            let Some(mut load) = self.try_lock_load() else { return };
            let _duty = callback::begin(Duty::Working);
            let mut more = true;
            while more && !self.is_lock_reserved() && (alone || !(self.is_served() || enough())) {
                (load, more) = self.run_locked_step(load);
            }
            let (idle, away) = (load.is_idle(), load.is_write_under_way());
            drop(load);
            let left = !away && (!idle || !self.inbox.is_empty());
            let asleep = self.keeper.as_ref().is_some_and(|k| k.asleep.load(Ordering::SeqCst));
            let heard = (left || (asleep && !away)) && self.wake_flusher();
            if !left || heard {
                return;
            }
            // The rest belongs to a caller that found the lock taken and relies on us.
            alone = true;
        }
    }

    /// Whether workers serve the commits.
    fn is_served(&self) -> bool {
        self.keeper.is_some() && self.is_crowded.load(Ordering::SeqCst)
    }

    /// Whether a worker sees to the queue. Calls one if that is of use. False if none is left.
    fn leave_to_workers(&self) -> bool {
        let Some(keeper) = &self.keeper else { return false };
        if !self.has_enough_queued() {
            // Invariant 2, or callers that are still to come.
            return self.missing.load(Ordering::SeqCst) > 0 || self.inbox.is_empty();
        }
        if keeper.serving.load(Ordering::SeqCst) == 0 {
            return self.wake_flusher();
        }
        keeper.call_helper_if_of_use();
        true
    }

    /// Serves commits until there are few callers, or no work for some looks at the queue.
    pub(crate) fn serve(&self) {
        let Some(keeper) = &self.keeper else { return };
        keeper.serving.fetch_add(1, Ordering::SeqCst);
        keeper.looking.fetch_add(1, Ordering::SeqCst);
        // Commits that were taken from the queue already may wait for this worker.
        let mut is_called = true;
        let mut look_count = 0;
        while look_count < LOOK_COUNT {
            look_count += 1;
            let is_of_use = std::mem::take(&mut is_called) || self.has_enough_queued();
            let load = if is_of_use { self.try_lock_load() } else { None };
            let Some(mut load) = load else {
                yield_now();
                continue;
            };
            look_count = 0;
            keeper.looking.fetch_sub(1, Ordering::SeqCst);
            let mut more = true;
            while more && !self.is_lock_reserved() {
                (load, more) = self.run_locked_step(load);
            }
            drop(load);
            keeper.looking.fetch_add(1, Ordering::SeqCst);
            if !self.is_served() {
                break;
            }
        }
        keeper.looking.fetch_sub(1, Ordering::SeqCst);
        keeper.serving.fetch_sub(1, Ordering::SeqCst);
        // A caller that saw this worker serving relies on it.
        if self.has_enough_queued() && !self.wake_flusher() {
            self.lead_or_wake_flusher(|| false);
        }
    }

    /// As [`Handover::serve`], for a helper that was called.
    pub(crate) fn serve_as_helper(&self) {
        self.serve();
        if let Some(keeper) = &self.keeper {
            keeper.helpers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whether a step can be of use by now.
    fn has_enough_queued(&self) -> bool {
        let missing = self.missing.load(Ordering::SeqCst).max(1);
        !self.is_lock_reserved() && self.inbox.len() as u64 >= missing
    }

    /// Takes the lock if it is free, not reserved, and a step can be of use.
    fn try_lock_load(&self) -> Option<MutexGuard<'_, L>> {
        let missing = self.missing.load(Ordering::SeqCst);
        let is_useless =
            self.is_lock_reserved() || (missing > 0 && (self.inbox.len() as u64) < missing);
        if is_useless { None } else { self.load.try_lock() }
    }

    /// Whether a thread wants the lock between steps. That thread leads when it is done.
    fn is_lock_reserved(&self) -> bool {
        self.holding.load(Ordering::SeqCst) > 0
    }

    /// Takes one step, and releases the lock for errands. Returns whether to take another one. A
    /// panic in it ends the load's work instead of the caller.
    fn run_locked_step<'a>(&'a self, mut load: MutexGuard<'a, L>) -> (MutexGuard<'a, L>, bool) {
        let mut turn = catch_panic(&mut *load, Load::take_step).unwrap_or(LogStep::Idle);
        while let LogStep::Errand(mut errand) = turn {
            self.note_callers(&load);
            drop(load);
            if self.is_served() {
                // The commits that are queued by now need not wait for this write.
                self.leave_to_workers();
            }
            let ran = catch_unwind(AssertUnwindSafe(|| L::run_unlocked(&mut errand)));
            load = self.load.lock();
            turn = complete_or_fail(&mut *load, errand, ran.is_ok());
            if self.is_lock_reserved() {
                self.landed.notify_all();
            }
        }
        self.note_callers(&load);
        (load, matches!(turn, LogStep::More))
    }

    /// Notes what callers ask without the lock.
    fn note_callers(&self, load: &L) {
        self.missing.store(load.missing_caller_count() as u64, Ordering::SeqCst);
        self.is_crowded.store(load.has_many_callers(), Ordering::SeqCst);
    }

    /// Runs `body` under the lock between two steps, with no group write under way. A panic of
    /// `body` ends the load's work and goes on to the caller.
    pub(crate) fn lock_between_steps<R>(&self, body: impl FnOnce(&mut L) -> R) -> R {
        self.holding.fetch_add(1, Ordering::SeqCst);
        let mut load = self.load.lock();
        while load.is_write_under_way() {
            self.landed.wait(&mut load);
        }
        let duty = callback::begin(Duty::Working);
        let result = catch_unwind(AssertUnwindSafe(|| body(&mut load)));
        drop(duty);
        if result.is_err() {
            load.fail_after_panic();
        }
        self.holding.fetch_sub(1, Ordering::SeqCst);
        drop(load);
        // A caller may have found the lock taken, and relies on us.
        self.lead_or_wake_flusher(|| true);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Says that a commit was submitted whose caller does not wait yet.
    pub(crate) fn announce_commit(&self) {
        // A leader, or a thread that writes a group, checks the queue before it leaves.
        let is_free = || self.try_lock_load().is_some_and(|load| !load.is_write_under_way());
        let free = self.keeper.is_some() && is_free();
        if free && !self.wake_flusher() {
            self.lead_until(|| false);
        }
    }

    /// Makes sure that a thread works at the queue, if need be this one.
    pub(crate) fn ensure_progress(&self) {
        match &self.keeper {
            Some(_) => self.announce_commit(),
            None => self.lead_until(|| false),
        }
    }

    /// Wakes the flusher; false if there is none.
    fn wake_flusher(&self) -> bool {
        self.keeper.as_ref().is_some_and(Keeper::wake_if_running)
    }
}

/// Takes one step, errands included, for a thread that holds the lock between steps.
pub(crate) fn run_whole_step<L: Load>(load: &mut L) {
    let mut turn = catch_panic(load, Load::take_step).unwrap_or(LogStep::Idle);
    while let LogStep::Errand(mut errand) = turn {
        let ran = catch_unwind(AssertUnwindSafe(|| L::run_unlocked(&mut errand)));
        turn = complete_or_fail(load, errand, ran.is_ok());
    }
}

fn complete_or_fail<L: Load>(load: &mut L, errand: L::Errand, is_done: bool) -> LogStep<L::Errand> {
    if !is_done {
        load.fail_after_panic();
    }
    catch_panic(load, |load| load.complete_errand(errand)).unwrap_or(LogStep::Idle)
}

/// [`Load::run_due_work`]. A panic in it ends the load's work instead of the flusher.
fn run_due_work_caught<L: Load>(load: &mut L) -> Option<Duration> {
    catch_panic(load, Load::run_due_work).flatten()
}

fn catch_panic<L: Load, R>(load: &mut L, work: impl FnOnce(&mut L) -> R) -> Option<R> {
    let done = catch_unwind(AssertUnwindSafe(|| work(load)));
    if done.is_err() {
        load.fail_after_panic();
    }
    done.ok()
}

impl Keeper {
    fn new(options: WorkerOptions) -> Keeper {
        Keeper {
            options,
            serving: AtomicU64::new(0),
            looking: AtomicU64::new(0),
            helpers: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            called: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Calls a helper if each worker that serves is at work.
    fn call_helper_if_of_use(&self) {
        if self.looking.load(Ordering::SeqCst) > 0 {
            return;
        }
        if self.helpers.fetch_add(1, Ordering::SeqCst) >= self.options.helper_count_max
            || !(self.options.call_helper)()
        {
            self.helpers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// False if the flusher has ended.
    fn wake_if_running(&self) -> bool {
        let mut called = self.called.lock();
        called.work = true;
        let heard = !called.ended;
        drop(called);
        self.changed.notify_one();
        heard
    }
}
