//! Scans against a map, in every state that an index can be in, page by page and from both ends.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::mvcc::index::Newest;
use crate::mvcc::pins::Pin;

/// An image as a map. What is put in `meddle` is done once, in the middle of a walk.
#[derive(Default)]
struct Image {
    lsn: Lsn,
    records: BTreeMap<BlockId, Newest<u32>>,
    meddle: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Image")
    }
}

impl Base<u32> for Image {
    fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn get(&self, id: BlockId) -> Result<Option<Newest<u32>>> {
        Ok(self.records.get(&id).copied())
    }

    fn walk(
        &self,
        first: BlockId,
        last: BlockId,
        order: ScanOrder,
        each: &mut dyn FnMut(BlockId, Newest<u32>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut records = self.records.range(first..=last);
        let mut next = || match order {
            ScanOrder::Ascending => records.next(),
            ScanOrder::Descending => records.next_back(),
        };
        while let Some((id, record)) = next()
            && each(*id, *record).is_continue()
        {}
        if let Some(meddle) = self.meddle.lock().expect("no panic").take() {
            meddle();
        }
        Ok(())
    }
}

/// An index, what was ever frozen of it, and what it shows.
#[derive(Default)]
struct Subject {
    index: Index<u32>,
    records: BTreeMap<BlockId, Newest<u32>>,
    is_frozen: bool,
    lsn: u64,
    ids: BTreeMap<u64, ()>,
    state: u64,
}

impl Subject {
    fn below(&mut self, bound: u64) -> u64 {
        // Marsaglia's xorshift64.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % bound
    }

    /// Ids in crowds, here and there, and at both ends of all ids.
    fn some_id(&mut self) -> u64 {
        match self.below(4) {
            0 => 1 + self.below(200),
            1 => 1_000_000 + 64 * self.below(40),
            2 => self.below(40) << 50 | 7,
            _ => u64::MAX - self.below(130),
        }
    }

    fn commit(&mut self) {
        self.lsn += 1;
        let lsn = Lsn(self.lsn);
        let count = 1 + self.below(3) * self.below(40);
        let mut changes = BTreeMap::new();
        for _ in 0..count {
            let id = self.some_id();
            let is_written = self.below(3) > 0;
            changes.insert(BlockId(id), is_written.then_some(1));
            if is_written {
                self.ids.insert(id, ())
            } else {
                self.ids.remove(&id)
            };
        }
        let changes = changes.into_iter().map(|(id, value)| (id, lsn, value));
        self.index.publish_alone(changes, lsn);
    }

    /// The next step of making an image, or taking one back.
    fn checkpoint(&mut self) {
        match (self.is_frozen, self.below(3)) {
            (false, _) => self.index.freeze_entries(),
            (true, 0) => self.index.thaw_entries(),
            (true, _) => {
                for page in self.index.frozen_pages() {
                    self.records.extend(self.index.frozen_entries(page));
                }
                // A full image leaves out what is deleted.
                if self.below(2) == 0 {
                    self.records.retain(|_, record| record.value.is_some());
                }
                let (lsn, records) = (Lsn(self.lsn), self.records.clone());
                self.index.install_base(|| {
                    let meddle = Mutex::default();
                    Arc::new(Image { lsn, records: records.clone(), meddle })
                });
            }
        }
        self.is_frozen = !self.is_frozen;
    }
}

/// A scan under way, from both ends, of a view that was pinned.
struct Walk {
    pin: Pin,
    expected: Vec<u64>,
    rest: Rest,
    front: Vec<u64>,
    back: Vec<u64>,
}

impl Walk {
    fn begin(subject: &mut Subject) -> Walk {
        let (a, b) = (subject.some_id(), subject.some_id());
        let all = subject.below(3) == 0;
        let range = if all { (0, u64::MAX) } else { (a.min(b), a.max(b)) };
        let expected = subject.ids.range(range.0..=range.1).map(|(id, ())| *id).collect();
        let rest = Some((BlockId(range.0), BlockId(range.1)));
        Walk {
            pin: subject.index.pin_snapshot(),
            expected,
            rest,
            front: Vec::new(),
            back: Vec::new(),
        }
    }

    fn step(&mut self, subject: &mut Subject) {
        let Some((first, last)) = self.rest else { return };
        let count_max = 1 << subject.below(10);
        let order = match subject.below(2) {
            0 => ScanOrder::Ascending,
            _ => ScanOrder::Descending,
        };
        let ids = subject.index.scan_snapshot(first, last, order, count_max, self.pin.lsn());
        let ids = ids.expect("readable");
        let end = ids.last().filter(|_| ids.len() == count_max);
        self.rest = end.and_then(|end| remaining_range((first, last), (*end, *end), order));
        match order {
            ScanOrder::Ascending => self.front.extend(ids.iter().map(|id| id.0)),
            ScanOrder::Descending => self.back.extend(ids.iter().map(|id| id.0)),
        }
    }

