//! Recovery: from the files of a store to its committed state.
//!
//! Owns the decision which frames of the log count. Changes nothing on disk before that decision.
//! May be interrupted anywhere and run again. Steps:
//!
//! 1. **Survey** ([`survey`]). Choose the newest whole checkpoint whose listed segments all exist.
//!    Read the header of every segment behind its place in the log, and the truncation records
//!    (`Cut`) of earlier recoveries. If these contradict each other, try an older checkpoint, and
//!    at last the log from its beginning. If that log is missing too, use a checkpoint with damaged
//!    pages. A segment before that place that the checkpoint does not list is dead.
//! 2. **Walk** ([`walk`]) the chain of frames from the checkpoint's place, past truncation records,
//!    until no frame continues it. Each frame states a *durable* LSN. Frames up to the newest of
//!    these are *witnessed*: they go into the index in batches, their payloads unread ([`replay`]).
//! 3. **Decide** ([`decide`]) at the end of the chain:
//!
//!    | found behind the end                                     | outcome                       |
//!    |----------------------------------------------------------|-------------------------------|
//!    | frames that state a durable LSN beyond the end           | corruption: refuse to open    |
//!    | nothing, but a checkpoint holds a commit beyond the end  | corruption: refuse to open    |
//!    | an end mark is the last frame, nothing but zeros behind  | clean                         |
//!    | anything else: zeros, torn frames, frames of later groups | torn tail: not acknowledged  |
//!
//!    An unwitnessed frame counts if the disk holds all of it and all frames before it count.
//!    [`unused_checkpoint`] has the rule of the second row.
//! 4. **Persist** ([`persist`]). After a clean end, write and sync the end mark again and append
//!    behind it. Otherwise make the unwitnessed frames that count durable in place, and append to a
//!    new segment. That segment begins with a truncation record: all before its place is durable,
//!    all behind is void. The commit point is the renaming of that segment to its final name. So
//!    every later answer is durable, and nothing is ever appended behind a torn tail.
//! 5. **Tidy.** Remove void and dead segments and old checkpoints, shorten the truncated segment,
//!    and make all names durable. [`persist`] removes what the truncation record voids, this file
//!    the rest.
//!
//! A read-only session skips steps 4 and 5 ([`read_only`]).
//!
//! A valid checksum alone is not enough: a frame must continue the chain, at its own offset, in its
//! own use of the file.
//!
//! Recovery takes bounded memory ([`unwitnessed`]) and the space of one new segment, for which the
//! reserve holds a share that nothing else may use.

mod decide;
pub(crate) mod identity;
pub(crate) mod listing;
mod persist;
pub(crate) mod probe;
mod read_only;
mod replay;
mod survey;
mod unused_checkpoint;
mod unwitnessed;
mod walk;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use replay::Replay;

use crate::block::{BlockId, Lsn};
use crate::error::{Error, IoOp, Result};
use crate::io::{Disk, FileName};
use crate::local::format::checkpoint::{SegmentUse, Summary};
use crate::local::format::description::Description;
use crate::local::format::location::Location;
use crate::local::format::place::path_of;
use crate::local::maintenance::checkpoint::Chain;
use crate::local::options::{OnProgress, OpenPhase, OpenProgress};
use crate::local::read::scan::Scanner;
use crate::local::read::segment::{Segment, Views};
use crate::local::recovery::listing::Listing;
use crate::local::recovery::unused_checkpoint::UnusedCheckpoint;
use crate::local::space::reserve::Reserve;
use crate::local::space::usage::Usage;
use crate::local::space::{SpaceOptions, Tail};
use crate::mvcc::Mvcc;
use crate::sync::Process;

