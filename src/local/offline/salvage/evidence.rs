//! Evidence: all that the files of a damaged store still tell about its blocks.
//!
//! Owns [`Evidence`]: for each id, all versions and deletions in intact checkpoint pages and intact
//! frames, and the damage of both. Reads only. Unlike recovery it continues behind damage, at the
//! next multiple of 8 where a frame may start. The salted checksum tells frames from bytes that
//! only look like one.
//!
//! Rules:
//!
//! 1. Frames up to the newest LSN that a frame or a checkpoint states durable were acknowledged.
//!    Each intact one counts, even if others around it are lost.
//! 2. Behind that LSN, as in recovery: whole intact commits without a gap count.
//! 3. Frames that a truncation record voids do not count. Of two frames with one LSN, the one in
//!    the later segment counts.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use crate::block::{BlockId, Lsn};
use crate::error::{Defect, Error, Result};
use crate::io::{Disk, DiskFile, FileName};
use crate::local::format::PAGE;
use crate::local::format::description::Description;
use crate::local::format::frame::{Kind, TableRow, align_frame_offset};
use crate::local::format::location::Location;
use crate::local::format::place::{damage_of_error, damaged};
use crate::local::maintenance::checkpoint::Chain;
use crate::local::offline::salvage::Loss;
use crate::local::offline::verify::{
    Scanners, find_missing_segments, find_segment_ends, open_newest_images, open_segments,
};
use crate::local::read::scan::{Found, Frame, Scanner};
use crate::local::recovery::listing::Listing;

/// The state of an id as of a commit: a version at a place, or `None` for a deletion.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownVersion {
    pub(super) lsn: Lsn,
    pub(super) value: Option<Location>,
}

/// The evidence of all files.
pub(super) struct Evidence<F> {
    pub(super) scanners: Scanners<F>,
    pub(super) events: BTreeMap<BlockId, Vec<KnownVersion>>,
    pub(super) losses: Vec<Loss>,
    /// The newest commit in the checkpoint; 0 without one.
    pub(super) checkpoint_lsn: Lsn,
    /// Ids with a record in the checkpoint.
    listed: HashSet<BlockId>,
    /// Ids that may have a record in damaged pages of the checkpoint.
    hidden: Vec<RangeInclusive<u64>>,
    /// Deletions may be missing anywhere.
    pub(super) deleted_may_reappear: bool,
    pub(super) id_max: BlockId,
}

impl<F: DiskFile> Evidence<F> {
    /// Reads all files.
    ///
    /// # Errors
    /// [`Error::UnsupportedFormat`], [`Error::Io`].
    pub(super) fn gather_from_files<D: Disk<File = F>>(
        disk: &D,
        store: &Description,
        listing: &Listing,
    ) -> Result<Evidence<F>> {
        let (images, errors) = open_newest_images(disk, store, listing)?;
        let mut evidence = Evidence {
            scanners: Scanners::new(),
            events: BTreeMap::new(),
            losses: Vec::new(),
            checkpoint_lsn: images.summary().map_or(Lsn(0), |summary| summary.lsn),
            listed: HashSet::new(),
            hidden: Vec::new(),
            deleted_may_reappear: false,
            id_max: BlockId(images.summary().map_or(0, |summary| summary.id_max)),
        };
        let is_newest = errors.is_empty();
        errors.into_iter().try_for_each(|error| evidence.add_loss(error, None))?;
        find_missing_segments(&images, listing)
            .into_iter()
            .try_for_each(|error| evidence.add_loss(error, None))?;
        evidence.read_images(&images)?;
        let (mut scanners, errors) = open_segments(disk, store, listing, &images)?;
        errors.into_iter().try_for_each(|error| evidence.add_loss(error, None))?;
        let ends = find_segment_ends(&mut scanners, &images)?;
        let mut search = Search::over_log(&images, is_newest);
        if !evidence.hidden.is_empty() {
            search.covered = Lsn(0);
        }
        for (sequence, scanner) in &mut scanners {
            search.search_segment(scanner, ends[sequence])?;
        }
        search.finish_search(&scanners)?;
        if search.losses.is_empty() && search.has_all_commits() {
            // The log holds all commits, so damage of the checkpoint hides nothing.
            (evidence.checkpoint_lsn, evidence.hidden) = (Lsn(0), Vec::new());
        }
        evidence.losses.append(&mut search.losses);
        // A lost checkpoint may have held deletions whose frames were released, unless the log is
        // whole.
        evidence.deleted_may_reappear = match (is_newest, images.summary()) {
            (false, _) => !search.has_all_commits(),
            (true, None) => !search.has_first_commit(),
            (true, Some(_)) => false,
        };
        for (sequence, frame) in search.into_counted_frames(&mut scanners)? {
            evidence.read_frame(sequence, &frame);
        }
        evidence.scanners = scanners;
        Ok(evidence)
    }

