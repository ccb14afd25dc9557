//! Damaged stores: refused or served with named errors, verified, salvaged and repaired. What was
//! written and what lies in undamaged files is known to the test on its own.
#![cfg(target_os = "linux")]

mod desk;
#[path = "../support/files.rs"]
mod files;
#[path = "../support/noise.rs"]
mod noise;
#[path = "../support/options.rs"]
mod options;
mod places;
#[path = "../support/xorshift.rs"]
mod xorshift;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use aegis_blocks::{
    Block, BlockId, BlockType, Defect, Error, LocalBackend, Lsn, RepairReport, StorageBackend,
    WriteBatch,
};

use files::contents;
use noise::payload;

use desk::{
    Desk, Model, PAGE_LEN, all_blocks, change, check, commits_lost, find, flip, ids, names,
    options, refused, repaired, verified,
};

#[test]
fn sound_store_is_left_alone() {
    for crash in [false, true] {
        let mut desk = Desk::new();
        desk.fill();
        desk.fill_log();
        let path = if crash { desk.crashed() } else { desk.closed() };
        let report = LocalBackend::verify(&path).expect("a report");
        assert!(report.damage.is_empty(), "{:#?}", report.damage);
        assert!(report.checkpoints > 0 && report.pages > 3, "{report:?}");
        let before = contents(&path);
        let report = LocalBackend::repair(&path).expect("has nothing to do");
        assert_eq!(report, RepairReport::default());
        assert!(contents(&path) == before);
        let out = path.with_file_name("out");
        let report = LocalBackend::salvage(&path, &out).expect("salvages");
        assert!(report.is_complete() && report.losses.is_empty(), "{report:?}");
        assert!(contents(&path) == before);
        check(&options().open(&out).expect("opens"), &desk.model, &[]);
    }
}

#[test]
fn compacted_store_with_released_segments_is_sound() {
    let mut desk = Desk::new();
    desk.fill();
    desk.store().compact_now().expect("compacts");
    desk.fill_log();
    desk.store().compact_now().expect("compacts");
    let first = names(&desk.directory.path().join("open"), "SEG-0000000000000001");
    assert!(first.is_empty(), "the first segment should be out of use: {first:?}");
    let path = desk.closed();
    let report = LocalBackend::verify(&path).expect("a report");
    assert!(report.damage.is_empty(), "{:#?}", report.damage);
    let out = path.with_file_name("out");
    let report = LocalBackend::salvage(&path, &out).expect("salvages");
    assert!(report.is_complete() && report.losses.is_empty(), "{report:?}");
    check(&options().open(&out).expect("opens"), &desk.model, &[]);
}

#[test]
fn damaged_payload_costs_its_block_and_no_other() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    // One below the checkpoint, one behind it.
    for id in [5, 130] {
        let path = desk.crashed();
        let (file, offset) = find(&path, &payload(id, 1)).expect("stored");
        flip(&path, &file, offset + 100);
        verified(&path, Defect::PayloadChecksum, &file, offset);
        let (store, report) = repaired(&path);
        assert_eq!(ids(&report.salvage.lost), [id]);
        assert_eq!(report.salvage.older, []);
        let places: Vec<_> = report.salvage.losses.iter().map(|loss| &loss.place).collect();
        assert_eq!((places.len(), &places[0].file, places[0].offset), (1, &file, offset));
        check(&store, &desk.model, &[id]);
        drop(store);
        for name in ["store", "out", "store.before-repair-1"] {
            fs::remove_dir_all(desk.directory.path().join(name)).expect("removes");
        }
    }
}

#[test]
fn block_whose_newest_version_is_damaged_is_saved_in_an_older_one_and_named() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    let path = desk.crashed();
    let (file, offset) = find(&path, &payload(55, 3)).expect("stored");
    flip(&path, &file, offset);
    let (store, report) = repaired(&path);
    let [older] = report.salvage.older[..] else { panic!("{report:?}") };
    assert_eq!(older.id, BlockId(55));
    assert!(older.kept == Lsn(55) && older.lost > Lsn(120), "{older:?}");
    assert_eq!(report.salvage.lost, []);
    desk.model.insert(55, Some(1));
    check(&store, &desk.model, &[]);
}

