//! Presence: whether the files that commits are written to still have their names.
//!
//! A removed file still takes writes and syncs, but its bytes are lost when the store closes it. So
//! a sync alone proves nothing. Owns the rule for when the names are checked:
//!
//! 1. When a group write has completed and the last check is [`LOOK_EVERY`] old. So no commit is
//!    acknowledged that was submitted later than that after `META` or its segment lost its name.
//! 2. When a group or control record could not be laid out for an error other than a lack of space:
//!    no segment can be made in a directory that is gone.
//! 3. When the store is closed.
//!
//! A directory is empty before it can be removed, so `META` stands for it. A renamed directory
//! keeps its names. A check that the system refuses proves nothing, and the next group checks
//! again.

use std::time::Duration;

use crate::error::{Error, PoisonCause, Result};
use crate::io::{Disk, FileName};
use crate::sync::{AtomicU64, Ordering};

/// A commit is acknowledged without a check if the last one is not older than this.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When the store's names were last seen.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// Nanoseconds of the disk's clock.
    seen_at: AtomicU64,
}

impl Presence {
    /// Checks the names if the last check is too old to acknowledge a group whose write to this
    /// segment completed at `now`.
    ///
    /// # Errors
    /// [`Error::Poisoned`] with [`PoisonCause::Removed`].
    pub(crate) fn check_names_if_due(
        &self,
        disk: &impl Disk,
        now: Duration,
        segment: Option<u64>,
    ) -> Result<()> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let every = LOOK_EVERY.as_nanos() as u64;
        if now.saturating_sub(self.seen_at.load(Ordering::Relaxed)) < every {
            return Ok(());
        }
        if check_names_exist(disk, segment)? {
            self.seen_at.store(now, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Checks that `META` and a segment have their names. False where the system does not tell.
///
/// # Errors
/// [`Error::Poisoned`] with [`PoisonCause::Removed`].
pub(crate) fn check_names_exist(disk: &impl Disk, segment: Option<u64>) -> Result<bool> {
    let names = [Some(FileName::Meta), segment.map(FileName::Segment)];
    let mut is_told = true;
    for name in names.into_iter().flatten() {
        match disk.holds(name) {
            Ok(true) => {}
            Ok(false) => return Err(Error::Poisoned { cause: PoisonCause::Removed }),
            Err(_untold) => is_told = false,
        }
    }
    Ok(is_told)
}
