//! Payloads that look random: no other version of any block has the same bytes.

use super::xorshift::Rng;

/// Up to 1,600 bytes of this version of a block.
pub fn payload(id: u64, version: u64) -> Vec<u8> {
    let mut rng = Rng((id << 32 | version << 1 | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    (0..700 + (id * 37 + version * 101) % 900).map(|_| (rng.next() >> 24) as u8).collect()
}
