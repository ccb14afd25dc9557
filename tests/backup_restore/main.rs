//! Backups of a running store: what they hold is the store as of one commit, whatever happens
//! beside them, and what is wrong with one is named. [`incremental`] ones take files over;
//! [`simulated`] disks fail in the middle of one.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/files.rs"]
mod files;
mod incremental;
#[path = "../support/options.rs"]
mod options;
mod simulated;
#[path = "../support/versions.rs"]
mod versions;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aegis_blocks::io::Disk;
use aegis_blocks::{
    Block, BlockId, BlockType, CompactionEnd, CopyProgress, Defect, Durability, Error,
    LocalBackend, Lsn, NotAStoreReason, Options, Probe, StorageBackend, StorageExt,
};

use files::{contents, names};
use options::short_segments;
use versions::{Model, payload};

const SEGMENT_LEN: u64 = 64 << 10;

fn options() -> Options {
    short_segments(SEGMENT_LEN, SEGMENT_LEN / 2)
        .checkpoint_log_len(4 * SEGMENT_LEN)
        .durability(Durability::Buffered)
}

fn single_threaded() -> Options {
    options().single_threaded(true)
}

fn on(_: CopyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn put<D: Disk>(store: &LocalBackend<D>, id: u64, version: u64) {
    let block = versions::block(id, version);
    store.write_block(block).unwrap();
}

fn check<D: Disk>(store: &LocalBackend<D>, model: &Model) {
    versions::check(store, model, "a restored store");
}

/// Restores a backup, opens what comes of it and compares.
fn check_backup(backup: &Path, to: &Path, lsn: Lsn, model: &Model) {
    assert_eq!(LocalBackend::verify_backup(backup).unwrap().damage, []);
    let restored = LocalBackend::restore(backup, to, &on).unwrap();
    assert_eq!(restored.lsn, lsn);
    assert!(LocalBackend::verify(to).unwrap().damage.is_empty());
    let store = options().open(to).unwrap();
    assert_eq!(store.stats().visible_lsn, lsn);
    assert_eq!((store.recovery().torn_bytes, store.recovery().resynced_frames), (0, 0));
    check(&store, model);
    put(&store, 1 << 50, 1);
    store.close().unwrap();
    let store = options().open(to).unwrap();
    assert_eq!(store.ids(..).unwrap().len(), model.len() + 1);
    store.close().unwrap();
}

/// A store with a few segments, some of them partly dead, and its model.
fn filled(path: &Path) -> (LocalBackend, Model) {
    // Nothing is moved but on request.
    let store = options().space_amplification_max(1e6).open(path).unwrap();
    let mut model = Model::new();
    for version in 1..=4 {
        for id in (1..=100).filter(|id| id % version == 0) {
            put(&store, id, version);
            model.insert(id, version);
        }
    }
    (store, model)
}

/// One change: the commit, the block, and its new version unless it was deleted.
type Change = (Lsn, u64, Option<u64>);

/// The store after the changes up to a commit; the changes are in the order of commits.
fn model_as_of(changes: &[Change], lsn: Lsn) -> Model {
    let mut model = Model::new();
    for (_, id, version) in changes.iter().take_while(|change| change.0 <= lsn) {
        match version {
            Some(version) => model.insert(*id, *version),
            None => model.remove(id),
        };
    }
    model
}

#[test]
fn backup_beside_writers_is_the_store_as_of_its_lsn() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("store")).unwrap();
    let changes: Mutex<Vec<Change>> = Mutex::default();
    let (written, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut reports = Vec::new();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (store, changes, written, done) = (&store, &changes, &written, &done);
            scope.spawn(move || {
                for version in 1.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    // A few ids a thread, so that segments die and compaction has work.
                    let id = thread * 1000 + 1 + version * 7 % 40;
                    let transaction = store.begin().unwrap();
                    let data = payload(id, version);
                    transaction.write(Block::new(BlockId(id), BlockType::TableData, data)).unwrap();
                    let kept = version % 5 != 0;
                    if !kept {
                        transaction.delete(BlockId(id)).unwrap();
                    }
                    let lsn = transaction
                        .submit()
                        .unwrap()
                        .wait()
                        .unwrap()
                        .expect("it changes something");
                    changes.lock().unwrap().push((lsn, id, kept.then_some(version)));
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut since = None;
        for round in 1..=4_u64 {
            while written.load(Ordering::Relaxed) < round * 400 {
                std::thread::yield_now();
            }
            let to = dir.path().join(format!("backup{round}"));
            // Commits, a checkpoint and a compaction in the middle of the copying.
            let disturbed = AtomicBool::new(false);
            let middle = |progress: CopyProgress| {
                let is_half = progress.bytes_done > progress.bytes_total / 2;
                if is_half && !disturbed.swap(true, Ordering::Relaxed) {
                    let so_far = written.load(Ordering::Relaxed);
                    while written.load(Ordering::Relaxed) < so_far + 20 {
                        std::thread::yield_now();
                    }
                    if round > 1 {
                        store.compact_now().unwrap();
                    }
                }
                ControlFlow::Continue(())
            };
            reports.push(store.backup_to(&to, since.as_deref(), &middle).unwrap());
            since = Some(to);
        }
        done.store(true, Ordering::Relaxed);
    });
    store.close().unwrap();
    let mut changes = changes.into_inner().unwrap();
    changes.sort_unstable();
    assert!(reports.is_sorted_by_key(|report| report.lsn), "{reports:?}");
    for (round, report) in reports.iter().enumerate() {
        let model = model_as_of(&changes, report.lsn);
        let to = dir.path().join(format!("restored{round}"));
        check_backup(&dir.path().join(format!("backup{}", round + 1)), &to, report.lsn, &model);
    }
}

