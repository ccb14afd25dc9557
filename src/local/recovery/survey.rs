//! Survey: which files of the store count, and where the log continues behind its checkpoint.
//!
//! Owns step 1 of recovery: the choice of the checkpoint, the truncation records, and which
//! segments are void. Only reads. Invariants of a [`Survey`]:
//!
//! - its segments follow each other from the checkpoint's place on, past truncation records: none
//!   is missing and none is void;
//! - a frame behind the checkpoint's place confirms the checkpoint;
//! - no page of the checkpoint is known to be damaged, unless neither an older checkpoint nor the
//!   whole log can replace it. Then the blocks of the page count as damaged.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::walk::{Walk, follow_chain};
use super::{Cuts, Recovery, Segments, Survey};
use crate::block::Lsn;
use crate::error::{Defect, Error, Result};
use crate::io::{Disk, DiskFile, FileName};
use crate::local::format::PAGE;
use crate::local::format::checkpoint::{ImageName, LogPosition, Summary};
use crate::local::format::place::damaged;
use crate::local::maintenance::checkpoint::Chain;
use crate::local::options::OpenPhase;
use crate::local::read::scan::Scanner;
use crate::local::recovery::listing::Listing;

/// Images up to this length together are verified in full before use. Pages of longer ones are
/// verified when they are read, so that the time of opening does not grow with each block.
const CHECKED_LEN_MAX: u64 = 4 << 20;

/// Where the log of a store without a checkpoint begins.
const BEGINNING: Summary = Summary {
    lsn: Lsn(0),
    position: LogPosition { sequence: 1, offset: PAGE, chain: 0 },
    id_max: 0,
    total_blocks: 0,
    total_bytes: 0,
};

