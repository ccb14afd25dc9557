//! Probing: what opening a store would find.
//!
//! Runs recovery up to its decision, on an index that is dropped afterwards. So the answer is that
//! of an open. It costs the reads of an open: `META`, the checkpoint's header, and the log behind
//! it.

use std::sync::Arc;

use crate::block::Lsn;
use crate::error::{Defect, Error, Result};
use crate::io::{Disk, FileName, How};
use crate::local::format::PAGE;
use crate::local::format::place::{Damage, damage_of_error, damaged};
use crate::local::options::{ReadMode, ShownMax};
use crate::local::read::segment::{Views, show_segments};
use crate::local::recovery::identity::{lock_store_shared, read_description};
use crate::local::recovery::listing::list_store;
use crate::local::recovery::{Recovery, Replay};
use crate::local::space::SpaceOptions;
use crate::local::space::usage::Usage;
use crate::mvcc::Mvcc;
use crate::mvcc::state::Limits;

/// The state in which an open would find a store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probe {
    /// The store was closed; opening it cuts nothing off.
    Clean {
        /// Log bytes behind the checkpoint, which opening reads.
        replay_bytes: u64,
        /// The newest commit in the checkpoint; 0 without one.
        checkpoint_lsn: Lsn,
    },
    /// The store was not closed: opening it replays the log and cuts what was never acknowledged.
    Unclean {
        /// Log bytes behind the checkpoint, which opening reads.
        replay_bytes: u64,
        /// Bytes behind the last frame that were never acknowledged.
        torn_bytes: u64,
        /// The newest commit in the checkpoint; 0 without one.
        checkpoint_lsn: Lsn,
    },
    /// Acknowledged data is damaged. Opening the store fails with this damage, or succeeds without
    /// the damaged pages of the checkpoint
    /// ([`RecoveryReport::checkpoint_damaged`](crate::RecoveryReport::checkpoint_damaged)).
    Damaged(Damage),
}

/// Reports what an open would find; see [`Probe`].
pub(crate) fn probe_store<D: Disk>(disk: D) -> Result<Probe> {
    list_store(&disk, false)?;
    let _lock = lock_store_shared(&disk)?;
    let disk = Arc::new(disk);
    match examine_store(&disk) {
        Err(error @ Error::Corrupt { .. }) => damage_of_error(error).map(Probe::Damaged),
        examined => examined,
    }
}

fn examine_store<D: Disk>(disk: &Arc<D>) -> Result<Probe> {
    let listing = list_store(&**disk, false)?;
    if !listing.has_meta {
        return Err(damaged(FileName::Meta, 0, Defect::Meta));
    }
    let store = read_description(&**disk)?;
    // Nothing is written, so no limit matters.
    let mvcc = Mvcc::new(Limits {
        block_len_max: u32::MAX,
        transaction_len_max: u64::MAX,
        open_transactions_max: u64::MAX,
        snapshot_age_max: std::time::Duration::MAX,
        snapshot_pinned_max: u64::MAX,
    });
    let recovery = Recovery {
        disk: &**disk,
        store: &store,
        options: SpaceOptions { segment_len: PAGE, ahead_len_max: 0, how: How::Read },
        mvcc: &mvcc,
        views: &Views::new(ReadMode::Pread, ShownMax::default(), show_segments(disk)),
        usage: &Usage::default(),
        reserve: None,
        next_number: listing.next_number,
        on_progress: None,
        replay: Replay::default(),
    };
    let (report, damage) = recovery.examine_log(&listing)?;
    if let Some(damage) = damage {
        return Err(damage);
    }
    let (replay_bytes, checkpoint_lsn) = (report.bytes, report.checkpoint_lsn);
    Ok(match report.clean {
        true => Probe::Clean { replay_bytes, checkpoint_lsn },
        false => Probe::Unclean { replay_bytes, torn_bytes: report.torn_bytes, checkpoint_lsn },
    })
}
