//! What bad input gets: each case its own named error, nothing changed on disk, nothing lost, no
//! panic.

#[path = "support/block.rs"]
mod block;
#[path = "support/closed.rs"]
mod closed;
#[path = "support/options.rs"]
mod options;

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;

use aegis_blocks::io::FileName;
use aegis_blocks::io::sim::{CrashChoice, FaultKind, OperationKind, SimDisk};
use aegis_blocks::{
    BlockId, Defect, Error, IoOp, LocalBackend, Options, Place, Result, StorageBackend,
    TransactionId,
};

use block::block;
use closed::{BLOCKS, check, closed_store, directory, everything, find, name, payload, refused};

use options::short_segments;

fn flip(file: &Path, offset: u64) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(file).expect("the file");
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset)).expect("a seek");
    file.read_exact(&mut byte).expect("the byte");
    file.seek(SeekFrom::Start(offset)).expect("a seek");
    file.write_all(&[byte[0] ^ 0x10]).expect("the byte flipped");
}

// Formats.

/// Changes the format version in both copies of a file's first page, and their checksums.
fn set_version(file: &Path, version: u32) {
    let mut content = fs::read(file).expect("the file");
    for at in [0, 2048] {
        content[at + 8..at + 12].copy_from_slice(&version.to_le_bytes());
        let record = &content[at..at + 64];
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[..12]), &record[16..]);
        content[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(file, content).expect("the file is written");
}

#[test]
fn newer_format_is_refused_by_its_version() {
    let (directory, path) = closed_store();
    set_version(&path.join("META"), 7);
    let error = refused(&directory, || LocalBackend::open(&path));
    assert!(
        matches!(&error, Error::UnsupportedFormat { path: named, found: 7, supported: 1 }
            if *named == path),
        "{error:?}"
    );
    set_version(&path.join("META"), 1);
    check(&LocalBackend::open(&path).expect("the store, its version restored"), &[]);
}

#[test]
fn newer_segment_is_refused_by_its_version() {
    let (directory, path) = closed_store();
    let (segment, _) = find(&path, payload(1).as_bytes());
    set_version(&segment, 9);
    let error = refused(&directory, || LocalBackend::open(&path));
    assert!(matches!(&error, Error::UnsupportedFormat { found: 9, .. }), "{error:?}");
    set_version(&segment, 1);
    check(&LocalBackend::open(&path).expect("the store, its version restored"), &[]);
}

#[test]
fn damaged_description_is_named() {
    let (directory, path) = closed_store();
    let meta = path.join("META");
    // One copy of two may be damaged.
    flip(&meta, 20);
    check(&LocalBackend::open(&path).expect("the other copy is intact"), &[]);
    flip(&meta, 2048 + 20);
    let error = refused(&directory, || LocalBackend::open(&path));
    assert!(
        matches!(&error, Error::Corrupt { defect: Defect::Meta, place } if place.file == "META"),
        "{error:?}"
    );
    flip(&meta, 20);
    check(&LocalBackend::open(&path).expect("the first copy is intact"), &[]);
}

#[test]
fn lost_description_is_named() {
    let (directory, path) = closed_store();
    fs::rename(path.join("META"), directory.path().join("META")).expect("META moves away");
    let error = refused(&directory, || LocalBackend::open(&path));
    assert!(matches!(&error, Error::Corrupt { defect: Defect::Meta, .. }), "{error:?}");
    fs::rename(directory.path().join("META"), path.join("META")).expect("META comes back");
    check(&LocalBackend::open(&path).expect("the store opens again"), &[]);
}

// Damage.

