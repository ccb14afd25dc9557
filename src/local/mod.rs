//! The local backend: a log-structured store in one directory.
//!
//! Owns the handle [`LocalBackend`], its opening and its closing. The way of a commit: the caller
//! ([`Engine::commit`]) takes its share of the [`budget`], hands its batch to the [`driver`] and waits
//! at a ticket; whoever carries the [`log`] lets the [`commit`] core form groups, which the
//! [`append`]er writes into space that the I/O workers made ahead ([`space`]); the index publishes
//! them. The way of a read: the index gives a [`segment::Location`], the segment the bytes
//! ([`reading`]), the checksum their truth. What of both is this backend's own way is in [`engine`].
//! Opening is [`recovery`]'s.

mod commit;
#[cfg(test)]
#[path = "../../tests/inside/document.rs"]
mod document;
mod engine;
mod format;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/inside/fuzz/mod.rs"]
pub mod fuzz;
mod maintenance;
mod offline;
mod open;
mod options;
mod poison;
mod read;
mod read_many;
mod recovery;
mod report;
mod session;
mod space;
mod stall;
mod wake;

use std::ops::{ControlFlow, RangeBounds};
use std::path::Path;
use std::sync::Arc;

pub use format::place::Damage;
pub use maintenance::backup::BackupReport;
pub use maintenance::compaction::{CompactionEnd, CompactionReport};
pub use offline::repair::RepairReport;
pub use offline::restore::BackupCheck;
pub use offline::salvage::{Loss, OlderVersion, SalvageReport};
pub use offline::verify::VerifyReport;
pub use options::{OpenPhase, OpenProgress, Options, ReadMode, WriteMode};
pub use read::copy::CopyProgress;
pub use recovery::RecoveryReport;
pub use recovery::probe::Probe;
pub use report::SpaceReport;

use crate::backend::Durability;
use crate::block::BlockId;
use crate::callback;
use crate::error::Result;
use crate::io::Disk;
use crate::io::os::{OsDisk, OsFile};
use crate::local::offline::salvage::Salvage;
use crate::local::offline::{repair, restore, verify};
use crate::local::read::backup;
use crate::local::recovery::probe;
use crate::local::session::OpenStore;
use crate::local::space::quota::Quota;
use crate::mvcc::Engine;
use crate::mvcc::handles::Handles;
use crate::sync::ProcessBound;
use crate::transaction::inclusive_bounds;

/// A durable store in one directory: a cheap-to-clone handle that any number of threads share.
///
/// Commits of concurrent callers are written and synced together. The store closes when the last
/// handle is dropped; [`LocalBackend::close`] does so now and tells how it went.
///
/// A store belongs to the process that opened it. In a forked child every call is [`Error::Forked`], and
/// dropping a handle touches nothing. A program that becomes a daemon forks first and opens then.
///
/// # Examples
/// ```
/// use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, StorageBackend};
/// # let dir = tempfile::tempdir().map_err(|_| aegis_blocks::Error::Closed)?;
/// # let path = dir.path().join("store");
/// let store = LocalBackend::open(&path)?;
/// let id = store.write_block(Block::new(BlockId(0), BlockType::TableData, "durable"))?;
/// store.close()?;
///
/// let store = LocalBackend::open(&path)?;
/// assert_eq!(&store.read_block(id)?.data[..], b"durable");
/// # Ok::<(), aegis_blocks::Error>(())
/// ```
pub struct LocalBackend<D: Disk = OsDisk> {
    inner: Arc<ProcessBound<OpenStore<Quota<D>>>>,
    /// `None` in those that are in there.
    handles: Option<Arc<Handles<LocalBackend<D>>>>,
}

impl<D: Disk> Clone for LocalBackend<D> {
    fn clone(&self) -> Self {
        LocalBackend { inner: Arc::clone(&self.inner), handles: self.handles.clone() }
    }
}

impl<D: Disk> std::fmt::Debug for LocalBackend<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalBackend")
            .field("path", &self.inner.disk.path())
            .finish_non_exhaustive()
    }
}

