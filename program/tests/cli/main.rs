//! The program from outside: what it prints, its exit codes, what it leaves on disk.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod desk;
mod exits;
#[cfg(target_os = "linux")]
mod full;
mod kept;
mod overlaps;
mod reading;
mod signals;
mod streams;
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, StorageBackend};

use desk::{Desk, noise, snapshot};

#[test]
fn blocks_are_put_listed_read_and_removed() {
    let desk = Desk::new();
    let payload = noise(5000);
    let id = desk.put(&payload, &[]);
    assert_eq!(desk.put(b"seven", &["-", "--id", "7", "--type", "log-entry"]), "7");
    assert_eq!(desk.run(&["get", "store", &id]).stdout, payload);
    desk.ok(&["get", "store", "7", "-o", "seven"]);
    assert_eq!(fs::read(desk.path("seven")).unwrap(), b"seven");
    let listed = desk.ok(&["ls", "store"]);
    let words: Vec<&str> = listed.split_whitespace().collect();
    assert_eq!(words, [&id, "document-data", "5000", "7", "log-entry", "5"]);
    assert_eq!(desk.ok(&["ls", "store", "--from", "7"]).lines().count(), 1);

    // All or nothing.
    assert_eq!(desk.refused(1, &["rm", "store", "7", "99"]), "block 99 does not exist");
    desk.ok(&["rm", "store", &id, "7"]);
    assert_eq!(desk.ok(&["ls", "store"]), "");
}

#[test]
fn backup_restores_and_its_damage_is_named() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    assert!(desk.ok(&["checkpoint", "store"]).starts_with("checkpoint of "));
    assert!(desk.ok(&["compact", "store"]).starts_with("log of "));
    assert!(desk.ok(&["probe", "store"]).starts_with("clean: "));
    assert!(desk.ok(&["backup", "store", "one"]).starts_with("backup of lsn "));
    assert!(desk.ok(&["verify", "one"]).starts_with("sound: backup of lsn "));
    let second = desk.ok(&["backup", "store", "two", "--since", "one"]);
    assert!(second.contains("from the earlier backup"), "{second}");
    assert!(desk.refused(4, &["restore", "two", "store"]).ends_with("is not empty"));
    assert!(desk.refused(4, &["restore", "store", "new"]).contains("no MANIFEST"));
    assert!(desk.refused(4, &["ls", "one"]).contains("it is a backup"));
    fs::rename(desk.path("store"), desk.path("old")).unwrap();
    assert!(desk.ok(&["restore", "two", "store"]).starts_with("restored lsn "));
    desk.check_export();

    let files = fs::read_dir(desk.path("two")).unwrap().map(|entry| entry.unwrap().path());
    let segment = files.into_iter().find(|path| path.to_string_lossy().contains("SEG-")).unwrap();
    fs::remove_file(&segment).unwrap();
    let output = desk.run(&["verify", "two"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(stdout.starts_with(&format!("missing file in {name}")), "{stdout}");
}

#[test]
fn stat_counts_what_is_there() {
    let desk = Desk::new();
    desk.put(b"12345", &[]);
    desk.put(b"678", &[]);
    let stat = desk.ok(&["stat", "store", "--json"]);
    for part in ["\"blocks\": 2", "\"payload_bytes\": 8", "\"closed_cleanly\": true"] {
        assert!(stat.contains(part), "{part} in {stat}");
    }
    assert!(desk.ok(&["stat", "store"]).starts_with("blocks        2\n"));
}

#[test]
fn a_missing_store_is_named_and_not_created() {
    let desk = Desk::new();
    for arguments in [
        &["ls", "store"][..],
        &["stat", "store"],
        &["get", "store", "1"],
        &["rm", "store", "1"],
        &["verify", "store"],
        &["export", "store", "out"],
    ] {
        let line = desk.refused(4, arguments);
        assert!(line.contains("store is not a block store: it does not exist"), "{line}");
    }
    // Nor is a store made for input that is not there.
    desk.refused(4, &["put", "store", "no such file"]);
    desk.refused(4, &["import", "store", "no such tree"]);
    assert_eq!(fs::read_dir(desk.0.path()).unwrap().count(), 0);
}

#[test]
fn what_is_no_store_is_named_and_left_alone() {
    let desk = Desk::new();
    fs::write(desk.path("file"), "mine").unwrap();
    fs::create_dir(desk.path("foreign")).unwrap();
    fs::write(desk.path("foreign/file"), "mine").unwrap();
    let before = snapshot(desk.0.path());
    for command in ["ls", "stat", "verify", "put"] {
        let line = desk.refused(4, &[command, "file"]);
        assert!(line.contains("file is not a block store: it is not a directory"), "{line}");
        let line = desk.refused(4, &[command, "foreign"]);
        assert!(line.contains("foreign is not a block store: it holds other files"), "{line}");
    }
    assert_eq!(snapshot(desk.0.path()), before);
}

#[test]
fn an_unknown_block_is_named_and_empties_no_file() {
    let desk = Desk::new();
    desk.put(b"x", &[]);
    fs::write(desk.path("file"), "mine").unwrap();
    let line = desk.refused(1, &["get", "store", "99", "-o", "file"]);
    assert_eq!(line, "block 99 does not exist");
    assert_eq!(fs::read(desk.path("file")).unwrap(), b"mine");
    // A failed command is no crash: nothing to recover.
    assert!(desk.run(&["stat", "store"]).stderr.is_empty());
}

#[test]
fn a_second_opener_is_told_so() {
    let desk = Desk::new();
    let store = LocalBackend::open(desk.path("store")).unwrap();
    let line = desk.refused(3, &["ls", "store"]);
    assert!(line.ends_with("store is open elsewhere"), "{line}");
    store.close().unwrap();
    desk.ok(&["ls", "store"]);
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    let desk = Desk::new();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["get", "store"],
        &["get", "store", "first"],
        &["bench", "--size", "4KB"],
        &["bench", "--threads", "0"],
        &["bench", "--size", "1GiB", "--threads", "64"],
        &["import", "store", "tree", "--chunk", "0"],
        &["import", "store", "tree", "--chunk", "64MiB"],
    ] {
        desk.refused(2, arguments);
    }
    assert_eq!(fs::read_dir(desk.0.path()).unwrap().count(), 0);
}

