//! Open files and views of a simulated disk, and the mistakes that only a program can make.
//!
//! These panic, and stay in [`SimDisk::violations`](super::SimDisk::violations):
//!
//! 1. a direct transfer whose offset, length or memory is not on page boundaries;
//! 2. a touch of a view beyond the page that holds the end of the file: a real map raises `SIGBUS`;
//! 3. a write, zeroing or cut that changes bytes which a reader holds through a view.
//!
//! A view copies at the time of the call, so bytes once handed out never change here. Rule 3 is
//! what a program would see on a real map.

use std::any::Any;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::super::{DiskFile, FileName, How, PAGE_LEN, View};
use super::Shared;
use super::change::FileId;
use super::content::pieces;
use super::fault::{Effect, OperationKind};
use super::state::{Pin, State};

/// Linux limits a file to this length (`MAX_LFS_FILESIZE`).
const FILE_LEN_MAX: u64 = i64::MAX as u64;

/// An open file of a [`SimDisk`](super::SimDisk).
#[derive(Debug)]
pub struct SimFile {
    handle: Arc<Handle>,
    name: FileName,
    writes: bool,
    direct: bool,
    /// Reads see the disk's bytes.
    past_cache: bool,
}

/// Keeps a file, even without a name.
#[derive(Debug)]
pub(super) struct Handle {
    shared: Arc<Shared>,
    file: FileId,
}

impl Handle {
    pub(super) fn new(shared: &Arc<Shared>, state: &mut State, file: FileId) -> Handle {
        state.open_file(file);
        Handle { shared: Arc::clone(shared), file }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state.lock().close_file(self.file);
    }
}

impl SimFile {
    pub(super) fn new(handle: Handle, name: FileName, how: How) -> SimFile {
        SimFile {
            handle: Arc::new(handle),
            name,
            writes: !matches!(how, How::Read | How::ReadDirect),
            direct: matches!(how, How::ReadWriteDirect | How::ReadDirect),
            past_cache: how == How::ReadDirect,
        }
    }

    fn run<T>(
        &self,
        kind: OperationKind,
        body: impl FnOnce(&mut State, Effect) -> io::Result<T>,
    ) -> io::Result<T> {
        self.handle.shared.run(kind, Some(self.name), body)
    }

    fn check_aligned(&self, offset: u64, address: usize, len: usize) {
        let aligned = offset.is_multiple_of(PAGE_LEN as u64)
            && address.is_multiple_of(PAGE_LEN)
            && len.is_multiple_of(PAGE_LEN);
        if self.direct && !aligned {
            let what = format!("direct transfer of {len} bytes at {offset} is not on pages");
            self.handle.shared.state.lock().violate(what);
        }
    }

