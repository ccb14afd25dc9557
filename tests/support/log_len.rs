//! Bytes of a store's log.

use aegis_blocks::io::FileName;
use aegis_blocks::io::sim::SimDisk;

/// Bytes of all segments on a simulated disk.
pub fn log_len(disk: &SimDisk) -> u64 {
    let segments = disk.files().into_iter();
    segments.filter(|(name, _)| matches!(name, FileName::Segment(_))).map(|(_, len)| len).sum()
}
