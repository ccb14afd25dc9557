//! The process that watches: starts the children, kills one of them, and compares what is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aegis_blocks::{Block, LocalBackend, StorageBackend, StorageExt};

use crate::child::{Places, check_backup, options};
use crate::memory::Memory;
use crate::plan::{ACCOUNTS, Blocks, MONEY, Step, WRITERS, money, thread_of, written_by};
use aegis_blocks::testkit::Rng;

/// Between two steps of each thread of the child that is never killed, in microseconds: so long
/// that how much it does, and so how much memory that takes, hardly depends on what else the
/// machine does.
const GENTLE_US: u64 = 10_000;
/// A sample of memory is taken, and the time looked at, so often.
const TICK: Duration = Duration::from_millis(100);

/// What a store must hold.
struct Model {
    seed: u64,
    /// Steps of each thread that are in `blocks`.
    done: Vec<u64>,
    blocks: Vec<Blocks>,
}

pub struct Soak {
    seed: u64,
    length: Duration,
    every: Duration,
    killed: Places,
    steady: Places,
    dirs: [PathBuf; 2],
    rng: Rng,
    model: Model,
}

fn start(dir: &Path, seed: u64, pause_us: u64) -> Child {
    let places = Places::of(dir);
    if !places.acks.exists() {
        fs::create_dir_all(&places.backups).expect("a directory");
        places.set_acknowledged(&[0; WRITERS as usize]);
    }
    let me = std::env::current_exe().expect("this program");
    let mut child = Command::new(me);
    child.arg("child").arg(dir).args([seed.to_string(), pause_us.to_string()]);
    child.stdin(Stdio::piped()).spawn().expect("a child")
}

impl Soak {
    pub fn new(dir: &Path, seed: u64, length: Duration, every: Duration) -> Soak {
        let dirs = [dir.join("killed"), dir.join("steady")];
        let [killed, steady] = [&dirs[0], &dirs[1]].map(|dir| Places::of(dir));
        let (rng, model) = (Rng::new(seed), Model::new(seed));
        Soak { seed, length, every, killed, steady, dirs, rng, model }
    }

    pub fn run(mut self) {
        let steady_seed = self.seed ^ 1;
        let mut steady = start(&self.dirs[1], steady_seed, GENTLE_US);
        let mut memory = Memory::of(steady.id());
        let started = Instant::now();
        let (mut kills, mut restored) = (0, 0);
        while started.elapsed() < self.length {
            let left = self.length.saturating_sub(started.elapsed());
            let life = self.every.mul_f64(0.5 + self.rng.below(1000) as f64 / 1000.0).min(left);
            let mut child = start(&self.dirs[0], self.seed, 0);
            let born = Instant::now();
            while born.elapsed() < life {
                std::thread::sleep(TICK.min(life));
                assert!(is_alive(&mut steady) && is_alive(&mut child), "a child ended by itself");
                memory.sample();
            }
            child.kill().expect("SIGKILL");
            child.wait().expect("it is dead");
            kills += 1;
            restored += self.check_killed(started.elapsed(), kills);
        }
        drop(steady.stdin.take());
        assert!(steady.wait().expect("it ends").success(), "the steady child closes its store");
        self.check_steady(steady_seed);
        let steps: u64 = self.model.done.iter().sum();
        println!(
            "{kills} kills in {:?}, {steps} acknowledged steps, none lost; {restored} backups left by \
             killed processes were whole",
            started.elapsed()
        );
        // Last: what it says of memory must not hide what was found in the stores.
        memory.check(self.length);
    }

    /// Opens what a kill left and compares. Returns how many backups were there.
    fn check_killed(&mut self, at: Duration, kill: u64) -> u64 {
        let store = options().open(&self.killed.store).expect("opens after a kill");
        let acknowledged = self.killed.acknowledged();
        let steps: u64 = acknowledged.iter().sum::<u64>() - self.model.done.iter().sum::<u64>();
        self.model.compare(&store, &acknowledged);
        self.killed.set_acknowledged(&self.model.done);
        let report = *store.recovery();
        println!(
            "{:4} s, kill {kill}: {steps} steps, {} bytes read, {} torn, opened in {:?}",
            at.as_secs(),
            report.bytes,
            report.torn_bytes,
            report.elapsed
        );
        // Every other session of the parent ends like the child's.
        if kill.is_multiple_of(2) {
            store.close().expect("closes");
        } else {
            drop(store);
        }
        assert_eq!(LocalBackend::verify(&self.killed.store).expect("verifies").damage, []);
        check_backups(&self.killed.backups)
    }

    fn check_steady(&self, seed: u64) {
        let store = options().open(&self.steady.store).expect("opens after a close");
        assert!(store.recovery().clean, "it was closed");
        let acknowledged = self.steady.acknowledged();
        let mut model = Model::new(seed);
        model.compare(&store, &acknowledged);
        assert_eq!(model.done, acknowledged, "nothing was under way");
        store.close().expect("closes");
        assert_eq!(LocalBackend::verify(&self.steady.store).expect("verifies").damage, []);
        println!("the store that was never killed: {} steps", acknowledged.iter().sum::<u64>());
    }
}

fn is_alive(child: &mut Child) -> bool {
    child.try_wait().expect("a child").is_none()
}

/// What a killed process left of backups: whole ones with a manifest, and unfinished ones, which
/// go.
fn check_backups(dir: &Path) -> u64 {
    let mut count = 0;
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none() && path.join("MANIFEST").exists() {
            check_backup(&path).expect("a whole backup");
            count += 1;
        }
        if path.exists() {
            fs::remove_dir_all(&path).expect("it goes");
        }
    }
    count
}

impl Model {
    fn new(seed: u64) -> Model {
        let blocks = vec![Blocks::new(); WRITERS as usize];
        Model { seed, done: vec![0; WRITERS as usize], blocks }
    }

    /// Compares a store with what these steps make, each thread's with one step more if that is
    /// there, and goes on from what is found.
    fn compare(&mut self, store: &LocalBackend, acknowledged: &[u64]) {
        let mut found = vec![Blocks::new(); WRITERS as usize];
        let (mut sum, mut bytes, mut count) = (0, 0, 0);
        for block in store.blocks(..).expect("walks") {
            let block: Block = block.expect("reads");
            (bytes, count) = (bytes + block.data.len() as u64, count + 1);
            let id = block.header.block_id.0;
            let Some(thread) = thread_of(id) else {
                sum += money(&block);
                continue;
            };
            let step = written_by(&block).unwrap_or_else(|| panic!("no step wrote block {id}"));
            found[thread as usize].insert(id, step);
        }
        // The money is there from before the first step on.
        let began = count > 0 || acknowledged.iter().any(|step| *step > 0);
        assert_eq!(sum, if began { ACCOUNTS * MONEY } else { 0 }, "money was made or lost");
        let stats = store.stats();
        assert_eq!((stats.total_blocks, stats.total_bytes), (count, bytes));
        for (thread, found) in found.into_iter().enumerate() {
            let (done, blocks) = (&mut self.done[thread], &mut self.blocks[thread]);
            for number in *done + 1..=acknowledged[thread] {
                Step::new(self.seed, thread as u64, number).apply(blocks);
            }
            *done = acknowledged[thread];
            if *blocks != found {
                // The step that was under way is there in whole, or not at all.
                *done += 1;
                Step::new(self.seed, thread as u64, *done).apply(blocks);
            }
            assert!(
                *blocks == found,
                "seed {}, thread {thread}, step {done}: {blocks:?} is not {found:?}",
                self.seed
            );
        }
    }
}