/// The report of opening a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whether the store had been closed cleanly.
    pub clean: bool,
    /// Segments read.
    pub segments: u64,
    /// Frames replayed.
    pub frames: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Bytes behind the last frame that counts. They were never acknowledged and are left out.
    pub torn_bytes: u64,
    /// Frames of commits at the end of the log that no later frame states durable, and that
    /// recovery made durable in place. A long commit has several frames. 0 in a read-only session.
    pub resynced_frames: u64,
    /// The newest commit in the checkpoint that was used; 0 without one.
    pub checkpoint_lsn: Lsn,
    /// Pages of that checkpoint are damaged, and the log no longer reaches back to its beginning.
    /// The intact pages are used; reading a block of a damaged page returns
    /// [`Error::Corrupt`](crate::Error::Corrupt). `verify` names the places.
    pub checkpoint_damaged: bool,
    /// Files in the directory that are not the store's. They are not touched.
    pub unknown_files: u64,
    /// The file system keeps no modes, so new files may be accessible to others than their owner.
    /// Only its mount options can restrict access.
    pub modes_refused: bool,
    /// How long opening took.
    pub elapsed: Duration,
}

/// The recovered state: the log is appended to behind it.
pub(crate) struct Recovered<F> {
    pub(crate) tail: Tail<F>,
    pub(crate) chain: u32,
    /// Segments prepared by the last session, in order.
    pub(crate) ready: Vec<(Segment<F>, u64)>,
    pub(crate) next_number: u64,
    pub(crate) chain_of_images: Chain,
    pub(crate) report: RecoveryReport,
}

/// The role of each file of the store.
struct Survey<F> {
    images: Chain,
    /// Segments that the checkpoint lists and that come before its place in the log.
    sealed: Vec<SegmentUse>,
    /// The checkpoint's place in the log.
    start: Summary,
    segments: Segments<F>,
    cuts: Cuts,
    /// File numbers of segments that are void or dead.
    void: Vec<u64>,
    /// The first damage of the checkpoint, if it is used in spite of it.
    damage: Option<Error>,
    /// The one with the newest commit among the checkpoints that are not used.
    unused: Option<UnusedCheckpoint>,
}

/// The store that recovery reads, and the parts that it fills.
pub(crate) struct Recovery<'a, D: Disk> {
    pub(crate) disk: &'a D,
    pub(crate) store: &'a Description,
    pub(crate) options: SpaceOptions,
    pub(crate) mvcc: &'a Mvcc<Location>,
    pub(crate) views: &'a Views,
    pub(crate) usage: &'a Usage,
    /// Space for the truncating segment; `None` in a session that changes nothing.
    pub(crate) reserve: Option<&'a Reserve<D>>,
    /// A file number above that of every file of the store.
    pub(crate) next_number: u64,
    pub(crate) on_progress: Option<OnProgress>,
    pub(crate) replay: Replay,
}

/// If there are no more sealed segments than this, opening maps them all. Otherwise each is mapped
/// at its first read.
const MAPPED_COUNT_MAX: usize = 32;

type Segments<F> = BTreeMap<u64, Scanner<F>>;

/// Truncated segments by sequence: the first void byte, and the sequence of the segment that
/// follows.
type Cuts = BTreeMap<u64, (u64, u64)>;

