//! Durable commits: of new blocks, and over random ones of those that exist.
//!
//! Threads write disjoint ids, so each knows what its blocks must hold in the end. It remembers its
//! first and its latest writes and reads them back after the clock has stopped.

use std::collections::BTreeMap;

use crate::cell::{Figures, Spec, figures};
use crate::closed_loop::{Worker, run};
use crate::engine::{Engine, Session, Write};
use crate::failure::Outcome;
use crate::payload::{Noise, Payloads};
use crate::workloads::{BLOCK_LEN, compare, fill};

/// Commits that a thread remembers from the beginning, and as many from the end.
const REMEMBERED: usize = 16;

/// New blocks in every commit.
pub fn append(spec: &Spec, size: usize, batch: usize) -> Outcome<Figures> {
    let engine = spec.kind()?.open(&spec.dir)?;
    measure(spec, &*engine, Shape { size, batch, ids: None }).and_then(|figures| {
        engine.close()?;
        Ok(figures)
    })
}

/// Overwrites of `ids` blocks that are there before the clock starts.
pub fn overwrite(spec: &Spec, ids: u64) -> Outcome<Figures> {
    let engine = spec.kind()?.open(&spec.dir)?;
    fill(&mut *engine.session()?, ids, &Payloads::new(1, 0, BLOCK_LEN), 0)?;
    let shape = Shape { size: BLOCK_LEN, batch: 1, ids: Some(ids) };
    measure(spec, &*engine, shape).and_then(|figures| {
        engine.close()?;
        Ok(figures)
    })
}

#[derive(Clone, Copy)]
struct Shape {
    size: usize,
    batch: usize,
    /// Overwritten at random; new ones without it.
    ids: Option<u64>,
}

fn measure(spec: &Spec, engine: &dyn Engine, shape: Shape) -> Outcome<Figures> {
    let make = |thread| Writer::new(engine, spec.threads, thread, shape);
    let sample = run(spec.threads, spec.warm_up(), spec.length(), make)?;
    Ok(figures(&sample, shape.size * shape.batch))
}

/// One thread that commits.
pub struct Writer<'a> {
    session: Box<dyn Session + 'a>,
    threads: u64,
    thread: u64,
    shape: Shape,
    payloads: Payloads,
    noise: Noise,
    commits: u64,
    writes: Vec<Write>,
    /// Writes of the first commits, then those of the latest ones, in a ring.
    first: Vec<Write>,
    latest: Vec<Write>,
}

impl<'a> Writer<'a> {
    fn new(engine: &'a dyn Engine, threads: usize, thread: usize, shape: Shape) -> Outcome<Self> {
        Ok(Writer {
            session: engine.session()?,
            threads: threads as u64,
            thread: thread as u64,
            shape,
            payloads: Payloads::new(threads, thread, shape.size),
            noise: Noise::new(thread as u64),
            commits: 0,
            writes: Vec::with_capacity(shape.batch),
            first: Vec::new(),
            latest: Vec::new(),
        })
    }

    /// A thread that overwrites blocks of 4 KiB above `above` while others are measured.
    pub fn beside(engine: &'a dyn Engine, threads: usize, thread: usize) -> Outcome<Self> {
        Writer::new(engine, threads, thread, Shape { size: BLOCK_LEN, batch: 1, ids: None })
    }

    /// Moves the ids of this writer out of the way of blocks that are read.
    pub fn start_above(mut self, blocks: u64) -> Self {
        self.commits = blocks;
        self
    }

    fn id(&mut self, index: u64) -> u64 {
        match self.shape.ids {
            None => {
                1 + (self.commits * self.shape.batch as u64 + index) * self.threads + self.thread
            }
            Some(ids) => {
                let own = (ids / self.threads).max(1);
                1 + self.noise.below(own) * self.threads + self.thread
            }
        }
    }

    fn remember(&mut self) {
        let Some(last) = self.writes.last() else { return };
        if self.first.len() < REMEMBERED {
            self.first.push(last.clone());
        } else if self.latest.len() < REMEMBERED {
            self.latest.push(last.clone());
        } else {
            self.latest[(self.commits % REMEMBERED as u64) as usize] = last.clone();
        }
    }
}

impl Worker for Writer<'_> {
    fn step(&mut self) -> Outcome<u64> {
        self.writes.clear();
        for index in 0..self.shape.batch as u64 {
            let id = self.id(index);
            let number = self.commits * self.shape.batch as u64 + index;
            self.writes.push(Write { id, data: self.payloads.get(number).clone() });
        }
        self.session.commit(&self.writes)?;
        self.remember();
        self.commits += 1;
        Ok(1)
    }

    fn check(&mut self) -> Outcome<u64> {
        let mut newest = BTreeMap::new();
        if self.shape.ids.is_none() {
            // The bare log finds only its latest ones; an engine that finds the first ones must
            // find all.
            let is_found = match self.first.first() {
                Some(write) => self.session.read(write.id, &mut |_| ())?,
                None => false,
            };
            let first = self.first.iter().filter(|_| is_found);
            newest.extend(first.map(|write| (write.id, write.data.clone())));
        } else if self.commits <= (self.first.len() + self.latest.len()) as u64 {
            // All is remembered, so which write to a block was its last is known.
            newest.extend(self.first.iter().map(|write| (write.id, write.data.clone())));
        }
        // From the oldest to the newest: of several writes to one block the last one holds.
        let is_full = self.latest.len() == REMEMBERED;
        let start = if is_full { (self.commits % REMEMBERED as u64) as usize } else { 0 };
        let latest = self.latest[start..].iter().chain(&self.latest[..start]);
        newest.extend(latest.map(|write| (write.id, write.data.clone())));
        for (id, data) in &newest {
            compare(&mut *self.session, *id, data)?;
        }
        Ok(newest.len() as u64)
    }
}
