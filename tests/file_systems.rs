//! What file systems do with a store's directory: their own entries in it, links to it, its removal
//! and its renaming, and what they refuse.
#![cfg(target_os = "linux")]

#[path = "support/block.rs"]
mod block;
#[path = "support/closed.rs"]
mod closed;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::io::{Disk, Entry, FileName};
use aegis_blocks::{
    BlockId, Defect, Durability, Error, LocalBackend, NotAStoreReason, PoisonCause, Probe, Result,
    StorageBackend,
};
use std::ops::ControlFlow::Continue;

use block::block;
use closed::{check, closed_store, directory, everything, find, name, payload, refused};

/// A store can be made, backed up to and restored to the root of a fresh volume.
#[test]
fn what_a_fresh_volume_holds_is_data_of_no_program() {
    for own in ["lost+found", ".snapshot", ".zfs"] {
        let (directory, path) = directory();
        let [backup, again] = ["backup", "again"].map(|name| directory.path().join(name));
        for root in [&path, &backup, &again] {
            fs::create_dir_all(root.join(own)).expect("a fresh volume");
        }
        let store = LocalBackend::open(&path).expect("a store of the whole volume");
        assert_eq!(store.recovery().unknown_files, 0, "{own}");
        store.write_block(block(1, "kept")).expect("a write");
        store.backup_to(&backup, None, &|_| Continue(())).expect("a backup");
        store.close().expect("a clean close");
        LocalBackend::restore(&backup, &again, &|_| Continue(())).expect("a restore");
        for store in [&path, &again] {
            assert!(LocalBackend::verify(store).expect("a report").damage.is_empty());
            let store = LocalBackend::open(store).expect("opens");
            assert_eq!(&store.read_block(BlockId(1)).expect("readable").data[..], b"kept");
        }
        for root in [&path, &backup, &again] {
            assert!(root.join(own).is_dir(), "{own} is left alone");
        }
    }
}

/// Puts something into a directory.
type Plant = fn(&Path);

/// What `fsck` saved may be the last copy of a file, and other names may be of any program.
#[test]
fn what_may_be_data_of_a_program_is_no_store() {
    let plants: [(&str, Plant); 5] = [
        ("lost+found with a file", |path| {
            fs::create_dir(path.join("lost+found")).expect("a directory");
            fs::write(path.join("lost+found/#12"), "saved").expect("a file");
        }),
        ("a file lost+found", |path| fs::write(path.join("lost+found"), "").expect("a file")),
        ("a link .zfs", |path| symlink("/tmp", path.join(".zfs")).expect("a link")),
        ("a hidden file", |path| fs::write(path.join(".profile"), "").expect("a file")),
        ("an empty directory", |path| fs::create_dir(path.join("data")).expect("a directory")),
    ];
    for (what, plant) in plants {
        let (directory, path) = directory();
        fs::create_dir(&path).expect("a directory");
        plant(&path);
        let error = refused(&directory, || LocalBackend::open(&path));
        let foreign = NotAStoreReason::ForeignFiles;
        assert!(
            matches!(&error, Error::NotAStore { reason, .. } if *reason == foreign),
            "{what}: {error:?}"
        );
    }
}

/// With and without a slash behind it.
fn links(link: &Path) -> [std::path::PathBuf; 2] {
    [link.to_path_buf(), link.join("")]
}

