//! The core under a virtual clock, event by event. A tag is the caller's number.

mod taken_back;

use super::*;
use crate::block::{Block, BlockId, BlockType};
use crate::mvcc::batch::{Batch, Precondition};

/// Nothing is published: every id is absent and never changed.
struct Empty;

impl Published for Empty {
    fn changed_since(&self, _: BlockId, _: Lsn) -> Result<Option<Lsn>> {
        Ok(None)
    }

    fn changed_within(&self, _: BlockId, _: BlockId, _: Lsn) -> Result<Option<(BlockId, Lsn)>> {
        Ok(None)
    }

    fn exists(&self, _: BlockId) -> Result<bool> {
        Ok(false)
    }

    fn is_undo_at_place(&self, _: BlockId, _: Lsn, _: u64) -> bool {
        false
    }

    fn is_newest_at_place(&self, _: BlockId, _: Lsn, _: u64) -> Result<bool> {
        Ok(false)
    }
}

const GROUP_TIME: Duration = Duration::from_micros(100);

fn core(group_count_max: usize) -> CommitCore<u32, ()> {
    let options = CoreOptions { group_count_max, many_callers_min: 4, group_len_max: 1000 };
    let pace = Pace {
        wait_min: GROUP_TIME / 5,
        wait_max: GROUP_TIME,
        gap_max: GROUP_TIME / 2,
        may_overlap: true,
    };
    CommitCore::new(options, pace, Lsn(10))
}

fn write(tag: u32, id: u64) -> Submission<u32> {
    let batch = Batch::of_single_write(Block::empty(BlockId(id), BlockType::TableData));
    Submission { batch, durable: true, log_len: 100, tag }
}

fn submit(core: &mut CommitCore<u32, ()>, now: Duration, submission: Submission<u32>) {
    let actions = core.handle_event(now, Event::Submit(submission), &Empty);
    assert!(actions.refuse.is_empty() && actions.write.is_none());
}

fn tick(core: &mut CommitCore<u32, ()>, now: Duration) -> Actions<u32, ()> {
    core.handle_event(now, Event::Tick, &Empty)
}

fn group(core: &mut CommitCore<u32, ()>, now: Duration) -> Group<u32, ()> {
    tick(core, now).write.expect("a group is formed")
}

fn tags(group: &Group<u32, ()>) -> Vec<u32> {
    group.members.iter().map(|member| member.submission.tag).collect()
}

fn land(
    core: &mut CommitCore<u32, ()>,
    now: Duration,
    group: Group<u32, ()>,
    outcome: Outcome,
) -> Actions<u32, ()> {
    core.handle_event(now, Event::Written(group, outcome), &Empty)
}

fn io_error() -> Error {
    Error::io(crate::error::IoOp::Sync, "SEG", std::io::ErrorKind::Other.into())
}

#[test]
fn lone_caller_never_waits_and_gets_the_next_lsn() {
    let mut core = core(1);
    let mut now = Duration::ZERO;
    for lsn in 11..20 {
        submit(&mut core, now, write(1, 1));
        let formed = group(&mut core, now);
        assert_eq!(formed.last_lsn, Lsn(lsn));
        assert_eq!(formed.durable, Lsn(lsn - 1));
        now += GROUP_TIME;
        let actions = land(&mut core, now, formed, Outcome::Done);
        assert_eq!(core.durable_lsn(), Lsn(lsn));
        for published in actions.publish {
            let actions = core.handle_event(now, Event::Published(published), &Empty);
            assert_eq!(actions.answer.map(|group| tags(&group)), Some(vec![1]));
        }
    }
    assert!(core.is_idle());
}

