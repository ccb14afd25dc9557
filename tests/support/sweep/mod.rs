//! Systematic trial of everything that can go wrong below a store.
//!
//! [`workload`] drives the store, [`oracle`] knows what it must show, [`tally`] decides how much is
//! tried. On these stand the sweeps: [`cuts`] of the power, [`faults`] of single operations, and
//! [`damage`] to files.

pub mod cuts;
pub mod damage;
pub mod faults;
pub mod oracle;
pub mod tally;
pub mod threads;
pub mod workload;
