//! The contract, held against every backend of the crate: in memory, on the file system and on the
//! simulated disk, with and without a sync at each commit, with segments long and so short that the
//! log goes on in another one every few commits.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use aegis_blocks::io::sim::{CrashChoice, SimDisk};
use aegis_blocks::testkit::{Fixture, Rng, seed};
use aegis_blocks::{Durability, LocalBackend, MemoryBackend, Options, ReadMode, conformance_suite};
use tempfile::TempDir;

conformance_suite!(memory, Memory);
conformance_suite!(local_sync_on, OnDisk::new(|path| LocalBackend::new(path, true)));
conformance_suite!(local_sync_off, OnDisk::new(|path| LocalBackend::new(path, false)));
conformance_suite!(
    local_short_segments,
    OnDisk::new(|path| short_segments().open(path)).payloads_up_to(SHORT_BLOCK_LEN)
);
conformance_suite!(
    local_short_segments_sync_off,
    OnDisk::new(|path| short_segments().durability(Durability::Buffered).open(path))
        .payloads_up_to(SHORT_BLOCK_LEN)
);
conformance_suite!(
    local_copied,
    OnDisk::new(|path| small().read_mode(ReadMode::Copied).open(path))
);
conformance_suite!(local_pread, OnDisk::new(|path| small().read_mode(ReadMode::Pread).open(path)));
conformance_suite!(simulated, Simulated::new(small(), true));
conformance_suite!(simulated_sync_off, Simulated::new(small(), false));
conformance_suite!(
    simulated_short_segments,
    Simulated::new(short_segments(), true).payloads_up_to(SHORT_BLOCK_LEN)
);
conformance_suite!(
    simulated_short_segments_sync_off,
    Simulated::new(short_segments(), false).payloads_up_to(SHORT_BLOCK_LEN)
);
conformance_suite!(
    simulated_short_segments_copied,
    Simulated::new(short_segments().read_mode(ReadMode::Copied).recent_len(0), true)
        .payloads_up_to(SHORT_BLOCK_LEN)
);
conformance_suite!(
    simulated_short_segments_pread,
    Simulated::new(short_segments().read_mode(ReadMode::Pread).recent_len(0), true)
        .payloads_up_to(SHORT_BLOCK_LEN)
);
conformance_suite!(killed, Killed(Simulated::new(small(), true)));
conformance_suite!(
    killed_short_segments_sync_off,
    Killed(Simulated::new(short_segments(), false).payloads_up_to(SHORT_BLOCK_LEN))
);

/// Longest block that a segment of 64 KiB may hold.
const SHORT_BLOCK_LEN: usize = 32 << 10;

fn short_segments() -> Options {
    let options = LocalBackend::options().segment_len_max(64 << 10);
    options.block_len_max(SHORT_BLOCK_LEN as u32).zero_ahead_len(256 << 10)
}

fn small() -> Options {
    LocalBackend::options().segment_len_max(4 << 20).block_len_max(2 << 20).zero_ahead_len(4 << 20)
}

/// Memory forgets, so it has nothing to open again.
struct Memory;

impl Fixture for Memory {
    type Backend = MemoryBackend;

    fn open(&self) -> MemoryBackend {
        MemoryBackend::new()
    }

    fn reopen(&self, _: MemoryBackend) -> Option<MemoryBackend> {
        None
    }
}

/// A store in a directory of its own. Its crash is that of the process: the files, as they are at
/// that moment, are copied and opened elsewhere.
struct OnDisk<O> {
    open: O,
    payload_len_max: usize,
    directory: Mutex<Option<TempDir>>,
}

impl<O: Fn(&Path) -> aegis_blocks::Result<LocalBackend>> OnDisk<O> {
    fn new(open: O) -> OnDisk<O> {
        OnDisk { open, payload_len_max: usize::MAX, directory: Mutex::new(None) }
    }

    fn payloads_up_to(self, len: usize) -> OnDisk<O> {
        OnDisk { payload_len_max: len, ..self }
    }

    fn path(&self) -> PathBuf {
        let directory = self.directory.lock().expect("no panic while it is held");
        directory.as_ref().expect("a store was opened").path().join("store")
    }

    fn open_here(&self) -> LocalBackend {
        (self.open)(&self.path()).expect("the store opens")
    }

    fn move_on(&self) -> Option<TempDir> {
        let next = tempfile::tempdir().expect("a temporary directory");
        self.directory.lock().expect("no panic while it is held").replace(next)
    }
}

impl<O: Fn(&Path) -> aegis_blocks::Result<LocalBackend> + Sync> Fixture for OnDisk<O> {
    type Backend = LocalBackend;

