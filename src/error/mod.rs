//! Errors: one variant per decision that the caller makes.
//!
//! Owns [`Error`] and the small types it carries. Invariant: no variant holds a free-form string or
//! bytes of a block; a place is named by file, offset, LSN and block id. A variant with an error of
//! the operating system ends its message with the system's words, because EACCES, EROFS and EMFILE
//! need different actions. A full disk names the limit that was met. Does not decide policy: the
//! module that returns a variant documents the state it leaves the store in.

mod defect;
mod limit;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use defect::{Defect, Place};
pub(crate) use limit::OverQuota;
pub use limit::{SnapshotLimit, SpaceLimit};

use crate::block::{BlockId, Lsn, TransactionId};

/// The result of every fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error, by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No block with this id is visible here. Nothing was changed; the transaction goes on.
    #[error("block {id} does not exist")]
    BlockNotFound {
        /// The id that was asked for.
        id: BlockId,
    },
    /// Another transaction committed this block first. Nothing was written; run the transaction
    /// again on a newer snapshot.
    #[error("block {id} changed at lsn {found}, after snapshot {snapshot}; retry the transaction")]
    Conflict {
        /// The block that both transactions wrote.
        id: BlockId,
        /// The snapshot of the transaction that lost.
        snapshot: Lsn,
        /// The commit that won.
        found: Lsn,
    },
    /// The store never handed out this id, or the transaction ended so long ago that its outcome is
    /// no longer remembered.
    #[error("transaction {id} is not known")]
    TransactionNotFound {
        /// The id that was given.
        id: TransactionId,
    },
    /// The transaction has ended, or is just being committed by another thread.
    #[error("transaction {id} is {state}")]
    TransactionNotActive {
        /// The id that was given.
        id: TransactionId,
        /// Where the transaction stands.
        state: TransactionState,
    },
    /// Stored bytes are not what was written. Retrying does not help; `verify` lists all damage.
    #[error("{defect} in {place}")]
    Corrupt {
        /// The defect of the bytes.
        defect: Defect,
        /// Where the bytes are.
        place: Place,
    },
    /// The operating system refused an operation. After a failed write or sync the outcome of the
    /// commit is **unknown** until the store is opened again, and the store is poisoned. The
    /// message ends with the system's own words, and the source is what they are made from.
    #[error("{op} failed on {}: {source}", path.display())]
    Io {
        /// The operation.
        op: IoOp,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's own error, shared by all commits that failed with it.
        source: Arc<io::Error>,
    },
    /// An earlier write, sync or panic left the store unable to promise durability. Reads go on;
    /// open the store again to write, or restore it if its files were removed
    /// ([`PoisonCause::Removed`]). Nothing was written of what is refused with this, unless the
    /// cause is [`PoisonCause::ThreadPanicked`]: a commit that was under way then has an
    /// **unknown** outcome until the store is opened again.
    #[error("the store refuses writes since {cause}; {}", cause.advice())]
    Poisoned {
        /// The first failure.
        cause: PoisonCause,
    },
    /// No space is left for this write. Nothing was written and the store is not poisoned: reads
    /// and deletes go on, and writes resume when space returns.
    #[error("no space left {limit}: the write needs {needed} bytes on {}", path.display())]
    StorageFull {
        /// Bytes that the write needed.
        needed: u64,
        /// The store's directory.
        path: PathBuf,
        /// The limit that was met.
        limit: SpaceLimit,
    },
    /// The system refused the process something that it may have only so much of: descriptors,
    /// memory, maps, threads, or length of a file. It did so before anything was touched: what was
    /// asked for did not happen, and the store is not poisoned. Reads and commits that do without
    /// go on, and the same call succeeds once the limit allows it, without opening the store again.
    #[error("{op} failed on {}, out of {resource}: {source}", path.display())]
    ResourceExhausted {
        /// The resource that ran short.
        resource: Resource,
        /// The operation that was refused.
        op: IoOp,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's own error.
        source: Arc<io::Error>,
    },
    /// The payload is longer than the store's limit. Split it, or open the store with a larger
    /// `block_len_max`.
    #[error("block of {len} bytes is over the limit of {len_max} bytes")]
    BlockTooLarge {
        /// The payload's length in bytes.
        len: u64,
        /// The limit in bytes.
        len_max: u64,
    },
    /// The transaction's pending writes are over the store's limit. The write was not added; the
    /// transaction can still be committed or rolled back.
    #[error("transaction of {len} bytes is over the limit of {len_max} bytes")]
    TransactionTooLarge {
        /// Bytes the transaction would hold.
        len: u64,
        /// The limit in bytes.
        len_max: u64,
    },
    /// As many transactions are open as the store allows. Nothing was begun; end some, or open the
    /// store with a larger `open_transactions_max`.
    #[error("{open} transactions are open, which is as many as may be ({max})")]
    TooManyTransactions {
        /// Transactions that are open.
        open: u64,
        /// The limit.
        max: u64,
    },
    /// The transaction's snapshot was over a limit and has been given up, with everything that the
    /// transaction had pending; what was kept for it is free again. All that is left is to roll it
    /// back. Begin a new one and do less in it, or open the store with a larger limit.
    #[error("snapshot {snapshot} of transaction {id} was given up: {limit}")]
    SnapshotTooOld {
        /// The transaction.
        id: TransactionId,
        /// Its snapshot.
        snapshot: Lsn,
        /// The limit that it was over.
        limit: SnapshotLimit,
    },
    /// Another handle, in this process or another, has the store open.
    #[error("{} is open elsewhere", path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// The directory holds something other than a store. Nothing was changed.
    #[error("{} is not a block store: {reason}", path.display())]
    NotAStore {
        /// The path that was given.
        path: PathBuf,
        /// The reason.
        reason: NotAStoreReason,
    },
    /// A backup or a restored store needs a directory of its own. Nothing was changed.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The path that was given.
        path: PathBuf,
    },
    /// The store was written by a newer version of this library. Nothing was changed.
    #[error("{} has format version {found}; this library reads up to {supported}", path.display())]
    UnsupportedFormat {
        /// The store's directory.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version this library reads.
        supported: u32,
    },
    /// An argument is outside what the function accepts. Nothing was changed.
    #[error("{argument}: {reason}")]
    InvalidArgument {
        /// The argument's name.
        argument: &'static str,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// Every id from 1 to `u64::MAX` names a block, so none can be allocated. Explicit ids still
    /// work.
    #[error("no block id is left to allocate")]
    IdsExhausted,
    /// The backend does not offer this. Nothing was changed.
    #[error("this backend does not offer {operation}")]
    Unsupported {
        /// The operation that was asked for.
        operation: &'static str,
    },
    /// The store was opened to be read only ([`Options::read_only`](crate::Options::read_only)).
    /// Nothing was changed; open it without that option to write, once no other process reads it
    /// so.
    #[error("the store is open to be read only")]
    ReadOnly,
    /// The callback that watches a long open, backup or restore asked to stop. Nothing was changed.
    #[error("aborted by the caller")]
    Aborted,
    /// The store was closed through this or another handle.
    #[error("the store is closed")]
    Closed,
    /// The call may have to wait for a store, and the calling thread is one that a store waits for:
    /// it runs a callback ([`CommitTicket::on_durable`](crate::CommitTicket::on_durable),
    /// [`Options::on_space_low`](crate::Options::on_space_low)) or drops a payload in the middle of
    /// commits. Nothing was done. Hand commits in without waiting for them
    /// ([`Transaction::submit`](crate::Transaction::submit)), begin without waiting
    /// ([`StorageExt::try_begin`](crate::StorageExt::try_begin)), or have another thread do it.
    #[error(
        "a callback may not wait for a store: hand in without waiting, or have another thread do it"
    )]
    InCallback,
    /// The store was opened by a process that this one was forked from. Nothing was done: a store
    /// belongs to the process that opened it, and what a child does to its handles changes nothing
    /// in the parent, whose store goes on. Let the child exec or exit, or open the store anew in it
    /// after the parent has closed its own.
    #[error("the store was opened by another process, which this one was forked from")]
    Forked,
}

