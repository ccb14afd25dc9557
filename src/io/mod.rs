//! The seam: the only way from the engine to files, clocks, randomness and threads.
//!
//! Owns the traits [`Disk`], [`DiskFile`] and [`Env`] and the closed list of [`FileName`]s. The
//! real implementation is [`os`]. [`sim`] loses unsynced changes and fails on purpose. Invariants:
//!
//! 1. A store is one flat directory; a file is named by [`FileName`], never by a path from input.
//! 2. Retry loops for short transfers and `EINTR` live here, above the implementations
//!    ([`write_all_at`], [`read_exact_at`]), so that injected faults reach them.
//! 3. A failed sync is reported once; no thread tries it again.
//!
//! Knows nothing of frames, segments or transactions.

pub mod os;
pub mod pool;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

use std::any::Any;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Weak;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;

/// The name of a file in a store's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// `META`: the store's fixed description.
    Meta,
    /// `LOCK`: locked while the store is open, never removed.
    Lock,
    /// `RESERVE`: takes space that is given back when the disk is full; holds nothing.
    Reserve,
    /// `SEG-<16 hex>`: a log segment.
    Segment(u64),
    /// `CKPT-<16 hex>`: an image of the index.
    Checkpoint(u64),
    /// `TMP-<16 hex>`: unfinished; removed at open.
    Temporary(u64),
    /// `MANIFEST`: lists the files of a backup; no store has one.
    Manifest,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileName::Meta => f.write_str("META"),
            FileName::Lock => f.write_str("LOCK"),
            FileName::Manifest => f.write_str("MANIFEST"),
            FileName::Reserve => f.write_str("RESERVE"),
            FileName::Segment(n) => write!(f, "SEG-{n:016x}"),
            FileName::Checkpoint(n) => write!(f, "CKPT-{n:016x}"),
            FileName::Temporary(n) => write!(f, "TMP-{n:016x}"),
        }
    }
}

impl FileName {
    /// The number in the name; 0 where there is none.
    pub(crate) fn number(self) -> u64 {
        match self {
            FileName::Meta | FileName::Lock | FileName::Reserve | FileName::Manifest => 0,
            FileName::Segment(n) | FileName::Checkpoint(n) | FileName::Temporary(n) => n,
        }
    }

    /// Reads a name back; `None` for anything that [`FileName`] would not print.
    pub fn parse(name: &str) -> Option<FileName> {
        let number = |hex: &str| {
            let plain = hex.len() == 16
                && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if plain { u64::from_str_radix(hex, 16).ok() } else { None }
        };
        match name {
            "META" => Some(FileName::Meta),
            "LOCK" => Some(FileName::Lock),
            "MANIFEST" => Some(FileName::Manifest),
            "RESERVE" => Some(FileName::Reserve),
            _ => {
                if let Some(hex) = name.strip_prefix("SEG-") {
                    number(hex).map(FileName::Segment)
                } else if let Some(hex) = name.strip_prefix("CKPT-") {
                    number(hex).map(FileName::Checkpoint)
                } else {
                    name.strip_prefix("TMP-").and_then(number).map(FileName::Temporary)
                }
            }
        }
    }
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Create it; fail where it exists. Reads and writes.
    CreateNew,
    /// Open an existing file for reads and writes.
    ReadWrite,
    /// As `ReadWrite`, with writes that bypass the page cache where the file system can. Every
    /// buffer, offset and length is then a multiple of [`PAGE_LEN`], buffers come from
    /// [`AlignedBuf`].
    ReadWriteDirect,
    /// Open an existing file for reads.
    Read,
    /// Open an existing file for reads of the disk itself, past the page cache: bytes not yet
    /// written back are not seen. Aligned as for `ReadWriteDirect`. `Unsupported`, from the opening
    /// or from a read, where the file system cannot.
    ReadDirect,
}

/// The unit of aligned writes, in bytes.
pub const PAGE_LEN: usize = 4096;

/// An entry that [`Disk::list`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A plain file with a name of ours.
    File {
        /// Its name.
        name: FileName,
        /// Its length in bytes.
        len: u64,
    },
    /// Something with a name of ours that is not a plain file (a link, pipe or directory).
    NotAFile {
        /// Its name.
        name: FileName,
    },
    /// A name that is not ours.
    Unknown {
        /// The name, made printable.
        name: String,
    },
}

/// Why the store's lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Another handle, in this process or another, holds it.
    Held,
    /// The operating system refused.
    Io(io::Error),
}

/// Clocks, randomness and threads.
pub trait Env: Send + Sync + 'static {
    /// Returns a monotonic time. Only differences mean anything.
    fn now(&self) -> Duration;

    /// Returns a time of the same clock that may be some milliseconds old, where that is cheaper to
    /// have.
    fn recently(&self) -> Duration {
        self.now()
    }

    /// Fills `out` with random bytes, fit for salts.
    ///
    /// # Errors
    /// The operating system's own.
    fn random(&self, out: &mut [u8]) -> io::Result<()>;

    /// Lets other threads run for a moment.
    fn pause(&self);

    /// Starts a named thread.
    ///
    /// # Errors
    /// The operating system's own; `body` is then dropped without running.
    fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<Thread>;
}

