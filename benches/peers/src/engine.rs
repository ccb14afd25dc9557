//! The engines compared: [`Engine`], one implementation a file below, and the list of all of them.
//!
//! Every engine runs with the strictest durability it offers: when [`Session::commit`] returns, the
//! writes would survive power loss. Everything else is as the engine comes. A session belongs to
//! one thread and is made on it (SQLite: one connection a thread).

use std::path::Path;

use bytes::Bytes;

use crate::engines::{self, aegis, bare};
use crate::failure::{Failure, Outcome};

/// One block to write.
#[derive(Debug, Clone)]
pub struct Write {
    /// The key.
    pub id: u64,
    /// The value.
    pub data: Bytes,
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// Committed and durable.
    Done,
    /// Another transaction came first; nothing was changed, try again.
    Conflict,
}

/// An open store.
pub trait Engine: Send + Sync {
    /// An engine's handle for one thread.
    fn session(&self) -> Outcome<Box<dyn Session + '_>>;

    /// Closes the store the clean way.
    fn close(self: Box<Self>) -> Outcome<()>;
}

/// One thread's way to a store.
pub trait Session {
    /// Writes all blocks as one transaction and returns when it is durable.
    fn commit(&mut self, writes: &[Write]) -> Outcome<()>;

    /// Shows the newest committed bytes of a block to `sink`; `false` when there is no such block.
    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool>;

    /// Moves one unit between two blocks' balances in one serializable, durable transaction. A
    /// block without balance keeps what it has: that is done, too.
    fn transfer(&mut self, from: u64, to: u64) -> Outcome<Transfer>;

    /// Begins a read transaction that pins a snapshot, and drops it.
    fn view(&mut self) -> Outcome<()>;
}

/// The balance that a block's first bytes hold.
pub fn balance(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |head| u64::from_le_bytes(*head))
}

/// The block with another balance.
pub fn with_balance(bytes: &[u8], balance: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[..8].copy_from_slice(&balance.to_le_bytes());
    bytes
}

/// The kind of an engine, which decides its workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A store: everything.
    Store,
    /// A store in another way of reading: reads.
    Reader,
    /// A store behind a group commit by hand: commits.
    Grouped,
    /// A store with space made before the clock starts, as `prewritten+group` has it: commits.
    Prepared,
    /// A log and nothing else: commits of new blocks.
    Bare,
}

/// Opens a store in a directory.
type Open = fn(&Path) -> Outcome<Box<dyn Engine>>;

/// Description of an engine in the tables.
#[derive(Clone, Copy)]
pub struct Kind {
    /// In tables and on the command line.
    pub name: &'static str,
    /// How commits are made durable.
    pub durability: &'static str,
    /// Checks of a read.
    pub read_check: &'static str,
    /// Its kind.
    pub role: Role,
    /// How [`Session::transfer`] is isolated; `None` where it is not offered.
    pub transfers: Option<&'static str>,
    open: Open,
}

impl Kind {
    /// The engine of this name.
    pub fn named(name: &str) -> Outcome<Kind> {
        let control = std::iter::once(&CONTROL);
        let kind = KINDS.iter().chain(control).find(|kind| kind.name == name);
        kind.copied().ok_or_else(|| match ABSENT.iter().find(|absent| absent.name == name) {
            Some(Absent { name, needs }) => Failure::Absent { name, needs },
            None => Failure::Unknown { name: name.into() },
        })
    }

    /// Opens a store in a directory that exists.
    pub fn open(&self, dir: &Path) -> Outcome<Box<dyn Engine>> {
        (self.open)(dir)
    }
}

const fn bare_kind(name: &'static str, durability: &'static str, open: Open) -> Kind {
    Kind { name, durability, read_check: "-", role: Role::Bare, transfers: None, open }
}

const fn reader_kind(
    name: &'static str,
    durability: &'static str,
    read_check: &'static str,
    open: Open,
) -> Kind {
    Kind { name, durability, read_check, role: Role::Reader, transfers: None, open }
}

#[cfg(any(feature = "lmdb", feature = "redb", feature = "sqlite"))]
const fn grouped_kind(name: &'static str, durability: &'static str, open: Open) -> Kind {
    Kind { name, durability, read_check: "-", role: Role::Grouped, transfers: None, open }
}

/// Checks of our reads, in each way of reading.
const CHECKED: &str = "CRC-32C on every read";

