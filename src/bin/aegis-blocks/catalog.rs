//! The catalog: all entries of a store, by path, in memory.
//!
//! Built by one walk in id order. An entry comes before its chunks (see [`crate::entry`]), so the
//! walk remembers their ids and reads none of them: it costs one read per file, not per block.

use std::collections::{BTreeMap, HashSet};

use aegis_blocks::{BlockId, BlockType, Error, LocalBackend, StorageBackend};

use crate::entry::{Entry, Malformed};
use crate::failure::Failure;

/// All entries of a store.
#[derive(Debug, Default)]
pub struct Catalog {
    newest: BTreeMap<Vec<u8>, Stored>,
    /// What nobody reaches any more: entries of imports that did not finish, and, in stores that
    /// something else than `import` wrote, older entries of the same path.
    pub leftover: Vec<Stored>,
    /// Metadata blocks that claim to be entries and are not, or cannot be read.
    pub malformed: Vec<(BlockId, String)>,
}

/// An entry and the block it lies in.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The metadata block.
    pub id: BlockId,
    /// What it says.
    pub entry: Entry,
}

impl Catalog {
    /// Reads all entries of a store.
    pub fn scan(store: &LocalBackend) -> Result<Catalog, Failure> {
        let mut catalog = Catalog::default();
        let mut chunks: HashSet<BlockId> = HashSet::new();
        for id in store.ids(..)? {
            if chunks.remove(&id) {
                continue;
            }
            let block = match store.read_block(id) {
                Ok(block) => block,
                Err(error @ Error::Corrupt { .. }) => {
                    catalog.malformed.push((id, error.to_string()));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if block.header.block_type != BlockType::Metadata {
                continue;
            }
            match Entry::decode(&block.data) {
                Ok(entry) => {
                    chunks.extend(entry.content.chunks().iter().filter(|chunk| **chunk > id));
                    catalog.add(Stored { id, entry });
                }
                Err(Malformed::Foreign) => {}
                Err(why) => catalog.malformed.push((id, why.to_string())),
            }
        }
        Ok(catalog)
    }

    fn add(&mut self, stored: Stored) {
        if stored.entry.staged {
            self.leftover.push(stored);
        } else if let Some(older) = self.newest.insert(stored.entry.path.clone(), stored) {
            self.leftover.push(older);
        }
    }

    /// The complete entries in path order: a directory comes before what lies in it.
    pub fn newest(&self) -> impl Iterator<Item = (&[u8], &Stored)> {
        self.newest.iter().map(|(path, stored)| (path.as_slice(), stored))
    }

    /// The complete entry of a path.
    pub fn get(&self, path: &[u8]) -> Option<&Stored> {
        self.newest.get(path)
    }

    /// Names on standard error what [`Catalog::malformed`] holds.
    pub fn report_malformed(&self) {
        for (id, why) in &self.malformed {
            eprintln!("aegis-blocks: block {id}: {why}");
        }
    }
}
