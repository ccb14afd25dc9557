//! Segments: log files, as the writer holds them and as readers see them.
//!
//! Owns [`Segment`] (what it takes to write one), [`Views`] (what it takes to read them) and
//! [`Location`], the place of a block. Making and zeroing segments is the business of `space`.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;

use crate::block::{BlockHeader, BlockId, BlockType, Compression, Encryption};
use crate::canary::{Bug, planted};
use crate::error::{Defect, Place};
use crate::io::{DiskFile, FileName, View};
use crate::local::options::ReadMode;
use crate::local::reading::map_of;
use crate::mvcc::overlay::IdHasher;
use crate::mvcc::version::VersionLen;
use crate::sync::{Mutex, OnceLock, RwLock};

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

/// Shows a segment's file, given its number and how far.
pub(crate) type ShowSegment = Box<dyn Fn(u64, u64) -> io::Result<Box<dyn View>> + Send + Sync>;

/// Files that are open at a time where they are not mapped ([`ReadMode::Pread`]).
const OPEN_COUNT_MAX: usize = 256;

/// Every segment's file, as readers see it. Those that nobody has read from yet are mapped or opened
/// when somebody does. Files that are not mapped are closed again, the one opened first before others,
/// when too many are open.
pub(crate) struct Views {
    mode: ReadMode,
    show: ShowSegment,
    table: RwLock<HashMap<u64, Readable, BuildHasherDefault<IdHasher>>>,
    /// Sequences of the files that are open, in the order in which they were opened; locked after the
    /// table. Empty where files are mapped.
    open: Mutex<VecDeque<u64>>,
}

struct Readable {
    number: u64,
    len: u64,
    view: OnceLock<Arc<Shown>>,
}

/// A view that the table and readers share.
struct Shown(Box<dyn View>);

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Views({})", self.count())
    }
}

impl Views {
    pub(crate) fn new(mode: ReadMode, show: ShowSegment) -> Views {
        Views { mode, show, table: RwLock::default(), open: Mutex::default() }
    }

    /// How files are read.
    pub(crate) fn mode(&self) -> ReadMode {
        self.mode
    }

    /// Adds a segment that may grow up to `len`. It is mapped by way of `file`, the writer's own; where
    /// nothing is mapped its first reader opens it.
    pub(crate) fn insert<F: DiskFile>(
        &self,
        sequence: u64,
        number: u64,
        file: &F,
        len: u64,
    ) -> io::Result<()> {
        let view = OnceLock::default();
        if self.mode != ReadMode::Pread {
            let map = map_of(file, len, self.mode)?;
            view.get_or_init(|| Arc::new(Shown(map)));
        }
        self.table.write().insert(sequence, Readable { number, len, view });
        Ok(())
    }

    /// Adds a segment whose first `len` bytes may be read.
    pub(crate) fn insert_unmapped(&self, sequence: u64, number: u64, len: u64) {
        let view = OnceLock::default();
        self.table.write().insert(sequence, Readable { number, len, view });
    }

    /// Says that nobody writes to these segments any more.
    pub(crate) fn settle(&self, sequences: Range<u64>) {
        let table = self.table.read();
        let views = sequences.filter_map(|sequence| table.get(&sequence)?.view.get());
        views.for_each(|view| view.0.settle());
    }

    /// Takes a segment away. True when nobody can look at its bytes any more.
    pub(crate) fn remove(&self, sequence: u64) -> bool {
        let Some(readable) = self.table.write().remove(&sequence) else { return true };
        let Some(view) = readable.view.get().cloned() else { return true };
        drop(readable);
        // A reader that found the view in the table may be about to cut bytes from it.
        Arc::into_inner(view)
            .is_some_and(|mut shown| !shown.0.is_shared() || planted(Bug::MappedIsReused))
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
        let sequence = u64::from(location.segment);
        let (view, is_new) = {
            let table = self.table.read();
            let Some(readable) = table.get(&sequence) else { return Ok(None) };
            match readable.view.get() {
                Some(view) => (Arc::clone(view), false),
                None => (self.show_now(sequence, readable)?, true),
            }
        };
        if is_new {
            self.close_some();
        }
        view.0.bytes(u64::from(location.offset), location.len as usize).map(Some)
    }

    /// Maps or opens every segment that is not yet.
    pub(crate) fn show_all(&self) -> io::Result<()> {
        let table = self.table.read();
        let unread = table.iter().filter(|(_, readable)| readable.view.get().is_none());
        unread.into_iter().try_for_each(|(sequence, r)| self.show_now(*sequence, r).map(drop))
    }

    fn show_now(&self, sequence: u64, readable: &Readable) -> io::Result<Arc<Shown>> {
        let view = Shown((self.show)(readable.number, readable.len)?);
        let shown = Arc::clone(readable.view.get_or_init(|| Arc::new(view)));
        if self.mode == ReadMode::Pread {
            self.open.lock().push_back(sequence);
        }
        Ok(shown)
    }

    /// Closes files until few enough are open, those that somebody reads from at this moment excepted: a
    /// segment that is taken away must see all its readers.
    fn close_some(&self) {
        if self.open.lock().len() <= OPEN_COUNT_MAX {
            return;
        }
        let mut table = self.table.write();
        let mut open = self.open.lock();
        for _ in 0..open.len() {
            if open.len() <= OPEN_COUNT_MAX {
                return;
            }
            let Some(sequence) = open.pop_front() else { return };
            let Some(readable) = table.get_mut(&sequence) else { continue };
            match readable.view.get().map(Arc::strong_count) {
                Some(1) => readable.view = OnceLock::default(),
                Some(_) => open.push_back(sequence),
                None => {}
            }
        }
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
