//! The commit lock: every submitted commit is answered, in any schedule of callers, log flusher and
//! the flusher's end. No thread waits for ever; loom reports a schedule in which one would.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use crate::block::Lsn;
use crate::error::{Error, Result};
use crate::local::commit::commit_lock::{CommitLock, LockedWork, Step};
use crate::local::commit::workers::WorkerOptions;
use crate::mvcc::batch::Batch;
use crate::sync::channel::{Receiver, bounded};
use crate::sync::{Condvar, Mutex};
use crate::ticket::{CommitTicket, GroupAnswers, Issuer, Reply, reply_without_caller, ticket};
use crate::{Claim, PLANNED};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        name: "two_callers_who_wait_are_answered",
        preemption_count_max: Some(2),
        kernel: || callers(true, [Calls::Waits, Calls::Waits]),
    },
    Claim {
        name: "callers_without_a_flusher_are_answered",
        preemption_count_max: None,
        kernel: || callers(false, [Calls::Waits, Calls::Waits]),
    },
    Claim {
        name: "a_callback_is_called_beside_a_caller_who_waits",
        preemption_count_max: Some(2),
        kernel: || callers(true, [Calls::Back, Calls::Waits]),
    },
    Claim {
        name: "an_announced_commit_is_answered_while_no_caller_waits",
        preemption_count_max: None,
        kernel: || callers(true, [Calls::Back]),
    },
    Claim {
        name: "a_caller_beside_the_flushers_end_is_answered",
        preemption_count_max: Some(3),
        kernel: || dismissal([Calls::Waits]),
    },
    Claim {
        name: "a_callback_beside_the_flushers_end_is_called",
        preemption_count_max: Some(3),
        kernel: || dismissal([Calls::Back]),
    },
    Claim {
        name: "two_callers_beside_the_flushers_end_are_answered",
        preemption_count_max: Some(2),
        kernel: || dismissal([Calls::Waits, Calls::Waits]),
    },
    Claim {
        name: "a_caller_beside_a_pause_between_turns_is_answered",
        preemption_count_max: None,
        kernel: || pause(false, Writes::None),
    },
    Claim {
        name: "a_caller_beside_a_pause_and_a_flusher_is_answered",
        preemption_count_max: Some(3),
        kernel: || pause(true, Writes::None),
    },
    Claim {
        name: "a_panic_in_a_turn_leaves_no_caller_waiting",
        preemption_count_max: Some(2),
        kernel: || panics(Writes::None),
    },
    Claim {
        name: "two_callers_without_a_flusher_whose_writes_overlap_are_answered",
        preemption_count_max: Some(3),
        kernel: || overlapping_writes(false, Writes::Two, [Calls::Waits, Calls::Waits]),
    },
    Claim {
        name: "a_caller_who_comes_while_another_one_is_away_is_answered",
        preemption_count_max: Some(3),
        kernel: || overlapping_writes(false, Writes::One, [Calls::Waits, Calls::Waits]),
    },
    Claim {
        name: "three_callers_who_share_two_writes_are_answered",
        preemption_count_max: Some(2),
        kernel: || {
            overlapping_writes(false, Writes::Two, [Calls::Waits, Calls::Waits, Calls::Waits])
        },
    },
    Claim {
        name: "two_callers_with_a_flusher_whose_writes_overlap_are_answered",
        preemption_count_max: Some(2),
        kernel: || overlapping_writes(true, Writes::Two, [Calls::Waits, Calls::Waits]),
    },
    Claim {
        name: "a_callback_is_called_beside_a_caller_who_is_away",
        preemption_count_max: Some(2),
        kernel: || overlapping_writes(true, Writes::One, [Calls::Back, Calls::Waits]),
    },
    Claim {
        name: "a_caller_that_wants_the_load_between_turns_finds_it_there",
        preemption_count_max: Some(3),
        kernel: || pause(false, Writes::Two),
    },
    Claim {
        name: "a_panic_between_turns_leaves_no_caller_waiting",
        preemption_count_max: Some(3),
        kernel: panic_between_turns,
    },
    Claim {
        name: "a_panic_in_a_write_leaves_no_caller_waiting",
        preemption_count_max: Some(2),
        kernel: || panics(Writes::Two),
    },
    Claim {
        name: "two_callers_that_the_flusher_serves_are_answered",
        preemption_count_max: Some(2),
        kernel: || served(Writes::None, Callers::UntilCommit(9), [Calls::Waits, Calls::Waits]),
    },
    Claim {
        name: "two_callers_that_are_few_after_the_first_commit_are_answered",
        preemption_count_max: Some(2),
        kernel: || served(Writes::Two, Callers::UntilCommit(1), [Calls::Waits, Calls::Waits]),
    },
    Claim {
        name: "a_caller_beside_a_worker_that_leaves_is_answered",
        preemption_count_max: Some(2),
        kernel: || leaving_worker(Writes::None, Callers::UntilCommit(9)),
    },
    Claim {
        name: "a_caller_beside_two_workers_that_write_at_once_is_answered",
        preemption_count_max: Some(2),
        kernel: || leaving_worker(Writes::Two, Callers::UntilCommit(9)),
    },
    Claim {
        name: "a_caller_beside_a_worker_that_finds_few_callers_is_answered",
        preemption_count_max: Some(2),
        kernel: || leaving_worker(Writes::One, Callers::UntilCommit(1)),
    },
    Claim {
        name: "callers_that_wake_each_other_are_answered",
        preemption_count_max: Some(3),
        kernel: || linked_callers(false),
    },
    Claim {
        name: "callers_whose_group_is_cut_short_are_answered",
        preemption_count_max: Some(3),
        kernel: || linked_callers(true),
    },
    Claim {
        name: "a_caller_that_workers_serve_beside_a_pause_is_answered",
        preemption_count_max: Some(2),
        kernel: served_pause,
    },
    Claim {
        name: "a_caller_whose_workers_are_dismissed_is_answered",
        preemption_count_max: Some(3),
        kernel: served_dismissal,
    },
];

