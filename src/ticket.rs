//! Tickets: where a caller waits for its commit.
//!
//! Owns the hand-over of one result from the leader to one caller. Invariant: a ticket is answered
//! exactly once. A [`Reply`] that is dropped without answering answers [`Error::Closed`], by a
//! panic [`Error::Poisoned`], so no caller waits for ever. A thread works at a commit as soon as
//! its ticket is asked for anything or dropped, and until then whenever a thread works at another
//! one. So a ticket that is about to be waited for costs no wake-up.
//!
//! A ticket belongs to the process that submitted its commit. In a forked child it answers
//! [`Error::Forked`], before it takes any lock, since the threads that would answer it are not
//! there.
//!
//! Waking a thread takes some microseconds. So the leader wakes few callers of a large group, and
//! those wake the others ([`GroupAnswers`]).
//!
//! A callback runs in the middle of other commits, on a thread that may be the leader. So waiting
//! there is refused ([`callback`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::block::Lsn;
use crate::callback::{self, Duty};
use crate::durability::Durability;
use crate::error::{Error, PoisonCause, Result};
use crate::mvcc::batch::Batch;
use crate::sync::{Condvar, Mutex, Process};

/// Callers of a group that wait, from which on they wake each other.
const SHARED_WAKING_MIN: usize = 12;
/// The leader wakes one of so many.
const CALLERS_PER_ROOT: usize = 8;
/// Each caller that is woken wakes so many others.
const FAN_OUT: usize = 3;

/// The result for the caller: the commit's LSN, if it has one.
type Answer = Result<Option<Lsn>>;

type Callback = Box<dyn FnOnce(Answer) + Send>;

#[derive(Default)]
struct TicketSlot {
    state: Mutex<TicketState>,
    answered: Condvar,
}

#[derive(Default)]
struct TicketState {
    answer: Option<Answer>,
    callback: Option<Callback>,
    /// Answered callers that wait, and are woken by the one that takes this answer.
    to_wake: [Option<Arc<TicketSlot>>; FAN_OUT],
    /// The operations, which a caller that waits frees itself: its thread has made them.
    batch: Option<Batch>,
}

impl TicketState {
    /// Takes what the caller has to do once the lock is released.
    fn take_leftover(&mut self) -> Leftover {
        let to_wake = std::mem::take(&mut self.to_wake);
        Leftover { to_wake, _batch: self.batch.take() }
    }
}

/// What a caller does when it has its answer: wakes other callers, and frees its batch.
struct Leftover {
    to_wake: [Option<Arc<TicketSlot>>; FAN_OUT],
    _batch: Option<Batch>,
}

impl Drop for Leftover {
    fn drop(&mut self) {
        self.to_wake.iter().flatten().for_each(|slot| slot.answered.notify_all());
    }
}

/// The store that issued a ticket.
pub(crate) trait Issuer: Send + Sync {
    /// Works at commits on the calling thread, if no other thread does, until `enough`.
    fn lead_until(&self, enough: &dyn Fn() -> bool);
    /// Tells of a submitted commit for which no caller waits yet.
    fn announce_commit(&self);
    /// Makes sure that a thread works at commits, if need be this one.
    fn ensure_progress(&self);
    /// The newest LSN known durable.
    fn durable(&self) -> Lsn;
    /// Names the reason why a ticket was dropped unanswered.
    fn explain(&self, error: Error) -> Error;
}

/// The store's half: answers the caller.
pub(crate) struct Reply(Option<Arc<TicketSlot>>);

