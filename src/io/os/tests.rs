//! The real disk against a real directory; tests of another process run this binary again.

use std::io::{ErrorKind, IoSlice};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;
use crate::io::{DiskFile, PAGE_LEN, read_exact_at, write_all_at, write_all_vectored_at};

const SEGMENT: FileName = FileName::Segment(1);

/// A store's directory that goes away with the test.
struct Scratch {
    root: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Scratch {
        Scratch { root: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("store")
    }

    fn disk(&self) -> OsDisk {
        OsDisk::create(&self.path()).expect("a new directory")
    }

    fn file_path(&self, name: FileName) -> PathBuf {
        self.path().join(name.to_string())
    }
}

fn file_with(disk: &OsDisk, name: FileName, content: &[u8]) -> OsFile {
    let file = disk.open(name, How::CreateNew).expect("a new file");
    write_all_at(&file, 0, content).expect("written");
    file
}

#[track_caller]
fn check_kind<T>(result: io::Result<T>, kind: ErrorKind) {
    assert_eq!(result.err().expect("an error").kind(), kind);
}

#[test]
fn bytes_written_are_read_back_through_every_way_to_open() {
    let scratch = Scratch::new();
    let disk = scratch.disk();
    let file = disk.open(SEGMENT, How::CreateNew).expect("created");
    assert!(file.is_empty().expect("length"));
    let mut parts = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cdef")];
    write_all_vectored_at(&file, 1, &mut parts).expect("written");
    file.sync_data().expect("synced");
    disk.sync_dir().expect("synced");

    for how in [How::Read, How::ReadWrite] {
        let again = disk.open(SEGMENT, how).expect("opened");
        let mut buf = [9; 7];
        read_exact_at(&again, 0, &mut buf).expect("read");
        assert_eq!(&buf, b"\0abcdef");
        assert_eq!(again.read_at(7, &mut buf).expect("read"), 0);
        check_kind(read_exact_at(&again, 1, &mut buf), ErrorKind::UnexpectedEof);
    }
    let read_only = disk.open(SEGMENT, How::Read).expect("opened");
    assert!(read_only.write_at(0, b"x").is_err());
    check_kind(disk.open(SEGMENT, How::CreateNew), ErrorKind::AlreadyExists);
    check_kind(disk.open(FileName::Meta, How::ReadWrite), ErrorKind::NotFound);
}

#[test]
fn direct_writes_of_aligned_pages_show_in_ordinary_reads() {
    let scratch = Scratch::new();
    let disk = scratch.disk();
    file_with(&disk, SEGMENT, &[1; 3 * PAGE_LEN]);
    let direct = disk.open(SEGMENT, How::ReadWriteDirect).expect("opened");
    let mut pages = AlignedBuf::with_capacity(2 * PAGE_LEN);
    pages.resize_zeroed(2 * PAGE_LEN);
    pages.as_mut_slice().fill(2);
    write_all_at(&direct, PAGE_LEN as u64, pages.as_slice()).expect("written");
    direct.zero(0, PAGE_LEN as u64).expect("zeroed");

    let mut found = vec![9; 3 * PAGE_LEN];
    read_exact_at(&disk.open(SEGMENT, How::Read).expect("opened"), 0, &mut found).expect("read");
    assert!(found[..PAGE_LEN].iter().all(|b| *b == 0));
    assert!(found[PAGE_LEN..].iter().all(|b| *b == 2));
}

#[test]
fn zeroing_replaces_old_bytes_and_extends_the_file() {
    let scratch = Scratch::new();
    let disk = scratch.disk();
    for refused in [false, true] {
        if refused {
            disk.zeroing.note_refusal();
        }
        let name = FileName::Temporary(u64::from(refused));
        let file = file_with(&disk, name, &[5; 10_000]);
        let len = (1 << 20) + 4096;
        file.zero(4096, len).expect("zeroed");
        file.zero(0, 0).expect("nothing to do");
        file.sync_data().expect("synced");
        assert_eq!(file.len().expect("length"), 4096 + len);
        let mut found = vec![9; 4096 + len as usize];
        read_exact_at(&file, 0, &mut found).expect("read");
        assert!(found[..4096].iter().all(|b| *b == 5));
        assert!(found[4096..].iter().all(|b| *b == 0));
    }
    check_kind(file_with(&disk, SEGMENT, b"").zero(u64::MAX - 1, 4096), ErrorKind::InvalidInput);
}

#[test]
fn a_view_reaches_beyond_the_end_and_shows_later_writes() {
    let scratch = Scratch::new();
    let disk = scratch.disk();
    let file = file_with(&disk, SEGMENT, b"old");
    let mut view = file.map(1 << 20).expect("mapped");
    write_all_at(&file, 100_000, b"new").expect("written");
    let cut = view.bytes(100_000, 3).expect("in the view");
    assert_eq!(&cut[..], b"new");
    assert_eq!(&view.bytes(0, 3).expect("in the view")[..], b"old");
    check_kind(view.bytes((1 << 20) - 1, 2), ErrorKind::UnexpectedEof);
    check_kind(view.bytes(u64::MAX, 2), ErrorKind::UnexpectedEof);
    assert!(view.bytes(1 << 20, 0).expect("the empty end").is_empty());

    assert!(view.is_shared());
    let copy = cut.slice(1..);
    drop(cut);
    assert!(view.is_shared());
    let later = view.bytes(0, 1).expect("still readable");
    drop(copy);
    assert!(view.is_shared());
    drop(later);
    assert!(!view.is_shared());
    let outlives = view.bytes(100_000, 3).expect("in the view");
    drop((view, file, disk));
    assert_eq!(&outlives[..], b"new");
}

#[test]
fn an_empty_file_can_be_mapped() {
    let scratch = Scratch::new();
    let file = file_with(&scratch.disk(), SEGMENT, b"");
    let mut view = file.map(0).expect("mapped");
    assert!(view.bytes(0, 0).expect("nothing").is_empty());
    check_kind(view.bytes(0, 1), ErrorKind::UnexpectedEof);
    assert!(!view.is_shared());
}

#[test]
fn files_are_renamed_removed_and_listed() {
    let scratch = Scratch::new();
    let disk = scratch.disk();
    file_with(&disk, FileName::Temporary(7), b"new");
    file_with(&disk, FileName::Meta, b"old one");
    disk.rename(FileName::Temporary(7), FileName::Meta).expect("renamed");
    file_with(&disk, SEGMENT, b"");
    disk.remove(SEGMENT).expect("removed");
    check_kind(disk.remove(SEGMENT), ErrorKind::NotFound);
    std::fs::write(scratch.path().join("notes\n.txt"), b"mine").expect("written");
    std::fs::create_dir(scratch.file_path(SEGMENT)).expect("made");
    let mut found = disk.list().expect("listed");
    found.sort_by_key(|entry| format!("{entry:?}"));
    let expected = vec![
        Entry::File { name: FileName::Meta, len: 3 },
        Entry::NotAFile { name: SEGMENT },
        Entry::Unknown { name: "notes\\n.txt".to_owned() },
    ];
    assert_eq!(found, expected);
    assert_eq!(disk.list().expect("listed again").len(), 3);
}

#[test]
fn what_is_not_a_plain_file_is_refused_without_waiting() {
    let scratch = Scratch::new();
    let disk = scratch.disk();
    let target = scratch.root.path().join("target");
    std::fs::write(&target, b"another's").expect("written");
    symlink(&target, scratch.file_path(FileName::Segment(1))).expect("linked");
    mkfifo(&scratch.file_path(FileName::Segment(2)), Mode::S_IRWXU).expect("made");
    std::fs::create_dir(scratch.file_path(FileName::Segment(3))).expect("made");
    symlink("nowhere", scratch.file_path(FileName::Lock)).expect("linked");
    for n in 1..=3 {
        for how in [How::Read, How::ReadWrite, How::ReadWriteDirect] {
            check_kind(disk.open(FileName::Segment(n), how), ErrorKind::InvalidInput);
        }
        check_kind(disk.open(FileName::Segment(n), How::CreateNew), ErrorKind::AlreadyExists);
    }
    assert!(matches!(disk.lock(), Err(LockError::Io(_))));
    assert_eq!(std::fs::read(&target).expect("read"), b"another's");
}

#[test]
fn a_second_name_is_refused_where_others_can_write() {
    let scratch = Scratch::new();
    let disk = scratch.disk();
    file_with(&disk, SEGMENT, b"");
    std::fs::hard_link(scratch.file_path(SEGMENT), scratch.root.path().join("second"))
        .expect("linked");
    disk.open(SEGMENT, How::Read).expect("a second name does no harm in a private directory");
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o777)).expect("widened");
    let widened = OsDisk::open(&scratch.path()).expect("opened");
    check_kind(widened.open(SEGMENT, How::Read), ErrorKind::PermissionDenied);
}

