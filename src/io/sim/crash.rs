//! Power cuts of a simulated disk: which changes survive.
//!
//! Owns the choices among the legal outcomes. The log of changes is walked once, oldest first; each
//! change consists of *units* that survive or not, one by one:
//!
//! | change            | units | when lost                                                        |
//! |-------------------|------:|------------------------------------------------------------------|
//! | write             | one a sector | the sector is as an older unit, or the last sync, left it |
//! | longer file       |     1 | bytes there are invisible, even if their sectors survive         |
//! | cut file          |     1 | the old bytes are back                                           |
//! | zeroed hole       |     0 | (reads as zeros either way; with garbage, as old bytes)          |
//! | create, remove    |     1 | [`Profile::Journaled`]: all later changes of names are lost too  |
//! | rename            |     1 | [`Profile::Paranoid`]: 2 units, the new name and the old one     |
//!
//! So a length may survive without its data and reads zeros there. A file may lose its name
//! although its bytes were synced. A sector written several times may hold any of the versions.
//! With garbage, a sector that was written since the last sync may also hold random bytes. Or it
//! holds the left part of one version and the right part of another. Synced bytes that share the
//! sector are lost with it. Locks do not survive.

use std::sync::Arc;

use super::super::PAGE_LEN;
use super::Profile;
use super::change::{FileId, NameChange, What, put_sectors};
use super::content::{Content, Page, Piece, SECTOR_LEN, SECTORS_PER_PAGE, SectorMask};
use super::media::Media;
use super::random::Random;

/// A set of units, by their number in chronological order from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitSet {
    words: Vec<u64>,
}

impl UnitSet {
    /// Adds a unit.
    pub fn insert(&mut self, unit: usize) {
        let word = unit / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (unit % 64);
    }

    /// Returns whether the unit is in the set.
    pub fn contains(&self, unit: usize) -> bool {
        self.words.get(unit / 64).is_some_and(|word| word & 1 << (unit % 64) != 0)
    }
}

impl FromIterator<usize> for UnitSet {
    fn from_iter<I: IntoIterator<Item = usize>>(units: I) -> UnitSet {
        let mut set = UnitSet::default();
        for unit in units {
            set.insert(unit);
        }
        set
    }
}

/// Which of the changes that were never synced survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrashChoice {
    /// None of them.
    Nothing,
    /// All of them.
    Everything,
    /// These units and no others. With [`Profile::Journaled`], a change of names that follows a
    /// lost one is lost too.
    Keep(UnitSet),
    /// Any, by seed.
    Random {
        /// Names the outcome.
        seed: u64,
        /// Sectors written since the last sync may also be torn inside or hold random bytes.
        garbage: bool,
    },
}

impl CrashChoice {
    /// Keeps one unit.
    pub fn only(unit: usize) -> CrashChoice {
        CrashChoice::Keep(UnitSet::from_iter([unit]))
    }

    /// Keeps all of the `count` units but one.
    pub fn all_but(unit: usize, count: usize) -> CrashChoice {
        CrashChoice::Keep((0..count).filter(|other| *other != unit).collect())
    }

    /// Keeps the oldest `len` units.
    pub fn prefix(len: usize) -> CrashChoice {
        CrashChoice::Keep((0..len).collect())
    }

    /// Lists the choices worth trying over `count` units: all subsets when there are at most
    /// [`SUBSET_UNIT_COUNT_MAX`]. Otherwise nothing, everything, every unit alone, every unit
    /// missing, every prefix. Some random ones are added, half of those with garbage.
    pub fn all(count: usize, seed: u64) -> impl Iterator<Item = CrashChoice> {
        let few = count <= SUBSET_UNIT_COUNT_MAX;
        let subset_count = if few { 1_usize << count } else { 0 };
        let subsets = (0..subset_count).map(move |bits| {
            CrashChoice::Keep((0..count).filter(|unit| bits & 1 << unit != 0).collect())
        });
        let many = if few { 0 } else { count };
        let ends =
            [CrashChoice::Nothing, CrashChoice::Everything].into_iter().filter(move |_| !few);
        let kept = (0..many).map(CrashChoice::only);
        let lost = (0..many).map(move |unit| CrashChoice::all_but(unit, count));
        let prefixes = (1..many).map(CrashChoice::prefix);
        let randoms = (0..RANDOM_CHOICE_COUNT)
            .map(move |n| CrashChoice::Random { seed: seed.wrapping_add(n), garbage: n % 2 == 1 });
        let randoms = randoms.filter(move |_| count > 0);
        subsets.chain(ends).chain(kept).chain(lost).chain(prefixes).chain(randoms)
    }
}

/// Up to here [`CrashChoice::all`] tries every subset.
pub const SUBSET_UNIT_COUNT_MAX: usize = 6;
const RANDOM_CHOICE_COUNT: u64 = 14;

/// Returns how many units the log has.
pub(super) fn unit_count(media: &Media) -> usize {
    media.pending.iter().map(|change| change.what.unit_count(media.profile)).sum()
}

/// Returns the content of a disk after the cut.
pub(super) fn survivors(media: &Media, choice: &CrashChoice) -> Media {
    let mut left = Media { pending: Vec::new(), files: Default::default(), ..media.clone() };
    left.files.clone_from(&media.files);
    if *choice == CrashChoice::Everything {
        left.durable_names.clone_from(&left.names);
        left.files.values_mut().for_each(|inode| inode.durable = inode.cached.clone());
    } else if *choice != CrashChoice::Nothing {
        let mut judge = Judge::new(choice, media.profile);
        for change in &media.pending {
            judge.apply(&change.what, &mut left);
        }
    }
    left.names.clone_from(&left.durable_names);
    left.collect(|_| false);
    for inode in left.files.values_mut() {
        inode.durable.cut_pages();
        inode.cached = inode.durable.clone();
    }
    left
}

