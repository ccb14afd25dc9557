//! A directory that nothing written through this module can leave.
//!
//! Owns the one descriptor that all names are resolved from. Invariants:
//! 1. Every name of a path is opened on its own, relative to the directory before it, never through
//!    a symbolic link. A link planted in the tree is an error, not a way out.
//! 2. A file or link appears under its name complete or not at all: a temporary name, then a
//!    rename. The rename replaces a planted link instead of following it.
//! 3. One process writes at a time: the directory is locked. So temporary files that are found are
//!    those of a killed process, and are removed.
//! 4. A directory has its final mode from the beginning, with the owner's rights added until
//!    [`Root::finish_directory`]. So a directory that a killed process leaves can be used.
//!
//! Callers pass paths that [`crate::entry::path_is_safe`] accepts.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{
    FileStat, Mode, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, syncfs, unlinkat};

use crate::entry::{Entry, Owner, Timestamp, path_is_safe};
use crate::failure::Failure;
use crate::output;

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const NEW_FILE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Of a file that is being written: only its owner looks at it before its own mode is set.
const PRIVATE_FILE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// How a temporary file is named: `.aegis-blocks-<process>-<number>.tmp`.
const TEMPORARY: (&str, &str) = (".aegis-blocks-", ".tmp");

/// File systems keep dates in steps of up to two seconds.
const DATE_STEP_SECONDS: u64 = 2;

/// The directory that everything stays inside of.
pub struct Root {
    fd: Flock<File>,
    temporary: AtomicU64,
    /// Whether owners are set.
    sets_owner: bool,
}

/// Outcome of setting the date of a written file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Date {
    /// It is as asked for.
    Kept,
    /// The file system has no such date and took another one.
    Lost,
}

/// Contents of a directory before the first write to it.
#[derive(Debug, Default)]
pub struct Prepared {
    /// It holds the files of a block store.
    pub is_store: bool,
}

