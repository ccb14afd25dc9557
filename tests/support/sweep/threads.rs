//! The store with all its threads: the same promises, where no two runs are the same.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use aegis_blocks::io::FileName;
use aegis_blocks::io::sim::{CrashChoice, Fault, FaultKind, OperationKind, SimDisk};
use aegis_blocks::testkit::Rng;
use aegis_blocks::{BlockId, LocalBackend, Options, StorageBackend};

use super::tally::{Case, Tally};
use super::workload::{SEGMENT_LEN, payload};
use crate::block::block;
use crate::gated::GatedDisk;
use crate::options::short_segments;

/// Paths that must be taken. Whether groups overlap in [`smoke`] is up to the machine: with one
/// processor they hardly do. In [`overlap`] they must.
pub const PATHS: &[&str] =
    &["acknowledged", "cut short", "groups overlapped", "witness", "witness after recovery"];

const THREAD_COUNT: u64 = 4;
const COMMIT_COUNT: u64 = 25;

/// Few callers are shared out among groups that overlap, or many only.
fn options(many_callers_min: u64) -> Options {
    short_segments(SEGMENT_LEN, SEGMENT_LEN / 2)
        .many_callers_min(many_callers_min as usize)
        .zero_ahead_len(2 * SEGMENT_LEN)
}

fn open(disk: &SimDisk) -> LocalBackend<SimDisk> {
    open_with(disk, 12)
}

fn open_with(disk: &SimDisk, many_callers_min: u64) -> LocalBackend<SimDisk> {
    LocalBackend::open_on(disk.clone(), options(many_callers_min)).expect("O1: the store opens")
}

fn data(id: u64) -> bytes::Bytes {
    payload(id, if id.is_multiple_of(7) { 9000 } else { 300 })
}

/// Threads commit until the power goes or an operation fails.
pub fn smoke(tally: &mut Tally, case: &Case) {
    let _trying = case.trying("threads");
    let mut rng = Rng::new(case.seed());
    let disk = SimDisk::new(case.seed());
    let store = open_with(&disk, [1, 12][rng.below(2) as usize]);
    let at_operation = disk.operations() + rng.below(250);
    if rng.once_in(2) {
        disk.crash_at(at_operation, rng.once_in(2));
    } else {
        disk.inject(Fault { at_operation, kind: FaultKind::Eio, sticky: rng.once_in(2) });
    }
    let acked = Mutex::new(vec![0; THREAD_COUNT as usize]);
    std::thread::scope(|scope| {
        for thread in 0..THREAD_COUNT {
            let (store, acked) = (&store, &acked);
            scope.spawn(move || {
                for number in 1..=COMMIT_COUNT {
                    let id = thread * 1000 + number;
                    if store.write_block(block(id, data(id))).is_err() {
                        return;
                    }
                    acked.lock().expect("no panic")[thread as usize] = number;
                }
            });
        }
    });
    let acked = acked.into_inner().expect("no panic");
    tally.count("threaded runs");
    tally.took("acknowledged", acked.iter().any(|count| *count > 0));
    tally.add("runs with groups that overlapped", u64::from(store.stats().overlapped_groups > 0));
    tally.took("cut short", acked.iter().any(|count| *count < COMMIT_COUNT));
    let left = disk.crash(choice(&mut rng, case));
    drop(store);
    check(&open(&left), &acked);
}