#[test]
fn link_to_the_directory_is_the_callers_choice() {
    let (directory, path) = closed_store();
    let [link, made] = ["link", "made"].map(|name| directory.path().join(name));
    symlink("store", &link).expect("a link");
    for way in links(&link) {
        check(&LocalBackend::open(&way).expect("the store behind the link"), &[]);
        assert!(LocalBackend::verify(&way).expect("a report").damage.is_empty());
        let probed = LocalBackend::probe(&way).expect("an answer");
        assert!(matches!(probed, Probe::Clean { .. } | Probe::Unclean { .. }), "{probed:?}");
        let store = LocalBackend::open(&way).expect("opens");
        let locked = LocalBackend::open(&path).expect_err("one store, whatever it is called");
        assert!(matches!(locked, Error::Locked { .. }), "{locked:?}");
        // Backup and restore through links to empty directories.
        let [backup, again] = ["backup", "again"].map(|name| directory.path().join(name));
        for real in [&backup, &again] {
            fs::create_dir(real).expect("a directory");
            symlink(real, real.with_extension("link")).expect("a link");
        }
        let [to, back] = [&backup, &again].map(|real| real.with_extension("link"));
        let slash = way.as_os_str().as_encoded_bytes().ends_with(b"/");
        let [to, back] = [to, back].map(|link| if slash { link.join("") } else { link });
        store.backup_to(&to, None, &|_| Continue(())).expect("a backup behind a link");
        LocalBackend::verify_backup(&to).expect("a backup");
        LocalBackend::restore(&to, &back, &|_| Continue(())).expect("a restore behind a link");
        check(&LocalBackend::open(&again).expect("the restored store"), &[]);
        store.close().expect("a clean close");
        for real in [&backup, &again] {
            fs::remove_dir_all(real).expect("removed");
            fs::remove_file(real.with_extension("link")).expect("removed");
        }
    }
    assert!(link.is_symlink(), "the link stays");
    // A volume that is not mounted: no store is made in its place.
    symlink("nowhere", &made).expect("a link");
    for way in links(&made) {
        let error = refused(&directory, || LocalBackend::open(&way));
        let missing = NotAStoreReason::Missing;
        assert!(
            matches!(&error, Error::NotAStore { reason, .. } if *reason == missing),
            "{error:?}"
        );
    }
}

#[test]
fn store_behind_a_link_is_repaired_and_the_link_stays() {
    for slash in [false, true] {
        let (directory, path) = closed_store();
        let (segment, offset) = find(&path, payload(7).as_bytes());
        assert!(name(&segment).starts_with("SEG-"));
        let mut bytes = fs::read(&segment).expect("a segment");
        bytes[offset as usize] ^= 1;
        fs::write(&segment, &bytes).expect("a damaged one");
        let damaged = everything(&path);
        let deep = directory.path().join("deep");
        fs::create_dir(&deep).expect("a directory");
        let link = deep.join("link");
        symlink("../store", &link).expect("a link");
        let way = if slash { link.join("") } else { link.clone() };
        let report = LocalBackend::repair(&way).expect("a repair");
        assert_eq!(report.damage.len(), 1, "{report:?}");
        assert_eq!(report.damage[0].defect, Defect::PayloadChecksum);
        assert_eq!(fs::read_link(&link).expect("the link"), Path::new("../store"));
        let kept = report.copy.expect("a copy");
        let beside = directory.path().canonicalize().expect("a path").join("store.before-repair-1");
        assert_eq!(kept, beside);
        let moved = everything(&kept).into_iter();
        let moved: Vec<_> = moved.map(|(_, content)| content).collect();
        assert!(moved == damaged.into_values().collect::<Vec<_>>(), "kept as it was");
        assert_eq!(fs::read_dir(&deep).expect("a directory").count(), 1, "nothing beside the link");
        let store = LocalBackend::open(&way).expect("the repaired store");
        for id in (1..=closed::BLOCKS).filter(|id| *id != 7) {
            assert_eq!(store.read_block(BlockId(id)).expect("saved"), block(id, payload(id)));
        }
        let lost: Result<_> = store.read_block(BlockId(7));
        assert!(matches!(lost, Err(Error::BlockNotFound { .. })), "{lost:?}");
    }
}

/// The directory was removed under an open store, and 500 durable commits were acknowledged into
/// nothing.
#[test]
fn commit_into_removed_files_is_refused_within_a_second() {
    type Remove = fn(&SimDisk) -> Vec<FileName>;
    let all: Remove = |disk| names_of(disk, |_| true);
    let meta: Remove = |_| vec![FileName::Meta];
    let active: Remove = |disk| names_of(disk, |name| matches!(name, FileName::Segment(_)));
    for remove in [all, meta, active] {
        let disk = SimDisk::new(1);
        let options = LocalBackend::options().single_threaded(true);
        let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
        disk.advance(Duration::from_secs(5));
        store.write_block(block(1, "kept")).expect("a write");
        let names = remove(&disk);
        names.iter().for_each(|name| disk.remove(*name).expect("a removal"));
        disk.advance(LOOK_EVERY - Duration::from_nanos(1));
        store.write_block(block(2, "within the bound")).expect("not looked at yet");
        disk.advance(Duration::from_nanos(1));
        let refused = store.write_block(block(3, "behind it")).expect_err("no file has it");
        assert!(is_removed(&refused), "{names:?}: {refused:?}");
        let line = refused.to_string();
        assert!(line.contains("removed while it was open") && !line.contains("open it again"));
        assert_eq!(&store.read_block(BlockId(1)).expect("still readable").data[..], b"kept");
        assert!(matches!(store.read_block(BlockId(3)), Err(Error::BlockNotFound { .. })));
        let closed = store.close().expect_err("nothing is left to close");
        assert!(is_removed(&closed), "{closed:?}");
    }
}

