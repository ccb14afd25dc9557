//! Bare limits: the speed of the disk under programs that keep a log and nothing else.
//!
//! 1. `append`: each thread takes the next offset of a growing file, writes and calls `fdatasync`.
//! 2. `append+group`: the textbook group commit. The first to arrive leads its group: it waits for
//!    the flush under way, copies the queue, writes that, syncs, and wakes the others. Threads that
//!    arrive meanwhile form the next group.
//! 3. `prewritten+group`: the same with `O_DIRECT` into space that was zeroed and synced before,
//!    round and round, so that no length and no extent changes.
//!
//! No checksums, no index, no recovery. A session remembers where its latest blocks went, so that a
//! sample of what it acknowledged can be read back.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::engine::{Engine, Session, Transfer, Write};
use crate::failure::{Failure, Outcome};

const NAME: &str = "bare log";

/// Alignment of everything that bypasses the page cache.
const PAGE_LEN: usize = 4096;

/// Space that is written before, and the bytes that a group may still need at its end.
const SPACE_LEN: u64 = 512 << 20;
const GROUP_LEN_MAX: u64 = 64 << 20;

const _: () = assert!(GROUP_LEN_MAX < SPACE_LEN);

/// Blocks that a session can find again.
const REMEMBERED: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Each,
    Group,
    Direct,
    /// As `Each` without a sync: the control of the check of syncs.
    Unsynced,
}

/// Every thread writes and syncs for itself.
pub fn open_each(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open(dir, Mode::Each)
}

/// Group commit into a growing file.
pub fn open_group(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open(dir, Mode::Group)
}

/// Group commit past the page cache into space that was written before.
pub fn open_direct(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open(dir, Mode::Direct)
}

/// Writes and never syncs.
pub fn open_control(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open(dir, Mode::Unsynced)
}

fn open(dir: &Path, mode: Mode) -> Outcome<Box<dyn Engine>> {
    let path = dir.join("log");
    let file = make(&path, mode).map_err(Failure::io("cannot make", &path))?;
    let state = State { forming: 1, flush: Some(Aligned::new(PAGE_LEN)), ..State::default() };
    Ok(Box::new(Log {
        path,
        mode,
        file,
        lead: [Condvar::new(), Condvar::new()],
        follow: [Condvar::new(), Condvar::new()],
        state: Mutex::new(state),
    }))
}

fn make(path: &Path, mode: Mode) -> io::Result<File> {
    if mode == Mode::Direct {
        let file = File::create_new(path)?;
        let zeros = vec![0; 4 << 20];
        for offset in (0..SPACE_LEN).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset)?;
        }
        file.sync_all()?;
        return OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
    }
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// A buffer that direct writes accept; grows.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(len: usize) -> Aligned {
        let bytes = vec![0; len + PAGE_LEN];
        let start = bytes.as_ptr().align_offset(PAGE_LEN);
        assert!(start < PAGE_LEN, "bytes can be aligned to a page");
        Aligned { bytes, start }
    }

    fn get(&mut self, len: usize) -> &mut [u8] {
        if self.start + len > self.bytes.len() {
            *self = Aligned::new(len.next_power_of_two());
        }
        &mut self.bytes[self.start..self.start + len]
    }
}

struct Log {
    path: PathBuf,
    mode: Mode,
    file: File,
    /// The leader of the next group waits here for the flush under way. Two groups exist at a time,
    /// so the parity of a group's number tells whom to wake.
    lead: [Condvar; 2],
    follow: [Condvar; 2],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: Vec<Write>,
    /// Where the forming group starts, and how much has gathered.
    start: u64,
    filled: u64,
    /// Bytes of all groups before the forming one: says what the next round has overwritten.
    total: u64,
    forming: u64,
    flushed: u64,
    /// `None` while a leader flushes.
    flush: Option<Aligned>,
    failed: bool,
}

fn parity(number: u64) -> usize {
    (number % 2) as usize
}

impl Log {
    fn append(&self, writes: &[Write]) -> io::Result<u64> {
        let mut bytes = Vec::new();
        let bytes = match writes {
            [write] => &write.data[..],
            _ => {
                writes.iter().for_each(|write| bytes.extend_from_slice(&write.data));
                &bytes[..]
            }
        };
        let mut state = self.state.lock();
        let offset = state.start;
        state.start += bytes.len() as u64;
        drop(state);
        self.file.write_all_at(bytes, offset)?;
        if self.mode == Mode::Each {
            self.file.sync_data()?;
        }
        Ok(offset)
    }

