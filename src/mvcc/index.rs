//! The index: `BlockId` to its newest published version, and older versions while somebody can see
//! them.
//!
//! Owns the sharded pages, the undo versions and the visible LSN ([`Pins`]). One publisher at a time
//! calls [`Index::publish`]; any number of threads read.
//!
//! A group of commits is published in three steps, so that no reader sees half of it:
//!
//! 1. Each operation replaces its entry; the version it replaces becomes an *undo version*
//!    `[from, until)` of its id. Readers that find an entry above the visible LSN use the undo version.
//! 2. The visible LSN is raised. From here on everybody sees the whole group.
//! 3. Each undo version that a held pin can see is filed under the newest such pin; the others are
//!    dropped. When a pin's last holder goes, its file is handed to the next older pin that can see
//!    the version, or the version is dropped (the dead lists of ZFS). So a snapshot costs one version
//!    for each block that changed since, however often it changed.
//!
//! A deletion leaves a marker until no pin is older than it, so that a conflict check finds the
//! deletion of a block that was created after the snapshot.
//!
//! Lock order: `filed`, then the pins' slots, then a shard. No I/O under any of them.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use crate::block::{BlockId, Lsn};
use crate::mvcc::counters::Padded;
use crate::mvcc::overlay::{IdHasher, Published};
use crate::mvcc::page::{PAGE_IDS, Page};
use crate::mvcc::pins::{Pin, Pins};
use crate::sync::{AtomicU64, Mutex, Ordering, RwLock};

const SHARD_COUNT: usize = 64;

/// A version knows its payload's length.
pub(crate) trait VersionLen: Clone + Send + Sync {
    fn payload_len(&self) -> u64;
}

/// A version and the commit that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versioned<V> {
    pub(crate) lsn: Lsn,
    pub(crate) value: V,
}

/// A change to publish: `None` deletes.
pub(crate) type Change<V> = (BlockId, Lsn, Option<V>);

/// The index of one store.
#[derive(Debug)]
pub(crate) struct Index<V> {
    pins: Pins,
    shards: Box<[Padded<RwLock<Shard<V>>>]>,
    filed: Mutex<BTreeMap<Lsn, Vec<Filed>>>,
    undo_count: AtomicU64,
    /// What the filed undo versions cost in bytes.
    pinned_len: AtomicU64,
}

#[derive(Debug)]
struct Shard<V> {
    pages: BTreeMap<u64, Page<Versioned<V>>>,
    undo: HashMap<BlockId, Vec<Undo<V>>, BuildHasherDefault<IdHasher>>,
    heap_len: usize,
}

/// A version that was visible from `from` until just before `until`. Without a value it only marks
/// the deletion at `until`.
#[derive(Debug)]
struct Undo<V> {
    from: Lsn,
    until: Lsn,
    value: Option<V>,
}

/// Names an undo version.
#[derive(Debug, Clone, Copy)]
struct Filed {
    id: BlockId,
    from: Lsn,
    until: Lsn,
    deleted: bool,
    /// Length of its payload, 0 once that is dropped.
    payload_len: u64,
    /// Whether it was filed before.
    counted: bool,
}

impl<V: VersionLen> Default for Index<V> {
    fn default() -> Self {
        let shard = || Shard { pages: BTreeMap::new(), undo: HashMap::default(), heap_len: 0 };
        Index {
            pins: Pins::default(),
            shards: (0..SHARD_COUNT).map(|_| Padded(RwLock::new(shard()))).collect(),
            filed: Mutex::default(),
            undo_count: AtomicU64::new(0),
            pinned_len: AtomicU64::new(0),
        }
    }
}

impl<V: VersionLen> Index<V> {
    /// Bytes that keeping one older version takes in the index.
    const UNDO_LEN: u64 = (size_of::<BlockId>()
        + size_of::<Vec<Undo<V>>>()
        + size_of::<Undo<V>>()
        + size_of::<Filed>()
        + 1) as u64;

    /// The newest commit that readers see.
    pub(crate) fn visible(&self) -> Lsn {
        self.pins.visible()
    }

    /// Holds a snapshot of what is visible now.
    pub(crate) fn pin(&self) -> Pin {
        self.pins.take()
    }

