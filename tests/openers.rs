//! Who may open a store, and where: what is no store, what lies among its files, other openers,
//! permissions and options. An opener that is refused is told why and has changed nothing.

#[path = "support/block.rs"]
mod block;
#[path = "support/closed.rs"]
mod closed;

use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::{
    Block, BlockId, BlockType, Error, IoOp, LocalBackend, NotAStoreReason, Options, Result,
    StorageBackend,
};

use block::block;
use closed::{check, closed_store, directory, everything, find, name, payload, refused};

// Paths that are not stores.

#[test]
fn directory_of_other_files_is_not_a_store() {
    let (directory, path) = directory();
    fs::create_dir(&path).expect("a directory");
    fs::write(path.join("letter.txt"), "dear reader").expect("a file");
    let error = refused(&directory, || LocalBackend::open(&path));
    assert!(
        matches!(&error, Error::NotAStore { path: named, reason: NotAStoreReason::ForeignFiles }
            if *named == path),
        "{error:?}"
    );
}

#[test]
fn file_in_place_of_the_directory_is_not_a_store() {
    let (directory, path) = directory();
    fs::write(&path, "a file").expect("a file");
    for below in [path.clone(), path.join("deeper")] {
        let error = refused(&directory, || LocalBackend::open(&below));
        assert!(
            matches!(&error, Error::NotAStore { path, reason: NotAStoreReason::NotADirectory }
                if *path == below),
            "{error:?}"
        );
    }
}

#[test]
fn missing_store_is_not_made_unless_asked_for() {
    let (directory, path) = directory();
    let open = || LocalBackend::options().create(false).open(&path);
    let error = refused(&directory, open);
    let missing = |error: &Error| {
        matches!(error, Error::NotAStore { path: named, reason: NotAStoreReason::Missing }
            if *named == path)
    };
    assert!(missing(&error), "{error:?}");
    fs::create_dir(&path).expect("a directory");
    let error = refused(&directory, open);
    assert!(missing(&error), "{error:?}");
    // What an interrupted creation leaves is no store either.
    fs::write(path.join("SEG-0000000000000001"), [1; 4096]).expect("a segment without a frame");
    let error = refused(&directory, open);
    assert!(missing(&error), "{error:?}");
    let error = LocalBackend::probe(&path).expect_err("no store");
    assert!(missing(&error), "{error:?}");
    LocalBackend::open(&path).expect("a new store in an empty directory").close().expect("close");
    open().expect("the store, now that there is one").close().expect("close");
}

#[test]
fn link_or_pipe_in_place_of_a_file_is_refused() {
    for planted in ["META", "LOCK", "SEG"] {
        let (directory, path) = closed_store();
        let victim = fs::read_dir(&path)
            .expect("the store's directory")
            .map(|entry| entry.expect("an entry").path())
            .find(|file| name(file).starts_with(planted))
            .expect("a file of this kind");
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(&victim, &elsewhere).expect("the file moves away");
        let plants: [(&str, &dyn Fn()); 3] = [
            ("link", &|| symlink(&elsewhere, &victim).expect("a link")),
            ("directory", &|| fs::create_dir(&victim).expect("a directory")),
            ("pipe", &|| {
                let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
                nix::unistd::mkfifo(&victim, mode).expect("a pipe");
            }),
        ];
        for (what, plant) in plants {
            plant();
            let before = fs::symlink_metadata(&victim).expect("what was planted").file_type();
            let answer = LocalBackend::open(&path);
            let error = answer.expect_err("something else stands in place of a file");
            assert!(
                matches!(error, Error::NotAStore { reason: NotAStoreReason::UnsafeFile, .. }),
                "{what} in place of {}: {error:?}",
                name(&victim)
            );
            let after = fs::symlink_metadata(&victim).expect("what was planted").file_type();
            assert_eq!(before, after, "{what} in place of {} was replaced", name(&victim));
            let removed = if what == "directory" {
                fs::remove_dir(&victim)
            } else {
                fs::remove_file(&victim)
            };
            removed.expect("what was planted is gone");
        }
        fs::rename(&elsewhere, &victim).expect("the file comes back");
        check(&LocalBackend::open(&path).expect("the store opens again"), &[]);
    }
}

#[test]
fn unknown_files_are_reported_and_left_alone() {
    let (_directory, path) = closed_store();
    let strangers = ["letter.txt", "SEG-1", "META.bak", "TMP-zzzzzzzzzzzzzzzz"];
    for stranger in strangers {
        fs::write(path.join(stranger), stranger).expect("a file");
    }
    let store = LocalBackend::open(&path).expect("the store opens");
    assert_eq!(store.recovery().unknown_files, strangers.len() as u64);
    check(&store, &[]);
    store.close().expect("a clean close");
    for stranger in strangers {
        let found = fs::read(path.join(stranger)).expect("the file is still there");
        assert_eq!(found, stranger.as_bytes());
    }
}

