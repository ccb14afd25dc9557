//! Options of a store whose log is counted: nothing ahead, a checkpoint every few segments.

use aegis_blocks::{LocalBackend, Options};

pub const SEGMENT_LEN: u64 = 64 << 10;

pub fn options() -> Options {
    LocalBackend::options()
        .single_threaded(true)
        .segment_len_max(SEGMENT_LEN)
        .zero_ahead_len(0)
        .checkpoint_log_len(4 * SEGMENT_LEN)
        .recent_len(0)
}