#[test]
fn a_link_to_the_directory_is_followed_once() {
    let scratch = Scratch::new();
    file_with(&scratch.disk(), SEGMENT, b"in the store");
    let link = scratch.root.path().join("link");
    symlink(scratch.path(), &link).expect("linked");
    for way in [link.clone(), link.join("")] {
        let disk = OsDisk::open(&way).expect("opened");
        assert!(disk.is_directory_at(&scratch.path()).expect("looked at"));
        assert!(!disk.is_directory_at(scratch.root.path()).expect("looked at"));
        // Where the link leads from now on is nothing to an open store.
        std::fs::remove_file(&link).expect("removed");
        symlink(scratch.root.path(), &link).expect("linked");
        disk.open(SEGMENT, How::Read).expect("the same directory");
        std::fs::remove_file(&link).expect("removed");
        symlink(scratch.path(), &link).expect("linked");
    }
    check_kind(OsDisk::create(&scratch.path()), ErrorKind::AlreadyExists);
    check_kind(OsDisk::create(Path::new("/")), ErrorKind::InvalidInput);
    check_kind(OsDisk::open(&scratch.root.path().join("none")), ErrorKind::NotFound);
}

/// Names the directory for the run of this test in a process with another umask.
const UMASK_CHILD: &str = "AEGIS_TEST_UMASK_CHILD";

