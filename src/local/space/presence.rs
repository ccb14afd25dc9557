//! Presence: whether the files that commits are written to still have their names.
//!
//! A file that was removed takes writes and syncs as ever, and what they made durable goes when the store lets
//! go of it. So a sync alone proves nothing. Owns the rule when names are looked at:
//!
//! 1. When a group has landed and the last look is [`LOOK_EVERY`] old. So no commit is acknowledged that was
//!    handed in later than that after `META` or the segment it was written to had lost its name.
//! 2. When a group or mark could not be laid out for an error other than a lack of space: no segment can be made
//!    in a directory that is gone.
//! 3. When the store is closed.
//!
//! A directory is empty before it can be removed, so `META` stands for it; one that is renamed keeps its names.
//! A look that the system refuses says nothing, and the next group looks again.

use std::time::Duration;

use crate::error::{Error, PoisonCause, Result};
use crate::io::{Disk, FileName};
use crate::sync::{AtomicU64, Ordering};

/// A commit is acknowledged without a look if the last one is not older than this.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When the store's names were last seen.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// Nanoseconds of the disk's clock.
    seen_at: AtomicU64,
}

impl Presence {
    /// Looks if the last look is too old to acknowledge a group that has landed `now` in this segment.
    ///
    /// # Errors
    /// [`Error::Poisoned`] with [`PoisonCause::Removed`].
    pub(crate) fn look_now_and_then(
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
        if look(disk, segment)? {
            self.seen_at.store(now, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Looks at `META` and a segment. False where the system does not tell.
///
/// # Errors
/// [`Error::Poisoned`] with [`PoisonCause::Removed`].
pub(crate) fn look(disk: &impl Disk, segment: Option<u64>) -> Result<bool> {
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
