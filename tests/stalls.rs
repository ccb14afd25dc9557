//! Long waits of writers have a cause, and short ones leave no trace.
//!
//! On a simulated disk time passes only where the test says so. With jumps of its clock everything
//! takes between nothing and an hour, so whatever is measured shows.

#[path = "support/fill.rs"]
mod fill;
#[path = "support/options.rs"]
mod options;

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::{
    Block, BlockId, LocalBackend, Options, Stall, StallCause, StorageBackend, StorageExt,
};

use options::short_segments;

fn filling(id: u64) -> Block {
    fill::filling(id, 10_000)
}

fn short() -> Options {
    short_segments(64 << 10, 16 << 10).single_threaded(true)
}

/// A store on a disk whose clock jumps from here on.
fn open(seed: u64, options: Options) -> (SimDisk, LocalBackend<SimDisk>) {
    let disk = SimDisk::new(seed);
    let store = LocalBackend::open_on(disk.clone(), options).expect("a new store");
    disk.set_clock_jumps(Some(seed));
    (disk, store)
}

fn stall(store: &LocalBackend<SimDisk>, cause: StallCause) -> Stall {
    store.stats().stalls.of(cause)
}

#[test]
fn store_on_a_disk_that_takes_no_time_has_no_stalls() {
    for single in [true, false] {
        let options = short().single_threaded(single);
        let store = LocalBackend::open_on(SimDisk::new(1), options).expect("a new store");
        for id in 1..200 {
            store.write_block(filling(id)).expect("a write");
        }
        store.compact_now().expect("compacts");
        assert_eq!(store.stats().stalls.iter().count(), 0, "{:?}", store.stats().stalls);
    }
}

#[test]
fn slow_writes_and_syncs_are_told_apart_and_added_up() {
    let (_disk, store) = open(2, short());
    let mut before = [Stall::default(); 2];
    for id in 1..100 {
        store.write_block(filling(id)).expect("a write");
        let now = [StallCause::Write, StallCause::Sync].map(|cause| stall(&store, cause));
        for (before, now) in before.iter().zip(now) {
            let more = now.total - before.total;
            assert!(now.count >= before.count && now.longest >= before.longest, "{now:?}");
            let ten_ms = std::time::Duration::from_millis(10);
            assert!(more >= ten_ms * (now.count - before.count) as u32, "{now:?} {before:?}");
            assert!(now.longest <= now.total && (more <= now.longest || now.count > 1), "{now:?}");
        }
        before = now;
    }
    assert!(before.iter().all(|stall| stall.count > 5), "{before:?}");
}

#[test]
fn every_cause_shows() {
    let causes =
        [StallCause::SpaceAhead, StallCause::NextSegment, StallCause::Upkeep, StallCause::Full];
    let mut found = [false; 4];
    // Whether a wait that happens once is a long one is up to the clock.
    for seed in 1..=8 {
        let store = waited_for_everything(seed);
        for (found, cause) in found.iter_mut().zip(causes) {
            let stall = stall(&store, cause);
            assert_eq!(stall.count == 0, stall.longest.is_zero(), "{cause}: {stall:?}");
            *found |= stall.count > 0;
        }
        assert_eq!(stall(&store, StallCause::InFlight).count, 0);
        let seen: Vec<_> = store.stats().stalls.iter().map(|(cause, _)| cause).collect();
        assert!(seen.contains(&StallCause::Sync) && !seen.contains(&StallCause::Queue), "{seen:?}");
    }
    assert_eq!(found, [true; 4], "of {causes:?}");
}

/// A store whose writers have waited for space ahead, the next segment, the upkeep and a full disk.
fn waited_for_everything(seed: u64) -> LocalBackend<SimDisk> {
    let (disk, store) = open(seed, short().zero_ahead_len(0).checkpoint_log_len(256 << 10));
    for _ in 0..20 {
        // Longer than the segment that is ready.
        let tx = store.begin().expect("a transaction");
        (1000..1015).for_each(|id| tx.write(filling(id)).map(|_| ()).expect("a pending write"));
        tx.commit().expect("a commit");
    }
    store.compact_now().expect("compacts");
    disk.set_capacity(Some(1 << 20));
    let count = (1..200).find(|id| store.write_block(filling(*id)).is_err()).expect("full") - 1;
    // What it sees cannot go, so the reserve is drawn down and a delete looks for room.
    let _kept = store.snapshot().expect("a snapshot");
    let deleted = (1..=count).take_while(|id| store.delete_block(BlockId(*id)).is_ok()).count();
    assert!(deleted > 10, "{deleted} deletes on a full disk");
    store
}

#[test]
fn commits_beyond_the_bytes_in_flight_wait_for_them() {
    let (_disk, store) = open(4, short().in_flight_len_max(15_000));
    for id in 1..50 {
        let tickets = [id, id + 1000].map(|id| {
            let tx = store.begin().expect("a transaction");
            tx.write(filling(id)).expect("a pending write");
            tx.submit().expect("handed in")
        });
        for ticket in tickets {
            ticket.wait().expect("a commit");
        }
    }
    assert!(stall(&store, StallCause::InFlight).count > 5, "{:?}", store.stats().stalls);
}

#[test]
fn checkpoint_that_holds_up_a_writer_is_a_stall() {
    let (disk, store) = open(5, short().single_threaded(false));
    let wanted = |store: &LocalBackend<SimDisk>| stall(store, StallCause::Upkeep).count > 0;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut id = 0;
            while !wanted(&store) && id < 200_000 {
                id += 1;
                store.write_block(filling(id % 50)).expect("a write");
            }
        });
        while !writer.is_finished() {
            store.checkpoint().expect("a checkpoint");
        }
    });
    assert!(wanted(&store), "no writer waited for a checkpoint: {:?}", store.stats().stalls);
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
}

#[cfg(feature = "tracing")]
mod events {
    use std::sync::Mutex;

    use tracing::field::{Field, Visit};
    use tracing::{Event, Metadata, Subscriber, span};

    use super::*;

    /// Collects the causes of stalls.
    #[derive(Default)]
    struct Collector(Mutex<Vec<String>>);

    impl Visit for &Collector {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            if field.name() == "cause" {
                self.0.lock().expect("no panic").push(format!("{value:?}"));
            }
        }
    }

    impl Subscriber for Collector {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            event.record(&mut &*self);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn each_stall_is_an_event() {
        let collector = std::sync::Arc::new(Collector::default());
        let store = tracing::subscriber::with_default(collector.clone(), || {
            let (_disk, store) = open(6, short());
            for id in 1..100 {
                store.write_block(filling(id)).expect("a write");
            }
            store
        });
        let heard = collector.0.lock().expect("no panic").clone();
        for (cause, stall) in store.stats().stalls.iter() {
            let count = heard.iter().filter(|heard| **heard == cause.to_string()).count();
            assert_eq!(count as u64, stall.count, "{cause}");
        }
        assert!(heard.len() > 10, "{heard:?}");
    }
}
