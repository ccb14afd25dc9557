//! Histories written by hand, each with one thing wrong with it, and the names it must be given.
//!
//! Owns the builder, in which LSNs are time: a transaction begins just after its snapshot and ends
//! just after its commit. Blocks are `X` and `Y`; the value 10 is in `X`, 20 in `Y`, from LSN 1.

use std::collections::BTreeSet;

use adya::Valid;
use aegis_blocks::IsolationLevel::{self, ReadCommitted, Serializable, Snapshot};
use aegis_blocks::testkit::history::Anomaly::{self, *};
use aegis_blocks::testkit::history::{Bounds, GARBAGE, History, Operation, Outcome, Record, check};

use crate::black_box::{Question, judge};

const X: u64 = 1;
const Y: u64 = 2;
/// Nothing is here at first; ranges go up to it.
const Z: u64 = 3;

fn read(id: u64, seen: u64) -> Operation {
    Operation::Read { id, seen: Some(seen) }
}

fn nothing(id: u64) -> Operation {
    Operation::Read { id, seen: None }
}

fn list(seen: &[u64]) -> Operation {
    Operation::Range { first: X, last: Z, seen: seen.to_vec() }
}

fn write(id: u64, value: u64) -> Operation {
    Operation::Write { id, value }
}

fn delete(id: u64) -> Operation {
    Operation::Delete { id }
}

/// A transaction with a snapshot; rolled back, unless said otherwise.
fn tx(isolation: IsolationLevel, snapshot: u64, operations: &[Operation]) -> Record {
    Record {
        isolation: Some(isolation),
        begun: 10 * snapshot + 1,
        committing: u64::MAX,
        ended: 10 * snapshot + 9,
        snapshot: Bounds { from: snapshot, to: snapshot },
        operations: operations.to_vec(),
        outcome: Outcome::RolledBack,
    }
}

trait Ends {
    fn commits(self, lsn: u64) -> Record;
    fn only_reads(self) -> Record;
    fn ends_at(self, lsn: u64) -> Record;
}

impl Ends for Record {
    fn commits(self, lsn: u64) -> Record {
        let outcome = Outcome::Committed(Bounds { from: lsn, to: lsn });
        Record { committing: 10 * lsn - 5, ended: 10 * lsn, outcome, ..self }
    }

    fn only_reads(self) -> Record {
        Record { committing: self.ended - 1, outcome: Outcome::ReadOnly, ..self }
    }

    fn ends_at(self, lsn: u64) -> Record {
        Record { ended: 10 * lsn + 9, ..self }
    }
}

fn history(transactions: &[Record]) -> History {
    let first = tx(Snapshot, 0, &[write(X, 10), write(Y, 20)]).commits(1);
    History { base: 0, transactions: [&[first], transactions].concat() }
}

/// Asserts that a history is given these names and no others, and each with a transaction of its
/// own.
#[track_caller]
fn assert_named(transactions: &[Record], expected: &[Anomaly]) {
    let verdict = check(&history(transactions));
    let named: BTreeSet<Anomaly> = verdict.findings.iter().map(|found| found.anomaly).collect();
    assert_eq!(named, expected.iter().copied().collect(), "{verdict}");
    assert!(verdict.findings.iter().all(|found| !found.transactions.is_empty()), "{verdict}");
}

/// Asserts that the black box finds this as well.
#[track_caller]
fn assert_seen_without_lsns(transactions: &[Record], question: Question, kind: &str) {
    let (report, _) = judge(&history(transactions), &(X..Z), question);
    assert_eq!(report.valid, Valid::False, "{report:?}");
    assert!(report.anomaly_types.iter().any(|found| found == kind), "{:?}", report.anomaly_types);
}

