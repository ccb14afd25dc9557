//! Workers under panics, full queues and every way to close; threads meet over channels only.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::*;

/// Threads of the standard library, of which the n-th may fail to start.
struct Threads {
    started: AtomicUsize,
    started_max: usize,
}

impl Env for Threads {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn random(&self, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn pause(&self) {}

    fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
        if self.started.fetch_add(1, Ordering::SeqCst) == self.started_max {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        crate::io::os::spawn_thread(name, body)
    }
}

fn env() -> Threads {
    Threads { started: AtomicUsize::new(0), started_max: usize::MAX }
}

fn options(worker_count: usize, queue_count_max: usize) -> PoolOptions {
    PoolOptions { name: "test-io", worker_count, queue_count_max }
}

fn pool(worker_count: usize, queue_count_max: usize) -> IoPool {
    IoPool::start(&env(), options(worker_count, queue_count_max), Arc::new(|| ())).expect("started")
}

/// A command that says that it runs, and then waits for a word.
fn gate() -> (Command, Receiver<()>, Sender<()>) {
    let (running, is_running) = bounded(1);
    let (open, is_open) = bounded(1);
    let command = Command::new("gate", move || {
        running.send(()).expect("the test listens");
        is_open.recv().expect("the test opens");
    });
    (command, is_running, open)
}

#[test]
fn every_accepted_command_runs_once_also_after_close() {
    let pool = pool(3, 4);
    let count = Arc::new(AtomicUsize::new(0));
    for _ in 0..100 {
        let count = Arc::clone(&count);
        let command = Command::new("count", move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        pool.submit(command).expect("accepted");
    }
    assert!(pool.close());
    assert_eq!(count.load(Ordering::SeqCst), 100);
    let late = Command::new("late", || panic!("must not run"));
    assert!(matches!(pool.submit(late), Err(Rejected::Closed(c)) if c.name() == "late"));
    assert!(matches!(pool.try_submit(Command::new("l", || ())), Err(Rejected::Closed(_))));
    assert!(pool.close(), "closing twice does nothing");
}

#[test]
fn workers_have_names_and_run_side_by_side() {
    let pool = pool(2, 2);
    let (first, first_runs, open_first) = gate();
    let (second, second_runs, open_second) = gate();
    pool.submit(first).expect("accepted");
    pool.submit(second).expect("accepted");
    first_runs.recv().expect("runs");
    second_runs.recv().expect("runs at the same time");
    open_first.send(()).expect("waits");
    let (tell, told) = bounded(1);
    let name = move || tell.send(std::thread::current().name().map(str::to_owned));
    pool.submit(Command::new("name", move || name().expect("heard"))).expect("accepted");
    let name = told.recv().expect("told").expect("a name");
    assert!(name.starts_with("test-io-"), "{name}");
    open_second.send(()).expect("waits");
    assert_eq!(pool.worker_count(), 2);
}

#[test]
fn a_full_queue_rejects_or_waits() {
    let pool = pool(1, 1);
    let (busy, runs, open) = gate();
    pool.submit(busy).expect("accepted");
    runs.recv().expect("runs");
    pool.try_submit(Command::new("waiting", || ())).expect("one may wait");
    assert_eq!(pool.queue_count(), 1);
    let rejected = pool.try_submit(Command::new("too much", || ()));
    assert!(matches!(rejected, Err(Rejected::Full(c)) if c.name() == "too much"));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.submit(Command::new("patient", || ())).is_ok());
        open.send(()).expect("waits");
        assert!(waiting.join().expect("no panic"));
    });
}

