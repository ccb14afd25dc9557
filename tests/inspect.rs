//! What a store says of itself: the space it takes, what opening it would find, how far opening is.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/options.rs"]
mod options;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aegis_blocks::{
    Block, BlockId, BlockType, Defect, Durability, Error, LocalBackend, Lsn, OpenPhase, Options,
    Probe, StorageBackend, StorageExt,
};

use options::short_segments;

const SEGMENT_LEN: u64 = 256 << 10;
const BLOCK_LEN: usize = 8 << 10;

fn options() -> Options {
    short_segments(SEGMENT_LEN, SEGMENT_LEN / 2)
        .space_amplification_max(1e6)
        .durability(Durability::Buffered)
}

fn write(store: &LocalBackend, ids: std::ops::Range<u64>, byte: u8) {
    for id in ids {
        let block = Block::new(BlockId(id), BlockType::TableData, vec![byte; BLOCK_LEN]);
        store.write_block(block).unwrap();
    }
    store.sync().unwrap();
}

/// Every file but `LOCK`, which locking may make, and what a running store renames at this moment.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let named = entries.filter_map(|entry| match fs::read(entry.path()) {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        read => Some((entry.file_name().into_string().unwrap(), read.unwrap())),
    });
    named.filter(|(name, _)| name != "LOCK").collect()
}

/// A copy of a running store: what a power cut now would leave.
fn crashed(dir: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for (name, content) in files(dir) {
        fs::write(to.join(name), content).unwrap();
    }
}

#[test]
fn space_tells_live_dead_empty_and_pinned_bytes_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("store")).unwrap();
    write(&store, 1..101, 1);
    let fresh = store.space().unwrap();
    let payload = 100 * BLOCK_LEN as u64;
    assert!((payload..payload + 100 * 4096).contains(&fresh.live_bytes), "{fresh:?}");
    assert_eq!((fresh.empty_bytes, fresh.pinned_bytes), (0, 0), "{fresh:?}");
    assert_eq!(fresh.oldest_snapshot, None);

    let snapshot = store.snapshot().unwrap();
    let at = store.stats().visible_lsn;
    write(&store, 1..101, 2);
    let pinned = store.space().unwrap();
    let whole = pinned.empty_bytes;
    assert!(pinned.pinned_bytes >= whole.max(payload), "every old version is seen: {pinned:?}");
    assert!(pinned.pinned_bytes < whole + payload / 2, "the rest counts by itself: {pinned:?}");
    assert_eq!((pinned.oldest_snapshot, pinned.oldest_snapshot_age), (Some(at), 100));
    assert_eq!(pinned.live_bytes, fresh.live_bytes, "{pinned:?}");
    assert!(pinned.empty_bytes >= payload / 2, "whole segments were replaced: {pinned:?}");

    drop(snapshot);
    store.checkpoint().unwrap();
    let after = store.space().unwrap();
    assert_eq!((after.empty_bytes, after.pinned_bytes, after.oldest_snapshot), (0, 0, None));
    assert!(after.checkpoint_bytes > 0 && after.file_bytes >= after.live_bytes, "{after:?}");
    let listed = fs::read_dir(dir.path().join("store")).unwrap().count() as u64;
    assert!(after.files.abs_diff(listed) <= 1, "{after:?} beside {listed} files");
    store.close().unwrap();
}

#[test]
fn probe_says_what_open_finds_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let store = options().open(&path).unwrap();
    write(&store, 1..41, 1);
    store.checkpoint().unwrap();
    write(&store, 41..61, 2);
    assert!(matches!(LocalBackend::probe(&path), Err(Error::Locked { .. })));
    crashed(&path, &copy);
    store.close().unwrap();

    let before = files(&copy);
    let probe = LocalBackend::probe(&copy).unwrap();
    let Probe::Unclean { replay_bytes, checkpoint_lsn, .. } = probe else { panic!("{probe:?}") };
    assert_eq!(checkpoint_lsn, Lsn(40));
    assert!((20..40).contains(&(replay_bytes / BLOCK_LEN as u64)), "{replay_bytes}");
    assert_eq!(files(&copy), before);
    let opened = options().open(&copy).unwrap();
    let found = *opened.recovery();
    assert_eq!((found.clean, found.bytes, found.checkpoint_lsn), (false, replay_bytes, Lsn(40)));
    opened.close().unwrap();

    let probe = LocalBackend::probe(&path).unwrap();
    assert!(matches!(probe, Probe::Clean { checkpoint_lsn: Lsn(60), .. }), "{probe:?}");
    let missing = LocalBackend::probe(dir.path().join("nothing"));
    assert!(matches!(missing, Err(Error::NotAStore { .. })), "{missing:?}");
}

