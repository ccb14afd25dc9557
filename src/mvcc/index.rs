//! The index: `BlockId` to its newest published version, and older versions while somebody can see
//! them.
//!
//! Owns the sharded pages, the undo versions and the visible LSN ([`Pins`]). One publisher at a time
//! calls [`Index::publish`]; any number of threads read.
//!
//! A group of several changes is published in three steps, so that no reader sees half of it:
//!
//! 1. Each operation replaces its entry; the version it replaces becomes an *undo version*
//!    `[from, until)` of its id. Readers that find an entry above the visible LSN use the undo version.
//! 2. The visible LSN is raised. From here on everybody sees the whole group.
//! 3. Each undo version that a held pin can see is filed under the newest such pin; the others are
//!    dropped. When a pin's last holder goes, its file is handed to the next older pin that can see
//!    the version, or the version is dropped (the dead lists of ZFS). So a snapshot costs one version
//!    for each block that changed since, however often it changed.
//!
//! A single change has no halves: it raises the visible LSN under the lock of its shard, and keeps the
//! version that it replaces only if somebody holds a pin then ([`Pins::is_held`]).
//!
//! A deletion leaves a marker until no pin is older than it, so that a conflict check finds the
//! deletion of a block that was created after the snapshot.
//!
//! **Below the entries** there may be a [`Base`]: an image of the index at an earlier LSN. Entries in
//! memory then hold what changed since, deletions included. [`Index::freeze`] puts them aside, in no
//! time, so that an image can be made of them while publication goes on above; [`Index::install`]
//! puts that image below and drops what was frozen, shard by shard: under its lock a reader finds
//! either both parts of the old state or the new one. [`Index::thaw`] takes a freeze back.
//!
//! Lock order: `filed`, then the pins' slots, then a shard. No I/O under any of them but the look-up
//! of a base that was asked for the same id before.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::block::{BlockId, Lsn};
use crate::canary::{Bug, planted};
use crate::error::Result;
use crate::mvcc::counters::Padded;
use crate::mvcc::overlay::Published;
use crate::mvcc::page::{PAGE_IDS, Page};
use crate::mvcc::pins::{Pin, Pins};
use crate::mvcc::shard::{Filed, Shard, Undo};
use crate::mvcc::version::VersionLen;
use crate::sync::{AtomicU64, Mutex, Ordering, RwLock};

const SHARD_COUNT: usize = 64;

/// A version and the commit that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versioned<V> {
    pub(crate) lsn: Lsn,
    pub(crate) value: V,
}

/// A change to publish: `None` deletes.
pub(crate) type Change<V> = (BlockId, Lsn, Option<V>);

/// The newest version of an id, or its deletion.
pub(crate) type Newest<V> = Versioned<Option<V>>;

/// An image of an index at an earlier LSN. It never changes.
pub(crate) trait Base<V>: std::fmt::Debug + Send + Sync {
    /// The newest commit in the image.
    fn lsn(&self) -> Lsn;

    /// What the image says of an id.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt): that part of the image is damaged.
    fn get(&self, id: BlockId) -> Result<Option<Newest<V>>>;

    /// Calls `each` for the ids from `first` to `last` that the image speaks of, ascending, until it
    /// breaks.
    ///
    /// # Errors
    /// As [`Base::get`].
    fn walk(
        &self,
        first: BlockId,
        last: BlockId,
        each: &mut dyn FnMut(BlockId, Newest<V>) -> ControlFlow<()>,
    ) -> Result<()>;
}

/// The index of one store.
#[derive(Debug)]
pub(crate) struct Index<V> {
    pins: Arc<Pins>,
    shards: Box<[Padded<RwLock<Shard<V>>>]>,
    filed: Mutex<BTreeMap<Lsn, Vec<Filed>>>,
    undo_count: AtomicU64,
    /// What the filed undo versions cost in bytes.
    pinned_len: AtomicU64,
}

