//! What every part of the engine knows of a version, whatever a backend makes of one.

/// What everybody knows of a version.
pub(crate) trait VersionLen: Clone + Send + Sync {
    /// Its payload's length.
    fn payload_len(&self) -> u64;

    /// Where it is kept; versions that are never moved need not say.
    fn place(&self) -> u64 {
        0
    }
}
