//! A store without space for another block.

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::{Error, LocalBackend, StorageBackend};

use super::fill;

/// A hundred of these take 1 MB.
pub const FILLING_LEN: usize = 10_000;

/// Writes blocks from 1 on until one is refused; returns how many are there, and the refusal.
///
/// # Panics
/// If `count_max` blocks are taken.
pub fn fill_until_refused(store: &LocalBackend<SimDisk>, count_max: u64) -> (u64, Error) {
    for id in 1..count_max {
        if let Err(error) = store.write_block(fill::filling(id, FILLING_LEN)) {
            return (id - 1, error);
        }
    }
    panic!("there is space for {count_max} blocks of {FILLING_LEN} bytes");
}