/// How a caller hears of its commit.
#[derive(Clone, Copy)]
enum Calls {
    /// It waits, and leads meanwhile.
    Waits,
    /// It leaves a callback and goes; another thread does the work.
    Back,
}

/// Group writes that may be under way at once.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Writes {
    None,
    One,
    Two,
}

/// Whether workers serve the callers.
#[derive(Clone, Copy, PartialEq)]
enum Callers {
    Never,
    UntilCommit(u64),
}

/// A log like the real one: a step takes all commits from the queue and answers them, at once or,
/// like a sync, without the lock.
struct Post {
    queue: Receiver<Reply>,
    taken: Vec<Reply>,
    last: u64,
    panics: bool,
    writes: Writes,
    callers: Callers,
    away_count: usize,
}

/// A group write, and whether a panic ends it.
struct Write {
    calls: Vec<Reply>,
    panics: bool,
}

impl LockedWork for Post {
    type Unlocked = Write;

    fn take_step(&mut self) -> Step<Write> {
        while let Ok(reply) = self.queue.try_recv() {
            self.taken.push(reply);
        }
        if self.taken.is_empty() || (self.away_count > 0 && self.away_count >= self.writes as usize)
        {
            return Step::Idle;
        }
        if self.writes != Writes::None {
            self.away_count += 1;
            let (calls, panics) =
                (std::mem::take(&mut self.taken), std::mem::take(&mut self.panics));
            return Step::Unlocked(Write { calls, panics });
        }
        if std::mem::take(&mut self.panics) {
            let _lost = self.taken.pop();
            std::panic::panic_any(PLANNED);
        }
        for reply in self.taken.drain(..) {
            self.last += 1;
            reply.send(Ok(Lsn(self.last)));
        }
        Step::More
    }

    fn run_unlocked(write: &mut Write) {
        if write.panics {
            write.calls.pop();
            std::panic::panic_any(PLANNED);
        }
    }

    fn complete_unlocked(&mut self, write: Write) -> Step<Write> {
        self.away_count -= 1;
        for reply in write.calls {
            self.last += 1;
            reply.send(Ok(Lsn(self.last)));
        }
        Step::More
    }

    fn is_write_under_way(&self) -> bool {
        self.away_count > 0
    }

    fn has_many_callers(&self) -> bool {
        match self.callers {
            Callers::Never => false,
            Callers::UntilCommit(lsn) => self.last < lsn,
        }
    }

    fn missing_caller_count(&self) -> usize {
        match (self.away_count, self.writes) {
            (0, _) => 0,
            (1, Writes::Two) => 1,
            _ => usize::MAX,
        }
    }

    fn run_due_work(&mut self) -> Option<Duration> {
        None
    }

    fn is_idle(&self) -> bool {
        self.taken.is_empty()
    }

    fn fail_after_panic(&mut self) {
        self.taken.clear();
    }
}

struct Office(CommitLock<Post, Reply>);

impl Office {
    fn new(has_flusher: bool, panics: bool, writes: Writes) -> Arc<Office> {
        let (sender, queue) = bounded(8);
        let (taken, callers) = (Vec::new(), Callers::Never);
        let post = Post { queue, taken, last: 0, panics, writes, callers, away_count: 0 };
        let workers = || WorkerOptions { helper_count_max: 0, call_helper: Box::new(|| false) };
        Arc::new(Office(CommitLock::new(sender, post, has_flusher.then(workers))))
    }

