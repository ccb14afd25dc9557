//! Directories that are filled as a whole or not at all: backups, restored and salvaged stores.
//!
//! Owns the place where the files are made, the directory `unfinished` inside of the target. Steps:
//!
//! 1. The target is made where it is missing, and locked against other runs. Leftovers of an
//!    earlier run are removed: there is `unfinished`, no `META`, and otherwise nothing but files of
//!    a store.
//! 2. The library fills `unfinished`. Nothing that a store has lies beside it.
//! 3. The files move up, `META` last, each by one rename. That is the step that makes the target a
//!    backup or a store: before it, it is neither, and after it, it is whole.
//! 4. `unfinished` goes.
//!
//! So no command takes the directory of a killed run for a store. The next run with the same target
//! begins again. A run that fails or is stopped removes its files.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::failure::Failure;
use crate::overlap;

const NAME: &str = "unfinished";

/// A directory on its way.
pub struct Unfinished {
    target: PathBuf,
    /// Made here: goes again when nothing comes of it.
    is_new: bool,
    is_complete: bool,
    _lock: Flock<File>,
}

impl Unfinished {
    /// Step 1.
    pub fn begin(target: &Path) -> Result<Unfinished, Failure> {
        overlap::refuse_below_store(target)?;
        let failed = |e| Failure::io("cannot make", target, e);
        let is_new = match fs::create_dir(target) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(failed(e)),
        };
        let dir = File::open(target).map_err(failed)?;
        if !dir.metadata().map_err(failed)?.is_dir() {
            let shown = target.display();
            return Err(Failure::missing(format!("{shown} is not a directory")));
        }
        let lock = Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            let shown = target.display();
            Failure::of_lock(format!("{shown} is in use by another command"), errno.into())
        })?;
        let is_leftover = is_unfinished(target);
        if !is_new && !is_leftover && fs::read_dir(target).map_err(failed)?.next().is_some() {
            return Err(Failure::missing(format!("{} is not empty", target.display())));
        }
        let begun = Unfinished {
            target: target.to_path_buf(),
            is_new: is_new || is_leftover,
            is_complete: false,
            _lock: lock,
        };
        begun.remove_leftovers().map_err(failed)?;
        Ok(begun)
    }

    /// Where the library makes the files. Nothing is there yet.
    pub fn dir(&self) -> PathBuf {
        self.target.join(NAME)
    }

    /// Steps 3 and 4.
    pub fn finish(mut self) -> Result<(), Failure> {
        let moved = self.move_files_up();
        self.is_complete = true;
        moved.map_err(|e| Failure::io("cannot complete", &self.target, e))
    }

    fn move_files_up(&self) -> io::Result<()> {
        let dir = self.dir();
        let names = fs::read_dir(&dir)?.map(|entry| entry.map(|entry| entry.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort_by_key(|name| name == "META");
        let last = names.pop();
        for name in &names {
            fs::rename(dir.join(name), self.target.join(name))?;
        }
        let target = File::open(&self.target)?;
        target.sync_all()?;
        if let Some(name) = last {
            fs::rename(dir.join(&name), self.target.join(&name))?;
        }
        fs::remove_dir(&dir)?;
        target.sync_all()?;
        // The name of the target itself, which may be new.
        let above = self.target.canonicalize()?;
        File::open(above.parent().unwrap_or(&above))?.sync_all()
    }

    /// Removes the files of an earlier run or of this one: nothing else is in the target.
    fn remove_leftovers(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.target)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.is_complete {
            return;
        }
        let removed = self
            .remove_leftovers()
            .and_then(|()| if self.is_new { fs::remove_dir(&self.target) } else { Ok(()) });
        if let Err(e) = removed {
            crate::output::warn(format_args!("left behind {}: {e}", self.target.display()));
        }
    }
}

/// Whether a directory is the leftover of a killed backup, restore or salvage.
pub fn is_unfinished(dir: &Path) -> bool {
    let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let Ok(mut entries) = fs::read_dir(dir) else { return false };
    let is_own = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| {
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            let is_numbered = ["SEG-", "CKPT-", "TMP-"].iter().any(|kind| name.starts_with(kind));
            name == NAME || is_numbered || ["MANIFEST", "RESERVE", "LOCK"].contains(&name)
        })
    };
    is_dir(&dir.join(NAME)) && entries.all(is_own)
}

/// Refuses a directory that was never finished, and says how to go on.
pub fn refuse_unfinished(dir: &Path) -> Result<(), Failure> {
    if is_unfinished(dir) {
        return Err(Failure::missing(format!(
            "{} is unfinished: the backup, restore or salvage into it did not end; run that again",
            dir.display()
        )));
    }
    Ok(())
}