impl LocalBackend {
    /// Opens the store in a directory with default options, creating it where it is missing.
    ///
    /// # Errors
    /// Nothing is changed on disk by any of these:
    /// - [`Error::Locked`]: another handle or process has it open.
    /// - [`Error::NotAStore`]: the path is not a directory, or holds other files.
    /// - [`Error::UnsupportedFormat`]: a newer version of this library wrote it.
    /// - [`Error::Corrupt`]: acknowledged data is damaged.
    /// - [`Error::InvalidArgument`]: the options contradict each other.
    /// - [`Error::Io`], [`Error::StorageFull`]: the operating system refused.
    pub fn open(path: impl AsRef<Path>) -> Result<LocalBackend> {
        LocalBackend::options().open(path)
    }

    /// Opens a store that waits for durability at each commit (`sync_writes`), or at intervals.
    ///
    /// # Errors
    /// As [`LocalBackend::open`].
    pub fn new(path: impl AsRef<Path>, sync_writes: bool) -> Result<LocalBackend> {
        let durability = if sync_writes { Durability::Durable } else { Durability::Buffered };
        LocalBackend::options().durability(durability).open(path)
    }

    /// Options to open a store with.
    pub fn options() -> Options {
        Options::default()
    }

    /// Reads all that the store in a directory relies on, checkpoints, log and blocks in force, and
    /// lists all damage. Changes nothing.
    ///
    /// # Errors
    /// As [`LocalBackend::open`], except that damage is listed and not returned, but for that of `META`.
    pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport> {
        let path = path.as_ref();
        let disk = OsDisk::open(path).map_err(|source| options::open_error(path, source))?;
        verify::verify(&disk)
    }

    /// Copies every intact block out of a store that need not open into a new one at `out`, which must
    /// not exist. Reads the damaged store only. Of each block the newest intact version is taken; the
    /// report names those that are older than the newest one was, and those that are lost.
    ///
    /// The index of both stores has to fit in memory.
    ///
    /// # Errors
    /// The damaged store is not changed by any of these; what is at `out` then is not complete.
    /// - [`Error::Corrupt`] with [`Defect::Meta`](crate::Defect::Meta): without the salt in `META`
    ///   nothing can be told from noise.
    /// - [`Error::InvalidArgument`]: `out` exists, or lies in the damaged store.
    /// - [`Error::Locked`], [`Error::NotAStore`], [`Error::UnsupportedFormat`]: as [`LocalBackend::open`].
    /// - [`Error::Io`], [`Error::StorageFull`]: the operating system refused.
    /// - [`Error::InCallback`]: as [`LocalBackend::close`], because the copy is closed. Nothing was done.
    pub fn salvage(path: impl AsRef<Path>, out: impl AsRef<Path>) -> Result<SalvageReport> {
        repair::salvage(path.as_ref(), out.as_ref(), copy_into)
    }

    /// Puts a salvaged copy in the place of a damaged store, and keeps the damaged one beside it, as it
    /// was, as `<store>.before-repair-<n>`. A store without damage is left as it is. What is lost is in
    /// the report; see [`LocalBackend::salvage`]. Needs space for every block once more, and a file
    /// system that can exchange two names (Linux: all common local ones). Of a store behind a symbolic link the
    /// directory behind it is repaired, and kept beside it.
    ///
    /// The repaired store is a new one: commits are counted from 1 again, and unknown files stay in the
    /// kept directory.
    ///
    /// # Errors
    /// As [`LocalBackend::salvage`]. At each moment, also when the machine stops, the path holds either
    /// the damaged store or the repaired one, whole. A directory `<store>.repairing-<n>` may be left.
    /// - [`Error::Unsupported`]: the file system cannot exchange two directories. The repaired store is whole in
    ///   that directory: rename the two by hand. Or the store is the root of a volume, which has no other name:
    ///   nothing was done; [`LocalBackend::salvage`] it.
    pub fn repair(path: impl AsRef<Path>) -> Result<RepairReport> {
        repair::repair(path.as_ref(), copy_into)
    }

