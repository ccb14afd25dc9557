//! The real disk: one directory of a Linux file system.
//!
//! Owns the directory's descriptor, the lock and the calls below [`Disk`] and [`Env`]; files are in
//! `file`, aligned buffers in `buffer`. Invariants:
//!
//! 1. The directory is opened once. A link in the caller's path, with or without a slash behind it,
//!    is followed then and never again. Later every name is looked up relative to that descriptor:
//!    links are refused, descriptors closed on `exec`. Nothing is made behind a link that leads
//!    nowhere: the volume that it leads to may not be mounted.
//! 2. A directory made here has mode 0700 and a file 0600, under every umask, where the file system
//!    keeps modes. Elsewhere [`Disk::modes_are_refused`] says so, and nothing is refused.
//! 3. Only plain files are opened. Where other users may write to the directory, the file must be
//!    ours and have no second name.
//! 4. The store's lock is one of the directory and of `LOCK`. The directory's holds even if the
//!    file is removed or replaced. The file's keeps out versions that lock nothing else.
//! 5. Entries of the file system itself in its root are not listed (`furniture`).
//! 6. A refused hint or wish is no error: modes, read-ahead, write-back, direct transfers, zeros
//!    and space ahead, reflinks, second names. A refusal is an error where durability or exclusion
//!    depends on the call: locks, syncs of files and of the directory, renames.
//! 7. No transfer is repeated here after `EINTR`, and no sync: the loops are in [`super`].
//! 8. A directory and its files belong to the process that opened them. In a forked child every
//!    call is refused before it reaches the system (`process`). This check lies below the whole
//!    store, so it also covers a child that a callback forks amid a call.
//!
//! Unsafe code is allowed here and in the modules below, nowhere else in the crate: calls that
//! neither the standard library nor `nix` has. Does not decide what a failure means for the store.

mod buffer;
mod file;
mod furniture;
#[cfg(target_os = "linux")]
mod in_place;
mod lock;
mod process;
mod swap;
mod view;

pub use buffer::AlignedBuf;
pub use file::OsFile;
pub use lock::OsLock;
pub(crate) use process::{Process, ProcessBound};
pub(crate) use swap::{is_mount_point, rename_directory, swap_directories};

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat, stat};
use nix::sys::statvfs::fstatvfs;
use nix::time::ClockId;
use nix::unistd::{UnlinkatFlags, fsync, geteuid, linkat, unlinkat};

use self::lock::LockedFile;
use super::{Disk, Entry, Env, FileName, How, LockError, Thread};
use furniture::is_furniture;

const DIRECTORY_MODE: Mode = Mode::S_IRWXU;
const FILE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// A store's directory on a real file system.
#[derive(Debug)]
pub struct OsDisk {
    path: PathBuf,
    directory: OwnedFd,
    /// Others may put files into the directory, so each file's owner and links are checked.
    others_write: bool,
    /// The file system has let others in where a mode was to keep them out.
    modes_refused: AtomicBool,
    zeroing: Arc<Zeroing>,
    process: Process,
}

/// Whether the file system has its own way to write zeros, as far as is known.
#[derive(Debug, Default)]
struct Zeroing {
    refused: AtomicBool,
}

impl Zeroing {
    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn note_refusal(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }
}

impl OsDisk {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// The operating system's own.
    pub fn open(path: &Path) -> io::Result<OsDisk> {
        let directory = open(path, directory_flags(), Mode::empty())?;
        OsDisk::with_directory(path, directory)
    }

