//! Publication, snapshots and images, with numbers for versions.

use super::*;

impl VersionLen for u32 {
    fn payload_len(&self) -> u64 {
        u64::from(*self)
    }
}

impl VersionLen for [std::num::NonZeroU64; 3] {
    fn payload_len(&self) -> u64 {
        0
    }
}

fn set(index: &Index<u32>, lsn: u64, changes: &[(u64, Option<u32>)]) {
    let changes = changes.iter().map(|(id, value)| (BlockId(*id), Lsn(lsn), *value));
    index.publish_alone(changes, Lsn(lsn));
}

fn value(index: &Index<u32>, id: u64, pin: &Pin) -> Option<u32> {
    index.read_at_snapshot(BlockId(id), pin.lsn()).expect("no base").map(|version| version.value)
}

#[test]
fn snapshot_sees_what_was_visible_when_it_was_pinned() {
    let index = Index::default();
    set(&index, 1, &[(1, Some(10)), (2, Some(20))]);
    let before = index.pin_snapshot();
    set(&index, 2, &[(1, Some(11)), (2, None), (3, Some(30))]);
    let after = index.pin_snapshot();
    assert_eq!([1, 2, 3].map(|id| value(&index, id, &before)), [Some(10), Some(20), None]);
    assert_eq!([1, 2, 3].map(|id| value(&index, id, &after)), [Some(11), None, Some(30)]);
    let ids = |pin: &Pin| {
        index
            .scan_snapshot(BlockId(0), BlockId(u64::MAX), ScanOrder::Ascending, 9, pin.lsn())
            .expect("no base")
    };
    assert_eq!(ids(&before), [BlockId(1), BlockId(2)]);
    assert_eq!(ids(&after), [BlockId(1), BlockId(3)]);
    index.unpin_snapshot(before);
    index.unpin_snapshot(after);
    assert_eq!(index.undo_count(), 0);
}

#[test]
fn old_snapshot_costs_one_version_a_block_however_often_it_changes() {
    let index = Index::default();
    set(&index, 1, &[(1, Some(0)), (2, Some(0))]);
    let old = index.pin_snapshot();
    for lsn in 2..100 {
        let young = index.pin_snapshot();
        set(&index, lsn, &[(1, Some(lsn as u32)), (2, Some(lsn as u32))]);
        assert_eq!(value(&index, 1, &young), Some(if lsn == 2 { 0 } else { lsn as u32 - 1 }));
        index.unpin_snapshot(young);
        assert_eq!(index.undo_count(), 2);
    }
    assert_eq!(value(&index, 2, &old), Some(0));
    index.unpin_snapshot(old);
    assert_eq!(index.undo_count(), 0);
    assert!(index.filed.lock().is_empty());
}

#[test]
fn version_passes_to_the_next_older_snapshot_that_sees_it() {
    let index = Index::default();
    set(&index, 1, &[(1, Some(1))]);
    let (oldest, older) = (index.pin_snapshot(), index.pin_snapshot());
    set(&index, 2, &[(2, Some(2))]);
    let newer = index.pin_snapshot();
    set(&index, 3, &[(1, Some(3))]);
    index.unpin_snapshot(newer);
    index.unpin_snapshot(older);
    assert_eq!(value(&index, 1, &oldest), Some(1));
    index.unpin_snapshot(oldest);
    assert_eq!(index.undo_count(), 0);
}

#[test]
fn deletion_after_a_snapshot_is_found_even_of_a_block_created_after_it() {
    let index = Index::default();
    let pin = index.pin_snapshot();
    set(&index, 1, &[(1, Some(1))]);
    set(&index, 2, &[(1, None)]);
    assert_eq!(index.changed_since(BlockId(1), pin.lsn()).expect("no base"), Some(Lsn(2)));
    assert_eq!(value(&index, 1, &pin), None);
    index.unpin_snapshot(pin);
    assert_eq!(index.undo_count(), 0);
    assert_eq!(index.changed_since(BlockId(1), Lsn(0)).expect("no base"), None);
}

#[test]
fn ids_are_listed_in_order_across_pages_and_limits() {
    let index = Index::default();
    let ids = [1, 63, 64, 700, 1 << 40, u64::MAX];
    set(&index, 1, &ids.map(|id| (id, Some(0))));
    let some = |first, last, count_max| {
        index.newest_ids(BlockId(first), BlockId(last), count_max).expect("no base")
    };
    assert_eq!(some(0, u64::MAX, usize::MAX), ids.map(BlockId));
    assert_eq!(some(63, 700, usize::MAX), [63, 64, 700].map(BlockId));
    assert_eq!(some(2, u64::MAX, 2), [63, 64].map(BlockId));
}