impl<V: VersionLen> Default for Index<V> {
    fn default() -> Self {
        Index {
            pins: Arc::default(),
            shards: (0..SHARD_COUNT).map(|_| Padded(RwLock::new(Shard::default()))).collect(),
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

    /// The visible LSN and the snapshots that are held.
    pub(crate) fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// Holds a snapshot of what is visible now.
    pub(crate) fn pin(&self) -> Pin {
        self.pins.take()
    }

    /// Gives a snapshot back and drops the versions that only it could see.
    pub(crate) fn unpin(&self, pin: Pin) {
        let lsn = pin.lsn();
        let was_last = self.pins.release(pin);
        self.released(lsn, was_last);
    }

    /// Drops the versions that only a snapshot could see which was released; `was_last` says whether
    /// nobody of its slot holds it any more.
    pub(crate) fn released(&self, lsn: Lsn, was_last: bool) {
        if !was_last || self.undo_count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut filed = self.filed.lock();
        if let Some(orphans) = filed.remove(&lsn).filter(|_| !planted(Bug::UndoIsKept)) {
            self.file(&mut filed, orphans);
        }
    }

    /// The newest visible version.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn read(&self, id: BlockId) -> Result<Option<Versioned<V>>> {
        let shard = self.shard(id).read();
        // Read under the lock: step 3 of a publication cannot pass us (see the module header).
        let seen = shard.version_at(id, self.pins.visible());
        drop(shard);
        seen.resolve(id)
    }

    /// The version that a pinned snapshot sees.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn read_at(&self, id: BlockId, snapshot: Lsn) -> Result<Option<Versioned<V>>> {
        let seen = self.shard(id).read().version_at(id, snapshot);
        seen.resolve(id)
    }