#[test]
fn group_is_held_for_those_who_were_just_answered_but_not_for_ever() {
    let mut core = core(1);
    for tag in 0..8 {
        submit(&mut core, Duration::ZERO, write(tag, u64::from(tag) + 1));
    }
    let first = group(&mut core, Duration::ZERO);
    assert_eq!(first.members.len(), 8);
    land(&mut core, GROUP_TIME, first, Outcome::Done);
    let back = GROUP_TIME + Duration::from_micros(5);
    submit(&mut core, back, write(0, 1));
    let until = tick(&mut core, back).wait_until.expect("seven more are expected");
    assert!(until <= GROUP_TIME * 2, "never longer than a group write");
    for tag in 1..7 {
        submit(&mut core, back, write(tag, u64::from(tag) + 1));
    }
    assert!(tick(&mut core, back).write.is_none());
    submit(&mut core, back, write(7, 8));
    let second = group(&mut core, back);
    assert_eq!(second.members.len(), 8, "with the last one back it starts at once");
    land(&mut core, GROUP_TIME * 3, second, Outcome::Done);
    submit(&mut core, GROUP_TIME * 3, write(0, 1));
    assert!(tick(&mut core, GROUP_TIME * 3).wait_until.is_some());
    assert_eq!(group(&mut core, GROUP_TIME * 5).members.len(), 1, "the others did not come back");
}

#[test]
fn group_ends_at_its_length_and_a_longer_commit_goes_alone() {
    let mut core = core(1);
    for tag in 0..12 {
        submit(&mut core, Duration::ZERO, write(tag, u64::from(tag) + 1));
    }
    submit(&mut core, Duration::ZERO, Submission { log_len: 5000, ..write(99, 99) });
    let mut sizes = Vec::new();
    for turn in 1..=3 {
        let formed = group(&mut core, GROUP_TIME * turn * 3);
        sizes.push(formed.members.len());
        land(&mut core, GROUP_TIME * turn * 3, formed, Outcome::Done);
    }
    assert_eq!(sizes, [10, 2, 1]);
}

#[test]
fn refusal_is_told_with_the_group_whose_member_caused_it() {
    let mut core = core(1);
    let late = |tag| {
        let mut submission = write(tag, 1);
        submission.batch.precondition = Precondition::UnchangedSince(Lsn(10));
        submission
    };
    submit(&mut core, Duration::ZERO, late(1));
    submit(&mut core, Duration::ZERO, late(2));
    let formed = group(&mut core, Duration::ZERO);
    assert_eq!(formed.user_commit_count(), 1);
    assert_eq!(formed.members[0].commit_lsn(), Some(Lsn(11)));
    let found = formed.members[1].verdict.as_ref().map(|lsn| *lsn);
    assert!(matches!(found, Err(Error::Conflict { found: Lsn(11), .. })));
    assert!(core.unpublished.check_batch(&late(3).batch, &Empty).is_err(), "under way counts");
}

#[test]
fn failed_sync_reaches_every_member_and_everything_after_it() {
    let mut core = core(2);
    let (first, second) = two_groups(&mut core);
    submit(&mut core, Duration::ZERO, write(5, 5));
    // The later group lands well, but behind a hole: it is not told before the first is known.
    let actions = land(&mut core, GROUP_TIME, second, Outcome::Done);
    assert!(actions.publish.is_empty() && actions.refuse.is_empty());
    let failed = Outcome::Failed(PoisonCause::SyncFailed, io_error());
    let refused = land(&mut core, GROUP_TIME, first, failed).refuse;
    let told: Vec<(u32, bool)> = refused
        .iter()
        .map(|(submission, error)| (submission.tag, matches!(error, Error::Io { .. })))
        .collect();
    assert_eq!(told, [(1, true), (2, true), (3, true), (4, true), (5, false)]);
    assert_eq!(core.durable_lsn(), Lsn(10));
    let refused = core.handle_event(GROUP_TIME, Event::Submit(write(6, 6)), &Empty).refuse;
    let cause = PoisonCause::SyncFailed;
    assert!(matches!(refused[..], [(_, Error::Poisoned { cause: found })] if found == cause));
}

/// Two groups under way, of callers 1 and 2 and of callers 3 and 4.
fn two_groups(core: &mut CommitCore<u32, ()>) -> (Group<u32, ()>, Group<u32, ()>) {
    let mut both = [(1, 2), (3, 4)].map(|(one, other)| {
        submit(core, Duration::ZERO, write(one, u64::from(one)));
        submit(core, Duration::ZERO, write(other, u64::from(other)));
        Some(group(core, Duration::ZERO))
    });
    let mut take = |at: usize| both[at].take().expect("there are two");
    (take(0), take(1))
}

