//! Lives on the simulated disk: the power is cut, or an operation fails, at a random moment of a
//! life.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use aegis_blocks::io::sim::{CrashChoice, Fault, FaultKind, SimDisk};
use aegis_blocks::testkit::Rng;
use aegis_blocks::{Error, LocalBackend};

use crate::check::compare;
use crate::drawn::Drawn;
use crate::journal::Journal;
use crate::life::Life;
use crate::plan::THREADS_MAX;

/// What ends a life.
#[derive(Debug, Clone, Copy)]
enum End {
    Close,
    Drop,
    Cut,
    Fault(FaultKind),
    Full,
}

/// Runs the lives of one world, each with options of its own.
pub fn run(dir: &Path, seed: u64, lives: u64) {
    let journal = Journal::open(&dir.join("journal"));
    let mut disk = SimDisk::new(seed);
    for life in 0..lives {
        let mut rng = Rng::new(seed ^ (life << 32));
        let drawn = Drawn::draw(&mut rng);
        println!("life {life}: {drawn:?}");
        disk = live(disk, &journal, seed, drawn, rng);
    }
    let last = Drawn::draw(&mut Rng::new(seed ^ (lives << 32)));
    let store = LocalBackend::open_on(disk, last.options()).expect("opens in the end");
    compare(&store, &journal, seed);
    store.close().expect("closes in the end");
}

/// One life. Returns the disk that it leaves.
fn live(disk: SimDisk, journal: &Journal, seed: u64, drawn: Drawn, mut rng: Rng) -> SimDisk {
    let end = match rng.below(8) {
        0 => End::Close,
        1 => End::Drop,
        2..5 => End::Cut,
        5 => End::Fault(FaultKind::Eio),
        6 => End::Fault(FaultKind::Enospc),
        _ => End::Full,
    };
    println!("  ends by {end:?}");
    let store = LocalBackend::open_on(disk.clone(), drawn.options()).expect("the store opens");
    let parts = compare(&store, journal, seed);
    let at_operation = disk.operations() + rng.below(600);
    match end {
        End::Cut => disk.crash_at(at_operation, rng.once_in(2)),
        End::Fault(kind) => disk.inject(Fault { at_operation, kind, sticky: rng.once_in(2) }),
        End::Full => disk.set_capacity(Some((12 << 20) + rng.below(8 << 20))),
        End::Close | End::Drop => {}
    }
    let (threads, steps) = (1 + rng.below(THREADS_MAX), 10 + rng.below(150));
    let faulty = !matches!(end, End::Close | End::Drop);
    let done = AtomicBool::new(false);
    let choice = CrashChoice::Random { seed: rng.next_u64(), garbage: rng.once_in(2) };
    let life = Life { store, journal, drawn, seed, rng, faulty, backups: None, done };
    life.run(parts, threads, steps);
    let left = match end {
        End::Cut | End::Fault(_) => Some(disk.crash(choice)),
        _ => None,
    };
    match (end, life.store.close()) {
        (End::Close, answer) => answer.expect("closes"),
        (
            _,
            Ok(()) | Err(Error::Io { .. } | Error::Poisoned { .. } | Error::StorageFull { .. }),
        ) => {}
        (_, Err(error)) => panic!("closing: {error}"),
    }
    disk.clear_faults();
    disk.set_capacity(None);
    left.unwrap_or(disk)
}
