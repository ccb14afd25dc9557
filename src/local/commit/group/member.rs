//! Groups: commits that are written, and where asked for synced, together.
//!
//! Owns the values that pass through the core: a submission, its outcome, the group that it became
//! a member of, and the outcome of the group's write. Only the core makes groups; the leader that
//! writes a group changes nothing in it.

use crate::block::Lsn;
use crate::error::{Error, PoisonCause, Result};
use crate::mvcc::batch::Batch;

/// A submitted commit, or a request to make earlier commits durable (a batch without operations).
#[derive(Debug)]
pub(crate) struct Submission<T> {
    pub(crate) batch: Batch,
    /// Whether it is acknowledged only once durable.
    pub(crate) durable: bool,
    /// Bytes it takes in the log.
    pub(crate) log_len: u64,
    /// The way to answer its caller.
    pub(crate) tag: T,
}

/// A submission with its outcome.
#[derive(Debug)]
pub(crate) struct Member<T> {
    pub(crate) submission: Submission<T>,
    pub(crate) verdict: Result<Lsn>,
}

impl<T> Member<T> {
    /// The LSN of a commit that has something to write.
    pub(crate) fn commit_lsn(&self) -> Option<Lsn> {
        match &self.verdict {
            Ok(lsn) if !self.submission.batch.operations.is_empty() => Some(*lsn),
            _ => None,
        }
    }
}

/// Commits that are written, and where asked for synced, together.
#[derive(Debug)]
pub(crate) struct Group<T, W> {
    pub(super) number: u64,
    pub(crate) members: Vec<Member<T>>,
    /// Whether everything up to this group must be durable before it is published.
    pub(crate) sync: bool,
    /// The newest LSN when the group is done.
    pub(crate) last_lsn: Lsn,
    /// The newest LSN known durable when the group was formed; once its own write has ended, the
    /// newest of it and the groups before it.
    pub(crate) durable: Lsn,
    /// Whether another group was under way.
    pub(crate) follows: bool,
    /// Its write, from the layout on. `None` if it has nothing to write.
    pub(crate) write: Option<W>,
    pub(super) commit_count: usize,
    pub(super) move_count: usize,
}

impl<T, W> Group<T, W> {
    /// Whether none of the commits that it writes writes a block. A refused commit is not written,
    /// and needs no space.
    pub(crate) fn only_frees_space(&self) -> bool {
        let mut written = self.members.iter().filter(|member| member.commit_lsn().is_some());
        written.all(|member| member.submission.batch.takes_no_space())
    }

    /// Commits of users with something to write.
    pub(crate) fn user_commit_count(&self) -> usize {
        self.commit_count - self.move_count
    }
}

/// The outcome of a group write.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Written, and synced if that was asked for.
    Done,
    /// A shortage before its first byte; nothing of the group is or will be in the log.
    Refused(Error),
    /// A write or sync failed: the bytes in the log are unknown.
    Failed(PoisonCause, Error),
}
