//! Contention: which calls get through where threads change the same blocks.
//! `cargo bench --bench contention [-- DIR]`.
//!
//! | what      | value                                                                       |
//! |-----------|-----------------------------------------------------------------------------|
//! | counter   | [`THREADS`] threads add one to a block by `transact`, for [`COUNTING`]      |
//! | long      | a thread reads and writes [`BLOCKS`] blocks by `transact`, sleeping [`LONG`] |
//! | beside it | [`WRITERS`] threads that overwrite one of those blocks, or another one      |
//! | rounds    | [`ROUNDS`]: writers alone, beside it, alone, [`ROUND`] each; medians        |
//! | payload   | 8 bytes; 100 in the ten blocks                                              |
//! | stores    | in memory; local, every commit durable                                      |
//!
//! A call that returns `Conflict` has given up. `DIR` lies on the disk to try. No time is asserted.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aegis_blocks::{
    Block, BlockId, BlockType, Error, IsolationLevel, LocalBackend, MemoryBackend, StorageBackend,
    StorageExt,
};

const THREADS: [u64; 3] = [2, 8, 64];
const COUNTING: Duration = Duration::from_secs(10);
const COUNTER: BlockId = BlockId(1);
const BLOCKS: u64 = 10;
const LONG: Duration = Duration::from_millis(5);
const WRITERS: [u64; 2] = [4, 16];
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

/// The calls of one thread.
#[derive(Default)]
struct Calls {
    done: u64,
    given_up: u64,
    tries: u64,
    tries_max: u64,
    took: Vec<Duration>,
}

impl Calls {
    /// Calls `call`, which counts its tries, until the time is over.
    fn until(end: impl Fn() -> bool, mut call: impl FnMut(&mut u64) -> Result<(), Error>) -> Calls {
        let mut calls = Calls::default();
        while !end() {
            let (started, mut tries) = (Instant::now(), 0);
            match call(&mut tries) {
                Ok(()) => calls.done += 1,
                Err(Error::Conflict { .. }) => calls.given_up += 1,
                Err(error) => panic!("a call fails: {error}"),
            }
            calls.took.push(started.elapsed());
            calls.tries += tries;
            calls.tries_max = calls.tries_max.max(tries);
        }
        calls
    }

    fn add(mut self, other: Calls) -> Calls {
        self.done += other.done;
        self.given_up += other.given_up;
        self.tries += other.tries;
        self.tries_max = self.tries_max.max(other.tries_max);
        self.took.extend(other.took);
        self
    }

    fn took_at(&mut self, quantile: f64) -> f64 {
        self.took.sort_unstable();
        let last = self.took.len().saturating_sub(1);
        let took = self.took.get((last as f64 * quantile).round() as usize);
        took.copied().unwrap_or_default().as_secs_f64() * 1e3
    }
}

fn number(id: BlockId, number: u64) -> Block {
    Block::new(id, BlockType::TableData, number.to_le_bytes().to_vec())
}

fn count(store: &(impl StorageExt + Sync), thread_count: u64) -> Calls {
    let started = Instant::now();
    let add = || {
        Calls::until(
            || started.elapsed() >= COUNTING,
            |tries| {
                store.transact(IsolationLevel::Snapshot, |tx| {
                    *tries += 1;
                    let data = tx.read(COUNTER)?.data;
                    let counted = u64::from_le_bytes(data[..].try_into().expect("a number"));
                    tx.write(number(COUNTER, counted + 1)).map(drop)
                })
            },
        )
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..thread_count).map(|_| scope.spawn(add)).collect();
        let calls = threads.into_iter().map(|thread| thread.join().expect("it counts"));
        calls.fold(Calls::default(), Calls::add)
    })
}

fn counters<S: StorageBackend + StorageExt>(name: &str, mut make: impl FnMut() -> S) {
    for thread_count in THREADS {
        let store = make();
        store.write_block(number(COUNTER, 0)).expect("the counter is written");
        let mut calls = count(&store, thread_count);
        let data = store.read_block(COUNTER).expect("the counter is read").data;
        assert_eq!(data[..], calls.done.to_le_bytes(), "no update is lost");
        let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|quantile| calls.took_at(quantile));
        println!(
            "{name:>8} {thread_count:>8} {:>10.0} {:>9} {:>10.1} {:>9} {:>9.1} {:>9.1} {:>9.1}",
            calls.done as f64 / COUNTING.as_secs_f64(),
            calls.given_up,
            calls.tries as f64 / (calls.done + calls.given_up) as f64,
            calls.tries_max,
            p50,
            p99,
            longest,
        );
    }
}