#[test]
fn flipped_byte_of_a_payload_is_corrupt_on_that_block_only() {
    let (_directory, path) = closed_store();
    let damaged = 7;
    let (file, start) = find(&path, payload(damaged).as_bytes());
    let len = payload(damaged).len() as u64;
    for flipped in [start, start + 1, start + len / 2, start + len - 1] {
        flip(&file, flipped);
        let corrupt_here = |place: &Place| {
            place.file == name(&file)
                && (place.offset..place.offset + len).contains(&flipped)
                && place.block == Some(BlockId(damaged))
        };
        let store = LocalBackend::open(&path).expect("damage to one payload stops no open");
        let tx = store.begin_transaction().expect("a transaction");
        let id = BlockId(damaged);
        for answer in [store.read_block(id), store.read_block_in_tx(tx, id), store.read_block(id)] {
            assert!(
                matches!(&answer, Err(Error::Corrupt { defect: Defect::PayloadChecksum, place })
                    if corrupt_here(place)),
                "flipped byte {flipped}: {answer:?}"
            );
        }
        assert!(store.block_exists(id).expect("an answer"), "a damaged block exists");
        store.rollback_transaction(tx).expect("a rollback");
        check(&store, &[damaged]);
        store.close().expect("a clean close");
        let report = LocalBackend::verify(&path).expect("a report");
        let defects: Vec<_> = report.damage.iter().map(|damage| damage.defect).collect();
        assert_eq!(defects, [Defect::PayloadChecksum], "{report:?}");
        assert!(corrupt_here(&report.damage[0].place), "{report:?}");
        flip(&file, flipped);
    }
    check(&LocalBackend::open(&path).expect("the store, healed"), &[]);
    let report = LocalBackend::verify(&path).expect("a report");
    assert!(report.damage.is_empty(), "{report:?}");
}

#[test]
fn damaged_block_can_be_replaced_and_deleted() {
    let (directory, path) = closed_store();
    for damaged in [3, 4] {
        let (file, start) = find(&path, payload(damaged).as_bytes());
        flip(&file, start);
    }
    let store = quiet().open(&path).expect("damage to two payloads stops no open");
    store.write_block(block(3, payload(3))).expect("a write over a damaged block");
    store.delete_block(BlockId(4)).expect("a delete of a damaged block");
    let deleted = directory.path().join("deleted");
    copy_killed(&path, &deleted);
    store.write_block(block(4, payload(4))).expect("a write after it");
    check(&store, &[]);
    let replaced = directory.path().join("replaced");
    copy_killed(&path, &replaced);
    store.close().expect("a clean close");
    // Without a close the log is replayed; behind one the checkpoint answers.
    let store = LocalBackend::open(&deleted).expect("the store opens without the block");
    assert!(!store.block_exists(BlockId(4)).expect("an answer"), "the deletion was lost");
    store.write_block(block(4, payload(4))).expect("a write where nothing is");
    check(&store, &[]);
    for path in [replaced, path] {
        check(&LocalBackend::open(&path).expect("the store opens again"), &[]);
    }
}

/// A store that does nothing by itself, so that its files can be copied while it is open.
fn quiet() -> Options {
    LocalBackend::options().single_threaded(true).zero_ahead_len(0)
}

/// Copies the files of an open store: what a kill leaves, without a checkpoint and a clean end.
fn copy_killed(open: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    for entry in fs::read_dir(open).expect("a listing") {
        let from = entry.expect("an entry").path();
        fs::copy(&from, to.join(from.file_name().expect("a file"))).expect("a copy");
    }
}

/// The store of [`closed_store`], as a kill leaves it.
fn killed_store() -> (tempfile::TempDir, std::path::PathBuf) {
    let (directory, path) = directory();
    let open = directory.path().join("open");
    let store = quiet().open(&open).expect("a new store");
    for id in 1..=BLOCKS {
        store.write_block(block(id, payload(id))).expect("a write");
    }
    copy_killed(&open, &path);
    (directory, path)
}

#[test]
fn damage_among_acknowledged_frames_is_refused_with_its_place() {
    // A frame of one write is a header of 64 bytes, a table entry of 32, and the payload.
    let places = [("magic", 0, Defect::FrameHeader), ("lsn", 16, Defect::FrameHeader)];
    let table = [("id in the table", 64, Defect::OpTable), ("length", 72, Defect::OpTable)];
    for (what, at, expected) in places.into_iter().chain(table) {
        // Of a store that was closed, the checkpoint answers: `verify` names the damage.
        let (directory, path) = killed_store();
        let (file, payload_at) = find(&path, payload(5).as_bytes());
        let frame = payload_at - 96;
        flip(&file, frame + at);
        let error = refused(&directory, || LocalBackend::open(&path));
        assert!(
            matches!(&error, Error::Corrupt { defect, place }
                if *defect == expected && place.file == name(&file) && place.offset == frame),
            "{what}: {error:?}"
        );
        let before = everything(&path);
        let report = LocalBackend::verify(&path).expect("a report");
        assert!(before == everything(&path), "verify changed the store");
        let named = |damage: &aegis_blocks::Damage| {
            damage.place.file == name(&file) && damage.place.offset == frame
        };
        assert!(report.damage.iter().any(named), "{what}: {report:?}");
        flip(&file, frame + at);
        check(&LocalBackend::open(&path).expect("the store, healed"), &[]);
    }
}

