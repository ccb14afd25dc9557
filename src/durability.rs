//! Durability: the event that a commit waits for, and the failures that it then survives.

#[cfg(doc)]
use crate::backend::StorageBackend;

/// The event that comes before a commit is acknowledged.
///
/// The fate of acknowledged commits:
///
/// | level      | process killed | operating system crashes | power lost        |
/// |------------|----------------|--------------------------|-------------------|
/// | `Durable`  | survive        | survive                  | survive           |
/// | `Buffered` | survive        | a prefix survives        | a prefix survives |
///
/// `tests/durability.rs` has a test for each cell, here from left to right and down:
///
/// - `durable_commits_survive_a_kill`
/// - `durable_commits_survive_a_crash_of_the_system`
/// - `durable_commits_survive_a_power_cut`
/// - `buffered_commits_survive_a_kill`
/// - `of_buffered_commits_a_prefix_survives_a_crash_of_the_system`
/// - `of_buffered_commits_a_prefix_survives_a_power_cut`
///
/// The prefix ends at the last [`sync`](StorageBackend::sync), sync interval, durable commit
/// or [`close`](crate::LocalBackend::close) at the earliest
/// (`prefix_reaches_to_the_last_sync_and_durable_commit`). A store has a level for all its commits
/// ([`Options::durability`](crate::Options::durability)), and a commit may have one of its own:
/// [`Transaction::commit_with`](crate::Transaction::commit_with),
/// [`StorageBackend::write_block_with`], [`StorageBackend::delete_block_with`],
/// [`StorageBackend::apply_with`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// The commit is in the operating system's hands.
    Buffered,
    /// The commit and every earlier one would survive power loss.
    #[default]
    Durable,
}
