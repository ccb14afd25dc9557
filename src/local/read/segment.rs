//! Segments: log files, as the writer holds them and as readers see them.
//!
//! Owns [`Segment`], for the writer, and [`Views`], for readers. The space (`space`) makes and
//! zeroes segments.

use crate::local::format::location::Location;
use crate::local::format::place::place;
use crate::local::options::ShownMax;
use crate::local::read::mapping::view_of_file;
use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::block::BlockId;
use crate::error::{IoOp, Place, Resource, shortage};
use crate::io::{Disk, DiskFile, FileName, How, View};
use crate::local::format::segment::LEN_MAX;
use crate::local::options::ReadMode;
use crate::local::read::mapping::map_of_file;
use crate::mvcc::unpublished::IdHasher;
use crate::sync::{AtomicBool, AtomicU64, Mutex, OnceLock, Ordering, RwLock};

/// A segment that is written to.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    /// The number in its file name.
    pub(crate) number: u64,
    /// Its place in log order.
    pub(crate) sequence: u64,
    /// Seed of its frame checksums.
    pub(crate) seed: u32,
    len_max: AtomicU64,
    /// For the leader alone. Zeroing uses a descriptor of its own: the kernel reports a failed
    /// writeback once to each descriptor, so no sync takes an error that another one must see.
    pub(crate) file: F,
}

impl<F> Segment<F> {
    pub(crate) fn new(number: u64, sequence: u64, seed: u32, len_max: u64, file: F) -> Segment<F> {
        Segment { number, sequence, seed, len_max: AtomicU64::new(len_max), file }
    }

    /// Length that the segment may grow to.
    pub(crate) fn len_max(&self) -> u64 {
        self.len_max.load(Ordering::Relaxed)
    }

    /// Lets a segment that holds no frame yet grow further than the others of this session.
    pub(crate) fn raise_len_max(&self, len_max: u64) {
        assert!(len_max <= LEN_MAX, "a place in a segment is 32 bits wide");
        self.len_max.fetch_max(len_max, Ordering::Relaxed);
    }
}

/// Shows a segment's file, given its number, how far, and by what means.
pub(crate) type ShowSegment =
    Box<dyn Fn(u64, u64, ReadMode) -> io::Result<Box<dyn View>> + Send + Sync>;

type Table = HashMap<u64, Readable, BuildHasherDefault<IdHasher>>;

/// Every segment's file, as readers see it. The first reader of a file without a view maps or opens
/// it. A file that the system refuses to map, or that is shorter than its map would be, is read as
/// in [`ReadMode::Pread`]. When too many are mapped or open, those shown first are closed again.
pub(crate) struct Views {
    mode: ReadMode,
    show: ShowSegment,
    table: RwLock<Table>,
    /// Locked after the table.
    shown: Mutex<ShownOrder>,
    /// Segments that were removed while readers held bytes of their maps.
    held: Mutex<Vec<Held>>,
    /// The system has refused a map.
    refused: AtomicBool,
    max: ShownMax,
}

/// Sequences of the segments that have a view, in the order in which they were shown.
#[derive(Default)]
struct ShownOrder {
    /// Each keeps a descriptor.
    files: VecDeque<u64>,
    /// Each keeps a map.
    maps: VecDeque<u64>,
}

struct Readable {
    number: u64,
    len: u64,
    mode: ReadMode,
    view: OnceLock<Arc<Shown>>,
}

/// A segment that the store has removed. It stays on the disk as long as its map lives.
struct Held {
    len: u64,
    life: Weak<dyn Any + Send + Sync>,
}

/// A view that the table and readers share.
struct Shown(Box<dyn View>);

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Views({})", self.segment_count())
    }
}

impl Views {
    pub(crate) fn new(mode: ReadMode, max: ShownMax, show: ShowSegment) -> Views {
        Views {
            mode,
            show,
            table: RwLock::default(),
            shown: Mutex::default(),
            held: Mutex::default(),
            refused: AtomicBool::new(false),
            max,
        }
    }

    /// How files are read.
    pub(crate) fn read_mode(&self) -> ReadMode {
        self.mode
    }