#[test]
fn groups_that_overlap_are_published_in_order_and_each_vouches_for_those_before_it() {
    let mut core = core(2);
    let (first, second) = two_groups(&mut core);
    assert_eq!((first.last_lsn, second.last_lsn), (Lsn(12), Lsn(14)));
    assert_eq!((first.durable, second.durable), (Lsn(10), Lsn(10)), "nothing is known of either");
    assert!(land(&mut core, GROUP_TIME, second, Outcome::Done).publish.is_empty());
    assert_eq!(core.durable_lsn(), Lsn(10), "the first group is not known to be durable");
    let published = land(&mut core, GROUP_TIME, first, Outcome::Done).publish;
    assert_eq!(published.iter().map(tags).collect::<Vec<_>>(), [[1, 2], [3, 4]]);
    assert_eq!(published.iter().map(|group| group.durable).collect::<Vec<_>>(), [12, 14].map(Lsn));
    assert_eq!(core.durable_lsn(), Lsn(14));
}

#[test]
fn many_callers_are_shared_out_and_the_second_group_starts_with_its_share() {
    let mut core = core(2);
    let (first, second) = two_groups(&mut core);
    for tag in 5..9 {
        submit(&mut core, Duration::ZERO, write(tag, u64::from(tag)));
        assert!(tick(&mut core, GROUP_TIME).write.is_none(), "no third one");
    }
    land(&mut core, GROUP_TIME, first, Outcome::Done);
    // Callers 1 and 2 are expected, 3 and 4 under way, 5 to 8 in the queue: half of them may go.
    assert_eq!(core.missing_caller_count(), 0);
    let third = group(&mut core, GROUP_TIME);
    assert_eq!(tags(&third), [5, 6, 7, 8]);
    land(&mut core, GROUP_TIME, second, Outcome::Done);
    for tag in 1..4 {
        submit(&mut core, GROUP_TIME, write(tag, u64::from(tag)));
        assert!(tick(&mut core, GROUP_TIME).wait_until.is_none(), "it waits for the landing");
        assert!(core.has_group_under_way() && core.missing_caller_count() > 0);
    }
    submit(&mut core, GROUP_TIME, write(4, 4));
    assert_eq!(tags(&group(&mut core, GROUP_TIME)), [1, 2, 3, 4]);
}

#[test]
fn few_callers_are_not_shared_out() {
    let mut core = core(2);
    submit(&mut core, Duration::ZERO, write(1, 1));
    let first = group(&mut core, Duration::ZERO);
    submit(&mut core, Duration::ZERO, write(2, 2));
    submit(&mut core, Duration::ZERO, write(3, 3));
    assert!(tick(&mut core, GROUP_TIME).write.is_none());
    assert!(!core.allows_overlap() && core.missing_caller_count() == usize::MAX);
    land(&mut core, GROUP_TIME, first, Outcome::Done);
    submit(&mut core, GROUP_TIME, write(1, 1));
    assert_eq!(group(&mut core, GROUP_TIME).members.len(), 3);
}

#[test]
fn many_callers_are_remembered_for_some_groups_and_cost_a_lone_caller_no_wait() {
    let mut core = core(2);
    (0..16).for_each(|tag| submit(&mut core, Duration::ZERO, write(tag, 1)));
    let both = [0, 1].map(|_| group(&mut core, Duration::ZERO));
    assert_eq!(both.each_ref().map(|group| group.members.len()), [8, 8], "a share each");
    let mut now = GROUP_TIME;
    for group in both {
        land(&mut core, now, group, Outcome::Done);
    }
    // The others do not come back; for the first group they were waited for.
    let mut shared_out = Vec::new();
    for round in 0..12 {
        submit(&mut core, now, write(1, 1));
        now += if round == 0 { GROUP_TIME * 2 } else { Duration::ZERO };
        let formed = group(&mut core, now);
        shared_out.push(core.allows_overlap());
        now += GROUP_TIME;
        land(&mut core, now, formed, Outcome::Done);
    }
    assert_eq!(shared_out.first(), Some(&true));
    assert_eq!(shared_out.last(), Some(&false));
}