/// The operating-system operation that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoOp {
    /// Opening or creating a file or directory.
    Open,
    /// Listing the directory.
    List,
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// Making bytes or names durable.
    Sync,
    /// Reserving or zeroing space ahead of the tail.
    Allocate,
    /// Mapping a file.
    Map,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Cutting or extending a file.
    Resize,
    /// Taking the store's lock.
    Lock,
    /// Starting a thread.
    Spawn,
}

/// A resource that the system limits for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// Open files: of the process (`RLIMIT_NOFILE`) or of the machine.
    Descriptors,
    /// Memory, address space (`RLIMIT_AS`) or the number of maps (`vm.max_map_count`).
    Memory,
    /// Length of a file (`RLIMIT_FSIZE`).
    FileLength,
    /// Threads (`RLIMIT_NPROC`, or of a control group).
    Threads,
}

/// Why a directory is not taken for a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotAStoreReason {
    /// The path names something that is not a directory.
    NotADirectory,
    /// The directory does not exist and the options say not to create one.
    Missing,
    /// The directory holds foreign files and no `META`.
    ForeignFiles,
    /// A file of the store is not a plain file (a link, pipe or directory stands in its place).
    UnsafeFile,
    /// It is a backup, which is to stay as it is, or what an interrupted restore left: restore to
    /// an empty directory and open that.
    Backup,
    /// A backup is wanted, and this has no manifest: it is none, or was not finished.
    NoManifest,
}

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionState {
    /// Open for reads and writes.
    Active,
    /// Another thread is committing it at this moment.
    Committing,
    /// Committed.
    Committed,
    /// Rolled back, or refused at commit.
    RolledBack,
}

