//! The call: how the thread that looks after the store is woken, and told to end.
//!
//! Owns what was asked for and not seen to yet. Any number of calls before the thread looks are one. Waiting
//! tells a time that ran out from a call, since more is done while nobody writes.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// How the upkeep is called.
#[derive(Debug, Default)]
pub(crate) struct WakeUp {
    state: Mutex<Called>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Called {
    work: bool,
    stop: bool,
    /// The thread waits for a call, however long that takes.
    #[cfg(test)]
    is_still: bool,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Somebody asked for a look at the store.
    Called,
    /// The time is over.
    Rested,
    /// The thread is to end.
    Stopped,
}

impl WakeUp {
    /// Asks for a look at the store.
    pub(crate) fn call(&self) {
        self.state.lock().work = true;
        // Whoever rests may be another one than the thread that is called.
        self.changed.notify_all();
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// Whether the thread is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }

    /// Waits for a call, at most so long.
    pub(crate) fn wait(&self, at_most: Option<Duration>) -> Woken {
        let mut state = self.state.lock();
        if !state.work && !state.stop {
            match at_most {
                None => self.wait_for_ever(&mut state),
                Some(time) => {
                    self.changed.wait_for(&mut state, time);
                }
            }
        }
        let is_called = std::mem::take(&mut state.work);
        match (state.stop, is_called) {
            (true, _) => Woken::Stopped,
            (false, true) => Woken::Called,
            (false, false) => Woken::Rested,
        }
    }

    fn wait_for_ever(&self, state: &mut MutexGuard<'_, Called>) {
        #[cfg(test)]
        {
            state.is_still = true;
            self.changed.notify_all();
        }
        self.changed.wait(state);
        #[cfg(test)]
        {
            state.is_still = false;
        }
    }

    /// Waits until nothing is left to do and nothing will be by itself.
    #[cfg(test)]
    pub(crate) fn await_stillness(&self) {
        let mut state = self.state.lock();
        while !state.is_still || state.work {
            self.changed.wait(&mut state);
        }
    }

    /// Rests for a while; no longer once the thread is to end.
    pub(crate) fn pause(&self, time: Duration) {
        let mut state = self.state.lock();
        if !state.stop {
            self.changed.wait_for(&mut state, time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle store gives back what is ahead of the tail: that must not happen between two calls.
    #[test]
    fn only_a_wait_that_nobody_ended_is_rest() {
        let call = WakeUp::default();
        call.call();
        call.call();
        assert_eq!(call.wait(None), Woken::Called);
        assert_eq!(call.wait(Some(Duration::ZERO)), Woken::Rested);
        call.call();
        call.stop();
        assert_eq!(call.wait(None), Woken::Stopped);
    }
}
