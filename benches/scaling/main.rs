//! How group commit scales, by simulation: the product's own commit core
//! (`src/local/commit/group/mod.rs`) under a virtual clock, with models of devices and of a
//! machine's cores. `cargo bench --bench scaling`.
//!
//! Prints throughput, latency and group size over callers for each device and number of cores.
//! Prints also the effect of a shorter or longer commit delay, and of several groups under way.
//! Deterministic: the same seed ([`SEED`]) prints the same. docs/scaling.md says what follows.
#![allow(dead_code, unused_imports, reason = "a simulation uses a part of each module")]

#[path = "../../src/block.rs"]
mod block;
#[path = "../../src/checksum.rs"]
mod checksum;
#[path = "../../src/error/mod.rs"]
mod error;
#[path = "../../src/local"]
mod local {
    pub(crate) mod commit {
        pub(crate) mod group;
    }
}
#[path = "../../src/mvcc"]
mod mvcc {
    pub(crate) mod batch;
    pub(crate) mod unpublished;
}

mod device;
mod machine;
#[path = "../../tests/support/xorshift.rs"]
mod xorshift;

use std::time::Duration;

use device::{DEVICES, Device, MEASURED};
use machine::{Machine, Outcomes, Setup};

use xorshift::Rng;

const SEED: u64 = 0x5ca1_e5ee_d000_0001;
const CALLERS: [usize; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
const CORES: [usize; 4] = [2, 4, 8, 64];
const COMMITS_MIN: usize = 4000;
const GROUPS_MIN: usize = 40;

fn run(setup: Setup) -> Outcomes {
    Machine::new(setup, SEED).run(COMMITS_MIN.max(setup.callers * GROUPS_MIN))
}

/// A product's setting.
fn plain(device: Device, callers: usize, cores: usize) -> Setup {
    Setup { device, callers, cores, groups: None, patience: 1.0 }
}

fn time(time: Duration) -> String {
    match time.as_micros() {
        us @ 0..10_000 => format!("{us} us"),
        us => format!("{:.1} ms", us as f64 / 1e3),
    }
}

fn over_callers(device: Device, cores: usize) {
    println!("\n{}, {cores} cores", device.name);
    println!("{:>8} {:>12} {:>10} {:>10} {:>8}", "callers", "commits/s", "p50", "p99", "group");
    let (mut last, mut knee) = (None, None);
    for callers in CALLERS {
        let Outcomes { commits_per_s, p50, p99, group } = run(plain(device, callers, cores));
        println!(
            "{callers:>8} {commits_per_s:>12.0} {:>10} {:>10} {group:>8.1}",
            time(p50),
            time(p99)
        );
        // Twice the callers no longer give half as much again.
        if last.is_some_and(|(_, before)| commits_per_s < 1.5 * before) {
            knee = knee.or(last.map(|(callers, _)| callers));
        }
        last = Some((callers, commits_per_s));
    }
    println!("knee: {}", knee.map_or("none".to_string(), |callers| format!("{callers} callers")));
}

/// Other settings over the product's: throughput, and the median latency in brackets.
fn variants(cores: usize) {
    let names = ["no wait", "half", "twice", "1 group", "2 from 4 on", "4 groups"];
    let (one, two, four) = (Some((1, 1)), Some((2, 4)), Some((4, 12)));
    let others = [(0.0, None), (0.5, None), (2.0, None), (1.0, one), (1.0, two), (1.0, four)];
    println!("\nothers over the product's commits/s (its p99), {cores} cores");
    print!("{:>8} {:>8}", "device", "callers");
    names.iter().for_each(|name| print!(" {name:>14}"));
    println!();
    for device in DEVICES {
        for callers in [1, 8, 64, 512] {
            let own = run(plain(device, callers, cores));
            print!("{:>8} {callers:>8}", device.name);
            for (patience, groups) in others {
                let other = run(Setup { patience, groups, ..plain(device, callers, cores) });
                let rate = other.commits_per_s / own.commits_per_s;
                let p99 = other.p99.as_secs_f64() / own.p99.as_secs_f64();
                print!(" {:>14}", format!("{rate:.2} ({p99:.2})"));
            }
            println!();
        }
    }
}

/// Measurements of docs/performance.md on 2 cores: callers, commits a second, commits a group.
const MEASUREMENTS: [(usize, f64, f64); 3] =
    [(1, 5998.0, 1.0), (8, 23961.0, 6.9), (64, 75235.0, 52.1)];

/// How near the model is.
fn beside_measurements() {
    println!("the model beside what was measured, 2 cores");
    println!("{:>8} {:>10} {:>10} {:>8} {:>8}", "callers", "measured", "model", "group", "model");
    for (callers, measured, group) in MEASUREMENTS {
        let model = run(plain(MEASURED, callers, 2));
        let (rate, own) = (model.commits_per_s, model.group);
        println!("{callers:>8} {measured:>10.0} {rate:>10.0} {group:>8.1} {own:>8.1}");
    }
}

fn main() {
    println!("seed {SEED:#x}");
    beside_measurements();
    for device in DEVICES {
        CORES.iter().for_each(|cores| over_callers(device, *cores));
    }
    [2, 8].into_iter().for_each(variants);
}