#[test]
fn dense_ids_cost_at_most_forty_bytes() {
    let index = Index::default();
    set(&index, 1, &[]);
    // Three words with a niche, as the place of a block in the log has one.
    let place = [std::num::NonZeroU64::MIN; 3];
    let changes = (1..=100_000).map(|id| (BlockId(id), Lsn(2), Some(place)));
    let wide: Index<[std::num::NonZeroU64; 3]> = Index::default();
    wide.publish_alone(changes, Lsn(2));
    assert!(wide.heap_len() <= 40 * 100_000, "{} bytes", wide.heap_len());
}

/// An image as a map, made of what an index has frozen.
#[derive(Debug, Default, Clone)]
struct Map(Lsn, BTreeMap<BlockId, Newest<u32>>);

impl Base<u32> for Map {
    fn lsn(&self) -> Lsn {
        self.0
    }

    fn get(&self, id: BlockId) -> Result<Option<Newest<u32>>> {
        Ok(self.1.get(&id).copied())
    }

    fn walk(
        &self,
        first: BlockId,
        last: BlockId,
        order: ScanOrder,
        each: &mut dyn FnMut(BlockId, Newest<u32>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut records = self.1.range(first..=last);
        let mut next = || match order {
            ScanOrder::Ascending => records.next(),
            ScanOrder::Descending => records.next_back(),
        };
        while let Some((id, record)) = next()
            && each(*id, *record).is_continue()
        {}
        Ok(())
    }
}

/// Puts everything that was ever frozen below the entries.
fn make_image(index: &Index<u32>, image: &mut Map) {
    for page in index.frozen_pages() {
        image.1.extend(index.frozen_entries(page));
    }
    image.0 = index.visible_lsn();
    index.install_base(|| Arc::new(Map(image.0, image.1.clone())));
}

#[test]
fn image_below_changes_nothing_that_a_reader_sees() {
    let (index, mut image) = (Index::default(), Map::default());
    set(&index, 1, &[(1, Some(10)), (2, Some(20)), (70, Some(30))]);
    let first = index.pin_snapshot();
    set(&index, 2, &[(1, None), (2, Some(21)), (500, Some(50))]);
    let second = index.pin_snapshot();
    let see = |pin: &Pin| {
        let ids = index
            .scan_snapshot(BlockId(0), BlockId(u64::MAX), ScanOrder::Ascending, 99, pin.lsn())
            .expect("readable");
        let seen = ids.iter().map(|id| (id.0, value(&index, id.0, pin).expect("listed")));
        seen.collect::<Vec<_>>()
    };
    let old = [(1, 10), (2, 20), (70, 30)];
    let new = [(2, 21), (70, 30), (500, 50)];
    for step in 0..6 {
        assert_eq!((see(&first), see(&second)), (old.to_vec(), new.to_vec()), "step {step}");
        assert_eq!(index.changed_since(BlockId(1), first.lsn()).expect("r"), Some(Lsn(2)));
        let within = index.changed_within(BlockId(3), BlockId(600), first.lsn()).expect("r");
        assert_eq!(within, Some((BlockId(500), Lsn(2))), "step {step}");
        assert_eq!(index.changed_since(BlockId(70), first.lsn()).expect("r"), None);
        assert!(!index.exists(BlockId(1)).expect("r") && index.exists(BlockId(70)).expect("r"));
        match step {
            0 | 3 => index.freeze_entries(),
            1 => index.thaw_entries(),
            4 => make_image(&index, &mut image),
            _ => {}
        }
    }
    assert_eq!(index.heap_len() > 0, index.undo_count() > 0, "entries are in the image only");
    set(&index, 3, &[(70, None), (2, Some(22))]);
    assert_eq!((see(&first), see(&second)), (old.to_vec(), new.to_vec()));
    let now = index.pin_snapshot();
    assert_eq!(see(&now), [(2, 22), (500, 50)]);
    for pin in [first, second, now] {
        index.unpin_snapshot(pin);
    }
    assert_eq!(index.undo_count(), 0);
}

/// An image on a disk that has begun to fail.
#[derive(Debug)]
struct Failing(Map, Arc<std::sync::atomic::AtomicBool>);

impl Base<u32> for Failing {
    fn lsn(&self) -> Lsn {
        self.0.lsn()
    }