    /// Gives a snapshot back and drops the versions that only it could see.
    pub(crate) fn unpin(&self, pin: Pin) {
        let lsn = pin.lsn();
        if !self.pins.release(pin) || self.undo_count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut filed = self.filed.lock();
        if let Some(orphans) = filed.remove(&lsn) {
            self.file(&mut filed, orphans);
        }
    }

    /// The newest visible version.
    pub(crate) fn read(&self, id: BlockId) -> Option<Versioned<V>> {
        let shard = self.shard(id).read();
        // Read under the lock: step 3 of a publication cannot pass us (see the module header).
        shard.version_at(id, self.pins.visible())
    }

    /// The version that a pinned snapshot sees.
    pub(crate) fn read_at(&self, id: BlockId, snapshot: Lsn) -> Option<Versioned<V>> {
        self.shard(id).read().version_at(id, snapshot)
    }

    /// The newest visible ids from `first` to `last`, ascending, at most `count_max` of them.
    pub(crate) fn ids(&self, first: BlockId, last: BlockId, count_max: usize) -> Vec<BlockId> {
        let pin = self.pin();
        let ids = self.ids_at(first, last, count_max, pin.lsn());
        self.unpin(pin);
        ids
    }

    /// The ids that a pinned snapshot sees from `first` to `last`, ascending, at most `count_max`.
    pub(crate) fn ids_at(
        &self,
        first: BlockId,
        last: BlockId,
        count_max: usize,
        snapshot: Lsn,
    ) -> Vec<BlockId> {
        let mut ids = Vec::new();
        let mut page = Some(first.0 / PAGE_IDS);
        while let Some(at) = page.filter(|page| *page <= last.0 / PAGE_IDS) {
            let shard = self.shard(BlockId(at * PAGE_IDS)).read();
            shard.visible_in_page(at, snapshot, &mut ids);
            drop(shard);
            ids.retain(|id| *id >= first && *id <= last);
            if ids.len() >= count_max {
                ids.truncate(count_max);
                break;
            }
            page = at.checked_add(1).and_then(|next| self.next_page(next));
        }
        ids
    }

    /// Publishes the changes of a group, ascending by LSN, and makes commits up to `visible` visible.
    /// Calls `replaced` with the old and the new version of each change.
    pub(crate) fn publish(
        &self,
        changes: impl IntoIterator<Item = Change<V>>,
        visible: Lsn,
        mut replaced: impl FnMut(Option<&V>, Option<&V>),
    ) {
        let mut undone = Vec::new();
        for (id, lsn, value) in changes {
            let deleted = value.is_none();
            let mut shard = self.shard(id).write();
            let new = value.clone();
            let old = match value {
                Some(value) => shard.insert(id, Versioned { lsn, value }),
                None => shard.remove(id),
            };
            replaced(old.as_ref().map(|old| &old.value), new.as_ref());
            if let Some(old) = old {
                let payload_len = old.value.payload_len();
                let from = old.lsn;
                undone.push(Filed { id, from, until: lsn, deleted, payload_len, counted: false });
                let versions = shard.undo.entry(id).or_default();
                versions.push(Undo { from: old.lsn, until: lsn, value: Some(old.value) });
                self.undo_count.fetch_add(1, Ordering::SeqCst);
            }
        }
        if undone.is_empty() {
            self.pins.raise(visible);
            return;
        }
        let mut filed = self.filed.lock();
        self.pins.raise(visible);
        self.file(&mut filed, undone);
    }

    /// Puts changes in place while nobody reads: recovery. Calls `replaced` as [`Index::publish`].
    pub(crate) fn load(
        &self,
        changes: impl IntoIterator<Item = Change<V>>,
        mut replaced: impl FnMut(Option<&V>, Option<&V>),
    ) {
        for (id, lsn, value) in changes {
            let mut shard = self.shard(id).write();
            let new = value.clone();
            let old = match value {
                Some(value) => shard.insert(id, Versioned { lsn, value }),
                None => shard.remove(id),
            };
            replaced(old.as_ref().map(|old| &old.value), new.as_ref());
        }
    }

    /// Makes loaded changes visible.
    pub(crate) fn finish_load(&self, visible: Lsn) {
        self.pins.raise(visible);
    }

    /// Undo versions that are kept now.
    pub(crate) fn undo_count(&self) -> u64 {
        self.undo_count.load(Ordering::SeqCst)
    }