    /// As [`OsDisk::open`], and makes the directory where it is missing. Behind a link that leads
    /// nowhere nothing is made.
    ///
    /// # Errors
    /// As [`OsDisk::open`] and [`OsDisk::create`], but for `AlreadyExists`.
    pub fn open_or_create(path: &Path) -> io::Result<OsDisk> {
        let made = match OsDisk::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => OsDisk::create(path),
            opened => return opened,
        };
        match made {
            // A link, or another process was faster.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => OsDisk::open(path),
            made => made,
        }
    }

    /// Makes a directory that only this user can enter, durably, and opens it. Its parent exists.
    ///
    /// # Errors
    /// `AlreadyExists` when something has that name, `InvalidInput` when `path` ends in no name,
    /// and the operating system's own. The directory may exist after an error.
    pub fn create(path: &Path) -> io::Result<OsDisk> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = open(parent, directory_flags(), Mode::empty())?;
        mkdirat(&parent, name, DIRECTORY_MODE)?;
        let directory =
            openat(&parent, name, directory_flags() | OFlag::O_NOFOLLOW, Mode::empty())?;
        let refused = !set_exact_mode(&directory, DIRECTORY_MODE)?;
        fsync(&directory)?;
        fsync(&parent)?;
        let disk = OsDisk::with_directory(path, directory)?;
        disk.modes_refused.fetch_or(refused, Ordering::Relaxed);
        Ok(disk)
    }

    /// Whether `path` leads to this directory now.
    ///
    /// # Errors
    /// The operating system's own, `NotFound` among them.
    pub(crate) fn is_directory_at(&self, path: &Path) -> io::Result<bool> {
        let (here, there) = (fstat(&self.directory)?, stat(path)?);
        Ok((here.st_dev, here.st_ino) == (there.st_dev, there.st_ino))
    }

    fn with_directory(path: &Path, directory: OwnedFd) -> io::Result<OsDisk> {
        let others = Mode::S_IWGRP | Mode::S_IWOTH;
        let mode = Mode::from_bits_truncate(fstat(&directory)?.st_mode);
        Ok(OsDisk {
            path: path.to_owned(),
            directory,
            others_write: mode.intersects(others),
            modes_refused: AtomicBool::new(false),
            zeroing: Arc::default(),
            process: Process::current(),
        })
    }

    /// Opens a plain file in the directory; `flags` adds to the flags of every opening.
    fn open_plain(&self, name: FileName, flags: OFlag) -> io::Result<File> {
        self.process.check_io()?;
        // Without O_NONBLOCK, opening a pipe would wait for its other end. It
        // means nothing for the plain files that pass the check.
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd = match openat(&self.directory, name.to_string().as_str(), flags, FILE_MODE) {
            Err(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO | Errno::ENODEV) => {
                return Err(not_a_plain_file());
            }
            other => other?,
        };
        let stat = fstat(&fd)?;
        if !is_plain_file(&stat) {
            return Err(not_a_plain_file());
        }
        if self.others_write && (stat.st_nlink > 1 || stat.st_uid != geteuid().as_raw()) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "in a directory that others can write to, the file has another owner or name",
            ));
        }
        Ok(File::from(fd))
    }

    fn create_plain(&self, name: FileName, extra: OFlag) -> io::Result<File> {
        let file = self.open_plain(name, OFlag::O_RDWR | OFlag::O_CREAT | extra)?;
        let refused = !set_exact_mode(&file, FILE_MODE)?;
        self.modes_refused.fetch_or(refused, Ordering::Relaxed);
        Ok(file)
    }

    /// Keeps out every handle that takes the store's lock, and changes nothing.
    ///
    /// # Errors
    /// As [`Disk::lock`].
    fn lock_directory(&self) -> Result<OsLock, LockError> {
        self.process.check_io().map_err(LockError::Io)?;
        let directory = LockedFile::new(self.reopen_directory().map_err(LockError::Io)?);
        directory.try_lock_exclusive()?;
        Ok(OsLock::from_directory(directory))
    }

    /// A descriptor of its own: a lock belongs to an opening, not to a file.
    fn reopen_directory(&self) -> io::Result<File> {
        let directory = openat(&self.directory, ".", directory_flags(), Mode::empty())?;
        Ok(File::from(directory))
    }

    /// Opens `LOCK`, and makes it where it is missing. A read-only one is locked too; `None` where
    /// it is missing on media that cannot be written.
    fn open_lock_file(&self) -> io::Result<Option<File>> {
        use io::ErrorKind as K;

        match self.create_plain(FileName::Lock, OFlag::empty()) {
            Err(e) if matches!(e.kind(), K::ReadOnlyFilesystem | K::PermissionDenied) => {
                match self.open_plain(FileName::Lock, OFlag::O_RDONLY) {
                    Err(missing) if missing.kind() == K::NotFound => {
                        if e.kind() == K::ReadOnlyFilesystem { Ok(None) } else { Err(e) }
                    }
                    file => file.map(Some),
                }
            }
            file => file.map(Some),
        }
    }

    /// Opens past the page cache where the file system can; also tells whether it can.
    fn open_direct(&self, name: FileName) -> io::Result<(File, bool)> {
        match self.open_plain(name, OFlag::O_RDWR | OFlag::O_DIRECT) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput && e.raw_os_error().is_some() => {
                Ok((self.open_plain(name, OFlag::O_RDWR)?, false))
            }
            other => Ok((other?, true)),
        }
    }

    fn open_past_the_cache(&self, name: FileName) -> io::Result<File> {
        let opened = self.open_plain(name, OFlag::O_RDONLY | OFlag::O_DIRECT);
        opened.map_err(|e| match e.raw_os_error() {
            Some(libc::EINVAL) => io::ErrorKind::Unsupported.into(),
            _ => e,
        })
    }

    /// Describes the entry `name`, without following a link; `None` if there is none.
    fn stat_entry(&self, name: &CStr) -> io::Result<Option<FileStat>> {
        match fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Turns a name in the directory into an [`Entry`]; `None` when it is no longer there, or the
    /// file system's own.
    fn describe_entry(&self, raw: &CStr) -> io::Result<Option<Entry>> {
        let Some(name) = raw.to_str().ok().and_then(FileName::parse) else {
            if is_furniture(&self.directory, raw, || self.stat_entry(raw))? {
                return Ok(None);
            }
            let name = raw.to_string_lossy().escape_debug().to_string();
            return Ok(Some(Entry::Unknown { name }));
        };
        Ok(self.stat_entry(raw)?.map(|stat| {
            if is_plain_file(&stat) {
                Entry::File { name, len: stat.st_size.unsigned_abs() }
            } else {
                Entry::NotAFile { name }
            }
        }))
    }
}