#[test]
fn damaged_frame_in_the_log_costs_its_commit_and_nothing_behind_it() {
    for (at, defect) in [(0, Defect::FrameHeader), (16, Defect::FrameHeader), (64, Defect::OpTable)]
    {
        let mut desk = Desk::new();
        desk.fill();
        let before = desk.commits;
        desk.fill_log();
        let path = desk.crashed();
        let (file, offset) = find(&path, &payload(130, 1)).expect("stored");
        let frame = offset - 96;
        flip(&path, &file, frame + at);
        assert_eq!(refused(&path), (defect, file.clone(), frame));
        verified(&path, defect, &file, frame);
        let (store, report) = repaired(&path);
        let lsn = Lsn(before + 10);
        assert_eq!(commits_lost(&report.salvage), [(lsn, lsn)]);
        assert!(!report.salvage.is_complete(), "its blocks are not known, that they were is");
        assert_eq!(report.salvage.losses[0].place.offset, frame);
        assert_eq!(report.salvage.losses[0].place.file, file);
        check(&store, &desk.model, &[130]);
    }
}

#[test]
fn damaged_frame_header_below_the_checkpoint_costs_nothing() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    let path = desk.crashed();
    let (file, offset) = find(&path, &payload(6, 1)).expect("stored");
    flip(&path, &file, offset - 96);
    verified(&path, Defect::FrameHeader, &file, offset - 96);
    let (store, report) = repaired(&path);
    assert!(report.salvage.is_complete(), "{report:?}");
    check(&store, &desk.model, &[]);
}

#[test]
fn damaged_checkpoint_is_rebuilt_from_the_log() {
    let mut desk = Desk::new();
    desk.fill();
    desk.store().compact_now().expect("compacts");
    desk.fill_log();
    let path = desk.crashed();
    let [checkpoint] = &names(&path, "CKPT-")[..] else { panic!("{:?}", contents(&path).keys()) };
    // The header stands in the first page and in the last one.
    let len = fs::metadata(path.join(checkpoint)).expect("there").len();
    flip(&path, checkpoint, 50);
    verified(&path, Defect::Checkpoint, checkpoint, 0);
    flip(&path, checkpoint, len - PAGE_LEN + 50);
    assert_eq!(refused(&path), (Defect::Checkpoint, checkpoint.clone(), 0));
    verified(&path, Defect::Checkpoint, checkpoint, 0);
    let (store, report) = repaired(&path);
    assert!(report.salvage.deleted_may_reappear && report.salvage.lost.is_empty(), "{report:?}");
    assert!(!report.salvage.is_complete(), "blocks may be there that were deleted");
    let found = all_blocks(&store);
    for (id, version) in &desk.model {
        if let Some(version) = version {
            assert!(found.get(id) == Some(&payload(*id, *version)), "{id}");
        }
    }
}

#[test]
fn checkpoint_that_is_gone_costs_nothing_while_the_log_is_whole() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    let path = desk.crashed();
    let checkpoints = names(&path, "CKPT-");
    assert!(!checkpoints.is_empty(), "{:?}", contents(&path).keys());
    for checkpoint in &checkpoints {
        change(&path, checkpoint, |bytes| bytes.truncate(5000));
    }
    let (segment, offset) = find(&path, &payload(130, 1)).expect("stored");
    flip(&path, &segment, offset);
    let (store, report) = repaired(&path);
    assert!(!report.salvage.deleted_may_reappear, "{report:?}");
    assert_eq!(ids(&report.salvage.lost), [130]);
    check(&store, &desk.model, &[130]);
}

#[test]
fn damaged_leaf_costs_nothing_and_brings_back_nothing_beyond_its_ids() {
    let mut desk = Desk::new();
    (1..=400).for_each(|id| desk.write(id, 1));
    // Deleted for good: no frame says so any more.
    [50, 390].into_iter().for_each(|id| desk.delete(id));
    desk.store().compact_now().expect("compacts");
    desk.store().checkpoint().expect("makes a checkpoint");
    let path = desk.closed();
    let names = names(&path, "CKPT-");
    let checkpoint = &names[0];
    flip(&path, checkpoint, PAGE_LEN + 500);
    verified(&path, Defect::Checkpoint, checkpoint, PAGE_LEN);
    let (store, report) = repaired(&path);
    assert!(report.salvage.lost.is_empty() && report.salvage.older.is_empty(), "{report:?}");
    let unsure: BTreeSet<u64> = ids(&report.salvage.unsure).into_iter().collect();
    assert!(!unsure.is_empty() && unsure.iter().all(|id| *id < 300), "{unsure:?}");
    let found = all_blocks(&store);
    for id in 1..=400 {
        let is_right = found.get(&id) == desk.model[&id].map(|v| payload(id, v)).as_ref();
        assert!(is_right || (id == 50 && unsure.contains(&id)), "block {id}");
    }
}

