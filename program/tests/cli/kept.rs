//! What an import notices, what an export gives back, and what is said of the rest.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, StorageBackend};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, chown, geteuid};

use crate::desk::{Desk, ENTRY_PATH_AT, edit_entry, entry_of, noise, set_mode, snapshot};

/// The ids of a file's chunks.
fn chunks_of(desk: &Desk, path: &str) -> Vec<u64> {
    let store = LocalBackend::open(desk.path("store")).unwrap();
    let entry = entry_of(&store, path).data;
    let (ids, _) = entry[ENTRY_PATH_AT + path.len()..].as_chunks::<8>();
    let ids = ids.iter().map(|id| u64::from_le_bytes(*id)).collect();
    store.close().unwrap();
    ids
}

fn set_date(path: &Path, seconds: i64) {
    let (keep, time) = (TimeSpec::UTIME_OMIT, TimeSpec::new(seconds, 7));
    utimensat(AT_FDCWD, path, &keep, &time, UtimensatFlags::NoFollowSymlink).unwrap();
}

#[test]
fn a_file_that_lost_a_chunk_is_imported_again() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    let chunks = chunks_of(&desk, "a/large");
    desk.ok(&["rm", "store", &chunks[3].to_string(), &chunks[24].to_string()]);
    let stderr = desk.ends(1, &["export", "store", "out"]);
    assert!(stderr.contains(&format!("cannot export a/large: block {}", chunks[3])), "{stderr}");
    let verified = desk.run(&["verify", "store"]);
    let stdout = String::from_utf8_lossy(&verified.stdout).into_owned();
    let mut lines = stdout.lines();
    assert_eq!(lines.next(), Some("incomplete file a/large: 2 missing of 25 blocks"), "{stdout}");
    assert!(lines.next().unwrap().starts_with("DAMAGED: "), "{stdout}");
    assert_eq!((verified.status.code(), lines.next()), (Some(1), None), "{stdout}");
    let said = desk.import(&[]);
    assert!(said.starts_with("0 stored, 1 replaced, 11 unchanged, 0 deleted"), "{said}");
    desk.check_export();
    // Its entry, lost, takes its chunks along: they are not named by anything.
    let store = LocalBackend::open(desk.path("store")).unwrap();
    let entry = entry_of(&store, "a/large").header.block_id;
    store.delete_block(entry).unwrap();
    store.close().unwrap();
    let said = desk.import(&[]);
    assert!(said.starts_with("1 stored, 0 replaced, 11 unchanged, 0 deleted"), "{said}");
    desk.check_export();
}

#[test]
fn damage_is_mended_by_repair_and_import_or_by_import_with_checksum() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    let large = fs::read(desk.path("tree/a/large")).unwrap();
    let damage = || {
        let segments = fs::read_dir(desk.path("store")).unwrap().map(|entry| entry.unwrap().path());
        for path in segments.filter(|path| path.to_string_lossy().contains("SEG-")) {
            let mut bytes = fs::read(&path).unwrap();
            let wanted = &large[8192..8192 + 4096];
            // All copies: one that replaced another may lie beside it.
            let mut at = 0;
            while let Some(found) = bytes[at..].windows(4096).position(|window| window == wanted) {
                bytes[at + found + 9] ^= 1;
                at += found + 4096;
            }
            fs::write(&path, bytes).unwrap();
        }
    };
    damage();
    let verified = desk.run(&["verify", "store"]);
    let stdout = String::from_utf8_lossy(&verified.stdout).into_owned();
    let named = "incomplete file a/large: 1 damaged of 25 blocks";
    assert!(stdout.lines().any(|line| line == named), "{stdout}");
    let stderr = desk.ends(1, &["export", "store", "out"]);
    assert!(stderr.contains("cannot export a/large: "), "{stderr}");
    let said = desk.import(&["--checksum"]);
    assert!(said.starts_with("0 stored, 1 replaced, 11 unchanged"), "{said}");
    desk.check_export();

    damage();
    desk.ends(1, &["repair", "store", "--yes"]);
    let said = desk.import(&[]);
    assert!(said.starts_with("0 stored, 1 replaced, 11 unchanged"), "{said}");
    desk.check_export();
}

#[test]
fn a_change_that_hides_its_date_is_noticed() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    let path = desk.path("tree/a/one");
    let before = fs::metadata(&path).unwrap();
    fs::write(&path, "2").unwrap();
    let times = FileTimes::new().set_modified(before.modified().unwrap());
    File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mtime_nsec(), before.mtime_nsec());
    let said = desk.import(&[]);
    assert!(said.starts_with("0 stored, 1 replaced, 11 unchanged"), "{said}");
    desk.check_export();
}

