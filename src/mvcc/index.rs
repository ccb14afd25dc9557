//! The index: `BlockId` to its newest published version, and older versions while a snapshot sees
//! them.
//!
//! Owns the sharded pages, the undo versions and the visible LSN ([`Pins`]). One publisher at a
//! time calls [`Index::publish_changes`]; any number of threads read.
//!
//! A group of several changes is published in three steps, so that no reader sees half of it:
//!
//! 1. Each operation replaces its entry; the version it replaces becomes an *undo version* `[from,
//!    until)` of its id. Readers that find an entry above the visible LSN use the undo version.
//! 2. The visible LSN is raised. From here on every reader sees the whole group.
//! 3. Each undo version that a held pin can see is filed under the newest such pin; the others are
//!    dropped. When a pin's last holder goes, its file is handed to the next older pin that can see
//!    the version, or the version is dropped (the dead lists of ZFS). So a snapshot costs one
//!    version for each block that changed since, however often it changed.
//!
//! A single change has no halves. It raises the visible LSN under the lock of its shard, and keeps
//! the version that it replaces only if a pin is held then ([`Pins::is_held`]).
//!
//! **Below the entries** there may be a [`Base`]: an image of the index at an earlier LSN (`base`).
//! The parts: `undo` keeps undo versions and counts their cost, `load` puts a log in, `scan` walks
//! the ids of a range, `gap` finds free ones.
//!
//! Lock order: `filed`, then the pins' slots, then a shard. No I/O under any of them: the publisher
//! looks up what it needs of a base before its group is written (`looked_up`).

mod base;
mod gap;
mod load;
mod looked_up;
mod scan;
mod undo;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

pub(crate) use base::Base;
pub(crate) use load::{Deed, IdChange};
pub(crate) use looked_up::LookedUp;

use crate::block::{BlockId, Lsn};
use crate::error::Result;
use crate::mvcc::counters::Padded;
use crate::mvcc::page::{IndexPage, PAGE_IDS};
use crate::mvcc::pins::{Pin, Pins};
use crate::mvcc::shard::{Filed, Shard};
use crate::mvcc::unpublished::Published;
use crate::mvcc::version::VersionLen;
use crate::order::ScanOrder;
use crate::sync::{AtomicBool, AtomicU64, Mutex, RwLock};

const SHARD_COUNT: usize = 64;

/// A version and the commit that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versioned<V> {
    pub(crate) lsn: Lsn,
    pub(crate) value: V,
}

/// A change to publish: `None` deletes.
pub(crate) type PublishedChange<V> = (BlockId, Lsn, Option<V>);

/// The newest version of an id, or its deletion.
pub(crate) type Newest<V> = Versioned<Option<V>>;

/// The index of one store.
#[derive(Debug)]
pub(crate) struct Index<V> {
    pins: Arc<Pins>,
    shards: Box<[Padded<RwLock<Shard<V>>>]>,
    filed: Mutex<BTreeMap<Lsn, Vec<Filed>>>,
    undo_count: AtomicU64,
    /// Bytes that the filed undo versions cost.
    pinned_len: AtomicU64,
    /// Set for good by the first freeze or image: before that, the entries are everything.
    is_layered: AtomicBool,
}

impl<V: VersionLen> Default for Index<V> {
    fn default() -> Self {
        Index {
            pins: Arc::default(),
            shards: (0..SHARD_COUNT).map(|_| Padded(RwLock::new(Shard::default()))).collect(),
            filed: Mutex::default(),
            undo_count: AtomicU64::new(0),
            pinned_len: AtomicU64::new(0),
            is_layered: AtomicBool::new(false),
        }
    }
}

impl<V: VersionLen> Index<V> {
    /// The newest commit that readers see.
    pub(crate) fn visible_lsn(&self) -> Lsn {
        self.pins.visible_lsn()
    }

    /// The visible LSN and the snapshots that are held.
    pub(crate) fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// Holds a snapshot of what is visible now.
    pub(crate) fn pin_snapshot(&self) -> Pin {
        self.pins.pin_visible()
    }

    /// Gives a snapshot back and drops the versions that only it could see.
    pub(crate) fn unpin_snapshot(&self, pin: Pin) {
        let lsn = pin.lsn();
        let was_last = self.pins.release_pin(pin);
        self.drop_undo_of_released(lsn, was_last);
    }

