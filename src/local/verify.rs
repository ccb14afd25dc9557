//! Verification: reads every frame and every payload, and lists all damage. Changes nothing.
//!
//! Unlike recovery it does not stop at the first damaged frame: it goes on at the next page that
//! holds a frame of the segment. Bytes behind the last frame that no later one vouches for are a torn
//! tail and no damage.

use crate::block::Lsn;
use crate::error::{Defect, Error, Place, Result};
use crate::io::{Disk, DiskFile, FileName};
use crate::local::checkpoint::Chain;
use crate::local::format::{PAGE, page_up};
use crate::local::open::{lock, look, read_description};
use crate::local::recovery::first_bad_payload;
use crate::local::scan::{Found, Frame, Scanner};
use crate::local::segment::damaged;

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
    /// All damage, in log order.
    pub damage: Vec<Damage>,
}

/// One damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// What is wrong.
    pub defect: Defect,
    /// Where.
    pub place: Place,
}

pub(crate) fn verify<D: Disk>(disk: &D) -> Result<VerifyReport> {
    look(disk, false)?;
    let _lock = lock(disk)?;
    let listing = look(disk, false)?;
    if !listing.has_meta {
        return Err(damaged(FileName::Meta, 0, Defect::Meta));
    }
    let store = read_description(disk)?;
    let mut report = VerifyReport::default();
    let mut scanners = Vec::new();
    for number in listing.segments.keys() {
        match Scanner::open(disk, &store, *number) {
            Ok(scanner) => scanners.push(scanner),
            Err(error) => report.note(error)?,
        }
    }
    if let Some(newest) = listing.checkpoints.last() {
        let images = Chain::open(disk, &store, *newest);
        if let Err(error) = images.and_then(|images| images.verify()) {
            report.note(error)?;
        }
    }
    scanners.sort_by_key(|scanner| scanner.sequence);
    let mut cuts = Vec::new();
    for scanner in &mut scanners {
        cuts.extend(scanner.cut()?.map(|cut| (cut, scanner.sequence)));
    }
    let mut walk = Walk { report, chain: Some(0), ..Walk::default() };
    let mut expected = 1;
    for scanner in &mut scanners {
        let sequence = scanner.sequence;
        if cuts.iter().any(|(cut, next)| cut.sequence < sequence && sequence < *next) {
            continue;
        }
        let cut = cuts.iter().find(|(cut, _)| cut.sequence == sequence);
        if sequence != expected {
            // Segments in between went out of use.
            (walk.chain, walk.gap) = (None, None);
        }
        expected = cut.map_or(sequence + 1, |(_, next)| *next);
        let end = cut.map_or(scanner.len, |(cut, _)| cut.offset.min(scanner.len));
        walk.segment(scanner, end)?;
    }
    Ok(walk.finish())
}

/// Where verification stands.
#[derive(Default)]
struct Walk {
    report: VerifyReport,
    /// Checksum of the last intact frame, and its LSN. Unknown where segments went out of use.
    chain: Option<u32>,
    last: Lsn,
    /// The newest LSN that a frame knows durable.
    durable: Lsn,
    /// Where no frame was found after the last intact one.
    gap: Option<Damage>,
    /// Defects, with the first LSN that each can have cost.
    suspects: Vec<(Lsn, Damage)>,
}

impl Walk {
    fn segment<F: DiskFile>(&mut self, scanner: &mut Scanner<F>, end: u64) -> Result<()> {
        self.report.segments += 1;
        let mut offset = PAGE;
        while offset < end {
            let defect = match scanner.frame_at(offset)? {
                Found::Frame(frame) => {
                    self.frame(scanner, &frame)?;
                    offset = frame.header.next_offset(frame.offset);
                    continue;
                }
                Found::BadTable(header) => {
                    self.durable = self.durable.max(header.durable);
                    Defect::OpTable
                }
                Found::Nothing => Defect::FrameHeader,
            };
            if self.gap.is_none() {
                let lost = scanner.damage(defect, offset, self.lost());
                self.gap = Some(to_damage(lost)?);
            }
            offset = page_up(offset + 1);
        }
        Ok(())
    }

    fn frame<F: DiskFile>(&mut self, scanner: &mut Scanner<F>, frame: &Frame) -> Result<()> {
        // A frame that continues the chain shows that nothing was lost: a segment's unused end.
        let continues = self.chain.is_none_or(|chain| frame.header.previous == chain);
        if let Some(gap) = self.gap.take().filter(|_| !continues) {
            self.suspects.push((self.lost(), gap));
        }
        self.report.frames += 1;
        self.chain = Some(frame.crc);
        self.durable = self.durable.max(frame.header.durable);
        self.last = frame.header.lsn;
        if let Some((at, entry)) = first_bad_payload(scanner, frame)? {
            let mut damage = to_damage(scanner.damage(Defect::PayloadChecksum, at, self.last))?;
            damage.place.block = Some(entry.id());
            self.suspects.push((self.last, damage));
        }
        for entry in frame.entries.iter().filter(|entry| entry.written().is_some()) {
            self.report.blocks += 1;
            self.report.bytes += u64::from(entry.payload_len());
        }
        Ok(())
    }

    /// The first LSN that damage behind the last intact frame can have cost. Frames are not asked
    /// here whether they follow each other, so that one may be the last there is.
    fn lost(&self) -> Lsn {
        Lsn(self.last.0.saturating_add(1))
    }

    /// What a later frame knows durable was acknowledged: damage. The rest is a torn tail.
    fn finish(mut self) -> VerifyReport {
        let gap = self.gap.take().map(|gap| (self.lost(), gap));
        let durable = self.durable;
        let acknowledged = self.suspects.into_iter().chain(gap).filter(|(lsn, _)| *lsn <= durable);
        self.report.damage.extend(acknowledged.map(|(_, damage)| damage));
        self.report
    }
}

fn to_damage(error: Error) -> Result<Damage> {
    match error {
        Error::Corrupt { defect, place } => Ok(Damage { defect, place }),
        other => Err(other),
    }
}

impl VerifyReport {
    fn note(&mut self, error: Error) -> Result<()> {
        self.damage.push(to_damage(error)?);
        Ok(())
    }
}
