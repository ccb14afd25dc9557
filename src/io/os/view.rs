//! Mapped views of the real disk's files.
//!
//! Owns the map and its read-ahead. By default the kernel reads up to `read_ahead_kb` around each
//! missed page. That is 8 MiB on some disks: 6 ms for a block of 4 KiB. Without read-ahead each
//! page is a disk read of its own. So a map is advised of random reads, and the first reader of a
//! window of [`WINDOW_LEN`] asks for all of it.
//!
//! While a reader holds bytes of it, a map outlives its descriptor, its store's handle and the
//! store's lock. No later handle, in any process, may truncate a file below such bytes. So a map is
//! made from an opening with a shared lock (`flock`). The system keeps that lock until the
//! opening's last descriptor *and* its last map are gone. [`DiskFile::is_mapped_elsewhere`] asks
//! for the exclusive one.
//!
//! [`DiskFile::is_mapped_elsewhere`]: super::super::DiskFile::is_mapped_elsewhere

use crate::unheard::unheard;
use std::any::Any;
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};

use super::super::View;

/// Bytes that are read from the disk at once. Measured on a virtual disk: 4 KiB take 79 us, 64 KiB
/// 134, 256 KiB 302.
const WINDOW_LEN: usize = 64 << 10;

/// A mapped file. A slice of any length costs one reference count.
pub(super) struct OsView {
    map: Arc<Mmap>,
    /// All of the map; readers get slices of it.
    whole: Bytes,
    len: usize,
    windows: Windows,
}

/// The windows of a map, and which of them the system was asked for.
struct Windows {
    /// A bit for each.
    asked: Box<[AtomicU64]>,
    /// Bytes that no thread writes to any more.
    settled_len: AtomicUsize,
}

impl Windows {
    fn new(len: usize) -> Windows {
        let words = len.div_ceil(WINDOW_LEN).div_ceil(u64::BITS as usize);
        let asked = (0..words).map(|_| AtomicU64::new(0)).collect();
        Windows { asked, settled_len: AtomicUsize::new(0) }
    }

    /// Notes that no thread writes to the first `len` bytes any more, which are all there are.
    fn note_settled(&self, len: usize) {
        self.settled_len.store(len.next_multiple_of(WINDOW_LEN), Ordering::Relaxed);
    }

    /// Notes that a reader wants a range, and yields the windows to ask for. Those are the settled
    /// ones in the range that were not asked for before.
    fn take_unasked(&self, start: usize, end: usize) -> impl Iterator<Item = usize> {
        let mut settled_len = self.settled_len.load(Ordering::Relaxed);
        if settled_len < end {
            self.settled_len.fetch_max(end, Ordering::Relaxed);
            settled_len = end;
        }
        let touched = start / WINDOW_LEN..end.div_ceil(WINDOW_LEN).min(settled_len / WINDOW_LEN);
        touched.filter(|window| {
            let (word, bit) = (&self.asked[window / 64], 1 << (window % 64));
            word.load(Ordering::Relaxed) & bit == 0
                && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
        })
    }
}

/// Keeps the map alive for the [`Bytes`] cut from it.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn bytes_of_map(map: &Arc<Mmap>) -> Bytes {
    Bytes::from_owner(Owner(Arc::clone(map)))
}

impl OsView {
    /// Maps bytes `0..len` of a file. While it `grows`, only bytes that were read, and those in
    /// front of them, count as settled. Read-ahead beyond them would cache pages that direct writes
    /// are about to change.
    pub(super) fn new(file: &File, len: usize, grows: bool) -> io::Result<OsView> {
        unheard(file.try_lock_shared(), "where files have no locks no file is cut");
        let map = Arc::new(map_read_only(file, len)?);
        unheard(map.advise(Advice::Random), "it is a hint");
        let whole = bytes_of_map(&map);
        let view = OsView { map, whole, len, windows: Windows::new(len) };
        if !grows {
            view.settle();
        }
        Ok(view)
    }

    /// Looks up a range that is about to be read.
    fn prepare_range(&self, offset: u64, len: usize) -> io::Result<Range<usize>> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(len).filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        for window in self.windows.take_unasked(start, end) {
            let from = window * WINDOW_LEN;
            let len = WINDOW_LEN.min(self.len - from);
            let advised = self.map.advise_range(Advice::WillNeed, from, len);
            unheard(advised, "it is a hint: without it pages come one by one");
        }
        Ok(start..end)
    }
}

impl View for OsView {
    fn bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        Ok(self.whole.slice(self.prepare_range(offset, len)?))
    }

    fn slice(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(&self.map[self.prepare_range(offset, len)?]))
    }

    fn settle(&self) {
        self.windows.note_settled(self.len);
    }

    fn is_shared(&mut self) -> bool {
        // `Bytes` does not show the count of its owner, but drops the owner with the last of its
        // bytes. So drop ours, and see whether the owner still holds the map.
        self.whole = Bytes::new();
        let shared = Arc::strong_count(&self.map) > 1;
        // Pairs with the release in the last drop of the owner. So the reader's use of its bytes is
        // over before the caller writes to the file.
        fence(Ordering::Acquire);
        self.whole = bytes_of_map(&self.map);
        shared
    }

    fn life(&self) -> Weak<dyn Any + Send + Sync> {
        let life: Weak<Mmap> = Arc::downgrade(&self.map);
        life
    }
}

/// Maps bytes `0..len` of a file for reading.
#[expect(unsafe_code, reason = "a mapping of a file is unsafe by nature")]
fn map_read_only(file: &File, len: usize) -> io::Result<Mmap> {
    // SAFETY: the map is read-only here, and its users keep to the contract of `DiskFile::map`.
    // Bytes beyond the end of the file are not touched. Mapped files are never truncated (see the
    // header). No byte is written to the file while a reader holds a slice over it
    // (`View::is_shared`). The directory has mode 0700 and is locked, so no other program has a
    // reason to write there.
    unsafe { MmapOptions::new().len(len).map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: usize = WINDOW_LEN;

    fn asked(windows: &Windows, start: usize, end: usize) -> Vec<usize> {
        windows.take_unasked(start, end).collect()
    }

    #[test]
    fn each_window_is_asked_for_once() {
        let windows = Windows::new(200 * W);
        windows.note_settled(200 * W - 9);
        assert_eq!(asked(&windows, 5, 5 + 4096), [0]);
        assert_eq!(asked(&windows, 9000, 9001), []);
        assert_eq!(asked(&windows, W - 1, 3 * W + 1), [1, 2, 3]);
        assert_eq!(asked(&windows, 127 * W, 129 * W), [127, 128]);
        assert_eq!(asked(&windows, 0, 0), []);
        assert_eq!(asked(&windows, 200 * W - 19, 200 * W - 9), [199]);
    }

    #[test]
    fn nothing_behind_the_last_byte_that_was_read_is_asked_for_while_a_file_grows() {
        let windows = Windows::new(9 * W);
        assert_eq!(asked(&windows, 5, 4096), []);
        assert_eq!(asked(&windows, 2 * W, 2 * W + 5), []);
        assert_eq!(asked(&windows, 5, 4096), [0]);
        assert_eq!(asked(&windows, W, W + 1), [1]);
        assert_eq!(asked(&windows, 2 * W + 9, 3 * W), [2]);
        assert_eq!(asked(&windows, 3 * W, 5 * W), [3, 4]);
        assert_eq!(asked(&windows, 5 * W, 5 * W + 9), []);
        windows.note_settled(9 * W);
        assert_eq!(asked(&windows, 5 * W, 5 * W + 9), [5]);
    }
}
