//! Survey: which files of the store count, and where the log goes on behind its checkpoint.
//!
//! Owns step 1 of recovery: the choice of the checkpoint, the cuts, and what of the segments is void. Only
//! reads. Invariants of a [`Survey`]:
//!
//! - its segments follow each other from the checkpoint's place on, past cuts: none of them is missing and
//!   none is void;
//! - the log behind the checkpoint's place says that the checkpoint counts;
//! - no page of the checkpoint is known to be damaged, unless there is neither an older one nor the whole log to
//!   take in its place: then what the page says of blocks is damage to those blocks.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::walk::{Walk, follow};
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

/// Images are looked at in full before they are used where they take no more than this together: longer ones
/// would make opening longer with each block. Their pages are looked at when they are needed.
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
    /// Step 1.
    pub(super) fn survey(&self, listing: &Listing) -> Result<Survey<D::File>> {
        let (mut first_error, mut in_part) = (None, None);
        for number in listing.checkpoints.iter().rev() {
            let opened = Chain::open(self.disk, self.store, *number, self.views.read_mode());
            let error = match opened.and_then(|images| self.survey_from(listing, images)) {
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
        // Without a checkpoint the log has to be there from its beginning.
        let whole = self.survey_from(listing, Chain::empty(self.views.read_mode()));
        match (whole, in_part, first_error) {
            (Err(Error::Corrupt { .. }), Some(in_part), _) => Ok(in_part),
            (Err(Error::Corrupt { .. }), None, Some(first)) => Err(first),
            (whole, ..) => whole,
        }
    }

    fn survey_from(&self, listing: &Listing, images: Chain) -> Result<Survey<D::File>> {
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
            self.progress(OpenPhase::Survey, 0, 0, 0)?;
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
        let cuts = find_cuts(&mut segments, start.position)?;
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
        let mut expected = start.position.sequence;
        for (sequence, scanner) in &segments {
            if *sequence != expected {
                return Err(damaged(FileName::Segment(scanner.number), 0, Defect::MissingSegment));
            }
            expected = cuts.get(sequence).map_or(sequence + 1, |(_, next)| *next);
        }
        if cuts.keys().any(|sequence| !segments.contains_key(sequence)) {
            return Err(damaged(FileName::Segment(0), 0, Defect::MissingSegment));
        }
        if first_len < start.position.offset {
            let checkpoint = images.names().first().map_or(0, |head| head.number);
            let defect = Defect::MissingEnd { checkpoint, lsn: start.lsn };
            return Err(damaged(FileName::Segment(first), first_len, defect));
        }
        if let Some(head) = images.names().first()
            && !self.is_confirmed(&mut segments, &cuts, &start, *head)?
        {
            return Err(damaged(FileName::Checkpoint(head.number), 0, Defect::Unconfirmed));
        }
        let witness = self.witness(listing, &images.names())?;
        Ok(Survey { images, sealed, start, segments, cuts, void, damage: None, witness })
    }

    /// Whether the log says that the image with this name counts.
    fn is_confirmed(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        start: &Summary,
        image: ImageName,
    ) -> Result<bool> {
        let (mut walk, mut found) = (Walk::start(start), false);
        follow(segments, cuts, &mut walk, &mut |segment, walk| {
            if let Some((_, frame)) = walk.unwitnessed.pop_back() {
                found = segment.confirmed_image_name(&frame)? == Some(image);
            }
            Ok(if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found)
    }
}

/// The cuts that the first frames of segments state. Those before `start` are history.
///
/// # Errors
/// [`Error::Corrupt`]: what a frame says is impossible, or `start` itself was cut away.
fn find_cuts<F: DiskFile>(segments: &mut Segments<F>, start: LogPosition) -> Result<Cuts> {
    let mut cuts = BTreeMap::new();
    for (sequence, scanner) in segments {
        let Some(cut) = scanner.read_truncation_record()? else { continue };
        // It voids what was there before it. Otherwise the walk would go round in circles.
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
        // The later one holds what counted of the earlier one.
        if place.1 < *sequence {
            *place = (cut.offset, *sequence);
        }
    }
    Ok(cuts)
}
