//! Stores inside of trees, trees inside of stores, and targets that are stores.

use std::fs;
use std::os::unix::fs::symlink;

use crate::desk::{Desk, noise, snapshot};

#[test]
fn a_store_does_not_take_in_its_own_files() {
    let desk = Desk::new();
    desk.put(b"x", &[]);
    fs::create_dir(desk.path("tree")).unwrap();
    fs::rename(desk.path("store"), desk.path("tree/store")).unwrap();
    symlink("tree/store", desk.path("link")).unwrap();
    symlink("tree", desk.path("outside")).unwrap();
    let before = snapshot(desk.0.path());
    for arguments in [
        ["import", "tree/store", "tree/store"],
        ["import", "link", "tree/store"],
        ["import", "tree/store", "link"],
        ["import", "tree/store", "tree/store/META"],
        ["import", "tree/../tree/store", "link/META"],
    ] {
        let line = desk.refused(2, &arguments);
        assert!(line.contains("a store does not take in its own files"), "{line}");
    }
    for arguments in [
        ["import", "tree/store", "tree"],
        ["import", "link", "."],
        ["import", "link", "outside"],
        ["import", "outside/store", "tree/../tree"],
        ["import", "tree/new", "tree"],
        ["import", "outside/new/newer", "tree"],
    ] {
        let line = desk.refused(2, &arguments);
        assert!(line.contains("keep it elsewhere"), "{line}");
    }
    assert_eq!(snapshot(desk.0.path()), before);
}

#[test]
fn nothing_is_exported_into_a_store() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    desk.ok(&["backup", "store", "backup"]);
    fs::create_dir(desk.path("holder")).unwrap();
    fs::rename(desk.path("store"), desk.path("holder/store")).unwrap();
    desk.put(b"another", &[]);
    symlink("holder/store", desk.path("link")).unwrap();
    // Opening a store changes its files, and no name.
    let names = || snapshot(desk.0.path()).into_keys().collect::<Vec<_>>();
    let before = names();
    for target in ["link", "link/new", "holder/store", "store", "store/new/newer", "backup"] {
        let line = desk.refused(2, &["export", "holder/store", target]);
        assert!(line.contains("only the store itself writes there"), "{line}");
    }
    for target in ["holder", ".", "link/.."] {
        let line = desk.refused(2, &["export", "link", target]);
        assert!(line.contains("export elsewhere"), "{line}");
    }
    for arguments in [
        &["get", "store", "1", "-o", "holder/store/META"][..],
        &["backup", "store", "holder/store/new"],
        &["restore", "backup", "store/new"],
        &["salvage", "store", "link/new"],
        &["bench", "--dir", "store"],
        &["bench", "--json", "store/figures"],
    ] {
        let line = desk.refused(2, arguments);
        assert!(line.contains("only the store itself writes there"), "{line}");
    }
    assert_eq!(names(), before);
}

#[test]
fn a_store_that_the_target_holds_is_passed_over() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    desk.put(&noise(100), &[]);
    fs::create_dir_all(desk.path("out/a")).unwrap();
    // Another store stands where a directory of the tree belongs.
    fs::remove_dir(desk.path("out/a")).unwrap();
    desk.ok(&["backup", "store", "backup"]);
    desk.ok(&["restore", "backup", "out/a"]);
    let before = snapshot(&desk.path("out/a"));
    let stderr = desk.ends(1, &["export", "store", "out"]);
    assert!(stderr.contains("cannot export a: it holds a block store"), "{stderr}");
    assert!(stderr.contains("cannot export a/one: its directory"), "{stderr}");
    assert_eq!(snapshot(&desk.path("out/a")), before);
    assert!(desk.path("out/empty").exists());
    desk.ok(&["verify", "out/a"]);
}

#[test]
fn a_store_that_was_imported_as_files_comes_back_twice() {
    let desk = Desk::new();
    fs::create_dir(desk.path("tree")).unwrap();
    desk.put(b"x", &[]);
    fs::rename(desk.path("store"), desk.path("tree/inner")).unwrap();
    desk.ok(&["import", "store", "tree"]);
    desk.check_export();
    desk.ok(&["export", "store", "out"]);
    assert_eq!(desk.ok(&["get", "out/inner", "1"]), "x");
}
