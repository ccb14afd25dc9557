//! The flaws that can be planted in the reference backend, each with the claims that must catch it.
//!
//! Owns [`Flaw`], the list [`ALL`], and one `#[test]` per flaw.

macro_rules! flaws {
    ($($(#[$doc:meta])* $flaw:ident => [$($claim:ident),+ $(,)?],)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Flaw { $($(#[$doc])* $flaw,)+ }

        pub const ALL: &[(Flaw, &[&str])] =
            &[$((Flaw::$flaw, &[$(stringify!($claim)),+])),+];

        /// Each flaw is caught by the checks that its line names.
        #[allow(non_snake_case, reason = "the tests are called as the flaws are")]
        mod caught {
            $(#[test] fn $flaw() {
                crate::assert_caught(super::Flaw::$flaw, &[$(stringify!($claim)),+]);
            })+
        }
    };
}

flaws! {
    // Single blocks.
    /// An allocated id is returned but not written into the header.
    AllocatedIdNotInHeader => [written_block_reads_back, write_to_id_zero_allocates],
    /// An overwrite replaces the payload and keeps type, version and flags.
    OverwriteKeepsOldHeader => [write_replaces_the_block],
    /// Id 0 is a block like any other.
    ZeroIsABlock => [write_to_id_zero_allocates, id_zero_never_names_a_block],
    /// `block_exists(0)` is true.
    ZeroExists => [id_zero_never_names_a_block],
    /// A delete answers Ok and does nothing.
    DeleteDoesNothing => [deleted_block_is_gone, deletes_survive_reopen],
    /// Deleting what is not there is fine.
    DeletingNothingIsFine => [
        deleting_an_absent_block_is_not_found,
        deleting_an_absent_block_in_a_transaction_is_not_found,
        each_block_is_deleted_once,
    ],
    /// A block that is not there reads as an empty one.
    AbsentReadsEmpty => [reading_an_absent_block_is_not_found, deleted_block_is_gone],
    /// A deleted id is dead for ever.
    DeletedForEver => [deleted_block_can_be_written_again],
    /// A block without payload is taken for absent.
    EmptyIsAbsent => [empty_payload_is_a_block],
    /// Flags are not stored.
    DropsFlags => [every_header_field_round_trips],
    /// Headers are stored as they come.
    TrustsHeaders => [
        header_that_lies_is_refused,
        header_that_lies_is_refused_in_a_transaction,
    ],
    /// Ids are cut to 32 bits.
    IdsOf32Bits => [ids_of_any_value_are_ordinary],
    /// Trailing zeros of a payload are taken for padding.
    TrimsZeros => [payloads_of_any_bytes_and_length_round_trip],
    /// Payloads are cut below 1 MiB.
    CutsLongPayloads => [large_block_round_trips, large_transaction_commits_whole],

    // Commits.
    /// In a transaction, a delete does not replace a pending write.
    PendingWriteBeatsDelete => [write_then_delete_deletes],
    /// In a transaction, a write does not replace a pending delete.
    PendingDeleteBeatsWrite => [delete_then_write_writes],
    /// In a transaction, the first operation on an id wins.
    FirstOperationWins => [last_write_of_a_transaction_wins],
    /// Only the first half of a transaction's operations is applied.
    CommitsHalf => [
        commit_applies_every_operation,
        large_transaction_commits_whole,
        random_operations_match_the_model,
    ],
    /// A transaction without operations cannot be committed.
    EmptyCommitIsRefused => [empty_transaction_commits],
    /// Operations of a transaction are applied at once; rollback does nothing.
    WritesThrough => [rollback_leaves_no_trace, readers_never_see_pending_writes],
    /// Rollback puts the snapshot's version of every block it touched back.
    RollbackUndoesOthers => [rollback_leaves_others_work_alone],
    /// Operations beyond 512 are dropped.
    At512Operations => [large_transaction_commits_whole],

    // Isolation.
    /// Single reads see what transactions have pending.
    DirtyReads => [readers_never_see_pending_writes, readers_never_see_pending_deletes],
    /// Transactions see what others have pending.
    DirtyTransactions => [transactions_never_see_each_others_pending_operations],
    /// A transaction does not see its own writes.
    OwnWritesUnseen => [transaction_reads_its_own_writes],
    /// A transaction still sees what it deleted.
    OwnDeletesUnseen => [transaction_sees_its_own_deletes],
    /// A transaction sees newer commits over its own writes.
    NewerHidesOwn => [own_write_hides_newer_commits],
    /// Transactions read the newest committed version.
    ReadsNewest => [
        snapshot_is_taken_at_begin,
        reads_in_a_transaction_repeat,
        snapshot_spans_all_blocks,
        every_open_snapshot_keeps_its_version,
        commits_appear_whole_to_transactions,
        blocks_appear_and_vanish_together,
        transfers_keep_the_sum,
        random_operations_match_the_model,
    ],
    /// The snapshot is taken at the first read.
    SnapshotAtFirstRead => [snapshot_is_taken_at_begin],
    /// Each block gets its own snapshot when it is first read: repeatable, but not on one snapshot.
    SnapshotPerBlock => [snapshot_spans_all_blocks, commits_appear_whole_to_transactions],
    /// Snapshots do not hold what was deleted since.
    DeletesLeakIntoSnapshots => [blocks_deleted_after_begin_are_still_read],
    /// Snapshots hold what was created since.
    CreationsLeakIntoSnapshots => [blocks_created_after_begin_are_not_seen],
    /// Two versions of a block are kept, though a snapshot needs a third.
    KeepsTwoVersions => [every_open_snapshot_keeps_its_version],
    /// A snapshot misses the newest commit.
    BeginMissesTheNewest => [
        begin_sees_all_that_was_committed_before,
        acknowledged_commits_are_visible_to_every_reader,
    ],

    // Conflicts.
    /// Commits are not validated: lost updates.
    NoValidation => [
        write_after_a_concurrent_write_conflicts,
        write_after_a_concurrent_delete_conflicts,
        delete_after_a_concurrent_write_conflicts,
        delete_after_a_concurrent_delete_conflicts,
        creating_the_same_id_twice_conflicts,
        only_one_of_many_writers_wins,
        first_committer_wins_not_first_writer,
        conflict_changes_nothing,
        no_update_is_lost,
        random_operations_match_the_model,
    ],
    /// A transaction's deletes are not validated.
    DeletesNotValidated => [
        delete_after_a_concurrent_write_conflicts,
        delete_after_a_concurrent_delete_conflicts,
        single_operation_beats_an_open_transaction,
    ],
    /// A deleted block counts as unchanged.
    DeletesAreNoChange => [
        write_after_a_concurrent_delete_conflicts,
        block_that_came_and_went_conflicts,
    ],
    /// Creations are not validated: there was no version to compare with.
    CreationsNotValidated => [creating_the_same_id_twice_conflicts],
    /// A block has changed only if its bytes differ.
    ComparesBytes => [rewriting_the_same_bytes_conflicts],
    /// A commit is refused while an older transaction has a write on the block pending.
    FirstWriterWins => [first_committer_wins_not_first_writer],
    /// Only commits of transactions are seen by validation.
    SingleOperationsNotSeen => [single_operation_beats_an_open_transaction],
    /// A refused commit applies the operations that did not conflict.
    ConflictAppliesTheRest => [conflict_changes_nothing, refused_work_is_gone_after_reopen],
    /// A refused transaction stays open.
    ConflictStaysOpen => [conflict_rolls_the_transaction_back, open_transactions_are_counted],
    /// `Conflict` names the transaction's first block, whichever changed.
    ConflictNamesAnyBlock => [conflict_names_the_block_and_the_commit],
    /// What was rolled back counts as a change.
    RolledBackIsAChange => [rolled_back_work_never_conflicts],
    /// The newest commit before begin counts as a change since.
    SnapshotOffByOne => [work_committed_before_begin_never_conflicts],
    /// Any commit since begin is a conflict.
    OneConflictForAll => [disjoint_transactions_never_conflict, disjoint_threads_all_commit],
    /// Blocks that were only read are validated too.
    ValidatesReads => [reading_what_others_change_never_conflicts],
    /// A single write is refused while a transaction has the block pending.
    SingleWaitsForPending => [single_operations_never_conflict],
    /// A single write is a transaction with a snapshot, and may lose.
    SingleWritesValidate => [single_writes_to_one_block_never_conflict],

    // States.
    /// Commit twice is fine.
    CommitTwiceIsFine => [commit_twice_is_an_error],
    /// Commit after rollback is fine.
    CommitAfterRollbackIsFine => [commit_after_rollback_is_an_error],
    /// Rollback after commit is fine.
    RollbackAfterCommitIsFine => [rollback_after_commit_is_an_error],
    /// Rollback twice is an error.
    RollbackTwiceIsRefused => [rollback_twice_is_fine],
    /// Unknown ids answer like ended transactions.
    UnknownIsRolledBack => [unknown_transaction_is_not_found],
    /// Ended transactions still read.
    EndedStillReads => [ended_transaction_refuses_every_operation],
    /// An operation that fails rolls the transaction back.
    FailureEndsTransaction => [
        failed_operation_does_not_end_the_transaction,
        deleting_an_absent_block_in_a_transaction_is_not_found,
    ],
    /// The id of an ended transaction is handed out again.
    ReusesTransactionIds => [transaction_ids_are_never_reused],
    /// The outcome of every transaction is kept for ever.
    RemembersEveryTransaction => [finished_transactions_cost_no_memory],
    /// Old versions are never dropped.
    KeepsEveryVersion => [versions_are_kept_only_for_open_snapshots],
    /// Transactions belong to the thread that began them.
    OneThreadPerTransaction => [transaction_is_shared_by_threads],
    /// Commit and rollback look at the state, then act on it later.
    RacyEnd => [one_of_two_racing_commits_wins, commit_or_rollback_wins_the_race],
    /// Commit copies the pending operations, then ends the transaction later.
    CommitForgetsLateWrites => [acknowledged_write_is_in_the_racing_commit],
    /// Rolled back transactions stay counted as open.
    RollbackLeaksOpen => [
        storm_of_begins_and_ends_leaves_nothing,
        finished_transactions_cost_no_memory,
        open_transactions_are_counted,
    ],

    // Ids.
    /// Every second id is left out.
    SparseIds => [allocation_is_dense_and_increasing],
    /// The allocator does not look at explicit ids.
    IgnoresExplicitIds => [
        allocation_stays_above_explicit_ids,
        allocation_passes_over_the_transactions_own_ids,
    ],
    /// An explicit id raises the allocator before its commit.
    NamesTakeEffectAtOnce => [names_that_are_not_committed_change_nothing],
    /// There is no allocation after `u64::MAX`.
    EndsAtTheTop => [allocation_goes_on_below_the_top],
    /// The allocated id is one above the largest committed.
    AllocatesAboveCommitted => [open_transactions_never_share_an_allocated_id],
    /// The allocated id is one above the largest that exists.
    ReusesDeletedIds => [deleted_ids_are_not_allocated_again],
    /// Allocation goes on from 1 after `u64::MAX`.
    WrapsIds => [allocation_goes_on_below_the_top],
    /// Allocation looks, then takes.
    RacyAllocation => [threads_allocate_distinct_ids],

    // Stats.
    /// A new store counts a block of its own.
    CountsARoot => [new_store_is_empty],
    /// An overwrite counts as one more block.
    OverwritesCountTwice => [totals_follow_every_change, totals_equal_a_scan_after_any_mix],
    /// Bytes of rolled back writes stay counted.
    CountsRolledBackBytes => [totals_follow_every_change, totals_equal_a_scan_after_any_mix],
    /// Writes are counted when asked for, not when committed.
    CountsAttempts => [counters_count_what_happened],
    /// Deletes share the LSN of the commit before.
    DeletesTakeNoLsn => [every_commit_takes_a_later_lsn],
    /// `sync` answers Ok and does nothing.
    SyncDoesNothing => [sync_makes_every_commit_durable],

    // Threads.
    /// A commit is applied in two steps, with readers between them.
    CommitInTwoSteps => [
        commits_appear_whole_to_single_reads,
        blocks_appear_and_vanish_together,
    ],
    /// Every third read finds the version before.
    StaleReads => [reads_never_go_back],
    /// A commit is visible with the next one.
    AcknowledgesBeforeVisible => [acknowledged_commits_are_visible_to_every_reader],
    /// Validation and application are two steps.
    RacyValidation => [
        one_of_many_racing_transactions_wins,
        no_update_is_lost,
        transfers_keep_the_sum,
    ],
    /// Delete looks, then deletes.
    RacyDelete => [each_block_is_deleted_once],
    /// A commit works on a copy of the whole store and puts that in its place.
    RacyCopy => [disjoint_threads_all_commit, threads_on_their_own_blocks_match_their_models],

    // Batches.
    /// A batch is applied operation by operation.
    BatchInSteps => [batch_is_one_commit, batch_is_refused_whole],
    /// In a batch, the first operation on an id wins.
    BatchFirstWins => [last_operation_of_a_batch_wins],
    /// A batch's delete of a block that it made is refused.
    BatchDeletesOnlyCommitted => [last_operation_of_a_batch_wins],
    /// Reads of many blocks are answered in the order of the store.
    ReadsInStoreOrder => [many_blocks_are_read_in_the_order_of_their_ids],
    /// Reads of many blocks leave out what is not there.
    ReadsLeaveOut => [many_blocks_are_read_in_the_order_of_their_ids],

    // Tickets.
    /// A ticket is answered, and its commit never made.
    SubmitDoesNotCommit => [
        ticket_answers_when_its_commit_is_visible,
        dropped_ticket_does_not_lose_its_commit,
        callback_is_called_once,
    ],
    /// A ticket names the commit before its own.
    TicketNamesAnother => [ticket_answers_when_its_commit_is_visible],
    /// All tickets name the first commit.
    TicketsNameTheFirst => [tickets_of_one_thread_keep_their_order],
    /// A ticket says that a commit was made which was refused.
    TicketHidesConflicts => [ticket_of_a_lost_commit_says_conflict],
    /// `sync_to` answers Ok and does nothing.
    SyncToDoesNothing => [sync_to_makes_a_commit_durable],
    /// `sync_to` takes any LSN.
    SyncToTakesAnyLsn => [sync_to_makes_a_commit_durable],
    /// The durability that a commit asks for is ignored.
    IgnoresDurability => [commit_may_ask_for_durability_itself],

    // Ranges and savepoints.
    /// A range does not hold the transaction's own writes.
    RangeWithoutOwnWrites => [
        range_lists_what_the_transaction_sees,
        random_operations_match_the_model,
    ],
    /// A range holds what the transaction deleted.
    RangeWithOwnDeletes => [range_lists_what_the_transaction_sees],
    /// A range is of the newest commits.
    RangeOfTheNewest => [range_lists_what_the_transaction_sees],
    /// A range ends before its last id.
    RangeWithoutItsEnd => [range_holds_both_its_ends],
    /// Rolling back to a savepoint undoes the whole transaction.
    SavepointUndoesAll => [savepoints_nest, random_operations_match_the_model],
    /// Rolling back to a savepoint undoes nothing.
    SavepointUndoesNothing => [savepoints_nest, random_operations_match_the_model],
    /// Rolling back to a savepoint leaves later ones.
    UndoneSavepointsStay => [savepoints_nest],
    /// A savepoint is taken for the transaction's own, whosever it is.
    AnySavepointWillDo => [savepoint_belongs_to_its_transaction],

    // Isolation levels.
    /// Serializable is snapshot isolation.
    SerializableIsSnapshot => [
        serializable_refuses_write_skew,
        serializable_refuses_phantoms,
        serializable_refuses_what_was_read_as_absent,
        serializable_refuses_the_read_only_anomaly,
    ],
    /// Serializable does not validate ranges.
    RangesNotValidated => [serializable_refuses_phantoms],
    /// Serializable validates what was found, not what was not.
    AbsenceNotValidated => [serializable_refuses_what_was_read_as_absent],
    /// Read committed is snapshot isolation.
    ReadCommittedIsSnapshot => [read_committed_sees_newer_commits],

    // Reopen and crash.
    /// Reopen loses the newest commit.
    ReopenLosesTheNewest => [committed_blocks_survive_reopen, many_reopens_lose_nothing],
    /// Reopen takes an id.
    ReopenTakesAnId => [empty_store_reopens_empty],
    /// Reopen brings deleted blocks back.
    DeletesReturn => [deletes_survive_reopen],
    /// Reopen commits what was pending.
    PendingCommitsAtReopen => [pending_work_is_gone_after_reopen],
    /// Reopen brings rolled back work back.
    RolledBackReturns => [refused_work_is_gone_after_reopen],
    /// Of the newest transaction, half is there after reopen.
    HalfACommitAfterReopen => [transactions_are_whole_after_reopen],
    /// Reopen cuts long payloads.
    ReopenCutsLongPayloads => [large_commits_survive_reopen],
    /// Reopen forgets flags.
    ReopenDropsFlags => [header_fields_survive_reopen],
    /// Reopen allocates from the largest id that exists.
    ReopenReusesIds => [deleted_ids_are_not_allocated_again_after_reopen],
    /// A crash loses the newest commit although `sync` covered it.
    CrashLosesTheNewest => [synced_commits_survive_a_crash, acknowledged_commits_survive_a_crash],
    /// A crash keeps half of the newest commit.
    HalfACommitAfterCrash => [crash_keeps_whole_commits_in_order],
    /// A crash loses a commit and keeps a later one.
    CrashLosesOneInTheMiddle => [crash_keeps_whole_commits_in_order],
    /// A crash commits what was pending.
    PendingCommitsAtCrash => [crash_forgets_pending_work],
}