#[test]
fn missing_segment_is_named() {
    let (directory, path) = directory();
    let options = quiet().segment_len_max(64 << 10).block_len_max(16 << 10);
    let store = options.open(&path).expect("a new store");
    for id in 1..=BLOCKS {
        let mut data = payload(id).into_bytes();
        data.resize(16 << 10, 0);
        store.write_block(block(id, data)).expect("a write");
    }
    let killed = directory.path().join("killed");
    copy_killed(&path, &killed);
    store.close().expect("a clean close");
    // A checkpoint lists the segments of a closed store; of a killed one the log alone tells.
    for path in [path, killed] {
        // The first, one in the middle, and the one with the newest block.
        for id in [1, BLOCKS / 2, BLOCKS] {
            let (file, _) = find(&path, payload(id).as_bytes());
            let away = directory.path().join("away");
            fs::rename(&file, &away).expect("the segment moves away");
            let error = refused(&directory, || LocalBackend::open(&path));
            assert!(
                matches!(&error, Error::Corrupt { defect: Defect::MissingSegment, .. }),
                "segment of block {id} in {path:?}: {error:?}"
            );
            fs::rename(&away, &file).expect("the segment comes back");
        }
        let store = LocalBackend::open(&path).expect("the store opens again");
        assert_eq!(store.stats().total_blocks, BLOCKS);
    }
}

#[test]
fn segment_of_another_store_is_named() {
    let ((directory, path), (_other, other)) = (closed_store(), closed_store());
    let (mine, _) = find(&path, payload(1).as_bytes());
    let (theirs, _) = find(&other, payload(1).as_bytes());
    let kept = fs::read(&mine).expect("the segment");
    fs::copy(&theirs, &mine).expect("another store's segment in its place");
    let error = refused(&directory, || LocalBackend::open(&path));
    assert!(
        matches!(&error, Error::Corrupt { defect: Defect::ForeignSegment, place }
            if place.file == name(&mine)),
        "{error:?}"
    );
    fs::write(&mine, kept).expect("the segment comes back");
    check(&LocalBackend::open(&path).expect("the store opens again"), &[]);
}

fn short() -> Options {
    short_segments(64 << 10, 32 << 10).single_threaded(true).zero_ahead_len(0)
}

fn segments_of(disk: &SimDisk) -> Vec<FileName> {
    let names = disk.files().into_iter().map(|(name, _)| name);
    names.filter(|name| matches!(name, FileName::Segment(_))).collect()
}

/// Two stores that were one go on apart. Their segments have the same places, the same store and
/// right checksums; only what comes before them differs.
#[test]
fn segment_of_a_clone_is_named() {
    let disk = SimDisk::new(1);
    let clone = {
        let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
        store.write_block(block(1, payload(1))).expect("a write");
        disk.freeze()
    };
    let disk = clone.freeze();
    for (disk, what) in [(&disk, b'o'), (&clone, b'c')] {
        let store = LocalBackend::open_on(disk.clone(), short()).expect("it opens");
        for id in 2..=9 {
            store.write_block(block(id, vec![what; 20 << 10])).expect("a write");
        }
        disk.crash_at(0, false);
    }
    let (disk, clone) = (disk.freeze(), clone.freeze());
    let segments = segments_of(&disk);
    assert_eq!(segments, segments_of(&clone), "the same files, so that they can be mixed up");
    let mut refused = 0;
    for segment in segments {
        let mixed = disk.freeze();
        mixed.copy_file_from(&clone, segment, segment);
        match LocalBackend::open_on(mixed, short()) {
            Err(Error::Corrupt { .. }) => refused += 1,
            Err(error) => panic!("{segment}: {error:?}"),
            // The last one takes its place where it is the end of the log alone.
            Ok(store) => {
                for id in store.ids(..).expect("lists").into_iter().filter(|id| id.0 > 1) {
                    let data = store.read_block(id).expect("an intact block").data;
                    assert!(
                        data.iter().all(|byte| *byte == b'o'),
                        "{segment}: a block of the clone"
                    );
                }
            }
        }
    }
    assert!(refused > 1, "{refused} refused");
}