impl Disk for OsDisk {
    type File = OsFile;
    type Lock = OsLock;

    fn open(&self, name: FileName, how: How) -> io::Result<OsFile> {
        let (file, direct) = match how {
            How::CreateNew => {
                let file = self.create_plain(name, OFlag::O_EXCL)?;
                #[cfg(target_os = "linux")]
                in_place::overwrite_in_place(&file);
                (file, false)
            }
            How::ReadWrite => (self.open_plain(name, OFlag::O_RDWR)?, false),
            How::ReadWriteDirect => self.open_direct(name)?,
            How::Read => (self.open_plain(name, OFlag::O_RDONLY)?, false),
            How::ReadDirect => (self.open_past_the_cache(name)?, true),
        };
        let file = OsFile::new(file, direct, Arc::clone(&self.zeroing));
        Ok(if how == How::ReadDirect { file.past_the_cache_only() } else { file })
    }

    fn rename(&self, from: FileName, to: FileName) -> io::Result<()> {
        self.process.check_io()?;
        let (from, to) = (from.to_string(), to.to_string());
        renameat(&self.directory, from.as_str(), &self.directory, to.as_str())?;
        Ok(())
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.process.check_io()?;
        unlinkat(&self.directory, name.to_string().as_str(), UnlinkatFlags::NoRemoveDir)?;
        Ok(())
    }

    fn link_from(&self, other: &OsDisk, name: FileName) -> io::Result<()> {
        self.process.check_io()?;
        let name = name.to_string();
        let (from, to) = (&other.directory, &self.directory);
        linkat(from, name.as_str(), to, name.as_str(), AtFlags::empty())?;
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.process.check_io()?;
        // A second descriptor, so that no two listings share one position in the directory.
        let mut directory = Dir::openat(&self.directory, ".", directory_flags(), Mode::empty())?;
        let mut entries = Vec::new();
        for found in directory.iter() {
            let found = found?;
            let raw = found.file_name();
            if raw != c"." && raw != c".." {
                entries.extend(self.describe_entry(raw)?);
            }
        }
        Ok(entries)
    }

