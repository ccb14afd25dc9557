//! Turns: the order among calls that lose again and again.
//!
//! A transaction that conflicts has lost to a faster one. Run again beside enough of those, it
//! would lose for ever: first committer wins, and short ones are faster. So a call of
//! [`transact`](crate::StorageExt::transact) that lost some times waits here for its turn: one at a
//! time, first come first served. Owns the queue, the turn, and its claim. Rules:
//!
//! 1. While a turn lasts, commits of other threads that change what it claims wait at the
//!    [gate](Turns::wait_at_gate), and are submitted behind it. It claims what its last try wrote,
//!    and read if that was checked; after a loss to something else, everything. So in a turn a
//!    transaction loses only to commits that were submitted before it.
//! 2. A thread that has waited for the maximum length of the turn ends it. So a commit that the
//!    turn's own body waits for can proceed. A turn starts when its thread has woken.
//! 3. A commit waits for one turn at most. After a turn that kept a commit waiting, the next one
//!    starts only after a pause of [`REST`] times its length, so that other threads keep their rate
//!    (`docs/decisions/0001-turns.md` has what was measured).
//! 4. A thread in its turn waits at no gate and for no turn, of no store. Where a thread must not
//!    wait (`callback`), it does not wait here.
//!
//! While no call of `transact` has lost, a commit pays one relaxed load. Lock order: the turns'
//! lock comes last.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::block::{BlockId, TransactionId};
use crate::callback;
use crate::mvcc::batch::{Batch, Operation, Reads};
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering, Process, now, thread_local};

/// Pause after a turn that kept a commit waiting, as a multiple of its length.
const REST: u32 = 19;

thread_local! {
    static IN_TURN: Cell<bool> = Cell::default();
}

/// Where calls of [`transact`](crate::StorageExt::transact) that lost again and again wait for
/// their turn. A backend that wraps another one returns the inner one's.
#[derive(Debug)]
pub struct Turns {
    process: Process,
    /// Calls of `transact` that have lost and have not ended.
    loser_count: AtomicU64,
    state: Mutex<TurnState>,
    /// A turn has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct TurnState {
    /// The claims of the losers' present tries, as far as they have come to their commits.
    claims: HashMap<TransactionId, TurnClaim>,
    /// The condition variables of the waiting calls, first come first.
    queue: VecDeque<Arc<Condvar>>,
    turn: Option<Current>,
    turn_count: u64,
    /// When the next turn may start.
    rested_at: Duration,
}

#[derive(Debug)]
struct Current {
    number: u64,
    claim: TurnClaim,
    started_at: Duration,
    len_max: Duration,
    has_held: bool,
}

/// The ids that commits of other threads must not change during a turn.
#[derive(Debug)]
pub(crate) enum TurnClaim {
    Blocks(Reads),
    Everything,
}

impl TurnClaim {
    /// The claim of a transaction: the ids and ranges that it conflicts over.
    fn of_batch(batch: &Batch) -> TurnClaim {
        let mut claim = Reads::default();
        if let Some(reads) = &batch.reads {
            claim.ids.clone_from(&reads.ids);
            claim.ranges.clone_from(&reads.ranges);
        }
        claim.ids.extend(batch.operations.iter().map(|(id, _)| *id));
        TurnClaim::Blocks(claim)
    }

    fn covers_id(&self, id: BlockId) -> bool {
        match self {
            TurnClaim::Blocks(claim) => {
                let range = claim.ranges.range(..=id).next_back();
                claim.ids.contains(&id) || range.is_some_and(|(_, last)| id <= *last)
            }
            TurnClaim::Everything => true,
        }
    }

    fn meets_batch(&self, batch: &Batch) -> bool {
        let changes = |(id, operation): &(BlockId, Operation)| {
            !operation.is_relocation() && self.covers_id(*id)
        };
        batch.operations.iter().any(changes)
    }
}

impl TurnState {
    fn is_current_turn(&self, number: u64) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.number == number)
    }
}

