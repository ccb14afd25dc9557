//! The commit core: which commits form a group, in which order, and with which outcome.
//!
//! A state machine without I/O, clock or threads: [`CommitCore::handle_event`] takes an [`Event`]
//! and returns [`Actions`] for the leader to carry out. So the same core runs in the product, under
//! a virtual clock and under a model checker. Owns the queue, LSNs, conflict checks and poisoning.
//!
//! The way of a commit:
//!
//! 1. `Submit` puts it in the queue.
//! 2. `Tick` forms a group: each member is validated against everything before it and given the
//!    next LSN, or refused. A refusal stays with its group. So the caller hears of it only when the
//!    commit that caused it is visible.
//! 3. `actions.write`: the group is written, and synced if one member asks for it.
//! 4. `Written` reports the outcome. Groups are published in LSN order: `actions.publish`.
//! 5. `Published` ends it: the index now has the group's changes, and `actions.answer` has its
//!    callers.
//!
//! When a write or sync fails, every member of that group and of every later one gets the error.
//! The queue and all later submissions are refused.
//!
//! **Taking back.** After a shortage (of space, descriptors, memory, length of a file) before the
//! first byte nothing was written. The core takes back the group and later ones with their LSNs,
//! and goes on.
//!
//! 1. A group needs space for its writes. A refused member is not written. So a group of deletes,
//!    relocations and refused members [frees](Group::only_frees_space), and may draw from the
//!    reserve.
//! 2. A member goes back to the head of the queue if its outcome may be better without a commit
//!    that was taken back. That holds for deletes and relocations if a write was in their group,
//!    and for requests to sync. It holds for a commit that conflicted or lacked a block, which such
//!    a commit may have caused. All others are refused.
//! 3. Each taking back refuses at least one member, so a queue without new commits comes to an end.
//! 4. Members that were put back form their groups without later commits. Else writes that find no
//!    space, one after the other, would keep the space from a delete for ever. So a member is put
//!    back at most once for each one that was put back with it.
//!
//! **Commit delay.** After a group write has ended, its members are expected back. The next group
//! is held for them while that can pay: see [`delay`].
//!
//! **Several groups under way.** While one group is being written, another one can be formed and
//! follow it. That pays with many callers ([`CoreOptions::many_callers_min`]) on a fast device
//! ([`Pace::may_overlap`]). Two groups may be under way then, and more if each has
//! [`CALLERS_PER_GROUP`]. The callers are split into as many shares. A group starts when one share
//! is in the queue. A group that is not synced is written alone: no
//! sync may vouch for bytes that are still being written.

mod delay;
mod member;

use std::collections::VecDeque;
use std::time::Duration;

pub(crate) use delay::Pace;
pub(crate) use member::{Group, Member, Outcome, Submission};

use crate::block::Lsn;
use crate::error::{Error, PoisonCause, Result};
use crate::local::commit::group::delay::CommitDelay;
use crate::mvcc::unpublished::{Published, Unpublished};

/// A third group under way pays if each has so many callers, and so on.
const CALLERS_PER_GROUP: usize = 15;

/// An event for the core.
#[derive(Debug)]
pub(crate) enum Event<T, W> {
    /// A caller submitted a commit or a request.
    Submit(Submission<T>),
    /// The commit queue is empty at this moment.
    Tick,
    /// A group's write has ended.
    Written(Group<T, W>, Outcome),
    /// The changes of a group are in the index.
    Published(Group<T, W>),
    /// A failure outside the core makes further writes unsafe.
    Poison(PoisonCause),
}

/// Actions for the leader, in this order.
#[derive(Debug)]
pub(crate) struct Actions<T, W> {
    /// Put these in the index and report `Published` for each.
    pub(crate) publish: Vec<Group<T, W>>,
    /// Answer its members.
    pub(crate) answer: Option<Group<T, W>>,
    /// Refuse these.
    pub(crate) refuse: Vec<(Submission<T>, Error)>,
    /// Write this and report `Written`.
    pub(crate) write: Option<Group<T, W>>,
    /// More callers are expected: report `Tick` no later than at this time.
    pub(crate) wait_until: Option<Duration>,
}

impl<T, W> Default for Actions<T, W> {
    fn default() -> Self {
        Actions {
            publish: Vec::new(),
            answer: None,
            refuse: Vec::new(),
            write: None,
            wait_until: None,
        }
    }
}

/// Limits of the core.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CoreOptions {
    /// Groups that may be under way at once.
    pub(crate) group_count_max: usize,
    /// So many callers are split among several groups.
    pub(crate) many_callers_min: usize,
    /// Log bytes after which a group takes no further member.
    pub(crate) group_len_max: u64,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct CommitCore<T, W> {
    options: CoreOptions,
    pace: Pace,
    queue: VecDeque<Submission<T>>,
    /// The number of commits at its head that were put back.
    put_back_count: usize,
    unpublished: Unpublished,
    under_way: VecDeque<GroupUnderWay<T, W>>,
    next_group: u64,
    last_lsn: Lsn,
    durable: Lsn,
    poison: Option<PoisonCause>,
    delay: CommitDelay,
}

