//! Comparing a store with the journal: each thread's blocks are what its steps made, up to one
//! between the newest step that must survive and the one that was under way. The counter is the sum
//! of what all counted.

use std::collections::BTreeMap;

use aegis_blocks::io::Disk;
use aegis_blocks::{Block, BlockId, LocalBackend, StorageBackend, StorageExt};

use crate::journal::{Journal, Told};
use crate::plan::{Blocks, COUNTER, Key, Kind, Step, THREADS_MAX, count_of, own_id, written_by};

/// A thread's part of a store.
#[derive(Debug, Clone, Default)]
pub struct Part {
    pub blocks: Blocks,
    /// The ids of allocated blocks, by the step that had them allocated.
    pub ids: BTreeMap<u64, BlockId>,
    /// Steps made so far, and those of them that counted.
    pub steps: u64,
    counted: u64,
}

/// Walks a whole store.
fn walk<D: Disk>(store: &LocalBackend<D>, journal: &Journal) -> (Vec<Part>, u64) {
    let mut parts = vec![Part::default(); THREADS_MAX as usize];
    let (mut counter, mut count, mut bytes) = (0, 0, 0);
    for block in store.blocks(..).expect("a walk begins") {
        let block: Block = block.expect("every block is read");
        let id = block.header.block_id;
        journal.step();
        (count, bytes) = (count + 1, bytes + block.data.len() as u64);
        if id == COUNTER {
            counter = count_of(&block);
            continue;
        }
        let Some((thread, key, number)) = written_by(&block.data) else {
            panic!("no step wrote the {} bytes of block {id}", block.data.len());
        };
        let part = &mut parts[thread as usize];
        match key {
            Key::Own(n) => assert_eq!(id, own_id(thread, n), "a block stands under another's id"),
            Key::Allocated(step) => assert_eq!(part.ids.insert(step, id), None, "allocated twice"),
        }
        part.blocks.insert(key, number);
    }
    let stats = store.stats();
    assert_eq!((stats.total_blocks, stats.total_bytes), (count, bytes), "the totals are true");
    (parts, counter)
}

/// Compares a store with the journal. Returns each thread's part, and writes down what was in
/// doubt.
///
/// # Panics
/// If anything that was acknowledged is lost, or anything is there that no step made.
pub fn compare<D: Disk>(store: &LocalBackend<D>, journal: &Journal, seed: u64) -> Vec<Part> {
    let (mut parts, counter) = walk(store, journal);
    for (thread, part) in (0..).zip(&mut parts) {
        settle(journal, seed, thread, part);
    }
    assert_eq!(counter, parts.iter().map(|part| part.counted).sum::<u64>(), "all that was counted");
    parts
}

/// Finds the step up to which a thread's blocks are what it made, and begins the next life behind
/// it.
fn settle(journal: &Journal, seed: u64, thread: u64, part: &mut Part) {
    let (floor, told) = (journal.durable(thread), journal.told_count(thread));
    let answers = journal.told_before(thread, told + 1);
    let mut model = Blocks::new();
    let mut agreed = None;
    for number in 0..=told + 1 {
        // The step that was under way is there as a whole, or not at all.
        let done = |answer: &Told| *answer == Told::Done;
        if number > 0 && answers.get(number as usize - 1).is_none_or(done) {
            let step = Step::new(seed, thread, number);
            step.apply(&mut model);
            part.counted += u64::from(step.kind == Kind::Count);
        }
        if number >= floor && model == part.blocks {
            agreed = Some(number);
            break;
        }
    }
    let Some(agreed) = agreed else {
        panic!(
            "thread {thread}: after none of the steps {floor} to {} are its blocks {:?}",
            told + 1,
            part.blocks
        );
    };
    for number in agreed + 1..=told + 1 {
        journal.tell(thread, number, Told::Refused);
    }
    if agreed == told + 1 {
        journal.tell(thread, agreed, Told::Done);
    }
    part.steps = agreed.max(told + 1);
    journal.begin(thread, part.steps + 1);
}