    /// Whether a block whose newest event is at `lsn` was deleted without an intact record of it.
    /// Otherwise the checkpoint would list it.
    pub(super) fn was_deleted(&self, id: BlockId, lsn: Lsn) -> bool {
        lsn <= self.checkpoint_lsn && !self.listed.contains(&id) && !self.is_hidden(id)
    }

    /// Whether the newest event of a block, at `lsn`, may be out of date.
    pub(super) fn is_unsure(&self, id: BlockId, lsn: Lsn) -> bool {
        lsn <= self.checkpoint_lsn && self.is_hidden(id)
    }

    fn is_hidden(&self, id: BlockId) -> bool {
        self.hidden.iter().any(|range| range.contains(&id.0))
    }

    fn add_loss(&mut self, error: Error, lsns: Option<(Lsn, Lsn)>) -> Result<()> {
        self.losses.push(to_loss(error, lsns)?);
        Ok(())
    }

    fn add_event(&mut self, id: BlockId, event: KnownVersion) {
        self.id_max = self.id_max.max(id);
        self.events.entry(id).or_default().push(event);
    }

    fn read_images(&mut self, images: &Chain) -> Result<()> {
        for image in images.images() {
            let (mut last, mut is_damaged) = (0, false);
            for number in 1..=image.header.layout.leaf_count {
                let records = match image.leaf_records(number) {
                    Ok(records) => records,
                    Err(Error::Corrupt { .. }) => {
                        is_damaged = true;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                if is_damaged && let Some((first, _)) = records.first() {
                    self.hidden.push(last..=first.0);
                }
                is_damaged = false;
                for (id, record) in records {
                    last = id.0;
                    self.listed.insert(id);
                    self.add_event(id, KnownVersion { lsn: record.lsn, value: record.value });
                }
            }
            if is_damaged {
                self.hidden.push(last..=u64::MAX);
            }
        }
        images.verify_pages()?.into_iter().try_for_each(|error| self.add_loss(error, None))
    }

    fn read_frame(&mut self, sequence: u64, frame: &Frame) {
        let place = |header, offset| Some(Location::new(header, sequence, offset));
        for (offset, entry) in frame.rows_with_offsets() {
            let event = match entry {
                TableRow::Write(header) => {
                    KnownVersion { lsn: frame.header.lsn, value: place(header, offset) }
                }
                TableRow::Move(header, origin) => {
                    KnownVersion { lsn: *origin, value: place(header, offset) }
                }
                TableRow::Delete(_) => KnownVersion { lsn: frame.header.lsn, value: None },
            };
            self.add_event(entry.block_id(), event);
        }
    }
}

/// Damage, with the commits that it costs.
fn to_loss(error: Error, lsns: Option<(Lsn, Lsn)>) -> Result<Loss> {
    let damage = damage_of_error(error)?;
    Ok(Loss { defect: damage.defect, place: damage.place, lsns })
}

/// A walk over all frames in log order.
struct Search {
    sequence: u64,
    /// Behind this segment, each missing segment is damage.
    start: u64,
    /// The newest commit in a checkpoint whose leaves are all intact.
    covered: Lsn,
    chain: u32,
    /// The last intact frame: its LSN, and whether its commit ended there.
    last: (Lsn, bool),
    durable: Lsn,
    /// The damage of the frame behind the last intact one.
    gap: Option<Error>,
    /// File number and end of the segment before.
    before: (u64, u64),
    frames: Vec<(u64, Frame)>,
    losses: Vec<Loss>,
}

impl Search {
    fn over_log(images: &Chain, is_newest: bool) -> Search {
        let summary = images.summary();
        let start = summary.map_or(0, |summary| summary.position.sequence);
        let covered = summary.map_or(Lsn(0), |summary| summary.lsn);
        Search {
            sequence: 0,
            // Segments that a newer checkpoint released are unknown.
            start: if is_newest { start } else { u64::MAX },
            covered,
            chain: 0,
            last: (Lsn(0), true),
            durable: covered,
            gap: None,
            before: (0, 0),
            frames: Vec::new(),
            losses: Vec::new(),
        }
    }

    fn search_segment<F: DiskFile>(&mut self, scanner: &mut Scanner<F>, end: u64) -> Result<()> {
        let in_log = scanner.sequence > self.start;
        let follows = self.sequence + 1 == scanner.sequence;
        if !in_log && !follows {
            // The segments in between were released, or their fate is unknown.
            self.gap = None;
        }
        let (mut offset, mut is_first) = (PAGE, true);
        while offset < end {
            match scanner.read_frame_at(offset)? {
                Found::Frame(frame) => {
                    if is_first && (in_log || follows) && self.gap.is_none() {
                        self.check_link(scanner, &frame, follows);
                    }
                    is_first = false;
                    offset = frame.header.next_frame_offset(offset);
                    self.add_frame(scanner.sequence, frame)?;
                }
                Found::BadTable(header) => {
                    is_first = false;
                    self.durable = self.durable.max(header.durable);
                    self.note_gap(scanner, Defect::OpTable, offset);
                    offset = header.next_frame_offset(offset);
                }
                Found::Nothing => {
                    self.note_gap(scanner, Defect::FrameHeader, offset);
                    offset = align_frame_offset(offset + 1);
                }
            }
        }
        self.sequence = scanner.sequence;
        self.before = (scanner.number, end);
        Ok(())
    }

    /// Finds frames or segments that are missing between two whole segments.
    fn check_link<F: DiskFile>(&mut self, scanner: &Scanner<F>, frame: &Frame, follows: bool) {
        if frame.header.previous == self.chain || frame.header.previous == 0 {
            return;
        }
        let (number, end) = self.before;
        self.gap = Some(match follows {
            true => damaged(FileName::Segment(number), end, Defect::Truncated),
            false => damaged(FileName::Segment(scanner.number), 0, Defect::MissingSegment),
        });
    }

    fn note_gap<F: DiskFile>(&mut self, scanner: &Scanner<F>, defect: Defect, offset: u64) {
        let lsn = self.first_lost_lsn();
        self.gap.get_or_insert_with(|| scanner.damage_at(defect, offset, lsn));
    }

    fn add_frame(&mut self, sequence: u64, frame: Frame) -> Result<()> {
        let header = &frame.header;
        if header.previous == self.chain {
            self.gap = None;
        }
        if let Some(gap) = self.gap.take() {
            let until = if header.part > 0 || header.kind != Kind::Commit { 0 } else { 1 };
            self.add_loss(gap, Lsn(header.lsn.0.saturating_sub(until)))?;
        }
        self.chain = frame.crc;
        self.durable = self.durable.max(header.durable);
        self.last = (header.lsn, header.last_part);
        if header.kind == Kind::Commit {
            self.frames.push((sequence, frame));
        }
        Ok(())
    }

    /// Damage behind the last intact frame, which costs commits up to `last` at most.
    fn add_loss(&mut self, gap: Error, last: Lsn) -> Result<()> {
        let first = self.first_lost_lsn().max(Lsn(self.covered.0.saturating_add(1)));
        self.losses.push(to_loss(gap, Some((first, last)).filter(|_| first <= last))?);
        Ok(())
    }

    /// The first commit that damage behind the last intact frame may cost.
    fn first_lost_lsn(&self) -> Lsn {
        Lsn(self.last.0.0.saturating_add(u64::from(self.last.1)))
    }

    /// Reports acknowledged commits behind the last intact frame as lost. The rest is a torn tail.
    fn finish_search<F>(&mut self, scanners: &Scanners<F>) -> Result<()> {
        if self.first_lost_lsn().max(Lsn(self.covered.0.saturating_add(1))) > self.durable {
            return Ok(());
        }
        let (number, end) = self.before;
        let number = scanners.get(&self.sequence).map_or(number, |scanner| scanner.number);
        let missing = || damaged(FileName::Segment(number), end, Defect::Truncated);
        let gap = self.gap.take().unwrap_or_else(missing);
        self.add_loss(gap, self.durable)
    }

    /// Whether the log still has its first commit.
    fn has_first_commit(&self) -> bool {
        let first = self.frames.iter().map(|(_, frame)| frame.header.lsn).min();
        first.unwrap_or(Lsn(self.durable.0.saturating_add(1))) == Lsn(1)
    }

    /// Whether every acknowledged commit is in the log.
    fn has_all_commits(&self) -> bool {
        let mut lsns: Vec<u64> = self.frames.iter().map(|(_, frame)| frame.header.lsn.0).collect();
        lsns.sort_unstable();
        lsns.dedup();
        let are_all = lsns.iter().zip(1..).all(|(lsn, expected)| *lsn == expected);
        are_all && lsns.len() as u64 >= self.durable.0
    }

    /// The frames that count, in commit order.
    fn into_counted_frames<F: DiskFile>(
        self,
        scanners: &mut Scanners<F>,
    ) -> Result<Vec<(u64, Frame)>> {
        let Search { durable, mut frames, .. } = self;
        let key = |(sequence, frame): &(u64, Frame)| {
            (frame.header.lsn, frame.header.part, std::cmp::Reverse(*sequence))
        };
        frames.sort_by_key(key);
        frames.dedup_by_key(|(_, frame)| (frame.header.lsn, frame.header.part));
        let (mut accepted, mut waiting) = (Vec::new(), Vec::new());
        // The next commit and part behind the acknowledged ones.
        let mut next = (Lsn(durable.0.saturating_add(1)), 0);
        for (sequence, frame) in frames {
            if frame.header.lsn <= durable {
                accepted.push((sequence, frame));
                continue;
            }
            let Some(scanner) = scanners.get_mut(&sequence) else { break };
            if (frame.header.lsn, frame.header.part) != next
                || scanner.first_bad_payload(&frame)?.is_some()
            {
                break;
            }
            let is_last = frame.header.last_part;
            next = match is_last {
                true => (Lsn(next.0.0.saturating_add(1)), 0),
                false => (next.0, next.1.saturating_add(1)),
            };
            waiting.push((sequence, frame));
            if is_last {
                accepted.append(&mut waiting);
            }
        }
        Ok(accepted)
    }
}
