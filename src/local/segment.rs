//! Segments: log files, as the writer holds them and as readers see them.
//!
//! Owns [`Segment`] (what it takes to write one), [`Views`] (what it takes to read them) and
//! [`Location`], the place of a block. Making and zeroing segments is the business of `space`.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;

use crate::block::{BlockHeader, BlockId, BlockType, Compression, Encryption};
use crate::canary::{Bug, planted};
use crate::error::{Defect, Place};
use crate::io::{FileName, View};
use crate::mvcc::overlay::IdHasher;
use crate::mvcc::version::VersionLen;
use crate::sync::{OnceLock, RwLock};

/// A segment that is written to.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    /// The number in its file name.
    pub(crate) number: u64,
    /// Its place in log order.
    pub(crate) sequence: u64,
    /// Seed of its frame checksums.
    pub(crate) seed: u32,
    /// Bytes it may grow to.
    pub(crate) len_max: u64,
    /// For the log thread alone. Zeroing uses a descriptor of its own: the kernel reports a failed
    /// writeback once to each, so nobody's sync swallows the error that another one must see.
    pub(crate) file: F,
}

/// Where a block's payload lies, and what its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Sequence of the segment.
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) checksum: u32,
    pub(crate) version: u16,
    pub(crate) flags: u16,
    pub(crate) block_type: BlockType,
    pub(crate) compression: Compression,
    pub(crate) encryption: Encryption,
}

impl Location {
    pub(crate) fn new(header: &BlockHeader, segment: u64, offset: u64) -> Location {
        Location {
            segment: u32::try_from(segment).expect("a store makes fewer than 2^32 segments"),
            offset: u32::try_from(offset).expect("a segment is shorter than 4 GiB"),
            len: header.data_size,
            checksum: header.checksum,
            version: header.version,
            flags: header.flags,
            block_type: header.block_type,
            compression: header.compression,
            encryption: header.encryption,
        }
    }

    pub(crate) fn header(&self, id: BlockId) -> BlockHeader {
        BlockHeader {
            block_id: id,
            block_type: self.block_type,
            compression: self.compression,
            encryption: self.encryption,
            data_size: self.len,
            uncompressed_size: self.len,
            checksum: self.checksum,
            version: self.version,
            flags: self.flags,
        }
    }
}

impl VersionLen for Location {
    fn payload_len(&self) -> u64 {
        u64::from(self.len)
    }

    fn place(&self) -> u64 {
        u64::from(self.segment) << 32 | u64::from(self.offset)
    }
}

/// Maps a segment's file, given its number and how far.
pub(crate) type MapSegment = Box<dyn Fn(u64, u64) -> io::Result<Box<dyn View>> + Send + Sync>;

/// Every segment's file, mapped for readers. Those that nobody has read from yet are mapped when
/// somebody does.
pub(crate) struct Views {
    map: MapSegment,
    table: RwLock<HashMap<u64, Readable, BuildHasherDefault<IdHasher>>>,
}

struct Readable {
    number: u64,
    len: u64,
    view: OnceLock<Arc<Mapped>>,
}

/// A view that the table and readers share.
struct Mapped(Box<dyn View>);

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Views({})", self.count())
    }
}

impl Views {
    pub(crate) fn new(map: MapSegment) -> Views {
        Views { map, table: RwLock::default() }
    }

    pub(crate) fn insert(&self, sequence: u64, number: u64, view: Box<dyn View>) {
        let readable = OnceLock::default();
        readable.get_or_init(|| Arc::new(Mapped(view)));
        let view = readable;
        self.table.write().insert(sequence, Readable { number, len: 0, view });
    }

    /// Adds a segment whose first `len` bytes may be read.
    pub(crate) fn insert_unmapped(&self, sequence: u64, number: u64, len: u64) {
        let view = OnceLock::default();
        self.table.write().insert(sequence, Readable { number, len, view });
    }

    /// Takes a segment away. True when nobody can look at its bytes any more.
    pub(crate) fn remove(&self, sequence: u64) -> bool {
        let Some(readable) = self.table.write().remove(&sequence) else { return true };
        let Some(view) = readable.view.get().cloned() else { return true };
        drop(readable);
        // A reader that found the view in the table may be about to cut bytes from it.
        Arc::into_inner(view)
            .is_some_and(|mut mapped| !mapped.0.is_shared() || planted(Bug::MappedIsReused))
    }

    /// Sequence and file number of the segments with these places in log order.
    pub(crate) fn within(&self, sequences: RangeInclusive<u64>) -> Vec<(u64, u64)> {
        let table = self.table.read();
        let within = table.iter().filter(|(sequence, _)| sequences.contains(sequence));
        let mut found: Vec<_> = within.map(|(sequence, file)| (*sequence, file.number)).collect();
        found.sort_unstable();
        found
    }

    /// The number in the name of a segment's file.
    pub(crate) fn number(&self, sequence: u64) -> Option<u64> {
        self.table.read().get(&sequence).map(|readable| readable.number)
    }

    pub(crate) fn count(&self) -> usize {
        self.table.read().len()
    }

    /// The payload at a place, not yet verified; `None` when its segment is gone.
    pub(crate) fn bytes(&self, location: &Location) -> io::Result<Option<Bytes>> {
        let view = {
            let table = self.table.read();
            let Some(readable) = table.get(&u64::from(location.segment)) else { return Ok(None) };
            match readable.view.get() {
                Some(view) => Arc::clone(view),
                None => self.map_now(readable)?,
            }
        };
        view.0.bytes(u64::from(location.offset), location.len as usize).map(Some)
    }

    /// Maps every segment that is not mapped yet.
    pub(crate) fn map_all(&self) -> io::Result<()> {
        let table = self.table.read();
        let unmapped = table.values().filter(|readable| readable.view.get().is_none());
        unmapped.into_iter().try_for_each(|readable| self.map_now(readable).map(|_| ()))
    }

    fn map_now(&self, readable: &Readable) -> io::Result<Arc<Mapped>> {
        let view = Mapped((self.map)(readable.number, readable.len)?);
        Ok(Arc::clone(readable.view.get_or_init(|| Arc::new(view))))
    }

    /// Names a place for messages.
    pub(crate) fn place(&self, id: BlockId, location: &Location) -> Place {
        let table = self.table.read();
        let number = table.get(&u64::from(location.segment)).map_or(0, |r| r.number);
        place(FileName::Segment(number), u64::from(location.offset)).of_block(id)
    }
}

/// A place in a file.
pub(crate) fn place(file: FileName, offset: u64) -> Place {
    Place { file: file.to_string(), offset, lsn: None, block: None }
}

impl Place {
    fn of_block(mut self, id: BlockId) -> Place {
        self.block = Some(id);
        self
    }
}

/// Damage to a whole file.
pub(crate) fn damaged(file: FileName, offset: u64, defect: Defect) -> crate::Error {
    crate::Error::Corrupt { defect, place: place(file, offset) }
}