    /// Makes a store out of a backup, in a directory that is empty or missing. Every file is compared with
    /// the backup's manifest. The backup stays as it is. `watch` may end it with `Break`.
    ///
    /// # Errors
    /// What was copied by then is removed again:
    /// - [`Error::NotAStore`]: `backup` is no backup, or not a finished one.
    /// - [`Error::NotEmpty`]: `dir` holds something.
    /// - [`Error::Corrupt`]: a file of the backup is missing or is not what was backed up.
    /// - [`Error::Aborted`], [`Error::Io`], [`Error::StorageFull`], [`Error::UnsupportedFormat`].
    ///
    /// # Examples
    /// ```
    /// use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, StorageBackend};
    /// use std::ops::ControlFlow::Continue;
    /// # let dir = tempfile::tempdir().map_err(|_| aegis_blocks::Error::Closed)?;
    /// # let (path, backup, again) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
    /// let store = LocalBackend::open(&path)?;
    /// let id = store.write_block(Block::new(BlockId(0), BlockType::TableData, "kept"))?;
    /// store.backup_to(&backup, None, &|_| Continue(()))?;
    /// store.delete_block(id)?;
    ///
    /// LocalBackend::restore(&backup, &again, &|_| Continue(()))?;
    /// assert_eq!(&LocalBackend::open(&again)?.read_block(id)?.data[..], b"kept");
    /// # Ok::<(), aegis_blocks::Error>(())
    /// ```
    pub fn restore(
        backup: impl AsRef<Path>,
        dir: impl AsRef<Path>,
        watch: &dyn Fn(CopyProgress) -> ControlFlow<()>,
    ) -> Result<BackupReport> {
        let backup = backup.as_ref();
        let from = OsDisk::open(backup).map_err(|source| options::open_error(backup, source))?;
        // Nothing is made for the sake of something that is no backup.
        backup::read_manifest(&from)?;
        restore::restore(&from, &backup::open_empty_directory(dir.as_ref())?, watch)
    }

    /// Compares every file of a backup with the backup's manifest and lists all damage. Changes nothing.
    ///
    /// # Errors
    /// - [`Error::NotAStore`]: the directory is no backup, or not a finished one.
    /// - [`Error::Corrupt`]: the manifest itself is damaged.
    /// - [`Error::Io`], [`Error::UnsupportedFormat`].
    pub fn verify_backup(path: impl AsRef<Path>) -> Result<BackupCheck> {
        let path = path.as_ref();
        let disk = OsDisk::open(path).map_err(|source| options::open_error(path, source))?;
        restore::check(&disk)
    }

    /// Says what opening the store in a directory would find, without opening it: reads `META`, the
    /// checkpoint's header and the log behind it. Keeps writers out meanwhile, lets
    /// other looks in, and changes nothing: `LOCK` is not made where it is missing.
    ///
    /// # Errors
    /// As [`LocalBackend::open`], except that damage is [`Probe::Damaged`].
    pub fn probe(path: impl AsRef<Path>) -> Result<Probe> {
        let path = path.as_ref();
        let disk = OsDisk::open(path).map_err(|source| options::open_error(path, source))?;
        probe::probe(disk)
    }
}

/// Makes a new store and copies into it what is salvaged.
fn copy_into(salvage: Salvage<OsFile>, out: &Path) -> Result<SalvageReport> {
    let store = salvage.options().open(out)?;
    let report = salvage.copy_to(&store)?;
    store.close()?;
    Ok(report)
}

impl<D: Disk> LocalBackend<D> {
    /// Opens a store on a disk of your own, for instance a simulated one.
    ///
    /// # Errors
    /// As [`LocalBackend::open`].
    pub fn open_on(disk: D, options: Options) -> Result<LocalBackend<D>> {
        options.check()?;
        let open = if options.read_only { open::read_only::open } else { open::open };
        let inner = Arc::new(ProcessBound::new(open(disk, options)?));
        Ok(LocalBackend { inner, handles: Some(Arc::default()) })
    }

