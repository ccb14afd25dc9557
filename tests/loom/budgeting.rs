//! The budget: a caller that waits for bytes is admitted, in any order with the threads that
//! release some. The callers never hold more than the budget.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use crate::Claim;
use crate::local::commit::budget::Budget;

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        name: "two_who_want_more_than_half_of_the_budget_take_turns",
        preemption_count_max: None,
        kernel: || takers([60, 60]),
    },
    Claim {
        name: "who_wants_all_of_the_budget_and_more_is_let_in_among_others",
        preemption_count_max: Some(2),
        kernel: || takers([60, 1000, 30]),
    },
    Claim {
        name: "who_waits_for_bytes_finds_what_was_handed_in_or_is_seen_waiting",
        preemption_count_max: None,
        kernel: waits_for_one_who_keeps,
    },
];

const LEN_MAX: u64 = 100;

/// Threads that each take so many bytes and release them. The first one is the main thread.
fn takers<const COUNT: usize>(lens: [u64; COUNT]) {
    let (budget, held) = (Arc::new(Budget::new(LEN_MAX)), Arc::new(AtomicU64::new(0)));
    let take = |len: u64| {
        let (budget, held) = (Arc::clone(&budget), Arc::clone(&held));
        move || {
            budget.take_or_wait(len, || {});
            let before = held.fetch_add(len, Ordering::SeqCst);
            assert!(before == 0 || before + len <= LEN_MAX, "{before} and {len}");
            held.fetch_sub(len, Ordering::SeqCst);
            budget.release_bytes(len);
        }
    };
    let others: Vec<_> = lens[1..].iter().map(|len| thread::spawn(take(*len))).collect();
    take(lens[0])();
    others.into_iter().for_each(|other| other.join().expect("it is let in"));
    assert!(budget.used_len() == 0 && !budget.has_waiters());
}

/// One thread takes all bytes, submits its commit and leaves. The other thread waits for the bytes.
/// One of the two sees the other.
fn waits_for_one_who_keeps() {
    let (budget, queue) = (Arc::new(Budget::new(LEN_MAX)), Arc::new(AtomicU64::new(0)));
    assert!(budget.take_if_free(LEN_MAX));
    let carry =
        |budget: &Budget, queue: &AtomicU64| budget.release_bytes(queue.swap(0, Ordering::SeqCst));
    let waiting = {
        let (budget, queue) = (Arc::clone(&budget), Arc::clone(&queue));
        thread::spawn(move || budget.take_or_wait(1, || carry(&budget, &queue)))
    };
    queue.swap(LEN_MAX, Ordering::SeqCst);
    if budget.has_waiters() {
        carry(&budget, &queue);
    }
    waiting.join().expect("it is let in");
    carry(&budget, &queue);
    assert_eq!(budget.used_len(), 1);
}
