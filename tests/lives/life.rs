//! A life: threads that write, read, count and look after an open store, until it ends.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aegis_blocks::io::Disk;
use aegis_blocks::testkit::Rng;
use aegis_blocks::{
    BlockId, Durability, Error, IsolationLevel, LocalBackend, Result, StorageBackend, StorageExt,
    WriteBatch,
};

use crate::check::Part;
use crate::drawn::Drawn;
use crate::journal::{Journal, LIFE_STEPS_MAX, Told};
use crate::plan::{
    COUNTER, Key, Kind, Step, THREADS_MAX, count_of, counter_block, oldest_allocated, own_id,
    written_by,
};

/// One session of a store.
pub struct Life<'a, D: Disk> {
    pub store: LocalBackend<D>,
    pub journal: &'a Journal,
    pub drawn: Drawn,
    pub seed: u64,
    /// Draws what is up to chance in this life.
    pub rng: Rng,
    /// Whether the disk may fail or be full.
    pub faulty: bool,
    /// Where backups go, if there is such a place.
    pub backups: Option<PathBuf>,
    pub done: AtomicBool,
}

impl<D: Disk> Life<'_, D> {
    /// Runs the threads until each has made `steps` steps, or the store takes no more.
    pub fn run(&self, parts: Vec<Part>, threads: u64, steps: u64) {
        // The counter has the highest id that a thread names: allocated ids are above it.
        let is_counted = match self.store.block_exists(COUNTER) {
            Err(Error::Io { .. }) if self.faulty => return,
            is_counted => is_counted.expect("the counter is looked for"),
        };
        if !is_counted
            && !self.heard(self.store.write_block_with(counter_block(0), Durability::Durable))
        {
            return;
        }
        let mut rng = self.rng.clone();
        let (reads, tends) = (rng.once_in(2), rng.once_in(2));
        let seeds = [rng.next_u64(), rng.next_u64()];
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..threads)
                .zip(parts)
                .map(|(thread, part)| scope.spawn(move || self.write(thread, part, steps)))
                .collect();
            if reads {
                scope.spawn(move || self.read(Rng::new(seeds[0])));
            }
            if tends {
                scope.spawn(move || self.tend(Rng::new(seeds[1])));
            }
            for writer in writers {
                writer.join().expect("no writer panics");
            }
            self.done.store(true, Ordering::Relaxed);
        });
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn write(&self, thread: u64, mut part: Part, steps: u64) {
        let first = part.steps + 1;
        let mut rng = Rng::new(self.rng.clone().next_u64() ^ thread);
        for number in first..first + steps.min(LIFE_STEPS_MAX) {
            if self.is_done() {
                return;
            }
            let step = Step::new(self.seed, thread, number);
            // Beside the store's own level: the other one, now and then.
            let level = match rng.below(8) {
                0 => Durability::Durable,
                1 => Durability::Buffered,
                _ => self.drawn.durability,
            };
            match self.make(&step, &mut part, level) {
                Ok(committed) => {
                    step.apply(&mut part.blocks);
                    let told = if committed { Told::Done } else { Told::Unchanged };
                    self.journal.tell(thread, number, told);
                    if committed && level == Durability::Durable {
                        self.journal.set_durable(thread, number);
                    }
                }
                Err(error) if self.may_refuse(&step, &error) => {
                    self.journal.tell(thread, number, Told::Refused);
                }
                Err(Error::Io { .. } | Error::Poisoned { .. }) if self.faulty => return,
                Err(error) => panic!("thread {thread}, step {number}: {error}; {error:?}"),
            }
            self.look(thread, &part, &mut rng);
            if rng.once_in(50) && self.heard(self.store.sync()) {
                self.journal.set_durable(thread, number);
            }
        }
    }

    /// Whether a limit of this session forbids the step.
    fn may_refuse(&self, step: &Step, error: &Error) -> bool {
        let lengths = || step.changes.iter().map(|(key, _)| step.payload(*key).len() as u64);
        match error {
            Error::StorageFull { .. } => self.faulty || self.drawn.max_bytes.is_some(),
            Error::BlockTooLarge { len, len_max } => {
                *len_max == u64::from(self.drawn.block_len_max)
                    && len > len_max
                    && lengths().any(|l| l == *len)
            }
            Error::TransactionTooLarge { len_max, .. } => {
                *len_max == self.drawn.transaction_len_max && lengths().sum::<u64>() > *len_max
            }
            Error::TooManyTransactions { max, .. } => *max == self.drawn.open_transactions_max,
            Error::SnapshotTooOld { .. } => self.drawn.snapshot_pinned_max < u64::MAX,
            _ => false,
        }
    }

    /// Whether a call was carried out. A limit or a fault may forbid it.
    fn heard<T>(&self, answer: Result<T>) -> bool {
        match answer {
            Ok(_) => true,
            Err(Error::StorageFull { .. }) if self.faulty || self.drawn.max_bytes.is_some() => {
                false
            }
            Err(Error::TooManyTransactions { .. }) if self.drawn.open_transactions_max < 100 => {
                false
            }
            Err(Error::SnapshotTooOld { .. }) if self.drawn.snapshot_pinned_max < u64::MAX => false,
            Err(Error::Io { .. } | Error::Poisoned { .. }) if self.faulty => false,
            Err(error) => panic!("a call beside the writers: {error}; {error:?}"),
        }
    }

    /// Makes a step. Returns whether that took a commit.
    fn make(&self, step: &Step, part: &mut Part, level: Durability) -> Result<bool> {
        match step.kind {
            Kind::Single => match step.changes[0] {
                (key, true) => self.store.write_block_with(step.block(key), level).map(|_| true),
                (key, false) => self.delete(step.thread, key, part, level),
            },
            Kind::Batch => {
                let mut batch = WriteBatch::new();
                for (key, _) in &step.changes {
                    batch.write(step.block(*key));
                }
                self.store.apply_with(batch, level).map(|_| true)
            }
            Kind::Transaction => self.make_transaction(step, level),
            Kind::Count => self.count(step, level),
            Kind::Allocate => {
                let (key, _) = step.changes[0];
                let id = self.store.write_block_with(step.block(key), level)?;
                part.ids.insert(step.number, id);
                Ok(true)
            }
            Kind::Release => match oldest_allocated(&part.blocks) {
                Some(key) => self.delete(step.thread, key, part, level),
                None => Ok(false),
            },
        }
    }

    fn id_of(thread: u64, key: Key, part: &Part) -> BlockId {
        match key {
            Key::Own(n) => own_id(thread, n),
            Key::Allocated(step) => part.ids[&step],
        }
    }

    fn delete(&self, thread: u64, key: Key, part: &Part, level: Durability) -> Result<bool> {
        let id = Self::id_of(thread, key, part);
        match (self.store.delete_block_with(id, level), part.blocks.contains_key(&key)) {
            (Err(Error::BlockNotFound { .. }), false) => Ok(false),
            (Ok(_), false) => panic!("block {id} was deleted and had not been there"),
            (answer, _) => answer.map(|()| true),
        }
    }

    fn make_transaction(&self, step: &Step, level: Durability) -> Result<bool> {
        let transaction = self.store.begin()?;
        for (key, writes) in &step.changes {
            let Key::Own(n) = *key else { unreachable!("transactions change own blocks") };
            let answer = match writes {
                true => transaction.write(step.block(*key)).map(drop),
                false => transaction.delete(own_id(step.thread, n)),
            };
            match answer {
                Err(Error::BlockNotFound { .. }) => {}
                answer => answer?,
            }
        }
        transaction.commit_with(level).map(|lsn| lsn.is_some())
    }

    /// Counts, at the store's own level of durability.
    fn count(&self, step: &Step, level: Durability) -> Result<bool> {
        let (key, _) = step.changes[0];
        self.store.transact(IsolationLevel::Snapshot, |transaction| {
            let before = match transaction.read(COUNTER) {
                Ok(block) => count_of(&block),
                Err(Error::BlockNotFound { .. }) => 0,
                Err(error) => return Err(error),
            };
            transaction.write(counter_block(before + 1))?;
            transaction.write(step.block(key)).map(drop)
        })?;
        if level == Durability::Durable && self.drawn.durability != level {
            self.store.sync()?;
        }
        Ok(true)
    }

    /// A thread reads one of its own blocks: what it wrote last, to the last byte.
    fn look(&self, thread: u64, part: &Part, rng: &mut Rng) {
        let key = Key::Own(rng.below(60));
        let id = Self::id_of(thread, key, part);
        match (self.store.read_block(id), part.blocks.get(&key)) {
            (Err(Error::BlockNotFound { .. }), None) => {}
            (Ok(block), Some(number)) => {
                let read = written_by(&block.data);
                assert_eq!(read, Some((thread, key, *number)), "wrong bytes in block {id}");
            }
            (Err(Error::Io { .. }), _) if self.faulty => {}
            (answer, expected) => panic!("block {id} is {answer:?}, not of step {expected:?}"),
        }
    }

    /// Reads what others write: whole blocks, and a snapshot that stays what it is.
    fn read(&self, mut rng: Rng) {
        while !self.is_done() {
            let (thread, n) = (rng.below(THREADS_MAX), rng.below(60));
            let answer = self.store.read_block(own_id(thread, n));
            if let Ok(block) = &answer {
                let by = written_by(&block.data).map(|(thread, key, _)| (thread, key));
                assert_eq!(
                    by,
                    Some((thread, Key::Own(n))),
                    "wrong bytes in {}",
                    block.header.block_id
                );
            }
            if !matches!(answer, Err(Error::BlockNotFound { .. })) {
                self.heard(answer);
            }
            if rng.once_in(20) {
                self.heard(self.read_twice(&mut rng));
            }
        }
    }

    fn read_twice(&self, rng: &mut Rng) -> Result<()> {
        let snapshot = self.store.snapshot()?;
        let first = BlockId(rng.below(1 << 22));
        let some = |n| -> Result<Vec<_>> { snapshot.range(first..)?.take(n).collect() };
        let (before, after) = (some(30)?, some(30)?);
        assert_eq!(before, after, "a snapshot changed");
        Ok(())
    }

    /// Does what an operator does. That is no progress: a writer that waits for ever would go
    /// unseen beside it.
    fn tend(&self, mut rng: Rng) {
        let store = &self.store;
        let mut nth = 0;
        while !self.is_done() {
            match rng.below(12) {
                0..3 => drop(self.heard(store.checkpoint())),
                3..5 => drop(self.heard(store.compact_now())),
                5 => drop(self.heard(store.prepare_space(rng.below(4 << 20)))),
                6 => drop(self.heard(store.space())),
                7 => drop(
                    self.heard(store.pause_compaction().and_then(|()| store.resume_compaction())),
                ),
                8 => drop(self.heard(store.sync())),
                9 => {
                    let stats = store.stats();
                    assert!(stats.durable_lsn <= stats.visible_lsn, "durable before it is visible");
                }
                10 => self.list(),
                _ => {
                    if let Some(place) = &self.backups {
                        nth += 1;
                        self.back_up(&place.join(nth.to_string()));
                    }
                }
            }
        }
    }

    fn list(&self) {
        let answer = self.store.ids(..);
        if let Ok(ids) = &answer {
            assert!(ids.is_sorted_by(|a, b| a < b), "ids ascend");
        }
        self.heard(answer);
    }

    fn back_up(&self, place: &Path) {
        // A life that was killed may have left a part of one.
        if place.exists() {
            std::fs::remove_dir_all(place).expect("a backup's place is cleared");
        }
        if self.heard(self.store.backup_to(place, None, &|_| ControlFlow::Continue(()))) {
            let check = LocalBackend::verify_backup(place).expect("a backup is verified");
            assert_eq!(check.damage, [], "damage in a backup");
            std::fs::remove_dir_all(place).expect("a backup is removed");
        }
    }
}
