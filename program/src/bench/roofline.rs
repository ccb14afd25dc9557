//! Rooflines: the speed of this disk under the simplest programs that could do the same work.
//!
//! Owns the space they write into: one file, zeroed and synced before the clock starts. It is
//! written as a ring, so that no write changes a length or an extent. Two loops use it:
//!
//! 1. [`bare`]: one thread, one write and one `fdatasync` for the commits of all `T` threads
//!    together: group commit without any cost of coming together. Nothing that syncs once a
//!    group can be faster in steps.
//! 2. [`LeaderFollower`]: `T` threads and the textbook group commit. The first to arrive leads its
//!    group. It waits for the flush under way, copies the queue into an aligned buffer, writes that
//!    past the page cache, syncs, and wakes the others. Threads that arrive meanwhile form the next
//!    group. No checksums, no index, no recovery: a careful afternoon's work.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::bench::workload::{Committer, Payloads, Sample, Workload, closed_loop};
use crate::failure::Failure;

/// Alignment of everything that bypasses the page cache.
const PAGE_LEN: usize = 4096;

/// One write is at most this long; larger groups take several, and still one sync.
const WRITE_LEN_MAX: usize = 64 << 20;

/// Length of the file: enough that writes do not reach ranges that the disk still writes.
const SPACE_LEN: u64 = 256 << 20;

const _: () = assert!(SPACE_LEN >= 2 * WRITE_LEN_MAX as u64);

/// Space that was written before, to write into again.
pub struct Space {
    path: PathBuf,
    buffered: File,
    direct: Option<File>,
    next_offset: Mutex<u64>,
}

/// How a roofline writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Through the page cache.
    Buffered,
    /// Past the page cache.
    Direct,
}

impl Space {
    /// Makes the file, zeroed and synced.
    pub fn create(dir: &Path) -> Result<Space, Failure> {
        let path = dir.join("roofline");
        let failed = |e| Failure::io("cannot write", &path, e);
        let buffered = File::create_new(&path).map_err(failed)?;
        let zeros = vec![0; 4 << 20];
        for offset in (0..SPACE_LEN).step_by(zeros.len()) {
            buffered.write_all_at(&zeros, offset).map_err(failed)?;
        }
        buffered.sync_all().map_err(failed)?;
        // Some file systems have no direct writes; the buffered ones then stand alone.
        let direct = open_direct(&path).ok();
        Ok(Space { path, buffered, direct, next_offset: Mutex::new(0) })
    }

    fn file_for_writes(&self, writes: Writes) -> Option<&File> {
        match writes {
            Writes::Buffered => Some(&self.buffered),
            Writes::Direct => self.direct.as_ref(),
        }
    }

    /// The file for a loop that prefers to bypass the page cache.
    fn best_file(&self) -> &File {
        self.direct.as_ref().unwrap_or(&self.buffered)
    }

    fn write_at_next(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, self.take_offset(bytes.len()))
    }

    /// The offset of the next `len` bytes, back to the start at the end.
    fn take_offset(&self, len: usize) -> u64 {
        let mut next = self.next_offset.lock();
        let offset = if *next + len as u64 > SPACE_LEN { 0 } else { *next };
        *next = offset + len as u64;
        offset
    }

    fn to_failure(&self, error: &io::Error) -> Failure {
        // The error itself stays with the thread that met it.
        let copy = error.raw_os_error().map_or(error.kind().into(), io::Error::from_raw_os_error);
        Failure::io("cannot write", &self.path, copy)
    }
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A buffer that direct writes accept.
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

    fn get(&mut self, offset: usize, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start + offset..self.start + offset + len]
    }
}

/// Measures the bare loop; `None` where the file system has no writes of this kind.
pub fn run_bare_loop(
    space: &Space,
    writes: Writes,
    workload: &Workload,
    payloads: &Payloads,
    length: Duration,
) -> Result<Option<Sample>, Failure> {
    let Some(file) = space.file_for_writes(writes) else {
        return Ok(None);
    };
    let group_len = (workload.commit_len() * workload.threads).next_multiple_of(PAGE_LEN);
    let staging_len = group_len.min(WRITE_LEN_MAX);
    let mut staging = Aligned::new(staging_len);
    for (i, part) in staging.get(0, staging_len).chunks_mut(workload.size).enumerate() {
        part.copy_from_slice(&payloads.get(0, i)[..part.len()]);
    }
    let committer = Bare { space, file, staging, group_len, durable: workload.durable };
    let (sample, _) = closed_loop(vec![committer], workload.threads as u64, length)?;
    Ok(Some(sample))
}

struct Bare<'a> {
    space: &'a Space,
    file: &'a File,
    staging: Aligned,
    group_len: usize,
    durable: bool,
}

impl Bare<'_> {
    fn write_group(&mut self) -> io::Result<()> {
        let mut left = self.group_len;
        while left > 0 {
            let len = left.min(WRITE_LEN_MAX);
            self.space.write_at_next(self.file, self.staging.get(0, len))?;
            left -= len;
        }
        if self.durable { self.file.sync_data() } else { Ok(()) }
    }
}

impl Committer for Bare<'_> {
    fn commit(&mut self) -> Result<(), Failure> {
        self.write_group().map_err(|e| self.space.to_failure(&e))
    }
}

