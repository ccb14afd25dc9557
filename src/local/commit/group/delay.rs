//! The commit delay: which callers a group is held for, and for how long.
//!
//! Owns the count of expected callers. A closed loop of T callers tends to split into groups that
//! alternate, because the first caller back finds the log free. So after a group write has ended,
//! the core expects its members to come back, and holds the next group for them. It holds the group
//! no longer than [`Pace::wait_max`] after the write, nor than [`Pace::gap_max`] after the latest
//! arrival. A lone caller expects only itself and never waits.

use std::time::Duration;

/// The commit delay: how long the core may hold a group for expected callers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// After the group write that started the wait, at least, whatever has arrived.
    pub(crate) wait_min: Duration,
    /// After the group write that started the wait, at most.
    pub(crate) wait_max: Duration,
    /// After the latest arrival, at most.
    pub(crate) gap_max: Duration,
    /// Whether a group that is written while another one is can pay.
    pub(crate) may_overlap: bool,
}

/// A device that takes longer than this for a group does not gain by a second one.
const FAST_GROUP: Duration = Duration::from_millis(3);

impl Pace {
    /// The delay if a group takes `group_time` to write and sync: always less than the group that
    /// it saves, and never long after the last arrival.
    pub(crate) fn for_group_time(group_time: Duration) -> Pace {
        Pace {
            may_overlap: group_time < FAST_GROUP,
            wait_min: (group_time / 5).min(Duration::from_micros(250)),
            wait_max: (group_time * 3 / 4).min(Duration::from_micros(1000)),
            gap_max: (group_time / 2).min(Duration::from_micros(250)),
        }
    }
}

/// The expected callers.
#[derive(Debug, Default)]
pub(super) struct CommitDelay {
    /// Answered and not back yet.
    pub(super) expected_count: usize,
    /// The most callers that were at work lately; decays by an eighth with each group.
    pub(super) recent_caller_count: usize,
    /// Arrivals since the last group write ended.
    arrival_count: usize,
    ended_at: Duration,
    arrived_at: Duration,
}

impl CommitDelay {
    /// Counts a caller that has submitted.
    pub(super) fn count_arrival(&mut self, now: Duration) {
        self.arrived_at = now;
        self.arrival_count += 1;
        self.expected_count = self.expected_count.saturating_sub(1);
    }

    /// Notes the callers that are at work as a group is formed.
    pub(super) fn note_callers(&mut self, count: usize) {
        self.recent_caller_count = count.max(self.recent_caller_count * 7 / 8);
    }

    /// Expects `count` answered callers back.
    pub(super) fn expect_callers(&mut self, now: Duration, count: usize) {
        (self.ended_at, self.arrival_count) = (now, 0);
        self.expected_count += count;
    }

    /// The time until which `waiting` commits in the queue are held for the expected ones.
    pub(super) fn hold_deadline(&self, pace: &Pace, waiting: usize) -> Duration {
        // The arrivals so far took `now - ended_at`. The queue as a whole waits as long again, for
        // as many more. That pays while it is less than a group write.
        let (arrived, waiting) = (self.arrival_count as u32 + 1, waiting as u32);
        let worth = (pace.wait_max * arrived / waiting).max(pace.wait_min);
        (self.ended_at + worth.min(pace.wait_max))
            .min(self.arrived_at.max(self.ended_at) + pace.gap_max)
    }
}
