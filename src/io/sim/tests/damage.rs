//! Damage between two runs.

use super::*;

#[test]
fn damage_is_durable_at_once_and_no_operation() {
    let (disk, _) = disk_with(A, b"abcdef");
    let before = disk.operations();
    disk.inject(Fault { at_operation: 0, kind: FaultKind::Eio, sticky: true });
    disk.flip_bit(A, 1, 7);
    disk.overwrite(A, 4, b"xyz");
    disk.copy_file(A, B);
    disk.truncate(B, 2);
    disk.put_file(FileName::Meta, b"meta");
    let found = disk.crash(CrashChoice::Nothing);
    assert_eq!(found.contents(A).expect("there"), b"a\xe2cdxyz");
    assert_eq!(found.files(), [(FileName::Meta, 4), (A, 7), (B, 2)]);
    disk.remove_file(A);
    disk.truncate(B, 4);
    let found = disk.crash(CrashChoice::Nothing);
    assert_eq!(found.contents(A), None);
    assert_eq!(found.contents(B).expect("there"), b"a\xe2\0\0");
    assert_eq!((disk.operations(), disk.faults_struck()), (before, 0));
}

#[test]
fn a_file_can_come_from_another_disk() {
    let (disk, _) = disk_with(A, b"mine");
    let (other, _) = disk_with(B, b"theirs");
    disk.copy_file_from(&other, B, A);
    other.flip_bit(B, 0, 0);
    disk.copy_file_from(&disk, A, B);
    assert_eq!(disk.contents(A).expect("there"), b"theirs");
    assert_eq!(disk.contents(B).expect("there"), b"theirs");
}

#[test]
fn what_is_not_ours_is_listed_and_not_opened() {
    let (disk, _) = disk_with(A, b"abc");
    let strangers = [Entry::NotAFile { name: B }, Entry::Unknown { name: "notes.txt".to_owned() }];
    strangers.iter().for_each(|entry| disk.add_entry(entry.clone()));
    let found = disk.crash(CrashChoice::Nothing).list().expect("listed");
    assert_eq!(found[0], Entry::File { name: A, len: 3 });
    assert_eq!(found[1..], strangers);
    let refused = disk.open(B, How::Read).expect_err("not a file");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    let refused = disk.open(B, How::CreateNew).expect_err("in the way");
    assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
#[should_panic(expected = "no bit 0 at 3 of SEG-0000000000000001")]
fn damage_beyond_the_end_is_a_mistake() {
    disk_with(A, b"abc").0.flip_bit(A, 3, 0);
}
