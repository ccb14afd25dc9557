//! Devices: how long a write and its sync take.

use std::time::Duration;

use crate::Rng;

/// A model of a device.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    pub name: &'static str,
    /// A write with its sync, at least.
    fixed: Duration,
    /// Added to that, evenly distributed.
    spread: Duration,
    /// One in a hundred takes so much longer.
    tail: Duration,
    /// Bytes a second behind that.
    bandwidth: u64,
}

/// The disk of docs/performance.md, for comparison with what was measured there.
pub const MEASURED: Device = Device {
    name: "virtio",
    fixed: us(125),
    spread: us(40),
    tail: us(200),
    bandwidth: 2_000_000_000,
};

const fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

pub const DEVICES: [Device; 4] = [
    // Half a turn of 7200 a minute to a whole one, and a seek now and then.
    Device {
        name: "HDD",
        fixed: us(4000),
        spread: us(8000),
        tail: us(12_000),
        bandwidth: 150_000_000,
    },
    Device {
        name: "cloud",
        fixed: us(1000),
        spread: us(1000),
        tail: us(8000),
        bandwidth: 250_000_000,
    },
    Device { name: "NVMe", fixed: us(90), spread: us(20), tail: us(300), bandwidth: 2_000_000_000 },
    Device { name: "pmem", fixed: us(5), spread: us(1), tail: us(10), bandwidth: 4_000_000_000 },
];

impl Device {
    /// How long this write of so many bytes takes.
    pub fn write_time(&self, len: u64, rng: &mut Rng) -> Duration {
        let spread = Duration::from_nanos(rng.below(self.spread.as_nanos() as u64 + 1));
        let tail = if rng.below(100) == 0 { self.tail } else { Duration::ZERO };
        let transfer = Duration::from_secs_f64(len as f64 / self.bandwidth as f64);
        self.fixed + spread + tail + transfer
    }
}
