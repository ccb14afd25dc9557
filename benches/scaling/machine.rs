//! A machine under a virtual clock: callers in a closed loop, cores that they share, one device,
//! and the product's own commit core in between.
//!
//! | cost of processor time | value       | where from                                   |
//! |------------------------|-------------|----------------------------------------------|
//! | to be woken            | [`WOKEN`]   | a switch and a cold cache                    |
//! | to make a commit       | [`PREPARE`] | block, batch, submission                     |
//! | to wake one caller     | [`WAKE`]    | a futex call of the leader                   |
//! | a member of a group    | [`MEMBER`]  | its checks, its copy, its place in the index |
//! | a group                | [`GROUP`]   | system calls, headers, publication           |
//!
//! Chosen so that 8 and 64 callers on 2 cores give the measurements of docs/performance.md. Work is
//! done in the order in which it was asked for, by the first core that is free. The leader waits
//! for a core as all callers do. Not modelled: caches, preemption, the disk's own queues beside the
//! log.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use crate::Rng;
use crate::block::{Block, BlockId, BlockType, Lsn};
use crate::device::Device;
use crate::error::Result;
use crate::local::commit::group::{
    Actions, CommitCore, CoreOptions, Event, Group, Outcome, Pace, Submission,
};
use crate::mvcc::batch::Batch;
use crate::mvcc::unpublished::Published;

const WOKEN: Duration = Duration::from_nanos(4500);
const PREPARE: Duration = Duration::from_nanos(3000);
const WAKE: Duration = Duration::from_nanos(2500);
const MEMBER: Duration = Duration::from_nanos(2500);
const GROUP: Duration = Duration::from_nanos(12_000);
/// Bytes of a commit in the log: 4 KiB and its frame.
const COMMIT_LEN: u64 = 4096 + 96;
const PAGE_LEN: u64 = 4096;
const GROUP_LEN_MAX: u64 = 8 << 20;
const GROUP_COUNT_MAX: usize = 2;
const MANY_CALLERS_MIN: usize = 12;

/// The parameters of a run.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub device: Device,
    pub callers: usize,
    pub cores: usize,
    /// Groups under way at once, from so many callers on; the product's choice if none is given.
    pub groups: Option<(usize, usize)>,
    /// The commit delays, over the product's.
    pub patience: f64,
}

/// The results of a run.
#[derive(Debug)]
pub struct Outcomes {
    pub commits_per_s: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub group: f64,
}

/// An event at a time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A caller's commit is in the queue.
    Submitted(usize),
    /// The group with this number is written and synced.
    Written(u64),
    /// The commit delay is over, or the flusher is awake.
    WaitOver,
    /// The leader or the flusher is done with a group.
    LogReleased,
}

/// Nothing but what is in flight: no commit conflicts.
struct Nothing;

impl Published for Nothing {
    fn changed_since(&self, _: BlockId, _: Lsn) -> Result<Option<Lsn>> {
        Ok(None)
    }

    fn changed_within(&self, _: BlockId, _: BlockId, _: Lsn) -> Result<Option<(BlockId, Lsn)>> {
        Ok(None)
    }

    fn exists(&self, _: BlockId) -> Result<bool> {
        Ok(true)
    }

    fn is_newest_at_place(&self, _: BlockId, _: Lsn, _: u64) -> Result<bool> {
        Ok(true)
    }

    fn is_undo_at_place(&self, _: BlockId, _: Lsn, _: u64) -> bool {
        true
    }
}

pub struct Machine {
    setup: Setup,
    rng: Rng,
    now: Duration,
    happenings: BinaryHeap<Reverse<(Duration, u64, Happening)>>,
    happening_count: u64,
    /// When each core is free.
    cores: Vec<Duration>,
    core: CommitCore<usize, ()>,
    queue: VecDeque<usize>,
    /// Whether a thread works on the log and does not see the queue.
    busy: bool,
    /// The caller that leads; none while the log is free, or the flusher's.
    leader: Option<usize>,
    under_way: BTreeMap<u64, (Group<usize, ()>, Duration)>,
    group_count: u64,
    group_time: Duration,
    asked_at: Vec<Duration>,
    took: Vec<Duration>,
}

impl Machine {
    pub fn new(setup: Setup, seed: u64) -> Machine {
        let (group_count_max, many_callers_min) =
            setup.groups.unwrap_or((GROUP_COUNT_MAX, MANY_CALLERS_MIN));
        let options =
            CoreOptions { group_count_max, many_callers_min, group_len_max: GROUP_LEN_MAX };
        Machine {
            setup,
            rng: Rng(seed),
            now: Duration::ZERO,
            happenings: BinaryHeap::new(),
            happening_count: 0,
            cores: vec![Duration::ZERO; setup.cores],
            core: CommitCore::new(options, Pace::for_group_time(Duration::ZERO), Lsn(0)),
            queue: VecDeque::new(),
            busy: false,
            leader: None,
            under_way: BTreeMap::new(),
            group_count: 0,
            group_time: Duration::ZERO,
            asked_at: vec![Duration::ZERO; setup.callers],
            took: Vec::new(),
        }
    }

    /// Runs for so many commits, after a tenth of that to settle.
    pub fn run(mut self, commits: usize) -> Outcomes {
        for caller in 0..self.setup.callers {
            self.begin(caller, Duration::ZERO, Duration::ZERO);
        }
        let warm = commits / 10;
        let (mut started, mut groups_before) = (Duration::ZERO, 0);
        while self.took.len() < warm + commits {
            let next = self.happenings.pop().expect("a caller always has work");
            let Reverse((at, _, happening)) = next;
            self.now = at;
            self.happen(happening);
            if started.is_zero() && self.took.len() >= warm {
                (started, groups_before) = (self.now, self.group_count);
            }
        }
        let measured = self.took.len() - warm;
        let mut took = self.took.split_off(warm);
        took.sort_unstable();
        Outcomes {
            commits_per_s: measured as f64 / (self.now - started).as_secs_f64(),
            p50: took[took.len() / 2],
            p99: took[took.len() * 99 / 100],
            group: measured as f64 / (self.group_count - groups_before).max(1) as f64,
        }
    }

