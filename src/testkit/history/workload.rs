//! The workload: seeded transactions of many threads on few blocks, made to collide.
//!
//! Owns [`Workload`]. The seed fixes the calls of each thread; their interleaving is up to the
//! machine. The ids are in two halves. *Registers* are only read, or read and then written in a
//! snapshot or serializable transaction, and never deleted. So their values alone tell their order,
//! which a checker without LSNs needs. *Free* blocks are written blindly, deleted, and changed by
//! batches, single calls and read committed transactions as well.

use std::ops::Range;
use std::sync::Barrier;
use std::thread;

use super::{History, Recorder, Recording};
use crate::backend::StorageBackend;
use crate::error::{Error, Result};
use crate::testkit::rng::Rng;
use crate::transaction::IsolationLevel;

/// Blocks that transactions of one shape share: few, so that they meet.
const HOT_PAIR_COUNT: u64 = 4;
/// Operations of a transaction without a shape, at most.
const OPERATION_COUNT_MAX: u64 = 6;
/// Transactions that each thread leaves open until its end.
const LEFT_OPEN_COUNT: usize = 3;

/// A seeded run. Fields that are left as [`Workload::new`] has them suit most stores.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Fixes the calls to the store.
    pub seed: u64,
    /// Threads, eight by default.
    pub threads: u64,
    /// Transactions of all threads together, calls outside transactions included.
    pub transactions: u64,
    /// The first id used; the store holds no block of [`Workload::ids`].
    pub first_id: u64,
    /// Registers, and as many free blocks.
    pub registers: u64,
    /// The level of all transactions; by default each has its own.
    pub isolation: Option<IsolationLevel>,
    /// Off for a backend as [`Recorder::tickets_are_bounds`] is for.
    pub exact_tickets: bool,
}

impl Workload {
    /// A run of 20,000 transactions by eight threads on 48 blocks from id 1.
    pub fn new(seed: u64) -> Workload {
        Workload {
            seed,
            threads: 8,
            transactions: 20_000,
            first_id: 1,
            registers: 24,
            isolation: None,
            exact_tickets: true,
        }
    }

    /// All ids that the run uses.
    pub fn ids(&self) -> Range<u64> {
        self.first_id..self.first_id + 2 * self.registers
    }

    /// The ids of the registers.
    pub fn register_ids(&self) -> Range<u64> {
        self.first_id..self.first_id + self.registers
    }

    /// Runs the threads and returns the history. An isolation level or a range that the store does
    /// not support is left out.
    ///
    /// # Errors
    /// Any error that the contract does not allow for, of the first thread that met one.
    ///
    /// # Panics
    /// If there are fewer than 8 registers, or ids beyond `u64::MAX`.
    pub fn run(&self, store: &dyn StorageBackend) -> Result<History> {
        assert!(
            self.registers >= 2 * HOT_PAIR_COUNT,
            "the run needs {} registers",
            2 * HOT_PAIR_COUNT
        );
        assert!(self.first_id.checked_add(2 * self.registers).is_some(), "ids beyond u64::MAX");
        let recorder = match self.exact_tickets {
            true => Recorder::new(store),
            false => Recorder::new(store).tickets_are_bounds(),
        };
        let start = Barrier::new(self.threads as usize);
        let share =
            |n| self.transactions / self.threads + u64::from(n < self.transactions % self.threads);
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let (recorder, start) = (&recorder, &start);
            let run = move |n: u64| {
                let rng = Rng::new(self.seed ^ (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let mut worker = Worker { load: self, recorder, rng, left_open: Vec::new() };
                start.wait();
                (0..share(n)).try_for_each(|_| worker.step()).and_then(|()| worker.wake_up())
            };
            let running: Vec<_> = (0..self.threads).map(|n| scope.spawn(move || run(n))).collect();
            let joined = running.into_iter().map(|thread| thread.join());
            joined
                .map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        results.into_iter().collect::<Result<()>>()?;
        Ok(recorder.finish())
    }
}

/// One thread of a run.
struct Worker<'w> {
    load: &'w Workload,
    recorder: &'w Recorder<'w>,
    rng: Rng,
    left_open: Vec<Recording<'w>>,
}

impl<'w> Worker<'w> {
    /// One transaction, or one call outside any.
    fn step(&mut self) -> Result<()> {
        match self.rng.below(100) {
            0..8 => return self.single(),
            8..12 => return self.batch(),
            _ => {}
        }
        let mut tx = self.begin()?;
        let strict = tx.isolation() != IsolationLevel::ReadCommitted;
        match self.rng.below(8) {
            0 | 1 if strict => self.decide(&mut tx)?,
            2 if strict => self.update(&mut tx)?,
            3 if strict => self.count(&mut tx)?,
            4 => self.report(&mut tx)?,
            _ => self.wander(&mut tx, strict)?,
        }
        match self.rng.below(16) {
            0 => tx.rollback(),
            1 if self.left_open.len() < LEFT_OPEN_COUNT => {
                self.left_open.push(tx);
                Ok(())
            }
            _ => tx.commit().map(|_| ()),
        }
    }

