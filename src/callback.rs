//! Callbacks: the rules for user code that runs in the middle of a store's work.
//!
//! Owns one word of each thread, its [`Duty`]: which threads wait for it while it runs user code.
//!
//! | duty      | the thread                                          | may wait | may close |
//! |-----------|-----------------------------------------------------|----------|-----------|
//! | `None`    | is its caller's own                                 | yes      | yes       |
//! | `Telling` | is the store's, holds nothing, and informs its user | yes      | no        |
//! | `Working` | leads commits, runs maintenance or is an I/O worker | no       | no        |
//!
//! Rules:
//!
//! 1. Where a store runs code of its user, or drops a value that may run it, the thread's duty says
//!    what is at stake: `Working` where a commit, the log or a lock may wait for the thread,
//!    `Telling` where only a close does.
//! 2. Every public call that may wait for other commits, the log or maintenance asks
//!    [`check_may_wait`] before it changes anything, so that its refusal leaves nothing behind. The
//!    rule holds across stores: two stores whose callbacks wait for each other hang as one does
//!    that waits for itself.
//! 3. A call that joins threads asks [`may_close`]. A store whose last handle is dropped where it
//!    may not be closed is closed by a thread of its own ([`LocalBackend`](crate::LocalBackend)).
//! 4. The maintenance thread sets its own duty aside while it waits (`compaction::relocation`).
//!
//! The watchers of an open, a backup and a restore, and the body of `transact`, run on their
//! caller's thread without duty: only their caller waits for them. The methods of a
//! [`Disk`](crate::io::Disk) are no callbacks but a part of the store, called under its locks; they
//! must not use it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};
use crate::sync::{Process, thread_local};

/// The threads that wait for a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Duty {
    /// Only its caller.
    #[default]
    None,
    /// A thread that closes the store.
    Telling,
    /// Commits.
    Working,
}

thread_local! {
    static DUTY: Cell<Duty> = Cell::default();
}

/// A thread's duty until this is dropped, on the same thread; then again what it was before.
#[derive(Debug)]
#[must_use = "the duty ends when this is dropped"]
pub(crate) struct OnDuty {
    before: Duty,
}

/// Sets the thread's duty until the guard is dropped.
pub(crate) fn begin(duty: Duty) -> OnDuty {
    OnDuty { before: DUTY.with(|current| current.replace(duty)) }
}

impl Drop for OnDuty {
    fn drop(&mut self) {
        DUTY.with(|current| current.set(self.before));
    }
}

/// Runs code of the user. Its panic goes to the panic hook and no further. A child that was forked
/// in it does not return from it: the frames below are the parent's.
pub(crate) fn run(code: impl FnOnce()) {
    let (process, duty) = (Process::current(), DUTY.with(Cell::get));
    if catch_unwind(AssertUnwindSafe(code)).is_err() {
        // The panic hook has reported it.
    }
    process.end_if_forked();
    debug_assert_eq!(DUTY.with(Cell::get), duty, "a duty ends where it began");
}

/// Whether the calling thread may wait for a store.
pub(crate) fn may_wait() -> bool {
    DUTY.with(Cell::get) != Duty::Working
}

/// Refuses to wait for a store where others wait for the calling thread.
///
/// # Errors
/// [`Error::InCallback`].
pub(crate) fn check_may_wait() -> Result<()> {
    if may_wait() { Ok(()) } else { Err(Error::InCallback) }
}

/// Whether the calling thread may close a store, and so wait for all threads of it.
pub(crate) fn may_close() -> bool {
    DUTY.with(Cell::get) == Duty::None
}

/// Refuses to close a store where that would wait for the calling thread.
///
/// # Errors
/// [`Error::InCallback`].
pub(crate) fn check_may_close() -> Result<()> {
    if may_close() { Ok(()) } else { Err(Error::InCallback) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duty_says_what_a_thread_may_do_until_it_ends() {
        let all =
            [(Duty::None, true, true), (Duty::Telling, true, false), (Duty::Working, false, false)];
        for (outer, may_outer_wait, may_outer_close) in all {
            let _outer = begin(outer);
            for (inner, may_inner_wait, may_inner_close) in all {
                let _inner = begin(inner);
                assert_eq!((may_wait(), may_close()), (may_inner_wait, may_inner_close));
                assert_eq!(check_may_wait().is_ok(), may_inner_wait);
                assert_eq!(check_may_close().is_ok(), may_inner_close);
            }
            assert_eq!((may_wait(), may_close()), (may_outer_wait, may_outer_close));
        }
        assert!(may_wait() && may_close());
    }

    #[test]
    fn panic_of_what_is_run_ends_there_and_leaves_no_duty() {
        run(|| {
            let _duty = begin(Duty::Working);
            panic!("on purpose");
        });
        assert!(may_wait());
    }
}
