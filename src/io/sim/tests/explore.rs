//! Crash points: where a run stops, what it then sees, and copies of the disk along the way.

use super::*;

/// Creates, writes, syncs, renames, removes: eleven operations, then some that change nothing.
fn run(disk: &SimDisk) -> io::Result<()> {
    let first = disk.open(A, How::CreateNew)?;
    write_all_at(&first, 0, &sectors(&[1, 2]))?;
    first.sync_data()?;
    disk.set_mark(1);
    disk.sync_dir()?;
    let second = disk.open(FileName::Temporary(1), How::CreateNew)?;
    second.zero(0, 4096)?;
    write_all_at(&second, 100, b"meta")?;
    second.sync_data()?;
    disk.rename(FileName::Temporary(1), FileName::Meta)?;
    disk.sync_dir()?;
    disk.set_mark(2);
    disk.remove(A)?;
    disk.list()?;
    disk.open(FileName::Meta, How::Read)?.read_at(0, &mut [0; 10])?;
    Ok(())
}

fn everything(disk: &SimDisk) -> Vec<(FileName, Option<Vec<u8>>)> {
    disk.files().into_iter().map(|(name, _)| (name, disk.contents(name))).collect()
}

#[test]
fn an_image_is_the_disk_that_a_cut_at_its_operation_leaves() {
    let disk = SimDisk::new(1);
    disk.record_images();
    disk.record_operations();
    run(&disk).expect("no fault");
    let operations = disk.take_operations();
    let changes = operations.iter().filter(|operation| operation.kind.is_change());
    let images = disk.take_images();
    assert!(images.iter().map(|image| image.operation).eq(changes.map(|change| change.index)));
    assert_eq!(images.iter().map(|image| image.mark).max(), Some(2));
    assert_eq!(disk.operations(), operations.len() as u64);
    for image in images {
        let again = SimDisk::new(1);
        again.crash_at(image.operation, false);
        let error = run(&again).expect_err("crashed");
        assert!(is_power_loss(&error), "{error}");
        assert_eq!(again.pending_units(), image.disk.pending_units());
        for choice in again.crash_choices(5) {
            let (one, two) = (again.crash(choice.clone()), image.disk.crash(choice));
            assert_eq!(everything(&one), everything(&two));
        }
    }
}

#[test]
fn the_operation_that_crashes_may_have_taken_effect() {
    let disk = SimDisk::new(1);
    run(&disk).expect("no fault");
    for at in 0..disk.operations() {
        let [before, after, next] =
            [(at, false), (at, true), (at + 1, false)].map(|(at, effect)| {
                let disk = SimDisk::new(1);
                disk.crash_at(at, effect);
                assert!(run(&disk).is_err() || at == disk.operations());
                disk
            });
        for choice in [CrashChoice::Nothing, CrashChoice::Everything] {
            let [_, after, next] =
                [&before, &after, &next].map(|disk| everything(&disk.crash(choice.clone())));
            assert_eq!(after, next, "operation {at}");
        }
    }
}

#[test]
fn after_the_cut_every_call_fails_and_nothing_changes() {
    let (disk, file) = disk_with(A, b"old");
    let view = file.map(3).expect("mapped");
    put(&file, 0, b"new");
    disk.crash_at(disk.operations(), false);
    assert!(!disk.is_crashed());
    let failures = [
        file.write_at(0, b"x").map(|_| ()),
        file.read_at(0, &mut [0]).map(|_| ()),
        file.sync_data(),
        file.zero(0, 1),
        file.set_len(0),
        file.len().map(|_| ()),
        file.map(1).map(|_| ()),
        disk.sync_dir(),
        disk.rename(A, B),
        disk.remove(A),
        disk.list().map(|_| ()),
        disk.free_space().map(|_| ()),
        disk.open(A, How::Read).map(|_| ()),
        disk.open(B, How::CreateNew).map(|_| ()),
    ];
    assert!(disk.is_crashed());
    for (call, result) in failures.into_iter().enumerate() {
        assert!(is_power_loss(&result.expect_err("crashed")), "call {call}");
    }
    assert!(matches!(disk.lock(), Err(LockError::Io(e)) if is_power_loss(&e)));
    assert_eq!(&view.bytes(0, 3).expect("memory")[..], b"new");
    assert_eq!(left(&disk, CrashChoice::Nothing, A).expect("there"), b"old");
    assert!(!is_power_loss(&io::Error::other("crashed")));
}

#[test]
fn a_crashed_disk_and_its_origin_go_separate_ways() {
    let (disk, file) = disk_with(A, &[1; 10_000]);
    let lock = disk.lock().expect("free");
    disk.inject(Fault { at_operation: 0, kind: FaultKind::Eio, sticky: true });
    let restarted = disk.crash(CrashChoice::Everything);
    disk.clear_faults();
    drop(restarted.lock().expect("locks do not survive, nor do faults"));
    let other = restarted.open(A, How::ReadWrite).expect("there");
    put(&other, 0, &[2; 10_000]);
    put(&file, 5000, &[3; 10]);
    assert_eq!(restarted.contents(A).expect("there"), [2; 10_000]);
    assert_eq!(disk.contents(A).expect("there")[..5000], [1; 5000]);
    assert_eq!(left(&restarted, CrashChoice::Nothing, A).expect("there"), [1; 10_000]);
    drop(lock);
}

#[test]
fn a_frozen_copy_keeps_what_is_pending() {
    let (disk, file) = disk_with(A, b"old");
    put(&file, 0, b"new");
    let frozen = disk.freeze();
    file.sync_data().expect("synced");
    assert_eq!((disk.pending_units(), frozen.pending_units()), (0, 1));
    assert_eq!(frozen.contents(A).expect("there"), b"new");
    assert_eq!(left(&frozen, CrashChoice::Nothing, A).expect("there"), b"old");
}

#[test]
fn a_restarted_machine_draws_new_random_bytes() {
    let draw = |disk: &SimDisk| {
        let mut bytes = [0; 16];
        disk.random(&mut bytes).expect("random");
        bytes
    };
    let disk = SimDisk::new(1);
    let first = draw(&disk);
    assert_eq!(first, draw(&SimDisk::new(1)));
    assert_ne!(first, draw(&SimDisk::new(2)));
    assert_ne!(first, draw(&disk.crash(CrashChoice::Nothing)));
}
