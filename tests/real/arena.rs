//! Where tests may do damage: a mount namespace of their own, with a bounded file system in memory.
//!
//! Owns both. Whatever a test mounts is seen by its own threads and children only, and is gone with
//! them, even after SIGKILL: the namespace ends, its mounts with it, their loop devices after that.
//! What cannot be had on a machine is [`Skipped`], and said on standard error whatever the test
//! runner captures.

use std::fs;
use std::io::Write;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::counted;

/// What all images and files of one test may take of the machine's memory.
const LEN_MAX: &str = "size=600m";

/// Why a test cannot run here.
#[derive(Debug)]
pub struct Skipped(pub String);

/// A private file system in memory.
pub struct Arena {
    path: PathBuf,
}

/// Prints where the test runner does not hide it.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    std::io::stderr().lock().write_all(line.as_bytes()).expect("standard error");
}

/// Says what a test adds up to.
pub fn tell(what: &str, count: u64) {
    say(&counted::line(what, count));
}

/// Reads a number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

/// Runs a test on a thread of its own in an arena, or says why not.
pub fn in_arena(test: &str, body: impl FnOnce(&Arena) -> Result<(), Skipped> + Send) {
    let ended = std::thread::scope(|scope| {
        let enter = || Arena::new().and_then(|arena| body(&arena));
        scope.spawn(enter).join()
    });
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(Skipped(why))) => say(&format!("{test} skipped: {why}")),
        Err(panic) => resume_unwind(panic),
    }
}

/// Whether a program can be started.
pub fn tool(name: &str) -> Result<(), Skipped> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    if found { Ok(()) } else { Err(Skipped(format!("there is no program {name}"))) }
}

impl Arena {
    /// Takes the calling thread, and all that it starts, out of sight of all other processes.
    fn new() -> Result<Arena, Skipped> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Skipped("only root can mount".to_string()));
        }
        let skipped = |what, e| Skipped(format!("{what}: {e}"));
        unshare(CloneFlags::CLONE_NEWNS).map_err(|e| skipped("no mount namespace", e))?;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(|e| skipped("no private mounts", e))?;
        let path = tempfile::tempdir().expect("a temporary directory").keep();
        // From here on its drop cleans up.
        let arena = Arena { path };
        arena.mount_memory(&arena.path, LEN_MAX)?;
        Ok(arena)
    }

    /// The arena's directory, certainly the file system in memory.
    pub fn path(&self) -> &Path {
        check_memory(&self.path);
        &self.path
    }

    /// Mounts another file system in memory, with a length of its own.
    pub fn memory(&self, name: &str, options: &str) -> Result<PathBuf, Skipped> {
        let path = self.path().join(name);
        fs::create_dir(&path).expect("a directory");
        self.mount_memory(&path, options)?;
        Ok(path)
    }

    fn mount_memory(&self, path: &Path, options: &str) -> Result<(), Skipped> {
        mount(Some("aegis-arena"), path, Some("tmpfs"), MsFlags::empty(), Some(options))
            .map_err(|e| Skipped(format!("no file system in memory: {e}")))?;
        check_memory(path);
        Ok(())
    }
}

/// Changes the length of a file system in memory.
pub fn resize_memory(path: &Path, options: &str) {
    check_memory(path);
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_REMOUNT, Some(options))
        .expect("another length");
}

/// Fails unless the path is a file system in memory, before anything is written there.
pub fn check_memory(path: &Path) {
    let found = statfs(path).expect("a file system").filesystem_type();
    assert_eq!(found, TMPFS_MAGIC, "{} is not in memory", path.display());
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Takes along what is mounted below. Without it the directory is not empty, and stays.
        let unmounted = umount2(&self.path, MntFlags::MNT_DETACH);
        let removed = fs::remove_dir(&self.path);
        if !std::thread::panicking() {
            removed.unwrap_or_else(|e| panic!("{e}, unmounting: {unmounted:?}"));
        }
    }
}
