//! Options of a local store: the limit that each one sets, and the reason for its default.

use crate::mvcc::state::Limits;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Durability;
use crate::error::{Error, IoOp, NotAStoreReason, Result};
use crate::io::PAGE_LEN;
use crate::mvcc::state::OPEN_TRANSACTIONS_MAX;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WriteMode {
    /// Through the page cache. Later reads find the bytes there as long as the machine has memory
    /// for them.
    Buffered,
    /// Past the page cache (`O_DIRECT`) if the file system supports it: less work a commit. The
    /// latest bytes ([`Options::recent_len`]) are read from memory, others from the disk the first
    /// time.
    #[default]
    Direct,
}

/// How payloads are read from the files. Every mode verifies each read. The modes differ in the
/// effect of a failing disk, in the memory behind returned bytes, and in the cost of a read. The
/// latest bytes ([`Options::recent_len`]) come from memory in all modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ReadMode {
    /// Copied out of the map and then verified: the caller gets the verified bytes, nothing is read
    /// twice, and returned bytes keep no segment. A page that the disk cannot read still ends the
    /// process by `SIGBUS`, while it is copied. Pages of checkpoints are used in the map.
    #[default]
    Copied,
    /// **Returned bytes can change, or end the process.** Nothing is copied: a block's bytes are
    /// those of the mapped file. For programs that have measured that a copy costs too much, that
    /// drop bytes soon, and that trust their disk:
    ///
    /// - If another program writes to the file, bytes change after they were verified.
    /// - A page that the disk cannot read ends the process by `SIGBUS`: when the block is verified,
    ///   or at a later read, if the system has dropped the page. So does a segment that another
    ///   program shortens. The store itself removes mapped files, and shortens none.
    /// - A dropped page is read again after it was verified: the caller then sees the bytes of the
    ///   second read.
    /// - Returned bytes keep their whole segment on the disk and in the address space, even after
    ///   its blocks were moved or deleted. `held_bytes` counts those segments, in
    ///   [`StorageStats`](crate::StorageStats) and [`SpaceReport`](crate::SpaceReport).
    Mapped,
    /// No file is mapped: bytes are read into a buffer and then verified. As `Copied`, but a page
    /// that cannot be read is an error of that read, never a signal. Costs a system call a read,
    /// and one more for each page of a checkpoint that it needs. Each of the segments read last
    /// takes a descriptor, at most 256.
    Pread,
}

/// The phase of an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OpenPhase {
    /// Choosing the checkpoint and the segments behind it.
    Survey,
    /// Reading the log behind the checkpoint.
    Replay,
    /// All is read and nothing is changed yet. Next, the frames that count are made durable.
    Finish,
}

/// The progress of a long open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenProgress {
    /// The current phase.
    pub phase: OpenPhase,
    /// Log bytes read so far.
    pub bytes_done: u64,
    /// Log bytes in all.
    pub bytes_total: u64,
    /// Frames found so far.
    pub frames: u64,
}

/// Watches a long open; `Break` aborts it.
pub(crate) type OnProgress = Arc<dyn Fn(OpenProgress) -> ControlFlow<()> + Send + Sync>;

/// The callback for low space, and its threshold.
#[derive(Clone)]
pub(crate) struct OnSpaceLow {
    pub(crate) threshold: u64,
    pub(crate) tell: Arc<dyn Fn(u64) + Send + Sync>,
}

