//! Undo versions: replaced versions, kept while a snapshot sees them.
//!
//! Owns step 3 of a publication (see [`index`](super)): which undo versions are kept, under which
//! pin they are filed, and their cost. Invariants:
//!
//! - a filed version is under the newest pin that can see it, and is dropped with the last such
//!   pin;
//! - a deletion leaves a marker until no pin is older than it, so that a conflict check finds the
//!   deletion of a block that was created after the snapshot.

use std::collections::BTreeMap;

use super::{Index, Versioned};
use crate::block::{BlockId, Lsn};
use crate::mvcc::shard::{Filed, Shard, Undo};
use crate::mvcc::version::VersionLen;
use crate::sync::Ordering;

impl<V: VersionLen> Index<V> {
    /// Bytes that keeping one older version takes in the index.
    const UNDO_LEN: u64 = (size_of::<BlockId>()
        + size_of::<Vec<Undo<V>>>()
        + size_of::<Undo<V>>()
        + size_of::<Filed>()
        + 1) as u64;

    /// Drops the versions that only a released snapshot could see. `was_last` says that its thread
    /// slot holds it no more.
    pub(crate) fn drop_undo_of_released(&self, lsn: Lsn, was_last: bool) {
        if !was_last || self.undo_count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut filed = self.filed.lock();
        if let Some(orphans) = filed.remove(&lsn) {
            self.file_undo_versions(&mut filed, orphans);
        }
    }

    /// Keeps the version that a change at `until` replaced, until it is filed.
    pub(super) fn keep_undo_version(
        &self,
        shard: &mut Shard<V>,
        id: BlockId,
        old: Versioned<V>,
        until: Lsn,
        deleted: bool,
    ) -> Filed {
        debug_assert!(old.lsn < until, "a version is replaced by a later commit");
        let (from, payload_len) = (old.lsn, old.value.payload_len());
        let versions = shard.undo.entry(id).or_default();
        versions.push(Undo { from, until, value: Some(old.value) });
        self.undo_count.fetch_add(1, Ordering::SeqCst);
        Filed { id, from, until, deleted, payload_len, counted: false }
    }

    /// Files undo versions under the newest pin that sees them, or drops them.
    pub(super) fn file_undo_versions(
        &self,
        filed: &mut BTreeMap<Lsn, Vec<Filed>>,
        versions: Vec<Filed>,
    ) {
        let held = self.pins.held_lsns();
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
                // No snapshot sees the value, but an older pin must still find the deletion.
                Some(pin) if version.deleted => {
                    self.shard_of_id(version.id).write().drop_undo_value(version);
                    version.payload_len = 0;
                    added += Self::UNDO_LEN;
                    filed.entry(*pin).or_default().push(version);
                }
                _ => {
                    self.shard_of_id(version.id).write().remove_undo_version(version);
                    let before = self.undo_count.fetch_sub(1, Ordering::SeqCst);
                    debug_assert!(before > 0, "an undo version counts until it is dropped");
                }
            }
        }
        // Stored in one step, so that no reader sees too much. It changes only here, under the lock
        // of `filed`.
        let counted = self.pinned_len() + added;
        debug_assert!(removed <= counted, "a filed version is counted");
        let pinned = counted - removed;
        self.pinned_len.store(pinned, Ordering::SeqCst);
    }

    /// Calls `each` for every older version that is kept.
    pub(crate) fn for_each_undo(&self, mut each: impl FnMut(&V)) {
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

    /// The older version of a block that is kept and lies at a place.
    pub(crate) fn undo_version_at_place(&self, id: BlockId, place: u64) -> Option<Versioned<V>> {
        let shard = self.shard_of_id(id).read();
        let mut kept = shard.undo.get(&id)?.iter();
        let found = kept.find(|undo| undo.value.as_ref().is_some_and(|v| v.place() == place))?;
        found.value.clone().map(|value| Versioned { lsn: found.from, value })
    }

    /// Gives the older version of a block at a place a new value with the same meaning. False when
    /// that version is not kept any more.
    pub(crate) fn relocate_undo_version(&self, id: BlockId, place: u64, value: V) -> bool {
        let mut shard = self.shard_of_id(id).write();
        let mut kept = shard.undo.get_mut(&id).into_iter().flatten();
        let found = kept.find(|undo| undo.value.as_ref().is_some_and(|v| v.place() == place));
        let Some(undo) = found else { return false };
        undo.value = Some(value);
        true
    }

    /// Undo versions that are kept now.
    pub(crate) fn undo_count(&self) -> u64 {
        self.undo_count.load(Ordering::SeqCst)
    }

    /// Heap bytes of undo versions.
    pub(crate) fn undo_len(&self) -> u64 {
        self.undo_count() * Self::UNDO_LEN
    }

    /// Bytes that keeping them costs, payloads included. Versions of a publication under way do not
    /// count before it is known which pins see them.
    pub(crate) fn pinned_len(&self) -> u64 {
        self.pinned_len.load(Ordering::SeqCst)
    }

    /// Whether more bytes than that are pinned while `oldest` is the oldest snapshot. False while a
    /// snapshot is being released: the versions that it alone saw are still counted then.
    pub(crate) fn pins_more_than(&self, len: u64, oldest: Lsn) -> bool {
        let filed = self.filed.lock();
        let held = self.pins.held_lsns();
        let is_settled = filed.keys().all(|pin| held.binary_search(pin).is_ok());
        self.pinned_len() > len && held.first() == Some(&oldest) && is_settled
    }
}
