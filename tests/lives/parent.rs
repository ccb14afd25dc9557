//! The process that watches: starts the lives of a world one after the other, kills some of them, and
//! names the stacks of one that makes no progress.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use aegis_blocks::testkit::Rng;

use crate::journal::Journal;

/// A life that does nothing for so long is looked at.
const STILL_MAX: Duration = Duration::from_secs(10);
/// One that does nothing for so long hangs.
const HANG: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(5);

/// What a world came to.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub lives: u64,
    pub kills: u64,
    pub stills: u64,
    pub steps: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.lives += other.lives;
        self.kills += other.kills;
        self.stills += other.stills;
        self.steps += other.steps;
    }
}

fn start(role: &str, dir: &Path, numbers: [u64; 2]) -> Child {
    let log = fs::File::options().create(true).append(true).open(dir.join("log")).expect("a log");
    let me = std::env::current_exe().expect("this program");
    let mut command = Command::new(me);
    command.arg(role).arg(dir).args(numbers.map(|number| number.to_string()));
    command.stdout(log.try_clone().expect("a second handle")).stderr(log);
    command.spawn().expect("a life starts")
}

/// Says what every thread of a process is at.
fn name_the_stacks(pid: u32) {
    let gdb = Command::new("gdb")
        .args(["-p", &pid.to_string(), "-batch", "-ex", "thread apply all bt"])
        .output();
    match gdb {
        Ok(output) => println!("{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => println!("skipped: the stacks, for gdb is not installed"),
    }
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (name, at) = (read("comm"), read("wchan"));
        println!("  thread {}: {} in {at}", task.file_name().display(), name.trim());
    }
}

/// Waits for a life to end, and kills it after `kill_after`. Returns how it ended, if it was not killed.
fn watch(
    mut life: Child,
    dir: &Path,
    kill_after: Option<Duration>,
    tally: &mut Tally,
) -> Option<ExitStatus> {
    let journal = Journal::open(&dir.join("journal"));
    let born = Instant::now();
    let (mut seen, mut moved, mut told) = (journal.progress(), Instant::now(), false);
    loop {
        if let Some(status) = life.try_wait().expect("a life of ours") {
            return Some(status);
        }
        if kill_after.is_some_and(|after| born.elapsed() >= after) {
            life.kill().expect("SIGKILL");
            life.wait().expect("it is dead");
            tally.kills += 1;
            return None;
        }
        let progress = journal.progress();
        if progress != seen {
            (seen, moved, told) = (progress, Instant::now(), false);
        }
        if moved.elapsed() > STILL_MAX && !told {
            tally.stills += 1;
            told = true;
            println!("no progress for {STILL_MAX:?} in {}:", dir.display());
            name_the_stacks(life.id());
        }
        if moved.elapsed() > HANG {
            life.kill().expect("SIGKILL");
            panic!("a life hangs");
        }
        std::thread::sleep(TICK);
    }
}

/// A store on files and the lives that it goes through.
pub struct World {
    pub dir: PathBuf,
    pub seed: u64,
    pub lives: u64,
}

impl World {
    fn fail(&self, what: &str) -> ! {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        println!("{}", lines[lines.len().saturating_sub(150)..].join("\n"));
        panic!("{what}; again: cargo test --test lives -- world {} {}", self.seed, self.lives);
    }

    /// Lives on the file system: each is killed, or ends by itself.
    pub fn run_on_files(&self) -> Tally {
        let mut tally = Tally::default();
        let mut rng = Rng::new(self.seed ^ 0xA11CE);
        for life in 0..self.lives {
            let kill_after = (!rng.once_in(3)).then(|| Duration::from_millis(30 + rng.below(900)));
            let child = start("life", &self.dir, [self.seed, life]);
            match watch(child, &self.dir, kill_after, &mut tally) {
                Some(status) if !status.success() => self.fail(&format!("life {life}: {status}")),
                _ => tally.lives += 1,
            }
        }
        let child = start("check", &self.dir, [self.seed, self.lives]);
        match watch(child, &self.dir, None, &mut tally) {
            Some(status) if status.success() => {}
            other => self.fail(&format!("the last look: {other:?}")),
        }
        tally.steps = self.steps();
        tally
    }

    /// Lives on the simulated disk, all in one process.
    pub fn run_simulated(&self) -> Tally {
        let mut tally = Tally::default();
        let child = start("simulated", &self.dir, [self.seed, self.lives]);
        match watch(child, &self.dir, None, &mut tally) {
            Some(status) if status.success() => {}
            other => self.fail(&format!("a life on the simulated disk: {other:?}")),
        }
        tally.lives = self.lives;
        tally.steps = self.steps();
        tally
    }

    fn steps(&self) -> u64 {
        let journal = Journal::open(&self.dir.join("journal"));
        (0..crate::plan::THREADS_MAX).map(|thread| journal.first(thread) - 1).sum()
    }
}
