//! The local backend: a log-structured store in one directory.
//!
//! Owns the handle [`LocalBackend`], its opening and its closing. A commit: the caller takes its
//! share of the budget of bytes in flight, submits its batch to the [`commit`] queue and waits at a
//! ticket. The leader forms groups and writes them into space that the I/O workers prepared
//! ([`space`]). Then the index publishes them. A read: the index returns a location, the segment
//! its bytes ([`read`]), and the checksum is verified. [`engine`] connects both with the
//! transactions, and [`recovery`] opens a store.

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
#[cfg(feature = "sim")]
mod simulated;
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
#[cfg(doc)]
use crate::error::Error;
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
/// handle is dropped; [`LocalBackend::close`] closes it at once and returns errors.
///
/// A store belongs to the process that opened it. In a forked child every call returns
/// [`Error::Forked`], and dropping a handle has no effect. A program that becomes a daemon must
/// fork before it opens.
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
    /// `None` in the handles that are stored there.
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

    /// Reads all that the store in a directory relies on (checkpoints, log and live blocks), and
    /// lists all damage. Changes nothing.
    ///
    /// # Errors
    /// As [`LocalBackend::open`], except that damage is listed and not returned. Damage of `META`
    /// is returned.
    pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport> {
        let path = path.as_ref();
        let disk = OsDisk::open(path).map_err(|source| options::open_error(path, source))?;
        verify::verify_store(&disk)
    }

    /// Copies every intact block of a store that may not open into a new one at `out`, which must
    /// not exist. Only reads the damaged store. Copies the newest intact version of each block. The
    /// report names blocks of which an older version was copied, and lost blocks.
    ///
    /// The indexes of both stores must fit in memory.
    ///
    /// # Errors
    /// No error changes the damaged store. The store at `out` is incomplete then.
    /// - [`Error::Corrupt`] with [`Defect::Meta`](crate::Defect::Meta): without the salt in `META`,
    ///   no frame can be told from other bytes.
    /// - [`Error::InvalidArgument`]: `out` exists, or lies in the damaged store.
    /// - [`Error::Locked`], [`Error::NotAStore`], [`Error::UnsupportedFormat`]: as
    ///   [`LocalBackend::open`].
    /// - [`Error::Io`], [`Error::StorageFull`]: the operating system refused.
    /// - [`Error::InCallback`]: as [`LocalBackend::close`], because the copy is closed. Nothing was
    ///   done.
    pub fn salvage(path: impl AsRef<Path>, out: impl AsRef<Path>) -> Result<SalvageReport> {
        repair::salvage_into(path.as_ref(), out.as_ref(), copy_into)
    }

    /// Replaces a damaged store by a salvaged copy, and keeps the damaged one unchanged beside it
    /// as `<store>.before-repair-<n>`. A store without damage is not changed. The report lists the
    /// losses; see [`LocalBackend::salvage`]. Needs space for a second copy of every block, and a
    /// file system that can exchange two names (Linux: all common local ones). For a store behind a
    /// symbolic link, the directory behind the link is repaired, and kept in its own parent
    /// directory.
    ///
    /// The repaired store is a new one: commits are counted from 1 again, and unknown files stay in
    /// the kept directory.
    ///
    /// # Errors
    /// As [`LocalBackend::salvage`]. At each moment, also after a power cut, the path holds either
    /// the damaged store or the repaired one, whole. A directory `<store>.repairing-<n>` may be
    /// left.
    /// - [`Error::Unsupported`]: the file system cannot exchange two directories. The repaired
    ///   store is whole in that directory: rename the two by hand. Or the store is the root of a
    ///   volume and cannot be renamed: nothing was done; use [`LocalBackend::salvage`].
    pub fn repair(path: impl AsRef<Path>) -> Result<RepairReport> {
        repair::repair_store(path.as_ref(), copy_into)
    }

    /// Makes a store from a backup, in a directory that is empty or missing. Compares every file
    /// with the backup's manifest. Does not change the backup. `watch` may stop it with `Break`.
    ///
    /// # Errors
    /// Files that were copied are removed again:
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
    /// # let (path, backup) = (dir.path().join("a"), dir.path().join("b"));
    /// # let again = dir.path().join("c");
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
        // Checked before the directory is made.
        backup::read_manifest(&from)?;
        restore::restore_backup(&from, &backup::open_empty_directory(dir.as_ref())?, watch)
    }

    /// Compares every file of a backup with the backup's manifest and lists all damage. Changes
    /// nothing.
    ///
    /// # Errors
    /// - [`Error::NotAStore`]: the directory is no backup, or not a finished one.
    /// - [`Error::Corrupt`]: the manifest itself is damaged.
    /// - [`Error::Io`], [`Error::UnsupportedFormat`].
    pub fn verify_backup(path: impl AsRef<Path>) -> Result<BackupCheck> {
        let path = path.as_ref();
        let disk = OsDisk::open(path).map_err(|source| options::open_error(path, source))?;
        restore::check_backup(&disk)
    }

    /// Returns what an open of the store in a directory would find, without opening it. Reads
    /// `META`, the checkpoint's header and the log behind it. Locks out writers meanwhile, but no
    /// other probe. Changes nothing, and does not create a missing `LOCK`.
    ///
    /// # Errors
    /// As [`LocalBackend::open`], except that damage is [`Probe::Damaged`].
    pub fn probe(path: impl AsRef<Path>) -> Result<Probe> {
        let path = path.as_ref();
        let disk = OsDisk::open(path).map_err(|source| options::open_error(path, source))?;
        probe::probe_store(disk)
    }
}

