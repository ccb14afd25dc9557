//! What this version says to stores of a later one: its name, on every way in, and nothing is
//! changed.

use std::ops::ControlFlow;
use std::path::Path;

use aegis_blocks::{Error, LocalBackend, Result};

use crate::archive::{Files, read_directory, write_directory};
use crate::golden;

const LATER: u32 = 7;

fn files_of(name: &str) -> Files {
    let found = golden().into_iter().find(|(golden, ..)| golden == name);
    found.expect("a golden store").1
}

/// Writes a version into a copy of the first bytes of a file, and their checksum where it takes the
/// rest of `len` bytes in.
fn set_version(bytes: &mut [u8], at: usize, len: usize) {
    bytes[at + 8..at + 12].copy_from_slice(&LATER.to_le_bytes());
    let (head, rest) = (&bytes[at..at + 12], &bytes[at + 16..at + len]);
    let sum = crc32c::crc32c_append(crc32c::crc32c(head), rest);
    bytes[at + 12..at + 16].copy_from_slice(&sum.to_le_bytes());
}

/// Both copies of the files whose names begin so.
fn make_newer(files: &mut Files, prefix: &str) {
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name.starts_with(prefix)) {
        let end = bytes.len();
        match prefix {
            "CKPT" => [0, end - 4096].iter().for_each(|at| set_version(bytes, *at, 4096)),
            "MANIFEST" => set_version(bytes, 0, end),
            _ => [0, 2048].iter().for_each(|at| set_version(bytes, *at, 64)),
        }
    }
}

fn is_refused<T: std::fmt::Debug>(answer: Result<T>, path: &Path, way: &str) {
    assert!(
        matches!(&answer, Err(Error::UnsupportedFormat { path: named, found: LATER, supported: 1 })
            if named == path),
        "{way}: {answer:?}"
    );
}

#[test]
fn store_of_a_later_version_is_refused_by_its_name_on_every_way_in() {
    for kind in ["META", "SEG", "CKPT"] {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, out) = (dir.path().join("store"), dir.path().join("out"));
        let mut files = files_of("1/checkpointed");
        make_newer(&mut files, kind);
        write_directory(&path, &files);
        is_refused(LocalBackend::open(&path), &path, &format!("{kind}: open"));
        is_refused(LocalBackend::probe(&path), &path, &format!("{kind}: probe"));
        is_refused(LocalBackend::verify(&path), &path, &format!("{kind}: verify"));
        is_refused(LocalBackend::salvage(&path, &out), &path, &format!("{kind}: salvage"));
        is_refused(LocalBackend::repair(&path), &path, &format!("{kind}: repair"));
        assert!(read_directory(&path) == files, "{kind}: something was changed");
        assert!(!out.exists(), "{kind}: something was made");
    }
}

#[test]
fn backup_of_a_later_version_is_refused_by_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, out) = (dir.path().join("backup"), dir.path().join("out"));
    let mut files = files_of("1/backup");
    make_newer(&mut files, "MANIFEST");
    write_directory(&path, &files);
    is_refused(LocalBackend::verify_backup(&path), &path, "verify");
    let watch = |_| ControlFlow::Continue(());
    is_refused(LocalBackend::restore(&path, &out, &watch), &path, "restore");
    assert!(read_directory(&path) == files, "something was changed");
    assert!(!out.exists(), "something was made");
}

#[test]
fn later_version_in_one_copy_is_damage_and_the_other_copy_counts() {
    for kind in ["META", "SEG", "CKPT"] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let mut files = files_of("1/checkpointed");
        for (_, bytes) in files.iter_mut().filter(|(name, _)| name.starts_with(kind)) {
            set_version(bytes, 0, if kind == "CKPT" { 4096 } else { 64 });
        }
        write_directory(&path, &files);
        LocalBackend::open(&path).expect("the other copy").close().expect("closes");
    }
}
