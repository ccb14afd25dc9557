//! Backups: a running store copied as of one commit, and made a store again.
//!
//! Owns the order of things; the list of files is [`manifest`]'s, their bytes are [`copy`]'s. A backup:
//!
//! 1. **FileHold.** A checkpoint is made and confirmed. From then on the upkeep gives nothing back, so that
//!    no file of the backup is recycled or removed under the copying. Commits go on.
//! 2. **Stand still**, between two groups: everything is made durable and a witness ends the log. The
//!    backup is the store as of this place. Recovery of the copy finds the confirmation of its checkpoint
//!    before the witness and the witness at the end, so it never takes lost bytes for a torn tail. And it
//!    finds no end mark, so it goes on in a segment with a new salt: two stores restored from one backup
//!    never write under the same identity.
//! 3. **Copy** the images, every segment that the checkpoint lists and those behind it, up to the end of
//!    their frames, and `META`. Each is synced. A file that an earlier backup lists under the same identity
//!    is taken over from there, if the store's own file has the checksum that the manifest there lists, and the
//!    earlier copy still has it, too. Where the file system has reflinks no bytes are
//!    written, only read; a segment that shares its bytes with a backup is not written again (`upkeep`).
//! 4. **Publish** the manifest under its name, when all other names are durable. That is the step that
//!    makes it a backup. Whatever fails before takes the copies away again.
//!
//! Of a store that is only read (`read_only`) nothing is made first: the backup is the store as its files are. So
//! that the rest holds, the copy of the last segment ends behind the last frame that counts, with a witness of
//! its own. It is synced before the manifest is, so the witness is true there, whatever the store's own files
//! would survive. It has the identity of the segment; a later backup tells them apart by this rule:
//!
//! Rule: names, salts, lengths and LSNs say where to look for a file's bytes, and never what they are. A store that
//! is copied and continued twice has two *lives*, with the same names for different bytes: after a clean close each
//! goes on in the same segment, and then in those that were made ahead, under the same salts. So an incremental
//! backup reads what it takes over, here and there, and holds what a full one would hold. The chain of frames would
//! tell two lives apart, too, but no file says where its last frame begins, and on the way there most bytes of a
//! segment of small blocks are read in any case.
//!
//! A directory with a manifest is refused as a store: opening it would change it. Restoring copies it,
//! `META` last, comparing every file.

use crate::local::read::backup::check_empty;
use crate::local::read::backup::read_manifest;
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

/// What a backup holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The newest commit in it: it holds this one and all before it, and nothing of any later one.
    pub lsn: Lsn,
    /// Its files, without the manifest.
    pub files: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Bytes of the files among them that came from an earlier backup.
    pub shared_bytes: u64,
    /// Bytes of the files among them that take no space of their own until one side writes over them
    /// (reflinks, as XFS and btrfs have them).
    pub cloned_bytes: u64,
}

/// What a backup is to hold.
struct Plan<'a, D: Disk> {
    lsn: Lsn,
    /// By name.
    files: Vec<Identity>,
    /// What a copy ends with that the file itself does not have.
    witness: Option<(FileName, Vec<u8>)>,
    _hold: FileHold<'a, D>,
}

/// Keeps the upkeep from giving files back. In a forked child it is forgotten: its lock may never be free.
struct FileHold<'a, D: Disk>(&'a Maintenance<D>, Process);

