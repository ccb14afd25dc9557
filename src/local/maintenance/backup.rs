//! Backups: copies a running store as of one commit.
//!
//! Owns the order of the steps; `manifest` is the list of files, `copy` copies their bytes. A
//! backup:
//!
//! 1. **Hold.** Make and confirm a checkpoint. From then on maintenance releases no file, so that
//!    no file of the backup is recycled or removed during the copy. Commits continue.
//! 2. **Quiesce**, between two groups: make everything durable and end the log with a durable mark.
//!    The backup is the store as of this place. Recovery of the copy finds the confirmation of its
//!    checkpoint, and that mark at the end. So it never mistakes lost bytes for a torn tail. It
//!    finds no end mark, so it continues in a segment with a new salt: two stores restored from one
//!    backup never write under the same identity.
//! 3. **Copy** and sync `META`, the images, and all segments from those that the checkpoint lists
//!    to the last, up to the end of their frames. A file with the same identity in an earlier
//!    backup is copied from there. The store's file and that copy must both have the checksum in
//!    its manifest. With reflinks, bytes are read but not written; a segment that shares its bytes
//!    with a backup is not reused (`release`).
//! 4. **Publish** the manifest under its name, after all other names are durable. This is the
//!    commit point. After an earlier failure, the copies are removed.
//!
//! A read-only session makes no checkpoint: the backup is the store as its files are. The copy of
//! the last segment ends behind the last frame that counts, with a durable mark of its own. The
//! copy is synced before the manifest, so that mark is true in the backup. The copy has the
//! identity of the segment, with other bytes; the following rule covers that.
//!
//! Rule: names, salts, lengths and LSNs locate the bytes of a file, and never stand for them. A
//! store that is copied and continued twice has two *lives*, with the same names for different
//! bytes: after a clean close, each continues in the same segment, and then in the prepared ones,
//! under the same salts. So an incremental backup reads both files of each pair that it shares, and
//! its content equals that of a full backup. The chain of frames would also tell two lives apart.
//! But no file records where its last frame begins, and the search for it reads most bytes of a
//! segment of small blocks.
//!
//! Opening refuses a directory with a manifest, since opening would change it. Restoring copies it,
//! `META` last, and compares every file.

use crate::local::read::backup::{check_directory_empty, read_manifest};
use crate::local::read::copy::Watch;

use crate::block::Lsn;
use crate::error::{Defect, Error, Result};
use crate::io::{Disk, FileName};
use crate::local::commit::log::LogEnd;
use crate::local::format::frame::{FrameHeader, Kind};
use crate::local::format::manifest::{Identity, Manifest, Row};
use crate::local::format::place::damaged;
use crate::local::format::{PAGE, page_up};
use crate::local::maintenance::throttle::Throttle;
use crate::local::maintenance::{Ending, Haste, Maintenance};
use crate::local::read::copy::Copying;
use crate::local::read::scan::{Found, Scanner};
use crate::sync::Process;

/// The content of a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The newest commit in it. It holds this commit and all before it, and nothing of later ones.
    pub lsn: Lsn,
    /// Its files, without the manifest.
    pub files: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Bytes of the files that were copied from an earlier backup.
    pub shared_bytes: u64,
    /// Bytes of the files that share their space with the store until one side overwrites them
    /// (reflinks, as on XFS and btrfs).
    pub cloned_bytes: u64,
}

/// The files of a backup, and the hold on them.
struct Plan<'a, D: Disk> {
    lsn: Lsn,
    /// By name.
    files: Vec<Identity>,
    /// The durable mark that ends the copy of one file, and is not in the file itself.
    end_mark: Option<(FileName, Vec<u8>)>,
    _hold: FileHold<'a, D>,
}

/// Keeps maintenance from releasing files, until dropped. In a forked child the drop does nothing,
/// because the lock may stay held there.
struct FileHold<'a, D: Disk>(&'a Maintenance<D>, Process);

