//! Backups and restores on simulated disks: power cuts in them, and operations that fail.

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::io::{Disk, Entry, FileName};
use aegis_blocks::{BlockId, Error, LocalBackend, NotAStoreReason, StorageBackend};

use crate::versions::{Model, payload};
use crate::{on, put, single_threaded};

#[test]
fn power_cut_in_a_backup_leaves_a_whole_one_or_none() {
    let seed = 11;
    println!("seed {seed}");
    let disk = SimDisk::new(seed);
    let store = LocalBackend::open_on(disk, single_threaded()).unwrap();
    let mut model = Model::new();
    for id in 1..=60 {
        put(&store, id, id % 3);
        model.insert(id, id % 3);
    }
    let (mut none, mut some, mut operation, mut finished) = (0, 0, 0, false);
    while !finished {
        for takes_effect in [false, true] {
            let target = SimDisk::new(seed);
            target.crash_at(operation, takes_effect);
            let done = store.backup_on(&target, None, &on).is_ok();
            // A witness more each time: the log grows, and with it the number of operations.
            finished = !target.is_crashed();
            let case = format!("seed {seed}, power cut at {operation} ({takes_effect})");
            for choice in target.crash_choices(seed ^ operation).take(12) {
                let left = target.crash(choice.clone());
                match LocalBackend::verify_backup_on(&left) {
                    Ok(check) => {
                        assert_eq!(check.damage, [], "{case}, {choice:?}");
                        let to = SimDisk::new(seed);
                        LocalBackend::restore_on(&left, &to, &on).unwrap();
                        let restored = LocalBackend::open_on(to, single_threaded()).unwrap();
                        assert_eq!(restored.stats().visible_lsn, check.lsn, "{case}");
                        check_some(&restored, &model);
                        some += 1;
                    }
                    Err(Error::NotAStore { reason: NotAStoreReason::NoManifest, .. }) => {
                        assert!(!done, "{case}: {choice:?} lost a finished backup");
                        none += 1;
                    }
                    Err(error) => panic!("{case}, {choice:?}: {error}"),
                }
            }
        }
        operation += 1;
    }
    println!("{operation} operations: {none} times no backup, {some} times a whole one");
    assert!(none > 100 && some > 0, "{none} {some}");
}

fn check_some(store: &LocalBackend<SimDisk>, model: &Model) {
    assert_eq!(store.ids(..).unwrap().len(), model.len());
    for (id, version) in model.iter().step_by(7) {
        let data = store.read_block(BlockId(*id)).unwrap().data;
        assert!(data == payload(*id, *version), "block {id} is not version {version}");
    }
}

#[test]
fn failed_restore_on_a_simulated_disk_leaves_no_store() {
    let seed = 12;
    println!("seed {seed}");
    let store = LocalBackend::open_on(SimDisk::new(seed), single_threaded()).unwrap();
    for id in 1..=40 {
        put(&store, id, 1);
    }
    let backup = SimDisk::new(seed);
    store.backup_on(&backup, None, &on).unwrap();
    let whole = SimDisk::new(seed);
    LocalBackend::restore_on(&backup, &whole, &on).unwrap();
    let (mut whole_count, mut refused_count) = (0, 0);
    for operation in 0..whole.operations() {
        let to = SimDisk::new(seed);
        to.crash_at(operation, true);
        assert!(LocalBackend::restore_on(&backup, &to, &on).is_err(), "power cut at {operation}");
        for choice in to.crash_choices(seed).take(12) {
            let left = to.crash(choice.clone());
            let has_meta = left
                .list()
                .unwrap()
                .iter()
                .any(|entry| matches!(entry, Entry::File { name: FileName::Meta, .. }));
            // What has no name yet was never begun.
            let unfinished =
                |entry: &Entry| matches!(entry, Entry::File { name: FileName::Temporary(_), .. });
            let is_empty = left.list().unwrap().iter().all(unfinished);
            // The whole store, or none: never one with something missing, and no new one in its
            // place.
            match LocalBackend::open_on(left, single_threaded().create(!is_empty)) {
                Ok(opened) => {
                    assert!(has_meta && !is_empty, "{operation}, {choice:?}");
                    assert_eq!(opened.ids(..).unwrap().len(), 40, "{operation}, {choice:?}");
                    whole_count += 1;
                }
                Err(Error::NotAStore { reason: NotAStoreReason::Backup, .. }) => refused_count += 1,
                Err(Error::NotAStore { reason: NotAStoreReason::Missing, .. }) => {
                    assert!(is_empty, "{operation}, {choice:?}");
                }
                Err(error) => panic!("power cut at {operation}, {choice:?}: {error}"),
            }
        }
    }
    println!("{whole_count} times the whole store, {refused_count} times none");
    assert!(whole_count > 0 && refused_count > 50, "{whole_count} {refused_count}");
}