/// A group under way.
#[derive(Debug)]
struct GroupUnderWay<T, W> {
    number: u64,
    lsn_before: Lsn,
    sync: bool,
    member_count: usize,
    written: Option<(Group<T, W>, Outcome)>,
}

/// When the next group starts.
enum Start {
    Now,
    /// Expected callers are waited for until then.
    At(Duration),
    /// When the write of a group under way has ended.
    AfterWrite,
}

impl<T, W> CommitCore<T, W> {
    /// Starts behind the last commit of the log, all of which is durable.
    pub(crate) fn new(options: CoreOptions, pace: Pace, last_lsn: Lsn) -> CommitCore<T, W> {
        assert!(options.group_count_max > 0, "a group may be under way");
        assert!(options.group_len_max > 0, "a group may hold bytes");
        CommitCore {
            options,
            pace,
            queue: VecDeque::new(),
            put_back_count: 0,
            unpublished: Unpublished::default(),
            under_way: VecDeque::new(),
            next_group: 0,
            last_lsn,
            durable: last_lsn,
            poison: None,
            delay: CommitDelay::default(),
        }
    }

    /// The newest LSN known durable.
    pub(crate) fn durable_lsn(&self) -> Lsn {
        self.durable
    }

    /// The newest LSN given out.
    pub(crate) fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// Whether nothing is queued or under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty()
    }

    /// Whether some group is under way.
    pub(crate) fn has_group_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Forgets the groups under way: a group whose write ends later is refused.
    pub(crate) fn forget_groups_under_way(&mut self) {
        self.under_way.clear();
    }

    pub(crate) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Handles an event and returns the actions that follow.
    pub(crate) fn handle_event(
        &mut self,
        now: Duration,
        event: Event<T, W>,
        published: &impl Published,
    ) -> Actions<T, W> {
        let mut actions = Actions::default();
        match event {
            Event::Submit(submission) => self.enqueue_or_refuse(now, submission, &mut actions),
            Event::Tick => self.form_group_if_due(now, published, &mut actions),
            Event::Written(group, outcome) => {
                self.record_outcome(now, group, outcome, &mut actions)
            }
            Event::Published(group) => {
                self.forget_unpublished(&group);
                actions.answer = Some(group);
            }
            Event::Poison(cause) => self.poison_and_refuse(cause, &mut actions),
        }
        actions
    }

    fn enqueue_or_refuse(
        &mut self,
        now: Duration,
        submission: Submission<T>,
        actions: &mut Actions<T, W>,
    ) {
        match self.poison {
            Some(cause) => actions.refuse.push((submission, Error::Poisoned { cause })),
            None => self.queue.push_back(submission),
        }
        self.delay.count_arrival(now);
    }

    fn form_group_if_due(
        &mut self,
        now: Duration,
        published: &impl Published,
        actions: &mut Actions<T, W>,
    ) {
        if self.queue.is_empty() {
            return;
        }
        match self.decide_start(now) {
            Start::Now => {}
            Start::At(until) => {
                actions.wait_until = Some(until);
                return;
            }
            Start::AfterWrite => return,
        }
        self.delay.note_callers(self.caller_count());
        let mut group = self.form_group(published);
        debug_assert!(!group.members.is_empty(), "a queue that is not empty gives a member");
        debug_assert!(
            self.under_way.back().is_none_or(|entry| entry.number < group.number),
            "groups are numbered in the order in which they are formed"
        );
        // Its write may end while the commits before it are not durable yet.
        group.sync |= group.follows;
        let unsynced = group.sync && self.durable < group.last_lsn;
        if group.commit_count == 0 && !unsynced && self.under_way.is_empty() {
            actions.publish.push(group);
            return;
        }
        self.under_way.push_back(GroupUnderWay {
            number: group.number,
            lsn_before: Lsn(group.last_lsn.0 - group.commit_count as u64),
            sync: group.sync,
            member_count: group.members.len(),
            written: None,
        });
        match group.commit_count {
            // Nothing to write: it is done when the groups before it are.
            0 if group.follows => self.record_outcome(now, group, Outcome::Done, actions),
            _ => actions.write = Some(group),
        }
    }

    /// Callers at work, as far as the core knows.
    fn caller_count(&self) -> usize {
        let member_count: usize = self.under_way.iter().map(|entry| entry.member_count).sum();
        member_count + self.delay.expected_count + self.queue.len()
    }

    /// Callers at work lately.
    fn recent_caller_count(&self) -> usize {
        self.caller_count().max(self.delay.recent_caller_count)
    }

    /// Groups that may be under way at once.
    fn group_count_max(&self) -> usize {
        let caller_count = self.recent_caller_count();
        if caller_count < self.options.many_callers_min || !self.pace.may_overlap {
            1
        } else {
            (caller_count / CALLERS_PER_GROUP).max(2).min(self.options.group_count_max)
        }
    }

    /// Whether another group may follow the one under way.
    pub(crate) fn allows_overlap(&self) -> bool {
        self.group_count_max() > 1
    }

    /// Whether there are so many callers that workers serve them faster than they do themselves.
    pub(crate) fn has_many_callers(&self) -> bool {
        let workers_min = self.options.many_callers_min.saturating_mul(2);
        self.allows_overlap() && self.recent_caller_count() >= workers_min
    }

    /// Callers that must still submit for another group to follow the one under way; 0 if none is.
    pub(crate) fn missing_caller_count(&self) -> usize {
        match self.has_group_under_way() {
            false => 0,
            true if self.under_way.len() >= self.group_count_max() => usize::MAX,
            true if self.under_way.iter().any(|entry| !entry.sync) => usize::MAX,
            true => self
                .caller_count()
                .div_ceil(self.group_count_max())
                .saturating_sub(self.queue.len()),
        }
    }

    fn decide_start(&mut self, now: Duration) -> Start {
        let share_count = self.group_count_max();
        // A group was refused: wait until every later one is back, then reuse its LSNs.
        let is_refused = |written: &Option<_>| !matches!(written, None | Some((_, Outcome::Done)));
        let is_alone = |entry: &GroupUnderWay<T, W>| !entry.sync || is_refused(&entry.written);
        let synced = || self.queue.iter().any(|submission| submission.durable);
        let is_full = self.under_way.len() >= share_count || self.under_way.iter().any(is_alone);
        if self.has_group_under_way() && (is_full || !synced()) {
            return Start::AfterWrite;
        }
        let share = match share_count {
            1 => self.delay.expected_count + self.queue.len(),
            _ => self.caller_count().div_ceil(share_count),
        };
        if self.queue.len() >= share || self.put_back_count > 0 {
            return Start::Now;
        }
        if self.has_group_under_way() {
            return Start::AfterWrite;
        }
        let until = self.delay.hold_deadline(&self.pace, self.queue.len());
        if now < until {
            return Start::At(until);
        }
        // Callers that are not back by now are not coming.
        self.delay.expected_count = 0;
        Start::Now
    }

    fn form_group(&mut self, published: &impl Published) -> Group<T, W> {
        let mut group = Group {
            number: self.next_group,
            members: Vec::with_capacity(self.queue.len()),
            sync: false,
            last_lsn: self.last_lsn,
            durable: self.durable,
            follows: self.has_group_under_way(),
            write: None,
            commit_count: 0,
            move_count: 0,
        };
        self.next_group += 1;
        let share = if self.group_count_max() > 1 {
            self.caller_count().div_ceil(self.group_count_max())
        } else {
            usize::MAX
        };
        let share = if self.put_back_count > 0 { share.min(self.put_back_count) } else { share };
        let mut log_len = 0;
        while let Some(submission) = self.queue.front() {
            log_len += submission.log_len;
            let is_full = log_len > self.options.group_len_max || group.members.len() >= share;
            if is_full && !group.members.is_empty() {
                break;
            }
            let Some(mut submission) = self.queue.pop_front() else { break };
            group.sync |= submission.durable;
            let verdict = self.validate_commit(&mut submission, published);
            let is_written = verdict.is_ok() && !submission.batch.operations.is_empty();
            group.commit_count += usize::from(is_written);
            group.move_count += usize::from(is_written && submission.batch.is_relocation_batch());
            group.members.push(Member { submission, verdict });
        }
        self.put_back_count = self.put_back_count.saturating_sub(group.members.len());
        debug_assert_eq!(
            self.last_lsn.0 - group.last_lsn.0,
            group.commit_count as u64,
            "the commits of a group have LSNs without a gap"
        );
        debug_assert!(group.move_count <= group.commit_count, "a move is a commit");
        debug_assert!(self.put_back_count <= self.queue.len(), "put back is in the queue");
        group.last_lsn = self.last_lsn;
        group
    }

    fn validate_commit(
        &mut self,
        submission: &mut Submission<T>,
        published: &impl Published,
    ) -> Result<Lsn> {
        self.unpublished.keep_current_moves(&mut submission.batch, published)?;
        if submission.batch.operations.is_empty() {
            return Ok(self.last_lsn);
        }
        self.unpublished.check_batch(&submission.batch, published)?;
        self.last_lsn = Lsn(self.last_lsn.0 + 1);
        self.unpublished.add_batch(&submission.batch, self.last_lsn);
        Ok(self.last_lsn)
    }

    fn record_outcome(
        &mut self,
        now: Duration,
        group: Group<T, W>,
        outcome: Outcome,
        actions: &mut Actions<T, W>,
    ) {
        let Some(entry) = self.under_way.iter_mut().find(|entry| entry.number == group.number)
        else {
            let cause = self.poison.unwrap_or(PoisonCause::ThreadPanicked);
            let members = group.members.into_iter();
            actions.refuse.extend(members.map(|m| (m.submission, Error::Poisoned { cause })));
            return;
        };
        entry.written = Some((group, outcome));
        self.settle_in_lsn_order(now, actions);
    }

    /// Publishes written groups in LSN order.
    fn settle_in_lsn_order(&mut self, now: Duration, actions: &mut Actions<T, W>) {
        while let Some(entry) = self.under_way.front_mut() {
            match entry.written.take() {
                None => return,
                Some((mut group, Outcome::Done)) => {
                    self.under_way.pop_front();
                    debug_assert!(self.durable <= group.last_lsn, "groups are done in LSN order");
                    if group.sync {
                        self.durable = group.last_lsn;
                    }
                    group.durable = self.durable;
                    self.delay.expect_callers(now, group.members.len());
                    actions.publish.push(group);
                }
                refused => {
                    entry.written = refused;
                    // Later groups are behind a hole: they fail too, once all their writes have
                    // ended.
                    if self.under_way.iter().all(|entry| entry.written.is_some()) {
                        self.take_back_groups(actions);
                    }
                    return;
                }
            }
        }
    }

    /// Takes every group under way back. Members that are not put back get the error of the first
    /// group.
    fn take_back_groups(&mut self, actions: &mut Actions<T, W>) {
        let Some(lsn_before) = self.under_way.front().map(|entry| entry.lsn_before) else { return };
        let (mut first, mut cause, mut again) = (None, None, Vec::new());
        let (mut undone_count, refused_before) = (0, actions.refuse.len());
        for entry in std::mem::take(&mut self.under_way) {
            let Some((group, outcome)) = entry.written else { continue };
            self.forget_unpublished(&group);
            if let Outcome::Failed(failed, _) = &outcome {
                cause.get_or_insert(*failed);
            }
            if let Outcome::Refused(error) | Outcome::Failed(_, error) = outcome {
                first.get_or_insert(error);
            }
            undone_count += group.commit_count;
            // If no commit was taken back, the next group would end as this one did.
            let may_differ = cause.is_none() && undone_count > 0;
            let was_alone = group.only_frees_space();
            for member in group.members {
                let batch = &member.submission.batch;
                let is_put_back = match &member.verdict {
                    // A request to sync needs no space, whatever was in its group.
                    Ok(_) => batch.operations.is_empty() || (batch.takes_no_space() && !was_alone),
                    Err(error) => depends_on_earlier(error),
                };
                if is_put_back && may_differ {
                    again.push(member.submission);
                    continue;
                }
                let error = match (member.verdict, cause) {
                    (Err(own), Some(cause)) if depends_on_earlier(&own) => {
                        Error::Poisoned { cause }
                    }
                    (Err(own), _) => own,
                    (Ok(_), _) => first.clone().unwrap_or(Error::Closed),
                };
                actions.refuse.push((member.submission, error));
            }
        }
        assert!(actions.refuse.len() > refused_before, "taking back refuses a member");
        assert!(self.durable <= lsn_before, "no LSN of a durable commit is given again");
        debug_assert!(lsn_before <= self.last_lsn, "LSNs are taken back, not given");
        self.last_lsn = lsn_before;
        self.put_back_count += again.len();
        again.into_iter().rev().for_each(|submission| self.queue.push_front(submission));
        if let Some(cause) = cause {
            self.poison_and_refuse(cause, actions);
        }
    }

    /// Drops the unpublished changes of a group that is published or taken back.
    fn forget_unpublished(&mut self, group: &Group<T, W>) {
        for member in &group.members {
            if let Some(lsn) = member.commit_lsn() {
                self.unpublished.remove_batch(&member.submission.batch, lsn);
            }
        }
    }

    fn poison_and_refuse(&mut self, cause: PoisonCause, actions: &mut Actions<T, W>) {
        let cause = *self.poison.get_or_insert(cause);
        let queued = std::mem::take(&mut self.queue).into_iter();
        self.put_back_count = 0;
        actions.refuse.extend(queued.map(|s| (s, Error::Poisoned { cause })));
    }
}

/// Whether a refusal depends on earlier commits, and is void if those are taken back.
fn depends_on_earlier(refusal: &Error) -> bool {
    matches!(refusal, Error::Conflict { .. } | Error::BlockNotFound { .. })
}

#[cfg(test)]
mod tests;