/// A commit under way: submit now, wait later. One thread can keep thousands in flight.
///
/// Dropping a ticket never loses the commit, and asking one has the commit carried out. A ticket of
/// [`StorageBackend::submit_transaction`](crate::StorageBackend::submit_transaction) that is merely
/// kept may leave the commit where it is until another caller commits.
///
/// # Examples
/// ```
/// use aegis_blocks::{Block, BlockId, BlockType, Lsn, MemoryBackend, StorageExt};
/// let store = MemoryBackend::new();
/// let tx = store.begin()?;
/// tx.write(Block::new(BlockId(0), BlockType::LogEntry, "entry"))?;
/// let ticket = tx.submit()?;
/// // ... other work ...
/// let lsn = ticket.wait()?;
/// assert_eq!(lsn, Some(Lsn(1)));
/// # Ok::<(), aegis_blocks::Error>(())
/// ```
#[must_use = "a commit may fail; its ticket says so"]
pub struct CommitTicket {
    slot: Arc<TicketSlot>,
    issuer: Option<Arc<dyn Issuer>>,
    /// The durability that the answer proves.
    reached: Durability,
    process: Process,
}

impl std::fmt::Debug for CommitTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // In a forked child another thread's lock is never released.
        let state = self.process.is_current().then(|| self.slot.state.lock());
        let answer = state.as_ref().and_then(|state| state.answer.as_ref());
        f.debug_struct("CommitTicket").field("answer", &answer).finish()
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

/// Makes the two halves of a ticket.
pub(crate) fn ticket(issuer: Option<Arc<dyn Issuer>>) -> (Reply, CommitTicket) {
    let slot = Arc::new(TicketSlot::default());
    let (reached, process) = (Durability::Buffered, Process::current());
    (Reply(Some(Arc::clone(&slot))), CommitTicket { slot, issuer, reached, process })
}

/// Makes a reply for which no caller waits.
pub(crate) fn reply_without_caller() -> Reply {
    Reply(None)
}

impl Reply {
    /// Answers the caller and wakes it.
    pub(crate) fn send(mut self, answer: Result<Lsn>) {
        self.answer(answer.map(Some));
    }

    fn answer(&mut self, answer: Answer) {
        let Some(slot) = self.0.take() else { return };
        let mut state = slot.state.lock();
        let call = state.callback.take().map(|call| (call, answer.clone()));
        state.answer = Some(answer);
        drop(state);
        slot.answered.notify_all();
        if let Some((call, answer)) = call {
            let _duty = callback::begin(Duty::Working);
            callback::run(|| call(answer));
        }
    }
}

/// Answers the callers of a group, from the last one to the first.
///
/// The callers that wait form a tree, whose roots the leader wakes. A caller is linked in the same
/// step in which it is answered, and its own links are made before that. So a caller that finds
/// its answer finds its links, whether it was woken or has stopped waiting by itself. A caller that
/// is not run delays only those below it: twelve at most, in two levels.
pub(crate) struct GroupAnswers {
    /// Callers that are not answered yet.
    left_count: usize,
    count: usize,
    /// Answered callers that wait, and that no caller wakes so far.
    waiting: VecDeque<Arc<TicketSlot>>,
    called_back: Vec<(Reply, Result<Lsn>)>,
}

impl GroupAnswers {
    /// For a group of `count` callers.
    pub(crate) fn new(count: usize) -> GroupAnswers {
        let (waiting, called_back) = (VecDeque::new(), Vec::new());
        GroupAnswers { left_count: count, count, waiting, called_back }
    }

    /// Answers the last caller that is not answered yet.
    pub(crate) fn answer_last(&mut self, mut reply: Reply, answer: Result<Lsn>, batch: Batch) {
        debug_assert!(self.left_count > 0, "a group has as many callers as it said");
        self.left_count -= 1;
        let Some(slot) = reply.0.take() else { return };
        let mut state = slot.state.lock();
        if state.callback.is_some() {
            drop(state);
            self.called_back.push((Reply(Some(slot)), answer));
            return;
        }
        state.answer = Some(answer.map(Some));
        if slot.answered.has_waiters() {
            let link_count = self.link_count().min(self.waiting.len());
            let links = state.to_wake.iter_mut().zip(self.waiting.drain(..link_count));
            links.for_each(|(link, below)| *link = Some(below));
            state.batch = Some(batch);
            drop(state);
            self.waiting.push_back(slot);
        }
    }

