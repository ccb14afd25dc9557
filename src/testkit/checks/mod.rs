//! The checks, one function per claim, grouped by what the claim is about.
//!
//! A check that [`claims`](super::claims) does not list is dead code, which the build refuses.

pub(super) mod atomic;
pub(super) mod batches;
pub(super) mod blocks;
pub(super) mod conflicts;
pub(super) mod ids;
pub(super) mod isolation;
pub(super) mod levels;
pub(super) mod random;
pub(super) mod ranges;
pub(super) mod reopen;
pub(super) mod states;
pub(super) mod stats;
pub(super) mod threads;
pub(super) mod tickets;
