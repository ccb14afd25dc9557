//! The quota: a disk that is full earlier than the disk below it.
//!
//! Owns the sum of the lengths of one store's files. It refuses growth over the limit as a full
//! disk does, so the rest of the store knows one kind of full disk only. Without a limit every call
//! is passed on, and nothing is counted. Invariants:
//!
//! 1. Nothing is refused before [`Quota::start_enforcing`]: a store that takes more than the limit
//!    opens.
//! 2. Files that were there then may stay, with the reserve. So the limit that applies is the
//!    larger of two: the quota, and the least that the store has taken since, reserve included.
//!    Deletes draw from the reserve as on a full disk. Space given back below that is not taken
//!    again.
//! 3. A write inside a file's length costs one load of that length.
//!
//! The same layer keeps a read-only session from changing anything ([`Quota::read_only`]). A call
//! that makes, changes, renames or removes a file is refused as on a read-only file system. So is
//! the lock of a writer.
//!
//! A removed file does not count, though a reader may hold it. Files of others do not count.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::OverQuota;
use crate::io::{Disk, DiskFile, Entry, Env, FileName, How, LockError, Thread, View};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::unheard::unheard;

/// A disk with a limit on what one store takes of it, or of which nothing may be changed.
pub(crate) struct Quota<D> {
    disk: D,
    access: Access,
}

/// What a session may take of its disk.
enum Access {
    /// All of it.
    Whole,
    /// Up to its quota.
    Limited(Arc<Ledger>),
    /// Nothing: no file is changed.
    ReadOnly,
}

fn read_only_error() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

/// What the files of a store take. The book's `used` is the sum of all `lens` but the reserve's,
/// and `reserve_len` is the reserve's.
#[derive(Debug)]
pub(crate) struct Ledger {
    max: u64,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    lens: HashMap<FileName, Arc<AtomicU64>>,
    /// All files but the reserve.
    used: u64,
    reserve_len: u64,
    enforced: Option<Enforced>,
}

/// State since the limit is enforced.
#[derive(Debug, Clone, Copy)]
struct Enforced {
    used_least: u64,
    reserve_len: u64,
}

impl Book {
    fn total_len(&self) -> u64 {
        self.used + self.reserve_len
    }

    fn counted_len_mut(&mut self, is_reserve: bool) -> &mut u64 {
        if is_reserve { &mut self.reserve_len } else { &mut self.used }
    }

    fn record_least_used(&mut self) {
        if let Some(enforced) = &mut self.enforced {
            enforced.used_least = enforced.used_least.min(self.used);
        }
    }
}

impl Ledger {
    /// The quota in bytes.
    pub(crate) fn quota_len_max(&self) -> u64 {
        self.max
    }

    /// Whether the store takes more than the quota.
    pub(crate) fn is_over_quota(&self) -> bool {
        self.book.lock().total_len() > self.max
    }

    /// Bytes that may still be taken.
    pub(crate) fn remaining_len(&self) -> u64 {
        self.max.saturating_sub(self.book.lock().total_len())
    }

    fn over_quota_error(&self) -> io::Error {
        io::Error::new(io::ErrorKind::QuotaExceeded, OverQuota { max: self.max })
    }

    /// Sets a file's length in the book. Refuses growth over the limit.
    fn record_file_len(&self, len: &AtomicU64, is_reserve: bool, new: u64) -> io::Result<()> {
        let mut book = self.book.lock();
        let old = len.load(Ordering::Acquire);
        if let Some(enforced) = book.enforced.filter(|_| new > old) {
            let most = self.max.max(enforced.used_least + enforced.reserve_len);
            if book.total_len() + (new - old) > most {
                return Err(self.over_quota_error());
            }
        }
        len.store(new, Ordering::Release);
        let part = book.counted_len_mut(is_reserve);
        *part = *part + new - old;
        book.record_least_used();
        debug_assert!(book.enforced.is_none_or(|enforced| enforced.used_least <= book.used));
        Ok(())
    }
}

impl<D: Disk> Quota<D> {
    /// Counts the files that are there. Nothing is refused yet.
    ///
    /// # Errors
    /// The disk's own: the files could not be listed.
    pub(crate) fn new(disk: D, max: Option<u64>) -> io::Result<Quota<D>> {
        let access = match max {
            Some(max) => Access::Limited(Arc::new(Ledger { max, book: Mutex::default() })),
            None => Access::Whole,
        };
        let quota = Quota { disk, access };
        quota.recount_files().map(|()| quota)
    }

    /// Refuses every change.
    pub(crate) fn read_only(disk: D) -> Quota<D> {
        Quota { disk, access: Access::ReadOnly }
    }