#[test]
fn group_that_is_not_synced_is_written_alone() {
    let mut core = core(2);
    let buffered = |tag| Submission { durable: false, ..write(tag, u64::from(tag)) };
    (1..5).for_each(|tag| submit(&mut core, Duration::ZERO, buffered(tag)));
    let first = group(&mut core, Duration::ZERO);
    assert!(!first.sync);
    submit(&mut core, Duration::ZERO, write(5, 5));
    assert!(
        tick(&mut core, GROUP_TIME).write.is_none(),
        "no group follows one that is only written"
    );
    land(&mut core, GROUP_TIME, first, Outcome::Done);
    let second = group(&mut core, GROUP_TIME * 3);
    assert!(second.sync);
    (6..15).for_each(|tag| submit(&mut core, GROUP_TIME * 3, buffered(tag)));
    assert!(tick(&mut core, GROUP_TIME * 3).write.is_none(), "and that follows nothing");
    land(&mut core, GROUP_TIME * 4, second, Outcome::Done);
    assert!(!group(&mut core, GROUP_TIME * 9).sync);
}

#[test]
fn group_without_writes_is_done_when_those_before_it_are() {
    let mut core = core(2);
    (1..3).for_each(|tag| submit(&mut core, Duration::ZERO, write(tag, u64::from(tag))));
    let first = group(&mut core, Duration::ZERO);
    let request =
        |tag| Submission { batch: Batch::without_operations(), durable: true, log_len: 0, tag };
    (3..5).for_each(|tag| submit(&mut core, Duration::ZERO, request(tag)));
    let actions = tick(&mut core, Duration::ZERO);
    assert!(actions.write.is_none() && actions.publish.is_empty());
    let published = land(&mut core, GROUP_TIME, first, Outcome::Done).publish;
    assert_eq!(published.iter().map(tags).collect::<Vec<_>>(), [[1, 2], [3, 4]]);
    assert!(core.is_idle());
}

#[test]
fn full_disk_behind_a_group_under_way_takes_back_its_own_lsns_only() {
    let mut core = core(2);
    let (first, second) = two_groups(&mut core);
    let path = "store".into();
    let full = Error::StorageFull { needed: 1, path, limit: crate::error::SpaceLimit::Disk };
    assert!(land(&mut core, GROUP_TIME, second, Outcome::Refused(full)).refuse.is_empty());
    submit(&mut core, GROUP_TIME, write(5, 5));
    assert!(tick(&mut core, GROUP_TIME * 9).write.is_none(), "the lsns are not settled yet");
    let actions = land(&mut core, GROUP_TIME, first, Outcome::Done);
    assert_eq!(actions.publish.iter().map(tags).collect::<Vec<_>>(), [[1, 2]]);
    assert_eq!(actions.refuse.iter().map(|(refused, _)| refused.tag).collect::<Vec<_>>(), [3, 4]);
    assert_eq!((core.durable_lsn(), core.last_lsn()), (Lsn(12), Lsn(12)));
}

#[test]
fn request_to_sync_is_not_refused_with_deletes_that_found_no_space() {
    let mut core = core(1);
    submit(&mut core, Duration::ZERO, Submission { durable: false, ..write(1, 1) });
    let formed = group(&mut core, Duration::ZERO);
    land(&mut core, GROUP_TIME, formed, Outcome::Done);
    let mut delete = write(2, 2);
    delete.batch = Batch::of_single_delete(BlockId(2));
    delete.batch.precondition = Precondition::None;
    submit(&mut core, GROUP_TIME, delete);
    let request =
        Submission { batch: Batch::without_operations(), durable: true, log_len: 0, tag: 3 };
    submit(&mut core, GROUP_TIME, request);
    let formed = group(&mut core, GROUP_TIME * 3);
    let path = "store".into();
    let full = Error::StorageFull { needed: 1, path, limit: crate::error::SpaceLimit::Disk };
    let refused = land(&mut core, GROUP_TIME * 3, formed, Outcome::Refused(full)).refuse;
    assert_eq!(refused.iter().map(|(refused, _)| refused.tag).collect::<Vec<_>>(), [2]);
    let formed = group(&mut core, GROUP_TIME * 9);
    assert!(formed.sync && tags(&formed) == [3]);
}