/// This process was forked from the one that opened the file: inside of the [`io::Error`] that says
/// so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForkedProcess;

impl std::fmt::Display for ForkedProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", Error::Forked)
    }
}

impl std::error::Error for ForkedProcess {}

/// The cause for which the store refuses writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoisonCause {
    /// A write failed.
    WriteFailed,
    /// A sync failed. It is never tried again: the kernel may have dropped the bytes.
    SyncFailed,
    /// A thread of the store panicked.
    ThreadPanicked,
    /// The directory, its `META` or the segment in use was removed while the store was open. What
    /// was acknowledged before that is gone from the directory; reads go on as long as this handle
    /// lives. Commits of up to a second after the removal may have been acknowledged all the same.
    Removed,
}

impl PoisonCause {
    /// The action that remains.
    fn advice(self) -> &'static str {
        match self {
            PoisonCause::Removed => {
                "what was stored in it is gone from there: copy out of it what can still be read"
            }
            _ => "open it again",
        }
    }
}

impl Error {
    /// Wraps an operating-system error with the operation and the path it happened on. A shortage
    /// is [`Error::ResourceExhausted`], unless the operation may have changed bytes: after a failed
    /// write or sync it is unknown which bytes got through.
    pub(crate) fn io(op: IoOp, path: impl Into<PathBuf>, source: io::Error) -> Error {
        if source.get_ref().is_some_and(|inner| inner.is::<ForkedProcess>()) {
            return Error::Forked;
        }
        match shortage(&source, op) {
            Some(resource) if !matches!(op, IoOp::Write | IoOp::Sync) => {
                Error::ResourceExhausted { resource, op, path: path.into(), source: source.into() }
            }
            _ => Error::Io { op, path: path.into(), source: Arc::new(source) },
        }
    }

    /// Whether the call was refused for want of something, before anything was touched.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, Error::StorageFull { .. } | Error::ResourceExhausted { .. })
    }

    /// As [`Error::io`], for an operation on files that nothing relies on yet and that needs
    /// `needed` bytes of space: without them it is [`Error::StorageFull`], and any other shortage
    /// [`Error::ResourceExhausted`].
    pub(crate) fn space(op: IoOp, directory: &Path, needed: u64, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<OverQuota>());
                let limit = match (inner, source.kind()) {
                    (Some(over), _) => SpaceLimit::MaxBytes(over.max),
                    (None, io::ErrorKind::QuotaExceeded) => SpaceLimit::UserQuota,
                    (None, _) => SpaceLimit::Disk,
                };
                Error::StorageFull { needed, path: directory.to_path_buf(), limit }
            }
            _ => match shortage(&source, op) {
                Some(resource) => {
                    let path = directory.to_path_buf();
                    Error::ResourceExhausted { resource, op, path, source: source.into() }
                }
                None => Error::io(op, directory, source),
            },
        }
    }

    /// Returns whether running the same transaction again at once, on a newer snapshot, can
    /// succeed. Not so after [`Error::SnapshotTooOld`]: the same work would be over the same limit.
    ///
    /// # Examples
    /// ```
    /// use aegis_blocks::{BlockId, Error, Lsn};
    /// let lost = Error::Conflict { id: BlockId(1), snapshot: Lsn(3), found: Lsn(4) };
    /// assert!(lost.is_retryable());
    /// assert!(!Error::Closed.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Conflict { .. })
    }
}

