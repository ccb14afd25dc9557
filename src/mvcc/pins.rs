//! Pins: the visible LSN and the snapshots that readers hold.
//!
//! Owns the visible LSN and, for each thread slot, a multiset of pinned LSNs. Invariants:
//!
//! 1. The visible LSN only grows, and is raised by one publisher at a time.
//! 2. A pin is taken under its slot's lock together with the reading of the visible LSN. So after
//!    the publisher has raised the visible LSN to `w`, [`Pins::held_lsns`] finds every pin below
//!    `w` that was ever taken and not released: a pin that it misses reads `w` or more.
//!    [`Pins::is_held`] finds it without a lock: a slot's first holder is counted before it reads
//!    the visible LSN, and fences on both sides let one of the two see the other.
//!
//! Taking and releasing touch one lock that other threads rarely want. It guards the [`SlotList`]
//! of the thread slot, too. The index knows which versions a pin keeps.

use std::ops::Deref;

use crate::block::Lsn;
use crate::mvcc::counters::Padded;
use crate::mvcc::slot_list::SlotList;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, SLOT_COUNT, fence, thread_slot};

/// The visible LSN and the pinned ones.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    visible: Padded<AtomicU64>,
    slots: [Padded<CountedSlot>; SLOT_COUNT],
}

#[derive(Debug, Default)]
struct CountedSlot {
    /// Pins that are held; changed under the lock.
    count: AtomicU64,
    slot: Mutex<PinSlot>,
}

#[derive(Debug, Default)]
struct PinSlot {
    /// The pinned LSNs, ascending, with the number of their holders.
    held: Vec<(Lsn, u32)>,
    places: SlotList,
}

/// A slot while it is locked.
pub(crate) struct SlotGuard<'a> {
    visible: &'a AtomicU64,
    count: &'a AtomicU64,
    slot: MutexGuard<'a, PinSlot>,
}

/// One hold on a snapshot. Its owner gives it back to [`Pins::release_pin`].
#[derive(Debug)]
#[must_use = "a pin that is not released keeps old versions for ever"]
pub(crate) struct Pin {
    lsn: Lsn,
    slot: usize,
}

impl Pin {
    pub(crate) fn lsn(&self) -> Lsn {
        self.lsn
    }
}

impl Pins {
    pub(crate) fn visible_lsn(&self) -> Lsn {
        Lsn(self.visible.load(Ordering::Acquire))
    }

    /// Makes commits up to `lsn` visible. One publisher at a time.
    pub(crate) fn raise_visible(&self, lsn: Lsn) {
        assert!(lsn >= self.visible_lsn(), "the visible lsn never goes back");
        self.visible.store(lsn.0, Ordering::Release);
    }

    /// Locks a slot. A thread locks a second one in ascending order only.
    pub(crate) fn lock_slot(&self, slot: usize) -> SlotGuard<'_> {
        let CountedSlot { count, slot } = &*self.slots[slot];
        SlotGuard { visible: &self.visible, count, slot: slot.lock() }
    }

    /// Holds a snapshot of what is visible now.
    pub(crate) fn pin_visible(&self) -> Pin {
        let slot = thread_slot();
        Pin { lsn: self.lock_slot(slot).hold_visible(), slot }
    }

    /// Releases a pin; true when it was the last on its LSN in its slot.
    pub(crate) fn release_pin(&self, pin: Pin) -> bool {
        self.lock_slot(pin.slot).release_hold(pin.lsn)
    }

    /// The pinned LSNs, ascending, without repetition.
    pub(crate) fn held_lsns(&self) -> Vec<Lsn> {
        let mut lsns = Vec::new();
        fence(Ordering::SeqCst);
        for CountedSlot { count, slot } in self.slots.iter().map(Deref::deref) {
            if count.load(Ordering::Acquire) > 0 {
                lsns.extend(slot.lock().held.iter().map(|(lsn, _)| *lsn));
            }
        }
        lsns.sort_unstable();
        lsns.dedup();
        lsns
    }

    /// Whether a snapshot is held; one that is being released may still count.
    pub(crate) fn is_held(&self) -> bool {
        fence(Ordering::SeqCst);
        self.slots.iter().any(|slot| slot.count.load(Ordering::Acquire) > 0)
    }
}

impl SlotGuard<'_> {
    pub(crate) fn slot_list(&mut self) -> &mut SlotList {
        &mut self.slot.places
    }

    /// Holds a snapshot of what is visible now. The holder gives it back to this slot.
    pub(crate) fn hold_visible(&mut self) -> Lsn {
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Relaxed);
        if count == 0 {
            // Pairs with the publisher's fence. Later holders have the first one's, by way of the
            // lock.
            fence(Ordering::SeqCst);
        }
        let lsn = Lsn(self.visible.load(Ordering::Acquire));
        let held = &mut self.slot.held;
        debug_assert!(held.last().is_none_or(|(last, _)| *last <= lsn), "pins ascend in a slot");
        match held.last_mut() {
            Some((last, count)) if *last == lsn => *count += 1,
            _ => held.push((lsn, 1)),
        }
        lsn
    }

    /// Releases a hold; true when it was the last on its LSN in this slot.
    pub(crate) fn release_hold(&mut self, lsn: Lsn) -> bool {
        let held = &mut self.slot.held;
        // Most often the newest: a short transaction begins last and ends first.
        let at = match held.last() {
            Some((last, _)) if *last == lsn => held.len() - 1,
            _ => held.partition_point(|(held, _)| *held < lsn),
        };
        assert!(held.get(at).is_some_and(|(held, _)| *held == lsn), "a pin is released once");
        self.count.store(self.count.load(Ordering::Relaxed) - 1, Ordering::Release);
        debug_assert!(held[at].1 > 0, "a pin in the list has a holder");
        held[at].1 -= 1;
        let last = held[at].1 == 0;
        if last {
            held.remove(at);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_lists_each_pinned_lsn_once_until_its_last_release() {
        let pins = Pins::default();
        let first = pins.pin_visible();
        pins.raise_visible(Lsn(5));
        let (second, third) = (pins.pin_visible(), pins.pin_visible());
        assert_eq!(pins.held_lsns(), [Lsn(0), Lsn(5)]);
        assert!(pins.is_held() && !pins.release_pin(second));
        assert!(pins.release_pin(first));
        assert_eq!(pins.held_lsns(), [Lsn(5)]);
        assert!(pins.release_pin(third));
        assert!(pins.held_lsns().is_empty() && !pins.is_held());
    }
}
