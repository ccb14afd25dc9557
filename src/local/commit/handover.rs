//! The hand-over: who carries the load, and who is called when nobody does.
//!
//! Owns the inbox's sending end, the lock around the load (in the product the log) and the keeper's
//! sleep. Whoever hands something in tries for the load. If it is free he carries it until he has what
//! he wants; if it is taken, somebody who came before is carrying it and will find it in the inbox.
//! What takes long is an *errand*: the carrier puts the load down meanwhile, for others to take turns.
//!
//! Invariants:
//!
//! 1. Whoever lets go of the load looks at the inbox once more. What arrived too late for the carrier
//!    and found the load taken is thereby seen; the *keeper*, a thread that sleeps otherwise, is called
//!    for it. Where there is none, because it was dismissed or never was (single-threaded mode, for
//!    deterministic tests), the carrier himself goes on until nothing is left.
//! 2. Who is on an errand that the load is `away` for takes a turn when he is back, and then 1 holds for
//!    him. So others may leave what has to wait for that to him.
//! 3. Who wants the load between turns ([`Handover::lock_between_steps`]) is waited for: nobody begins a turn
//!    while he waits or holds it, and he looks at the inbox when he is done.
//!
//! Whoever has the load, or is on an errand for it, is waited for: code of users that runs there must not wait
//! ([`callback`]).
//!
//! The keeper also does what is due while nobody hands anything in. Lock order: the load, then the
//! keeper's call. `tests/loom` tries every schedule of this.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crate::callback::{self, Duty};
use crate::sync::channel::Sender;
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering};

/// The keeper looks at a busy load this often.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What follows from a turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogStep<E> {
    /// Take another one.
    More,
    /// Do this with the load put down, and bring it back.
    Errand(E),
    /// Nothing is left to do.
    Idle,
}

/// What one thread at a time carries.
pub(crate) trait Load {
    /// What is done while others take turns.
    type Errand;

    /// Takes what the inbox holds and does the next piece of work.
    fn take_step(&mut self) -> LogStep<Self::Errand>;
    /// Runs an errand.
    fn run_unlocked(errand: &mut Self::Errand);
    /// Takes an errand back, which a panic may have cut short.
    fn complete_errand(&mut self, errand: Self::Errand) -> LogStep<Self::Errand>;
    /// Whether somebody is on an errand that what is left may have to wait for.
    fn is_write_under_way(&self) -> bool;
    /// While somebody is away, how many have to come before a turn is of use: he takes the next one
    /// anyway.
    fn missing_caller_count(&self) -> usize;
    /// Does what is due while nothing comes in, and returns how long nothing will be due: `None` for
    /// ever.
    fn run_due_work(&mut self) -> Option<Duration>;
    /// Whether nothing that was taken is unfinished.
    fn is_idle(&self) -> bool;
    /// After a panic in a turn or an errand: refuses everybody who waits.
    fn fail_after_panic(&mut self);
}

/// A load, its inbox and its keeper.
pub(crate) struct Handover<L, M> {
    pub(crate) inbox: Sender<M>,
    load: Mutex<L>,
    /// Those who want the load between turns, or have it.
    holding: AtomicU64,
    /// Somebody is back from an errand.
    landed: Condvar,
    /// What [`Load::missing`] said last.
    missing: AtomicU64,
    keeper: Option<Keeper>,
}

/// How the keeper is told.
#[derive(Default)]
struct Keeper {
    /// The keeper sleeps until it is woken.
    asleep: AtomicBool,
    called: Mutex<FlusherCall>,
    changed: Condvar,
}

#[derive(Default)]
struct FlusherCall {
    work: bool,
    stop: bool,
    /// The keeper hears no call any more.
    ended: bool,
}

impl<L: Load, M> Handover<L, M> {
    pub(crate) fn new(inbox: Sender<M>, load: L, with_keeper: bool) -> Handover<L, M> {
        let keeper = with_keeper.then(Keeper::default);
        let (holding, landed) = (AtomicU64::new(0), Condvar::new());
        let missing = AtomicU64::new(0);
        Handover { inbox, load: Mutex::new(load), holding, landed, missing, keeper }
    }

    /// Whether somebody works while no caller does.
    pub(crate) fn has_flusher(&self) -> bool {
        self.keeper.is_some()
    }