#[test]
fn history_without_anomaly_is_clean() {
    assert_named(
        &[
            tx(Serializable, 1, &[read(X, 10), write(X, 11), read(X, 11), list(&[X, Y])])
                .commits(2),
            tx(Snapshot, 1, &[read(X, 10), read(Y, 20), read(X, 10)]).only_reads(),
            tx(Serializable, 2, &[list(&[X, Y]), delete(Y), write(Z, 30), list(&[X, Z])])
                .commits(3),
            tx(Snapshot, 3, &[nothing(Y), read(Z, 30), write(X, 12)]),
            tx(ReadCommitted, 3, &[read(X, 11), write(X, 13)]).commits(4),
        ],
        &[],
    );
}

#[test]
fn write_that_was_never_committed_is_an_aborted_read() {
    let all = [
        tx(Snapshot, 1, &[read(X, 10), write(X, 11)]),
        tx(Snapshot, 1, &[read(X, 11)]).only_reads(),
    ];
    assert_named(&all, &[AbortedRead]);
    assert_seen_without_lsns(&all, Question::SnapshotIsolation, "G1a");
}

#[test]
fn write_that_was_replaced_before_commit_is_an_intermediate_read() {
    let all = [
        tx(Snapshot, 1, &[read(X, 10), write(X, 11), write(X, 12)]).commits(2),
        tx(Snapshot, 2, &[read(X, 11)]).only_reads(),
    ];
    assert_named(&all, &[IntermediateRead]);
    assert_seen_without_lsns(&all, Question::SnapshotIsolation, "G1b");
}

#[test]
fn write_that_is_not_yet_committed_is_a_dirty_read() {
    for level in [ReadCommitted, Snapshot, Serializable] {
        assert_named(
            &[
                tx(level, 1, &[read(X, 11)]).only_reads(),
                tx(Snapshot, 1, &[write(X, 11)]).commits(5),
            ],
            &[DirtyRead],
        );
    }
}

#[test]
fn value_of_no_write_or_of_another_block_is_garbage() {
    assert_named(&[tx(Snapshot, 1, &[read(X, GARBAGE)]).only_reads()], &[Garbage]);
    assert_named(&[tx(Snapshot, 1, &[read(X, 20)]).only_reads()], &[Garbage]);
    assert_named(&[tx(Snapshot, 1, &[list(&[X, Y, Z])]).only_reads()], &[Garbage]);
}

#[test]
fn own_write_that_is_not_read_back_is_lost() {
    let all = [tx(Snapshot, 1, &[read(X, 10), write(X, 11), read(X, 10)]).commits(2)];
    assert_named(&all, &[OwnWriteLost]);
    assert_seen_without_lsns(&all, Question::SnapshotIsolation, "internal");
    assert_named(&[tx(ReadCommitted, 1, &[delete(X), list(&[X, Y])]).commits(2)], &[OwnWriteLost]);
    assert_named(
        &[tx(Serializable, 1, &[write(Z, 30), list(&[X, Y])]).commits(2)],
        &[OwnWriteLost],
    );
}

#[test]
fn block_read_with_two_values_is_a_non_repeatable_read() {
    let change = tx(Snapshot, 1, &[read(X, 10), write(X, 11)]).commits(2);
    let twice = |seen| tx(Snapshot, 1, &[read(X, 10), seen]).only_reads().ends_at(3);
    assert_named(&[change.clone(), twice(read(X, 11))], &[NonRepeatableRead]);
    assert_named(&[change.clone(), twice(nothing(X))], &[NonRepeatableRead]);
    let newest_each = Record { isolation: Some(ReadCommitted), ..twice(read(X, 11)) };
    let newest_each = Record { snapshot: Bounds { from: 1, to: 2 }, ..newest_each };
    assert_named(&[change, newest_each], &[]);
}

#[test]
fn blocks_read_as_of_two_moments_are_a_fractured_read() {
    let all = [
        tx(Snapshot, 1, &[read(X, 10), write(X, 11), read(Y, 20), write(Y, 21)]).commits(2),
        tx(Snapshot, 1, &[read(X, 10), read(Y, 21)]).only_reads().ends_at(2),
    ];
    assert_named(&all, &[FracturedRead]);
    assert_seen_without_lsns(&all, Question::SnapshotIsolation, "G-single-item");
}

