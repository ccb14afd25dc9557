//! The journal: what each step was told, in a file that outlives the process that is killed.
//!
//! | bytes                  | what                                                         |
//! |------------------------|--------------------------------------------------------------|
//! | 8                      | progress: a number that moves with each step that is told of |
//! | 8 a thread             | the first step of the life under way                         |
//! | 8 a thread             | the newest step of that life that is durable                 |
//! | [`STEPS_MAX`] a thread | a byte a step, see [`Told`]                                  |

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::plan::THREADS_MAX;

/// Steps that a thread makes in all lives of a world, at most.
pub const STEPS_MAX: u64 = 1 << 20;
/// Steps that a thread makes in one life, at most.
pub const LIFE_STEPS_MAX: u64 = 4000;
const FIRST: u64 = 8;
const DURABLE: u64 = FIRST + 8 * THREADS_MAX;
const STEPS: u64 = DURABLE + 8 * THREADS_MAX;

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Told {
    /// Nothing was told: it did not happen, or its outcome is unknown.
    Nothing = 0,
    /// The store acknowledged it.
    Done = 1,
    /// The store refused it and changed nothing.
    Refused = 2,
    /// The store had nothing to change for it.
    Unchanged = 3,
}

pub struct Journal {
    file: File,
    progress: AtomicU64,
}

impl Journal {
    pub fn open(path: &Path) -> Journal {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        Journal { file: file.expect("the journal opens"), progress: AtomicU64::new(0) }
    }

    fn number_at(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        let len = self.file.read_at(&mut bytes, offset).expect("the journal is read");
        if len == 8 { u64::from_le_bytes(bytes) } else { 0 }
    }

    fn set_number_at(&self, offset: u64, number: u64) {
        self.file.write_all_at(&number.to_le_bytes(), offset).expect("the journal is written");
    }

    /// Says that something was done.
    pub fn step(&self) {
        let number = self.progress.fetch_add(1, Ordering::Relaxed) + 1;
        self.set_number_at(0, u64::from(std::process::id()) << 32 | number & 0xffff_ffff);
    }

    pub fn progress(&self) -> u64 {
        self.number_at(0)
    }

    /// The first step of the life under way, from 1 on.
    pub fn first(&self, thread: u64) -> u64 {
        self.number_at(FIRST + 8 * thread).max(1)
    }

    /// Begins a life, with this step as its first one: all before it is durable.
    pub fn begin(&self, thread: u64, first: u64) {
        self.set_number_at(FIRST + 8 * thread, first);
        self.set_number_at(DURABLE + 8 * thread, first - 1);
    }

    /// The newest step of the life under way that must survive.
    pub fn durable(&self, thread: u64) -> u64 {
        self.number_at(DURABLE + 8 * thread)
    }

    pub fn set_durable(&self, thread: u64, number: u64) {
        self.set_number_at(DURABLE + 8 * thread, number);
    }

    /// What the steps from 1 to before `end` were told.
    pub fn told_before(&self, thread: u64, end: u64) -> Vec<Told> {
        let mut bytes = vec![0; end as usize - 1];
        let mut len = 0;
        while len < bytes.len() {
            match self.file.read_at(&mut bytes[len..], Self::place(thread, 1 + len as u64)) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) => panic!("the journal is read: {error}"),
            }
        }
        let told = |byte: u8| match byte {
            0 => Told::Nothing,
            1 => Told::Done,
            2 => Told::Refused,
            3 => Told::Unchanged,
            other => panic!("the journal says {other}"),
        };
        bytes.into_iter().map(told).collect()
    }

    /// The number of steps up to the last one that was told anything.
    pub fn told_count(&self, thread: u64) -> u64 {
        let mut count = self.first(thread) - 1;
        let told = self.told_before(thread, STEPS_MAX.min(count + LIFE_STEPS_MAX + 2));
        while told.get(count as usize).is_some_and(|told| *told != Told::Nothing) {
            count += 1;
        }
        count
    }

    /// How many steps were commits and stand, and how many there were.
    pub fn commits(&self) -> (u64, u64) {
        let told = (0..THREADS_MAX).flat_map(|thread| self.told_before(thread, self.first(thread)));
        told.fold((0, 0), |(commits, steps), told| {
            (commits + u64::from(told == Told::Done), steps + 1)
        })
    }

    pub fn tell(&self, thread: u64, number: u64, told: Told) {
        let place = Self::place(thread, number);
        self.file.write_all_at(&[told as u8], place).expect("the journal is written");
        self.step();
    }

    fn place(thread: u64, number: u64) -> u64 {
        assert!((1..STEPS_MAX).contains(&number), "step {number} is in no journal");
        STEPS + thread * STEPS_MAX + number
    }
}