/// All engines, in the order of the tables.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "aegis-blocks",
        durability: "default (`Durable`): write past the page cache, `fdatasync` a group",
        read_check: CHECKED,
        role: Role::Store,
        transfers: Some("optimistic, serializable"),
        open: aegis::open,
    },
    Kind {
        name: "aegis-prepared",
        durability: "as aegis-blocks, into space prepared before",
        read_check: CHECKED,
        role: Role::Prepared,
        transfers: None,
        open: aegis::open_prepared,
    },
    reader_kind("aegis-copied", "as aegis-blocks", CHECKED, aegis::open_copied),
    reader_kind("aegis-pread", "as aegis-blocks", CHECKED, aegis::open_pread),
    #[cfg(feature = "redb")]
    Kind {
        name: "redb",
        durability: "`Durability::Immediate`",
        read_check: "none",
        role: Role::Store,
        transfers: Some("one writer at a time"),
        open: engines::redb::open,
    },
    #[cfg(feature = "fjall")]
    Kind {
        name: "fjall",
        durability: "batch with `PersistMode::SyncAll`",
        read_check: "XXH3 of a block of the table when it is loaded; memtable: none",
        role: Role::Store,
        transfers: Some("optimistic, serializable"),
        open: engines::fjall::open,
    },
    #[cfg(feature = "lmdb")]
    Kind {
        name: "lmdb",
        durability: "default: `fdatasync`, then the meta page with `O_DSYNC`",
        read_check: "none; lent until the transaction ends",
        role: Role::Store,
        transfers: Some("one writer at a time"),
        open: engines::lmdb::open,
    },
    #[cfg(feature = "lmdb")]
    reader_kind(
        "lmdb-copied",
        "as lmdb",
        "none; copied for the caller",
        engines::lmdb::open_copied,
    ),
    #[cfg(feature = "sqlite")]
    Kind {
        name: "sqlite",
        durability: "WAL, `synchronous=FULL`, a connection a thread",
        read_check: "none (checksums in the WAL only)",
        role: Role::Store,
        transfers: Some("`BEGIN IMMEDIATE`"),
        open: engines::sqlite::open,
    },
    #[cfg(feature = "canopydb")]
    Kind {
        name: "canopydb",
        durability: "write-ahead log, `commit_with(sync)`, exclusive transactions",
        read_check: "none (page checksums are off by default)",
        role: Role::Store,
        transfers: Some("one writer at a time"),
        open: engines::canopy::open_exclusive,
    },
    #[cfg(feature = "canopydb")]
    Kind {
        name: "canopydb-occ",
        durability: "as canopydb, concurrent transactions",
        read_check: "none (page checksums are off by default)",
        role: Role::Store,
        transfers: Some("optimistic, snapshot (no write skew here: all that is read is written)"),
        open: engines::canopy::open_concurrent,
    },
    #[cfg(feature = "rocksdb")]
    Kind {
        name: "rocksdb",
        durability: "`WriteOptions::set_sync(true)`, write-ahead log",
        read_check: "XXH3 of a block of the table when it is loaded; memtable: none",
        role: Role::Store,
        transfers: Some("optimistic, serializable (all that is read is read for update)"),
        open: engines::rocksdb::open,
    },
    #[cfg(feature = "leveldb")]
    Kind {
        name: "leveldb",
        durability: "`WriteOptions::sync`, write-ahead log",
        read_check: "CRC-32C of a block of the table whenever a read takes it from the file; \
                     memtable: none; copied for the caller",
        role: Role::Store,
        transfers: None,
        open: engines::leveldb::open,
    },
    #[cfg(feature = "wiredtiger")]
    Kind {
        name: "wiredtiger",
        durability: "log, `transaction_sync=(enabled=true,method=fsync)`",
        read_check: "CRC-32C of a page when it is loaded; lent until the cursor moves",
        role: Role::Store,
        transfers: Some("optimistic, snapshot (no write skew here: all that is read is written)"),
        open: engines::wiredtiger::open,
    },
    #[cfg(feature = "lmdb")]
    grouped_kind(
        "lmdb+group",
        "lmdb, a writer thread batches callers",
        engines::grouped::open_lmdb,
    ),
    #[cfg(feature = "redb")]
    grouped_kind(
        "redb+group",
        "redb, a writer thread batches callers",
        engines::grouped::open_redb,
    ),
    #[cfg(feature = "sqlite")]
    grouped_kind(
        "sqlite+group",
        "sqlite, a writer thread batches callers",
        engines::grouped::open_sqlite,
    ),
    bare_kind("append", "bare: each thread appends and calls `fdatasync`", bare::open_each),
    bare_kind("append+group", "bare: leader/follower, growing file", bare::open_group),
    bare_kind(
        "prewritten+group",
        "bare: leader/follower, `O_DIRECT` into space written before",
        bare::open_direct,
    ),
];

/// An engine that this program was built without.
pub struct Absent {
    /// The name that it would have in the tables.
    pub name: &'static str,
    /// What a build with it needs.
    pub needs: &'static str,
}

/// All engines that are not built in, in the order of the tables.
pub const ABSENT: &[Absent] = &[
    #[cfg(not(feature = "redb"))]
    Absent { name: "redb", needs: "the feature `redb`" },
    #[cfg(not(feature = "fjall"))]
    Absent { name: "fjall", needs: "the feature `fjall`" },
    #[cfg(not(feature = "lmdb"))]
    Absent { name: "lmdb", needs: "the feature `lmdb`" },
    #[cfg(not(feature = "sqlite"))]
    Absent { name: "sqlite", needs: "the feature `sqlite`" },
    #[cfg(not(feature = "canopydb"))]
    Absent { name: "canopydb", needs: "the feature `canopydb`" },
    #[cfg(not(feature = "rocksdb"))]
    Absent { name: "rocksdb", needs: "the feature `rocksdb`, librocksdb-dev and libclang" },
    #[cfg(not(feature = "leveldb"))]
    Absent { name: "leveldb", needs: "the feature `leveldb` and libleveldb-dev" },
    #[cfg(not(feature = "wiredtiger"))]
    Absent {
        name: "wiredtiger",
        needs: "the feature `wiredtiger`, what scripts/wiredtiger builds, and libclang",
    },
];

/// Never syncs. The check of syncs must refuse it, or it checks nothing.
pub const CONTROL: Kind = bare_kind("control", "none", bare::open_control);
