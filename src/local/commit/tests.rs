//! The core under a virtual clock, event by event. A tag is the caller's number.

use super::*;
use crate::block::{Block, BlockId, BlockType};
use crate::mvcc::batch::Precondition;

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

    fn is_at(&self, _: BlockId, _: Lsn, _: u64) -> bool {
        false
    }
}

const FLIGHT: Duration = Duration::from_micros(100);

fn core(flight_count_max: usize) -> CommitCore<u32> {
    let options = CoreOptions { flight_count_max, group_len_max: 1000 };
    let pace = Pace { wait_min: FLIGHT / 5, wait_max: FLIGHT, gap_max: FLIGHT / 2 };
    CommitCore::new(options, pace, Lsn(10))
}

fn write(tag: u32, id: u64) -> Submission<u32> {
    let batch = Batch::write(Block::empty(BlockId(id), BlockType::TableData));
    Submission { batch, durable: true, log_len: 100, tag }
}

fn submit(core: &mut CommitCore<u32>, now: Duration, submission: Submission<u32>) {
    let actions = core.step(now, Event::Submit(submission), &Empty);
    assert!(actions.refuse.is_empty() && actions.write.is_none());
}

fn tick(core: &mut CommitCore<u32>, now: Duration) -> Actions<u32> {
    core.step(now, Event::Tick, &Empty)
}

fn group(core: &mut CommitCore<u32>, now: Duration) -> Group<u32> {
    tick(core, now).write.expect("a group is formed")
}

fn tags(group: &Group<u32>) -> Vec<u32> {
    group.members.iter().map(|member| member.submission.tag).collect()
}

fn land(
    core: &mut CommitCore<u32>,
    now: Duration,
    group: Group<u32>,
    outcome: Outcome,
) -> Actions<u32> {
    core.step(now, Event::Landed(group, outcome), &Empty)
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
        now += FLIGHT;
        let actions = land(&mut core, now, formed, Outcome::Done);
        assert_eq!(core.durable(), Lsn(lsn));
        for published in actions.publish {
            let actions = core.step(now, Event::Published(published), &Empty);
            assert_eq!(actions.answer.map(|group| tags(&group)), Some(vec![1]));
        }
    }
    assert!(core.is_idle());
}

#[test]
fn group_is_held_for_those_who_just_landed_but_not_for_ever() {
    let mut core = core(1);
    for tag in 0..8 {
        submit(&mut core, Duration::ZERO, write(tag, u64::from(tag) + 1));
    }
    let first = group(&mut core, Duration::ZERO);
    assert_eq!(first.members.len(), 8);
    land(&mut core, FLIGHT, first, Outcome::Done);
    let back = FLIGHT + Duration::from_micros(5);
    submit(&mut core, back, write(0, 1));
    let until = tick(&mut core, back).wait_until.expect("seven more are expected");
    assert!(until <= FLIGHT * 2, "never longer than a flight");
    for tag in 1..7 {
        submit(&mut core, back, write(tag, u64::from(tag) + 1));
    }
    assert!(tick(&mut core, back).write.is_none());
    submit(&mut core, back, write(7, 8));
    let second = group(&mut core, back);
    assert_eq!(second.members.len(), 8, "with the last one back it starts at once");
    land(&mut core, FLIGHT * 3, second, Outcome::Done);
    submit(&mut core, FLIGHT * 3, write(0, 1));
    assert!(tick(&mut core, FLIGHT * 3).wait_until.is_some());
    assert_eq!(group(&mut core, FLIGHT * 5).members.len(), 1, "the others did not come back");
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
        let formed = group(&mut core, FLIGHT * turn * 3);
        sizes.push(formed.members.len());
        land(&mut core, FLIGHT * turn * 3, formed, Outcome::Done);
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
    assert!(core.overlay.check(&late(3).batch, &Empty).is_err(), "in flight counts");
}

#[test]
fn failed_sync_reaches_every_member_and_everything_after_it() {
    let mut core = core(2);
    submit(&mut core, Duration::ZERO, write(1, 1));
    submit(&mut core, Duration::ZERO, write(2, 2));
    let first = group(&mut core, Duration::ZERO);
    submit(&mut core, Duration::ZERO, write(3, 3));
    let second = group(&mut core, Duration::ZERO);
    submit(&mut core, Duration::ZERO, write(4, 4));
    // The later group lands well, but behind a hole: it is not told before the first is known.
    let actions = land(&mut core, FLIGHT, second, Outcome::Done);
    assert!(actions.publish.is_empty() && actions.refuse.is_empty());
    let failed = Outcome::Failed(PoisonCause::SyncFailed, io_error());
    let refused = land(&mut core, FLIGHT, first, failed).refuse;
    let told: Vec<(u32, bool)> = refused
        .iter()
        .map(|(submission, error)| (submission.tag, matches!(error, Error::Io { .. })))
        .collect();
    assert_eq!(told, [(1, true), (2, true), (3, true), (4, false)]);
    assert_eq!(core.durable(), Lsn(10));
    let refused = core.step(FLIGHT, Event::Submit(write(5, 5)), &Empty).refuse;
    let cause = PoisonCause::SyncFailed;
    assert!(matches!(refused[..], [(_, Error::Poisoned { cause: found })] if found == cause));
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
    let actions = land(&mut core, FLIGHT, formed, Outcome::Full(full));
    assert!(matches!(actions.refuse[..], [(_, Error::StorageFull { .. })]));
    assert_eq!(core.last_lsn(), Lsn(10));
    submit(&mut core, FLIGHT, write(2, 1));
    assert_eq!(group(&mut core, FLIGHT * 3).last_lsn, Lsn(11));
}

#[test]
fn sync_request_writes_only_when_something_is_not_durable() {
    let mut core = core(1);
    let request = |tag| Submission { batch: Batch::empty(), durable: true, log_len: 0, tag };
    submit(&mut core, Duration::ZERO, request(1));
    let actions = tick(&mut core, Duration::ZERO);
    assert!(actions.write.is_none());
    assert_eq!(actions.publish.iter().map(tags).collect::<Vec<_>>(), [[1]]);
    submit(&mut core, Duration::ZERO, Submission { durable: false, ..write(2, 2) });
    let formed = group(&mut core, FLIGHT * 3);
    assert!(!formed.sync);
    land(&mut core, FLIGHT * 3, formed, Outcome::Done);
    assert_eq!((core.durable(), core.last_lsn()), (Lsn(10), Lsn(11)));
    submit(&mut core, FLIGHT * 3, request(3));
    let formed = group(&mut core, FLIGHT * 5);
    assert!(formed.sync && formed.user_commit_count() == 0);
    land(&mut core, FLIGHT * 5, formed, Outcome::Done);
    assert_eq!(core.durable(), Lsn(11));
}
