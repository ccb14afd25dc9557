//! Nothing that was acknowledged is lost, nothing that was refused comes back: with the power cut
//! at every operation, every operation failing, and every byte damaged, on the simulated disk.
//!
//! `AEGIS_SWEEP=1000` runs every case; the default is a sample. A failure prints how to run it
//! again.

#[path = "support/block.rs"]
mod block;
#[path = "support/counted.rs"]
mod counted;
#[path = "support/drawn.rs"]
mod drawn;
#[path = "support/gated.rs"]
mod gated;
#[path = "support/options.rs"]
mod options;
#[path = "support/sweep/mod.rs"]
mod sweep;

use aegis_blocks::io::sim::Profile;

use sweep::damage::{self, Victim};
use sweep::faults::{self, Start};
use sweep::tally::Tally;
use sweep::workload::{self, FULL, SCRIPTED, words};
use sweep::{cuts, threads};

const PROFILES: [Profile; 3] = [Profile::Posix, Profile::Journaled, Profile::Paranoid];

#[test]
fn power_cut_loses_no_acknowledged_commit() {
    let paths = [cuts::PATHS, workload::PATHS].concat();
    let mut tally = Tally::new("power_cut_loses_no_acknowledged_commit", &paths);
    for profile in PROFILES {
        for word in SCRIPTED {
            let case = tally.case(format!("{profile:?}/{word}/"));
            if tally.runs(&case, 1) {
                tally.count("scripted workloads");
                cuts::sweep(&mut tally, &case, word, profile, 60);
            }
        }
    }
    let paths: Vec<_> = paths.into_iter().filter(|path| *path != "reserve drawn").collect();
    tally.finish_some(&paths);
}

#[test]
fn power_cut_on_a_full_disk_loses_no_acknowledged_commit() {
    let name = "power_cut_on_a_full_disk_loses_no_acknowledged_commit";
    let mut tally = Tally::new(name, &[cuts::PATHS, workload::PATHS].concat());
    for (number, word) in FULL.iter().enumerate() {
        let profile = PROFILES[number % 3];
        let case = tally.case(format!("{profile:?}/{word}/"));
        if tally.runs(&case, 1) {
            tally.count("workloads");
            cuts::sweep(&mut tally, &case, word, profile, 30);
        }
    }
    tally.finish_some(&["reserve drawn", "torn tail cut", "checkpoint used", "commit lost"]);
}

#[test]
fn power_cut_in_recovery_on_a_full_disk_loses_no_acknowledged_commit() {
    let name = "power_cut_in_recovery_on_a_full_disk_loses_no_acknowledged_commit";
    let mut tally = Tally::new(name, &["cut of a cut", "synced again"]);
    for (number, word) in FULL.iter().enumerate() {
        let profile = PROFILES[number % 3];
        let case = tally.case(format!("{profile:?}/{word}/"));
        if tally.runs(&case, 1) {
            tally.count("workloads");
            cuts::sweep_twice(&mut tally, &case, word, profile, 300);
        }
    }
    tally.finish_some(&["cut of a cut"]);
}

#[test]
fn power_cut_in_any_short_workload_loses_no_acknowledged_commit() {
    let name = "power_cut_in_any_short_workload_loses_no_acknowledged_commit";
    let paths = [cuts::PATHS, workload::PATHS].concat();
    let mut tally = Tally::new(name, &paths);
    for (number, word) in (1..=4).flat_map(words).enumerate() {
        let profile = PROFILES[number % 3];
        let case = tally.case(format!("{profile:?}/{word}/"));
        if tally.runs(&case, 1) {
            tally.count("workloads");
            cuts::sweep(&mut tally, &case, &word, profile, 100);
        }
    }
    // Big commits, groups and a full disk are in other words only, and short ones fill no segment
    // again.
    let elsewhere = ["big commit", "group of 2", "group of 8", "segment recycled", "reserve drawn"];
    let paths: Vec<_> = paths.into_iter().filter(|path| !elsewhere.contains(path)).collect();
    tally.finish_some(&paths);
}

