//! Repair: a salvaged copy in the place of a damaged store.
//!
//! Owns the order of names, so that at each moment the path holds a whole store, the damaged or the
//! repaired one:
//!
//! 1. The damaged store is locked and verified. Without damage nothing happens.
//! 2. Its intact blocks are copied into a new store, `<store>.repairing-<n>`, which is closed, so
//!    durable, and verified.
//! 3. The two directories exchange their names: one step, the only one that matters. It is made durable.
//! 4. The damaged one, now under the name of the copy, becomes `<store>.before-repair-<n>`. Its files
//!    were never written to.
//!
//! Interrupted before step 3, there is a directory too many, `.repairing-<n>`; between 3 and 4 that
//! directory is the damaged store. Neither name is taken again by a later repair.
//!
//! Names are those of the directory itself, where links lead: the store behind a link is repaired and kept
//! beside itself, and the link stays as it is.

use std::path::{Path, PathBuf};

use crate::callback;
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::FileName;
use crate::io::os::{OsDisk, OsFile, is_mount_point, rename_directory, swap_directories};
use crate::local::format::place::Damage;
use crate::local::format::place::damaged;
use crate::local::offline::salvage::{Salvage, SalvageReport};
use crate::local::offline::verify::{verify, verify_locked};
use crate::local::options::open_error;
use crate::local::recovery::identity::{lock_store, lock_store_shared};
use crate::local::recovery::listing::{Listing, list_store};

/// What some file systems do not have (NFS, CIFS, FAT, some FUSE).
const EXCHANGE: &str = "an exchange of two directories, as its file system has none: the repaired store is \
                        whole in the directory <store>.repairing-<n> beside the damaged one";

/// A mount point has no other name, and what is beside it is another file system.
const VOLUME: &str =
    "the repair of a store that is a whole volume: salvage it into another directory";

/// What a repair found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// The damage, as [`LocalBackend::verify`](crate::LocalBackend::verify) lists it. Without any nothing was done.
    pub damage: Vec<Damage>,
    /// What was saved and what was lost.
    pub salvage: SalvageReport,
    /// Where the damaged store is now; `None` when nothing was done.
    pub copy: Option<PathBuf>,
}

/// Makes a new store at a path and copies into it.
pub(crate) type CopyInto = fn(Salvage<OsFile>, &Path) -> Result<SalvageReport>;

/// See [`LocalBackend::salvage`](crate::LocalBackend::salvage).
pub(crate) fn salvage(path: &Path, out: &Path, copy: CopyInto) -> Result<SalvageReport> {
    // The copy is closed in the end.
    callback::check_may_close()?;
    let disk = OsDisk::open(path).map_err(|source| open_error(path, source))?;
    list_store(&disk, false)?;
    let _lock = lock_store_shared(&disk)?;
    let listing = list_store(&disk, false)?;
    check_out(path, out)?;
    copy(Salvage::plan(&disk, &listing)?, out)
}

/// See [`LocalBackend::repair`](crate::LocalBackend::repair).
pub(crate) fn repair(path: &Path, copy: CopyInto) -> Result<RepairReport> {
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
    let (rebuilt, kept) = free_names(&path);
    let salvage = rebuild(&disk, &listing, &rebuilt, copy)?;
    check_still_there(&disk, &path)?;
    swap_directories(&path, &rebuilt).map_err(|source| swap_error(&path, source))?;
    rename_directory(&rebuilt, &kept)
        .map_err(|source| Error::io(IoOp::Rename, &rebuilt, source))?;
    Ok(RepairReport { damage, salvage, copy: Some(kept) })
}

/// The directory that is exchanged is the one that was locked and read, wherever links lead by now.
fn check_still_there(disk: &OsDisk, path: &Path) -> Result<()> {
    let io = |source| Error::io(IoOp::Rename, path, source);
    match disk.is_directory_at(path).map_err(io)? {
        true => Ok(()),
        false => Err(io(std::io::Error::other("another directory has this name by now"))),
    }
}

/// The repaired copy stays where it is: whole, verified, and only in need of its name.
fn swap_error(path: &Path, source: std::io::Error) -> Error {
    use std::io::ErrorKind as K;

    match source.kind() {
        K::InvalidInput | K::Unsupported => Error::Unsupported { operation: EXCHANGE },
        _ => Error::io(IoOp::Rename, path, source),
    }
}

/// Step 2.
fn rebuild(
    disk: &OsDisk,
    listing: &Listing,
    rebuilt: &Path,
    copy: CopyInto,
) -> Result<SalvageReport> {
    let report = copy(Salvage::plan(disk, listing)?, rebuilt)?;
    let made = OsDisk::open(rebuilt).map_err(|source| open_error(rebuilt, source))?;
    match verify(&made)?.damage.into_iter().next() {
        None => Ok(report),
        Some(Damage { defect, place }) => Err(Error::Corrupt { defect, place }),
    }
}

/// The copy is a directory of its own.
fn check_out(path: &Path, out: &Path) -> Result<()> {
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

/// Names beside the store that nothing has.
fn free_names(path: &Path) -> (PathBuf, PathBuf) {
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
