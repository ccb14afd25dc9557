//! Payloads and choices, both from SplitMix64 (Steele, Lea, Flood 2014) and so the same every time.

use bytes::Bytes;

/// Memory for all payloads of a cell, at most.
const PAYLOADS_LEN_MAX: usize = 256 << 20;
const PAYLOADS_PER_THREAD_MAX: usize = 32;

/// A generator of numbers.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// Starts at a seed. Each seed has a place of its own in the one sequence, far from those of
    /// its neighbours. Threads that follow each other through it would write the same blocks.
    pub fn new(seed: u64) -> Noise {
        let mut place = Noise(seed);
        Noise(place.next())
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`, which is above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Ready payloads of one thread: a few, all different; they repeat.
#[derive(Clone)]
pub struct Payloads(Vec<Bytes>);

impl Payloads {
    /// Makes the payloads of one of `threads` threads.
    pub fn new(threads: usize, thread: usize, size: usize) -> Payloads {
        let count = (PAYLOADS_LEN_MAX / (threads * size)).clamp(1, PAYLOADS_PER_THREAD_MAX);
        let one = |i| Bytes::from(Noise::new((thread as u64) << 32 | i as u64).bytes(size));
        Payloads((0..count).map(one).collect())
    }

    /// The payload of a number.
    pub fn get(&self, number: u64) -> &Bytes {
        &self.0[(number % self.0.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_seeds_share_no_number() {
        let drawn = |seed| {
            let mut noise = Noise::new(seed);
            (0..1000).map(move |_| noise.next())
        };
        let all: std::collections::HashSet<u64> = (0..64).flat_map(drawn).collect();
        assert_eq!(all.len(), 64 * 1000);
    }

    #[test]
    fn payloads_are_as_long_as_asked_and_differ() {
        let (one, two) = (Payloads::new(2, 0, 13), Payloads::new(2, 1, 13));
        assert_eq!(one.get(0).len(), 13);
        assert_ne!(one.get(0), two.get(0));
        assert_ne!(one.get(0), one.get(1));
        assert_eq!(one.get(0), one.get(PAYLOADS_PER_THREAD_MAX as u64));
    }
}
