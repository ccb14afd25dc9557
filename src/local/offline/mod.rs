//! Offline work: [`verify`], [`salvage`] and [`repair`] of a store that no session writes to, and
//! [`restore`] of a backup.

pub(crate) mod repair;
pub(crate) mod restore;
pub(crate) mod salvage;
pub(crate) mod verify;