#[test]
fn backup_of_an_empty_a_reopened_and_a_crashed_store_restores() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    let report = store.backup_to(dir.path().join("empty"), None, &on).unwrap();
    assert_eq!(report.lsn, Lsn(0));
    check_backup(&dir.path().join("empty"), &dir.path().join("a"), Lsn(0), &Model::new());
    store.close().unwrap();
    fs::remove_dir_all(&path).unwrap();

    let (store, model) = filled(&path);
    store.close().unwrap();
    // Nothing was written since: the checkpoint is an old one, and the log begins with an end mark.
    for name in ["first", "second"] {
        // Without threads: its files are copied below, while it is open.
        let store = single_threaded().open(&path).unwrap();
        let report = store.backup_to(dir.path().join(name), None, &on).unwrap();
        check_backup(
            &dir.path().join(name),
            &dir.path().join(format!("{name}-b")),
            report.lsn,
            &model,
        );
        put(&store, 7, model[&7]);
        let crashed = dir.path().join(format!("{name}-crashed"));
        fs::create_dir(&crashed).unwrap();
        for (file, content) in contents(&path) {
            fs::write(crashed.join(file), content).unwrap();
        }
        store.close().unwrap();
        let store = options().open(&crashed).unwrap();
        assert!(!store.recovery().clean);
        let to = dir.path().join(format!("{name}-after"));
        let report = store.backup_to(&to, None, &on).unwrap();
        check_backup(&to, &dir.path().join(format!("{name}-c")), report.lsn, &model);
    }
}

