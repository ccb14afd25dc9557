//! Nothing that was acknowledged is lost on real file systems that lose their power, reorder
//! writes, run full, fail to sync or are mounted for reading only.
//!
//! Each test works in a mount namespace of its own, on loop devices over files in memory, and
//! leaves nothing behind. Where a machine lacks what a test needs (root, a program, a facility of
//! the kernel), the test says `skipped: why` on standard error. The defaults are a sample; how much
//! is tried:
//!
//! | variable        | counts                                        | default |
//! |-----------------|-----------------------------------------------|--------:|
//! | `AEGIS_CUTS`    | power cuts of each file system                |      10 |
//! | `AEGIS_IMAGES`  | crash images                                  |      40 |
//! | `AEGIS_THIN`    | volumes whose syncs fail                      |       4 |
//! | `AEGIS_FULL`    | times that a file system is full              |      10 |
//! | `AEGIS_TRACED`  | calls of each kind that fail, from the first  |       4 |

mod arena;
mod blocklog;
mod btrfs;
#[path = "../support/counted.rs"]
mod counted;
mod cuts;
#[path = "../support/files.rs"]
mod files;
#[path = "../support/fill.rs"]
mod fill;
mod full;
mod locked;
#[path = "../support/options.rs"]
mod options;
mod oracle;
mod reflinks;
mod refused;
mod reorder;
mod thin;
mod traced;
mod truncated;
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

#[test]
fn crash_image_of_any_subset_of_unflushed_writes_loses_no_acknowledged_commit() {
    in_arena(
        "crash_image_of_any_subset_of_unflushed_writes_loses_no_acknowledged_commit",
        |arena| reorder::crash_images(arena, number("AEGIS_IMAGES", 40)),
    );
}

#[test]
fn failed_system_calls_lose_no_acknowledged_commit() {
    in_arena("failed_system_calls_lose_no_acknowledged_commit", |arena| {
        traced::failed_calls(arena, number("AEGIS_TRACED", 4))
    });
}

#[test]
fn file_size_limit_cuts_writes_short_and_loses_no_acknowledged_commit() {
    in_arena("file_size_limit_cuts_writes_short_and_loses_no_acknowledged_commit", |arena| {
        traced::limited_files(arena, number("AEGIS_TRACED", 4) * 4)
    });
}

#[test]
fn read_only_file_system_is_named_and_nothing_is_lost() {
    in_arena("read_only_file_system_is_named_and_nothing_is_lost", locked::read_only);
}

#[test]
fn full_btrfs_refuses_writes_and_poisons_nothing() {
    in_arena("full_btrfs_refuses_writes_and_poisons_nothing", btrfs::full);
}

#[test]
fn store_on_btrfs_shares_its_bytes_with_its_backup() {
    in_arena("store_on_btrfs_shares_its_bytes_with_its_backup", btrfs::shared);
}

#[test]
fn backup_of_reflinks_takes_no_space_and_stays_what_it_was() {
    in_arena("backup_of_reflinks_takes_no_space_and_stays_what_it_was", reflinks::backups);
}

#[test]
fn backup_without_reflinks_is_a_copy() {
    in_arena("backup_without_reflinks_is_a_copy", reflinks::copies);
}

#[test]
fn what_a_file_system_refuses_of_wishes_costs_nothing() {
    in_arena("what_a_file_system_refuses_of_wishes_costs_nothing", refused::wishes);
}

#[test]
fn file_system_without_locks_or_syncs_is_refused_by_name() {
    in_arena("file_system_without_locks_or_syncs_is_refused_by_name", refused::needs);
}

#[test]
fn repair_without_an_exchange_of_names_leaves_both_stores() {
    in_arena("repair_without_an_exchange_of_names_leaves_both_stores", refused::exchange);
}

#[test]
fn file_system_that_tells_no_length_is_not_full() {
    in_arena("file_system_that_tells_no_length_is_not_full", refused::untold);
}

#[test]
fn store_of_a_whole_volume_is_salvaged_and_not_repaired() {
    in_arena("store_of_a_whole_volume_is_salvaged_and_not_repaired", refused::volume);
}
