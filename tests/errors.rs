//! What bad input gets: its own named error, and nothing changed on disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::{
    Block, BlockId, BlockType, Defect, Error, LocalBackend, NotAStoreReason, StorageBackend,
};
use tempfile::TempDir;

fn block(id: u64, data: impl Into<bytes::Bytes>) -> Block {
    Block::new(BlockId(id), BlockType::TableData, data)
}

/// A closed store with blocks 1 to 9, each of 100 times its number.
fn store_of_nine() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = LocalBackend::open(&path).expect("opens");
    for id in 1..=9 {
        store.write_block(block(id, vec![id as u8; 100])).expect("writes");
    }
    store.close().expect("closes");
    (dir, path)
}

/// Every file below a directory: its kind and its bytes.
fn contents(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).expect("a directory") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a kind");
        let bytes = if kind.is_file() { fs::read(entry.path()).expect("readable") } else { vec![] };
        found.insert(entry.path(), bytes);
    }
    found
}

/// Opens a store, which must fail, and checks that no file has changed.
#[track_caller]
fn refused(path: &Path) -> Error {
    let before = contents(path);
    let error = LocalBackend::open(path).expect_err("must be refused");
    assert!(contents(path) == before, "an open that fails changes nothing");
    error
}

fn only_segment(path: &Path) -> PathBuf {
    let mut segments: Vec<PathBuf> = contents(path)
        .into_iter()
        .filter(|(name, bytes)| name.to_string_lossy().contains("SEG-") && bytes.len() > 4096)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(segments.len(), 1, "one segment holds frames");
    segments.remove(0)
}

#[test]
fn unknown_block_is_named() {
    let (_dir, path) = store_of_nine();
    let store = LocalBackend::open(path).expect("opens");
    let absent = store.read_block(BlockId(10));
    assert!(matches!(absent, Err(Error::BlockNotFound { id: BlockId(10) })));
}

#[test]
fn file_in_place_of_the_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    fs::write(&path, "precious").expect("writes");
    let error = LocalBackend::open(&path).expect_err("must be refused");
    assert!(matches!(error, Error::NotAStore { reason: NotAStoreReason::NotADirectory, .. }));
    assert_eq!(fs::read(&path).expect("still there"), b"precious");
}

#[test]
fn directory_of_somebody_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("letter.txt"), "precious").expect("writes");
    let error = refused(dir.path());
    assert!(matches!(error, Error::NotAStore { reason: NotAStoreReason::ForeignFiles, .. }));
}

#[test]
fn missing_store_is_not_made_against_the_options() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("nothing");
    let error = LocalBackend::options().create(false).open(&path).expect_err("must be refused");
    assert!(matches!(error, Error::NotAStore { reason: NotAStoreReason::Missing, .. }));
    assert!(!path.exists());
}

#[test]
fn store_of_a_newer_format_is_refused_by_its_version() {
    let (_dir, path) = store_of_nine();
    let meta = path.join("META");
    let mut bytes = fs::read(&meta).expect("reads");
    (bytes[8], bytes[2048 + 8]) = (7, 7);
    fs::write(&meta, bytes).expect("writes");
    assert!(matches!(refused(&path), Error::UnsupportedFormat { found: 7, supported: 1, .. }));
}

#[test]
fn damaged_description_is_refused_only_when_both_copies_are() {
    let (_dir, path) = store_of_nine();
    let meta = path.join("META");
    let mut bytes = fs::read(&meta).expect("reads");
    bytes[20] ^= 1;
    fs::write(&meta, &bytes).expect("writes");
    LocalBackend::open(&path).expect("one copy is enough").close().expect("closes");
    bytes[2048 + 20] ^= 1;
    fs::write(&meta, bytes).expect("writes");
    let error = refused(&path);
    assert!(matches!(error, Error::Corrupt { defect: Defect::Meta, .. }));
    fs::remove_file(&meta).expect("removes");
    assert!(matches!(refused(&path), Error::Corrupt { defect: Defect::Meta, .. }));
}

#[test]
fn link_in_place_of_a_file_is_refused() {
    let (dir, path) = store_of_nine();
    let (meta, elsewhere) = (path.join("META"), dir.path().join("elsewhere"));
    fs::rename(&meta, &elsewhere).expect("renames");
    symlink(&elsewhere, &meta).expect("links");
    let error = refused(&path);
    assert!(matches!(error, Error::NotAStore { reason: NotAStoreReason::UnsafeFile, .. }));
}

