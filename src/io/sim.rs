//! The simulated disk: loses unsynced changes, and fails on purpose. Feature `sim`.
//!
//! Owns [`SimDisk`], a handle to a disk in memory that is cheap to clone and to copy. Everything is
//! decided by seeds, so that a single-threaded program meets the same disk twice. The rules:
//!
//! | what                              | where                                                    |
//! |-----------------------------------|----------------------------------------------------------|
//! | durable, pending and doubtful     | `media`, `change`                                        |
//! | what a power cut leaves           | [`CrashChoice`], `crash`                                 |
//! | errors of single operations       | [`Fault`], `fault`                                       |
//! | damage between two runs           | `damage`: [`SimDisk::flip_bit`] and its neighbours       |
//! | misuse by the program             | `file`: panics, and [`SimDisk::violations`]              |
//!
//! To try every crash point of a program, run it once with [`SimDisk::record_images`] and cut the
//! power in each [`Image`]. Or run it again and again with [`SimDisk::crash_at`].
//!
//! Lock order: the disk's state, then its random bytes or its clock. No code of the program runs
//! under these locks.

mod change;
mod content;
mod crash;
mod damage;
mod fault;
mod file;
mod media;
mod random;
mod state;

pub use crash::{CrashChoice, SUBSET_UNIT_COUNT_MAX, UnitSet};
pub use fault::{Fault, FaultKind, Operation, OperationKind, Share};
pub use file::SimFile;
pub use state::{Image, is_power_loss};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Disk, Entry, Env, FileName, How, LockError, Thread, os};
use fault::Effect;
use file::Handle;
use media::Media;
use random::Random;
use state::{CrashPoint, State};

/// Effect of a power cut on changes of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// They survive in order: a beginning of them does.
    Journaled,
    /// Any of them survives; a rename as a whole.
    #[default]
    Posix,
    /// As `Posix`, and a rename may leave both names or neither.
    Paranoid,
}

/// The bytes of a file that calls see after a sync of it has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncFailure {
    /// The new bytes, though they may never become durable (ext4, xfs).
    #[default]
    CacheKept,
    /// The bytes and the length of the last successful sync (btrfs).
    CacheReverted,
}

/// A disk in memory. Clones are handles to the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

/// Holds the lock of a [`SimDisk`] until dropped.
#[derive(Debug)]
pub struct SimLock {
    shared: Arc<Shared>,
    is_shared: bool,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    clock: Clock,
    random: Mutex<Random>,
    state: Mutex<State>,
}

