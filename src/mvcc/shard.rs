//! One shard of the index: the entries, older versions and base of the ids that fall to it.
//!
//! Owns [`Shard`], which knows the order of its layers: entries, frozen entries, base. Its answers
//! under its lock are complete but for the base, which may do I/O. [`Lookup`] and [`PageView`]
//! carry the rest of the question out of the lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::block::{BlockId, Lsn};
use crate::error::Result;
use crate::mvcc::index::{Base, LookedUp, Newest, Versioned};
use crate::mvcc::page::{IndexPage, PAGE_IDS};
use crate::order::ScanOrder;

#[derive(Debug)]
pub(super) struct Shard<V> {
    pub(super) pages: Pages<V>,
    /// Entries put aside for an image that is being made; below `pages`, above `base`.
    pub(super) frozen: Pages<V>,
    pub(super) base: Option<Arc<dyn Base<V>>>,
    /// Older versions, in the order of the ids, so that a scan meets them page by page.
    pub(super) undo: BTreeMap<BlockId, Vec<Undo<V>>>,
}

/// Entries by page number.
#[derive(Debug)]
pub(super) struct Pages<V> {
    pub(super) by_number: BTreeMap<u64, IndexPage<Newest<V>>>,
    pub(super) heap_len: usize,
}

/// A version that was visible from `from` until just before `until`. Without a value it only marks
/// the deletion at `until`.
#[derive(Debug)]
pub(super) struct Undo<V> {
    pub(super) from: Lsn,
    pub(super) until: Lsn,
    pub(super) value: Option<V>,
}

/// Names an undo version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filed {
    pub(super) id: BlockId,
    pub(super) from: Lsn,
    pub(super) until: Lsn,
    pub(super) deleted: bool,
    /// Length of its payload, 0 once that is dropped.
    pub(super) payload_len: u64,
    /// Whether it was filed before.
    pub(super) counted: bool,
}

/// The result of a lookup in memory, and where the reader must look next.
pub(super) enum Lookup<V> {
    /// The answer.
    Found(Option<Versioned<V>>),
    /// The image knows the newest version. Where that is too new for the reader, the older one here
    /// is the answer.
    Below(Arc<dyn Base<V>>, Lsn, Option<Versioned<V>>),
}

impl<V> Lookup<V> {
    pub(super) fn resolve_version(self, id: BlockId) -> Result<Option<Versioned<V>>> {
        let (base, snapshot, older) = match self {
            Lookup::Found(version) => return Ok(version),
            Lookup::Below(base, snapshot, older) => (base, snapshot, older),
        };
        Ok(match base.get(id)? {
            Some(Versioned { lsn, value }) if lsn <= snapshot => {
                value.map(|value| Versioned { lsn, value })
            }
            _ => older,
        })
    }
}

/// The content of a page in memory for one snapshot: a bit for each of its ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageView {
    pub(super) number: u64,
    /// Blocks in memory that the snapshot sees.
    pub(super) seen: u64,
    /// Ids whose newest version is in memory. It hides what an image says of them.
    pub(super) known: u64,
}

impl<V> Default for Shard<V> {
    fn default() -> Self {
        Shard {
            pages: Pages::default(),
            frozen: Pages::default(),
            base: None,
            undo: BTreeMap::new(),
        }
    }
}

impl<V> Default for Pages<V> {
    fn default() -> Self {
        Pages { by_number: BTreeMap::new(), heap_len: 0 }
    }
}

impl<V> Pages<V> {
    pub(super) fn get(&self, id: BlockId) -> Option<&Newest<V>> {
        self.by_number.get(&(id.0 / PAGE_IDS))?.get((id.0 % PAGE_IDS) as u32)
    }

    pub(super) fn insert(&mut self, id: BlockId, entry: Newest<V>) {
        let page = self.by_number.entry(id.0 / PAGE_IDS).or_default();
        debug_assert!(page.heap_len() <= self.heap_len, "a page is counted");
        self.heap_len -= page.heap_len();
        page.insert((id.0 % PAGE_IDS) as u32, entry);
        self.heap_len += page.heap_len();
    }

