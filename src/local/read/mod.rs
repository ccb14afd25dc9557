//! Reading: segments as readers and scanners see them.
//!
//! Owns the views of segment files ([`segment`]), how they are mapped or copied ([`mapping`]), the
//! bytes that were written last ([`recent`]), and the scanner that reads a segment front to back
//! ([`scan`]).

pub(crate) mod backup;
pub(crate) mod copy;
pub(crate) mod mapping;
pub(crate) mod recent;
pub(crate) mod scan;
pub(crate) mod segment;