    /// Wakes the callers, and calls callbacks in the order of their commits.
    pub(crate) fn wake_callers(mut self) {
        debug_assert_eq!(self.left_count, 0, "every caller is answered");
        let called_back = std::mem::take(&mut self.called_back);
        drop(self);
        for (reply, answer) in called_back.into_iter().rev() {
            reply.send(answer);
        }
    }

    /// The number of others that the caller at `left_count` wakes. Callers stand in the tree as in
    /// a heap: the ones below caller `i` begin at `roots + FAN_OUT * i`.
    fn link_count(&self) -> usize {
        if self.count < SHARED_WAKING_MIN {
            return 0;
        }
        let first = self.count.div_ceil(CALLERS_PER_ROOT) + FAN_OUT * self.left_count;
        self.count.saturating_sub(first).min(FAN_OUT)
    }
}

impl Drop for GroupAnswers {
    /// Wakes those that are answered, also where a panic has cut the answering short.
    fn drop(&mut self) {
        self.waiting.iter().for_each(|slot| slot.answered.notify_all());
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // A panic of the leader poisons the log, but only after this.
        let lost = match std::thread::panicking() {
            true => Error::Poisoned { cause: PoisonCause::ThreadPanicked },
            false => Error::Closed,
        };
        self.answer(Err(lost));
    }
}

impl CommitTicket {
    /// Makes a ticket for a commit that is over; for backends whose commits are over when they
    /// return. No LSN when the commit changed nothing, or the backend cannot tell. `reached` is the
    /// durability that the commit has by now.
    pub fn answered(answer: Result<Option<Lsn>>, reached: Durability) -> CommitTicket {
        let slot = TicketSlot::default();
        slot.state.lock().answer = Some(answer);
        let process = Process::current();
        CommitTicket { slot: Arc::new(slot), issuer: None, reached, process }
    }

    /// Waits until the commit is as durable as was asked, and returns its LSN: none when it changed
    /// nothing, or when the backend does not tell.
    ///
    /// # Errors
    /// As [`Transaction::commit`](crate::Transaction::commit), but for [`Error::InCallback`]: the
    /// commit goes on then, and its outcome is not heard of. Keep the ticket, and ask
    /// [`CommitTicket::try_wait`] or have another thread wait.
    pub fn wait(mut self) -> Result<Option<Lsn>> {
        self.process.check()?;
        // Without its issuer the ticket is dropped unheard.
        let issuer = self.issuer.take();
        if let Some(issuer) = &issuer {
            if !callback::may_wait() && !self.is_answered() {
                issuer.ensure_progress();
                return Err(Error::InCallback);
            }
            issuer.lead_until(&|| self.is_answered());
        }
        let mut state = self.slot.state.lock();
        loop {
            if let Some(answer) = state.answer.take() {
                let leftover = state.take_leftover();
                drop(state);
                drop(leftover);
                return answer.map_err(|error| explain(issuer.as_deref(), error));
            }
            self.slot.answered.wait(&mut state);
        }
    }