    /// The newest visible ids from `first` to `last`, ascending, at most `count_max` of them.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn ids(
        &self,
        first: BlockId,
        last: BlockId,
        count_max: usize,
    ) -> Result<Vec<BlockId>> {
        let pin = self.pin();
        let ids = self.ids_at(first, last, count_max, pin.lsn());
        self.unpin(pin);
        ids
    }

    /// The ids that a pinned snapshot sees from `first` to `last`, ascending, at most `count_max`.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn ids_at(
        &self,
        first: BlockId,
        last: BlockId,
        count_max: usize,
        snapshot: Lsn,
    ) -> Result<Vec<BlockId>> {
        let mut ids = Vec::new();
        let last_page = last.0 / PAGE_IDS;
        let mut page = self.next_page(first.0 / PAGE_IDS)?;
        while let Some(at) = page.filter(|page| *page <= last_page) {
            let shard = self.shard(BlockId(at * PAGE_IDS)).read();
            let seen = shard.page_at(at, snapshot);
            drop(shard);
            seen.resolve(at, &mut ids)?;
            ids.retain(|id| *id >= first && *id <= last);
            if ids.len() >= count_max {
                ids.truncate(count_max);
                break;
            }
            // No page is behind that of the last id.
            page = if at < last_page { self.next_page(at + 1)? } else { None };
        }
        Ok(ids)
    }

    /// Publishes the changes of a group, ascending by LSN, and makes commits up to `visible` visible.
    /// Calls `replaced` with the old and the new version of each change.
    pub(crate) fn publish(
        &self,
        changes: impl IntoIterator<Item = Change<V>>,
        visible: Lsn,
        mut replaced: impl FnMut(Option<&V>, Option<&V>),
    ) {
        if planted(Bug::VisibleTooEarly) {
            self.pins.raise(visible);
        }
        let mut changes = changes.into_iter();
        match (changes.next(), changes.next()) {
            (Some(only), None) => self.publish_one(only, visible, &mut replaced),
            (first, second) => {
                let all = first.into_iter().chain(second).chain(changes);
                self.publish_all(all, visible, &mut replaced);
            }
        }
    }

    /// Publishes a single change. Nobody can see half of it, so the version that it replaces is kept
    /// only if somebody holds a snapshot.
    fn publish_one(
        &self,
        (id, lsn, value): Change<V>,
        visible: Lsn,
        replaced: &mut impl FnMut(Option<&V>, Option<&V>),
    ) {
        let mut shard = self.shard(id).write();
        let deleted = value.is_none();
        let old = shard.replace(id, Versioned { lsn, value: value.clone() });
        replaced(old.as_ref().map(|old| &old.value), value.as_ref());
        // Under the lock: who finds the entry finds it visible.
        self.pins.raise(visible);
        let Some(old) = old.filter(|_| self.pins.is_held()) else { return };
        let undone = self.keep(&mut shard, id, old, lsn, deleted);
        drop(shard);
        self.file(&mut self.filed.lock(), vec![undone]);
    }

    fn publish_all(
        &self,
        changes: impl Iterator<Item = Change<V>>,
        visible: Lsn,
        replaced: &mut impl FnMut(Option<&V>, Option<&V>),
    ) {
        let mut undone = Vec::new();
        for (id, lsn, value) in changes {
            let deleted = value.is_none();
            let mut shard = self.shard(id).write();
            let old = shard.replace(id, Versioned { lsn, value: value.clone() });
            replaced(old.as_ref().map(|old| &old.value), value.as_ref());
            undone.extend(old.map(|old| self.keep(&mut shard, id, old, lsn, deleted)));
        }
        if undone.is_empty() {
            self.pins.raise(visible);
            return;
        }
        let mut filed = self.filed.lock();
        self.pins.raise(visible);
        self.file(&mut filed, undone);
    }

    /// Keeps the version that a change at `until` replaced, until it is filed.
    fn keep(
        &self,
        shard: &mut Shard<V>,
        id: BlockId,
        old: Versioned<V>,
        until: Lsn,
        deleted: bool,
    ) -> Filed {
        let (from, payload_len) = (old.lsn, old.value.payload_len());
        let versions = shard.undo.entry(id).or_default();
        versions.push(Undo { from, until, value: Some(old.value) });
        self.undo_count.fetch_add(1, Ordering::SeqCst);
        Filed { id, from, until, deleted, payload_len, counted: false }
    }

    /// Puts changes in place while nobody reads: recovery. Calls `replaced` as [`Index::publish`].
    pub(crate) fn load(
        &self,
        changes: impl IntoIterator<Item = Change<V>>,
        mut replaced: impl FnMut(Option<&V>, Option<&V>),
    ) {
        for (id, lsn, value) in changes {
            let old = self.shard(id).write().replace(id, Versioned { lsn, value: value.clone() });
            replaced(old.as_ref().map(|old| &old.value), value.as_ref());
        }
    }

    /// Gives the version that commit `lsn` made of an id a new value, which means the same (a block
    /// that was moved), if it is still the newest. Calls `moved` with the old value.
    pub(crate) fn relocate(&self, id: BlockId, lsn: Lsn, value: V, moved: impl FnOnce(&V)) -> bool {
        let mut shard = self.shard(id).write();
        let newest = shard.newest(id).filter(|newest| newest.lsn == lsn);
        let Some(old) = newest.and_then(|newest| newest.value) else { return false };
        moved(&old);
        shard.pages.insert(id, Versioned { lsn, value: Some(value) });
        true
    }

    /// Whether the newest version of an id is the one that commit `lsn` made, and `holds` of it.
    pub(crate) fn is_newest(&self, id: BlockId, lsn: Lsn, holds: impl FnOnce(&V) -> bool) -> bool {
        let newest = self.shard(id).read().newest(id).filter(|newest| newest.lsn == lsn);
        newest.and_then(|newest| newest.value).is_some_and(|value| holds(&value))
    }

    /// Looks an id up in the base, so that doing so again takes no I/O.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn touch(&self, id: BlockId) -> Result<()> {
        let shard = self.shard(id).read();
        let Some(base) = shard.base.clone().filter(|_| shard.in_memory(id).is_none()) else {
            return Ok(());
        };
        drop(shard);
        base.get(id).map(|_| ())
    }

    /// Puts the entries in memory aside, for an image of the index as it is visible now. Between two
    /// publications.
    pub(crate) fn freeze(&self) {
        for shard in &self.shards {
            let mut shard = shard.write();
            assert!(shard.frozen.by_number.is_empty(), "one image is made at a time");
            shard.frozen = std::mem::take(&mut shard.pages);
        }
    }

    /// Takes a freeze back: no image was made.
    pub(crate) fn thaw(&self) {
        for shard in &self.shards {
            let mut shard = shard.write();
            for (number, page) in std::mem::take(&mut shard.frozen).by_number {
                for (slot, entry) in page.iter() {
                    let id = BlockId(number * PAGE_IDS + u64::from(slot));
                    if shard.pages.get(id).is_none() && !planted(Bug::ThawLosesCommits) {
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
        if planted(Bug::HalfInTheImage) {
            numbers.pop();
        }
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
        let shard = self.shard(BlockId(number * PAGE_IDS)).read();
        let page = shard.frozen.by_number.get(&number);
        let entry = |(slot, entry): (u32, &Newest<V>)| {
            (BlockId(number * PAGE_IDS + u64::from(slot)), entry.clone())
        };
        page.into_iter().flat_map(|page| page.iter()).map(entry).collect()
    }

    /// Puts an image below the entries in place of the frozen ones, which are in it. `base` makes a
    /// handle for each shard, so that readers of different shards share no counter.
    pub(crate) fn install(&self, base: impl Fn() -> Arc<dyn Base<V>>) {
        for shard in &self.shards {
            let mut shard = shard.write();
            shard.base = Some(base());
            let frozen = std::mem::take(&mut shard.frozen);
            if planted(Bug::ChangesMeanwhileDropped) {
                shard.pages = Default::default();
            }
            drop(shard);
            drop(frozen);
        }
    }

    /// Calls `each` for every older version that somebody can see.
    pub(crate) fn each_undo(&self, mut each: impl FnMut(&V)) {
        for shard in &self.shards {
            let shard = shard.read();
            shard
                .undo
                .values()
                .flatten()
                .filter_map(|undo| undo.value.as_ref())
                .for_each(&mut each);
        }
    }

    /// Makes loaded changes visible.
    pub(crate) fn finish_load(&self, visible: Lsn) {
        self.pins.raise(visible);
    }

    /// The oldest snapshot that somebody holds.
    pub(crate) fn oldest_pin(&self) -> Option<Lsn> {
        self.pins.held().first().copied()
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

    /// Whether more bytes than that are pinned while `oldest` is the oldest snapshot. Not while a
    /// snapshot is being released: what it alone saw is still counted then, and is nobody's fault.
    pub(crate) fn pins_more_than(&self, len: u64, oldest: Lsn) -> bool {
        let filed = self.filed.lock();
        let held = self.pins.held();
        let is_settled = filed.keys().all(|pin| held.binary_search(pin).is_ok());
        self.pinned_len() > len && held.first() == Some(&oldest) && is_settled
    }

    /// Heap bytes of entries and undo versions.
    pub(crate) fn heap_len(&self) -> u64 {
        self.entries_len() + self.undo_len()
    }

    /// Heap bytes of undo versions.
    pub(crate) fn undo_len(&self) -> u64 {
        self.undo_count() * Self::UNDO_LEN
    }

    /// Heap bytes of entries.
    pub(crate) fn entries_len(&self) -> u64 {
        // A tree node holds 11 keys and values and is about two thirds full.
        let page_len = (size_of::<u64>() + size_of::<Page<Newest<V>>>()) * 3 / 2;
        let shard_len = |shard: &Shard<V>| {
            let pages = [&shard.pages, &shard.frozen];
            pages.iter().map(|p| p.heap_len + p.by_number.len() * page_len).sum::<usize>()
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
                Some(pin) if *pin >= version.from && !planted(Bug::ReaderLosesVersion) => {
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
    fn next_page(&self, page: u64) -> Result<Option<u64>> {
        let in_memory = self.shards.iter().filter_map(|shard| shard.read().next_page(page)).min();
        // Asked last, of the shard that is the first to get a new one: what has left the others'
        // memory meanwhile is in it.
        let base = self.shards[0].read().base.clone();
        let Some(base) = base else { return Ok(in_memory) };
        let mut below = None;
        base.walk(BlockId(page * PAGE_IDS), BlockId(u64::MAX), &mut |id, _| {
            below = Some(id.0 / PAGE_IDS);
            ControlFlow::Break(())
        })?;
        Ok(in_memory.into_iter().chain(below).min())
    }

    fn shard(&self, id: BlockId) -> &RwLock<Shard<V>> {
        let page = id.0 / PAGE_IDS;
        let spread = page.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.shards[spread as usize % SHARD_COUNT]
    }
}

impl<V: VersionLen> Published for Index<V> {
    fn changed_since(&self, id: BlockId, snapshot: Lsn) -> Result<Option<Lsn>> {
        let shard = self.shard(id).read();
        let in_memory = shard.in_memory(id).map(|entry| entry.lsn);
        let undone = shard.undo.get(&id).and_then(|versions| versions.last());
        let undone = undone.map(|undo| undo.until);
        let base = shard.base.clone().filter(|base| in_memory.is_none() && base.lsn() > snapshot);
        drop(shard);
        let below = base.map_or(Ok(None), |base| base.get(id))?.map(|entry| entry.lsn);
        Ok(in_memory.max(undone).max(below).filter(|lsn| *lsn > snapshot))
    }

    fn changed_within(
        &self,
        first: BlockId,
        last: BlockId,
        snapshot: Lsn,
    ) -> Result<Option<(BlockId, Lsn)>> {
        for shard in &self.shards {
            let changed = shard.read().changed_within(first, last, snapshot);
            if changed.is_some() {
                return Ok(changed);
            }
        }
        // Asked last, as in `next_page`.
        let base = self.shards[0].read().base.clone().filter(|base| base.lsn() > snapshot);
        let mut found = None;
        if let Some(base) = base {
            base.walk(first, last, &mut |id, entry| {
                found = (entry.lsn > snapshot).then_some((id, entry.lsn));
                if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        Ok(found)
    }

    fn is_at(&self, id: BlockId, lsn: Lsn, place: u64) -> bool {
        self.is_newest(id, lsn, |version| version.place() == place)
    }

    fn exists(&self, id: BlockId) -> Result<bool> {
        let shard = self.shard(id).read();
        if let Some(entry) = shard.in_memory(id) {
            return Ok(entry.value.is_some());
        }
        let base = shard.base.clone();
        drop(shard);
        let below = base.map_or(Ok(None), |base| base.get(id))?;
        Ok(below.is_some_and(|entry| entry.value.is_some()))
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

    impl VersionLen for [std::num::NonZeroU64; 3] {
        fn payload_len(&self) -> u64 {
            0
        }
    }

    fn set(index: &Index<u32>, lsn: u64, changes: &[(u64, Option<u32>)]) {
        let changes = changes.iter().map(|(id, value)| (BlockId(*id), Lsn(lsn), *value));
        index.publish(changes, Lsn(lsn), |_, _| {});
    }

    fn value(index: &Index<u32>, id: u64, pin: &Pin) -> Option<u32> {
        index.read_at(BlockId(id), pin.lsn()).expect("no base").map(|version| version.value)
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
        let ids =
            |pin: &Pin| index.ids_at(BlockId(0), BlockId(u64::MAX), 9, pin.lsn()).expect("no base");
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
        assert_eq!(index.changed_since(BlockId(1), pin.lsn()).expect("no base"), Some(Lsn(2)));
        assert_eq!(value(&index, 1, &pin), None);
        index.unpin(pin);
        assert_eq!(index.undo_count(), 0);
        assert_eq!(index.changed_since(BlockId(1), Lsn(0)).expect("no base"), None);
    }

    #[test]
    fn ids_are_listed_in_order_across_pages_and_limits() {
        let index = Index::default();
        let ids = [1, 63, 64, 700, 1 << 40, u64::MAX];
        set(&index, 1, &ids.map(|id| (id, Some(0))));
        let some = |first, last, count_max| {
            index.ids(BlockId(first), BlockId(last), count_max).expect("no base")
        };
        assert_eq!(some(0, u64::MAX, usize::MAX), ids.map(BlockId));
        assert_eq!(some(63, 700, usize::MAX), [63, 64, 700].map(BlockId));
        assert_eq!(some(2, u64::MAX, 2), [63, 64].map(BlockId));
    }

    #[test]
    fn dense_ids_cost_at_most_forty_bytes() {
        let index = Index::default();
        set(&index, 1, &[]);
        // Three words with a niche, as the place of a block in the log has one.
        let place = [std::num::NonZeroU64::MIN; 3];
        let changes = (1..=100_000).map(|id| (BlockId(id), Lsn(2), Some(place)));
        let wide: Index<[std::num::NonZeroU64; 3]> = Index::default();
        wide.publish(changes, Lsn(2), |_, _| {});
        assert!(wide.heap_len() <= 40 * 100_000, "{} bytes", wide.heap_len());
    }

    /// An image as a map, made of what an index has frozen.
    #[derive(Debug, Default)]
    struct Map(Lsn, BTreeMap<BlockId, Newest<u32>>);

    impl Base<u32> for Map {
        fn lsn(&self) -> Lsn {
            self.0
        }

        fn get(&self, id: BlockId) -> Result<Option<Newest<u32>>> {
            Ok(self.1.get(&id).copied())
        }

        fn walk(
            &self,
            first: BlockId,
            last: BlockId,
            each: &mut dyn FnMut(BlockId, Newest<u32>) -> ControlFlow<()>,
        ) -> Result<()> {
            let mut records = self.1.range(first..=last);
            while let Some((id, record)) = records.next()
                && each(*id, *record).is_continue()
            {}
            Ok(())
        }
    }

    /// Puts everything that was ever frozen below the entries.
    fn make_image(index: &Index<u32>, image: &mut Map) {
        for page in index.frozen_pages() {
            image.1.extend(index.frozen_entries(page));
        }
        image.0 = index.visible();
        index.install(|| Arc::new(Map(image.0, image.1.clone())));
    }

    #[test]
    fn image_below_changes_nothing_that_anybody_sees() {
        let (index, mut image) = (Index::default(), Map::default());
        set(&index, 1, &[(1, Some(10)), (2, Some(20)), (70, Some(30))]);
        let first = index.pin();
        set(&index, 2, &[(1, None), (2, Some(21)), (500, Some(50))]);
        let second = index.pin();
        let see = |pin: &Pin| {
            let ids = index.ids_at(BlockId(0), BlockId(u64::MAX), 99, pin.lsn()).expect("readable");
            let seen = ids.iter().map(|id| (id.0, value(&index, id.0, pin).expect("listed")));
            seen.collect::<Vec<_>>()
        };
        let old = [(1, 10), (2, 20), (70, 30)];
        let new = [(2, 21), (70, 30), (500, 50)];
        for step in 0..6 {
            assert_eq!((see(&first), see(&second)), (old.to_vec(), new.to_vec()), "step {step}");
            assert_eq!(index.changed_since(BlockId(1), first.lsn()).expect("r"), Some(Lsn(2)));
            let within = index.changed_within(BlockId(3), BlockId(600), first.lsn()).expect("r");
            assert_eq!(within, Some((BlockId(500), Lsn(2))), "step {step}");
            assert_eq!(index.changed_since(BlockId(70), first.lsn()).expect("r"), None);
            assert!(!index.exists(BlockId(1)).expect("r") && index.exists(BlockId(70)).expect("r"));
            match step {
                0 | 3 => index.freeze(),
                1 => index.thaw(),
                4 => make_image(&index, &mut image),
                _ => {}
            }
        }
        assert_eq!(index.heap_len() > 0, index.undo_count() > 0, "entries are in the image only");
        set(&index, 3, &[(70, None), (2, Some(22))]);
        assert_eq!((see(&first), see(&second)), (old.to_vec(), new.to_vec()));
        let now = index.pin();
        assert_eq!(see(&now), [(2, 22), (500, 50)]);
        for pin in [first, second, now] {
            index.unpin(pin);
        }
        assert_eq!(index.undo_count(), 0);
    }

    #[test]
    fn relocation_keeps_the_commit_and_loses_against_a_newer_one() {
        let (index, mut image) = (Index::default(), Map::default());
        set(&index, 1, &[(1, Some(10)), (2, Some(20))]);
        index.freeze();
        make_image(&index, &mut image);
        let mut replaced = None;
        assert!(index.relocate(BlockId(1), Lsn(1), 11, |old| replaced = Some(*old)));
        assert_eq!(replaced, Some(10));
        let read = index.read(BlockId(1)).expect("r").map(|version| (version.lsn, version.value));
        assert_eq!(read, Some((Lsn(1), 11)));
        set(&index, 2, &[(2, Some(21))]);
        assert!(!index.relocate(BlockId(2), Lsn(1), 22, |_| panic!("newer")));
        assert!(index.is_newest(BlockId(2), Lsn(2), |value| *value == 21));
    }
}