#[test]
fn half_of_a_commit_without_a_known_place_is_a_fractured_read() {
    let both = tx(Snapshot, 1, &[write(X, 11), write(Y, 21)]).commits(4);
    let both = Record { outcome: Outcome::Committed(Bounds { from: 2, to: 4 }), ..both };
    let half = tx(Snapshot, 3, &[read(X, 11), read(Y, 20)]).only_reads().ends_at(4);
    assert_named(&[both.clone(), half], &[FracturedRead]);
    let neither = tx(Snapshot, 3, &[read(X, 10), read(Y, 20)]).only_reads();
    assert_named(&[both, neither], &[]);
}

#[test]
fn range_listed_as_of_another_moment_is_a_phantom_read() {
    let create = tx(Snapshot, 1, &[write(X, 11), write(Z, 30)]).commits(2);
    let reader = tx(Snapshot, 1, &[read(X, 10), list(&[X, Y, Z])]).only_reads().ends_at(2);
    assert_named(&[create, reader], &[PhantomRead]);
}

#[test]
fn snapshot_before_or_after_begin_is_named() {
    let change = tx(Snapshot, 1, &[read(X, 10), write(X, 11)]).commits(2);
    assert_named(&[change.clone(), tx(Snapshot, 2, &[read(X, 10)]).only_reads()], &[StaleRead]);
    let late = tx(Snapshot, 1, &[read(X, 11)]).only_reads().ends_at(3);
    assert_named(&[change.clone(), late], &[LateRead]);
    let single = tx(Snapshot, 2, &[read(X, 10)]).only_reads();
    assert_named(&[change.clone(), Record { isolation: None, ..single }], &[StaleRead]);
    let back = tx(ReadCommitted, 1, &[read(X, 11), read(Y, 20), read(X, 10)]).only_reads();
    let back = Record { snapshot: Bounds { from: 1, to: 2 }, ..back.ends_at(2) };
    assert_named(&[change, back], &[StaleRead]);
}

#[test]
fn second_committer_on_a_block_is_a_lost_update() {
    let update = |level, value| tx(level, 1, &[read(X, 10), write(X, value)]);
    let all = [update(Snapshot, 11).commits(2), update(Snapshot, 12).commits(3)];
    assert_named(&all, &[LostUpdate]);
    assert_seen_without_lsns(&all, Question::SnapshotIsolation, "lost-update");
    let blind = [tx(Snapshot, 1, &[write(X, 11)]), tx(Snapshot, 1, &[delete(X)])];
    assert_named(&[blind[0].clone().commits(2), blind[1].clone().commits(3)], &[LostUpdate]);
    assert_named(&[update(Snapshot, 11).commits(2), update(ReadCommitted, 12).commits(3)], &[]);
}

#[test]
fn deleting_nothing_is_no_change_but_coming_and_going_is() {
    let never_there = tx(Snapshot, 1, &[write(Z, 30), delete(Z)]).commits(2);
    let create = |lsn| tx(Snapshot, 1, &[write(Z, 31)]).commits(lsn);
    assert_named(&[never_there, create(3)], &[]);
    let came = tx(Snapshot, 1, &[write(Z, 30)]).commits(2);
    let went = tx(Snapshot, 2, &[delete(Z)]).commits(3);
    assert_named(&[came, went, create(4)], &[LostUpdate]);
}

/// Each reads both blocks and writes one.
fn write_skew(level: IsolationLevel) -> [Record; 2] {
    [
        tx(level, 1, &[read(X, 10), read(Y, 20), write(X, 11)]).commits(2),
        tx(level, 1, &[read(X, 10), read(Y, 20), write(Y, 21)]).commits(3),
    ]
}

#[test]
fn write_skew_is_named_between_serializable_transactions_only() {
    assert_named(&write_skew(Serializable), &[WriteSkew]);
    assert_seen_without_lsns(&write_skew(Serializable), Question::StrictSerializability, "G2-item");
    assert_named(&write_skew(Snapshot), &[]);
    let cycle = &check(&history(&write_skew(Serializable))).findings[0];
    assert_eq!(cycle.transactions.len(), 2, "{cycle}");
}