    fn check_change(&self, offset: u64, len: u64) -> io::Result<()> {
        if !self.writes {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        match offset.checked_add(len) {
            Some(end) if end <= FILE_LEN_MAX => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EFBIG)),
        }
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored_at(offset, &[IoSlice::new(buf)])
    }

    fn write_vectored_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        for buf in bufs {
            self.check_aligned(offset, buf.as_ptr().addr(), buf.len());
        }
        let asked: usize = bufs.iter().map(|buf| buf.len()).sum();
        self.check_change(offset, asked as u64)?;
        self.run(OperationKind::Write, |state, effect| {
            let len = effect.written_len(asked, self.direct);
            let len = state.room(self.handle.file, offset, len as u64)? as usize;
            let bufs = first_bytes(bufs, len);
            state.check_write(self.handle.file, offset, &bufs);
            state.media.write(self.handle.file, offset, &bufs);
            Ok(len)
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.check_aligned(offset, buf.as_ptr().addr(), buf.len());
        self.run(OperationKind::Read, |state, effect| {
            let content = match self.past_cache {
                true => state.media.written_back(self.handle.file),
                false => state.media.cached(self.handle.file).clone(),
            };
            let len = content.len().saturating_sub(offset).min(buf.len() as u64) as usize;
            let len = match effect {
                Effect::Short(share) => share.of(len, self.direct),
                _ => len,
            };
            content.read(offset, &mut buf[..len]);
            Ok(len)
        })
    }

    fn map(&self, len: usize) -> io::Result<Box<dyn View>> {
        self.run(OperationKind::Map, |_, _| Ok(()))?;
        Ok(Box::new(SimView { handle: Arc::clone(&self.handle), len, holders: Arc::default() }))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.run(OperationKind::SyncData, |state, effect| {
            match effect {
                Effect::Full | Effect::Short(_) => state.media.sync_file(self.handle.file),
                Effect::Fail => {
                    state.media.fail_sync_file(self.handle.file, state.sync_failure);
                }
                Effect::Nothing => {}
            }
            Ok(())
        })
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_aligned(offset, 0, (len % PAGE_LEN as u64) as usize);
        self.check_change(offset, len)?;
        self.run(OperationKind::Zero, |state, effect| {
            let wanted = match effect {
                Effect::Fail => len / 2,
                Effect::Nothing => 0,
                _ => len,
            };
            let room = state.room(self.handle.file, offset, wanted)?;
            state.check_zeros(self.handle.file, offset..offset + room);
            state.media.zero(self.handle.file, offset, room);
            if room < wanted { Err(no_space()) } else { Ok(()) }
        })
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_change(offset, len)?;
        self.run(OperationKind::Zero, |state, effect| {
            if effect == Effect::Nothing {
                return Ok(());
            }
            let room = state.room(self.handle.file, offset, len)?;
            if effect == Effect::Fail || room < len {
                return Err(no_space());
            }
            // Bytes within the file stay; beyond it there are zeros.
            let from = offset.max(state.media.cached(self.handle.file).len());
            if from < offset + len {
                state.media.zero(self.handle.file, from, offset + len - from);
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_change(len, 0)?;
        self.run(OperationKind::SetLen, |state, effect| {
            if !matches!(effect, Effect::Fail | Effect::Nothing) {
                state.check_cut(self.handle.file, len);
                state.media.set_len(self.handle.file, len);
            }
            Ok(())
        })
    }

    fn is_mapped_elsewhere(&self) -> bool {
        let state = self.handle.shared.state.lock();
        !state.pinned(self.handle.file, 0..u64::MAX).is_empty()
    }

    fn len(&self) -> io::Result<u64> {
        let file = self.handle.file;
        self.run(OperationKind::Len, |state, _| Ok(state.media.cached(file).len()))
    }
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

/// Returns the first `len` bytes of the buffers.
fn first_bytes<'a>(bufs: &'a [IoSlice<'_>], len: usize) -> Vec<&'a [u8]> {
    let mut rest = len;
    let mut first = Vec::with_capacity(bufs.len());
    for buf in bufs {
        let part = &buf[..buf.len().min(rest)];
        rest -= part.len();
        first.push(part);
    }
    first
}

impl State {
    /// Returns how many of the bytes there is space for.
    fn room(&self, file: FileId, offset: u64, len: u64) -> io::Result<u64> {
        if self.media.capacity.is_none() {
            return Ok(len);
        }
        let mut free = self.free_space();
        let mut fits = 0;
        for piece in pieces(offset, len) {
            if self.media.cached(file).page(piece.page).is_none() {
                if free < PAGE_LEN as u64 {
                    break;
                }
                free -= PAGE_LEN as u64;
            }
            fits += piece.len as u64;
        }
        if fits == 0 && len > 0 { Err(no_space()) } else { Ok(fits) }
    }

    /// Checks that a write leaves bytes alone that readers hold.
    fn check_write(&mut self, file: FileId, offset: u64, bufs: &[&[u8]]) {
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        let held = self.pinned(file, offset..offset + len as u64);
        if held.is_empty() {
            return;
        }
        let new = bufs.concat();
        for range in held {
            let start = (range.start - offset) as usize;
            let part = &new[start..][..(range.end - range.start) as usize];
            self.check_unchanged(file, range, part);
        }
    }

    fn check_zeros(&mut self, file: FileId, range: Range<u64>) {
        for held in self.pinned(file, range) {
            let zeros = vec![0; (held.end - held.start) as usize];
            self.check_unchanged(file, held, &zeros);
        }
    }

    fn check_unchanged(&mut self, file: FileId, range: Range<u64>, new: &[u8]) {
        let mut old = vec![0; new.len()];
        self.media.cached(file).read(range.start, &mut old);
        if old != new {
            self.violate(format!("bytes {range:?} change under a reader that holds them"));
        }
    }

    fn check_cut(&mut self, file: FileId, len: u64) {
        if let Some(held) = self.pinned(file, len..u64::MAX).first().cloned() {
            self.violate(format!("bytes {held:?} are cut from a reader that holds them"));
        }
    }
}

/// A view that copies on demand.
struct SimView {
    handle: Arc<Handle>,
    len: usize,
    /// Shared with the bytes handed out.
    holders: Arc<()>,
}

/// The owner of bytes handed out.
struct Held {
    bytes: Vec<u8>,
    _pin: Arc<Pin>,
    _holder: Arc<()>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl View for SimView {
    fn bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let end = match offset.checked_add(len as u64) {
            Some(end) if end <= self.len as u64 => end,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mut state = self.handle.shared.state.lock();
        let file_len = state.media.cached(self.handle.file).len();
        if end > file_len.next_multiple_of(PAGE_LEN as u64) {
            state.violate(format!("SIGBUS: view of {offset}..{end} in a file of {file_len} bytes"));
        }
        let mut bytes = vec![0; len];
        state.media.cached(self.handle.file).read(offset, &mut bytes);
        let pin = Arc::new(Pin(offset..end));
        state.pin(self.handle.file, &pin);
        Ok(Bytes::from_owner(Held { bytes, _pin: pin, _holder: Arc::clone(&self.holders) }))
    }

    fn is_shared(&mut self) -> bool {
        Arc::strong_count(&self.holders) > 1
    }

    fn life(&self) -> Weak<dyn Any + Send + Sync> {
        let life: Weak<()> = Arc::downgrade(&self.holders);
        life
    }
}
