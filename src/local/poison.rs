//! The poison flag: a thread sets it when durability can no longer be promised, and every later
//! write fails.

use crate::error::{Error, PoisonCause, Result};
use crate::sync::OnceLock;

/// Latches the first cause.
#[derive(Debug, Default)]
pub(crate) struct Poison(OnceLock<PoisonCause>);

impl Poison {
    /// Latches a cause; the first one stays.
    pub(crate) fn set(&self, cause: PoisonCause) {
        self.0.get_or_init(|| cause);
    }

    pub(crate) fn cause(&self) -> Option<PoisonCause> {
        self.0.get().copied()
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.cause().map_or(Ok(()), |cause| Err(Error::Poisoned { cause }))
    }
}
