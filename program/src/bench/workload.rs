//! The work of a row, and the closed loop that measures engine and rooflines alike.
//!
//! Every thread commits, waits for the acknowledgement and commits again, until the time is over.
//! Payloads are made before the clock starts, so that only commits are measured.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::failure::Failure;
use crate::interrupt;

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Threads that commit at the same time.
    pub threads: usize,
    /// Bytes in a block, at least 1.
    pub size: usize,
    /// Blocks in a commit.
    pub batch: usize,
    /// Whether a commit waits for its sync.
    pub durable: bool,
}

impl Workload {
    /// User bytes in a commit.
    pub fn commit_len(&self) -> usize {
        self.size * self.batch
    }
}

/// Ready payloads: a few for each thread, all different, not compressible.
pub struct Payloads {
    by_thread: Vec<Vec<Bytes>>,
}

/// Memory for all payloads of a row, at most.
const PAYLOADS_LEN_MAX: usize = 256 << 20;
const PAYLOADS_PER_THREAD_MAX: usize = 32;

impl Payloads {
    /// Makes the payloads of a row.
    pub fn new(workload: &Workload) -> Payloads {
        let affordable = PAYLOADS_LEN_MAX / (workload.threads * workload.size);
        let count = affordable.clamp(1, PAYLOADS_PER_THREAD_MAX);
        let by_thread = (0..workload.threads)
            .map(|thread| (0..count).map(|i| make_payload(workload.size, thread, i)).collect())
            .collect();
        Payloads { by_thread }
    }

    /// The `index`th payload of a thread; they repeat.
    pub fn get(&self, thread: usize, index: usize) -> &Bytes {
        let own = &self.by_thread[thread];
        &own[index % own.len()]
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): one multiplication chain a word is plenty here.
fn make_payload(size: usize, thread: usize, index: usize) -> Bytes {
    let mut state = ((thread as u64) << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(size);
    Bytes::from(bytes)
}

/// Measurements of a closed loop.
#[derive(Debug)]
pub struct Sample {
    /// Commits acknowledged.
    pub commits: u64,
    /// From the start of the first commit to the end of the last.
    pub elapsed: Duration,
    /// Processor time of the whole process meanwhile, user and system.
    pub cpu: Duration,
    /// Time from asking for a commit to its acknowledgement, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Sample {
    /// Commits acknowledged in a second.
    pub fn commits_per_s(&self) -> f64 {
        self.commits as f64 / self.elapsed.as_secs_f64()
    }

    /// Processor time of a commit, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.commits.max(1) as f64
    }

    /// The latency that a share of commits stays within, in microseconds.
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// One thread of a closed loop.
pub trait Committer: Send {
    /// Commits once and waits for the acknowledgement.
    fn commit(&mut self) -> Result<(), Failure>;
}

/// Runs all committers at once for `length` and hands them back with the figures of all.
/// `commits_each` is how many commits one call of [`Committer::commit`] stands for.
pub fn closed_loop<C: Committer>(
    committers: Vec<C>,
    commits_each: u64,
    length: Duration,
) -> Result<(Sample, Vec<C>), Failure> {
    let barrier = Barrier::new(committers.len() + 1);
    let mut latency = new_histogram();
    let (elapsed, cpu, ended) = std::thread::scope(|scope| {
        let threads: Vec<_> = committers
            .into_iter()
            .map(|committer| scope.spawn(|| run(committer, &barrier, length)))
            .collect();
        barrier.wait();
        let (started, cpu_before) = (Instant::now(), process_cpu_time());
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        (started.elapsed(), process_cpu_time().saturating_sub(cpu_before), ended)
    });
    let mut committers = Vec::with_capacity(ended.len());
    for thread in ended {
        let (committer, own) =
            thread.map_err(|_| Failure::new("a thread of the benchmark panicked"))??;
        latency += own;
        committers.push(committer);
    }
    let commits = latency.len() * commits_each;
    Ok((Sample { commits, elapsed, cpu, latency }, committers))
}

fn run<C: Committer>(
    mut committer: C,
    barrier: &Barrier,
    length: Duration,
) -> Result<(C, Histogram<u64>), Failure> {
    let mut latency = new_histogram();
    barrier.wait();
    let mut now = Instant::now();
    let end = now + length;
    while now < end && !interrupt::requested() {
        committer.commit()?;
        let before = std::mem::replace(&mut now, Instant::now());
        latency.saturating_record((now - before).as_nanos() as u64);
    }
    Ok((committer, latency))
}

/// Three digits, up to a minute.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are constant and valid")
}

/// Processor time of this process so far, user and system; zero where the system does not tell.
fn process_cpu_time() -> Duration {
    let duration =
        |time: TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(Duration::ZERO, |usage| duration(usage.user_time()) + duration(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(u64);

    impl Committer for Counting {
        fn commit(&mut self) -> Result<(), Failure> {
            self.0 += 1;
            Ok(())
        }
    }

    #[test]
    fn every_commit_is_counted_once() {
        let committers = vec![Counting(0), Counting(0), Counting(0)];
        let (sample, committers) =
            closed_loop(committers, 2, Duration::from_millis(5)).expect("nothing fails");
        assert_eq!(sample.commits, committers.iter().map(|c| 2 * c.0).sum::<u64>());
        assert_eq!(sample.latency.len() * 2, sample.commits);
    }

    #[test]
    fn payloads_are_as_long_as_asked_and_differ() {
        let workload = Workload { threads: 2, size: 13, batch: 1, durable: true };
        let payloads = Payloads::new(&workload);
        assert_eq!(payloads.get(0, 0).len(), 13);
        assert_ne!(payloads.get(0, 0), payloads.get(1, 0));
        assert_ne!(payloads.get(0, 0), payloads.get(0, 1));
        assert_eq!(payloads.get(0, 0), payloads.get(0, PAYLOADS_PER_THREAD_MAX));
    }
}
