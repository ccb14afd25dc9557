//! Errors on purpose, failed syncs, lying syncs and full disks.

use super::*;
use crate::io::read_exact_at;

fn fault(at_operation: u64, kind: FaultKind, sticky: bool) -> Fault {
    Fault { at_operation, kind, sticky }
}

#[test]
fn a_fault_strikes_its_operation_once_or_all_from_there_on() {
    for sticky in [false, true] {
        let (disk, file) = disk_with(A, b"abc");
        let next = disk.operations();
        disk.inject(fault(next + 1, FaultKind::Eio, sticky));
        assert_eq!(file.len().expect("not yet"), 3);
        check_errno(file.len(), libc::EIO);
        assert_eq!(file.len().is_err(), sticky);
        assert_eq!(disk.list().is_err(), sticky);
        assert_eq!(disk.faults_struck(), if sticky { 3 } else { 1 });
        assert_eq!(disk.operations(), next + 4);
        disk.clear_faults();
        file.len().expect("no fault is left");
    }
}

#[test]
fn a_fault_passes_by_what_it_does_not_concern() {
    let (disk, file) = disk_with(A, b"abc");
    let kinds = [FaultKind::Enospc, FaultKind::Edquot, FaultKind::WriteZero, FaultKind::Lie];
    for kind in kinds {
        disk.inject(fault(0, kind, true));
    }
    file.read_at(0, &mut [0]).expect("reading needs no space");
    file.len().expect("nor does this");
    disk.remove(A).expect("nor does this");
    assert_eq!(disk.faults_struck(), 0);
    check_errno(file.write_at(0, b"x"), libc::ENOSPC);
    check_errno(file.sync_data(), libc::ENOSPC);
    check_errno(disk.open(B, How::CreateNew), libc::ENOSPC);
    disk.clear_faults();
    disk.inject(fault(0, FaultKind::Edquot, true));
    check_errno(file.zero(0, 1), libc::EDQUOT);
    check_errno(disk.sync_dir(), libc::EDQUOT);
}

#[test]
fn a_fault_can_wait_for_a_kind_of_operation_on_one_file() {
    let (disk, file) = disk_with(A, b"");
    let other = new_file(&disk, B);
    disk.inject_on(OperationKind::SyncData, Some(B), 1, FaultKind::Eio, false);
    file.sync_data().expect("another file");
    other.sync_data().expect("the first one");
    file.sync_data().expect("another file");
    check_errno(other.sync_data(), libc::EIO);
    other.sync_data().expect("once only");
}

#[test]
fn short_transfers_of_every_class_are_finished_by_the_loops() {
    for share in [Share::OneByte, Share::Half, Share::AllButOne] {
        let (disk, file) = disk_with(A, b"");
        disk.inject(fault(0, FaultKind::ShortWrite(share), true));
        disk.inject_on(OperationKind::Read, None, 0, FaultKind::ShortRead(share), true);
        let expected = match share {
            Share::OneByte => 1,
            Share::Half => 5,
            Share::AllButOne => 8,
        };
        assert_eq!(file.write_at(0, b"123456789").expect("some"), expected);
        assert_eq!(file.len().expect("length"), expected as u64);
        put(&file, 0, b"123456789");
        let mut found = [0; 9];
        assert_eq!(file.read_at(0, &mut found).expect("some"), expected);
        read_exact_at(&file, 0, &mut found).expect("all");
        assert_eq!(&found, b"123456789");
    }
}

#[test]
fn a_direct_write_is_cut_between_pages() {
    let (disk, _) = disk_with(A, b"");
    let file = disk.open(A, How::ReadWriteDirect).expect("opened");
    disk.inject(fault(0, FaultKind::ShortWrite(Share::AllButOne), true));
    let mut pages = crate::io::AlignedBuf::with_capacity(3 * 4096);
    pages.resize_zeroed(3 * 4096);
    assert_eq!(file.write_at(0, pages.as_slice()).expect("some"), 2 * 4096);
    put(&file, 0, pages.as_slice());
}

