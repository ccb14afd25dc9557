//! The program from outside: what it prints, its exit codes, what it leaves on disk.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, StorageBackend};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_aegis-blocks");

/// A directory to work in, with `store` and `tree` in it by convention.
struct Desk(TempDir);

impl Desk {
    fn new() -> Desk {
        Desk(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed and returns its standard output.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with one line, and returns that line.
    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        let line = stderr.trim_end().strip_prefix("aegis-blocks: ");
        line.unwrap_or_else(|| panic!("{stderr}")).to_string()
    }

    fn put(&self, payload: &[u8], arguments: &[&str]) -> String {
        let mut child = self
            .command(&[&["put", "store"], arguments].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(payload).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim_end().to_string()
    }

    /// A small tree with everything that a tree can hold.
    fn make_tree(&self) {
        let tree = self.path("tree");
        for dir in ["", "a", "a/empty", "a/read-only"] {
            fs::create_dir(tree.join(dir)).unwrap();
        }
        fs::write(tree.join("empty"), "").unwrap();
        fs::write(tree.join("a/one"), "1").unwrap();
        fs::write(tree.join("a/large"), noise(100_000)).unwrap();
        fs::write(tree.join("a/exactly two chunks"), noise(8192)).unwrap();
        fs::write(tree.join(OsStr::from_bytes(b"not \xff\xfe text\n")), "x").unwrap();
        fs::write(tree.join("a/read-only/file"), "r").unwrap();
        symlink("../empty", tree.join("a/link")).unwrap();
        symlink("/nowhere/at all", tree.join("dangling")).unwrap();
        set_mode(&tree.join("a/one"), 0o751);
        set_mode(&tree.join("a/read-only/file"), 0o400);
        set_mode(&tree.join("a/read-only"), 0o555);
    }

    fn import(&self, more: &[&str]) -> String {
        self.ok(&[&["import", "store", "tree", "--chunk", "4KiB"], more].concat())
    }

    /// Exports to a fresh directory and compares.
    fn check_export(&self) {
        let _unused = fs::remove_dir_all(self.path("out"));
        self.ok(&["export", "store", "out"]);
        assert_eq!(snapshot(&self.path("out")), snapshot(&self.path("tree")));
    }
}

/// A directory must be writable again for its owner to be removed.
impl Drop for Desk {
    fn drop(&mut self) {
        for tree in ["tree", "out"] {
            let read_only = self.path(tree).join("a/read-only");
            if read_only.exists() {
                set_mode(&read_only, 0o755);
            }
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(step).collect()
}

/// Path, mode, time and content of everything in a tree.
fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, (u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            b"directory".to_vec()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_vec()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let description = (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content);
        found.insert(name, description);
    }
    found
}

fn block_count(desk: &Desk) -> u64 {
    let store = LocalBackend::open(desk.path("store")).unwrap();
    let count = store.stats().total_blocks;
    store.close().unwrap();
    count
}

/// The metadata block of an imported path.
fn entry_of(store: &LocalBackend, path: &str) -> Block {
    let ids = store.ids(..).unwrap();
    let mut blocks = ids.into_iter().map(|id| store.read_block(id).unwrap());
    blocks
        .find(|block| {
            let path_len = path.len();
            block.header.block_type == BlockType::Metadata
                && block.data[12..16] == (path_len as u32).to_le_bytes()
                && block.data[48..].starts_with(path.as_bytes())
        })
        .unwrap()
}

/// Changes the bytes of the entry of `path`.
fn edit_entry(desk: &Desk, path: &str, edit: impl FnOnce(&mut Vec<u8>)) {
    let store = LocalBackend::open(desk.path("store")).unwrap();
    let block = entry_of(&store, path);
    let mut bytes = block.data.to_vec();
    edit(&mut bytes);
    store.write_block(Block::new(block.header.block_id, BlockType::Metadata, bytes)).unwrap();
    drop(block);
    store.close().unwrap();
}

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
    edit_entry(&desk, "aaaevil", |entry| entry[48..55].copy_from_slice(b"../evil"));
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
    assert!(stderr.contains("cannot export a/one: 'a' is not a directory"), "{stderr}");
    assert_eq!(fs::read_dir(desk.path("elsewhere")).unwrap().count(), 0);
}

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
    assert!(desk.refused(1, &["restore", "two", "store"]).ends_with("is not empty"));
    assert!(desk.refused(1, &["restore", "store", "new"]).contains("no MANIFEST"));
    assert!(desk.refused(1, &["ls", "one"]).contains("it is a backup"));
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
        let line = desk.refused(1, arguments);
        assert!(line.contains("store is not a block store: it does not exist"), "{line}");
    }
    // Nor is a store made for input that is not there.
    desk.refused(1, &["put", "store", "no such file"]);
    desk.refused(1, &["import", "store", "no such tree"]);
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
        let line = desk.refused(1, &[command, "file"]);
        assert!(line.contains("file is not a block store: it is not a directory"), "{line}");
        let line = desk.refused(1, &[command, "foreign"]);
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
    let line = desk.refused(1, &["ls", "store"]);
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
    let line = desk.refused(1, &["salvage", "store", "out"]);
    assert_eq!(line, "out: must not exist");
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
    for file in ["other.json", "missing.json"] {
        let refused = desk.refused(1, &[&sweep[..], &["--compare", file]].concat());
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
