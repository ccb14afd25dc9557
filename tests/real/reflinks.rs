//! Backups on a file system with reflinks: they take no space, and stay what they were.

use std::ops::ControlFlow;
use std::path::Path;

use aegis_blocks::{
    Block, BlockId, BlockType, CopyProgress, LocalBackend, Options, StorageBackend,
};
use nix::sys::statvfs::statvfs;

use crate::arena::{Arena, Skipped};
use crate::options::short_segments;
use crate::volume::{Cut, Kind, Volume};

const BLOCKS: u64 = 1000;
const BLOCK_LEN: usize = 10_000;

fn on(_: CopyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn options() -> Options {
    short_segments(1 << 20, 64 << 10).single_threaded(true)
}

/// Writes all blocks once more.
fn write(store: &LocalBackend, version: u8) {
    for id in 1..=BLOCKS {
        let block = Block::new(BlockId(id), BlockType::TableData, vec![version; BLOCK_LEN]);
        store.write_block(block).expect("a write");
    }
}

#[track_caller]
fn check(store: &LocalBackend, version: u8) {
    assert_eq!(store.stats().total_blocks, BLOCKS);
    for id in 1..=BLOCKS {
        let data = store.read_block(BlockId(id)).expect("a block").data;
        assert!(data.len() == BLOCK_LEN && data.iter().all(|byte| *byte == version), "block {id}");
    }
}

#[track_caller]
fn check_backup(path: &Path) {
    let found = LocalBackend::verify_backup(path).expect("a backup");
    assert_eq!(found.damage, []);
}

fn free_len(path: &Path) -> u64 {
    let stat = statvfs(path).expect("a file system");
    stat.blocks_available() * stat.fragment_size()
}

/// A backup that returned outlives a power cut, all that the store does, and a store restored from
/// it.
pub fn backups(arena: &Arena) -> Result<(), Skipped> {
    let mut volume = Volume::new(Kind::Xfs, arena.path(), 320 << 20)?;
    volume.mount("");
    let at = |name: &str| volume.path().join(name);
    let (path, backup, restored) = (at("store"), at("backup"), at("restored"));
    let store = options().open(&path).expect("a new store");
    write(&store, 1);
    let before = free_len(&path);
    let report = store.backup_to(&backup, None, &on).expect("a backup");
    if report.cloned_bytes == 0 {
        return Err(Skipped("this XFS has no reflinks".to_string()));
    }
    let taken = before.saturating_sub(free_len(&path));
    assert_eq!(report.cloned_bytes, report.bytes, "all files are reflinks");
    assert!(report.bytes > BLOCKS * BLOCK_LEN as u64, "{report:?}");
    assert!(taken < report.bytes / 4, "{taken} bytes were taken for a backup of {}", report.bytes);
    volume.cut(Cut::AllLost);
    drop(store);
    volume.unmount();
    volume.mount("");
    check_backup(&backup);

    let store = options().open(&path).expect("the store after the power cut");
    check(&store, 1);
    for version in 2..=4 {
        write(&store, version);
        store.compact_now().expect("room is made");
    }
    check_backup(&backup);
    let report = LocalBackend::restore(&backup, &restored, &on).expect("a store again");
    assert_eq!(report.cloned_bytes, report.bytes, "all files are reflinks");
    let again = options().open(&restored).expect("the restored store");
    check(&again, 1);
    write(&again, 9);
    again.compact_now().expect("room is made");
    check(&again, 9);
    check(&store, 4);
    check_backup(&backup);
    for store in [store, again] {
        store.close().expect("a clean close");
    }
    volume.unmount();
    Ok(())
}

/// Where there are no reflinks a backup is a copy.
pub fn copies(arena: &Arena) -> Result<(), Skipped> {
    let mut volume = Volume::new(Kind::Ext4, arena.path(), 128 << 20)?;
    volume.mount("");
    let (path, backup) = (volume.path().join("store"), volume.path().join("backup"));
    let store = options().open(&path).expect("a new store");
    write(&store, 1);
    let report = store.backup_to(&backup, None, &on).expect("a backup");
    assert_eq!(report.cloned_bytes, 0);
    check_backup(&backup);
    store.close().expect("a clean close");
    volume.unmount();
    Ok(())
}