    pub(super) fn remove(&mut self, id: BlockId) {
        let Some(page) = self.by_number.get_mut(&(id.0 / PAGE_IDS)) else { return };
        self.heap_len -= page.heap_len();
        page.remove((id.0 % PAGE_IDS) as u32);
        self.heap_len += page.heap_len();
        if page.is_empty() {
            self.by_number.remove(&(id.0 / PAGE_IDS));
        }
    }

    pub(super) fn page_entries(&self, number: u64) -> impl Iterator<Item = (BlockId, &Newest<V>)> {
        let entries = self.by_number.get(&number).into_iter().flat_map(|page| page.iter());
        entries.map(move |(slot, entry)| (BlockId(number * PAGE_IDS + u64::from(slot)), entry))
    }

    pub(super) fn changed_within(
        &self,
        first: BlockId,
        last: BlockId,
        snapshot: Lsn,
    ) -> Option<(BlockId, Lsn)> {
        debug_assert!(first <= last, "a range of ids");
        let numbers = self.by_number.range(first.0 / PAGE_IDS..=last.0 / PAGE_IDS);
        let mut entries = numbers.flat_map(|(number, _)| self.page_entries(*number));
        let changed =
            entries.find(|(id, entry)| first <= *id && *id <= last && entry.lsn > snapshot);
        changed.map(|(id, entry)| (id, entry.lsn))
    }
}

impl<V: Clone> Shard<V> {
    /// The newest version in memory.
    pub(super) fn newest_in_memory(&self, id: BlockId) -> Option<&Newest<V>> {
        self.pages.get(id).or_else(|| self.frozen.get(id))
    }

    /// The newest version, for the publisher, which looked up the base before.
    pub(super) fn newest_or_looked_up(
        &self,
        id: BlockId,
        below: &LookedUp<V>,
    ) -> Option<Newest<V>> {
        if let Some(entry) = self.newest_in_memory(id) {
            return Some(entry.clone());
        }
        // Without a base, memory knows everything. An entry that was frozen at the lookup may be
        // gone since.
        self.base.as_ref().and_then(|_| below.get(id)).cloned()
    }

    /// Puts an entry in place and returns the version that it replaces.
    pub(super) fn replace_entry(
        &mut self,
        id: BlockId,
        entry: Newest<V>,
        below: &LookedUp<V>,
    ) -> Option<Versioned<V>> {
        let old = self.newest_or_looked_up(id, below);
        let hides = self.base.is_some() || self.frozen.get(id).is_some();
        if entry.value.is_none() && !hides {
            self.pages.remove(id);
        } else {
            self.pages.insert(id, entry);
        }
        let old = old?;
        old.value.map(|value| Versioned { lsn: old.lsn, value })
    }

    /// Changes a page while no thread reads. Deletions that hide nothing are dropped from it.
    pub(super) fn load_page(
        &mut self,
        number: u64,
        change: impl FnOnce(&mut IndexPage<Newest<V>>),
    ) {
        assert!(self.frozen.by_number.is_empty(), "no image is made before the index is loaded");
        let page = self.pages.by_number.entry(number).or_default();
        self.pages.heap_len -= page.heap_len();
        change(page);
        if self.base.is_none() {
            page.retain_entries(|entry| entry.value.is_some());
        }
        if page.is_empty() {
            self.pages.by_number.remove(&number);
        } else {
            self.pages.heap_len += page.heap_len();
        }
    }

    pub(super) fn version_at_snapshot(&self, id: BlockId, snapshot: Lsn) -> Lookup<V> {
        let newest = self.newest_in_memory(id);
        if let Some(entry) = newest
            && entry.lsn <= snapshot
        {
            let found = entry.value.clone().map(|value| Versioned { lsn: entry.lsn, value });
            return Lookup::Found(found);
        }
        let older = self.undo_version_at(id, snapshot);
        match &self.base {
            Some(base) if newest.is_none() => Lookup::Below(Arc::clone(base), snapshot, older),
            _ => Lookup::Found(older),
        }
    }