/// The power goes, or an operation fails, while a group is on its way behind another one: the first
/// is written when the second one is about to be.
pub fn overlap(tally: &mut Tally, case: &Case) {
    let _trying = case.trying("two groups on their way");
    let mut rng = Rng::new(case.seed());
    let disk = GatedDisk::over(SimDisk::new(case.seed()));
    let store = LocalBackend::open_on(disk.clone(), options(1)).expect("O1: the store opens");
    let ((first_out, sees_first), (second_out, sees_second)) = (channel(), channel());
    let gate = disk.clone();
    let (behind, cuts, takes_effect) = (rng.below(6), rng.once_in(2), rng.once_in(2));
    disk.before(OperationKind::Write, is_segment, move || {
        let sim = gate.sim.clone();
        let out = move || {
            let at_operation = sim.operations() + behind;
            match cuts {
                true => sim.crash_at(at_operation, takes_effect),
                false => {
                    sim.inject(Fault { at_operation, kind: FaultKind::Eio, sticky: takes_effect })
                }
            }
            second_out.send(()).expect("the first one waits");
        };
        gate.before(OperationKind::Write, is_segment, out);
        first_out.send(()).expect("the second one waits");
        sees_second.recv().expect("the second one sets out");
    });
    let acked = std::thread::scope(|scope| {
        let commit = |id| u64::from(store.write_block(block(id, data(id))).is_ok());
        let first = scope.spawn(move || commit(1));
        let second = scope.spawn(move || {
            sees_first.recv().expect("the first one sets out");
            commit(1001)
        });
        [first, second].map(|caller| caller.join().expect("no panic"))
    });
    tally.count("overlaps");
    tally.took("groups overlapped", store.stats().overlapped_groups == 1);
    let left = disk.sim.crash(choice(&mut rng, case));
    drop(store);
    check(&open(&left), &acked);
}

fn is_segment(name: FileName) -> bool {
    // The workers write headers to files of unfinished names, the log to none.
    matches!(name, FileName::Segment(_))
}

fn choice(rng: &mut Rng, case: &Case) -> CrashChoice {
    match rng.below(3) {
        0 => CrashChoice::Nothing,
        1 => CrashChoice::Everything,
        _ => CrashChoice::Random { seed: case.seed(), garbage: true },
    }
}

/// Each thread's commits are there in order, at most one more than it was told of.
fn check(store: &LocalBackend<SimDisk>, acked: &[u64]) {
    let ids = store.ids(..).expect("an open store");
    let mut present = 0;
    for (thread, acked) in acked.iter().enumerate() {
        let first = thread as u64 * 1000;
        let own: Vec<u64> =
            ids.iter().map(|id| id.0).filter(|id| (first..first + 1000).contains(id)).collect();
        let count = own.len() as u64;
        assert!(own.iter().copied().eq(first + 1..=first + count), "O2: a hole in {own:?}");
        assert!((*acked..=acked + 1).contains(&count), "O1: {count} of {acked} commits");
        present += count;
    }
    assert_eq!(store.stats().visible_lsn.0, present, "O2: one commit for each block");
    for id in ids {
        assert!(store.read_block(id).expect("O2: readable").data == data(id.0), "O3: block {id}");
    }
}

/// The last commit is vouched for after a while of quiet, and by recovery at once.
pub fn witness(tally: &mut Tally, case: &Case) {
    let _trying = case.trying("the witness of the last commit");
    let disk = SimDisk::new(case.seed());
    let store = open(&disk);
    store.write_block(block(1, data(1))).expect("written");
    let unwitnessed = disk.crash(CrashChoice::Nothing);
    let before = store.stats().log_bytes;
    await_witness(&store, &disk, before);
    let witnessed = disk.crash(CrashChoice::Nothing);
    let reopened = open(&witnessed);
    tally.took("witness", reopened.recovery().resynced_frames == 0);
    assert!(reopened.block_exists(BlockId(1)).expect("an answer"));

    let recovered = open(&unwitnessed);
    assert_eq!(recovered.recovery().resynced_frames, 1);
    let reopened = open(&unwitnessed.crash(CrashChoice::Nothing));
    assert!(reopened.block_exists(BlockId(1)).expect("an answer"));
    tally.took("witness after recovery", reopened.recovery().resynced_frames == 0);
}

fn await_witness(store: &LocalBackend<SimDisk>, disk: &SimDisk, before: u64) {
    for _ in 0..5_000 {
        if store.stats().log_bytes > before {
            // It is counted when it is durable.
            return;
        }
        disk.advance(Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("no witness is written");
}
