//! Loading: puts the log into the index, batch by batch, while no thread reads.
//!
//! Owns [`IdChange`], the effect of one log entry on an id. A batch of them takes effect as if each
//! had done so in its turn:
//!
//! 1. The batch is sorted by id. Steps of the same id stay in the order of the log; those of
//!    different ids are independent.
//! 2. The batch is cut into parts of about [`PART_COUNT`] steps, between two pages of the index.
//!    Several threads load parts of a long batch. Their tallies come back in the order of the ids.
//! 3. A part looks up in the base, ascending, the ids that are not in memory
//!    ([`Base::get_all`](super::Base::get_all)). So each page of an image is read and verified once
//!    a batch, not once an entry.
//! 4. Then its steps run id by id, under the lock of a shard for a page at a time, and their result
//!    is put in place.
//!
//! Invariant: nothing is looked up in a base under a lock.

use rayon::prelude::*;

use super::{Index, Newest};
use crate::block::{BlockId, Lsn};
use crate::error::Result;
use crate::mvcc::page::PAGE_IDS;
use crate::mvcc::version::VersionLen;
use crate::thread_pool::shared_pool;

/// Steps that one thread loads at a time, about.
const PART_COUNT: usize = 2048;

/// The effect of one log entry on an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdChange<V> {
    pub(crate) id: BlockId,
    /// The commit that made the version; for a relocation, the commit that made the relocated
    /// version.
    pub(crate) lsn: Lsn,
    pub(crate) deed: Deed<V>,
}

/// The kind of effect on an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed<V> {
    Write(V),
    Delete,
    /// A new value with the same meaning, for the version that the commit made, if it is still the
    /// newest.
    Move(V),
}

impl<V> IdChange<V> {
    fn page_number(&self) -> u64 {
        self.id.0 / PAGE_IDS
    }
}

impl<V: VersionLen> Index<V> {
    /// Loads a batch, by several threads where it may `spread`. Each thread has `count` add to a
    /// tally of its own the old and the new version of each change.
    ///
    /// # Errors
    /// As [`Base::get_all`](super::Base::get_all); some of the batch is in place then, and none of
    /// it is counted.
    pub(crate) fn load_batch<T: Default + Send>(
        &self,
        steps: &[IdChange<V>],
        spread: bool,
        count: impl Fn(&mut T, Option<&V>, Option<&V>) + Sync,
    ) -> Result<Vec<T>> {
        assert!(u32::try_from(steps.len()).is_ok(), "a batch is short");
        // Short keys are sorted: id, then place in the batch.
        let key = |(at, step): (usize, &IdChange<V>)| u128::from(step.id.0) << 32 | at as u128;
        let mut keys: Vec<u128> = steps.iter().enumerate().map(key).collect();
        let load = |part: &[u128]| {
            let steps: Vec<_> =
                part.iter().map(|key| steps[*key as u32 as usize].clone()).collect();
            self.load_part(&steps, &count)
        };
        if spread
            && keys.len() > PART_COUNT
            && let Some(helpers) = shared_pool()
        {
            let tallies: Vec<_> = helpers.install(|| {
                keys.par_sort_unstable();
                cut_between_pages(&keys).into_par_iter().map(load).collect()
            });
            return tallies.into_iter().collect();
        }
        keys.sort_unstable();
        cut_between_pages(&keys).into_iter().map(load).collect()
    }

    fn load_part<T: Default>(
        &self,
        steps: &[IdChange<V>],
        count: &impl Fn(&mut T, Option<&V>, Option<&V>),
    ) -> Result<T> {
        debug_assert!(steps.is_sorted_by_key(|step| step.id), "a part is in the order of ids");
        let mut tally = T::default();
        let mut below = self.look_up_base(steps)?.into_iter();
        for steps in steps.chunk_by(|a, b| a.page_number() == b.page_number()) {
            let mut shard = self.shard_of_id(steps[0].id).write();
            shard.load_page(steps[0].page_number(), |page| {
                let each =
                    steps.chunk_by(|a, b| a.id == b.id).map(|steps| slot_in_page(steps[0].id));
                page.reserve_entries(each.filter(|slot| page.get(*slot).is_none()).count());
                for steps in steps.chunk_by(|a, b| a.id == b.id) {
                    let slot = slot_in_page(steps[0].id);
                    let old = match page.get(slot) {
                        Some(entry) => Some(entry.clone()),
                        None => below.next().flatten(),
                    };
                    if let Some(new) =
                        apply_steps_of_id(steps, old, |old, new| count(&mut tally, old, new))
                    {
                        page.insert(slot, new);
                    }
                }
            });
        }
        Ok(tally)
    }

