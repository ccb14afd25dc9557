//! A full btrfs, which copies on write: space that was reserved is no reservation there unless a
//! file is marked to be overwritten in place.

use std::fs;
use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_blocks::{
    Block, BlockId, Durability, Error, LocalBackend, Options, SpaceLimit, StorageBackend,
};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, statfs};

use crate::arena::{Arena, Skipped, say, tool};
use crate::fill::filling;
use crate::volume::{run, unmount};

/// Long enough for a group to be more than a page of what is ahead.
const BLOCK_LEN: usize = 65_000;
const IMAGE_LEN: u64 = 200 << 20;
/// Without the mark nearly every run was poisoned.
const RUNS: u64 = 6;

/// A btrfs of its own, until dropped.
struct Volume {
    image: PathBuf,
    point: PathBuf,
}

impl Volume {
    fn new(arena: &Arena) -> Result<Volume, Skipped> {
        tool("mkfs.btrfs")?;
        let (image, point) = (arena.path().join("btrfs.image"), arena.path().join("btrfs"));
        fs::File::create_new(&image).and_then(|file| file.set_len(IMAGE_LEN)).expect("an image");
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image))?;
        fs::create_dir(&point).expect("a mount point");
        run(Command::new("mount").args(["-t", "btrfs", "-o", "loop"]).arg(&image).arg(&point))?;
        assert_eq!(statfs(&point).expect("a file system").filesystem_type(), BTRFS_SUPER_MAGIC);
        Ok(Volume { image, point })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        unmount(&self.point);
        fs::remove_dir(&self.point).expect("an empty mount point");
        fs::remove_file(&self.image).expect("the image");
    }
}

fn options() -> Options {
    LocalBackend::options().segment_len_max(8 << 20).block_len_max(1 << 20)
}

fn block(id: u64) -> Block {
    filling(id, BLOCK_LEN)
}

/// Writes until there is no space, deletes half of the blocks and goes on. Returns how many were
/// written.
fn fill(path: &Path, durability: Durability) -> u64 {
    let store = options().durability(durability).open(path).expect("a new store");
    let mut count = 0;
    let refused = loop {
        match store.write_block(block(count + 1)) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    let is_full = matches!(&refused, Error::StorageFull { limit: SpaceLimit::Disk, .. });
    assert!(is_full, "after {count} blocks: {refused:?}");
    (1..=count / 2).for_each(|id| store.delete_block(BlockId(id)).expect("a delete"));
    store.compact_now().expect("space comes back");
    store.write_block(block(1)).expect("a write, without opening the store again");
    for id in count / 2 + 1..=count {
        assert!(store.read_block(BlockId(id)).expect("a block") == block(id), "block {id}");
    }
    store.close().expect("a clean close");
    count
}

/// Blocks that do not fit are refused as on other file systems, and nothing is poisoned.
pub fn full(arena: &Arena) -> Result<(), Skipped> {
    for run in 0..RUNS {
        let volume = Volume::new(arena)?;
        let durability = if run % 2 == 0 { Durability::Durable } else { Durability::Buffered };
        let count = fill(&volume.point.join("store"), durability);
        say(&format!("btrfs, {durability:?}: full after {count} blocks"));
        assert!(count > 500, "{count} blocks");
        let report = LocalBackend::verify(volume.point.join("store")).expect("a report");
        assert_eq!(report.damage, []);
    }
    Ok(())
}

/// A file that is overwritten in place shares its bytes with such files only, and others with
/// others.
pub fn shared(arena: &Arena) -> Result<(), Skipped> {
    let volume = Volume::new(arena)?;
    let path = volume.point.join("store");
    let store = options().open(&path).expect("a new store");
    for id in 1..=100 {
        store.write_block(block(id)).expect("a write");
    }
    let back_up = |store: &LocalBackend, name: &str| {
        let report = store.backup_to(volume.point.join(name), None, &|_| Continue(()));
        let report = report.expect("a backup");
        assert!(report.cloned_bytes > 100 * BLOCK_LEN as u64, "{report:?}");
    };
    back_up(&store, "backup");
    store.close().expect("a clean close");
    // The files of an earlier version are copied on write, as those of other programs are.
    let earlier = volume.point.join("earlier");
    fs::create_dir(&earlier).expect("a directory");
    for entry in fs::read_dir(&path).expect("the store").map(|entry| entry.expect("a file")) {
        let bytes = fs::read(entry.path()).expect("a file");
        fs::write(earlier.join(entry.file_name()), bytes).expect("a copy");
    }
    let store = options().read_only(true).open(&earlier).expect("the copy");
    back_up(&store, "backup-of-earlier");
    store.close().expect("nothing to write down");
    Ok(())
}
