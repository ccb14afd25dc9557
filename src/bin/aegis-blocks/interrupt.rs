//! Ctrl-C: the first asks the running command to stop at its next safe place, the second ends the
//! program at once (the store is crash-safe, so nothing acknowledged is lost).

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Failure, INTERRUPTED};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Starts listening. Only commands that ask [`requested`] now and then call this; for the others
/// the usual end of the process is right.
pub fn listen() -> Result<(), Failure> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .map_err(|e| Failure::new(format!("cannot listen for Ctrl-C: {e}")))
}

/// Returns whether the user asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