#[test]
fn a_write_of_nothing_and_an_interruption_are_not_the_same() {
    let (disk, file) = disk_with(A, b"old");
    disk.inject(fault(0, FaultKind::WriteZero, true));
    let error = write_all_at(&file, 0, b"new").expect_err("no progress");
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    disk.clear_faults();
    disk.inject(fault(0, FaultKind::Eintr, true));
    check_errno(file.write_at(0, b"xxx"), libc::EINTR);
    assert_eq!(disk.contents(A).expect("there"), b"old");
    file.write_at(0, b"1").expect("every other one succeeds");
    put(&file, 0, b"new");
    assert_eq!(disk.contents(A).expect("there"), b"new");
}

#[test]
fn a_failed_write_may_have_got_half_of_the_way() {
    let (disk, file) = disk_with(A, &sectors(&[1, 1, 1, 1]));
    disk.inject_on(OperationKind::Write, None, 0, FaultKind::Eio, false);
    check_errno(file.write_at(0, &sectors(&[2, 2, 2, 2])), libc::EIO);
    assert_eq!(sector_values(&disk.contents(A).expect("there")), [2, 2, 1, 1]);
    assert_eq!(disk.pending_units(), 2);

    disk.inject_on(OperationKind::Zero, None, 0, FaultKind::Enospc, false);
    check_errno(file.zero(2048, 8192), libc::ENOSPC);
    assert_eq!(file.len().expect("length"), 2048 + 4096);
}

#[test]
fn an_operation_may_take_effect_and_still_report_an_error() {
    let (disk, file) = disk_with(A, b"old");
    disk.inject(fault(0, FaultKind::EioAfterEffect, true));
    check_errno(file.write_at(0, b"new"), libc::EIO);
    check_errno(file.sync_data(), libc::EIO);
    assert_eq!(left(&disk, CrashChoice::Nothing, A).expect("there"), b"new");
    check_errno(disk.rename(A, B), libc::EIO);
    check_errno(disk.open(A, How::CreateNew), libc::EIO);
    assert_eq!(disk.files(), [(A, 0), (B, 3)]);
    assert!(matches!(disk.lock(), Err(LockError::Io(_))));
    disk.clear_faults();
    drop(disk.lock().expect("not held by the call that failed"));
}

#[test]
fn after_a_failed_sync_the_next_one_succeeds_and_keeps_nothing() {
    let (disk, file) = disk_with(A, b"old");
    put(&file, 0, b"new");
    disk.copy_file(A, B);
    let other = disk.open(B, How::ReadWrite).expect("there");
    put(&other, 0, b"OK!");
    disk.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eio, false);
    check_errno(file.sync_data(), libc::EIO);
    file.sync_data().expect("as if nothing had happened");
    other.sync_data().expect("synced");
    assert_eq!(left(&disk, CrashChoice::Nothing, B).expect("there"), b"OK!");
    assert_eq!(disk.contents(A).expect("there"), b"new", "the cache still has it");
    assert_eq!(left(&disk, CrashChoice::Nothing, A).expect("there"), b"old");
    assert_eq!(left(&disk, CrashChoice::Everything, A).expect("there"), b"new");

    put(&file, 4096, b"later");
    file.sync_data().expect("synced");
    let found = left(&disk, CrashChoice::Nothing, A).expect("there");
    assert_eq!((&found[..3], &found[4096..]), (&b"old"[..], &b"later"[..]));
    disk.drop_caches();
    assert_eq!(disk.contents(A).expect("there"), found, "the cache may go at any time");
    assert_eq!(disk.pending_units(), 0);
}

#[test]
fn an_interrupted_sync_is_a_failed_one() {
    let (disk, file) = disk_with(A, b"old");
    put(&file, 0, b"new");
    disk.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eintr, false);
    check_errno(file.sync_data(), libc::EINTR);
    file.sync_data().expect("as if nothing had happened");
    assert_eq!(left(&disk, CrashChoice::Nothing, A).expect("there"), b"old");
}

