//! The workload: what each writing thread commits, decided by nothing but its number, the session's
//! and the commit's.
//!
//! Owns ids, tags and payloads. Each thread has [`OWN_IDS`] blocks of its own. The first one
//! counts: every commit writes it, so it tells which commit of its thread is the last in the store.
//! The other blocks that a commit touches are written or deleted. A tag names session and commit,
//! and a payload is made from tag and id, so no two are alike.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use aegis_blocks::testkit::Rng;
use aegis_blocks::{
    Block, BlockId, BlockType, Durability, Error, LocalBackend, Lsn, PoisonCause, Result,
    StorageBackend, StorageExt,
};
use bytes::Bytes;

pub const THREADS: u64 = 8;
pub const OWN_IDS: u64 = 12;

/// What a thread has in the store: for each block the tag that its payload is made from.
pub type State = BTreeMap<u64, u64>;

/// One commit of a thread.
pub struct Commit {
    pub tag: u64,
    pub durability: Durability,
    /// Ids, and whether the block is written or deleted.
    changes: Vec<(u64, bool)>,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged {
        lsn: Lsn,
        durability: Durability,
    },
    /// Nothing of it was written.
    Refused,
    Unknown,
}

/// What one thread did in a session.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub session: u64,
    /// What was there before.
    pub base: State,
    /// Of its first commit, its second and so on; with the moment at which each was published.
    pub outcomes: Vec<(Outcome, u64)>,
}

/// The block of a thread that counts its commits.
pub fn counter(thread: u64) -> u64 {
    1 + thread * OWN_IDS
}

/// The thread that a block belongs to.
pub fn owner(id: u64) -> u64 {
    (id - 1) / OWN_IDS
}

impl Commit {
    /// The `number`-th commit, from 1 on, of a thread in a session.
    pub fn new(session: u64, thread: u64, number: u64) -> Commit {
        let tag = session << 24 | number;
        let mut rng = Rng::new(tag << 8 | thread);
        let durability = if rng.once_in(5) { Durability::Buffered } else { Durability::Durable };
        let count = if rng.once_in(3) { 0 } else { rng.below(4) };
        let mut changes = vec![(counter(thread), true)];
        for _ in 0..count {
            let id = counter(thread) + 1 + rng.below(OWN_IDS - 1);
            if !changes.iter().any(|(other, _)| *other == id) {
                changes.push((id, !rng.once_in(4)));
            }
        }
        Commit { tag, durability, changes }
    }

    /// What it makes of a state.
    pub fn apply(&self, state: &mut State) {
        for (id, written) in &self.changes {
            if *written {
                state.insert(*id, self.tag);
            } else {
                state.remove(id);
            }
        }
    }

    /// Commits it.
    pub fn carry_out(&self, store: &LocalBackend) -> Result<Lsn> {
        let tx = store.begin()?;
        for (id, written) in &self.changes {
            let id = BlockId(*id);
            if *written {
                let data = payload(id.0, self.tag);
                tx.write(Block::new(id, BlockType::DocumentData, data))?;
            } else if tx.exists(id)? {
                tx.delete(id)?;
            }
        }
        let lsn = tx.commit_with(self.durability)?;
        Ok(lsn.unwrap_or_else(|| store.stats().visible_lsn))
    }
}

/// A payload: tag and id, then bytes made from them; a few are long.
pub fn payload(id: u64, tag: u64) -> Bytes {
    let mut rng = Rng::new(tag << 16 ^ id);
    let len = match rng.below(30) {
        0 => rng.below(30_000),
        1..=10 => 0,
        _ => rng.below(900),
    };
    [&tag.to_le_bytes()[..], &id.to_le_bytes(), &rng.bytes(len as usize)].concat().into()
}

/// The outcome that an answer stands for.
pub fn outcome(answer: Result<Lsn>, durability: Durability) -> Outcome {
    match answer {
        Ok(lsn) => Outcome::Acknowledged { lsn, durability },
        Err(Error::Poisoned { cause: PoisonCause::ThreadPanicked }) => panic!("a thread panicked"),
        Err(
            Error::StorageFull { .. } | Error::ResourceExhausted { .. } | Error::Poisoned { .. },
        ) => Outcome::Refused,
        Err(Error::Io { .. }) => Outcome::Unknown,
        Err(error) => panic!("no commit may answer {error:?}"),
    }
}

/// Lets all threads commit until `seen`, which is told of each answer as it comes, tells them to
/// stop. The number that it returns with that is the moment from which on the answer counts.
pub fn run(
    store: &LocalBackend,
    session: u64,
    states: Vec<State>,
    seen: impl Fn(u64, &Result<Lsn>) -> (u64, ControlFlow<()>) + Sync,
) -> Vec<Record> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .zip(states)
            .map(|(thread, base)| {
                let seen = &seen;
                scope.spawn(move || {
                    let mut record = Record { session, base, outcomes: Vec::new() };
                    for number in 1.. {
                        let commit = Commit::new(session, thread, number);
                        let answer = commit.carry_out(store);
                        let (moment, go_on) = seen(thread, &answer);
                        record.outcomes.push((outcome(answer, commit.durability), moment));
                        if go_on.is_break() {
                            break;
                        }
                    }
                    record
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a writing thread")).collect()
    })
}
