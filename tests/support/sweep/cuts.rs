//! Power cuts: before every operation that changes the disk, with everything such a cut may leave.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use aegis_blocks::io::sim::{CrashChoice, Image, Profile, SimDisk};
use aegis_blocks::{BlockId, LocalBackend, StorageBackend};

use super::oracle::{Changes, History};
use super::tally::{Case, Tally};
use super::workload::{Run, counts, payload, reopen};
use crate::block::block;

/// Paths that a sweep over power cuts must take.
pub const PATHS: &[&str] = &[
    "rotation",
    "big commit",
    "torn tail cut",
    "frames synced again",
    "clean resume",
    "half made store",
    "commit lost",
    "checkpoint used",
    "reserve drawn",
];

/// How a run ends.
#[derive(Debug, Clone)]
pub enum Cut {
    /// The process dies, the machine goes on.
    Kill,
    /// The power fails.
    Power(CrashChoice),
}

impl Cut {
    pub fn apply(&self, disk: &SimDisk) -> SimDisk {
        match self {
            Cut::Kill => disk.freeze(),
            Cut::Power(choice) => disk.crash(choice.clone()),
        }
    }
}

/// Every way to end a run here.
pub fn cuts(disk: &SimDisk, seed: u64) -> impl Iterator<Item = Cut> {
    std::iter::once(Cut::Kill).chain(disk.crash_choices(seed).map(Cut::Power))
}

/// A word that was carried out: what was committed, and the disk before every change.
pub struct Tape {
    pub word: String,
    pub history: History,
    pub images: Vec<Image>,
    /// Paths that the word took.
    pub paths: BTreeSet<&'static str>,
}

impl Tape {
    pub fn record(word: &str, profile: Profile, seed: u64) -> Tape {
        let disk = SimDisk::new(seed);
        disk.set_profile(profile);
        disk.record_images();
        let mut run = Run::new(word, disk.clone());
        run.whole_recorded(word);
        assert!(run.failures.is_empty(), "{word} fails by itself: {:?}", run.failures);
        let mut images = disk.take_images();
        let mark = (run.history.most() as u64) << 32 | run.history.floor() as u64;
        images.push(Image { operation: disk.operations(), mark, disk: disk.freeze() });
        Tape { word: word.to_string(), history: run.history, images, paths: run.paths }
    }
}

/// Cuts the power in every image of a word, and checks what is left.
pub fn sweep(tally: &mut Tally, case: &Case, word: &str, profile: Profile, share: u64) {
    let tape = Tape::record(word, profile, case.seed());
    tape.paths.iter().for_each(|path| tally.took(path, true));
    for image in &tape.images {
        let case = case.within(image.operation);
        let cuts: Vec<_> = cuts(&image.disk, case.seed()).collect();
        let (chosen, mut ran) = ((case.seed() % cuts.len() as u64) as usize, false);
        for (number, cut) in cuts.into_iter().enumerate() {
            let case = case.within(number);
            // A long run cuts at every operation in one way at least.
            let share = if number == chosen && tally.is_long() { 1 } else { share };
            if tally.runs(&case, share) {
                ran = true;
                let _trying = case.trying(&cut);
                let disk = cut.apply(&image.disk);
                check_left(tally, &tape, &disk, counts(image.mark), case.seed());
            }
        }
        tally.add("operations left out", u64::from(!ran));
    }
}

/// Checks what a cut left: once, again without a word in between, and after another commit.
fn check_left(
    tally: &mut Tally,
    tape: &Tape,
    disk: &SimDisk,
    wanted: RangeInclusive<usize>,
    seed: u64,
) {
    tally.count("crash states");
    let made = disk.files().iter().any(|(name, _)| name.to_string() == "META");
    let store = reopen(&tape.word, disk);
    let count = tape.history.check(&store, wanted.clone());
    note_paths(tally, &store, made, count < *wanted.end());
    // O5: what was answered stays, though the store was neither synced nor closed.
    let again = disk.crash(CrashChoice::Nothing);
    leave(store, disk);
    if !seed.is_multiple_of(3) {
        return;
    }
    tally.count("second recoveries");
    let store = reopen(&tape.word, &again);
    tape.history.check(&store, count..=count);
    let mut history = tape.history.clone();
    history.settle(count);
    check_goes_on(&tape.word, store, &again, history, seed);
}

