//! Views, alignment, locks and clocks: what a program may rely on, and what it must not do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::*;
use crate::io::AlignedBuf;

/// Runs a body that must panic, and returns the one recorded mistake.
#[track_caller]
fn violation(disk: &SimDisk, mistake: impl FnOnce()) -> String {
    let before = disk.violations().len();
    catch_unwind(AssertUnwindSafe(mistake)).expect_err("a panic");
    let mut found = disk.violations();
    assert_eq!(found.len(), before + 1);
    found.pop().expect("one more")
}

#[test]
fn a_direct_transfer_off_the_pages_panics() {
    let (disk, plain) = disk_with(A, &[0; 8192]);
    let direct = disk.open(A, How::ReadWriteDirect).expect("opened");
    let mut pages = AlignedBuf::with_capacity(8192);
    pages.resize_zeroed(8192);
    direct.write_at(4096, &pages.as_slice()[..4096]).expect("on pages");
    direct.zero(0, 4096).expect("on pages");
    direct.read_at(0, pages.as_mut_slice()).expect("on pages");
    let page = &pages.as_slice()[..4096];
    violation(&disk, || drop(direct.write_at(512, page)));
    violation(&disk, || drop(direct.write_at(0, &page[..512])));
    violation(&disk, || drop(direct.write_at(0, &pages.as_slice()[1..4097])));
    violation(&disk, || drop(direct.write_vectored_at(0, &[IoSlice::new(&page[..8])])));
    violation(&disk, || drop(direct.read_at(0, &mut [0; 3])));
    let found = violation(&disk, || drop(direct.zero(0, 100)));
    assert_eq!(found, "direct transfer of 100 bytes at 0 is not on pages");
    plain.write_at(1, b"x").expect("an ordinary file takes anything");
}

#[test]
fn a_view_reads_what_the_file_holds_at_the_time() {
    let (disk, file) = disk_with(A, b"old");
    let view = file.map(1 << 30).expect("mapped");
    assert_eq!(&view.bytes(0, 8).expect("in the last page")[..], b"old\0\0\0\0\0");
    put(&file, 100_000, b"new");
    assert_eq!(&view.bytes(100_000, 3).expect("grown")[..], b"new");
    assert!(view.bytes(5, 0).expect("nothing").is_empty());
    let short = file.map(3).expect("mapped");
    assert_eq!(short.bytes(1, 3).expect_err("beyond").kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(short.bytes(u64::MAX, 3).expect_err("beyond").kind(), io::ErrorKind::UnexpectedEof);
    let found = violation(&disk, || drop(view.bytes(100_000, 4096)));
    assert_eq!(found, "SIGBUS: view of 100000..104096 in a file of 100003 bytes");
}

#[test]
fn a_view_is_shared_while_a_reader_holds_its_bytes() {
    let (_disk, file) = disk_with(A, b"abc");
    let mut view = file.map(3).expect("mapped");
    assert!(!view.is_shared());
    let held = view.bytes(0, 2).expect("there");
    let part = held.slice(1..);
    drop(held);
    assert!(view.is_shared());
    drop(part);
    assert!(!view.is_shared());
}

#[test]
fn bytes_must_not_change_under_their_reader() {
    let (disk, file) = disk_with(A, b"0123456789");
    let view = file.map(10).expect("mapped");
    let held = view.bytes(2, 3).expect("there");
    put(&file, 0, b"x1234x");
    file.set_len(5).expect("cut behind");
    let found = violation(&disk, || put(&file, 4, b"x"));
    assert_eq!(found, "bytes 4..5 change under a reader that holds them");
    let found = violation(&disk, || drop(file.set_len(3)));
    assert_eq!(found, "bytes 3..5 are cut from a reader that holds them");
    violation(&disk, || drop(file.zero(0, 4096)));
    violation(&disk, || {
        drop(file.write_vectored_at(0, &[IoSlice::new(b"x1"), IoSlice::new(b"2x4y")]));
    });
    drop(held);
    file.zero(0, 4096).expect("zeroed");
    file.set_len(0).expect("cut");
}

#[test]
fn the_account_of_readers_stays_small() {
    let (disk, file) = disk_with(A, b"0123456789");
    let view = file.map(10).expect("mapped");
    let held: Vec<_> = (0..100).map(|_| view.bytes(9, 1).expect("there")).collect();
    for _ in 0..10_000 {
        view.bytes(0, 9).expect("there");
    }
    let noted = disk.shared.state.lock().pin_count();
    assert!((100..1000).contains(&noted), "{noted}");
    violation(&disk, || put(&file, 9, b"x"));
    drop(held);
    put(&file, 9, b"x");
}

#[test]
fn a_file_opened_for_reads_takes_no_writes_and_no_file_is_endless() {
    let (disk, file) = disk_with(A, b"abc");
    let reader = disk.open(A, How::Read).expect("opened");
    check_errno(reader.write_at(0, b"x"), libc::EBADF);
    check_errno(reader.zero(0, 1), libc::EBADF);
    check_errno(reader.set_len(0), libc::EBADF);
    check_errno(file.write_at(u64::MAX, b"x"), libc::EFBIG);
    check_errno(file.write_at(i64::MAX as u64, b"x"), libc::EFBIG);
    check_errno(file.set_len(1 << 63), libc::EFBIG);
    put(&file, 4 << 30, b"far");
    assert_eq!(file.len().expect("length"), (4 << 30) + 3);
    let missing = disk.open(B, How::ReadWrite).expect_err("missing");
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    let taken = disk.open(A, How::CreateNew).expect_err("taken");
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(disk.rename(B, A).expect_err("missing").kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.remove(B).expect_err("missing").kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.violations(), Vec::<String>::new());
}

#[test]
fn the_lock_admits_one_holder() {
    let disk = SimDisk::new(1);
    let held = disk.lock().expect("free");
    assert!(matches!(disk.clone().lock(), Err(LockError::Held)));
    assert!(matches!(disk.lock(), Err(LockError::Held)), "refused without taking it away");
    drop(held);
    drop(disk.lock().expect("free again"));
    assert_eq!(disk.files(), [(FileName::Lock, 0)]);
}

#[test]
fn the_clock_stands_still_unless_told_otherwise() {
    let disk = SimDisk::new(1);
    let start = disk.now();
    assert_eq!(disk.now(), start);
    disk.advance(Duration::from_millis(5));
    assert_eq!(disk.now() - start, Duration::from_millis(5));
    disk.set_clock_jumps(Some(3));
    let readings: Vec<_> = (0..200).map(|_| disk.now()).collect();
    assert!(readings.is_sorted());
    let steps = readings.windows(2).map(|pair| pair[1] - pair[0]);
    let (shortest, longest) = (steps.clone().min(), steps.max());
    assert!(shortest < Some(Duration::from_micros(1)) && longest > Some(Duration::from_secs(60)));
    disk.set_clock_jumps(None);
    assert_eq!(disk.now(), disk.now());
    assert!(disk.crash(CrashChoice::Nothing).now() >= start);
}

#[test]
fn threads_are_real() {
    let disk = SimDisk::new(1);
    let (tell, told) = crossbeam_channel::bounded(1);
    let body = Box::new(move || tell.send(7).expect("heard"));
    let thread = disk.spawn("test".to_owned(), body).expect("started");
    assert_eq!(told.recv(), Ok(7));
    assert!(thread.join());
}