impl SimDisk {
    /// Makes an empty disk. The seed decides its random bytes.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::over(Media::new(), Random::new(seed), Duration::ZERO)
    }

    fn over(media: Media, random: Random, now: Duration) -> SimDisk {
        SimDisk {
            shared: Arc::new(Shared {
                path: PathBuf::from("simulated"),
                clock: Clock::new(now),
                random: Mutex::new(random),
                state: Mutex::new(State::new(media)),
            }),
        }
    }

    /// Makes another disk that has `media`, and continues this one's clock and random bytes.
    fn successor(&self, media: Media) -> SimDisk {
        SimDisk::over(media, self.shared.random.lock().clone(), self.shared.clock.reading())
    }

    /// Returns the disk as the next start of the machine finds it. This one stays as it is.
    pub fn crash(&self, choice: CrashChoice) -> SimDisk {
        let left = crash::survivors(&self.shared.state.lock().media, &choice);
        self.successor(left)
    }

    /// Returns how many units a power cut now decides about, for [`CrashChoice`].
    pub fn pending_units(&self) -> usize {
        crash::unit_count(&self.shared.state.lock().media)
    }

    /// Lists the choices worth trying now: [`CrashChoice::all`] of the pending units.
    pub fn crash_choices(&self, seed: u64) -> impl Iterator<Item = CrashChoice> {
        CrashChoice::all(self.pending_units(), seed)
    }

    /// Returns an independent copy in the same state, pending changes included. The lock, armed
    /// faults and open files stay behind.
    pub fn freeze(&self) -> SimDisk {
        let media = self.shared.state.lock().media.clone();
        self.successor(media)
    }

    /// Cuts the power at an operation. It and all later ones fail, with errors that
    /// [`is_power_loss`] knows, and the state that [`SimDisk::crash`] finds no longer changes. With
    /// `takes_effect`, the operation was still carried out, as a pending change.
    pub fn crash_at(&self, operation: u64, takes_effect: bool) {
        self.shared.state.lock().crash_point = Some(CrashPoint { operation, takes_effect });
    }

    /// Returns whether the power is gone.
    pub fn is_crashed(&self) -> bool {
        self.shared.state.lock().crashed
    }

    /// Returns how many operations there were. The next one has this number.
    pub fn operations(&self) -> u64 {
        self.shared.state.lock().operations
    }

    /// Keeps a copy of the disk as it is before every operation that changes it. Forgets earlier
    /// copies.
    pub fn record_images(&self) {
        self.shared.state.lock().images = Some(Vec::new());
    }

    /// Returns the copies kept since the last call.
    pub fn take_images(&self) -> Vec<Image> {
        let mut state = self.shared.state.lock();
        state.images.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Stamps the images from here on, for example with the number of acknowledged commits.
    pub fn set_mark(&self, mark: u64) {
        self.shared.state.lock().mark = mark;
    }

    /// Keeps a list of operations from here on.
    pub fn record_operations(&self) {
        self.shared.state.lock().log = Some(Vec::new());
    }

    /// Returns the operations listed since the last call.
    pub fn take_operations(&self) -> Vec<Operation> {
        let mut state = self.shared.state.lock();
        state.log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Arms a fault.
    pub fn inject(&self, fault: Fault) {
        self.shared.state.lock().faults.arm(fault);
    }

    /// Arms a fault for operations of one kind, after `skip` more of them went well; on the file
    /// `name` only, when one is given.
    pub fn inject_on(
        &self,
        operation: OperationKind,
        name: Option<FileName>,
        skip: u64,
        kind: FaultKind,
        sticky: bool,
    ) {
        self.shared.state.lock().faults.arm_kind((operation, name), skip, (kind, sticky));
    }

    /// Disarms all faults.
    pub fn clear_faults(&self) {
        self.shared.state.lock().faults.disarm();
    }

    /// Returns how many operations faults have struck.
    pub fn faults_struck(&self) -> u64 {
        self.shared.state.lock().faults.struck()
    }

    /// Sets the effect of a power cut on names. Copies of the disk take it over.
    pub fn set_profile(&self, profile: Profile) {
        self.shared.state.lock().media.profile = profile;
    }

    /// Sets the effect of a failed sync on the cache. Copies of the disk do not take it over.
    pub fn set_sync_failure(&self, behaviour: SyncFailure) {
        self.shared.state.lock().sync_failure = behaviour;
    }

    /// Limits the disk to this many bytes, or no longer. Copies of the disk take it over.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state.lock().media.capacity = bytes;
    }

    /// Forgets the cached bytes that a failed sync has left in doubt.
    pub fn drop_caches(&self) {
        self.shared.state.lock().media.drop_caches();
    }

    /// Has the disk refuse reads past the cache, as some file systems do. Copies of the disk take
    /// it over.
    pub fn set_hides_the_disk(&self, hides: bool) {
        self.shared.state.lock().media.hides_the_disk = hides;
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    /// Lets the clock jump forward at each reading, by anything between nothing and an hour; `None`
    /// stops it again.
    pub fn set_clock_jumps(&self, seed: Option<u64>) {
        *self.shared.clock.jumps.lock() = seed.map(Random::new);
    }

    /// Returns the program's violations of the rules. Each of these has also panicked.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state.lock().violations.clone()
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn open(&self, name: FileName, how: How) -> io::Result<SimFile> {
        let creates = how == How::CreateNew;
        let kind = if creates { OperationKind::Create } else { OperationKind::Open };
        let handle = self.shared.run_whole(kind, Some(name), |state| {
            let media = &mut state.media;
            if how == How::ReadDirect && media.hides_the_disk {
                return Err(io::ErrorKind::Unsupported.into());
            }
            let file = if creates { media.create(name) } else { media.lookup(name) }?;
            Ok(Handle::new(&self.shared, state, file))
        })?;
        Ok(SimFile::new(handle, name, how))
    }

    fn rename(&self, from: FileName, to: FileName) -> io::Result<()> {
        let rename = |state: &mut State| state.media.rename(from, to);
        self.shared.run_whole(OperationKind::Rename, Some(from), rename)
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        let remove = |state: &mut State| state.media.remove(name);
        self.shared.run_whole(OperationKind::Remove, Some(name), remove)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.shared.run_whole(OperationKind::List, None, |state| Ok(state.media.list()))
    }

    /// No operation: it is not counted and never fails, so that it moves no crash point.
    fn holds(&self, name: FileName) -> io::Result<bool> {
        match self.shared.state.lock().media.lookup(name) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.shared.run(OperationKind::SyncDir, None, |state, effect| {
            match effect {
                Effect::Full | Effect::Short(_) => {
                    state.media.sync_names();
                    state.collect();
                }
                Effect::Fail => state.media.fail_sync_names(),
                Effect::Nothing => {}
            }
            Ok(())
        })
    }

    fn lock(&self) -> Result<SimLock, LockError> {
        let taken = self.shared.run_whole(OperationKind::Lock, Some(FileName::Lock), |state| {
            match state.media.lookup(FileName::Lock).map(|_| ()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    state.media.create(FileName::Lock)?;
                }
                found => found?,
            }
            let free = !state.is_locked && state.look_count == 0;
            state.is_locked |= free;
            Ok(free.then(|| SimLock { shared: Arc::clone(&self.shared), is_shared: false }))
        });
        taken.map_err(LockError::Io)?.ok_or(LockError::Held)
    }

    fn lock_shared(&self) -> Result<SimLock, LockError> {
        let taken = self.shared.run_whole(OperationKind::LockShared, None, |state| {
            let free = !state.is_locked;
            state.look_count += u64::from(free);
            Ok(free.then(|| SimLock { shared: Arc::clone(&self.shared), is_shared: true }))
        });
        taken.map_err(LockError::Io)?.ok_or(LockError::Held)
    }

    fn free_space(&self) -> io::Result<u64> {
        self.shared.run_whole(OperationKind::FreeSpace, None, |state| Ok(state.free_space()))
    }

    fn path(&self) -> &Path {
        &self.shared.path
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        match self.is_shared {
            true => state.look_count -= 1,
            false => state.is_locked = false,
        }
    }
}

