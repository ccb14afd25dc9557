//! One workload a file, and their common part: filling a store with blocks whose bytes follow from
//! ids.

pub mod commits;
pub mod reads;
pub mod reopen;
pub mod space;
pub mod transfers;
pub mod views;

use crate::engine::{Session, Write};
use crate::failure::{Failure, Outcome};
use crate::payload::Payloads;

/// Bytes of a block where a workload does not say otherwise.
pub const BLOCK_LEN: usize = 4096;

/// Blocks of one commit while a store is filled.
const FILL_BATCH: u64 = 1000;

/// Writes blocks 1 to `blocks`; the bytes of block `id` are `payloads.get(id + shift)`.
pub fn fill(
    session: &mut dyn Session,
    blocks: u64,
    payloads: &Payloads,
    shift: u64,
) -> Outcome<()> {
    for first in (1..=blocks).step_by(FILL_BATCH as usize) {
        let ids = first..=(first + FILL_BATCH - 1).min(blocks);
        let write = |id| Write { id, data: payloads.get(id + shift).clone() };
        session.commit(&ids.map(write).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Compares a block with the bytes that were acknowledged.
pub fn compare(session: &mut dyn Session, id: u64, expected: &[u8]) -> Outcome<()> {
    let mut is_equal = false;
    let found = session.read(id, &mut |bytes| is_equal = bytes == expected)?;
    if found && is_equal { Ok(()) } else { Err(Failure::Lost { id }) }
}

/// Compares some blocks of a filled store, at even distances; returns how many.
pub fn compare_some(
    session: &mut dyn Session,
    blocks: u64,
    payloads: &Payloads,
    shift: u64,
) -> Outcome<u64> {
    const COMPARED: u64 = 100;
    let ids = (1..=blocks).step_by((blocks / COMPARED).max(1) as usize);
    let mut checked = 0;
    for id in ids {
        compare(session, id, payloads.get(id + shift))?;
        checked += 1;
    }
    Ok(checked)
}
