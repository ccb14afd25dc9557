//! Verification: reads every checkpoint page, frame and payload that the store relies on, and lists all
//! damage. Changes nothing.
//!
//! Four looks, each of which goes on behind damage:
//!
//! 1. The checkpoint that opening would use, page by page, and the segments that it lists.
//! 2. The frames of those segments and of the log behind them. Behind a damaged frame it goes on at the
//!    next page that holds a frame of the segment. Bytes behind the last frame that no later one vouches
//!    for are a torn tail and no damage.
//! 3. Recovery, without its changes: what opening would refuse is damage.
//! 4. Every block that is then in force, read at its place.
//!
//! Segments and checkpoints out of use, which a crash may leave, are not looked at.

use crate::local::format::place::Damage;
use crate::local::format::place::damage_of_error;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::block::{BlockId, BlockType, Lsn};
use crate::checksum;
use crate::error::{Defect, Error, Result};
use crate::io::{Disk, DiskFile, FileName, How};
use crate::local::format::description::Description;
use crate::local::format::location::Location;
use crate::local::format::place::damaged;
use crate::local::format::{PAGE, page_up};
use crate::local::maintenance::checkpoint::Chain;
use crate::local::options::ReadMode;
use crate::local::options::ShownMax;
use crate::local::read::scan::{Found, Frame, Scanner};
use crate::local::read::segment::Views;
use crate::local::recovery::identity::{lock_shared, read_description};
use crate::local::recovery::listing::{Listing, look};
use crate::local::recovery::{Recovery, Replay};
use crate::local::space::SpaceOptions;
use crate::local::space::usage::Usage;
use crate::mvcc::Mvcc;
use crate::mvcc::state::Limits;

/// What verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Intact frames.
    pub frames: u64,
    /// Block versions in them, those replaced since included.
    pub blocks: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Blocks of type [`BlockType::Metadata`] that are in force.
    pub metadata_blocks: u64,
    /// Checkpoint files in use.
    pub checkpoints: u64,
    /// Their pages.
    pub pages: u64,
    /// All damage: of checkpoints, of whole segments, then in log order.
    pub damage: Vec<Damage>,
}

/// Segments in log order, by sequence.
pub(crate) type Scanners<F> = BTreeMap<u64, Scanner<F>>;

/// Blocks that are looked up at once.
const ID_COUNT: usize = 4096;

pub(crate) fn verify<D: Disk>(disk: &D) -> Result<VerifyReport> {
    look(disk, false)?;
    let _lock = lock_shared(disk)?;
    let listing = look(disk, false)?;
    if !listing.has_meta {
        return Err(damaged(FileName::Meta, 0, Defect::Meta));
    }
    verify_locked(disk, &listing)
}

/// As [`verify`], for a caller who has the lock.
pub(crate) fn verify_locked<D: Disk>(disk: &D, listing: &Listing) -> Result<VerifyReport> {
    let store = read_description(disk)?;
    // Nobody begins a transaction on it.
    let limits = Limits {
        block_len_max: 0,
        transaction_len_max: 0,
        open_transactions_max: 0,
        snapshot_age_max: Duration::MAX,
        snapshot_pinned_max: u64::MAX,
    };
    let (mvcc, usage) = (Mvcc::new(limits), Usage::default());
    let unread = Box::new(|_, _, _| Err(std::io::ErrorKind::Unsupported.into()));
    let views = Views::new(ReadMode::Pread, ShownMax::default(), unread);
    let recovery = Recovery {
        disk,
        store: &store,
        options: SpaceOptions { segment_len: 0, ahead_len_max: 0, how: How::Read },
        mvcc: &mvcc,
        views: &views,
        usage: &usage,
        reserve: None,
        next_number: listing.next_number,
        on_progress: None,
        replay: Replay::default(),
    };
    let mut report = Findings::default();
    let examined = recovery.examine(listing);
    let images = match &examined {
        Ok(_) => recovery.images_in_use(listing)?,
        // Whatever recovery tried last, the newest one knows best what should be there.
        Err(_) => {
            let (images, errors) = newest_images(disk, &store, listing)?;
            errors.into_iter().try_for_each(|error| report.note(error))?;
            images
        }
    };
    report.images(&images)?;
    missing(&images, listing).into_iter().try_for_each(|error| report.note(error))?;
    let (mut scanners, errors) = open_segments(disk, &store, listing, &images)?;
    errors.into_iter().try_for_each(|error| report.note(error))?;
    // Of a place where others find something, too, what opening says of it counts.
    let is_refused = match examined {
        Ok(_) => false,
        Err(error) => {
            report.note(error)?;
            true
        }
    };
    let mut report = walk(report, &mut scanners, &images)?;
    if !is_refused {
        report.blocks_in_force(&mvcc, &mut scanners)?;
    }
    Ok(report.report)
}

