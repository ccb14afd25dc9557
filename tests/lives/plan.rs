//! What the threads do: the `n`th step of a thread follows from seed, thread and `n`. So the
//! journal needs one byte a step to say what a store must hold.
//!
//! | step      | what                                                                            |
//! |-----------|---------------------------------------------------------------------------------|
//! | write     | one block of the thread's own, outside a transaction                            |
//! | delete    | one block of the thread's own                                                   |
//! | batch     | several blocks as a batch                                                       |
//! | transaction | writes and deletes of several blocks                                          |
//! | large     | blocks of 20 KiB to 2 MiB each, together up to 8 MiB                            |
//! | count     | a counter that all threads share, and a block of the thread's own, by `transact` |
//! | allocate  | a block whose id the store chooses                                              |
//! | release   | deletes the oldest of those                                                     |
//!
//! A block is as long as id and step say, whatever the options: one that is over a limit is
//! refused.

use std::collections::BTreeMap;

use aegis_blocks::testkit::Rng;
use aegis_blocks::{Block, BlockId, BlockType};

/// Threads that a life has at most.
pub const THREADS_MAX: u64 = 6;
/// Blocks of a thread's own with an id that the thread chooses.
const OWN_BLOCKS: u64 = 60;
/// The ids of one thread.
const OWN_IDS: u64 = 1 << 20;
/// The block that all threads count in.
pub const COUNTER: BlockId = BlockId(u32::MAX as u64);

/// What a block is known by: its id, or the step that had its id allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Own(u64),
    Allocated(u64),
}

/// The step that wrote each block of a thread.
pub type Blocks = BTreeMap<Key, u64>;

/// How the changes of a step are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Single,
    Batch,
    Transaction,
    Count,
    Allocate,
    Release,
}

/// One step: changes that are one commit. `false` deletes, if the block is there.
#[derive(Debug, Clone)]
pub struct Step {
    pub thread: u64,
    pub number: u64,
    pub kind: Kind,
    pub changes: Vec<(Key, bool)>,
    large: bool,
}

impl Step {
    pub fn new(seed: u64, thread: u64, number: u64) -> Step {
        let mut rng = Rng::new(seed ^ (thread << 56) ^ number);
        let own = |rng: &mut Rng| Key::Own(rng.below(OWN_BLOCKS));
        let several = |rng: &mut Rng, count: u64, writes: u64| -> Vec<(Key, bool)> {
            (0..count).map(|_| (own(rng), rng.below(100) < writes)).collect()
        };
        let kind = rng.below(100);
        let (kind, changes, large) = match kind {
            0..40 => (Kind::Single, several(&mut rng, 1, 75), false),
            40..55 => {
                let count = 2 + rng.below(20);
                (Kind::Batch, several(&mut rng, count, 100), false)
            }
            55..75 => {
                let count = 2 + rng.below(8);
                (Kind::Transaction, several(&mut rng, count, 75), false)
            }
            75..79 => {
                let count = 1 + rng.below(12);
                (Kind::Batch, several(&mut rng, count, 100), true)
            }
            79..90 => (Kind::Count, several(&mut rng, 1, 100), false),
            90..96 => (Kind::Allocate, vec![(Key::Allocated(number), true)], false),
            _ => (Kind::Release, Vec::new(), false),
        };
        Step { thread, number, kind, changes, large }
    }

    /// What becomes of a thread's blocks.
    pub fn apply(&self, blocks: &mut Blocks) {
        if self.kind == Kind::Release
            && let Some(key) = oldest_allocated(blocks)
        {
            blocks.remove(&key);
        }
        for (key, writes) in &self.changes {
            match writes {
                true => blocks.insert(*key, self.number),
                false => blocks.remove(key),
            };
        }
    }

    /// What the step writes under a key.
    pub fn payload(&self, key: Key) -> Vec<u8> {
        payload(self.thread, key, self.number, self.large)
    }

    pub fn block(&self, key: Key) -> Block {
        let id = match key {
            Key::Own(n) => own_id(self.thread, n),
            Key::Allocated(_) => BlockId(0),
        };
        Block::new(id, BlockType::TableData, self.payload(key))
    }
}

/// What a release deletes.
pub fn oldest_allocated(blocks: &Blocks) -> Option<Key> {
    blocks.keys().copied().find(|key| matches!(key, Key::Allocated(_)))
}

/// The id of a thread's own block.
pub fn own_id(thread: u64, n: u64) -> BlockId {
    BlockId(1 + thread * OWN_IDS + n)
}

/// Thread, key, step and length, then bytes made from them.
fn payload(thread: u64, key: Key, number: u64, large: bool) -> Vec<u8> {
    let (kind, n) = match key {
        Key::Own(n) => (0, n),
        Key::Allocated(n) => (1, n),
    };
    let mut rng = Rng::new(thread << 58 ^ kind << 57 ^ n << 32 ^ number);
    let len = match (large, rng.below(20)) {
        (true, 0) => 20_000 + rng.below(2 << 20),
        (true, _) => 20_000 + rng.below(600_000),
        (false, 0) => rng.below(60_000),
        (false, 1..4) => rng.below(9000),
        (false, _) => rng.below(500),
    };
    let words = [thread, kind, n, number, u64::from(large)];
    let mut out: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    out.extend_from_slice(&rng.bytes(len as usize));
    out
}

/// The thread, key and step that wrote these bytes, if one did.
pub fn written_by(data: &[u8]) -> Option<(u64, Key, u64)> {
    let word = |n: usize| Some(u64::from_le_bytes(data.get(8 * n..8 * n + 8)?.try_into().ok()?));
    let (thread, kind, n, number) = (word(0)?, word(1)?, word(2)?, word(3)?);
    let key = if kind == 0 { Key::Own(n) } else { Key::Allocated(n) };
    (data == payload(thread, key, number, word(4)? == 1)).then_some((thread, key, number))
}

pub fn counter_block(count: u64) -> Block {
    Block::new(COUNTER, BlockType::Metadata, count.to_le_bytes().to_vec())
}

pub fn count_of(block: &Block) -> u64 {
    u64::from_le_bytes(block.data[..].try_into().expect("the counter has 8 bytes"))
}
