//! Full file systems: a filler takes the space from a store in use, and gives it back.
//!
//! Holds what the engine promises: a commit without space answers `StorageFull` and leaves nothing,
//! reads go on, a delete is done or refused as a whole, and writes succeed again once there is
//! space, without opening the store again. A full disk never leads to an unknown outcome. The
//! filler is bounded by the image, and reserves space in a file system that was seen to be the
//! test's own.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use aegis_blocks::testkit::{Rng, seed};
use aegis_blocks::{BlockId, Error, LocalBackend, Options, StorageBackend, WriteMode};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use crate::arena::{Arena, Skipped, check_memory, say, tell};
use crate::options::short_segments;
use crate::oracle::{Summary, check, nothing, scan};
use crate::volume::{Kind, Volume};
use crate::workload::{Record, State, counter, owner, run};

const SEED: u64 = 0xF011;
const IMAGE_LEN: u64 = 48 << 20;
/// A new store is begun beyond this.
const STORE_LEN_MAX: u64 = 8 << 20;
/// Left free by the filler at most.
const LEFT_LEN_MAX: u64 = 1 << 20;

fn options(rng: &mut Rng) -> Options {
    let mode = if rng.once_in(2) { WriteMode::Direct } else { WriteMode::Buffered };
    short_segments(256 << 10, 64 << 10).write_mode(mode)
}

/// Where stores run out of space.
enum Place {
    Ext4(Volume),
    Memory(PathBuf),
}

impl Place {
    /// The root of the file system, certainly the test's own.
    fn path(&self) -> &Path {
        match self {
            Place::Ext4(volume) => volume.path(),
            Place::Memory(path) => {
                check_memory(path);
                path
            }
        }
    }

    /// Takes all space but `left`.
    fn fill(&self, left: u64) {
        let filler = File::create_new(self.path().join("filler")).expect("a filler");
        loop {
            let stat = statvfs(self.path()).expect("free space");
            let free = stat.blocks_available() * stat.fragment_size();
            assert!(free <= IMAGE_LEN, "{free} bytes free is more than the file system has");
            let len = free.saturating_sub(left);
            if len == 0 {
                return;
            }
            match fallocate(&filler, FallocateFlags::empty(), 0, len as i64) {
                Ok(()) => return,
                // The store has taken some space meanwhile, which it does not do for ever.
                Err(Errno::ENOSPC) => {}
                Err(e) => panic!("the filler: {e}"),
            }
        }
    }

    fn give_back(&self) {
        fs::remove_file(self.path().join("filler")).expect("the filler");
    }
}

#[derive(Debug, Default)]
struct Tally {
    summary: Summary,
    refused: u64,
    deletes_done: u64,
    deletes_refused: u64,
    closes_refused: u64,
    opens_done: u64,
    opens_refused: u64,
    stores: u64,
}

struct Trial {
    place: Place,
    rng: Rng,
    session: u64,
    store: Option<LocalBackend>,
    states: Vec<State>,
    tally: Tally,
}

/// Fills an ext4 and a file system in memory, half of the cycles each.
pub fn full_file_systems(arena: &Arena, cycles: u64) -> Result<(), Skipped> {
    let seed = seed(SEED);
    let volume = Volume::new(Kind::Ext4, arena.path(), IMAGE_LEN);
    let memory = arena.memory("full", "size=24m")?;
    let ext4 = volume.map(|mut volume| {
        volume.mount("");
        ("ext4", Place::Ext4(volume))
    });
    for place in [ext4, Ok(("tmpfs", Place::Memory(memory)))] {
        let (name, place) = place?;
        let mut trial = Trial {
            place,
            rng: Rng::new(seed),
            session: 0,
            store: None,
            states: nothing(),
            tally: Tally::default(),
        };
        (0..cycles / 2).for_each(|_| trial.cycle());
        trial.end_store();
        say(&format!("{name} full {} times, seed {seed}: {:?}", cycles / 2, trial.tally));
        assert!(cycles < 20 || trial.tally.refused > cycles, "the threads met a full disk");
        tell("full disks", cycles / 2);
    }
    Ok(())
}

