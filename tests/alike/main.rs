//! Files as the world damages them, and what is said of them: every kind of damage on every kind of
//! store.
//!
//! [`kinds`] makes the stores, [`harm`] damages their files, [`judge`] asks `probe`, `verify`, an
//! open that only reads and one that writes. For each pair exactly one of these holds:
//!
//! - everything that was acknowledged is there, and all four say so;
//! - the damage is named by all four, and nothing in the directory has changed;
//! - a page of the checkpoint is damaged, and the log is not there to do without: all four name it,
//!   and the store opens with the rest, as it does when a block is damaged;
//! - what is damaged is content behind which a checkpoint stands, which opening does not read:
//!   `verify` names it, and so does who reads it;
//! - what is missing is the end of the log behind its last checkpoint and behind everything else
//!   that vouches for it: such a store cannot be told from one that a power cut ended there.

#[path = "../support/counted.rs"]
mod counted;
#[path = "../support/files.rs"]
mod files;
mod harm;
mod judge;
mod kinds;
#[path = "../support/noise.rs"]
mod noise;
#[path = "../support/xorshift.rs"]
mod xorshift;

use aegis_blocks::{BlockId, Defect, Error, LocalBackend, StorageBackend};
use harm::Harm;
use judge::{Verdict, judge};
use kinds::{Image, Kind, Store};

/// Asks of every damage to a store, prints what was found, and returns the verdicts.
fn table(kind: Kind, harms: &[Harm]) -> Vec<(Harm, Verdict)> {
    let store = Store::make(kind);
    let mut found = Vec::new();
    for harm in harms {
        let Some(path) = harm.apply(&store) else { continue };
        let verdict = judge(&store, &path);
        println!("{kind:<44} | {harm:<40} | {verdict}");
        found.push((*harm, verdict));
    }
    counted::tell("damages, each judged by all", found.len() as u64);
    found
}

/// All that was acknowledged before the store was closed is there, or its loss is named.
#[test]
fn closed_store_that_lost_its_end_says_so() {
    let mut named = 0;
    for kind in Kind::all().filter(|kind| kind.closed) {
        for (harm, verdict) in table(kind, Harm::ENDS) {
            let is_said = matches!(verdict, Verdict::Whole | Verdict::Named(_));
            assert!(is_said, "{kind}: {harm}: {verdict}");
            named += u64::from(matches!(verdict, Verdict::Named(_)));
        }
    }
    assert!(named >= 10, "only {named} were named");
}

/// What is named is the place where the log ends, and the checkpoint that knows more.
#[test]
fn loss_names_the_checkpoint_and_the_end_of_the_log() {
    let kind = Kind { closed: true, is_long: true, image: Image::All };
    let store = Store::make(kind);
    let harm = Harm::CutToHalf;
    let path = harm.apply(&store).expect("a segment to cut");
    let verdict = judge(&store, &path);
    let Verdict::Named(words) = &verdict else { panic!("{verdict}") };
    let checkpoint = kinds::last_file(&path, "CKPT-").expect("a checkpoint");
    let segment = kinds::last_file(&path, "SEG-").expect("a segment");
    let lsn = format!("lsn {}", store.commits());
    assert!(words.contains(&checkpoint) && words.contains(&segment), "{words}");
    assert!(words.contains(&lsn), "{words} without {lsn}");
    let report = LocalBackend::repair(&path).expect("saves the rest");
    let salvage = &report.salvage;
    assert!(salvage.blocks > 0 && !salvage.is_complete(), "{report:?}");
    let repaired = LocalBackend::verify(&path).expect("a report");
    assert!(repaired.damage.is_empty(), "{repaired:?}");
}

/// Without the marks at its end the log itself does not say that its last commit was acknowledged.
#[test]
fn commit_that_a_checkpoint_vouches_for_is_no_torn_tail() {
    let kind = Kind { closed: true, is_long: false, image: Image::All };
    let store = Store::make(kind);
    let path = Harm::ZeroedPages(2).apply(&store).expect("marks to remove");
    let segment = path.join(kinds::last_file(&path, "SEG-").expect("a segment"));
    let mut bytes = std::fs::read(&segment).expect("reads");
    let payload = noise::payload(24, 2);
    let found = bytes.windows(payload.len()).position(|window| window == payload);
    bytes[found.expect("the last block")] ^= 1;
    std::fs::write(&segment, bytes).expect("writes");
    let verified = LocalBackend::verify(&path).expect("a report").damage;
    let [damage] = &verified[..] else { panic!("{verified:#?}") };
    assert_eq!((damage.defect, damage.place.block), (Defect::PayloadChecksum, Some(BlockId(24))));
    let open = kinds::options(kind).open(&path).expect("opens");
    let refused = open.read_block(BlockId(24)).expect_err("its bytes are damaged");
    assert!(matches!(refused, Error::Corrupt { .. }), "{refused}");
    assert_eq!(open.stats().total_blocks, store.states[store.commits()].len() as u64);
}

/// Every damage to every store is judged alike by all.
#[test]
fn every_damage_to_every_store_is_judged_alike() {
    let mut wrong = Vec::new();
    for kind in Kind::all() {
        for (harm, verdict) in table(kind, &Harm::all()) {
            if !is_right(kind, harm, &verdict) {
                wrong.push(format!("{kind} | {harm} | {verdict}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn is_right(kind: Kind, harm: Harm, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Whole | Verdict::Named(_) => true,
        // Nothing but the checkpoint knows where blocks are that were moved.
        Verdict::InPart(_) => harm.is_of_a_page() && kind.image == Image::Packed,
        // Opening does not read what stands in segments before the checkpoint's place in the log.
        Verdict::Unread(_) => matches!(harm, Harm::FirstZeroed | Harm::OlderFirst),
        // A close vouches for the end. What a kill leaves may have lost it.
        Verdict::Shorter(_) => !kind.closed,
        Verdict::Wrong(_) => false,
    }
}

/// A byte of a checkpoint costs nothing while the log is there from its beginning.
#[test]
fn damaged_checkpoint_costs_nothing_while_the_log_is_whole() {
    for closed in [true, false] {
        for image in [Image::All, Image::Part] {
            let kind = Kind { closed, is_long: true, image };
            let harms = [Harm::CheckpointFlipped(50), Harm::CheckpointFlipped(4096 + 500)];
            for (harm, verdict) in table(kind, &harms) {
                assert_eq!(verdict, Verdict::Whole, "{kind}: {harm}");
            }
        }
    }
}
