//! A directory that nothing written through this module can leave.
//!
//! Owns the one descriptor that all names are resolved from. Invariants:
//! 1. every name of a path is opened on its own, relative to the directory before it, and never
//!    through a symbolic link: a link planted in the tree is an error, not a way out;
//! 2. a file or link appears under its name complete or not at all (a temporary name, then a
//!    rename, which replaces a planted link instead of following it).
//!
//! Callers hand in paths that [`crate::entry::path_is_safe`] accepts.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::unistd::{UnlinkatFlags, symlinkat, syncfs, unlinkat};

use crate::entry::{Mtime, path_is_safe};

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const NEW_FILE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// For what is being written: nobody else looks at it before its own mode is set.
const PRIVATE_DIRECTORY: Mode = Mode::S_IRWXU;
const PRIVATE_FILE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// The directory that everything stays inside of.
pub struct Root {
    fd: OwnedFd,
    temporary: AtomicU64,
}

impl Root {
    /// Opens a directory, creating it where there is none; a link that the user named is followed.
    pub fn open(path: &Path) -> io::Result<Root> {
        match std::fs::create_dir(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        let dir = File::open(path)?;
        if !dir.metadata()?.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        Ok(Root { fd: dir.into(), temporary: AtomicU64::new(0) })
    }

    /// Makes the directory writable for its owner, creating it and those above where missing.
    pub fn create_directory(&self, path: &[u8]) -> io::Result<()> {
        let dir = self.directory(path)?;
        Ok(fchmod(dir, PRIVATE_DIRECTORY)?)
    }

    /// Gives a directory its final mode and time.
    pub fn finish_directory(&self, path: &[u8], mode: u32, mtime: Mtime) -> io::Result<()> {
        let dir = self.directory(path)?;
        fchmod(&dir, mode_of(mode))?;
        Ok(futimens(&dir, &TimeSpec::UTIME_OMIT, &time_of(mtime))?)
    }

    /// Writes a file: `body` fills it, then it takes its name.
    pub fn write_file<E: From<io::Error>>(
        &self,
        path: &[u8],
        mode: u32,
        mtime: Mtime,
        body: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        let (dir, name) = self.parent(path)?;
        let temporary = self.temporary_name();
        let fd =
            openat(&dir, temporary.as_bytes(), NEW_FILE, PRIVATE_FILE).map_err(io::Error::from)?;
        let mut file = File::from(fd);
        let written = body(&mut file).and_then(|()| {
            fchmod(&file, mode_of(mode)).map_err(io::Error::from)?;
            futimens(&file, &TimeSpec::UTIME_OMIT, &time_of(mtime)).map_err(io::Error::from)?;
            install(dir.as_fd(), &temporary, name)?;
            Ok(())
        });
        if written.is_err() {
            remove(dir.as_fd(), &temporary);
        }
        written
    }

    /// Writes a symbolic link.
    pub fn write_symlink(&self, path: &[u8], target: &[u8], mtime: Mtime) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let temporary = self.temporary_name();
        symlinkat(target, &dir, temporary.as_bytes())?;
        let link = UtimensatFlags::NoFollowSymlink;
        let times = (TimeSpec::UTIME_OMIT, time_of(mtime));
        let written = utimensat(&dir, temporary.as_bytes(), &times.0, &times.1, link)
            .map_err(io::Error::from)
            .and_then(|()| install(dir.as_fd(), &temporary, name));
        if written.is_err() {
            remove(dir.as_fd(), &temporary);
        }
        written
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(syncfs(&self.fd)?)
    }

    /// Opens the directory that `path` lies in and splits off its name.
    fn parent<'p>(&self, path: &'p [u8]) -> io::Result<(OwnedFd, &'p [u8])> {
        match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => Ok((self.directory(&path[..at])?, &path[at + 1..])),
            None => Ok((self.directory(b"")?, path)),
        }
    }

    /// Opens a directory, creating those that are missing.
    fn directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        assert!(path_is_safe(path), "callers hand in safe paths");
        let mut dir = self.fd.try_clone()?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            dir = match openat(&dir, name, DIRECTORY, Mode::empty()) {
                Err(Errno::ENOENT) => {
                    match mkdirat(&dir, name, Mode::S_IRWXU | Mode::S_IRWXG | Mode::S_IRWXO) {
                        // Another thread may have been faster.
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                    openat(&dir, name, DIRECTORY, Mode::empty())?
                }
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    let shown = crate::entry::printable(name);
                    return Err(io::Error::other(format!("'{shown}' is not a directory")));
                }
                other => other?,
            };
        }
        Ok(dir)
    }

    fn temporary_name(&self) -> String {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        format!(".aegis-blocks-{}-{number}.tmp", std::process::id())
    }
}

/// The moment at which the new file or link stands under its name.
fn install(dir: BorrowedFd<'_>, temporary: &str, name: &[u8]) -> io::Result<()> {
    Ok(renameat(dir, temporary.as_bytes(), dir, name)?)
}

/// Takes an unfinished file away again. When that fails too, it is named beside the failure that
/// the caller reports.
fn remove(dir: BorrowedFd<'_>, temporary: &str) {
    if let Err(errno) = unlinkat(dir, temporary.as_bytes(), UnlinkatFlags::NoRemoveDir) {
        eprintln!("aegis-blocks: left behind {temporary}: {errno}");
    }
}

fn mode_of(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode as nix::libc::mode_t)
}

fn time_of(mtime: Mtime) -> TimeSpec {
    TimeSpec::seconds(mtime.seconds) + TimeSpec::nanoseconds(i64::from(mtime.nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, symlink};

    const THEN: Mtime = Mtime { seconds: 1_000_000_000, nanos: 5 };

    fn write(root: &Root, path: &str, text: &str) -> io::Result<()> {
        root.write_file(path.as_bytes(), 0o640, THEN, |file| file.write_all(text.as_bytes()))
    }

    #[test]
    fn a_planted_link_to_a_directory_is_not_followed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let outside = tempfile::tempdir().expect("temporary directory");
        symlink(outside.path(), dir.path().join("trap")).expect("link");
        let root = Root::open(dir.path()).expect("root");
        assert!(write(&root, "trap/file", "x").is_err());
        assert!(root.create_directory(b"trap").is_err());
        assert!(root.write_symlink(b"trap/link", b"x", THEN).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).expect("list").count(), 0);
    }

    #[test]
    fn a_planted_link_to_a_file_is_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let victim = tempfile::NamedTempFile::new().expect("victim");
        symlink(victim.path(), dir.path().join("file")).expect("link");
        let root = Root::open(dir.path()).expect("root");
        write(&root, "file", "new").expect("write");
        assert_eq!(std::fs::read(victim.path()).expect("read"), b"");
        assert_eq!(std::fs::read(dir.path().join("file")).expect("read"), b"new");
    }

    #[test]
    fn files_get_mode_time_and_missing_parents() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = Root::open(dir.path()).expect("root");
        write(&root, "a/b/c", "text").expect("write");
        let metadata = std::fs::metadata(dir.path().join("a/b/c")).expect("metadata");
        assert_eq!(metadata.mode() & 0o7777, 0o640);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (THEN.seconds, 5));
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = Root::open(dir.path()).expect("root");
        let failed: io::Result<()> =
            root.write_file(b"file", 0o600, THEN, |_| Err(io::ErrorKind::Other.into()));
        assert!(failed.is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
    }
}