/// A file whose stored dates, mode and owner are its own is not read, except with `--checksum`.
#[test]
fn known_files_are_passed_over_and_checksum_reads_them() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    let metadata = fs::metadata(desk.path("tree/a/one")).unwrap();
    edit_entry(&desk, "a/one", |entry| {
        entry[48..56].copy_from_slice(&metadata.ctime().to_le_bytes());
        entry[56..60].copy_from_slice(&(metadata.ctime_nsec() as u32).to_le_bytes());
        entry[60] |= 1;
    });
    let chunk = BlockId(chunks_of(&desk, "a/one")[0]);
    let store = LocalBackend::open(desk.path("store")).unwrap();
    store.write_block(Block::new(chunk, BlockType::DocumentData, "?")).unwrap();
    store.close().unwrap();
    assert!(desk.import(&[]).starts_with("0 stored, 0 replaced, 12 unchanged"));
    assert!(desk.import(&["--checksum"]).starts_with("0 stored, 1 replaced, 11 unchanged"));
    desk.check_export();
}

#[test]
fn entries_of_the_first_format_are_read() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    edit_entry(&desk, "a/large", |entry| {
        entry[4] = 1;
        entry.drain(48..ENTRY_PATH_AT);
    });
    desk.check_export();
    // Compared and given the fields that it lacks: the owner, so it counts as replaced.
    let said = desk.import(&[]);
    assert!(said.starts_with("0 stored, 1 replaced, 11 unchanged, 0 deleted: 0 B"), "{said}");
    assert!(desk.import(&[]).starts_with("0 stored, 0 replaced, 12 unchanged"));
    desk.check_export();
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named() {
    let desk = Desk::new();
    fs::create_dir(desk.path("tree")).unwrap();
    let path = desk.path("tree/busy");
    fs::write(&path, noise(24 << 20)).unwrap();
    let mut file = File::options().append(true).open(&path).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                file.write_all(b"x").unwrap();
            }
        });
        let stderr = desk.ends(1, &["import", "store", "tree"]);
        ended.store(true, Ordering::Relaxed);
        assert!(stderr.contains("tree/busy changed while it was read\n"), "{stderr}");
        assert!(
            stderr.ends_with("aegis-blocks: 1 files changed while they were read\n"),
            "{stderr}"
        );
    });
    // It is compared at the next import, and stored as it is now.
    assert!(desk.ok(&["import", "store", "tree"]).starts_with("0 stored, 1 replaced"));
    desk.check_export();
}

#[test]
fn dates_of_any_century_come_back() {
    const YEAR: i64 = 31_556_952;
    let desk = Desk::new();
    fs::create_dir(desk.path("tree")).unwrap();
    let years = [-400, -300, -70, -1, 0, 50, 293, 300, 400, 8_030, 100_000];
    for years in years {
        let path = desk.path("tree").join(years.to_string());
        fs::write(&path, "x").unwrap();
        set_date(&path, years * YEAR);
        let link = desk.path("tree").join(format!("link {years}"));
        symlink("x", &link).unwrap();
        set_date(&link, years * YEAR);
    }
    set_date(&desk.path("tree"), 400 * YEAR);
    desk.ok(&["import", "store", "tree"]);
    // The file system may have changed the dates; the same one changes them alike.
    desk.check_export();
}

