//! Options drawn from a seed: what a store is opened with differs from session to session.
//!
//! Every option that limits something is drawn, mostly small, so that limits are met. What one
//! session allowed, a later one may not: blocks longer than its segments, logs longer than its
//! memory or quota.

use std::time::Duration;

use aegis_blocks::testkit::Rng;
use aegis_blocks::{Durability, LocalBackend, Options, ReadMode, WriteMode};

/// The options of one session, printed where a session fails.
#[derive(Debug, Clone)]
pub struct Drawn {
    pub segment_len_max: u64,
    pub block_len_max: u32,
    pub transaction_len_max: u64,
    pub memory_len_max: u64,
    pub in_flight_len_max: Option<u64>,
    pub open_transactions_max: u64,
    pub snapshot_pinned_max: u64,
    pub zero_ahead_len: u64,
    pub recent_len: Option<u64>,
    pub checkpoint_log_len: u64,
    pub space_amplification_max: f64,
    pub max_bytes: Option<u64>,
    pub read_mode: ReadMode,
    pub write_mode: WriteMode,
    pub durability: Durability,
    pub io_threads: usize,
    pub sync_interval_ms: u64,
}

/// One of a few values.
fn one_of<T: Copy>(rng: &mut Rng, values: &[T]) -> T {
    values[rng.below(values.len() as u64) as usize]
}

impl Drawn {
    /// What a store is opened with where nothing is asked for.
    #[allow(dead_code, reason = "some programs draw all of them")]
    pub fn defaults() -> Drawn {
        Drawn {
            segment_len_max: 64 << 20,
            block_len_max: 32 << 20,
            transaction_len_max: 1 << 30,
            memory_len_max: 256 << 20,
            in_flight_len_max: None,
            open_transactions_max: 65_536,
            snapshot_pinned_max: u64::MAX,
            zero_ahead_len: 64 << 20,
            recent_len: None,
            checkpoint_log_len: 256 << 20,
            space_amplification_max: 1.4,
            max_bytes: None,
            read_mode: ReadMode::default(),
            write_mode: WriteMode::default(),
            durability: Durability::default(),
            io_threads: 2,
            sync_interval_ms: 100,
        }
    }

    /// Draws all of them.
    pub fn draw(rng: &mut Rng) -> Drawn {
        let segment_len_max =
            one_of(rng, &[64 << 10, 64 << 10, 128 << 10, 1 << 20, 4 << 20, 16 << 20]);
        let longest = segment_len_max / 2;
        let block_len_max = one_of(rng, &[longest, longest, longest / 4 + 1, 4096, 1000]) as u32;
        let ahead = one_of(rng, &[0, segment_len_max, 8 << 20]);
        Drawn {
            segment_len_max,
            block_len_max,
            transaction_len_max: one_of(rng, &[64 << 20, 64 << 20, 2 << 20]),
            memory_len_max: one_of(rng, &[1 << 20, 1 << 20, 4 << 20, 64 << 20]),
            in_flight_len_max: one_of(rng, &[None, None, Some(1), Some(100_000)]),
            open_transactions_max: one_of(rng, &[65_536, 65_536, 64, 12]),
            snapshot_pinned_max: one_of(rng, &[u64::MAX, u64::MAX, 1 << 20, 50_000]),
            zero_ahead_len: ahead,
            recent_len: one_of(rng, &[None, Some(0), Some(100_000)]),
            checkpoint_log_len: one_of(rng, &[256 << 20, 16 << 20, 1 << 20, 64 << 10]),
            space_amplification_max: one_of(rng, &[1.4, 1.1, 1.01, 3.0]),
            max_bytes: one_of(rng, &[None, None, None, Some(64 << 20), Some(6 << 20)]),
            read_mode: one_of(rng, &[ReadMode::Copied, ReadMode::Mapped, ReadMode::Pread]),
            write_mode: one_of(rng, &[WriteMode::Direct, WriteMode::Buffered]),
            durability: one_of(
                rng,
                &[Durability::Durable, Durability::Durable, Durability::Buffered],
            ),
            io_threads: one_of(rng, &[1, 2, 4]),
            sync_interval_ms: one_of(rng, &[1, 100, u64::MAX]),
        }
    }

    /// Draws options under which the store refuses no block of up to 32 KiB, and no transaction.
    /// Its segments are short enough for a disk in memory.
    #[allow(dead_code, reason = "some programs want refusals")]
    pub fn draw_lenient(rng: &mut Rng) -> Drawn {
        let segment_len_max = one_of(rng, &[64 << 10, 64 << 10, 128 << 10, 256 << 10]);
        Drawn {
            segment_len_max,
            block_len_max: (segment_len_max / 2) as u32,
            transaction_len_max: 64 << 20,
            open_transactions_max: 65_536,
            snapshot_pinned_max: u64::MAX,
            zero_ahead_len: one_of(rng, &[0, segment_len_max]),
            max_bytes: None,
            ..Drawn::draw(rng)
        }
    }

    /// The same as the store takes them.
    pub fn options(&self) -> Options {
        let mut options = LocalBackend::options()
            .segment_len_max(self.segment_len_max)
            .block_len_max(self.block_len_max)
            .transaction_len_max(self.transaction_len_max)
            .memory_len_max(self.memory_len_max)
            .open_transactions_max(self.open_transactions_max)
            .snapshot_pinned_max(self.snapshot_pinned_max)
            .zero_ahead_len(self.zero_ahead_len)
            .checkpoint_log_len(self.checkpoint_log_len)
            .space_amplification_max(self.space_amplification_max)
            .read_mode(self.read_mode)
            .write_mode(self.write_mode)
            .durability(self.durability)
            .io_threads(self.io_threads)
            .sync_interval(Duration::from_millis(self.sync_interval_ms));
        if let Some(bytes) = self.in_flight_len_max {
            options = options.in_flight_len_max(bytes);
        }
        if let Some(bytes) = self.recent_len {
            options = options.recent_len(bytes);
        }
        if let Some(bytes) = self.max_bytes {
            options = options.max_bytes(bytes);
        }
        options
    }
}
