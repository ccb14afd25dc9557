//! The engine of the local backend: how it reads a version and commits a batch.
//!
//! Owns [`Engine`] for [`LocalBackend`]. A version is a place in the log. Its bytes come from the
//! recent bytes or from the segment, and the checksum of each block is verified before it is
//! returned. Before it submits a batch, the caller reads the checkpoint pages that the batch needs.
//! Without other threads it also runs maintenance. On a full disk it reclaims space for deletes.

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
        // In a forked child, a slot may stay half made.
        let handles = self.handles.as_ref().filter(|_| inner.process().is_current())?;
        Some(handles.handle_of_thread(|| LocalBackend { inner: Arc::clone(inner), handles: None }))
    }

    fn fetch_block(&self, id: BlockId, version: &Location) -> Result<Option<Block>> {
        let data = match self.inner.shared.recent.find_payload(version) {
            Some(data) => Some(data),
            None => self
                .inner
                .views
                .payload_bytes(version)
                .map_err(|source| self.read_error(id, version, source))?,
        };
        // Its segment was released: the block was moved before that, or replaced.
        let Some(data) = data else { return Ok(None) };
        let block = Block { header: version.block_header(id), data };
        if !block.verify_checksum() {
            let place = self.inner.views.place_for_errors(id, version);
            return Err(Error::Corrupt { defect: Defect::PayloadChecksum, place });
        }
        Ok(Some(block))
    }

    fn submit_batch(&self, batch: Batch, durability: Option<Durability>) -> Result<CommitTicket> {
        debug_assert!(!self.inner.is_read_only, "a read-only session submits nothing");
        for (id, _) in &batch.operations {
            self.mvcc().index.check_base_readable(*id)?;
        }
        // In a callback, the commit lock may be held, and maintenance needs it.
        let may_wait = callback::may_wait();
        if self.inner.pool.is_none() && may_wait {
            // The store has no maintenance thread.
            let stalls = &self.inner.shared.stalls;
            let done = stalls.wait(StallCause::Upkeep, || self.inner.maintenance.run_due(false));
            unheard(done, "what fails here fails again where a caller asks for it");
        }
        if batch.takes_no_space() && may_wait && self.inner.space.reserve.should_reclaim() {
            let stalls = &self.inner.shared.stalls;
            let made = stalls.wait(StallCause::Full, || self.inner.maintenance.reclaim_space());
            unheard(made, "the commit may find space without it");
        }
        let log_len = frame_len(&batch.operations);
        let durable = durability.unwrap_or(self.inner.durability) == Durability::Durable;
        self.inner.submit_with_ticket(|tag| Submission { batch, durable, log_len, tag })
    }

    fn make_durable(&self) -> Result<()> {
        if self.inner.is_read_only {
            let is_durable = self.durable_lsn() >= self.mvcc().index.visible_lsn();
            return if is_durable { Ok(()) } else { Err(Error::ReadOnly) };
        }
        callback::check_may_wait()?;
        self.inner.submit_with_ticket(sync_request)?.wait().map(|_| ())
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

    fn ensure_commit_progress(&self) {
        self.inner.log.ensure_progress();
    }

    fn read_many(&self, ids: &[BlockId]) -> Result<Vec<Block>> {
        read_many::read_many(self, ids)
    }

    fn add_published_stats(&self, stats: &mut StorageStats) {
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
        stats.segments = self.inner.views.segment_count() as u64;
        stats.held_bytes = self.inner.views.held_by_readers_len();
    }
}

impl<D: Disk> LocalBackend<D> {
    /// The error for a payload that was not read. If the file ends before it, that is damage.
    fn read_error(&self, id: BlockId, version: &Location, source: std::io::Error) -> Error {
        match source.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                let place = self.inner.views.place_for_errors(id, version);
                Error::Corrupt { defect: Defect::Truncated, place }
            }
            _ => Error::io(IoOp::Read, self.inner.disk.path(), source),
        }
    }
}
