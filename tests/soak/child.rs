//! The process that works: writers, movers of money, readers of snapshots, backups. It lives until
//! it is killed, or until its standard input ends; then it closes the store.
//!
//! Writers say what was acknowledged in the file `acks`: 8 bytes a thread, the number of its last
//! step. What a dead process wrote to a file stays written.

use std::fs::{self, File};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aegis_blocks::{Block, IsolationLevel, LocalBackend, Options, Result, StorageExt};

use crate::options::short_segments;
use crate::plan::{
    ACCOUNTS, MONEY, Step, WRITERS, account, account_block, money, open_accounts, thread_of,
    written_by,
};
use aegis_blocks::testkit::Rng;

/// Between two backups.
const BACKUP_PAUSE: Duration = Duration::from_millis(1500);

/// Steps of each writer without a pause: caches and the allocator's arenas take their shares by
/// then.
const WARM_UP: u64 = 20_000;

/// Where a child works.
pub struct Places {
    pub store: PathBuf,
    pub acks: PathBuf,
    pub backups: PathBuf,
}

impl Places {
    pub fn of(dir: &Path) -> Places {
        Places { store: dir.join("store"), acks: dir.join("acks"), backups: dir.join("backups") }
    }

    /// The last acknowledged step of each thread.
    pub fn acknowledged(&self) -> Vec<u64> {
        let bytes = fs::read(&self.acks).unwrap_or_default();
        let mut acks: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|number| u64::from_le_bytes(number.try_into().expect("8 bytes")))
            .collect();
        acks.resize(WRITERS as usize, 0);
        acks
    }

    pub fn set_acknowledged(&self, acks: &[u64]) {
        let bytes: Vec<u8> = acks.iter().flat_map(|number| number.to_le_bytes()).collect();
        fs::write(&self.acks, bytes).expect("the file of acknowledgements");
    }
}

/// Small, so that segments are sealed, emptied and reused, and checkpoints made, all the time.
pub fn options() -> Options {
    short_segments(4 << 20, 64 << 10).checkpoint_log_len(16 << 20).recent_len(8 << 20)
}

struct Child {
    store: LocalBackend,
    places: Places,
    seed: u64,
    /// Each writer waits so long between two steps.
    pause: Duration,
    done: AtomicBool,
}

/// Works until told to stop.
pub fn run(dir: &Path, seed: u64, pause: Duration) {
    // A failed thread ends the process, which the parent sees.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let places = Places::of(dir);
    let store = options().open(&places.store).expect("the store opens");
    open_accounts(&store).expect("there is money");
    let done = AtomicBool::new(false);
    let child = Child { store, places, seed, pause, done };
    std::thread::scope(|scope| {
        let next: Vec<u64> = child.places.acknowledged();
        for (thread, last) in (0..).zip(next) {
            let child = &child;
            scope.spawn(move || child.stop_on_error(child.write(thread, last)));
        }
        for mover in 0..2 {
            let child = &child;
            scope.spawn(move || child.stop_on_error(child.move_money(mover)));
        }
        scope.spawn(|| child.stop_on_error(child.look()));
        scope.spawn(|| child.stop_on_error(child.back_up()));
        // Ends with the parent, too.
        let mut rest = Vec::new();
        std::io::stdin().read_to_end(&mut rest).expect("standard input");
        child.done.store(true, Ordering::Relaxed);
    });
    child.store.close().expect("closes");
}

impl Child {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn stop_on_error(&self, answer: Result<()>) {
        if let Err(error) = answer {
            eprintln!("a thread of the child: {error}");
            std::process::abort();
        }
    }

    fn write(&self, thread: u64, mut number: u64) -> Result<()> {
        let acks = File::options().write(true).open(&self.places.acks).expect("the parent's file");
        while !self.is_done() {
            number += 1;
            Step::new(self.seed, thread, number).run(&self.store)?;
            acks.write_all_at(&number.to_le_bytes(), thread * 8).expect("acknowledges");
            if number > WARM_UP {
                std::thread::sleep(self.pause);
            }
        }
        Ok(())
    }

