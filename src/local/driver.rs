//! The driver: who carries the log.
//!
//! Owns the lock around the [`Log`] and the keeper thread. A caller hands its commit to the inbox and
//! then tries for the log. If it is free the caller carries it: forms the group, writes, syncs and
//! publishes, its own commit and everybody else's, until its own is answered. If it is taken, somebody
//! who came before is carrying it and will find the commit in the inbox. So a lone caller pays for no
//! hand-over between threads, and a crowd shares one write and one sync.
//!
//! Invariant: whoever lets go of the log looks at the inbox once more. A commit that arrived too late
//! for the carrier and found the log taken is thereby seen; the *keeper*, a thread that sleeps
//! otherwise, is woken for it. The keeper also does what is due while nobody commits: the witness of
//! the last group and the sync interval.
//!
//! Without a keeper (single-threaded mode, for deterministic tests) the caller looks again itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex};

use crate::block::Lsn;
use crate::error::{Error, Result};
use crate::io::Disk;
use crate::local::commit::Submission;
use crate::local::log::{Log, Message, Shared, Turn};
use crate::ticket::{Issuer, Reply, ticket};

/// The keeper looks at a busy log this often.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Hands commits to whoever carries the log.
pub(crate) struct Driver<D: Disk> {
    shared: Arc<Shared>,
    inbox: Sender<Message>,
    log: Mutex<Log<D>>,
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
}

impl<D: Disk> Driver<D> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        inbox: Sender<Message>,
        log: Log<D>,
        with_keeper: bool,
    ) -> Driver<D> {
        let keeper = with_keeper.then(Keeper::default);
        Driver { shared, inbox, log: Mutex::new(log), keeper }
    }

    /// Hands something in; it takes its share of the budget first. It is carried out once somebody
    /// waits for it, or nudges.
    pub(crate) fn submit(&self, submission: Submission<Reply>) {
        let budget = &self.shared.budget;
        if self.keeper.is_none() {
            // Nobody else will make room.
            while self.inbox.is_full() || !budget.try_take(submission.log_len) {
                self.carry_until(|| false);
            }
        } else if !budget.try_take(submission.log_len) {
            self.nudge();
            budget.take(submission.log_len);
        }
        // The inbox is as old as the log: a full one makes room, a closed log answers.
        if let Err(refused) = self.inbox.send(Message::Submit(submission)) {
            drop(refused);
        }
    }

    /// Writes the end mark; the log refuses everything from here on.
    pub(crate) fn close(&self) -> Result<Lsn> {
        let (reply, waiter) = ticket(None);
        if let Err(refused) = self.inbox.send(Message::Close(reply)) {
            drop(refused);
        }
        loop {
            self.carry_until(|| waiter.is_answered());
            if waiter.is_answered() || self.keeper.is_some() {
                break;
            }
        }
        let closed = waiter.wait();
        if let Some(keeper) = &self.keeper {
            keeper.called.lock().stop = true;
            keeper.changed.notify_all();
        }
        closed
    }

    /// What the keeper does until the store is closed.
    pub(crate) fn keep(self: Arc<Self>) {
        let Some(keeper) = &self.keeper else { return };
        loop {
            let carried = self.log.try_lock().map(|mut log| {
                while self.turn(&mut log) == Turn::More {}
                let due = log.rest();
                // Set while we hold the log: who carries it next sees it, and calls.
                keeper.asleep.store(due.is_none(), Ordering::SeqCst);
                due
            });
            let mut called = keeper.called.lock();
            if called.stop {
                return;
            }
            // Of what arrives while somebody else carries the log, that one tells us.
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

    /// Carries the log, if it is free, until `enough` or nothing is left to do.
    fn carry_until(&self, enough: impl Fn() -> bool) {
        loop {
            let Some(mut log) = self.log.try_lock() else { return };
            let mut turn = Turn::More;
            while turn == Turn::More && !enough() {
                turn = self.turn(&mut log);
            }
            let idle = log.is_idle();
            drop(log);
            let left = !idle || !self.inbox.is_empty();
            match &self.keeper {
                Some(keeper) => {
                    if left || keeper.asleep.load(Ordering::SeqCst) {
                        keeper.call();
                    }
                    return;
                }
                None if !left => return,
                None => {}
            }
        }
    }

    /// One turn of the log. A panic in it poisons the store instead of the caller.
    fn turn(&self, log: &mut Log<D>) -> Turn {
        match catch_unwind(AssertUnwindSafe(|| log.turn())) {
            Ok(turn) => turn,
            Err(_panic) => {
                log.give_up();
                Turn::Idle
            }
        }
    }
}

impl<D: Disk> Issuer for Driver<D> {
    fn carry(&self, enough: &dyn Fn() -> bool) {
        self.carry_until(enough);
    }

    fn announce(&self) {
        // Whoever carries the log now looks at the inbox when he lets go of it.
        if let Some(keeper) = &self.keeper
            && self.log.try_lock().is_some()
        {
            keeper.call();
        }
    }

    fn nudge(&self) {
        match &self.keeper {
            Some(_) => self.announce(),
            None => self.carry_until(|| false),
        }
    }

    fn durable(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Acquire))
    }

    fn explain(&self, error: Error) -> Error {
        match (error, self.shared.poison.cause()) {
            (Error::Closed, Some(cause)) => Error::Poisoned { cause },
            (error, _) => error,
        }
    }
}

impl Keeper {
    fn call(&self) {
        self.called.lock().work = true;
        self.changed.notify_one();
    }
}