    fn join(&self, writes: &[Write]) -> Outcome<u64> {
        let mut state = self.state.lock();
        let number = state.forming;
        let offset = state.start + state.filled;
        let is_first = state.queue.is_empty();
        state.queue.extend_from_slice(writes);
        state.filled += writes.iter().map(|write| write.data.len() as u64).sum::<u64>();
        assert!(state.filled <= GROUP_LEN_MAX, "a group fits into the space");
        if is_first {
            return self.lead(state, number).map(|()| offset);
        }
        while state.flushed < number {
            if state.failed {
                return Err(Failure::Thread);
            }
            self.follow[parity(number)].wait(&mut state);
        }
        Ok(offset)
    }

    fn lead(&self, mut state: MutexGuard<'_, State>, number: u64) -> Outcome<()> {
        let mut staging = loop {
            match state.flush.take() {
                Some(staging) => break staging,
                None => self.lead[parity(number)].wait(&mut state),
            }
        };
        let group = std::mem::take(&mut state.queue);
        let len = std::mem::take(&mut state.filled) as usize;
        let start = state.start;
        let padded = len.next_multiple_of(PAGE_LEN);
        state.start += padded as u64;
        state.total += padded as u64;
        if self.mode == Mode::Direct && state.start + GROUP_LEN_MAX > SPACE_LEN {
            state.start = 0;
        }
        state.forming += 1;
        drop(state);

        let flushed = self.flush(&group, staging.get(padded), start);

        let mut state = self.state.lock();
        state.flush = Some(staging);
        state.failed |= flushed.is_err();
        if flushed.is_ok() {
            state.flushed = number;
        }
        let is_next_waiting = !state.queue.is_empty();
        drop(state);
        if is_next_waiting {
            // First of all: the disk is idle until then.
            self.lead[parity(number + 1)].notify_one();
        }
        self.follow[parity(number)].notify_all();
        flushed.map_err(Failure::io("cannot write", &self.path))
    }

    fn flush(&self, group: &[Write], staging: &mut [u8], start: u64) -> io::Result<()> {
        let mut filled = 0;
        for write in group {
            staging[filled..filled + write.data.len()].copy_from_slice(&write.data);
            filled += write.data.len();
        }
        self.file.write_all_at(staging, start)?;
        self.file.sync_data()
    }
}

impl Engine for Log {
    fn session(&self) -> Outcome<Box<dyn Session + '_>> {
        Ok(Box::new(Member { log: self, recent: VecDeque::with_capacity(REMEMBERED) }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(())
    }
}

struct Member<'a> {
    log: &'a Log,
    recent: VecDeque<Place>,
}

/// Where a block went.
struct Place {
    id: u64,
    offset: u64,
    len: usize,
    /// [`State::total`] at the time.
    total: u64,
}

impl Session for Member<'_> {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        let mut offset = match self.log.mode {
            Mode::Group | Mode::Direct => self.log.join(writes)?,
            Mode::Each | Mode::Unsynced => {
                self.log.append(writes).map_err(Failure::io("cannot write", &self.log.path))?
            }
        };
        let total = self.log.state.lock().total;
        for write in writes {
            if self.recent.len() == REMEMBERED {
                self.recent.pop_front();
            }
            let len = write.data.len();
            self.recent.push_back(Place { id: write.id, offset, len, total });
            offset += write.data.len() as u64;
        }
        Ok(())
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        let Some(place) = self.recent.iter().rev().find(|place| place.id == id) else {
            return Ok(false);
        };
        let since = self.log.state.lock().total - place.total;
        if self.log.mode == Mode::Direct && since + 3 * GROUP_LEN_MAX > SPACE_LEN {
            return Ok(false);
        }
        let (offset, len) = (&place.offset, &place.len);
        // Whole pages, for the direct one.
        let before = *offset as usize % PAGE_LEN;
        let padded = (before + len).next_multiple_of(PAGE_LEN);
        let mut page = Aligned::new(padded);
        let mut filled = 0;
        while filled < before + len {
            let at = offset - before as u64 + filled as u64;
            let read = self.log.file.read_at(&mut page.get(padded)[filled..], at);
            match read.map_err(Failure::io("cannot read", &self.log.path))? {
                0 => return Ok(false),
                read => filled += read,
            }
        }
        sink(&page.get(padded)[before..before + len]);
        Ok(true)
    }

    fn transfer(&mut self, _: u64, _: u64) -> Outcome<Transfer> {
        Err(Failure::Unsupported { engine: NAME, what: "transactions" })
    }

    fn view(&mut self) -> Outcome<()> {
        Err(Failure::Unsupported { engine: NAME, what: "snapshots" })
    }
}
