//! Checksums: CRC-32C (Castagnoli), of everything that is written.
//!
//! Owns nothing; names the function and its implementation in one place. The polynomial is that of
//! iSCSI (RFC 3720), and the results are part of the format (`docs/format.md`).

use std::hint::black_box;

use crc_fast::{CrcAlgorithm, Digest};

/// Bytes of a line of the processor's cache; a wrong guess costs time only.
const LINE_LEN: usize = 64;

/// CRC-32C of bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C of some bytes with these behind them, from that of the bytes before.
pub(crate) fn crc32c_append(before: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!before));
    digest.update(bytes);
    digest.finalize() as u32
}

/// CRC-32C of bytes that are likely not in the processor's cache: a block found on a map.
///
/// Reads every line of them first. None of these loads waits for another, so the processor has many
/// under way at once, where the checksum itself walks and waits; measured in `docs/performance.md`.
pub(crate) fn crc32c_cold(bytes: &[u8]) -> u32 {
    black_box(bytes.iter().step_by(LINE_LEN).fold(0, |seen, byte| seen ^ byte));
    crc32c(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value_of_the_catalogue_is_found_in_one_and_in_two_parts() {
        // "check" of CRC-32/ISCSI in the catalogue of parametrised CRC algorithms.
        let (digits, check) = (b"123456789", 0xe306_9283);
        assert_eq!((crc32c(digits), crc32c_cold(digits)), (check, check));
        for middle in 0..=digits.len() {
            let (left, right) = digits.split_at(middle);
            assert_eq!(crc32c_append(crc32c(left), right), check, "cut at {middle}");
        }
        assert_eq!((crc32c(&[]), crc32c_append(7, &[])), (0, 7));
    }

    #[test]
    fn every_length_agrees_with_another_implementation() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|n| ((n * 31) >> 3) as u8).collect();
        let lengths = (0..1100).chain((1100..70_000).step_by(997)).chain([65_536]);
        for len in lengths {
            let bytes = &bytes[..len];
            let other = crc32c::crc32c(bytes);
            assert_eq!((crc32c(bytes), crc32c_cold(bytes)), (other, other), "{len} bytes");
            assert_eq!(crc32c_append(7, bytes), crc32c::crc32c_append(7, bytes), "{len} bytes");
        }
    }
}
