//! Hot random reads of 4 KiB, alone or beside threads that commit.
//!
//! [`Reading::Ends`] compares engines by what it takes to hand a block over. Those that copy or
//! verify it have then looked at every byte, those that lend it have not. A caller does so in the
//! end, so [`Reading::Every`] compares them with that work included.
//!
//! Those are measured, too: alone before the readers come, and beside them. On few processors both
//! must get less then. So the processor time of a commit, without that of the readers, says whether
//! they slow it.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cell::{Figures, Spec, figures};
use crate::closed_loop::{Worker, run as closed_loop};
use crate::engine::{Engine, Session};
use crate::failure::{Failure, Outcome};
use crate::meter::{self, thread_cpu};
use crate::payload::{Noise, Payloads};
use crate::workloads::commits::Writer;
use crate::workloads::{BLOCK_LEN, compare_some, fill};

/// What a reader does with the bytes that it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// Looks at the first and the last byte.
    #[default]
    Ends,
    /// Looks at those, and folds every byte into a word.
    Every,
}

/// Measures readers; `writers` more threads commit meanwhile.
pub fn run(spec: &Spec, blocks: u64, writers: usize, reading: Reading) -> Outcome<Figures> {
    let engine = spec.kind()?.open(&spec.dir)?;
    fill(&mut *engine.session()?, blocks, &Payloads::new(1, 0, BLOCK_LEN), 0)?;
    let first_read_us = warm(&*engine, blocks)?;
    let engine_ref = &*engine;
    let without_readers = || std::thread::sleep(Duration::from_secs_f64(spec.seconds));
    let alone = (writers > 0).then(|| commit_while(engine_ref, writers, blocks, without_readers));
    let spent = Spent::default();
    let make = |thread| Ok(Timed::new(Reader::new(engine_ref, thread, blocks, reading)?, &spent));
    let read = || closed_loop(spec.threads, spec.warm_up(), spec.length(), make);
    let (sample, mut beside) = commit_while(engine_ref, writers, blocks, read)?;
    beside.cpu = beside.cpu.saturating_sub(spent.cpu());
    let mut figures = figures(&sample?, 0);
    figures.insert("first_read_us".into(), first_read_us);
    // Time of commits is not the readers'.
    figures.insert("cpu_us".into(), spent.cpu_us());
    if let Some(alone) = alone {
        let ((), alone) = alone?;
        figures.insert("commits_per_s".into(), beside.per_s());
        figures.insert("commits_alone_per_s".into(), alone.per_s());
        figures.insert("commit_cpu_us".into(), beside.cpu_us());
        figures.insert("commit_alone_cpu_us".into(), alone.cpu_us());
    }
    engine.close()?;
    Ok(figures)
}

/// Results of the threads that commit.
struct Written {
    commits: u64,
    /// Processor time of the whole process.
    cpu: Duration,
    elapsed: Duration,
}

impl Written {
    fn per_s(&self) -> f64 {
        self.commits as f64 / self.elapsed.as_secs_f64()
    }

    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.commits.max(1) as f64
    }
}

/// Has `writers` threads commit while `work` runs.
fn commit_while<R>(
    engine: &dyn Engine,
    writers: usize,
    blocks: u64,
    work: impl FnOnce() -> R,
) -> Outcome<(R, Written)> {
    let is_over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (started, before) = (Instant::now(), meter::Reading::now());
        let spawn = |i| scope.spawn(move || write(engine, writers, i, blocks, is_over));
        let threads: Vec<_> = (0..writers).map(spawn).collect();
        let result = work();
        is_over.store(true, Ordering::Relaxed);
        let (elapsed, cpu) = (started.elapsed(), meter::Reading::now().since(&before).cpu);
        let commits: Outcome<u64> =
            threads.into_iter().map(|one| one.join().map_err(|_| Failure::Thread)?).sum();
        Ok((result, Written { commits: commits?, cpu, elapsed }))
    })
}

/// Reads every block once, so that later reads are hot, and returns how long one took on average.
/// Blocks written through the page cache are hot already.
pub fn warm(engine: &dyn Engine, blocks: u64) -> Outcome<f64> {
    let mut session = engine.session()?;
    let started = Instant::now();
    for id in 1..=blocks {
        if !session.read(id, &mut |_| ())? {
            return Err(Failure::Lost { id });
        }
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / blocks as f64)
}

