//! Scans of transactions: a page of what is committed, with the transaction's own operations in it.
//!
//! Owns the merging. Committed ids come from the [index](super::index), page by page. Pending
//! operations of the transaction hide them, and add what it had written before the scan began.
//! Invariant: a page says how far it covers its range, and no id is missing from that part.

use crate::block::{BlockId, Lsn};
use crate::error::Result;
use crate::mvcc::batch::Operation;
use crate::mvcc::pending::Pending;
use crate::mvcc::state::Mvcc;
use crate::mvcc::version::VersionLen;
use crate::order::ScanOrder;
use crate::transaction::ScanPage;

/// The first and the last id of a part of a range.
type Covered = (BlockId, BlockId);

impl<V: VersionLen> Mvcc<V> {
    /// A page of what a transaction without operations sees.
    ///
    /// # Errors
    /// As [`Index::scan_snapshot`](crate::mvcc::index::Index::scan_snapshot).
    pub(super) fn scan_committed(
        &self,
        snapshot: Option<Lsn>,
        page: &ScanPage,
    ) -> Result<Vec<BlockId>> {
        let ScanPage { first, last, order, count_max, .. } = *page;
        match snapshot {
            Some(snapshot) => self.index.scan_snapshot(first, last, order, count_max, snapshot),
            None => self.index.scan_newest(first, last, order, count_max),
        }
    }

    /// A page of what a transaction sees, and the part of the range that it covers.
    ///
    /// # Errors
    /// As [`Mvcc::scan_committed`].
    pub(super) fn scan_with_own(
        &self,
        pending: &Pending,
        page: &ScanPage,
    ) -> Result<(Vec<BlockId>, Covered)> {
        let (mut ids, whole) = (Vec::new(), (page.first, page.last));
        let mut rest = Some(whole).filter(|(first, last)| first <= last);
        while let Some((first, last)) = rest
            && ids.len() < page.count_max
        {
            let count_max = page.count_max - ids.len();
            let part = ScanPage { first, last, count_max, ..*page };
            let committed = self.scan_committed(pending.snapshot(), &part)?;
            let covered = match (committed.len() < count_max, committed.last()) {
                (false, Some(end)) => range_up_to((first, last), *end, page.order),
                _ => (first, last),
            };
            merge_own_operations(pending, &committed, covered, &part, &mut ids);
            rest = remaining_range((first, last), covered, page.order);
        }
        ids.truncate(page.count_max);
        let covered = match ids.last() {
            Some(end) if ids.len() == page.count_max => range_up_to(whole, *end, page.order),
            _ => whole,
        };
        debug_assert!(page.first <= covered.0 && covered.1 <= page.last, "a page covers its range");
        Ok((ids, covered))
    }
}

/// Appends what a transaction sees of a part of a range in which these ids are committed.
fn merge_own_operations(
    pending: &Pending,
    committed: &[BlockId],
    covered: Covered,
    page: &ScanPage,
    ids: &mut Vec<BlockId>,
) {
    let is_deleted = |id: BlockId| matches!(pending.own_operation(id), Some(Operation::Delete));
    let mut committed = committed.iter().copied().filter(|id| !is_deleted(*id)).peekable();
    let own = pending.own_written_ids(covered, page.order, page.mark);
    for own in own.take(page.count_max) {
        while let Some(id) = committed.next_if(|id| page.order.is_before(*id, own)) {
            ids.push(id);
        }
        committed.next_if(|id| *id == own);
        ids.push(own);
    }
    ids.extend(committed);
}

/// The part of a range to an id.
fn range_up_to((first, last): Covered, end: BlockId, order: ScanOrder) -> Covered {
    match order {
        ScanOrder::Ascending => (first, end),
        ScanOrder::Descending => (end, last),
    }
}

/// What is left of a range behind the part that was covered.
fn remaining_range((first, last): Covered, covered: Covered, order: ScanOrder) -> Option<Covered> {
    let rest = match order {
        ScanOrder::Ascending => (BlockId(covered.1.0.checked_add(1)?), last),
        ScanOrder::Descending => (first, BlockId(covered.0.0.checked_sub(1)?)),
    };
    Some(rest).filter(|(first, last)| first <= last)
}
