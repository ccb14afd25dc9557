//! The poison flag: once a thread has seen it, no later commit is acknowledged. An acknowledged
//! commit is on the disk. All threads hear the first cause, and none waits for ever.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use crate::block::Lsn;
use crate::error::{Error, PoisonCause, Result};
use crate::local::commit::commit_lock::{CommitLock, LockedWork, Step};
use crate::local::poison::Poison;
use crate::sync::Mutex;
use crate::sync::channel::{Receiver, bounded};
use crate::ticket::{Issuer, Reply, ticket};
use crate::{Claim, PLANNED};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        name: "nothing_is_acknowledged_after_the_poison_was_seen",
        preemption_count_max: Some(3),
        kernel: seen,
    },
    Claim {
        name: "a_workers_failed_sync_beside_two_callers_loses_nothing_acknowledged",
        preemption_count_max: Some(2),
        kernel: failed_sync,
    },
    Claim {
        name: "every_thread_sees_the_first_of_two_causes",
        preemption_count_max: None,
        kernel: causes,
    },
    Claim {
        name: "a_panic_beside_a_commit_is_named_as_the_cause",
        preemption_count_max: Some(3),
        kernel: panics,
    },
];

/// The bytes of one file. A failed sync is reported to each descriptor once, and drops the unsynced
/// bytes.
#[derive(Default)]
struct File {
    unsynced: Vec<u64>,
    durable: Vec<u64>,
    log_is_to_hear: bool,
}

/// The log: each step writes and syncs a commit of the queue, as `Log::take_step` does.
struct Writer {
    queue: Receiver<Reply>,
    poison: Arc<Poison>,
    file: Arc<Mutex<File>>,
    last: u64,
    panics: bool,
}

impl Writer {
    fn write_and_sync(&self, lsn: u64) -> Result<()> {
        self.file.lock().unsynced.push(lsn);
        let mut file = self.file.lock();
        if std::mem::take(&mut file.log_is_to_hear) {
            self.poison.set(PoisonCause::SyncFailed);
        }
        let written = std::mem::take(&mut file.unsynced);
        file.durable.extend(written);
        drop(file);
        self.poison.check()
    }
}

impl LockedWork for Writer {
    type Unlocked = ();

    fn take_step(&mut self) -> Step<()> {
        let Ok(reply) = self.queue.try_recv() else { return Step::Idle };
        if std::mem::take(&mut self.panics) {
            std::panic::panic_any(PLANNED);
        }
        if let Err(error) = self.poison.check() {
            reply.send(Err(error));
            return Step::More;
        }
        self.last += 1;
        let done = self.write_and_sync(self.last);
        reply.send(done.map(|()| Lsn(self.last)));
        Step::More
    }

    fn run_unlocked(_: &mut ()) {}

    fn complete_unlocked(&mut self, (): ()) -> Step<()> {
        Step::More
    }

    fn is_write_under_way(&self) -> bool {
        false
    }

    fn has_many_callers(&self) -> bool {
        false
    }

    fn missing_caller_count(&self) -> usize {
        0
    }

    fn run_due_work(&mut self) -> Option<Duration> {
        None
    }

    fn is_idle(&self) -> bool {
        true
    }

    fn fail_after_panic(&mut self) {
        self.poison.set(PoisonCause::ThreadPanicked);
    }
}

struct Store {
    lock: CommitLock<Writer, Reply>,
    poison: Arc<Poison>,
    file: Arc<Mutex<File>>,
}

impl Store {
    fn new(panics: bool) -> Arc<Store> {
        let (sender, queue) = bounded(8);
        let (poison, file) = (Arc::new(Poison::default()), Arc::<Mutex<File>>::default());
        let log = (Arc::clone(&poison), Arc::clone(&file));
        let writer = Writer { queue, poison: log.0, file: log.1, last: 0, panics };
        Arc::new(Store { lock: CommitLock::new(sender, writer, None), poison, file })
    }

    fn commit(self: &Arc<Self>) -> Result<Lsn> {
        let issuer: Arc<dyn Issuer> = Arc::<Store>::clone(self);
        let (reply, ticket) = ticket(Some(issuer));
        self.lock.queue.send(reply).expect("the queue lives as long as the log");
        ticket.wait().map(|lsn| lsn.expect("the log tells the place"))
    }

    /// The effect of a worker's failed sync.
    fn fail_sync(&self) {
        let mut file = self.file.lock();
        file.unsynced.clear();
        file.log_is_to_hear = true;
        drop(file);
        self.poison.set(PoisonCause::SyncFailed);
    }
}

impl Issuer for Store {
    fn lead_until(&self, enough: &dyn Fn() -> bool) {
        self.lock.lead_until(enough);
    }

    fn announce_commit(&self) {
        self.lock.announce_commit();
    }

    fn ensure_progress(&self) {
        self.lock.ensure_progress();
    }

    fn durable(&self) -> Lsn {
        Lsn(0)
    }

    fn explain(&self, error: Error) -> Error {
        error
    }
}

/// One thread poisons and then commits. The main thread looks at the poison and then commits.
fn seen() {
    let store = Store::new(false);
    let worker = {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            store.poison.set(PoisonCause::WriteFailed);
            store.commit()
        })
    };
    let seen = store.poison.cause().is_some();
    let answer = store.commit();
    let refused = |answer: &Result<Lsn>| {
        matches!(answer, Err(Error::Poisoned { cause: PoisonCause::WriteFailed }))
    };
    assert!(refused(&answer) || (answer.is_ok() && !seen), "{answer:?}, seen: {seen}");
    assert!(refused(&worker.join().expect("the worker returns")));
}

/// Two commits while a worker's sync of the same file fails.
fn failed_sync() {
    let store = Store::new(false);
    let others = [0, 1].map(|other| {
        let store = Arc::clone(&store);
        thread::spawn(move || match other {
            0 => {
                store.fail_sync();
                Err(Error::Closed)
            }
            _ => store.commit(),
        })
    });
    let mut answers = vec![store.commit()];
    answers.extend(others.map(|other| other.join().expect("a thread returns")));
    for lsn in answers.into_iter().flatten() {
        assert!(store.file.lock().durable.contains(&lsn.0), "{lsn:?} was acknowledged");
    }
}

/// Two threads set a cause each.
fn causes() {
    let poison = Arc::new(Poison::default());
    let other = {
        let poison = Arc::clone(&poison);
        thread::spawn(move || {
            poison.set(PoisonCause::SyncFailed);
            poison.cause()
        })
    };
    poison.set(PoisonCause::WriteFailed);
    let mine = poison.cause();
    assert!(mine.is_some(), "what was set is seen");
    assert_eq!(mine, other.join().expect("it returns"));
}

/// Two commits, and a panic in the step of one of them.
fn panics() {
    let store = Store::new(true);
    let other = {
        let store = Arc::clone(&store);
        thread::spawn(move || store.commit())
    };
    for answer in [store.commit(), other.join().expect("a caller returns")] {
        let named = Err(Error::Poisoned { cause: PoisonCause::ThreadPanicked });
        assert_eq!(format!("{answer:?}"), format!("{named:?}", named = named as Result<Lsn>));
    }
}
