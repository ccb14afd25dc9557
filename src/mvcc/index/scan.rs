//! Scans: the ids of a range that a snapshot sees, a page of them at a time, from either end.
//!
//! Owns [`Index::scan_snapshot`]. It keeps nothing between two pages: the next page begins where
//! one ended, under the same pin. A page takes these steps:
//!
//! 1. The base of the first shard is noted.
//! 2. The base is walked from the begin of the range, for as many records as are wanted. The page
//!    ends where the walk ends, at the latest.
//! 3. Each shard names its nearest page of entries, frozen entries or older versions. The nearest
//!    of all is viewed under the lock of its shard, which then names its next one. This repeats
//!    until as many ids are seen as are wanted.
//! 4. The base of the first shard must still be the one that was noted. If another image was
//!    installed, all steps are done again.
//! 5. The page is what is seen in memory, and what the base says of ids that are not in memory.
//!
//! Invariant: a block that the snapshot sees is found in step 2 or in step 3. An image is installed
//! in the first shard before any other shard drops its frozen entries. So while the first shard
//! keeps its base, the entries that another shard dropped are in that base. A version that is
//! replaced meanwhile is in the base, or in memory as an older version, because the pin of the
//! snapshot keeps it.
//!
//! The first id costs a lookup in each shard and in each image. A page costs at most
//! [`PAGE_COUNT_MAX`] records and as many views. No I/O under a lock.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Base, Index, SHARD_COUNT};
use crate::block::{BlockId, Lsn};
use crate::error::Result;
use crate::mvcc::page::PAGE_IDS;
use crate::mvcc::shard::{PageView, bit_in_page, last_id_of_page};
use crate::mvcc::version::VersionLen;
use crate::order::ScanOrder;

/// Ids that one page looks for; bounds the memory of a scan.
const PAGE_COUNT_MAX: usize = 512;

/// The rest of a range; `None` where nothing is left.
type Rest = Option<(BlockId, BlockId)>;

impl<V: VersionLen> Index<V> {
    /// The newest visible ids from `first` to `last`, ascending, at most `count_max` of them.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn newest_ids(
        &self,
        first: BlockId,
        last: BlockId,
        count_max: usize,
    ) -> Result<Vec<BlockId>> {
        self.scan_newest(first, last, ScanOrder::Ascending, count_max)
    }

    /// As [`Index::scan_snapshot`], of what is visible now.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn scan_newest(
        &self,
        first: BlockId,
        last: BlockId,
        order: ScanOrder,
        count_max: usize,
    ) -> Result<Vec<BlockId>> {
        let pin = self.pin_snapshot();
        let ids = self.scan_snapshot(first, last, order, count_max, pin.lsn());
        self.unpin_snapshot(pin);
        ids
    }

    /// The ids that a pinned snapshot sees from `first` to `last`: in an order, the first
    /// `count_max` of them. Fewer only where there are no more.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn scan_snapshot(
        &self,
        first: BlockId,
        last: BlockId,
        order: ScanOrder,
        count_max: usize,
        snapshot: Lsn,
    ) -> Result<Vec<BlockId>> {
        let mut ids = Vec::new();
        let mut rest = Some((first, last)).filter(|(first, last)| first <= last);
        while let Some(range) = rest
            && ids.len() < count_max
        {
            let wanted = (count_max - ids.len()).min(PAGE_COUNT_MAX);
            rest = self.scan_page(range, order, wanted, snapshot, &mut ids)?;
        }
        ids.truncate(count_max);
        debug_assert!(ids.iter().all(|id| first <= *id && *id <= last), "ids are of the range");
        Ok(ids)
    }

    /// Appends about `wanted` ids of a range, and returns what is left of it.
    fn scan_page(
        &self,
        range: (BlockId, BlockId),
        order: ScanOrder,
        wanted: usize,
        snapshot: Lsn,
        ids: &mut Vec<BlockId>,
    ) -> Result<Rest> {
        loop {
            let noted = self.first_shard_base();
            let below = walk_base(noted.as_deref(), range, order, wanted, snapshot)?;
            let memory = self.gather_views(below.covered, order, wanted, snapshot);
            if !is_same_base(noted.as_ref(), self.first_shard_base().as_ref()) {
                continue;
            }
            combine_memory_and_base(&below.ids, &memory, order, ids);
            return Ok(remaining_range(range, memory.covered, order));
        }
    }

    /// The base of the first shard, which is the first to get a new one.
    fn first_shard_base(&self) -> Option<Arc<dyn Base<V>>> {
        self.shards[0].read().base.clone()
    }

    /// Views the pages of memory in a range, nearest first, until they have as many ids as are
    /// wanted.
    fn gather_views(
        &self,
        range: (BlockId, BlockId),
        order: ScanOrder,
        wanted: usize,
        snapshot: Lsn,
    ) -> Gathered {
        let (mut views, mut seen_count, mut covered) = (Vec::new(), 0, range);
        let pages = (range.0.0 / PAGE_IDS, range.1.0 / PAGE_IDS);
        let mut nearest: [Option<u64>; SHARD_COUNT] =
            std::array::from_fn(|at| self.shards[at].read().nearest_page(pages.0, pages.1, order));
        while let Some((at, number)) = nearest_of_shards(&nearest, order) {
            let shard = self.shards[at].read();
            let view = shard.view_page(number, snapshot);
            nearest[at] = remaining_pages(number, pages, order)
                .and_then(|(first, last)| shard.nearest_page(first, last, order));
            drop(shard);
            seen_count += view.seen.count_ones() as usize;
            views.push(view);
            if seen_count >= wanted || views.len() == PAGE_COUNT_MAX {
                covered = match order {
                    ScanOrder::Ascending => (range.0, last_id_of_page(number).min(range.1)),
                    ScanOrder::Descending => (BlockId(number * PAGE_IDS).max(range.0), range.1),
                };
                break;
            }
        }
        Gathered { views, covered }
    }
}

