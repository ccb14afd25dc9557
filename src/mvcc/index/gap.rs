//! Gaps: neighbouring ids that no block has.
//!
//! Owns the search for one. It reads the ids of a range page by page, from the highest down, and
//! stops where one is missing. It holds no snapshot from one page to the next, so a gap that it
//! finds was free at some moment.

use super::Index;
use crate::block::BlockId;
use crate::error::Result;
use crate::mvcc::version::VersionLen;
use crate::order::ScanOrder;

/// Ids of the first page, and of the longest one. Most often the top of a range is free.
const PAGE_COUNT_MIN: usize = 4;
const PAGE_COUNT_MAX: usize = 512;

impl<V: VersionLen> Index<V> {
    /// The highest gap in `first` to `last`, cut to that range. Costs a lookup where it is at the
    /// top, elsewhere a walk over the ids above it.
    ///
    /// # Errors
    /// As [`Base::get`](super::Base::get).
    pub(crate) fn highest_gap(
        &self,
        first: BlockId,
        last: BlockId,
    ) -> Result<Option<(BlockId, BlockId)>> {
        assert!(BlockId(0) < first && first <= last, "a range of ids");
        let (mut end, mut count) = (last, PAGE_COUNT_MIN);
        loop {
            let ids = self.scan_newest(first, end, ScanOrder::Descending, count)?;
            for id in &ids {
                debug_assert!(first <= *id && *id <= end, "a scan stays in its range");
                if *id < end {
                    return Ok(Some((BlockId(id.0 + 1), end)));
                }
                if end == first {
                    return Ok(None);
                }
                end = BlockId(end.0 - 1);
            }
            if ids.len() < count {
                return Ok(Some((first, end)));
            }
            count = (count * 2).min(PAGE_COUNT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Lsn;

    #[test]
    fn highest_gap_is_what_a_look_at_each_id_finds() {
        let index = Index::<u32>::default();
        let used = |id: u64| id % 64 < 60 || (1000..2500).contains(&id);
        for id in (1..=3000).filter(|id| used(*id)) {
            let lsn = Lsn(index.visible_lsn().0 + 1);
            index.publish_alone([(BlockId(id), lsn, Some(1))], lsn);
        }
        for (first, last) in [(1, 3000), (1, 2494), (1000, 2499), (60, 60), (61, 70), (64, 100)] {
            let end = (first..=last).rev().find(|id| !used(*id));
            let expected = end.map(|end| {
                let low = (first..=end).rev().take_while(|id| !used(*id)).last();
                (BlockId(low.expect("at least one")), BlockId(end))
            });
            let found = index.highest_gap(BlockId(first), BlockId(last)).expect("readable");
            assert_eq!(found, expected, "from {first} to {last}");
        }
        let above = index.highest_gap(BlockId(1), BlockId(u64::MAX)).expect("readable");
        assert_eq!(above, Some((BlockId(3001), BlockId(u64::MAX))));
    }
}
