//! Recovery: from the files of a store to its committed state.
//!
//! Owns the decision what of the log counts. Changes nothing on disk before it has decided; may itself
//! be interrupted anywhere and run again. Steps:
//!
//! 1. **Survey** ([`survey`]). The newest checkpoint that is whole, with every segment that it lists
//!    there; then the header of every segment behind its place in the log, and the cuts that earlier
//!    recoveries left. Where that does not fit together, an older checkpoint is tried, and at last none:
//!    the log from its beginning. A checkpoint of which only a page is damaged is used after all where the
//!    log is not there.
//!    Segments before that place that the checkpoint does not list went out of use.
//! 2. **Walk** ([`walk`]) the chain of frames from the checkpoint's place on, or from the first segment,
//!    past cuts, until no frame continues it. Frames up to the newest *durable* LSN that any frame states
//!    are *witnessed*: they go into the index, their payloads unread, many at a time ([`replay`]).
//! 3. **Decide** ([`decide`]) at the end of the chain:
//!
//!    | what stands behind the end                              | verdict                        |
//!    |---------------------------------------------------------|--------------------------------|
//!    | frames that state a durable LSN beyond the end           | corruption: refuse to open     |
//!    | nothing, but a checkpoint holds a commit beyond the end  | corruption: refuse to open ([`witness`]) |
//!    | an end mark is the last frame, nothing but zeros behind  | clean                          |
//!    | anything else: zeros, torn frames, frames of later groups | torn tail: never acknowledged  |
//!
//!    An unwitnessed frame counts if the disk holds all of it and all before it count.
//! 4. **Persist** ([`persist`]). After a clean end the end mark is written again and synced, and the
//!    log goes on behind it. Otherwise the unwitnessed frames that count are made durable where they lie,
//!    and the log goes on in a new segment behind a *cut*, which vouches for them and voids everything
//!    from there on; the renaming of that segment to its final name is the one step that makes it count.
//!    So what is answered from here on is durable, whatever the page cache held, and nothing is ever
//!    appended behind a torn tail.
//! 5. **Tidy.** Void segments are removed, also those that an interrupted recovery left, and segments
//!    and checkpoints out of use; the cut one is shortened; all names are made durable. What the cut
//!    voids is [`persist`]'s, the rest is done here.
//!
//! A session that only reads does neither of the last two ([`read_only`]).
//!
//! No frame is trusted for its checksum alone: it must continue the chain, at its own offset, in its
//! own use of the file.
//!
//! Whatever a commit acknowledges, these steps recover: with bounded memory ([`unwitnessed`]), and with
//! no more space than the new segment takes, which the reserve keeps for it alone.

mod decide;
pub(crate) mod identity;
pub(crate) mod listing;
mod persist;
pub(crate) mod probe;
mod read_only;
mod replay;
mod survey;
mod unwitnessed;
mod walk;
mod witness;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use replay::Replay;

use crate::block::{BlockId, Lsn};
use crate::error::{Error, IoOp, Result};
use crate::io::{Disk, FileName};
use crate::local::format::checkpoint::SegmentUse;
use crate::local::format::checkpoint::Summary;
use crate::local::format::description::Description;
use crate::local::format::location::Location;
use crate::local::format::place::path_of;
use crate::local::maintenance::checkpoint::Chain;
use crate::local::options::{OnProgress, OpenPhase, OpenProgress};
use crate::local::read::scan::Scanner;
use crate::local::read::segment::{Segment, Views};
use crate::local::recovery::listing::Listing;
use crate::local::recovery::witness::Witness;
use crate::local::space::reserve::Reserve;
use crate::local::space::usage::Usage;
use crate::local::space::{SpaceOptions, Tail};
use crate::mvcc::Mvcc;
use crate::sync::Process;

