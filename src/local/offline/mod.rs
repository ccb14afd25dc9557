//! Work on a store that no session writes to, and copies of one that a session does.
//!
//! Owns [`verify`], [`salvage`], [`repair`] and [`backup`].

pub(crate) mod repair;
pub(crate) mod restore;
pub(crate) mod salvage;
pub(crate) mod verify;
