//! Hot random reads of 4 KiB, alone or beside threads that commit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::cell::{Figures, Spec, figures};
use crate::closed_loop::{Worker, run as closed_loop};
use crate::engine::{Engine, Session};
use crate::failure::{Failure, Outcome};
use crate::payload::{Noise, Payloads};
use crate::workloads::commits::Writer;
use crate::workloads::{BLOCK_LEN, compare_some, fill};

/// Measures readers; `writers` more threads commit meanwhile.
pub fn run(spec: &Spec, blocks: u64, writers: usize) -> Outcome<Figures> {
    let engine = spec.kind()?.open(&spec.dir)?;
    fill(&mut *engine.session()?, blocks, &Payloads::new(1, 0, BLOCK_LEN), 0)?;
    let first_read_us = warm(&*engine, blocks)?;
    let engine_ref = &*engine;
    let is_over = AtomicBool::new(false);
    let (measured, written) = std::thread::scope(|scope| {
        let is_over = &is_over;
        let beside: Vec<_> = (0..writers)
            .map(|i| scope.spawn(move || write(engine_ref, writers, i, blocks, is_over)))
            .collect();
        let make = |thread| Reader::new(engine_ref, thread, blocks);
        let measured = closed_loop(spec.threads, spec.warm_up(), spec.length(), make);
        is_over.store(true, Ordering::Relaxed);
        let written: Outcome<u64> =
            beside.into_iter().map(|one| one.join().map_err(|_| Failure::Thread)?).sum();
        (measured, written)
    });
    let sample = measured?;
    let mut figures = figures(&sample, 0);
    figures.insert("first_read_us".into(), first_read_us);
    if writers > 0 {
        figures.insert("commits_per_s".into(), written? as f64 / (1.25 * spec.seconds));
    }
    engine.close()?;
    Ok(figures)
}

/// Reads every block once, so that what follows is hot, and returns how long one took on average. What was
/// written through the page cache is hot already.
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

/// One thread that reads.
pub struct Reader<'a> {
    session: Box<dyn Session + 'a>,
    noise: Noise,
    blocks: u64,
    payloads: Payloads,
}

impl<'a> Reader<'a> {
    /// Reads among blocks 1 to `blocks`, filled with shift 0.
    pub fn new(engine: &'a dyn Engine, thread: usize, blocks: u64) -> Outcome<Self> {
        let payloads = Payloads::new(1, 0, BLOCK_LEN);
        Ok(Reader {
            session: engine.session()?,
            noise: Noise::new(thread as u64),
            blocks,
            payloads,
        })
    }
}

impl Worker for Reader<'_> {
    fn step(&mut self) -> Outcome<u64> {
        let id = 1 + self.noise.below(self.blocks);
        let expected = self.payloads.get(id);
        // Both ends: an engine that maps its file must have the pages.
        let ends = |bytes: &[u8]| (bytes.len(), bytes.first().copied(), bytes.last().copied());
        let mut is_right = false;
        self.session.read(id, &mut |bytes| is_right = ends(bytes) == ends(expected))?;
        if is_right { Ok(1) } else { Err(Failure::Lost { id }) }
    }

    fn check(&mut self) -> Outcome<u64> {
        compare_some(&mut *self.session, self.blocks, &self.payloads, 0)
    }
}
