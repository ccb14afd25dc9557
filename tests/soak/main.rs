//! Soak: a store that is written to, read, backed up and killed for as long as one likes.
//!
//! `scripts/soak MINUTES [SEED]`, or `cargo test --test soak -- MINUTES [SEED]`; without a number
//! it takes [`SHORT`]. Two child processes work side by side ([`child`]), each on a store of its
//! own:
//!
//! 1. One is killed with SIGKILL at random times, once a minute on average (every ten seconds when
//!    the whole takes less than five minutes). After each kill the parent opens the store: each
//!    thread's blocks must be what its steps up to the last acknowledged one made, or that and the
//!    one that was under way ([`plan`]); the money must be there; `verify` and `verify_backup` must
//!    find nothing.
//! 2. One lives from the beginning to the end. Its resident memory (`VmRSS`) at the end must be
//!    within 5 % of what it was after a sixth of the time: the medians of samples, ten a second,
//!    over a twelfth of the time from there on, and over the last twelfth. (Not compared when the
//!    whole takes less than ten minutes.)
//!
//! Stores lie in the directory for temporary files (`TMPDIR`).

mod child;
mod memory;
#[path = "../support/options.rs"]
mod options;
mod parent;
mod plan;

use std::path::Path;
use std::time::Duration;

use crate::parent::Soak;

/// How long a run soaks that is given no number.
const SHORT: Duration = Duration::from_secs(12);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| -> Option<f64> { text.parse().ok() };
    if arguments.first().is_some_and(|word| word == "child") {
        let [_, dir, seed, pause] = &arguments[..] else { panic!("{arguments:?}") };
        let seed = seed.parse().expect("a seed");
        let pause = Duration::from_micros(pause.parse().expect("microseconds"));
        return child::run(Path::new(dir), seed, pause);
    }
    // Filters of `cargo test` are no numbers.
    let mut numbers = arguments.iter().filter_map(number);
    let length = numbers.next().map_or(SHORT, |minutes| Duration::from_secs_f64(60.0 * minutes));
    let seed = numbers.next().map_or(0x50AC, |seed| seed as u64);
    let every = if length < Duration::from_secs(300) {
        length.min(Duration::from_secs(60)) / 6
    } else {
        Duration::from_secs(60)
    };
    println!("soak: {length:?}, a kill every {every:?}, seed {seed}");
    let dir = tempfile::tempdir().expect("a directory");
    Soak::new(dir.path(), seed, length, every).run();
}
