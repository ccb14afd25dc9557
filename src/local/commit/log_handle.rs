//! The log handle: how callers and maintenance reach the log.
//!
//! A caller submits its commit to the queue. With few callers it then tries the commit lock (see
//! [`commit_lock`]). If the lock is free, the caller leads: it forms groups, writes, syncs and
//! publishes them until its own commit is answered. With many callers workers do that: the log
//! flusher and I/O workers. The log flusher's own work is the durable mark after the last group,
//! and the sync interval.
//!
//! Owns submitting and its limits, and the closing. Does not know the steps of the log.

use std::sync::{Arc, Weak};

use crate::block::Lsn;
use crate::callback;
use crate::error::{Error, Result};
use crate::io::Disk;
use crate::io::pool::{Command, IoPool};
#[cfg(doc)]
use crate::local::commit::commit_lock;
use crate::local::commit::commit_lock::{CommitLock, LockedWork, run_whole_step};
use crate::local::commit::group::Submission;
use crate::local::commit::log::{Frozen, Log, LogEnd, Message};
use crate::local::commit::shared::Shared;
use crate::local::commit::workers::{CallHelper, WorkerOptions};
use crate::local::format::checkpoint::ImageName;
use crate::stats::StallCause;
use crate::sync::Ordering;
use crate::sync::channel::{Sender, TrySendError};
use crate::ticket::{Issuer, Reply, ticket};

/// The commit queue and the commit lock of a store.
pub(crate) struct LogHandle<D: Disk> {
    shared: Arc<Shared>,
    lock: CommitLock<Log<D>, Message>,
}

impl<D: Disk> LogHandle<D> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        queue: Sender<Message>,
        log: Log<D>,
        pool: Option<&Arc<IoPool>>,
    ) -> Arc<LogHandle<D>> {
        Arc::new_cyclic(|handle: &Weak<LogHandle<D>>| {
            let workers = pool.map(|pool| WorkerOptions {
                helper_count_max: helper_count_max(pool.worker_count()) as u64,
                call_helper: call_io_worker(handle, pool),
            });
            LogHandle { shared, lock: CommitLock::new(queue, log, workers) }
        })
    }

    /// Takes the commit's share of the budget, and puts the commit in the queue. A leader carries
    /// it out once its caller waits for it, or asks for progress.
    pub(crate) fn submit_commit(&self, submission: Submission<Reply>) {
        let (budget, lock) = (&self.shared.budget, &self.lock);
        let stalls = &self.shared.stalls;
        if !callback::may_wait() {
            // The thread that would give bytes back waits for this one.
            budget.take_over_limit(submission.log_len);
        } else if !lock.has_flusher() {
            // No other thread will give bytes back.
            while lock.queue.is_full() || !budget.take_if_free(submission.log_len) {
                stalls.wait(StallCause::InFlight, || lock.lead_until(|| false));
            }
        } else if !budget.take_if_free(submission.log_len) {
            let take = || budget.take_or_wait(submission.log_len, || lock.ensure_progress());
            stalls.wait(StallCause::InFlight, take);
        }
        self.send_to_queue(Message::Submit(submission));
    }

    /// Puts a message in the queue. A thread that fills the queue, or holds bytes that another one
    /// waits for, makes sure that a thread leads: those that wait for room do not.
    fn send_to_queue(&self, message: Message) {
        let (lock, stalls) = (&self.lock, &self.shared.stalls);
        // The queue lives as long as the log: the log empties a full queue, and answers when
        // closed.
        let sent = match lock.queue.try_send(message) {
            Err(TrySendError::Full(Message::Submit(refused))) if !callback::may_wait() => {
                return self.refuse_in_callback(refused);
            }
            Err(TrySendError::Full(message)) => {
                lock.ensure_progress();
                stalls.wait(StallCause::Queue, || lock.queue.send(message).is_ok())
            }
            sent => sent.is_ok(),
        };
        debug_assert!(sent, "the log outlives its callers");
        if lock.queue.is_full() || self.shared.budget.has_waiters() {
            lock.ensure_progress();
        }
    }

    /// Refuses a commit of a callback while the queue is full: it would wait for itself.
    fn refuse_in_callback(&self, refused: Submission<Reply>) {
        self.shared.budget.release_bytes(refused.log_len);
        let refusal = Err(Error::InCallback);
        self.shared.mvcc.end_transaction(refused.batch.transaction, &refusal);
        refused.tag.send(refusal);
    }

    /// Writes the end mark. From here on the log refuses everything.
    pub(crate) fn close_log(&self) -> Result<()> {
        let (reply, waiter) = ticket(None);
        self.send_to_queue(Message::Close(reply));
        loop {
            self.lock.lead_until(|| waiter.is_answered());
            if waiter.is_answered() || self.lock.has_flusher() {
                break;
            }
        }
        let closed = waiter.wait().map(|_| ());
        self.lock.stop_flusher();
        closed
    }

    /// The log flusher's loop, until the store is closed.
    pub(crate) fn run_flusher(&self) {
        self.lock.run_flusher();
    }

    /// Runs `body` on the log between two groups. Its time is a stall if a commit arrived
    /// meanwhile.
    fn lock_between_groups<R>(&self, body: impl FnOnce(&mut Log<D>) -> R) -> R {
        self.lock.lock_between_steps(|log| {
            let stalls = &self.shared.stalls;
            let (started, result) = (stalls.now(), body(log));
            if !self.lock.queue.is_empty() {
                stalls.note(StallCause::Upkeep, stalls.now().saturating_sub(started));
            }
            result
        })
    }

    /// Makes every commit so far durable, and then runs `attempt` between two groups. That ends:
    /// later commits queue behind the request to sync, and all is durable after the request's
    /// group.
    fn run_when_durable<R>(
        &self,
        mut attempt: impl FnMut(&mut Log<D>) -> Result<Option<R>>,
    ) -> Result<R> {
        self.lock_between_groups(|log| {
            log.submit_missing_sync();
            loop {
                self.shared.poison.check()?;
                if let Some(done) = attempt(log)? {
                    return Ok(done);
                }
                assert!(!log.is_idle(), "a commit that is not durable is under way");
                run_whole_step(log);
            }
        })
    }

    /// Makes every commit so far durable and freezes the index (see [`Log::freeze_index`]).
    ///
    /// # Errors
    /// [`Error::Poisoned`]; nothing is frozen.
    pub(crate) fn freeze_index(&self) -> Result<Frozen> {
        self.run_when_durable(|log| Ok(log.freeze_index()))
    }

    /// Makes every commit so far durable and returns the end of the log (see
    /// [`Log::mark_log_end`]).
    ///
    /// # Errors
    /// As [`Log::mark_log_end`].
    pub(crate) fn quiesce_log(&self) -> Result<LogEnd> {
        self.run_when_durable(Log::mark_log_end)
    }

    /// Records in the log that the name of a checkpoint is durable.
    ///
    /// # Errors
    /// As [`Log::confirm_checkpoint`].
    pub(crate) fn confirm_checkpoint(&self, image: ImageName) -> Result<()> {
        self.lock_between_groups(|log| log.confirm_checkpoint(image))
    }

    /// Continues the log in the next segment.
    ///
    /// # Errors
    /// As [`Log::roll_to_next_segment`].
    pub(crate) fn roll_to_next_segment(&self) -> Result<()> {
        self.lock_between_groups(Log::roll_to_next_segment)
    }

    /// Runs `body` between two groups: nothing is written or published meanwhile.
    pub(crate) fn run_between_groups<R>(&self, body: impl FnOnce() -> R) -> R {
        self.lock_between_groups(|_| body())
    }
}