#[test]
fn probe_names_the_damage_that_open_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    write(&store, 1..101, 1);
    store.checkpoint().unwrap();
    store.close().unwrap();
    let first = path.join(files(&path).keys().find(|name| name.starts_with("SEG-")).unwrap());
    fs::remove_file(&first).unwrap();
    let Ok(Probe::Damaged(damage)) = LocalBackend::probe(&path) else { panic!("not named") };
    assert_eq!(damage.defect, Defect::MissingSegment);
    assert!(first.ends_with(&damage.place.file), "{damage:?}");
    let refused = options().open(&path);
    assert!(
        matches!(&refused, Err(Error::Corrupt { defect, place })
            if (*defect, place) == (damage.defect, &damage.place)),
        "{refused:?}"
    );
}

#[test]
fn open_can_be_aborted_in_every_phase_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let store = options().open(&path).unwrap();
    write(&store, 1..41, 1);
    store.checkpoint().unwrap();
    write(&store, 41..61, 2);
    crashed(&path, &copy);
    store.close().unwrap();
    let before = files(&copy);
    for phase in [OpenPhase::Survey, OpenPhase::Replay, OpenPhase::Finish] {
        let refused = options()
            .on_progress(move |progress| match progress.phase == phase {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
            .open(&copy);
        assert!(matches!(refused, Err(Error::Aborted)), "{phase:?}: {refused:?}");
        assert_eq!(files(&copy), before, "{phase:?}");
    }
    let phases = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&phases);
    let watched = options().on_progress(move |progress| {
        seen.lock().unwrap().push(progress.phase);
        ControlFlow::Continue(())
    });
    let opened = watched.open(&copy).unwrap();
    assert_eq!(opened.ids(..).unwrap().len(), 60);
    opened.close().unwrap();
    let mut phases = phases.lock().unwrap().clone();
    assert!(phases.is_sorted(), "{phases:?}");
    phases.dedup();
    assert_eq!(phases, [OpenPhase::Survey, OpenPhase::Replay, OpenPhase::Finish]);
}

/// `probe` and `verify` made `LOCK` where it was missing, and one look kept the next one out.
#[test]
fn looks_make_no_file_and_keep_out_writers_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    write(&store, 1..4, 7);
    assert!(matches!(LocalBackend::probe(&path), Err(Error::Locked { .. })));
    assert!(matches!(LocalBackend::verify(&path), Err(Error::Locked { .. })));
    let out = dir.path().join("out");
    assert!(matches!(LocalBackend::salvage(&path, &out), Err(Error::Locked { .. })));
    store.close().unwrap();
    for with_lock in [true, false] {
        if !with_lock {
            fs::remove_file(path.join("LOCK")).unwrap();
        }
        let before = files(&path);
        // As another look holds it.
        let other = fs::File::open(&path).unwrap();
        other.try_lock_shared().unwrap();
        assert!(matches!(LocalBackend::probe(&path), Ok(Probe::Clean { .. })));
        assert!(LocalBackend::verify(&path).unwrap().damage.is_empty());
        let out = dir.path().join(format!("out-{with_lock}"));
        assert_eq!(LocalBackend::salvage(&path, &out).unwrap().blocks, 3);
        assert!(matches!(options().open(&path), Err(Error::Locked { .. })));
        drop(other);
        assert!(files(&path) == before, "a look changed something");
        assert_eq!(path.join("LOCK").exists(), with_lock, "a look makes no LOCK");
    }
    let store = options().open(&path).unwrap();
    assert_eq!(store.stats().total_blocks, 3);
}
