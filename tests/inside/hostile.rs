//! Files that were written to do harm: the checksums are right, the content is none that a store
//! writes. Each is refused by name or opened, soon, without panic, and with memory that the length
//! of the files bounds.
//!
//! The [`allocator`] keeps an account of every thread; stores run single-threaded.

use super::fuzz_corpus::corpus;
use super::{allocator, open};
use crate::io::FileName;
use crate::io::sim::SimDisk;
use crate::local::fuzz::{self, Forger};
use crate::testkit::{Rng, seed};
use crate::{Defect, Error, LocalBackend, Result, StorageBackend};

/// Memory that opening may take whatever the files hold: the scanner's window of 256 KiB, staging.
const CONSTANT_LEN: usize = 2 << 20;
/// Memory for each byte of the files, at its peak: a frame in the window, its table decoded, its
/// place in the index, its copy when it is written again. The worst that is tried here takes 9.
const PEAK_PER_BYTE: usize = 16;
/// No single allocation is longer than twice what the files hold.
const LARGEST_PER_BYTE: usize = 2;

/// Verifies and opens a store; its memory is bounded by the length of its files.
#[track_caller]
fn open_within_bounds(disk: &SimDisk) -> Result<LocalBackend<SimDisk>> {
    let files_len: u64 = disk.files().iter().map(|(_, len)| len).sum();
    for step in ["verify", "open"] {
        let before = allocator::begin();
        let opened = match step {
            "verify" => {
                drop(fuzz::verify(disk));
                None
            }
            _ => Some(open(disk)),
        };
        let after = allocator::account();
        let (peak, largest) = ((after.peak - before.live) as usize, after.largest);
        let files_len = files_len as usize;
        assert!(
            largest <= LARGEST_PER_BYTE * files_len + CONSTANT_LEN,
            "{step}: {largest} bytes at once for files of {files_len}"
        );
        assert!(
            peak <= PEAK_PER_BYTE * files_len + CONSTANT_LEN,
            "{step}: {peak} bytes for files of {files_len}"
        );
        if files_len > 1 << 20 {
            println!("{step}: {largest} bytes at once, {peak} in all, for files of {files_len}");
        }
        if let Some(opened) = opened {
            return opened;
        }
    }
    unreachable!("the last step opens")
}