/// A thread that was started through [`Env::spawn`].
pub struct Thread(Box<dyn FnOnce() -> bool + Send>);

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Thread")
    }
}

impl Thread {
    /// Wraps the closure that waits for the thread and returns whether it ended without panic.
    pub fn new(join: impl FnOnce() -> bool + Send + 'static) -> Thread {
        Thread(Box::new(join))
    }

    /// Waits for the thread's end; false when it panicked.
    pub fn join(self) -> bool {
        (self.0)()
    }
}

/// One store's directory.
pub trait Disk: Env {
    /// A file of this disk.
    type File: DiskFile;
    /// Holds the store's lock until dropped.
    type Lock: Send + Sync + 'static;

    /// Opens a file.
    ///
    /// # Errors
    /// The operating system's own; a link or special file in the file's place is an error.
    fn open(&self, name: FileName, how: How) -> io::Result<Self::File>;

    /// Renames a file. Replaces `to` where it exists. Durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// The operating system's own; the call may still have taken effect.
    fn rename(&self, from: FileName, to: FileName) -> io::Result<()>;

    /// Removes a file. Durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// The operating system's own; the call may still have taken effect.
    fn remove(&self, name: FileName) -> io::Result<()>;

    /// Gives a file of another directory a second name in this one. Durable only after
    /// [`Disk::sync_dir`].
    ///
    /// # Errors
    /// The operating system's own, `Unsupported` among them: then nothing was done.
    fn link_from(&self, other: &Self, name: FileName) -> io::Result<()> {
        let _no_second_names = (other, name);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Lists the directory, in no special order. Entries of the file system itself (`lost+found`)
    /// are left out.
    ///
    /// # Errors
    /// The operating system's own.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Returns whether a file of this name is there. False of every name when the directory itself
    /// was removed, also if another one has its path now. True where that cannot be told for good.
    ///
    /// # Errors
    /// The operating system's own: it could not be told this time.
    fn holds(&self, _name: FileName) -> io::Result<bool> {
        Ok(true)
    }

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// The operating system's own; which names are durable is then unknown.
    fn sync_dir(&self) -> io::Result<()>;

    /// Takes the store's exclusive lock on `LOCK`, creating the file where it is missing and can be
    /// made. While it is held no other handle gets it, even if the file is removed or replaced.
    ///
    /// # Errors
    /// [`LockError::Held`] at once when another handle has it; never waits.
    fn lock(&self) -> Result<Self::Lock, LockError>;

    /// Takes the store's lock to read: it keeps out handles that take it to write, and makes no
    /// file. Several may hold it at once, unless the disk has one kind of lock only.
    ///
    /// # Errors
    /// As [`Disk::lock`].
    fn lock_shared(&self) -> Result<Self::Lock, LockError> {
        self.lock()
    }

    /// Returns the bytes that can still be written to the file system; `u64::MAX` where it does not
    /// tell.
    ///
    /// # Errors
    /// The operating system's own.
    fn free_space(&self) -> io::Result<u64>;

    /// Whether files made so far are open to others than their owner, because the file system keeps
    /// no modes.
    fn modes_are_refused(&self) -> bool {
        false
    }

    /// The directory, for messages.
    fn path(&self) -> &Path;
}

/// An open file. Shared by threads; every call names its own offset.
pub trait DiskFile: Send + Sync + 'static {
    /// Writes at an offset; may write less than asked.
    ///
    /// # Errors
    /// The operating system's own; the content of the range is then unknown.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize>;

