//! Fuzz targets: functions from bytes to a verdict that panic where a promise is broken.
//!
//! Compiled into the library's own tests, and into the library with `--cfg fuzzing`, which
//! `scripts/fuzz` passes. No feature and no build of a program has them.
//!
//! Owns [`TARGETS`]. `fuzz/` runs them under libFuzzer; `tests/inside/fuzz_corpus.rs` replays its
//! corpora and seeded mutations through the same bodies. A target takes any bytes. Most mutations
//! of bytes under a checksum tell nothing but that the checksum works. So each target also has a
//! function that makes the checksums in its input right again.

mod decoders;
mod forge;
mod image;
mod operations;
mod seal;
mod seeds;
mod store;

pub use forge::Forger;
pub use image::ImageWriter;
pub use store::options;

use crate::error::Result;
use crate::io::sim::SimDisk;
use crate::local::offline::verify::VerifyReport;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Names its corpus and its binary.
    pub name: &'static str,
    /// Tries an input; true when it was accepted, false when it was refused as it must be.
    ///
    /// # Panics
    /// When a promise is broken.
    pub run: fn(&[u8]) -> bool,
    /// Makes checksums in an input right; lengths stay.
    pub seal: fn(&mut [u8]),
    /// Makes the inputs to start from, each with a name.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

/// Every target.
pub const TARGETS: [Target; 10] = [
    Target { name: "block", run: decoders::block, seal: seal::block, seeds: seeds::blocks },
    Target {
        name: "description",
        run: decoders::description,
        seal: seal::mirrored,
        seeds: seeds::descriptions,
    },
    Target {
        name: "segment_header",
        run: decoders::segment_header,
        seal: seal::mirrored,
        seeds: seeds::segment_headers,
    },
    Target {
        name: "frame_header",
        run: decoders::frame_header,
        seal: seal::frame_header,
        seeds: seeds::frame_headers,
    },
    Target {
        name: "op_table",
        run: decoders::op_table,
        seal: seal::nothing,
        seeds: seeds::op_tables,
    },
    Target { name: "cut", run: decoders::cut, seal: seal::nothing, seeds: seeds::cuts },
    Target {
        name: "file_name",
        run: decoders::file_name,
        seal: seal::nothing,
        seeds: seeds::file_names,
    },
    Target { name: "segment", run: store::segment, seal: seal::segment, seeds: seeds::segments },
    Target { name: "store", run: store::store, seal: seal::store, seeds: seeds::stores },
    Target {
        name: "operations",
        run: operations::run,
        seal: seal::nothing,
        seeds: seeds::operations,
    },
];

/// A disk with the files of an image, the input of the target `store`.
pub fn disk(image: &[u8]) -> SimDisk {
    image::Image::parse(image).disk()
}

/// [`LocalBackend::verify`](crate::LocalBackend::verify) on a simulated disk.
///
/// # Errors
/// As there.
pub fn verify(disk: &SimDisk) -> Result<VerifyReport> {
    crate::local::offline::verify::verify_store(disk)
}

/// The target of a name.
///
/// # Panics
/// When there is none.
pub fn target(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no fuzz target {name}"))
}
