//! Commits: from a caller's batch to the answer that it is durable.
//!
//! Owns the way of a commit:
//!
//! 1. The caller takes its share of the memory for commits in flight ([`budget`]) and submits the
//!    commit to the queue ([`driver`]).
//! 2. One thread at a time leads: it holds the commit lock and runs the [`log`]. It is a caller, or
//!    with many callers a worker ([`handover`]).
//! 3. The leader forms a group ([`group`]) and lays it out ([`append`]) in memory ([`staging`]).
//! 4. It writes and syncs the group, with many callers without the lock ([`flight`], [`errand`]).
//! 5. It publishes the group in the index, and answers the callers ([`log`], [`errand`]).
//!
//! [`phases`] counts where the time goes.

pub(crate) mod append;
pub(crate) mod budget;
pub(crate) mod driver;
pub(crate) mod errand;
pub(crate) mod flight;
pub(crate) mod group;
pub(crate) mod handover;
pub(crate) mod log;
pub(crate) mod phases;
pub(crate) mod shared;
pub(crate) mod staging;
