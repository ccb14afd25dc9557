//! WakeUp: wakes and stops the maintenance thread.
//!
//! Owns the pending call. Several calls before the thread wakes are one. A wait tells a timeout
//! from a call, since maintenance does more on an idle store.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// The signal to the maintenance thread. One thread waits; any thread calls or pauses.
#[derive(Debug, Default)]
pub(crate) struct WakeUp {
    state: Mutex<Called>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Called {
    work: bool,
    stop: bool,
    /// The thread waits for a call without a timeout.
    #[cfg(test)]
    is_still: bool,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// A thread called.
    Called,
    /// The timeout passed.
    Rested,
    /// The thread must end.
    Stopped,
}

impl WakeUp {
    /// Calls the maintenance thread.
    pub(crate) fn call(&self) {
        self.state.lock().work = true;
        // A thread in `pause` may wait on the same condition, so one notification is not enough.
        self.changed.notify_all();
    }

    /// Tells the thread to end.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// Whether the thread must end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }

    /// Waits for a call, at most for this time.
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

    /// Waits until the thread waits without a timeout and no call is pending.
    #[cfg(test)]
    pub(crate) fn await_stillness(&self) {
        let mut state = self.state.lock();
        while !state.is_still || state.work {
            self.changed.wait(&mut state);
        }
    }

    /// Pauses the calling thread for this time, or until a call or the end of the thread.
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

    /// An idle store releases prepared space. That must not happen between two calls.
    #[test]
    fn only_a_wait_that_timed_out_is_rest() {
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
