//! The order in which a range is walked.
//!
//! Owns [`ScanOrder`] and its comparison.

/// The end of a range at which a scan begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ScanOrder {
    /// From the lowest id up.
    #[default]
    Ascending,
    /// From the highest id down.
    Descending,
}

impl ScanOrder {
    /// Whether a scan comes to `a` before it comes to `b`.
    pub fn is_before<T: Ord>(self, a: T, b: T) -> bool {
        match self {
            ScanOrder::Ascending => a < b,
            ScanOrder::Descending => a > b,
        }
    }
}