    fn open(&self) -> LocalBackend {
        drop(self.move_on());
        self.open_here()
    }

    fn reopen(&self, backend: LocalBackend) -> Option<LocalBackend> {
        backend.close().expect("the store closes");
        Some(self.open_here())
    }

    fn crash(&self, backend: LocalBackend) -> Option<LocalBackend> {
        let old = self.path();
        let left = self.move_on();
        copy_files(&old, &self.path());
        drop(backend);
        drop(left);
        Some(self.open_here())
    }

    /// A commit that is not synced is in the operating system's hands, and survives the process.
    fn acknowledges_durably(&self) -> bool {
        true
    }

    fn payload_len_max(&self) -> usize {
        self.payload_len_max
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).expect("the directory of the copy");
    for entry in fs::read_dir(from).expect("the store's directory") {
        let name = entry.expect("an entry of the store's directory").file_name();
        match fs::copy(from.join(&name), to.join(&name)) {
            Ok(_) => {}
            // A worker renamed or removed it since; what the log needs is never renamed.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => panic!("copy of {name:?}: {e}"),
        }
    }
}

/// A store on a disk in memory. Its crash is a power cut: what was not synced may be there, torn or
/// gone, by seed.
struct Simulated {
    options: Options,
    durable: bool,
    payload_len_max: usize,
    disk: Mutex<SimDisk>,
    rng: Mutex<Rng>,
}

impl Simulated {
    /// With `durable` off, only `sync` and close make anything durable.
    fn new(options: Options, durable: bool) -> Simulated {
        let seed = seed(0x51D15C);
        println!("disk seed {seed} (replay with AEGIS_SEED={seed})");
        let level = if durable { Durability::Durable } else { Durability::Buffered };
        Simulated {
            durable,
            options: options.durability(level).sync_interval(Duration::from_secs(3600)),
            payload_len_max: usize::MAX,
            disk: Mutex::new(SimDisk::new(seed)),
            rng: Mutex::new(Rng::new(seed)),
        }
    }

    fn payloads_up_to(self, len: usize) -> Simulated {
        Simulated { payload_len_max: len, ..self }
    }

    fn disk(&self) -> std::sync::MutexGuard<'_, SimDisk> {
        self.disk.lock().expect("no panic while it is held")
    }

    fn next_random(&self) -> u64 {
        self.rng.lock().expect("no panic while it is held").next_u64()
    }

    fn open_on(&self, disk: SimDisk) -> LocalBackend<SimDisk> {
        let violations = self.disk().violations();
        assert!(violations.is_empty(), "what no program may do to a disk: {violations:?}");
        *self.disk() = disk.clone();
        LocalBackend::open_on(disk, self.options.clone()).expect("the store opens")
    }
}

impl Fixture for Simulated {
    type Backend = LocalBackend<SimDisk>;

    fn open(&self) -> LocalBackend<SimDisk> {
        self.open_on(SimDisk::new(self.next_random()))
    }

    fn reopen(&self, backend: LocalBackend<SimDisk>) -> Option<LocalBackend<SimDisk>> {
        backend.close().expect("the store closes");
        let disk = self.disk().clone();
        Some(self.open_on(disk))
    }

    fn crash(&self, backend: LocalBackend<SimDisk>) -> Option<LocalBackend<SimDisk>> {
        let seed = self.next_random();
        let choice = CrashChoice::Random { seed, garbage: seed.is_multiple_of(2) };
        let left = self.disk().crash(choice);
        drop(backend);
        Some(self.open_on(left))
    }

    fn acknowledges_durably(&self) -> bool {
        self.durable
    }

    fn payload_len_max(&self) -> usize {
        self.payload_len_max
    }
}

/// A simulated store that is never closed: its process is killed, and the next one replays the log.
/// Behind a close the checkpoint answers.
struct Killed(Simulated);

impl Fixture for Killed {
    type Backend = LocalBackend<SimDisk>;

    fn open(&self) -> LocalBackend<SimDisk> {
        self.0.open()
    }

    fn reopen(&self, backend: LocalBackend<SimDisk>) -> Option<LocalBackend<SimDisk>> {
        let left = self.0.disk().freeze();
        drop(backend);
        Some(self.0.open_on(left))
    }

    fn crash(&self, backend: LocalBackend<SimDisk>) -> Option<LocalBackend<SimDisk>> {
        self.0.crash(backend)
    }

    fn acknowledges_durably(&self) -> bool {
        self.0.acknowledges_durably()
    }

    fn payload_len_max(&self) -> usize {
        self.0.payload_len_max()
    }
}