/// Measurements of the leader/follower loop.
pub struct LoopSample {
    /// Commits and latencies.
    pub sample: Sample,
    /// Groups flushed.
    pub groups: u64,
}

/// Measures the leader/follower loop.
pub fn leader_follower(
    space: &Space,
    workload: &Workload,
    payloads: &Payloads,
    length: Duration,
) -> Result<LoopSample, Failure> {
    let queue = LeaderFollower::new(space, workload, payloads);
    let committers =
        (0..workload.threads).map(|thread| Member { queue: &queue, thread, next: 0 }).collect();
    let (sample, _) = closed_loop(committers, 1, length)?;
    let groups = queue.state.lock().flushed;
    Ok(LoopSample { sample, groups })
}

/// The group commit that all threads share.
struct LeaderFollower<'a> {
    space: &'a Space,
    workload: &'a Workload,
    payloads: &'a Payloads,
    /// The leader of the next group waits here for the flush under way. Two groups exist at a
    /// time, so the parity of a group's number tells whom to wake.
    lead: [Condvar; 2],
    /// The followers of a group wait here.
    follow: [Condvar; 2],
    state: Mutex<State>,
}

struct State {
    queue: Vec<Request>,
    /// Number of the group that is forming.
    forming: u64,
    /// Number of the last group that is on disk.
    flushed: u64,
    /// `None` while a leader flushes.
    flush: Option<Box<Flush>>,
    failed: bool,
}

/// A commit that waits in the queue: the payloads of `thread` from `first` on.
#[derive(Clone, Copy)]
struct Request {
    thread: usize,
    first: usize,
}

/// A leader's buffers; allocated once.
struct Flush {
    group: Vec<Request>,
    staging: Aligned,
    staging_len: usize,
}

impl<'a> LeaderFollower<'a> {
    fn new(space: &'a Space, workload: &'a Workload, payloads: &'a Payloads) -> Self {
        let group_len = (workload.commit_len() * workload.threads).next_multiple_of(PAGE_LEN);
        let staging_len = group_len.min(WRITE_LEN_MAX);
        let flush = Flush {
            group: Vec::with_capacity(workload.threads),
            staging: Aligned::new(staging_len),
            staging_len,
        };
        LeaderFollower {
            space,
            workload,
            payloads,
            lead: [Condvar::new(), Condvar::new()],
            follow: [Condvar::new(), Condvar::new()],
            state: Mutex::new(State {
                queue: Vec::with_capacity(workload.threads),
                forming: 1,
                flushed: 0,
                flush: Some(Box::new(flush)),
                failed: false,
            }),
        }
    }

    fn commit_in_group(&self, request: Request) -> Result<(), Failure> {
        let mut state = self.state.lock();
        let number = state.forming;
        state.queue.push(request);
        if state.queue.len() == 1 {
            return self.lead_group(state, number);
        }
        while state.flushed < number {
            if state.failed {
                return Err(Failure::new("another thread's write failed"));
            }
            self.follow[group_parity(number)].wait(&mut state);
        }
        Ok(())
    }

    fn lead_group(&self, mut state: MutexGuard<'_, State>, number: u64) -> Result<(), Failure> {
        let mut flush = loop {
            match state.flush.take() {
                Some(flush) => break flush,
                None => self.lead[group_parity(number)].wait(&mut state),
            }
        };
        std::mem::swap(&mut state.queue, &mut flush.group);
        state.forming += 1;
        drop(state);

        let result = self.write_and_sync(&mut flush);

        let mut state = self.state.lock();
        state.flush = Some(flush);
        state.failed |= result.is_err();
        if result.is_ok() {
            state.flushed = number;
        }
        let is_next_waiting = !state.queue.is_empty();
        drop(state);
        if is_next_waiting {
            // First of all: the disk is idle until then.
            self.lead[group_parity(number + 1)].notify_one();
        }
        self.follow[group_parity(number)].notify_all();
        result.map_err(|e| self.space.to_failure(&e))
    }

    fn write_and_sync(&self, flush: &mut Flush) -> io::Result<()> {
        let file = self.space.best_file();
        let mut filled = 0;
        for request in &flush.group {
            for i in 0..self.workload.batch {
                let mut payload = &self.payloads.get(request.thread, request.first + i)[..];
                while !payload.is_empty() {
                    let len = payload.len().min(flush.staging_len - filled);
                    flush.staging.get(filled, len).copy_from_slice(&payload[..len]);
                    payload = &payload[len..];
                    filled += len;
                    if filled == flush.staging_len {
                        self.space.write_at_next(file, flush.staging.get(0, filled))?;
                        filled = 0;
                    }
                }
            }
        }
        flush.group.clear();
        if filled > 0 {
            let len = filled.next_multiple_of(PAGE_LEN);
            self.space.write_at_next(file, flush.staging.get(0, len))?;
        }
        if self.workload.durable { file.sync_data() } else { Ok(()) }
    }
}

fn group_parity(number: u64) -> usize {
    (number % 2) as usize
}

/// One thread of the loop.
struct Member<'a> {
    queue: &'a LeaderFollower<'a>,
    thread: usize,
    next: usize,
}

impl Committer for Member<'_> {
    fn commit(&mut self) -> Result<(), Failure> {
        let first = self.next;
        self.next += self.queue.workload.batch;
        self.queue.commit_in_group(Request { thread: self.thread, first })
    }
}
