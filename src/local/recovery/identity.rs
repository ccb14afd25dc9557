//! Identity of a store: the lock of its directory, and `META`, its description.

use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, DiskFile, FileName, How, LockError, PAGE_LEN, read_exact_at, write_all_at};
use crate::local::format::FORMAT_VERSION;
use crate::local::format::description::Description;
use crate::local::format::mirrored::Unreadable;
use crate::local::format::place::{damaged, path_of};

/// Locks the store against all other sessions.
pub(crate) fn lock_store<D: Disk>(disk: &D) -> Result<D::Lock> {
    disk.lock().map_err(|error| lock_error(disk, error))
}

/// Locks the store against writers. Makes no file.
pub(crate) fn lock_store_shared<D: Disk>(disk: &D) -> Result<D::Lock> {
    disk.lock_shared().map_err(|error| lock_error(disk, error))
}

fn lock_error<D: Disk>(disk: &D, error: LockError) -> Error {
    match error {
        LockError::Held => Error::Locked { path: disk.path().to_path_buf() },
        LockError::Io(e) => Error::io(IoOp::Lock, disk.path(), e),
    }
}

pub(crate) fn read_description<D: Disk>(disk: &D) -> Result<Description> {
    let path = path_of(disk.path(), FileName::Meta);
    let io = |op| {
        let path = path.clone();
        move |e| Error::io(op, path, e)
    };
    let file = disk.open(FileName::Meta, How::Read).map_err(io(IoOp::Open))?;
    let len = file.len().map_err(io(IoOp::Read))?;
    let mut page = vec![0; PAGE_LEN.min(len as usize)];
    read_exact_at(&file, 0, &mut page).map_err(io(IoOp::Read))?;
    Description::decode(&page).map_err(|unreadable| match unreadable {
        Unreadable::Damaged => damaged(FileName::Meta, 0, Defect::Meta),
        Unreadable::Newer(found) => {
            let path = disk.path().to_path_buf();
            Error::UnsupportedFormat { path, found, supported: FORMAT_VERSION }
        }
    })
}

/// Writes `META`, by way of the temporary file of this number. The store exists once the name
/// `META` is durable.
pub(crate) fn write_description<D: Disk>(disk: &D, store: &Description, number: u64) -> Result<()> {
    let io = |op| move |e| Error::space(op, disk.path(), PAGE_LEN as u64, e);
    let unfinished = FileName::Temporary(number);
    let meta = disk.open(unfinished, How::CreateNew).map_err(io(IoOp::Open))?;
    write_all_at(&meta, 0, &store.encode()).map_err(io(IoOp::Write))?;
    meta.sync_data().map_err(io(IoOp::Sync))?;
    disk.rename(unfinished, FileName::Meta).map_err(io(IoOp::Rename))?;
    disk.sync_dir().map_err(io(IoOp::Sync))
}