#[test]
fn read_error_in_the_log_is_not_taken_for_its_end() {
    let disk = SimDisk::new(2);
    let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
    for id in 1..=12 {
        store.write_block(block(id, vec![7; 15 << 10])).expect("a write");
    }
    let disk = disk.crash(CrashChoice::Nothing);
    let mut failed = 0;
    for segment in segments_of(&disk) {
        for skip in 0.. {
            let disk = disk.freeze();
            disk.inject_on(OperationKind::Read, Some(segment), skip, FaultKind::Eio, false);
            match LocalBackend::open_on(disk.clone(), short()) {
                Err(Error::Io { op: IoOp::Read, .. }) => failed += 1,
                Err(error) => panic!("{segment}, read {skip}: {error:?}"),
                Ok(store) => {
                    assert_eq!(disk.faults_struck(), 0, "{segment}: read {skip} went unheard");
                    assert_eq!(store.stats().total_blocks, 12);
                    break;
                }
            }
        }
    }
    assert!(failed > 3, "{failed} reads of the log");
}

/// What a checkpoint names is mapped when it is read: a shorter file would end the process then.
#[test]
fn segment_shorter_than_what_a_checkpoint_has_in_it_is_named() {
    let disk = SimDisk::new(3);
    let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
    for id in 1..=12 {
        store.write_block(block(id, vec![7; 15 << 10])).expect("a write");
    }
    store.checkpoint().expect("a checkpoint");
    store.close().expect("a clean close");
    let first = segments_of(&disk)[0];
    let bytes = disk.contents(first).expect("a segment");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("blocks in it") as u64 + 1;
    for len in [used - 1, used - 4096, used / 2, 1, 0] {
        let cut = disk.freeze();
        cut.truncate(first, len);
        let error = LocalBackend::open_on(cut, short()).expect_err("a short segment");
        assert!(
            matches!(&error, Error::Corrupt { place: Place { file, .. }, .. }
                if *file == first.to_string()),
            "cut to {len} of {used} bytes: {error:?}"
        );
    }
}

// Blocks and transactions.

#[test]
fn unknown_ids_are_named() {
    let (_directory, path) = closed_store();
    let store = LocalBackend::open(&path).expect("the store opens");
    for id in [BlockId(0), BlockId(BLOCKS + 1), BlockId(u64::MAX)] {
        let found =
            |error: Error| matches!(error, Error::BlockNotFound { id: named } if named == id);
        assert!(found(store.read_block(id).expect_err("no such block")));
        assert!(found(store.delete_block(id).expect_err("no such block")));
        assert!(!store.block_exists(id).expect("an answer"));
    }
    let unknown = TransactionId(u64::MAX);
    let error = store.commit_transaction(unknown).expect_err("no such transaction");
    assert!(matches!(error, Error::TransactionNotFound { id } if id == unknown), "{error:?}");
    check(&store, &[]);
}

#[test]
fn block_over_the_limit_is_refused_and_costs_nothing() {
    let (_directory, path) = directory();
    let options = || LocalBackend::options().block_len_max(1000).transaction_len_max(2500);
    let store = options().open(&path).expect("a new store");
    store.write_block(block(1, vec![1; 1000])).expect("a block at the limit");
    let too_large =
        |error: Error| matches!(error, Error::BlockTooLarge { len: 1001, len_max: 1000 });
    for id in [0, 1, 2] {
        let error = store.write_block(block(id, vec![2; 1001])).expect_err("over the limit");
        assert!(too_large(error));
    }
    let tx = store.begin_transaction().expect("a transaction");
    let error = store.write_block_in_tx(tx, block(1, vec![2; 1001])).expect_err("over the limit");
    assert!(too_large(error));
    for id in [2, 3] {
        store.write_block_in_tx(tx, block(id, vec![3; 1000])).expect("within the limits");
    }
    let error = store.write_block_in_tx(tx, block(4, vec![3; 501])).expect_err("over the limit");
    assert!(matches!(error, Error::TransactionTooLarge { len: 2501, len_max: 2500 }), "{error:?}");
    store.write_block_in_tx(tx, block(4, vec![3; 500])).expect("exactly at the limit");
    store.commit_transaction(tx).expect("a commit");
    let stats = store.stats();
    assert_eq!((stats.total_blocks, stats.total_bytes), (4, 3500));
    assert_eq!(store.write_block(block(0, "next")).expect("a write"), BlockId(5));
    store.close().expect("a clean close");
    let store = options().open(&path).expect("the store opens again");
    assert_eq!(store.stats().total_bytes, 3504);
    assert_eq!(store.read_block(BlockId(1)).expect("block 1"), block(1, vec![1; 1000]));
}