    /// An open transaction reads once more, as of its begin, and is rolled back.
    fn wake_up(&mut self) -> Result<()> {
        for mut tx in std::mem::take(&mut self.left_open) {
            for _ in 0..OPERATION_COUNT_MAX {
                tx.read(self.any())?;
            }
            self.list(&mut tx)?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<Recording<'w>> {
        let levels =
            [IsolationLevel::ReadCommitted, IsolationLevel::Snapshot, IsolationLevel::Serializable];
        let level = self.load.isolation.unwrap_or(levels[self.rng.below(3) as usize]);
        match self.recorder.begin(level) {
            Err(Error::Unsupported { .. }) => self.recorder.begin(IsolationLevel::Snapshot),
            begun => begun,
        }
    }

    /// Reads two registers and writes one of them: half of a write skew.
    fn decide(&mut self, tx: &mut Recording<'_>) -> Result<()> {
        let (mut a, mut b) = self.hot_pair();
        if self.rng.once_in(2) {
            (a, b) = (b, a);
        }
        tx.read(a)?;
        self.pause();
        tx.read(b)?;
        self.pause();
        tx.write(b)
    }

    /// Reads a register and writes it, once or more.
    fn update(&mut self, tx: &mut Recording<'_>) -> Result<()> {
        let (a, b) = self.hot_pair();
        let id = if self.rng.once_in(2) { a } else { b };
        tx.read(id)?;
        self.pause();
        for _ in 0..1 + self.rng.below(2) {
            tx.write(id)?;
            self.pause();
        }
        Ok(())
    }

    /// Lists a range and adds or takes a block: half of a range skew.
    fn count(&mut self, tx: &mut Recording<'_>) -> Result<()> {
        self.list(tx)?;
        self.pause();
        let id = self.free();
        if self.rng.once_in(2) || !tx.delete(id)? {
            tx.write(id)?;
        }
        Ok(())
    }

    /// Reads a hot pair and more, and writes nothing.
    fn report(&mut self, tx: &mut Recording<'_>) -> Result<()> {
        let (a, b) = self.hot_pair();
        for id in [a, b, a, self.any(), b] {
            tx.read(id)?;
            self.pause();
        }
        if self.rng.once_in(2) { self.list(tx) } else { Ok(()) }
    }

    /// Operations of any kind.
    fn wander(&mut self, tx: &mut Recording<'_>, strict: bool) -> Result<()> {
        for _ in 0..1 + self.rng.below(OPERATION_COUNT_MAX) {
            match self.rng.below(8) {
                0 => self.list(tx)?,
                1 => drop(tx.exists(self.any())?),
                2 => drop(tx.delete(self.free())?),
                3 => tx.write(self.free())?,
                4 | 5 if strict => {
                    let id = self.register();
                    tx.read(id)?;
                    self.pause();
                    tx.write(id)?;
                }
                _ => drop(tx.read(self.any())?),
            }
            self.pause();
        }
        Ok(())
    }

    fn single(&mut self) -> Result<()> {
        match self.rng.below(4) {
            0 => self.recorder.write(self.free()),
            1 => self.recorder.delete(self.free()).map(|_| ()),
            _ => self.recorder.read(self.any()).map(|_| ()),
        }
    }

    fn batch(&mut self) -> Result<()> {
        let (a, b, c) = (self.free(), self.free(), self.free());
        let deletes = if c != a && c != b && self.rng.once_in(2) { vec![c] } else { Vec::new() };
        self.recorder.apply(&[a, b], &deletes).map(|_| ())
    }

    fn list(&mut self, tx: &mut Recording<'_>) -> Result<()> {
        let first = self.free();
        let last = (first + self.rng.below(8)).min(self.load.ids().end - 1);
        match tx.range(first, last) {
            Err(Error::Unsupported { .. }) => Ok(()),
            listed => listed.map(|_| ()),
        }
    }

    /// Lets other threads in between two operations, now and then.
    fn pause(&mut self) {
        if self.rng.once_in(3) {
            thread::yield_now();
        }
    }

    fn hot_pair(&mut self) -> (u64, u64) {
        let a = self.load.first_id + 2 * self.rng.below(HOT_PAIR_COUNT);
        (a, a + 1)
    }

    fn register(&mut self) -> u64 {
        self.load.first_id + self.rng.below(self.load.registers)
    }

    fn free(&mut self) -> u64 {
        self.load.first_id + self.load.registers + self.rng.below(self.load.registers)
    }

    fn any(&mut self) -> u64 {
        if self.rng.once_in(3) { self.free() } else { self.register() }
    }
}
