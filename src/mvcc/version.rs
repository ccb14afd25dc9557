//! The properties of a version that do not depend on the backend.

/// A version of a block.
pub(crate) trait VersionLen: Clone + Send + Sync {
    /// Its payload's length.
    fn payload_len(&self) -> u64;

    /// Its place; versions that are never relocated need not say.
    fn place(&self) -> u64 {
        0
    }
}
