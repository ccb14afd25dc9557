//! The catalog: all entries of a store, by path, in memory.
//!
//! Built by one walk in id order. An entry comes before its chunks (see [`crate::entry`]), so the
//! walk remembers their ids and reads no chunk. It costs one read per file, not per block. Ids
//! still remembered at the end are missing: deleted by `rm`, or lost with damage.

use std::collections::{BTreeMap, HashSet};

use aegis_blocks::{BlockId, BlockType, Error, LocalBackend, StorageBackend, StorageExt};

use crate::entry::{Entry, Malformed};
use crate::failure::Failure;
use crate::{interrupt, output};

/// All entries of a store.
#[derive(Debug, Default)]
pub struct Catalog {
    newest: BTreeMap<Vec<u8>, Stored>,
    /// Unreferenced entries: those of imports that did not finish. In stores that another program
    /// wrote, older entries of the same path are among them.
    pub leftover: Vec<Stored>,
    /// Metadata blocks that claim to be entries and are not, or cannot be read.
    pub malformed: Vec<(BlockId, String)>,
}

/// An entry and the block it lies in.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The metadata block.
    pub id: BlockId,
    /// Its content.
    pub entry: Entry,
    /// Blocks of its content that are not in the store.
    pub missing: Vec<BlockId>,
}

impl Stored {
    /// How many blocks of its content are in a set.
    pub fn count_in(&self, blocks: &HashSet<BlockId>) -> usize {
        self.entry.content.blocks().filter(|chunk| blocks.contains(chunk)).count()
    }

    /// Whether the store holds all of the content.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

impl Catalog {
    /// Reads all entries of a store.
    pub fn scan(store: &LocalBackend) -> Result<Catalog, Failure> {
        let mut catalog = Catalog::default();
        let mut awaited: HashSet<BlockId> = HashSet::new();
        for id in store.ids_in(..)? {
            let id = id?;
            if awaited.remove(&id) {
                continue;
            }
            interrupt::check_not_stopped("the list of files was not read to its end")?;
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
                    awaited.extend(entry.content.blocks().filter(|chunk| *chunk > id));
                    catalog.add_stored(Stored { id, entry, missing: Vec::new() });
                }
                Err(Malformed::Foreign) => {}
                Err(why) => catalog.malformed.push((id, why.to_string())),
            }
        }
        catalog.find_missing(store, &awaited)?;
        Ok(catalog)
    }

    fn add_stored(&mut self, stored: Stored) {
        if stored.entry.staged {
            self.leftover.push(stored);
        } else if let Some(older) = self.newest.insert(stored.entry.path.clone(), stored) {
            self.leftover.push(older);
        }
    }

    /// Notes the chunks that the walk did not find. Chunks below their entry, which `import` never
    /// makes, are looked up one by one.
    fn find_missing(
        &mut self,
        store: &LocalBackend,
        not_met: &HashSet<BlockId>,
    ) -> Result<(), Failure> {
        for stored in self.newest.values_mut() {
            for chunk in stored.entry.content.blocks() {
                let is_missing = match chunk > stored.id {
                    true => not_met.contains(&chunk),
                    false => !store.block_exists(chunk)?,
                };
                if is_missing {
                    stored.missing.push(chunk);
                }
            }
        }
        Ok(())
    }

    /// The complete entries in path order: a directory comes before its entries.
    pub fn newest(&self) -> impl Iterator<Item = (&[u8], &Stored)> {
        self.newest.iter().map(|(path, stored)| (path.as_slice(), stored))
    }

    /// The complete entry of a path.
    pub fn get(&self, path: &[u8]) -> Option<&Stored> {
        self.newest.get(path)
    }

    /// Names the entries of [`Catalog::malformed`] on standard error.
    pub fn report_malformed(&self) {
        for (id, why) in &self.malformed {
            output::warn(format_args!("block {id}: {why}"));
        }
    }
}