#[test]
fn write_skew_over_three_transactions_is_named() {
    let zero = tx(Snapshot, 1, &[write(Z, 30)]).commits(2);
    let turn = |seen, own| tx(Serializable, 2, &[seen, own]);
    assert_named(
        &[
            zero,
            turn(read(X, 10), write(Y, 21)).commits(3),
            turn(read(Y, 20), write(Z, 31)).commits(4),
            turn(read(Z, 30), write(X, 11)).commits(5),
        ],
        &[WriteSkew],
    );
}

#[test]
fn phantoms_of_each_other_are_a_range_skew() {
    let count = |own| tx(Serializable, 1, &[list(&[X, Y]), own]);
    let other = Operation::Range { first: 4, last: 9, seen: Vec::new() };
    let insert = tx(Serializable, 1, &[other, write(Z, 30)]).commits(2);
    assert_named(&[insert, count(write(5, 50)).commits(3)], &[RangeSkew]);
    assert_named(&[count(delete(X)).commits(2), count(delete(Y)).commits(3)], &[RangeSkew]);
}

/// Fekete, O'Neil and O'Neil: a report sees the deposit and not the withdrawal that came before it.
fn read_only_anomaly(with_report: bool) -> Vec<Record> {
    let deposit = tx(Serializable, 1, &[read(Y, 20), write(Y, 21)]).commits(2);
    let report = tx(Serializable, 2, &[read(X, 10), read(Y, 21)]).only_reads();
    let withdraw = tx(Serializable, 1, &[read(X, 10), read(Y, 20), write(X, 11)]).commits(3);
    let report = with_report.then_some(report);
    [Some(deposit), report, Some(withdraw)].into_iter().flatten().collect()
}

#[test]
fn read_only_anomaly_is_named_where_the_report_is_part_of_it() {
    assert_named(&read_only_anomaly(true), &[ReadOnlyAnomaly]);
    assert_seen_without_lsns(&read_only_anomaly(true), Question::StrictSerializability, "G2-item");
    // Without the report there is a serial order, but it is not commit order.
    assert_named(&read_only_anomaly(false), &[UnvalidatedRead]);
}

#[test]
fn cycle_of_another_shape_is_named() {
    assert_named(
        &[
            tx(Snapshot, 1, &[write(X, 11), write(Y, 21)]).commits(2),
            tx(Serializable, 1, &[read(X, 10), write(Y, 22)]).commits(3),
        ],
        &[Cycle, LostUpdate],
    );
}

#[test]
fn two_commits_in_one_place_are_named() {
    let at_two = |id| tx(Snapshot, 1, &[write(id, 10 * id + 1)]).commits(2);
    assert_named(&[at_two(X), at_two(Y)], &[SharedLsn]);
}

#[test]
fn bounds_are_judged_in_favour_of_the_store() {
    let between = |record: Record, from, to| Record {
        outcome: Outcome::Committed(Bounds { from, to }),
        isolation: None,
        committing: record.begun,
        ..record.commits(to)
    };
    let single = between(tx(Snapshot, 1, &[write(X, 11)]), 2, 4);
    let elsewhere = between(tx(Snapshot, 1, &[write(Y, 21)]), 2, 4);
    let reader = |snapshot, seen| tx(Snapshot, snapshot, &[read(X, seen)]).only_reads();
    for seen in [10, 11] {
        assert_named(&[single.clone(), elsewhere.clone(), reader(2, seen)], &[]);
    }
    assert_named(&[single.clone(), elsewhere.clone(), reader(4, 10)], &[StaleRead]);
    // Once the other places are taken, the bounds are a place.
    let known = |lsn| tx(Snapshot, 1, &[write(Z, 30 + lsn)]).commits(lsn);
    let second = Record { snapshot: Bounds { from: 2, to: 2 }, ..known(4) };
    assert_named(&[single, known(2), second, reader(3, 10)], &[StaleRead]);
}