    /// As [`CommitTicket::wait`], for a limited time; `None` when that is over.
    ///
    /// # Errors
    /// As [`CommitTicket::wait`]. The commit goes on when the time is over, or in a callback, and
    /// the ticket stays good.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Option<Lsn>>> {
        if let Err(forked) = self.process.check() {
            return Some(Err(forked));
        }
        self.help_along();
        let mut state = self.slot.state.lock();
        if state.answer.is_none() && !timeout.is_zero() {
            if let Err(refused) = callback::check_may_wait() {
                return Some(Err(refused));
            }
            self.slot.answered.wait_for(&mut state, timeout);
        }
        let (answer, leftover) = (state.answer.clone(), state.take_leftover());
        drop(state);
        drop(leftover);
        let issuer = self.issuer.as_deref();
        answer.map(|answer| answer.map_err(|error| explain(issuer, error)))
    }

    /// The result, if it is there.
    ///
    /// # Errors
    /// As [`CommitTicket::wait`].
    pub fn try_wait(&self) -> Option<Result<Option<Lsn>>> {
        self.wait_timeout(Duration::ZERO)
    }

    /// The commit's LSN, once it is committed; none either when it changed nothing, or when the
    /// backend does not tell.
    pub fn lsn(&self) -> Option<Lsn> {
        self.process.check().ok()?;
        self.help_along();
        *self.slot.state.lock().answer.as_ref()?.as_ref().ok()?
    }

    /// Whether the commit is known to survive power loss by now, whatever durability was asked.
    pub fn is_durable(&self) -> bool {
        if !self.process.is_current() {
            return false;
        }
        match (self.lsn(), &self.issuer) {
            (Some(lsn), Some(issuer)) => lsn <= issuer.durable(),
            _ => {
                let committed = matches!(self.slot.state.lock().answer, Some(Ok(_)));
                committed && self.reached == Durability::Durable
            }
        }
    }

    /// Has `call` called with the result: at once, on this thread, when it is there; otherwise
    /// later, on whatever thread works at commits then, a thread of the store or of another caller.
    /// A panic in it goes to the panic hook and no further.
    ///
    /// All other commits wait for a callback that is called later, so keep it short. In it:
    /// - reading, beginning and submitting the next commit ([`Transaction::submit`]) are fine. A
    ///   commit submitted here does not wait for [`Options::in_flight_len_max`].
    /// - a call that might wait for a store on files, this one or another, is [`Error::InCallback`]
    ///   instead, because it might never end: commits, single writes and deletes, batches and
    ///   [`sync`], before anything is done; [`CommitTicket::wait`]; closing, checkpoints,
    ///   compaction, backups and preparing space; beginning where as many transactions are open as
    ///   may be; the ticket of a commit that is submitted while the store's queue is full.
    /// - waiting for something else that waits for the store, another thread's commit for instance,
    ///   is not noticed and never ends.
    /// - dropping the last handle of the store is fine. The store then closes on a thread of its
    ///   own, a moment after the callback.
    ///
    /// [`Transaction::submit`]: crate::Transaction::submit
    /// [`Options::in_flight_len_max`]: crate::Options::in_flight_len_max
    /// [`sync`]: crate::StorageBackend::sync
    pub fn on_durable(mut self, call: impl FnOnce(Result<Option<Lsn>>) + Send + 'static) {
        if let Err(forked) = self.process.check() {
            return callback::run(|| call(Err(forked)));
        }
        let issuer = self.issuer.take();
        let mut state = self.slot.state.lock();
        match state.answer.take() {
            Some(answer) => {
                drop(state);
                let answer = answer.map_err(|error| explain(issuer.as_deref(), error));
                callback::run(|| call(answer));
            }
            None => {
                state.callback = Some(Box::new(call));
                drop(state);
                if let Some(issuer) = &issuer {
                    issuer.ensure_progress();
                }
            }
        }
    }

    /// Lets the commit proceed while no caller waits for it.
    pub(crate) fn announced(self) -> CommitTicket {
        if let Some(issuer) = &self.issuer {
            issuer.announce_commit();
        }
        self
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.slot.state.lock().answer.is_some()
    }

    /// Makes sure that a thread works at the commit while it is not answered.
    fn help_along(&self) {
        if let Some(issuer) = &self.issuer
            && self.process.is_current()
            && !self.is_answered()
        {
            issuer.ensure_progress();
        }
    }
}

impl Drop for CommitTicket {
    fn drop(&mut self) {
        self.help_along();
    }
}

fn explain(issuer: Option<&dyn Issuer>, error: Error) -> Error {
    match issuer {
        Some(issuer) => issuer.explain(error),
        None => error,
    }
}
