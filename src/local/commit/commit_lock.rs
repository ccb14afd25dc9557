//! The commit lock: which thread leads, and when workers are woken.
//!
//! Owns the sending end of the commit queue and the lock around the work (in the product the log).
//! The work is done in steps. Long work is *unlocked*: a thread that leads releases the lock for
//! it, so that other threads can take steps. Who leads depends on the callers:
//!
//! - **Few callers.** A thread that submits a commit tries the lock. If the lock is free, the
//!   thread leads until its commit is answered. If the lock is taken, the leader will find the
//!   commit in the queue. So a lone caller pays for no switch between threads.
//! - **Many callers** ([`LockedWork::has_many_callers`]). Callers submit and sleep. Workers serve:
//!   they take turns at the lock, and look for work for a moment before they sleep, so that no
//!   caller pays for waking one. The log flusher is the first worker. I/O workers help where one is
//!   of use ([`workers`]).
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
//! 4. [`CommitLock::lock_between_steps`] has precedence: while a thread waits in it or holds the
//!    lock by it, no step begins. That thread checks the queue when it is done.
//!
//! Other threads wait for the leader and for a thread at unlocked work. So code of users must not
//! wait there ([`callback`]).
//!
//! The flusher also does the work that is due while no commit arrives. Lock order: the work, then
//! the flusher's call ([`workers`]). `tests/loom` tries every schedule of this.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crate::callback::{self, Duty};
#[cfg(doc)]
use crate::local::commit::workers;
use crate::local::commit::workers::{WorkerOptions, Workers};
use crate::sync::channel::Sender;
use crate::sync::{
    AtomicBool, AtomicU64, Condvar, LOOK_COUNT, Mutex, MutexGuard, Ordering, yield_now,
};

/// The result of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<U> {
    /// Take another step.
    More,
    /// Run this without the lock, then complete it.
    Unlocked(U),
    /// Nothing is left to do.
    Idle,
}

/// The state behind the commit lock: in the product the log.
pub(crate) trait LockedWork {
    /// Work that is done without the lock: a group write, and the waking of callers.
    type Unlocked;

    /// Takes all messages from the queue and does the next piece of work.
    fn take_step(&mut self) -> Step<Self::Unlocked>;
    /// Does unlocked work.
    fn run_unlocked(unlocked: &mut Self::Unlocked);
    /// Takes unlocked work back. A panic may have cut it short.
    fn complete_unlocked(&mut self, unlocked: Self::Unlocked) -> Step<Self::Unlocked>;
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
    /// After a panic in a step or in unlocked work: refuses all waiting callers.
    fn fail_after_panic(&mut self);
}

/// The work, its lock, the commit queue and the workers.
pub(crate) struct CommitLock<L, M> {
    pub(crate) queue: Sender<M>,
    work: Mutex<L>,
    /// Threads that wait for the lock between steps, or hold it.
    holding: AtomicU64,
    /// A thread is back from unlocked work.
    write_ended: Condvar,
    /// The latest [`LockedWork::missing_caller_count`].
    missing: AtomicU64,
    /// The latest [`LockedWork::has_many_callers`].
    has_many_callers: AtomicBool,
    workers: Option<Workers>,
}

impl<L: LockedWork, M> CommitLock<L, M> {
    /// With `workers`, a thread has to call [`CommitLock::run_flusher`].
    pub(crate) fn new(
        queue: Sender<M>,
        work: L,
        workers: Option<WorkerOptions>,
    ) -> CommitLock<L, M> {
        let workers = workers.map(Workers::new);
        let (holding, write_ended) = (AtomicU64::new(0), Condvar::new());
        let (missing, has_many_callers) = (AtomicU64::new(0), AtomicBool::new(false));
        CommitLock {
            queue,
            work: Mutex::new(work),
            holding,
            write_ended,
            missing,
            has_many_callers,
            workers,
        }
    }

    /// Whether a log flusher works while no caller leads.
    pub(crate) fn has_flusher(&self) -> bool {
        self.workers.is_some()
    }

