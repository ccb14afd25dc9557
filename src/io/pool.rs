//! I/O workers.
