//! Recorded histories of the reference backend: clean as it is, and each flaw of its isolation
//! caught by name. It answers commits without their LSNs, so the checker works from bounds
//! throughout.

use std::collections::BTreeMap;

use aegis_blocks::testkit::history::Anomaly::{self, *};
use aegis_blocks::testkit::history::{Verdict, Workload, check};
use aegis_blocks::testkit::{Rng, seed};

use crate::flaws::Flaw;
use crate::reference::Reference;

const SEED: u64 = 0x0815_7033;
/// Histories that are recorded until all names are found.
const RUN_COUNT_MAX: u64 = 40;

fn verdict(flaw: Option<Flaw>, rng: &mut Rng) -> Verdict {
    let load = Workload::new(rng.next_u64());
    let load = Workload { transactions: 4_000, exact_tickets: false, ..load };
    check(&load.run(&Reference::new(flaw)).expect("the backend breaks no call"))
}

#[test]
fn histories_of_the_reference_are_clean() {
    let mut rng = Rng::new(seed(SEED));
    for _ in 0..5 {
        let verdict = verdict(None, &mut rng);
        assert!(verdict.findings.is_empty(), "{verdict} (seed {})", seed(SEED));
        println!("{} of {} commits keep bounds", verdict.unplaced, verdict.commits);
    }
}

fn assert_caught(flaw: Flaw, expected: &[Anomaly]) {
    let (mut rng, mut missing) = (Rng::new(seed(SEED)), expected.to_vec());
    let mut count: BTreeMap<Anomaly, u32> = BTreeMap::new();
    for run in 1..=RUN_COUNT_MAX {
        let verdict = verdict(Some(flaw), &mut rng);
        verdict.findings.iter().for_each(|found| *count.entry(found.anomaly).or_default() += 1);
        missing.retain(|anomaly| !verdict.has(*anomaly));
        if missing.is_empty() {
            return println!("{flaw:?}, caught after {run} runs (seed {}): {count:?}", seed(SEED));
        }
    }
    panic!("{flaw:?} is not caught as {missing:?} (seed {}), but as {count:?}", seed(SEED));
}

macro_rules! caught {
    ($($flaw:ident => [$($anomaly:ident),+],)+) => {$(
        #[test]
        #[allow(non_snake_case, reason = "the tests are called as the flaws are")]
        fn $flaw() {
            assert_caught(Flaw::$flaw, &[$($anomaly),+]);
        }
    )+};
}

caught! {
    DirtyReads => [DirtyRead, AbortedRead],
    DirtyTransactions => [DirtyRead, AbortedRead, IntermediateRead],
    WritesThrough => [DirtyRead, AbortedRead, IntermediateRead],
    ConflictAppliesTheRest => [AbortedRead],
    OwnWritesUnseen => [OwnWriteLost],
    OwnDeletesUnseen => [OwnWriteLost],
    NewerHidesOwn => [OwnWriteLost],
    FirstOperationWins => [OwnWriteLost, IntermediateRead],
    ReadsNewest => [NonRepeatableRead, FracturedRead],
    SnapshotPerBlock => [FracturedRead],
    SnapshotAtFirstRead => [LateRead],
    CreationsLeakIntoSnapshots => [NonRepeatableRead],
    DeletesLeakIntoSnapshots => [NonRepeatableRead],
    BeginMissesTheNewest => [StaleRead],
    AcknowledgesBeforeVisible => [StaleRead],
    StaleReads => [StaleRead],
    CommitInTwoSteps => [FracturedRead],
    CommitsHalf => [StaleRead],
    RacyCopy => [StaleRead],
    NoValidation => [LostUpdate],
    RacyValidation => [LostUpdate],
    CreationsNotValidated => [LostUpdate],
    DeletesNotValidated => [LostUpdate],
    SingleOperationsNotSeen => [LostUpdate],
}
