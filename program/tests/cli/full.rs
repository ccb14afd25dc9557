//! Commands on a full file system: a small one in memory, which only one thread of the test and its
//! children see.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, StorageBackend};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::desk::Desk;

/// Mounts a file system of this length, or says why that cannot be done.
fn mount_small(path: &Path, len: u64) -> Result<(), String> {
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    let options = format!("size={len}");
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| format!("no mount namespace: {e}"))?;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .and_then(|()| {
            mount(Some("full"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        })
        .map_err(|e| format!("no file system in memory: {e}"))
}

/// Makes a store of which every second block is dead, in segments that are longer than its reserve.
fn make_half_dead(path: &Path) {
    let store = LocalBackend::options().segment_len_max(4 << 20).open(path).unwrap();
    store.pause_compaction().unwrap();
    let block = |id| Block::new(BlockId(id), BlockType::TableData, vec![id as u8; 30_000]);
    (1..=270).for_each(|id| assert_eq!(store.write_block(block(id)).unwrap(), BlockId(id)));
    (1..=270).filter(|id| id % 2 > 0).for_each(|id| store.delete_block(BlockId(id)).unwrap());
    store.close().unwrap();
}

fn take_all_space(path: &Path) {
    let mut filler = File::create_new(path).unwrap();
    let error = (0..).find_map(|_| filler.write_all(&[1; 4 << 10]).err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
}

fn compact_without_and_with_space(desk: &Desk) {
    make_half_dead(&desk.path("small/store"));
    take_all_space(&desk.path("small/filler"));
    let said = desk.ends(5, &["compact", "small/store"]);
    assert!(said.contains("compaction stopped: log of "), "{said}");
    assert!(said.contains("no space left on the disk: the write needs "), "{said}");
    fs::remove_file(desk.path("small/filler")).unwrap();
    let done = desk.ok(&["compact", "small/store"]);
    assert!(done.starts_with("log of ") && done.contains(" in force"), "{done}");
    let store = LocalBackend::open(desk.path("small/store")).unwrap();
    let stats = store.stats();
    assert_eq!(stats.total_blocks, 135);
    assert!(stats.log_bytes < stats.total_bytes * 11 / 10, "{stats:?}");
    store.close().unwrap();
}

/// It gave nothing back and exited as if all was well.
#[test]
fn compact_on_a_full_disk_fails_with_the_bytes_that_are_missing() {
    let desk = Desk::new();
    let small = desk.path("small");
    fs::create_dir(&small).unwrap();
    // The namespace is the thread's own.
    let within = || -> Result<(), String> {
        mount_small(&small, 24 << 20)?;
        compact_without_and_with_space(&desk);
        umount2(&small, MntFlags::MNT_DETACH).map_err(|e| e.to_string())
    };
    let ended = std::thread::scope(|scope| scope.spawn(within).join());
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(why)) => eprintln!("skipped: {why}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
