//! Workloads: short words over an alphabet of operations, carried out on a store and its model.
//!
//! | letter | operation                                                                          |
//! |--------|------------------------------------------------------------------------------------|
//! | `s`    | put small: a new block, or every other time a new version of an old one            |
//! | `l`    | put large: 20 KiB, a third of a segment                                            |
//! | `d`    | delete the newest block; where there is none, the delete is refused                |
//! | `t`    | transaction of several: an empty block, a small one, one of 3 KiB, and a delete    |
//! | `b`    | big transaction: 6 blocks of 16 KiB, more than a segment holds                     |
//! | `c`    | checkpoint                                                                         |
//! | `k`    | compact                                                                            |
//! | `r`    | close and open again                                                               |
//! | `y`    | sync; the commits of a word with this letter are buffered                          |
//! | `2`, `8` | so many commits, handed in together: they share a group                         |
//! | `f`    | the disk is full from here on: but for deletes nothing may be written              |
//! | `g`    | the disk has space again                                                           |
//!
//! | `h`    | put huge: the longest block that this session allows                               |
//!
//! The word also decides, by its hash, how far space is made ahead and how the log is written, and
//! what each later session is opened with: other lengths of segments and blocks, other memory,
//! other modes.

use std::collections::BTreeSet;

use aegis_blocks::io::FileName;
use aegis_blocks::io::sim::{Operation, OperationKind, SimDisk};
use aegis_blocks::testkit::Rng;
use aegis_blocks::{
    BlockId, CommitTicket, Durability, Error, LocalBackend, Options, ReadMode, Result,
    StorageBackend, WriteMode,
};
use bytes::Bytes;

use crate::drawn::Drawn;

use super::oracle::{Changes, History, check_failure, check_files};
use crate::block::block;

/// The letters of short words; the others are in the scripted ones.
pub const ALPHABET: &[u8] = b"sldtckr";
/// The shortest segment that the store makes.
pub const SEGMENT_LEN: u64 = 64 << 10;

/// Words that force what short ones cannot: rotations, many reopenings, long histories.
pub const SCRIPTED: &[&str] = &[
    "llllllll",
    "ssssrssssrss",
    "lllrlllrd",
    "bsbrbd",
    "tdtdtrdtd",
    "ssyssylysb",
    "lylllylr",
    "sbdrtbl",
    "dddsrdr",
    "tttttttt",
    "scrscrdcs",
    "llclldckrls",
    "lkcldkrllk",
    "tctctrkt",
    "bcbrbkd",
    "yscylrkyl",
    "lllllclllllckr",
    "s2r8d2",
    "l8l8lcl8k",
    "y2ly8ly",
    "bbblcklr",
    "bbkblldr",
    "ybblblkly",
    "hrhrkrlkr",
    "hchrkcrhkl",
    "hhrsrhsrdrkr",
    "bhrbhrkrbr",
    "yhryhkryhr",
];

/// Paths that scripted words take, whatever becomes of the store afterwards.
pub const PATHS: &[&str] =
    &["zero ahead", "group of 1", "group of 2", "group of 8", "segment recycled", "compaction"];

/// Words that delete, compact, checkpoint and open again while the disk is full.
pub const FULL: &[&str] = &[
    "slsfddrdkcgs",
    "llllfdkdcrdgl",
    "tltlfdddddddddkrdgs",
    "sssfrdrdgsl",
    "yslsyfdydrkdgsyl",
    "lllllllfdkkrdcgb",
];

/// All words of `len` letters.
pub fn words(len: usize) -> impl Iterator<Item = String> {
    let count = ALPHABET.len().pow(len as u32);
    (0..count).map(move |mut number| {
        let letter = |_| {
            let letter = ALPHABET[number % ALPHABET.len()];
            number /= ALPHABET.len();
            char::from(letter)
        };
        (0..len).map(letter).collect()
    })
}