    fn holds(&self, name: FileName) -> io::Result<bool> {
        self.process.check_io()?;
        match fstatat(&self.directory, name.to_string().as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            // On another machine of a network file system it was removed there.
            Err(Errno::ENOENT | Errno::ESTALE) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.process.check_io()?;
        Ok(fsync(&self.directory)?)
    }

    /// Locks the directory itself, too: removing or replacing the file then admits no second
    /// handle.
    fn lock(&self) -> Result<OsLock, LockError> {
        let mut locked = self.lock_directory()?;
        let Some(file) = self.open_lock_file().map_err(LockError::Io)? else { return Ok(locked) };
        let file = LockedFile::new(file);
        file.try_lock_exclusive()?;
        locked.add_file_lock(file);
        Ok(locked)
    }

    /// The directory's lock alone keeps writers of this version out; the file's, where there is
    /// one, others.
    fn lock_shared(&self) -> Result<OsLock, LockError> {
        self.process.check_io().map_err(LockError::Io)?;
        let directory = LockedFile::new(self.reopen_directory().map_err(LockError::Io)?);
        directory.try_lock_shared()?;
        let mut locked = OsLock::from_directory(directory);
        let file = match self.open_plain(FileName::Lock, OFlag::O_RDONLY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(locked),
            file => LockedFile::new(file.map_err(LockError::Io)?),
        };
        file.try_lock_shared()?;
        locked.add_file_lock(file);
        Ok(locked)
    }

    fn free_space(&self) -> io::Result<u64> {
        self.process.check_io()?;
        let stat = match fstatvfs(&self.directory) {
            Err(Errno::ENOSYS | Errno::EOPNOTSUPP) => return Ok(u64::MAX),
            told => told?,
        };
        // No blocks at all: unlimited (tmpfs), or unknown (FUSE).
        let untold = stat.blocks() == 0;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        Ok(if untold { u64::MAX } else { free })
    }

    fn modes_are_refused(&self) -> bool {
        self.modes_refused.load(Ordering::Relaxed)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Env for OsDisk {
    fn now(&self) -> Duration {
        monotonic_clock()
    }

    fn recently(&self) -> Duration {
        coarse_clock()
    }

    fn random(&self, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            match fill_some_random(out) {
                Ok(n) => out = &mut out[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn pause(&self) {
        pause_thread();
    }

    fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
        spawn_thread(name, body)
    }
}

/// Starts a thread of the operating system; for every [`Env`] that wants real ones.
pub(super) fn spawn_thread(name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
    let handle = std::thread::Builder::new().name(name).spawn(body)?;
    Ok(Thread::new(move || handle.join().is_ok()))
}

/// The operating system's monotonic time.
pub(crate) fn monotonic_clock() -> Duration {
    read_clock(ClockId::CLOCK_MONOTONIC)
}

/// The same as of the kernel's last tick, for a fifth of the time.
#[cfg(target_os = "linux")]
pub(crate) fn coarse_clock() -> Duration {
    read_clock(ClockId::CLOCK_MONOTONIC_COARSE)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn coarse_clock() -> Duration {
    clock()
}

fn read_clock(clock: ClockId) -> Duration {
    // Refused only for clocks that the system does not have, and that were asked for by name.
    clock.now().map_or(Duration::ZERO, Duration::from)
}

/// Lets other threads run.
pub(crate) fn pause_thread() {
    std::thread::yield_now();
}

/// Fills a beginning of `out` from the kernel's generator and returns that beginning's length.
#[expect(unsafe_code, reason = "the standard library has no call for random bytes")]
fn fill_some_random(out: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of one live, exclusively borrowed slice, and the call
    // writes at most that many bytes there.
    let filled = unsafe { libc::getrandom(out.as_mut_ptr().cast(), out.len(), 0) };
    usize::try_from(filled).map_err(|_| io::Error::last_os_error())
}

fn directory_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

/// Gives a file or directory a mode, under any umask. False when other users keep more rights than
/// the mode grants. File systems without modes (CIFS, drvfs, some FUSE) refuse to set one, or
/// accept it and change nothing.
///
/// # Errors
/// The operating system's own, but for the refusal.
fn set_exact_mode(file: impl AsFd, mode: Mode) -> io::Result<bool> {
    use Errno as E;

    match fchmod(&file, mode) {
        Ok(()) | Err(E::EPERM | E::EACCES | E::EOPNOTSUPP | E::ENOSYS | E::EINVAL) => {}
        Err(e) => return Err(e.into()),
    }
    let others = Mode::S_IRWXG | Mode::S_IRWXO;
    Ok(!Mode::from_bits_truncate(fstat(&file)?.st_mode).intersects(others.difference(mode)))
}

fn is_plain_file(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG
}

fn not_a_plain_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a plain file")
}

#[cfg(test)]
mod tests;