    /// An office whose callers leave their calls to workers from the start.
    fn served(panics: bool, writes: Writes, callers: Callers) -> Arc<Office> {
        let office = Office::new(true, panics, writes);
        office.0.lock_between_steps(|post| post.callers = callers);
        // A step on an empty queue notes the callers.
        office.0.serve();
        office
    }

    fn hand_in(self: &Arc<Self>) -> CommitTicket {
        let issuer: Arc<dyn Issuer> = Arc::<Office>::clone(self);
        let (reply, ticket) = ticket(Some(issuer));
        self.0.queue.send(reply).expect("the queue lives as long as the log");
        ticket
    }

    fn call(self: &Arc<Self>, calls: Calls) -> Result<Lsn> {
        match calls {
            Calls::Waits => self.hand_in().wait().map(told_lsn),
            Calls::Back => {
                let (told, heard) = Heard::new();
                self.hand_in().on_durable(move |answer| told.tell(answer.map(told_lsn)));
                heard.wait()
            }
        }
    }
}

/// The LSN of an answered commit.
fn told_lsn(lsn: Option<Lsn>) -> Lsn {
    lsn.expect("every call is a commit")
}

impl Issuer for Office {
    fn lead_until(&self, enough: &dyn Fn() -> bool) {
        self.0.lead_until(enough);
    }

    fn announce_commit(&self) {
        self.0.announce_commit();
    }

    fn ensure_progress(&self) {
        self.0.ensure_progress();
    }

    fn durable(&self) -> Lsn {
        Lsn(0)
    }

    fn explain(&self, error: Error) -> Error {
        error
    }
}

/// Where a caller hears its callback.
#[derive(Clone, Default)]
struct Heard(Arc<(Mutex<Option<Result<Lsn>>>, Condvar)>);

impl Heard {
    fn new() -> (Heard, Heard) {
        let heard = Heard::default();
        (heard.clone(), heard)
    }

    fn tell(&self, answer: Result<Lsn>) {
        *self.0.0.lock() = Some(answer);
        self.0.1.notify_all();
    }

    fn wait(&self) -> Result<Lsn> {
        let mut answer = self.0.0.lock();
        loop {
            match answer.take() {
                Some(answer) => return answer,
                None => self.0.1.wait(&mut answer),
            }
        }
    }
}

fn callers<const COUNT: usize>(has_flusher: bool, calls: [Calls; COUNT]) {
    overlapping_writes(has_flusher, Writes::None, calls);
}

/// The first caller is the main thread.
fn overlapping_writes<const COUNT: usize>(
    has_flusher: bool,
    writes: Writes,
    calls: [Calls; COUNT],
) {
    let office = Office::new(has_flusher, false, writes);
    let flusher = has_flusher.then(|| spawn_flusher(&office));
    let others = spawn_callers(&office, &calls[1..]);
    let mut lsns = vec![office.call(calls[0]).expect("answered well")];
    lsns.extend(others.into_iter().map(|other| other.join().expect("a caller returns")));
    lsns.sort_unstable();
    lsns.dedup();
    assert_eq!(lsns.len(), COUNT, "each commit has an lsn of its own");
    office.0.stop_flusher();
    if let Some(flusher) = flusher {
        flusher.join().expect("the log flusher returns");
    }
}

/// As [`overlapping_writes`], with callers that leave their calls to the log flusher.
fn served<const COUNT: usize>(writes: Writes, callers: Callers, calls: [Calls; COUNT]) {
    let office = Office::served(false, writes, callers);
    let flusher = spawn_flusher(&office);
    let others = spawn_callers(&office, &calls[1..]);
    office.call(calls[0]).expect("answered well");
    for other in others {
        other.join().expect("a caller returns");
    }
    office.0.stop_flusher();
    flusher.join().expect("the log flusher returns");
}

fn spawn_callers(office: &Arc<Office>, calls: &[Calls]) -> Vec<thread::JoinHandle<Lsn>> {
    let spawn = |calls: &Calls| {
        let (office, calls) = (Arc::clone(office), *calls);
        thread::spawn(move || office.call(calls).expect("answered well"))
    };
    calls.iter().map(spawn).collect()
}

fn spawn_flusher(office: &Arc<Office>) -> thread::JoinHandle<()> {
    let office = Arc::clone(office);
    thread::spawn(move || office.0.run_flusher())
}

/// As [`pause`], with a caller that leaves its call to workers.
fn served_pause() {
    let office = Office::served(false, Writes::None, Callers::UntilCommit(9));
    let flusher = spawn_flusher(&office);
    let other = {
        let office = Arc::clone(&office);
        thread::spawn(move || office.call(Calls::Waits).expect("answered well"))
    };
    office.0.lock_between_steps(|_| thread::yield_now());
    other.join().expect("a caller returns");
    office.0.stop_flusher();
    flusher.join().expect("the log flusher returns");
}