/// Options to open a local store with. Every setter takes and returns the options.
///
/// # Examples
/// ```no_run
/// use aegis_blocks::{Durability, LocalBackend};
/// let store = LocalBackend::options().durability(Durability::Buffered).open("data")?;
/// # Ok::<(), aegis_blocks::Error>(())
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) durability: Durability,
    pub(crate) write_mode: WriteMode,
    pub(crate) read_mode: ReadMode,
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) segment_len_max: u64,
    /// `None`: half a segment, up to the default.
    pub(crate) block_len_max: Option<u32>,
    pub(crate) transaction_len_max: u64,
    pub(crate) memory_len_max: u64,
    /// `None`: a share of the memory.
    pub(crate) in_flight_len_max: Option<u64>,
    pub(crate) open_transactions_max: u64,
    pub(crate) snapshot_age_max: Duration,
    pub(crate) snapshot_pinned_max: u64,
    pub(crate) zero_ahead_len: u64,
    /// `None`: a share of the memory.
    pub(crate) recent_len: Option<u64>,
    pub(crate) shown_max: ShownMax,
    pub(crate) checkpoint_log_len: u64,
    pub(crate) space_amplification_max: f64,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) on_space_low: Option<OnSpaceLow>,
    pub(crate) io_threads: usize,
    pub(crate) sync_interval: Duration,
    pub(crate) single_threaded: bool,
    pub(crate) many_callers_min: usize,
    pub(crate) on_progress: Option<OnProgress>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("durability", &self.durability)
            .field("write_mode", &self.write_mode)
            .field("read_mode", &self.read_mode)
            .field("segment_len_max", &self.segment_len_max)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            durability: Durability::Durable,
            write_mode: WriteMode::default(),
            read_mode: ReadMode::default(),
            create: true,
            read_only: false,
            segment_len_max: 64 << 20,
            block_len_max: None,
            transaction_len_max: 1 << 30,
            memory_len_max: 256 << 20,
            in_flight_len_max: None,
            open_transactions_max: OPEN_TRANSACTIONS_MAX,
            snapshot_age_max: Duration::MAX,
            snapshot_pinned_max: u64::MAX,
            zero_ahead_len: 64 << 20,
            recent_len: None,
            shown_max: ShownMax::default(),
            checkpoint_log_len: 256 << 20,
            space_amplification_max: 1.4,
            max_bytes: None,
            on_space_low: None,
            io_threads: 3,
            sync_interval: Duration::from_millis(100),
            single_threaded: false,
            many_callers_min: MANY_CALLERS_MIN,
            on_progress: None,
        }
    }
}

