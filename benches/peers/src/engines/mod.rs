//! One engine a file. Those of others come with the feature of their name.

pub mod aegis;
pub mod bare;
#[cfg(feature = "canopydb")]
pub mod canopy;
#[cfg(feature = "fjall")]
pub mod fjall;
#[cfg(any(feature = "lmdb", feature = "redb", feature = "sqlite"))]
pub mod grouped;
#[cfg(feature = "leveldb")]
pub mod leveldb;
#[cfg(feature = "lmdb")]
pub mod lmdb;
#[cfg(feature = "redb")]
pub mod redb;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "wiredtiger")]
pub mod wiredtiger;