    /// The base's version of each id that is not in memory.
    fn look_up_base(&self, steps: &[IdChange<V>]) -> Result<Vec<Option<Newest<V>>>> {
        let Some(base) = self.shards[0].read().base.clone() else { return Ok(Vec::new()) };
        let mut ids = Vec::with_capacity(steps.len());
        for steps in steps.chunk_by(|a, b| a.page_number() == b.page_number()) {
            let shard = self.shard_of_id(steps[0].id).read();
            let page = shard.pages.by_number.get(&steps[0].page_number());
            let is_known =
                |id: &BlockId| page.is_some_and(|page| page.get(slot_in_page(*id)).is_some());
            let each = steps.chunk_by(|a, b| a.id == b.id).map(|steps| steps[0].id);
            ids.extend(each.filter(|id| !is_known(id)));
        }
        let found = base.get_all(&ids)?;
        assert!(found.len() == ids.len(), "a base answers for each id");
        Ok(found)
    }
}

fn slot_in_page(id: BlockId) -> u32 {
    (id.0 % PAGE_IDS) as u32
}

/// Cuts sorted keys between pages.
fn cut_between_pages(keys: &[u128]) -> Vec<&[u128]> {
    let page = |key: &u128| (key >> 32) as u64 / PAGE_IDS;
    let mut parts = Vec::with_capacity(keys.len() / PART_COUNT + 1);
    let mut rest = keys;
    while let Some(last) = rest.get(..PART_COUNT.min(rest.len())).and_then(<[_]>::last) {
        let (part, behind) = rest.split_at(rest.partition_point(|key| page(key) <= page(last)));
        parts.push(part);
        rest = behind;
    }
    debug_assert!(rest.is_empty(), "each key is in a part");
    parts
}

/// The result of the steps of one id; `None` where they change nothing.
fn apply_steps_of_id<V: Clone>(
    steps: &[IdChange<V>],
    old: Option<Newest<V>>,
    mut count: impl FnMut(Option<&V>, Option<&V>),
) -> Option<Newest<V>> {
    debug_assert!(steps.iter().all(|step| step.id == steps[0].id), "the steps are of one id");
    let (mut newest, mut changed) = (old, false);
    for step in steps {
        let old = newest.as_ref().and_then(|newest| newest.value.as_ref());
        let new = match &step.deed {
            Deed::Write(value) => Some(value),
            Deed::Delete => None,
            Deed::Move(value) => {
                let is_there = old.is_some() && newest.as_ref().is_some_and(|n| n.lsn == step.lsn);
                if !is_there {
                    continue;
                }
                Some(value)
            }
        };
        count(old, new);
        (newest, changed) = (Some(Newest { lsn: step.lsn, value: new.cloned() }), true);
    }
    newest.filter(|_| changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_batch_share_no_page() {
        // More steps of one id than a part takes, and borders in the middle of a page.
        let steps = |id: u64| if id == 500 { 3 * PART_COUNT as u64 } else { 1 + id % 3 };
        let ids = (0..5000).flat_map(|id| (0..steps(id)).map(move |_| id));
        let keys: Vec<u128> =
            ids.enumerate().map(|(at, id)| u128::from(id) << 32 | at as u128).collect();
        let parts = cut_between_pages(&keys);
        assert!(parts.len() > 4 && parts.concat() == keys);
        let page = |key: Option<&u128>| key.map(|key| (key >> 32) as u64 / PAGE_IDS);
        assert!(parts.windows(2).all(|pair| page(pair[0].last()) < page(pair[1].first())));
    }
}
