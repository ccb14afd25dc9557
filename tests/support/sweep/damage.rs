//! Damage: every byte flipped, every length cut, sectors and segments that are not what was
//! written.
//!
//! A damaged store is refused with a named error and left as it is, or it opens and each block
//! gives its exact bytes or an error that names the place. What may be missing at the end depends
//! on the damage: see [`Harm::keeps`].

use aegis_blocks::LocalBackend;
use aegis_blocks::io::FileName;
use aegis_blocks::io::sim::{CrashChoice, Profile, SimDisk};

use super::cuts::{Tape, check_goes_on, leave};
use super::oracle::{History, all_bytes, check_refusal};
use super::tally::{Case, Tally};
use super::workload::{LAST_SESSION, counts, options, reopen};

/// Paths that a sweep over damage must take.
pub const PATHS: &[&str] = &["refused", "corrupt block", "nothing lost", "tail lost"];

const SECTOR_LEN: u64 = 512;
const PAGE_LEN: u64 = 4096;

/// A store that is closed, and what it holds.
pub struct Victim {
    pub word: String,
    disk: SimDisk,
    history: History,
    /// Commits that some later record bears witness to.
    witnessed: usize,
    /// The same store some commits before.
    older: SimDisk,
}

impl Victim {
    /// A store that was closed.
    pub fn closed(word: &str, seed: u64) -> Victim {
        let tape = Tape::record(word, Profile::Journaled, seed);
        let disk = tape.images[tape.images.len() - 1].disk.clone();
        let witnessed = tape.history.most();
        Victim::new(tape, disk, witnessed)
    }

    /// A store after a power cut right behind its last commit.
    pub fn crashed(word: &str, seed: u64) -> Victim {
        let tape = Tape::record(word, Profile::Journaled, seed);
        let all = tape.history.most();
        let behind = |mark| *counts(mark).start() == all;
        let image = tape.images.iter().find(|image| behind(image.mark)).expect("a durable end");
        let disk = image.disk.crash(CrashChoice::Nothing);
        Victim::new(tape, disk, all - 1)
    }

    fn new(tape: Tape, disk: SimDisk, witnessed: usize) -> Victim {
        let older = tape.images[tape.images.len() / 2].disk.crash(CrashChoice::Everything);
        Victim { word: tape.word, disk, history: tape.history, witnessed, older }
    }

    fn is_closed(&self) -> bool {
        self.witnessed == self.history.most()
    }

    fn files(&self) -> Vec<(FileName, u64)> {
        let files = self.disk.files().into_iter();
        files.filter(|(name, _)| !matches!(name, FileName::Lock | FileName::Reserve)).collect()
    }
}

/// What is done to a file.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Flip(u64, u8),
    Truncate(u64),
    Extend(u64),
    ZeroSector(u64),
    /// The sector holds what the one before it does.
    RepeatSector(u64),
    Remove,
    /// The file is as it was some commits ago.
    Older,
    /// The file is another store's.
    Foreign,
    /// The file and this one have each other's bytes.
    Swap(FileName),
}

impl Harm {
    fn apply(self, disk: &SimDisk, name: FileName, older: &SimDisk, foreign: &SimDisk) -> bool {
        match self {
            Harm::Flip(offset, bit) => disk.flip_bit(name, offset, bit),
            Harm::Truncate(len) | Harm::Extend(len) => disk.truncate(name, len),
            Harm::ZeroSector(offset) => disk.overwrite(name, offset, &[0; SECTOR_LEN as usize]),
            Harm::RepeatSector(offset) => {
                let bytes = disk.contents(name).expect("a file");
                let from = (offset - SECTOR_LEN) as usize;
                disk.overwrite(name, offset, &bytes[from..from + SECTOR_LEN as usize]);
            }
            Harm::Remove => disk.remove_file(name),
            Harm::Older | Harm::Foreign => {
                let source = if matches!(self, Harm::Older) { older } else { foreign };
                if source.contents(name).is_none() {
                    return false;
                }
                disk.copy_file_from(source, name, name);
            }
            Harm::Swap(other) => {
                let (a, b) = (disk.contents(name), disk.contents(other));
                disk.put_file(name, &b.expect("a file"));
                disk.put_file(other, &a.expect("a file"));
            }
        }
        true
    }

