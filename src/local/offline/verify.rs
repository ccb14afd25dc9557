//! Verification: reads every checkpoint page, frame and payload that the store relies on, and lists
//! all damage. Changes nothing.
//!
//! Four passes, each of which continues behind damage:
//!
//! 1. The pages of the checkpoint that opening would use, and the segments that it lists.
//! 2. The frames of those segments and of the log behind them. Behind a damaged frame the pass
//!    continues at the next page that holds a frame of the segment. Bytes behind the last frame
//!    that no frame states durable are a torn tail and no damage.
//! 3. Recovery without its changes: each reason to refuse an open is damage.
//! 4. Every block that is live after that, read at its place.
//!
//! Unused segments and checkpoints, which a crash may leave, are not read.

use crate::local::format::place::{Damage, damage_of_error};
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
use crate::local::options::{ReadMode, ShownMax};
use crate::local::read::scan::{Found, Frame, Scanner};
use crate::local::read::segment::Views;
use crate::local::recovery::identity::{lock_store_shared, read_description};
use crate::local::recovery::listing::{Listing, list_store};
use crate::local::recovery::{Recovery, Replay};
use crate::local::space::SpaceOptions;
use crate::local::space::usage::Usage;
use crate::mvcc::Mvcc;
use crate::mvcc::state::Limits;

/// The findings of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Intact frames.
    pub frames: u64,
    /// Block versions in them, replaced ones included.
    pub blocks: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Live blocks of type [`BlockType::Metadata`].
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

pub(crate) fn verify_store<D: Disk>(disk: &D) -> Result<VerifyReport> {
    list_store(disk, false)?;
    let _lock = lock_store_shared(disk)?;
    let listing = list_store(disk, false)?;
    if !listing.has_meta {
        return Err(damaged(FileName::Meta, 0, Defect::Meta));
    }
    verify_locked(disk, &listing)
}

/// As [`verify_store`], for a caller that holds the lock.
pub(crate) fn verify_locked<D: Disk>(disk: &D, listing: &Listing) -> Result<VerifyReport> {
    let store = read_description(disk)?;
    // No transaction is begun on it.
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
    let examined = recovery.examine_log(listing);
    let images = match &examined {
        Ok(_) => recovery.images_in_use(listing)?,
        // If recovery fails, the newest checkpoint lists the files that should exist.
        Err(_) => {
            let (images, errors) = open_newest_images(disk, &store, listing)?;
            errors.into_iter().try_for_each(|error| report.add_error(error))?;
            images
        }
    };
    report.verify_images(&images)?;
    find_missing_segments(&images, listing)
        .into_iter()
        .try_for_each(|error| report.add_error(error))?;
    let (mut scanners, errors) = open_segments(disk, &store, listing, &images)?;
    errors.into_iter().try_for_each(|error| report.add_error(error))?;
    // If another pass finds damage at the same place, the error of opening is listed.
    let is_refused = match examined {
        Ok(_) => false,
        Err(error) => {
            report.add_error(error)?;
            true
        }
    };
    let mut report = verify_log(report, &mut scanners, &images)?;
    if !is_refused {
        report.verify_live_blocks(&mvcc, &mut scanners)?;
    }
    Ok(report.report)
}