/// A hash that never changes (FNV-1a).
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Options that [`reopen`] draws: those of a session that no word reaches.
pub const LAST_SESSION: u64 = 1 << 32;

/// How the `session`th session of a word's store is opened. The first one is as short as can be.
fn draw(word: &str, session: u64) -> Drawn {
    let bits = hash(word.as_bytes()) >> 7;
    let drawn = Drawn::draw_lenient(&mut Rng::new(bits ^ session));
    let durability = match word.contains('y') {
        true => Durability::Buffered,
        false => Durability::Durable,
    };
    if session > 0 {
        // With `Pread` a failing disk may refuse a read, which the oracle takes for a loss:
        // tests/lives and tests/read_modes ask that.
        let read_mode =
            if drawn.read_mode == ReadMode::Pread { ReadMode::Copied } else { drawn.read_mode };
        return Drawn { durability, read_mode, ..drawn };
    }
    Drawn {
        segment_len_max: SEGMENT_LEN,
        block_len_max: SEGMENT_LEN as u32 / 2,
        zero_ahead_len: if bits & 1 == 0 { 0 } else { SEGMENT_LEN },
        write_mode: if bits & 6 == 0 { WriteMode::Direct } else { WriteMode::Buffered },
        durability,
        ..Drawn::defaults()
    }
}

/// The same as the store takes them.
pub fn options(word: &str, session: u64) -> Options {
    draw(word, session).options().single_threaded(true)
}

/// A store, its model, and how it went so far.
pub struct Run {
    word: String,
    pub disk: SimDisk,
    pub history: History,
    pub store: Option<LocalBackend<SimDisk>>,
    /// Steps that failed.
    pub failures: Vec<Error>,
    /// Whether the open store has refused a commit as poisoned, or left one unknown.
    pub poisoned: bool,
    /// Those of [`PATHS`] that were taken.
    pub paths: BTreeSet<&'static str>,
    /// Sessions begun so far.
    sessions: u64,
    durable: bool,
    counter: u64,
}

impl Run {
    pub fn new(word: &str, disk: SimDisk) -> Run {
        Run::resume(word, disk, History::new())
    }

    /// Goes on with a disk that holds a store.
    pub fn resume(word: &str, disk: SimDisk, history: History) -> Run {
        // Goes on with the options of another session.
        let sessions = history.most() as u64;
        let counter = 1000 * sessions;
        Run {
            disk,
            history,
            store: None,
            failures: Vec::new(),
            poisoned: false,
            paths: BTreeSet::new(),
            word: word.to_owned(),
            sessions,
            durable: !word.contains('y'),
            counter,
        }
    }

    /// Opens the store, carries the word out and closes.
    pub fn whole(&mut self, word: &str) {
        self.open();
        word.bytes().for_each(|letter| self.step(letter));
        self.close();
    }

    /// Opens the store and checks what it shows.
    pub fn open(&mut self) {
        self.poisoned = false;
        let options = options(&self.word, self.sessions);
        self.sessions += 1;
        match LocalBackend::open_on(self.disk.clone(), options) {
            Ok(store) => {
                let count = self.history.check(&store, self.history.floor()..=self.history.most());
                self.history.settle(count);
                self.store = Some(store);
                self.mark(0);
            }
            Err(error) => self.fail(error),
        }
    }

    pub fn close(&mut self) {
        match self.store.take().map(LocalBackend::close) {
            None => {}
            Some(Ok(())) => {
                assert!(!self.poisoned, "a poisoned store closes as if nothing had happened");
                self.history.synced();
                self.mark(0);
            }
            Some(Err(error)) => self.fail(error),
        }
    }

