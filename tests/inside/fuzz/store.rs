//! Targets over the files of a whole store, and over its scanner.
//!
//! A directory that another program wrote is opened, or refused by name and not changed. Once it is
//! open, what it shows stays: every block reads as it did, or as corrupt, after a clean close and
//! the next opening. Nothing vouches for what the blocks say: a program that can write checksums
//! can write blocks.

use std::collections::BTreeMap;

use crate::backend::StorageBackend;
use crate::block::{Block, BlockId, BlockType};
use crate::error::{Error, Result};
use crate::io::FileName;
use crate::io::sim::SimDisk;
use crate::local::format::{PAGE, page_up};
use crate::local::fuzz::image::Image;
use crate::local::options::Options;
use crate::local::read::scan::{Found, Scanner};
use crate::local::recovery::identity::read_description;
use crate::local::{LocalBackend, verify};

/// Steps of a reader over one segment: pages, plus frames that it finds.
const STEPS_PER_PAGE: u64 = PAGE / 64 + 1;

/// A store without threads and with short segments.
pub fn options() -> Options {
    let options = LocalBackend::options().single_threaded(true).recent_len(0);
    options.segment_len_max(64 << 10).block_len_max(32 << 10).zero_ahead_len(0)
}

fn open(disk: &SimDisk, create: bool) -> Result<LocalBackend<SimDisk>> {
    LocalBackend::open_on(disk.clone(), options().create(create))
}

/// An image: every segment is scanned from end to end.
pub(super) fn segment(data: &[u8]) -> bool {
    let image = Image::parse(data);
    let disk = image.disk();
    let Ok(store) = read_description(&disk) else { return false };
    let mut frame_count = 0;
    for name in image.files.keys() {
        let FileName::Segment(number) = *name else { continue };
        let Ok(mut scanner) = Scanner::open_segment(&disk, &store, number) else { continue };
        scanner.read_truncation_record().expect("an answer");
        let (mut at, mut steps) = (PAGE, 0);
        while at < scanner.len {
            steps += 1;
            assert!(steps <= (scanner.len / PAGE + 1) * STEPS_PER_PAGE, "a scan without end");
            match scanner.read_frame_at(at).expect("only the disk can fail") {
                Found::Frame(frame) => {
                    frame_count += 1;
                    for (offset, entry) in frame.rows_with_offsets() {
                        let end = offset + u64::from(entry.payload_len());
                        assert!(
                            end <= at + u64::from(frame.header.frame_len),
                            "{offset} is outside"
                        );
                        let payload = scanner.read_payload(offset, entry.payload_len());
                        assert_eq!(payload.expect("read").len(), entry.payload_len() as usize);
                    }
                    let next = frame.header.next_frame_offset(at);
                    assert!(next > at, "a frame behind itself");
                    at = next;
                }
                Found::BadTable(_) | Found::Nothing => at = page_up(at + 1),
            }
        }
        let (_, torn_len) = scanner.find_durable_evidence(PAGE, u64::MAX).expect("an answer");
        assert!(torn_len <= scanner.len, "{torn_len} torn bytes of {}", scanner.len);
    }
    frame_count > 0
}

/// An image: verified, opened, read, written to, closed and opened again.
pub(super) fn store(data: &[u8]) -> bool {
    let disk = Image::parse(data).disk();
    let before = all_bytes(&disk);
    if let Err(error) = verify::verify_store(&disk) {
        check_refusal(&error);
    }
    assert!(all_bytes(&disk) == before, "verifying changed a file");
    let store = match open(&disk, false) {
        Ok(store) => store,
        Err(error) => {
            check_refusal(&error);
            assert!(all_bytes(&disk) == before, "an open that was refused changed a file");
            return false;
        }
    };
    let mut blocks = read_all(&store);
    match store.write_block(Block::new(BlockId(0), BlockType::TableData, "new")) {
        Ok(id) => {
            let twin = blocks.insert(id, Some(Block::new(id, BlockType::TableData, "new")));
            assert_eq!(twin, None, "{id} is given away twice");
        }
        Err(Error::IdsExhausted) => {}
        Err(error) => panic!("the opened store takes no write: {error:?}"),
    }
    store.close().expect("a clean close");
    let store = open(&disk, false).expect("a store that was open opens again");
    assert!(store.recovery().clean, "a clean close is taken for a crash");
    assert!(read_all(&store) == blocks, "the store shows other blocks than before");
    store.close().expect("a clean close");
    let report = verify::verify_store(&disk).expect("an opened store can be verified");
    let corrupt = blocks.values().any(Option::is_none);
    assert!(!corrupt || !report.damage.is_empty(), "verifying misses a corrupt block");
    assert_eq!(disk.violations(), [""; 0]);
    true
}

/// Every block, `None` for a corrupt one.
fn read_all(store: &LocalBackend<SimDisk>) -> BTreeMap<BlockId, Option<Block>> {
    let read = |id| match store.read_block(id) {
        Ok(block) => {
            assert!(block.verify_checksum() && block.header.block_id == id, "wrong block {id}");
            (id, Some(block))
        }
        Err(Error::Corrupt { .. }) => (id, None),
        Err(error) => panic!("block {id}: {error:?}"),
    };
    let blocks: BTreeMap<_, _> =
        store.ids(..).expect("an open store").into_iter().map(read).collect();
    assert_eq!(store.stats().total_blocks, blocks.len() as u64);
    assert!(!blocks.contains_key(&BlockId(0)));
    blocks
}

fn check_refusal(error: &Error) {
    let named = matches!(
        error,
        Error::Corrupt { .. } | Error::UnsupportedFormat { .. } | Error::NotAStore { .. }
    );
    assert!(named, "damage is reported as {error:?}");
}

/// All files but the lock.
fn all_bytes(disk: &SimDisk) -> BTreeMap<FileName, Vec<u8>> {
    let names = disk.files().into_iter().filter(|(name, _)| *name != FileName::Lock);
    names.map(|(name, _)| (name, disk.contents(name).expect("listed"))).collect()
}
