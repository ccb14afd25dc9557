//! What the memory and the local backend share: versions, snapshots, transactions, conflicts.
//!
//! | file           | owns                                                                     |
//! |----------------|--------------------------------------------------------------------------|
//! | `page`         | 64 neighbouring ids in a packed array                                    |
//! | `index`        | `BlockId` to its newest version, and older ones while somebody needs them |
//! | `version`      | what is known of a version                                               |
//! | `shard`        | the layers of one part of the index                                      |
//! | `pins`         | the visible LSN and the snapshots that are held                          |
//! | `transactions` | open transactions, and how the latest ones ended                         |
//! | `word`         | a transaction's id and phase in one word                                 |
//! | `entry`        | the shared state of one open transaction                                 |
//! | `pending`      | what one open transaction has done so far                                |
//! | `places`       | where a slot of threads has its open transactions; how the latest ended  |
//! | `permits`      | how many may be open, and who waits for one to end                       |
//! | `scan`         | pages of what a transaction sees of a range of ids                       |
//! | `batch`        | the operations of one transaction                                        |
//! | `ids`          | allocation of block ids                                                  |
//! | `unpublished`      | changes that have an LSN and are not published yet; conflict checks      |
//! | `counters`     | statistics                                                               |
//! | `turn`         | who goes first of those that lose again and again                        |
//! | `handles`      | what transactions keep their store open by                              |
//! | `state`        | all of these of one store, and the limits on them                        |
//! | `engine`       | the contract, written once over what a backend does its own way          |
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