    fn move_money(&self, mover: u64) -> Result<()> {
        let mut rng = Rng::new(self.seed ^ mover ^ u64::from(std::process::id()));
        while !self.is_done() {
            let (from, to) = (rng.below(ACCOUNTS), rng.below(ACCOUNTS));
            let amount = rng.below(50);
            self.store.transact(IsolationLevel::Snapshot, |transaction| {
                let left = money(&transaction.read(account(from))?);
                if from != to && left >= amount {
                    let there = money(&transaction.read(account(to))?);
                    transaction.write(account_block(from, left - amount))?;
                    transaction.write(account_block(to, there + amount))?;
                }
                Ok(())
            })?;
            std::thread::sleep(self.pause);
        }
        Ok(())
    }

    /// A snapshot sees all the money, and the same blocks however long it is held; and bytes that a
    /// reader holds stay what they are after it, whatever becomes of their segments.
    fn look(&self) -> Result<()> {
        let mut rng = Rng::new(self.seed);
        let mut held: Vec<Block> = Vec::new();
        while !self.is_done() {
            let snapshot = self.store.snapshot()?;
            let mut sum = 0;
            for n in 0..ACCOUNTS {
                sum += money(&snapshot.read(account(n))?);
            }
            assert_eq!(sum, ACCOUNTS * MONEY, "money was made or lost");
            let first: Vec<_> = snapshot.range(..)?.collect::<Result<_>>()?;
            std::thread::sleep(Duration::from_millis(rng.below(200)));
            let again: Vec<_> = snapshot.range(..)?.collect::<Result<_>>()?;
            assert!(first == again, "a snapshot changed");
            drop(snapshot);
            assert!(held.iter().all(is_whole), "bytes that were held changed");
            // Where memory is measured no reader holds any of it by chance.
            if self.pause.is_zero() && rng.below(8) == 0 {
                held = first;
            }
        }
        Ok(())
    }

    /// Backups, each on top of the one before; each is compared, restored and read.
    fn back_up(&self) -> Result<()> {
        let name = |n: u64| self.places.backups.join(format!("{}-{n}", std::process::id()));
        for n in 0.. {
            if self.is_done() {
                break;
            }
            let since = (n % 5 != 0).then(|| name(n - 1));
            let watch = |_| ControlFlow::Continue(());
            self.store.backup_to(name(n), since.as_deref(), &watch)?;
            check_backup(&name(n))?;
            if n > 0 {
                // Under another name: what a kill leaves of it half gone must not look like a
                // backup.
                let older = name(n - 1).with_extension("going");
                fs::rename(name(n - 1), &older).expect("an older backup is renamed");
                fs::remove_dir_all(older).expect("an older backup goes");
            }
            std::thread::sleep(BACKUP_PAUSE);
        }
        Ok(())
    }
}

fn is_whole(block: &Block) -> bool {
    thread_of(block.header.block_id.0).is_none() || written_by(block).is_some()
}

/// Compares, restores, opens and reads a backup.
pub fn check_backup(backup: &Path) -> Result<()> {
    assert_eq!(LocalBackend::verify_backup(backup)?.damage, []);
    let restored = backup.with_extension("restored");
    if restored.exists() {
        // A killed process left it.
        fs::remove_dir_all(&restored).expect("it goes");
    }
    LocalBackend::restore(backup, &restored, &|_| ControlFlow::Continue(()))?;
    let store = options().open(&restored)?;
    let mut sum = 0;
    for block in store.blocks(..)? {
        let block = block?;
        assert!(is_whole(&block), "no step wrote {:?}", block.header);
        if thread_of(block.header.block_id.0).is_none() {
            sum += money(&block);
        }
    }
    assert_eq!(sum, ACCOUNTS * MONEY, "money in a backup");
    store.close()?;
    assert_eq!(LocalBackend::verify(&restored)?.damage, []);
    fs::remove_dir_all(&restored).expect("a restored store goes");
    Ok(())
}
