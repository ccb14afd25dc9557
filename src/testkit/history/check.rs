//! The white-box checker: isolation, judged by LSNs and values.
//!
//! Owns [`check`] and its [`Verdict`]. In this order, for every transaction, committed or not:
//!
//! 1. A transaction reads back its own writes. Each other value was written to that block by a
//!    transaction that committed (else `AbortedRead`). It was that one's last write of the block
//!    (`IntermediateRead`), and its commit had been called (`DirtyRead`).
//! 2. There is one LSN, within the bounds recorded, at which all that it saw was the newest. If
//!    there is none, the finding says why: `NonRepeatableRead`, `PhantomRead`, `FracturedRead` when
//!    there is none anywhere, `StaleRead` or `LateRead` when it is elsewhere. The bounds shrink to
//!    the LSNs that are left. At read committed, each read has an LSN of its own, and they never go
//!    back.
//! 3. First committer wins: no block that it wrote was changed by another commit between its
//!    snapshot and its own (`LostUpdate`), unless it was read committed. The delete of a missing
//!    block, such as a transaction's own new one, is no change.
//!
//! Then serializable transactions are held to commit order and searched for cycles
//! ([`cycles`](super::cycles)). Transactions that already broke 1 or 2 take no part in the later
//! rules. Of the crate, only the names of the isolation levels are used here.

use std::collections::BTreeMap;
use std::fmt;

use super::versions::{Seen, Spans, Version, Versions, intersect, last_operations};
use super::{Anomaly, Bounds, Finding, History, Operation, Outcome, Record, cycles};
use crate::transaction::IsolationLevel;

/// Findings in a report, at most: a broken store breaks most of its transactions.
pub const FINDING_COUNT_MAX: usize = 10_000;

/// Everywhere.
const ALL: Bounds = Bounds { from: 0, to: u64::MAX };

/// The findings of [`check`], and counts of the checked parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// All that is wrong, at most [`FINDING_COUNT_MAX`].
    pub findings: Vec<Finding>,
    /// Transactions judged, calls outside transactions included.
    pub transactions: u64,
    /// Those of them that committed something.
    pub commits: u64,
    /// Blocks read and ranges listed, own writes included.
    pub reads: u64,
    /// Reads that the transaction's own writes answered.
    pub own_reads: u64,
    /// Commits whose LSN is known only within bounds; reads of their writes get the benefit of
    /// doubt.
    pub unplaced: u64,
}

impl Verdict {
    /// Whether an anomaly is among the findings.
    pub fn has(&self, anomaly: Anomaly) -> bool {
        self.findings.iter().any(|finding| finding.anomaly == anomaly)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, all) = (self.findings.len(), self.transactions);
        write!(f, "{count} findings in {all} transactions")?;
        self.findings.iter().take(20).try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let versions = Versions::new(history, &mut verdict.findings);
    verdict.unplaced = versions.unplaced as u64;
    verdict.transactions = history.transactions.len() as u64;
    let mut judged = Vec::with_capacity(history.transactions.len());
    for (index, record) in history.transactions.iter().enumerate() {
        verdict.commits += u64::from(matches!(record.outcome, Outcome::Committed(_)));
        let reader = Reader::new(index, record, &versions, &mut verdict);
        let snapshot = reader.snapshot(history, &versions, &mut verdict.findings);
        if let Some(snapshot) = snapshot {
            verdict.findings.extend(lost_updates(index, record, snapshot, &versions));
        }
        judged.push(snapshot.map(|snapshot| Judged { snapshot, external: reader.external }));
    }
    cycles::search(history, &versions, &judged, &mut verdict.findings);
    verdict.findings.truncate(FINDING_COUNT_MAX);
    verdict
}

/// A transaction whose reads are in order.
pub(super) struct Judged {
    /// Where its snapshot is.
    pub(super) snapshot: Bounds,
    /// Its reads of other transactions' values.
    pub(super) external: Vec<Observation>,
}

/// One block as one operation saw it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observation {
    pub(super) id: u64,
    pub(super) seen: Seen,
    /// Seen by listing, not by reading.
    pub(super) by_range: bool,
}

/// The reads of one transaction.
struct Reader<'h> {
    index: usize,
    record: &'h Record,
    external: Vec<Observation>,
    /// Something of rule 1 was wrong.
    broken: bool,
}

