//! The oracle: whether what a store holds is what its threads were told, and a prefix of it.
//!
//! Shares no code with the engine but its public interface. Holds:
//!
//! 1. Every byte of every block is what some commit wrote there.
//! 2. Each thread's blocks are as after a number of its commits, in order, refused ones left out. A
//!    commit that was acknowledged durably before the moment that counts is among them.
//! 3. Across threads the commits that are there are all up to some LSN, none above it.
//! 4. Within a session nothing is acknowledged after a commit whose outcome is unknown.

use aegis_blocks::{BlockId, Durability, LocalBackend, Lsn, StorageBackend};

use crate::workload::{Commit, Outcome, Record, State, THREADS, counter, owner, payload};

/// What was counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    /// Acknowledged durably before the moment that counts: all of them are there.
    pub kept: u64,
    /// Acknowledged, but too late or buffered only, and not there.
    pub lost_lawfully: u64,
    /// Of unknown outcome, and there as a whole.
    pub unknown_kept: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Summary) {
        self.kept += other.kept;
        self.lost_lawfully += other.lost_lawfully;
        self.unknown_kept += other.unknown_kept;
    }
}

/// States of a store with nothing in it.
pub fn nothing() -> Vec<State> {
    vec![State::new(); THREADS as usize]
}

/// What the store holds, by thread; every payload is checked to the last byte.
pub fn scan(store: &LocalBackend) -> Vec<State> {
    let mut found = nothing();
    let (mut blocks, mut bytes) = (0, 0);
    for id in store.ids(..).expect("the ids of an open store") {
        let block = store.read_block(id).expect("a block that is listed");
        let tag = block.data.first_chunk().map(|tag| u64::from_le_bytes(*tag));
        let tag = tag.unwrap_or_else(|| panic!("block {id} holds {:?}", block.data));
        assert!(block.data == payload(id.0, tag), "block {id} holds bytes that no thread wrote");
        (blocks, bytes) = (blocks + 1, bytes + block.data.len() as u64);
        found[owner(id.0) as usize].insert(id.0, tag);
    }
    let stats = store.stats();
    assert_eq!((stats.total_blocks, stats.total_bytes), (blocks, bytes), "stats against a scan");
    assert!(!store.block_exists(BlockId(0)).expect("an answer"), "block 0 never exists");
    found
}

/// Compares what was found with the records of the last session. `counts` tells from its moment
/// whether an acknowledgement was published in time.
pub fn check(found: &[State], records: &[Record], counts: impl Fn(u64) -> bool) -> Summary {
    let mut summary = Summary::default();
    let (mut newest_kept, mut oldest_lost) = (Lsn(0), Lsn(u64::MAX));
    for (thread, (record, found)) in (0..).zip(records.iter().zip(found)) {
        let kept = kept_count(thread, record, found);
        let mut state = record.base.clone();
        let mut is_unknown = false;
        for (number, (outcome, moment)) in (1..).zip(&record.outcomes) {
            let is_kept = number <= kept;
            if is_kept && *outcome != Outcome::Refused {
                Commit::new(record.session, thread, number).apply(&mut state);
            }
            match outcome {
                Outcome::Acknowledged { lsn, durability } => {
                    assert!(!is_unknown, "thread {thread}: commit {number} came after an unknown");
                    let in_time = *durability == Durability::Durable && counts(*moment);
                    assert!(
                        is_kept || !in_time,
                        "thread {thread}: commit {number} at {lsn} of session {} was acknowledged \
                         and is lost; {kept} are there",
                        record.session
                    );
                    summary.kept += u64::from(in_time);
                    summary.lost_lawfully += u64::from(!is_kept);
                    if is_kept {
                        newest_kept = newest_kept.max(*lsn);
                    } else {
                        oldest_lost = oldest_lost.min(*lsn);
                    }
                }
                Outcome::Refused => assert!(number != kept, "a refused commit is there"),
                Outcome::Unknown => {
                    is_unknown = true;
                    summary.unknown_kept += u64::from(is_kept);
                }
            }
        }
        assert!(
            state == *found,
            "thread {thread}, after {kept} commits of session {}: the store holds {found:?}, not \
             {state:?}",
            record.session
        );
    }
    assert!(newest_kept < oldest_lost, "{newest_kept} is there and {oldest_lost} is not");
    summary
}

/// How many commits of the session the thread's counting block says are there.
fn kept_count(thread: u64, record: &Record, found: &State) -> u64 {
    let counter = counter(thread);
    let (was, is) = (record.base.get(&counter), found.get(&counter));
    if was == is {
        return 0;
    }
    let tag = is.unwrap_or_else(|| panic!("thread {thread}: its counting block is gone"));
    let (session, number) = (tag >> 24, tag & 0xFF_FFFF);
    assert_eq!(session, record.session, "thread {thread}: a commit of another session came back");
    assert!(
        number <= record.outcomes.len() as u64,
        "thread {thread}: no step made commit {number}"
    );
    number
}