#[track_caller]
fn refused(disk: &SimDisk) -> (Defect, u64) {
    match open_within_bounds(disk) {
        Err(Error::Corrupt { defect, place }) => (defect, place.offset),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_account_sees_an_allocation() {
    let before = allocator::account().live;
    let taken = vec![1_u8; 12_345_678];
    let after = allocator::account();
    assert_eq!(after.live - before, 12_345_678);
    assert!(after.largest >= 12_345_678 && after.peak >= after.live, "{after:?}");
    drop(taken);
    assert_eq!(allocator::account().live, before);
}

#[test]
fn huge_lengths_in_every_field_cost_no_memory() {
    let target = fuzz::target("store");
    let (mut opened, mut refusals) = (0, 0);
    for (_, input) in corpus(target) {
        for at in 0..input.len() {
            for value in [u64::MAX, u64::from(u32::MAX), 1 << 31] {
                let mut hostile = input.clone();
                for (byte, new) in hostile[at..].iter_mut().zip(value.to_le_bytes()) {
                    *byte = new;
                }
                // The image's own framing may read otherwise now: a longer file is a longer file.
                (target.seal)(&mut hostile);
                match open_within_bounds(&fuzz::disk(&hostile)) {
                    Ok(_) => opened += 1,
                    Err(_) => refusals += 1,
                }
            }
        }
    }
    println!("{opened} opened, {refusals} refused");
    assert!(opened > 1000 && refusals > 1000, "{opened} opened, {refusals} refused");
}

#[test]
fn mutated_stores_cost_memory_by_their_length() {
    let target = fuzz::target("store");
    let corpus = corpus(target);
    let seed = seed(19);
    println!("AEGIS_SEED={seed}");
    let mut random = Rng::new(seed);
    for _ in 0..2000 {
        let mut input = corpus[random.below(corpus.len() as u64) as usize].1.clone();
        for _ in 0..=random.below(6) {
            let at = random.below(input.len() as u64) as usize;
            input[at] = random.next_u64() as u8;
        }
        (target.seal)(&mut input);
        drop(open_within_bounds(&fuzz::disk(&input)));
    }
}

#[test]
fn many_small_operations_cost_memory_by_their_length() {
    // Ids side by side, and each far from the next: the index keeps them in pages.
    for distance in [1, 1000] {
        let mut forger = Forger::new();
        forger.commit_empty((0..100_000).map(|id| id * distance + 1));
        forger.end();
        let store = open_within_bounds(&forger.disk()).expect("an odd store, and a right one");
        assert_eq!(store.stats().total_blocks, 100_000);
    }
}

/// Lengths that agree with each other, in a file that ends long before.
#[test]
fn frame_of_four_gibibytes_in_a_short_file_costs_nothing() {
    for op_count in [0, 1, 1 << 20, (1 << 27) - 3] {
        let mut forger = Forger::new();
        forger.lie(op_count, u32::MAX - 31);
        forger.disk().truncate(forger.file(), 2 * 4096);
        forger.offset = 2 * 4096;
        forger.witness(1);
        assert_eq!(refused(&forger.disk()), (Defect::OpTable, 4096), "{op_count} operations");
    }
}

/// A cut that named its own segment, or a later one, sent recovery back to frames that it had
/// walked: with the right salt, for ever.
#[test]
fn cut_that_names_its_own_or_a_later_segment_is_refused() {
    for sequence in [1, 2, u64::MAX] {
        let mut forger = Forger::new();
        forger.cut(sequence, 2 * 4096);
        forger.end();
        assert_eq!(refused(&forger.disk()), (Defect::BrokenChain, 4096), "{sequence}");
    }
}

/// A cut that named a place far behind the end of its segment let `verify` look at every page up to
/// there.
#[test]
fn cut_behind_the_end_of_a_segment_is_refused_at_once() {
    for offset in [u64::MAX, u64::MAX - 8191, 1 << 60] {
        let mut forger = Forger::new();
        forger.commit(1, b"first", 5);
        let end = forger.offset;
        forger.segment(2, 2);
        forger.cut(1, offset);
        forger.end();
        assert_eq!(refused(&forger.disk()), (Defect::FrameHeader, end), "{offset}");
    }
}

/// Opening after a clean close writes the end mark again, and asserted that the bytes are the same.
/// An end mark that shares its page with a commit failed that.
#[test]
fn end_mark_in_the_page_of_a_commit_is_refused() {
    let image = fuzz::ImageWriter::of_disk(&{
        let mut forger = Forger::new();
        forger.commit(1, b"first", 5);
        forger.end();
        let (disk, file) = (forger.disk(), forger.file());
        let content = disk.contents(file).expect("the segment");
        // The commit is no longer the end of its group; the mark moves up behind it.
        disk.overwrite(file, 4096 + 9, &[content[4096 + 9] & !1]);
        disk.overwrite(file, 4096 + 104, &content[8192..8192 + 64]);
        disk.truncate(file, 8192);
        disk
    });
    let mut sealed = image;
    (fuzz::target("store").seal)(&mut sealed);
    let (defect, _) = refused(&fuzz::disk(&sealed));
    assert_eq!(defect, Defect::BrokenChain);
}

/// An end mark that says that its own commit may not be durable failed the same assertion.
#[test]
fn end_mark_in_doubt_is_no_end_mark() {
    let mut forger = Forger::new();
    forger.commit(1, b"first", 5);
    forger.witness(1);
    forger.doubtful_end();
    let store = open_within_bounds(&forger.disk()).expect("a torn tail");
    assert!(!store.recovery().clean);
}

/// A file number of 2^64 - 1 left no number for the next file.
#[test]
fn largest_file_number_is_refused() {
    let mut forger = Forger::new();
    forger.end();
    forger.disk().put_file(FileName::Temporary(u64::MAX), b"planted");
    assert_eq!(refused(&forger.disk()), (Defect::FileNumber, 0));
}