impl<D: Disk> Plan<'_, D> {
    fn durable_mark_of(&self, name: FileName) -> &[u8] {
        match &self.end_mark {
            Some((last, end_mark)) if *last == name => end_mark,
            _ => &[],
        }
    }
}

impl<D: Disk> Drop for FileHold<'_, D> {
    fn drop(&mut self) {
        if self.1.is_current() {
            self.0.release_hold();
        }
    }
}

impl<D: Disk> Maintenance<D> {
    /// Copies the store onto another disk. `check_open` returns whether this session still owns the
    /// files.
    ///
    /// # Errors
    /// As [`LocalBackend::backup_to`](crate::LocalBackend::backup_to).
    pub(crate) fn back_up_to<T: Disk>(
        &self,
        target: &T,
        since: Option<&T>,
        watch: Watch<'_>,
        check_open: &dyn Fn() -> Result<()>,
    ) -> Result<BackupReport> {
        check_directory_empty(target)?;
        let earlier = match since {
            Some(since) => Some((since, read_manifest(since)?)),
            None => None,
        };
        if earlier.as_ref().is_some_and(|(_, listed)| listed.store_id != self.parts.store.store_id)
        {
            let (argument, reason) = ("since", "must be a backup of the same store");
            return Err(Error::InvalidArgument { argument, reason });
        }
        let plan = self.plan_backup()?;
        let total_len = plan.files.iter().map(|file| file.len).sum();
        let throttle = Throttle::new(&self.parts.shared);
        let rest = || throttle.pause_if_others_commit();
        let mut copying = Copying::start_copying(target, watch, Some(&rest), total_len);
        let done = self.copy_and_publish(&mut copying, &plan, earlier.as_ref(), check_open);
        if done.is_err() {
            copying.remove_made_files();
        }
        done
    }

    /// Steps 3 and 4: copies the files of the plan and publishes the manifest.
    fn copy_and_publish<T: Disk>(
        &self,
        copying: &mut Copying<'_, T>,
        plan: &Plan<'_, D>,
        earlier: Option<&(&T, Manifest)>,
        check_open: &dyn Fn() -> Result<()>,
    ) -> Result<BackupReport> {
        let files = plan.files.len() as u64;
        let mut report = BackupReport { lsn: plan.lsn, files, ..BackupReport::default() };
        let (mut rows, mut cloned) = (Vec::with_capacity(plan.files.len()), Vec::new());
        for file in &plan.files {
            report.bytes += file.len;
            let end_mark = plan.durable_mark_of(file.name);
            assert!(end_mark.len() as u64 <= file.len, "a file's length includes its mark");
            let len = file.len - end_mark.len() as u64;
            let listed = earlier.and_then(|(since, listed)| Some((*since, listed.find_row(file)?)));
            if let Some((since, row)) = listed
                && copying.checksum_source(&*self.parts.disk, file.name, len, end_mark)? == row.crc
                && copying.link_or_copy_earlier(since, row)?
            {
                report.shared_bytes += file.len;
                rows.push(*row);
                continue;
            }
            let (crc, is_cloned) =
                copying.copy_file(&*self.parts.disk, file.name, len, end_mark)?;
            rows.push(Row { file: *file, crc });
            if is_cloned {
                report.cloned_bytes += file.len;
                cloned.push(file.sequence);
            }
        }
        self.lock_open_state()?.cloned.extend(cloned);
        copying.sync_names()?;
        // After a close, another session may have changed the files during the copy.
        check_open()?;
        assert_eq!(rows.len(), plan.files.len(), "the manifest lists every file");
        let manifest = Manifest { store_id: self.parts.store.store_id, lsn: plan.lsn, rows };
        copying.publish_file(FileName::Manifest, &manifest.encode())?;
        Ok(report)
    }

