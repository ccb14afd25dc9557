//! Processes that have parted: a parent that is gone, a child that is another program or has a
//! store of its own.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use aegis_blocks::{Block, BlockId, BlockType, Error, LocalBackend, StorageBackend, StorageExt};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};

use crate::block::block;
use crate::child::{ends_well, exit, forked, is_refused, refused};

fn open(dir: &Path) -> LocalBackend {
    let store = LocalBackend::open(dir.join("store")).expect("opens");
    store.write_block(block(1, "parent")).expect("writes");
    store
}

/// A process opens a store, forks and ends, by itself or by a signal. Its child lives on.
fn orphan(dir: &Path, is_killed: bool) {
    let (mut from_child, mut to_parent) = std::io::pipe().expect("a pipe");
    let (mut at_child, mut from_parent) = std::io::pipe().expect("a pipe");
    let parent = forked(|| {
        let mut store = Some(open(dir));
        forked(|| {
            let store = store.take().expect("held");
            to_parent.write_all(b"r").expect("the test waits");
            // Its parent is gone, and the store is another process's by now.
            at_child.read_exact(&mut [0]).expect("the test writes");
            is_refused(&store);
            let again = LocalBackend::open(dir.join("store"));
            assert!(matches!(again, Err(Error::Locked { .. })), "{again:?}");
            drop(store);
            to_parent.write_all(b"d").expect("the test waits");
        });
        if is_killed {
            nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGKILL).expect("dies");
        }
        exit(0);
    });
    let status = waitpid(parent, None).expect("a child");
    let expected = match is_killed {
        true => WaitStatus::Signaled(parent, Signal::SIGKILL, false),
        false => WaitStatus::Exited(parent, 0),
    };
    assert_eq!(status, expected);
    let mut told = [0];
    from_child.read_exact(&mut told).expect("the orphan lives");
    // It has the descriptors of its parent, and not the lock.
    let store = LocalBackend::open(dir.join("store")).expect("the orphan has no lock");
    assert_eq!(&store.read_block(BlockId(1)).expect("reads").data[..], b"parent");
    from_parent.write_all(b"g").expect("the orphan waits");
    from_child.read_exact(&mut told).expect("the orphan is refused");
    let second = LocalBackend::open(dir.join("store"));
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    store.write_block(block(2, "after")).expect("writes");
    store.close().expect("closes");
    assert_eq!(LocalBackend::verify(dir.join("store")).expect("verifies").damage, []);
}

pub fn daemon(dir: &Path) {
    orphan(dir, false);
}

pub fn killed_parent(dir: &Path) {
    orphan(dir, true);
}

pub fn exec(dir: &Path) {
    let store = open(dir);
    let held = store.snapshot().expect("holds");
    let path = dir.join("store").canonicalize().expect("a path");
    let is_own = |link: &Path| std::fs::read_link(link).is_ok_and(|file| file.starts_with(&path));
    let open_files = std::fs::read_dir("/proc/self/fd").expect("descriptors");
    let count = open_files.filter(|file| is_own(&file.as_ref().expect("a link").path())).count();
    assert!(count > 1, "the parent has some: {count}");
    ends_well(forked(|| {
        let search = format!("! ls -l /proc/$$/fd | grep -F '{}'", path.display());
        let failed = Command::new("/bin/sh").args(["-c", &search]).exec();
        panic!("no shell: {failed}");
    }));
    assert_eq!(&held.read(BlockId(1)).expect("reads").data[..], b"parent");
    drop(held);
    store.close().expect("closes");
}

/// Again and again: which waiting thread of the parent a lock of the child's would meet is chance.
pub fn own_store(dir: &Path) {
    for n in 0..20 {
        let dir = dir.join(n.to_string());
        std::fs::create_dir(&dir).expect("a directory");
        own_store_once(&dir);
    }
}

fn own_store_once(dir: &Path) {
    let store = open(dir);
    // The pool that shares out a long write belongs to the parent.
    let long = |id| Block::new(BlockId(id), BlockType::TableData, vec![7; 4 << 20]);
    store.write_block(long(2)).expect("writes");
    let (mut closed, mut close) = std::io::pipe().expect("a pipe");
    let mut handle = Some(store.clone());
    let child = forked(|| {
        let old = handle.take().expect("held");
        closed.read_exact(&mut [0]).expect("the parent closes");
        let own = LocalBackend::open(dir.join("store")).expect("its parent has closed it");
        assert_eq!(own.stats().total_blocks, 2);
        is_refused(&old);
        own.write_block(block(1, "child")).expect("writes");
        let mut own = Some(own);
        // A child's child is a stranger to both.
        ends_well(forked(|| {
            is_refused(&old);
            is_refused(own.as_ref().expect("held"));
            drop(own.take());
        }));
        let own = own.take().expect("held");
        drop(old);
        own.write_block(long(3)).expect("writes");
        own.write_block(block(2, "child")).expect("writes");
        own.close().expect("closes");
    });
    drop(handle.take());
    store.close().expect("closes");
    close.write_all(b"c").expect("the child waits");
    ends_well(child);
    let store = LocalBackend::open(dir.join("store")).expect("opens");
    for id in [1, 2] {
        assert_eq!(&store.read_block(BlockId(id)).expect("reads").data[..], b"child");
    }
}

/// What outlives its store belongs to a process, too.
pub fn closed_before(dir: &Path) {
    let store = open(dir);
    let tx = store.begin().expect("begins");
    tx.write(block(2, "submitted")).expect("writes");
    let mut ticket = Some(tx.submit().expect("hands in"));
    let mut handle = Some(store.clone());
    store.close().expect("closes");
    ends_well(forked(|| {
        refused(ticket.take().expect("held").wait());
        refused(handle.as_ref().expect("held").read_block(BlockId(1)));
        drop(handle.take());
    }));
    assert!(ticket.take().expect("held").wait().expect("committed").is_some());
    let answer = handle.take().expect("held").read_block(BlockId(1));
    assert!(matches!(answer, Err(Error::Closed)), "{answer:?}");
}