#[test]
fn every_lost_cut_swapped_or_flipped_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(&dir.path().join("store"));
    let backup = dir.path().join("backup");
    store.backup_to(&backup, None, &on).unwrap();
    let sound = contents(&backup);
    assert!(sound.keys().filter(|name| name.starts_with("SEG-")).count() > 3, "{:?}", sound.keys());
    assert!(sound.keys().any(|name| name.starts_with("CKPT-")));
    let mut round = 0;
    let mut named = |name: &str, defect: Defect| {
        let check = LocalBackend::verify_backup(&backup).unwrap();
        let found: Vec<_> =
            check.damage.iter().map(|d| (d.place.file.as_str(), d.defect)).collect();
        assert!(found.contains(&(name, defect)), "{name}: {found:?}");
        round += 1;
        let to = dir.path().join(format!("restored{round}"));
        let refused = LocalBackend::restore(&backup, &to, &on);
        let Err(Error::Corrupt { defect: said, place }) = &refused else { panic!("{refused:?}") };
        assert!(found.contains(&(place.file.as_str(), *said)), "{place:?} of {found:?}");
        assert_eq!(names(&to), [""; 0], "{name}");
    };
    let files: Vec<_> = sound.keys().filter(|name| *name != "MANIFEST").cloned().collect();
    for (at, name) in files.iter().enumerate() {
        let (path, content) = (backup.join(name), &sound[name]);
        fs::remove_file(&path).unwrap();
        named(name, Defect::MissingFile);
        fs::write(&path, &content[..content.len() - 1]).unwrap();
        named(name, Defect::Truncated);
        fs::write(&path, [content, &b"x"[..]].concat()).unwrap();
        named(name, Defect::BackupChecksum);
        let mut flipped = content.clone();
        let byte = (at * 2741 + 100) % content.len();
        flipped[byte] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        named(name, Defect::BackupChecksum);
        fs::write(&path, content).unwrap();
    }
    // Two of the same length, each whole in itself.
    let pair = files.iter().enumerate().find_map(|(at, one)| {
        let other = files[at + 1..].iter().find(|other| sound[*other].len() == sound[one].len());
        other.map(|other| (one, other))
    });
    let (one, other) = pair.expect("two segments are full");
    fs::write(backup.join(one), &sound[other]).unwrap();
    fs::write(backup.join(other), &sound[one]).unwrap();
    named(one, Defect::BackupChecksum);
    named(other, Defect::BackupChecksum);
    fs::write(backup.join(one), &sound[one]).unwrap();
    fs::write(backup.join(other), &sound[other]).unwrap();
    assert_eq!(LocalBackend::verify_backup(&backup).unwrap().damage, []);

    let manifest = &sound["MANIFEST"];
    for byte in (0..manifest.len()).step_by(13) {
        let mut flipped = manifest.clone();
        flipped[byte] ^= 1;
        fs::write(backup.join("MANIFEST"), flipped).unwrap();
        let refused = LocalBackend::restore(&backup, dir.path().join("never"), &on);
        assert!(
            matches!(&refused, Err(Error::Corrupt { defect: Defect::Manifest, place })
                if place.file == "MANIFEST"),
            "byte {byte}: {refused:?}"
        );
    }
    fs::remove_file(backup.join("MANIFEST")).unwrap();
    let refused = LocalBackend::restore(&backup, dir.path().join("never"), &on);
    let reason = NotAStoreReason::NoManifest;
    assert!(matches!(&refused, Err(Error::NotAStore { reason: r, .. }) if *r == reason));
    assert!(!dir.path().join("never").exists());
}

#[test]
fn backup_and_restore_into_something_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(&dir.path().join("store"));
    let (backup, full) = (dir.path().join("backup"), dir.path().join("full"));
    store.backup_to(&backup, None, &on).unwrap();
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "precious").unwrap();
    let before = contents(&full);
    for refused in [
        LocalBackend::restore(&backup, &full, &on),
        store.backup_to(&full, None, &on),
        store.backup_to(&backup, None, &on),
    ] {
        assert!(matches!(refused, Err(Error::NotEmpty { .. })), "{refused:?}");
    }
    assert_eq!(contents(&full), before);
    assert_eq!(LocalBackend::verify_backup(&backup).unwrap().damage, []);
    let other = options().open(dir.path().join("other")).unwrap();
    let refused = other.backup_to(dir.path().join("new"), Some(&backup), &on);
    assert!(matches!(refused, Err(Error::InvalidArgument { argument: "since", .. })));
    // A backup is no store: opening it would change it.
    for refused in [options().open(&backup).map(drop), LocalBackend::verify(&backup).map(drop)] {
        let reason = NotAStoreReason::Backup;
        assert!(matches!(&refused, Err(Error::NotAStore { reason: r, .. }) if *r == reason));
    }
    let refused = LocalBackend::restore(dir.path().join("store"), dir.path().join("new2"), &on);
    assert!(matches!(refused, Err(Error::NotAStore { .. })), "{refused:?}");
}