#[test]
fn unknown_file_whose_name_is_no_text_is_left_alone() {
    use std::os::unix::ffi::OsStrExt;
    let (_keep, path) = closed_store();
    let name = path.join(std::ffi::OsStr::from_bytes(b"SEG-\xff\xfe"));
    std::fs::write(&name, "not ours").expect("a file");
    let store = LocalBackend::open(&path).expect("the store opens");
    assert_eq!(store.recovery().unknown_files, 1);
    store.close().expect("a clean close");
    assert_eq!(std::fs::read(&name).expect("still there"), b"not ours");
}

// Openers.

#[test]
fn second_opener_is_locked_out() {
    let (_directory, path) = closed_store();
    let store = LocalBackend::open(&path).expect("the first opener");
    let locked = |answer: Result<LocalBackend>| {
        let error = answer.expect_err("the store is open");
        assert!(matches!(&error, Error::Locked { path: named } if *named == path), "{error:?}");
    };
    locked(LocalBackend::open(&path));
    locked(LocalBackend::new(&path, false));
    let error = LocalBackend::verify(&path).expect_err("the store is open");
    assert!(matches!(&error, Error::Locked { .. }), "{error:?}");
    child("child_is_locked_out", &path);
    // A handle keeps the store open, and every opener that failed has taken nothing with it.
    let handle = store.clone();
    drop(store);
    locked(LocalBackend::open(&path));
    child("child_is_locked_out", &path);
    check(&handle, &[]);
    handle.close().expect("a clean close");
    child("child_opens", &path);
    check(&LocalBackend::open(&path).expect("the store, free again"), &[]);
}

#[test]
fn second_opener_is_locked_out_whatever_becomes_of_the_lock_file() {
    let (_directory, path) = closed_store();
    let lock = path.join("LOCK");
    for replaced in [false, true] {
        let store = LocalBackend::open(&path).expect("the first opener");
        fs::remove_file(&lock).expect("the lock file is removed");
        if replaced {
            fs::write(&lock, "").expect("and puts another one there");
        }
        let error = LocalBackend::open(&path).expect_err("the store is open");
        assert!(matches!(&error, Error::Locked { path: named } if *named == path), "{error:?}");
        child("child_is_locked_out", &path);
        for answer in [
            LocalBackend::verify(&path).map(|_| ()),
            LocalBackend::salvage(&path, path.with_extension("out")).map(|_| ()),
            LocalBackend::repair(&path).map(|_| ()),
        ] {
            assert!(matches!(answer, Err(Error::Locked { .. })), "{answer:?}");
        }
        assert_eq!(lock.exists(), replaced, "who is refused leaves the lock file alone");
        check(&store, &[]);
        store.close().expect("a clean close");
        check(&LocalBackend::open(&path).expect("free again"), &[]);
        assert!(lock.exists(), "an opener makes the lock file anew");
    }
}

#[test]
fn second_opener_of_a_simulated_disk_is_locked_out() {
    let disk = SimDisk::new(1);
    let open = || LocalBackend::open_on(disk.clone(), LocalBackend::options());
    let store = open().expect("the first opener");
    let error = open().expect_err("the store is open");
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    store.write_block(block(1, "one")).expect("a write of the first opener");
    store.close().expect("a clean close");
    assert!(open().expect("free again").block_exists(BlockId(1)).expect("an answer"));
}

const CHILD: &str = "AEGIS_OPENERS_CHILD";

/// Runs one of the tests below in another process. It does nothing without a path from here.
fn child(test: &str, path: &Path) {
    let binary = std::env::current_exe().expect("this binary");
    let mut command = Command::new(binary);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, path);
    let output = command.output().expect("a child process");
    let words = String::from_utf8_lossy(&output.stdout);
    let done = output.status.success() && words.contains(&format!("done: {test}"));
    assert!(done, "{test}: {words}{}", String::from_utf8_lossy(&output.stderr));
    words.lines().filter(|line| line.starts_with("skipped: ")).for_each(|line| println!("{line}"));
}

fn path_for_child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

#[test]
fn child_is_locked_out() {
    let Some(path) = path_for_child() else { return };
    let error = LocalBackend::open(&path).expect_err("another process has it open");
    assert!(matches!(&error, Error::Locked { path: named } if *named == path), "{error:?}");
    println!("done: child_is_locked_out");
}