    /// Carries out one letter. Without an open store it is skipped.
    pub fn step(&mut self, letter: u8) {
        self.counter += 1;
        let many = |ids: std::ops::Range<u64>, len| ids.map(move |id| (id, Some(len))).collect();
        match letter {
            b'r' => {
                self.close();
                self.open();
            }
            b'y' => self.durably(LocalBackend::sync),
            b'c' => self.durably(LocalBackend::checkpoint),
            b'k' => self.compact(),
            b'2' => self.group("group of 2", 2),
            b'8' => self.group("group of 8", 8),
            b's' if self.counter.is_multiple_of(2) => self.commit(vec![(1, Some(100))]),
            b's' => self.commit(vec![(0, Some(77))]),
            b'l' => self.commit(vec![(40 + self.counter % 2, Some(20 << 10))]),
            b'h' => {
                let longest = draw(&self.word, self.sessions - 1).block_len_max as usize;
                self.commit(vec![(45 + self.counter % 2, Some(longest))]);
            }
            b'd' => {
                let newest = self.history.state().keys().next_back().copied();
                self.commit(vec![(newest.unwrap_or(u64::MAX), None)]);
            }
            b't' => {
                let mut operations = vec![(0, Some(0)), (0, Some(9)), (50, Some(3000))];
                operations.extend(self.history.state().keys().next().map(|id| (*id, None)));
                self.commit(operations);
            }
            b'b' => self.commit(many(60..66, 16 << 10)),
            b'f' => {
                let files = self.disk.files().into_iter();
                let pages: u64 = files.map(|(_, len)| len.div_ceil(4096)).sum();
                self.disk.set_capacity(Some((pages + self.counter % 3) * 4096));
            }
            b'g' => self.disk.set_capacity(None),
            letter => panic!("no operation is called {:?}", char::from(letter)),
        }
    }

    /// Does what makes every commit durable.
    fn durably<T>(&mut self, operation: fn(&LocalBackend<SimDisk>) -> Result<T>) {
        let Some(store) = &self.store else { return };
        match operation(store) {
            Ok(_) => {
                assert!(!self.poisoned, "a poisoned store goes on as if nothing had happened");
                self.history.synced();
                self.mark(0);
            }
            Err(error) => {
                self.poisoned |= matches!(error, Error::Poisoned { .. });
                self.fail(error);
            }
        }
    }

    fn compact(&mut self) {
        let lsn = |run: &Run| run.store.as_ref().map(|store| store.stats().visible_lsn);
        let before = lsn(self);
        self.durably(LocalBackend::compact_now);
        // No caller commits meanwhile: these are moves.
        if lsn(self) > before {
            self.paths.insert("compaction");
        }
    }

    /// Hands commits in together.
    fn group(&mut self, path: &'static str, count: usize) {
        let Some(store) = self.store.clone() else { return };
        let before = store.stats();
        self.mark(count);
        let mut handed_in = Vec::new();
        for number in 0..count as u64 {
            let (id, data) = (70 + number, payload(1000 * self.counter + number, 500));
            let changes = Changes::from([(id, Some(data.clone()))]);
            let submitted = store.begin_transaction().and_then(|tx| {
                store.write_block_in_tx(tx, block(id, data))?;
                store.submit_transaction(tx, None)
            });
            handed_in.push((changes, submitted));
        }
        let answer = |(changes, submitted): (Changes, Result<CommitTicket>)| {
            (changes, submitted.and_then(CommitTicket::wait).map(|_| ()))
        };
        let answers: Vec<_> = handed_in.into_iter().map(answer).collect();
        let was_poisoned = self.poisoned;
        for (changes, answer) in answers {
            self.settle(changes, answer, was_poisoned);
        }
        self.mark(0);
        let after = store.stats();
        let is_one = (after.commits - before.commits, after.groups - before.groups);
        if is_one == (count as u64, 1) {
            self.paths.insert(path);
        }
        if after.zeroed_bytes > 0 {
            self.paths.insert("zero ahead");
        }
    }