    /// The flusher's loop, until it is stopped.
    pub(crate) fn run_flusher(&self) {
        let Some(workers) = &self.workers else { return };
        let _duty = callback::begin(Duty::Working);
        loop {
            if self.is_served() {
                self.serve();
            }
            let led = self.try_lock_work().map(|mut work| {
                let mut more = true;
                while more && !self.is_lock_reserved() {
                    (work, more) = self.run_locked_step(work);
                }
                let due = run_due_work_caught(&mut *work);
                // Under the lock, so that the next leader sees it and wakes us.
                workers.note_flusher_asleep(due.is_none());
                due
            });
            // While another thread leads, it wakes us for later commits.
            let may_sleep = || led.is_none() || self.queue.is_empty();
            if !workers.wait_for_call(led, may_sleep) {
                // A caller that submitted after our last step, and called before we ended, relies
                // on us.
                return self.lead_or_wake_flusher(|| false);
            }
        }
    }

    /// Ends the flusher. From here on callers alone lead.
    pub(crate) fn stop_flusher(&self) {
        if let Some(workers) = &self.workers {
            workers.stop_flusher();
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
            let Some(mut work) = self.try_lock_work() else { return };
            let _duty = callback::begin(Duty::Working);
            let mut more = true;
            while more && !self.is_lock_reserved() && (alone || !(self.is_served() || enough())) {
                (work, more) = self.run_locked_step(work);
            }
            let (idle, away) = (work.is_idle(), work.is_write_under_way());
            drop(work);
            let left = !away && (!idle || !self.queue.is_empty());
            let asleep = self.workers.as_ref().is_some_and(Workers::is_flusher_asleep);
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
        self.workers.is_some() && self.has_many_callers.load(Ordering::SeqCst)
    }

    /// Whether a worker sees to the queue. Calls one if that is of use. False if none is left.
    fn leave_to_workers(&self) -> bool {
        let Some(workers) = &self.workers else { return false };
        if !self.has_enough_queued() {
            // Invariant 2, or callers that are still to come.
            return self.missing.load(Ordering::SeqCst) > 0 || self.queue.is_empty();
        }
        if !workers.is_any_serving() {
            return self.wake_flusher();
        }
        workers.call_helper_if_of_use();
        true
    }

    /// Serves commits until there are few callers, or no work for some looks at the queue.
    pub(crate) fn serve(&self) {
        let Some(workers) = &self.workers else { return };
        workers.begin_serving();
        // Commits that were taken from the queue already may wait for this worker.
        let mut is_called = true;
        let mut look_count = 0;
        while look_count < LOOK_COUNT {
            look_count += 1;
            let is_of_use = std::mem::take(&mut is_called) || self.has_enough_queued();
            let work = if is_of_use { self.try_lock_work() } else { None };
            let Some(mut work) = work else {
                yield_now();
                continue;
            };
            look_count = 0;
            workers.end_looking();
            let mut more = true;
            while more && !self.is_lock_reserved() {
                (work, more) = self.run_locked_step(work);
            }
            drop(work);
            workers.begin_looking();
            if !self.is_served() {
                break;
            }
        }
        workers.end_serving();
        // A caller that saw this worker serving relies on it.
        if self.has_enough_queued() && !self.wake_flusher() {
            self.lead_or_wake_flusher(|| false);
        }
    }

    /// As [`CommitLock::serve`], for a helper that was called.
    pub(crate) fn serve_as_helper(&self) {
        self.serve();
        if let Some(workers) = &self.workers {
            workers.end_helper();
        }
    }

    /// Whether a step can be of use by now.
    fn has_enough_queued(&self) -> bool {
        let missing = self.missing.load(Ordering::SeqCst).max(1);
        !self.is_lock_reserved() && self.queue.len() as u64 >= missing
    }

    /// Takes the lock if it is free, not reserved, and a step can be of use.
    fn try_lock_work(&self) -> Option<MutexGuard<'_, L>> {
        let missing = self.missing.load(Ordering::SeqCst);
        let is_useless =
            self.is_lock_reserved() || (missing > 0 && (self.queue.len() as u64) < missing);
        if is_useless { None } else { self.work.try_lock() }
    }

    /// Whether a thread wants the lock between steps. That thread leads when it is done.
    fn is_lock_reserved(&self) -> bool {
        self.holding.load(Ordering::SeqCst) > 0
    }

