//! Groups that are taken back, again and again: how that ends.

use super::*;

/// A delete of a block that is there for all the core knows.
fn delete(tag: u32, id: u64) -> Submission<u32> {
    let mut submission = write(tag, id);
    submission.batch = Batch::of_single_delete(BlockId(id));
    submission.batch.precondition = Precondition::None;
    submission
}

/// A write that conflicts with whatever is published.
fn too_late(tag: u32, id: u64) -> Submission<u32> {
    let mut submission = write(tag, id);
    submission.batch.precondition = Precondition::Exist(vec![BlockId(id)]);
    submission
}

/// Forms groups on a disk that is full for groups that do not free, and for others too unless
/// `reserve`. Returns the callers in the order of their answers, and whether each was successful.
fn turns_on_a_full_disk(
    core: &mut CommitCore<u32, ()>,
    reserve: bool,
    mut between: impl FnMut(&mut CommitCore<u32, ()>, u64),
) -> Vec<(u32, bool)> {
    let (mut told, mut now) = (Vec::new(), Duration::ZERO);
    for turn in 0..12 {
        now += GROUP_TIME * 3;
        let mut actions = tick(core, now);
        if let Some(group) = actions.write.take() {
            let outcome = if reserve && group.only_frees_space() { Outcome::Done } else { full() };
            let actions_after = land(core, now, group, outcome);
            actions.publish.extend(actions_after.publish);
            actions.refuse.extend(actions_after.refuse);
        }
        told.extend(actions.refuse.into_iter().map(|(refused, _)| (refused.tag, false)));
        for group in actions.publish {
            let answered = core.handle_event(now, Event::Published(group), &Empty).answer;
            let members = answered.expect("its callers are told").members;
            told.extend(members.into_iter().map(|m| (m.submission.tag, m.verdict.is_ok())));
        }
        if core.is_idle() {
            return told;
        }
        between(core, turn);
    }
    panic!("no end; told so far: {told:?}");
}

#[test]
fn delete_beside_a_write_that_is_refused_anyway_frees() {
    let mut core = core(1);
    submit(&mut core, Duration::ZERO, delete(1, 1));
    submit(&mut core, Duration::ZERO, too_late(2, 2));
    let told = turns_on_a_full_disk(&mut core, true, |_, _| {});
    assert_eq!(told, [(1, true), (2, false)]);
}

#[test]
fn each_taking_back_refuses_a_member() {
    let mut core = core(1);
    submit(&mut core, Duration::ZERO, Submission { durable: false, ..write(0, 9) });
    let first = group(&mut core, Duration::ZERO);
    land(&mut core, Duration::ZERO, first, Outcome::Done);
    let request =
        Submission { batch: Batch::without_operations(), durable: true, log_len: 0, tag: 3 };
    for submission in [delete(1, 1), too_late(2, 2), request, write(4, 4), late(5, 4)] {
        submit(&mut core, Duration::ZERO, submission);
    }
    // The write is refused first, then the delete that it stood in the way of, then the commit that
    // fails in any group.
    let (mut told, mut groups) = (Vec::new(), 0);
    while !core.is_idle() {
        groups += 1;
        assert!(groups < 8, "no end; told so far: {told:?}");
        let formed = tick(&mut core, GROUP_TIME * 3 * groups);
        told.extend(formed.refuse.iter().map(|(refused, _)| refused.tag));
        told.extend(formed.publish.iter().flat_map(tags));
        if let Some(group) = formed.write {
            let actions_after = land(&mut core, GROUP_TIME * 3 * groups, group, full());
            assert!(!actions_after.refuse.is_empty(), "a member is refused");
            told.extend(actions_after.refuse.iter().map(|(refused, _)| refused.tag));
        }
    }
    assert_eq!(told, [4, 5, 1, 2, 3]);
}

#[test]
fn group_that_writes_nothing_and_is_refused_is_not_formed_again() {
    let mut core = core(1);
    submit(&mut core, Duration::ZERO, Submission { durable: false, ..write(0, 9) });
    let first = group(&mut core, Duration::ZERO);
    land(&mut core, Duration::ZERO, first, Outcome::Done);
    let request =
        Submission { batch: Batch::without_operations(), durable: true, log_len: 0, tag: 1 };
    submit(&mut core, GROUP_TIME, request);
    submit(&mut core, GROUP_TIME, too_late(2, 2));
    let told = turns_on_a_full_disk(&mut core, false, |_, _| {});
    assert_eq!(told, [(1, false), (2, false)]);
}

#[test]
fn writes_that_find_no_space_one_after_the_other_keep_no_delete_waiting() {
    let mut core = core(1);
    submit(&mut core, Duration::ZERO, delete(1, 1));
    submit(&mut core, Duration::ZERO, write(2, 2));
    // Another writer comes with each group, and is refused like those before it.
    let told = turns_on_a_full_disk(&mut core, true, |core, turn| {
        if turn < 6 {
            submit(core, GROUP_TIME * 3, write(10 + turn as u32, 3));
        }
    });
    assert_eq!(told[..2], [(2, false), (1, true)]);
}
