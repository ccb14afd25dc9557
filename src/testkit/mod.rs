//! The contract of [`StorageBackend`] as a suite of named claims that any backend can be held to.
//!
//! Owns the [`Fixture`] (how to open the backend under test), the list of [`claims`], and the
//! runner. [`conformance_suite!`](crate::conformance_suite) makes one `#[test]` per claim;
//! [`conformance`] runs all of them in one call. Every check opens its own fresh store, and ends by
//! comparing the whole store with a [`Model`]. Checks with random operations print their seed;
//! `AEGIS_SEED` replays one, `AEGIS_SOAK` multiplies the length of the runs.
//!
//! [`history`] records the calls of many threads to a store and checks their isolation.
//!
//! Does not test anything outside the trait: options of a backend, damage on disk, full disks.
//!
//! # Examples
//! ```
//! use aegis_blocks::MemoryBackend;
//! use aegis_blocks::testkit::Fixture;
//!
//! /// Memory forgets, so it has nothing to open again.
//! struct Memory;
//! impl Fixture for Memory {
//!     type Backend = MemoryBackend;
//!     fn open(&self) -> MemoryBackend {
//!         MemoryBackend::new()
//!     }
//!     fn reopen(&self, _: MemoryBackend) -> Option<MemoryBackend> {
//!         None
//!     }
//! }
//! aegis_blocks::conformance_suite!(memory, Memory);
//! # aegis_blocks::testkit::claims::write_replaces_the_block(&Memory);
//! ```

mod checks;
pub mod claims;
mod erased;
pub mod history;
mod model;
mod rng;
mod subject;

use std::any::Any;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{fmt, thread};

pub use model::{Model, ModelTransaction, Verdict};
pub use rng::{Rng, seed, soak};

use self::erased::AnyFixture;
use crate::backend::StorageBackend;
use subject::Subject;

/// How to open the backend under test.
pub trait Fixture: Sync {
    /// The backend under test.
    type Backend: StorageBackend + 'static;

    /// Opens a fresh, empty store, independent of all that were opened before. A check opens one
    /// store, and has no other open.
    fn open(&self) -> Self::Backend;

    /// Closes the store cleanly and opens it again; `None` for a backend that forgets, which passes
    /// over the rest of the check. `backend` is the last handle.
    fn reopen(&self, backend: Self::Backend) -> Option<Self::Backend>;

    /// Stops the store without closing it, as a crash of the machine would, and opens it again.
    /// Only what [`StorageBackend::sync`], or the store's own default, made durable need survive.
    /// `None`, the default, where that cannot be done.
    fn crash(&self, backend: Self::Backend) -> Option<Self::Backend> {
        let _forgotten = backend;
        None
    }

    /// Returns whether a commit is durable when it is acknowledged. False, the default, when only
    /// [`StorageBackend::sync`] promises that.
    fn acknowledges_durably(&self) -> bool {
        false
    }

    /// Returns the longest payload in bytes that the checks may write; by default they go a little
    /// beyond 1 MiB. For backends with a lower limit.
    fn payload_len_max(&self) -> usize {
        usize::MAX
    }
}

/// A claim of the contract and the check that proves it.
pub struct Claim<F> {
    /// The name: the same as that of its function in [`claims`].
    pub name: &'static str,
    /// Panics with a message that names the claim when the backend breaks it.
    pub check: fn(&F),
}

impl<F> fmt::Debug for Claim<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A claim that a backend broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The claim's name.
    pub claim: &'static str,
    /// The observation.
    pub message: String,
}

/// Holds a backend to every claim.
///
/// # Panics
/// If the backend breaks one; the message lists all that it breaks.
pub fn conformance<F: Fixture>(fixture: &F) {
    let broken = broken_claims(fixture);
    let list: Vec<&str> = broken.iter().map(|broken| broken.message.as_str()).collect();
    assert!(list.is_empty(), "{} claims are broken:\n{}", list.len(), list.join("\n"));
}

/// Runs every check and returns the claims that the backend breaks.
pub fn broken_claims<F: Fixture>(fixture: &F) -> Vec<Broken> {
    claims::all().iter().filter_map(|claim| broken(claim, fixture)).collect()
}

/// Runs one check; `None` when the backend keeps the claim.
pub fn broken<F: Fixture>(claim: &Claim<F>, fixture: &F) -> Option<Broken> {
    let outcome = catch_unwind(AssertUnwindSafe(|| (claim.check)(fixture)));
    let message = outcome.err().map(|panic| words(&*panic))?;
    Some(Broken { claim: claim.name, message })
}

/// A check that takes longer than this hangs: the process is stopped with the claim's name.
const CHECK_TIME_MAX: Duration = Duration::from_secs(600);

/// Runs the body of a check on a fresh store, then compares the whole store with the model.
fn run(claim: &'static str, fixture: &dyn AnyFixture, body: impl FnOnce(&mut Subject<'_>)) {
    let outcome = thread::scope(|scope| {
        let (ended, watch) = mpsc::channel::<()>();
        scope.spawn(move || {
            if watch.recv_timeout(CHECK_TIME_MAX) == Err(RecvTimeoutError::Timeout) {
                stop_hung(claim);
            }
        });
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut subject = Subject::open(fixture);
            body(&mut subject);
            subject.check();
        }));
        drop(ended);
        outcome
    });
    if let Err(panic) = outcome {
        panic!("claim `{claim}` is broken: {}", words(&*panic));
    }
}

/// A hung thread cannot be stopped, so the process must be. Writes around the test harness, which
/// would keep the message to itself.
fn stop_hung(claim: &str) -> ! {
    let message = format!("claim `{claim}` is broken: no answer within {CHECK_TIME_MAX:?}\n");
    if std::io::stderr().write_all(message.as_bytes()).is_err() {
        eprint!("{message}");
    }
    std::process::abort()
}

fn words(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_string()
    } else {
        "a panic without words".to_string()
    }
}

/// Expands to a module of tests, one `#[test]` for each claim of the contract.
///
/// The first argument names the module, the second is an expression for a
/// [`Fixture`](crate::testkit::Fixture), evaluated anew for every test.
#[macro_export]
macro_rules! conformance_suite {
    ($(#[$meta:meta])* $suite:ident, $fixture:expr) => {
        $crate::with_claims! { $crate::conformance_tests, { $(#[$meta])* $suite, $fixture } }
    };
}

/// One `#[test]` per claim of the list that [`with_claims!`](crate::with_claims) appends.
#[macro_export]
#[doc(hidden)]
macro_rules! conformance_tests {
    (
        { $(#[$meta:meta])* $suite:ident, $fixture:expr }
        $($room:ident { $($(#[$doc:meta])* $claim:ident,)+ })+
    ) => {
        $(#[$meta])*
        mod $suite {
            #[allow(unused_imports, reason = "the fixture may name nothing of its surroundings")]
            use super::*;
            $($(
                #[test]
                fn $claim() {
                    $crate::testkit::claims::$claim(&$fixture);
                }
            )+)+
        }
    };
}