/// As [`dismissal`], with a caller that leaves its call to workers.
fn served_dismissal() {
    let office = Office::served(false, Writes::None, Callers::UntilCommit(9));
    let flusher = spawn_flusher(&office);
    let other = {
        let office = Arc::clone(&office);
        thread::spawn(move || office.call(Calls::Waits).expect("answered well"))
    };
    office.0.stop_flusher();
    other.join().expect("a caller returns");
    flusher.join().expect("the log flusher returns");
}

/// A caller leaves its call to a worker that stops serving. The flusher is asleep by then.
fn leaving_worker(writes: Writes, callers: Callers) {
    let office = Office::served(false, writes, callers);
    let flusher = spawn_flusher(&office);
    let caller = {
        let office = Arc::clone(&office);
        thread::spawn(move || office.call(Calls::Waits).expect("answered well"))
    };
    office.0.serve();
    caller.join().expect("a caller returns");
    office.0.stop_flusher();
    flusher.join().expect("the log flusher returns");
}

/// Two callers of a group of 13, of which one is to wake the other. It may stop waiting by itself.
/// The answering may be cut short behind both, as a panic does that.
fn linked_callers(is_cut_short: bool) {
    let (first, waking) = ticket(None);
    let (second, woken) = ticket(None);
    let waking = thread::spawn(move || {
        let early = waking.wait_timeout(Duration::from_millis(1));
        let answer = early.unwrap_or_else(|| waking.wait());
        assert_eq!(answer.expect("answered well"), Some(Lsn(1)));
    });
    let woken = thread::spawn(move || {
        assert_eq!(woken.wait().expect("answered well"), Some(Lsn(3)));
    });
    let mut replies = vec![first, reply_without_caller(), second];
    replies.extend((3..13).map(|_| reply_without_caller()));
    let mut answers = GroupAnswers::new(replies.len());
    for (index, reply) in replies.into_iter().enumerate().rev() {
        answers.answer_last(reply, Ok(Lsn(index as u64 + 1)), Batch::without_operations());
    }
    match is_cut_short {
        true => drop(answers),
        false => answers.wake_callers(),
    }
    waking.join().expect("a caller returns");
    woken.join().expect("a caller returns");
}

/// The main thread stops the log flusher while others commit.
fn dismissal<const COUNT: usize>(calls: [Calls; COUNT]) {
    let office = Office::new(true, false, Writes::None);
    let flusher = {
        let office = Arc::clone(&office);
        thread::spawn(move || office.0.run_flusher())
    };
    let others = calls.map(|calls| {
        let office = Arc::clone(&office);
        thread::spawn(move || office.call(calls).expect("answered well"))
    });
    office.0.stop_flusher();
    for other in others {
        other.join().expect("a caller returns");
    }
    flusher.join().expect("the log flusher returns");
}

/// The main thread takes the lock for other work, as a checkpoint does, while another one commits.
fn pause(has_flusher: bool, writes: Writes) {
    let office = Office::new(has_flusher, false, writes);
    let flusher = has_flusher.then(|| spawn_flusher(&office));
    let other = {
        let office = Arc::clone(&office);
        thread::spawn(move || office.call(Calls::Waits).expect("answered well"))
    };
    // The other thread may try the lock meanwhile.
    office.0.lock_between_steps(|post| {
        assert_eq!(post.away_count, 0);
        thread::yield_now();
        assert_eq!(post.away_count, 0);
    });
    other.join().expect("a caller returns");
    office.0.stop_flusher();
    if let Some(flusher) = flusher {
        flusher.join().expect("the log flusher returns");
    }
}

/// As [`pause`], with a panic while the lock is held.
fn panic_between_turns() {
    let office = Office::new(false, false, Writes::Two);
    let other = {
        let office = Arc::clone(&office);
        thread::spawn(move || office.call(Calls::Waits).is_ok())
    };
    let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        office.0.lock_between_steps(|_| std::panic::panic_any(PLANNED));
    }));
    assert!(held.is_err(), "the thread that held it hears of it");
    other.join().expect("a caller returns");
    office.call(Calls::Waits).expect("the next one is answered");
}

fn panics(writes: Writes) {
    let office = Office::new(true, true, writes);
    let flusher = {
        let office = Arc::clone(&office);
        thread::spawn(move || office.0.run_flusher())
    };
    let other = {
        let office = Arc::clone(&office);
        thread::spawn(move || office.call(Calls::Waits).is_ok())
    };
    let answers = [office.call(Calls::Waits).is_ok(), other.join().expect("a caller returns")];
    assert!(answers != [true; 2], "the one that was lost is not told that it is committed");
    office.0.stop_flusher();
    flusher.join().expect("the log flusher returns");
}
