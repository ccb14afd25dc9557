use std::sync::mpsc::{TryRecvError, channel};

use super::*;
use crate::block::{Block, BlockType, Lsn};
use crate::mvcc::batch::Precondition;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

fn turns() -> Turns {
    Turns::new(Process::current())
}

fn ids(ids: &[u64]) -> TurnClaim {
    let ids = ids.iter().map(|id| BlockId(*id)).collect();
    TurnClaim::Blocks(Reads { ids, ..Reads::default() })
}

fn write(id: u64) -> Batch {
    Batch::of_single_write(Block::empty(BlockId(id), BlockType::TableData))
}

/// Lets other threads run until the state is so.
fn until(turns: &Turns, is_so: impl Fn(&TurnState) -> bool) {
    while !is_so(&turns.state.lock()) {
        std::thread::yield_now();
    }
}

fn has_held(state: &TurnState) -> bool {
    state.turn.as_ref().is_some_and(|turn| turn.has_held)
}

#[test]
fn claim_holds_blocks_ranges_or_everything_and_no_moves() {
    let mut reads = Reads::default();
    reads.ids.insert(BlockId(5));
    reads.add_range(BlockId(10), BlockId(19));
    let operations = vec![(BlockId(7), Operation::Delete)];
    let batch = Batch {
        reads: Some(Box::new(reads)),
        ..Batch::with_precondition(operations, Precondition::None)
    };
    let claim = TurnClaim::of_batch(&batch);
    let held: Vec<u64> = (0..30).filter(|id| claim.meets_batch(&write(*id))).collect();
    assert_eq!(held, [5, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    let block = Block::empty(BlockId(5), BlockType::TableData);
    let moved = Operation::Move { block, lsn: Lsn(1), from: 0, is_old: false };
    let moved = Batch::of_relocations(vec![(BlockId(5), moved)]);
    assert!(!claim.meets_batch(&moved) && !TurnClaim::Everything.meets_batch(&moved));
    assert!(
        TurnClaim::Everything.meets_batch(&write(99))
            && !TurnClaim::Everything.meets_batch(&Batch::without_operations())
    );
}

#[test]
fn commit_that_changes_what_a_turn_claims_waits_for_its_end_and_no_other_does() {
    let turns = turns();
    let _loser = turns.register_loser();
    let turn = turns.wait_for_turn(ids(&[5]), LONG).expect("no other turn is in the way");
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        let (turns, other) = (&turns, sender.clone());
        scope.spawn(move || {
            turns.wait_at_gate(&write(5));
            sender.send(5).expect("the test listens");
        });
        scope.spawn(move || {
            turns.wait_at_gate(&write(6));
            other.send(6).expect("the test listens");
        });
        assert_eq!(receiver.recv(), Ok(6));
        until(turns, has_held);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        drop(turn);
        assert_eq!(receiver.recv(), Ok(5));
    });
}

#[test]
fn commit_waits_for_one_turn_only() {
    let turns = turns();
    let _loser = turns.register_loser();
    let first =
        turns.wait_for_turn(TurnClaim::Everything, LONG).expect("no other turn is in the way");
    std::thread::scope(|scope| {
        let held = scope.spawn(|| turns.wait_at_gate(&write(5)));
        until(&turns, has_held);
        let mut state = turns.state.lock();
        turns.end_turn(&mut state, first.number);
        // The next one begins before the held thread has woken.
        let (number, started_at) = (state.turn_count + 1, now());
        let claim = TurnClaim::Everything;
        state.turn = Some(Current { number, claim, started_at, len_max: LONG, has_held: false });
        drop(state);
        held.join().expect("it goes on");
    });
    drop(first);
    assert!(turns.state.lock().turn.is_some(), "a turn that was over ends no other one");
}

#[test]
fn who_waits_as_long_as_a_turn_may_last_puts_it_out() {
    let turns = turns();
    let _loser = turns.register_loser();
    let short = Duration::from_millis(1);
    let turn = turns.wait_for_turn(ids(&[5]), short).expect("no other turn is in the way");
    assert!(turn.widen_after_loss(BlockId(5)), "it lasts");
    std::thread::scope(|scope| {
        scope.spawn(|| turns.wait_at_gate(&write(5))).join().expect("it goes on")
    });
    assert!(!turn.widen_after_loss(BlockId(5)), "it was put out");
    drop(turn);
    let turn = turns.wait_for_turn(ids(&[5]), short).expect("no other turn is in the way");
    std::thread::scope(|scope| {
        let next = scope.spawn(|| turns.wait_for_turn(ids(&[5]), LONG).is_some());
        assert!(next.join().expect("it goes on"), "the next one has had its turn");
    });
    assert!(!turn.widen_after_loss(BlockId(5)), "it was put out");
}

