//! Every schedule of five kernels of the store, by loom: the commit lock, the budget of bytes in
//! flight, the pins of snapshots against publication, the poison flag, and the turns of
//! transactions that lost. The kernels are the product's own sources, compiled here over loom's
//! primitives.
//!
//! Each claim prints its number of schedules, and whether they are all or bounded. Loom treats
//! `SeqCst` as `AcqRel`, so it tries more orders of memory than the store relies on, not fewer.

#![allow(dead_code, unused_imports, reason = "a kernel uses a part of each module")]

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
#[path = "../../src/local"]
mod local {
    pub(crate) mod commit {
        pub(crate) mod budget;
        pub(crate) mod commit_lock;
        pub(crate) mod workers;
    }
    pub(crate) mod poison;
}
#[path = "../../src/mvcc"]
mod mvcc {
    pub(crate) mod batch;
    pub(crate) mod counters;
    pub(crate) mod index;
    pub(crate) mod page;
    pub(crate) mod pins;
    mod shard;
    mod slot_list;
    pub(crate) mod turn;
    pub(crate) mod unpublished;
    pub(crate) mod version;
    mod word;
}
#[path = "../../src/order.rs"]
mod order;
#[path = "../support/modelled/sync.rs"]
mod sync;
#[path = "../../src/thread_pool.rs"]
mod thread_pool;
#[path = "../../src/ticket.rs"]
mod ticket;

mod budgeting;
#[path = "../support/counted.rs"]
mod counted;
mod handing_over;
mod pinning;
mod poisoning;
mod turning;

use std::cell::Cell;
use std::panic;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use block::Lsn;
use error::{Error, Result};
use loom::thread::yield_now;
use loom::{sync as primitives, thread_local};

/// A claim about a kernel, and the most preemptions a schedule of it has: `None` tries them all.
#[derive(Clone, Copy)]
struct Claim {
    name: &'static str,
    preemption_count_max: Option<usize>,
    kernel: fn(),
}

/// The payload of a kernel's planned panic.
const PLANNED: &str = "a planned panic";

fn main() {
    let reported = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&PLANNED) {
            reported(info);
        }
    }));
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let (mut total, mut whole_count) = (0, 0);
    let all = [
        budgeting::CLAIMS,
        handing_over::CLAIMS,
        pinning::CLAIMS,
        poisoning::CLAIMS,
        turning::CLAIMS,
    ];
    for claims in all {
        let asked = |claim: &&Claim| filter.as_ref().is_none_or(|part| claim.name.contains(part));
        let mut whole = false;
        for claim in claims.iter().filter(asked) {
            total += claim.explore();
            whole |= claim.preemption_count_max().is_none();
        }
        whole_count += u64::from(whole);
    }
    println!("loom: {total} schedules");
    counted::tell("schedules", total);
    counted::tell("kernels with every schedule of a claim", whole_count);
}

impl Claim {
    /// The bound that is asked for, or else the claim's own.
    fn preemption_count_max(&self) -> Option<usize> {
        let asked = std::env::var("AEGIS_PREEMPTIONS").ok();
        let asked = asked.map(|count| count.parse().expect("AEGIS_PREEMPTIONS is a number"));
        asked.or(self.preemption_count_max)
    }

    /// Tries the schedules and returns their number. A schedule that breaks the claim, or in which
    /// a thread waits for ever, panics.
    fn explore(&self) -> u64 {
        static SCHEDULES: AtomicU64 = AtomicU64::new(0);
        SCHEDULES.store(0, Ordering::Relaxed);
        println!("loom: {} ...", self.name);
        let started = std::time::Instant::now();
        let mut model = loom::model::Builder::new();
        model.max_branches = 10_000;
        let preemption_count_max = self.preemption_count_max();
        model.preemption_bound = preemption_count_max;
        let kernel = self.kernel;
        model.check(move || {
            SCHEDULES.fetch_add(1, Ordering::Relaxed);
            NEXT_SLOT.store(0, Ordering::Relaxed);
            kernel();
        });
        let count = SCHEDULES.load(Ordering::Relaxed);
        let which = match preemption_count_max {
            None => "all schedules".to_string(),
            Some(max) => format!("all schedules with at most {max} preemptions"),
        };
        let took = started.elapsed().as_millis();
        println!("loom: {}: {count} schedules, {which} [{took} ms]", self.name);
        count
    }
}

/// The slot that the next thread takes.
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);

loom::thread_local! {
    static SLOT: usize = NEXT_SLOT.fetch_add(1, Ordering::Relaxed) % sync::SLOT_COUNT;
}

/// The calling thread's slot: 0 for the first thread that asks, then 1, then 0 again.
fn thread_slot() -> usize {
    SLOT.with(|slot| *slot)
}

/// A timed wait never ends by itself: another thread must wake the waiting one.
fn times_out() -> bool {
    false
}
