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
//! 3. Who wants the load between turns ([`Handover::between_turns`]) is waited for: nobody begins a turn
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
    fn turn(&mut self) -> LogStep<Self::Errand>;
    /// Runs an errand.
    fn run(errand: &mut Self::Errand);
    /// Takes an errand back, which a panic may have cut short.
    fn back(&mut self, errand: Self::Errand) -> LogStep<Self::Errand>;
    /// Whether somebody is on an errand that what is left may have to wait for.
    fn is_away(&self) -> bool;
    /// While somebody is away, how many have to come before a turn is of use: he takes the next one
    /// anyway.
    fn missing(&self) -> usize;
    /// Does what is due while nothing comes in, and returns how long nothing will be due: `None` for
    /// ever.
    fn rest(&mut self) -> Option<Duration>;
    /// Whether nothing that was taken is unfinished.
    fn is_idle(&self) -> bool;
    /// After a panic in a turn or an errand: refuses everybody who waits.
    fn give_up(&mut self);
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
    pub(crate) fn has_keeper(&self) -> bool {
        self.keeper.is_some()
    }

    /// What the keeper does until it is dismissed.
    pub(crate) fn keep(&self) {
        let Some(keeper) = &self.keeper else { return };
        let _duty = callback::begin(Duty::Working);
        loop {
            let carried = self.try_carry().map(|mut load| {
                let mut more = true;
                while more && !self.is_wanted() {
                    (load, more) = self.take_turn(load);
                }
                let due = rest(&mut *load);
                // Set while we hold the load: who carries it next sees it, and calls.
                keeper.asleep.store(due.is_none(), Ordering::SeqCst);
                due
            });
            let mut called = keeper.called.lock();
            if called.stop {
                called.ended = true;
                drop(called);
                // Who was too late for our last turn, and called before we ended, relies on us.
                return self.carry_until(|| false);
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
    pub(crate) fn dismiss(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.called.lock().stop = true;
            keeper.changed.notify_all();
        }
    }

    /// Carries the load, if it is free, until `enough` or nothing is left to do.
    pub(crate) fn carry_until(&self, enough: impl Fn() -> bool) {
        let mut alone = false;
        loop {
            let Some(mut load) = self.try_carry() else { return };
            let _duty = callback::begin(Duty::Working);
            let mut more = true;
            while more && !self.is_wanted() && (alone || !enough()) {
                (load, more) = self.take_turn(load);
            }
            let (idle, away) = (load.is_idle(), load.is_away());
            drop(load);
            let left = !away && (!idle || !self.inbox.is_empty());
            let asleep = self.keeper.as_ref().is_some_and(|k| k.asleep.load(Ordering::SeqCst));
            let heard = (left || (asleep && !away)) && self.call_keeper();
            if !left || heard {
                return;
            }
            // What is left is somebody else's, who found the load taken and trusts in us.
            alone = true;
        }
    }

    /// The load, if nobody has it or is to have it first, and it can be of use.
    fn try_carry(&self) -> Option<MutexGuard<'_, L>> {
        let missing = self.missing.load(Ordering::SeqCst);
        let is_useless = self.is_wanted() || (missing > 0 && (self.inbox.len() as u64) < missing);
        if is_useless { None } else { self.load.try_lock() }
    }

    /// Whether somebody wants the load between turns, who sees to what is left when he is done.
    fn is_wanted(&self) -> bool {
        self.holding.load(Ordering::SeqCst) > 0
    }

    /// One turn, with the load put down for errands. Says whether to take another one. A panic in it
    /// ends the load's work instead of the caller.
    fn take_turn<'a>(&'a self, mut load: MutexGuard<'a, L>) -> (MutexGuard<'a, L>, bool) {
        let mut turn = guarded(&mut *load, Load::turn).unwrap_or(LogStep::Idle);
        while let LogStep::Errand(mut errand) = turn {
            self.missing.store(load.missing() as u64, Ordering::SeqCst);
            drop(load);
            let ran = catch_unwind(AssertUnwindSafe(|| L::run(&mut errand)));
            load = self.load.lock();
            turn = take_back(&mut *load, errand, ran.is_ok());
            if self.is_wanted() {
                self.landed.notify_all();
            }
        }
        self.missing.store(load.missing() as u64, Ordering::SeqCst);
        (load, matches!(turn, LogStep::More))
    }

    /// Takes the load for `body` between two turns, with nobody away from it. A panic of `body` ends the
    /// load's work and goes on to the caller.
    pub(crate) fn between_turns<R>(&self, body: impl FnOnce(&mut L) -> R) -> R {
        self.holding.fetch_add(1, Ordering::SeqCst);
        let mut load = self.load.lock();
        while load.is_away() {
            self.landed.wait(&mut load);
        }
        let duty = callback::begin(Duty::Working);
        let result = catch_unwind(AssertUnwindSafe(|| body(&mut load)));
        drop(duty);
        if result.is_err() {
            load.give_up();
        }
        self.holding.fetch_sub(1, Ordering::SeqCst);
        drop(load);
        // Somebody may have found it taken, and trusts in us.
        self.carry_until(|| true);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Says that something was handed in for which nobody waits yet.
    pub(crate) fn announce(&self) {
        // Whoever carries the load now, or is away from it, looks at the inbox before he leaves it.
        let is_free = || self.try_carry().is_some_and(|load| !load.is_away());
        let free = self.keeper.is_some() && is_free();
        if free && !self.call_keeper() {
            self.carry_until(|| false);
        }
    }

    /// Makes sure that somebody works, if need be this thread.
    pub(crate) fn nudge(&self) {
        match &self.keeper {
            Some(_) => self.announce(),
            None => self.carry_until(|| false),
        }
    }

    /// Wakes the keeper; false when there is none.
    fn call_keeper(&self) -> bool {
        self.keeper.as_ref().is_some_and(Keeper::call)
    }
}

/// One turn, errands included, for who has the load between turns.
pub(crate) fn turn<L: Load>(load: &mut L) {
    let mut turn = guarded(load, Load::turn).unwrap_or(LogStep::Idle);
    while let LogStep::Errand(mut errand) = turn {
        let ran = catch_unwind(AssertUnwindSafe(|| L::run(&mut errand)));
        turn = take_back(load, errand, ran.is_ok());
    }
}

fn take_back<L: Load>(load: &mut L, errand: L::Errand, is_done: bool) -> LogStep<L::Errand> {
    if !is_done {
        load.give_up();
    }
    guarded(load, |load| load.back(errand)).unwrap_or(LogStep::Idle)
}

/// What is due. A panic in it ends the load's work instead of the keeper.
fn rest<L: Load>(load: &mut L) -> Option<Duration> {
    guarded(load, Load::rest).flatten()
}

fn guarded<L: Load, R>(load: &mut L, work: impl FnOnce(&mut L) -> R) -> Option<R> {
    let done = catch_unwind(AssertUnwindSafe(|| work(load)));
    if done.is_err() {
        load.give_up();
    }
    done.ok()
}

impl Keeper {
    /// False when nobody hears it any more.
    fn call(&self) -> bool {
        let mut called = self.called.lock();
        called.work = true;
        let heard = !called.ended;
        drop(called);
        self.changed.notify_one();
        heard
    }
}