#[test]
fn power_cut_in_recovery_loses_no_acknowledged_commit() {
    let name = "power_cut_in_recovery_loses_no_acknowledged_commit";
    let mut tally = Tally::new(name, &["cut of a cut", "synced again"]);
    let short = (1..=2).flat_map(words);
    for (number, word) in short.chain(SCRIPTED.iter().map(|word| word.to_string())).enumerate() {
        let profile = PROFILES[number % 3];
        let case = tally.case(format!("{profile:?}/{word}/"));
        if tally.runs(&case, 1) {
            tally.count("workloads");
            cuts::sweep_twice(&mut tally, &case, &word, profile, 500);
        }
    }
    tally.finish();
}

/// Short words that hold every letter, and a reopening of each kind of store.
const FAULTED: &[&str] = &[
    "s", "l", "d", "sdl", "t", "b", "lll", "srs", "lrlr", "sys", "ylyb", "rbr", "scs", "lclkl",
    "tcrct",
];

#[test]
fn failed_operation_never_breaks_a_promise() {
    let paths = [faults::PATHS, workload::PATHS].concat();
    let mut tally = Tally::new("failed_operation_never_breaks_a_promise", &paths);
    for (number, word) in FAULTED.iter().chain(SCRIPTED).chain(FULL).enumerate() {
        let profile = PROFILES[number % 3];
        for crashed in [false, true] {
            let case = tally.case(format!("{profile:?}/{word}/{crashed}/"));
            if tally.runs(&case, 1) {
                let start = if crashed { Start::crashed } else { Start::fresh };
                faults::sweep(&mut tally, &case, &start(word, profile, case.seed()), 60);
            }
        }
    }
    tally.finish();
}

#[test]
fn failed_sync_is_never_taken_back() {
    let paths = [faults::PATHS, workload::PATHS].concat();
    let mut tally = Tally::new("failed_sync_is_never_taken_back", &paths);
    // A failed sync is no full disk, and nothing that goes unseen.
    let others = ["storage full", "healed", "transparent"];
    let paths: Vec<_> = paths.into_iter().filter(|path| !others.contains(path)).collect();
    for (number, word) in FAULTED.iter().chain(SCRIPTED).enumerate() {
        let profile = PROFILES[number % 3];
        for crashed in [false, true] {
            let case = tally.case(format!("{profile:?}/{word}/{crashed}/"));
            if tally.runs(&case, 1) {
                let start = if crashed { Start::crashed } else { Start::fresh };
                faults::sweep_syncs(&mut tally, &case, &start(word, profile, case.seed()), 8);
            }
        }
    }
    tally.finish_some(&paths);
}

/// Words whose stores hold every kind of frame: parts, cuts, deletes, marks.
const DAMAGED: &[&str] = &["sltd", "srtlllls", "bsd", "sylyts", "sltcs", "llclkctl"];

#[test]
fn flipped_bit_is_never_taken_for_data() {
    let name = "flipped_bit_is_never_taken_for_data";
    let mut tally = Tally::new(name, damage::PATHS);
    for word in DAMAGED {
        for closed in [true, false] {
            let case = tally.case(format!("{word}/{closed}/"));
            if tally.runs(&case, 1) {
                let victim = if closed { Victim::closed } else { Victim::crashed };
                damage::flip(&mut tally, &case, &victim(word, case.seed()), 4);
            }
        }
    }
    tally.finish();
}

#[test]
fn replaced_bytes_are_never_taken_for_data() {
    let name = "replaced_bytes_are_never_taken_for_data";
    let mut tally = Tally::new(name, damage::PATHS);
    for word in DAMAGED {
        for closed in [true, false] {
            let case = tally.case(format!("{word}/{closed}/"));
            if tally.runs(&case, 1) {
                let victim = if closed { Victim::closed } else { Victim::crashed };
                damage::replace(&mut tally, &case, &victim(word, case.seed()), 4);
            }
        }
    }
    tally.finish();
}

#[test]
fn threads_lose_no_acknowledged_commit() {
    let mut tally = Tally::new("threads_lose_no_acknowledged_commit", threads::PATHS);
    for number in 0..20_000 {
        let case = tally.case(format!("{number}/"));
        if tally.runs(&case, 100) {
            threads::smoke(&mut tally, &case);
        }
        let case = tally.case(format!("overlap/{number}/"));
        if tally.runs(&case, 100) {
            threads::overlap(&mut tally, &case);
        }
    }
    let case = tally.case("witness/".to_string());
    threads::witness(&mut tally, &case);
    tally.finish();
}
