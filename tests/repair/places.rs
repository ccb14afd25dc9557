//! Where a repair may put things: names that are taken, and a store whose name is `.`.

use std::fs;

use aegis_blocks::{Error, LocalBackend};

use crate::desk::{Desk, Files, find, flip, ids, options};
use crate::files::contents;
use crate::noise::payload;

#[test]
fn salvage_takes_no_directory_that_exists_or_lies_in_the_store() {
    let mut desk = Desk::new();
    desk.write(1, 1);
    let path = desk.closed();
    let before = contents(&path);
    for out in [desk.directory.path().join("open"), path.clone(), path.join("out")] {
        let error = LocalBackend::salvage(&path, &out).expect_err("not there");
        assert!(matches!(error, Error::InvalidArgument { argument: "out", .. }), "{error:?}");
    }
    assert!(contents(&path) == before);
    let open = options().open(&path).expect("opens");
    let out = path.with_file_name("out");
    let error = LocalBackend::salvage(&path, &out).expect_err("another handle writes to it");
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    let error = LocalBackend::repair(&path).expect_err("another handle writes to it");
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    open.close().expect("closes");
    assert!(!out.exists());
}

/// Longer than the blocks, segments and commits that a store has by default.
#[test]
fn names_beside_the_store_that_are_taken_are_left_alone() {
    let mut desk = Desk::new();
    desk.fill();
    let path = desk.closed();
    let beside = |word: &str| path.with_file_name(format!("store.{word}"));
    let taken = [beside("repairing-1"), beside("before-repair-2")];
    for directory in &taken {
        fs::create_dir(directory).expect("a directory");
        fs::write(directory.join("letter"), "dear reader").expect("a file");
    }
    let (file, offset) = find(&path, &payload(5, 1)).expect("stored");
    flip(&path, &file, offset);
    let before = contents(&path);
    let report = LocalBackend::repair(&path).expect("repairs");
    let copy = beside("before-repair-3").canonicalize().expect("a name that nothing had");
    assert_eq!(report.copy.as_ref(), Some(&copy));
    assert!(contents(&copy) == before, "the copy is not what was there");
    for directory in &taken {
        let left = Files::from([("letter".to_string(), b"dear reader".to_vec())]);
        assert!(contents(directory) == left, "{} was changed", directory.display());
    }
    assert_eq!(ids(&report.salvage.lost), [5]);
}

const CHILD: &str = "AEGIS_REPAIR_CHILD";

/// Directories are exchanged by their names, of which `.` is none.
#[test]
fn store_is_repaired_from_within_its_directory() {
    let mut desk = Desk::new();
    desk.fill();
    let path = desk.closed();
    let (file, offset) = find(&path, &payload(5, 1)).expect("stored");
    flip(&path, &file, offset);
    let mut child = std::process::Command::new(std::env::current_exe().expect("this binary"));
    child.args(["--exact", "places::child_repairs_where_it_is", "--nocapture"]).env(CHILD, "1");
    let output = child.current_dir(&path).output().expect("a child process");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(words.contains("done: one block lost"), "{words}{output:?}");
    let report = LocalBackend::verify(&path).expect("a report");
    assert!(report.damage.is_empty(), "{:#?}", report.damage);
}

/// The child's half. Does nothing unless the test above has started it.
#[test]
fn child_repairs_where_it_is() {
    if std::env::var_os(CHILD).is_some() {
        let report = LocalBackend::repair(".").expect("repairs");
        assert_eq!(ids(&report.salvage.lost), [5]);
        println!("done: one block lost");
    }
}