    fn get(&self, id: BlockId) -> Result<Option<Newest<u32>>> {
        if self.1.load(std::sync::atomic::Ordering::SeqCst) {
            let source = std::io::Error::from_raw_os_error(libc::EIO);
            return Err(crate::error::Error::io(crate::error::IoOp::Read, "image", source));
        }
        self.0.get(id)
    }

    fn walk(
        &self,
        first: BlockId,
        last: BlockId,
        order: ScanOrder,
        each: &mut dyn FnMut(BlockId, Newest<u32>) -> ControlFlow<()>,
    ) -> Result<()> {
        self.0.walk(first, last, order, each)
    }
}

#[test]
fn publication_asks_no_image_and_knows_what_it_replaces() {
    let (index, fails) = (Index::default(), Arc::default());
    set(&index, 1, &[(1, Some(10)), (2, Some(20)), (3, Some(30))]);
    index.freeze_entries();
    let entries = index.frozen_pages().into_iter().flat_map(|page| index.frozen_entries(page));
    let image = Map(Lsn(1), entries.collect());
    // One group write starts while the entries are frozen, one when they are in the image. Both
    // complete then.
    let first = index.look_up_below([1, 2].map(BlockId).into_iter()).expect("frozen");
    index.install_base(|| Arc::new(Failing(image.clone(), Arc::clone(&fails))));
    let second = index.look_up_below([1, 3].map(BlockId).into_iter()).expect("readable");
    fails.store(true, std::sync::atomic::Ordering::SeqCst);
    let failed = index.look_up_below([BlockId(3)].into_iter()).map(drop);
    assert!(matches!(failed, Err(crate::error::Error::Io { .. })), "{failed:?}");
    let pin = index.pin_snapshot();
    let mut replaced = Vec::new();
    let changes = [(BlockId(1), Lsn(2), None), (BlockId(2), Lsn(2), Some(21))];
    index.publish_changes(changes, &first, Lsn(2), |old, _| replaced.push(old.copied()));
    assert!(
        index.relocate_newest((BlockId(3), Lsn(1), 31), &second, |old| replaced.push(Some(*old)))
    );
    let changes = [(BlockId(1), Lsn(3), Some(11))];
    index.publish_changes(changes, &second, Lsn(3), |old, _| replaced.push(old.copied()));
    assert_eq!(replaced, [Some(10), Some(20), Some(30), None]);
    assert_eq!([1, 2, 3].map(|id| value(&index, id, &pin)), [Some(10), Some(20), Some(31)]);
    index.unpin_snapshot(pin);
    assert_eq!(index.undo_count(), 0);
}

#[test]
fn relocation_keeps_the_commit_and_loses_against_a_newer_one() {
    let (index, mut image) = (Index::default(), Map::default());
    set(&index, 1, &[(1, Some(10)), (2, Some(20))]);
    index.freeze_entries();
    make_image(&index, &mut image);
    let mut replaced = None;
    let below = index.look_up_below([BlockId(1), BlockId(2)].into_iter()).expect("readable");
    assert!(index.relocate_newest((BlockId(1), Lsn(1), 11), &below, |old| replaced = Some(*old)));
    assert_eq!(replaced, Some(10));
    let read =
        index.read_newest(BlockId(1)).expect("r").map(|version| (version.lsn, version.value));
    assert_eq!(read, Some((Lsn(1), 11)));
    set(&index, 2, &[(2, Some(21))]);
    assert!(!index.relocate_newest((BlockId(2), Lsn(1), 22), &below, |_| panic!("newer")));
    assert!(index.is_newest_version(BlockId(2), Lsn(2), |value| *value == 21).expect("readable"));
}

/// What a log says in `count` steps of ids that lie close together, far apart and at the ends.
fn random_steps(count: u64) -> Vec<IdChange<u32>> {
    let mut state = 0x1357_9bdf_2468_ace1_u64;
    let mut below = |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    let step = |lsn: u64| {
        let id = match below(8) {
            0 => below(30) << 40,
            1 => u64::MAX - below(3),
            _ => below(900),
        };
        let deed = match below(8) {
            0..3 => Deed::Move(lsn as u32),
            3 => Deed::Delete,
            _ => Deed::Write(lsn as u32),
        };
        // Some moves are of what is there, some come too late.
        let made = if matches!(deed, Deed::Move(_)) { lsn - below(lsn.min(3000)) } else { lsn };
        IdChange { id: BlockId(id), lsn: Lsn(made), deed }
    };
    let mut steps: Vec<_> = (1..=count).map(step).collect();
    let mut newest = BTreeMap::new();
    for step in &mut steps {
        match step.deed {
            Deed::Move(value) if value % 2 == 0 => {
                step.lsn = newest.get(&step.id).copied().unwrap_or(step.lsn);
            }
            Deed::Move(_) => {}
            _ => _ = newest.insert(step.id, step.lsn),
        }
    }
    steps
}

/// Takes steps one after the other. Returns what each replaced by what.
fn take_steps(
    model: &mut BTreeMap<BlockId, Newest<u32>>,
    steps: &[IdChange<u32>],
) -> Vec<(Option<u32>, Option<u32>)> {
    let mut replaced = Vec::new();
    for step in steps {
        let old = model.get(&step.id).copied();
        let value = match step.deed {
            Deed::Write(value) => Some(value),
            Deed::Delete => None,
            Deed::Move(_) if old.is_none_or(|old| old.lsn != step.lsn || old.value.is_none()) => {
                continue;
            }
            Deed::Move(value) => Some(value),
        };
        replaced.push((old.and_then(|old| old.value), value));
        model.insert(step.id, Newest { lsn: step.lsn, value });
    }
    replaced
}

#[test]
fn batch_of_a_log_comes_to_what_its_steps_come_to_one_after_the_other() {
    let steps = random_steps(12_000);
    let (before, behind) = steps.split_at(3000);
    for has_image in [false, true] {
        for batch_count in [1, 7, 100, 9000] {
            let (index, mut model) = (Index::default(), BTreeMap::new());
            let load = |steps: &[IdChange<u32>]| {
                let count = |tally: &mut Vec<_>, old: Option<&u32>, new: Option<&u32>| {
                    tally.push((old.copied(), new.copied()));
                };
                let tallies = index.load_batch(steps, true, count).expect("readable");
                let mut replaced: Vec<_> = tallies.into_iter().flatten().collect();
                replaced.sort_unstable();
                replaced
            };
            load(before);
            take_steps(&mut model, before);
            if has_image {
                index.make_loaded_visible(Lsn(3000));
                index.freeze_entries();
                make_image(&index, &mut Map::default());
            }
            let mut count = 0;
            for batch in behind.chunks(batch_count) {
                let mut replaced = take_steps(&mut model, batch);
                count += replaced.len();
                replaced.sort_unstable();
                assert_eq!(load(batch), replaced, "batches of {batch_count}");
            }
            assert!(count > 6000, "{count}: moves of what is there among them");
            for (id, newest) in &model {
                // A deletion that hides nothing is forgotten.
                let found = index.newest_version(*id).expect("readable");
                let found = found.filter(|found| found.value.is_some());
                let newest = Some(*newest).filter(|newest| newest.value.is_some());
                assert_eq!(found, newest, "{id}, batches of {batch_count}");
            }
        }
    }
}

#[test]
fn loaded_deletions_that_hide_nothing_leave_nothing() {
    let index = Index::default();
    let ids = (1..500).map(BlockId);
    let write = |id| IdChange { id, lsn: Lsn(1), deed: Deed::Write(1_u32) };
    let delete = |id| IdChange { id, lsn: Lsn(2), deed: Deed::Delete };
    let count = |_: &mut (), _: Option<&u32>, _: Option<&u32>| {};
    index.load_batch(&ids.clone().map(write).collect::<Vec<_>>(), false, count).expect("no base");
    assert!(index.heap_len() > 0);
    index.load_batch(&ids.map(delete).collect::<Vec<_>>(), false, count).expect("no base");
    assert_eq!(index.heap_len(), 0);
}

#[test]
fn loaded_entries_take_the_room_of_those_that_they_replace() {
    let index = Index::default();
    let load = |lsn| {
        let write = |id| IdChange { id: BlockId(id), lsn: Lsn(lsn), deed: Deed::Write(1_u32) };
        let steps: Vec<_> = (0..40).map(write).collect();
        index.load_batch(&steps, false, |_: &mut (), _, _| {}).expect("no base");
        index.heap_len()
    };
    let once = load(1);
    assert_eq!(load(2), once);
}
