//! How much is tried, what was seen, and how to try one failure again.
//!
//! `AEGIS_SWEEP` multiplies the share of all cases that is run: 1, the default, takes about a
//! minute, 1000 runs every case, 8 every operation and fault in one way. `AEGIS_SWEEP_ONLY` runs
//! one case by its name.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use super::workload::hash;
use crate::counted;

/// At this scale nothing is left out.
const WHOLE: u64 = 1000;
/// From this scale on, of what can be tried in several ways each is tried in one at least.
const LONG: u64 = 8;

/// What a test tries and what it has seen.
pub struct Tally {
    test: &'static str,
    scale: u64,
    only: Option<String>,
    counts: BTreeMap<&'static str, u64>,
    paths: BTreeMap<&'static str, u64>,
    left_out: Cell<u64>,
}

impl Tally {
    /// Starts a test; each of `paths` must be taken at least once.
    pub fn new(test: &'static str, paths: &[&'static str]) -> Tally {
        let scale = std::env::var("AEGIS_SWEEP").map_or(1, |text| {
            text.parse().unwrap_or_else(|_| panic!("AEGIS_SWEEP={text} is not a number"))
        });
        let only = std::env::var("AEGIS_SWEEP_ONLY").ok();
        let paths = paths.iter().map(|path| (*path, 0)).collect();
        let (counts, left_out) = (BTreeMap::new(), Cell::new(0));
        Tally { test, scale, only, counts, paths, left_out }
    }

    /// Names a case of this test.
    pub fn case(&self, name: String) -> Case {
        Case { test: self.test, name }
    }

    /// Whether to run a case: all of them when `share` is 1 or less at the default scale, otherwise
    /// one in `share`, spread by the hash of its name. A case whose name another one begins with is
    /// run for that one's sake.
    pub fn runs(&self, case: &Case, share: u64) -> bool {
        match &self.only {
            Some(only) => only.starts_with(&case.name),
            None => {
                let kept = self.scale.min(WHOLE);
                let share = if kept == WHOLE { 1 } else { share.div_ceil(kept) };
                let runs = share <= 1 || spread(&case.name).is_multiple_of(share);
                self.left_out.set(self.left_out.get() + u64::from(!runs));
                runs
            }
        }
    }

    /// Whether to try everything in one way at least.
    pub fn is_long(&self) -> bool {
        self.scale >= LONG
    }

    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// As [`Tally::count_replacement`], for several at once, or none: a figure that is zero is
    /// printed too.
    pub fn add(&mut self, what: &'static str, count: u64) {
        *self.counts.entry(what).or_default() += count;
    }

    /// A path was taken.
    pub fn took(&mut self, path: &'static str, taken: bool) {
        let count = self.paths.get_mut(path);
        *count.unwrap_or_else(|| panic!("{path} is no path of {}", self.test)) += u64::from(taken);
    }

    /// Prints what was seen, and fails when a path was never taken.
    pub fn finish(self) {
        let paths: Vec<_> = self.paths.keys().copied().collect();
        self.finish_some(&paths);
    }

    /// As [`Tally::finish`], where only some paths must have been taken.
    pub fn finish_some(self, needed: &[&str]) {
        println!("{}: {:?}; paths {:?}", self.test, self.counts, self.paths);
        let missed: Vec<_> = needed.iter().filter(|path| self.paths[*path] == 0).collect();
        assert!(self.only.is_some() || missed.is_empty(), "{}: never {missed:?}", self.test);
        for (what, count) in &self.counts {
            counted::tell(what, *count);
        }
        counted::tell("cases left out", self.left_out.get());
    }
}

/// FNV alone leaves the low bits of similar names alike.
fn spread(name: &str) -> u64 {
    let hash = hash(name.as_bytes());
    (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

/// One case: says how to run it again when it fails.
pub struct Case {
    test: &'static str,
    name: String,
}

impl Case {
    /// A case within this one.
    pub fn within(&self, part: impl fmt::Display) -> Case {
        Case { test: self.test, name: format!("{}{part}/", self.name) }
    }

    /// A seed of its own.
    pub fn seed(&self) -> u64 {
        // Independent of what `runs` looks at.
        spread(&self.name).wrapping_mul(0x94d0_49bb_1331_11eb) >> 23
    }

    /// Says what the case tries, should it fail.
    pub fn trying(&self, what: impl fmt::Debug) -> Trying<'_> {
        Trying { case: self, what: format!("{what:?}") }
    }
}

/// Reports its case when the test panics.
pub struct Trying<'a> {
    case: &'a Case,
    what: String,
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Case { test, name } = self.case;
            eprintln!("failed: {test}, case {name}, trying {}", self.what);
            eprintln!("replay: AEGIS_SWEEP_ONLY={name} cargo test --test crash {test}");
        }
    }
}