#[test]
fn modes_do_not_depend_on_the_umask() {
    if let Some(path) = std::env::var_os(UMASK_CHILD) {
        let disk = OsDisk::create(Path::new(&path)).expect("created");
        file_with(&disk, SEGMENT, b"x");
        drop(disk.lock().expect("locked"));
        return;
    }
    let name = "io::os::tests::modes_do_not_depend_on_the_umask";
    for umask in ["0277", "0000"] {
        let scratch = Scratch::new();
        let status = Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$0\" --exact {name}")])
            .arg(std::env::current_exe().expect("this binary"))
            .env(UMASK_CHILD, scratch.path())
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.expect("started").success());
        let mode = |path: PathBuf| path.metadata().expect("exists").mode() & 0o7777;
        assert_eq!(mode(scratch.path()), 0o700);
        assert_eq!(mode(scratch.file_path(SEGMENT)), 0o600);
        assert_eq!(mode(scratch.file_path(FileName::Lock)), 0o600);
    }
}

#[test]
fn the_lock_admits_one_holder_even_in_one_process() {
    let scratch = Scratch::new();
    let disk = scratch.disk();
    let other = OsDisk::open(&scratch.path()).expect("opened");
    let held = disk.lock().expect("locked");
    assert!(matches!(disk.lock(), Err(LockError::Held)));
    assert!(matches!(other.lock(), Err(LockError::Held)));
    drop(held);
    let held = other.lock().expect("free again");
    assert!(matches!(disk.lock(), Err(LockError::Held)));
    drop(held);
    assert!(scratch.file_path(FileName::Lock).exists());
}

#[test]
fn the_environment_has_a_clock_randomness_and_threads() {
    let scratch = Scratch::new();
    let disk = scratch.disk();
    let before = disk.now();
    assert!(disk.now() >= before);
    let (mut one, mut two) = ([0; 32], [0; 32]);
    disk.random(&mut one).expect("random");
    disk.random(&mut two).expect("random");
    assert_ne!(one, two);
    assert!(disk.free_space().expect("space") > 0);
    assert_eq!(disk.path(), scratch.path());

    let body = || assert_eq!(std::thread::current().name(), Some("worker-1"));
    let thread = disk.spawn("worker-1".to_owned(), Box::new(body)).expect("started");
    assert!(thread.join());
    let thread = disk.spawn("worker-2".to_owned(), Box::new(|| panic!("on purpose")));
    assert!(!thread.expect("started").join());
}

/// A later opening notices a map, even when nothing else of the first opening is left.
#[test]
fn map_is_noticed_as_long_as_bytes_of_it_are_held() {
    let scratch = Scratch::new();
    let disk = scratch.disk();
    drop(file_with(&disk, SEGMENT, &[7; 3 * PAGE_LEN]));
    let is_mapped =
        |disk: &OsDisk| disk.open(SEGMENT, How::ReadWrite).expect("the file").is_mapped_elsewhere();
    assert!(!is_mapped(&disk), "there is no map yet");
    let view = disk.open(SEGMENT, How::Read).expect("the file").map(3 * PAGE_LEN).expect("a map");
    let held = view.bytes(PAGE_LEN as u64, 9).expect("bytes");
    drop(disk);
    let later = OsDisk::open(&scratch.path()).expect("the directory");
    assert!(is_mapped(&later), "the view is there");
    drop(view);
    assert!(is_mapped(&later), "the bytes are held");
    assert_eq!(held, [7; 9][..]);
    drop(held);
    assert!(!is_mapped(&later), "no view and no bytes are left");
}

#[test]
fn a_mode_that_the_file_system_does_not_keep_is_told_and_no_error() {
    // Modes of files below /proc cannot be changed, not even by root.
    let open_to_all = std::fs::File::open("/proc/self/status").expect("a file");
    assert!(fchmod(&open_to_all, FILE_MODE).is_err(), "a file system without modes");
    assert!(!set_exact_mode(&open_to_all, FILE_MODE).expect("no error"));
    let all = Mode::S_IRWXU | Mode::S_IRWXG | Mode::S_IRWXO;
    assert!(set_exact_mode(&open_to_all, all).expect("no error"), "that mode forbids nothing");
    let own = tempfile::tempfile().expect("a temporary file");
    assert!(set_exact_mode(&own, FILE_MODE).expect("set"));

    let scratch = Scratch::new();
    let open = |disk| crate::LocalBackend::open_on(disk, crate::LocalBackend::options());
    let store = open(scratch.disk()).expect("a store");
    assert!(!store.recovery().modes_refused);
    store.close().expect("a clean close");
    let disk = OsDisk::open(&scratch.path()).expect("opened");
    disk.modes_refused.store(true, Ordering::Relaxed);
    assert!(open(disk).expect("a store").recovery().modes_refused);
}
