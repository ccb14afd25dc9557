//! Who may open a store: the lock file, and media that cannot be written.

use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow::Continue;
use std::os::unix::fs::MetadataExt;

use aegis_blocks::{Block, BlockId, BlockType, Error, LocalBackend, Probe, StorageBackend};

use crate::arena::{Arena, Skipped};
use crate::volume::{Kind, Volume};

fn block() -> Block {
    Block::new(BlockId(1), BlockType::TableData, "kept")
}

/// A file that is unlinked while an opener waits to lock it would let two openers in.
#[test]
fn lock_file_is_the_same_through_opens_refusals_and_closes() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let lock = || fs::metadata(path.join("LOCK")).expect("the lock file").ino();
    let store = LocalBackend::open(&path).expect("a new store");
    let first = lock();
    for _ in 0..3 {
        assert!(matches!(LocalBackend::open(&path), Err(Error::Locked { .. })));
        assert!(matches!(LocalBackend::verify(&path), Err(Error::Locked { .. })));
        assert_eq!(lock(), first, "a refused opener changed the lock file");
    }
    store.close().expect("a clean close");
    assert_eq!(lock(), first, "a close changed the lock file");
    drop(LocalBackend::open(&path).expect("the store, free again"));
    assert_eq!(lock(), first, "an open changed the lock file");
    LocalBackend::verify(&path).expect("a report");
    assert_eq!(lock(), first, "a verification changed the lock file");
}

/// A store on a file system that is mounted for reading only.
pub fn read_only(arena: &Arena) -> Result<(), Skipped> {
    let mut volume = Volume::new(Kind::Ext4, arena.path(), 16 << 20)?;
    volume.mount("");
    let path = volume.path().join("store");
    let options = || LocalBackend::options().segment_len_max(1 << 20).block_len_max(1 << 16);
    let store = options().open(&path).expect("a new store");
    store.write_block(block()).expect("a write");
    store.close().expect("a clean close");
    volume.unmount();
    volume.mount("ro");
    for _ in 0..2 {
        let error = options().open(volume.path().join("store")).expect_err("read only");
        assert!(
            matches!(&error, Error::Io { source, .. }
                if source.kind() == ErrorKind::ReadOnlyFilesystem),
            "{error:?}"
        );
    }
    let mut backup_count = 0;
    let mut verified = |volume: &Volume| {
        let path = volume.path().join("store");
        let report = LocalBackend::verify(&path).expect("a report");
        assert_eq!((report.damage.len(), report.blocks), (0, 1), "{report:?}");
        let probed = LocalBackend::probe(&path).expect("a look");
        assert!(matches!(probed, Probe::Clean { .. }), "{probed:?}");
        let store = options().read_only(true).open(&path).expect("a store to read");
        assert_eq!(store.read_block(BlockId(1)).expect("the block"), block());
        assert!(matches!(store.write_block(block()), Err(Error::ReadOnly)));
        backup_count += 1;
        let backup = arena.path().join(format!("backup-{backup_count}"));
        store.backup_to(&backup, None, &|_| Continue(())).expect("a backup");
        store.close().expect("nothing to write down");
        let again = arena.path().join(format!("again-{backup_count}"));
        LocalBackend::restore(&backup, &again, &|_| Continue(())).expect("a store again");
        let store = options().open(&again).expect("a restored store");
        assert_eq!(store.read_block(BlockId(1)).expect("the block"), block());
        let salvaged = arena.path().join(format!("salvaged-{backup_count}"));
        assert_eq!(LocalBackend::salvage(&path, &salvaged).expect("a copy").blocks, 1);
    };
    verified(&volume);
    let error = options().open(volume.path().join("new")).expect_err("read only");
    assert!(matches!(&error, Error::Io { .. }), "{error:?}");
    volume.unmount();
    // A copy of the store may have come without its lock file.
    volume.mount("");
    fs::remove_file(path.join("LOCK")).expect("the lock file");
    volume.unmount();
    volume.mount("ro");
    verified(&volume);
    assert_eq!(backup_count, 2);
    volume.unmount();
    volume.mount("");
    let store = options().open(&path).expect("the store can be written again");
    assert_eq!(store.read_block(BlockId(1)).expect("the block"), block());
    store.close().expect("a clean close");
    volume.unmount();
    Ok(())
}