impl Env for SimDisk {
    fn now(&self) -> Duration {
        self.shared.clock.now()
    }

    fn random(&self, out: &mut [u8]) -> io::Result<()> {
        self.shared.random.lock().fill(out);
        Ok(())
    }

    /// Time passes here only where a thread waits: a microsecond.
    fn pause(&self) {
        self.advance(Duration::from_micros(1));
        os::pause_thread();
    }

    fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
        os::spawn_thread(name, body)
    }
}

/// A clock that stands still unless told otherwise.
#[derive(Debug)]
struct Clock {
    nanos: AtomicU64,
    jumps: Mutex<Option<Random>>,
}

impl Clock {
    fn new(now: Duration) -> Clock {
        Clock { nanos: AtomicU64::new(to_nanos(now)), jumps: Mutex::default() }
    }

    fn now(&self) -> Duration {
        if let Some(random) = self.jumps.lock().as_mut() {
            // Every order of magnitude is as likely as the others; 2^42 ns are 73 minutes.
            let magnitude = random.below(43);
            self.advance(Duration::from_nanos(random.below(1 << magnitude)));
        }
        self.reading()
    }

    fn reading(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::SeqCst))
    }

    fn advance(&self, by: Duration) {
        self.nanos.fetch_add(to_nanos(by), Ordering::SeqCst);
    }
}

fn to_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("less than five centuries")
}

#[cfg(test)]
mod tests;