    /// What keeping them costs in bytes, payloads included. Versions of a publication under way do
    /// not count before it is clear who can see them.
    pub(crate) fn pinned_len(&self) -> u64 {
        self.pinned_len.load(Ordering::SeqCst)
    }

    /// Heap bytes of pages and undo versions.
    pub(crate) fn heap_len(&self) -> u64 {
        // A tree node holds 11 keys and values and is about two thirds full.
        let page_len = (size_of::<u64>() + size_of::<Page<Versioned<V>>>()) * 3 / 2;
        let undo_len = size_of::<BlockId>() + size_of::<Vec<Undo<V>>>() + size_of::<Undo<V>>() + 1;
        let shard_len = |shard: &Shard<V>| {
            shard.heap_len + shard.pages.len() * page_len + shard.undo.len() * undo_len
        };
        self.shards.iter().map(|shard| shard_len(&shard.read()) as u64).sum()
    }

    /// Files undo versions under the newest pin that sees them, or drops them.
    fn file(&self, filed: &mut BTreeMap<Lsn, Vec<Filed>>, versions: Vec<Filed>) {
        let held = self.pins.held();
        let (mut added, mut removed) = (0, 0);
        for mut version in versions {
            removed += if version.counted { Self::UNDO_LEN + version.payload_len } else { 0 };
            version.counted = true;
            let older = held.partition_point(|pin| *pin < version.until);
            match held[..older].last() {
                Some(pin) if *pin >= version.from => {
                    added += Self::UNDO_LEN + version.payload_len;
                    filed.entry(*pin).or_default().push(version);
                }
                // Nobody sees the value, but an older pin must still find the deletion.
                Some(pin) if version.deleted => {
                    self.shard(version.id).write().strip(version);
                    version.payload_len = 0;
                    added += Self::UNDO_LEN;
                    filed.entry(*pin).or_default().push(version);
                }
                _ => {
                    self.shard(version.id).write().forget(version);
                    self.undo_count.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
        // In one step: nobody sees too much. Only here, under the lock of `filed`, does it change.
        let pinned = self.pinned_len() + added - removed;
        self.pinned_len.store(pinned, Ordering::SeqCst);
    }

    /// The first page at or behind `page` that may hold something for a reader.
    fn next_page(&self, page: u64) -> Option<u64> {
        self.shards.iter().filter_map(|shard| shard.read().next_page(page)).min()
    }

    fn shard(&self, id: BlockId) -> &RwLock<Shard<V>> {
        let page = id.0 / PAGE_IDS;
        let spread = page.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.shards[spread as usize % SHARD_COUNT]
    }
}

impl<V: VersionLen> Published for Index<V> {
    fn changed_since(&self, id: BlockId, snapshot: Lsn) -> Option<Lsn> {
        let shard = self.shard(id).read();
        let current = shard.get(id).map(|entry| entry.lsn);
        let deleted = shard.undo.get(&id).and_then(|versions| versions.last());
        let newest = current.max(deleted.map(|undo| undo.until));
        newest.filter(|lsn| *lsn > snapshot)
    }

    fn changed_within(
        &self,
        first: BlockId,
        last: BlockId,
        snapshot: Lsn,
    ) -> Option<(BlockId, Lsn)> {
        let mut page = self.next_page(first.0 / PAGE_IDS);
        while let Some(at) = page.filter(|page| *page <= last.0 / PAGE_IDS) {
            let shard = self.shard(BlockId(at * PAGE_IDS)).read();
            let changed = shard.changed_in_page(at, first, last, snapshot);
            drop(shard);
            if changed.is_some() {
                return changed;
            }
            page = at.checked_add(1).and_then(|next| self.next_page(next));
        }
        None
    }

    fn exists(&self, id: BlockId) -> bool {
        self.shard(id).read().get(id).is_some()
    }
}

impl<V: Clone> Shard<V> {
    fn get(&self, id: BlockId) -> Option<&Versioned<V>> {
        self.pages.get(&(id.0 / PAGE_IDS))?.get((id.0 % PAGE_IDS) as u32)
    }

    fn version_at(&self, id: BlockId, snapshot: Lsn) -> Option<Versioned<V>> {
        if let Some(entry) = self.get(id)
            && entry.lsn <= snapshot
        {
            return Some(entry.clone());
        }
        if self.undo.is_empty() {
            return None;
        }
        let versions = self.undo.get(&id)?;
        let seen = versions.iter().find(|undo| undo.from <= snapshot && snapshot < undo.until)?;
        seen.value.clone().map(|value| Versioned { lsn: seen.from, value })
    }

    fn insert(&mut self, id: BlockId, entry: Versioned<V>) -> Option<Versioned<V>> {
        let page = self.pages.entry(id.0 / PAGE_IDS).or_default();
        self.heap_len -= page.heap_len();
        let old = page.insert((id.0 % PAGE_IDS) as u32, entry);
        self.heap_len += page.heap_len();
        old
    }

    fn remove(&mut self, id: BlockId) -> Option<Versioned<V>> {
        let page = self.pages.get_mut(&(id.0 / PAGE_IDS))?;
        self.heap_len -= page.heap_len();
        let old = page.remove((id.0 % PAGE_IDS) as u32);
        self.heap_len += page.heap_len();
        if page.is_empty() {
            self.pages.remove(&(id.0 / PAGE_IDS));
        }
        old
    }

    /// Drops an undo version's value and keeps its mark.
    fn strip(&mut self, version: Filed) {
        let versions = self.undo.get_mut(&version.id).into_iter().flatten();
        for undo in versions.filter(|undo| undo.until == version.until) {
            undo.value = None;
        }
    }

    fn forget(&mut self, version: Filed) {
        let versions = self.undo.get_mut(&version.id).expect("a filed version is kept");
        versions.retain(|undo| undo.until != version.until);
        if versions.is_empty() {
            self.undo.remove(&version.id);
            if self.undo.is_empty() && self.undo.capacity() > 1024 {
                self.undo.shrink_to_fit();
            }
        }
    }

    fn next_page(&self, page: u64) -> Option<u64> {
        let kept = self.undo.keys().map(|id| id.0 / PAGE_IDS).filter(|at| *at >= page).min();
        let current = self.pages.range(page..).next().map(|(at, _)| *at);
        kept.into_iter().chain(current).min()
    }

    fn changed_in_page(
        &self,
        page: u64,
        first: BlockId,
        last: BlockId,
        snapshot: Lsn,
    ) -> Option<(BlockId, Lsn)> {
        let within = |id: &BlockId| first <= *id && *id <= last;
        let entries = self.pages.get(&page).into_iter().flat_map(|entries| entries.iter());
        let mut written = entries
            .filter(|(_, entry)| entry.lsn > snapshot)
            .map(|(slot, entry)| (BlockId(page * PAGE_IDS + u64::from(slot)), entry.lsn));
        if let Some(found) = written.find(|(id, _)| within(id)) {
            return Some(found);
        }
        let mut span = (0..PAGE_IDS).map(|slot| BlockId(page * PAGE_IDS + slot)).filter(within);
        span.find_map(|id| {
            let until = self.undo.get(&id)?.last()?.until;
            (until > snapshot).then_some((id, until))
        })
    }

    /// Appends the ids of one page that a snapshot sees, ascending.
    fn visible_in_page(&self, page: u64, snapshot: Lsn, ids: &mut Vec<BlockId>) {
        let start = ids.len();
        if let Some(entries) = self.pages.get(&page) {
            let seen = entries.iter().filter(|(_, entry)| entry.lsn <= snapshot);
            ids.extend(seen.map(|(slot, _)| BlockId(page * PAGE_IDS + u64::from(slot))));
        }
        if self.undo.is_empty() {
            return;
        }
        let span = (0..PAGE_IDS).map(|slot| BlockId(page * PAGE_IDS + slot));
        let older = span.filter(|id| {
            self.undo.contains_key(id)
                && self.get(*id).is_none_or(|entry| entry.lsn > snapshot)
                && self.version_at(*id, snapshot).is_some()
        });
        ids.extend(older);
        ids[start..].sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl VersionLen for u32 {
        fn payload_len(&self) -> u64 {
            u64::from(*self)
        }
    }

    impl VersionLen for [u64; 3] {
        fn payload_len(&self) -> u64 {
            0
        }
    }

    fn set(index: &Index<u32>, lsn: u64, changes: &[(u64, Option<u32>)]) {
        let changes = changes.iter().map(|(id, value)| (BlockId(*id), Lsn(lsn), *value));
        index.publish(changes, Lsn(lsn), |_, _| {});
    }

    fn value(index: &Index<u32>, id: u64, pin: &Pin) -> Option<u32> {
        index.read_at(BlockId(id), pin.lsn()).map(|version| version.value)
    }

    #[test]
    fn snapshot_sees_what_was_visible_when_it_was_pinned() {
        let index = Index::default();
        set(&index, 1, &[(1, Some(10)), (2, Some(20))]);
        let before = index.pin();
        set(&index, 2, &[(1, Some(11)), (2, None), (3, Some(30))]);
        let after = index.pin();
        assert_eq!([1, 2, 3].map(|id| value(&index, id, &before)), [Some(10), Some(20), None]);
        assert_eq!([1, 2, 3].map(|id| value(&index, id, &after)), [Some(11), None, Some(30)]);
        let ids = |pin: &Pin| index.ids_at(BlockId(0), BlockId(u64::MAX), 9, pin.lsn());
        assert_eq!(ids(&before), [BlockId(1), BlockId(2)]);
        assert_eq!(ids(&after), [BlockId(1), BlockId(3)]);
        index.unpin(before);
        index.unpin(after);
        assert_eq!(index.undo_count(), 0);
    }

    #[test]
    fn old_snapshot_costs_one_version_a_block_however_often_it_changes() {
        let index = Index::default();
        set(&index, 1, &[(1, Some(0)), (2, Some(0))]);
        let old = index.pin();
        for lsn in 2..100 {
            let young = index.pin();
            set(&index, lsn, &[(1, Some(lsn as u32)), (2, Some(lsn as u32))]);
            assert_eq!(value(&index, 1, &young), Some(if lsn == 2 { 0 } else { lsn as u32 - 1 }));
            index.unpin(young);
            assert_eq!(index.undo_count(), 2);
        }
        assert_eq!(value(&index, 2, &old), Some(0));
        index.unpin(old);
        assert_eq!(index.undo_count(), 0);
        assert!(index.filed.lock().is_empty());
    }

    #[test]
    fn version_passes_to_the_next_older_snapshot_that_sees_it() {
        let index = Index::default();
        set(&index, 1, &[(1, Some(1))]);
        let (oldest, older) = (index.pin(), index.pin());
        set(&index, 2, &[(2, Some(2))]);
        let newer = index.pin();
        set(&index, 3, &[(1, Some(3))]);
        index.unpin(newer);
        index.unpin(older);
        assert_eq!(value(&index, 1, &oldest), Some(1));
        index.unpin(oldest);
        assert_eq!(index.undo_count(), 0);
    }

    #[test]
    fn deletion_after_a_snapshot_is_found_even_of_a_block_created_after_it() {
        let index = Index::default();
        let pin = index.pin();
        set(&index, 1, &[(1, Some(1))]);
        set(&index, 2, &[(1, None)]);
        assert_eq!(index.changed_since(BlockId(1), pin.lsn()), Some(Lsn(2)));
        assert_eq!(value(&index, 1, &pin), None);
        index.unpin(pin);
        assert_eq!(index.undo_count(), 0);
        assert_eq!(index.changed_since(BlockId(1), Lsn(0)), None);
    }

    #[test]
    fn ids_are_listed_in_order_across_pages_and_limits() {
        let index = Index::default();
        let ids = [1, 63, 64, 700, 1 << 40, u64::MAX];
        set(&index, 1, &ids.map(|id| (id, Some(0))));
        let all = index.ids(BlockId(0), BlockId(u64::MAX), usize::MAX);
        assert_eq!(all, ids.map(BlockId));
        assert_eq!(index.ids(BlockId(63), BlockId(700), usize::MAX), [63, 64, 700].map(BlockId));
        assert_eq!(index.ids(BlockId(2), BlockId(u64::MAX), 2), [63, 64].map(BlockId));
    }

    #[test]
    fn dense_ids_cost_at_most_forty_bytes() {
        let index = Index::default();
        set(&index, 1, &[]);
        let changes = (1..=100_000).map(|id| (BlockId(id), Lsn(2), Some([0u64; 3])));
        let wide: Index<[u64; 3]> = Index::default();
        wide.publish(changes, Lsn(2), |_, _| {});
        assert!(wide.heap_len() <= 40 * 100_000, "{} bytes", wide.heap_len());
    }
}
