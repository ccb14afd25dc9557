//! The commit core: which commits form a group, in what order, and what becomes of them.
//!
//! A state machine without I/O, clock or threads: [`CommitCore::step`] takes an [`Event`] and returns
//! [`Actions`] for somebody else to carry out. So the same core runs in the product, under a virtual
//! clock and under a model checker. Owns the queue, LSNs, conflict checks and poisoning.
//!
//! The way of a commit:
//!
//! 1. `Submit` puts it in the queue.
//! 2. `Tick` forms a group: each member is checked against everything before it and given the next
//!    LSN, or refused. A refusal stays with its group, so that the caller hears of it only when what
//!    it was refused for is visible.
//! 3. `actions.write`: the group is written, and synced if one member asks for it.
//! 4. `Landed` tells how that went. Groups are published in LSN order: `actions.publish`.
//! 5. `Published` ends it: the index now answers for the group, and `actions.answer` its callers.
//!
//! When a write or sync fails, every member of that group and of every later one gets the error, and
//! the queue and all that comes after is refused. When there was no space, nothing was written: the
//! group and later ones are refused, their LSNs are taken back, and the core goes on. What only deletes or
//! moves goes back to the head of the queue instead if somebody else's write was in its group: it may find
//! space without that.
//!
//! **Waiting for company.** A closed loop of T callers tends to split into groups that take turns,
//! because the first caller back finds the log free. So after a group has landed the core expects its
//! members, and those that queued meanwhile, to come back, and holds the next group for them: never
//! longer than [`Pace::wait_max`] after the landing, nor than [`Pace::gap_max`] after the latest
//! arrival. A lone caller expects only itself and never waits.

use std::collections::VecDeque;
use std::time::Duration;

use crate::block::Lsn;
use crate::canary::{Bug, planted};
use crate::error::{Error, PoisonCause, Result};
use crate::mvcc::batch::Batch;
use crate::mvcc::overlay::{Overlay, Published};

/// A commit on its way, or a request to make earlier commits durable (a batch without operations).
#[derive(Debug)]
pub(crate) struct Submission<T> {
    pub(crate) batch: Batch,
    /// Whether it is acknowledged only once durable.
    pub(crate) durable: bool,
    /// Bytes it takes in the log.
    pub(crate) log_len: u64,
    /// Whom to tell.
    pub(crate) tag: T,
}

/// A submission with what was decided about it.
#[derive(Debug)]
pub(crate) struct Member<T> {
    pub(crate) submission: Submission<T>,
    pub(crate) verdict: Result<Lsn>,
}

impl<T> Member<T> {
    /// The LSN of a commit that has something to write.
    pub(crate) fn commit_lsn(&self) -> Option<Lsn> {
        match &self.verdict {
            Ok(lsn) if !self.submission.batch.operations.is_empty() => Some(*lsn),
            _ => None,
        }
    }
}

/// Commits that are written, and where asked for synced, together.
#[derive(Debug)]
pub(crate) struct Group<T> {
    number: u64,
    pub(crate) members: Vec<Member<T>>,
    /// Whether everything up to this group must be durable before it is published.
    pub(crate) sync: bool,
    /// The newest LSN when the group is done.
    pub(crate) last_lsn: Lsn,
    /// The newest LSN known durable when the group was formed.
    pub(crate) durable: Lsn,
    commit_count: usize,
    move_count: usize,
}

impl<T> Group<T> {
    /// Whether none of its commits writes a block.
    pub(crate) fn frees(&self) -> bool {
        self.members.iter().all(|member| member.submission.batch.frees())
    }

    /// Commits of users with something to write.
    pub(crate) fn user_commit_count(&self) -> usize {
        self.commit_count - self.move_count
    }
}

/// How carrying out a group's write went.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Written, and synced if that was asked for.
    Done,
    /// There was no space; nothing of the group is or will be in the log.
    Full(Error),
    /// A write or sync failed: what is in the log is unknown.
    Failed(PoisonCause, Error),
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event<T> {
    /// A caller handed something in.
    Submit(Submission<T>),
    /// Nothing more is waiting to be handed in at this moment.
    Tick,
    /// A group's write has ended.
    Landed(Group<T>, Outcome),
    /// The changes of a group are in the index.
    Published(Group<T>),
    /// Something outside the core makes further writes unsafe.
    Poison(PoisonCause),
}

/// What to do, in this order.
#[derive(Debug)]
pub(crate) struct Actions<T> {
    /// Put these in the index and step with `Published` for each.
    pub(crate) publish: Vec<Group<T>>,
    /// Tell its members.
    pub(crate) answer: Option<Group<T>>,
    /// Tell these.
    pub(crate) refuse: Vec<(Submission<T>, Error)>,
    /// Write this and step with `Landed`.
    pub(crate) write: Option<Group<T>>,
    /// More is expected: step with `Tick` no later than at this time.
    pub(crate) wait_until: Option<Duration>,
}