    /// Writes several buffers one behind the other; may write less than asked.
    ///
    /// # Errors
    /// As [`DiskFile::write_at`].
    fn write_vectored_at(&self, offset: u64, bufs: &[io::IoSlice<'_>]) -> io::Result<usize>;

    /// Reads at an offset; may read less than asked, 0 at the end of the file.
    ///
    /// # Errors
    /// The operating system's own.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Returns a view of bytes `0..len` that later writes to the file show through. `len` may reach
    /// beyond the end of the file; bytes there must not be touched before the file has grown.
    ///
    /// # Errors
    /// The operating system's own.
    fn map(&self, len: usize) -> io::Result<Box<dyn View>>;

    /// Tells the system that reads will be here and there, so that it reads nothing ahead. A hint:
    /// reads are the same without it.
    fn expect_random(&self) {}

    /// Begins to bring bytes from the disk into memory, so that a later read of them finds them
    /// there. A hint: failures are reported by that read.
    fn begin_read(&self, _offset: u64, _len: u64) {}

    /// Makes written bytes, and the length needed to read them, durable.
    ///
    /// # Errors
    /// The operating system's own. Which of the bytes are durable is then unknown, for ever: a
    /// second call may report success without having written them.
    fn sync_data(&self) -> io::Result<()>;

    /// Begins to bring written bytes to the disk, so that a later sync finds less to do. A hint: it
    /// makes nothing durable, and failures are reported by [`DiskFile::sync_data`].
    fn begin_write_back(&self, _offset: u64, _len: u64) {}

    /// Fills a range with zeros so that a later write into it changes neither length nor extents.
    /// Not durable before [`DiskFile::sync_data`].
    ///
    /// # Errors
    /// The operating system's own; the file may have grown in part.
    fn zero(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes sure that a later write into a range does not run out of space. The range then reads
    /// as zeros or as the bytes written there. Not durable before [`DiskFile::sync_data`].
    ///
    /// # Errors
    /// The operating system's own; the file may have grown in part.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Says whether the process may write up to `end` now, so that a write that it may not make is
    /// refused before anything is written.
    ///
    /// # Errors
    /// `FileTooLarge`: a limit of the process (`RLIMIT_FSIZE`) forbids it.
    fn may_reach(&self, _end: u64) -> io::Result<()> {
        Ok(())
    }

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// The operating system's own.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns whether a map of the file may exist that another opening of it made: of an earlier
    /// handle, or of another process. True where that cannot be told. A file of which this is true
    /// is removed, never cut. While this file is open, no later map is noticed.
    fn is_mapped_elsewhere(&self) -> bool {
        true
    }

    /// The operating system's file behind this one, if there is one: for calls on two of them.
    fn system_file(&self) -> Option<&std::fs::File> {
        None
    }

    /// Makes the first `len` bytes of `original` those of this empty file, without copying (a
    /// *reflink*). Both lie in the same place of the disk until one of them is written. Not durable
    /// before [`DiskFile::sync_data`].
    ///
    /// # Errors
    /// The operating system's own, `Unsupported` among them; this file may hold some of the bytes
    /// then.
    fn reflink_from(&self, original: &std::fs::File, len: u64) -> io::Result<()> {
        let _no_reflinks = (original, len);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Returns the file's length in bytes.
    ///
    /// # Errors
    /// The operating system's own.
    fn len(&self) -> io::Result<u64>;

    /// Returns whether the file is empty.
    ///
    /// # Errors
    /// The operating system's own.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A view of a file, shared with readers. Dropped when the last `Bytes` cut from it is dropped.
pub trait View: Send + Sync {
    /// Returns bytes `offset..offset + len` of the view.
    ///
    /// # Errors
    /// `UnexpectedEof` when the range reaches beyond the view; for a view that reads on demand, the
    /// operating system's own.
    fn bytes(&self, offset: u64, len: usize) -> io::Result<Bytes>;

    /// Lends bytes `offset..offset + len` of the view.
    ///
    /// # Errors
    /// As [`View::bytes`].
    fn slice(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        Ok(Cow::Owned(self.bytes(offset, len)?.to_vec()))
    }

    /// Says that no byte of the file is written any more, so that reads may read ahead.
    fn settle(&self) {}

    /// Returns whether a reader still holds bytes cut from this view. Takes the view for itself, so
    /// that a false stays false until the next [`View::bytes`].
    fn is_shared(&mut self) -> bool;

    /// A reference that lives as long as this view or bytes cut from it. By default it is dead, for
    /// views of which no bytes are held.
    fn life(&self) -> Weak<dyn Any + Send + Sync> {
        Weak::<()>::new()
    }
}

/// A page-aligned buffer, for writes that bypass the page cache.
pub use os::AlignedBuf;

/// Writes all of `buf`, however many calls that takes.
///
/// # Errors
/// The first error that is not `EINTR`; `WriteZero` when the file takes no more bytes.
pub fn write_all_at<F: DiskFile>(file: &F, mut offset: u64, mut buf: &[u8]) -> io::Result<()> {
    while !buf.is_empty() {
        match file.write_at(offset, buf) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                offset += n as u64;
                buf = &buf[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all of several buffers one behind the other, however many calls that takes.
///
/// # Errors
/// As [`write_all_at`].
pub fn write_all_vectored_at<F: DiskFile>(
    file: &F,
    mut offset: u64,
    mut bufs: &mut [io::IoSlice<'_>],
) -> io::Result<()> {
    // Drops leading empty buffers, so that an all-empty rest ends the loop.
    io::IoSlice::advance_slices(&mut bufs, 0);
    while !bufs.is_empty() {
        let count = bufs.len().min(IOV_COUNT_MAX);
        match file.write_vectored_at(offset, &bufs[..count]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                offset += n as u64;
                io::IoSlice::advance_slices(&mut bufs, n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Linux takes at most this many buffers in one call (`IOV_MAX`).
const IOV_COUNT_MAX: usize = 1024;

/// Fills all of `buf`.
///
/// # Errors
/// The first error that is not `EINTR`; `UnexpectedEof` when the file ends before.
pub fn read_exact_at<F: DiskFile>(file: &F, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(offset, buf) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                offset += n as u64;
                buf = &mut buf[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