    fn check_writable(&self) -> io::Result<()> {
        if matches!(self.access, Access::ReadOnly) { Err(read_only_error()) } else { Ok(()) }
    }

    /// Enforces the limit from here on.
    pub(crate) fn start_enforcing(&self) {
        if let Some(ledger) = self.ledger() {
            let mut book = ledger.book.lock();
            debug_assert!(book.enforced.is_none(), "the limit is enforced once");
            let (used_least, reserve_len) = (book.used, book.reserve_len);
            book.enforced = Some(Enforced { used_least, reserve_len });
        }
    }

    pub(crate) fn ledger(&self) -> Option<&Arc<Ledger>> {
        match &self.access {
            Access::Limited(ledger) => Some(ledger),
            Access::Whole | Access::ReadOnly => None,
        }
    }

    /// Counts all files again: at the start, and after an error that may have taken effect.
    fn recount_files(&self) -> io::Result<()> {
        let Some(ledger) = self.ledger() else { return Ok(()) };
        let listed = self.disk.list()?;
        let mut book = ledger.book.lock();
        let mut before = std::mem::take(&mut book.lens);
        (book.used, book.reserve_len) = (0, 0);
        for entry in listed {
            let Entry::File { name, len } = entry else { continue };
            let meter = before.remove(&name).unwrap_or_default();
            meter.store(len, Ordering::Release);
            *book.counted_len_mut(name == FileName::Reserve) += len;
            book.lens.insert(name, meter);
        }
        before.values().for_each(|gone| gone.store(0, Ordering::Release));
        debug_assert!(
            book.total_len() == book.lens.values().map(|len| len.load(Ordering::Acquire)).sum(),
            "the book is the sum of its files"
        );
        book.record_least_used();
        Ok(())
    }

    /// Passes a result on. After an error all files are counted again.
    fn recount_after_error<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            unheard(self.recount_files(), "the count is then as it was before the error");
        }
        result
    }

    fn forget_file(&self, name: FileName) {
        if let Some(ledger) = self.ledger() {
            let mut book = ledger.book.lock();
            if let Some(meter) = book.lens.remove(&name) {
                let len = meter.swap(0, Ordering::AcqRel);
                let counted = book.counted_len_mut(name == FileName::Reserve);
                debug_assert!(len <= *counted, "a file counts until it is forgotten");
                *counted -= len;
                book.record_least_used();
            }
        }
    }
}

impl<D: Disk> Disk for Quota<D> {
    type File = QuotaFile<D::File>;
    type Lock = D::Lock;

    fn open(&self, name: FileName, how: How) -> io::Result<QuotaFile<D::File>> {
        if !matches!(how, How::Read | How::ReadDirect) {
            self.check_writable()?;
        }
        let opened = self.disk.open(name, how);
        let file = if how == How::CreateNew { self.recount_after_error(opened) } else { opened }?;
        let ledger = match &self.access {
            Access::Whole => return Ok(QuotaFile { file, growth: Growth::Free }),
            Access::ReadOnly => return Ok(QuotaFile { file, growth: Growth::ReadOnly }),
            Access::Limited(ledger) => ledger,
        };
        let len = Arc::clone(ledger.book.lock().lens.entry(name).or_default());
        let (ledger, is_reserve) = (Arc::clone(ledger), name == FileName::Reserve);
        Ok(QuotaFile { file, growth: Growth::Metered(Meter { ledger, len, is_reserve }) })
    }

    fn rename(&self, from: FileName, to: FileName) -> io::Result<()> {
        self.check_writable()?;
        self.recount_after_error(self.disk.rename(from, to))?;
        if from != to {
            self.forget_file(to);
            if let Some(ledger) = self.ledger() {
                let mut book = ledger.book.lock();
                if let Some(meter) = book.lens.remove(&from) {
                    book.lens.insert(to, meter);
                }
            }
        }
        Ok(())
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.check_writable()?;
        match self.disk.remove(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(e),
            removed => self.recount_after_error(removed)?,
        }
        self.forget_file(name);
        Ok(())
    }

    fn link_from(&self, other: &Self, name: FileName) -> io::Result<()> {
        self.check_writable()?;
        self.recount_after_error(self.disk.link_from(&other.disk, name))?;
        self.recount_files()
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.disk.list()
    }

