//! Pages: up to 64 neighbouring ids, a bitmap of those present and a packed array of their entries.
//!
//! Owns the packing. Invariant: `entries.len() == present.count_ones()`, in id order. A dense page
//! costs a few bytes on top of its entries; a page with one id costs one entry and its vector.

/// Ids per page.
pub(crate) const PAGE_IDS: u64 = 64;

/// The entries of ids `64 * n .. 64 * (n + 1)`.
#[derive(Debug)]
pub(crate) struct IndexPage<E> {
    present: u64,
    entries: Vec<E>,
}

impl<E> Default for IndexPage<E> {
    fn default() -> Self {
        IndexPage { present: 0, entries: Vec::new() }
    }
}

impl<E> IndexPage<E> {
    pub(crate) fn get(&self, slot: u32) -> Option<&E> {
        let rank = self.rank_of_slot(slot);
        if self.present & (1 << slot) == 0 { None } else { self.entries.get(rank) }
    }

    /// Puts an entry in its slot and returns the one it replaces.
    pub(crate) fn insert(&mut self, slot: u32, entry: E) -> Option<E> {
        let rank = self.rank_of_slot(slot);
        if self.present & (1 << slot) != 0 {
            return Some(std::mem::replace(&mut self.entries[rank], entry));
        }
        self.present |= 1 << slot;
        self.entries.insert(rank, entry);
        debug_assert!(self.is_packed());
        None
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<E> {
        if self.present & (1 << slot) == 0 {
            return None;
        }
        let entry = self.entries.remove(self.rank_of_slot(slot));
        self.present &= !(1 << slot);
        debug_assert!(self.is_packed());
        if self.entries.capacity() > 2 * self.entries.len() + 4 {
            self.entries.shrink_to_fit();
        }
        Some(entry)
    }

    /// Reserves memory for exactly so many more entries.
    pub(crate) fn reserve_entries(&mut self, count: usize) {
        debug_assert!(count as u64 <= PAGE_IDS, "a page has an entry an id");
        self.entries.reserve_exact(count);
    }

    /// Keeps the entries of which `keep` holds.
    pub(crate) fn retain_entries(&mut self, keep: impl Fn(&E) -> bool) {
        let gone = self.iter().filter(|(_, entry)| !keep(entry));
        let gone: Vec<u32> = gone.map(|(slot, _)| slot).collect();
        for slot in gone {
            self.remove(slot);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// Walks the entries in slot order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &E)> {
        let mut left = self.present;
        self.entries.iter().map(move |entry| {
            let slot = left.trailing_zeros();
            left &= left - 1;
            (slot, entry)
        })
    }

    /// Bytes this page has on the heap.
    pub(crate) fn heap_len(&self) -> usize {
        self.entries.capacity() * size_of::<E>()
    }

    /// The invariant of the header.
    fn is_packed(&self) -> bool {
        self.entries.len() == self.present.count_ones() as usize
    }

    fn rank_of_slot(&self, slot: u32) -> usize {
        debug_assert!(u64::from(slot) < PAGE_IDS);
        (self.present & ((1 << slot) - 1)).count_ones() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn page_behaves_like_a_map_under_every_slot_order() {
        // A fixed multiplicative walk visits all slots in an order that is neither up nor down.
        let order: Vec<u32> = (0..64).map(|n| n * 37 % 64).collect();
        let (mut page, mut model) = (IndexPage::default(), BTreeMap::new());
        for &slot in &order {
            assert_eq!(page.insert(slot, slot), model.insert(slot, slot));
            assert_eq!(page.insert(slot, slot + 100), model.insert(slot, slot + 100));
        }
        for &slot in order.iter().rev().step_by(2) {
            assert_eq!(page.remove(slot), model.remove(&slot));
            assert_eq!(page.remove(slot), None);
            assert!(page.iter().map(|(s, e)| (s, *e)).eq(model.iter().map(|(s, e)| (*s, *e))));
            assert!((0..64).all(|s| page.get(s) == model.get(&s)));
        }
    }
}
