//! The versions below the entries, looked up before the group that replaces them is written.
//!
//! Owns [`LookedUp`]. The publisher must know which version a change replaces, and that may be in
//! an image on the disk. A disk may fail at any time, and a group whose bytes are in the log cannot
//! be refused any more. So the image is asked first, while a failure refuses the group and nothing
//! else.
//!
//! Invariant: a looked-up version is right until the group is published. A freeze comes between two
//! groups only. An image that is installed meanwhile says what the frozen entries said, or the
//! image before it. A version that an earlier group publishes meanwhile is found among the entries,
//! which come first.

use super::{Index, Newest};
use crate::block::BlockId;
use crate::error::Result;
use crate::mvcc::version::VersionLen;
use crate::sync::Ordering;

/// The versions in frozen entries and image of a group's ids that have no entry above them.
#[derive(Debug)]
pub(crate) struct LookedUp<V> {
    /// Ascending by id.
    found: Vec<(BlockId, Newest<V>)>,
}

impl<V> LookedUp<V> {
    pub(crate) fn get(&self, id: BlockId) -> Option<&Newest<V>> {
        let at = self.found.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.found[at].1)
    }
}

impl<V> Default for LookedUp<V> {
    fn default() -> Self {
        LookedUp { found: Vec::new() }
    }
}

impl<V: VersionLen> Index<V> {
    /// Looks up below the entries the ids that a group changes or relocates. Called by the leader:
    /// no freeze may come between this and the publication.
    ///
    /// # Errors
    /// As [`Base::get`](super::Base::get).
    #[inline]
    pub(crate) fn look_up_below(&self, ids: impl Iterator<Item = BlockId>) -> Result<LookedUp<V>> {
        if self.is_layered.load(Ordering::Acquire) {
            self.look_up_all_below(ids)
        } else {
            Ok(LookedUp::default())
        }
    }

    #[inline(never)]
    fn look_up_all_below(&self, ids: impl Iterator<Item = BlockId>) -> Result<LookedUp<V>> {
        let mut below = LookedUp::default();
        for id in ids {
            let shard = self.shard_of_id(id).read();
            if shard.pages.get(id).is_some() {
                continue;
            }
            let found = match (shard.frozen.get(id), shard.base.clone()) {
                (Some(entry), _) => Some(entry.clone()),
                (None, None) => None,
                (None, Some(base)) => {
                    drop(shard);
                    base.get(id)?
                }
            };
            below.found.extend(found.map(|entry| (id, entry)));
        }
        below.found.sort_unstable_by_key(|(id, _)| *id);
        Ok(below)
    }

    /// Looks up and publishes at once, as a group that stands alone.
    #[cfg(test)]
    pub(crate) fn publish_alone(
        &self,
        changes: impl IntoIterator<Item = super::PublishedChange<V>>,
        lsn: crate::block::Lsn,
    ) {
        let changes: Vec<_> = changes.into_iter().collect();
        let below = self.look_up_below(changes.iter().map(|(id, ..)| *id)).expect("readable");
        self.publish_changes(changes, &below, lsn, |_, _| {});
    }
}
