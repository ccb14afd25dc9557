//! Turns: which of the calls that lose again and again goes first.
//!
//! A transaction that conflicts has lost to a faster one. Run again beside enough of those, it would
//! lose for ever: first committer wins, and short ones are faster. So a call of
//! [`transact`](crate::StorageExt::transact) that lost some times waits here for its turn: one at a
//! time, first come first served. Owns the queue, the turn, and what it claims. Rules:
//!
//! 1. While a turn lasts, commits of other threads that change what it claims wait at the
//!    [gate](Turns::pass), and are handed in behind it. It claims what its last try wrote, and read if
//!    that was checked; after a loss to something else, everything. So in a turn a transaction loses
//!    to commits that were handed in before it, and to no later one.
//! 2. A thread that was kept waiting as long as the turn may last puts it out. So a commit that the
//!    turn's own body waits for goes on. A turn starts when its thread has woken.
//! 3. A commit waits for one turn at most. After a turn that kept a commit waiting, the next one rests
//!    for [`REST`] times as long, so that other threads keep their rate
//!    (`docs/decisions/0001-turns.md` has what was measured).
//! 4. A thread in its turn waits at no gate and for no turn, of no store. Where a thread must not wait
//!    (`callback`), it does not wait here.
//!
//! While no call of `transact` has lost, a commit pays one relaxed load. Lock order: the turns' lock
//! comes last.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::block::{BlockId, TransactionId};
use crate::callback;
use crate::mvcc::batch::{Batch, Operation, Reads};
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering, Process, now, thread_local};

/// Rest after a turn that kept a commit waiting, over its length.
const REST: u32 = 19;

thread_local! {
    static IN_TURN: Cell<bool> = Cell::default();
}

/// Where calls of [`transact`](crate::StorageExt::transact) that lost again and again wait for their turn.
/// A backend that wraps another one hands that one's out.
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
    /// What the losers' tries under way are to change, as far as they have come to their commits.
    claims: HashMap<TransactionId, TurnClaim>,
    /// Who waits for a turn, in the order of coming; each has its own bell.
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

/// What commits of others must not change while a turn lasts.
#[derive(Debug)]
pub(crate) enum TurnClaim {
    Blocks(Reads),
    Everything,
}

impl TurnClaim {
    /// What a transaction conflicts over.
    fn of(batch: &Batch) -> TurnClaim {
        let mut claim = Reads::default();
        if let Some(reads) = &batch.reads {
            claim.ids.clone_from(&reads.ids);
            claim.ranges.clone_from(&reads.ranges);
        }
        claim.ids.extend(batch.operations.iter().map(|(id, _)| *id));
        TurnClaim::Blocks(claim)
    }

    fn holds(&self, id: BlockId) -> bool {
        match self {
            TurnClaim::Blocks(claim) => {
                let range = claim.ranges.range(..=id).next_back();
                claim.ids.contains(&id) || range.is_some_and(|(_, last)| id <= *last)
            }
            TurnClaim::Everything => true,
        }
    }

    fn meets(&self, batch: &Batch) -> bool {
        let changes =
            |(id, operation): &(BlockId, Operation)| !operation.is_move() && self.holds(*id);
        batch.operations.iter().any(changes)
    }
}

impl TurnState {
    fn is_on(&self, number: u64) -> bool {
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

    /// Comes before a commit is handed in: waits while another thread's turn claims what it changes.
    #[inline]
    pub(crate) fn pass(&self, batch: &Batch) {
        if self.loser_count.load(Ordering::Relaxed) > 0 {
            self.pass_losers(batch);
        }
    }

    #[cold]
    fn pass_losers(&self, batch: &Batch) {
        let mut state = self.state.lock();
        let own = batch.transaction.and_then(|id| state.claims.get_mut(&id));
        if let Some(claim) = own {
            *claim = TurnClaim::of(batch);
        }
        if IN_TURN.with(Cell::get) || !callback::may_wait() {
            return;
        }
        let Some(turn) = state.turn.as_mut().filter(|turn| turn.claim.meets(batch)) else { return };
        turn.has_held = true;
        let (number, len_max) = (turn.number, turn.len_max);
        let is_on = |state: &mut TurnState| state.is_on(number);
        if self.ended.wait_while_for(&mut state, is_on, len_max).timed_out() {
            self.end(&mut state, number);
        }
    }

    /// Notes a call that has lost.
    pub(crate) fn enter(&self) -> Loser<'_> {
        self.loser_count.fetch_add(1, Ordering::Relaxed);
        Loser { turns: self, transaction: None }
    }

    /// Waits for a turn that claims something and lasts at most `len_max`. `None` where the thread must not wait,
    /// or has a turn already.
    pub(crate) fn wait(&self, claim: TurnClaim, len_max: Duration) -> Option<Turn<'_>> {
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
                let is_on = |state: &mut TurnState| state.is_on(number);
                if bell.wait_while_for(&mut state, is_on, len_max).timed_out() {
                    self.end(&mut state, number);
                }
            } else {
                let rest = state.rested_at.saturating_sub(now());
                if rest.is_zero() {
                    break;
                }
                bell.wait_for(&mut state, rest);
            }
        }
        state.queue.pop_front();
        state.turn_count += 1;
        let number = state.turn_count;
        let (started_at, has_held) = (now(), false);
        state.turn = Some(Current { number, claim, started_at, len_max, has_held });
        self.ring(&state);
        drop(state);
        IN_TURN.with(|in_turn| in_turn.set(true));
        Some(Turn { turns: self, number, _thread: std::marker::PhantomData })
    }

    fn end(&self, state: &mut TurnState, number: u64) {
        let Some(turn) = state.turn.take_if(|turn| turn.number == number) else { return };
        if turn.has_held {
            let at = now();
            state.rested_at = at + REST * at.saturating_sub(turn.started_at);
        }
        self.ended.notify_all();
        self.ring(state);
    }

    /// Wakes the first of the queue.
    fn ring(&self, state: &TurnState) {
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
    pub(crate) fn tries(&mut self, transaction: TransactionId) {
        let mut state = self.turns.state.lock();
        if let Some(before) = self.transaction.replace(transaction) {
            state.claims.remove(&before);
        }
        state.claims.insert(transaction, TurnClaim::Blocks(Reads::default()));
    }

    /// What the last try read and wrote; nothing, where it did not come to its commit.
    pub(crate) fn claim(&mut self) -> TurnClaim {
        self.forget().unwrap_or(TurnClaim::Blocks(Reads::default()))
    }

    fn forget(&mut self) -> Option<TurnClaim> {
        let transaction = self.transaction.take()?;
        self.turns.state.lock().claims.remove(&transaction)
    }
}

impl Drop for Loser<'_> {
    fn drop(&mut self) {
        // In a forked child the lock may be held for ever, and no thread waits.
        if self.turns.process.is_current() {
            self.forget();
            self.turns.loser_count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The turn of the calling thread, until this is dropped or a waiting thread puts it out.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
    /// It is the thread's.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Turn<'_> {
    /// After a loss in the turn: claims everything, if the loss was to what it did not claim. False where it
    /// was put out.
    pub(crate) fn lost_to(&self, id: BlockId) -> bool {
        let mut state = self.turns.state.lock();
        let Some(turn) = state.turn.as_mut().filter(|turn| turn.number == self.number) else {
            return false;
        };
        if !turn.claim.holds(id) {
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
            self.turns.end(&mut state, self.number);
        }
    }
}

#[cfg(test)]
mod tests;