impl Turns {
    pub(crate) fn new(process: Process) -> Turns {
        Turns {
            process,
            loser_count: AtomicU64::new(0),
            state: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Comes before a commit is submitted: waits while another thread's turn claims what it
    /// changes.
    #[inline]
    pub(crate) fn wait_at_gate(&self, batch: &Batch) {
        if self.loser_count.load(Ordering::Relaxed) > 0 {
            self.wait_at_gate_slowly(batch);
        }
    }

    #[cold]
    fn wait_at_gate_slowly(&self, batch: &Batch) {
        let mut state = self.state.lock();
        let own = batch.transaction.and_then(|id| state.claims.get_mut(&id));
        if let Some(claim) = own {
            *claim = TurnClaim::of_batch(batch);
        }
        if IN_TURN.with(Cell::get) || !callback::may_wait() {
            return;
        }
        let Some(turn) = state.turn.as_mut().filter(|turn| turn.claim.meets_batch(batch)) else {
            return;
        };
        turn.has_held = true;
        let (number, len_max) = (turn.number, turn.len_max);
        let is_on = |state: &mut TurnState| state.is_current_turn(number);
        if self.ended.wait_while_for(&mut state, is_on, len_max).timed_out() {
            self.end_turn(&mut state, number);
        }
    }

    /// Notes a call that has lost.
    pub(crate) fn register_loser(&self) -> Loser<'_> {
        self.loser_count.fetch_add(1, Ordering::Relaxed);
        Loser { turns: self, transaction: None }
    }

    /// Waits for a turn that lasts at most `len_max`. `None` where the thread must not wait, or has
    /// a turn already.
    pub(crate) fn wait_for_turn(&self, claim: TurnClaim, len_max: Duration) -> Option<Turn<'_>> {
        if IN_TURN.with(Cell::get) || !callback::may_wait() {
            return None;
        }
        let mut state = self.state.lock();
        let bell = Arc::new(Condvar::new());
        state.queue.push_back(Arc::clone(&bell));
        loop {
            if !state.queue.front().is_some_and(|first| Arc::ptr_eq(first, &bell)) {
                bell.wait(&mut state);
            } else if let Some(turn) = &state.turn {
                let (number, len_max) = (turn.number, turn.len_max);
                let is_on = |state: &mut TurnState| state.is_current_turn(number);
                if bell.wait_while_for(&mut state, is_on, len_max).timed_out() {
                    self.end_turn(&mut state, number);
                }
            } else {
                let rest = state.rested_at.saturating_sub(now());
                if rest.is_zero() {
                    break;
                }
                bell.wait_for(&mut state, rest);
            }
        }
        debug_assert!(state.turn.is_none(), "one turn at a time");
        state.queue.pop_front();
        state.turn_count += 1;
        let number = state.turn_count;
        let (started_at, has_held) = (now(), false);
        state.turn = Some(Current { number, claim, started_at, len_max, has_held });
        self.wake_queue_front(&state);
        drop(state);
        IN_TURN.with(|in_turn| in_turn.set(true));
        Some(Turn { turns: self, number, _thread: std::marker::PhantomData })
    }

    fn end_turn(&self, state: &mut TurnState, number: u64) {
        debug_assert!(self.process.is_current(), "a forked child ends no turn");
        let Some(turn) = state.turn.take_if(|turn| turn.number == number) else { return };
        if turn.has_held {
            let at = now();
            state.rested_at = at + REST * at.saturating_sub(turn.started_at);
        }
        self.ended.notify_all();
        self.wake_queue_front(state);
    }

    /// Wakes the first of the queue.
    fn wake_queue_front(&self, state: &TurnState) {
        if let Some(first) = state.queue.front() {
            first.notify_one();
        }
    }
}

/// A call of `transact` that has lost.
#[derive(Debug)]
pub(crate) struct Loser<'a> {
    turns: &'a Turns,
    transaction: Option<TransactionId>,
}

impl<'a> Loser<'a> {
    /// Notes the transaction of the next try, so that its commit leaves its claim here.
    pub(crate) fn note_next_try(&mut self, transaction: TransactionId) {
        let mut state = self.turns.state.lock();
        if let Some(before) = self.transaction.replace(transaction) {
            state.claims.remove(&before);
        }
        state.claims.insert(transaction, TurnClaim::Blocks(Reads::default()));
    }

    /// The claim of the last try; nothing, where it did not come to its commit.
    pub(crate) fn take_claim(&mut self) -> TurnClaim {
        self.remove_noted_claim().unwrap_or(TurnClaim::Blocks(Reads::default()))
    }

    fn remove_noted_claim(&mut self) -> Option<TurnClaim> {
        debug_assert!(self.turns.process.is_current(), "a forked child takes no lock of turns");
        let transaction = self.transaction.take()?;
        self.turns.state.lock().claims.remove(&transaction)
    }
}

impl Drop for Loser<'_> {
    fn drop(&mut self) {
        // In a forked child the lock may be held for ever, and no thread waits.
        if self.turns.process.is_current() {
            self.remove_noted_claim();
            let before = self.turns.loser_count.fetch_sub(1, Ordering::Relaxed);
            debug_assert!(before > 0, "a loser is counted until its call ends");
        }
    }
}

/// The turn of the calling thread, until this is dropped or a waiting thread ends it.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
    /// Bound to its thread.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Turn<'_> {
    /// After a loss in the turn: claims everything, if the lost id was outside the claim. False
    /// where the turn was ended by a waiting thread.
    pub(crate) fn widen_after_loss(&self, id: BlockId) -> bool {
        let mut state = self.turns.state.lock();
        let Some(turn) = state.turn.as_mut().filter(|turn| turn.number == self.number) else {
            return false;
        };
        if !turn.claim.covers_id(id) {
            turn.claim = TurnClaim::Everything;
        }
        true
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        IN_TURN.with(|in_turn| in_turn.set(false));
        if self.turns.process.is_current() {
            let mut state = self.turns.state.lock();
            self.turns.end_turn(&mut state, self.number);
        }
    }
}

#[cfg(test)]
mod tests;