/// Makes a new store and copies the salvaged blocks into it.
fn copy_into(salvage: Salvage<OsFile>, out: &Path) -> Result<SalvageReport> {
    let store = salvage.copy_options().open(out)?;
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
        let open = if options.read_only { open::read_only::open_store } else { open::open_store };
        let inner = Arc::new(ProcessBound::new(open(disk, options)?));
        Ok(LocalBackend { inner, handles: Some(Arc::default()) })
    }

    /// The report of opening the store.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.report
    }

    /// The ids of all committed blocks in a range, ascending, as of one commit.
    ///
    /// # Errors
    /// - [`Error::Closed`]: the store was closed.
    /// - [`Error::InvalidArgument`]: the range ends before it starts.
    pub fn ids(&self, range: impl RangeBounds<BlockId>) -> Result<Vec<BlockId>> {
        self.check_open()?;
        let Some((first, last)) = inclusive_bounds(range)? else { return Ok(Vec::new()) };
        self.mvcc().index.newest_ids(first, last, usize::MAX)
    }

    /// Waits until `len` bytes behind the log's tail are zeroed, so that commits find space whose
    /// sync is cheap. Commits continue meanwhile. The space stays prepared until commits have used
    /// as much, also in an idle store. A full disk takes it back.
    ///
    /// # Errors
    /// - [`Error::StorageFull`]: there is less space than that.
    /// - [`Error::Io`], [`Error::Poisoned`]: zeroing failed.
    /// - [`Error::Closed`]: the store was closed before or meanwhile.
    /// - [`Error::ReadOnly`]: the session is read-only.
    /// - [`Error::InCallback`]: the calling thread must not wait.
    pub fn prepare_space(&self, len: u64) -> Result<()> {
        self.check_writable()?;
        callback::check_may_wait()?;
        self.inner.space.await_zeroed_ahead(len)
    }

    /// Writes a checkpoint: an image of the index, which the next open uses instead of the log up
    /// to here. Commits continue meanwhile. Checkpoints are also made automatically
    /// ([`Options::checkpoint_log_len`]).
    ///
    /// # Errors
    /// The store continues with its earlier checkpoint:
    /// - [`Error::StorageFull`]: there is no space for the image.
    /// - [`Error::Io`], [`Error::Corrupt`]: the image cannot be written, or one below it cannot be
    ///   read.
    /// - [`Error::Poisoned`]: a commit for the checkpoint could not be made durable.
    /// - [`Error::ReadOnly`]: the session is read-only.
    /// - [`Error::InCallback`]: the calling thread must not wait.
    pub fn checkpoint(&self) -> Result<()> {
        self.check_writable()?;
        callback::check_may_wait()?;
        self.inner.maintenance.checkpoint()
    }

    /// Compacts the log to little more than its live blocks, now: moves them out of partly dead
    /// segments and returns these to the file system. Commits continue meanwhile. Down to the limit
    /// of [`Options::space_amplification_max`], this happens automatically. On a full disk, the
    /// segments with the fewest live bytes are released first, each at once. While a backup reads
    /// the store, nothing is moved, because no file could be released before its end
    /// ([`CompactionEnd::Backup`]).
    ///
    /// # Errors
    /// No error loses or changes a block, and released segments stay released:
    /// - [`Error::StorageFull`]: the log has dead segments, but no space for their live blocks. The
    ///   error names the missing bytes.
    /// - Others as [`LocalBackend::checkpoint`].
    pub fn compact_now(&self) -> Result<CompactionReport> {
        self.check_writable()?;
        callback::check_may_wait()?;
        self.inner.maintenance.compact_now()
    }

    /// Pauses automatic compaction until [`LocalBackend::resume_compaction`], to leave the disk to
    /// other work. Returns at once; up to 512 KiB of moves under way are finished. Pauses are
    /// counted over all handles: compaction resumes after as many resumes. A close ends all pauses.
    ///
    /// Dead bytes take space meanwhile, without a limit. Only segments without live blocks are
    /// still released, by checkpoints. On a full disk, or at [`Options::max_bytes`], writes are
    /// refused as always. No space is reclaimed by moving blocks, so deletes may be refused too,
    /// once the reserve is used up. [`LocalBackend::compact_now`] works all the same.
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
        self.inner.maintenance.pauses.begin_pause();
        Ok(())
    }

    /// Ends one [`LocalBackend::pause_compaction`]. After the last one, maintenance runs at once,
    /// throttled beside commits as usual. Without a pause it does nothing.
    ///
    /// # Errors
    /// [`Error::Closed`]: the store was closed.
    pub fn resume_compaction(&self) -> Result<()> {
        self.check_open()?;
        if self.inner.maintenance.pauses.end_pause() {
            self.inner.shared.wake_up.call();
        }
        Ok(())
    }

    /// Copies the store as of one commit into a directory that is empty or missing, while commits
    /// continue.
    ///
    /// Files that `since`, an earlier backup of this store, also has are taken from there: as hard
    /// links if the file system has them, so that both backups together are hardly larger than one.
    /// That saves space and writing, not reading: both files are read and compared. On a file
    /// system with reflinks (XFS, btrfs), a backup beside the store takes almost no space, and
    /// grows only as the store changes.
    ///
    /// `watch` may stop it with `Break`. No segment and no checkpoint is released during the copy.
    /// A read-only session copies the files as they are, without a checkpoint first; opening a
    /// store that was restored from such a backup may replay more log.
    ///
    /// # Errors
    /// The store is not affected, and copied files are removed again:
    /// - [`Error::NotEmpty`]: `dir` holds something.
    /// - [`Error::NotAStore`]: `since` is no backup, or not a finished one.
    /// - [`Error::Aborted`], [`Error::Closed`], [`Error::Io`], [`Error::StorageFull`].
    /// - [`Error::Poisoned`], [`Error::Corrupt`], [`Error::InCallback`]: as
    ///   [`LocalBackend::checkpoint`].
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
        self.inner.maintenance.back_up_to(target, since, watch, &|| self.check_open())
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
        restore::restore_backup(backup, target, watch)
    }

    /// As [`LocalBackend::verify_backup`], on a disk of your own.
    ///
    /// # Errors
    /// As [`LocalBackend::verify_backup`].
    pub fn verify_backup_on(backup: &D) -> Result<BackupCheck> {
        restore::check_backup(backup)
    }

    /// The disk space of the store by purpose. Visits every old version that snapshots see, so call
    /// it for people and dashboards, not for every commit.
    ///
    /// # Errors
    /// - [`Error::Closed`]: the store was closed.
    /// - [`Error::Io`]: the directory could not be listed. Nothing was changed.
    pub fn space(&self) -> Result<SpaceReport> {
        self.check_open()?;
        report::space_report(&self.inner)
    }

    /// Waits for commits under way, makes everything durable and closes the store for all handles.
    ///
    /// # Errors
    /// - [`Error::Closed`]: another handle has closed it.
    /// - [`Error::Poisoned`], [`Error::Io`]: commits that were not yet durable may be lost.
    /// - [`Error::InCallback`]: a close waits for the calling thread. The store stays open for
    ///   other handles; if this was the last one, a new thread closes it.
    pub fn close(self) -> Result<()> {
        self.check_open()?;
        callback::check_may_close()?;
        self.inner.shut_down()
    }
}