/// Longer than what opening looks at in full.
#[test]
fn damaged_leaf_of_a_long_checkpoint_costs_nothing_while_the_log_is_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let options = || LocalBackend::options().single_threaded(true);
    let store = options().open(&path).expect("opens");
    let mut batch = WriteBatch::new();
    for id in 1..=120_000_u64 {
        batch.write(Block::new(BlockId(id << 33), BlockType::TableData, ""));
    }
    store.apply(batch).expect("commits");
    store.delete_block(BlockId(7 << 33)).expect("deletes");
    store.close().expect("closes");
    let checkpoint = &names(&path, "CKPT-")[0];
    let len = fs::metadata(path.join(checkpoint)).expect("there").len();
    assert!(len > 4 << 20, "{len}");
    flip(&path, checkpoint, PAGE_LEN + 500);
    verified(&path, Defect::Checkpoint, checkpoint, PAGE_LEN);
    let report = LocalBackend::repair(&path).expect("repairs").salvage;
    assert!(report.is_complete() && report.blocks == 119_999, "{report:?}");
    assert_eq!(report.losses.len(), 1, "one place is damaged");
    assert_eq!(options().open(&path).expect("opens").stats().total_blocks, 119_999);
}

/// Blocks whose newest version stands in no file any more.
fn without_bytes(path: &Path, model: &Model) -> Vec<u64> {
    let newest = model.iter().filter_map(|(id, version)| version.map(|version| (*id, version)));
    let gone = newest.filter(|(id, version)| find(path, &payload(*id, *version)).is_none());
    gone.map(|(id, _)| id).collect()
}

#[test]
fn missing_or_cut_segment_costs_the_blocks_in_it_and_no_other() {
    for cut in [None, Some(40_000), Some(20_480), Some(9000)] {
        let mut desk = Desk::new();
        desk.fill();
        desk.fill_log();
        let path = desk.crashed();
        let (file, _) = find(&path, &payload(45, 1)).expect("stored");
        let (defect, offset) = match cut {
            None => {
                fs::remove_file(path.join(&file)).expect("removes");
                (Defect::MissingSegment, 0)
            }
            Some(len) => {
                change(&path, &file, |bytes| bytes.truncate(len));
                (Defect::Truncated, len as u64)
            }
        };
        let gone = without_bytes(&path, &desk.model);
        assert!(!gone.is_empty(), "{cut:?}");
        let (_, refused_file, refused_at) = refused(&path);
        // Without its checkpoint the log is walked from its beginning, frame by frame.
        let is_near = refused_at.abs_diff(offset) < PAGE_LEN;
        assert!(refused_file == file && is_near, "{refused_file} at {refused_at}");
        verified(&path, defect, &file, offset);
        let (store, report) = repaired(&path);
        let report = report.salvage;
        assert!(report.losses.iter().any(|l| l.defect == defect && l.place.file == file));
        let older: Vec<u64> = report.older.iter().map(|older| older.id.0).collect();
        let mut named = [ids(&report.lost), older.clone()].concat();
        named.sort_unstable();
        assert_eq!(named, gone, "{cut:?}");
        desk.model.extend(older.iter().map(|id| (*id, Some(1))));
        check(&store, &desk.model, &ids(&report.lost));
    }
}

#[test]
fn segment_missing_from_the_log_costs_its_commits() {
    let mut desk = Desk::new();
    desk.fill();
    let before = desk.commits;
    desk.fill_log();
    (161..=190).for_each(|id| desk.write(id, 1));
    let path = desk.crashed();
    let (file, _) = find(&path, &payload(160, 1)).expect("stored");
    fs::remove_file(path.join(&file)).expect("removes");
    let (defect, ..) = refused(&path);
    assert_eq!(defect, Defect::MissingSegment);
    let gone = without_bytes(&path, &desk.model);
    let (store, report) = repaired(&path);
    let [(first, last)] = commits_lost(&report.salvage)[..] else { panic!("{report:?}") };
    assert!(first > Lsn(before) && last > first, "{first} to {last}");
    let mut found = all_blocks(&store);
    for (id, version) in &desk.model {
        let expected = version.map(|version| payload(*id, version));
        if found.remove(id) != expected {
            // Its newest change was in the segment, which nothing tells.
            assert!(gone.contains(id) || version.is_none(), "block {id}");
        }
    }
}

#[test]
fn damaged_description_is_named_and_nothing_is_changed() {
    let mut desk = Desk::new();
    desk.fill();
    let path = desk.closed();
    for whole in [false, true] {
        match whole {
            false => change(&path, "META", |bytes| bytes.fill(0)),
            true => fs::remove_file(path.join("META")).expect("removes"),
        }
        let (before, out) = (contents(&path), path.with_file_name("out"));
        let errors = [
            LocalBackend::salvage(&path, &out).map(drop).expect_err("the salt is lost"),
            LocalBackend::repair(&path).map(drop).expect_err("the salt is lost"),
        ];
        for error in errors {
            let named = matches!(&error, Error::Corrupt { defect: Defect::Meta, place }
                if place.file == "META");
            assert!(named, "{error:?}");
        }
        assert!(contents(&path) == before && !out.exists());
    }
}

