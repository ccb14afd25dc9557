//! The hand-over: who carries the load, and who is called when nobody does.
//!
//! Owns the inbox's sending end, the lock around the load (in the product the log) and the keeper's
//! sleep. Whoever hands something in tries for the load. If it is free he carries it until he has what
//! he wants; if it is taken, somebody who came before is carrying it and will find it in the inbox.
//!
//! Invariant: whoever lets go of the load looks at the inbox once more. What arrived too late for the
//! carrier and found the load taken is thereby seen; the *keeper*, a thread that sleeps otherwise, is
//! called for it. The keeper also does what is due while nobody hands anything in. Where there is none,
//! because it was dismissed or never was (single-threaded mode, for deterministic tests), the carrier
//! himself goes on until nothing is left.
//!
//! Lock order: the load, then the keeper's call. `tests/loom` tries every schedule of this.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::canary::{Bug, planted};
use crate::sync::channel::Sender;
use crate::sync::{AtomicBool, Condvar, Mutex, Ordering};

/// The keeper looks at a busy load this often.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Take another one.
    More,
    /// Nothing is left to do.
    Idle,
}

/// What one thread at a time carries.
pub(crate) trait Load {
    /// Takes what the inbox holds and does the next piece of work.
    fn turn(&mut self) -> Turn;
    /// Does what is due while nothing comes in, and returns how long nothing will be due: `None` for
    /// ever.
    fn rest(&mut self) -> Option<Duration>;
    /// Whether nothing that was taken is unfinished.
    fn is_idle(&self) -> bool;
    /// After a panic in a turn: refuses everybody who waits.
    fn give_up(&mut self);
}

/// A load, its inbox and its keeper.
pub(crate) struct Handover<L, M> {
    pub(crate) inbox: Sender<M>,
    load: Mutex<L>,
    keeper: Option<Keeper>,
}

/// How the keeper is told.
#[derive(Default)]
struct Keeper {
    /// The keeper sleeps until it is woken.
    asleep: AtomicBool,
    called: Mutex<Call>,
    changed: Condvar,
}

#[derive(Default)]
struct Call {
    work: bool,
    stop: bool,
    /// The keeper hears no call any more.
    ended: bool,
}

impl<L: Load, M> Handover<L, M> {
    pub(crate) fn new(inbox: Sender<M>, load: L, with_keeper: bool) -> Handover<L, M> {
        let keeper = with_keeper.then(Keeper::default);
        Handover { inbox, load: Mutex::new(load), keeper }
    }

    /// Whether somebody works while no caller does.
    pub(crate) fn has_keeper(&self) -> bool {
        self.keeper.is_some()
    }

    /// What the keeper does until it is dismissed.
    pub(crate) fn keep(&self) {
        let Some(keeper) = &self.keeper else { return };
        loop {
            let carried = self.load.try_lock().map(|mut load| {
                while turn(&mut *load) == Turn::More {}
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
                return if planted(Bug::KeeperEndsEarly) {
                } else {
                    self.carry_until(|| false)
                };
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
            let Some(mut load) = self.load.try_lock() else { return };
            let mut last = Turn::More;
            while last == Turn::More && (alone || !enough()) {
                last = turn(&mut *load);
            }
            let idle = load.is_idle();
            drop(load);
            let left = !idle || !self.inbox.is_empty();
            let asleep = self.keeper.as_ref().is_some_and(|k| k.asleep.load(Ordering::SeqCst));
            let heard = (left || asleep) && self.call_keeper();
            if !left || heard {
                return;
            }
            // What is left is somebody else's, who found the load taken and trusts in us.
            alone = true;
        }
    }

    /// Takes the load for `body`, when its carrier lets go of it.
    pub(crate) fn between_turns<R>(&self, body: impl FnOnce(&mut L) -> R) -> R {
        let mut load = self.load.lock();
        let result = body(&mut load);
        drop(load);
        // Somebody may have found it taken, and trusts in us.
        if !planted(Bug::CarrierTrustsNobody) {
            self.carry_until(|| true);
        }
        result
    }

    /// Says that something was handed in for which nobody waits yet.
    pub(crate) fn announce(&self) {
        // Whoever carries the load now looks at the inbox when he lets go of it.
        let free = self.keeper.is_some() && self.load.try_lock().is_some();
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

/// One turn. A panic in it ends the load's work instead of the caller.
pub(crate) fn turn<L: Load>(load: &mut L) -> Turn {
    guarded(load, Load::turn).unwrap_or(Turn::Idle)
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