    /// What the keeper does until it is dismissed.
    pub(crate) fn run_flusher(&self) {
        let Some(keeper) = &self.keeper else { return };
        let _duty = callback::begin(Duty::Working);
        loop {
            let carried = self.try_lock_load().map(|mut load| {
                let mut more = true;
                while more && !self.is_lock_reserved() {
                    (load, more) = self.run_locked_step(load);
                }
                let due = run_due_work_caught(&mut *load);
                // Set while we hold the load: who carries it next sees it, and calls.
                keeper.asleep.store(due.is_none(), Ordering::SeqCst);
                due
            });
            let mut called = keeper.called.lock();
            if called.stop {
                called.ended = true;
                drop(called);
                // Who was too late for our last turn, and called before we ended, relies on us.
                return self.lead_until(|| false);
            }
            // Of what arrives while somebody else carries the load, that one tells us.
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

    /// Ends the keeper. What is handed in from here on is carried by callers alone.
    pub(crate) fn stop_flusher(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.called.lock().stop = true;
            keeper.changed.notify_all();
        }
    }

    /// Carries the load, if it is free, until `enough` or nothing is left to do.
    pub(crate) fn lead_until(&self, enough: impl Fn() -> bool) {
        let mut alone = false;
        loop {
            let Some(mut load) = self.try_lock_load() else { return };
            let _duty = callback::begin(Duty::Working);
            let mut more = true;
            while more && !self.is_lock_reserved() && (alone || !enough()) {
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
            // What is left is somebody else's, who found the load taken and trusts in us.
            alone = true;
        }
    }

    /// The load, if nobody has it or is to have it first, and it can be of use.
    fn try_lock_load(&self) -> Option<MutexGuard<'_, L>> {
        let missing = self.missing.load(Ordering::SeqCst);
        let is_useless =
            self.is_lock_reserved() || (missing > 0 && (self.inbox.len() as u64) < missing);
        if is_useless { None } else { self.load.try_lock() }
    }

    /// Whether somebody wants the load between turns, who sees to what is left when he is done.
    fn is_lock_reserved(&self) -> bool {
        self.holding.load(Ordering::SeqCst) > 0
    }

    /// One turn, with the load put down for errands. Says whether to take another one. A panic in it
    /// ends the load's work instead of the caller.
    fn run_locked_step<'a>(&'a self, mut load: MutexGuard<'a, L>) -> (MutexGuard<'a, L>, bool) {
        let mut turn = catch_panic(&mut *load, Load::take_step).unwrap_or(LogStep::Idle);
        while let LogStep::Errand(mut errand) = turn {
            self.missing.store(load.missing_caller_count() as u64, Ordering::SeqCst);
            drop(load);
            let ran = catch_unwind(AssertUnwindSafe(|| L::run_unlocked(&mut errand)));
            load = self.load.lock();
            turn = complete_or_fail(&mut *load, errand, ran.is_ok());
            if self.is_lock_reserved() {
                self.landed.notify_all();
            }
        }
        self.missing.store(load.missing_caller_count() as u64, Ordering::SeqCst);
        (load, matches!(turn, LogStep::More))
    }

    /// Takes the load for `body` between two turns, with nobody away from it. A panic of `body` ends the
    /// load's work and goes on to the caller.
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
        // Somebody may have found it taken, and trusts in us.
        self.lead_until(|| true);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Says that something was handed in for which nobody waits yet.
    pub(crate) fn announce_commit(&self) {
        // Whoever carries the load now, or is away from it, looks at the inbox before he leaves it.
        let is_free = || self.try_lock_load().is_some_and(|load| !load.is_write_under_way());
        let free = self.keeper.is_some() && is_free();
        if free && !self.wake_flusher() {
            self.lead_until(|| false);
        }
    }

    /// Makes sure that somebody works, if need be this thread.
    pub(crate) fn ensure_progress(&self) {
        match &self.keeper {
            Some(_) => self.announce_commit(),
            None => self.lead_until(|| false),
        }
    }

    /// Wakes the keeper; false when there is none.
    fn wake_flusher(&self) -> bool {
        self.keeper.as_ref().is_some_and(Keeper::wake_if_running)
    }
}

/// One turn, errands included, for who has the load between turns.
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

/// What is due. A panic in it ends the load's work instead of the keeper.
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
    /// False when nobody hears it any more.
    fn wake_if_running(&self) -> bool {
        let mut called = self.called.lock();
        called.work = true;
        let heard = !called.ended;
        drop(called);
        self.changed.notify_one();
        heard
    }
}