    /// The newest visible version.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn read_newest(&self, id: BlockId) -> Result<Option<Versioned<V>>> {
        let shard = self.shard_of_id(id).read();
        // Read under the lock: step 3 of a publication cannot pass this reader (see the module
        // header).
        let seen = shard.version_at_snapshot(id, self.pins.visible_lsn());
        drop(shard);
        seen.resolve_version(id)
    }

    /// The version that a pinned snapshot sees.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn read_at_snapshot(
        &self,
        id: BlockId,
        snapshot: Lsn,
    ) -> Result<Option<Versioned<V>>> {
        let seen = self.shard_of_id(id).read().version_at_snapshot(id, snapshot);
        seen.resolve_version(id)
    }

    /// Publishes the changes of a group, ascending by LSN, and makes commits up to `visible`
    /// visible. `below` is the result of [`Index::look_up_below`] for their ids, from before the
    /// group was written. Calls `replaced` with the old and the new version of each change. Cannot
    /// fail: the group may be durable already.
    #[inline]
    pub(crate) fn publish_changes(
        &self,
        changes: impl IntoIterator<Item = PublishedChange<V>>,
        below: &LookedUp<V>,
        visible: Lsn,
        mut replaced: impl FnMut(Option<&V>, Option<&V>),
    ) {
        let mut changes = changes.into_iter();
        match (changes.next(), changes.next()) {
            (Some(only), None) => self.publish_single_change(only, below, visible, &mut replaced),
            (first, second) => {
                let all = first.into_iter().chain(second).chain(changes);
                self.publish_several_changes(all, below, visible, &mut replaced);
            }
        }
    }

    /// Publishes a single change. No reader can see half of it, so the version that it replaces is
    /// kept only if a snapshot is held.
    #[inline]
    fn publish_single_change(
        &self,
        (id, lsn, value): PublishedChange<V>,
        below: &LookedUp<V>,
        visible: Lsn,
        replaced: &mut impl FnMut(Option<&V>, Option<&V>),
    ) {
        let mut shard = self.shard_of_id(id).write();
        let deleted = value.is_none();
        let old = shard.replace_entry(id, Versioned { lsn, value: value.clone() }, below);
        replaced(old.as_ref().map(|old| &old.value), value.as_ref());
        debug_assert!(lsn <= visible, "a published change becomes visible");
        // Under the lock: a reader that finds the entry finds it visible.
        self.pins.raise_visible(visible);
        let Some(old) = old.filter(|_| self.pins.is_held()) else { return };
        let undone = self.keep_undo_version(&mut shard, id, old, lsn, deleted);
        drop(shard);
        self.file_undo_versions(&mut self.filed.lock(), vec![undone]);
    }

    fn publish_several_changes(
        &self,
        changes: impl Iterator<Item = PublishedChange<V>>,
        below: &LookedUp<V>,
        visible: Lsn,
        replaced: &mut impl FnMut(Option<&V>, Option<&V>),
    ) {
        let mut undone = Vec::new();
        for (id, lsn, value) in changes {
            debug_assert!(lsn <= visible, "a published change becomes visible");
            let deleted = value.is_none();
            let mut shard = self.shard_of_id(id).write();
            let old = shard.replace_entry(id, Versioned { lsn, value: value.clone() }, below);
            replaced(old.as_ref().map(|old| &old.value), value.as_ref());
            undone.extend(old.map(|old| self.keep_undo_version(&mut shard, id, old, lsn, deleted)));
        }
        if undone.is_empty() {
            self.pins.raise_visible(visible);
            return;
        }
        let mut filed = self.filed.lock();
        self.pins.raise_visible(visible);
        self.file_undo_versions(&mut filed, undone);
    }

    /// Gives the version that commit `lsn` made of an id a new value with the same meaning (a
    /// relocated block), if it is still the newest. `below` as for [`Index::publish_changes`].
    /// Calls `moved` with the old value.
    pub(crate) fn relocate_newest(
        &self,
        (id, lsn, value): (BlockId, Lsn, V),
        below: &LookedUp<V>,
        moved: impl FnOnce(&V),
    ) -> bool {
        let mut shard = self.shard_of_id(id).write();
        let newest = shard.newest_or_looked_up(id, below).filter(|newest| newest.lsn == lsn);
        let Some(old) = newest.and_then(|newest| newest.value) else { return false };
        debug_assert!(lsn <= self.pins.visible_lsn(), "only a published version is relocated");
        moved(&old);
        shard.pages.insert(id, Versioned { lsn, value: Some(value) });
        true
    }

    /// Whether the newest version of an id is the one that commit `lsn` made, and `holds` of it.
    ///
    /// # Errors
    /// As [`Base::get`].
    pub(crate) fn is_newest_version(
        &self,
        id: BlockId,
        lsn: Lsn,
        holds: impl FnOnce(&V) -> bool,
    ) -> Result<bool> {
        let newest = self.newest_version(id)?.filter(|newest| newest.lsn == lsn);
        Ok(newest.and_then(|newest| newest.value).is_some_and(|value| holds(&value)))
    }

    /// The newest version or deletion of an id, visible or not. A base is asked without a lock.
    fn newest_version(&self, id: BlockId) -> Result<Option<Newest<V>>> {
        let shard = self.shard_of_id(id).read();
        if let Some(entry) = shard.newest_in_memory(id) {
            return Ok(Some(entry.clone()));
        }
        let base = shard.base.clone();
        drop(shard);
        base.map_or(Ok(None), |base| base.get(id))
    }

    /// Makes loaded changes visible.
    pub(crate) fn make_loaded_visible(&self, visible: Lsn) {
        self.pins.raise_visible(visible);
    }

    /// The oldest snapshot that is held.
    pub(crate) fn oldest_pin(&self) -> Option<Lsn> {
        self.pins.held_lsns().first().copied()
    }

    /// Heap bytes of entries and undo versions.
    pub(crate) fn heap_len(&self) -> u64 {
        self.entries_len() + self.undo_len()
    }

    /// Heap bytes of entries.
    pub(crate) fn entries_len(&self) -> u64 {
        // A tree node holds 11 keys and values and is about two thirds full.
        let page_len = (size_of::<u64>() + size_of::<IndexPage<Newest<V>>>()) * 3 / 2;
        let shard_len = |shard: &Shard<V>| {
            let pages = [&shard.pages, &shard.frozen];
            pages.iter().map(|p| p.heap_len + p.by_number.len() * page_len).sum::<usize>()
        };
        self.shards.iter().map(|shard| shard_len(&shard.read()) as u64).sum()
    }

    fn shard_of_id(&self, id: BlockId) -> &RwLock<Shard<V>> {
        let page = id.0 / PAGE_IDS;
        let spread = page.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.shards[spread as usize % SHARD_COUNT]
    }
}

