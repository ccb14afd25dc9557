//! Restore: makes a store from a backup, or compares a backup with its manifest.
//!
//! The copy gets `META` last, so an interrupted restore leaves no store.

use crate::block::Lsn;
use crate::error::Result;
use crate::io::{Disk, FileName};
use crate::local::format::manifest::Manifest;
use crate::local::format::place::{Damage, damage_of_error};
use crate::local::maintenance::backup::BackupReport;
use crate::local::read::backup::{check_directory_empty, read_manifest};
use crate::local::read::copy::{Copying, Watch, check_against_row, compare_with_row};

/// The outcome of comparing a backup with its manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupCheck {
    /// The newest commit in it.
    pub lsn: Lsn,
    /// Files that the manifest lists.
    pub files: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// All damage, in the order of the files' names.
    pub damage: Vec<Damage>,
}

/// Makes a store out of a backup.
///
/// # Errors
/// As [`LocalBackend::restore`](crate::LocalBackend::restore).
pub(crate) fn restore_backup<S: Disk, T: Disk>(
    backup: &S,
    target: &T,
    watch: Watch<'_>,
) -> Result<BackupReport> {
    let manifest = read_manifest(backup)?;
    check_directory_empty(target)?;
    let mut copying = Copying::start_copying(target, watch, None, manifest.total_len());
    // Until the restore is done, the manifest keeps an open from creating a store in the directory.
    let marked = copying.publish_file(FileName::Manifest, &manifest.encode());
    let done = marked.and_then(|()| {
        let cloned_bytes = copy_files(backup, &manifest, &mut copying)?;
        copying.remove_durably(FileName::Manifest)?;
        Ok(cloned_bytes)
    });
    if done.is_err() {
        copying.remove_made_files();
    }
    done.map(|cloned_bytes| BackupReport {
        lsn: manifest.lsn,
        files: manifest.rows.len() as u64,
        bytes: manifest.total_len(),
        shared_bytes: 0,
        cloned_bytes,
    })
}

/// Copies all files, with `META`, the first in the manifest, last. Returns the bytes that are
/// reflinks.
fn copy_files<S: Disk, T: Disk>(
    backup: &S,
    manifest: &Manifest,
    copying: &mut Copying<'_, T>,
) -> Result<u64> {
    let mut cloned_len = 0;
    for row in manifest.rows.iter().rev() {
        if row.file.name == FileName::Meta {
            copying.sync_names()?;
        }
        let (crc, is_cloned) = copying.copy_file(backup, row.file.name, row.file.len, &[])?;
        check_against_row(backup, row, crc)?;
        cloned_len += if is_cloned { row.file.len } else { 0 };
    }
    copying.sync_names().map(|()| cloned_len)
}

/// Compares every file of a backup with its manifest.
///
/// # Errors
/// As [`LocalBackend::verify_backup`](crate::LocalBackend::verify_backup).
pub(crate) fn check_backup<S: Disk>(backup: &S) -> Result<BackupCheck> {
    let manifest = read_manifest(backup)?;
    let (files, bytes) = (manifest.rows.len() as u64, manifest.total_len());
    let mut check = BackupCheck { lsn: manifest.lsn, files, bytes, damage: Vec::new() };
    for row in &manifest.rows {
        match compare_with_row(backup, row) {
            Ok(()) => {}
            Err(error) => check.damage.push(damage_of_error(error)?),
        }
    }
    Ok(check)
}
