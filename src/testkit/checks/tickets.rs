//! Tickets: commits that are submitted and waited for later, and their durability.

use std::sync::mpsc;
use std::time::Duration;

use crate::block::Lsn;
use crate::durability::Durability;
use crate::error::Error;
use crate::testkit::subject::{Subject, ok, refused};
use crate::ticket::CommitTicket;

/// Hands in a commit of one write.
fn submit(s: &Subject<'_>, id: u64, data: &'static str) -> Option<CommitTicket> {
    let tx = s.begin();
    tx.put(id, data);
    match s.store().submit_transaction(tx.id, None) {
        Err(Error::Unsupported { operation }) => {
            s.note_unsupported("submit_transaction", operation);
            tx.rollback();
            None
        }
        answer => {
            let ticket = ok(answer, "submit_transaction");
            tx.handed_in();
            Some(ticket)
        }
    }
}

pub(in crate::testkit) fn ticket_answers_when_its_commit_is_visible(s: &mut Subject<'_>) {
    let Some(first) = submit(s, 1, "first") else { return };
    let lsn = ok(first.wait(), "wait");
    s.holds(1, "first");
    assert!(lsn.is_none_or(|lsn| lsn == s.stats().visible_lsn), "the lsn of the newest commit");
    let Some(second) = submit(s, 2, "second") else { return };
    let answer = second.wait_timeout(Duration::from_secs(300)).expect("no answer in 5 minutes");
    let lsn = ok(answer, "wait_timeout");
    s.holds(2, "second");
    let again = ok(second.try_wait().expect("it was answered"), "try_wait");
    assert_eq!((again, second.lsn()), (lsn, lsn), "a ticket's lsn never changes");
    ok(second.wait(), "wait after wait_timeout");
    assert_eq!(s.stats().open_transactions, 0);
}

pub(in crate::testkit) fn tickets_of_one_thread_keep_their_order(s: &mut Subject<'_>) {
    let mut tickets = Vec::new();
    for id in 1..=50 {
        let Some(ticket) = submit(s, id, "in flight") else { return };
        tickets.push(ticket);
    }
    let lsns: Vec<Option<Lsn>> = tickets.into_iter().map(|t| ok(t.wait(), "wait")).collect();
    let told: Vec<Lsn> = lsns.into_iter().flatten().collect();
    assert!(told.is_sorted_by(|a, b| a < b), "commits of one thread in another order: {told:?}");
}

pub(in crate::testkit) fn ticket_of_a_lost_commit_says_conflict(s: &mut Subject<'_>) {
    s.put(1, "old");
    let tx = s.begin();
    tx.put(1, "lost");
    tx.put(2, "lost");
    s.put(1, "winner's");
    let answer = s.store().submit_transaction(tx.id, None).and_then(CommitTicket::wait);
    tx.ended();
    if let Err(Error::Unsupported { operation }) = answer {
        return s.note_unsupported("submit_transaction", operation);
    }
    refused!(answer, Error::Conflict { .. });
    s.holds(1, "winner's");
    s.lacks(2);
}

pub(in crate::testkit) fn dropped_ticket_does_not_lose_its_commit(s: &mut Subject<'_>) {
    let Some(ticket) = submit(s, 1, "no waiter") else { return };
    drop(ticket);
    ok(s.store().sync(), "sync");
    s.holds(1, "no waiter");
}

pub(in crate::testkit) fn callback_is_called_once(s: &mut Subject<'_>) {
    let Some(ticket) = submit(s, 1, "called back") else { return };
    let (sender, receiver) = mpsc::channel();
    ticket.on_durable(move |result| drop(sender.send(result)));
    let answer = receiver.recv_timeout(Duration::from_secs(300)).expect("no call in 5 minutes");
    ok(answer, "the commit of a callback");
    s.holds(1, "called back");
    assert!(receiver.recv().is_err(), "called twice");
}

pub(in crate::testkit) fn sync_to_makes_a_commit_durable(s: &mut Subject<'_>) {
    for id in 1..=3 {
        s.put(id, "block");
        let visible = s.stats().visible_lsn;
        let Some(()) = s.offered(s.store().sync_to(visible), "sync_to") else { return };
        assert!(s.stats().durable_lsn >= visible, "sync_to left the commit behind");
        ok(s.store().sync_to(visible), "sync_to of what is durable");
        let future = Lsn(visible.0 + 1);
        refused!(s.store().sync_to(future), Error::InvalidArgument { .. });
    }
}

pub(in crate::testkit) fn commit_may_ask_for_durability_itself(s: &mut Subject<'_>) {
    let tx = s.begin();
    tx.put(1, "durable");
    let answer = s.store().submit_transaction(tx.id, Some(Durability::Durable));
    match answer.and_then(CommitTicket::wait) {
        Err(Error::Unsupported { operation }) => {
            s.note_unsupported("submit_transaction", operation);
            tx.rollback();
            return;
        }
        answer => drop(ok(answer, "a durable commit")),
    }
    tx.handed_in();
    let stats = s.stats();
    assert!(
        stats.durable_lsn >= stats.visible_lsn,
        "acknowledged before it was durable: {stats:?}"
    );
}