impl Options {
    /// The durability that commits wait for, unless a commit names its own. Default:
    /// [`Durability::Durable`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Options {
        self.durability = durability;
        self
    }

    /// How the log is written. Default: [`WriteMode::Direct`].
    #[must_use]
    pub fn write_mode(mut self, mode: WriteMode) -> Options {
        self.write_mode = mode;
        self
    }

    /// How payloads are read. Default: [`ReadMode::Copied`].
    #[must_use]
    pub fn read_mode(mut self, mode: ReadMode) -> Options {
        self.read_mode = mode;
        self
    }

    /// Whether a missing store is created. Default: true.
    #[must_use]
    pub fn create(mut self, create: bool) -> Options {
        self.create = create;
        self
    }

    /// Opens a store read-only: no file in its directory is made, changed or removed, so this also
    /// works on a volume that is mounted read-only. Default: false.
    ///
    /// - Any number of processes can have the store open read-only at once. A writer gets
    ///   [`Error::Locked`] meanwhile, and so do readers while a writer has it open.
    /// - A store that was not closed cleanly is recovered in memory. Commits at its end may have
    ///   been in the page cache only, and a power cut may lose them: see
    ///   [`StorageStats::durable_lsn`](crate::StorageStats). Until all are durable,
    ///   [`sync`](crate::StorageBackend::sync) returns [`Error::ReadOnly`].
    /// - Calls that write return [`Error::ReadOnly`]. Transactions read a snapshot. Backups work.
    /// - A missing store is not created; options for writing have no effect.
    ///
    /// # Examples
    /// ```
    /// use aegis_blocks::{Block, BlockId, BlockType, Error, LocalBackend, StorageBackend};
    /// # let dir = tempfile::tempdir().map_err(|_| aegis_blocks::Error::Closed)?;
    /// # let path = dir.path().join("store");
    /// let store = LocalBackend::open(&path)?;
    /// let id = store.write_block(Block::new(BlockId(0), BlockType::TableData, "kept"))?;
    /// store.close()?;
    ///
    /// let one = LocalBackend::options().read_only(true).open(&path)?;
    /// let other = LocalBackend::options().read_only(true).open(&path)?;
    /// assert_eq!(&one.read_block(id)?.data[..], b"kept");
    /// assert!(matches!(other.delete_block(id), Err(Error::ReadOnly)));
    /// # Ok::<(), aegis_blocks::Error>(())
    /// ```
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Options {
        self.read_only = read_only;
        self
    }

    /// Length of a log segment in bytes, from 64 KiB to 2 GiB. Default: 64 MiB. Existing segments
    /// keep their length.
    #[must_use]
    pub fn segment_len_max(mut self, bytes: u64) -> Options {
        self.segment_len_max = bytes;
        self
    }

    /// Longest payload of one block in bytes; at most half a segment. Default: the smaller of 32
    /// MiB and half a segment.
    #[must_use]
    pub fn block_len_max(mut self, bytes: u32) -> Options {
        self.block_len_max = Some(bytes);
        self
    }

    /// Most payload bytes that one transaction may hold in memory. Default: 1 GiB.
    #[must_use]
    pub fn transaction_len_max(mut self, bytes: u64) -> Options {
        self.transaction_len_max = bytes;
        self
    }

    /// Memory budget of the store in bytes, at least 1 MiB. Default: 256 MiB. It covers index
    /// entries since the last checkpoint, old versions that snapshots need, recent bytes and
    /// commits in flight ([`StorageStats::memory_bytes`]).
    ///
    /// A quarter is for commits in flight and an eighth for recent bytes;
    /// [`Options::in_flight_len_max`] and [`Options::recent_len`] override these shares. If entries
    /// and old versions exceed their half, a checkpoint is made early. If they still exceed it
    /// then, they take from the recent bytes, down to none. The maintenance thread checks this
    /// several times while that half fills.
    ///
    /// No call fails and no snapshot is given up for lack of memory, so the budget may be exceeded:
    /// by old versions, which [`Options::snapshot_pinned_max`] limits; by one commit larger than
    /// the share of commits in flight; by commits while a checkpoint is written; while the disk is
    /// too full for one; and after a crash until the first checkpoint. Not counted: mapped segments
    /// and checkpoints, which the system can drop; blocks that callers hold; operations of open
    /// transactions ([`Options::transaction_len_max`]); buffers of the log and of a checkpoint, a
    /// few MiB.
    ///
    /// [`StorageStats::memory_bytes`]: crate::StorageStats::memory_bytes
    #[must_use]
    pub fn memory_len_max(mut self, bytes: u64) -> Options {
        self.memory_len_max = bytes;
        self
    }

    /// Most payload bytes of commits in flight; callers beyond it wait. A larger commit is written
    /// alone. Default: a quarter of [`Options::memory_len_max`], 64 MiB.
    #[must_use]
    pub fn in_flight_len_max(mut self, bytes: u64) -> Options {
        self.in_flight_len_max = Some(bytes);
        self
    }

    /// Most transactions and snapshots that may be open at once, commits in flight included. At the
    /// limit a begin waits or is refused ([`StorageExt::begin`](crate::StorageExt::begin),
    /// [`try_begin`](crate::StorageExt::try_begin)). Default: 65,536; at most 4,194,288.
    #[must_use]
    pub fn open_transactions_max(mut self, count: u64) -> Options {
        self.open_transactions_max = count;
        self
    }

    /// How long a transaction may read its snapshot. An older one is given up with the next commit,
    /// begin or operation of any transaction: versions kept for it are freed, and its own next
    /// operation returns [`Error::SnapshotTooOld`]. Read committed has no snapshot, and no such
    /// limit. Default: no limit ([`Duration::MAX`]).
    #[must_use]
    pub fn snapshot_age_max(mut self, age: Duration) -> Options {
        self.snapshot_age_max = age;
        self
    }

    /// Most bytes that are kept for snapshots. Beyond it the oldest snapshots are given up, as with
    /// [`Options::snapshot_age_max`]. Default: no limit (`u64::MAX`).
    ///
    /// Two counts must be within it. Each operation of a transaction checks the payloads of old
    /// versions, and about a hundred bytes of memory for each. Every few MiB of log, the
    /// maintenance thread checks the log bytes kept for snapshots alone
    /// ([`SpaceReport::pinned_bytes`](crate::SpaceReport::pinned_bytes)). Of these, segments
    /// without live blocks count as a whole. Before it gives up a snapshot, it moves the old
    /// versions out of such segments, unless compaction is paused.
    #[must_use]
    pub fn snapshot_pinned_max(mut self, bytes: u64) -> Options {
        self.snapshot_pinned_max = bytes;
        self
    }

    /// Most bytes that are zeroed ahead of the log's tail. A new store starts with fewer. Default:
    /// 64 MiB.
    #[must_use]
    pub fn zero_ahead_len(mut self, bytes: u64) -> Options {
        self.zero_ahead_len = bytes;
        self
    }

    /// Most segments that are mapped for reading at a time; beyond it, the oldest map is dropped.
    /// Segments whose bytes readers hold stay mapped, and count. Default: 8,192, an eighth of the
    /// maps that Linux grants a process (`vm.max_map_count`).
    ///
    /// # Examples
    /// ```
    /// use aegis_blocks::LocalBackend;
    /// let options = LocalBackend::options().mapped_segments_max(100).open_segments_max(10);
    /// # drop(options);
    /// ```
    #[must_use]
    pub fn mapped_segments_max(mut self, count: usize) -> Options {
        self.shown_max.maps = count;
        self
    }

    /// Most segment files that are open for reading at a time, because they cannot be mapped or
    /// must not be ([`ReadMode::Pread`]): one descriptor each, beside some ten others of a store.
    /// Default: 256.
    #[must_use]
    pub fn open_segments_max(mut self, count: usize) -> Options {
        self.shown_max.files = count;
        self
    }

    /// Most bytes at the end of the log that are kept in memory for readers with
    /// [`WriteMode::Direct`]. More than 2 MiB are kept only while readers ask for them. Default: an
    /// eighth of [`Options::memory_len_max`], 32 MiB.
    #[must_use]
    pub fn recent_len(mut self, bytes: u64) -> Options {
        self.recent_len = Some(bytes);
        self
    }

    /// Log bytes after which a checkpoint of the index is made; up to half of that may be written
    /// meanwhile. An open after a crash reads this much log. Default: 256 MiB.
    #[must_use]
    pub fn checkpoint_log_len(mut self, bytes: u64) -> Options {
        self.checkpoint_log_len = bytes;
        self
    }

    /// Log bytes over live bytes, above which mostly dead segments are compacted; more than 1.
    /// Nearer to 1 saves space and costs writes, because blocks are moved more often. In an idle
    /// store, the log is compacted to a sixth of the excess. Free segment files kept for reuse take
    /// as much as the excess again, at most. Default: 1.4.
    #[must_use]
    pub fn space_amplification_max(mut self, ratio: f64) -> Options {
        self.space_amplification_max = ratio;
        self
    }

    /// Most bytes that the files of the store may take, at least 1 MiB. Beyond it a write returns
    /// [`Error::StorageFull`] with [`SpaceLimit::MaxBytes`](crate::SpaceLimit). Deletes, compaction
    /// and checkpoints continue, as on a full disk, out of a reserve that is part of this limit. A
    /// store that is larger already opens, and takes no writes until enough is deleted and
    /// compacted. Default: no limit.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Options {
        self.max_bytes = Some(bytes);
        self
    }

    /// Calls `tell` with the bytes left when they fall below `threshold`, of the disk or of
    /// [`Options::max_bytes`], once for each fall. The maintenance thread calls it without a lock,
    /// every few MiB of log and after a write that found no space. `tell` may use the store, delete
    /// and compact, and wait for that. Closing a store in it returns [`Error::InCallback`]; a store
    /// whose last handle is dropped in it is closed by a new thread afterwards. A panic in it ends
    /// that call only.
    #[must_use]
    pub fn on_space_low(
        mut self,
        threshold: u64,
        tell: impl Fn(u64) + Send + Sync + 'static,
    ) -> Options {
        self.on_space_low = Some(OnSpaceLow { threshold, tell: Arc::new(tell) });
        self
    }

    /// I/O worker threads, at least 1. They write commits where there are many callers, zero space
    /// ahead of the log, and read. Default: 3.
    #[must_use]
    pub fn io_threads(mut self, count: usize) -> Options {
        self.io_threads = count;
        self
    }

    /// The longest time before a [`Durability::Buffered`] commit is synced; [`Duration::MAX`] never
    /// syncs. Default: 100 ms.
    #[must_use]
    pub fn sync_interval(mut self, interval: Duration) -> Options {
        self.sync_interval = interval;
        self
    }

    /// Starts no threads: all work runs on the callers' threads, in an order that depends only on
    /// their calls. For deterministic tests on a simulated disk. Without a call, no durable mark is
    /// written and no sync interval is kept. Default: false.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn single_threaded(mut self, single: bool) -> Options {
        self.single_threaded = single;
        self
    }

    /// Number of callers from which on a group may be written while another one is. From twice as
    /// many on, workers serve the callers. For tests of that with few threads. Default: 12.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn many_callers_min(mut self, callers: usize) -> Options {
        self.many_callers_min = callers;
        self
    }

    /// Watches a long open. Returning `Break` in any phase aborts it with [`Error::Aborted`], and
    /// the store is not changed.
    #[must_use]
    pub fn on_progress(
        mut self,
        watch: impl Fn(OpenProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Options {
        self.on_progress = Some(Arc::new(watch));
        self
    }

    /// Longest payload of one block in bytes.
    pub(crate) fn block_len_or_default(&self) -> u32 {
        let default = u64::from(BLOCK_LEN).min(self.segment_len_max / 2) as u32;
        self.block_len_max.unwrap_or(default)
    }

    /// Refuses options that contradict each other.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |argument, reason| Err(Error::InvalidArgument { argument, reason });
        if !(SEGMENT_LEN_MIN..=SEGMENT_LEN_LIMIT).contains(&self.segment_len_max)
            || !self.segment_len_max.is_multiple_of(PAGE_LEN as u64)
        {
            return refuse("segment_len_max", "must be 64 KiB to 2 GiB, in whole 4 KiB pages");
        }
        if u64::from(self.block_len_or_default()) > self.segment_len_max / 2 {
            return refuse("block_len_max", "must be at most half of segment_len_max");
        }
        if self.space_amplification_max.is_nan() || self.space_amplification_max <= 1.0 {
            return refuse("space_amplification_max", "must be more than 1");
        }
        if self.memory_len_max < MEMORY_LEN_MIN {
            return refuse("memory_len_max", "must be at least 1 MiB");
        }
        if self.max_bytes.is_some_and(|max| max < MAX_BYTES_MIN) {
            return refuse("max_bytes", "must be at least 1 MiB");
        }
        if self.io_threads == 0 {
            return refuse("io_threads", "must be at least 1");
        }
        if self.open_transactions_max == 0 {
            return refuse("open_transactions_max", "must be at least 1");
        }
        Ok(())
    }
}

