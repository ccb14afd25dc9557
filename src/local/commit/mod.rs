//! Commits: from a caller's batch to the answer that it is durable.
//!
//! Owns the way of a commit. The caller submits it to the queue ([`driver`]) and takes its share of the memory for
//! commits in flight ([`budget`]). The thread that runs the [`log`] forms groups ([`group`]), lays them out
//! ([`append`]), writes and syncs them ([`flight`], [`errand`]), publishes them in the index and answers their
//! callers. [`handover`] decides which thread that is; [`phases`] counts where the time goes.

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
