//! The second opinion: the same histories, judged by `adya`, which sees values and outcomes, no
//! LSNs.
//!
//! Owns the translation. Of each history only the registers are shown: they are never deleted and
//! written only after they were read, so that their values chain into one order. Transactions that
//! saw none, and read committed ones (which write none), are left out. What is left of a correct
//! history is correct, at every level.

use std::ops::Range;

use adya::history::{Interner, Mop, Op, OpType, ReadValue, Scalar};
use adya::{Opts, Report, Valid, Workload, check};
use aegis_blocks::IsolationLevel;
use aegis_blocks::testkit::history::{History, Operation, Outcome, Record};

/// What the black box is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Are snapshot and serializable transactions, and single reads, on snapshots that are up to
    /// date?
    SnapshotIsolation,
    /// Are the serializable transactions, with single reads, as if one after the other, in real
    /// time?
    StrictSerializability,
}

/// Judges a history; returns the report and the number of committed transactions that were shown.
pub fn judge(history: &History, registers: &Range<u64>, question: Question) -> (Report, u64) {
    let (translated, shown) = translate(history, registers, question);
    let model = match question {
        Question::SnapshotIsolation => "strong-snapshot-isolation",
        Question::StrictSerializability => "strict-serializable",
    };
    let opts = Opts { models: vec![model.to_string()], wfr_keys: true, ..Opts::default() };
    (check(&translated, Workload::RwRegister, &opts), shown)
}

/// The same, for a history that must be right.
pub fn assert_right(history: &History, registers: &Range<u64>, question: Question) -> u64 {
    let (report, shown) = judge(history, registers, question);
    assert_eq!(report.valid, Valid::True, "{question:?}: {:#?}", report.anomalies);
    shown
}

fn translate(
    history: &History,
    registers: &Range<u64>,
    question: Question,
) -> (adya::History, u64) {
    let (mut interner, mut ops, mut shown) = (Interner::default(), Vec::new(), 0);
    let records = history.transactions.iter().enumerate();
    for (process, record) in records.filter(|(_, record)| is_shown(record, question)) {
        let operations = record.operations.iter().filter_map(|op| register_op(op, registers));
        let value: Vec<Mop> = operations.map(|(id, op)| mop(&mut interner, id, op)).collect();
        if value.is_empty() {
            continue;
        }
        let done = match record.outcome {
            Outcome::RolledBack => OpType::Fail,
            Outcome::Committed(_) | Outcome::ReadOnly => OpType::Ok,
        };
        shown += u64::from(done == OpType::Ok);
        let op = |index, kind, value| {
            (index, Op { index, kind, process: Some(process as i64), value, time: None })
        };
        ops.push(op(record.begun, OpType::Invoke, Vec::new()));
        ops.push(op(record.ended, done, value));
    }
    ops.sort_by_key(|(moment, _)| *moment);
    (adya::History::from_ops(ops.into_iter().map(|(_, op)| op).collect(), interner), shown)
}

fn is_shown(record: &Record, question: Question) -> bool {
    match record.isolation {
        None | Some(IsolationLevel::Serializable) => true,
        Some(IsolationLevel::Snapshot) => question == Question::SnapshotIsolation,
        _ => false,
    }
}

enum RegisterOp {
    Read(Option<u64>),
    Write(u64),
}

fn register_op(operation: &Operation, registers: &Range<u64>) -> Option<(u64, RegisterOp)> {
    let (id, op) = match *operation {
        Operation::Read { id, seen } => (id, RegisterOp::Read(seen)),
        Operation::Write { id, value } => (id, RegisterOp::Write(value)),
        Operation::Range { .. } | Operation::Delete { .. } => return None,
    };
    registers.contains(&id).then_some((id, op))
}

fn mop(interner: &mut Interner, id: u64, op: RegisterOp) -> Mop {
    let mut name = |number: u64| interner.intern(Scalar::Int(number as i64));
    let key = name(id);
    match op {
        RegisterOp::Write(value) => Mop::Write { key, value: name(value) },
        RegisterOp::Read(None) => Mop::Read { key, value: ReadValue::Nil },
        RegisterOp::Read(Some(value)) => Mop::Read { key, value: ReadValue::Scalar(name(value)) },
    }
}
