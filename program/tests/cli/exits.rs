//! Exit codes, bounds of arguments, and what the help says of both.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use aegis_blocks::LocalBackend;

use crate::desk::{Desk, noise, set_mode, snapshot};

/// The longest block that the program stores.
const BLOCK_LEN_MAX: usize = 32 << 20;

#[test]
fn each_kind_of_failure_has_its_exit_code() {
    let desk = Desk::new();
    let id = desk.put(b"x", &[]);
    assert!(desk.ok(&["verify", "store"]).starts_with("sound: "));
    desk.refused(1, &["get", "store", "99"]);
    desk.refused(2, &["get", "store"]);
    let open = LocalBackend::open(desk.path("store")).unwrap();
    for arguments in [&["ls", "store"][..], &["rm", "store", &id], &["stat", "store"]] {
        desk.refused(3, arguments);
    }
    open.close().unwrap();
    desk.refused(4, &["ls", "missing"]);
    desk.refused(4, &["verify", "/proc/self/status"]);
    // A file system that takes no directories refuses them to root too.
    let line = desk.refused(5, &["put", "/sys/store"]);
    assert!(line.contains("/sys"), "{line}");
    let line = desk.refused(5, &["get", "store", &id, "-o", "/dev/full"]);
    assert!(line.starts_with("cannot write /dev/full: No space left on device"), "{line}");
}

#[test]
fn the_exit_codes_are_in_the_help() {
    let desk = Desk::new();
    let help = desk.ok(&["--help"]);
    for line in
        ["  3    the store is open", "  4    no store", "  5    the system", "  129, 130, 143"]
    {
        assert!(help.contains(line), "{line} in {help}");
    }
    let commands = help.lines().filter_map(|line| line.strip_prefix("  "));
    let commands = commands.filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    let mut seen = 0;
    for command in commands.filter_map(|line| line.split_whitespace().next()) {
        if command == "help" {
            continue;
        }
        let help = desk.ok(&[command, "--help"]);
        assert!(help.contains("Usage: aegis-blocks "), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        seen += 1;
    }
    assert_eq!(seen, 16, "{help}");
}

#[test]
fn what_an_import_keeps_is_in_its_help() {
    let help = Desk::new().ok(&["import", "--help"]);
    for word in ["owner and group", "hard links", "extended attributes", "holes", "devices"] {
        assert!(help.contains(word), "{word} in {help}");
    }
}

#[test]
fn a_wrong_word_is_answered_with_a_similar_one() {
    let desk = Desk::new();
    let line = desk.refused(2, &["exprot", "store", "tree"]);
    assert!(line.contains("exist: 'probe', 'export'"), "{line}");
    let line = desk.refused(2, &["import", "store", "tree", "--chnuk", "1"]);
    assert!(line.contains("a similar argument exists: '--chunk'"), "{line}");
    let line = desk.refused(2, &["put", "store", "--type", "metadat"]);
    assert!(line.contains("a similar value exists: 'metadata'"), "{line}");
}

#[test]
fn a_chunk_longer_than_a_block_is_refused_before_anything_is_made() {
    let desk = Desk::new();
    desk.make_tree();
    let line = desk.refused(2, &["import", "store", "tree", "--chunk", "64MiB"]);
    assert_eq!(line, "--chunk must be from 1 B to 32 MiB");
    assert!(!desk.path("store").exists());
    desk.ok(&["import", "store", "tree", "--chunk", "32MiB"]);
}

#[test]
fn a_benchmark_opens_its_files_before_it_measures() {
    let desk = Desk::new();
    fs::write(desk.path("mine.json"), "mine").unwrap();
    let bench = |more: &[&str]| {
        // An hour, if it began.
        let hour = ["bench", "--dir", ".", "--seconds", "3600", "--json", "new.json"];
        desk.refused(4, &[&hour, more].concat())
    };
    let line = bench(&["--svg", "no such directory/x"]);
    assert!(line.starts_with("cannot write no such directory/x: "), "{line}");
    bench(&["--html", "no such directory/x"]);
    // A file that was opened and not written is as it was.
    desk.refused(4, &["bench", "--json", "mine.json", "--svg", "no such directory/x"]);
    assert_eq!(fs::read(desk.path("mine.json")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(desk.0.path()).unwrap().count(), 1);
}

#[test]
fn put_stops_reading_at_the_longest_block() {
    let desk = Desk::new();
    let mut child = desk
        .command(&["put", "store"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let zeros = vec![0; 1 << 20];
    let mut taken = 0;
    // The input has no end. The program must have one.
    while stdin.write_all(&zeros).is_ok() {
        taken += zeros.len();
        assert!(taken <= BLOCK_LEN_MAX + (2 << 20), "{taken} bytes were taken");
    }
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("standard input is longer than a block may be (32 MiB)"), "{stderr}");
    let sparse = fs::File::create(desk.path("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let line = desk.refused(2, &["put", "store", "sparse"]);
    assert!(line.starts_with("sparse is longer than a block may be"), "{line}");
    assert!(!desk.path("store").exists());
    sparse.set_len(BLOCK_LEN_MAX as u64).unwrap();
    desk.ok(&["put", "store", "sparse"]);
}

#[test]
fn names_that_would_move_the_cursor_are_shown_on_one_line() {
    let desk = Desk::new();
    let line = desk.refused(4, &["ls", "two\nlines\u{1b}[2J"]);
    assert!(line.contains("two\u{fffd}lines\u{fffd}[2J"), "{line}");
}

#[test]
fn an_unfinished_directory_is_named_so_and_used_again() {
    let desk = Desk::new();
    desk.put(&noise(5000), &[]);
    desk.ok(&["backup", "store", "backup"]);
    let kept = snapshot(&desk.path("backup"));
    for (name, command) in [
        ("b", &["backup", "store", "b"][..]),
        ("r", &["restore", "backup", "r"]),
        ("s", &["salvage", "store", "s"]),
    ] {
        // What is left by a process that was killed while its files moved up.
        fs::create_dir_all(desk.path(name).join("unfinished")).unwrap();
        for file in ["unfinished/META", "unfinished/SEG-0000000000000002", "SEG-0000000000000001"] {
            fs::write(desk.path(name).join(file), "half").unwrap();
        }
        let before = snapshot(&desk.path(name));
        for look in ["verify", "probe", "ls", "stat"] {
            let line = desk.refused(4, &[look, name]);
            assert!(line.starts_with(&format!("{name} is unfinished: ")), "{line}");
        }
        desk.refused(4, &["restore", name, "new"]);
        assert_eq!(snapshot(&desk.path(name)), before);
        desk.ok(command);
        assert!(desk.ok(&["verify", name]).starts_with("sound: "));
        assert!(!desk.path(name).join("unfinished").exists());
    }
    assert_eq!(snapshot(&desk.path("backup")), kept);
    // Files of another program are never taken for leftovers.
    fs::create_dir_all(desk.path("mine/unfinished")).unwrap();
    fs::write(desk.path("mine/letter"), "mine").unwrap();
    assert_eq!(desk.refused(4, &["backup", "store", "mine"]), "mine is not empty");
    assert_eq!(fs::read(desk.path("mine/letter")).unwrap(), b"mine");
}

#[test]
fn a_directory_that_is_there_and_empty_takes_a_backup() {
    let desk = Desk::new();
    desk.put(b"x", &[]);
    fs::create_dir(desk.path("volume")).unwrap();
    set_mode(&desk.path("volume"), 0o750);
    desk.ok(&["backup", "store", "volume"]);
    assert!(desk.ok(&["verify", "volume"]).starts_with("sound: backup of lsn "));
}
