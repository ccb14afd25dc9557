//! Allocation of block ids: dense, increasing, never the same one twice.
//!
//! Owns the highest id that was handed out or named by a caller. Recovery raises it above every id
//! of the log, so only ids whose transaction never committed can be handed out again.

use crate::canary::{Bug, planted};
use crate::sync::{AtomicU64, Ordering};

use crate::block::BlockId;
use crate::error::{Error, Result};

/// The allocator of one store.
#[derive(Debug, Default)]
pub(crate) struct IdAllocator {
    highest: AtomicU64,
}

impl IdAllocator {
    /// Hands out the next id.
    pub(crate) fn allocate(&self) -> Result<BlockId> {
        self.highest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |highest| {
                match planted(Bug::IdsWrap) {
                    true => Some(highest.wrapping_add(1)),
                    false => highest.checked_add(1),
                }
            })
            .map(|highest| BlockId(highest + 1))
            .map_err(|_| Error::IdsExhausted)
    }

    /// The highest id so far; 0 when there is none.
    pub(crate) fn highest(&self) -> BlockId {
        BlockId(self.highest.load(Ordering::Relaxed))
    }

    /// Stays above an id that a caller named.
    pub(crate) fn raise(&self, id: BlockId) {
        self.highest.fetch_max(id.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocation_is_dense_stays_above_named_ids_and_never_wraps() {
        let ids = IdAllocator::default();
        assert_eq!(ids.allocate().expect("id"), BlockId(1));
        ids.raise(BlockId(10));
        ids.raise(BlockId(3));
        assert_eq!(ids.allocate().expect("id"), BlockId(11));
        ids.raise(BlockId(u64::MAX - 1));
        assert_eq!(ids.allocate().expect("id"), BlockId(u64::MAX));
        assert!(matches!(ids.allocate(), Err(Error::IdsExhausted)));
        assert!(matches!(ids.allocate(), Err(Error::IdsExhausted)));
    }
}