#[test]
fn repair_asks_first_and_prints_what_was_lost() {
    let desk = Desk::new();
    let payload = noise(3000);
    desk.put(&payload, &[]);
    desk.put(b"another", &[]);
    assert_eq!(desk.ok(&["repair", "store", "--yes"]), "sound: nothing to repair\n");
    let (file, at) = find(&desk.path("store"), &payload);
    let mut bytes = fs::read(&file).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();

    let before = snapshot(&desk.path("store"));
    let line = desk.refused(2, &["repair", "store"]);
    assert!(line.contains("--yes"), "{line}");
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    for arguments in [&["salvage", "store", "out"][..], &["repair", "store", "--yes"]] {
        assert_eq!(snapshot(&desk.path("store")), before);
        let output = desk.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        let place = format!("payload checksum mismatch in {name} at byte {at}");
        for text in [&*place, "block 1: lost", "INCOMPLETE: 1 blocks (7 B) saved"] {
            assert!(printed.contains(text), "{text}: {printed}");
        }
        assert!(
            arguments[0] == "salvage" || printed.contains("store.before-repair-1"),
            "{printed}"
        );
    }
    assert_eq!(snapshot(&desk.path("store.before-repair-1")), before);
    for store in ["store", "out"] {
        assert!(desk.ok(&["verify", store]).starts_with("sound: "));
        assert_eq!(desk.ok(&["get", store, "2"]), "another");
        assert_eq!(desk.refused(1, &["get", store, "1"]), "block 1 does not exist");
    }
    let line = desk.refused(4, &["salvage", "store", "out"]);
    assert_eq!(line, "out is not empty");
}

/// The segment that holds bytes, and where.
fn find(store: &Path, wanted: &[u8]) -> (PathBuf, usize) {
    let segments = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let found = segments.filter(|path| path.to_string_lossy().contains("SEG-")).find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(wanted.len()).position(|window| window == wanted)?;
        Some((path, at))
    });
    found.unwrap()
}

