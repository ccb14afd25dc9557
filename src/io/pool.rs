//! The I/O workers: a fixed number of named threads that carry out commands.
//!
//! Owns the threads and the bounded queue in front of them. Invariants:
//!
//! 1. A command that was accepted is run, also when the pool is closed right after.
//! 2. A panic in a command ends that command alone. The worker reports it through the callback
//!    given at the start, and runs the next command.
//! 3. Closing waits for every worker, except for the calling one.
//!
//! A command must not wait for another command: with all workers waiting, none is left to run it.
//! Commands that serve commits may wait for zeros, and are one less than there are workers.
//! Commands start in the order of submission and end in any order. A command reports its own
//! failure, over a channel of its own. A caller that waits on such a channel is released when the
//! command is dropped, run or not.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{fmt, io};

use super::{Env, Thread};
use crate::callback::{self, Duty};
use crate::sync::channel::{Receiver, Sender, TrySendError, bounded};
use crate::sync::{AtomicU64, Mutex, Ordering, thread_local};

/// Called, on the worker, after a command has panicked.
pub type OnPanic = Arc<dyn Fn() + Send + Sync>;

/// A piece of work for an I/O worker.
pub struct Command {
    name: &'static str,
    run: Box<dyn FnOnce() + Send>,
}

impl Command {
    /// Makes a command; `name` describes it in messages.
    pub fn new(name: &'static str, run: impl FnOnce() + Send + 'static) -> Command {
        Command { name, run: Box::new(run) }
    }

    /// Returns the command's description.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Carries the command out on the calling thread.
    pub fn run(self) {
        (self.run)();
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Command").field(&self.name).finish()
    }
}

/// Why a command was not accepted. Gives it back.
#[derive(Debug)]
pub enum Rejected {
    /// The queue holds as many commands as it may.
    Full(Command),
    /// The pool is closed.
    Closed(Command),
}

/// How large a pool is.
#[derive(Debug, Clone, Copy)]
pub struct PoolOptions {
    /// Name of the threads; the worker's number is appended. Linux shows 15 bytes.
    pub name: &'static str,
    /// How many threads there are, at least 1.
    pub worker_count: usize,
    /// How many commands may wait, at least 1.
    pub queue_count_max: usize,
}

/// A pool of I/O workers. Shared by reference; dropping it closes it.
pub struct IoPool {
    id: u64,
    worker_count: usize,
    /// `None` once closed.
    queue: Mutex<Option<Sender<Command>>>,
    /// Those not joined yet. Held while joining, so that a second closing waits for the first.
    workers: Mutex<Vec<Worker>>,
}

struct Worker {
    index: usize,
    thread: Thread,
}

/// Which worker of which pool a thread is.
#[derive(Clone, Copy, PartialEq)]
struct WorkerId {
    pool: u64,
    index: usize,
}

thread_local! {
    static CURRENT: Cell<Option<WorkerId>> = const { Cell::new(None) };
}

impl IoPool {
    /// Starts the workers.
    ///
    /// # Errors
    /// The operating system's own when a thread cannot be started; none is left running.
    ///
    /// # Panics
    /// When one of the options is 0.
    pub fn start<E: Env>(env: &E, options: PoolOptions, on_panic: OnPanic) -> io::Result<IoPool> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let PoolOptions { name, worker_count, queue_count_max } = options;
        assert!(worker_count > 0 && queue_count_max > 0, "a pool needs workers and a queue");
        let (sender, receiver) = bounded(queue_count_max);
        let pool = IoPool {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            worker_count,
            queue: Mutex::new(Some(sender)),
            workers: Mutex::default(),
        };
        for index in 0..worker_count {
            let id = WorkerId { pool: pool.id, index };
            let (receiver, on_panic) = (receiver.clone(), Arc::clone(&on_panic));
            let body = Box::new(move || run_commands(id, &receiver, &on_panic));
            // On error, dropping the pool ends the workers that did start.
            let thread = env.spawn(format!("{name}-{index}"), body)?;
            pool.workers.lock().push(Worker { index, thread });
        }
        Ok(pool)
    }

    /// Hands a command to the workers; waits while the queue is full.
    ///
    /// # Errors
    /// [`Rejected::Closed`] only.
    pub fn submit(&self, command: Command) -> Result<(), Rejected> {
        match self.clone_sender() {
            Some(sender) => sender.send(command).map_err(|e| Rejected::Closed(e.into_inner())),
            None => Err(Rejected::Closed(command)),
        }
    }

    /// Hands a command to the workers when the queue has room for it.
    ///
    /// # Errors
    /// [`Rejected::Full`] and [`Rejected::Closed`].
    pub fn try_submit(&self, command: Command) -> Result<(), Rejected> {
        match self.clone_sender() {
            Some(sender) => sender.try_send(command).map_err(|e| match e {
                TrySendError::Full(command) => Rejected::Full(command),
                TrySendError::Disconnected(command) => Rejected::Closed(command),
            }),
            None => Err(Rejected::Closed(command)),
        }
    }

    /// Returns how many workers were started.
    pub fn worker_count(&self) -> usize {
        self.worker_count
    }

    /// Returns how many commands wait for a worker.
    pub fn queue_count(&self) -> usize {
        self.queue.lock().as_ref().map_or(0, Sender::len)
    }

    /// Refuses further commands, lets the workers finish those that were accepted, and waits for
    /// their end. Returns whether every worker ended in good order. On a worker of this pool it
    /// waits for the other ones only.
    pub fn close(&self) -> bool {
        // A submission that waits for room holds a sender of its own, and the workers go on until
        // that one is gone too.
        drop(self.queue.lock().take());
        match CURRENT.with(Cell::get).filter(|current| current.pool == self.id) {
            None => join_workers(&mut self.workers.lock(), None),
            // The thread that holds the lock waits for this very worker.
            Some(current) => match self.workers.try_lock() {
                Some(mut workers) => join_workers(&mut workers, Some(current.index)),
                None => true,
            },
        }
    }

    /// Clones the sender, so that a submission that waits at a full queue does not hold up `close`.
    fn clone_sender(&self) -> Option<Sender<Command>> {
        self.queue.lock().clone()
    }
}

impl Drop for IoPool {
    fn drop(&mut self) {
        // A worker that did not end in good order has reported its panic already.
        self.close();
    }
}

impl fmt::Debug for IoPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoPool").field("worker_count", &self.worker_count).finish_non_exhaustive()
    }
}

/// Waits for all workers but `except`, which stays for a later closing to wait for.
fn join_workers(workers: &mut Vec<Worker>, except: Option<usize>) -> bool {
    let mut in_good_order = true;
    for worker in workers.extract_if(.., |worker| Some(worker.index) != except) {
        in_good_order &= worker.thread.join();
    }
    in_good_order
}

/// Runs commands until the queue is empty and has no sender.
fn run_commands(id: WorkerId, queue: &Receiver<Command>, on_panic: &OnPanic) {
    CURRENT.with(|current| current.set(Some(id)));
    let _duty = callback::begin(Duty::Working);
    for command in queue {
        if catch_unwind(AssertUnwindSafe(|| command.run())).is_err() {
            on_panic();
        }
    }
}

#[cfg(test)]
mod tests;
