//! The versions of each block, in commit order, as far as the history tells it.
//!
//! Owns [`Versions`]: for every id its versions, for every value its write, and the place of every
//! commit. A commit whose LSN is known only within bounds is *placed* if the bounds leave one LSN
//! that no other commit has. If they leave more, its versions keep bounds. Every answer here is
//! then one that some place within the bounds allows, so no finding is owed to a bound.

use std::collections::{BTreeMap, HashMap};

use super::{Anomaly, Bounds, Finding, History, Operation, Outcome, Record};

/// A version of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    /// Where its commit is.
    pub(super) place: Bounds,
    /// `None` for a deletion, and before the first write.
    pub(super) value: Option<u64>,
    /// `None` before the first write.
    pub(super) writer: Option<usize>,
    /// Whether it surely changed the block: a deletion of a missing block does not.
    pub(super) is_change: bool,
    /// The last LSN at which it may be the newest.
    last: u64,
    /// The largest `last` of this and all earlier versions.
    last_so_far: u64,
}

/// A write of the history.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write {
    pub(super) id: u64,
    pub(super) writer: usize,
    /// Whether no later operation of its transaction replaced it.
    pub(super) is_last: bool,
}

/// An operation's view of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Value(u64),
    Present,
    Absent,
}

impl Seen {
    pub(super) fn matches(self, value: Option<u64>) -> bool {
        match self {
            Seen::Value(seen) => value == Some(seen),
            Seen::Present => value.is_some(),
            Seen::Absent => value.is_none(),
        }
    }
}

/// LSNs as disjoint spans, ascending.
pub(super) type Spans = Vec<Bounds>;

/// All versions of a history.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// The blocks that a transaction wrote or deleted, committed or not.
    pub(super) ids: Vec<u64>,
    pub(super) by_id: HashMap<u64, Vec<Version>>,
    /// Where each commit is.
    pub(super) commits: HashMap<usize, Bounds>,
    pub(super) writes: HashMap<u64, Write>,
    /// Commits that keep bounds.
    pub(super) unplaced: usize,
}

impl Versions {
    pub(super) fn new(history: &History, findings: &mut Vec<Finding>) -> Versions {
        let (commits, unplaced) = places(history, findings);
        let mut versions = Versions { commits, unplaced, ..Versions::default() };
        for (index, record) in history.transactions.iter().enumerate() {
            let last = last_operations(record);
            for operation in &record.operations {
                if let Operation::Write { id, value } = *operation {
                    let is_last = last.get(&id) == Some(&Some(value));
                    versions.writes.insert(value, Write { id, writer: index, is_last });
                }
            }
            for (id, value) in last {
                let before = || vec![nothing(Bounds { from: 0, to: history.base })];
                let list = versions.by_id.entry(id).or_insert_with(before);
                if let Some(place) = versions.commits.get(&index) {
                    list.push(Version { value, writer: Some(index), ..nothing(*place) });
                }
            }
        }
        versions.by_id.values_mut().for_each(|list| put_in_order(list));
        versions.ids = versions.by_id.keys().copied().collect();
        versions.ids.sort_unstable();
        versions
    }

    /// The LSNs within bounds at which a snapshot may see this of a block.
    pub(super) fn allowed(&self, id: u64, seen: Seen, within: Bounds) -> Spans {
        let Some(list) = self.by_id.get(&id) else {
            return if seen == Seen::Absent { vec![within] } else { Spans::new() };
        };
        let mut spans = Spans::new();
        let end = list.partition_point(|version| version.place.from <= within.to);
        for version in list[..end].iter().rev() {
            if version.last_so_far < within.from {
                break;
            }
            let from = version.place.from.max(within.from);
            let to = version.last.min(within.to);
            if seen.matches(version.value) && from <= to {
                spans.push(Bounds { from, to });
            }
        }
        merge(spans)
    }

    /// The versions of a block that are surely later than an LSN, in order.
    pub(super) fn after(&self, id: u64, lsn: u64) -> &[Version] {
        let list = self.by_id.get(&id).map_or(&[][..], Vec::as_slice);
        &list[list.partition_point(|version| version.place.from <= lsn)..]
    }

    /// The version of a block that is the newest at an LSN, and those before it.
    pub(super) fn until(&self, id: u64, lsn: u64) -> &[Version] {
        let list = self.by_id.get(&id).map_or(&[][..], Vec::as_slice);
        &list[..list.partition_point(|version| version.place.from <= lsn)]
    }
}

/// The LSNs that are in both.
pub(super) fn intersect(a: &[Bounds], b: &[Bounds]) -> Spans {
    let (mut i, mut j, mut both) = (0, 0, Spans::new());
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let span = Bounds { from: x.from.max(y.from), to: x.to.min(y.to) };
        if span.from <= span.to {
            both.push(span);
        }
        if x.to < y.to { i += 1 } else { j += 1 }
    }
    both
}

/// The last operation on each block: the value, or `None` for a deletion.
pub(super) fn last_operations(record: &Record) -> BTreeMap<u64, Option<u64>> {
    let mut last = BTreeMap::new();
    for operation in &record.operations {
        match operation {
            Operation::Write { id, value } => drop(last.insert(*id, Some(*value))),
            Operation::Delete { id } => drop(last.insert(*id, None)),
            Operation::Read { .. } | Operation::Range { .. } => {}
        }
    }
    last
}

