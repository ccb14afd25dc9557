//! What the local backend does its own way: how a version becomes a block, and how a batch is committed.
//!
//! Owns [`Engine`] for [`LocalBackend`]. A version is a place in the log: its bytes come from the recent ones
//! or from the segment, and no block is handed out whose checksum was not verified. A batch goes to the
//! driver, after what only the caller's own thread may be kept waiting for: damage to the index where the
//! batch needs it, upkeep if nobody else sees to that, and room on a full disk for what frees space.

use std::sync::Arc;
use std::time::Duration;

use super::{LocalBackend, read_many};
use crate::backend::{Durability, StorageBackend, StorageStats};
use crate::block::{Block, BlockId, Lsn};
use crate::callback;
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, Env};
use crate::local::commit::append::frame_len;
use crate::local::commit::group::Submission;
use crate::local::commit::log::sync_request;
use crate::local::format::location::Location;
use crate::mvcc::batch::Batch;
use crate::mvcc::{Engine, Mvcc};
use crate::stats::StallCause;
use crate::sync::{Ordering, Process};
use crate::ticket::{CommitTicket, Issuer};
use crate::unheard::unheard;

#[expect(private_interfaces, reason = "the sealed trait's own types")]
impl<D: Disk> Engine for LocalBackend<D> {
    type Version = Location;

    fn mvcc(&self) -> &Mvcc<Location> {
        &self.inner.shared.mvcc
    }

    fn handle(&self) -> Option<Arc<dyn StorageBackend>> {
        let inner = &self.inner;
        // In a forked child a slot may be in the making for ever.
        let handles = self.handles.as_ref().filter(|_| inner.process().is_current())?;
        Some(handles.get(|| LocalBackend { inner: Arc::clone(inner), handles: None }))
    }

    fn fetch(&self, id: BlockId, version: &Location) -> Result<Option<Block>> {
        let data = match self.inner.shared.recent.get(version) {
            Some(data) => Some(data),
            None => self
                .inner
                .views
                .bytes(version)
                .map_err(|source| self.unreadable(id, version, source))?,
        };
        // Its segment is gone: the block was moved before that, or replaced.
        let Some(data) = data else { return Ok(None) };
        let block = Block { header: version.header(id), data };
        if !block.verify_checksum() {
            let place = self.inner.views.place(id, version);
            return Err(Error::Corrupt { defect: Defect::PayloadChecksum, place });
        }
        Ok(Some(block))
    }

    fn hand_in(&self, batch: Batch, durability: Option<Durability>) -> Result<CommitTicket> {
        debug_assert!(!self.inner.is_read_only, "a session that only reads has nothing to hand in");
        for (id, _) in &batch.operations {
            self.mvcc().index.touch(*id)?;
        }
        // In a callback the log is not to be had, and upkeep needs it.
        let may_wait = callback::may_wait();
        if self.inner.pool.is_none() && may_wait {
            // No other thread looks after the store.
            let stalls = &self.inner.shared.stalls;
            let done = stalls.wait(StallCause::Upkeep, || self.inner.maintenance.run_due(false));
            unheard(done, "what fails here fails again where a caller asks for it");
        }
        if batch.frees() && may_wait && self.inner.space.reserve.is_low() {
            let stalls = &self.inner.shared.stalls;
            let made = stalls.wait(StallCause::Full, || self.inner.maintenance.reclaim_space());
            unheard(made, "the commit may find space without it");
        }
        let log_len = frame_len(&batch.operations);
        let durable = durability.unwrap_or(self.inner.durability) == Durability::Durable;
        self.inner.issue(|tag| Submission { batch, durable, log_len, tag })
    }

    fn make_durable(&self) -> Result<()> {
        if self.inner.is_read_only {
            let is_durable = self.durable_lsn() >= self.mvcc().index.visible();
            return if is_durable { Ok(()) } else { Err(Error::ReadOnly) };
        }
        callback::check_may_wait()?;
        self.inner.issue(sync_request)?.wait().map(|_| ())
    }

    fn commits_may_wait(&self) -> bool {
        true
    }

    fn check_open(&self) -> Result<()> {
        self.inner.process().check()?;
        if self.inner.closed.load(Ordering::Relaxed) { Err(Error::Closed) } else { Ok(()) }
    }

    fn process(&self) -> &Process {
        self.inner.process()
    }

    fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.inner.is_read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    fn durable_lsn(&self) -> Lsn {
        Lsn(self.inner.shared.durable.load(Ordering::Acquire))
    }

    fn now(&self) -> Duration {
        self.inner.disk.recently()
    }

    fn help_along(&self) {
        self.inner.driver.nudge();
    }

    fn read_many(&self, ids: &[BlockId]) -> Result<Vec<Block>> {
        read_many::read_many(self, ids)
    }

    fn tell_published(&self, stats: &mut StorageStats) {
        stats.durable_lsn = self.durable_lsn();
        stats.groups = self.inner.shared.groups.load(Ordering::Relaxed);
    }

    fn add_stats(&self, stats: &mut StorageStats) {
        let shared = &self.inner.shared;
        stats.overlapped_groups = shared.overlapped.load(Ordering::Relaxed);
        stats.log_syncs = shared.syncs.load(Ordering::Relaxed);
        shared.phases.write_to_stats(stats);
        stats.log_bytes = shared.written_len.load(Ordering::Relaxed);
        stats.zeroed_bytes = self.inner.space.zeroed_len();
        stats.moved_bytes = self.inner.maintenance.moved_len();
        stats.checkpoint_bytes = self.inner.maintenance.checkpoint_len();
        stats.reserve_bytes = self.inner.space.reserve.len();
        stats.reserve_drawn_bytes = self.inner.space.reserve.drawn_len();
        stats.stalls = shared.stalls.all();
        stats.recent_bytes = self.inner.shared.recent.len();
        stats.in_flight_bytes = shared.budget.used_len();
        stats.memory_bytes = stats.index_bytes + stats.recent_bytes + stats.in_flight_bytes;
        stats.segments = self.inner.views.count() as u64;
        stats.held_bytes = self.inner.views.held_len();
    }
}

impl<D: Disk> LocalBackend<D> {
    /// Why a payload was not read. A file that ends before it is damage.
    fn unreadable(&self, id: BlockId, version: &Location, source: std::io::Error) -> Error {
        match source.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                let place = self.inner.views.place(id, version);
                Error::Corrupt { defect: Defect::Truncated, place }
            }
            _ => Error::io(IoOp::Read, self.inner.disk.path(), source),
        }
    }
}
