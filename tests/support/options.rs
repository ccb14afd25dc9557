//! Options of a store whose segments are short, so that a few commits begin the next one.

use aegis_blocks::{LocalBackend, Options};

/// Segments of this length, one of them zeroed ahead, with blocks up to `block_len_max`.
pub fn short_segments(segment_len: u64, block_len_max: u64) -> Options {
    LocalBackend::options()
        .segment_len_max(segment_len)
        .block_len_max(block_len_max as u32)
        .zero_ahead_len(segment_len)
}