    /// Adds a segment that may grow up to `len`. It is mapped by way of `file`, the writer's own.
    /// Where nothing is mapped, or the system refuses, its first reader opens it.
    pub(crate) fn insert_mapped<F: DiskFile>(
        &self,
        sequence: u64,
        number: u64,
        file: &F,
        len: u64,
    ) -> io::Result<()> {
        let view = OnceLock::default();
        let mut mode = self.mode;
        if mode != ReadMode::Pread {
            match map_of_file(file, len, mode) {
                Ok(map) => {
                    view.get_or_init(|| Arc::new(Shown(map)));
                }
                Err(error) if is_map_refused(&error) => {
                    self.refused.store(true, Ordering::Relaxed);
                    mode = ReadMode::Pread;
                }
                Err(error) => return Err(error),
            }
        }
        let is_mapped = view.get().is_some();
        self.table.write().insert(sequence, Readable { number, len, mode, view });
        if is_mapped {
            self.shown.lock().maps.push_back(sequence);
            self.close_views_down_to(self.max);
        }
        Ok(())
    }

    /// Adds a segment whose first `len` bytes may be read.
    pub(crate) fn insert_unmapped(&self, sequence: u64, number: u64, len: u64) {
        let view = OnceLock::default();
        self.table.write().insert(sequence, Readable { number, len, mode: self.mode, view });
    }

    /// Tells the views that these segments are written and no thread writes to them any more.
    pub(crate) fn mark_segments_written(&self, sequences: Range<u64>) {
        let table = self.table.read();
        let views = sequences.filter_map(|sequence| table.get(&sequence)?.view.get());
        views.for_each(|view| view.0.settle());
    }

    /// Removes a segment. True when no reader can look at its bytes any more.
    pub(crate) fn remove_segment(&self, sequence: u64) -> bool {
        let Some(readable) = self.table.write().remove(&sequence) else { return true };
        let Some(view) = readable.view.get().cloned() else { return true };
        let held = Held { len: readable.len, life: view.0.life() };
        drop(readable);
        // A reader that found the view in the table may be about to cut bytes from it.
        let is_unseen = Arc::into_inner(view).is_some_and(|mut shown| !shown.0.is_shared());
        if !is_unseen {
            let mut all = self.held.lock();
            all.retain(Held::is_alive);
            all.push(held);
        }
        is_unseen
    }

    /// Lengths of the removed segments that are on the disk because readers hold bytes of them.
    pub(crate) fn held_by_readers_len(&self) -> u64 {
        let mut all = self.held.lock();
        all.retain(Held::is_alive);
        all.iter().map(|held| held.len).sum()
    }

    /// Sequence and file number of the segments with these places in log order.
    pub(crate) fn segments_within(&self, sequences: RangeInclusive<u64>) -> Vec<(u64, u64)> {
        let table = self.table.read();
        let within = table.iter().filter(|(sequence, _)| sequences.contains(sequence));
        let mut found: Vec<_> = within.map(|(sequence, file)| (*sequence, file.number)).collect();
        found.sort_unstable();
        found
    }

    /// The number in the name of a segment's file.
    pub(crate) fn file_number_of(&self, sequence: u64) -> Option<u64> {
        self.table.read().get(&sequence).map(|readable| readable.number)
    }

    pub(crate) fn segment_count(&self) -> usize {
        self.table.read().len()
    }

    /// The payload at a place, not yet verified; `None` when its segment is gone.
    pub(crate) fn payload_bytes(&self, location: &Location) -> io::Result<Option<Bytes>> {
        let sequence = u64::from(location.segment);
        let view = match self.view_of_segment(sequence) {
            // Descriptors and maps of other files are given back for this one.
            Err(error)
                if is_map_shortage(&error) && self.close_views_down_to(ShownMax::NONE) > 0 =>
            {
                self.view_of_segment(sequence)?
            }
            view => view?,
        };
        let Some((view, is_new)) = view else { return Ok(None) };
        if is_new {
            self.close_views_down_to(self.max);
        }
        view.0.bytes(u64::from(location.offset), location.len as usize).map(Some)
    }

