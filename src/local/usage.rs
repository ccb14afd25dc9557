//! Usage: how much of each segment is still in force.
//!
//! Owns one [`SegmentUse`] for every segment that holds frames, the active one included. The log
//! counts each version that it publishes or replaces; so a segment whose live bytes are 0 holds
//! nothing that a reader of the newest state can see. What snapshots see is the index's business.

use std::collections::BTreeMap;

use crate::local::segment::Location;
use crate::sync::Mutex;

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SegmentUse {
    /// Its place in log order.
    pub(crate) sequence: u64,
    /// The number in its file name.
    pub(crate) number: u64,
    /// Bytes up to the end of its last frame; of the active segment, those known so far.
    pub(crate) used_len: u64,
    /// Payload bytes of the blocks in it that are in force.
    pub(crate) live_len: u64,
    /// How many blocks that are.
    pub(crate) live_count: u64,
}

/// All segments of a store that hold frames.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    segments: Mutex<BTreeMap<u64, SegmentUse>>,
}

impl Usage {
    /// Takes a segment in.
    pub(crate) fn add(&self, segment: SegmentUse) {
        self.segments.lock().insert(segment.sequence, segment);
    }

    /// Says how far a segment is written, and takes it in where it is new.
    pub(crate) fn used(&self, sequence: u64, number: u64, used_len: u64) {
        let mut segments = self.segments.lock();
        let segment = segments.entry(sequence).or_default();
        (segment.sequence, segment.number, segment.used_len) = (sequence, number, used_len);
    }

    /// Counts a version that takes another one's place.
    pub(crate) fn count(&self, old: Option<&Location>, new: Option<&Location>) {
        let mut segments = self.segments.lock();
        if let Some(old) = old
            && let Some(segment) = segments.get_mut(&u64::from(old.segment))
        {
            // Too few would let a segment go that somebody still needs.
            let rest = segment.live_len.checked_sub(u64::from(old.len));
            segment.live_len = rest.expect("a version is counted once in and once out");
            segment.live_count -= 1;
        }
        if let Some(new) = new {
            let fresh = || SegmentUse { sequence: u64::from(new.segment), ..Default::default() };
            let segment = segments.entry(u64::from(new.segment)).or_insert_with(fresh);
            segment.live_len += u64::from(new.len);
            segment.live_count += 1;
        }
    }

    /// Forgets a segment that is gone.
    pub(crate) fn remove(&self, sequence: u64) {
        self.segments.lock().remove(&sequence);
    }

    /// All segments, in log order.
    pub(crate) fn all(&self) -> Vec<SegmentUse> {
        self.segments.lock().values().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Block, BlockId, BlockType};

    fn at(segment: u64, len: usize) -> Location {
        let header = Block::new(BlockId(1), BlockType::TableData, vec![0; len]).header;
        Location::new(&header, segment, 4096)
    }

    #[test]
    fn live_bytes_follow_what_is_in_force() {
        let usage = Usage::default();
        usage.used(1, 8, 4096);
        usage.count(None, Some(&at(1, 10)));
        usage.count(None, Some(&at(1, 20)));
        usage.count(Some(&at(1, 10)), Some(&at(2, 5)));
        usage.count(Some(&at(1, 20)), None);
        let live: Vec<_> = usage.all().iter().map(|s| (s.live_len, s.live_count)).collect();
        assert_eq!(live, [(0, 0), (5, 1)]);
        usage.remove(1);
        assert_eq!(usage.all().len(), 1);
    }
}
