//! Resident memory of a process, sampled over its life.

use std::time::{Duration, Instant};

/// In a shorter soak a sixth of the time is within the warming up.
const STEADY_FROM: Duration = Duration::from_secs(600);

/// Samples with the time since the beginning.
pub struct Memory {
    pid: u32,
    started: Instant,
    samples: Vec<(Duration, [u64; 2])>,
}

impl Memory {
    pub fn of(pid: u32) -> Memory {
        Memory { pid, started: Instant::now(), samples: Vec::new() }
    }

    /// Takes a sample: `VmRSS`, and `RssAnon`, which leaves out mapped files.
    pub fn sample(&mut self) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let status = status.expect("the process lives");
        let kib = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number.and_then(|number| number.parse().ok()).expect("a number of KiB")
        };
        let sizes = [kib("VmRSS"), kib("RssAnon")];
        self.samples.push((self.started.elapsed(), sizes));
    }

    /// The median sizes between two shares of a length of time, in KiB.
    fn median(&self, length: Duration, from: f64, to: f64) -> [u64; 2] {
        let within = |at: &Duration| *at >= length.mul_f64(from) && *at < length.mul_f64(to);
        [0, 1].map(|which| {
            let chosen = self.samples.iter().filter(|(at, _)| within(at));
            let mut sizes: Vec<u64> = chosen.map(|(_, sizes)| sizes[which]).collect();
            sizes.sort_unstable();
            *sizes.get(sizes.len() / 2).expect("samples of that time")
        })
    }

    /// Median resident KiB of each tenth of the time.
    fn tenths(&self, length: Duration) -> Vec<u64> {
        let tenth = |n| f64::from(n) / 10.0;
        (0..10).map(|n| self.median(length, tenth(n), tenth(n + 1))[0]).collect()
    }

    /// Compares the end with a sixth.
    pub fn check(&self, length: Duration) {
        let early = self.median(length, 1.0 / 6.0, 0.25);
        let late = self.median(length, 11.0 / 12.0, 2.0);
        let ratio = late[0] as f64 / early[0] as f64;
        println!(
            "resident memory: {} KiB (anonymous {}) after a sixth, {} KiB (anonymous {}) at the end: \
             {ratio:.3}",
            early[0], early[1], late[0], late[1]
        );
        if length < STEADY_FROM {
            println!(
                "skipped: memory is not compared within {STEADY_FROM:?}, when memory still warms up"
            );
        } else {
            assert!(
                ratio <= 1.05,
                "memory grew by more than 5 %; by tenths of the time: {:?}",
                self.tenths(length)
            );
        }
    }
}