/// The most files that are open or mapped for reading at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShownMax {
    /// Open without a map, also by choice ([`ReadMode::Pread`]).
    pub(crate) files: usize,
    /// Mapped.
    pub(crate) maps: usize,
}

impl ShownMax {
    pub(crate) const NONE: ShownMax = ShownMax { files: 0, maps: 0 };
}

impl Default for ShownMax {
    fn default() -> Self {
        // An eighth of the maps that Linux grants a process (`vm.max_map_count`).
        ShownMax { files: 256, maps: 8192 }
    }
}

/// Number of callers from which on two groups are in flight at once. Fewer callers do better in one
/// group on 2 cores: at 8, both gave the same throughput, and two groups took more processor time.
pub(crate) const MANY_CALLERS_MIN: usize = 12;
/// The reserve starts with at most this share of a quota.
pub(crate) const QUOTA_SHARE: u64 = 4;
/// The part of the reserve for recovery alone: a truncating segment, and the space the file system
/// takes to make it.
pub(crate) const RECOVERY_LEN: u64 = 64 << 10;
/// The limits of transactions that the options set.
pub(crate) fn limits_from_options(options: &Options) -> Limits {
    Limits {
        block_len_max: options.block_len_or_default(),
        transaction_len_max: options.transaction_len_max,
        open_transactions_max: options.open_transactions_max,
        snapshot_age_max: options.snapshot_age_max,
        snapshot_pinned_max: options.snapshot_pinned_max,
    }
}

/// The longest block by default.
const BLOCK_LEN: u32 = 32 << 20;
/// The least memory budget: less would make a checkpoint every few thousand commits.
const MEMORY_LEN_MIN: u64 = 1 << 20;
/// The least quota: a reserve and a little more.
const MAX_BYTES_MIN: u64 = 1 << 20;

const _: () = assert!(
    MAX_BYTES_MIN / QUOTA_SHARE >= 2 * RECOVERY_LEN,
    "the least reserve holds what recovery needs, and as much for deletes"
);

/// Shortest segment: the header and a few frames.
const SEGMENT_LEN_MIN: u64 = 64 << 10;
/// Longest segment: offsets and lengths in a frame are 32 bits.
const SEGMENT_LEN_LIMIT: u64 = 2 << 30;

/// The error for a directory that could not be opened.
pub(crate) fn open_error(path: &Path, source: std::io::Error) -> Error {
    let reason = match source.kind() {
        std::io::ErrorKind::NotADirectory => NotAStoreReason::NotADirectory,
        std::io::ErrorKind::NotFound => NotAStoreReason::Missing,
        _ => return Error::io(IoOp::Open, path, source),
    };
    Error::NotAStore { path: path.to_path_buf(), reason }
}
