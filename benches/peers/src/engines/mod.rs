//! One engine a file.

pub mod aegis;
pub mod bare;
pub mod canopy;
pub mod fjall;
pub mod grouped;
pub mod lmdb;
pub mod redb;
pub mod sqlite;