/// The views of a part of a range in memory.
struct Gathered {
    /// In the order of the scan.
    views: Vec<PageView>,
    covered: (BlockId, BlockId),
}

/// The part of a range that an image covers.
struct Below {
    /// Blocks that the snapshot sees in it, in the order of the scan.
    ids: Vec<BlockId>,
    covered: (BlockId, BlockId),
}

/// Walks an image for up to `wanted` records of a range.
fn walk_base<V>(
    base: Option<&dyn Base<V>>,
    range: (BlockId, BlockId),
    order: ScanOrder,
    wanted: usize,
    snapshot: Lsn,
) -> Result<Below> {
    let (mut ids, mut count, mut covered) = (Vec::new(), 0, range);
    let Some(base) = base else { return Ok(Below { ids, covered }) };
    base.walk(range.0, range.1, order, &mut |id, record| {
        if record.lsn <= snapshot && record.value.is_some() {
            ids.push(id);
        }
        count += 1;
        if count < wanted {
            return ControlFlow::Continue(());
        }
        match order {
            ScanOrder::Ascending => covered.1 = id,
            ScanOrder::Descending => covered.0 = id,
        }
        ControlFlow::Break(())
    })?;
    Ok(Below { ids, covered })
}

/// Appends the ids seen in memory, and those of an image that memory does not know.
fn combine_memory_and_base(
    below: &[BlockId],
    memory: &Gathered,
    order: ScanOrder,
    ids: &mut Vec<BlockId>,
) {
    let start = ids.len();
    let covered = |id: &BlockId| memory.covered.0 <= *id && *id <= memory.covered.1;
    for view in &memory.views {
        let mut left = view.seen;
        while left != 0 {
            let id = BlockId(view.number * PAGE_IDS + u64::from(left.trailing_zeros()));
            ids.extend(Some(id).filter(covered));
            left &= left - 1;
        }
    }
    let mut views = memory.views.iter().peekable();
    for id in below.iter().filter(|id| covered(id)) {
        let number = id.0 / PAGE_IDS;
        while views.next_if(|view| order.is_before(view.number, number)).is_some() {}
        let view = views.peek().filter(|view| view.number == number);
        if view.is_none_or(|view| (view.known | view.seen) & bit_in_page(*id) == 0) {
            ids.push(*id);
        }
    }
    match order {
        ScanOrder::Ascending => ids[start..].sort_unstable(),
        ScanOrder::Descending => ids[start..].sort_unstable_by(|a, b| b.cmp(a)),
    }
    debug_assert!(
        ids[start..].windows(2).all(|pair| order.is_before(pair[0], pair[1])),
        "a scan names an id once"
    );
}

/// The rest of a range behind the covered part.
fn remaining_range(
    range: (BlockId, BlockId),
    covered: (BlockId, BlockId),
    order: ScanOrder,
) -> Rest {
    let left = match order {
        ScanOrder::Ascending => (BlockId(covered.1.0.checked_add(1)?), range.1),
        ScanOrder::Descending => (range.0, BlockId(covered.0.0.checked_sub(1)?)),
    };
    Some(left).filter(|(first, last)| first <= last)
}

/// The pages behind one.
fn remaining_pages(number: u64, pages: (u64, u64), order: ScanOrder) -> Option<(u64, u64)> {
    let left = match order {
        ScanOrder::Ascending => (number.checked_add(1)?, pages.1),
        ScanOrder::Descending => (pages.0, number.checked_sub(1)?),
    };
    Some(left).filter(|(first, last)| first <= last)
}

/// The page that a scan meets first, and its shard.
fn nearest_of_shards(
    nearest: &[Option<u64>; SHARD_COUNT],
    order: ScanOrder,
) -> Option<(usize, u64)> {
    let all = nearest.iter().enumerate().filter_map(|(at, page)| page.map(|page| (at, page)));
    match order {
        ScanOrder::Ascending => all.min_by_key(|(_, page)| *page),
        ScanOrder::Descending => all.max_by_key(|(_, page)| *page),
    }
}

fn is_same_base<V>(a: Option<&Arc<dyn Base<V>>>, b: Option<&Arc<dyn Base<V>>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

#[cfg(test)]
mod tests;