#[test]
fn a_submission_that_waits_for_room_is_served_while_closing() {
    let pool = pool(1, 1);
    let (busy, runs, open) = gate();
    pool.submit(busy).expect("accepted");
    runs.recv().expect("runs");
    pool.submit(Command::new("waiting", || ())).expect("accepted");
    let (tell, told) = bounded(1);
    std::thread::scope(|scope| {
        let last = Command::new("last", move || tell.send(()).expect("heard"));
        let submitted = scope.spawn(|| pool.submit(last).is_ok());
        let closed = scope.spawn(|| pool.close());
        open.send(()).expect("waits");
        // Accepted and run, or refused: never accepted and lost.
        assert_eq!(submitted.join().expect("no panic"), told.recv().is_ok());
        assert!(closed.join().expect("no panic"));
    });
}

#[test]
fn a_panic_is_reported_and_the_worker_goes_on() {
    let reported = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reported);
    let on_panic: OnPanic = Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let pool = IoPool::start(&env(), options(1, 8), on_panic).expect("started");
    let (tell, told) = bounded::<()>(1);
    let doomed = Command::new("doomed", move || {
        let _held = tell;
        panic!("on purpose");
    });
    pool.submit(doomed).expect("accepted");
    assert!(told.recv().is_err(), "the waiter is released");
    let (tell, told) = bounded(1);
    pool.submit(Command::new("next", move || tell.send(()).expect("heard"))).expect("accepted");
    told.recv().expect("the same worker runs the next command");
    assert_eq!(reported.load(Ordering::SeqCst), 1);
    assert!(pool.close(), "the panic was the command's, not the worker's");
}

#[test]
fn the_last_handle_dropped_on_a_worker_does_not_wait_for_itself() {
    for worker_count in [1, 3] {
        let pool = Arc::new(pool(worker_count, 4));
        let (busy, runs, open) = gate();
        let (tell, told) = bounded(1);
        let handle = Arc::clone(&pool);
        let last = Command::new("last", move || {
            runs.recv().expect("dropped elsewhere first");
            drop(handle);
            tell.send(()).expect("heard");
        });
        pool.submit(last).expect("accepted");
        drop(pool);
        // Stands for the outside's word that its handle is gone.
        let outside = std::thread::spawn(move || busy.run());
        open.send(()).expect("waits");
        told.recv().expect("the drop returned");
        outside.join().expect("no panic");
    }
}

#[test]
fn a_worker_that_closes_waits_for_the_others() {
    let pool = Arc::new(pool(2, 4));
    let (busy, runs, open) = gate();
    let finished = Arc::new(AtomicUsize::new(0));
    let mark = Arc::clone(&finished);
    let slow = Command::new("slow", move || {
        busy.run();
        mark.fetch_add(1, Ordering::SeqCst);
    });
    pool.submit(slow).expect("accepted");
    runs.recv().expect("runs");
    let (tell, told) = bounded(1);
    let (handle, seen) = (Arc::clone(&pool), Arc::clone(&finished));
    let closer = Command::new("close", move || {
        open.send(()).expect("waits");
        handle.close();
        tell.send(seen.load(Ordering::SeqCst)).expect("heard");
    });
    pool.submit(closer).expect("accepted");
    assert_eq!(told.recv().expect("told"), 1);
}

#[test]
fn a_worker_does_not_wait_for_a_closing_that_waits_for_it() {
    let pool = Arc::new(pool(1, 4));
    let (busy, runs, open) = gate();
    let handle = Arc::clone(&pool);
    let command = Command::new("close", move || {
        busy.run();
        handle.close();
    });
    pool.submit(command).expect("accepted");
    runs.recv().expect("runs");
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| pool.close());
        open.send(()).expect("waits");
        closing.join().expect("no panic");
    });
}

#[test]
fn a_thread_that_cannot_start_leaves_none_running() {
    let env = Threads { started: AtomicUsize::new(0), started_max: 2 };
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let on_panic: OnPanic = Arc::new(move || {
        let _held = &held;
    });
    let refused = IoPool::start(&env, options(4, 1), on_panic);
    assert_eq!(refused.expect_err("refused").kind(), io::ErrorKind::WouldBlock);
    assert_eq!(Arc::strong_count(&alive), 1, "every worker has ended");
}
