//! Sealing: makes every checksum of an input right, so that what a checksum covers gets read.
//!
//! Changes checksums and links of the chain only, and no length. What is too damaged to tell where
//! its checksum stands is left as it is.

use std::collections::BTreeMap;

use crate::checksum;
use crate::io::FileName;
use crate::local::format::description::Description;
use crate::local::format::frame::{ENTRY_LEN, HEADER_LEN, Kind, align_frame_offset};
use crate::local::format::segment::SegmentHeader;
use crate::local::format::{PAGE, le, page_up};
use crate::local::fuzz::decoders::{COPY_AT, FRAME_AT, RECORD_LEN};
use crate::local::fuzz::image::{Files, Image};

const FRAME_MAGIC: [u8; 4] = *b"AGF1";
const BLOCK_HEADER_LEN: usize = 40;

/// The chain behind each frame, by segment and offset: what a cut there is linked to.
type Chains = BTreeMap<(u64, u64), u32>;

pub(super) fn nothing(_: &mut [u8]) {}

pub(super) fn block(data: &mut [u8]) {
    let Some((header, payload)) = data.split_at_mut_checked(BLOCK_HEADER_LEN) else { return };
    put(header, 24, checksum::crc32c(payload));
    let crc = checksum::crc32c(&header[..36]);
    put(header, 36, crc);
}

pub(super) fn mirrored(page: &mut [u8]) {
    for at in [0, COPY_AT] {
        if let Some(record) = page.get_mut(at..at + RECORD_LEN) {
            let crc = checksum::crc32c_append(checksum::crc32c(&record[..12]), &record[16..]);
            put(record, 12, crc);
        }
    }
}

pub(super) fn frame_header(data: &mut [u8]) {
    let Some((place, header)) = data.split_at_mut_checked(FRAME_AT) else { return };
    if let Some(header) = header.get_mut(..HEADER_LEN) {
        let offset = le::u64(place, 4) % (1 << 40);
        seal_header(header, le::u32(place, 0), offset);
    }
}

/// One segment with the description of its store before it.
pub(super) fn segment(data: &mut [u8]) {
    store(data);
}

pub(super) fn store(data: &mut [u8]) {
    let mut image = Image::parse(data);
    seal_files(&mut image.files);
    image.write_back(data);
}

fn seal_files(files: &mut Files) {
    let unknown = Description { store_id: [0; 16], salt: 0 };
    let store = match files.get_mut(&FileName::Meta) {
        Some(page) => {
            mirrored(page);
            Description::decode(page).unwrap_or(unknown)
        }
        None => unknown,
    };
    let mut segments = Vec::new();
    for (name, bytes) in files.iter_mut().filter(|(name, _)| matches!(name, FileName::Segment(_))) {
        mirrored(bytes);
        if let Ok(header) = SegmentHeader::decode(bytes) {
            segments.push((header.sequence, header.frame_seed(&store), *name));
        }
    }
    segments.sort_unstable();
    let (mut chain, mut chains) = (0, Chains::new());
    for (sequence, seed, name) in segments {
        let bytes = files.get_mut(&name).expect("listed above");
        chain = seal_frames(bytes, sequence, seed, chain, &mut chains);
    }
}

/// Seals all frames of a segment and returns the chain behind the last one.
fn seal_frames(
    bytes: &mut [u8],
    sequence: u64,
    seed: u32,
    mut chain: u32,
    chains: &mut Chains,
) -> u32 {
    let mut at = PAGE as usize;
    while at + HEADER_LEN <= bytes.len() {
        if bytes[at..at + 4] != FRAME_MAGIC {
            at = page_up(at as u64 + 1) as usize;
            continue;
        }
        let frame = &mut bytes[at..];
        let is_cut = frame[8] == Kind::Cut as u8;
        if is_cut && frame.len() >= HEADER_LEN + 16 {
            let place = (le::u64(frame, HEADER_LEN), le::u64(frame, HEADER_LEN + 8));
            chain = chains.get(&place).copied().unwrap_or(chain);
        }
        seal_body(frame, is_cut);
        put(frame, 36, chain);
        chain = seal_header(&mut frame[..HEADER_LEN], seed, at as u64);
        let group_end = frame[9] & 1 != 0;
        let frame_len = (le::u32(frame, 12) as usize).clamp(HEADER_LEN, frame.len()) as u64;
        let end = at as u64 + frame_len;
        at = if group_end { page_up(end) } else { align_frame_offset(end) } as usize;
        chains.insert((sequence, at as u64), chain);
    }
    chain
}

fn seal_header(header: &mut [u8], seed: u32, offset: u64) -> u32 {
    let seed = checksum::crc32c_append(seed, &offset.to_le_bytes());
    let crc = checksum::crc32c_append(seed, &header[8..HEADER_LEN]);
    put(header, 4, crc);
    crc
}

/// Seals the payloads as far as the lengths in the table lead, then the table.
fn seal_body(frame: &mut [u8], is_cut: bool) {
    let table_len = if is_cut { 16 } else { le::u32(frame, 32) as usize * ENTRY_LEN };
    let Some(table_end) = HEADER_LEN.checked_add(table_len).filter(|end| *end <= frame.len())
    else {
        return;
    };
    let mut payload_at = table_end;
    for entry in (HEADER_LEN..table_end).step_by(ENTRY_LEN).filter(|_| !is_cut) {
        let len = le::u32(frame, entry + 8) as usize;
        if frame[entry + 20] == 1
            && let Some(payload) = frame.get(payload_at..payload_at.saturating_add(len))
        {
            let crc = checksum::crc32c(payload);
            put(frame, entry + 12, crc);
            payload_at += len;
        }
    }
    let crc = checksum::crc32c(&frame[HEADER_LEN..table_end]);
    put(frame, 40, crc);
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