#[test]
fn directory_without_permission_is_named() {
    let (_dir, path) = store_of_nine();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("chmod");
    if fs::read_dir(&path).is_ok() {
        println!("skipped: this user may read everything (root)");
        return;
    }
    assert!(matches!(LocalBackend::open(&path), Err(Error::Io { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
    LocalBackend::open(&path).expect("nothing was changed");
}

#[test]
fn second_handle_of_one_process_is_locked_out() {
    let (_dir, path) = store_of_nine();
    let first = LocalBackend::open(&path).expect("opens");
    assert!(matches!(LocalBackend::open(&path), Err(Error::Locked { .. })));
    first.close().expect("closes");
    LocalBackend::open(&path).expect("free again");
}

#[test]
fn block_over_the_limit_is_refused_and_the_store_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let store =
        LocalBackend::options().block_len_max(1000).open(dir.path().join("s")).expect("opens");
    let error = store.write_block(block(1, vec![0; 1001])).expect_err("must be refused");
    assert!(matches!(error, Error::BlockTooLarge { len: 1001, len_max: 1000 }));
    store.write_block(block(1, vec![0; 1000])).expect("the limit itself fits");
}

#[test]
fn transaction_over_the_limit_keeps_what_it_had() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = LocalBackend::options().transaction_len_max(100);
    let store = options.open(dir.path().join("s")).expect("opens");
    let tx = store.begin_transaction().expect("begins");
    store.write_block_in_tx(tx, block(1, vec![0; 60])).expect("fits");
    let error = store.write_block_in_tx(tx, block(2, vec![0; 41])).expect_err("must be refused");
    assert!(matches!(error, Error::TransactionTooLarge { len: 101, len_max: 100 }));
    store.commit_transaction(tx).expect("commits");
    assert_eq!(store.stats().total_bytes, 60);
}

#[test]
fn used_up_ids_are_named_and_explicit_ones_still_work() {
    let (_dir, path) = store_of_nine();
    let store = LocalBackend::open(&path).expect("opens");
    store.write_block(block(u64::MAX, "last")).expect("writes");
    assert!(matches!(store.write_block(block(0, "one more")), Err(Error::IdsExhausted)));
    store.write_block(block(12, "explicit")).expect("writes");
    store.close().expect("closes");
    let store = LocalBackend::open(&path).expect("opens");
    assert!(matches!(store.write_block(block(0, "one more")), Err(Error::IdsExhausted)));
}

#[test]
fn flipped_byte_costs_that_block_only_and_verify_names_it() {
    let (_dir, path) = store_of_nine();
    let segment = only_segment(&path);
    let mut bytes = fs::read(&segment).expect("reads");
    let at = bytes.windows(100).position(|w| w == [5; 100]).expect("block 5 is stored") + 50;
    bytes[at] ^= 1;
    fs::write(&segment, bytes).expect("writes");
    let store = LocalBackend::open(&path).expect("an acknowledged payload is not read at open");
    for id in 1..=9 {
        match store.read_block(BlockId(id)) {
            Ok(found) => assert!(id != 5 && found.data == vec![id as u8; 100]),
            Err(Error::Corrupt { defect: Defect::PayloadChecksum, place }) => {
                assert_eq!((id, place.block), (5, Some(BlockId(5))));
                assert_eq!(place.offset, at as u64 - 50);
            }
            Err(other) => panic!("block {id}: {other:?}"),
        }
    }
    store.write_block(block(5, "again")).expect("the rest works");
    store.close().expect("closes");
    let report = LocalBackend::verify(&path).expect("verifies");
    assert_eq!(report.damage.len(), 1);
    assert_eq!(report.damage[0].place.block, Some(BlockId(5)));
}

#[test]
fn damaged_frame_before_acknowledged_ones_is_refused_at_open() {
    let (_dir, path) = store_of_nine();
    let segment = only_segment(&path);
    let mut bytes = fs::read(&segment).expect("reads");
    // The first frame stands behind the segment's header page.
    bytes[4096 + 16] ^= 1;
    fs::write(&segment, bytes).expect("writes");
    match refused(&path) {
        Error::Corrupt { defect: Defect::FrameHeader, place } => assert_eq!(place.offset, 4096),
        other => panic!("{other:?}"),
    }
}

#[test]
fn lost_segment_is_refused_at_open() {
    let (_dir, path) = store_of_nine();
    fs::remove_file(only_segment(&path)).expect("removes");
    let error = refused(&path);
    assert!(matches!(error, Error::Corrupt { defect: Defect::MissingSegment, .. }), "{error:?}");
}

#[test]
fn segment_of_another_store_is_refused_at_open() {
    let ((_dir, path), (_other_dir, other)) = (store_of_nine(), store_of_nine());
    fs::copy(only_segment(&other), only_segment(&path)).expect("copies");
    let error = refused(&path);
    assert!(matches!(error, Error::Corrupt { defect: Defect::ForeignSegment, .. }), "{error:?}");
}

#[test]
fn full_disk_refuses_the_write_and_heals_without_reopen() {
    let disk = SimDisk::new(1);
    let options = LocalBackend::options()
        .single_threaded(true)
        .segment_len_max(64 << 10)
        .block_len_max(16 << 10)
        .zero_ahead_len(0);
    let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
    store.write_block(block(1, vec![1; 9000])).expect("writes");
    disk.set_capacity(Some(0));
    let full = (2..200).find_map(|id| store.write_block(block(id, vec![2; 9000])).err());
    assert!(matches!(full, Some(Error::StorageFull { .. })), "{full:?}");
    assert_eq!(store.read_block(BlockId(1)).expect("reads go on").data, vec![1; 9000]);
    disk.set_capacity(None);
    store.write_block(block(500, "space again")).expect("heals");
    store.close().expect("closes");
}

#[test]
fn closed_store_answers_closed_on_every_handle() {
    let (_dir, path) = store_of_nine();
    let store = LocalBackend::open(path).expect("opens");
    let (other, tx) = (store.clone(), store.begin_transaction().expect("begins"));
    store.close().expect("closes");
    assert!(matches!(other.read_block(BlockId(1)), Err(Error::Closed)));
    assert!(matches!(other.write_block(block(1, "x")), Err(Error::Closed)));
    assert!(matches!(other.commit_transaction(tx), Err(Error::Closed)));
    assert!(matches!(other.sync(), Err(Error::Closed)));
    assert!(matches!(other.close(), Err(Error::Closed)));
}
