//! Commits: from a caller's batch to the answer that it is durable.
//!
//! The way of a commit:
//!
//! 1. *Submit.* The caller takes its share of the [`budget`] and puts the commit in the queue
//!    ([`log_handle`]).
//! 2. *Lead.* One thread at a time holds the commit lock and runs the steps of the [`log`]: a
//!    caller, or with many callers one of the [`workers`] ([`commit_lock`]).
//! 3. *Form.* The leader forms a [`group`]: it validates each member and gives it an LSN.
//! 4. *Lay out.* It lays the frames of the group out ([`append`]) in memory ([`staging`]).
//! 5. *Write.* It writes and syncs these bytes ([`log_write`]), with many callers without the lock
//!    ([`unlocked_work`]).
//! 6. *Publish.* In LSN order the index gets the group's changes ([`log`]).
//! 7. *Answer.* The callers are woken, with many callers without the lock ([`unlocked_work`]).
//!
//! One [`Group`](group::Group) makes this way, from 3 to 7.
//!
//! Lock order: the commit lock, the turn to sync ([`shared`]), the moment of publication and the
//! shards of the index, a ticket. The call to the flusher is taken last. [`phases`] counts where
//! the time goes.

pub(crate) mod append;
pub(crate) mod budget;
pub(crate) mod commit_lock;
pub(crate) mod group;
pub(crate) mod log;
pub(crate) mod log_handle;
pub(crate) mod log_write;
pub(crate) mod phases;
pub(crate) mod shared;
pub(crate) mod staging;
pub(crate) mod unlocked_work;
pub(crate) mod workers;