fn note_paths(tally: &mut Tally, store: &LocalBackend<SimDisk>, made: bool, lost: bool) {
    let report = store.recovery();
    tally.took("torn tail cut", report.torn_bytes > 0);
    tally.took("frames synced again", report.resynced_frames > 0);
    tally.took("clean resume", report.clean && report.frames > 0);
    tally.took("half made store", !made);
    tally.took("rotation", report.segments > 2);
    tally.took("big commit", report.bytes > 96 << 10);
    tally.took("commit lost", lost);
    tally.took("checkpoint used", report.checkpoint_lsn.0 > 0);
    tally.took("reserve drawn", store.stats().reserve_drawn_bytes > 0);
}

/// O6: the store takes commits, never gives out an id twice, and survives another cut.
pub fn check_goes_on(
    word: &str,
    store: LocalBackend<SimDisk>,
    disk: &SimDisk,
    mut history: History,
    seed: u64,
) {
    disk.set_capacity(None);
    let data = payload(seed, 500);
    let id =
        store.write_block(block(0, data.clone())).expect("O6: a recovered store takes commits");
    assert!(id.0 > history.newest_id(), "O4: id {id} is given out again");
    let large = payload(seed + 1, 30 << 10);
    store.write_block(block(90, large.clone())).expect("O6: and large ones");
    history.acked(Changes::from([(id.0, Some(data))]), true);
    history.acked(Changes::from([(90, Some(large))]), true);
    store.sync().expect("O6: and syncs");
    assert!(store.block_exists(BlockId(90)).expect("an answer"));
    let cut = match seed % 4 {
        0 => CrashChoice::Nothing,
        1 => CrashChoice::Everything,
        _ => CrashChoice::Random { seed, garbage: seed.is_multiple_of(2) },
    };
    let left = disk.crash(cut);
    leave(store, disk);
    let store = reopen(word, &left);
    history.check(&store, history.most()..=history.most());
    leave(store, &left);
}

/// Drops a store without letting it write any more.
pub fn leave(store: LocalBackend<SimDisk>, disk: &SimDisk) {
    disk.crash_at(0, false);
    drop(store);
}

/// As [`sweep`], and cuts the power once more in every image of the recovery.
pub fn sweep_twice(tally: &mut Tally, case: &Case, word: &str, profile: Profile, share: u64) {
    let tape = Tape::record(word, profile, case.seed());
    for image in &tape.images {
        let case = case.within(image.operation);
        for (number, cut) in cuts(&image.disk, case.seed()).enumerate() {
            let case = case.within(number);
            if tally.runs(&case, share) {
                let disk = cut.apply(&image.disk);
                cut_recovery(tally, &case, &tape, &disk, counts(image.mark));
            }
        }
    }
}

fn cut_recovery(
    tally: &mut Tally,
    case: &Case,
    tape: &Tape,
    disk: &SimDisk,
    wanted: RangeInclusive<usize>,
) {
    disk.record_images();
    let store = reopen(&tape.word, disk);
    let count = tape.history.check(&store, wanted.clone());
    let first_was_clean = store.recovery().clean;
    let mut images: Vec<_> =
        disk.take_images().into_iter().map(|image| (image, wanted.clone())).collect();
    let (operation, mark) = (disk.operations(), 0);
    images.push((Image { operation, mark, disk: disk.freeze() }, count..=count));
    leave(store, disk);
    for (image, wanted) in images {
        let case = case.within(image.operation);
        for (number, cut) in cuts(&image.disk, case.seed()).enumerate() {
            let case = case.within(number);
            if !tally.runs(&case, 40) {
                continue;
            }
            let _trying = case.trying(&cut);
            tally.count("depth 2 states");
            let left = cut.apply(&image.disk);
            let store = reopen(&tape.word, &left);
            let count = tape.history.check(&store, wanted.clone());
            let report = *store.recovery();
            tally.took("cut of a cut", !first_was_clean && !report.clean && report.segments > 1);
            tally.took("synced again", !first_was_clean && report.resynced_frames > 0);
            if case.seed().is_multiple_of(5) {
                let mut history = tape.history.clone();
                history.settle(count);
                check_goes_on(&tape.word, store, &left, history, case.seed());
            } else {
                leave(store, &left);
            }
        }
    }
}