    /// What opening the store found and did.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.report
    }

    /// The ids of all committed blocks in a range, ascending, as of one moment.
    ///
    /// # Errors
    /// - [`Error::Closed`]: the store was closed.
    /// - [`Error::InvalidArgument`]: the range ends before it starts.
    pub fn ids(&self, range: impl RangeBounds<BlockId>) -> Result<Vec<BlockId>> {
        self.check_open()?;
        let Some((first, last)) = inclusive_bounds(range)? else { return Ok(Vec::new()) };
        self.mvcc().index.newest_ids(first, last, usize::MAX)
    }

    /// Waits until `len` bytes behind the log's tail are zeroed, so that commits find space where a
    /// sync is cheap. Commits may go on meanwhile. The space stays until commits have used as much, also while
    /// nobody writes; a disk that is full takes it back.
    ///
    /// # Errors
    /// - [`Error::StorageFull`]: there is less space than that.
    /// - [`Error::Io`], [`Error::Poisoned`]: zeroing failed.
    /// - [`Error::Closed`]: the store was closed before or meanwhile.
    /// - [`Error::ReadOnly`]: it was opened to be read only.
    /// - [`Error::InCallback`]: the calling thread must not wait.
    pub fn prepare_space(&self, len: u64) -> Result<()> {
        self.check_writable()?;
        callback::check_may_wait()?;
        self.inner.space.await_zeroed_ahead(len)
    }

    /// Writes a checkpoint: an image of the index as of now, which the next open uses instead of reading
    /// the log up to here. Commits go on meanwhile. Checkpoints are also made by themselves
    /// ([`Options::checkpoint_log_len`]).
    ///
    /// # Errors
    /// The store goes on with the checkpoint it had:
    /// - [`Error::StorageFull`]: there is no space for the image.
    /// - [`Error::Io`], [`Error::Corrupt`]: the image, or the one it builds on, is not to be had.
    /// - [`Error::Poisoned`]: a commit that the checkpoint was to hold could not be made durable.
    /// - [`Error::ReadOnly`]: the store was opened to be read only.
    /// - [`Error::InCallback`]: the calling thread must not wait.
    pub fn checkpoint(&self) -> Result<()> {
        self.check_writable()?;
        callback::check_may_wait()?;
        self.inner.maintenance.checkpoint()
    }

    /// Brings the log down to little more than what is in force, now: moves blocks out of segments that
    /// are partly dead and gives those back to the file system. Commits go on meanwhile. This happens by
    /// itself as far as [`Options::space_amplification_max`] asks for it. On a full disk the segments with the least in
    /// force go first, each of them at once. While a backup reads the store nothing is moved, because nothing could be
    /// given back before its end ([`CompactionEnd::Backup`]).
    ///
    /// # Errors
    /// No block is lost or changed by any of these, and what was given back by then stays so:
    /// - [`Error::StorageFull`]: much of the log is dead, but what is in force beside it fits nowhere. The error
    ///   names the bytes that are missing.
    /// - Others as [`LocalBackend::checkpoint`].
    pub fn compact_now(&self) -> Result<CompactionReport> {
        self.check_writable()?;
        callback::check_may_wait()?;
        self.inner.maintenance.compact_now()
    }

    /// Keeps compaction from moving blocks by itself until [`LocalBackend::resume_compaction`]: for a time
    /// in which the disk belongs to something else. Returns at once; up to 512 KiB of moves that are under
    /// way are finished. CompactionPauses are counted, over all handles: blocks are moved again after as many resumes.
    /// None outlasts the store's closing.
    ///
    /// What is dead takes space meanwhile, however much that is, except for segments with nothing in force,
    /// which still go with a checkpoint. On a full disk, or at [`Options::max_bytes`], writes are refused as
    /// ever, and no room is made by moving: deletes may be refused too, once the reserve is used up.
    /// [`LocalBackend::compact_now`] does what it is told all the same.
    ///
    /// # Errors
    /// [`Error::Closed`]: the store was closed; nothing is paused.
    ///
    /// # Examples
    /// ```
    /// use aegis_blocks::{LocalBackend, StorageBackend};
    /// # let dir = tempfile::tempdir().map_err(|_| aegis_blocks::Error::Closed)?;
    /// let store = LocalBackend::open(dir.path().join("store"))?;
    /// store.pause_compaction()?;
    /// // An hour of heavy reading.
    /// assert_eq!(store.stats().moved_bytes, 0);
    /// store.resume_compaction()?;
    /// # Ok::<(), aegis_blocks::Error>(())
    /// ```
    pub fn pause_compaction(&self) -> Result<()> {
        self.check_open()?;
        self.inner.maintenance.pauses.begin();
        Ok(())
    }

    /// Ends one [`LocalBackend::pause_compaction`]. After the last one the store is looked at at once, and
    /// what has become due is done beside commits, at the usual pace. Without a pause it does nothing.
    ///
    /// # Errors
    /// [`Error::Closed`]: the store was closed.
    pub fn resume_compaction(&self) -> Result<()> {
        self.check_open()?;
        if self.inner.maintenance.pauses.end() {
            self.inner.shared.wake_up.call();
        }
        Ok(())
    }

    /// Copies the store as of one commit into a directory that is empty or missing, while commits go on.
    /// Files that the backup `since`, an earlier one of this store, has too are taken from there: under a
    /// second name where the file system has such, so that both backups together are hardly larger than
    /// one. That saves space and writing, not reading: both files are read and compared. On a file system with reflinks (XFS, btrfs) a backup beside the store takes next to no space, and
    /// grows only as far as the store changes. `watch` may end it with `Break`. Until the copy is done no segment and
    /// no checkpoint is given back. A store that was opened to be read only is copied as its files are, without a
    /// checkpoint first; restoring and opening such a backup may therefore replay more log.
    ///
    /// # Errors
    /// The store goes on as it was, and what was copied by then is removed again:
    /// - [`Error::NotEmpty`]: `dir` holds something.
    /// - [`Error::NotAStore`]: `since` is no backup, or not a finished one.
    /// - [`Error::Aborted`], [`Error::Closed`], [`Error::Io`], [`Error::StorageFull`].
    /// - [`Error::Poisoned`], [`Error::Corrupt`], [`Error::InCallback`]: as [`LocalBackend::checkpoint`].
    pub fn backup_to(
        &self,
        dir: impl AsRef<Path>,
        since: Option<&Path>,
        watch: &dyn Fn(CopyProgress) -> ControlFlow<()>,
    ) -> Result<BackupReport> {
        self.check_open()?;
        callback::check_may_wait()?;
        let opened = since.map(|path| OsDisk::open(path).map_err(|e| options::open_error(path, e)));
        let since = opened.transpose()?;
        if let Some(since) = &since {
            backup::read_manifest(since)?;
        }
        self.backup_on(&backup::open_empty_directory(dir.as_ref())?, since.as_ref(), watch)
    }

    /// As [`LocalBackend::backup_to`], onto disks of your own.
    ///
    /// # Errors
    /// As [`LocalBackend::backup_to`].
    pub fn backup_on<T: Disk>(
        &self,
        target: &T,
        since: Option<&T>,
        watch: &dyn Fn(CopyProgress) -> ControlFlow<()>,
    ) -> Result<BackupReport> {
        self.check_open()?;
        callback::check_may_wait()?;
        self.inner.maintenance.backup(target, since, watch, &|| self.check_open())
    }

    /// As [`LocalBackend::restore`], between disks of your own.
    ///
    /// # Errors
    /// As [`LocalBackend::restore`].
    pub fn restore_on<T: Disk>(
        backup: &D,
        target: &T,
        watch: &dyn Fn(CopyProgress) -> ControlFlow<()>,
    ) -> Result<BackupReport> {
        restore::restore(backup, target, watch)
    }

    /// As [`LocalBackend::verify_backup`], on a disk of your own.
    ///
    /// # Errors
    /// As [`LocalBackend::verify_backup`].
    pub fn verify_backup_on(backup: &D) -> Result<BackupCheck> {
        restore::check(backup)
    }

    /// What the store takes on disk now, and what for. Looks at every snapshot's versions, so it is for
    /// people and dashboards, not for every commit.
    ///
    /// # Errors
    /// - [`Error::Closed`]: the store was closed.
    /// - [`Error::Io`]: the directory could not be listed. Nothing was changed.
    pub fn space(&self) -> Result<SpaceReport> {
        self.check_open()?;
        report::space(&self.inner)
    }

    /// Waits for commits under way, makes everything durable and closes the store for all handles.
    ///
    /// # Errors
    /// - [`Error::Closed`]: another handle has closed it.
    /// - [`Error::Poisoned`], [`Error::Io`]: commits that were not yet durable may be lost.
    /// - [`Error::InCallback`]: the calling thread is one that a close waits for. The store stays open for other
    ///   handles; if this was the last one, a thread of its own closes it.
    pub fn close(self) -> Result<()> {
        self.check_open()?;
        callback::check_may_close()?;
        self.inner.shut_down()
    }
}
