//! The base below the entries of the index: an image of it at an earlier LSN.
//!
//! Owns the contract of a [`Base`], and how one is put below the entries while publication
//! continues. Entries in memory then hold the changes since, deletions included:
//!
//! 1. [`Index::freeze_entries`] puts the entries aside, in no time, so that an image can be made of
//!    them.
//! 2. [`Index::install_base`] puts that image below and drops the frozen entries, shard by shard.
//!    Under a shard's lock a reader finds either both parts of the old state or the new one.
//!    [`Index::thaw_entries`] undoes a freeze.
//!
//! Invariant: one image is made at a time. No base is asked under a shard's lock: it may have to
//! read.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Index, Newest};
use crate::block::{BlockId, Lsn};
use crate::error::Result;
use crate::mvcc::page::PAGE_IDS;
use crate::mvcc::shard::Shard;
use crate::mvcc::version::VersionLen;
use crate::order::ScanOrder;
use crate::sync::Ordering;

/// An image of an index at an earlier LSN. It never changes.
pub(crate) trait Base<V>: std::fmt::Debug + Send + Sync {
    /// The newest commit in the image.
    fn lsn(&self) -> Lsn;

    /// The image's version of an id.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt): that part of the image is damaged.
    fn get(&self, id: BlockId) -> Result<Option<Newest<V>>>;

    /// The image's version of each of these ids, which ascend.
    ///
    /// # Errors
    /// As [`Base::get`], for one of them.
    fn get_all(&self, ids: &[BlockId]) -> Result<Vec<Option<Newest<V>>>> {
        ids.iter().map(|id| self.get(*id)).collect()
    }

    /// Calls `each` for the image's ids from `first` to `last`, in an order, until it breaks. The
    /// first of them is found without looking at the others.
    ///
    /// # Errors
    /// As [`Base::get`].
    fn walk(
        &self,
        first: BlockId,
        last: BlockId,
        order: ScanOrder,
        each: &mut dyn FnMut(BlockId, Newest<V>) -> ControlFlow<()>,
    ) -> Result<()>;
}

impl<V: VersionLen> Index<V> {
    /// Looks an id up in the base. Then its bytes are in memory when the log asks for them, and a
    /// failure is told to the caller whose commit it is.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn check_base_readable(&self, id: BlockId) -> Result<()> {
        if !self.is_layered.load(Ordering::Acquire) {
            return Ok(());
        }
        let shard = self.shard_of_id(id).read();
        let Some(base) = shard.base.clone().filter(|_| shard.newest_in_memory(id).is_none()) else {
            return Ok(());
        };
        drop(shard);
        base.get(id).map(|_| ())
    }

    /// As [`Index::check_base_readable`], of many ids.
    ///
    /// # Errors
    /// As [`Base::get_all`].
    pub(crate) fn check_base_readable_for(&self, mut ids: Vec<BlockId>) -> Result<()> {
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| self.shard_of_id(*id).read().newest_in_memory(*id).is_none());
        let base = self.shards[0].read().base.clone();
        base.map_or(Ok(()), |base| base.get_all(&ids).map(drop))
    }

    /// Puts the entries in memory aside, for an image of the index as it is visible now. Called
    /// between two publications.
    pub(crate) fn freeze_entries(&self) {
        self.is_layered.store(true, Ordering::Release);
        for shard in &self.shards {
            let mut shard = shard.write();
            assert!(shard.frozen.by_number.is_empty(), "one image is made at a time");
            shard.frozen = std::mem::take(&mut shard.pages);
        }
    }

    /// Undoes a freeze: no image was made.
    pub(crate) fn thaw_entries(&self) {
        for shard in &self.shards {
            let mut shard = shard.write();
            for (number, page) in std::mem::take(&mut shard.frozen).by_number {
                for (slot, entry) in page.iter() {
                    let id = BlockId(number * PAGE_IDS + u64::from(slot));
                    if shard.pages.get(id).is_none() {
                        shard.pages.insert(id, entry.clone());
                    }
                }
            }
        }
    }

    /// The numbers of the frozen pages, ascending.
    pub(crate) fn frozen_pages(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        for shard in &self.shards {
            numbers.extend(shard.read().frozen.by_number.keys().copied());
        }
        numbers.sort_unstable();
        numbers
    }

    /// Entries that are frozen.
    pub(crate) fn frozen_count(&self) -> u64 {
        let count = |shard: &Shard<V>| {
            shard.frozen.by_number.values().map(|page| page.iter().count() as u64).sum::<u64>()
        };
        self.shards.iter().map(|shard| count(&shard.read())).sum()
    }

    /// The entries of a frozen page.
    pub(crate) fn frozen_entries(&self, number: u64) -> Vec<(BlockId, Newest<V>)> {
        let shard = self.shard_of_id(BlockId(number * PAGE_IDS)).read();
        let page = shard.frozen.by_number.get(&number);
        let entry = |(slot, entry): (u32, &Newest<V>)| {
            (BlockId(number * PAGE_IDS + u64::from(slot)), entry.clone())
        };
        page.into_iter().flat_map(|page| page.iter()).map(entry).collect()
    }

    /// Puts an image below the entries in place of the frozen ones, which are in it. `base` makes a
    /// handle for each shard, so that readers of different shards share no counter.
    pub(crate) fn install_base(&self, base: impl Fn() -> Arc<dyn Base<V>>) {
        self.is_layered.store(true, Ordering::Release);
        for shard in &self.shards {
            let mut shard = shard.write();
            shard.base = Some(base());
            let frozen = std::mem::take(&mut shard.frozen);
            drop(shard);
            drop(frozen);
        }
    }
}