#[test]
fn group_that_lands_after_the_core_gave_up_is_refused() {
    let mut core = core(2);
    let (first, second) = two_groups(&mut core);
    core.handle_event(GROUP_TIME, Event::Poison(PoisonCause::ThreadPanicked), &Empty);
    core.forget_groups_under_way();
    for group in [first, second] {
        let actions = land(&mut core, GROUP_TIME, group, Outcome::Done);
        assert!(actions.publish.is_empty());
        let cause = PoisonCause::ThreadPanicked;
        let refused = |(_, error): &(_, Error)| matches!(error, Error::Poisoned { cause: found } if *found == cause);
        assert!(actions.refuse.len() == 2 && actions.refuse.iter().all(refused));
    }
    assert_eq!(core.durable_lsn(), Lsn(10));
}

#[test]
fn full_disk_takes_the_lsns_back_and_the_core_goes_on() {
    let mut core = core(1);
    submit(&mut core, Duration::ZERO, write(1, 1));
    let formed = group(&mut core, Duration::ZERO);
    let full = Error::StorageFull {
        needed: 1,
        path: "store".into(),
        limit: crate::error::SpaceLimit::Disk,
    };
    let actions = land(&mut core, GROUP_TIME, formed, Outcome::Refused(full));
    assert!(matches!(actions.refuse[..], [(_, Error::StorageFull { .. })]));
    assert_eq!(core.last_lsn(), Lsn(10));
    submit(&mut core, GROUP_TIME, write(2, 1));
    assert_eq!(group(&mut core, GROUP_TIME * 3).last_lsn, Lsn(11));
}

fn full() -> Outcome {
    let path = "store".into();
    Outcome::Refused(Error::StorageFull { needed: 1, path, limit: crate::error::SpaceLimit::Disk })
}

/// A write that conflicts with every change behind LSN 10.
fn late(tag: u32, id: u64) -> Submission<u32> {
    let mut submission = write(tag, id);
    submission.batch.precondition = Precondition::UnchangedSince(Lsn(10));
    submission
}

/// Block 1 is published, and nothing has changed behind any snapshot.
struct One;

impl Published for One {
    fn changed_since(&self, _: BlockId, _: Lsn) -> Result<Option<Lsn>> {
        Ok(None)
    }

    fn changed_within(&self, _: BlockId, _: BlockId, _: Lsn) -> Result<Option<(BlockId, Lsn)>> {
        Ok(None)
    }

    fn exists(&self, id: BlockId) -> Result<bool> {
        Ok(id == BlockId(1))
    }

    fn is_undo_at_place(&self, _: BlockId, _: Lsn, _: u64) -> bool {
        false
    }

    fn is_newest_at_place(&self, _: BlockId, _: Lsn, _: u64) -> Result<bool> {
        Ok(false)
    }
}

#[test]
fn refusal_for_the_sake_of_a_group_that_was_taken_back_is_judged_again() {
    let mut core = core(1);
    let delete = |tag| Submission { batch: Batch::of_single_delete(BlockId(1)), ..write(tag, 1) };
    let mut swap = late(1, 2);
    swap.batch.operations.extend(Batch::of_single_delete(BlockId(1)).operations);
    for submission in [swap, delete(2), late(3, 2)] {
        core.handle_event(Duration::ZERO, Event::Submit(submission), &One);
    }
    let formed = core.handle_event(Duration::ZERO, Event::Tick, &One).write.expect("a group");
    assert!(matches!(formed.members[1].verdict, Err(Error::BlockNotFound { .. })));
    assert!(matches!(formed.members[2].verdict, Err(Error::Conflict { .. })));
    let refused = core.handle_event(GROUP_TIME, Event::Written(formed, full()), &One).refuse;
    assert!(matches!(refused[..], [(Submission { tag: 1, .. }, Error::StorageFull { .. })]));
    // The block was never deleted, and no commit has changed the other one.
    let formed = core.handle_event(GROUP_TIME * 3, Event::Tick, &One).write.expect("a group");
    assert_eq!(tags(&formed), [2, 3]);
    assert!(formed.members.iter().all(|member| member.verdict.is_ok()));
    assert_eq!(formed.last_lsn, Lsn(12));
}

