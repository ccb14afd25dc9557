//! The directory of a backup: reads a manifest, or makes an empty directory for a new backup.

use std::path::Path;

use crate::error::{Defect, Error, IoOp, NotAStoreReason, Result};
use crate::io::os::OsDisk;
use crate::io::{Disk, DiskFile, Entry, FileName, How, read_exact_at};
use crate::local::format::FORMAT_VERSION;
use crate::local::format::manifest::Manifest;
use crate::local::format::mirrored::Unreadable;
use crate::local::format::place::{damaged, path_of};
use crate::local::options::open_error;

/// A longer manifest would list more files than a directory takes.
const MANIFEST_LEN_MAX: u64 = 256 << 20;

/// Reads the list of a backup's files.
///
/// # Errors
/// [`Error::NotAStore`]: there is none. [`Error::Corrupt`], [`Error::UnsupportedFormat`],
/// [`Error::Io`].
pub(crate) fn read_manifest<S: Disk>(backup: &S) -> Result<Manifest> {
    let path = path_of(backup.path(), FileName::Manifest);
    let file = match backup.open(FileName::Manifest, How::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let path = backup.path().to_path_buf();
            return Err(Error::NotAStore { path, reason: NotAStoreReason::NoManifest });
        }
        Err(e) => return Err(Error::io(IoOp::Open, path, e)),
    };
    let len = file.len().map_err(|e| Error::io(IoOp::Read, &path, e))?;
    if len > MANIFEST_LEN_MAX {
        return Err(damaged(FileName::Manifest, 0, Defect::Manifest));
    }
    let mut bytes = vec![0; len as usize];
    read_exact_at(&file, 0, &mut bytes).map_err(|e| Error::io(IoOp::Read, &path, e))?;
    Manifest::decode(&bytes).map_err(|unreadable| match unreadable {
        Unreadable::Damaged => damaged(FileName::Manifest, 0, Defect::Manifest),
        Unreadable::Newer(found) => {
            let path = backup.path().to_path_buf();
            Error::UnsupportedFormat { path, found, supported: FORMAT_VERSION }
        }
    })
}

/// Opens a directory for copies, making it where it is missing.
///
/// # Errors
/// [`Error::NotEmpty`], [`Error::NotAStore`] when it is no directory, [`Error::Io`].
pub(crate) fn open_empty_directory(path: &Path) -> Result<OsDisk> {
    let disk = OsDisk::open_or_create(path).map_err(|source| open_error(path, source))?;
    check_directory_empty(&disk)?;
    Ok(disk)
}

pub(crate) fn check_directory_empty<T: Disk>(target: &T) -> Result<()> {
    let listed: Vec<Entry> = target.list().map_err(|e| Error::io(IoOp::List, target.path(), e))?;
    match listed.is_empty() {
        true => Ok(()),
        false => Err(Error::NotEmpty { path: target.path().to_path_buf() }),
    }
}
