//! Pins: the visible LSN and the snapshots that readers hold.
//!
//! Owns the visible LSN and, for each slot of threads, a multiset of pinned LSNs. Invariants:
//!
//! 1. The visible LSN only grows, and is raised by one publisher at a time.
//! 2. A pin is taken under its slot's lock together with the reading of the visible LSN. So after the
//!    publisher has raised the visible LSN to `w`, [`Pins::held`] finds every pin below `w` that was
//!    ever taken and not released: a pin that it misses reads `w` or more. So does [`Pins::is_held`],
//!    which takes no lock: a slot's first holder is counted before it reads the visible LSN, and fences
//!    on both sides let one of the two see the other.
//!
//! Taking and releasing touch one lock that other threads rarely want. It guards the [`SlotList`] of the
//! slot's transactions, too. Does not know what versions a pin keeps: the index asks.

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

/// One hold on a snapshot. Whoever has it gives it back to [`Pins::release`].
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
    pub(crate) fn visible(&self) -> Lsn {
        Lsn(self.visible.load(Ordering::Acquire))
    }

    /// Makes commits up to `lsn` visible. One publisher at a time.
    pub(crate) fn raise(&self, lsn: Lsn) {
        assert!(lsn >= self.visible(), "the visible lsn never goes back");
        self.visible.store(lsn.0, Ordering::Release);
    }

    /// Locks a slot. Nobody locks a second one but in ascending order.
    pub(crate) fn lock(&self, slot: usize) -> SlotGuard<'_> {
        let CountedSlot { count, slot } = &*self.slots[slot];
        SlotGuard { visible: &self.visible, count, slot: slot.lock() }
    }

    /// Holds a snapshot of what is visible now.
    pub(crate) fn take(&self) -> Pin {
        let slot = thread_slot();
        Pin { lsn: self.lock(slot).take(), slot }
    }

    /// Releases a pin; true when it was the last on its LSN in its slot.
    pub(crate) fn release(&self, pin: Pin) -> bool {
        self.lock(pin.slot).release(pin.lsn)
    }

    /// The pinned LSNs, ascending, without repetition.
    pub(crate) fn held(&self) -> Vec<Lsn> {
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

    /// Whether anybody holds a snapshot; one that is being released may still count.
    pub(crate) fn is_held(&self) -> bool {
        fence(Ordering::SeqCst);
        self.slots.iter().any(|slot| slot.count.load(Ordering::Acquire) > 0)
    }
}

impl SlotGuard<'_> {
    pub(crate) fn slots(&mut self) -> &mut SlotList {
        &mut self.slot.places
    }

    /// Holds a snapshot of what is visible now. Whoever has it gives it back to this slot.
    pub(crate) fn take(&mut self) -> Lsn {
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Relaxed);
        if count == 0 {
            // With the one of a publisher. Later holders have the first one's, by way of the lock.
            fence(Ordering::SeqCst);
        }
        let lsn = Lsn(self.visible.load(Ordering::Acquire));
        match self.slot.held.last_mut() {
            Some((last, count)) if *last == lsn => *count += 1,
            _ => self.slot.held.push((lsn, 1)),
        }
        lsn
    }

    /// Releases a hold; true when it was the last on its LSN in this slot.
    pub(crate) fn release(&mut self, lsn: Lsn) -> bool {
        let held = &mut self.slot.held;
        // Most often the newest: who begins last ends first.
        let at = match held.last() {
            Some((last, _)) if *last == lsn => held.len() - 1,
            _ => held.partition_point(|(held, _)| *held < lsn),
        };
        assert!(held.get(at).is_some_and(|(held, _)| *held == lsn), "a pin is released once");
        self.count.store(self.count.load(Ordering::Relaxed) - 1, Ordering::Release);
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
        let first = pins.take();
        pins.raise(Lsn(5));
        let (second, third) = (pins.take(), pins.take());
        assert_eq!(pins.held(), [Lsn(0), Lsn(5)]);
        assert!(pins.is_held() && !pins.release(second));
        assert!(pins.release(first));
        assert_eq!(pins.held(), [Lsn(5)]);
        assert!(pins.release(third));
        assert!(pins.held().is_empty() && !pins.is_held());
    }
}
