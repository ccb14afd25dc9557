//! Company: whom a group is held for, and for how long.
//!
//! Owns the count of callers that are expected back. A closed loop of T callers tends to split into groups
//! that take turns, because the first caller back finds the log free. So after a group has landed the core
//! expects its members, and those that queued meanwhile, to come back, and holds the next group for them:
//! never longer than [`Pace::wait_max`] after the landing, nor than [`Pace::gap_max`] after the latest
//! arrival. A lone caller expects only itself and never waits.

use std::time::Duration;

/// How long the core may hold a group for expected company.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// After the landing that started the wait, whatever has arrived.
    pub(crate) wait_min: Duration,
    /// After the landing that started the wait.
    pub(crate) wait_max: Duration,
    /// After the latest arrival.
    pub(crate) gap_max: Duration,
    /// Groups under way at once, if there is a crowd to fill them.
    pub(crate) flight_count: usize,
}

/// A device that takes longer than this for a group does not gain by a second one.
const FAST_FLIGHT: Duration = Duration::from_millis(3);

impl Pace {
    /// The pace when a group takes `flight_time` to write and sync: always less than the group that is
    /// saved, and never long after the last arrival.
    pub(crate) fn for_flight_time(flight_time: Duration) -> Pace {
        Pace {
            flight_count: if flight_time < FAST_FLIGHT { 2 } else { 1 },
            wait_min: (flight_time / 5).min(Duration::from_micros(250)),
            wait_max: (flight_time * 3 / 4).min(Duration::from_micros(1000)),
            gap_max: (flight_time / 2).min(Duration::from_micros(250)),
        }
    }
}

/// Callers expected back.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// Answered and not back yet.
    pub(super) awaited: usize,
    /// The most that were at work lately.
    pub(super) crowd: usize,
    /// Since the landing.
    arrival_count: usize,
    landed_at: Duration,
    arrived_at: Duration,
}

impl Company {
    /// A caller has come.
    pub(super) fn count_arrival(&mut self, now: Duration) {
        self.arrived_at = now;
        self.arrival_count += 1;
        self.awaited = self.awaited.saturating_sub(1);
    }

    /// So many callers are answered, and may be back soon.
    pub(super) fn expect_callers(&mut self, now: Duration, count: usize) {
        (self.landed_at, self.arrival_count) = (now, 0);
        self.awaited += count;
    }

    /// Until when so many of them, in the queue, are held for the others.
    pub(super) fn hold_deadline(&self, pace: &Pace, waiting: usize) -> Duration {
        // The arrivals so far took `now - landed_at`; the queue waits as long again, as a whole, for
        // as many more. That pays while it is less than a flight.
        let (arrived, waiting) = (self.arrival_count as u32 + 1, waiting as u32);
        let worth = (pace.wait_max * arrived / waiting).max(pace.wait_min);
        (self.landed_at + worth.min(pace.wait_max))
            .min(self.arrived_at.max(self.landed_at) + pace.gap_max)
    }
}