/// I/O workers that may serve commits at a time. One is left for zeros, for which commits may wait,
/// and for reads.
pub(crate) fn helper_count_max(io_worker_count: usize) -> usize {
    io_worker_count.saturating_sub(1)
}

/// Has an I/O worker serve commits.
fn call_io_worker<D: Disk>(handle: &Weak<LogHandle<D>>, pool: &Arc<IoPool>) -> CallHelper {
    let (handle, pool) = (Weak::clone(handle), Arc::downgrade(pool));
    Box::new(move || {
        let (Some(handle), Some(pool)) = (handle.upgrade(), pool.upgrade()) else { return false };
        let serve = Command::new("serve commits", move || handle.lock.serve_as_helper());
        pool.try_submit(serve).is_ok()
    })
}

impl<D: Disk> Issuer for LogHandle<D> {
    fn lead_until(&self, enough: &dyn Fn() -> bool) {
        self.lock.lead_until(enough);
    }

    fn announce_commit(&self) {
        self.lock.announce_commit();
    }

    fn ensure_progress(&self) {
        self.lock.ensure_progress();
    }

    fn durable(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Acquire))
    }

    fn explain(&self, error: Error) -> Error {
        match (error, self.shared.poison.cause()) {
            (Error::Closed, Some(cause)) => Error::Poisoned { cause },
            (error, _) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Block, BlockId, BlockType};
    use crate::io::sim::SimDisk;
    use crate::{LocalBackend, StorageBackend, StorageExt};

    fn block(id: u64, len: usize) -> Block {
        Block::new(BlockId(id), BlockType::TableData, vec![1; len])
    }

    #[test]
    fn delete_beside_a_write_that_conflicts_finds_space_on_a_full_disk() {
        let disk = SimDisk::new(1);
        let options = LocalBackend::options().single_threaded(true).segment_len_max(256 << 10);
        let options = options.block_len_max(32 << 10);
        let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
        for id in 1..=20 {
            store.write_block(block(id, 3900)).expect("writes");
        }
        let late = store.begin().expect("begins");
        late.write(block(2, 10)).expect("a pending write");
        store.write_block(block(2, 20)).expect("the other transaction conflicts with it");
        disk.set_capacity(Some(1 << 20));
        let full = (100..).find_map(|id| store.write_block(block(id, 3900)).err());
        assert!(matches!(full, Some(Error::StorageFull { .. })), "{full:?}");
        let delete = store.begin().expect("begins");
        delete.delete(BlockId(1)).expect("a pending delete");
        let tickets = [delete.submit().expect("submitted"), late.submit().expect("submitted")];
        store.inner.log.lock_between_groups(|log| {
            (0..10).for_each(|_| run_whole_step(log));
        });
        let [delete, late] = tickets.map(|ticket| ticket.is_answered().then(|| ticket.wait()));
        assert!(matches!(delete, Some(Ok(Some(_)))), "{delete:?}");
        assert!(matches!(late, Some(Err(Error::Conflict { .. }))), "{late:?}");
        assert!(!store.block_exists(BlockId(1)).expect("is looked for"));
    }
}