    /// The older version that a snapshot sees.
    pub(super) fn undo_version_at(&self, id: BlockId, snapshot: Lsn) -> Option<Versioned<V>> {
        if self.undo.is_empty() {
            return None;
        }
        let versions = self.undo.get(&id)?;
        let seen = versions.iter().find(|undo| undo.from <= snapshot && snapshot < undo.until)?;
        seen.value.clone().map(|value| Versioned { lsn: seen.from, value })
    }

    /// Drops an undo version's value and keeps its mark.
    pub(super) fn drop_undo_value(&mut self, version: Filed) {
        let versions = self.undo.get_mut(&version.id).into_iter().flatten();
        for undo in versions.filter(|undo| undo.until == version.until) {
            undo.value = None;
        }
    }

    pub(super) fn remove_undo_version(&mut self, version: Filed) {
        let versions = self.undo.get_mut(&version.id).expect("a filed version is kept");
        debug_assert!(versions.iter().any(|undo| undo.until == version.until), "it is filed once");
        versions.retain(|undo| undo.until != version.until);
        if versions.is_empty() {
            self.undo.remove(&version.id);
        }
    }

    /// The page in memory nearest to the begin of a scan, of pages `first` to `last`.
    pub(super) fn nearest_page(&self, first: u64, last: u64, order: ScanOrder) -> Option<u64> {
        debug_assert!(first <= last, "a range of pages");
        let pages = [&self.pages, &self.frozen].map(|pages| {
            let mut numbers = pages.by_number.range(first..=last).map(|(number, _)| *number);
            match order {
                ScanOrder::Ascending => numbers.next(),
                ScanOrder::Descending => numbers.next_back(),
            }
        });
        let mut kept = self.undo.range(BlockId(first * PAGE_IDS)..=last_id_of_page(last));
        let kept = match order {
            ScanOrder::Ascending => kept.next(),
            ScanOrder::Descending => kept.next_back(),
        };
        let all = pages.into_iter().flatten().chain(kept.map(|(id, _)| id.0 / PAGE_IDS));
        match order {
            ScanOrder::Ascending => all.min(),
            ScanOrder::Descending => all.max(),
        }
    }

    pub(super) fn changed_within(
        &self,
        first: BlockId,
        last: BlockId,
        snapshot: Lsn,
    ) -> Option<(BlockId, Lsn)> {
        let written = [&self.pages, &self.frozen]
            .into_iter()
            .find_map(|pages| pages.changed_within(first, last, snapshot));
        written.or_else(|| {
            let within = self.undo.range(first..=last);
            let mut marks = within.filter_map(|(id, versions)| Some((*id, versions.last()?.until)));
            marks.find(|(_, until)| *until > snapshot)
        })
    }

    /// The blocks of a page that a snapshot sees.
    pub(super) fn view_page(&self, number: u64, snapshot: Lsn) -> PageView {
        let (mut seen, mut known) = (0, 0);
        for (id, entry) in self.pages.page_entries(number).chain(self.frozen.page_entries(number)) {
            let slot = bit_in_page(id);
            if known & slot == 0 && entry.lsn <= snapshot && entry.value.is_some() {
                seen |= slot;
            }
            known |= slot;
        }
        for id in
            self.undo.range(BlockId(number * PAGE_IDS)..=last_id_of_page(number)).map(|(id, _)| *id)
        {
            if self.newest_in_memory(id).is_none_or(|entry| entry.lsn > snapshot)
                && self.undo_version_at(id, snapshot).is_some()
            {
                seen |= bit_in_page(id);
            }
        }
        PageView { number, seen, known }
    }
}

/// The bit of an id in its page.
pub(super) fn bit_in_page(id: BlockId) -> u64 {
    1 << (id.0 % PAGE_IDS)
}

/// The last id of a page.
pub(super) fn last_id_of_page(page: u64) -> BlockId {
    BlockId(page * PAGE_IDS + (PAGE_IDS - 1))
}