/// The newest checkpoint that opens, whatever the log says of it, and why newer ones do not.
pub(crate) fn newest_images<D: Disk>(
    disk: &D,
    store: &Description,
    listing: &Listing,
) -> Result<(Chain, Vec<Error>)> {
    let mut errors = Vec::new();
    for number in listing.checkpoints.iter().rev() {
        match Chain::open(disk, store, *number, ReadMode::Pread) {
            Ok(images) => return Ok((images, errors)),
            Err(error @ Error::Corrupt { .. }) => errors.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((Chain::empty(ReadMode::Pread), errors))
}

/// Segments that a checkpoint lists and that are gone or too short.
pub(crate) fn missing(images: &Chain, listing: &Listing) -> Vec<Error> {
    let mut errors = Vec::new();
    let start = images.summary().map_or(0, |summary| summary.position.sequence);
    for segment in images.segments().iter().filter(|segment| segment.sequence < start) {
        let name = FileName::Segment(segment.number);
        match listing.segments.get(&segment.number) {
            None => errors.push(damaged(name, 0, Defect::MissingSegment)),
            Some(len) if *len < segment.used_len => {
                errors.push(damaged(name, *len, Defect::Truncated));
            }
            Some(_) => {}
        }
    }
    errors
}

/// Opens the segments that a checkpoint lists, and those of the log behind it; without a checkpoint all
/// of them. Returns also what is wrong with those that do not open.
pub(crate) fn open_segments<D: Disk>(
    disk: &D,
    store: &Description,
    listing: &Listing,
    images: &Chain,
) -> Result<(Scanners<D::File>, Vec<Error>)> {
    let start = images.summary().map_or(0, |summary| summary.position.sequence);
    let (mut scanners, mut errors) = (BTreeMap::new(), Vec::new());
    for number in listing.segments.keys() {
        let scanner = match Scanner::open_segment(disk, store, *number) {
            Ok(scanner) => scanner,
            Err(error @ Error::Corrupt { .. }) => {
                errors.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let listed =
            |segment: &crate::local::format::checkpoint::SegmentUse| segment.number == *number;
        let in_use = scanner.sequence >= start || images.segments().iter().any(listed);
        if in_use && scanners.insert(scanner.sequence, scanner).is_some() {
            errors.push(damaged(FileName::Segment(*number), 0, Defect::SegmentHeader));
        }
    }
    Ok((scanners, errors))
}

/// Drops segments that are void, and returns where the others end: at their cut, at the end of what a
/// checkpoint says is used, or at the end of the file.
pub(crate) fn find_ends<F: DiskFile>(
    scanners: &mut Scanners<F>,
    images: &Chain,
) -> Result<BTreeMap<u64, u64>> {
    let mut cuts: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (sequence, scanner) in scanners.iter_mut() {
        // Ascending: the last one that names a place holds what counted of the earlier ones.
        if let Some(cut) = scanner.read_truncation_record()?.filter(|cut| cut.sequence < *sequence)
        {
            cuts.insert(cut.sequence, (cut.offset, *sequence));
        }
    }
    let is_void = |sequence: u64| {
        cuts.range(..sequence).next_back().is_some_and(|(_, (_, next))| sequence < *next)
    };
    scanners.retain(|sequence, _| !is_void(*sequence));
    let start = images.summary().map_or(0, |summary| summary.position.sequence);
    let used = |sequence: u64| {
        let row = images.segments().iter().find(|segment| segment.sequence == sequence);
        row.filter(|_| sequence < start).map(|segment| segment.used_len)
    };
    let end = |(sequence, scanner): (&u64, &Scanner<F>)| {
        let cut = cuts.get(sequence).map(|(offset, _)| *offset);
        let end = used(*sequence).or(cut).unwrap_or(scanner.len);
        (*sequence, end.min(scanner.len))
    };
    Ok(scanners.iter().map(end).collect())
}

/// The second look.
fn walk<F: DiskFile>(
    report: Findings,
    scanners: &mut Scanners<F>,
    images: &Chain,
) -> Result<Findings> {
    let ends = find_ends(scanners, images)?;
    let start = images.summary().map_or(0, |summary| summary.position.sequence);
    let durable = images.summary().map_or(Lsn(0), |summary| summary.lsn);
    let mut walk = Verification { report, durable, ..Verification::default() };
    for (sequence, scanner) in scanners.iter_mut() {
        walk.enter(*sequence, *sequence > start);
        walk.segment(scanner, ends[sequence])?;
    }
    Ok(walk.finish())
}

/// Where verification stands.
#[derive(Default)]
struct Verification {
    report: Findings,
    /// The segment.
    sequence: u64,
    /// Checksum and LSN of the last intact frame.
    chain: u32,
    last: Lsn,
    /// The newest LSN that a frame or a checkpoint knows durable.
    durable: Lsn,
    /// Where no frame was found after the last intact one.
    gap: Option<Damage>,
    /// Defects, with the first LSN that each can have cost.
    suspects: Vec<(Lsn, Damage)>,
}

impl Verification {
    /// Goes on in another segment. Where those between went out of use, nothing tells whether frames
    /// are missing at the end of the last one, unless something of a frame is there.
    fn enter(&mut self, sequence: u64, in_log: bool) {
        if !in_log && self.sequence + 1 != sequence {
            let gap = self.gap.take().filter(|gap| gap.defect == Defect::OpTable);
            let lost = self.lost();
            self.suspects.extend(gap.map(|gap| (lost, gap)));
        }
        self.sequence = sequence;
    }

    fn segment<F: DiskFile>(&mut self, scanner: &mut Scanner<F>, end: u64) -> Result<()> {
        self.report.report.segments += 1;
        let mut offset = PAGE;
        while offset < end {
            let defect = match scanner.read_frame_at(offset)? {
                Found::Frame(frame) => {
                    self.frame(scanner, &frame)?;
                    offset = frame.header.next_frame_offset(frame.offset);
                    continue;
                }
                Found::BadTable(header) => {
                    self.durable = self.durable.max(header.durable);
                    Defect::OpTable
                }
                Found::Nothing => Defect::FrameHeader,
            };
            if self.gap.is_none() {
                let lost = scanner.damage_at(defect, offset, self.lost());
                self.gap = Some(damage_of_error(lost)?);
            }
            offset = page_up(offset + 1);
        }
        Ok(())
    }

    fn frame<F: DiskFile>(&mut self, scanner: &mut Scanner<F>, frame: &Frame) -> Result<()> {
        // A frame that continues the chain shows that nothing was lost: a segment's unused end.
        let continues = frame.header.previous == self.chain;
        if let Some(gap) = self.gap.take().filter(|_| !continues) {
            self.suspects.push((self.lost(), gap));
        }
        self.report.report.frames += 1;
        self.chain = frame.crc;
        self.durable = self.durable.max(frame.header.durable);
        self.last = frame.header.lsn;
        if let Some((at, entry)) = scanner.first_bad_payload(frame)? {
            let mut damage =
                damage_of_error(scanner.damage_at(Defect::PayloadChecksum, at, self.last))?;
            damage.place.block = Some(entry.block_id());
            self.suspects.push((self.last, damage));
        }
        for entry in frame.entries.iter().filter(|entry| entry.written_header().is_some()) {
            self.report.report.blocks += 1;
            self.report.report.bytes += u64::from(entry.payload_len());
        }
        Ok(())
    }

    /// The first LSN that damage behind the last intact frame can have cost. Frames are not asked
    /// here whether they follow each other, so that one may be the last there is.
    fn lost(&self) -> Lsn {
        Lsn(self.last.0.saturating_add(1))
    }

    /// What a later frame knows durable was acknowledged: damage. The rest is a torn tail.
    fn finish(mut self) -> Findings {
        let gap = self.gap.take().map(|gap| (self.lost(), gap));
        let durable = self.durable;
        let acknowledged = self.suspects.into_iter().chain(gap).filter(|(lsn, _)| *lsn <= durable);
        acknowledged.for_each(|(_, damage)| self.report.add(damage));
        self.report
    }
}

/// A report in the making.
#[derive(Default)]
struct Findings {
    report: VerifyReport,
    /// Files and offsets of its damage.
    places: BTreeSet<(String, u64)>,
}

impl Findings {
    fn note(&mut self, error: Error) -> Result<()> {
        self.add(damage_of_error(error)?);
        Ok(())
    }

    /// Adds damage, once for each place.
    fn add(&mut self, damage: Damage) {
        if self.places.insert((damage.place.file.clone(), damage.place.offset)) {
            self.report.damage.push(damage);
        }
    }

    /// The first look.
    fn images(&mut self, images: &Chain) -> Result<()> {
        for image in images.images() {
            self.report.checkpoints += 1;
            self.report.pages += image.header.layout.page_count;
        }
        images.damage()?.into_iter().try_for_each(|error| self.note(error))
    }

    /// The fourth look.
    fn blocks_in_force<F: DiskFile>(
        &mut self,
        mvcc: &Mvcc<Location>,
        scanners: &mut Scanners<F>,
    ) -> Result<()> {
        let mut first = Some(BlockId(0));
        while let Some(from) = first {
            let ids = match mvcc.index.newest_ids(from, BlockId(u64::MAX), ID_COUNT) {
                Ok(ids) => ids,
                // The page that does not say which blocks there are is known already.
                Err(error) => return self.note(error),
            };
            first = ids.last().and_then(|last| last.0.checked_add(1)).map(BlockId);
            for id in ids {
                match mvcc.index.read_newest(id) {
                    Ok(Some(version)) => self.block(id, &version.value, scanners)?,
                    Ok(None) => {}
                    Err(error) => self.note(error)?,
                }
            }
        }
        Ok(())
    }

    fn block<F: DiskFile>(
        &mut self,
        id: BlockId,
        location: &Location,
        scanners: &mut Scanners<F>,
    ) -> Result<()> {
        self.report.metadata_blocks += u64::from(location.block_type == BlockType::Metadata);
        let offset = u64::from(location.offset);
        let error = match scanners.get_mut(&u64::from(location.segment)) {
            None => damaged(FileName::Segment(0), offset, Defect::MissingSegment),
            Some(scanner) => match is_intact(scanner, location)? {
                true => return Ok(()),
                false => scanner.damage_at(Defect::PayloadChecksum, offset, Lsn(0)),
            },
        };
        let mut damage = damage_of_error(error)?;
        (damage.place.lsn, damage.place.block) = (None, Some(id));
        self.add(damage);
        Ok(())
    }
}

/// Whether the payload at a place is what was written.
pub(crate) fn is_intact<F: DiskFile>(
    scanner: &mut Scanner<F>,
    location: &Location,
) -> Result<bool> {
    let payload = scanner.read_payload(u64::from(location.offset), location.len)?;
    Ok(payload.len() == location.len as usize && checksum::crc32c(payload) == location.checksum)
}
