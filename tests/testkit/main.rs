//! The conformance kit held to its own claim: a correct backend passes every check, and each of
//! many deliberately broken ones is caught by name.

mod flaws;
mod histories;
mod reference;
mod state;

use std::collections::BTreeSet;
use std::sync::Once;

use aegis_blocks::testkit::{self, Fixture, broken, broken_claims, claims};
use aegis_blocks::{
    Block, BlockId, Result, StorageBackend, StorageStats, TransactionId, conformance_suite,
};

use flaws::Flaw;
use reference::Reference;

/// The reference backend with one flaw planted, or none.
struct Planted(Option<Flaw>);

impl Fixture for Planted {
    type Backend = Reference;

    fn open(&self) -> Reference {
        Reference::new(self.0)
    }

    fn reopen(&self, backend: Reference) -> Option<Reference> {
        Some(backend.reopened())
    }

    fn crash(&self, backend: Reference) -> Option<Reference> {
        Some(backend.crashed())
    }

    fn acknowledges_durably(&self) -> bool {
        true
    }
}

/// A backend that forgets at close, as memory does.
struct Forgets;

impl Fixture for Forgets {
    type Backend = Reference;

    fn open(&self) -> Reference {
        Reference::new(None)
    }

    fn reopen(&self, _: Reference) -> Option<Reference> {
        None
    }
}

conformance_suite!(reference_keeps_the_contract, Planted(None));

#[test]
fn backend_that_forgets_keeps_the_contract() {
    testkit::conformance(&Forgets);
}

/// Panics are the rule here: prints their words without a backtrace, which takes most of a second.
fn print_panics_briefly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|panic| println!("{panic}"))));
}

/// Threads need not meet in one run of a check; in this many they do.
const RUN_COUNT_MAX: u32 = 20;

/// Runs the checks that must catch a flaw; each must name its claim.
fn assert_caught(flaw: Flaw, expected: &[&str]) {
    print_panics_briefly();
    let fixture = Planted(Some(flaw));
    for name in expected {
        let claim = claims::all::<Planted>().into_iter().find(|claim| claim.name == *name);
        let claim = claim.unwrap_or_else(|| panic!("no claim is called {name}"));
        let mut runs = (1..=RUN_COUNT_MAX).map(|run| (run, broken(&claim, &fixture)));
        let Some((run, Some(broken))) = runs.find(|(_, broken)| broken.is_some()) else {
            panic!("{flaw:?} was not caught by {name}");
        };
        let prefix = format!("claim `{name}` is broken: ");
        assert!(broken.message.starts_with(&prefix), "the message is {}", broken.message);
        println!("{flaw:?}, caught in run {run}: {}", broken.message);
    }
}

/// What cannot be planted in a backend of safe code, and why.
const NOT_PLANTED: [(&str, &str); 1] =
    [("payload_in_hand_never_changes", "safe code cannot change bytes that a reader holds")];

/// A backend that offers only what it must.
struct Plain(Reference);

/// Hands the calls that every backend must offer on.
macro_rules! hand_on {
    ($($call:ident($($argument:ident: $ty:ty),*) -> $answer:ty;)+) => {
        impl StorageBackend for Plain {
            $(fn $call(&self, $($argument: $ty),*) -> $answer {
                self.0.$call($($argument),*)
            })+
        }
    };
}

hand_on! {
    write_block(block: Block) -> Result<BlockId>;
    read_block(id: BlockId) -> Result<Block>;
    delete_block(id: BlockId) -> Result<()>;
    block_exists(id: BlockId) -> Result<bool>;
    begin_transaction() -> Result<TransactionId>;
    write_block_in_tx(tx: TransactionId, block: Block) -> Result<BlockId>;
    read_block_in_tx(tx: TransactionId, id: BlockId) -> Result<Block>;
    delete_block_in_tx(tx: TransactionId, id: BlockId) -> Result<()>;
    block_exists_in_tx(tx: TransactionId, id: BlockId) -> Result<bool>;
    commit_transaction(tx: TransactionId) -> Result<()>;
    rollback_transaction(tx: TransactionId) -> Result<()>;
    sync() -> Result<()>;
    stats() -> StorageStats;
}

struct OffersLittle;

impl Fixture for OffersLittle {
    type Backend = Plain;

    fn open(&self) -> Plain {
        Plain(Reference::new(None))
    }

    fn reopen(&self, _: Plain) -> Option<Plain> {
        None
    }
}

#[test]
fn backend_that_offers_little_keeps_the_contract() {
    testkit::conformance(&OffersLittle);
}

#[test]
fn every_claim_is_broken_by_some_flaw() {
    let all: BTreeSet<&str> = claims::all::<Planted>().iter().map(|claim| claim.name).collect();
    let mut caught: BTreeSet<&str> = NOT_PLANTED.iter().map(|(claim, _)| *claim).collect();
    caught.extend(flaws::ALL.iter().flat_map(|(_, claims)| claims.iter()));
    let blind: Vec<_> = all.difference(&caught).collect();
    assert!(blind.is_empty(), "no flaw shows that these claims can fail: {blind:?}");
    println!("{} claims, {} flaws", all.len(), flaws::ALL.len());
}

#[test]
fn list_of_broken_claims_is_complete() {
    print_panics_briefly();
    let names = |flaw| -> Vec<&str> {
        broken_claims(&Planted(flaw)).into_iter().map(|broken| broken.claim).collect()
    };
    assert_eq!(names(None), [""; 0]);
    let names = names(Some(Flaw::RollbackTwiceIsRefused));
    assert!(names.contains(&"rollback_twice_is_fine"), "broken claims: {names:?}");
    assert!(!names.contains(&"new_store_is_empty"), "broken claims: {names:?}");
}