fn write(
    engine: &dyn Engine,
    writers: usize,
    thread: usize,
    blocks: u64,
    is_over: &AtomicBool,
) -> Outcome<u64> {
    let mut writer = Writer::beside(engine, writers, thread)?.start_above(blocks);
    let mut commits = 0;
    while !is_over.load(Ordering::Relaxed) {
        commits += writer.step()?;
    }
    writer.check()?;
    Ok(commits)
}

/// Results of workers, warming up included.
#[derive(Default)]
struct Spent {
    ns: AtomicU64,
    ops: AtomicU64,
}

impl Spent {
    fn cpu(&self) -> Duration {
        Duration::from_nanos(self.ns.load(Ordering::Relaxed))
    }

    fn cpu_us(&self) -> f64 {
        self.cpu().as_secs_f64() * 1e6 / self.ops.load(Ordering::Relaxed).max(1) as f64
    }
}

/// A worker whose thread's processor time is added up once its steps are done.
struct Timed<'a, W> {
    worker: W,
    before: Duration,
    ops: u64,
    spent: &'a Spent,
}

impl<'a, W> Timed<'a, W> {
    fn new(worker: W, spent: &'a Spent) -> Self {
        Timed { worker, before: thread_cpu(), ops: 0, spent }
    }
}

impl<W: Worker> Worker for Timed<'_, W> {
    fn step(&mut self) -> Outcome<u64> {
        let ops = self.worker.step()?;
        self.ops += ops;
        Ok(ops)
    }

    fn check(&mut self) -> Outcome<u64> {
        let cpu = thread_cpu().saturating_sub(self.before);
        self.spent.ns.fetch_add(cpu.as_nanos() as u64, Ordering::Relaxed);
        self.spent.ops.fetch_add(self.ops, Ordering::Relaxed);
        self.worker.check()
    }
}

/// One thread that reads.
pub struct Reader<'a> {
    session: Box<dyn Session + 'a>,
    noise: Noise,
    blocks: u64,
    payloads: Payloads,
    reading: Reading,
}

impl<'a> Reader<'a> {
    /// Reads among blocks 1 to `blocks`, filled with shift 0.
    pub fn new(
        engine: &'a dyn Engine,
        thread: usize,
        blocks: u64,
        reading: Reading,
    ) -> Outcome<Self> {
        let payloads = Payloads::new(1, 0, BLOCK_LEN);
        Ok(Reader {
            session: engine.session()?,
            noise: Noise::new(thread as u64),
            blocks,
            payloads,
            reading,
        })
    }
}

impl Worker for Reader<'_> {
    fn step(&mut self) -> Outcome<u64> {
        let id = 1 + self.noise.below(self.blocks);
        let expected = self.payloads.get(id);
        // Both ends: an engine that maps its file must have the pages.
        let ends = |bytes: &[u8]| (bytes.len(), bytes.first().copied(), bytes.last().copied());
        let reading = self.reading;
        let mut is_right = false;
        self.session.read(id, &mut |bytes| {
            is_right = ends(bytes) == ends(expected);
            if reading == Reading::Every {
                black_box(fold(bytes));
            }
        })?;
        if is_right { Ok(1) } else { Err(Failure::Lost { id }) }
    }

    fn check(&mut self) -> Outcome<u64> {
        compare_some(&mut *self.session, self.blocks, &self.payloads, 0)
    }
}

/// The exclusive or of all words, and of the bytes behind the last whole one.
fn fold(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let folded = words.iter().fold(0, |folded, word| folded ^ u64::from_le_bytes(*word));
    rest.iter().fold(folded, |folded, byte| folded ^ u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_changes_the_fold() {
        let bytes = Noise::new(5).bytes(4096 + 3);
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] ^= 1;
            assert_ne!(fold(&other), fold(&bytes));
        }
    }

    #[test]
    fn reads_of_earlier_runs_looked_at_both_ends() {
        let json = r#"{"kind":"read","blocks":7,"writers":0}"#;
        let read: crate::cell::Workload = serde_json::from_str(json).expect("it was written so");
        let ends = crate::cell::Workload::Read { blocks: 7, writers: 0, reading: Reading::Ends };
        assert_eq!(read, ends);
    }
}
