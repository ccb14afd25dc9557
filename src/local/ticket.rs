//! Tickets: where a caller waits for its commit.
//!
//! Owns the hand-over of one result from whoever carries the log to one caller. Invariant: a ticket is
//! answered exactly once; a sender that is dropped without answering answers [`Error::Closed`], so
//! nobody waits for ever.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::block::Lsn;
use crate::error::{Error, Result};

#[derive(Debug, Default)]
struct Slot {
    answer: Mutex<Option<Result<Lsn>>>,
    answered: Condvar,
}

/// The log's half: answers the caller.
#[derive(Debug)]
pub(crate) struct Reply(Option<Arc<Slot>>);

/// The caller's half: waits for the answer.
#[derive(Debug)]
pub(crate) struct Waiter(Arc<Slot>);

/// Makes the two halves of a ticket.
pub(crate) fn ticket() -> (Reply, Waiter) {
    let slot = Arc::new(Slot::default());
    (Reply(Some(Arc::clone(&slot))), Waiter(slot))
}

impl Reply {
    /// Answers the caller and wakes it.
    pub(crate) fn send(mut self, answer: Result<Lsn>) {
        self.answer(answer);
    }

    fn answer(&mut self, answer: Result<Lsn>) {
        if let Some(slot) = self.0.take() {
            *slot.answer.lock() = Some(answer);
            slot.answered.notify_one();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(Err(Error::Closed));
    }
}

impl Waiter {
    /// Whether the answer is there.
    pub(crate) fn is_answered(&self) -> bool {
        self.0.answer.lock().is_some()
    }

    /// Waits for the answer.
    pub(crate) fn wait(self) -> Result<Lsn> {
        let mut slot = self.0.answer.lock();
        loop {
            if let Some(answer) = slot.take() {
                return answer;
            }
            self.0.answered.wait(&mut slot);
        }
    }
}