impl<V: VersionLen> Published for Index<V> {
    fn changed_since(&self, id: BlockId, snapshot: Lsn) -> Result<Option<Lsn>> {
        let shard = self.shard_of_id(id).read();
        let in_memory = shard.newest_in_memory(id).map(|entry| entry.lsn);
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
        // Asked last, of the shard that gets a new base first: entries that left the memory of the
        // others meanwhile are in it.
        let base = self.shards[0].read().base.clone().filter(|base| base.lsn() > snapshot);
        let mut found = None;
        if let Some(base) = base {
            base.walk(first, last, ScanOrder::Ascending, &mut |id, entry| {
                found = (entry.lsn > snapshot).then_some((id, entry.lsn));
                if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        Ok(found)
    }

    fn is_newest_at_place(&self, id: BlockId, lsn: Lsn, place: u64) -> Result<bool> {
        self.is_newest_version(id, lsn, |version| version.place() == place)
    }

    fn is_undo_at_place(&self, id: BlockId, lsn: Lsn, place: u64) -> bool {
        self.undo_version_at_place(id, place).is_some_and(|version| version.lsn == lsn)
    }

    fn exists(&self, id: BlockId) -> Result<bool> {
        let shard = self.shard_of_id(id).read();
        if let Some(entry) = shard.newest_in_memory(id) {
            return Ok(entry.value.is_some());
        }
        let base = shard.base.clone();
        drop(shard);
        let below = base.map_or(Ok(None), |base| base.get(id))?;
        Ok(below.is_some_and(|entry| entry.value.is_some()))
    }
}

#[cfg(test)]
mod tests;
