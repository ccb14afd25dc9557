//! Trees of files that go into a store and come back.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Stdio};

use crate::desk::{Desk, ENTRY_PATH_AT, block_count, edit_entry, noise, set_mode, snapshot};

#[test]
fn an_exported_tree_is_the_imported_one() {
    let desk = Desk::new();
    desk.make_tree();
    let said = desk.import(&[]);
    assert!(said.starts_with("12 stored, 0 replaced, 0 unchanged, 0 deleted"), "{said}");
    desk.check_export();
    // A second export over the first one ends the same way.
    desk.ok(&["export", "store", "out"]);
    assert_eq!(snapshot(&desk.path("out")), snapshot(&desk.path("tree")));
    desk.ok(&["verify", "store"]);
}

#[test]
fn a_single_file_is_imported_under_its_name() {
    let desk = Desk::new();
    fs::write(desk.path("file"), "text").unwrap();
    desk.ok(&["import", "store", "file"]);
    desk.ok(&["export", "store", "out"]);
    assert_eq!(fs::read(desk.path("out/file")).unwrap(), b"text");
}

#[test]
fn importing_again_touches_only_what_changed() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    let blocks = block_count(&desk);
    let said = desk.import(&[]);
    assert!(said.starts_with("0 stored, 0 replaced, 12 unchanged, 0 deleted"), "{said}");

    fs::write(desk.path("tree/a/large"), noise(90_000)).unwrap();
    set_mode(&desk.path("tree/empty"), 0o600);
    let said = desk.import(&[]);
    assert!(said.starts_with("0 stored, 2 replaced, 10 unchanged, 0 deleted"), "{said}");
    desk.check_export();
    // 25 chunks became 22; nothing of the old file is left.
    assert_eq!(block_count(&desk), blocks - 3);
}

#[test]
fn a_directory_that_became_a_file_takes_its_contents_along() {
    let desk = Desk::new();
    desk.make_tree();
    fs::create_dir(desk.path("tree/was a directory")).unwrap();
    fs::write(desk.path("tree/was a directory/file"), "x").unwrap();
    desk.import(&[]);
    fs::remove_dir_all(desk.path("tree/was a directory")).unwrap();
    fs::write(desk.path("tree/was a directory"), "a file now").unwrap();
    desk.import(&[]);
    desk.check_export();
}

#[test]
fn vanished_files_stay_until_delete_is_asked_for() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    fs::remove_file(desk.path("tree/empty")).unwrap();
    desk.import(&[]);
    assert!(desk.ok(&["ls", "store", "--files"]).contains("  empty\n"));
    let said = desk.import(&["--delete"]);
    assert!(said.contains("1 deleted"), "{said}");
    desk.check_export();
}

#[test]
fn a_killed_import_is_completed_by_running_it_again() {
    let desk = Desk::new();
    desk.make_tree();
    for i in 0..200 {
        fs::write(desk.path("tree").join(i.to_string()), noise(i * 50)).unwrap();
    }
    for round in 0..4 {
        let mut child: Child = desk
            .command(&["import", "store", "tree", "--chunk", "4KiB"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Later in every round, whatever the machine's speed.
        let segments = || fs::read_dir(desk.path("store")).map_or(0, |list| list.count());
        while segments() < 3 && child.try_wait().unwrap().is_none() {}
        (0..round * 100).for_each(|_| std::thread::yield_now());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    desk.import(&[]);
    desk.check_export();
    desk.ok(&["verify", "store"]);
}

#[test]
fn what_an_unfinished_import_staged_is_removed_by_the_next() {
    const STATE: usize = 7;
    const STAGED: u8 = 2;
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    let blocks = block_count(&desk);
    edit_entry(&desk, "a/large", |entry| entry[STATE] = STAGED);
    assert!(!desk.ok(&["ls", "store", "--files"]).contains("a/large"));
    let said = desk.import(&[]);
    assert!(said.starts_with("1 stored, 0 replaced, 11 unchanged, 0 deleted"), "{said}");
    assert_eq!(block_count(&desk), blocks);
    desk.check_export();
}

#[test]
fn a_file_larger_than_one_transaction_comes_back() {
    let desk = Desk::new();
    fs::create_dir(desk.path("tree")).unwrap();
    fs::write(desk.path("tree/large"), noise(70 << 20)).unwrap();
    desk.ok(&["import", "store", "tree"]);
    desk.check_export();
}

#[test]
fn an_entry_that_points_outside_is_refused() {
    let desk = Desk::new();
    desk.make_tree();
    fs::write(desk.path("tree/aaaevil"), "evil").unwrap();
    desk.import(&[]);
    edit_entry(&desk, "aaaevil", |entry| {
        entry[ENTRY_PATH_AT..ENTRY_PATH_AT + 7].copy_from_slice(b"../evil")
    });
    let output = desk.run(&["export", "store", "out"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("entry whose path would leave the tree"), "{stderr}");
    assert!(stderr.ends_with("aegis-blocks: 1 items were not exported\n"), "{stderr}");
    assert!(!desk.path("evil").exists());
    assert!(desk.path("out/a/large").exists());
}

#[test]
fn a_link_planted_in_the_target_is_not_followed() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    fs::create_dir(desk.path("out")).unwrap();
    fs::create_dir(desk.path("elsewhere")).unwrap();
    symlink(desk.path("elsewhere"), desk.path("out/a")).unwrap();
    let output = desk.run(&["export", "store", "out"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot export a: 'a' is not a directory"), "{stderr}");
    assert_eq!(fs::read_dir(desk.path("elsewhere")).unwrap().count(), 0);
}
