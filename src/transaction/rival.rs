//! Rivals: how a call of `transact` tries again when it has lost.
//!
//! Owns [`Rival`], the policy: a few tries at once, for most rivals are gone by then, and then
//! turns (`mvcc::turn`).

use std::time::Duration;

use crate::block::{BlockId, TransactionId};
use crate::io::os::pause_thread;
use crate::mvcc::turn::{Loser, Turn, Turns};
use crate::sync::now;

/// How often [`StorageExt::transact`](super::StorageExt::transact) runs its closure before it gives
/// up.
pub const TRANSACT_TRIES_MAX: u32 = 64;

/// Losses before a call waits for its turn.
const LOSSES_MAX: u32 = 4;

/// Bounds of how long a turn may keep others waiting.
const TURN_MIN: Duration = Duration::from_millis(20);
const TURN_MAX: Duration = Duration::from_secs(1);

/// The tries of one call.
pub(super) struct Rival<'a> {
    turns: Option<&'a Turns>,
    /// Since the first loss.
    loser: Option<Loser<'a>>,
    turn: Option<Turn<'a>>,
    tries: u32,
    /// How long a turn may last. Doubled by each one that was too short.
    turn_len: Duration,
    begun_at: Duration,
}

impl<'a> Rival<'a> {
    /// A call that has not lost. It costs the store nothing.
    pub(super) fn new(turns: Option<&'a Turns>) -> Rival<'a> {
        let (loser, turn, begun_at) = (None, None, Duration::ZERO);
        Rival { turns, loser, turn, tries: 0, turn_len: TURN_MIN, begun_at }
    }

    /// Notes that a try begins.
    pub(super) fn note_try_begins(&mut self, transaction: TransactionId) {
        self.tries += 1;
        if let Some(loser) = &mut self.loser {
            loser.note_next_try(transaction);
            self.begun_at = now();
        }
    }

    /// Whether another try may follow a loss.
    pub(super) fn may_try_again(&self) -> bool {
        self.tries < TRANSACT_TRIES_MAX
    }

    /// Notes that a try has lost, and waits until it makes sense to try again.
    pub(super) fn wait_after_loss(&mut self, id: BlockId) {
        let Some(turns) = self.turns else { return pause_thread() };
        let Some(loser) = &mut self.loser else {
            self.loser = Some(turns.register_loser());
            return;
        };
        let took = now().saturating_sub(self.begun_at);
        self.turn_len = self.turn_len.max(4 * took).min(TURN_MAX);
        if let Some(turn) = &self.turn {
            if turn.widen_after_loss(id) {
                return;
            }
            self.turn_len = (2 * self.turn_len).min(TURN_MAX);
            self.turn = None;
        }
        if self.tries >= LOSSES_MAX {
            self.turn = turns.wait_for_turn(loser.take_claim(), self.turn_len);
        }
    }
}
