//! The simulated disk, with every operation a point where another thread may go on, and a clock
//! that moves by itself: a sync takes its time, and now and then a while passes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shuttle::thread;

use crate::io::sim::{CrashChoice, SimDisk, SimFile, SimLock};
use crate::io::{Disk, DiskFile, Entry, Env, FileName, How, LockError, Thread, View};
use crate::{PLANNED, below, one_in};

#[derive(Clone)]
pub(crate) struct ModelDisk {
    pub(crate) sim: SimDisk,
    /// Writes up to the one that panics, itself included; 0 for none.
    writes_to_panic: Arc<AtomicU64>,
}

pub(crate) struct ModelFile {
    file: SimFile,
    disk: ModelDisk,
}

impl ModelDisk {
    pub(crate) fn new() -> ModelDisk {
        ModelDisk { sim: SimDisk::new(below(u64::MAX)), writes_to_panic: Arc::default() }
    }

    /// The disk after a power cut that leaves any part of the unsynced bytes.
    pub(crate) fn crash(&self) -> ModelDisk {
        let choice = match below(3) {
            0 => CrashChoice::Nothing,
            1 => CrashChoice::Everything,
            _ => CrashChoice::Random { seed: below(u64::MAX), garbage: false },
        };
        self.crash_with(choice)
    }

    /// The disk after a power cut that leaves this part of the unsynced bytes.
    pub(crate) fn crash_with(&self, choice: CrashChoice) -> ModelDisk {
        ModelDisk { sim: self.sim.crash(choice), writes_to_panic: Arc::default() }
    }

    /// Makes a write panic after `skip` more writes.
    pub(crate) fn panic_after(&self, skip: u64) {
        self.writes_to_panic.store(skip + 1, Ordering::Relaxed);
    }

    /// Ends all faults.
    pub(crate) fn mend(&self) {
        self.writes_to_panic.store(0, Ordering::Relaxed);
        self.sim.clear_faults();
        self.sim.set_capacity(None);
    }
}

impl Env for ModelDisk {
    fn now(&self) -> Duration {
        if one_in(16) {
            self.sim.advance(Duration::from_millis(below(200)));
        }
        self.sim.now()
    }

    fn random(&self, out: &mut [u8]) -> io::Result<()> {
        self.sim.random(out)
    }

    fn pause(&self) {
        self.sim.advance(Duration::from_micros(10));
        thread::yield_now();
    }

    fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
        let handle = thread::Builder::new().name(name).spawn(body)?;
        Ok(Thread::new(move || handle.join().is_ok()))
    }
}

impl Disk for ModelDisk {
    type File = ModelFile;
    type Lock = SimLock;

    fn open(&self, name: FileName, how: How) -> io::Result<ModelFile> {
        thread::yield_now();
        Ok(ModelFile { file: self.sim.open(name, how)?, disk: self.clone() })
    }

    fn rename(&self, from: FileName, to: FileName) -> io::Result<()> {
        thread::yield_now();
        self.sim.rename(from, to)
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        thread::yield_now();
        self.sim.remove(name)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.sim.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        thread::yield_now();
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

impl ModelFile {
    fn before_write(&self) {
        thread::yield_now();
        let left = self.disk.writes_to_panic.load(Ordering::Relaxed);
        self.disk.writes_to_panic.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 1 {
            std::panic::panic_any(PLANNED);
        }
    }
}

impl DiskFile for ModelFile {
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        self.before_write();
        self.file.write_at(offset, buf)
    }

    fn write_vectored_at(&self, offset: u64, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.before_write();
        self.file.write_vectored_at(offset, bufs)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn map(&self, len: usize) -> io::Result<Box<dyn View>> {
        self.file.map(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        thread::yield_now();
        let synced = self.file.sync_data();
        self.disk.sim.advance(Duration::from_micros(100));
        // A failure may take longer to arrive than a success.
        let steps = if synced.is_err() { 1 + below(8) } else { 1 };
        (0..steps).for_each(|_| thread::yield_now());
        synced
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        thread::yield_now();
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