/// The resource that the system was out of; `None` for any other error.
pub(crate) fn shortage(error: &io::Error, op: IoOp) -> Option<Resource> {
    match (error.kind(), error.raw_os_error()) {
        (_, Some(libc::EMFILE | libc::ENFILE)) => Some(Resource::Descriptors),
        (io::ErrorKind::OutOfMemory, _) => Some(Resource::Memory),
        (io::ErrorKind::FileTooLarge, _) => Some(Resource::FileLength),
        (io::ErrorKind::WouldBlock, _) if op == IoOp::Spawn => Some(Resource::Threads),
        // A map that the system has no room to lock.
        (io::ErrorKind::WouldBlock, _) if op == IoOp::Map => Some(Resource::Memory),
        _ => None,
    }
}

macro_rules! display_words {
    ($ty:ident { $($variant:ident => $words:literal,)+ }) => {
        impl std::fmt::Display for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $($ty::$variant => $words,)+ })
            }
        }
    };
}

display_words!(IoOp {
    Open => "open",
    List => "list",
    Read => "read",
    Write => "write",
    Sync => "sync",
    Allocate => "allocate",
    Map => "map",
    Rename => "rename",
    Remove => "remove",
    Resize => "resize",
    Lock => "lock",
    Spawn => "spawn",
});

display_words!(Resource {
    Descriptors => "descriptors",
    Memory => "memory or address space",
    FileLength => "file length",
    Threads => "threads",
});

display_words!(NotAStoreReason {
    NotADirectory => "it is not a directory",
    Missing => "it does not exist",
    ForeignFiles => "it holds other files and no META",
    UnsafeFile => "a link or special file stands in place of one of its files",
    Backup => "it is a backup, or a restore that was interrupted; restore to an empty directory and open that",
    NoManifest => "it has no MANIFEST, so it is no backup or not a finished one",
});

display_words!(TransactionState {
    Active => "active",
    Committing => "being committed by another thread",
    Committed => "already committed",
    RolledBack => "already rolled back",
});

display_words!(PoisonCause {
    WriteFailed => "a write failed",
    SyncFailed => "a sync failed",
    ThreadPanicked => "one of its threads panicked",
    Removed => "its files were removed while it was open",
});

#[cfg(test)]
mod tests {
    use super::*;

    /// A refused access, a read-only volume and too many descriptors need different actions.
    #[test]
    fn message_ends_with_the_systems_own_words() {
        let errors = [
            (libc::EACCES, "Permission denied (os error 13)"),
            (libc::EROFS, "Read-only file system (os error 30)"),
            (libc::ENOSPC, "No space left on device (os error 28)"),
            (libc::EMFILE, "Too many open files (os error 24)"),
        ];
        for (errno, words) in errors {
            let error = Error::io(IoOp::Open, "s", io::Error::from_raw_os_error(errno));
            let out_of = if errno == libc::EMFILE { ", out of descriptors" } else { "" };
            assert_eq!(error.to_string(), format!("open failed on s{out_of}: {words}"));
            let source = std::error::Error::source(&error).expect("a source");
            assert_eq!(source.to_string(), words, "programs that print the chain know it");
        }
    }

    #[test]
    fn no_space_says_whose_limit_that_is() {
        let over = io::Error::new(io::ErrorKind::QuotaExceeded, OverQuota { max: 9 });
        let cases = [
            (io::Error::from_raw_os_error(libc::ENOSPC), SpaceLimit::Disk),
            (io::Error::from_raw_os_error(libc::EDQUOT), SpaceLimit::UserQuota),
            (over, SpaceLimit::MaxBytes(9)),
        ];
        for (source, expected) in cases {
            let error = Error::space(IoOp::Write, Path::new("s"), 4096, source);
            let Error::StorageFull { needed: 4096, limit, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(*limit, expected);
            assert!(error.to_string().contains(&expected.to_string()), "{error}");
        }
    }
}