impl<D: Disk> Recovery<'_, D> {
    /// Recovers a log made of the segments with these file numbers.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::UnsupportedFormat`] before anything is changed;
    /// [`Error::Aborted`]; [`Error::Io`].
    pub(crate) fn recover(&self, listing: &Listing) -> Result<Recovered<D::File>> {
        assert!(self.next_number >= listing.next_number, "new files have numbers of their own");
        let survey = self.survey_files(listing)?;
        let Survey { images, sealed, start, mut segments, cuts, void, damage, unused } = survey;
        self.install_checkpoint(&images, &sealed, &start)?;
        let mut walk = self.walk_chain(&mut segments, &cuts, &start)?;
        let clean = self.decide_end(&mut segments, &cuts, &mut walk, unused)?;
        self.report_progress(
            OpenPhase::Finish,
            walk.report.bytes,
            walk.report.bytes,
            walk.report.frames,
        )?;
        let mut recovered = if clean {
            self.resume_log(&segments, &walk)?
        } else {
            let image = images.image_names().first().copied();
            self.truncate_log(&mut segments, &cuts, &mut walk, image)?
        };
        let used = images.image_names();
        let unused = listing.checkpoints.iter().filter(|n| used.iter().all(|u| u.number != **n));
        self.remove_files(void.into_iter().map(FileName::Segment))?;
        self.remove_files(unused.map(|number| FileName::Checkpoint(*number)))?;
        self.sync_directory()?;
        self.mvcc.index.make_loaded_visible(walk.at.last_lsn);
        for segment in segments.values().filter(|s| s.sequence < recovered.tail.segment.sequence) {
            segment.show_to_readers(self.views, segment.len)?;
            self.usage.set_used_len(segment.sequence, segment.number, segment.len);
        }
        let tail = &recovered.tail;
        assert_eq!(tail.written, tail.offset, "recovery leaves no append half written");
        assert!(recovered.next_number >= self.next_number, "file numbers grow");
        self.usage.set_used_len(tail.segment.sequence, tail.segment.number, tail.offset);
        recovered.chain_of_images = images;
        recovered.report.checkpoint_lsn = start.lsn;
        recovered.report.checkpoint_damaged = damage.is_some();
        Ok(recovered)
    }

    /// Runs steps 1 to 3, without a change on disk, and loads what counts into the index. Returns
    /// the report, and the damage of the checkpoint with which the store would be opened.
    ///
    /// # Errors
    /// As [`Recovery::recover`], as far as these steps go.
    pub(crate) fn examine_log(&self, listing: &Listing) -> Result<(RecoveryReport, Option<Error>)> {
        let survey = self.survey_files(listing)?;
        let Survey { images, start, mut segments, cuts, damage, unused, .. } = survey;
        self.load_image(&images, &start);
        let mut walk = self.walk_chain(&mut segments, &cuts, &start)?;
        let clean = self.decide_end(&mut segments, &cuts, &mut walk, unused)?;
        self.load_counted(&mut segments, &cuts, &mut walk)?;
        self.mvcc.index.make_loaded_visible(walk.at.last_lsn);
        let checkpoint_damaged = damage.is_some();
        let checkpoint_lsn = start.lsn;
        Ok((RecoveryReport { clean, checkpoint_lsn, checkpoint_damaged, ..walk.report }, damage))
    }

    /// Finds the images that the store would be opened with.
    ///
    /// # Errors
    /// As [`Recovery::recover`] in its first step.
    pub(crate) fn images_in_use(&self, listing: &Listing) -> Result<Chain> {
        self.survey_files(listing).map(|survey| survey.images)
    }

    /// Installs the checkpoint below the index, and its segments in the views.
    fn install_checkpoint(
        &self,
        images: &Chain,
        sealed: &[SegmentUse],
        start: &Summary,
    ) -> Result<()> {
        if images.summary().is_none() {
            return Ok(());
        }
        self.load_image(images, start);
        for segment in sealed {
            self.views.insert_unmapped(segment.sequence, segment.number, segment.used_len);
        }
        // If they are few, map them now, so that no reader fails later to open a file.
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

    fn remove_files(&self, names: impl IntoIterator<Item = FileName>) -> Result<()> {
        for name in names {
            let path = path_of(self.disk.path(), name);
            self.disk.remove(name).map_err(|e| Error::io(IoOp::Remove, path, e))?;
        }
        Ok(())
    }

    /// Makes removals durable, and the names of segments that the last session prepared: it may
    /// have been killed before it synced them.
    fn sync_directory(&self) -> Result<()> {
        self.disk.sync_dir().map_err(|e| Error::io(IoOp::Sync, self.disk.path(), e))
    }

    fn report_progress(
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
