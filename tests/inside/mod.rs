//! Tests of the whole store that write its bytes themselves, and so need the codecs.
//!
//! The library's own tests compile them (`cargo test --lib inside`). [`fuzz`](crate::local::fuzz)
//! holds what they share with the fuzzers of `fuzz/`.

#[path = "../support/allocator.rs"]
mod allocator;
#[path = "../support/counted.rs"]
mod counted;
mod fuzz_corpus;
mod hostile;
mod limits;

use crate::io::sim::SimDisk;
use crate::local::fuzz;
use crate::{LocalBackend, Result};

/// Opens a store as the fuzz targets do.
fn open(disk: &SimDisk) -> Result<LocalBackend<SimDisk>> {
    LocalBackend::open_on(disk.clone(), fuzz::options())
}
