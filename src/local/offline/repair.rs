//! Repair: replaces a damaged store by a salvaged copy.
//!
//! Owns the order of names. At each moment the path holds a whole store, the damaged or the
//! repaired one:
//!
//! 1. Lock and verify the damaged store. Without damage nothing happens.
//! 2. Copy its intact blocks into a new store, `<store>.repairing-<n>`. Close it, which makes it
//!    durable, and verify it.
//! 3. Exchange the names of the two directories, durably. This is the commit point.
//! 4. Rename the damaged store to `<store>.before-repair-<n>`. Its files were never written.
//!
//! A repair interrupted before step 3 leaves the unfinished copy as `.repairing-<n>`; between 3 and
//! 4, that name is the damaged store's. No later repair takes either name.
//!
//! A store behind a symbolic link is repaired and kept in its own directory, and the link is
//! unchanged.

use std::path::{Path, PathBuf};

use crate::callback;
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::FileName;
use crate::io::os::{OsDisk, OsFile, is_mount_point, rename_directory, swap_directories};
use crate::local::format::place::{Damage, damaged};
use crate::local::offline::salvage::{Salvage, SalvageReport};
use crate::local::offline::verify::{verify_locked, verify_store};
use crate::local::options::open_error;
use crate::local::recovery::identity::{lock_store, lock_store_shared};
use crate::local::recovery::listing::{Listing, list_store};

/// The operation that some file systems do not have (NFS, CIFS, FAT, some FUSE).
const EXCHANGE: &str = "an exchange of two directories, as its file system has none: the \
                        repaired store is whole in the directory <store>.repairing-<n> beside the \
                        damaged one";

/// A mount point cannot be renamed, and the directory beside it is on another file system.
const VOLUME: &str =
    "the repair of a store that is a whole volume: salvage it into another directory";

/// The outcome of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// The damage, as [`LocalBackend::verify`](crate::LocalBackend::verify) lists it. If it is
    /// empty, nothing was done.
    pub damage: Vec<Damage>,
    /// The blocks that were copied and lost.
    pub salvage: SalvageReport,
    /// The directory of the damaged store; `None` if nothing was done.
    pub copy: Option<PathBuf>,
}

/// Makes a new store at a path and copies into it.
pub(crate) type CopyInto = fn(Salvage<OsFile>, &Path) -> Result<SalvageReport>;

/// See [`LocalBackend::salvage`](crate::LocalBackend::salvage).
pub(crate) fn salvage_into(path: &Path, out: &Path, copy: CopyInto) -> Result<SalvageReport> {
    // This call closes the copy.
    callback::check_may_close()?;
    let disk = OsDisk::open(path).map_err(|source| open_error(path, source))?;
    list_store(&disk, false)?;
    let _lock = lock_store_shared(&disk)?;
    let listing = list_store(&disk, false)?;
    check_out_path(path, out)?;
    copy(Salvage::plan_copy(&disk, &listing)?, out)
}

/// See [`LocalBackend::repair`](crate::LocalBackend::repair).
pub(crate) fn repair_store(path: &Path, copy: CopyInto) -> Result<RepairReport> {
    callback::check_may_close()?;
    let disk = OsDisk::open(path).map_err(|source| open_error(path, source))?;
    list_store(&disk, false)?;
    let _lock = lock_store(&disk)?;
    let listing = list_store(&disk, false)?;
    if !listing.has_meta {
        return Err(damaged(FileName::Meta, 0, Defect::Meta));
    }
    let damage = verify_locked(&disk, &listing)?.damage;
    if damage.is_empty() {
        return Ok(RepairReport::default());
    }
    let path = path.canonicalize().map_err(|source| open_error(path, source))?;
    if is_mount_point(&path).map_err(|source| open_error(&path, source))? {
        return Err(Error::Unsupported { operation: VOLUME });
    }
    let (rebuilt, kept) = find_free_names(&path);
    let salvage = rebuild_store(&disk, &listing, &rebuilt, copy)?;
    check_still_there(&disk, &path)?;
    swap_directories(&path, &rebuilt).map_err(|source| swap_error(&path, source))?;
    rename_directory(&rebuilt, &kept)
        .map_err(|source| Error::io(IoOp::Rename, &rebuilt, source))?;
    Ok(RepairReport { damage, salvage, copy: Some(kept) })
}

/// Checks that the path still leads to the directory that was locked and read.
fn check_still_there(disk: &OsDisk, path: &Path) -> Result<()> {
    let io = |source| Error::io(IoOp::Rename, path, source);
    match disk.is_directory_at(path).map_err(io)? {
        true => Ok(()),
        false => Err(io(std::io::Error::other("another directory has this name by now"))),
    }
}

/// The error of a failed exchange. The repaired copy stays whole and verified under its temporary
/// name.
fn swap_error(path: &Path, source: std::io::Error) -> Error {
    use std::io::ErrorKind as K;

    match source.kind() {
        K::InvalidInput | K::Unsupported => Error::Unsupported { operation: EXCHANGE },
        _ => Error::io(IoOp::Rename, path, source),
    }
}

/// Step 2: copies the intact blocks into a new store and verifies it.
fn rebuild_store(
    disk: &OsDisk,
    listing: &Listing,
    rebuilt: &Path,
    copy: CopyInto,
) -> Result<SalvageReport> {
    let report = copy(Salvage::plan_copy(disk, listing)?, rebuilt)?;
    let made = OsDisk::open(rebuilt).map_err(|source| open_error(rebuilt, source))?;
    match verify_store(&made)?.damage.into_iter().next() {
        None => Ok(report),
        Some(Damage { defect, place }) => Err(Error::Corrupt { defect, place }),
    }
}

/// Checks that `out` does not exist and does not lie in the damaged store.
fn check_out_path(path: &Path, out: &Path) -> Result<()> {
    let refuse = |reason| Err(Error::InvalidArgument { argument: "out", reason });
    if out.symlink_metadata().is_ok() {
        return refuse("must not exist");
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let io = |source| Error::io(IoOp::Open, out, source);
    let (path, parent) = (path.canonicalize().map_err(io)?, parent.canonicalize().map_err(io)?);
    if parent.starts_with(path) { refuse("must not lie in the damaged store") } else { Ok(()) }
}

/// Finds unused names beside the store.
fn find_free_names(path: &Path) -> (PathBuf, PathBuf) {
    let beside = |word: &str, number: u64| {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{word}-{number}"));
        path.with_file_name(name)
    };
    let mut number = 1;
    loop {
        let names = (beside("repairing", number), beside("before-repair", number));
        if names.0.symlink_metadata().is_err() && names.1.symlink_metadata().is_err() {
            return names;
        }
        number += 1;
    }
}