#[test]
fn child_opens() {
    let Some(path) = path_for_child() else { return };
    check(&LocalBackend::open(path).expect("no process has it open"), &[]);
    println!("done: child_opens");
}

#[test]
fn missing_permission_is_named() {
    let (directory, path) = closed_store();
    if !nix::unistd::geteuid().is_root() {
        without_permission(&path);
        return;
    }
    // Root has every permission, so a child gives it away, on a store of root's and on one of its
    // own. It may come as far as the store's directory.
    let passable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), passable).expect("the parent lets others pass");
    child("child_without_permission", &path);
    check(&LocalBackend::open(&path).expect("root opens it"), &[]);
    for path in everything(&path).keys() {
        nix::unistd::chown(path, Some(UNPRIVILEGED), None).expect("root gives files away");
    }
    child("child_with_its_own_store", &path);
}

const UNPRIVILEGED: nix::unistd::Uid = nix::unistd::Uid::from_raw(65_534);

#[test]
fn child_without_permission() {
    let Some(path) = path_for_child() else { return };
    match nix::unistd::setuid(UNPRIVILEGED) {
        Ok(()) => refused_for_permission(&path, "a directory of root's"),
        Err(e) => println!("skipped: cannot become another user here: {e}"),
    }
    println!("done: child_without_permission");
}

#[test]
fn child_with_its_own_store() {
    let Some(path) = path_for_child() else { return };
    match nix::unistd::setuid(UNPRIVILEGED) {
        Ok(()) => without_permission(&path),
        Err(e) => println!("skipped: cannot become another user here: {e}"),
    }
    println!("done: child_with_its_own_store");
}

/// Takes permissions away one by one; each is named, and giving it back is all it takes.
fn without_permission(path: &Path) {
    let (segment, _) = find(path, payload(1).as_bytes());
    for victim in [path.to_path_buf(), path.join("META"), path.join("LOCK"), segment] {
        let before = fs::metadata(&victim).expect("it exists").permissions();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o000)).expect("no permission");
        refused_for_permission(path, &name(&victim));
        fs::set_permissions(&victim, before).expect("permission again");
        check(&LocalBackend::open(path).expect("the store opens again"), &[]);
    }
}

#[track_caller]
fn refused_for_permission(path: &Path, what: &str) {
    let error = LocalBackend::open(path).expect_err("there is no permission");
    assert!(
        matches!(&error, Error::Io { op: IoOp::Open | IoOp::Lock | IoOp::List, path: named, source }
            if source.kind() == ErrorKind::PermissionDenied && named.starts_with(path)),
        "{what}: {error:?}"
    );
}

#[test]
fn aborted_open_changes_nothing() {
    let (directory, path) = closed_store();
    let abort = LocalBackend::options().on_progress(|_| ControlFlow::Break(()));
    let error = refused(&directory, || abort.open(&path));
    assert!(matches!(error, Error::Aborted), "{error:?}");
    check(&LocalBackend::open(&path).expect("the store opens"), &[]);
}

#[test]
fn contradicting_options_are_refused() {
    let (directory, path) = directory();
    let options = LocalBackend::options;
    let cases: [(&str, Options); 8] = [
        ("segment_len_max", options().segment_len_max(4096)),
        ("segment_len_max", options().segment_len_max(4 << 30)),
        ("segment_len_max", options().segment_len_max((1 << 20) + 1)),
        ("block_len_max", options().segment_len_max(1 << 20).block_len_max(1 << 20)),
        ("io_threads", options().io_threads(0)),
        ("space_amplification_max", options().space_amplification_max(1.0)),
        ("space_amplification_max", options().space_amplification_max(-2.0)),
        ("space_amplification_max", options().space_amplification_max(f64::NAN)),
    ];
    for (named, options) in cases {
        let error = refused(&directory, || options.open(&path));
        assert!(
            matches!(error, Error::InvalidArgument { argument, .. } if argument == named),
            "{named}: {error:?}"
        );
    }
}

#[test]
fn longest_block_follows_the_segment_unless_it_is_chosen() {
    let (_directory, path) = directory();
    let store = LocalBackend::options().segment_len_max(1 << 20).open(&path).expect("opens");
    let block = |len| Block::new(BlockId(1), BlockType::TableData, vec![1; len]);
    store.write_block(block(1 << 19)).expect("half a segment");
    let error = store.write_block(block((1 << 19) + 1)).expect_err("more than that");
    assert!(matches!(error, Error::BlockTooLarge { .. }), "{error:?}");
}
