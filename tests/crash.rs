//! Nothing that was acknowledged is lost, nothing that was refused comes back: with the power cut at
//! every operation, every operation failing, and every byte damaged, on the simulated disk.
//!
//! `AEGIS_SWEEP=1000` runs every case; the default is a sample. A failure prints how to run it again.

mod sweep;

use aegis_blocks::io::sim::Profile;

use sweep::cuts;
use sweep::tally::Tally;
use sweep::workload::{SCRIPTED, words};

const PROFILES: [Profile; 3] = [Profile::Posix, Profile::Journaled, Profile::Paranoid];

#[test]
fn power_cut_loses_no_acknowledged_commit() {
    let mut tally = Tally::new("power_cut_loses_no_acknowledged_commit", cuts::PATHS);
    for profile in PROFILES {
        for word in SCRIPTED {
            let case = tally.case(format!("{profile:?}/{word}/"));
            if tally.runs(&case, 1) {
                tally.count("scripted workloads");
                cuts::sweep(&mut tally, &case, word, profile, 60);
            }
        }
    }
    tally.finish();
}

#[test]
fn power_cut_in_any_short_workload_loses_no_acknowledged_commit() {
    let name = "power_cut_in_any_short_workload_loses_no_acknowledged_commit";
    let mut tally = Tally::new(name, cuts::PATHS);
    for (number, word) in (1..=4).flat_map(words).enumerate() {
        let profile = PROFILES[number % 3];
        let case = tally.case(format!("{profile:?}/{word}/"));
        if tally.runs(&case, 1) {
            tally.count("workloads");
            cuts::sweep(&mut tally, &case, &word, profile, 500);
        }
    }
    tally.finish();
}

#[test]
fn power_cut_in_recovery_loses_no_acknowledged_commit() {
    let name = "power_cut_in_recovery_loses_no_acknowledged_commit";
    let mut tally = Tally::new(name, &["cut of a cut", "rewritten again"]);
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
