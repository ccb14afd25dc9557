//! Power cuts: a real file system goes down under eight committing threads, or under an open.
//!
//! One store lives through the cuts until it takes too much space; its oracle goes along. A commit
//! counts as acknowledged only if its thread was told so before the cut began: threads read a flag
//! after each answer, and the flag is raised before the power goes.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use aegis_blocks::testkit::{Rng, seed};
use aegis_blocks::{LocalBackend, Options, WriteMode};

use crate::arena::{Arena, Skipped, say, tell};
use crate::options::short_segments;
use crate::oracle::{Summary, check, nothing, scan};
use crate::volume::{Cut, Kind, Volume};
use crate::workload::{Record, State, run};

const SEED: u64 = 0xC07;
/// Log bytes after which a new store is begun.
const STORE_LEN_MAX: u64 = 24 << 20;
/// Moments: an answer that came before the cut began, and one that came later.
const BEFORE: u64 = 0;
const LATE: u64 = 1;

/// Short segments, so that the log goes on in new files under the cuts.
fn options(rng: &mut Rng) -> Options {
    let mode = if rng.once_in(2) { WriteMode::Direct } else { WriteMode::Buffered };
    short_segments(256 << 10, 64 << 10).write_mode(mode)
}

fn mount_options(kind: Kind, rng: &mut Rng) -> &'static str {
    let all: &[&str] = match kind {
        Kind::Ext4 => &["", "commit=1", "commit=1000", "data=writeback", "nodelalloc"],
        Kind::Xfs => &["", "logbsize=32k", "logbufs=2"],
    };
    all[rng.below(all.len() as u64) as usize]
}

/// The volume under test and what the oracle knows of the store on it.
struct Trial {
    volume: Volume,
    rng: Rng,
    session: u64,
    /// What the last session left, to be compared with the store.
    records: Vec<Record>,
    /// The store was open once, so it exists.
    made: bool,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    summary: Summary,
    while_opening: u64,
    torn_tails: u64,
    resynced_frames: u64,
    stores: u64,
}

fn unchanged(states: Vec<State>) -> Vec<Record> {
    states.into_iter().map(|base| Record { base, ..Record::default() }).collect()
}

/// Cuts the power of a file system this many times.
pub fn power_cuts(arena: &Arena, kind: Kind, len: u64, cuts: u64) -> Result<(), Skipped> {
    let volume = Volume::new(kind, arena.path(), len)?;
    let seed = seed(SEED);
    say(&format!("{kind:?}: {cuts} power cuts, seed {seed}"));
    let mut trial = Trial {
        volume,
        rng: Rng::new(seed),
        session: 0,
        records: unchanged(nothing()),
        made: false,
        tally: Tally { stores: 1, ..Tally::default() },
    };
    for _ in 0..cuts {
        trial.session += 1;
        trial.volume.mount(mount_options(kind, &mut trial.rng));
        if trial.rng.once_in(6) {
            trial.cut_while_opening();
        } else {
            trial.cut_while_committing();
        }
        trial.volume.unmount();
    }
    trial.volume.mount("");
    let store = trial.open();
    store.close().expect("a clean close");
    trial.verify();
    trial.volume.unmount();
    let Tally { summary, while_opening, torn_tails, resynced_frames, stores } = &trial.tally;
    say(&format!(
        "{kind:?}: {cuts} power cuts ({while_opening} while opening), {} commits acknowledged before \
         one, none lost; {} acknowledged too late or unsynced were lost, {} unanswered were kept; \
         {torn_tails} torn tails, {resynced_frames} frames synced again, {stores} stores",
        summary.kept, summary.lost_lawfully, summary.unknown_kept,
    ));
    assert!(cuts < 10 || summary.kept > cuts, "the threads got to work");
    assert!(cuts < 100 || *resynced_frames > 0, "recovery had something to do");
    tell("power cuts", cuts);
    tell("acknowledged commits", summary.kept);
    Ok(())
}

impl Trial {
    fn store(&self) -> PathBuf {
        self.volume.path().join("store")
    }

    /// Damage is what no power cut does.
    fn verify(&self) {
        let report = LocalBackend::verify(self.store()).expect("a report");
        assert_eq!(report.damage, [], "session {}: damage after a power cut", self.session);
    }

    /// Opens the store after a cut and compares all of it with what its threads were told.
    fn open(&mut self) -> LocalBackend {
        if self.made {
            self.verify();
        }
        let store = options(&mut self.rng).open(self.store()).expect("the store opens after a cut");
        self.made = true;
        let found = scan(&store);
        self.tally.summary += check(&found, &self.records, |moment| moment == BEFORE);
        self.tally.torn_tails += u64::from(store.recovery().torn_bytes > 0);
        self.tally.resynced_frames += store.recovery().resynced_frames;
        self.records = unchanged(found);
        store
    }

    fn cut_while_committing(&mut self) {
        self.begin_again_when_long();
        let store = self.open();
        let states = std::mem::take(&mut self.records).into_iter().map(|r| r.base).collect();
        let target = 1 + self.rng.below(300);
        let how = if self.rng.once_in(4) { Cut::JournalKept } else { Cut::AllLost };
        let is_cut = AtomicBool::new(false);
        let (acknowledged, acks) = mpsc::channel();
        self.records = std::thread::scope(|scope| {
            let (is_cut, store, session) = (&is_cut, &store, self.session);
            let threads = scope.spawn(move || {
                run(store, session, states, |_, answer| match answer {
                    Ok(_) => {
                        let moment = if is_cut.load(Ordering::SeqCst) { LATE } else { BEFORE };
                        // The counting thread is gone once the cut has begun.
                        acknowledged.send(()).unwrap_or(());
                        (moment, ControlFlow::Continue(()))
                    }
                    Err(error) => {
                        let early = !is_cut.load(Ordering::SeqCst);
                        assert!(!early, "before the power was cut: {error:?}");
                        (LATE, ControlFlow::Break(()))
                    }
                })
            });
            let counted = acks.iter().take(target as usize).count();
            is_cut.store(true, Ordering::SeqCst);
            self.volume.cut(how);
            assert_eq!(counted as u64, target, "the threads ended by themselves");
            threads.join().expect("the writing threads")
        });
        assert!(store.close().is_err(), "a close without power");
    }

    fn cut_while_opening(&mut self) {
        self.tally.while_opening += 1;
        let (options, path) = (options(&mut self.rng), self.store());
        let turns = 1 << self.rng.below(22);
        let started = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| {
                started.store(true, Ordering::SeqCst);
                options.open(path).is_ok()
            });
            while !started.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            (0..turns).for_each(|_| std::hint::spin_loop());
            self.volume.cut(Cut::AllLost);
            // It may have been in time, and is closed again by now.
            self.made |= opening.join().expect("no panic of an open");
        });
    }

    /// Space is not reclaimed within a store, so it is replaced now and then.
    fn begin_again_when_long(&mut self) {
        let Ok(entries) = fs::read_dir(self.store()) else { return };
        let len: u64 = entries.filter_map(|e| e.ok()?.metadata().ok()).map(|m| m.len()).sum();
        if len > STORE_LEN_MAX {
            let store = self.open();
            store.close().expect("a clean close");
            self.verify();
            fs::remove_dir_all(self.store()).expect("the store is gone");
            self.records = unchanged(nothing());
            self.made = false;
            self.tally.stores += 1;
        }
    }
}
