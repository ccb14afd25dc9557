//! The closed loop: every thread does one step after another until the time is over.
//!
//! Order: each thread makes its worker and warms up; all meet; meters are read; all run; all meet;
//! meters are read. Then each worker reads back a sample of its acknowledged commits.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::failure::{Failure, Outcome};
use crate::meter::Reading;

/// One thread's work.
pub trait Worker {
    /// Does one step and returns how many operations were counted: 0 for one that must be repeated.
    fn step(&mut self) -> Outcome<u64>;

    /// Reads back what the steps left behind and returns how many blocks were compared.
    fn check(&mut self) -> Outcome<u64>;
}

/// Many steps as one, where reading the clock would cost as much as a step does.
pub struct Many<W>(pub W);

impl<W: Worker> Worker for Many<W> {
    fn step(&mut self) -> Outcome<u64> {
        (0..64).map(|_| self.0.step()).sum()
    }

    fn check(&mut self) -> Outcome<u64> {
        self.0.check()
    }
}

/// When a thread stops.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// After this time.
    Time(Duration),
    /// After so many steps.
    Steps(u64),
}

/// Measurements of a loop.
pub struct Sample {
    /// Operations counted.
    pub ops: u64,
    /// Steps that had to be repeated.
    pub repeats: u64,
    /// From the start of the first step to the end of the last.
    pub elapsed: Duration,
    /// Time of each step in nanoseconds; repeated ones count into the step that succeeds.
    pub latency: Histogram<u64>,
    /// Resources used by the process meanwhile.
    pub used: Reading,
    /// Blocks that were read back and compared.
    pub checked: u64,
}

impl Sample {
    /// Operations a second.
    pub fn per_s(&self) -> f64 {
        self.ops as f64 / self.elapsed.as_secs_f64()
    }

    /// Processor time of an operation in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.used.cpu.as_secs_f64() * 1e6 / self.ops.max(1) as f64
    }
}

struct Counted {
    ops: u64,
    repeats: u64,
    latency: Histogram<u64>,
}

/// Runs a worker on each thread; `make` is called on the worker's own thread.
pub fn run<W, F>(threads: usize, warm_up: Duration, length: Length, make: F) -> Outcome<Sample>
where
    W: Worker,
    F: Fn(usize) -> Outcome<W> + Sync,
{
    let (ready, go, over) =
        (Barrier::new(threads + 1), Barrier::new(threads + 1), Barrier::new(threads + 1));
    let one = |thread: usize| -> Outcome<(Counted, u64)> {
        let mut worker = make(thread).and_then(|mut worker| {
            steps(&mut worker, Length::Time(warm_up))?;
            Ok(worker)
        });
        ready.wait();
        go.wait();
        let counted = match &mut worker {
            Ok(worker) => steps(worker, length),
            Err(_) => Err(Failure::Thread),
        };
        over.wait();
        let mut worker = worker?;
        Ok((counted?, worker.check()?))
    };
    std::thread::scope(|scope| {
        let one = &one;
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        ready.wait();
        let (before, started) = (Reading::now(), Instant::now());
        go.wait();
        over.wait();
        let (elapsed, used) = (started.elapsed(), Reading::now().since(&before));
        let mut sample =
            Sample { ops: 0, repeats: 0, elapsed, latency: histogram(), used, checked: 0 };
        for handle in handles {
            let (counted, checked) = handle.join().map_err(|_| Failure::Thread)??;
            sample.ops += counted.ops;
            sample.repeats += counted.repeats;
            sample.latency += counted.latency;
            sample.checked += checked;
        }
        Ok(sample)
    })
}

fn steps<W: Worker>(worker: &mut W, length: Length) -> Outcome<Counted> {
    let mut counted = Counted { ops: 0, repeats: 0, latency: histogram() };
    let started = Instant::now();
    let mut before = started;
    let mut done = 0;
    loop {
        let is_over = match length {
            Length::Time(time) => before - started >= time,
            Length::Steps(count) => done >= count,
        };
        if is_over {
            return Ok(counted);
        }
        let ops = worker.step()?;
        if ops == 0 {
            counted.repeats += 1;
            continue;
        }
        done += 1;
        counted.ops += ops;
        let now = Instant::now();
        counted.latency.saturating_record((now - before).as_nanos() as u64);
        before = now;
    }
}

/// Three digits, up to two minutes.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("the bounds are constant and valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct EveryOther(u64);

    impl Worker for EveryOther {
        fn step(&mut self) -> Outcome<u64> {
            self.0 += 1;
            Ok(self.0 % 2)
        }

        fn check(&mut self) -> Outcome<u64> {
            Ok(1)
        }
    }

    #[test]
    fn repeated_steps_are_counted_apart() {
        let length = Length::Steps(100);
        let sample = run(3, Duration::ZERO, length, |_| Ok(EveryOther(0))).expect("nothing fails");
        assert_eq!((sample.ops, sample.latency.len(), sample.checked), (300, 300, 3));
        assert_eq!(sample.repeats, 297);
    }

    #[test]
    fn a_worker_that_cannot_be_made_fails_the_run() {
        let make = |thread| if thread == 1 { Err(Failure::Thread) } else { Ok(EveryOther(0)) };
        assert!(matches!(run(2, Duration::ZERO, Length::Steps(1), make), Err(Failure::Thread)));
    }
}
