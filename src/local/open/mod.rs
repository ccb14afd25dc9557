//! Opening: makes a running store from a directory.
//!
//! Order, so that an open that fails changes nothing: list the directory, take the lock, read
//! `META`, recover, and only then remove unfinished files and start threads. The commit point of a
//! new store is the renaming of `META` to its name: the first segment is durable before.

pub(crate) mod read_only;
mod start;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Defect, Error, IoOp, Result};
use crate::io::os::OsDisk;
use crate::io::{Disk, DiskFile, Env, FileName, How, PAGE_LEN};
use crate::local::LocalBackend;
use crate::local::format::PAGE;
use crate::local::format::description::Description;
use crate::local::format::place::{damaged, path_of};
use crate::local::maintenance::checkpoint::Chain;
use crate::local::options::{Options, open_error};
use crate::local::read::segment::Views;
use crate::local::recovery::identity::{lock_store, read_description, write_description};
use crate::local::recovery::listing::{Listing, list_store};
use crate::local::recovery::{Recovered, RecoveryReport};
use crate::local::session::OpenStore;
use crate::local::space::quota::Quota;
use crate::local::space::{SegmentMaker, Source, SpaceOptions, Tail, remove_durably};
use start::{Opened, Prepared};

impl Options {
    /// Opens the store in a directory, creating it where it is missing.
    ///
    /// # Errors
    /// As [`LocalBackend::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<LocalBackend> {
        let path = path.as_ref();
        self.check()?;
        let disk = match self.create && !self.read_only {
            true => OsDisk::open_or_create(path),
            false => OsDisk::open(path),
        };
        let disk = disk.map_err(|source| open_error(path, source))?;
        LocalBackend::open_on(disk, self)
    }
}

/// Opens a store for reading and writing.
///
/// # Errors
/// As [`LocalBackend::open`].
pub(crate) fn open_store<D: Disk>(disk: D, options: Options) -> Result<OpenStore<Quota<D>>> {
    let started = disk.now();
    list_store(&disk, options.create)?;
    let lock = lock_store(&disk)?;
    let path = disk.path().to_path_buf();
    let disk = Quota::new(disk, options.max_bytes).map_err(|e| Error::io(IoOp::List, path, e))?;
    // Again, now that the lock keeps other sessions from changing it.
    let listing = list_store(&disk, options.create)?;
    let prepared = Prepared::new(disk, lock, options)?;
    let disk = &*prepared.disk;
    let (store, mut recovered) = if listing.has_meta {
        let store = read_description(disk)?;
        let recovered = prepared.recovery(&store, &listing).recover(&listing)?;
        (store, recovered)
    } else {
        create_store(disk, &listing, &prepared.space_options, &prepared.views)?
    };
    remove_unfinished_files(disk, &listing)?;
    recovered.report.unknown_files = listing.unknown_count;
    recovered.report.modes_refused = disk.modes_are_refused();
    recovered.report.elapsed = disk.now().saturating_sub(started);
    prepared.start_store(Opened { store, recovered, ending: None })
}

/// Creates a new store.
fn create_store<D: Disk>(
    disk: &D,
    listing: &Listing,
    options: &SpaceOptions,
    views: &Views,
) -> Result<(Description, Recovered<D::File>)> {
    remove_unfinished_creation(disk, listing)?;
    let io = |op| move |e| Error::space(op, disk.path(), PAGE_LEN as u64, e);
    let (mut store_id, mut salt) = ([0; 16], [0; 8]);
    disk.random(&mut store_id).map_err(io(IoOp::Open))?;
    disk.random(&mut salt).map_err(io(IoOp::Open))?;
    let store = Description { store_id, salt: u64::from_le_bytes(salt) };
    let number = listing.next_number;
    let maker = SegmentMaker { disk, store: &store, options };
    let header = maker.new_segment_header(1).map_err(io(IoOp::Open))?;
    let made = maker.make_segment(number, &header, Source::New(&[]));
    let (segment, _) = made.map_err(|not_made| io(IoOp::Write)(not_made.source))?;
    // If the name may not be durable, remove it: no session may use a store that a power cut would
    // remove.
    write_description(disk, &store, number + 1).inspect_err(|_| {
        remove_durably(disk, FileName::Meta);
    })?;
    views.insert_mapped(1, number, &segment.file, segment.len_max()).map_err(io(IoOp::Map))?;
    let tail = Tail { segment: Arc::new(segment), offset: PAGE, written: PAGE };
    let report = RecoveryReport { clean: true, ..Default::default() };
    let recovered = Recovered {
        tail,
        chain: 0,
        ready: Vec::new(),
        next_number: number + 2,
        chain_of_images: Chain::empty(views.read_mode()),
        report,
    };
    Ok((store, recovered))
}

/// Removes the empty segments that an interrupted creation leaves without `META`.
///
/// # Errors
/// [`Error::Corrupt`]: a segment was written, so `META` is lost, and the log cannot be read without
/// it.
fn remove_unfinished_creation<D: Disk>(disk: &D, listing: &Listing) -> Result<()> {
    for number in listing.segments.keys() {
        let name = FileName::Segment(*number);
        let path = path_of(disk.path(), name);
        let file = disk.open(name, How::Read).map_err(|e| Error::io(IoOp::Open, &path, e))?;
        let len = file.len().map_err(|e| Error::io(IoOp::Read, &path, e))?;
        if len > PAGE_LEN as u64 {
            return Err(damaged(FileName::Meta, 0, Defect::Meta));
        }
    }
    for number in listing.segments.keys() {
        let name = FileName::Segment(*number);
        disk.remove(name).map_err(|e| Error::io(IoOp::Remove, path_of(disk.path(), name), e))?;
    }
    Ok(())
}

fn remove_unfinished_files<D: Disk>(disk: &D, listing: &Listing) -> Result<()> {
    for name in &listing.unfinished {
        disk.remove(*name).map_err(|e| Error::io(IoOp::Remove, path_of(disk.path(), *name), e))?;
    }
    Ok(())
}