impl<D: Disk> Plan<'_, D> {
    fn durable_mark_of(&self, name: FileName) -> &[u8] {
        match &self.witness {
            Some((last, witness)) if *last == name => witness,
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
    /// Copies the store onto another disk. `check_open` says whether its files are still ours.
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
        check_empty(target)?;
        let earlier = match since {
            Some(since) => Some((since, read_manifest(since)?)),
            None => None,
        };
        if earlier.as_ref().is_some_and(|(_, listed)| listed.store_id != self.store.store_id) {
            let (argument, reason) = ("since", "must be a backup of the same store");
            return Err(Error::InvalidArgument { argument, reason });
        }
        let plan = self.plan_backup()?;
        let total_len = plan.files.iter().map(|file| file.len).sum();
        let throttle = Throttle::new(&self.shared);
        let rest = || throttle.pause_if_others_commit();
        let mut copying = Copying::start(target, watch, Some(&rest), total_len);
        let done = self.copy_and_publish(&mut copying, &plan, earlier.as_ref(), check_open);
        if done.is_err() {
            copying.take_back();
        }
        done
    }

    /// Steps 3 and 4.
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
            let witness = plan.durable_mark_of(file.name);
            let len = file.len - witness.len() as u64;
            let listed = earlier.and_then(|(since, listed)| Some((*since, listed.find(file)?)));
            if let Some((since, row)) = listed
                && copying.checksum(&*self.disk, file.name, len, witness)? == row.crc
                && copying.take_over(since, row)?
            {
                report.shared_bytes += file.len;
                rows.push(*row);
                continue;
            }
            let (crc, is_cloned) = copying.copy(&*self.disk, file.name, len, witness)?;
            rows.push(Row { file: *file, crc });
            if is_cloned {
                report.cloned_bytes += file.len;
                cloned.push(file.sequence);
            }
        }
        self.lock_open_state()?.cloned.extend(cloned);
        copying.sync_names()?;
        // Files of a closed store may have been anybody's while they were read.
        check_open()?;
        let manifest = Manifest { store_id: self.store.store_id, lsn: plan.lsn, rows };
        copying.publish(FileName::Manifest, &manifest.encode())?;
        Ok(report)
    }

    /// Steps 1 and 2.
    fn plan_backup(&self) -> Result<Plan<'_, D>> {
        let mut state = self.lock_open_state()?;
        let standing = match &self.ending {
            Some(Ending { lsn, position, .. }) => LogEnd { lsn: *lsn, position: *position },
            None => {
                self.make_checkpoint(&mut state, Haste::Spread)?;
                self.driver.quiesce_log()?
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
            salt: self.store.salt,
        });
        let start = chain.summary().map_or(1, |summary| summary.position.sequence);
        let listed = chain.segments().iter().filter(|segment| segment.sequence < start);
        let listed = listed.map(|segment| (segment.sequence, segment.number));
        let end = standing.position;
        for (sequence, number) in listed.chain(self.views.within(start..=end.sequence)) {
            let len = if sequence == end.sequence { Some(end.offset) } else { None };
            files.push(self.identify_segment(sequence, number, len)?);
        }
        let last = files.iter_mut().find(|file| file.sequence == end.sequence);
        let witness = self.ending.as_ref().zip(last).map(|(ending, last)| {
            let witness = durable_mark_behind(ending);
            last.len += witness.len() as u64;
            (last.name, witness)
        });
        assert_eq!(witness.is_some(), self.ending.is_some(), "the log ends in one of its segments");
        files.sort_unstable_by_key(|file| file.name);
        Ok(Plan { lsn: standing.lsn, files, witness, _hold: hold })
    }

    /// A segment up to `len`, or to the end of its last frame.
    fn identify_segment(&self, sequence: u64, number: u64, len: Option<u64>) -> Result<Identity> {
        let name = FileName::Segment(number);
        let mut scanner = Scanner::open(&*self.disk, &self.store, number)?;
        if scanner.sequence != sequence {
            return Err(damaged(name, 0, Defect::SegmentHeader));
        }
        let salt = scanner.salt;
        if let Some(len) = len {
            return Ok(Identity { name, len, sequence, salt });
        }
        // Usage knows of commits. Marks may follow them.
        let known =
            self.shared.usage.all().into_iter().find(|segment| segment.sequence == sequence);
        let mut end = page_up(known.map_or(PAGE, |segment| segment.used_len.max(PAGE)));
        while let Found::Frame(frame) = scanner.frame_at(end)? {
            end = frame.header.next_offset(frame.offset);
        }
        Ok(Identity { name, len: end.min(scanner.len), sequence, salt })
    }
}

/// The mark that says that everything before the end of a log is durable, up to the next page.
fn durable_mark_behind(ending: &Ending) -> Vec<u8> {
    let Ending { position, seed, lsn, .. } = *ending;
    let mark = FrameHeader::mark(Kind::Witness, lsn, lsn, position.chain);
    let mut bytes = mark.encode(seed, position.offset).0.to_vec();
    bytes.resize((mark.next_offset(position.offset) - position.offset) as usize, 0);
    bytes
}