    /// Commits writes of so many bytes, and deletes; an id of 0 is allocated.
    fn commit(&mut self, operations: Vec<(u64, Option<usize>)>) {
        let Some(store) = self.store.clone() else { return };
        self.mark(1);
        let mut changes = Changes::new();
        let groups = store.stats().groups;
        let result = self.attempt(&store, &operations, &mut changes);
        match result {
            Err(Error::BlockNotFound { .. }) if operations == [(u64::MAX, None)] => {}
            result => self.settle(changes, result, self.poisoned),
        }
        self.mark(0);
        let stats = store.stats();
        if stats.groups > groups {
            self.paths.insert("group of 1");
        }
        if stats.zeroed_bytes > 0 {
            self.paths.insert("zero ahead");
        }
    }

    /// Notes what became of a commit. Those of one group fail together, with one outcome.
    fn settle(&mut self, changes: Changes, answer: Result<()>, was_poisoned: bool) {
        let Err(error) = answer else {
            assert!(!self.poisoned, "a poisoned store takes a commit");
            self.history.acked(changes, self.durable);
            return;
        };
        match error {
            Error::Io { .. } => {
                assert!(!was_poisoned, "a poisoned store tries another commit");
                self.history.unknown(changes);
            }
            _ => self.history.refused(changes),
        }
        self.poisoned |=
            !matches!(error, Error::StorageFull { .. } | Error::ResourceExhausted { .. });
        self.fail(error);
    }

    fn attempt(
        &mut self,
        store: &LocalBackend<SimDisk>,
        operations: &[(u64, Option<usize>)],
        changes: &mut Changes,
    ) -> Result<()> {
        if let [(id, None)] = operations {
            changes.push((*id, None));
            return store.delete_block(BlockId(*id));
        }
        if let [(id @ 1.., Some(len))] = operations {
            let data = payload(self.counter, *len);
            changes.push((*id, Some(data.clone())));
            return store.write_block(block(*id, data)).map(|_| ());
        }
        let tx = store.begin_transaction()?;
        for (id, len) in operations {
            match len {
                Some(len) => {
                    let data = payload(self.counter + id, *len);
                    let id = store.write_block_in_tx(tx, block(*id, data.clone()))?.0;
                    changes.push((id, Some(data)));
                }
                None => {
                    store.delete_block_in_tx(tx, BlockId(*id))?;
                    changes.push((*id, None));
                }
            }
        }
        store.commit_transaction(tx)
    }

    /// As [`Run::whole`]; returns the operations, and has their paths noted.
    pub fn whole_recorded(&mut self, word: &str) -> Vec<Operation> {
        self.disk.record_operations();
        self.whole(word);
        let operations = self.disk.take_operations();
        let recycled = |operation: &Operation| {
            operation.kind == OperationKind::Rename
                && matches!(operation.name, Some(FileName::Segment(_)))
        };
        if operations.iter().any(recycled) {
            self.paths.insert("segment recycled");
        }
        operations
    }

    fn fail(&mut self, error: Error) {
        check_failure(&error);
        self.failures.push(error);
    }

    /// Stamps images with what a power cut may leave: `more` commits are on their way.
    fn mark(&self, more: usize) {
        let most = self.history.most() + more;
        self.disk.set_mark((most as u64) << 32 | self.history.floor() as u64);
    }
}

/// Reads a stamp: which numbers of commits a power cut may leave.
pub fn counts(mark: u64) -> std::ops::RangeInclusive<usize> {
    mark as u32 as usize..=(mark >> 32) as usize
}

/// Opens a store that must open.
pub fn reopen(word: &str, disk: &SimDisk) -> LocalBackend<SimDisk> {
    let store = LocalBackend::open_on(disk.clone(), options(word, LAST_SESSION));
    let store = store.unwrap_or_else(|error| panic!("O1: the store does not open: {error:?}"));
    check_files(&store, disk);
    store
}

/// Bytes that no other commit writes.
pub fn payload(seed: u64, len: usize) -> Bytes {
    let mut word = hash(&seed.to_le_bytes());
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        out.extend_from_slice(&(word >> 11).to_le_bytes());
    }
    out.truncate(len);
    out.into()
}