    fn holds(&self, name: FileName) -> io::Result<bool> {
        self.disk.holds(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.check_writable()?;
        self.disk.sync_dir()
    }

    fn lock(&self) -> Result<D::Lock, LockError> {
        self.check_writable().map_err(LockError::Io)?;
        self.disk.lock()
    }

    fn lock_shared(&self) -> Result<D::Lock, LockError> {
        self.disk.lock_shared()
    }

    fn free_space(&self) -> io::Result<u64> {
        let free = self.disk.free_space()?;
        Ok(self.ledger().map_or(free, |ledger| free.min(ledger.remaining_len())))
    }

    fn modes_are_refused(&self) -> bool {
        self.disk.modes_are_refused()
    }

    fn path(&self) -> &Path {
        self.disk.path()
    }
}

impl<D: Disk> Env for Quota<D> {
    fn now(&self) -> Duration {
        self.disk.now()
    }

    fn recently(&self) -> Duration {
        self.disk.recently()
    }

    fn random(&self, out: &mut [u8]) -> io::Result<()> {
        self.disk.random(out)
    }

    fn pause(&self) {
        self.disk.pause();
    }

    fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
        self.disk.spawn(name, body)
    }
}

/// A file whose length counts.
pub(crate) struct QuotaFile<F> {
    file: F,
    growth: Growth,
}

/// What limits changes of a file.
enum Growth {
    Free,
    /// The quota limits its growth.
    Metered(Meter),
    /// The session only reads.
    ReadOnly,
}

struct Meter {
    ledger: Arc<Ledger>,
    len: Arc<AtomicU64>,
    is_reserve: bool,
}

impl Meter {
    /// Counts the growth of a file that is to reach up to `end`.
    fn record_growth(&self, end: u64) -> io::Result<()> {
        match end > self.len.load(Ordering::Acquire) {
            true => self.ledger.record_file_len(&self.len, self.is_reserve, end),
            false => Ok(()),
        }
    }

    /// Sets the counted length to the length that was found, if that is less.
    fn record_found_len(&self, len: u64) {
        if len < self.len.load(Ordering::Acquire) {
            let resized = self.ledger.record_file_len(&self.len, self.is_reserve, len);
            unheard(resized, "less is never refused");
        }
    }
}

impl<F: DiskFile> QuotaFile<F> {
    /// Counts the growth, changes the file, and gives back what was not used.
    fn change_within_quota<T>(
        &self,
        end: u64,
        change: impl FnOnce(&F) -> io::Result<T>,
        is_whole: impl FnOnce(&T) -> bool,
    ) -> io::Result<T> {
        let meter = match &self.growth {
            Growth::Free => return change(&self.file),
            Growth::ReadOnly => return Err(read_only_error()),
            Growth::Metered(meter) => meter,
        };
        if end <= meter.len.load(Ordering::Acquire) {
            return change(&self.file);
        }
        meter.record_growth(end)?;
        let changed = change(&self.file);
        if !changed.as_ref().is_ok_and(is_whole)
            && let Ok(len) = self.file.len()
        {
            meter.record_found_len(len);
        }
        changed
    }
}

impl<F: DiskFile> DiskFile for QuotaFile<F> {
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        let write = |file: &F| file.write_at(offset, buf);
        self.change_within_quota(offset + buf.len() as u64, write, |len| *len == buf.len())
    }

    fn write_vectored_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: usize = bufs.iter().map(|buf| buf.len()).sum();
        let write = |file: &F| file.write_vectored_at(offset, bufs);
        self.change_within_quota(offset + all as u64, write, |len| *len == all)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn map(&self, len: usize) -> io::Result<Box<dyn View>> {
        self.file.map(len)
    }

    fn expect_random(&self) {
        self.file.expect_random();
    }

    fn begin_read(&self, offset: u64, len: u64) {
        self.file.begin_read(offset, len);
    }

    fn begin_write_back(&self, offset: u64, len: u64) {
        self.file.begin_write_back(offset, len);
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.growth {
            Growth::ReadOnly => Err(read_only_error()),
            _ => self.file.sync_data(),
        }
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change_within_quota(offset + len, |file| file.zero(offset, len), |()| true)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        // A file system that reserves nothing does not lengthen the file either.
        let reserve = |file: &F| file.reserve(offset, len);
        self.change_within_quota(offset + len, reserve, |()| {
            self.file.len().is_ok_and(|found| found >= offset + len)
        })
    }

    fn may_reach(&self, end: u64) -> io::Result<()> {
        self.file.may_reach(end)
    }

    fn is_mapped_elsewhere(&self) -> bool {
        self.file.is_mapped_elsewhere()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change_within_quota(len, |file| file.set_len(len), |()| true)?;
        if let Growth::Metered(meter) = &self.growth {
            meter.record_found_len(len);
        }
        Ok(())
    }

    fn reflink_from(&self, original: &std::fs::File, len: u64) -> io::Result<()> {
        self.change_within_quota(len, |file| file.reflink_from(original, len), |()| true)
    }

    fn system_file(&self) -> Option<&std::fs::File> {
        self.file.system_file()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
