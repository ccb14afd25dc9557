//! Turns: one at a time. A thread that waits for a turn, or at the gate of one, goes on when it
//! ends.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use crate::Claim;
use crate::block::{Block, BlockId, BlockType};
use crate::mvcc::batch::Batch;
use crate::mvcc::turn::{TurnClaim as Claimed, Turns};
use crate::sync::Process;

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        name: "two_turns_and_a_commit_at_their_gate_come_to_an_end",
        preemption_count_max: None,
        kernel: || turns(2),
    },
    Claim {
        name: "three_turns_are_taken_one_at_a_time",
        preemption_count_max: Some(2),
        kernel: || turns(3),
    },
];

/// Threads that take a turn each, and the main thread, which commits. No wait ends by itself.
fn turns(count: u64) {
    let (turns, in_turn) = (Arc::new(Turns::new(Process)), Arc::new(AtomicU64::new(0)));
    let loser = |_| {
        let (turns, in_turn) = (Arc::clone(&turns), Arc::clone(&in_turn));
        thread::spawn(move || {
            let _loser = turns.register_loser();
            let turn = turns.wait_for_turn(Claimed::Everything, std::time::Duration::MAX);
            assert!(turn.is_some(), "it waits for its turn");
            assert_eq!(in_turn.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
            in_turn.fetch_sub(1, Ordering::SeqCst);
        })
    };
    let losers: Vec<_> = (1..count).map(loser).collect();
    if count < 3 {
        turns.wait_at_gate(&Batch::of_single_write(Block::empty(BlockId(1), BlockType::TableData)));
    }
    let last = turns.wait_for_turn(Claimed::Everything, std::time::Duration::MAX);
    assert_eq!(in_turn.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
    in_turn.fetch_sub(1, Ordering::SeqCst);
    drop(last);
    losers.into_iter().for_each(|loser| loser.join().expect("it has had its turn"));
}