impl<T> Default for Actions<T> {
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

/// How long the core may hold a group for expected company.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// After the landing that started the wait, whatever has arrived.
    pub(crate) wait_min: Duration,
    /// After the landing that started the wait.
    pub(crate) wait_max: Duration,
    /// After the latest arrival.
    pub(crate) gap_max: Duration,
}

impl Pace {
    /// The pace when a group takes `flight_time` to write and sync: always less than the group that is
    /// saved, and never long after the last arrival.
    pub(crate) fn of(flight_time: Duration) -> Pace {
        Pace {
            wait_min: (flight_time / 5).min(Duration::from_micros(250)),
            wait_max: (flight_time * 3 / 4).min(Duration::from_micros(1000)),
            gap_max: (flight_time / 2).min(Duration::from_micros(250)),
        }
    }
}

/// Limits of the core.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CoreOptions {
    /// Groups that may be under way at once.
    pub(crate) flight_count_max: usize,
    /// Log bytes after which a group takes no further member.
    pub(crate) group_len_max: u64,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct CommitCore<T> {
    options: CoreOptions,
    pace: Pace,
    queue: VecDeque<Submission<T>>,
    overlay: Overlay,
    flights: VecDeque<Flight<T>>,
    next_group: u64,
    last_lsn: Lsn,
    durable: Lsn,
    poison: Option<PoisonCause>,
    company: Company,
}

/// A group under way.
#[derive(Debug)]
struct Flight<T> {
    number: u64,
    lsn_before: Lsn,
    landed: Option<(Group<T>, Outcome)>,
}

/// Callers expected back.
#[derive(Debug, Default)]
struct Company {
    expected: usize,
    /// Since the landing.
    arrival_count: usize,
    landed_at: Duration,
    arrived_at: Duration,
}

impl<T> CommitCore<T> {
    /// Starts behind the last commit of the log, all of which is durable.
    pub(crate) fn new(options: CoreOptions, pace: Pace, last_lsn: Lsn) -> CommitCore<T> {
        CommitCore {
            options,
            pace,
            queue: VecDeque::new(),
            overlay: Overlay::default(),
            flights: VecDeque::new(),
            next_group: 0,
            last_lsn,
            durable: last_lsn,
            poison: None,
            company: Company::default(),
        }
    }