    /// The view of a segment, and whether it was made now; `None` when the segment is gone.
    fn view_of_segment(&self, sequence: u64) -> io::Result<Option<(Arc<Shown>, bool)>> {
        let table = self.table.read();
        let Some(readable) = table.get(&sequence) else { return Ok(None) };
        Ok(Some(match readable.view.get() {
            Some(view) => (Arc::clone(view), false),
            None => (self.open_view(sequence, readable)?, true),
        }))
    }

    /// Maps or opens every segment without a view, as far as the system grants it. An error names
    /// the file.
    pub(crate) fn open_all_views(&self) -> std::result::Result<(), (FileName, io::Error)> {
        let table = self.table.read();
        for (sequence, readable) in table.iter().filter(|(_, r)| r.view.get().is_none()) {
            match self.open_view(*sequence, readable) {
                Ok(_) => {}
                Err(error) if is_map_shortage(&error) => return Ok(()),
                Err(error) => return Err((FileName::Segment(readable.number), error)),
            }
        }
        drop(table);
        self.close_views_down_to(self.max);
        Ok(())
    }

    /// Where the system has refused a map, closes the unread maps of segments before the tail,
    /// because threads to be started need address space, too. Readers map again what they need. A
    /// segment that is shorter than its map is then read without one.
    pub(crate) fn close_sealed_maps(&self, tail: u64) {
        if self.refused.swap(false, Ordering::Relaxed) {
            let mut table = self.table.write();
            let mut order = self.shown.lock();
            let (mut sealed, others): (VecDeque<_>, VecDeque<_>) =
                order.maps.drain(..).partition(|sequence| *sequence < tail);
            close_oldest_views(&mut table, &mut sealed, 0);
            sealed.extend(others);
            order.maps = sealed;
        }
    }

    fn open_view(&self, sequence: u64, readable: &Readable) -> io::Result<Arc<Shown>> {
        let Readable { number, len, mut mode, .. } = *readable;
        let view = match (self.show)(number, len, mode) {
            Err(error) if mode != ReadMode::Pread && is_map_refused(&error) => {
                self.refused.store(true, Ordering::Relaxed);
                mode = ReadMode::Pread;
                (self.show)(number, len, mode)?
            }
            // The file is shorter than its map: the log is still written there, or another program
            // cut it.
            Err(error)
                if mode != ReadMode::Pread && error.kind() == io::ErrorKind::UnexpectedEof =>
            {
                mode = ReadMode::Pread;
                (self.show)(number, len, mode)?
            }
            view => view?,
        };
        let shown = Arc::clone(readable.view.get_or_init(|| Arc::new(Shown(view))));
        let mut order = self.shown.lock();
        match mode {
            ReadMode::Pread => order.files.push_back(sequence),
            ReadMode::Copied | ReadMode::Mapped => order.maps.push_back(sequence),
        }
        Ok(shown)
    }

    /// Closes files and maps until few enough are left, and returns how many it closed. A removed
    /// segment must see all its readers, so a view stays while it is read from or its bytes are
    /// held.
    fn close_views_down_to(&self, max: ShownMax) -> usize {
        {
            let order = self.shown.lock();
            if order.files.len() <= max.files && order.maps.len() <= max.maps {
                return 0;
            }
        }
        let mut table = self.table.write();
        let mut order = self.shown.lock();
        let closed = close_oldest_views(&mut table, &mut order.files, max.files);
        closed + close_oldest_views(&mut table, &mut order.maps, max.maps)
    }

    /// Names a place for messages.
    pub(crate) fn place_for_errors(&self, id: BlockId, location: &Location) -> Place {
        let table = self.table.read();
        let number = table.get(&u64::from(location.segment)).map_or(0, |r| r.number);
        place(FileName::Segment(number), u64::from(location.offset)).with_block(id)
    }
}

impl Held {
    fn is_alive(&self) -> bool {
        self.life.strong_count() > 0
    }
}

