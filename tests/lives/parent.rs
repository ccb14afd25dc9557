//! The process that watches: starts the lives of a world one after the other, kills some of them,
//! and names the stacks of one that makes no progress.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use aegis_blocks::testkit::Rng;

use crate::journal::Journal;

/// A life that does nothing for so long is looked at.
const STILL_MAX: Duration = Duration::from_secs(10);
/// One that does nothing for so long hangs.
const HANG: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(5);

/// What worlds came to.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub lives: u64,
    pub commits: u64,
    pub steps: u64,
    pub kills: u64,
    /// Times that a life made no progress for [`STILL_MAX`].
    pub stills: u64,
    /// Lives that made none for [`HANG`].
    pub hangs: u64,
    /// Lives that ended by themselves: something acknowledged was lost, something was there that no
    /// step made, or a call answered what it must not.
    pub wrong: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.lives += other.lives;
        self.commits += other.commits;
        self.steps += other.steps;
        self.kills += other.kills;
        self.stills += other.stills;
        self.hangs += other.hangs;
        self.wrong += other.wrong;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { lives, commits, steps, kills, stills, hangs, wrong } = self;
        write!(
            f,
            "{lives} lives, {commits} commits of {steps} steps, {kills} kills -9; {hangs} hangs, \
             {wrong} lost or wrong; {stills} times no progress for {STILL_MAX:?}"
        )
    }
}

/// How a life ended.
#[derive(Debug, Clone, Copy)]
enum Ended {
    Well,
    Killed,
    Badly(ExitStatus),
    Hung,
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
        Ok(output) => {
            println!("{}", String::from_utf8_lossy(&output.stdout));
            println!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Err(_) => println!("no stacks: gdb is not installed"),
    }
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (name, at) = (read("comm"), read("wchan"));
        println!("  thread {}: {} in {at}", task.file_name().display(), name.trim());
    }
}

/// Waits for a life to end, and kills it after `kill_after`.
fn watch(mut life: Child, dir: &Path, kill_after: Option<Duration>, tally: &mut Tally) -> Ended {
    let journal = Journal::open(&dir.join("journal"));
    let born = Instant::now();
    let (mut seen, mut moved, mut told) = (journal.progress(), Instant::now(), false);
    loop {
        if let Some(status) = life.try_wait().expect("a life of ours") {
            return if status.success() { Ended::Well } else { Ended::Badly(status) };
        }
        let is_hung = moved.elapsed() > HANG;
        if is_hung || kill_after.is_some_and(|after| born.elapsed() >= after) {
            life.kill().expect("SIGKILL");
            life.wait().expect("it is dead");
            return if is_hung { Ended::Hung } else { Ended::Killed };
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
        std::thread::sleep(TICK);
    }
}

/// A store and the lives that it goes through.
pub struct World {
    pub dir: PathBuf,
    pub seed: u64,
    pub lives: u64,
    pub tally: Tally,
}

impl World {
    /// Runs a process of this world. Returns whether the world goes on.
    fn run(&mut self, role: &str, number: u64, kill_after: Option<Duration>) -> bool {
        let child = start(role, &self.dir, [self.seed, number]);
        match watch(child, &self.dir, kill_after, &mut self.tally) {
            Ended::Well => return true,
            Ended::Killed => {
                self.tally.kills += 1;
                return true;
            }
            Ended::Badly(status) => {
                self.tally.wrong += 1;
                println!("{role} {number} ended: {status}");
            }
            Ended::Hung => {
                self.tally.hangs += 1;
                println!("{role} {number} made no progress for {HANG:?}");
            }
        }
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        println!("{}", lines[lines.len().saturating_sub(150)..].join("\n"));
        println!("again: cargo test --test lives -- world {} {}", self.seed, self.lives);
        false
    }

    /// Lives on the file system: each is killed, or ends by itself.
    pub fn run_on_files(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0xA11CE);
        for life in 0..self.lives {
            let kill_after = (!rng.once_in(3)).then(|| Duration::from_millis(30 + rng.below(900)));
            if !self.run("life", life, kill_after) {
                return self.count_up();
            }
            self.tally.lives += 1;
        }
        self.run("check", self.lives, None);
        self.count_up();
    }

    /// Lives on the simulated disk, all in one process.
    pub fn run_simulated(&mut self) {
        if self.run("simulated", self.lives, None) {
            self.tally.lives += self.lives;
        }
        self.count_up();
    }

    fn count_up(&mut self) {
        let journal = Journal::open(&self.dir.join("journal"));
        (self.tally.commits, self.tally.steps) = journal.commits();
    }
}
