//! The simulated disk with a moment in it: code of the test that runs right before one operation,
//! in the middle of whatever the store does then.
//!
//! Owns at most one [`Moment`] at a time; it passes once. The code runs in the thread that asked
//! for the operation and may call the store, as another thread would at that time.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aegis_blocks::io::sim::{OperationKind, SimDisk, SimFile, SimLock};
use aegis_blocks::io::{Disk, DiskFile, Entry, Env, FileName, How, LockError, Thread, View};

/// When the code runs: before the next operation of this kind on such a file. A rename counts by
/// the name that it gives.
struct Moment {
    kind: OperationKind,
    of: fn(FileName) -> bool,
    then: Box<dyn FnOnce() + Send>,
}

#[derive(Clone)]
pub struct GatedDisk {
    pub sim: SimDisk,
    moment: Arc<Mutex<Option<Moment>>>,
    /// Threads of the store that run.
    alive: Arc<AtomicU64>,
    /// How many more the system starts.
    startable: Arc<AtomicU64>,
}

/// Counts a thread as alive.
struct Alive(Arc<AtomicU64>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub struct GatedFile {
    file: SimFile,
    name: FileName,
    disk: GatedDisk,
}

impl GatedDisk {
    pub fn over(sim: SimDisk) -> GatedDisk {
        let startable = Arc::new(AtomicU64::new(u64::MAX));
        GatedDisk { sim, moment: Arc::default(), alive: Arc::default(), startable }
    }

    /// Runs `then` before the next operation of this kind on such a file.
    pub fn before(
        &self,
        kind: OperationKind,
        of: fn(FileName) -> bool,
        then: impl FnOnce() + Send + 'static,
    ) {
        let moment = Moment { kind, of, then: Box::new(then) };
        *self.moment.lock().expect("no panic under the lock") = Some(moment);
    }

    /// Lets so many more threads start.
    #[allow(dead_code, reason = "not every test asks")]
    pub fn let_start(&self, count: u64) {
        self.startable.store(count, Ordering::SeqCst);
    }

    /// Threads that the store has started and that run.
    #[allow(dead_code, reason = "not every test asks")]
    pub fn threads_alive(&self) -> u64 {
        self.alive.load(Ordering::SeqCst)
    }

    /// Whether the moment that was set has passed.
    #[allow(dead_code, reason = "not every test asks")]
    pub fn has_passed(&self) -> bool {
        self.moment.lock().expect("no panic under the lock").is_none()
    }

    fn pass(&self, kind: OperationKind, name: FileName) {
        let mut moment = self.moment.lock().expect("no panic under the lock");
        let now = moment.take_if(|moment| moment.kind == kind && (moment.of)(name));
        drop(moment);
        if let Some(moment) = now {
            (moment.then)();
        }
    }
}

impl Env for GatedDisk {
    fn now(&self) -> Duration {
        self.sim.now()
    }

    fn random(&self, out: &mut [u8]) -> io::Result<()> {
        self.sim.random(out)
    }

    fn pause(&self) {
        self.sim.pause();
    }

    fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
        let one_less = |count: u64| count.checked_sub(1);
        if self.startable.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.alive.fetch_add(1, Ordering::SeqCst);
        let alive = Alive(Arc::clone(&self.alive));
        let body = move || {
            let _alive = alive;
            body();
        };
        self.sim.spawn(name, Box::new(body))
    }
}

impl Disk for GatedDisk {
    type File = GatedFile;
    type Lock = SimLock;

    fn open(&self, name: FileName, how: How) -> io::Result<GatedFile> {
        let kind = if how == How::CreateNew { OperationKind::Create } else { OperationKind::Open };
        self.pass(kind, name);
        Ok(GatedFile { file: self.sim.open(name, how)?, name, disk: self.clone() })
    }

    fn rename(&self, from: FileName, to: FileName) -> io::Result<()> {
        self.pass(OperationKind::Rename, to);
        self.sim.rename(from, to)
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.pass(OperationKind::Remove, name);
        self.sim.remove(name)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.sim.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.sim.sync_dir()
    }

    fn lock(&self) -> Result<SimLock, LockError> {
        self.sim.lock()
    }

    fn free_space(&self) -> io::Result<u64> {
        self.sim.free_space()
    }

    fn path(&self) -> &Path {
        self.sim.path()
    }
}

impl DiskFile for GatedFile {
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        self.disk.pass(OperationKind::Write, self.name);
        self.file.write_at(offset, buf)
    }

    fn write_vectored_at(&self, offset: u64, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.disk.pass(OperationKind::Write, self.name);
        self.file.write_vectored_at(offset, bufs)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn map(&self, len: usize) -> io::Result<Box<dyn View>> {
        self.file.map(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.pass(OperationKind::SyncData, self.name);
        self.file.sync_data()
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.zero(offset, len)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.reserve(offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
