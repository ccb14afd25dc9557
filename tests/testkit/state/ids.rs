//! Ids that the reference backend gives to blocks.

use std::collections::BTreeSet;

use aegis_blocks::{Block, BlockId, Error, Result};

use super::{State, Version};
use crate::flaws::Flaw;

impl State {
    /// Gives the block its id, none of `taken`, and returns its key.
    pub fn place(&mut self, block: &mut Block, taken: &BTreeSet<u64>) -> Result<u64> {
        let asked = block.header.block_id;
        if asked != BlockId(0) || self.has(Flaw::ZeroIsABlock) {
            if self.has(Flaw::NamesTakeEffectAtOnce) {
                self.stay_above(asked.0);
            }
            return Ok(self.key(asked));
        }
        let passes_over = !self.has(Flaw::IgnoresExplicitIds);
        let next = loop {
            let next = self.next_id()?;
            if !(passes_over && taken.contains(&next)) {
                break next;
            }
        };
        if !self.has(Flaw::AllocatedIdNotInHeader) {
            block.header.block_id = BlockId(next);
        }
        Ok(next)
    }

    fn next_id(&mut self) -> Result<u64> {
        let live = |(id, versions): (&u64, &Vec<Version>)| {
            versions.last().filter(|version| version.block.is_some()).map(|_| *id)
        };
        let next = match self.flaw {
            Some(Flaw::AllocatesAboveCommitted) => {
                self.versions.keys().last().map_or(1, |id| id + 1)
            }
            Some(Flaw::ReusesDeletedIds) => {
                self.versions.iter().filter_map(live).next_back().map_or(1, |id| id + 1)
            }
            _ => match self.next_id {
                Some(next) => next,
                None if self.has(Flaw::EndsAtTheTop) => return Err(Error::IdsExhausted),
                None => return Ok(self.next_below()),
            },
        };
        self.next_id = match self.flaw {
            Some(Flaw::SparseIds) => next.checked_add(2),
            Some(Flaw::WrapsIds) => Some(next.wrapping_add(1).max(1)),
            _ => next.checked_add(1),
        };
        Ok(next)
    }

    /// The top is used up: the first id that no block has and that was not handed out so.
    fn next_below(&mut self) -> u64 {
        loop {
            self.below += 1;
            if self.read_at(self.below, u64::MAX).is_none() {
                return self.below;
            }
        }
    }

    pub fn stay_above(&mut self, id: u64) {
        if self.has(Flaw::WrapsIds) && id == u64::MAX {
            return;
        }
        self.next_id = self.next_id.zip(id.checked_add(1)).map(|(next, above)| next.max(above));
    }
}
