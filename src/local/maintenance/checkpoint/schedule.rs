//! ImageSchedule: how the writing of an image is throttled.
//!
//! Owns the rule. An image is written in chunks of [`CHUNK_LEN`], and write-back of each begins at
//! once. After each the writer pauses for [`PAUSE`], so that commits never wait behind more than a
//! chunk. It does not pause without commits, nor if the log has used a larger share of its limit
//! than the image has of its length.

use std::time::Duration;

use crate::local::maintenance::throttle::PAUSE;

/// Bytes that are written at once: less than a group of some threads writes.
pub(crate) const CHUNK_LEN: usize = 64 << 10;

/// The time limit of an image in log bytes, and the pause.
#[derive(Clone, Copy)]
pub(crate) struct ImageSchedule<'a> {
    /// Bytes by which the log has grown since the image was begun.
    pub(crate) log_len: &'a dyn Fn() -> u64,
    /// Bytes by which it may grow until the image is written.
    pub(crate) log_len_max: u64,
    /// Pauses for this time.
    pub(crate) pause: &'a dyn Fn(Duration),
}

impl ImageSchedule<'_> {
    /// Pauses if there is time, after `done` bytes of about `expected`.
    pub(super) fn pause_if_ahead(&self, done: u64, expected: u64) {
        if is_image_ahead((self.log_len)(), self.log_len_max, done, expected) {
            (self.pause)(PAUSE);
        }
    }
}

fn is_image_ahead(log_len: u64, log_len_max: u64, done: u64, expected: u64) -> bool {
    let wide = |one: u64, other: u64| u128::from(one) * u128::from(other);
    log_len > 0 && wide(done, log_len_max) >= wide(log_len, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_keeps_up_with_the_log_and_does_not_pause_without_commits() {
        let is_image_ahead = |log_len, done| is_image_ahead(log_len, 1000, done, 100);
        assert!(!is_image_ahead(0, 50), "no caller commits");
        assert!(is_image_ahead(1, 1));
        assert!(is_image_ahead(500, 50));
        assert!(!is_image_ahead(501, 50), "the log is ahead");
        assert!(!super::is_image_ahead(1, 0, 99, 100), "there is no time");
    }
}
