//! Random schedules of the whole store, by shuttle: callers, log, log flusher and I/O workers on
//! the simulated disk. At every lock, queue, atomic and disk operation another thread may go on.
//! The store is the product's own sources, compiled here over shuttle's primitives.
//!
//! Half of the schedules are drawn at random, half by probabilistic concurrency testing (Burckhardt
//! and others, "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS
//! 2010). A schedule in which a thread waits for ever fails. `AEGIS_SCHEDULES=N` sets their number
//! in all, and `AEGIS_SEED=N` the first seed. A failure prints the command that repeats it.

#![allow(
    dead_code,
    unused_imports,
    reason = "the crate's tests and public names are not used here"
)]
#![allow(unfulfilled_lint_expectations, reason = "nothing of it is public here")]

#[path = "../../src/backend.rs"]
mod backend;
#[path = "../../src/block.rs"]
mod block;
#[path = "../../src/callback.rs"]
mod callback;
#[path = "../../src/checksum.rs"]
mod checksum;
#[path = "../../src/durability.rs"]
mod durability;
#[path = "../../src/error/mod.rs"]
mod error;
#[path = "../../src/io/mod.rs"]
mod io;
#[path = "../../src/local/mod.rs"]
mod local;
#[path = "../../src/memory.rs"]
mod memory;
#[path = "../../src/mvcc/mod.rs"]
mod mvcc;
#[path = "../../src/order.rs"]
mod order;
#[path = "../../src/stats.rs"]
mod stats;
#[path = "../support/modelled/sync.rs"]
mod sync;
#[path = "../../src/thread_pool.rs"]
mod thread_pool;
#[path = "../../src/ticket.rs"]
mod ticket;
#[path = "../../src/transaction/mod.rs"]
mod transaction;
#[path = "../../src/unheard.rs"]
mod unheard;

mod callers;
mod claims;
#[path = "../support/counted.rs"]
mod counted;
mod disk;

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use parking_lot::Mutex;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread::yield_now;
use shuttle::{Config, FailurePersistence, Runner, sync as primitives, thread_local};

pub use backend::{Durability, OldestSnapshot, StorageBackend, StorageStats};
pub use block::{
    Block, BlockHeader, BlockId, BlockType, Compression, Encryption, Lsn, TransactionId,
};
pub use error::{
    Defect, Error, IoOp, NotAStoreReason, Place, PoisonCause, Result, SnapshotLimit, SpaceLimit,
    TransactionState,
};
pub use local::{
    BackupCheck, BackupReport, CopyProgress, Damage, LocalBackend, OpenPhase, OpenProgress,
    Options, Probe, RecoveryReport, SpaceReport, VerifyReport, WriteMode,
};
pub use memory::{MemoryBackend, MemoryOptions};
pub use order::ScanOrder;
pub use ticket::CommitTicket;
pub use transaction::{
    BEGIN_WAIT_MAX, BatchOperation, Blocks, Ids, IsolationLevel, Savepoint, ScanMark, ScanPage,
    Snapshot, StorageExt, TRANSACT_TRIES_MAX, Transaction, WriteBatch,
};

/// Schedules of a default run, over all claims.
const SCHEDULE_COUNT: usize = 8_000;
/// Schedules that one seed names.
const BATCH_COUNT: usize = 250;
/// Preemptions in a schedule of the second scheduler.
const PCT_DEPTH: usize = 3;
/// The payload of a disk's planned panic.
const PLANNED: &str = "a planned panic";

/// A claim about the store, checked under many schedules.
struct Claim {
    name: &'static str,
    schedule: fn(),
    /// Paths that some of its schedules must take; else the claim was not tried.
    paths: &'static [&'static str],
}

/// How often each path was taken since the claim began.
static TAKEN: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Counts a path that a schedule took.
fn took(path: &'static str) {
    *TAKEN.lock().entry(path).or_default() += 1;
}

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let asked = |name| std::env::var(name).ok().map(|n| n.parse().expect("a number"));
    let wanted = |claim: &&Claim| filter.as_ref().is_none_or(|part| claim.name.contains(part));
    let claims: Vec<_> = claims::CLAIMS.iter().filter(wanted).collect();
    let count = asked("AEGIS_SCHEDULES").unwrap_or(SCHEDULE_COUNT as u64) as usize;
    let share = count.div_ceil(claims::CLAIMS.len());
    let seed = asked("AEGIS_SEED").unwrap_or(1);
    let mut total = 0;
    for claim in claims {
        let started = std::time::Instant::now();
        let mut tried = 0;
        let mut batch_seed = seed;
        while tried < share {
            match claim.batch(batch_seed, BATCH_COUNT.min(share - tried)) {
                Some(count) => tried += count,
                None => return ExitCode::FAILURE,
            }
            batch_seed += 1;
        }
        let (name, elapsed) = (claim.name, started.elapsed().as_millis());
        println!("shuttle: {name}: {tried} schedules, seeds {seed}..{batch_seed} [{elapsed} ms]");
        let taken = std::mem::take(&mut *TAKEN.lock());
        println!("         {taken:?}");
        if let Some(path) = claim.paths.iter().find(|path| !taken.contains_key(*path)) {
            println!("no schedule took the path {path:?}");
            return ExitCode::FAILURE;
        }
        total += tried;
    }
    println!("shuttle: {total} schedules");
    counted::tell("schedules", total as u64);
    ExitCode::SUCCESS
}

impl Claim {
    /// Tries the schedules that a seed names; `None` when one of them breaks the claim.
    fn batch(&self, seed: u64, count: usize) -> Option<usize> {
        let tried = catch_unwind(AssertUnwindSafe(|| match seed % 2 {
            0 => self.run(RandomScheduler::new_from_seed(seed, count)),
            _ => self.run(PctScheduler::new_from_seed(seed, PCT_DEPTH, count)),
        }));
        if tried.is_err() {
            let schedules = BATCH_COUNT * claims::CLAIMS.len();
            println!(
                "repeat with: AEGIS_SEED={seed} AEGIS_SCHEDULES={schedules} cargo test --test shuttle {}",
                self.name
            );
        }
        tried.ok()
    }

    fn run(&self, scheduler: impl Scheduler + 'static) -> usize {
        let mut config = Config::new();
        config.stack_size = 256 << 10;
        config.failure_persistence = FailurePersistence::None;
        config.silence_warnings = true;
        let runner = Runner::new(scheduler, config);
        quiet_planned_panics();
        runner.run(self.schedule)
    }
}

/// A planned panic is no failure, and no news.
fn quiet_planned_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // Shuttle's own hook comes first: it is set by the first run, and names the task.
        Runner::new(RandomScheduler::new_from_seed(0, 1), Config::new()).run(|| {});
        let reported = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&PLANNED) {
                reported(info);
            }
        }));
    });
}

/// The calling thread's slot: neighbours have different ones.
fn thread_slot() -> usize {
    usize::from(shuttle::current::me()) % sync::SLOT_COUNT
}

/// A timed wait ends at once or never.
fn times_out() -> bool {
    one_in(4)
}

/// Whether a part of the schedule's own randomness says so.
fn one_in(count: u64) -> bool {
    below(count) == 0
}

fn below(bound: u64) -> u64 {
    use shuttle::rand::Rng;
    shuttle::rand::thread_rng().gen_range(0..bound)
}