#[test]
fn a_date_that_the_target_cannot_keep_is_named_and_the_rest_is_exported() {
    const DATE_AT: usize = 16;
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    edit_entry(&desk, "a/one", |entry| {
        entry[DATE_AT..DATE_AT + 8].copy_from_slice(&i64::MAX.to_le_bytes());
    });
    edit_entry(&desk, "a/empty", |entry| {
        entry[DATE_AT..DATE_AT + 8].copy_from_slice(&i64::MIN.to_le_bytes());
    });
    let output = desk.run(&["export", "store", "out"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    let (tree, out) = (snapshot(&desk.path("tree")), snapshot(&desk.path("out")));
    let of_all =
        |name: &[u8], tree: &std::collections::BTreeMap<Vec<u8>, _>| tree.contains_key(name);
    for (name, (mode, mtime, _, content)) in &tree {
        let (mode_out, mtime_out, _, content_out) = &out[name];
        assert_eq!((mode_out, content_out), (mode, content), "{name:?}");
        if !matches!(&name[..], b"a/one" | b"a/empty") {
            assert_eq!(mtime_out, mtime, "{name:?}");
        }
    }
    assert!(out.keys().all(|name| of_all(name, &tree)));
    // A file system that has every date keeps these too.
    let lost = [(&b"a/one"[..], i64::MAX), (b"a/empty", i64::MIN)];
    let lost = lost.into_iter().filter(|(name, date)| out[*name].1 != *date).count();
    assert_eq!(
        stderr.matches("the file system of the target has no date").count(),
        lost,
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(i32::from(lost > 0)), "{stderr}");
}

#[test]
fn holes_take_no_space_in_the_store_nor_in_what_is_exported() {
    let desk = Desk::new();
    fs::create_dir(desk.path("tree")).unwrap();
    let file = File::create(desk.path("tree/image")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"begin", 4096).unwrap();
    file.write_all_at(b"end", (64 << 20) - 3).unwrap();
    let said = desk.ok(&["import", "store", "tree"]);
    assert!(said.starts_with("2 stored"), "{said}");
    // Two entries and the two chunks that are not all zeros.
    assert!(desk.ok(&["stat", "store"]).starts_with("blocks        4\n"));
    desk.check_export();
    let on_disk = fs::metadata(desk.path("out/image")).unwrap().blocks() * 512;
    assert!(on_disk <= 64 << 10, "{on_disk} bytes");
    assert!(desk.import(&["--checksum"]).starts_with("0 stored, 0 replaced, 2 unchanged"));
}

#[test]
fn what_is_not_kept_is_said() {
    let desk = Desk::new();
    desk.make_tree();
    fs::hard_link(desk.path("tree/a/one"), desk.path("tree/second name")).unwrap();
    nix::unistd::mkfifo(&desk.path("tree/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let stderr = desk.ends(0, &["import", "store", "tree"]);
    assert!(
        stderr.contains("not kept: that 2 files have further names (hard links)\n"),
        "{stderr}"
    );
    assert!(stderr.contains("left out tree/pipe: not a file, directory or link\n"), "{stderr}");
    set_mode(&desk.path("tree/a/one"), 0o4755);
    desk.ends(0, &["import", "store", "tree"]);
    let stderr = desk.ends(0, &["export", "store", "out"]);
    assert!(stderr.contains("not set: set-id bits of 2 files (--setid sets them)\n"), "{stderr}");
    assert_eq!(fs::metadata(desk.path("out/a/one")).unwrap().mode() & 0o7777, 0o755);
    let stderr = desk.ends(0, &["export", "store", "out", "--setid"]);
    assert_eq!(stderr, "");
    assert_eq!(fs::metadata(desk.path("out/a/one")).unwrap().mode() & 0o7777, 0o4755);
}

/// Changing owners is for root alone.
#[test]
fn owners_are_kept_and_set_where_asked_for() {
    if !geteuid().is_root() {
        return;
    }
    let desk = Desk::new();
    desk.make_tree();
    let (user, group) = (Uid::from_raw(12_345), Gid::from_raw(54_321));
    chown(&desk.path("tree/a/one"), Some(user), Some(group)).unwrap();
    set_mode(&desk.path("tree/a/one"), 0o4751);
    desk.import(&[]);
    let owner_of = |path: &str| {
        let metadata = fs::metadata(desk.path(path)).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    };
    let stderr = desk.ends(0, &["export", "store", "out"]);
    assert!(stderr.contains("not set: the owner of 1 items (--owner sets it)\n"), "{stderr}");
    assert_eq!(owner_of("out/a/one").0, 0);
    desk.ok(&["export", "store", "out", "--owner", "--setid"]);
    assert_eq!(owner_of("out/a/one"), (12_345, 54_321, 0o4751));
    // A change of the owner alone is a change.
    chown(&desk.path("tree/a/one"), Some(Uid::from_raw(0)), None).unwrap();
    set_mode(&desk.path("tree/a/one"), 0o4751);
    assert!(desk.import(&[]).starts_with("0 stored, 1 replaced, 11 unchanged"));
}

#[test]
fn extended_attributes_are_counted() {
    let desk = Desk::new();
    desk.make_tree();
    let path = desk.path("tree/a/one");
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&path, "user.note", b"mine", flags).is_err() {
        return; // The file system has none.
    }
    let stderr = desk.ends(0, &["import", "store", "tree"]);
    let line = "not kept: extended attributes or access lists of 1 items\n";
    assert!(stderr.contains(line), "{stderr}");
}