/// One round: the writers alone, then the writers beside the long one.
struct Round {
    kept: f64,
    long: Calls,
}

fn writes_for(
    store: &impl StorageBackend,
    writer_count: u64,
    first: u64,
    work: impl FnOnce(),
) -> f64 {
    let (done, written, started) = (AtomicBool::new(false), AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for writer in 0..writer_count {
            let (done, written) = (&done, &written);
            scope.spawn(move || {
                let mut next = writer;
                while !done.load(Ordering::Relaxed) {
                    next += 7;
                    let id = BlockId(first + next % BLOCKS);
                    let block = Block::new(id, BlockType::TableData, vec![writer as u8; 100]);
                    store.write_block(block).expect("commits");
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        work();
        done.store(true, Ordering::Relaxed);
    });
    written.into_inner() as f64 / started.elapsed().as_secs_f64()
}

fn long_for(store: &impl StorageExt) -> Calls {
    let started = Instant::now();
    Calls::until(
        || started.elapsed() >= ROUND,
        |tries| {
            store.transact(IsolationLevel::Snapshot, |tx| {
                *tries += 1;
                for id in 1..=BLOCKS {
                    tx.write(tx.read(BlockId(id))?)?;
                }
                std::thread::sleep(LONG);
                Ok(())
            })
        },
    )
}

fn long(name: &str, store: &(impl StorageBackend + StorageExt), writer_count: u64, first: u64) {
    for id in (1..=BLOCKS).flat_map(|id| [id, id + 100]) {
        let block = Block::new(BlockId(id), BlockType::TableData, vec![0; 100]);
        store.write_block(block).expect("a block is written");
    }
    let alone = || writes_for(store, writer_count, first, || std::thread::sleep(ROUND));
    let rounds: Vec<Round> = (0..ROUNDS)
        .map(|_| {
            let (before, mut long) = (alone(), Calls::default());
            let beside = writes_for(store, writer_count, first, || long = long_for(store));
            Round { kept: 2.0 * beside / (before + alone()), long }
        })
        .collect();
    let mut kept: Vec<f64> = rounds.iter().map(|round| round.kept).collect();
    kept.sort_by(f64::total_cmp);
    let mut calls = rounds.into_iter().map(|round| round.long).fold(Calls::default(), Calls::add);
    let longest = calls.took_at(1.0);
    println!(
        "{name:>8} {writer_count:>8} {:>10} {:>9.1} {:>9} {:>10.1} {:>9} {:>9.1} {:>9.2}",
        if first == 1 { "same" } else { "other" },
        calls.done as f64 / (ROUND.as_secs_f64() * ROUNDS as f64),
        calls.given_up,
        calls.tries as f64 / (calls.done + calls.given_up) as f64,
        calls.tries_max,
        longest,
        kept[ROUNDS / 2],
    );
}

fn main() {
    let dir = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let dir = dir.map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    let mut opened = 0;
    let mut open = || {
        opened += 1;
        LocalBackend::open(Path::join(dir.path(), opened.to_string())).expect("the store opens")
    };
    println!("one counter");
    println!(
        "{:>8} {:>8} {:>10} {:>9} {:>10} {:>9} {:>9} {:>9} {:>9}",
        "store",
        "threads",
        "commits/s",
        "given up",
        "tries/call",
        "most",
        "p50 ms",
        "p99 ms",
        "max ms"
    );
    counters("memory", MemoryBackend::new);
    counters("local", &mut open);
    println!(
        "\n{} ms over {BLOCKS} blocks, beside writers of the same and of other blocks",
        LONG.as_millis()
    );
    println!(
        "{:>8} {:>8} {:>10} {:>9} {:>9} {:>10} {:>9} {:>9} {:>9}",
        "store", "writers", "blocks", "long/s", "given up", "tries/call", "most", "max ms", "kept"
    );
    for (writer_count, first) in WRITERS.into_iter().flat_map(|count| [(count, 1), (count, 101)]) {
        long("memory", &MemoryBackend::new(), writer_count, first);
        long("local", &open(), writer_count, first);
    }
}
