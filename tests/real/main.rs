//! Nothing that was acknowledged is lost on real file systems that lose their power, run full, or fail
//! to sync: RELIABILITY in practice, as root, on loop devices and file systems in memory.
//!
//! Each test works in a mount namespace of its own and leaves nothing behind. Where a machine lacks
//! what a test needs, the test says `skipped: why` on standard error. The defaults are a sample;
//! `AEGIS_CUTS` sets the power cuts of each file system.

mod arena;
mod cuts;
mod full;
mod oracle;
mod thin;
mod volume;
mod workload;

use arena::{in_arena, number};
use volume::Kind;

#[test]
fn power_cut_on_ext4_loses_no_acknowledged_commit() {
    in_arena("power_cut_on_ext4_loses_no_acknowledged_commit", |arena| {
        cuts::power_cuts(arena, Kind::Ext4, 64 << 20, number("AEGIS_CUTS", 10))
    });
}

#[test]
fn power_cut_on_xfs_loses_no_acknowledged_commit() {
    in_arena("power_cut_on_xfs_loses_no_acknowledged_commit", |arena| {
        cuts::power_cuts(arena, Kind::Xfs, 320 << 20, number("AEGIS_CUTS", 10))
    });
}

#[test]
fn failed_sync_on_a_thin_volume_poisons_and_loses_nothing() {
    in_arena("failed_sync_on_a_thin_volume_poisons_and_loses_nothing", |arena| {
        thin::failed_syncs(arena, number("AEGIS_THIN", 4))
    });
}

#[test]
fn full_file_system_refuses_writes_and_heals_without_reopening() {
    in_arena("full_file_system_refuses_writes_and_heals_without_reopening", |arena| {
        full::full_file_systems(arena, number("AEGIS_FULL", 10))
    });
}
