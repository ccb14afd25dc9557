//! Backups that take over what an older one has, and identities that no two stores share.

use std::fs;
use std::os::unix::fs::MetadataExt;

use aegis_blocks::LocalBackend;

use crate::files::{contents, names};
use crate::{check_backup, filled, on, options, put, single_threaded};

#[test]
fn incremental_backup_equals_a_full_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut model) = filled(&dir.path().join("store"));
    let path = |name: &str| dir.path().join(name);
    store.backup_to(path("first"), None, &on).unwrap();
    for id in 200..230 {
        put(&store, id, 1);
        model.insert(id, 1);
    }
    let second = store.backup_to(path("second"), Some(&path("first")), &on).unwrap();
    let full = store.backup_to(path("full"), None, &on).unwrap();
    assert!((1..second.bytes).contains(&second.shared_bytes), "{second:?}");
    assert_eq!((full.lsn, full.shared_bytes), (second.lsn, 0));
    // The full one has a mark more at its end.
    let (second_files, full_files) = (contents(&path("second")), contents(&path("full")));
    assert!(second_files.keys().eq(full_files.keys()));
    let differing = second_files.iter().filter(|(name, content)| full_files[*name] != **content);
    assert!(differing.count() <= 2, "the active segment and the manifest");
    let linked = |name: &&String| fs::metadata(path("second").join(name)).unwrap().nlink() > 1;
    assert!(second_files.keys().filter(linked).count() > 3);
    // It stands without the first one.
    fs::remove_dir_all(path("first")).unwrap();
    check_backup(&path("second"), &path("a"), second.lsn, &model);
    check_backup(&path("full"), &path("b"), full.lsn, &model);
}

#[test]
fn incremental_backup_takes_nothing_damaged_over() {
    let dir = tempfile::tempdir().unwrap();
    let (store, model) = filled(&dir.path().join("store"));
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    store.backup_to(&first, None, &on).unwrap();
    let segments = names(&first).into_iter().filter(|name| name.starts_with("SEG-"));
    let segments: Vec<_> = segments.collect();
    let mut content = fs::read(first.join(&segments[0])).unwrap();
    content[5000] ^= 1;
    fs::write(first.join(&segments[0]), content).unwrap();
    fs::remove_file(first.join(&segments[1])).unwrap();
    let report = store.backup_to(&second, Some(&first), &on).unwrap();
    assert!(report.shared_bytes > 0);
    check_backup(&second, &dir.path().join("restored"), report.lsn, &model);
    assert_eq!(LocalBackend::verify_backup(&first).unwrap().damage.len(), 2);
}

#[test]
fn stores_restored_from_one_backup_never_share_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (store, mut model) = filled(&path("store"));
    store.close().unwrap();
    let store = options().open(path("store")).unwrap();
    store.backup_to(path("backup"), None, &on).unwrap();
    LocalBackend::restore(path("backup"), path("fork"), &on).unwrap();
    let fork = options().open(path("fork")).unwrap();
    // The same block, the same length, another version.
    let (one, other) = (300, 301);
    put(&fork, one, 1);
    fork.backup_to(path("of-fork"), None, &on).unwrap();
    put(&store, other, 1);
    model.insert(other, 1);
    let report = store.backup_to(path("of-store"), Some(&path("of-fork")), &on).unwrap();
    check_backup(&path("of-store"), &path("restored"), report.lsn, &model);
}

/// A store goes on in the same segment after it was closed, and then in those that it had made
/// ahead. So two lives of a store that was copied then write different blocks to files of one name,
/// length, place in the log and salt.
#[test]
fn backup_takes_nothing_over_that_is_another_lifes() {
    for written_count in [5, 100] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (store, mut model) = filled(&path("one"));
        store.close().unwrap();
        fs::create_dir(path("other")).unwrap();
        for (file, content) in contents(&path("one")) {
            fs::write(path("other").join(file), content).unwrap();
        }
        // Blocks of the same lengths.
        let live_on = |life: &str, version: u64| {
            // Without threads: no mark comes between two commits.
            let options = single_threaded().space_amplification_max(1e6);
            let store = options.open(path(life)).unwrap();
            assert!(store.recovery().clean);
            (1..=written_count).for_each(|id| put(&store, id, version));
            store
        };
        let (one, other) = (live_on("one", 5), live_on("other", 3005));
        one.backup_to(path("of-one"), None, &on).unwrap();
        let report = other.backup_to(path("of-other"), Some(&path("of-one")), &on).unwrap();
        assert!((1..report.bytes).contains(&report.shared_bytes), "{report:?}");
        let (of_one, of_other) = (contents(&path("of-one")), contents(&path("of-other")));
        let is_other = |(name, content): &(&String, &Vec<u8>)| {
            let namesake = of_one.get(*name).filter(|_| name.starts_with("SEG-"));
            namesake.is_some_and(|namesake| {
                let is_of_one_use = namesake[..4096] == content[..4096];
                is_of_one_use && namesake.len() == content.len() && namesake != *content
            })
        };
        assert!(of_other.iter().any(|file| is_other(&file)), "both went on in the same segment");
        model.extend((1..=written_count).map(|id| (id, 3005)));
        check_backup(&path("of-other"), &path("restored"), report.lsn, &model);
        // Of its own life it takes that segment over, once no more is written to it.
        let again = other.backup_to(path("again"), Some(&path("of-other")), &on).unwrap();
        assert!(again.shared_bytes >= report.shared_bytes, "{again:?}");
        check_backup(&path("again"), &path("restored again"), again.lsn, &model);
    }
}
