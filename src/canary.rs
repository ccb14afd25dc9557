//! Planted bugs: one at a time, so that the tests can be tested.
//!
//! Each [`Bug`] is one that another store had (its number in the list of `docs/reliability.md`), or one
//! that this store could have. `scripts/canaries` builds with `--cfg aegis_canary`, by which
//! `AEGIS_CANARY=N` plants the bug with that number, and requires the test that is named behind it to fail.
//! That is the compiler's flag and no feature, which some dependency of a program could have on: without it
//! [`planted`] is a constant and nothing of this is in the program.

/// A bug, and the number that plants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(aegis_canary),
    allow(dead_code, reason = "the model checkers use a part of the store")
)]
#[repr(u8)]
pub(crate) enum Bug {
    /// B1: damage among acknowledged frames ends the log there, without an error.
    /// Caught by errors damage_among_acknowledged_frames_is_refused_with_its_place.
    DamageIsTheEnd = 1,
    /// B2: recovery looks at one page behind the end of the chain and at no later frame.
    /// Caught by errors damage_among_acknowledged_frames_is_refused_with_its_place.
    LaterFramesUnseen = 2,
    /// B3: recovery looks for later frames in the last segment only.
    /// Caught by crash flipped_bit_is_never_taken_for_data.
    LaterSegmentsUnseen = 3,
    /// B4: a torn tail is called damage, and the store does not open after a mere crash.
    /// Caught by hostile end_mark_in_doubt_is_no_end_mark.
    TornTailIsDamage = 4,
    /// B5: recovery takes a frame whose payload is torn.
    /// Caught by fuzz_corpus mutated_operations_keep_every_acknowledged_commit.
    PayloadUnread = 5,
    /// B6: a frame of an earlier use of the log continues it.
    /// Caught by errors segment_of_a_clone_is_named.
    ChainUnchecked = 6,
    /// B7: a file that was never finished is opened and found too short, for ever.
    /// Caught by regressions void_segments_of_an_interrupted_recovery_are_removed.
    UnfinishedIsRead = 7,
    /// B8: bytes that are no frame behind the end are called damage.
    /// Caught by hostile end_mark_in_doubt_is_no_end_mark.
    GarbageIsDamage = 8,
    /// B9: a segment goes for what is in force when a checkpoint is done, not for what it holds.
    /// Caught by upkeep segment_replaced_behind_an_image_stays_for_the_image.
    ReleaseOfAnotherMoment = 9,
    /// B10: frames of an earlier use of a segment are taken for its own.
    /// Caught by fuzz_corpus every_corpus_is_small_and_holds_what_is_accepted_and_what_is_refused.
    SaltUnused = 10,
    /// B11: a segment that is used again keeps the header of its earlier use.
    /// Caught by space segment_that_is_used_again_holds_what_is_new_and_nothing_of_before.
    SpareKeepsHeader = 11,
    /// B11: a segment gets the header of its next use while its old name may come back.
    /// Caught by space segment_that_is_used_again_has_one_name_whatever_a_power_cut_leaves.
    SpareKeepsName = 12,
    /// B12: recovery writes the first parts of an unfinished commit again, under fresh checksums.
    /// Caught by crash power_cut_in_recovery_loses_no_acknowledged_commit.
    PartsAreSealed = 13,
    /// B13: what stands behind a cut is replayed.
    /// Caught by regressions recovery_does_not_build_on_a_name_that_may_be_lost.
    CutVoidsNothing = 14,
    /// B14: a healthy segment whose file is longer than its use is called damaged.
    /// Caught by fuzz_corpus mutated_operations_keep_every_acknowledged_commit.
    RecycledIsDamaged = 15,
    /// B15: a failed sync is tried again and its success believed.
    /// Caught by regressions length_of_a_closed_log_is_durable_before_use.
    SyncIsRetried = 16,
    /// B16: the first member of a group hears of its failure, the others hear that all is well.
    /// Caught by shuttle a_failed_sync_is_every_members_failure.
    FollowersHearOk = 17,
    /// B17: of a group that spans segments only the last one is synced.
    /// Caught by crash power_cut_loses_no_acknowledged_commit.
    OnlyLastIsSynced = 18,
    /// B17: a sync that is asked for without a commit is answered without one.
    /// Caught by lib local::commit::tests::sync_request_writes_only_when_something_is_not_durable.
    SyncIsSkipped = 19,
    /// B18: recovery does not sync the names that it found and removed.
    /// Caught by regressions name_of_a_segment_made_ahead_is_durable_before_use.
    NamesOfRecovery = 20,
    /// B19: the length of a closed log is left to the page cache.
    /// Caught by regressions length_of_a_closed_log_is_durable_before_use.
    LengthUnsynced = 21,
    /// B20: the name of a new segment is not synced before its use.
    /// Caught by regressions name_of_a_segment_made_ahead_is_durable_before_use.
    SegmentNameUnsynced = 22,
    /// B21: a segment gets its name before its bytes are durable.
    /// Caught by regressions length_of_a_closed_log_is_durable_before_use.
    SegmentUnsynced = 23,
    /// B22: the commit after recovery gets the number of the last one that was written again.
    /// Caught by full_disk store_that_needs_recovery_opens_and_deletes_on_a_full_disk.
    LsnGivenTwice = 24,
    /// B23: a store without its description is taken for an unfinished one, and its log removed.
    /// Caught by errors lost_description_is_named.
    LogWithoutMeta = 25,
    /// B24: a durable commit is acknowledged before its sync.
    /// Caught by regressions length_of_a_closed_log_is_durable_before_use.
    AckBeforeSync = 26,
    /// B25: a commit whose write failed is acknowledged.
    /// Caught by fuzz_corpus mutated_operations_keep_every_acknowledged_commit.
    WriteErrorUnheard = 27,
    /// B25: the end of a closed log is left to the page cache after the next opening.
    /// Caught by regressions end_of_a_closed_log_is_durable_before_the_next_segment_is_used.
    EndUnsynced = 28,
    /// B26: a checkpoint is renamed and its directory not synced.
    /// Caught by crash failed_sync_is_never_taken_back.
    ImageNameUnsynced = 29,
    /// B27: the name of a new store is not synced.
    /// Caught by crash failed_operation_never_breaks_a_promise.
    MetaNameUnsynced = 30,
    /// B28: a segment whose renaming failed is left alone though it may have its name.
    /// Caught by regressions segment_whose_renaming_failed_is_not_made_twice.
    FailedRenameForgotten = 31,
    /// B29: a checkpoint gets its name before its bytes are durable.
    /// Caught by fuzz_corpus mutated_operations_keep_every_acknowledged_commit.
    ImageUnsynced = 32,
    /// B30: the unfinished file of an earlier session makes open fail.
    /// Caught by full_disk full_disk_loses_nothing_at_reopen.
    LeftoverStopsOpen = 33,
    /// B33: the file after the one that recovery makes gets the same number.
    /// Caught by regressions recovery_does_not_build_on_a_name_that_may_be_lost.
    NumberGivenTwice = 34,
    /// B34: the description of a new store is written under its final name.
    /// Caught by limits file_numbers_near_the_largest_are_refused.
    MetaWrittenInPlace = 35,
    /// B35: the cut of a second recovery is made behind a mark that the next crash may take.
    /// Caught by crash failed_sync_is_never_taken_back.
    CutBehindMarks = 36,
    /// B36: recovery removes what it will void before the cut is durable.
    /// Caught by recovery commit_that_was_left_out_stays_away_through_power_cuts.
    TidyBeforeCut = 37,
    /// B37: a checkpoint names the commit before the last one that it holds.
    /// Caught by fuzz_corpus mutated_operations_keep_every_acknowledged_commit.
    CheckpointOfOneLess = 38,
    /// B38: what changed while an image was written goes with the frozen entries.
    /// Caught by upkeep commit_while_an_image_is_written_is_read_behind_it.
    ChangesMeanwhileDropped = 39,
    /// B39: a checkpoint leaves the last changed page out.
    /// Caught by limits blocks_up_to_the_last_page_below_four_gibibytes_are_read.
    HalfInTheImage = 40,
    /// B39: recovery relies on a checkpoint of which the log does not say that it counts.
    /// Caught by crash failed_sync_is_never_taken_back.
    UnconfirmedIsRead = 41,
    /// B40: closing reports success though its syncs failed.
    /// Caught by regressions length_of_a_closed_log_is_durable_before_use.
    CloseUnheard = 42,
    /// B41: a record of another version of the format is read as if it were ours.
    /// Caught by errors newer_segment_is_refused_by_its_version.
    VersionUnchecked = 43,
    /// B42: a store that a failed write poisoned is marked as closed.
    /// Caught by crash failed_sync_is_never_taken_back.
    PoisonedIsClosedClean = 44,
    /// B43: a store that is refused as damaged is cut at the damage.
    /// Caught by errors damage_among_acknowledged_frames_is_refused_with_its_place.
    RefusedIsRepaired = 45,
    /// B44: segments go before the checkpoint that no longer needs them counts.
    /// Caught by space store_with_checkpoints_and_compaction_equals_a_map_through_crashes_and_reopenings.
    ReleaseBeforeConfirm = 46,
    /// B44: the log never says that a checkpoint counts.
    /// Caught by space store_with_checkpoints_and_compaction_equals_a_map_through_crashes_and_reopenings.
    NeverConfirmed = 47,
    /// B45: the fields of a description are believed whatever their checksum.
    /// Caught by lib local::format::tests::mirrored_record_survives_damage_anywhere_in_one_sector.
    RecordUnchecked = 48,
    /// B46: after a crash and recovery no further segment is ever made.
    /// Caught by errors missing_segment_is_named.
    HaltsAfterRecovery = 49,
    /// B47: a failed write of a checkpoint is swallowed.
    /// Caught by crash failed_operation_never_breaks_a_promise.
    ImageWriteUnheard = 50,
    /// B48: a segment goes though a snapshot sees versions in it.
    /// Caught by space snapshot_sees_its_blocks_through_checkpoints_and_compaction.
    PinnedSegmentGoes = 51,
    /// B48: a segment goes though one block in it is in force.
    /// Caught by space store_with_checkpoints_and_compaction_equals_a_map_through_crashes_and_reopenings.
    LiveSegmentGoes = 52,
    /// B48: a segment is written again while a reader holds its bytes.
    /// Caught by space segment_that_is_used_again_holds_what_is_new_and_nothing_of_before.
    MappedIsReused = 53,
    /// B49: a checkpoint of changes leaves deletions out.
    /// Caught by space store_with_checkpoints_and_compaction_equals_a_map_through_crashes_and_reopenings.
    DeletionLeftOut = 54,
    /// B49: a move takes effect though the block was replaced or deleted meanwhile.
    /// Caught by lib mvcc::overlay::tests::move_is_kept_while_the_block_is_what_and_where_it_was_and_conflicts_with_nothing.
    MoveBringsBack = 55,
    /// B50: an older image of the index is asked before a newer one.
    /// Caught by space segment_that_is_used_again_holds_what_is_new_and_nothing_of_before.
    OldImageFirst = 56,
    /// B51: a read error in the log is taken for its end.
    /// Caught by errors read_error_in_the_log_is_not_taken_for_its_end.
    ReadErrorIsEnd = 57,
    /// B52: the table of a frame is not checked, so that a damaged deletion does nothing.
    /// Caught by errors damage_among_acknowledged_frames_is_refused_with_its_place.
    TableUnchecked = 58,
    /// B53: recovery passes over deletions.
    /// Caught by errors damaged_block_can_be_replaced_and_deleted.
    DeletionUnreplayed = 59,
    /// B54: recovery ends with the segment that it began with.
    /// Caught by regressions transaction_longer_than_a_short_segment_is_split.
    SecondSegmentUnread = 60,
    /// B55: undoing to a savepoint drops what was written before it.
    /// Caught by transactions savepoints_nest_and_belong_to_their_transaction.
    SavepointForgets = 61,
    /// B56: a transaction reads what is newest, not what its snapshot holds.
    /// Caught by history transactions_on_the_simulated_disk_are_isolated.
    SnapshotMoves = 62,
    /// B57: reads of a serializable transaction are not checked.
    /// Caught by transactions write_skew_is_refused_when_serializable_and_only_then.
    ReadsUnchecked = 63,
    /// B57: ranges read by a serializable transaction are not checked.
    /// Caught by transactions phantom_in_a_range_is_refused_when_serializable.
    RangesUnchecked = 64,
    /// B58: commits on their way are not looked at for conflicts.
    /// Caught by lib mvcc::overlay::tests::first_committer_wins_against_published_and_in_flight_changes.
    FlightsUnchecked = 65,
    /// B59: two transactions that wrote the same block both commit.
    /// Caught by transactions write_skew_is_refused_when_serializable_and_only_then.
    BlindWrites = 66,
    /// B60: a commit is visible before all its changes are in the index.
    /// Caught by loom a_snapshot_sees_a_whole_group_or_nothing_of_it.
    VisibleTooEarly = 67,
    /// B61: a version is dropped though a snapshot sees it.
    /// Caught by lib mvcc::index::tests::snapshot_sees_what_was_visible_when_it_was_pinned.
    ReaderLosesVersion = 68,
    /// B62: recovery takes the checksum of a payload over its padding too.
    /// Caught by crash power_cut_loses_no_acknowledged_commit.
    PaddedChecksum = 69,
    /// B63: the checksum of a block is not verified when it is read.
    /// Caught by errors flipped_byte_of_a_payload_is_corrupt_on_that_block_only.
    PayloadUnverified = 70,
    /// B63: the pages of a checkpoint are not verified when they are read.
    /// Caught by lib local::checkpoint::page::tests::every_flipped_bit_is_found.
    ImageUnverified = 71,
    /// B64: the layout that a checkpoint states is believed.
    /// Caught by lib local::checkpoint::header::tests::header_whose_numbers_disagree_is_refused.
    LayoutUnchecked = 72,
    /// B64: the lengths and counts that a frame states are believed.
    /// Caught by lib local::format::frame::tests::header_whose_fields_disagree_is_refused.
    HeaderUnchecked = 73,
    /// B65: memory is taken for the length that a frame states before it is checked.
    /// Caught by hostile frame_of_four_gibibytes_in_a_short_file_costs_nothing.
    LengthBelieved = 74,
    /// B66: a cut may name its own or a later segment.
    /// Caught by hostile cut_that_names_its_own_or_a_later_segment_is_refused.
    CutInACircle = 75,
    /// B67: a segment beyond 4 GiB is read.
    /// Caught by limits segment_over_four_gibibytes_is_refused.
    LongSegment = 76,
    /// B67: a segment may be the 2^32nd and later.
    /// Caught by limits places_in_log_order_end_at_two_to_the_thirty_second.
    LateSequence = 77,
    /// B67: ids begin anew after the largest.
    /// Caught by lib mvcc::ids::tests::allocation_is_dense_stays_above_named_ids_and_never_wraps.
    IdsWrap = 78,
    /// B68: a directory that is no store is changed before it is refused.
    /// Caught by openers directory_of_other_files_is_not_a_store.
    ForeignIsLocked = 79,
    /// B69: a full disk poisons the store.
    /// Caught by full_disk full_disk_refuses_the_write_and_nothing_else.
    FullDiskIsPoison = 80,
    /// B69: the numbers of commits that a full disk refused are not taken back.
    /// Caught by lib local::commit::tests::full_disk_takes_the_lsns_back_and_the_core_goes_on.
    LsnsStayTaken = 81,
    /// B69: space is not reserved before a group is written.
    /// Caught by full_disk full_disk_refuses_the_write_and_nothing_else.
    HalfAGroupOnFull = 82,
    /// B70: a file that is shorter than what it is to hold is mapped.
    /// Caught by errors segment_shorter_than_what_a_checkpoint_has_in_it_is_named.
    ShorterThanItsMap = 83,
    /// B71: a second opener gets in.
    /// Caught by openers second_opener_is_locked_out.
    LockIsNotTaken = 84,
    /// B71: a second opener gets in once somebody has removed or replaced the lock file.
    /// Caught by openers second_opener_is_locked_out_whatever_becomes_of_the_lock_file.
    LockOfAnotherFile = 85,
    /// B72: a commit handed in beside the closing is waited for, for ever.
    /// Caught by loom a_caller_beside_the_keepers_dismissal_is_answered.
    KeeperEndsEarly = 86,
    /// B72: a caller with its answer leaves the commit of another one, who waits for it.
    /// Caught by loom a_caller_beside_a_pause_between_turns_is_answered.
    CarrierTrustsNobody = 87,
    /// B73: an id of a block that was replayed is handed out again.
    /// Caught by limits smallest_and_largest_ids_are_kept.
    IdsAfterReplay = 88,
    /// B73: an id of a block in a checkpoint is handed out again.
    /// Caught by space id_of_a_block_in_a_checkpoint_is_not_given_out_again.
    IdsAfterCheckpoint = 89,
    /// B74: a panic of whoever carries the log is told as a closing.
    /// Caught by loom a_panic_beside_a_commit_is_named_as_the_cause.
    PanicIsClose = 90,
    /// B74: after a panic of whoever carries the log the store goes on.
    /// Caught by upkeep store_is_not_closed_cleanly_after_a_panic_of_the_carrier.
    PanicPoisonsNothing = 91,
    /// B74: a file name that is no UTF-8 ends the process.
    /// Caught by openers unknown_file_whose_name_is_no_text_is_left_alone.
    NameIsUtf8 = 92,
    /// Own: a symbolic link in place of a file of the store is followed.
    /// Caught by lib io::os::tests::what_is_not_a_plain_file_is_refused_without_waiting.
    LinksAreFollowed = 93,
    /// Own: new files are as wide as the umask lets them.
    /// Caught by security files_and_directory_are_the_owners_alone_under_every_umask.
    ModesOfTheUmask = 94,
    /// Own: a file with a second name is opened where others can write.
    /// Caught by security second_names_are_refused_where_others_can_write.
    SecondNamesAreOpened = 95,
    /// Own: zeros are written over what the log wrote meanwhile.
    /// Caught by limits blocks_up_to_the_last_page_below_four_gibibytes_are_read.
    ZeroedOverTheLog = 96,
    /// Own: a failed sync of zeros poisons nothing.
    /// Caught by crash failed_sync_is_never_taken_back.
    WorkerSyncUnheard = 97,
    /// Own: a commit is called durable in the log when it is not.
    /// Caught by upkeep mark_of_an_image_does_not_vouch_for_commits_that_are_not_durable.
    WitnessOfTooMuch = 98,
    /// Own: a group is called durable that nobody synced.
    /// Caught by lib local::commit::tests::sync_request_writes_only_when_something_is_not_durable.
    DurableBeforeSync = 99,
    /// Own: replaced blocks are counted twice.
    /// Caught by space overwriting_for_ever_takes_bounded_space.
    StatsForgetRemovals = 100,
    /// Own: versions that no snapshot sees any more are kept.
    /// Caught by space snapshot_sees_its_blocks_through_checkpoints_and_compaction.
    UndoIsKept = 101,
    /// Own: a deletion of what is not there is acknowledged.
    /// Caught by errors unknown_ids_are_named.
    DeleteOfNothing = 102,
    /// Own: bytes kept for readers are those of another block.
    /// Caught by lib local::recent::tests::finds_what_is_kept_and_forgets_the_oldest.
    RecentOfAnother = 103,
    /// Own: a refused group stays among the commits on their way.
    /// Caught by full_disk full_disk_refuses_the_write_and_nothing_else.
    RefusedStaysInFlight = 104,
    /// Own: a checkpoint that fails takes the entries that it had frozen with it.
    /// Caught by lib mvcc::index::tests::image_below_changes_nothing_that_anybody_sees.
    ThawLosesCommits = 105,
    /// Own: segments in which nothing is in force are never let go.
    /// Caught by space overwriting_for_ever_takes_bounded_space.
    GarbageNeverGoes = 106,
    /// Own: a segment is emptied by moves that nobody made durable.
    /// Caught by upkeep moved_block_is_read_though_a_sync_fails_that_reverts_the_cache.
    MovesAreNotDurable = 107,
    /// Own: recovery writes to a store whose name is not durable yet.
    /// Caught by regressions store_killed_while_it_was_made_survives_a_power_cut_in_its_recovery.
    NameComesLast = 108,
    /// Own: two groups are synced at once, and one's success hides what the other's failure forgot.
    /// Caught by shuttle a_failed_sync_beside_another_ones_is_not_taken_back.
    SyncsOverlap = 109,
    /// Own: a group is acknowledged while one before it is still on its way.
    /// Caught by lib local::commit::tests::groups_that_overlap_are_published_in_order_and_each_vouches_for_those_before_it.
    LaterGroupComesFirst = 110,
    /// Own: a group's sync vouches for another one's bytes that are still being written.
    /// Caught by lib local::commit::tests::group_that_is_not_synced_flies_alone.
    UnsyncedIsFollowed = 111,
    /// Own: a segment is written again whose bytes a reader may have from before the store was opened.
    /// Caught by lib local::upkeep::release::tests::segment_of_an_earlier_session_is_not_written_again.
    RecycledUnderAnEarlierHandle = 112,
    /// Own: a checkpoint of one handle goes on after another one has closed the store.
    /// Caught by lib local::upkeep::tests::closed_store_is_changed_by_nobody.
    UpkeepOutlivesClose = 113,
}

/// Whether a bug is in the program.
#[cfg(not(aegis_canary))]
#[inline(always)]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

/// Whether a bug is in the program: the one that `AEGIS_CANARY` names when it is first asked for.
#[cfg(aegis_canary)]
pub(crate) fn planted(bug: Bug) -> bool {
    use std::sync::OnceLock;

    static PLANTED: OnceLock<u8> = OnceLock::new();
    let number = || match std::env::var("AEGIS_CANARY") {
        Ok(text) => {
            text.parse().unwrap_or_else(|_| panic!("AEGIS_CANARY={text} is no bug's number"))
        }
        Err(_) => 0,
    };
    *PLANTED.get_or_init(number) == bug as u8
}
