//! Lives: a store goes through sessions, each with options of its own, random threads, and an end
//! by chance; what was acknowledged is in a journal beside it.
//!
//! `cargo test --test lives -- LIVES [SEED [JOBS]]`; without a number it takes [`SHORT`]. Half of
//! the lives are on files, in a process that is killed by SIGKILL, closes, drops the store or just
//! ends. The others are on the simulated disk, whose power is cut, whose operations fail, or which
//! is full. Each life:
//!
//! 1. `probe` and `verify` look at what the life before left, and find no damage.
//! 2. The store is opened with other options, walked, and compared with the journal ([`check`]):
//!    every acknowledged step is there, and nothing else but the step that was under way
//!    ([`plan`]).
//! 3. It closes, and opens with the options of this life. Threads write, read and tend it
//!    ([`life`]).
//!
//! A watchdog names the stacks of a life that makes no progress for ten seconds; one that makes
//! none for a minute fails ([`parent`]).

mod check;
#[path = "../support/counted.rs"]
mod counted;
#[path = "../support/drawn.rs"]
mod drawn;
mod journal;
mod life;
mod parent;
mod plan;
mod simulated;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aegis_blocks::testkit::Rng;
use aegis_blocks::{LocalBackend, Probe};

use crate::drawn::Drawn;
use crate::journal::Journal;
use crate::life::Life;
use crate::parent::{Tally, World};
use crate::plan::THREADS_MAX;

/// Lives that a run tries which is given no number.
const SHORT: u64 = 24;
/// Lives of one store.
const WORLD_LIVES: u64 = 10;
/// Stores at once.
const JOBS: u64 = 2;
/// A long run says after so many stores what it came to so far.
const WORLDS_BETWEEN: u64 = 50;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| -> Option<u64> { text.parse().ok() };
    if let [role, dir, seed, nth] = &arguments[..] {
        let (seed, nth) = (number(seed).expect("a seed"), number(nth).expect("a number"));
        abort_on_panic();
        match role.as_str() {
            "life" => live(Path::new(dir), seed, nth),
            "check" => look(Path::new(dir), seed, nth),
            "simulated" => simulated::run(Path::new(dir), seed, nth),
            _ => panic!("{arguments:?}"),
        }
        return ExitCode::SUCCESS;
    }
    if let [word, seed, lives] = &arguments[..]
        && word == "world"
    {
        let (seed, lives) = (number(seed).expect("a seed"), number(lives).expect("a number"));
        let tally = run_world(seed, lives);
        println!("{tally}");
        return code(tally);
    }
    // Filters of `cargo test` are no numbers.
    let mut numbers = arguments.iter().filter_map(number);
    let lives = numbers.next().unwrap_or(SHORT);
    let seed = numbers.next().unwrap_or(0x11FE5);
    let jobs = numbers.next().unwrap_or(JOBS);
    run(lives, seed, jobs)
}

/// A thread that panics ends the process, which the parent sees.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Even seeds are worlds on files, odd ones on the simulated disk.
fn run_world(seed: u64, lives: u64) -> Tally {
    let dir = tempfile::tempdir().expect("a directory");
    let tally = Tally::default();
    let mut world = World { dir: dir.path().to_path_buf(), seed, lives, tally };
    match seed % 2 {
        0 => world.run_on_files(),
        _ => world.run_simulated(),
    }
    world.tally
}

fn code(tally: Tally) -> ExitCode {
    if tally.hangs + tally.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(lives: u64, seed: u64, jobs: u64) -> ExitCode {
    println!("lives: {lives}, seed {seed}");
    let worlds = lives.div_ceil(WORLD_LIVES);
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    let work = || {
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= worlds {
                return;
            }
            let count = WORLD_LIVES.min(lives - nth * WORLD_LIVES);
            let tally = run_world(seed + nth, count);
            let mut sum = sum.lock().expect("no worker panics");
            sum.add(tally);
            if (nth + 1) % WORLDS_BETWEEN == 0 {
                println!("so far {sum}");
            }
        }
    };
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let tally = sum.into_inner().expect("no worker panics");
    println!("{tally}");
    if tally.hangs + tally.wrong == 0 {
        counted::tell("lives with options of their own", tally.lives);
        counted::tell("commits of lives", tally.commits);
        counted::tell("lives ended by kill -9", tally.kills);
        counted::tell("lives that hung", tally.hangs);
    }
    code(tally)
}

/// Looks at what the life before left, with `probe`, with `verify`, and open with options of its
/// own.
fn look(dir: &Path, seed: u64, nth: u64) {
    let (path, journal) = (dir.join("store"), Journal::open(&dir.join("journal")));
    if !path.exists() {
        return;
    }
    journal.step();
    let probed = LocalBackend::probe(&path);
    println!("look {nth}: {probed:?}");
    if matches!(probed, Ok(Probe::Clean { .. } | Probe::Unclean { .. })) {
        let found = LocalBackend::verify(&path).expect("verify ends");
        assert_eq!(found.damage, [], "damage");
    }
    journal.step();
    let drawn = Drawn::draw(&mut Rng::new(!seed ^ (nth << 32)));
    println!("look {nth} with {drawn:?}");
    let store = drawn.options().open(&path).expect("the store opens");
    journal.step();
    check::compare(&store, &journal, seed);
    let mut rng = Rng::new(seed ^ nth);
    if rng.once_in(2) {
        store.close().expect("closes");
    }
}

/// One life on files.
fn live(dir: &Path, seed: u64, nth: u64) {
    look(dir, seed, nth);
    let journal = Journal::open(&dir.join("journal"));
    let mut rng = Rng::new(seed ^ (nth << 32));
    let drawn = Drawn::draw(&mut rng);
    println!("life {nth}: {drawn:?}");
    let store = drawn.options().open(dir.join("store")).expect("the store opens");
    let parts = check::compare(&store, &journal, seed);
    let (threads, steps, end) = (1 + rng.below(THREADS_MAX), 10 + rng.below(800), rng.below(3));
    let backups = dir.join("backups");
    std::fs::create_dir_all(&backups).expect("a directory for backups");
    let backups = Some(backups);
    let done = AtomicBool::new(false);
    let life = Life { store, journal: &journal, drawn, seed, rng, faulty: false, backups, done };
    life.run(parts, threads, steps);
    match end {
        0 => life.store.close().expect("closes"),
        1 => drop(life.store),
        // Without a word to the store.
        _ => std::process::exit(0),
    }
}