impl Trial {
    fn path(&self) -> PathBuf {
        self.place.path().join("store")
    }

    fn store(&self) -> &LocalBackend {
        self.store.as_ref().expect("an open store")
    }

    fn cycle(&mut self) {
        if self.is_long() {
            self.end_store();
        }
        if self.store.is_none() {
            self.tally.stores += 1;
            self.store = Some(options(&mut self.rng).open(self.path()).expect("a new store"));
        }
        let left = self.rng.below(LEFT_LEN_MAX);
        self.place.fill(left);
        self.commit_until_full();
        self.delete_while_full();
        if self.rng.once_in(3) {
            self.reopen_while_full();
        }
        self.place.give_back();
        if self.store.is_none() {
            self.store = Some(options(&mut self.rng).open(self.path()).expect("there is space"));
            self.compare();
        }
        // Healed, and the store was not opened again for it.
        self.session += 1;
        let states = std::mem::take(&mut self.states);
        let records = run(self.store(), self.session, states, |_, answer| {
            assert!(answer.is_ok(), "with space again: {answer:?}");
            (0, ControlFlow::Break(()))
        });
        self.settle(&records);
    }

    /// Compares the store with what the threads were told.
    fn settle(&mut self, records: &[Record]) {
        let found = scan(self.store());
        self.tally.summary += check(&found, records, |_| true);
        self.states = found;
    }

    fn compare(&mut self) {
        assert_eq!(scan(self.store()), self.states, "what the store holds changed by itself");
    }

    fn commit_until_full(&mut self) {
        self.session += 1;
        let states = std::mem::take(&mut self.states);
        let records = run(self.store(), self.session, states, |_, answer| match answer {
            Ok(_) => (0, ControlFlow::Continue(())),
            Err(Error::StorageFull { needed, .. }) if *needed > 0 => (0, ControlFlow::Break(())),
            Err(error) => panic!("a full disk answers {error:?}"),
        });
        self.tally.refused += records.len() as u64;
        self.settle(&records);
    }

    /// Deletes are done or refused, and what they answered is so.
    fn delete_while_full(&mut self) {
        let deletable = self.states.iter().flat_map(|state| state.keys().copied());
        let ids: Vec<u64> = deletable.filter(|id| *id != counter(owner(*id))).take(3).collect();
        for id in ids {
            match self.store().delete_block(BlockId(id)) {
                Ok(()) => {
                    self.states[owner(id) as usize].remove(&id);
                    self.tally.deletes_done += 1;
                }
                Err(Error::StorageFull { .. }) => self.tally.deletes_refused += 1,
                Err(error) => panic!("a delete on a full disk answers {error:?}"),
            }
        }
        self.compare();
    }

    fn reopen_while_full(&mut self) {
        match self.store.take().expect("an open store").close() {
            Ok(()) => {}
            Err(Error::StorageFull { .. }) => self.tally.closes_refused += 1,
            Err(error) => panic!("a close on a full disk answers {error:?}"),
        }
        match options(&mut self.rng).open(self.path()) {
            Ok(store) => {
                self.store = Some(store);
                self.compare();
                self.tally.opens_done += 1;
            }
            Err(Error::StorageFull { .. }) => self.tally.opens_refused += 1,
            Err(error) => panic!("an open on a full disk answers {error:?}"),
        }
    }

    fn is_long(&self) -> bool {
        let Ok(entries) = fs::read_dir(self.path()) else { return false };
        let len: u64 = entries.filter_map(|e| e.ok()?.metadata().ok()).map(|m| m.len()).sum();
        len > STORE_LEN_MAX
    }

    /// Closes the store, sees that nothing is damaged, and removes it.
    fn end_store(&mut self) {
        let Some(store) = self.store.take() else { return };
        store.close().expect("a clean close");
        let report = LocalBackend::verify(self.path()).expect("a report");
        assert_eq!(report.damage, [], "damage from a full disk");
        fs::remove_dir_all(self.path()).expect("the store is gone");
        self.states = nothing();
    }
}