#[test]
fn a_synced_write_is_not_undone_by_an_older_doubtful_one() {
    let (disk, file) = disk_with(A, b"old");
    put(&file, 0, b"doubtful");
    file.set_len(2).expect("cut");
    disk.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eio, false);
    check_errno(file.sync_data(), libc::EIO);
    put(&file, 0, b"new");
    file.sync_data().expect("synced");
    for choice in subsets(&disk) {
        assert_eq!(left(&disk, choice, A).expect("there"), b"new");
    }
}

#[test]
fn a_failed_sync_may_take_the_cached_bytes_back() {
    let (disk, file) = disk_with(A, b"old");
    disk.set_sync_failure(SyncFailure::CacheReverted);
    put(&file, 0, b"new and longer");
    disk.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eio, false);
    check_errno(file.sync_data(), libc::EIO);
    assert_eq!(disk.contents(A).expect("there"), b"old");
    assert_eq!(left(&disk, CrashChoice::Everything, A).expect("there"), b"old");
}

#[test]
fn after_a_failed_directory_sync_names_stay_in_doubt() {
    let (disk, _) = disk_with(A, b"");
    disk.rename(A, B).expect("renamed");
    disk.inject_on(OperationKind::SyncDir, None, 0, FaultKind::Eio, false);
    check_errno(disk.sync_dir(), libc::EIO);
    disk.sync_dir().expect("as if nothing had happened");
    assert_eq!(disk.crash(CrashChoice::Nothing).files(), [(A, 0)]);
    assert_eq!(disk.crash(CrashChoice::only(0)).files(), [(B, 0)]);
    disk.remove(B).expect("removed");
    disk.sync_dir().expect("synced");
    for choice in subsets(&disk) {
        assert_eq!(disk.crash(choice).contents(B), None, "the remove is durable");
    }
}

#[test]
fn a_lying_sync_reports_success_and_does_nothing() {
    let (disk, file) = disk_with(A, b"old");
    put(&file, 0, b"new");
    new_file(&disk, B);
    disk.inject(fault(0, FaultKind::Lie, true));
    file.sync_data().expect("a lie");
    disk.sync_dir().expect("a lie");
    let found = disk.crash(CrashChoice::Nothing);
    assert_eq!((found.files(), found.contents(A)), (vec![(A, 3)], Some(b"old".to_vec())));
}

#[test]
fn a_full_disk_takes_what_fits_and_names_and_lengths_need_no_space() {
    let (disk, file) = disk_with(A, &[1; 4096]);
    disk.set_capacity(Some(3 * 4096));
    assert_eq!(disk.free_space().expect("space"), 2 * 4096);
    assert_eq!(file.write_at(4096, &[2; 3 * 4096]).expect("some"), 2 * 4096);
    assert_eq!(disk.free_space().expect("space"), 0);
    check_errno(file.write_at(3 * 4096, b"x"), libc::ENOSPC);
    check_errno(file.zero(3 * 4096, 1), libc::ENOSPC);
    put(&file, 0, &[3; 4096]);
    let other = new_file(&disk, B);
    other.set_len(1 << 30).expect("no space is taken");
    check_errno(other.write_at(5, b"x"), libc::ENOSPC);
    file.set_len(4096).expect("cut");
    check_errno(other.zero(0, 1 << 20), libc::ENOSPC);
    assert_eq!(disk.free_space().expect("space"), 0, "zeroing took what there was");
}

#[test]
fn a_removed_file_takes_space_until_it_is_closed() {
    let (disk, file) = disk_with(A, &[1; 4096]);
    disk.set_capacity(Some(4096));
    let view = file.map(4096).expect("mapped");
    disk.remove(A).expect("removed");
    disk.sync_dir().expect("synced");
    let mut byte = [0];
    file.read_at(0, &mut byte).expect("still open");
    assert_eq!(byte, [1]);
    drop(file);
    assert_eq!(disk.free_space().expect("space"), 0, "a view holds it");
    drop(view);
    assert_eq!(disk.free_space().expect("space"), 4096);
    assert_eq!(disk.shared.state.lock().media.files.len(), 0, "nothing is left of it");
}
