//! Places: where in a store's files damage or a failure is, for errors.

use std::path::{Path, PathBuf};

use crate::block::BlockId;
use crate::error::{Defect, Error, Place, Result};
use crate::io::FileName;

/// One damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// What is wrong.
    pub defect: Defect,
    /// Where.
    pub place: Place,
}

/// A place in a file.
pub(crate) fn place(file: FileName, offset: u64) -> Place {
    Place { file: file.to_string(), offset, lsn: None, block: None }
}

impl Place {
    pub(crate) fn with_block(mut self, id: BlockId) -> Place {
        self.block = Some(id);
        self
    }
}

/// Damage to a whole file.
pub(crate) fn damaged(file: FileName, offset: u64, defect: Defect) -> Error {
    Error::Corrupt { defect, place: place(file, offset) }
}

/// The path of a store's file, for messages.
pub(crate) fn path_of(directory: &Path, name: FileName) -> PathBuf {
    directory.join(name.to_string())
}

/// The damage that an error reports; any other error stays one.
pub(crate) fn damage_of_error(error: Error) -> Result<Damage> {
    match error {
        Error::Corrupt { defect, place } => Ok(Damage { defect, place }),
        other => Err(other),
    }
}