#[test]
fn block_longer_than_the_default_is_saved_with_all_behind_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let options = || {
        let options = LocalBackend::options().segment_len_max(128 << 20);
        options.block_len_max(40 << 20).zero_ahead_len(0)
    };
    let store = options().open(&path).expect("opens");
    let long = vec![7; 34 << 20];
    store.write_block(Block::new(BlockId(1), BlockType::TableData, long.clone())).expect("writes");
    for id in 2..=20 {
        let block = Block::new(BlockId(id), BlockType::TableData, payload(id, 1));
        store.write_block(block).expect("writes");
    }
    store.close().expect("closes");
    let (file, offset) = find(&path, &payload(9, 1)).expect("stored");
    flip(&path, &file, offset);
    let report = LocalBackend::repair(&path).expect("repairs");
    assert_eq!((ids(&report.salvage.lost), report.salvage.blocks), (vec![9], 19));
    let store = options().open(&path).expect("opens");
    assert!(store.read_block(BlockId(1)).expect("saved").data == long);
    for id in (2..=20).filter(|id| *id != 9) {
        assert!(store.read_block(BlockId(id)).expect("saved").data == payload(id, 1), "{id}");
    }
}

/// It is not there again as it was before its deletion, and it is not passed over either.
#[test]
fn block_written_again_after_its_deletion_is_lost_with_its_newest_version() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    desk.write(150, 2);
    desk.delete(150);
    desk.write(150, 3);
    desk.write(201, 1);
    let path = desk.crashed();
    let (file, offset) = find(&path, &payload(150, 3)).expect("stored");
    flip(&path, &file, offset);
    let (store, report) = repaired(&path);
    assert_eq!(ids(&report.salvage.lost), [150]);
    assert_eq!(report.salvage.older, []);
    check(&store, &desk.model, &[150]);
}

/// What an interrupted repair left, and what earlier ones kept, is never overwritten.
#[test]
fn ids_that_were_given_away_are_not_given_away_again() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    desk.delete(200);
    let path = desk.crashed();
    let (file, offset) = find(&path, &payload(130, 1)).expect("stored");
    flip(&path, &file, offset);
    let (store, _) = repaired(&path);
    let id =
        store.write_block(Block::new(BlockId(0), BlockType::TableData, "new")).expect("writes");
    assert_eq!(id, BlockId(201));
}

/// Sectors overwritten anywhere: what comes back was written once, and what is not as it was is
/// explained.
#[test]
fn random_damage_is_repaired_and_accounted_for() {
    let mut damaged_count = 0;
    for seed in 1..=40_u64 {
        println!("seed {seed}");
        let mut desk = Desk::new();
        desk.fill();
        if seed % 2 == 0 {
            desk.store().compact_now().expect("compacts");
        }
        desk.fill_log();
        let path = if seed % 3 == 0 { desk.closed() } else { desk.crashed() };
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let names: Vec<String> = contents(&path)
            .into_keys()
            .filter(|name| !["META", "LOCK"].contains(&&**name))
            .collect();
        for _ in 0..=random(3) {
            let name = &names[random(names.len() as u64) as usize];
            let len = fs::metadata(path.join(name)).expect("there").len();
            let at = (random(len.max(1)) / 512 * 512) as usize;
            change(&path, name, |bytes| {
                let end = bytes.len().min(at + 512);
                bytes[at.min(end)..end].fill(0xA5);
            });
        }
        let report = LocalBackend::repair(&path).expect("repairs");
        if report.copy.is_none() {
            check(&options().open(&path).expect("opens"), &desk.model, &[]);
            continue;
        }
        damaged_count += 1;
        let report = report.salvage;
        let store = options().open(&path).expect("a repaired store opens");
        let found = all_blocks(&store);
        let older: Vec<u64> = report.older.iter().map(|older| older.id.0).collect();
        let commits_lost = !commits_lost(&report).is_empty();
        for (id, version) in &desk.model {
            let block = found.get(id);
            if block == version.map(|version| payload(*id, version)).as_ref() {
                continue;
            }
            let was_written = (1..=3).any(|version| block == Some(&payload(*id, version)));
            assert!(block.is_none() || was_written, "seed {seed}: block {id} is made up");
            let is_named = report.lost.contains(&BlockId(*id))
                || older.contains(id)
                || report.unsure.contains(&BlockId(*id));
            let explained = is_named || commits_lost || report.deleted_may_reappear;
            assert!(explained, "seed {seed}: block {id}: {report:?}");
        }
        assert!(found.keys().all(|id| desk.model.contains_key(id)), "seed {seed}");
    }
    assert!(damaged_count > 10, "only {damaged_count} stores were damaged");
}