/// Opens the newest checkpoint that can be opened, confirmed or not. Returns it with the errors of
/// newer ones.
pub(crate) fn open_newest_images<D: Disk>(
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

/// Finds segments that a checkpoint lists and that are missing or too short.
pub(crate) fn find_missing_segments(images: &Chain, listing: &Listing) -> Vec<Error> {
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

/// Opens the segments that a checkpoint lists, and those of the log behind it; without a checkpoint
/// all of them. Returns them with the errors of those that do not open.
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

/// Drops void segments, and returns the ends of the others: their truncation, the used length in a
/// checkpoint, or the end of the file.
pub(crate) fn find_segment_ends<F: DiskFile>(
    scanners: &mut Scanners<F>,
    images: &Chain,
) -> Result<BTreeMap<u64, u64>> {
    let mut cuts: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (sequence, scanner) in scanners.iter_mut() {
        // In ascending order: the last record for a segment holds all that counted for earlier
        // ones.
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

/// The second pass.
fn verify_log<F: DiskFile>(
    report: Findings,
    scanners: &mut Scanners<F>,
    images: &Chain,
) -> Result<Findings> {
    let ends = find_segment_ends(scanners, images)?;
    let start = images.summary().map_or(0, |summary| summary.position.sequence);
    let durable = images.summary().map_or(Lsn(0), |summary| summary.lsn);
    let mut verification = Verification { report, durable, ..Verification::default() };
    for (sequence, scanner) in scanners.iter_mut() {
        verification.enter_segment(*sequence, *sequence > start);
        verification.verify_segment(scanner, ends[sequence])?;
    }
    Ok(verification.finish_log())
}

/// The state of the second pass.
#[derive(Default)]
struct Verification {
    report: Findings,
    /// The segment.
    sequence: u64,
    /// Checksum and LSN of the last intact frame.
    chain: u32,
    last: Lsn,
    /// The newest LSN that a frame or a checkpoint states durable.
    durable: Lsn,
    /// The place behind the last intact frame, if no frame follows there.
    gap: Option<Damage>,
    /// Defects, each with the first LSN that it may cost.
    suspects: Vec<(Lsn, Damage)>,
}

impl Verification {
    /// Continues in another segment. If segments in between were released, only a frame with a
    /// damaged table shows a loss at the end of the last one.
    fn enter_segment(&mut self, sequence: u64, in_log: bool) {
        if !in_log && self.sequence + 1 != sequence {
            let gap = self.gap.take().filter(|gap| gap.defect == Defect::OpTable);
            let lost = self.first_lost_lsn();
            self.suspects.extend(gap.map(|gap| (lost, gap)));
        }
        self.sequence = sequence;
    }

    fn verify_segment<F: DiskFile>(&mut self, scanner: &mut Scanner<F>, end: u64) -> Result<()> {
        self.report.report.segments += 1;
        let mut offset = PAGE;
        while offset < end {
            let defect = match scanner.read_frame_at(offset)? {
                Found::Frame(frame) => {
                    self.check_frame(scanner, &frame)?;
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
                let lost = scanner.damage_at(defect, offset, self.first_lost_lsn());
                self.gap = Some(damage_of_error(lost)?);
            }
            offset = page_up(offset + 1);
        }
        Ok(())
    }

    fn check_frame<F: DiskFile>(&mut self, scanner: &mut Scanner<F>, frame: &Frame) -> Result<()> {
        // If the frame continues the chain, the gap was the unused end of a segment.
        let continues = frame.header.previous == self.chain;
        if let Some(gap) = self.gap.take().filter(|_| !continues) {
            self.suspects.push((self.first_lost_lsn(), gap));
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

    /// The first LSN that damage behind the last intact frame may cost. This pass does not check
    /// that LSNs are contiguous, so the last one may be the greatest possible.
    fn first_lost_lsn(&self) -> Lsn {
        Lsn(self.last.0.saturating_add(1))
    }

    /// Reports defects at LSNs that a later frame states durable. The rest is a torn tail.
    fn finish_log(mut self) -> Findings {
        let gap = self.gap.take().map(|gap| (self.first_lost_lsn(), gap));
        let durable = self.durable;
        let acknowledged = self.suspects.into_iter().chain(gap).filter(|(lsn, _)| *lsn <= durable);
        acknowledged.for_each(|(_, damage)| self.report.add_damage(damage));
        self.report
    }
}

/// A report under construction.
#[derive(Default)]
struct Findings {
    report: VerifyReport,
    /// Files and offsets of its damage.
    places: BTreeSet<(String, u64)>,
}

impl Findings {
    fn add_error(&mut self, error: Error) -> Result<()> {
        self.add_damage(damage_of_error(error)?);
        Ok(())
    }

    /// Adds damage, once for each place.
    fn add_damage(&mut self, damage: Damage) {
        if self.places.insert((damage.place.file.clone(), damage.place.offset)) {
            self.report.damage.push(damage);
        }
    }

    /// The first pass.
    fn verify_images(&mut self, images: &Chain) -> Result<()> {
        for image in images.images() {
            self.report.checkpoints += 1;
            self.report.pages += image.header.layout.page_count;
        }
        images.verify_pages()?.into_iter().try_for_each(|error| self.add_error(error))
    }

    /// The fourth pass.
    fn verify_live_blocks<F: DiskFile>(
        &mut self,
        mvcc: &Mvcc<Location>,
        scanners: &mut Scanners<F>,
    ) -> Result<()> {
        let mut first = Some(BlockId(0));
        while let Some(from) = first {
            let ids = match mvcc.index.newest_ids(from, BlockId(u64::MAX), ID_COUNT) {
                Ok(ids) => ids,
                // The first pass has reported this page.
                Err(error) => return self.add_error(error),
            };
            first = ids.last().and_then(|last| last.0.checked_add(1)).map(BlockId);
            for id in ids {
                match mvcc.index.read_newest(id) {
                    Ok(Some(version)) => self.verify_block(id, &version.value, scanners)?,
                    Ok(None) => {}
                    Err(error) => self.add_error(error)?,
                }
            }
        }
        Ok(())
    }

    fn verify_block<F: DiskFile>(
        &mut self,
        id: BlockId,
        location: &Location,
        scanners: &mut Scanners<F>,
    ) -> Result<()> {
        self.report.metadata_blocks += u64::from(location.block_type == BlockType::Metadata);
        let offset = u64::from(location.offset);
        let error = match scanners.get_mut(&u64::from(location.segment)) {
            None => damaged(FileName::Segment(0), offset, Defect::MissingSegment),
            Some(scanner) => match is_payload_intact(scanner, location)? {
                true => return Ok(()),
                false => scanner.damage_at(Defect::PayloadChecksum, offset, Lsn(0)),
            },
        };
        let mut damage = damage_of_error(error)?;
        (damage.place.lsn, damage.place.block) = (None, Some(id));
        self.add_damage(damage);
        Ok(())
    }
}

/// Whether the payload at a place matches its checksum.
pub(crate) fn is_payload_intact<F: DiskFile>(
    scanner: &mut Scanner<F>,
    location: &Location,
) -> Result<bool> {
    let payload = scanner.read_payload(u64::from(location.offset), location.len)?;
    Ok(payload.len() == location.len as usize && checksum::crc32c(payload) == location.checksum)
}