impl<'h> Reader<'h> {
    /// Splits the reads of a transaction into those of its own writes, checked here, and the
    /// others.
    fn new(
        index: usize,
        record: &'h Record,
        versions: &Versions,
        verdict: &mut Verdict,
    ) -> Reader<'h> {
        let mut reader = Reader { index, record, external: Vec::new(), broken: false };
        let mut own: BTreeMap<u64, Option<u64>> = BTreeMap::new();
        for operation in &record.operations {
            match operation {
                Operation::Write { id, value } => drop(own.insert(*id, Some(*value))),
                Operation::Delete { id } => drop(own.insert(*id, None)),
                Operation::Read { id, seen } => {
                    verdict.reads += 1;
                    let seen = seen.map_or(Seen::Absent, Seen::Value);
                    reader.look(Observation { id: *id, seen, by_range: false }, &own, verdict);
                }
                Operation::Range { first, last, seen } => {
                    verdict.reads += 1;
                    let unknown = |id: &&u64| versions.ids.binary_search(id).is_err();
                    if let Some(id) = seen.iter().find(unknown) {
                        reader.broken(Anomaly::Garbage, None, *id, &mut verdict.findings);
                    }
                    let from = versions.ids.partition_point(|id| id < first);
                    for id in versions.ids[from..].iter().take_while(|id| *id <= last) {
                        let present = seen.contains(id);
                        let seen = if present { Seen::Present } else { Seen::Absent };
                        reader.look(Observation { id: *id, seen, by_range: true }, &own, verdict);
                    }
                }
            }
        }
        reader
    }

    fn look(&mut self, at: Observation, own: &BTreeMap<u64, Option<u64>>, verdict: &mut Verdict) {
        match own.get(&at.id) {
            Some(value) => {
                verdict.own_reads += 1;
                if !at.seen.matches(*value) {
                    self.broken(Anomaly::OwnWriteLost, None, at.id, &mut verdict.findings);
                }
            }
            None => self.external.push(at),
        }
    }

    /// The LSNs at which its snapshot may be; `None`, and a finding, if there are none.
    fn snapshot(
        &self,
        history: &History,
        versions: &Versions,
        findings: &mut Vec<Finding>,
    ) -> Option<Bounds> {
        let found = findings.len();
        for observation in &self.external {
            self.judge_value(*observation, history, versions, findings);
        }
        if self.broken || findings.len() > found {
            return None;
        }
        if self.record.isolation == Some(IsolationLevel::ReadCommitted) {
            return self.newest_each(versions, findings);
        }
        if let Some(torn) = self.torn(history, versions) {
            findings.push(torn);
            return None;
        }
        let spans = self.moments(versions, self.record.snapshot, |_| true);
        match (spans.first(), spans.last()) {
            (Some(first), Some(last)) => Some(Bounds { from: first.from, to: last.to }),
            // Without reads, contradicting bounds do no harm.
            _ if self.external.is_empty() => Some(self.record.snapshot),
            _ => {
                findings.push(self.explain(versions));
                None
            }
        }
    }

    /// Rule 1, for one value of another transaction.
    fn judge_value(
        &self,
        at: Observation,
        history: &History,
        versions: &Versions,
        findings: &mut Vec<Finding>,
    ) {
        let Seen::Value(value) = at.seen else { return };
        let Some(write) = versions.writes.get(&value).filter(|write| write.id == at.id) else {
            return findings.push(self.finding(Anomaly::Garbage, None, at.id));
        };
        let writer = &history.transactions[write.writer];
        let anomaly = if !writer.is_committed() {
            Anomaly::AbortedRead
        } else if !write.is_last {
            Anomaly::IntermediateRead
        } else if self.record.ended < writer.committing {
            Anomaly::DirtyRead
        } else {
            return;
        };
        findings.push(self.finding(anomaly, Some(write.writer), at.id));
    }

    /// A commit of which it saw a part and missed another. Where the commit's place is known that
    /// has no common moment; where it is not, each part alone has one.
    fn torn(&self, history: &History, versions: &Versions) -> Option<Finding> {
        for at in &self.external {
            let Some(writer) = writer_of(versions, at.seen) else { continue };
            let place = versions.commits.get(&writer)?;
            if place.from == place.to {
                continue;
            }
            let parts = last_operations(&history.transactions[writer]);
            let missed = self.external.iter().find(|other| {
                let surely_before = |version: &Version| version.place.to < place.from;
                let mut seen = versions.by_id.get(&other.id).into_iter().flatten();
                parts.contains_key(&other.id)
                    && seen.all(|v| !other.seen.matches(v.value) || surely_before(v))
            });
            if let Some(other) = missed {
                return Some(self.finding(Anomaly::FracturedRead, Some(writer), other.id));
            }
        }
        None
    }

    /// The LSNs within bounds at which a version that it read was the newest.
    fn moments(
        &self,
        versions: &Versions,
        within: Bounds,
        which: impl Fn(&Observation) -> bool,
    ) -> Spans {
        let mut spans = if within.from <= within.to { vec![within] } else { Spans::new() };
        for at in self.external.iter().filter(|at| which(at)) {
            spans = intersect(&spans, &versions.allowed(at.id, at.seen, within));
            if spans.is_empty() {
                break;
            }
        }
        spans
    }

    /// Names the anomaly of reads that have no common moment within the bounds.
    fn explain(&self, versions: &Versions) -> Finding {
        if let Some((id, writer)) = self.changed_its_mind(versions) {
            return self.finding(Anomaly::NonRepeatableRead, writer, id);
        }
        let everywhere = self.moments(versions, ALL, |_| true);
        let blocks_only = |at: &Observation| !at.by_range;
        let (culprit, writer) = self.culprit(versions, everywhere.is_empty());
        let anomaly = match everywhere.first() {
            Some(first) if first.from > self.record.snapshot.to => Anomaly::LateRead,
            Some(_) => Anomaly::StaleRead,
            None if self.moments(versions, ALL, blocks_only).is_empty() => Anomaly::FracturedRead,
            None => Anomaly::PhantomRead,
        };
        self.finding(anomaly, writer, culprit)
    }

    /// A block that was seen in two ways that exclude each other.
    fn changed_its_mind(&self, versions: &Versions) -> Option<(u64, Option<usize>)> {
        let mut first: BTreeMap<u64, Seen> = BTreeMap::new();
        for at in &self.external {
            let before = *first.entry(at.id).or_insert(at.seen);
            let fits = match (before, at.seen) {
                (Seen::Present, Seen::Value(_)) | (Seen::Value(_), Seen::Present) => true,
                (before, now) => before == now,
            };
            if !fits {
                return Some((at.id, writer_of(versions, at.seen)));
            }
        }
        None
    }

    /// The block at which the last common moment is lost, and the writer of the version read there.
    fn culprit(&self, versions: &Versions, everywhere: bool) -> (u64, Option<usize>) {
        let within = if everywhere { ALL } else { self.record.snapshot };
        let mut spans = vec![within];
        for at in &self.external {
            spans = intersect(&spans, &versions.allowed(at.id, at.seen, within));
            if spans.is_empty() {
                return (at.id, writer_of(versions, at.seen));
            }
        }
        (self.external.last().map_or(0, |at| at.id), None)
    }

    /// Read committed: each read has a moment, none is before the one before. A range is not one
    /// read.
    fn newest_each(&self, versions: &Versions, findings: &mut Vec<Finding>) -> Option<Bounds> {
        let Bounds { mut from, to } = self.record.snapshot;
        for at in &self.external {
            match versions.allowed(at.id, at.seen, Bounds { from, to }).first() {
                Some(span) if !at.by_range => from = span.from,
                Some(_) => {}
                None => {
                    let earlier =
                        !versions.allowed(at.id, at.seen, Bounds { from: 0, to }).is_empty();
                    let anomaly = if earlier { Anomaly::StaleRead } else { Anomaly::LateRead };
                    findings.push(self.finding(anomaly, writer_of(versions, at.seen), at.id));
                    return None;
                }
            }
        }
        Some(self.record.snapshot)
    }

    fn broken(&mut self, anomaly: Anomaly, writer: Option<usize>, id: u64, to: &mut Vec<Finding>) {
        self.broken = true;
        to.push(self.finding(anomaly, writer, id));
    }

    fn finding(&self, anomaly: Anomaly, writer: Option<usize>, id: u64) -> Finding {
        let transactions = [Some(self.index), writer].into_iter().flatten().collect();
        Finding { anomaly, transactions, id: Some(id) }
    }
}

fn writer_of(versions: &Versions, seen: Seen) -> Option<usize> {
    let Seen::Value(value) = seen else { return None };
    versions.writes.get(&value).map(|write| write.writer)
}

/// Rule 3.
fn lost_updates(
    index: usize,
    record: &Record,
    snapshot: Bounds,
    versions: &Versions,
) -> Option<Finding> {
    let first_wins = [Some(IsolationLevel::Snapshot), Some(IsolationLevel::Serializable)];
    if !matches!(record.outcome, Outcome::Committed(_)) || !first_wins.contains(&record.isolation) {
        return None;
    }
    let own = versions.commits.get(&index)?;
    for id in last_operations(record).into_keys() {
        let mut since = versions.after(id, snapshot.to).iter();
        let lost = since.find(|version| version.is_change && version.place.to < own.from);
        if let Some(other) = lost.and_then(|version| version.writer) {
            let transactions = vec![index, other];
            return Some(Finding { anomaly: Anomaly::LostUpdate, transactions, id: Some(id) });
        }
    }
    None
}