    fn end(mut self, subject: &mut Subject, seed: u64) {
        while self.rest.is_some() {
            self.step(subject);
        }
        self.front.extend(self.back.iter().rev());
        assert_eq!(self.front, self.expected, "seed {seed}");
        subject.index.unpin_snapshot(self.pin);
    }
}

#[test]
fn scans_see_what_a_map_holds_whatever_happens_between_their_pages() {
    for seed in 1..=60 {
        let mut subject = Subject { state: seed, ..Subject::default() };
        let mut walks: Vec<Walk> = Vec::new();
        for _ in 0..250 {
            match subject.below(10) {
                0..=3 => subject.commit(),
                4 => subject.checkpoint(),
                5 => {
                    let walk = Walk::begin(&mut subject);
                    walks.push(walk);
                }
                6..=8 if !walks.is_empty() => {
                    let at = subject.below(walks.len() as u64) as usize;
                    walks[at].step(&mut subject);
                }
                _ if walks.len() > 4 => {
                    let at = subject.below(walks.len() as u64) as usize;
                    walks.swap_remove(at).end(&mut subject, seed);
                }
                _ => {}
            }
        }
        for walk in walks {
            walk.end(&mut subject, seed);
        }
        assert_eq!(subject.index.undo_count(), 0);
    }
}

#[test]
fn image_that_is_installed_in_the_middle_of_a_page_hides_nothing() {
    for order in [ScanOrder::Ascending, ScanOrder::Descending] {
        let index = Arc::new(Index::<u32>::default());
        let write = |lsn, id| {
            index.publish_alone([(BlockId(id), Lsn(lsn), Some(1))], Lsn(lsn));
        };
        let record = |lsn| Newest { lsn: Lsn(lsn), value: Some(1) };
        let image = |lsn, ids: &[(u64, u64)]| {
            let records = ids.iter().map(|(id, lsn)| (BlockId(*id), record(*lsn))).collect();
            Arc::new(Image { lsn: Lsn(lsn), records, meddle: Mutex::default() })
        };
        write(1, 1);
        index.freeze_entries();
        let first = image(1, &[(1, 1)]);
        index.install_base(|| Arc::clone(&first) as Arc<dyn Base<u32>>);
        write(2, 500);
        index.freeze_entries();
        // While the first image is walked, the second one takes in what is frozen.
        let (second, meddled) = (image(2, &[(1, 1), (500, 2)]), Arc::clone(&index));
        *first.meddle.lock().expect("no panic") = Some(Box::new(move || {
            meddled.install_base(|| Arc::clone(&second) as Arc<dyn Base<u32>>);
        }));
        let pin = index.pin_snapshot();
        let ids = index.scan_snapshot(BlockId(0), BlockId(u64::MAX), order, 9, pin.lsn());
        let mut ids = ids.expect("readable");
        ids.sort_unstable();
        assert_eq!(ids, [BlockId(1), BlockId(500)], "{order:?}");
        index.unpin_snapshot(pin);
    }
}

/// One thread moves blocks about and makes images, two scan: a snapshot always has as many blocks.
#[test]
fn scans_beside_commits_and_images_see_one_moment() {
    const BLOCKS: u64 = 300;
    let (index, ended) = (Index::<u32>::default(), AtomicBool::new(false));
    let (mut records, mut at, mut lsn) = (BTreeMap::new(), (0..BLOCKS).collect::<Vec<_>>(), 1);
    let place = |n: u64| BlockId(1 + n * 37 % 4096);
    index.publish_alone(at.iter().map(|n| (place(*n), Lsn(1), Some(1))), Lsn(1));
    std::thread::scope(|scope| {
        for order in [ScanOrder::Ascending, ScanOrder::Descending] {
            let (index, ended) = (&index, &ended);
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let pin = index.pin_snapshot();
                    let ids =
                        index.scan_snapshot(BlockId(0), BlockId(5000), order, 9000, pin.lsn());
                    let ids = ids.expect("readable");
                    assert!(ids.windows(2).all(|pair| order.is_before(pair[0], pair[1])));
                    assert_eq!(ids.len() as u64, BLOCKS, "at {:?}", pin.lsn());
                    index.unpin_snapshot(pin);
                }
            });
        }
        for round in 0..600_u64 {
            for moved in 0..8 {
                lsn += 1;
                let slot = ((round * 8 + moved) * 11 % BLOCKS) as usize;
                let (from, to) = (at[slot], lsn + BLOCKS);
                if (0..BLOCKS as usize).any(|other| place(at[other]) == place(to)) {
                    index.publish_alone([], Lsn(lsn));
                    continue;
                }
                let changes = [(place(from), Lsn(lsn), None), (place(to), Lsn(lsn), Some(1))];
                index.publish_alone(changes, Lsn(lsn));
                at[slot] = to;
            }
            index.freeze_entries();
            for page in index.frozen_pages() {
                records.extend(index.frozen_entries(page));
            }
            records.retain(|_, record: &mut Newest<u32>| record.value.is_some());
            let image = || {
                let (lsn, records) = (Lsn(lsn), records.clone());
                Arc::new(Image { lsn, records, meddle: Mutex::default() }) as Arc<dyn Base<u32>>
            };
            let image = image();
            index.install_base(|| Arc::clone(&image));
        }
        ended.store(true, Ordering::Relaxed);
    });
}
