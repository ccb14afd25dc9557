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

use std::sync::Arc;

use super::start::Opened;
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, Env, FileName, How};
use crate::local::format::place::{damaged, path_of};
use crate::local::options::{Options, limits_from_options};
use crate::local::read::segment::{Views, show_segments};
use crate::local::recovery::identity::{lock_store_shared, read_description};
use crate::local::recovery::listing::list_store;
use crate::local::recovery::{Recovery, Replay};
use crate::local::session::OpenStore;
use crate::local::space::SpaceOptions;
use crate::local::space::quota::Quota;
use crate::local::space::reserve::Reserve;
use crate::local::space::usage::Usage;
use crate::mvcc::Mvcc;

/// Opens a store for reading.
///
/// # Errors
/// As [`LocalBackend::open`](crate::LocalBackend::open). A missing store is not created.
pub(crate) fn open_store<D: Disk>(disk: D, options: Options) -> Result<OpenStore<Quota<D>>> {
    assert!(options.read_only, "the session writes nothing");
    let started = disk.now();
    list_store(&disk, false)?;
    let lock = lock_store_shared(&disk)?;
    let disk = Arc::new(Quota::read_only(disk));
    // Again, now that no writer can change it.
    let listing = list_store(&*disk, false)?;
    if !listing.has_meta {
        return Err(damaged(FileName::Meta, 0, Defect::Meta));
    }
    let store = read_description(&*disk)?;
    let space_options =
        SpaceOptions { segment_len: options.segment_len_max, ahead_len_max: 0, how: How::Read };
    let (mvcc, usage) = (Mvcc::new(limits_from_options(&options)), Usage::default());
    let reserve = Reserve::open(Arc::clone(&disk), How::Read, options.segment_len_max, None)
        .map_err(|e| Error::io(IoOp::Open, path_of(disk.path(), FileName::Reserve), e))?;
    let views = Arc::new(Views::new(options.read_mode, options.shown_max, show_segments(&disk)));
    let recovery = Recovery {
        disk: &*disk,
        store: &store,
        options: space_options,
        mvcc: &mvcc,
        views: &views,
        usage: &usage,
        reserve: None,
        next_number: listing.next_number,
        on_progress: options.on_progress.clone(),
        replay: Replay::from_options(&options),
    };
    let (mut recovered, ending) = recovery.recover_in_memory(&listing)?;
    recovered.report.unknown_files = listing.unknown_count;
    recovered.report.elapsed = disk.now().saturating_sub(started);
    let ending = Some(ending);
    let opened = Opened {
        disk,
        lock,
        options,
        store,
        space_options,
        mvcc,
        views,
        usage,
        reserve,
        recovered,
        ending,
    };
    opened.start_store()
}
