//! Publication: from the end of a group's write to the answers of its callers.
//!
//! A published group is visible: its changes are in the index, its bytes are found by readers, and
//! its share of the budget is given back. Groups are published in LSN order.

use super::Log;
use crate::error::Error;
use crate::io::Disk;
use crate::local::commit::group::{Event, Submission};
use crate::local::commit::log_write::{Changes, LogWrite};
use crate::local::commit::unlocked_work::LogGroup;
use crate::local::format::location::Location;
use crate::sync::Ordering;
use crate::ticket::Reply;

impl<D: Disk> Log<D> {
    /// Puts a group in the index, and queues the answers to its callers.
    pub(super) fn publish_group(&mut self, mut group: LogGroup<D>) {
        let mut changes = Changes::default();
        if let Some(write) = &mut group.write {
            write.bytes.show_recent_bytes(&self.shared.recent);
            for (sequence, number, end) in write.bytes.segment_ends() {
                self.shared.usage.set_used_len(sequence, number, end);
            }
            changes = std::mem::take(&mut write.bytes.changes);
            self.appender.complete_write(&write.bytes, group.sync);
        }
        let (mvcc, usage) = (&self.shared.mvcc, &self.shared.usage);
        // A relocated block is still the newest: a later operation on it comes later in the group.
        for (id, lsn, place) in changes.moved {
            let moved = mvcc.index.relocate_newest((id, lsn, place), &changes.below, |old| {
                usage.count_replacement(Some(old), Some(&place));
            });
            assert!(moved, "a relocation was checked when it was given its place");
        }
        for (id, from, place) in changes.moved_old {
            // Its last snapshot may have ended since: then its bytes are dead at both places.
            mvcc.index.relocate_undo_version(id, from, place);
        }
        let mut freed_len = 0;
        let count = |old: Option<&Location>, new: Option<&Location>| {
            usage.count_replacement(old, new);
            freed_len += old.map_or(0, |old| u64::from(old.len));
        };
        // Not the core's durable LSN: a later group whose write has ended too is not visible yet.
        let durable = group.durable;
        debug_assert!(durable <= group.last_lsn, "no commit is durable that is not visible");
        debug_assert!(mvcc.index.visible_lsn() <= group.last_lsn, "groups are published in order");
        let user_commit_count = group.user_commit_count() as u64;
        let moment = mvcc.lock_moment();
        mvcc.publish_and_count(changes.changed, &changes.below, group.last_lsn, count);
        mvcc.counters.commits.add(user_commit_count);
        self.shared.durable.store(durable.0, Ordering::Release);
        self.shared.groups.fetch_add(u64::from(user_commit_count > 0), Ordering::Relaxed);
        drop(moment);
        let actions = self.core.handle_event(self.ended_at, Event::Published(group), &mvcc.index);
        if let Some(group) = actions.answer {
            let held_len = group.members.iter().map(|member| member.submission.log_len).sum();
            debug_assert!(held_len <= self.held_len, "released bytes were held");
            self.held_len -= held_len;
            self.shared.budget.release_bytes(held_len);
            self.published.push(group);
        }
        self.count_unseen_bytes(freed_len);
    }

    pub(super) fn refuse_submission(&mut self, refused: Submission<Reply>, error: Error) {
        debug_assert!(refused.log_len <= self.held_len, "released bytes were held");
        self.held_len -= refused.log_len;
        self.shared.budget.release_bytes(refused.log_len);
        let refusal = Err(error);
        self.shared.mvcc.end_transaction(refused.batch.transaction, &refusal);
        refused.tag.send(refusal);
    }

    /// Counts the bytes that commits of users have written. Relocations do not count: maintenance
    /// makes them, and would wake itself for ever.
    pub(super) fn count_user_bytes(&mut self, write: &LogWrite<D::File>) {
        let (shared, len) = (&self.shared, write.len());
        shared.user_len.fetch_add(len, Ordering::Relaxed);
        if let Some((sequence, ..)) = write.segment_ends().last() {
            shared.user_sequence.fetch_max(sequence, Ordering::Relaxed);
        }
        self.count_unseen_bytes(len);
    }

    /// Wakes maintenance after every `look_every` bytes that were written or became dead.
    fn count_unseen_bytes(&mut self, len: u64) {
        self.unseen_len += len;
        if self.unseen_len >= self.shared.look_every {
            self.unseen_len = 0;
            self.shared.wake_up.call();
        }
    }
}