    /// Takes one step, without the lock at unlocked work. Returns whether to take another one. A
    /// panic in it ends the work instead of the caller.
    fn run_locked_step<'a>(&'a self, mut work: MutexGuard<'a, L>) -> (MutexGuard<'a, L>, bool) {
        let mut step = catch_panic(&mut *work, LockedWork::take_step).unwrap_or(Step::Idle);
        while let Step::Unlocked(mut unlocked) = step {
            self.note_callers(&work);
            drop(work);
            if self.is_served() {
                // The commits that are queued by now need not wait for this write.
                self.leave_to_workers();
            }
            let ran = catch_unwind(AssertUnwindSafe(|| L::run_unlocked(&mut unlocked)));
            work = self.work.lock();
            step = complete_or_fail(&mut *work, unlocked, ran.is_ok());
            if self.is_lock_reserved() {
                self.write_ended.notify_all();
            }
        }
        self.note_callers(&work);
        (work, matches!(step, Step::More))
    }

    /// Notes what callers ask without the lock.
    fn note_callers(&self, work: &L) {
        self.missing.store(work.missing_caller_count() as u64, Ordering::SeqCst);
        self.has_many_callers.store(work.has_many_callers(), Ordering::SeqCst);
    }

    /// Runs `body` under the lock between two steps, with no group write under way. A panic of
    /// `body` ends the work and goes on to the caller.
    pub(crate) fn lock_between_steps<R>(&self, body: impl FnOnce(&mut L) -> R) -> R {
        self.holding.fetch_add(1, Ordering::SeqCst);
        let mut work = self.work.lock();
        while work.is_write_under_way() {
            self.write_ended.wait(&mut work);
        }
        let duty = callback::begin(Duty::Working);
        let result = catch_unwind(AssertUnwindSafe(|| body(&mut work)));
        drop(duty);
        if result.is_err() {
            work.fail_after_panic();
        }
        self.holding.fetch_sub(1, Ordering::SeqCst);
        drop(work);
        // A caller may have found the lock taken, and relies on us.
        self.lead_or_wake_flusher(|| true);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Says that a commit was submitted whose caller does not wait yet.
    pub(crate) fn announce_commit(&self) {
        // A leader, or a thread that writes a group, checks the queue before it leaves.
        let is_free = || self.try_lock_work().is_some_and(|work| !work.is_write_under_way());
        let free = self.workers.is_some() && is_free();
        if free && !self.wake_flusher() {
            self.lead_until(|| false);
        }
    }

    /// Makes sure that a thread works at the queue, if need be this one.
    pub(crate) fn ensure_progress(&self) {
        match &self.workers {
            Some(_) => self.announce_commit(),
            None => self.lead_until(|| false),
        }
    }

    /// Wakes the flusher; false if there is none.
    fn wake_flusher(&self) -> bool {
        self.workers.as_ref().is_some_and(Workers::wake_flusher)
    }
}

/// Takes one step, unlocked work included, for a thread that holds the lock between steps.
pub(crate) fn run_whole_step<L: LockedWork>(work: &mut L) {
    let mut step = catch_panic(work, LockedWork::take_step).unwrap_or(Step::Idle);
    while let Step::Unlocked(mut unlocked) = step {
        let ran = catch_unwind(AssertUnwindSafe(|| L::run_unlocked(&mut unlocked)));
        step = complete_or_fail(work, unlocked, ran.is_ok());
    }
}

fn complete_or_fail<L: LockedWork>(
    work: &mut L,
    unlocked: L::Unlocked,
    is_done: bool,
) -> Step<L::Unlocked> {
    if !is_done {
        work.fail_after_panic();
    }
    catch_panic(work, |work| work.complete_unlocked(unlocked)).unwrap_or(Step::Idle)
}

/// [`LockedWork::run_due_work`]. A panic in it ends the work instead of the flusher.
fn run_due_work_caught<L: LockedWork>(work: &mut L) -> Option<Duration> {
    catch_panic(work, LockedWork::run_due_work).flatten()
}

fn catch_panic<L: LockedWork, R>(work: &mut L, body: impl FnOnce(&mut L) -> R) -> Option<R> {
    let done = catch_unwind(AssertUnwindSafe(|| body(work)));
    if done.is_err() {
        work.fail_after_panic();
    }
    done.ok()
}
