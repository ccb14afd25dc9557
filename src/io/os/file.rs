//! Files of the real disk.
//!
//! Owns one descriptor a file. Invariants: a sync is one `fdatasync` and is never tried again. A
//! direct file turns into an ordinary one, for good, when the file system refuses an aligned
//! transfer. A file opened past the cache returns that refusal instead. A transfer beyond the
//! process's limit on file lengths raises `SIGXFSZ`, which ends the process unless it is ignored.
//! So each opening asks for that limit before it reaches further than ever, and transfers nothing
//! beyond it. A limit that is lowered below that later is not noticed. Does not loop over short
//! transfers (see [`super::super`]), except in [`DiskFile::zero`], which is one operation to its
//! caller.

use crate::unheard::unheard;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{
    FallocateFlags, FcntlArg, OFlag, PosixFadviseAdvice, fallocate, fcntl, posix_fadvise,
};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::uio::pwritev;
use nix::unistd::fdatasync;

use super::super::{DiskFile, PAGE_LEN, View, write_all_at};
use super::view::OsView;
use super::{Process, Zeroing};

/// Linux 6.17's `FALLOC_FL_WRITE_ZEROES`: written, zeroed blocks without a transfer of zeros.
const WRITE_ZEROES: FallocateFlags = FallocateFlags::from_bits_retain(0x80);

/// Zeros for [`DiskFile::zero`], on a page boundary for files that bypass the page cache.
static ZEROS: Zeros = Zeros([0; ZEROS_LEN]);
const ZEROS_LEN: usize = 1 << 20;

#[repr(align(4096))]
struct Zeros([u8; ZEROS_LEN]);

const _: () = assert!(align_of::<Zeros>() == PAGE_LEN);

/// An open file of an [`OsDisk`](super::OsDisk).
#[derive(Debug)]
pub struct OsFile {
    file: File,
    /// The file was opened for transfers past the page cache, so everything must be aligned.
    direct: bool,
    /// Never through the page cache.
    is_strict: bool,
    zeroing: Arc<Zeroing>,
    process: Process,
    /// How far the process was found to be allowed to write.
    allowed_end: AtomicU64,
}

impl OsFile {
    pub(super) fn new(file: File, direct: bool, zeroing: Arc<Zeroing>) -> OsFile {
        let (is_strict, allowed_end) = (false, AtomicU64::new(0));
        OsFile { file, direct, is_strict, zeroing, process: Process::current(), allowed_end }
    }

    /// Has a direct file refuse transfers that would otherwise use the page cache.
    pub(super) fn past_the_cache_only(mut self) -> OsFile {
        assert!(self.direct, "it was opened for transfers past the page cache");
        self.is_strict = true;
        self
    }

    fn check_aligned(&self, offset: u64, buf: &[u8]) {
        let aligned = offset.is_multiple_of(PAGE_LEN as u64)
            && buf.len().is_multiple_of(PAGE_LEN)
            && buf.as_ptr().addr().is_multiple_of(PAGE_LEN);
        debug_assert!(!self.direct || aligned, "a direct transfer is not page-aligned");
    }

