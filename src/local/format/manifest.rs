//! `MANIFEST`: the files of a backup. Does no I/O.
//!
//! | offset | size | field            | meaning                                         |
//! |-------:|-----:|------------------|-------------------------------------------------|
//! |      0 |    8 | magic            |                                                 |
//! |      8 |    4 | format version   |                                                 |
//! |     12 |    4 | checksum         | of bytes `0..12`, then of everything from 16 on |
//! |     16 |   16 | `store_id`       | of the store that was copied                    |
//! |     32 |    8 | `lsn`            | newest commit in the backup                     |
//! |     40 |    8 | `file_count`     | rows                                            |
//! |     48 | 48 n | rows             | one a file, in the order of [`FileName`]        |
//!
//! A row:
//!
//! | offset | size | field            | meaning                                          |
//! |-------:|-----:|------------------|--------------------------------------------------|
//! |      0 |    4 | kind             | 1 `META`, 2 segment, 3 checkpoint                |
//! |      4 |    4 | `crc`            | CRC-32C of the file                              |
//! |      8 |    8 | number           | in the file's name; 0 for `META`                 |
//! |     16 |    8 | `len`            | of the file                                      |
//! |     24 |    8 | `sequence`       | of a segment; 0 otherwise                        |
//! |     32 |    8 | `salt`           | of this use of a segment's file, or of the image |
//! |     40 |    8 | zero             | refused otherwise                                |
//!
//! Integers are little-endian. Invariant: `crc` alone identifies the content of a file. In one life
//! of a store, files with the same name, sequence, salt and length have the same content, because a
//! segment is only ever appended to and an image is written once. A store that was copied and
//! continued twice has two lives. They write different frames into the same use of a segment, so
//! there an [`Identity`] names two contents. It also does where a copy ends with a durable mark of
//! its own.

use crate::block::Lsn;
use crate::checksum;
use crate::io::FileName;
use crate::local::format::mirrored::Unreadable;
use crate::local::format::{FORMAT_VERSION, le};

const MAGIC: [u8; 8] = *b"AEGISBKP";
const HEADER_LEN: usize = 48;
const ROW_LEN: usize = 48;

/// One file of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) file: Identity,
    pub(crate) crc: u32,
}

/// Names a file of one life of a store. Only the checksum of its bytes identifies its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: FileName,
    pub(crate) len: u64,
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
}

/// The files of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) store_id: [u8; 16],
    pub(crate) lsn: Lsn,
    pub(crate) rows: Vec<Row>,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.rows.len() * ROW_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.store_id);
        append_words(&mut out, &[self.lsn.0, self.rows.len() as u64]);
        for Row { file, crc } in &self.rows {
            out.extend_from_slice(&file_kind_code(file.name).to_le_bytes());
            out.extend_from_slice(&crc.to_le_bytes());
            append_words(&mut out, &[file.name.number(), file.len, file.sequence, file.salt, 0]);
        }
        let crc = manifest_checksum(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a manifest back; refuses anything that [`Manifest::encode`] did not write.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Manifest, Unreadable> {
        let right = bytes.len() >= HEADER_LEN && bytes[..8] == MAGIC;
        if !right || le::u32(bytes, 12) != manifest_checksum(bytes) {
            return Err(Unreadable::Damaged);
        }
        match le::u32(bytes, 8) {
            FORMAT_VERSION => {}
            newer if newer > FORMAT_VERSION => return Err(Unreadable::Newer(newer)),
            _ => return Err(Unreadable::Damaged),
        }
        let (rows, rest) = bytes[HEADER_LEN..].as_chunks::<ROW_LEN>();
        if le::u64(bytes, 40) != rows.len() as u64 || !rest.is_empty() {
            return Err(Unreadable::Damaged);
        }
        let rows: Option<Vec<Row>> = rows.iter().map(decode_row).collect();
        let rows = rows.ok_or(Unreadable::Damaged)?;
        if !rows.is_sorted_by(|one, next| one.file.name < next.file.name) {
            return Err(Unreadable::Damaged);
        }
        let mut store_id = [0; 16];
        store_id.copy_from_slice(&bytes[16..32]);
        Ok(Manifest { store_id, lsn: Lsn(le::u64(bytes, 32)), rows })
    }

    /// The row of a file of this identity: of this very file, or of another life's.
    pub(crate) fn find_row(&self, file: &Identity) -> Option<&Row> {
        self.rows.iter().find(|row| row.file == *file)
    }

    /// Bytes of all files.
    pub(crate) fn total_len(&self) -> u64 {
        self.rows.iter().map(|row| row.file.len).sum()
    }
}

fn decode_row(row: &[u8; ROW_LEN]) -> Option<Row> {
    let (number, len) = (le::u64(row, 8), le::u64(row, 16));
    let name = match le::u32(row, 0) {
        1 if number == 0 => FileName::Meta,
        2 => FileName::Segment(number),
        3 => FileName::Checkpoint(number),
        _ => return None,
    };
    let file = Identity { name, len, sequence: le::u64(row, 24), salt: le::u64(row, 32) };
    // No sum of lengths may run over.
    let is_sane = row[40..] == [0; 8] && len < 1 << 48;
    is_sane.then_some(Row { file, crc: le::u32(row, 4) })
}

fn file_kind_code(name: FileName) -> u32 {
    match name {
        FileName::Meta => 1,
        FileName::Segment(_) => 2,
        FileName::Checkpoint(_) => 3,
        FileName::Lock | FileName::Reserve | FileName::Temporary(_) | FileName::Manifest => {
            unreachable!("no backup copies {name}")
        }
    }
}

fn append_words(out: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

fn manifest_checksum(bytes: &[u8]) -> u32 {
    checksum::crc32c_append(checksum::crc32c(&bytes[..12]), &bytes[16..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let row = |name, sequence| Row {
            file: Identity { name, len: 8192, sequence, salt: 0x0102_0304_0506_0708 },
            crc: 0x0A0B_0C0D,
        };
        let rows = vec![
            row(FileName::Meta, 0),
            row(FileName::Segment(3), 9),
            row(FileName::Checkpoint(4), 0),
        ];
        Manifest { store_id: [7; 16], lsn: Lsn(77), rows }
    }

    #[test]
    fn round_trip() {
        assert_eq!(Manifest::decode(&manifest().encode()), Ok(manifest()));
    }

    #[test]
    fn every_cut_tail_and_flipped_bit_is_refused() {
        let mut bytes = manifest().encode();
        for len in 0..bytes.len() {
            assert_eq!(Manifest::decode(&bytes[..len]), Err(Unreadable::Damaged), "cut to {len}");
        }
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Manifest::decode(&bytes), Err(Unreadable::Damaged), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes.push(0);
        assert_eq!(Manifest::decode(&bytes), Err(Unreadable::Damaged));
    }

    #[test]
    fn rows_that_no_backup_writes_are_refused_under_a_right_checksum() {
        for (at, value) in [(48, 4), (48, 0), (56, 1), (88, 1), (72 + 47, 1), (40, 2), (8, 0)] {
            let mut bytes = manifest().encode();
            bytes[at] = value;
            let crc = manifest_checksum(&bytes);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Manifest::decode(&bytes), Err(Unreadable::Damaged), "{value} at {at}");
        }
        let mut newer = manifest().encode();
        newer[8] = 9;
        let crc = manifest_checksum(&newer);
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Manifest::decode(&newer), Err(Unreadable::Newer(9)));
    }
}