/// No block, as before the first write.
fn nothing(place: Bounds) -> Version {
    Version { place, value: None, writer: None, is_change: false, last: 0, last_so_far: 0 }
}

/// Sorts the versions of a block and says until when each may be the newest: until one that is
/// surely later is surely there.
fn put_in_order(list: &mut [Version]) {
    list.sort_by_key(|version| (version.place.from, version.place.to));
    let mut so_far = 0;
    for at in 0..list.len() {
        let mut next = u64::MAX;
        for later in &list[at + 1..] {
            if later.place.from >= next {
                break;
            }
            if later.place.from > list[at].place.to {
                next = next.min(later.place.to);
            }
        }
        list[at].last = if next == u64::MAX { u64::MAX } else { next - 1 };
        let before = at.checked_sub(1).map(|before| list[before]);
        let was_there =
            |before: Version| before.value.is_some() && before.place.to < list[at].place.from;
        list[at].is_change = list[at].value.is_some() || before.is_some_and(was_there);
        so_far = so_far.max(list[at].last);
        list[at].last_so_far = so_far;
    }
}

/// Where each commit is. Bounds shrink to the LSNs that no placed commit has, until none shrinks.
fn places(history: &History, findings: &mut Vec<Finding>) -> (HashMap<usize, Bounds>, usize) {
    let (mut places, mut open) = (HashMap::new(), Vec::new());
    let mut taken = HashMap::new();
    let mut shared = |transactions| {
        findings.push(Finding { anomaly: Anomaly::SharedLsn, transactions, id: None });
    };
    for (index, record) in history.transactions.iter().enumerate() {
        let Outcome::Committed(place) = record.outcome else { continue };
        if place.from < place.to {
            open.push((index, place));
        } else if let Some(other) = taken.insert(place.from, index) {
            shared(vec![index, other]);
        }
        places.insert(index, place);
    }
    open.sort_by_key(|(_, place)| place.to - place.from);
    loop {
        let before = open.len();
        open.retain_mut(|(index, place)| {
            while place.from < place.to && taken.contains_key(&place.from) {
                place.from += 1;
            }
            while place.from < place.to && taken.contains_key(&place.to) {
                place.to -= 1;
            }
            places.insert(*index, *place);
            if place.from < place.to {
                return true;
            }
            if let Some(other) = taken.insert(place.from, *index) {
                shared(vec![*index, other]);
            }
            false
        });
        if open.len() == before {
            break;
        }
    }
    (places, open.len())
}

fn merge(mut spans: Spans) -> Spans {
    spans.sort_unstable_by_key(|span| span.from);
    let mut merged: Spans = Spans::new();
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.from <= last.to.saturating_add(1) => last.to = last.to.max(span.to),
            _ => merged.push(span),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, from: u64, to: u64) -> Record {
        Record {
            isolation: None,
            begun: 0,
            committing: 0,
            ended: 0,
            snapshot: Bounds { from: 0, to: 0 },
            operations: vec![Operation::Write { id: 1, value }],
            outcome: Outcome::Committed(Bounds { from, to }),
        }
    }

    fn spans(versions: &Versions, seen: Seen) -> Vec<(u64, u64)> {
        let all = Bounds { from: 0, to: 100 };
        versions.allowed(1, seen, all).iter().map(|span| (span.from, span.to)).collect()
    }

    #[test]
    fn commit_between_known_ones_is_placed() {
        let transactions = vec![write(1, 1, 1), write(2, 1, 3), write(3, 3, 3), write(4, 2, 5)];
        let mut findings = Vec::new();
        let versions = Versions::new(&History { base: 0, transactions }, &mut findings);
        assert_eq!(spans(&versions, Seen::Absent), [(0, 0)]);
        assert_eq!(spans(&versions, Seen::Value(2)), [(2, 2)]);
        assert_eq!(spans(&versions, Seen::Value(3)), [(3, 4)]);
        assert_eq!(spans(&versions, Seen::Present), [(1, 100)]);
        assert_eq!((versions.unplaced, findings.len()), (1, 0));
    }

    #[test]
    fn commit_without_a_place_of_its_own_is_named() {
        let transactions = vec![write(1, 1, 1), write(2, 2, 2), write(3, 1, 2)];
        let mut findings = Vec::new();
        Versions::new(&History { base: 0, transactions }, &mut findings);
        let named: Vec<Anomaly> = findings.iter().map(|finding| finding.anomaly).collect();
        assert_eq!(named, [Anomaly::SharedLsn]);
    }

    #[test]
    fn versions_of_unknown_order_allow_each_other() {
        let transactions = vec![write(1, 1, 2), write(2, 1, 2), write(3, 5, 5)];
        let versions = Versions::new(&History { base: 0, transactions }, &mut Vec::new());
        assert_eq!(spans(&versions, Seen::Value(1)), [(1, 4)]);
        assert_eq!(spans(&versions, Seen::Value(2)), [(1, 4)]);
        assert_eq!(spans(&versions, Seen::Absent), [(0, 1)]);
        assert_eq!(versions.unplaced, 2);
    }

    #[test]
    fn intersection_keeps_what_both_have() {
        let bounds = |from, to| Bounds { from, to };
        let (a, b) = ([bounds(1, 3), bounds(5, 9)], [bounds(3, 5), bounds(8, 20)]);
        assert_eq!(intersect(&a, &b), [bounds(3, 3), bounds(5, 5), bounds(8, 9)]);
    }
}
