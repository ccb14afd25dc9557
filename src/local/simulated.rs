//! The store on the simulated disk, compiled with the library.
//!
//! Owns nothing. Each program that opens a store on [`SimDisk`] would otherwise compile the whole
//! engine for it. Where the compiler shares generic code between crates, which it does up to
//! `opt-level = 1`, a program takes what is compiled here: 1 s of a test program's build, not 7.

use super::{LocalBackend, Options};
use crate::backend::StorageBackend;
use crate::error::Result;
use crate::io::sim::SimDisk;

impl SimDisk {
    /// Opens a store on this disk, for code that takes any backend.
    ///
    /// ```
    /// use aegis_blocks::io::sim::SimDisk;
    /// use aegis_blocks::{Block, BlockId, BlockType, Options};
    ///
    /// let disk = SimDisk::new(7);
    /// let store = disk.open_store(Options::default())?;
    /// store.write_block(Block::new(BlockId(1), BlockType::TableData, "kept"))?;
    /// # Ok::<(), aegis_blocks::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`LocalBackend::open_on`].
    pub fn open_store(&self, options: Options) -> Result<Box<dyn StorageBackend>> {
        Ok(Box::new(LocalBackend::open_on(self.clone(), options)?))
    }
}
