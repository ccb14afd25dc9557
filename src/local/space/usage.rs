//! Usage: how much of each segment is live.
//!
//! Owns one [`SegmentUse`] for every segment that holds frames, the active one included. The log
//! counts each version that it publishes or replaces. So a segment whose live bytes are 0 holds
//! nothing that a reader of the newest state can see. The index knows what snapshots see.

use crate::local::format::checkpoint::SegmentUse;
use std::collections::BTreeMap;

use crate::local::format::location::Location;
use crate::sync::Mutex;

/// What a batch of replaced versions adds to segments and takes from them.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    segments: BTreeMap<u32, Turnover>,
}

#[derive(Debug, Default)]
struct Turnover {
    added_len: u64,
    added_count: u64,
    removed_len: u64,
    removed_count: u64,
}

impl Tally {
    /// Counts a version that takes another one's place.
    pub(crate) fn count_replacement(&mut self, old: Option<&Location>, new: Option<&Location>) {
        if let Some(old) = old {
            let segment = self.segments.entry(old.segment).or_default();
            segment.removed_len += u64::from(old.len);
            segment.removed_count += 1;
        }
        if let Some(new) = new {
            let segment = self.segments.entry(new.segment).or_default();
            segment.added_len += u64::from(new.len);
            segment.added_count += 1;
        }
    }
}

/// All segments of a store that hold frames.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    segments: Mutex<BTreeMap<u64, SegmentUse>>,
}

impl Usage {
    /// Adds a segment.
    pub(crate) fn add_segment(&self, segment: SegmentUse) {
        self.segments.lock().insert(segment.sequence, segment);
    }

    /// Sets how far a segment is written, and adds the segment where it is new.
    pub(crate) fn set_used_len(&self, sequence: u64, number: u64, used_len: u64) {
        let mut segments = self.segments.lock();
        let segment = segments.entry(sequence).or_default();
        (segment.sequence, segment.number, segment.used_len) = (sequence, number, used_len);
    }

    /// Counts a version that takes another one's place.
    pub(crate) fn count_replacement(&self, old: Option<&Location>, new: Option<&Location>) {
        let mut segments = self.segments.lock();
        if let Some(old) = old {
            subtract_live_bytes(&mut segments, old.segment, u64::from(old.len), 1);
        }
        if let Some(new) = new {
            add_live_bytes(&mut segments, new.segment, u64::from(new.len), 1);
        }
    }

    /// Applies a tally. A batch may replace a version that it added itself, so additions come
    /// first.
    pub(crate) fn apply_tally(&self, batch: &Tally) {
        let mut segments = self.segments.lock();
        for (sequence, turnover) in &batch.segments {
            if turnover.added_count > 0 {
                add_live_bytes(&mut segments, *sequence, turnover.added_len, turnover.added_count);
            }
            subtract_live_bytes(
                &mut segments,
                *sequence,
                turnover.removed_len,
                turnover.removed_count,
            );
        }
    }

    /// Removes a segment that is gone.
    pub(crate) fn remove_segment(&self, sequence: u64) {
        self.segments.lock().remove(&sequence);
    }

    /// How many segments there are.
    pub(crate) fn segment_count(&self) -> usize {
        self.segments.lock().len()
    }

    /// All segments, in log order.
    pub(crate) fn all_segments(&self) -> Vec<SegmentUse> {
        self.segments.lock().values().copied().collect()
    }
}

fn add_live_bytes(segments: &mut BTreeMap<u64, SegmentUse>, sequence: u32, len: u64, count: u64) {
    let sequence = u64::from(sequence);
    let fresh = || SegmentUse { sequence, ..Default::default() };
    let segment = segments.entry(sequence).or_insert_with(fresh);
    segment.live_len += len;
    segment.live_count += count;
}

fn subtract_live_bytes(
    segments: &mut BTreeMap<u64, SegmentUse>,
    sequence: u32,
    len: u64,
    count: u64,
) {
    let Some(segment) = segments.get_mut(&u64::from(sequence)) else { return };
    // Too few would free a segment that still holds a live block.
    let rest = segment.live_len.checked_sub(len);
    segment.live_len = rest.expect("a version is counted once in and once out");
    debug_assert!(count <= segment.live_count, "a version is counted once in and once out");
    segment.live_count -= count;
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
        usage.set_used_len(1, 8, 4096);
        usage.count_replacement(None, Some(&at(1, 10)));
        usage.count_replacement(None, Some(&at(1, 20)));
        usage.count_replacement(Some(&at(1, 10)), Some(&at(2, 5)));
        usage.count_replacement(Some(&at(1, 20)), None);
        let live: Vec<_> =
            usage.all_segments().iter().map(|s| (s.live_len, s.live_count)).collect();
        assert_eq!(live, [(0, 0), (5, 1)]);
        usage.remove_segment(1);
        assert_eq!(usage.all_segments().len(), 1);
    }

    #[test]
    fn batch_counts_as_its_versions_do_one_by_one() {
        let versions =
            [(None, Some(at(1, 10))), (Some(at(1, 10)), Some(at(2, 20))), (Some(at(2, 20)), None)];
        let (single, batch, mut tally) = (Usage::default(), Usage::default(), Tally::default());
        for (old, new) in &versions {
            single.count_replacement(old.as_ref(), new.as_ref());
            tally.count_replacement(old.as_ref(), new.as_ref());
        }
        batch.apply_tally(&tally);
        assert_eq!(batch.all_segments(), single.all_segments());
    }
}