#[test]
fn verify_names_the_place_of_a_flipped_byte() {
    let desk = Desk::new();
    let payload = noise(3000);
    desk.put(&payload, &[]);
    desk.put(b"another", &[]);
    assert!(desk.ok(&["verify", "store"]).starts_with("sound: 2 blocks"));

    let (file, mut bytes, at) = fs::read_dir(desk.path("store"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("SEG-"))
        .find_map(|path| {
            let bytes = fs::read(&path).unwrap();
            let at = bytes.windows(payload.len()).position(|window| window == payload)?;
            Some((path, bytes, at))
        })
        .unwrap();
    bytes[at + 1000] ^= 1;
    fs::write(&file, bytes).unwrap();

    let output = desk.run(&["verify", "store"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    assert!(stdout.contains(&format!("payload checksum mismatch in {name} at byte")), "{stdout}");
    assert!(stdout.lines().last().unwrap().starts_with("DAMAGED: "), "{stdout}");
}

#[test]
fn bench_reports_and_cleans_up() {
    let desk = Desk::new();
    fs::create_dir(desk.path("disk")).unwrap();
    let said = desk.ok(&[
        "bench",
        "--dir",
        "disk",
        "--seconds",
        "0.02",
        "--rounds",
        "2",
        "--threads",
        "1,2",
        "--json",
        "figures.json",
        "--svg",
        "chart.svg",
        "--size",
        "1KiB",
        "--batch",
        "3",
    ]);
    assert!(said.contains("efficiency") && said.contains("3 x 1 KiB"), "{said}");
    assert_eq!(fs::read_dir(desk.path("disk")).unwrap().count(), 0);
    let figures = fs::read_to_string(desk.path("figures.json")).unwrap();
    assert!(figures.contains("\"loop_commits_per_s\"") && figures.contains("\"slices\""));
    let chart = fs::read_to_string(desk.path("chart.svg")).unwrap();
    assert!(chart.starts_with("<svg ") && !chart.contains("NaN"));
}

#[test]
fn bench_sweeps_draws_and_compares_itself_with_an_earlier_run() {
    let desk = Desk::new();
    let sweep = ["bench", "--sweep", "--dir", ".", "--seconds", "0.02", "--rounds", "1"];
    let shapes = ["--threads", "1,2", "--size", "512B,1KiB"];
    let first = [&sweep[..], &shapes, &["--json", "first.json"]].concat();
    let said = desk.ok(&first);
    for shape in ["1 thread x 512 B", "2 threads x 512 B", "1 thread x 1 KiB", "2 threads x 1 KiB"]
    {
        assert!(said.contains(shape), "{shape} is not in {said}");
    }
    assert!(said.contains("groups by the number of their commits"), "{said}");
    let figures = fs::read_to_string(desk.path("first.json")).unwrap();
    for figure in ["wait_us", "write_us", "sync_us", "wake_us"] {
        assert!(figures.contains(figure), "{figure} is not in {figures}");
    }

    let second = ["--html", "page.html", "--compare", "first.json"];
    let said = desk.ok(&[&sweep[..], &["--threads", "2,3", "--size", "1KiB"], &second].concat());
    assert!(said.contains("beside first.json"), "{said}");
    assert!(said.contains("1 rows are not in the earlier run"), "{said}");
    let page = fs::read_to_string(desk.path("page.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg "), "{page}");
    assert!(page.contains("id=\"report\"") && page.contains("beside first.json"), "{page}");
    let outside = ["http:", "https:", "src=", "href=", "@import"];
    let page = page.replace("http://www.w3.org/2000/svg", "");
    assert!(outside.iter().all(|word| !page.contains(word)), "the page needs another file");

    fs::write(desk.path("other.json"), "[]").unwrap();
    for (code, file) in [(2, "other.json"), (4, "missing.json")] {
        let refused = desk.refused(code, &[&sweep[..], &["--compare", file]].concat());
        assert!(refused.contains(file), "{refused}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let desk = Desk::new();
    let store = LocalBackend::open(desk.path("store")).unwrap();
    let tx = store.begin_transaction().unwrap();
    for _ in 0..5000 {
        let block = Block::empty(BlockId(0), BlockType::LogEntry);
        store.write_block_in_tx(tx, block).unwrap();
    }
    store.commit_transaction(tx).unwrap();
    store.close().unwrap();
    let mut child = desk.command(&["ls", "store"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
