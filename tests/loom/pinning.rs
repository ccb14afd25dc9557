//! Pins against publication: a snapshot sees one moment, whole, for as long as it is held. Versions
//! that no snapshot can see are dropped.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use loom::thread;

use crate::Claim;
use crate::block::{BlockId, Lsn};
use crate::error::Result;
use crate::mvcc::index::{Base, Index, LookedUp, Newest};
use crate::mvcc::version::VersionLen;
use crate::order::ScanOrder;

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        name: "a_snapshot_sees_a_whole_group_or_nothing_of_it",
        preemption_count_max: None,
        kernel: || snapshots(1, 1),
    },
    Claim {
        name: "a_snapshot_keeps_what_two_groups_replace",
        preemption_count_max: Some(3),
        kernel: || snapshots(1, 2),
    },
    Claim {
        name: "two_snapshots_beside_a_publication_see_each_a_whole_group",
        preemption_count_max: Some(2),
        kernel: || snapshots(2, 1),
    },
    Claim {
        name: "a_snapshot_keeps_what_single_changes_replace",
        preemption_count_max: None,
        kernel: single,
    },
    Claim {
        name: "reads_without_a_snapshot_never_go_back_and_never_miss",
        preemption_count_max: None,
        kernel: newest,
    },
    Claim {
        name: "image_that_is_put_below_the_entries_hides_and_brings_back_nothing",
        preemption_count_max: Some(2),
        kernel: imaged,
    },
];

/// These kernels do not count bytes.
impl VersionLen for u64 {
    fn payload_len(&self) -> u64 {
        0
    }
}

/// An image of the frozen entries of an index.
#[derive(Debug)]
struct Image(BTreeMap<BlockId, Newest<u64>>, Lsn);

impl Base<u64> for Image {
    fn lsn(&self) -> Lsn {
        self.1
    }

    fn get(&self, id: BlockId) -> Result<Option<Newest<u64>>> {
        Ok(self.0.get(&id).copied())
    }

    fn walk(
        &self,
        first: BlockId,
        last: BlockId,
        order: ScanOrder,
        each: &mut dyn FnMut(BlockId, Newest<u64>) -> ControlFlow<()>,
    ) -> Result<()> {
        assert_eq!(order, ScanOrder::Ascending, "the model lists upwards");
        let mut records = self.0.range(first..=last);
        while records.next().is_some_and(|(id, record)| each(*id, *record).is_continue()) {}
        Ok(())
    }
}

/// One thread reads at a snapshot while the main thread publishes and puts an image below.
fn imaged() {
    let index = Arc::new(Index::<u64>::default());
    publish(&index, 1);
    publish(&index, 2);
    index.freeze_entries();
    let reader = {
        let index = Arc::clone(&index);
        thread::spawn(move || {
            let pin = index.pin_snapshot();
            let seen = pin.lsn();
            assert_eq!(read_at(&index, 1, seen), Some(seen.0));
            let third = seen.0.is_multiple_of(2).then_some(seen.0);
            assert_eq!(read_at(&index, 3, seen), third);
            index.unpin_snapshot(pin);
        })
    };
    let pages = index.frozen_pages();
    let frozen = pages.into_iter().flat_map(|page| index.frozen_entries(page)).collect();
    let image: Arc<dyn Base<u64>> = Arc::new(Image(frozen, Lsn(2)));
    publish(&index, 3);
    index.install_base(|| Arc::clone(&image));
    reader.join().expect("a reader returns");
    assert_eq!(index.undo_count(), 0);
}

/// One thread reads a block at a snapshot while the main thread replaces it, change by change.
fn single() {
    let index = Arc::new(Index::<u64>::default());
    let none = LookedUp::default();
    let set =
        |n: u64| index.publish_changes([(BlockId(1), Lsn(n), Some(n))], &none, Lsn(n), |_, _| {});
    set(1);
    let reader = {
        let index = Arc::clone(&index);
        thread::spawn(move || {
            let pin = index.pin_snapshot();
            let seen = pin.lsn();
            assert_eq!(read_at(&index, 1, seen), Some(seen.0));
            assert_eq!(read_at(&index, 1, seen), Some(seen.0), "the same again");
            index.unpin_snapshot(pin);
        })
    };
    set(2);
    set(3);
    reader.join().expect("a reader returns");
    assert_eq!(index.undo_count(), 0);
}

/// Group `n` sets blocks 1 and 2 to `n`; block 3 exists after even groups only.
fn publish(index: &Index<u64>, group: u64) {
    let lsn = Lsn(group);
    let third = group.is_multiple_of(2).then_some(group);
    let changes =
        [(BlockId(1), lsn, Some(group)), (BlockId(2), lsn, Some(group)), (BlockId(3), lsn, third)];
    index.publish_changes(changes, &LookedUp::default(), lsn, |_, _| {});
}

fn read_at(index: &Index<u64>, id: u64, snapshot: Lsn) -> Option<u64> {
    index
        .read_at_snapshot(BlockId(id), snapshot)
        .expect("a readable image")
        .map(|version| version.value)
}

/// The main thread publishes `group_count` more groups while `reader_count` others read.
fn snapshots(reader_count: usize, group_count: u64) {
    let index = Arc::new(Index::<u64>::default());
    publish(&index, 1);
    publish(&index, 2);
    let readers: Vec<_> = (0..reader_count)
        .map(|_| {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                let pin = index.pin_snapshot();
                let seen = pin.lsn();
                assert!(seen >= Lsn(2), "what was visible before is visible");
                for id in [1, 2] {
                    assert_eq!(read_at(&index, id, seen), Some(seen.0), "block {id}");
                }
                let third = seen.0.is_multiple_of(2).then_some(seen.0);
                assert_eq!(read_at(&index, 3, seen), third);
                index.unpin_snapshot(pin);
            })
        })
        .collect();
    for group in 3..3 + group_count {
        publish(&index, group);
    }
    for reader in readers {
        reader.join().expect("a reader returns");
    }
    assert_eq!(index.undo_count(), 0, "versions that no snapshot can see are dropped");
    assert_eq!(index.visible_lsn(), Lsn(2 + group_count));
}

/// One thread reads the newest version twice while the main thread replaces it.
fn newest() {
    let index = Arc::new(Index::<u64>::default());
    publish(&index, 1);
    let reader = {
        let index = Arc::clone(&index);
        thread::spawn(move || {
            let read = || {
                let newest = index.read_newest(BlockId(1)).expect("a readable image");
                newest.expect("there is always one").value
            };
            let (first, second) = (read(), read());
            assert!((1..=2).contains(&first) && first <= second, "{first}, then {second}");
        })
    };
    publish(&index, 2);
    reader.join().expect("a reader returns");
    assert_eq!(index.undo_count(), 0);
}
