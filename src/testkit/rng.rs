//! Seeded random numbers: the same seed gives the same run on every machine.
//!
//! Owns [`Rng`] and the choice of the seed ([`seed`]). Not fit for salts or keys.

use bytes::Bytes;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, fast, and good enough for tests.
///
/// # Examples
/// ```
/// use aegis_blocks::testkit::Rng;
/// let (mut a, mut b) = (Rng::new(7), Rng::new(7));
/// assert_eq!(a.next_u64(), b.next_u64());
/// assert!(a.below(10) < 10);
/// ```
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Makes a generator; equal seeds give equal sequences.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// Returns the next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number in `0..bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a random number below 0 does not exist");
        // The bias is at most bound / 2^64.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns true once in `times` calls on average.
    ///
    /// # Panics
    /// If `times` is 0.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Returns `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Bytes {
        let mut out = Vec::with_capacity(len + 7);
        while out.len() < len {
            out.extend_from_slice(&self.next_u64().to_le_bytes());
        }
        out.truncate(len);
        out.into()
    }
}

/// Returns the seed of a run: the environment variable `AEGIS_SEED` where it is set, else `fixed`.
///
/// # Panics
/// If the variable is set and is not a number.
pub fn seed(fixed: u64) -> u64 {
    number_from_env("AEGIS_SEED").unwrap_or(fixed)
}

/// Returns how many times the length of the seeded runs is multiplied: the environment variable
/// `AEGIS_SOAK` where it is set, else 1.
///
/// # Panics
/// If the variable is set and is not a number.
pub fn soak() -> u64 {
    number_from_env("AEGIS_SOAK").unwrap_or(1)
}

fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{name}={text} is not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_of_a_seed_never_changes() {
        let mut rng = Rng::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        // The first three of the reference implementation for this seed.
        assert_eq!(
            first,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut rng = Rng::new(3);
        let mut seen = [false; 5];
        for _ in 0..1000 {
            seen[rng.below(5) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(rng.below(1), 0);
    }

    #[test]
    fn bytes_have_the_length_asked_for() {
        let mut rng = Rng::new(9);
        for len in [0, 1, 7, 8, 9, 4096] {
            assert_eq!(rng.bytes(len).len(), len);
        }
    }
}
