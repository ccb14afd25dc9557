//! Scans: the ids of a range, page by page, from either end.
//!
//! Owns [`Ids`], the iterator, and its request to a backend, a [`ScanPage`]. The first page has one
//! id, each next one twice as many, up to [`PAGE_COUNT_MAX`]. So the first id costs a lookup, a
//! long walk costs little for each, and a serializable transaction has read less than twice what it
//! walked. Invariants:
//!
//! - the ids looked up are below (`front`) or above (`back`) the rest of the range;
//! - an iterator that has failed stays at its end.

use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};

use super::Transaction;
use crate::block::BlockId;
use crate::error::{Error, Result};
use crate::order::ScanOrder;

/// Ids of the longest page.
const PAGE_COUNT_MAX: usize = 512;

/// A moment in a transaction. A scan that began then skips what the transaction wrote later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanMark(pub u64);

impl ScanMark {
    /// Before the transaction wrote anything.
    pub const NOTHING: ScanMark = ScanMark(0);
    /// All that the transaction has written when a page is looked up.
    pub const LATEST: ScanMark = ScanMark(u64::MAX);
}

/// The request of a scan to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanPage {
    /// The lowest id of the range.
    pub first: BlockId,
    /// The highest id of the range.
    pub last: BlockId,
    /// At which end the page begins.
    pub order: ScanOrder,
    /// Ids that are wanted, at least 1. A page with fewer ends the range.
    pub count_max: usize,
    /// When the scan began.
    pub mark: ScanMark,
}

/// The ids of a range that a transaction sees, from either end. After an error it is at its end.
#[derive(Debug)]
pub struct Ids<'a> {
    view: ScanView<'a>,
    mark: ScanMark,
    /// Looked up from the low end, ascending.
    front: std::vec::IntoIter<BlockId>,
    /// The part of the range that is not looked up yet.
    rest: Option<(BlockId, BlockId)>,
    /// Looked up from the high end, descending.
    back: std::vec::IntoIter<BlockId>,
    /// Ids of the next page.
    count: usize,
}

/// The transaction whose view is walked.
#[derive(Debug)]
enum ScanView<'a> {
    Borrowed(&'a Transaction),
    /// Boxed, so that the other kind is not as large.
    Owned(Box<Transaction>),
}

impl<'a> Ids<'a> {
    pub(super) fn over_borrowed_view(
        transaction: &'a Transaction,
        range: impl RangeBounds<BlockId>,
    ) -> Result<Ids<'a>> {
        Ids::start_scan(ScanView::Borrowed(transaction), range)
    }

    fn start_scan(view: ScanView<'a>, range: impl RangeBounds<BlockId>) -> Result<Ids<'a>> {
        let rest = inclusive_bounds(range)?;
        let transaction = view.viewed_transaction();
        let mark = transaction.store.scan_mark_in_tx(transaction.id)?;
        let none = || Vec::new().into_iter();
        Ok(Ids { view, mark, front: none(), rest, back: none(), count: 1 })
    }

    /// The transaction whose view is walked.
    pub(super) fn viewed_transaction(&self) -> &Transaction {
        self.view.viewed_transaction()
    }

    /// Goes to the end.
    pub(super) fn finish_early(&mut self) {
        self.rest = None;
        self.front = Vec::new().into_iter();
        self.back = Vec::new().into_iter();
    }

    /// Looks the next page up, from an end.
    fn look_up_page(&mut self, order: ScanOrder) -> Result<()> {
        let Some((first, last)) = self.rest.take() else { return Ok(()) };
        let page = ScanPage { first, last, order, count_max: self.count, mark: self.mark };
        let transaction = self.view.viewed_transaction();
        let ids = transaction.store.scan_in_tx(transaction.id, &page)?;
        let end = ids.last().filter(|_| ids.len() >= self.count);
        self.rest = match order {
            ScanOrder::Ascending => {
                end.and_then(|end| Some((BlockId(end.0.checked_add(1)?), last)))
            }
            ScanOrder::Descending => {
                end.and_then(|end| Some((first, BlockId(end.0.checked_sub(1)?))))
            }
        };
        self.rest = self.rest.filter(|(first, last)| first <= last);
        self.count = (self.count * 2).min(PAGE_COUNT_MAX);
        match order {
            ScanOrder::Ascending => self.front = ids.into_iter(),
            ScanOrder::Descending => self.back = ids.into_iter(),
        }
        Ok(())
    }

    /// The next id from an end.
    fn next_from_end(&mut self, order: ScanOrder) -> Option<Result<BlockId>> {
        let (near, far) = match order {
            ScanOrder::Ascending => (&mut self.front, &mut self.back),
            ScanOrder::Descending => (&mut self.back, &mut self.front),
        };
        if let Some(id) = near.next() {
            return Some(Ok(id));
        }
        if self.rest.is_none() {
            return far.next_back().map(Ok);
        }
        match self.look_up_page(order) {
            Ok(()) => self.next_from_end(order),
            Err(error) => {
                self.finish_early();
                Some(Err(error))
            }
        }
    }
}

impl Ids<'static> {
    /// The ids of a view that the iterator owns.
    pub(super) fn over_owned_view(
        transaction: Transaction,
        range: impl RangeBounds<BlockId>,
    ) -> Result<Ids<'static>> {
        Ids::start_scan(ScanView::Owned(Box::new(transaction)), range)
    }
}

impl ScanView<'_> {
    fn viewed_transaction(&self) -> &Transaction {
        match self {
            ScanView::Borrowed(transaction) => transaction,
            ScanView::Owned(transaction) => transaction,
        }
    }
}

impl Iterator for Ids<'_> {
    type Item = Result<BlockId>;

    fn next(&mut self) -> Option<Result<BlockId>> {
        self.next_from_end(ScanOrder::Ascending)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let looked_up = self.front.len() + self.back.len();
        (looked_up, self.rest.is_none().then_some(looked_up))
    }
}

impl DoubleEndedIterator for Ids<'_> {
    fn next_back(&mut self) -> Option<Result<BlockId>> {
        self.next_from_end(ScanOrder::Descending)
    }
}

impl FusedIterator for Ids<'_> {}

/// The first and last id of a range; `None` when it is empty.
pub(crate) fn inclusive_bounds(
    range: impl RangeBounds<BlockId>,
) -> Result<Option<(BlockId, BlockId)>> {
    use Bound::{Excluded, Included, Unbounded};
    let (start, end) = (range.start_bound(), range.end_bound());
    if let (Included(start) | Excluded(start), Included(end) | Excluded(end)) = (start, end)
        && start > end
    {
        let reason = "the range ends before it starts";
        return Err(Error::InvalidArgument { argument: "range", reason });
    }
    let first = match start {
        Included(id) => Some(*id),
        Excluded(id) => id.0.checked_add(1).map(BlockId),
        Unbounded => Some(BlockId(0)),
    };
    let last = match end {
        Included(id) => Some(*id),
        Excluded(id) => id.0.checked_sub(1).map(BlockId),
        Unbounded => Some(BlockId(u64::MAX)),
    };
    Ok(first.zip(last).filter(|(first, last)| first <= last))
}
