//! Read-only sessions: read a store and change nothing.
//!
//! Owns the opening of such a session, and its rules:
//!
//! 1. No file is made, changed, renamed or removed. Calls that write return [`Error::ReadOnly`],
//!    recovery stops before it writes (`recovery::read_only`), and the disk refuses all other
//!    changes ([`Quota::read_only`]).
//! 2. The lock is shared: several such sessions run at once, and no writer beside them.
//! 3. No log flusher and no maintenance thread run. I/O workers only help to read many blocks.
//! 4. Recovered commits are as durable as the session before left them. So a sync succeeds only if
//!    all of them are known to be durable.

use super::start::{Opened, Prepared};
use crate::error::{Defect, Result};
use crate::io::{Disk, Env, FileName};
use crate::local::format::place::damaged;
use crate::local::options::Options;
use crate::local::recovery::identity::{lock_store_shared, read_description};
use crate::local::recovery::listing::list_store;
use crate::local::session::OpenStore;
use crate::local::space::quota::Quota;

/// Opens a store for reading.
///
/// # Errors
/// As [`LocalBackend::open`](crate::LocalBackend::open). A missing store is not created.
pub(crate) fn open_store<D: Disk>(disk: D, options: Options) -> Result<OpenStore<Quota<D>>> {
    assert!(options.read_only, "the session writes nothing");
    let started = disk.now();
    list_store(&disk, false)?;
    let lock = lock_store_shared(&disk)?;
    let disk = Quota::read_only(disk);
    // Again, now that no writer can change it.
    let listing = list_store(&disk, false)?;
    if !listing.has_meta {
        return Err(damaged(FileName::Meta, 0, Defect::Meta));
    }
    let prepared = Prepared::new(disk, lock, options)?;
    let store = read_description(&*prepared.disk)?;
    let (mut recovered, ending) =
        prepared.recovery(&store, &listing).recover_in_memory(&listing)?;
    recovered.report.unknown_files = listing.unknown_count;
    recovered.report.elapsed = prepared.disk.now().saturating_sub(started);
    prepared.start_store(Opened { store, recovered, ending: Some(ending) })
}
