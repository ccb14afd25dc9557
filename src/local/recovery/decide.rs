//! Decide: what stands at the end of the chain, and which unwitnessed frames count.
//!
//! Owns step 3 of recovery, by the table in the header of [`recovery`](super). Only reads; what it refuses
//! is refused before anything is changed.

use super::walk::Walk;
use super::witness::Witness;
use super::{Recovery, Segments};
use crate::block::Lsn;
use crate::canary::{Bug, planted};
use crate::error::{Defect, Result};
use crate::io::{Disk, FileName};
use crate::local::checkpoint::header::LogPosition;
use crate::local::format::PAGE;
use crate::local::format::frame::{Entry, Kind};
use crate::local::scan::Found;
use crate::local::segment::damaged;

/// A segment behind the tail that begins with this many zeros was never written to.
const UNUSED_LEN: u64 = 1 << 20;

impl<D: Disk> Recovery<'_, D> {
    /// Step 3. True when the store was closed cleanly.
    pub(super) fn decide(
        &self,
        segments: &mut Segments<D::File>,
        walk: &mut Walk,
        witness: Option<Witness>,
    ) -> Result<bool> {
        let mut torn_len = 0;
        let mut durable = walk.durable;
        for (sequence, segment) in segments.range_mut(walk.sequence..) {
            let is_tail = *sequence == walk.sequence;
            if !is_tail && planted(Bug::LaterSegmentsUnseen) {
                continue;
            }
            let (from, zeros_max) =
                if is_tail { (walk.offset, u64::MAX) } else { (PAGE, UNUSED_LEN) };
            let (stated, torn) = segment.evidence(from, zeros_max)?;
            durable = durable.max(stated);
            torn_len += torn;
        }
        let Some(segment) = segments.get_mut(&walk.sequence) else {
            return Err(damaged(FileName::Segment(0), 0, Defect::MissingSegment));
        };
        let refused = torn_len > 0
            && (planted(Bug::TornTailIsDamage)
                || planted(Bug::GarbageIsDamage)
                    && matches!(segment.frame_at(walk.offset)?, Found::Nothing));
        if refused || durable > walk.last_complete() && !planted(Bug::DamageIsTheEnd) {
            let defect = match segment.frame_at(walk.offset)? {
                Found::BadTable(_) => Defect::OpTable,
                Found::Frame(_) => Defect::BrokenChain,
                Found::Nothing => Defect::FrameHeader,
            };
            let lsn = Lsn(walk.last_complete().0 + 1);
            if planted(Bug::RefusedIsRepaired) {
                walk.durable = Lsn(0);
                self.start_over(segments, walk, None, self.next_number)?;
                return Ok(false);
            }
            return Err(segment.damage(defect, walk.offset, lsn));
        }
        if let Some(witness) = witness {
            let end = walk.last_complete();
            if witness.lsn > end {
                return Err(witness.loss(segment.number, walk.offset, Lsn(end.0 + 1)));
            }
            durable = durable.max(witness.lsn);
        }
        walk.durable = durable;
        self.replay_witnessed(walk)?;
        self.load(&mut walk.batch)?;
        walk.report.torn_bytes = torn_len;
        let (sequence, offset, chain) = (walk.sequence, walk.offset, walk.chain);
        walk.counted = LogPosition { sequence, offset, chain };
        let clean = walk.last_kind == Kind::End && torn_len == 0 && walk.unwitnessed.is_empty();
        if !clean {
            self.drop_torn(segments, walk)?;
            // What cannot be put in the index is refused before anything is changed.
            let entries = walk.unwitnessed.iter().flat_map(|(_, frame)| &frame.entries);
            self.mvcc.index.touch_all(entries.map(Entry::id).collect())?;
        }
        Ok(clean)
    }

    /// Drops unwitnessed frames from the first one on whose payloads are not intact.
    fn drop_torn(&self, segments: &mut Segments<D::File>, walk: &mut Walk) -> Result<()> {
        let mut keep = 0;
        for (at, (sequence, frame)) in walk.unwitnessed.iter().enumerate() {
            let Some(segment) = segments.get_mut(sequence) else { break };
            if segment.first_bad_payload(frame)?.is_some() && !planted(Bug::PayloadUnread) {
                break;
            }
            if frame.header.last_part || planted(Bug::PartsAreSealed) {
                keep = at + 1;
            }
        }
        if let Some((sequence, first)) = walk.unwitnessed.get(keep) {
            let (sequence, offset, chain) = (*sequence, first.offset, first.header.previous);
            walk.counted = LogPosition { sequence, offset, chain };
        }
        let dropped = walk.unwitnessed.drain(keep..);
        let dropped_len: u64 = dropped.map(|(_, f)| u64::from(f.header.frame_len)).sum();
        walk.report.torn_bytes += dropped_len;
        walk.unwitnessed.retain(|(_, frame)| frame.header.kind == Kind::Commit);
        walk.last_lsn = walk.unwitnessed.back().map_or(walk.witnessed.1, |(_, f)| f.header.lsn);
        Ok(())
    }
}