#[test]
fn refusal_that_holds_without_the_group_that_was_taken_back_is_told() {
    let mut core = core(1);
    submit(&mut core, Duration::ZERO, write(1, 1));
    let delete = Submission { batch: Batch::of_single_delete(BlockId(7)), ..write(2, 7) };
    submit(&mut core, Duration::ZERO, delete);
    let formed = group(&mut core, Duration::ZERO);
    let refused = land(&mut core, GROUP_TIME, formed, full()).refuse;
    assert_eq!(refused.iter().map(|(refused, _)| refused.tag).collect::<Vec<_>>(), [1]);
    let published = tick(&mut core, GROUP_TIME * 3).publish;
    let [group] = &published[..] else { panic!("a group without writes is done") };
    assert!(matches!(group.members[0].verdict, Err(Error::BlockNotFound { id: BlockId(7) })));
    assert!(core.is_idle());
}

#[test]
fn refusal_for_the_sake_of_an_earlier_group_that_was_taken_back_is_judged_again() {
    let mut core = core(2);
    (1..3).for_each(|tag| submit(&mut core, Duration::ZERO, write(tag, u64::from(tag))));
    let first = group(&mut core, Duration::ZERO);
    submit(&mut core, Duration::ZERO, late(3, 1));
    submit(&mut core, Duration::ZERO, write(4, 4));
    let second = group(&mut core, Duration::ZERO);
    assert!(matches!(second.members[0].verdict, Err(Error::Conflict { .. })));
    assert!(land(&mut core, GROUP_TIME, second, Outcome::Done).publish.is_empty());
    let refused = land(&mut core, GROUP_TIME, first, full()).refuse;
    assert_eq!(refused.iter().map(|(refused, _)| refused.tag).collect::<Vec<_>>(), [1, 2, 4]);
    let formed = group(&mut core, GROUP_TIME * 9);
    assert_eq!((tags(&formed), formed.last_lsn), (vec![3], Lsn(11)));
}

#[test]
fn refusal_for_the_sake_of_a_commit_that_is_in_doubt_says_poisoned() {
    let mut core = core(1);
    submit(&mut core, Duration::ZERO, write(1, 1));
    submit(&mut core, Duration::ZERO, late(2, 1));
    let formed = group(&mut core, Duration::ZERO);
    let failed = Outcome::Failed(PoisonCause::WriteFailed, io_error());
    let refused = land(&mut core, GROUP_TIME, formed, failed).refuse;
    let cause = PoisonCause::WriteFailed;
    assert!(matches!(
        &refused[..],
        [(_, Error::Io { .. }), (_, Error::Poisoned { cause: found })] if *found == cause
    ));
}

#[test]
fn sync_request_writes_only_when_something_is_not_durable() {
    let mut core = core(1);
    let request =
        |tag| Submission { batch: Batch::without_operations(), durable: true, log_len: 0, tag };
    submit(&mut core, Duration::ZERO, request(1));
    let actions = tick(&mut core, Duration::ZERO);
    assert!(actions.write.is_none());
    assert_eq!(actions.publish.iter().map(tags).collect::<Vec<_>>(), [[1]]);
    submit(&mut core, Duration::ZERO, Submission { durable: false, ..write(2, 2) });
    let formed = group(&mut core, GROUP_TIME * 3);
    assert!(!formed.sync);
    land(&mut core, GROUP_TIME * 3, formed, Outcome::Done);
    assert_eq!((core.durable_lsn(), core.last_lsn()), (Lsn(10), Lsn(11)));
    submit(&mut core, GROUP_TIME * 3, request(3));
    let formed = group(&mut core, GROUP_TIME * 5);
    assert!(formed.sync && formed.user_commit_count() == 0);
    land(&mut core, GROUP_TIME * 5, formed, Outcome::Done);
    assert_eq!(core.durable_lsn(), Lsn(11));
}
