//! The parts that both backends share: versions, snapshots, transactions, conflicts.
//!
//! | file           | owns                                                                     |
//! |----------------|--------------------------------------------------------------------------|
//! | `page`         | 64 neighbouring ids in a packed array                                    |
//! | `index`        | `BlockId` to its newest version, and older ones while a snapshot sees them |
//! | `version`      | the properties of a version that do not depend on the backend            |
//! | `shard`        | the layers of one part of the index                                      |
//! | `pins`         | the visible LSN and the snapshots that are held                          |
//! | `transactions` | open transactions, and how the latest ones ended                         |
//! | `word`         | the state word: a transaction's id and phase                             |
//! | `entry`        | the transaction slot: the shared state of one open transaction           |
//! | `pending`      | the operations, reads and savepoints of one open transaction             |
//! | `slot_list`    | the places of a thread slot's open transactions; its latest outcomes     |
//! | `permits`      | how many may be open, and the callers that wait for one to end           |
//! | `scan`         | pages of the ids of a range that a transaction sees                      |
//! | `batch`        | the operations of one transaction                                        |
//! | `ids`          | allocation of block ids                                                  |
//! | `unpublished`  | changes that have an LSN and are not published yet; conflict checks      |
//! | `counters`     | statistics                                                               |
//! | `turn`         | the order among calls that lose again and again                          |
//! | `handles`      | handles by which transactions keep their store open                      |
//! | `state`        | all of these of one store, and the limits on them                        |
//! | `engine`       | the contract, written once over the backend's own parts                  |
//!
//! A version is generic: a block in memory, or the place of one in the log. Nothing here does I/O.

pub(crate) mod batch;
pub(crate) mod counters;
mod engine;
mod entry;
pub(crate) mod handles;
pub(crate) mod ids;
pub(crate) mod index;
mod page;
mod pending;
mod permits;
pub(crate) mod pins;
mod scan;
mod shard;
mod slot_list;
pub(crate) mod state;
pub(crate) mod transactions;
pub(crate) mod turn;
pub(crate) mod unpublished;
pub(crate) mod version;
mod word;

pub(crate) use engine::Engine;
pub(crate) use state::Mvcc;
