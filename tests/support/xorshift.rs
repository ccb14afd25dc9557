//! Seeded random numbers for programs that do without the test kit.

/// Marsaglia's xorshift64. The seed is not 0.
#[derive(Debug)]
pub struct Rng(pub u64);

#[allow(dead_code, reason = "some programs draw numbers of one kind only")]
impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
