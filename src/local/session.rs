//! The open store that all handles share, and how it ends.
//!
//! Owns the handles of the threads and the lock, until [`OpenStore::shut_down`] has joined the
//! threads.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use crate::backend::Durability;
use crate::callback;
use crate::error::{Error, Result};
use crate::io::pool::IoPool;
use crate::io::{Disk, Thread};
use crate::local::commit::group::Submission;
use crate::local::commit::log_handle::LogHandle;
use crate::local::commit::shared::Shared;
use crate::local::maintenance::Maintenance;
use crate::local::read::segment::Views;
use crate::local::recovery::RecoveryReport;
use crate::local::space::Space;
use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::ticket::{CommitTicket, Issuer, Reply, ticket};
use crate::unheard::unheard;

/// One open store.
pub(crate) struct OpenStore<D: Disk> {
    pub(crate) disk: Arc<D>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) views: Arc<Views>,
    pub(crate) space: Arc<Space<D>>,
    pub(crate) pool: Option<Arc<IoPool>>,
    pub(crate) log: Arc<LogHandle<D>>,
    pub(crate) maintenance: Arc<Maintenance<D>>,
    pub(crate) durability: Durability,
    pub(crate) is_read_only: bool,
    pub(crate) report: RecoveryReport,
    pub(crate) closed: AtomicBool,
    /// The store's threads and its lock, until it is closed.
    pub(crate) session: Mutex<Option<Session<D>>>,
}

/// The threads and the lock that [`OpenStore::shut_down`] ends.
pub(crate) struct Session<D: Disk> {
    pub(crate) log_flusher: Option<Thread>,
    pub(crate) maintenance_thread: Option<Thread>,
    /// Dropped by hand after the end of all threads. If they do not end, the store stays locked
    /// until the process ends.
    pub(crate) lock: ManuallyDrop<D::Lock>,
}

impl<D: Disk> OpenStore<D> {
    /// Submits to the commit queue and returns a ticket.
    pub(crate) fn submit_with_ticket(
        &self,
        make: impl FnOnce(Reply) -> Submission<Reply>,
    ) -> Result<CommitTicket> {
        self.shared.poison.check()?;
        let log: Arc<dyn Issuer> = Arc::<LogHandle<D>>::clone(&self.log);
        let (reply, ticket) = ticket(Some(log));
        self.log.submit_commit(make(reply));
        Ok(ticket)
    }

    /// Ends the session. Releases the lock last: until then, threads of the store may change its
    /// files.
    pub(crate) fn shut_down(&self) -> Result<()> {
        assert!(callback::may_close(), "a close does not wait for its own thread");
        self.closed.store(true, Ordering::SeqCst);
        let Some(session) = self.session.lock().take() else { return Err(Error::Closed) };
        let Session { log_flusher, maintenance_thread, lock } = session;
        let ended = match self.is_read_only {
            true => self.end_reading(),
            false => self.end_threads(log_flusher, maintenance_thread),
        };
        drop(ManuallyDrop::into_inner(lock));
        ended
    }

    /// Makes everything durable and ends all threads of the store.
    fn end_threads(
        &self,
        log_flusher: Option<Thread>,
        maintenance_thread: Option<Thread>,
    ) -> Result<()> {
        self.shared.wake_up.stop();
        let maintenance_ended_well = maintenance_thread.is_none_or(Thread::join);
        let covered = self.maintenance.end_session();
        let closed = self.log.close_log().map_err(|error| self.log.explain(error));
        let ended_well = log_flusher.is_none_or(Thread::join) && maintenance_ended_well;
        self.space.stop_worker();
        let trimmed = if closed.is_ok() { self.space.cut_unused_ahead() } else { Ok(()) };
        if let Some(pool) = &self.pool {
            pool.close();
        }
        debug_assert!(ended_well, "a panic of the log ends no thread");
        closed.and(trimmed).and(covered)
    }

    /// Ends a read-only session.
    fn end_reading(&self) -> Result<()> {
        self.maintenance.end_reading();
        if let Some(pool) = &self.pool {
            pool.close();
        }
        Ok(())
    }

    /// Closes the store on a new thread, because closing waits for the current one.
    fn shut_down_elsewhere(&mut self) {
        *self.closed.get_mut() = true;
        let heir = ManuallyDrop::new(OpenStore {
            disk: Arc::clone(&self.disk),
            shared: Arc::clone(&self.shared),
            views: Arc::clone(&self.views),
            space: Arc::clone(&self.space),
            pool: self.pool.clone(),
            log: Arc::clone(&self.log),
            maintenance: Arc::clone(&self.maintenance),
            durability: self.durability,
            is_read_only: self.is_read_only,
            report: self.report,
            closed: AtomicBool::new(false),
            session: Mutex::new(self.session.lock().take()),
        });
        let body = Box::new(move || drop(ManuallyDrop::into_inner(heir)));
        let spawned = self.disk.spawn("aegis-close".to_string(), body);
        unheard(spawned, "without that thread the store is locked until the process ends");
    }
}

impl<D: Disk> Drop for OpenStore<D> {
    fn drop(&mut self) {
        if *self.closed.get_mut() {
            return;
        }
        if !callback::may_close() {
            self.shut_down_elsewhere();
        } else {
            unheard(self.shut_down(), "no caller is left, and what was acknowledged is durable");
        }
    }
}