/// What opening a store found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whether the store had been closed, so that nothing was left to decide.
    pub clean: bool,
    /// Segments read.
    pub segments: u64,
    /// Frames replayed.
    pub frames: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Bytes behind the last frame that were never acknowledged and are left out.
    pub torn_bytes: u64,
    /// Frames at the end that no later one vouched for and that were made durable where they lie; none by a
    /// session that only reads.
    pub rewritten_frames: u64,
    /// The newest commit in the checkpoint that was used; 0 without one.
    pub checkpoint_lsn: Lsn,
    /// Part of that checkpoint is damaged, and the log is not there from its beginning to do without: what is
    /// there of the checkpoint is used, and blocks that it does not tell of are
    /// [`Error::Corrupt`](crate::Error::Corrupt). `verify` names the places.
    pub checkpoint_damaged: bool,
    /// Files in the directory that are not the store's. They are left alone.
    pub unknown_files: u64,
    /// The file system keeps no modes, and files that were made are open to others than their owner: what keeps
    /// them out is how the file system is mounted.
    pub modes_refused: bool,
    /// How long opening took.
    pub elapsed: Duration,
}

/// The state behind which the log goes on.
pub(crate) struct Recovered<F> {
    pub(crate) tail: Tail<F>,
    pub(crate) chain: u32,
    /// Segments made ahead by the last session, in order.
    pub(crate) ready: Vec<(Segment<F>, u64)>,
    pub(crate) next_number: u64,
    pub(crate) chain_of_images: Chain,
    pub(crate) report: RecoveryReport,
}

/// What the files of the store are to it.
struct Survey<F> {
    images: Chain,
    /// Segments that the checkpoint lists and that come before its place in the log.
    sealed: Vec<SegmentUse>,
    /// Where the log goes on behind the checkpoint.
    start: Summary,
    segments: Segments<F>,
    cuts: Cuts,
    /// File numbers of segments that are void or out of use.
    void: Vec<u64>,
    /// What is damaged in the checkpoint, which is used all the same: the log is not there to do without.
    damage: Option<Error>,
    /// What the checkpoints that are not used say of the log.
    witness: Option<Witness>,
}

/// What recovery works on.
pub(crate) struct Recovery<'a, D: Disk> {
    pub(crate) disk: &'a D,
    pub(crate) store: &'a Description,
    pub(crate) options: SpaceOptions,
    pub(crate) mvcc: &'a Mvcc<Location>,
    pub(crate) views: &'a Views,
    pub(crate) usage: &'a Usage,
    /// Space for the cut; `None` where nothing is changed.
    pub(crate) reserve: Option<&'a Reserve<D>>,
    /// A file number that no file of the store has.
    pub(crate) next_number: u64,
    pub(crate) on_progress: Option<OnProgress>,
    pub(crate) replay: Replay,
}

/// Sealed segments that are mapped while opening; beyond them each is mapped when it is first read.
const MAPPED_COUNT_MAX: usize = 32;

type Segments<F> = BTreeMap<u64, Scanner<F>>;

/// For each segment that was cut: the first void byte, and the segment that goes on.
type Cuts = BTreeMap<u64, (u64, u64)>;