impl Root {
    /// Opens and locks a directory, creating it where there is none; a link that the user named is
    /// followed.
    pub fn open(path: &Path, sets_owner: bool) -> Result<Root, Failure> {
        let failed = |e| Failure::io("cannot write to", path, e);
        match std::fs::create_dir(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(e)),
        }
        let dir = File::open(path).map_err(failed)?;
        if !dir.metadata().map_err(failed)?.is_dir() {
            return Err(failed(Errno::ENOTDIR.into()));
        }
        let fd = Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            let message = format!("{} is being written to by another export", path.display());
            Failure::of_lock(message, errno.into())
        })?;
        Ok(Root { fd, temporary: AtomicU64::new(0), sets_owner })
    }

    /// Makes sure that a directory exists and that its owner may write to it. Removes temporary
    /// files of a killed export from it.
    pub fn prepare_directory(&self, path: &[u8], mode: u32) -> io::Result<Prepared> {
        let needed = to_mode_bits(mode) | Mode::S_IRWXU;
        let dir = self.open_directory(path, needed)?;
        let current = Mode::from_bits_truncate(fstat(&dir)?.st_mode);
        if !current.contains(Mode::S_IRWXU) {
            fchmod(&dir, current | Mode::S_IRWXU)?;
        }
        remove_temporaries(dir)
    }

    /// Gives a directory its final mode, owner and time.
    pub fn finish_directory(&self, entry: &Entry) -> io::Result<Date> {
        let dir = self.open_directory(&entry.path, Mode::S_IRWXU)?;
        self.set_attributes(dir.as_fd(), entry, entry.mode)
    }

    /// Writes a file of the entry's path: `body` fills it, then it takes its name. Set-id bits are
    /// the caller's decision: they are in `mode`, or not.
    pub fn write_file<E: From<io::Error>>(
        &self,
        entry: &Entry,
        mode: u32,
        body: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<Date, E> {
        let (dir, name) = self.open_parent(&entry.path)?;
        let temporary = self.temporary_name();
        let fd =
            openat(&dir, temporary.as_bytes(), NEW_FILE, PRIVATE_FILE).map_err(io::Error::from)?;
        let mut file = File::from(fd);
        let written = body(&mut file).and_then(|()| {
            let date = self.set_attributes(file.as_fd(), entry, mode)?;
            rename_into_place(dir.as_fd(), &temporary, name)?;
            Ok(date)
        });
        if written.is_err() {
            remove_temporary(dir.as_fd(), &temporary);
        }
        written
    }

    /// Writes a symbolic link of the entry's path.
    pub fn write_symlink(&self, entry: &Entry, target: &[u8]) -> io::Result<Date> {
        let (dir, name) = self.open_parent(&entry.path)?;
        let temporary = self.temporary_name();
        symlinkat(target, &dir, temporary.as_bytes())?;
        let written = self
            .describe_link(dir.as_fd(), &temporary, entry)
            .and_then(|date| rename_into_place(dir.as_fd(), &temporary, name).map(|()| date));
        if written.is_err() {
            remove_temporary(dir.as_fd(), &temporary);
        }
        written
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(syncfs(&*self.fd)?)
    }

    /// Sets owner, mode and date, in this order: a new owner takes set-id bits away.
    fn set_attributes(&self, fd: BorrowedFd<'_>, entry: &Entry, mode: u32) -> io::Result<Date> {
        if let Some((user, group)) = self.owner_to_set(entry) {
            fchown(fd, Some(user), Some(group))?;
        }
        fchmod(fd, to_mode_bits(mode))?;
        futimens(fd, &TimeSpec::UTIME_OMIT, &to_time_spec(entry.mtime))?;
        Ok(compare_date(&fstat(fd)?, entry.mtime))
    }

    /// A link has no mode.
    fn describe_link(&self, dir: BorrowedFd<'_>, name: &str, entry: &Entry) -> io::Result<Date> {
        let (name, link) = (name.as_bytes(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if let Some((user, group)) = self.owner_to_set(entry) {
            fchownat(dir, name, Some(user), Some(group), link)?;
        }
        let (keep, time) = (TimeSpec::UTIME_OMIT, to_time_spec(entry.mtime));
        utimensat(dir, name, &keep, &time, UtimensatFlags::NoFollowSymlink)?;
        Ok(compare_date(&fstatat(dir, name, link)?, entry.mtime))
    }

    fn owner_to_set(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        let Owner { user, group } = entry.owner.filter(|_| self.sets_owner)?;
        Some((Uid::from_raw(user), Gid::from_raw(group)))
    }

    /// Opens the directory that `path` lies in and splits off its name.
    fn open_parent<'p>(&self, path: &'p [u8]) -> io::Result<(OwnedFd, &'p [u8])> {
        match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => Ok((self.open_directory(&path[..at], PARENTS)?, &path[at + 1..])),
            None => Ok((self.open_directory(b"", PARENTS)?, path)),
        }
    }

    /// Opens a directory, creating those that are missing with `mode`.
    fn open_directory(&self, path: &[u8], mode: Mode) -> io::Result<OwnedFd> {
        assert!(path_is_safe(path), "callers hand in safe paths");
        let mut dir = OwnedFd::from(self.fd.try_clone()?);
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            dir = match openat(&dir, name, DIRECTORY, Mode::empty()) {
                Err(Errno::ENOENT) => {
                    match mkdirat(&dir, name, mode) {
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
        format!("{}{}-{number}{}", TEMPORARY.0, std::process::id(), TEMPORARY.1)
    }
}

/// Of directories above a file that no entry describes; the user's mask takes from it.
const PARENTS: Mode = Mode::S_IRWXU.union(Mode::S_IRWXG).union(Mode::S_IRWXO);

/// Removes the temporary files of killed exports from a directory, and describes the rest.
fn remove_temporaries(dir: OwnedFd) -> io::Result<Prepared> {
    let mut names = Vec::new();
    // A second descriptor, with a read position of its own.
    let mut listed = Dir::from_fd(openat(&dir, ".", DIRECTORY, Mode::empty())?)?;
    for entry in listed.iter() {
        names.push(entry?.file_name().to_bytes().to_vec());
    }
    for name in names.iter().filter(|name| is_temporary(name)) {
        unlinkat(&dir, name.as_slice(), UnlinkatFlags::NoRemoveDir)?;
    }
    let has = |name: &[u8]| names.iter().any(|found| found == name);
    let has_segment = names.iter().any(|name| crate::overlap::is_segment(name));
    Ok(Prepared { is_store: has_segment && (has(b"META") || has(b"MANIFEST")) })
}

fn is_temporary(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let numbers = name.strip_prefix(TEMPORARY.0).and_then(|rest| rest.strip_suffix(TEMPORARY.1));
    numbers.and_then(|numbers| numbers.split_once('-')).is_some_and(|(process, number)| {
        [process, number].iter().all(|part| part.parse::<u64>().is_ok())
    })
}

/// Writes bytes at a place of a new file. Pages that are all zeros stay holes; the caller sets the
/// length in the end.
pub fn write_sparse(file: &mut File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    const PAGE_LEN: usize = 4096;
    let mut done = 0;
    let is_zero_page =
        |at: usize| crate::upload::is_zeros(&bytes[at..bytes.len().min(at + PAGE_LEN)]);
    while done < bytes.len() {
        let begin = done;
        let is_hole = is_zero_page(begin);
        while done < bytes.len() && is_zero_page(done) == is_hole {
            done = bytes.len().min(done + PAGE_LEN);
        }
        if !is_hole {
            file.seek(SeekFrom::Start(offset + begin as u64))?;
            file.write_all(&bytes[begin..done])?;
        }
    }
    Ok(())
}

/// The moment at which the new file or link stands under its name.
fn rename_into_place(dir: BorrowedFd<'_>, temporary: &str, name: &[u8]) -> io::Result<()> {
    Ok(renameat(dir, temporary.as_bytes(), dir, name)?)
}

/// Takes an unfinished file away again. When that fails too, it is named beside the failure that
/// the caller reports.
fn remove_temporary(dir: BorrowedFd<'_>, temporary: &str) {
    if let Err(errno) = unlinkat(dir, temporary.as_bytes(), UnlinkatFlags::NoRemoveDir) {
        output::warn(format_args!("left behind {temporary}: {errno}"));
    }
}

fn to_mode_bits(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode as nix::libc::mode_t)
}

/// Any date: those beyond 1677 and 2262 too, which nanoseconds in 64 bits do not reach.
fn to_time_spec(time: Timestamp) -> TimeSpec {
    TimeSpec::new(time.seconds, i64::from(time.nanos))
}

/// File systems replace a date that they cannot store by the next one that they can, silently.
fn compare_date(found: &FileStat, wanted: Timestamp) -> Date {
    let is_kept = found.st_mtime.abs_diff(wanted.seconds) < DATE_STEP_SECONDS;
    if is_kept { Date::Kept } else { Date::Lost }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Content;
    use std::os::unix::fs::{MetadataExt, symlink};

    const THEN: Timestamp = Timestamp { seconds: 1_000_000_000, nanos: 5 };

    fn entry(path: &str) -> Entry {
        Entry {
            path: path.into(),
            mode: 0o640,
            mtime: THEN,
            ctime: None,
            owner: None,
            content: Content::File { len: 0, chunk_len: 1, chunks: Vec::new() },
            staged: false,
        }
    }

    fn write(root: &Root, path: &str, text: &str) -> io::Result<Date> {
        root.write_file(&entry(path), 0o640, |file| file.write_all(text.as_bytes()))
    }

    fn open(dir: &tempfile::TempDir) -> Root {
        Root::open(dir.path(), false).expect("root")
    }

    #[test]
    fn a_planted_link_to_a_directory_is_not_followed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let outside = tempfile::tempdir().expect("temporary directory");
        symlink(outside.path(), dir.path().join("trap")).expect("link");
        let root = open(&dir);
        assert!(write(&root, "trap/file", "x").is_err());
        assert!(root.prepare_directory(b"trap", 0o755).is_err());
        assert!(root.write_symlink(&entry("trap/link"), b"x").is_err());
        assert_eq!(std::fs::read_dir(outside.path()).expect("list").count(), 0);
    }

    #[test]
    fn a_planted_link_to_a_file_is_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let victim = tempfile::NamedTempFile::new().expect("victim");
        symlink(victim.path(), dir.path().join("file")).expect("link");
        let root = open(&dir);
        assert_eq!(write(&root, "file", "new").expect("write"), Date::Kept);
        assert_eq!(std::fs::read(victim.path()).expect("read"), b"");
        assert_eq!(std::fs::read(dir.path().join("file")).expect("read"), b"new");
    }

    #[test]
    fn files_get_mode_time_and_missing_parents() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = open(&dir);
        assert_eq!(write(&root, "a/b/c", "text").expect("write"), Date::Kept);
        let metadata = std::fs::metadata(dir.path().join("a/b/c")).expect("metadata");
        assert_eq!(metadata.mode() & 0o7777, 0o640);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (THEN.seconds, 5));
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = open(&dir);
        let failed: io::Result<Date> =
            root.write_file(&entry("file"), 0o600, |_| Err(io::ErrorKind::Other.into()));
        assert!(failed.is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
    }

    #[test]
    fn temporary_files_go_and_others_stay() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let others = [".aegis-blocks-1.tmp", ".aegis-blocks-x-1.tmp", "aegis-blocks-1-1.tmp"];
        for name in others.into_iter().chain([".aegis-blocks-1-20.tmp"]) {
            std::fs::write(dir.path().join(name), "x").expect("write");
        }
        assert!(!open(&dir).prepare_directory(b"", 0o755).expect("prepare").is_store);
        let left = std::fs::read_dir(dir.path()).expect("list").count();
        assert_eq!(left, others.len());
        assert!(others.iter().all(|name| dir.path().join(name).exists()));
    }

    #[test]
    fn pages_of_zeros_are_holes_and_all_bytes_are_there() {
        let mut bytes = vec![0_u8; 100_000];
        for at in [0, 5000, 99_999] {
            bytes[at] = 1;
        }
        let mut file = tempfile::tempfile().expect("a file");
        write_sparse(&mut file, 0, &bytes).expect("write");
        write_sparse(&mut file, 100_000, &[0; 50]).expect("write");
        file.set_len(100_050).expect("length");
        let mut found = Vec::new();
        file.rewind().expect("rewind");
        io::Read::read_to_end(&mut file, &mut found).expect("read");
        assert_eq!(found[..100_000], bytes);
        assert_eq!(found[100_000..], [0; 50]);
    }
}