#[test]
fn turns_are_taken_in_the_order_of_coming_one_at_a_time() {
    let turns = turns();
    let turn =
        turns.wait_for_turn(TurnClaim::Everything, LONG).expect("no other turn is in the way");
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        for number in 0..5 {
            let (turns, sender) = (&turns, sender.clone());
            scope.spawn(move || {
                let turn = turns.wait_for_turn(ids(&[number]), LONG).expect("it is not in a turn");
                let own = turns.state.lock().turn.as_ref().map(|turn| turn.number);
                assert_eq!(own, Some(turn.number), "one at a time");
                sender.send(number).expect("the test listens");
            });
            until(turns, |state| state.queue.len() as u64 == number + 1);
        }
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        drop(turn);
        assert_eq!(receiver.iter().take(5).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    });
}

#[test]
fn thread_in_its_turn_does_not_wait() {
    let (turns, others) = (turns(), turns());
    let (_loser, _other) = (turns.register_loser(), others.register_loser());
    let turn =
        turns.wait_for_turn(TurnClaim::Everything, LONG).expect("no other turn is in the way");
    assert!(turns.wait_for_turn(TurnClaim::Everything, LONG).is_none());
    turns.wait_at_gate(&write(5));
    std::thread::scope(|scope| {
        let (sender, receiver) = channel::<()>();
        let others = &others;
        scope.spawn(move || {
            let turn = others.wait_for_turn(TurnClaim::Everything, LONG);
            assert!(receiver.recv().is_err(), "the test lets go");
            drop(turn);
        });
        until(others, |state| state.turn.is_some());
        others.wait_at_gate(&write(5));
        assert!(others.wait_for_turn(TurnClaim::Everything, LONG).is_none());
        drop(sender);
    });
    drop(turn);
    assert!(turns.wait_for_turn(TurnClaim::Everything, LONG).is_some());
}

#[test]
fn thread_that_must_not_wait_passes_and_has_no_turn() {
    let turns = turns();
    let _loser = turns.register_loser();
    let _turn = turns.wait_for_turn(TurnClaim::Everything, LONG);
    let called_back = || {
        let _duty = callback::begin(callback::Duty::Working);
        turns.wait_at_gate(&write(5));
        turns.wait_for_turn(TurnClaim::Everything, LONG).is_none()
    };
    std::thread::scope(|scope| assert!(scope.spawn(called_back).join().expect("it passes")));
}

#[test]
fn rest_after_a_turn_is_as_long_as_it_kept_others_waiting_warrants() {
    let turns = turns();
    for has_held in [false, true] {
        let turn = turns.wait_for_turn(ids(&[5]), LONG).expect("no other turn is in the way");
        let started_at = {
            let mut state = turns.state.lock();
            let turn = state.turn.as_mut().expect("it is on");
            turn.has_held = has_held;
            turn.started_at
        };
        let len = Duration::from_micros(100);
        until(&turns, |_| now() >= started_at + len);
        drop(turn);
        let rested_at = turns.state.lock().rested_at;
        assert_eq!(rested_at >= started_at + (REST + 1) * len, has_held);
        assert_eq!(rested_at == Duration::ZERO, !has_held);
    }
    let rested_at = turns.state.lock().rested_at;
    drop(turns.wait_for_turn(ids(&[5]), LONG).expect("no other turn is in the way"));
    assert!(now() >= rested_at, "the next turn waits for its end");
}

#[test]
fn loss_to_what_a_turn_does_not_claim_claims_everything() {
    let turns = turns();
    let turn = turns.wait_for_turn(ids(&[5]), LONG).expect("no other turn is in the way");
    let claims_all = || {
        let state = turns.state.lock();
        matches!(state.turn.as_ref().map(|turn| &turn.claim), Some(TurnClaim::Everything))
    };
    assert!(turn.widen_after_loss(BlockId(5)) && !claims_all());
    assert!(turn.widen_after_loss(BlockId(6)) && claims_all());
}

#[test]
fn commit_of_a_loser_leaves_its_claim_and_its_call_leaves_nothing() {
    let turns = turns();
    let of = |id, transaction| Batch { transaction: Some(TransactionId(transaction)), ..write(id) };
    turns.wait_at_gate(&of(1, 7));
    {
        let mut loser = turns.register_loser();
        loser.note_next_try(TransactionId(7));
        turns.wait_at_gate(&of(2, 8));
        turns.wait_at_gate(&of(3, 7));
        let claim = loser.take_claim();
        assert!(
            claim.covers_id(BlockId(3))
                && !claim.covers_id(BlockId(1))
                && !claim.covers_id(BlockId(2))
        );
        loser.note_next_try(TransactionId(9));
        assert!(!loser.take_claim().covers_id(BlockId(3)), "a try that did not come to its commit");
        loser.note_next_try(TransactionId(10));
        loser.note_next_try(TransactionId(11));
        assert_eq!(turns.state.lock().claims.len(), 1);
    }
    assert!(turns.state.lock().claims.is_empty());
    assert_eq!(turns.loser_count.load(Ordering::Relaxed), 0);
}