impl<D: Disk> Recovery<'_, D> {
    /// Recovers a log made of the segments with these file numbers.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::UnsupportedFormat`] before anything is changed;
    /// [`Error::Aborted`]; [`Error::Io`].
    pub(crate) fn run(&self, listing: &Listing) -> Result<Recovered<D::File>> {
        let survey = self.survey(listing)?;
        let Survey { images, sealed, start, mut segments, cuts, void, damage, witness } = survey;
        self.take_over(&images, &sealed, &start)?;
        let mut walk = self.walk(&mut segments, &cuts, &start)?;
        let clean = self.decide(&mut segments, &cuts, &mut walk, witness)?;
        self.progress(OpenPhase::Finish, walk.report.bytes, walk.report.bytes, walk.report.frames)?;
        let mut recovered = if clean {
            self.resume(&segments, &walk)?
        } else {
            let number = self.sync_store_name(&walk)?;
            let image = images.names().first().copied();
            self.start_over(&mut segments, &cuts, &mut walk, image, number)?
        };
        let used = images.names();
        let unused = listing.checkpoints.iter().filter(|n| used.iter().all(|u| u.number != **n));
        self.remove(void.into_iter().map(FileName::Segment))?;
        self.remove(unused.map(|number| FileName::Checkpoint(*number)))?;
        self.sync_names()?;
        self.mvcc.index.make_loaded_visible(walk.at.last_lsn);
        for segment in segments.values().filter(|s| s.sequence < recovered.tail.segment.sequence) {
            segment.show_to_readers(self.views, segment.len)?;
            self.usage.set_used_len(segment.sequence, segment.number, segment.len);
        }
        let tail = &recovered.tail;
        self.usage.set_used_len(tail.segment.sequence, tail.segment.number, tail.offset);
        recovered.chain_of_images = images;
        recovered.report.checkpoint_lsn = start.lsn;
        recovered.report.checkpoint_damaged = damage.is_some();
        Ok(recovered)
    }

    /// Steps 1 to 3 without a change on disk: what opening the store would refuse. The index then holds
    /// what would be in force. With the report comes the damage with which it would be opened.
    ///
    /// # Errors
    /// As [`Recovery::run`], as far as these steps go.
    pub(crate) fn examine(&self, listing: &Listing) -> Result<(RecoveryReport, Option<Error>)> {
        let survey = self.survey(listing)?;
        let Survey { images, start, mut segments, cuts, damage, witness, .. } = survey;
        self.load_image(&images, &start);
        let mut walk = self.walk(&mut segments, &cuts, &start)?;
        let clean = self.decide(&mut segments, &cuts, &mut walk, witness)?;
        self.load_kept(&mut segments, &cuts, &mut walk)?;
        self.mvcc.index.make_loaded_visible(walk.at.last_lsn);
        let checkpoint_damaged = damage.is_some();
        let checkpoint_lsn = start.lsn;
        Ok((RecoveryReport { clean, checkpoint_lsn, checkpoint_damaged, ..walk.report }, damage))
    }

    /// The images that the store would be opened with.
    ///
    /// # Errors
    /// As [`Recovery::run`] in its first step.
    pub(crate) fn images_in_use(&self, listing: &Listing) -> Result<Chain> {
        self.survey(listing).map(|survey| survey.images)
    }

    /// Puts the checkpoint in place.
    fn take_over(&self, images: &Chain, sealed: &[SegmentUse], start: &Summary) -> Result<()> {
        if images.summary().is_none() {
            return Ok(());
        }
        self.load_image(images, start);
        for segment in sealed {
            self.views.insert_unmapped(segment.sequence, segment.number, segment.used_len);
        }
        // A few are mapped now, so that no later failure to open a file stands in a reader's way.
        match sealed.len() <= MAPPED_COUNT_MAX {
            true => self
                .views
                .open_all_views()
                .map_err(|(name, e)| Error::io(IoOp::Open, path_of(self.disk.path(), name), e)),
            false => Ok(()),
        }
    }

    fn load_image(&self, images: &Chain, start: &Summary) {
        if images.summary().is_none() {
            return;
        }
        self.mvcc.index.install_base(|| Arc::new(images.clone()));
        self.mvcc.load_checkpoint_totals(
            start.total_blocks,
            start.total_bytes,
            BlockId(start.id_max),
        );
        for segment in images.segments() {
            self.usage.add_segment(*segment);
        }
    }

    fn remove(&self, names: impl IntoIterator<Item = FileName>) -> Result<()> {
        for name in names {
            let path = path_of(self.disk.path(), name);
            self.disk.remove(name).map_err(|e| Error::io(IoOp::Remove, path, e))?;
        }
        Ok(())
    }

    /// Removals, and the names of segments that the last session made ahead: it may have been killed
    /// before it synced them.
    fn sync_names(&self) -> Result<()> {
        self.disk.sync_dir().map_err(|e| Error::io(IoOp::Sync, self.disk.path(), e))
    }

    fn progress(
        &self,
        phase: OpenPhase,
        bytes_done: u64,
        bytes_total: u64,
        frames: u64,
    ) -> Result<()> {
        let Some(watch) = &self.on_progress else { return Ok(()) };
        let process = Process::current();
        let wish = watch(OpenProgress { phase, bytes_done, bytes_total, frames });
        process.check()?;
        match wish {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Aborted),
        }
    }
}