/// Closes views, those shown first before others, until `count_max` are left of this kind.
fn close_oldest_views(table: &mut Table, order: &mut VecDeque<u64>, count_max: usize) -> usize {
    let mut closed = 0;
    for _ in 0..order.len() {
        if order.len() <= count_max {
            break;
        }
        let Some(sequence) = order.pop_front() else { break };
        let Some(readable) = table.get_mut(&sequence) else { continue };
        let Some(view) = readable.view.get_mut() else { continue };
        if Arc::get_mut(view).is_none_or(|view| view.0.is_shared()) {
            order.push_back(sequence);
        } else {
            readable.view = OnceLock::default();
            closed += 1;
        }
    }
    closed
}

fn is_map_refused(error: &io::Error) -> bool {
    shortage(error, IoOp::Map) == Some(Resource::Memory)
}

fn is_map_shortage(error: &io::Error) -> bool {
    shortage(error, IoOp::Map).is_some()
}

/// Opens the views of segments at their first read.
pub(crate) fn show_segments<D: Disk>(disk: &Arc<D>) -> ShowSegment {
    let disk = Arc::clone(disk);
    Box::new(move |number, len, mode| {
        let file = disk.open(FileName::Segment(number), How::Read)?;
        if mode != ReadMode::Pread && file.len()? < len {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        view_of_file(file, len, mode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockType;
    use crate::io::sim::SimDisk;
    use crate::io::write_all_at;

    fn place_of(sequence: u32) -> Location {
        let header = crate::Block::new(BlockId(1), BlockType::TableData, vec![0; 9]).header;
        Location::new(&header, u64::from(sequence), 4096)
    }

    #[test]
    fn no_more_files_are_shown_than_allowed_and_all_are_read() {
        for mode in [ReadMode::Copied, ReadMode::Mapped, ReadMode::Pread] {
            let disk = Arc::new(SimDisk::new(1));
            let views = Views::new(mode, ShownMax { files: 2, maps: 3 }, show_segments(&disk));
            let mut held = Vec::new();
            for sequence in 1..=20 {
                let name = FileName::Segment(sequence);
                let file = disk.open(name, How::CreateNew).expect("a file");
                write_all_at(&file, 4096, &[sequence as u8; 4096]).expect("a write");
                views.insert_mapped(sequence, sequence, &file, 8192).expect("a view");
                let read =
                    views.payload_bytes(&place_of(sequence as u32)).expect("reads").expect("there");
                held.extend((sequence <= 5).then_some(read));
            }
            for sequence in (1..=20).chain(1..=20) {
                let read = views.payload_bytes(&place_of(sequence)).expect("reads").expect("there");
                assert_eq!(read, [sequence as u8; 9][..]);
            }
            let shown = |views: &Views| {
                let table = views.table.read();
                table.values().filter(|readable| readable.view.get().is_some()).count()
            };
            let count = shown(&views);
            // Bytes in hand keep their map, and only those.
            let expected = match mode {
                ReadMode::Pread => 2..=2,
                ReadMode::Copied => 3..=3,
                ReadMode::Mapped => 5..=6,
            };
            assert!(expected.contains(&count), "{mode:?}: {count}");
            drop(held);
        }
    }

    /// The segment that the log is in may be shorter than its map, which is closed in a shortage
    /// like others.
    #[test]
    fn segment_that_is_shorter_than_its_map_was_is_read_again() {
        for mode in [ReadMode::Copied, ReadMode::Mapped, ReadMode::Pread] {
            let disk = Arc::new(SimDisk::new(1));
            let views = Views::new(mode, ShownMax::default(), show_segments(&disk));
            let file = disk.open(FileName::Segment(1), How::CreateNew).expect("a file");
            write_all_at(&file, 4096, &[7; 4096]).expect("a write");
            views.insert_mapped(1, 1, &file, 64 << 10).expect("a view");
            for _ in 0..2 {
                let read = views.payload_bytes(&place_of(1)).expect("reads").expect("there");
                assert_eq!(read, [7; 9][..], "{mode:?}");
                drop(read);
                assert_eq!(views.close_views_down_to(ShownMax::NONE), 1, "{mode:?}");
            }
        }
    }
}