impl<D: Disk> Recovery<'_, D> {
    /// Step 1: chooses the checkpoint and orders the segments behind it.
    pub(super) fn survey_files(&self, listing: &Listing) -> Result<Survey<D::File>> {
        let (mut first_error, mut in_part) = (None, None);
        for number in listing.checkpoints.iter().rev() {
            let opened = Chain::open(self.disk, self.store, *number, self.views.read_mode());
            let error = match opened.and_then(|images| self.survey_from_checkpoint(listing, images))
            {
                Ok(survey) => match survey.images.first_damage(CHECKED_LEN_MAX)? {
                    None => return Ok(survey),
                    Some(damage) => {
                        in_part.get_or_insert(Survey { damage: Some(damage.clone()), ..survey });
                        damage
                    }
                },
                Err(error @ Error::Corrupt { .. }) => error,
                Err(error) => return Err(error),
            };
            first_error.get_or_insert(error);
        }
        // Without a checkpoint, the log must reach back to its beginning.
        let whole = self.survey_from_checkpoint(listing, Chain::empty(self.views.read_mode()));
        match (whole, in_part, first_error) {
            (Err(Error::Corrupt { .. }), Some(in_part), _) => Ok(in_part),
            (Err(Error::Corrupt { .. }), None, Some(first)) => Err(first),
            (whole, ..) => whole,
        }
    }

    fn survey_from_checkpoint(&self, listing: &Listing, images: Chain) -> Result<Survey<D::File>> {
        let start = images.summary().copied().unwrap_or(BEGINNING);
        let mut sealed = images.segments().to_vec();
        sealed.retain(|segment| segment.sequence < start.position.sequence);
        for segment in &sealed {
            let name = FileName::Segment(segment.number);
            match listing.segments.get(&segment.number) {
                None => return Err(damaged(name, 0, Defect::MissingSegment)),
                Some(len) if *len < segment.used_len => {
                    return Err(damaged(name, *len, Defect::Truncated));
                }
                Some(_) => {}
            }
        }
        let (mut segments, mut void) = (BTreeMap::new(), Vec::new());
        for number in listing.segments.keys() {
            if sealed.iter().any(|segment| segment.number == *number) {
                continue;
            }
            self.report_progress(OpenPhase::Survey, 0, 0, 0)?;
            let scanner = Scanner::open_segment(self.disk, self.store, *number)?;
            if scanner.sequence < start.position.sequence {
                void.push(*number);
                continue;
            }
            let twin = segments.insert(scanner.sequence, scanner);
            if twin.is_some() {
                return Err(damaged(FileName::Segment(*number), 0, Defect::SegmentHeader));
            }
        }
        let cuts = find_truncations(&mut segments, start.position)?;
        let is_void = |sequence: u64| {
            cuts.range(..sequence).next_back().is_some_and(|(_, (_, next))| sequence < *next)
        };
        segments.retain(|sequence, segment: &mut Scanner<_>| {
            let cut_out = is_void(*sequence);
            if cut_out {
                void.push(segment.number);
            }
            !cut_out
        });
        let Some(first) = segments.get(&start.position.sequence) else {
            let listed = images.segments().iter().find(|s| s.sequence == start.position.sequence);
            let next = || segments.values().next().map_or(0, |segment| segment.number);
            let name = FileName::Segment(listed.map_or_else(next, |segment| segment.number));
            return Err(damaged(name, 0, Defect::MissingSegment));
        };
        let (first, first_len) = (first.number, first.len);
        check_no_segment_missing(&segments, &cuts, start.position.sequence)?;
        if first_len < start.position.offset {
            let checkpoint = images.image_names().first().map_or(0, |head| head.number);
            let defect = Defect::MissingEnd { checkpoint, lsn: start.lsn };
            return Err(damaged(FileName::Segment(first), first_len, defect));
        }
        if let Some(head) = images.image_names().first()
            && !self.is_image_confirmed(&mut segments, &cuts, &start, *head)?
        {
            return Err(damaged(FileName::Checkpoint(head.number), 0, Defect::Unconfirmed));
        }
        let unused = self.newest_unused_checkpoint(listing, &images.image_names())?;
        Ok(Survey { images, sealed, start, segments, cuts, void, damage: None, unused })
    }

    /// Whether a frame behind the checkpoint's place confirms the image of this name.
    fn is_image_confirmed(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        start: &Summary,
        image: ImageName,
    ) -> Result<bool> {
        let (mut walk, mut found) = (Walk::from_checkpoint(start), false);
        follow_chain(segments, cuts, &mut walk, &mut |segment, walk| {
            if let Some((_, frame)) = walk.unwitnessed.pop_back() {
                found = segment.confirmed_image_name(&frame)? == Some(image);
            }
            Ok(if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found)
    }
}

/// Checks that segments follow each other from one on, past truncations.
fn check_no_segment_missing<F>(segments: &Segments<F>, cuts: &Cuts, first: u64) -> Result<()> {
    let mut expected = first;
    for (sequence, scanner) in segments {
        if *sequence != expected {
            return Err(damaged(FileName::Segment(scanner.number), 0, Defect::MissingSegment));
        }
        expected = cuts.get(sequence).map_or(sequence + 1, |(_, next)| *next);
    }
    if cuts.keys().any(|sequence| !segments.contains_key(sequence)) {
        return Err(damaged(FileName::Segment(0), 0, Defect::MissingSegment));
    }
    Ok(())
}

/// Collects the truncation records that begin segments. Records of places before `start` have no
/// effect.
///
/// # Errors
/// [`Error::Corrupt`]: a record is impossible, or one voids `start` itself.
fn find_truncations<F: DiskFile>(segments: &mut Segments<F>, start: LogPosition) -> Result<Cuts> {
    let mut cuts = BTreeMap::new();
    for (sequence, scanner) in segments {
        let Some(cut) = scanner.read_truncation_record()? else { continue };
        // A record names an earlier segment. Otherwise the walk would not end.
        if cut.sequence >= *sequence {
            return Err(scanner.damage_at(Defect::BrokenChain, PAGE, Lsn(0)));
        }
        let place = (cut.sequence, cut.offset);
        if place < (start.sequence, start.offset) {
            if start.sequence < *sequence {
                return Err(scanner.damage_at(Defect::Unconfirmed, PAGE, Lsn(0)));
            }
            continue;
        }
        let place = cuts.entry(cut.sequence).or_insert((cut.offset, *sequence));
        // The later record's place lies behind all frames that counted for the earlier one.
        if place.1 < *sequence {
            *place = (cut.offset, *sequence);
        }
    }
    Ok(cuts)
}