#[test]
fn aborted_backup_and_restore_leave_an_empty_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (store, model) = filled(&dir.path().join("store"));
    let (backup, to) = (dir.path().join("backup"), dir.path().join("to"));
    let half = |progress: CopyProgress| match progress.bytes_done * 2 > progress.bytes_total {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    assert!(matches!(store.backup_to(&backup, None, &half), Err(Error::Aborted)));
    assert_eq!(names(&backup), [""; 0]);
    let last = Mutex::new(CopyProgress::default());
    let whole = |progress: CopyProgress| {
        let mut last = last.lock().unwrap();
        assert!(progress.bytes_done >= last.bytes_done, "{progress:?} after {last:?}");
        *last = progress;
        ControlFlow::Continue(())
    };
    let report = store.backup_to(&backup, None, &whole).unwrap();
    let last = *last.lock().unwrap();
    assert_eq!((last.bytes_done, last.bytes_total), (report.bytes, report.bytes));
    assert!(matches!(LocalBackend::restore(&backup, &to, &half), Err(Error::Aborted)));
    assert_eq!(names(&to), [""; 0]);
    check_backup(&backup, &to, report.lsn, &model);
}

#[test]
fn space_held_for_a_backup_is_given_back_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, model) = filled(&dir.path().join("store"));
    let (backup, to) = (dir.path().join("backup"), dir.path().join("to"));
    let changed = AtomicBool::new(false);
    let during = |_: CopyProgress| {
        if !changed.swap(true, Ordering::Relaxed) {
            // What falls out of use while the backup reads it.
            model.keys().for_each(|id| put(&store, *id, 9));
            store.checkpoint().unwrap();
            let held = store.space().unwrap().empty_bytes;
            assert!(held > 0, "nothing was let go");
            // Moves would take space, and none of what they empty could go.
            let report = store.compact_now().unwrap();
            assert_eq!((report.end, report.moved_bytes), (CompactionEnd::Backup, 0), "{report:?}");
            assert_eq!(report.given_back_bytes(), 0, "{report:?}");
            assert_eq!(store.space().unwrap().empty_bytes, held);
        }
        ControlFlow::Continue(())
    };
    let report = store.backup_to(&backup, None, &during).unwrap();
    check_backup(&backup, &to, report.lsn, &model);
    let report = store.compact_now().unwrap();
    assert_eq!(report.end, CompactionEnd::Dense, "{report:?}");
    let space = store.space().unwrap();
    assert_eq!(space.empty_bytes, 0, "{space:?}");
    assert!(report.log_bytes < report.live_bytes * 6 / 5 + SEGMENT_LEN, "{report:?}");
    check(&store, &model.keys().map(|id| (*id, 9)).collect());
}

#[test]
fn images_of_several_checkpoints_under_a_backup_go_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (store, mut model) = filled(&path);
    // A base that deltas stay small beside.
    (1..=4000).for_each(|id| put(&store, id, model.entry(id).or_insert(0).to_owned()));
    store.checkpoint().unwrap();
    let images = || names(&path).iter().filter(|name| name.starts_with("CKPT")).count();
    let made = AtomicBool::new(false);
    let during = |_: CopyProgress| {
        if !made.swap(true, Ordering::Relaxed) {
            for version in 1..=12 {
                put(&store, 1, version);
                store.checkpoint().unwrap();
            }
            assert!(images() > 10, "{} images: some went under the backup", images());
        }
        ControlFlow::Continue(())
    };
    store.backup_to(dir.path().join("backup"), None, &during).unwrap();
    put(&store, 1, 13);
    model.insert(1, 13);
    store.checkpoint().unwrap();
    assert!(images() <= 8, "{} images are left", images());
    check(&store, &model);
}

#[test]
fn store_closed_under_a_backup_makes_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(&dir.path().join("store"));
    let backup = dir.path().join("backup");
    let other = Mutex::new(Some(store.clone()));
    let closing = |_: CopyProgress| {
        if let Some(store) = other.lock().unwrap().take() {
            store.close().unwrap();
        }
        ControlFlow::Continue(())
    };
    let refused = store.backup_to(&backup, None, &closing);
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    assert_eq!(names(&backup), [""; 0]);
}

#[test]
fn probe_of_a_restored_store_finds_nothing_torn() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(&dir.path().join("store"));
    let (backup, to) = (dir.path().join("backup"), dir.path().join("to"));
    let report = store.backup_to(&backup, None, &on).unwrap();
    LocalBackend::restore(&backup, &to, &on).unwrap();
    let probe = LocalBackend::probe(&to).unwrap();
    let Probe::Unclean { torn_bytes: 0, checkpoint_lsn, .. } = probe else { panic!("{probe:?}") };
    assert!(checkpoint_lsn <= report.lsn && checkpoint_lsn > Lsn(0));
}
