//! State words: a transaction's id and phase, in 64 bits.
//!
//! Owns [`Word`], [`Phase`] and the layout of an id, which names where the transaction is:
//!
//! | bits | meaning                                    |
//! |-----:|--------------------------------------------|
//! |    4 | slot of threads                            |
//! |   22 | place in it                                |
//! |   35 | serial number of the place's transactions  |
//!
//! Serial numbers start at 1 and never repeat: a place that has used up its own is not used again.
//! The transaction slot ([`entry`](super::entry)) changes the phase.

use crate::block::TransactionId;
use crate::error::TransactionState;
use crate::sync::SLOT_COUNT;

const SLOT_BITS: u32 = 4;
pub(crate) const PLACE_BITS: u32 = 22;
const PHASE_BITS: u32 = 3;
const SERIAL_MAX: u64 = (1 << (64 - PHASE_BITS - PLACE_BITS - SLOT_BITS)) - 1;

const _: () = assert!(SLOT_COUNT <= 1 << SLOT_BITS);

/// The phase of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Active,
    Committing,
    /// Over a limit; a thread may be working in it.
    GivenUp,
    /// Over a limit; its pin and operations are gone.
    Unpinned,
    Committed,
    RolledBack,
}

/// A transaction's id and phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    pub(crate) fn new(id: u64, phase: Phase) -> Word {
        debug_assert!(Word::can_hold(id), "no bit of an id is lost");
        Word(id << PHASE_BITS | phase as u64)
    }

    /// Whether a number can be an id: a caller may have made it up.
    pub(crate) fn can_hold(id: u64) -> bool {
        id.leading_zeros() >= PHASE_BITS
    }

    pub(crate) fn from_bits(bits: u64) -> Word {
        Word(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// The word of the next transaction in this place. Bits of 0 come before the first one.
    pub(crate) fn next_in_place(self, slot: usize, place: u32) -> Word {
        let serial = (self.id() >> (PLACE_BITS + SLOT_BITS)) + 1;
        debug_assert!(slot < SLOT_COUNT, "a slot fits in its bits");
        debug_assert!(place >> PLACE_BITS == 0, "a place fits in its bits");
        assert!(serial <= SERIAL_MAX, "a place that is used up is not given out");
        let id = (serial << PLACE_BITS | u64::from(place)) << SLOT_BITS | slot as u64;
        Word::new(id, Phase::Active)
    }

    /// Whether another transaction can follow in this one's place.
    pub(crate) fn has_next_serial(self) -> bool {
        self.id() >> (PLACE_BITS + SLOT_BITS) < SERIAL_MAX
    }

    pub(crate) fn id(self) -> u64 {
        self.0 >> PHASE_BITS
    }

    pub(crate) fn phase(self) -> Phase {
        const PHASES: [Phase; 6] = [
            Phase::Active,
            Phase::Committing,
            Phase::GivenUp,
            Phase::Unpinned,
            Phase::Committed,
            Phase::RolledBack,
        ];
        PHASES[(self.0 & ((1 << PHASE_BITS) - 1)) as usize]
    }
}

impl Phase {
    /// The state that errors tell the user.
    pub(crate) fn public_state(self) -> TransactionState {
        match self {
            Phase::Active | Phase::GivenUp | Phase::Unpinned => TransactionState::Active,
            Phase::Committing => TransactionState::Committing,
            Phase::Committed => TransactionState::Committed,
            Phase::RolledBack => TransactionState::RolledBack,
        }
    }

    /// Whether the transaction was begun and has not ended.
    pub(crate) fn is_open(self) -> bool {
        !matches!(self, Phase::Committed | Phase::RolledBack)
    }
}

/// The thread slot that a transaction was begun in.
pub(crate) fn thread_slot_of(id: TransactionId) -> usize {
    (id.0 & ((1 << SLOT_BITS) - 1)) as usize
}

/// A transaction's place in its thread slot.
pub(crate) fn place_in_slot(id: TransactionId) -> u32 {
    ((id.0 >> SLOT_BITS) & ((1 << PLACE_BITS) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_their_place_and_never_repeat_until_it_is_used_up() {
        let first = Word::from_bits(0).next_in_place(SLOT_COUNT - 1, (1 << PLACE_BITS) - 1);
        let id = TransactionId(first.id());
        assert_eq!(
            (thread_slot_of(id), place_in_slot(id)),
            (SLOT_COUNT - 1, (1 << PLACE_BITS) - 1)
        );
        assert_eq!(first.phase(), Phase::Active);
        let second = Word::new(first.id(), Phase::RolledBack).next_in_place(0, 7);
        assert!(second.id() > first.id() && second.has_next_serial());
        assert_eq!(
            (thread_slot_of(TransactionId(second.id())), place_in_slot(TransactionId(second.id()))),
            (0, 7)
        );
        let last = Word::new(SERIAL_MAX << (PLACE_BITS + SLOT_BITS), Phase::Committed);
        assert!(!last.has_next_serial());
        assert_eq!(last.id() >> (PLACE_BITS + SLOT_BITS), SERIAL_MAX);
    }
}