#[test]
fn last_id_ends_allocation_nowhere() {
    let (directory, path) = closed_store();
    let [copy, restored, saved] = ["copy", "restored", "saved"].map(|n| directory.path().join(n));
    let add = |store: &LocalBackend| store.write_block(block(0, "new")).expect("an id").0;
    let store = LocalBackend::open(&path).expect("the store opens");
    let tx = store.begin_transaction().expect("a transaction");
    for id in [1 << 40, u64::MAX] {
        store.write_block_in_tx(tx, block(id, "rolled back")).expect("an explicit id");
    }
    store.rollback_transaction(tx).expect("rolls back");
    assert_eq!(add(&store), BLOCKS + 1);
    store.write_block(block(u64::MAX, "the last id")).expect("an explicit id");
    assert_eq!(add(&store), BLOCKS + 2);
    store.backup_to(&copy, None, &|_| ControlFlow::Continue(())).expect("a backup");
    store.delete_block(BlockId(u64::MAX)).expect("a delete");
    assert_eq!(add(&store), BLOCKS + 3);
    store.write_block(block(BLOCKS + 6, "named")).expect("an explicit id");
    assert_eq!([add(&store), add(&store), add(&store)], [4, 5, 7].map(|n| BLOCKS + n));
    store.close().expect("a clean close");

    let store = LocalBackend::open(&path).expect("the store opens again");
    assert_eq!(add(&store), BLOCKS + 8);
    store.close().expect("a clean close");
    LocalBackend::restore(&copy, &restored, &|_| ControlFlow::Continue(())).expect("restores");
    assert_eq!(add(&LocalBackend::open(&restored).expect("opens")), BLOCKS + 3);
    LocalBackend::salvage(&path, &saved).expect("salvages");
    let store = LocalBackend::open(&saved).expect("opens");
    assert_eq!(add(&store), BLOCKS + 9);
    assert_eq!(store.stats().total_blocks, BLOCKS + 9);
}

#[test]
fn closed_store_answers_closed() {
    let (_directory, path) = closed_store();
    let store = LocalBackend::open(&path).expect("the store opens");
    let (handle, another) = (store.clone(), store.clone());
    let tx = store.begin_transaction().expect("a transaction");
    store.write_block_in_tx(tx, block(1, "pending")).expect("a write");
    store.close().expect("a clean close");
    let id = BlockId(1);
    let answers: [(&str, Result<()>); 11] = [
        ("write_block", handle.write_block(block(1, "late")).map(drop_value)),
        ("read_block", handle.read_block(id).map(drop_value)),
        ("delete_block", handle.delete_block(id)),
        ("block_exists", handle.block_exists(id).map(drop_value)),
        ("begin_transaction", handle.begin_transaction().map(drop_value)),
        ("write_block_in_tx", handle.write_block_in_tx(tx, block(1, "late")).map(drop_value)),
        ("read_block_in_tx", handle.read_block_in_tx(tx, id).map(drop_value)),
        ("delete_block_in_tx", handle.delete_block_in_tx(tx, id)),
        ("commit_transaction", handle.commit_transaction(tx)),
        ("sync", handle.sync()),
        ("close", handle.close()),
    ];
    for (call, answer) in answers {
        assert!(matches!(answer, Err(Error::Closed)), "{call} answered {answer:?}");
    }
    drop(another);
    check(&LocalBackend::open(&path).expect("the store opens again"), &[]);
}

fn drop_value<T>(_: T) {}