    fn at(&mut self, when: Duration, happening: Happening) {
        self.happening_count += 1;
        self.happenings.push(Reverse((when, self.happening_count, happening)));
    }

    /// Has a core do some work from now or later on, and returns when it is done.
    fn compute(&mut self, from: Duration, work: Duration) -> Duration {
        let core = (0..self.cores.len()).min_by_key(|core| self.cores[*core]).expect("a core");
        let done = self.cores[core].max(from) + work;
        self.cores[core] = done;
        done
    }

    /// A caller that is awake makes its next commit.
    fn begin(&mut self, caller: usize, from: Duration, switch: Duration) {
        // No two callers are quite the same.
        let jitter = Duration::from_nanos(self.rng.below(1000));
        let done = self.compute(from, switch + PREPARE + jitter);
        self.asked_at[caller] = done - PREPARE;
        self.at(done, Happening::Submitted(caller));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Submitted(caller) => {
                self.queue.push_back(caller);
                if !self.busy {
                    // The first one leads for all that come while it waits for them.
                    self.leader.get_or_insert(caller);
                    self.form_group();
                }
            }
            Happening::WaitOver if self.busy => {}
            Happening::WaitOver => self.form_group(),
            Happening::Written(number) => self.complete_group(number),
            Happening::LogReleased => self.release_log(),
        }
    }

    /// A caller releases the log once it has its answer, and wakes the flusher for the commits
    /// left. It may be back before the flusher is awake. The flusher goes on until none is left.
    fn release_log(&mut self) {
        self.busy = false;
        let by_caller = self.leader.take().is_some();
        if !by_caller {
            self.form_group();
        } else if !self.queue.is_empty() || !self.core.is_idle() {
            let awake = self.compute(self.now, WAKE) + WOKEN;
            self.at(awake, Happening::WaitOver);
        }
    }

    /// Takes the commits in the queue and forms a group, if it is time for that.
    fn form_group(&mut self) {
        while let Some(caller) = self.queue.pop_front() {
            let block = Block::new(BlockId(caller as u64 + 1), BlockType::TableData, "");
            let batch = Batch::of_single_write(block);
            let submission = Submission { batch, durable: true, log_len: COMMIT_LEN, tag: caller };
            self.step(Event::Submit(submission));
        }
        let actions = self.step(Event::Tick);
        if let Some(until) = actions.wait_until {
            // Checks again when the wait is over; a caller that comes meanwhile checks, too.
            self.at(until, Happening::WaitOver);
        }
        if let Some(group) = actions.write {
            self.write(group);
        }
    }

    fn step(&mut self, event: Event<usize, ()>) -> Actions<usize, ()> {
        self.core.handle_event(self.now, event, &Nothing)
    }

    fn write(&mut self, group: Group<usize, ()>) {
        let members = group.members.len() as u32;
        let laid_out = self.compute(self.now, GROUP / 2 + MEMBER * members / 2);
        let len = (u64::from(members) * COMMIT_LEN).next_multiple_of(PAGE_LEN);
        let ended = laid_out + self.setup.device.write_time(len, &mut self.rng);
        let number = self.group_count;
        self.group_count += 1;
        self.under_way.insert(number, (group, laid_out));
        self.at(ended, Happening::Written(number));
        // With one group under way the leader keeps the log during the sync; with several it
        // releases it.
        self.busy = true;
        if self.core.allows_overlap() {
            self.at(laid_out, Happening::LogReleased);
        }
    }

    fn complete_group(&mut self, number: u64) {
        let (group, started) = self.under_way.remove(&number).expect("a group under way");
        self.group_time = (self.group_time * 7 + (self.now - started)) / 8;
        let pace = Pace::for_group_time(self.group_time);
        let patience = self.setup.patience;
        self.core.set_pace(Pace {
            wait_min: pace.wait_min.mul_f64(patience),
            wait_max: pace.wait_max.mul_f64(patience),
            gap_max: pace.gap_max.mul_f64(patience),
            may_overlap: self.setup.groups.map_or(pace.may_overlap, |(count, _)| count > 1),
        });
        let actions = self.step(Event::Written(group, Outcome::Done));
        for group in actions.publish {
            let answered = self.step(Event::Published(group)).answer;
            self.answer(answered.expect("a published group is answered"));
        }
    }

    /// Wakes the members one after the other; the leader is awake already.
    fn answer(&mut self, group: Group<usize, ()>) {
        let members = group.members.len() as u32;
        let work = GROUP / 2 + (MEMBER / 2 + WAKE) * members;
        let done = self.compute(self.now, work);
        let first = done - WAKE * members;
        for (n, member) in (1..).zip(group.members) {
            let caller = member.submission.tag;
            let own = self.leader == Some(caller);
            let (from, switch) =
                if own { (done, Duration::ZERO) } else { (first + WAKE * n, WOKEN) };
            self.took.push(from + switch - self.asked_at[caller]);
            self.begin(caller, from, switch);
        }
        self.busy = true;
        // Many callers form their next group while the leader is still waking them.
        let free = if self.core.allows_overlap() { first } else { done };
        self.at(free, Happening::LogReleased);
    }
}