    /// How many commits there are at least afterwards. One flip, or one sector, costs nothing that
    /// was witnessed. What takes away the end of the log together with its witness cannot be told
    /// from a log that was never longer, but where the store was closed: its last checkpoint knows
    /// of all.
    fn keeps(self, victim: &Victim) -> usize {
        match self {
            Harm::Flip(..) | Harm::ZeroSector(_) | Harm::RepeatSector(_) => victim.witnessed,
            Harm::Extend(_) | Harm::Swap(_) | Harm::Foreign => victim.witnessed,
            Harm::Truncate(_) | Harm::Older | Harm::Remove if victim.is_closed() => {
                victim.witnessed
            }
            Harm::Truncate(_) | Harm::Older | Harm::Remove => 0,
        }
    }
}

/// Flips one bit of every byte of every file.
pub fn flip(tally: &mut Tally, case: &Case, victim: &Victim, share: u64) {
    for (name, len) in victim.files() {
        for offset in 0..len {
            let bit = (offset % 8) as u8;
            // Where structure is, look closely.
            let close = offset < 256 || offset % PAGE_LEN < 256;
            let share = if close { share } else { 40 * share };
            harm(tally, case, victim, name, Harm::Flip(offset, bit), share);
        }
    }
}

/// Cuts, extends and replaces files and sectors.
pub fn replace(tally: &mut Tally, case: &Case, victim: &Victim, share: u64) {
    let files = victim.files();
    for (at, (name, len)) in files.iter().enumerate() {
        for cut in 0..*len {
            let close = cut % SECTOR_LEN < 3 || cut % SECTOR_LEN > SECTOR_LEN - 3;
            harm(
                tally,
                case,
                victim,
                *name,
                Harm::Truncate(cut),
                if close { share } else { 80 * share },
            );
        }
        for more in [1, 100, SECTOR_LEN, PAGE_LEN, 3 * PAGE_LEN, 1 << 21] {
            harm(tally, case, victim, *name, Harm::Extend(len + more), 1);
        }
        for offset in (0..*len).step_by(SECTOR_LEN as usize).filter(|o| o + SECTOR_LEN <= *len) {
            harm(tally, case, victim, *name, Harm::ZeroSector(offset), 1);
            if offset > 0 {
                harm(tally, case, victim, *name, Harm::RepeatSector(offset), 1);
            }
        }
        for whole in [Harm::Remove, Harm::Older, Harm::Foreign] {
            harm(tally, case, victim, *name, whole, 1);
        }
        for (other, _) in &files[..at] {
            harm(tally, case, victim, *name, Harm::Swap(*other), 1);
        }
    }
}

fn harm(tally: &mut Tally, case: &Case, victim: &Victim, name: FileName, harm: Harm, share: u64) {
    let case = case.within(format_args!("{name}/{harm:?}"));
    if !tally.runs(&case, share) {
        return;
    }
    let _trying = case.trying((name, harm));
    let disk = victim.disk.freeze();
    let foreign = || Victim::closed(&victim.word, 99).disk;
    let foreign = if matches!(harm, Harm::Foreign) { foreign() } else { disk.clone() };
    if !harm.apply(&disk, name, &victim.older, &foreign) {
        return;
    }
    tally.count("damages");
    let before = all_bytes(&disk);
    let store = match LocalBackend::open_on(disk.clone(), options(&victim.word, LAST_SESSION)) {
        Ok(store) => store,
        Err(error) => {
            check_refusal(&error);
            assert!(all_bytes(&disk) == before, "O11: a refused store was changed");
            tally.took("refused", true);
            return;
        }
    };
    let counts = harm.keeps(victim)..=victim.history.most();
    let (count, corrupt) = victim.history.check_damaged(&store, counts);
    let says_clean = store.recovery().clean && !matches!(harm, Harm::Older);
    assert!(!says_clean || count == victim.history.most(), "a loss is reported as a clean end");
    if matches!(harm, Harm::Flip(..)) {
        let lost = (victim.history.most() - count) as u64;
        let closed = victim.is_closed();
        tally.add("commits lost after a close", if closed { lost } else { 0 });
        tally.add("last commits lost after a cut", if closed { 0 } else { lost });
    }
    tally.took("corrupt block", corrupt > 0);
    tally.took("tail lost", count < victim.history.most());
    tally.took("nothing lost", count == victim.history.most() && corrupt == 0);
    if corrupt > 0 {
        return leave(store, &disk);
    }
    let left = disk.crash(CrashChoice::Nothing);
    leave(store, &disk);
    let store = reopen(&victim.word, &left);
    let mut history = victim.history.clone();
    history.check(&store, count..=count);
    history.settle(count);
    check_goes_on(&victim.word, store, &left, history, case.seed());
}