/// A close with nothing but unsynced commits would have been the last to notice.
#[test]
fn close_of_a_removed_store_says_so() {
    let (directory, path) = directory();
    let options = LocalBackend::options().single_threaded(true).durability(Durability::Buffered);
    let store = options.open(&path).expect("opens");
    store.write_block(block(1, "lost")).expect("a write");
    fs::remove_dir_all(&path).expect("a removal");
    let closed = store.close().expect_err("nothing is left to close");
    assert!(is_removed(&closed), "{closed:?}");
    assert_eq!(
        fs::read_dir(directory.path()).expect("a list").count(),
        0,
        "nothing was made again"
    );
}

/// A segment cannot be made in a directory that is gone. That was told as a failed write, to be
/// opened again.
#[test]
fn segment_that_cannot_be_made_in_a_removed_directory_is_no_failed_write() {
    let (_directory, path) = directory();
    let options = LocalBackend::options().single_threaded(true);
    let options = options.segment_len_max(64 << 10).block_len_max(32 << 10);
    let store = options.open(&path).expect("opens");
    store.write_block(block(1, "kept")).expect("a write");
    fs::remove_dir_all(&path).expect("a removal");
    let writes = (2..100).map(|id| store.write_block(block(id, vec![7; 20 << 10])));
    let refused = writes.filter_map(|written| written.err()).next().expect("segments run out");
    assert!(is_removed(&refused), "{refused:?}");
}

/// Another store has the path by then: what the first one writes is in none of the two.
#[test]
fn directory_that_was_replaced_is_seen_and_a_renamed_one_is_not_missed() {
    let (directory, path) = directory();
    let moved = directory.path().join("moved");
    let options = || LocalBackend::options().single_threaded(true);
    let store = options().open(&path).expect("opens");
    store.write_block(block(1, "before")).expect("a write");
    fs::rename(&path, &moved).expect("a new name");
    let other = options().open(&path).expect("another store");
    let begun = Instant::now();
    for n in 2.. {
        store.write_block(block(n, "under its new name")).expect("nothing is lost");
        if begun.elapsed() > LOOK_EVERY {
            break;
        }
    }
    fs::remove_dir_all(&moved).expect("a removal");
    let removed = Instant::now();
    let refused = loop {
        let handed_in = removed.elapsed();
        match store.write_block(block(2, "nowhere")) {
            Ok(_) => assert!(handed_in <= LOOK_EVERY, "acknowledged after {handed_in:?}"),
            Err(refused) => break refused,
        }
    };
    assert!(is_removed(&refused), "{refused:?}");
    other.write_block(block(1, "its own")).expect("a store of its own");
    other.close().expect("a clean close");
    drop(store);
    assert!(LocalBackend::verify(&path).expect("a report").damage.is_empty());
}

/// How long a store goes without a look at its names, as `PoisonCause::Removed` says.
const LOOK_EVERY: Duration = Duration::from_secs(1);

fn is_removed(error: &Error) -> bool {
    matches!(error, Error::Poisoned { cause: PoisonCause::Removed })
}

fn names_of(disk: &SimDisk, wanted: fn(&FileName) -> bool) -> Vec<FileName> {
    let listed = disk.list().expect("a list").into_iter();
    let names = listed.filter_map(|entry| match entry {
        Entry::File { name, .. } => Some(name),
        _ => None,
    });
    names.filter(wanted).collect()
}