/// The fate of one sector.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Lost,
    Kept,
    Garbage,
    Torn,
}

/// Decides unit by unit.
struct Judge<'a> {
    choice: &'a CrashChoice,
    profile: Profile,
    next_unit: usize,
    random: Random,
    /// How likely a unit survives.
    keep_percent: u64,
    /// Whether a write survives or not as a whole.
    by_change: bool,
    garbage_percent: u64,
    /// Whether no change of names was lost yet.
    journal_is_whole: bool,
}

impl Judge<'_> {
    fn new(choice: &CrashChoice, profile: Profile) -> Judge<'_> {
        let (seed, garbage) = match choice {
            CrashChoice::Random { seed, garbage } => (*seed, *garbage),
            _ => (0, false),
        };
        let mut random = Random::new(seed);
        let keep_percent = [3, 25, 50, 75, 97][random.below(5) as usize];
        let by_change = random.chance(40);
        let garbage_percent = if garbage { [2, 20, 60][random.below(3) as usize] } else { 0 };
        Judge {
            choice,
            profile,
            next_unit: 0,
            random,
            keep_percent,
            by_change,
            garbage_percent,
            journal_is_whole: true,
        }
    }

    fn keeps(&mut self) -> bool {
        let unit = self.next_unit;
        self.next_unit += 1;
        match self.choice {
            CrashChoice::Nothing => false,
            CrashChoice::Everything => true,
            CrashChoice::Keep(units) => units.contains(unit),
            CrashChoice::Random { .. } => self.random.chance(self.keep_percent),
        }
    }

    fn apply(&mut self, what: &What, left: &mut Media) {
        match what {
            What::Sectors { file, page, mask, content } => {
                self.apply_sectors(left.durable_mut(*file), *page, *mask, content);
            }
            What::Blank { file, page, count } => {
                self.apply_blank(left.durable_mut(*file), *page, *count);
            }
            What::Extended { file, len } => {
                if self.keeps() {
                    left.durable_mut(*file).set_len_only(*len);
                }
            }
            What::Cut { file, len } => {
                if self.keeps() {
                    left.durable_mut(*file).set_len(*len);
                }
            }
            What::Name(change) => self.apply_name(*change, left),
        }
    }

    fn apply_name(&mut self, change: NameChange, left: &mut Media) {
        let first = self.keeps();
        let (adds, takes) = match (self.profile, change) {
            (Profile::Paranoid, NameChange::Rename { .. }) => (first, self.keeps()),
            (Profile::Paranoid | Profile::Posix, _) => (first, first),
            (Profile::Journaled, _) => {
                self.journal_is_whole &= first;
                (self.journal_is_whole, self.journal_is_whole)
            }
        };
        change.apply(&mut left.durable_names, adds, takes);
    }

    fn apply_sectors(&mut self, into: &mut Content, page: u64, mask: SectorMask, new: &Arc<Page>) {
        let whole = self.by_change && matches!(self.choice, CrashChoice::Random { .. });
        let whole = whole.then(|| self.random.chance(self.keep_percent));
        let mut kept = 0;
        for sector in (0..SECTORS_PER_PAGE).filter(|sector| mask & 1 << sector != 0) {
            match self.sector_fate(whole) {
                Fate::Lost => {}
                Fate::Kept => kept |= 1 << sector,
                fate => self.spoil(into, page, sector, new, fate),
            }
        }
        if kept != 0 {
            put_sectors(into, page, kept, new);
        }
    }

    fn sector_fate(&mut self, whole: Option<bool>) -> Fate {
        if self.garbage_percent > 0 && self.random.chance(self.garbage_percent) {
            self.next_unit += 1;
            return if self.random.chance(50) { Fate::Garbage } else { Fate::Torn };
        }
        let kept = self.keeps();
        if whole.unwrap_or(kept) { Fate::Kept } else { Fate::Lost }
    }

    /// Leaves random bytes, or one part of the new sector beside the other part of the old one.
    fn spoil(&mut self, into: &mut Content, page: u64, sector: usize, new: &Page, fate: Fate) {
        let start = sector * SECTOR_LEN;
        let mut bytes = [0; SECTOR_LEN];
        if fate == Fate::Torn {
            into.read(page * PAGE_LEN as u64 + start as u64, &mut bytes);
            let split = self.random.below(SECTOR_LEN as u64) as usize;
            let part = if self.random.chance(50) { 0..split } else { split..SECTOR_LEN };
            bytes[part.clone()].copy_from_slice(&new[start..][part]);
        } else {
            self.random.fill(&mut bytes);
        }
        into.write_piece(Piece { page, start, len: SECTOR_LEN }, &bytes);
    }

    /// Shows old bytes of the device in some of the blocks that were never written.
    fn apply_blank(&mut self, into: &mut Content, page: u64, count: u64) {
        if self.random.chance(self.garbage_percent) {
            let mut stale = [0; PAGE_LEN];
            self.random.fill(&mut stale);
            let stale = Arc::new(stale);
            let first = self.random.below(count);
            let end = count.min(first + 1 + self.random.below(STALE_PAGE_COUNT_MAX));
            // Where the allocation's own sync failed, a later one may have made a write durable.
            for at in (first..end).filter(|at| into.page(page + at).is_none()).collect::<Vec<_>>() {
                into.put_page(page + at, Some(Arc::clone(&stale)));
            }
        }
    }
}

const STALE_PAGE_COUNT_MAX: u64 = 8;

impl Media {
    fn durable_mut(&mut self, file: FileId) -> &mut Content {
        &mut self.inode_mut(file).durable
    }
}