    /// Steps 1 and 2: holds the files and lists those of the backup.
    fn plan_backup(&self) -> Result<Plan<'_, D>> {
        let mut state = self.lock_open_state()?;
        let log_end = match &self.parts.ending {
            Some(Ending { lsn, position, .. }) => LogEnd { lsn: *lsn, position: *position },
            None => {
                self.make_checkpoint(&mut state, Haste::Spread)?;
                self.parts.log.quiesce_log()?
            }
        };
        state.hold_count += 1;
        let chain = state.chain.clone();
        drop(state);
        let hold = FileHold(self, Process::current());
        let image = |(name, len): (crate::local::format::checkpoint::ImageName, u64)| {
            let (salt, name) = (name.salt, FileName::Checkpoint(name.number));
            Identity { name, len, sequence: 0, salt }
        };
        let mut files: Vec<_> = chain.image_files().map(image).collect();
        files.push(Identity {
            name: FileName::Meta,
            len: PAGE,
            sequence: 0,
            salt: self.parts.store.salt,
        });
        let start = chain.summary().map_or(1, |summary| summary.position.sequence);
        let listed = chain.segments().iter().filter(|segment| segment.sequence < start);
        let listed = listed.map(|segment| (segment.sequence, segment.number));
        let end = log_end.position;
        let covered = chain.summary().map_or(Lsn(0), |summary| summary.lsn);
        assert!(covered <= log_end.lsn, "the log holds all of the checkpoint");
        for (sequence, number) in
            listed.chain(self.parts.views.segments_within(start..=end.sequence))
        {
            let len = if sequence == end.sequence { Some(end.offset) } else { None };
            files.push(self.identify_segment(sequence, number, len)?);
        }
        let last = files.iter_mut().find(|file| file.sequence == end.sequence);
        let end_mark = self.parts.ending.as_ref().zip(last).map(|(ending, last)| {
            let end_mark = durable_mark_behind(ending);
            last.len += end_mark.len() as u64;
            (last.name, end_mark)
        });
        assert_eq!(
            end_mark.is_some(),
            self.parts.ending.is_some(),
            "the log ends in one of its segments"
        );
        files.sort_unstable_by_key(|file| file.name);
        Ok(Plan { lsn: log_end.lsn, files, end_mark, _hold: hold })
    }

    /// Identifies a segment up to `len`, or to the end of its last frame.
    fn identify_segment(&self, sequence: u64, number: u64, len: Option<u64>) -> Result<Identity> {
        let name = FileName::Segment(number);
        let mut scanner = Scanner::open_segment(&*self.parts.disk, &self.parts.store, number)?;
        if scanner.sequence != sequence {
            return Err(damaged(name, 0, Defect::SegmentHeader));
        }
        let salt = scanner.salt;
        if let Some(len) = len {
            return Ok(Identity { name, len, sequence, salt });
        }
        // Usage counts commits. Marks may follow them.
        let known = self
            .parts
            .shared
            .usage
            .all_segments()
            .into_iter()
            .find(|segment| segment.sequence == sequence);
        let mut end = page_up(known.map_or(PAGE, |segment| segment.used_len.max(PAGE)));
        while let Found::Frame(frame) = scanner.read_frame_at(end)? {
            end = frame.header.next_frame_offset(frame.offset);
        }
        Ok(Identity { name, len: end.min(scanner.len), sequence, salt })
    }
}

/// Encodes a durable mark behind the end of a log, padded to the next page.
fn durable_mark_behind(ending: &Ending) -> Vec<u8> {
    let Ending { position, seed, lsn, .. } = *ending;
    let mark = FrameHeader::control_record(Kind::Witness, lsn, lsn, position.chain);
    let next = mark.next_frame_offset(position.offset);
    assert!(next.is_multiple_of(PAGE) && next > position.offset, "a mark ends its page");
    let mut bytes = mark.encode(seed, position.offset).0.to_vec();
    bytes.resize((next - position.offset) as usize, 0);
    bytes
}
