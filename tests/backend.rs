//! The contract, held against every backend of the crate.

use aegis_blocks::MemoryBackend;
use aegis_blocks::conformance_suite;
use aegis_blocks::testkit::Fixture;

/// Memory forgets, so it has nothing to open again.
struct Memory;

impl Fixture for Memory {
    type Backend = MemoryBackend;

    fn open(&self) -> MemoryBackend {
        MemoryBackend::new()
    }

    fn reopen(&self, _: MemoryBackend) -> Option<MemoryBackend> {
        None
    }
}

conformance_suite!(memory, Memory);