    /// Runs a transfer; when the file system takes no direct transfers of our alignment, runs it
    /// once more through the page cache.
    fn run_transfer(&self, mut run: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        self.process.check_io()?;
        match run() {
            Err(e) if self.direct && e.raw_os_error() == Some(Errno::EINVAL as i32) => {
                if self.is_strict {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                self.leave_direct()?;
                run()
            }
            other => other,
        }
    }

    /// How much of a write counts. A short direct write can only continue at a page, so a page
    /// written in part is written again.
    fn count_written(&self, written: usize, len: usize) -> usize {
        if self.direct && written < len { written - written % PAGE_LEN } else { written }
    }

    fn leave_direct(&self) -> io::Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GETFL)?);
        fcntl(&self.file, FcntlArg::F_SETFL(flags.difference(OFlag::O_DIRECT)))?;
        Ok(())
    }

    /// Asks the file system for zeros; false when it cannot make them without writing.
    fn zero_at_once(&self, offset: u64, len: u64) -> io::Result<bool> {
        if self.zeroing.is_refused() {
            return Ok(false);
        }
        let (offset, len) = (to_file_offset(offset)?, to_file_offset(len)?);
        loop {
            match fallocate(&self.file, WRITE_ZEROES, offset, len) {
                Ok(()) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => {
                    self.zeroing.note_refusal();
                    return Ok(false);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl DiskFile for OsFile {
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        self.check_aligned(offset, buf);
        self.may_reach(offset.saturating_add(buf.len() as u64))?;
        let written = self.run_transfer(|| self.file.write_at(buf, offset))?;
        Ok(self.count_written(written, buf.len()))
    }

    fn write_vectored_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        for buf in bufs {
            self.check_aligned(offset, buf);
        }
        let at = to_file_offset(offset)?;
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        self.may_reach(offset.saturating_add(len as u64))?;
        let written = self.run_transfer(|| Ok(pwritev(&self.file, bufs, at)?))?;
        Ok(self.count_written(written, len))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.check_aligned(offset, buf);
        self.run_transfer(|| self.file.read_at(buf, offset))
    }

    fn map(&self, len: usize) -> io::Result<Box<dyn View>> {
        self.process.check_io()?;
        Ok(Box::new(OsView::new(&self.file, len, self.direct)?))
    }

    fn expect_random(&self) {
        if !self.process.is_current() {
            return;
        }
        let random = PosixFadviseAdvice::POSIX_FADV_RANDOM;
        unheard(posix_fadvise(&self.file, 0, 0, random), "it is a hint");
    }

    fn begin_read(&self, offset: u64, len: u64) {
        if let (Ok(offset), Ok(len)) = (to_file_offset(offset), to_file_offset(len)) {
            let will_need = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
            unheard(posix_fadvise(&self.file, offset, len, will_need), "it is a hint");
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.process.check_io()?;
        Ok(fdatasync(&self.file)?)
    }

    #[expect(unsafe_code, reason = "nix has no `sync_file_range`")]
    fn begin_write_back(&self, offset: u64, len: u64) {
        let (Ok(offset), Ok(len)) = (to_file_offset(offset), to_file_offset(len)) else { return };
        // Without one of the `WAIT` flags it neither waits nor takes a failed write's error from
        // the sync.
        // SAFETY: it reads no memory; the descriptor is open as long as `self` is.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
        };
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.process.check_io()?;
        self.may_reach(offset.saturating_add(len))?;
        if len == 0 || self.zero_at_once(offset, len)? {
            return Ok(());
        }
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = offset;
        while at < end {
            let chunk_len = (end - at).min(ZEROS_LEN as u64);
            write_all_at(self, at, &ZEROS.0[..chunk_len as usize])?;
            at += chunk_len;
        }
        Ok(())
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.process.check_io()?;
        self.may_reach(offset.saturating_add(len))?;
        let (at, len) = (to_file_offset(offset)?, to_file_offset(len)?);
        loop {
            match fallocate(&self.file, FallocateFlags::empty(), at, len) {
                Err(Errno::EINTR) => {}
                // The file system cannot reserve: then a write has to find out.
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn may_reach(&self, end: u64) -> io::Result<()> {
        if end <= self.allowed_end.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
        if end <= limit {
            self.allowed_end.fetch_max(end, Ordering::Relaxed);
            Ok(())
        } else {
            Err(Errno::EFBIG.into())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.process.check_io()?;
        if len > self.len()? {
            self.may_reach(len)?;
        }
        self.file.set_len(len)
    }

    /// A map keeps the shared lock of the opening that it was made from (`OsView::new`).
    fn is_mapped_elsewhere(&self) -> bool {
        self.file.try_lock().is_err()
    }

    fn len(&self) -> io::Result<u64> {
        self.process.check_io()?;
        Ok(self.file.metadata()?.len())
    }

    fn system_file(&self) -> Option<&File> {
        Some(&self.file)
    }

    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "nix has no `FICLONERANGE`")]
    fn reflink_from(&self, original: &File, len: u64) -> io::Result<()> {
        self.process.check_io()?;
        super::in_place::mark_alike(&self.file, original);
        let range =
            CloneRange { from: original.as_raw_fd().into(), from_offset: 0, len, offset: 0 };
        // SAFETY: it reads one `CloneRange`, which is laid out as the kernel's; both descriptors
        // are open as long as the borrows of their files.
        unsafe { clone_range(self.file.as_raw_fd(), &range) }?;
        Ok(())
    }
}

/// The kernel's `file_clone_range`.
#[cfg(target_os = "linux")]
#[repr(C)]
struct CloneRange {
    from: i64,
    from_offset: u64,
    len: u64,
    offset: u64,
}

#[cfg(target_os = "linux")]
nix::ioctl_write_ptr!(
    /// `FICLONERANGE`.
    clone_range,
    0x94,
    13,
    CloneRange
);

fn to_file_offset(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_write_that_was_cut_short_goes_on_at_a_page() {
        let open = |direct| {
            let file = tempfile::tempfile().expect("a temporary file");
            OsFile::new(file, direct, Arc::default())
        };
        let (direct, buffered) = (open(true), open(false));
        let cases = [(0, 0), (512, 0), (4096, 4096), (5000, 4096), (8191, 4096), (8192, 8192)];
        for (written, counts) in cases {
            assert_eq!(direct.count_written(written, 12_288), counts);
            assert_eq!(buffered.count_written(written, 12_288), written);
        }
        assert_eq!(direct.count_written(12_288, 12_288), 12_288);
    }

    #[test]
    fn a_refused_direct_transfer_goes_through_the_page_cache() {
        let file = tempfile::tempfile().expect("a temporary file");
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL).expect("flags"));
        fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)).expect("a direct file");
        let direct = OsFile::new(file, true, Arc::default());
        // The file system refuses three bytes; the assertion on alignment is above this.
        let written = direct.run_transfer(|| direct.file.write_at(b"abc", 0));
        assert_eq!(written.expect("the second try"), 3);
        let mut refusals = 1;
        let again = direct.run_transfer(|| {
            refusals -= 1;
            if refusals >= 0 { Err(Errno::EINVAL.into()) } else { direct.file.write_at(b"d", 3) }
        });
        assert_eq!(again.expect("the second try"), 1);
        let refused = direct.run_transfer(|| Err(Errno::EINVAL.into()));
        assert_eq!(refused.expect_err("refused twice").kind(), io::ErrorKind::InvalidInput);
        let flags = OFlag::from_bits_retain(fcntl(&direct.file, FcntlArg::F_GETFL).expect("flags"));
        assert!(!flags.contains(OFlag::O_DIRECT));
    }
}
