//! Groups: commits that are written, and where asked for synced, together.
//!
//! Owns what goes through the core: a submission, what was decided about it, the group that it became a
//! member of, and how carrying that out went. Only the core makes groups; whoever carries one out changes
//! nothing in it.

use crate::block::Lsn;
use crate::error::{Error, PoisonCause, Result};
use crate::mvcc::batch::Batch;

/// A commit on its way, or a request to make earlier commits durable (a batch without operations).
#[derive(Debug)]
pub(crate) struct Submission<T> {
    pub(crate) batch: Batch,
    /// Whether it is acknowledged only once durable.
    pub(crate) durable: bool,
    /// Bytes it takes in the log.
    pub(crate) log_len: u64,
    /// Whom to tell.
    pub(crate) tag: T,
}

/// A submission with what was decided about it.
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
pub(crate) struct Group<T> {
    pub(super) number: u64,
    pub(crate) members: Vec<Member<T>>,
    /// Whether everything up to this group must be durable before it is published.
    pub(crate) sync: bool,
    /// The newest LSN when the group is done.
    pub(crate) last_lsn: Lsn,
    /// The newest LSN known durable when the group was formed; to be published, when it has landed itself and no
    /// later group.
    pub(crate) durable: Lsn,
    /// Whether another group was under way.
    pub(crate) follows: bool,
    pub(super) commit_count: usize,
    pub(super) move_count: usize,
}

impl<T> Group<T> {
    /// Which of all groups it is.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether none of the commits that it writes writes a block. What was refused is not written, and
    /// needs no space.
    pub(crate) fn only_frees_space(&self) -> bool {
        let mut written = self.members.iter().filter(|member| member.commit_lsn().is_some());
        written.all(|member| member.submission.batch.frees())
    }

    /// Commits of users with something to write.
    pub(crate) fn user_commit_count(&self) -> usize {
        self.commit_count - self.move_count
    }
}

/// How carrying out a group's write went.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Written, and synced if that was asked for.
    Done,
    /// Something was short before its first byte; nothing of the group is or will be in the log.
    Refused(Error),
    /// A write or sync failed: what is in the log is unknown.
    Failed(PoisonCause, Error),
}
