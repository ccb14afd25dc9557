//! The contract, claim by claim. Each function opens a fresh store of the fixture, runs one check,
//! and panics with the claim's name when the backend breaks it.
//!
//! The modules `batches`, `tickets`, `ranges` and `levels` are about calls that a backend need not
//! offer. Where it answers [`Unsupported`](crate::Error::Unsupported), the check is passed over
//! with a note on standard error.
//!
//! Owns the list, [`with_claims!`](crate::with_claims): the functions here, [`all`] and
//! [`conformance_suite!`](crate::conformance_suite) are made from it.

use super::{Claim, Fixture, checks, run};

/// Calls the macro `$callback` with `$args`, then every claim: a module of `checks`, and in it the
/// claims. Each has the sentence of the contract that it proves.
#[macro_export]
#[doc(hidden)]
macro_rules! with_claims {
    ($callback:path, $args:tt) => {
        $callback! { $args
            blocks {
                /// A block is read back under the id it was written to, explicit or allocated.
                written_block_reads_back,
                /// A write to an id that exists replaces the whole block: payload and header.
                write_replaces_the_block,
                /// A write to `BlockId(0)` allocates an id, in a transaction too.
                write_to_id_zero_allocates,
                /// `BlockId(0)` is never found, never exists and cannot be deleted.
                id_zero_never_names_a_block,
                /// A deleted block is gone for reads and for `block_exists`.
                deleted_block_is_gone,
                /// Deleting a block that is not there is `BlockNotFound`.
                deleting_an_absent_block_is_not_found,
                /// Deleting what the transaction does not see is `BlockNotFound`; it goes on.
                deleting_an_absent_block_in_a_transaction_is_not_found,
                /// Reading a block that is not there is `BlockNotFound` with its id.
                reading_an_absent_block_is_not_found,
                /// An explicit id can be written again after a delete.
                deleted_block_can_be_written_again,
                /// A block without payload exists and counts.
                empty_payload_is_a_block,
                /// Type, version and flags come back as given.
                every_header_field_round_trips,
                /// A header that does not describe its payload is `InvalidArgument`.
                header_that_lies_is_refused,
                /// The same in a transaction, which goes on.
                header_that_lies_is_refused_in_a_transaction,
                /// Every id from 1 to `u64::MAX` names a block like any other.
                ids_of_any_value_are_ordinary,
                /// Payloads are opaque, around every page and sector boundary.
                payloads_of_any_bytes_and_length_round_trip,
                /// A block of 1 MiB comes back whole.
                large_block_round_trips,
                /// Bytes that were read stay the same, even when the block changes and the store
                /// closes.
                payload_in_hand_never_changes,
            }
            atomic {
                /// Write then delete in one transaction deletes.
                write_then_delete_deletes,
                /// Delete then write in one transaction writes.
                delete_then_write_writes,
                /// Of several writes to one id the last wins.
                last_write_of_a_transaction_wins,
                /// A commit applies creations, overwrites and deletes together.
                commit_applies_every_operation,
                /// A transaction without operations commits and rolls back.
                empty_transaction_commits,
                /// Rolled back operations never happened.
                rollback_leaves_no_trace,
                /// A rollback takes back its own operations, never what others committed meanwhile.
                rollback_leaves_others_work_alone,
                /// A transaction of a thousand blocks and a megabyte is one commit.
                large_transaction_commits_whole,
            }
            isolation {
                /// Readers outside a transaction do not see its pending writes.
                readers_never_see_pending_writes,
                /// Readers outside a transaction do not see its pending deletes.
                readers_never_see_pending_deletes,
                /// Transactions do not see what others have pending.
                transactions_never_see_each_others_pending_operations,
                /// A transaction reads its own writes, the newest of them.
                transaction_reads_its_own_writes,
                /// A transaction does not see what it deleted.
                transaction_sees_its_own_deletes,
                /// An own write hides later commits of others.
                own_write_hides_newer_commits,
                /// The snapshot is as of begin, not as of the first read.
                snapshot_is_taken_at_begin,
                /// A second read in a transaction finds what the first did.
                reads_in_a_transaction_repeat,
                /// All reads of a transaction, of any blocks, are on one snapshot.
                snapshot_spans_all_blocks,
                /// Deletes after begin are not seen.
                blocks_deleted_after_begin_are_still_read,
                /// Creations after begin are not seen.
                blocks_created_after_begin_are_not_seen,
                /// Many snapshots of different ages each keep their own version.
                every_open_snapshot_keeps_its_version,
                /// A snapshot holds everything that was acknowledged before its begin.
                begin_sees_all_that_was_committed_before,
            }
            conflicts {
                /// Write against a committed write: `Conflict`.
                write_after_a_concurrent_write_conflicts,
                /// Write against a committed delete: `Conflict`.
                write_after_a_concurrent_delete_conflicts,
                /// Delete against a committed write: `Conflict`.
                delete_after_a_concurrent_write_conflicts,
                /// Delete against a committed delete: `Conflict`.
                delete_after_a_concurrent_delete_conflicts,
                /// Two transactions create the same explicit id: the second commit is refused.
                creating_the_same_id_twice_conflicts,
                /// A block that others created and deleted since begin has changed.
                block_that_came_and_went_conflicts,
                /// A block conflicts because it changed, even if its bytes do not differ.
                rewriting_the_same_bytes_conflicts,
                /// The first to commit wins, in any order of writes.
                first_committer_wins_not_first_writer,
                /// Of several writers of one block all but the first to commit are refused.
                only_one_of_many_writers_wins,
                /// Writes and deletes outside transactions count as commits for others.
                single_operation_beats_an_open_transaction,
                /// A refused commit changes nothing, not even blocks that no other transaction
                /// touched.
                conflict_changes_nothing,
                /// A refused transaction is rolled back; running it again can win.
                conflict_rolls_the_transaction_back,
                /// `Conflict` names the block, the snapshot and the commit that won.
                conflict_names_the_block_and_the_commit,
                /// A rolled back transaction conflicts with none.
                rolled_back_work_never_conflicts,
                /// A commit before the begin is no conflict.
                work_committed_before_begin_never_conflicts,
                /// Transactions on different blocks all commit, in any order.
                disjoint_transactions_never_conflict,
                /// Only what a transaction wrote can conflict, not what it read.
                reading_what_others_change_never_conflicts,
                /// A single write or delete passes by pending transactions.
                single_operations_never_conflict,
                /// A single write never conflicts, with eight threads on one block.
                single_writes_to_one_block_never_conflict,
            }
            states {
                /// Commit twice: `TransactionNotActive`, and nothing happens.
                commit_twice_is_an_error,
                /// Commit after rollback: `TransactionNotActive`, and nothing happens.
                commit_after_rollback_is_an_error,
                /// Rollback after commit: `TransactionNotActive`, and the commit stands.
                rollback_after_commit_is_an_error,
                /// Rollback twice is fine.
                rollback_twice_is_fine,
                /// An id that was never handed out is `TransactionNotFound`, in every call.
                unknown_transaction_is_not_found,
                /// After its end, a transaction answers `TransactionNotActive` with how it ended.
                ended_transaction_refuses_every_operation,
                /// An operation that fails leaves the transaction as it was.
                failed_operation_does_not_end_the_transaction,
                /// Transaction ids are handed out once.
                transaction_ids_are_never_reused,
                /// A hundred thousand finished transactions leave nothing behind.
                finished_transactions_cost_no_memory,
                /// Older versions are dropped with the last snapshot that can see them.
                versions_are_kept_only_for_open_snapshots,
                /// Two threads work in one transaction by its id.
                transaction_is_shared_by_threads,
                /// Of two commits at once, one is acknowledged.
                one_of_two_racing_commits_wins,
                /// Of a commit and a rollback at once, one is acknowledged and decides.
                commit_or_rollback_wins_the_race,
                /// A write that was acknowledged is in the commit that it races with.
                acknowledged_write_is_in_the_racing_commit,
                /// Eight threads begin and roll back thousands of transactions without a trace.
                storm_of_begins_and_ends_leaves_nothing,
            }
            ids {
                /// Ids are allocated from 1 up without gaps.
                allocation_is_dense_and_increasing,
                /// The allocator stays above explicit ids.
                allocation_stays_above_explicit_ids,
                /// A transaction is never allocated an id that it wrote itself.
                allocation_passes_over_the_transactions_own_ids,
                /// Ids that were named and not committed change nothing: rolled back, refused,
                /// still open.
                names_that_are_not_committed_change_nothing,
                /// Open transactions are allocated different ids.
                open_transactions_never_share_an_allocated_id,
                /// The id of a deleted block is not allocated again.
                deleted_ids_are_not_allocated_again,
                /// After `u64::MAX`, ids are allocated that no block has.
                allocation_goes_on_below_the_top,
                /// Eight threads are allocated different ids, without gaps.
                threads_allocate_distinct_ids,
            }
            stats {
                /// A new store holds nothing.
                new_store_is_empty,
                /// Totals are true after each write, overwrite, delete, rollback and conflict.
                totals_follow_every_change,
                /// Counters count committed work.
                counters_count_what_happened,
                /// `open_transactions` is true.
                open_transactions_are_counted,
                /// Every commit takes a later LSN, across reopen.
                every_commit_takes_a_later_lsn,
                /// After `sync`, every visible commit is durable.
                sync_makes_every_commit_durable,
                /// After any mix of operations the totals equal a scan.
                totals_equal_a_scan_after_any_mix,
            }
            threads {
                /// Single reads never see the second block of a commit without the first.
                commits_appear_whole_to_single_reads,
                /// A snapshot never holds half a commit.
                commits_appear_whole_to_transactions,
                /// A snapshot never holds half of a delete-and-create.
                blocks_appear_and_vanish_together,
                /// No reader sees a block go back to an older version.
                reads_never_go_back,
                /// A commit acknowledged to one thread is seen by all.
                acknowledged_commits_are_visible_to_every_reader,
                /// Increments from eight threads, retried on `Conflict`, add up.
                no_update_is_lost,
                /// Transfers between blocks keep their sum in every snapshot.
                transfers_keep_the_sum,
                /// Transactions of eight threads on different blocks all commit.
                disjoint_threads_all_commit,
                /// Of transactions that race for one block exactly one commits.
                one_of_many_racing_transactions_wins,
                /// Of racing deletes of one block exactly one is acknowledged.
                each_block_is_deleted_once,
            }
            batches {
                /// A batch is one commit, and answers the ids of its writes in order.
                batch_is_one_commit,
                /// Within a batch the last operation on an id wins; write then delete leaves
                /// nothing.
                last_operation_of_a_batch_wins,
                /// A batch with an operation that cannot be is refused whole.
                batch_is_refused_whole,
                /// `read_blocks` answers in the order of the ids, with the first error.
                many_blocks_are_read_in_the_order_of_their_ids,
            }
            tickets {
                /// A ticket answers once its commit is visible, and tells that commit's LSN or
                /// none.
                ticket_answers_when_its_commit_is_visible,
                /// The submissions of one thread commit in that order.
                tickets_of_one_thread_keep_their_order,
                /// A commit that lost says so at its ticket.
                ticket_of_a_lost_commit_says_conflict,
                /// A commit goes on when its ticket is dropped.
                dropped_ticket_does_not_lose_its_commit,
                /// A ticket's callback is called once, with the result.
                callback_is_called_once,
                /// After `sync_to`, the commit is durable; an LSN of the future is refused.
                sync_to_makes_a_commit_durable,
                /// A commit that asks to be durable is when it is acknowledged.
                commit_may_ask_for_durability_itself,
            }
            ranges {
                /// A range is of the snapshot, own writes and deletes merged.
                range_lists_what_the_transaction_sees,
                /// Both ends belong to a range, up to `u64::MAX`.
                range_holds_both_its_ends,
                /// Rolling back to a savepoint undoes what came after it; it stays, later ones go.
                savepoints_nest,
                /// A savepoint of another transaction is refused and undoes nothing.
                savepoint_belongs_to_its_transaction,
            }
            levels {
                /// Of two transactions that each write what the other read, one is refused.
                serializable_refuses_write_skew,
                /// A range that was listed is validated.
                serializable_refuses_phantoms,
                /// Absence that was seen is validated.
                serializable_refuses_what_was_read_as_absent,
                /// The reads of a read-only transaction are never made untrue.
                serializable_refuses_the_read_only_anomaly,
                /// Read committed sees the newest commits and never conflicts.
                read_committed_sees_newer_commits,
            }
            reopen {
                /// Everything committed is there after reopen.
                committed_blocks_survive_reopen,
                /// An empty store is empty after reopen.
                empty_store_reopens_empty,
                /// Deleted blocks stay deleted.
                deletes_survive_reopen,
                /// Transactions pending at close are gone.
                pending_work_is_gone_after_reopen,
                /// Rolled back and refused changes do not come back.
                refused_work_is_gone_after_reopen,
                /// Transactions of several blocks are there whole.
                transactions_are_whole_after_reopen,
                /// A thousand blocks and megabytes are there after reopen.
                large_commits_survive_reopen,
                /// Header fields are there after reopen.
                header_fields_survive_reopen,
                /// The ids of deleted blocks are not allocated again after reopen.
                deleted_ids_are_not_allocated_again_after_reopen,
                /// Many lives of a store add up.
                many_reopens_lose_nothing,
                /// Commits covered by `sync` survive a crash.
                synced_commits_survive_a_crash,
                /// Where acknowledged means durable, everything acknowledged survives a crash.
                acknowledged_commits_survive_a_crash,
                /// A prefix of the commits survives a crash, each whole.
                crash_keeps_whole_commits_in_order,
                /// Transactions pending at a crash are gone.
                crash_forgets_pending_work,
            }
            random {
                /// Random operations, several transactions and reopens give what the model gives.
                random_operations_match_the_model,
                /// Threads that each own their blocks never disturb each other.
                threads_on_their_own_blocks_match_their_models,
            }
        }
    };
}

macro_rules! claim_functions {
    ({} $($room:ident { $($(#[$doc:meta])* $claim:ident,)+ })+) => {
        $($(
            $(#[$doc])*
            ///
            /// # Panics
            /// If the backend breaks the claim.
            pub fn $claim<F: Fixture>(fixture: &F) {
                run(stringify!($claim), fixture, checks::$room::$claim);
            }
        )+)+

        /// Returns every claim, in the order of this page.
        pub fn all<F: Fixture>() -> Vec<Claim<F>> {
            vec![$($(Claim { name: stringify!($claim), check: $claim },)+)+]
        }
    };
}

with_claims! { claim_functions, {} }