    /// The newest LSN known durable.
    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    /// The newest LSN given out.
    pub(crate) fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// Whether nothing is queued or under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.flights.is_empty()
    }

    /// Forgets groups that will never land.
    pub(crate) fn forget_flights(&mut self) {
        self.flights.clear();
    }

    pub(crate) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Takes an event at a time and says what to do.
    pub(crate) fn step(
        &mut self,
        now: Duration,
        event: Event<T>,
        published: &impl Published,
    ) -> Actions<T> {
        let mut actions = Actions::default();
        match event {
            Event::Submit(submission) => self.submit(now, submission, &mut actions),
            Event::Tick => self.tick(now, published, &mut actions),
            Event::Landed(group, outcome) => self.land(now, group, outcome, &mut actions),
            Event::Published(group) => {
                self.forget(&group);
                actions.answer = Some(group);
            }
            Event::Poison(cause) => self.poison(cause, &mut actions),
        }
        actions
    }

    fn submit(&mut self, now: Duration, submission: Submission<T>, actions: &mut Actions<T>) {
        match self.poison {
            Some(cause) => actions.refuse.push((submission, Error::Poisoned { cause })),
            None => self.queue.push_back(submission),
        }
        self.company.arrived_at = now;
        self.company.arrival_count += 1;
    }

    fn tick(&mut self, now: Duration, published: &impl Published, actions: &mut Actions<T>) {
        let full = self.flights.len() >= self.options.flight_count_max;
        // A group was refused: wait until every later one is back, then reuse its LSNs.
        let refused = |f: &Flight<T>| !matches!(f.landed, None | Some((_, Outcome::Done)));
        let draining = self.flights.iter().any(refused);
        if self.queue.is_empty() || full || draining {
            return;
        }
        if let Some(until) = self.wait_for_company(now) {
            actions.wait_until = Some(until);
            return;
        }
        let group = self.form(published);
        let unsynced = group.sync && self.durable < group.last_lsn && !planted(Bug::SyncIsSkipped);
        if group.commit_count == 0 && !unsynced && self.flights.is_empty() {
            actions.publish.push(group);
            return;
        }
        self.flights.push_back(Flight {
            number: group.number,
            lsn_before: Lsn(group.last_lsn.0 - group.commit_count as u64),
            landed: None,
        });
        actions.write = Some(group);
    }

    fn wait_for_company(&self, now: Duration) -> Option<Duration> {
        let company = &self.company;
        if self.queue.len() >= company.expected {
            return None;
        }
        // The arrivals so far took `now - landed_at`; the queue waits as long again, as a whole, for
        // as many more. That pays while it is less than a flight.
        let (arrived, waiting) = (company.arrival_count as u32 + 1, self.queue.len() as u32);
        let worth = (self.pace.wait_max * arrived / waiting).max(self.pace.wait_min);
        let until = (company.landed_at + worth.min(self.pace.wait_max))
            .min(company.arrived_at.max(company.landed_at) + self.pace.gap_max);
        (now < until).then_some(until)
    }

    fn form(&mut self, published: &impl Published) -> Group<T> {
        let mut group = Group {
            number: self.next_group,
            members: Vec::with_capacity(self.queue.len()),
            sync: false,
            last_lsn: self.last_lsn,
            durable: self.durable,
            commit_count: 0,
            move_count: 0,
        };
        self.next_group += 1;
        let mut log_len = 0;
        while let Some(submission) = self.queue.front() {
            log_len += submission.log_len;
            if log_len > self.options.group_len_max && !group.members.is_empty() {
                break;
            }
            let Some(mut submission) = self.queue.pop_front() else { break };
            group.sync |= submission.durable;
            let verdict = self.judge(&mut submission, published);
            let is_written = verdict.is_ok() && !submission.batch.operations.is_empty();
            group.commit_count += usize::from(is_written);
            group.move_count += usize::from(is_written && submission.batch.is_move());
            group.members.push(Member { submission, verdict });
        }
        group.last_lsn = self.last_lsn;
        group
    }

    fn judge(&mut self, submission: &mut Submission<T>, published: &impl Published) -> Result<Lsn> {
        self.overlay.keep_current(&mut submission.batch, published);
        if submission.batch.operations.is_empty() {
            return Ok(self.last_lsn);
        }
        self.overlay.check(&submission.batch, published)?;
        self.last_lsn = Lsn(self.last_lsn.0 + 1);
        self.overlay.add(&submission.batch, self.last_lsn);
        Ok(self.last_lsn)
    }

    fn land(&mut self, now: Duration, group: Group<T>, outcome: Outcome, actions: &mut Actions<T>) {
        self.company.landed_at = now;
        self.company.arrival_count = 0;
        self.company.expected = group.members.len() + self.queue.len();
        let flight = self.flights.iter_mut().find(|flight| flight.number == group.number);
        let flight = flight.expect("a group lands once, after it was formed");
        flight.landed = Some((group, outcome));
        self.settle(actions);
    }

    /// Settles landed groups in LSN order.
    fn settle(&mut self, actions: &mut Actions<T>) {
        while let Some(flight) = self.flights.front_mut() {
            match flight.landed.take() {
                None => return,
                Some((group, Outcome::Done)) => {
                    self.flights.pop_front();
                    if group.sync || planted(Bug::DurableBeforeSync) {
                        self.durable = group.last_lsn;
                    }
                    actions.publish.push(group);
                }
                Some((mut group, Outcome::Failed(_, error))) if planted(Bug::FollowersHearOk) => {
                    self.flights.pop_front();
                    group.members[0].verdict = Err(error);
                    actions.publish.push(group);
                }
                refused => {
                    flight.landed = refused;
                    // Later groups are behind a hole: they share its fate, once they are all in.
                    if self.flights.iter().all(|flight| flight.landed.is_some()) {
                        self.take_back(actions);
                    }
                    return;
                }
            }
        }
    }

    /// Refuses every group under way with the error of the first.
    fn take_back(&mut self, actions: &mut Actions<T>) {
        let Some(lsn_before) = self.flights.front().map(|flight| flight.lsn_before) else { return };
        let (mut first, mut cause, mut again) = (None, None, Vec::new());
        for flight in std::mem::take(&mut self.flights) {
            let Some((group, outcome)) = flight.landed else { continue };
            if !planted(Bug::RefusedStaysInFlight) {
                self.forget(&group);
            }
            if let Outcome::Failed(failed, _) = &outcome {
                cause.get_or_insert(*failed);
            }
            if let Outcome::Full(error) | Outcome::Failed(_, error) = outcome {
                first.get_or_insert(error);
            }
            let retries = cause.is_none() && !group.frees();
            for member in group.members {
                if retries && member.verdict.is_ok() && member.submission.batch.frees() {
                    again.push(member.submission);
                    continue;
                }
                let own = member.verdict.err();
                let error = own.or_else(|| first.clone()).unwrap_or(Error::Closed);
                actions.refuse.push((member.submission, error));
            }
        }
        if !planted(Bug::LsnsStayTaken) {
            self.last_lsn = lsn_before;
        }
        again.into_iter().rev().for_each(|submission| self.queue.push_front(submission));
        if let Some(cause) = cause {
            self.poison(cause, actions);
        }
    }

    /// The index answers for a group from here on, or the group never was.
    fn forget(&mut self, group: &Group<T>) {
        for member in &group.members {
            if let Some(lsn) = member.commit_lsn() {
                self.overlay.remove(&member.submission.batch, lsn);
            }
        }
    }

    fn poison(&mut self, cause: PoisonCause, actions: &mut Actions<T>) {
        let cause = *self.poison.get_or_insert(cause);
        let queued = std::mem::take(&mut self.queue).into_iter();
        actions.refuse.extend(queued.map(|s| (s, Error::Poisoned { cause })));
    }
}

#[cfg(test)]
mod tests;
