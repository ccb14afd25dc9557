//! Cycles among dependencies, which serializable transactions must not make.
//!
//! Owns the dependency graph. Nodes are committed transactions and calls. Edges, after Adya:
//!
//! | edge | from                        | to                                                     |
//! |------|-----------------------------|--------------------------------------------------------|
//! | ww   | the writer of a version     | the writer of the next version of that block           |
//! | wr   | the writer of a version     | who read it, or listed a range that it changed         |
//! | rw   | a *serializable* reader     | who wrote the next version, or next changed the range  |
//!
//! Anti-dependencies (rw) of weaker transactions are no obligation, so they are left out. The rest
//! is the mixed graph, which must have no cycle. Reads have been checked before, so ww and wr edges
//! go forward in commit order. Then a cycle needs an rw edge that goes back: to a commit between
//! the reader's snapshot and its own commit. Mostly there is none, and nothing to search. Each one
//! is a finding, named by the shortest cycle through it, or `UnvalidatedRead` where there is none.

use std::collections::VecDeque;

use super::check::Judged;
use super::versions::{Seen, Version, Versions};
use super::{Anomaly, Finding, History, Outcome};
use crate::transaction::IsolationLevel;

/// Edges that go back, of which the cycles are searched.
const SEARCH_COUNT_MAX: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Depends,
    AntiDepends { by_range: bool },
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    to: usize,
    kind: Kind,
    id: u64,
}

/// Finds the cycles of a history.
pub(super) fn search(
    history: &History,
    versions: &Versions,
    judged: &[Option<Judged>],
    findings: &mut Vec<Finding>,
) {
    let back = edges_back(history, versions, judged);
    if back.is_empty() {
        return;
    }
    let graph = graph(history, versions, judged);
    for (from, edge) in back.into_iter().take(SEARCH_COUNT_MAX) {
        findings.push(match path(&graph, edge.to, from) {
            Some(path) => named(history, from, edge, &path),
            None => Finding {
                anomaly: Anomaly::UnvalidatedRead,
                transactions: vec![from, edge.to],
                id: Some(edge.id),
            },
        });
    }
}

/// Anti-dependencies of serializable transactions on commits before their own.
fn edges_back(
    history: &History,
    versions: &Versions,
    judged: &[Option<Judged>],
) -> Vec<(usize, Edge)> {
    let mut back = Vec::new();
    for index in 0..history.transactions.len() {
        let Some(own) = versions.commits.get(&index) else { continue };
        let edges = anti_dependencies(index, history, versions, judged);
        let earlier = edges.iter().filter(|(_, change)| change.place.to < own.from);
        back.extend(earlier.map(|(edge, _)| (index, *edge)));
    }
    back
}

/// Changes, after its snapshot, of the blocks that a serializable transaction read.
fn anti_dependencies(
    index: usize,
    history: &History,
    versions: &Versions,
    judged: &[Option<Judged>],
) -> Vec<(Edge, Version)> {
    let record = &history.transactions[index];
    let serializable = record.isolation == Some(IsolationLevel::Serializable);
    let Some(reader) = judged[index].as_ref().filter(|_| serializable && record.is_committed())
    else {
        return Vec::new();
    };
    let changed = reader.external.iter().filter_map(|at| {
        let later = versions.after(at.id, reader.snapshot.to);
        let change = later.iter().find(|version| !at.seen.matches(version.value))?;
        let to = change.writer.filter(|writer| *writer != index)?;
        let kind = Kind::AntiDepends { by_range: at.by_range };
        Some((Edge { to, kind, id: at.id }, *change))
    });
    changed.collect()
}

/// All edges, by where they are from.
fn graph(history: &History, versions: &Versions, judged: &[Option<Judged>]) -> Vec<Vec<Edge>> {
    let mut graph = vec![Vec::new(); history.transactions.len()];
    for (id, list) in &versions.by_id {
        for pair in list.windows(2) {
            if let (Some(from), Some(to)) = (pair[0].writer, pair[1].writer)
                && pair[0].place.to < pair[1].place.from
            {
                graph[from].push(Edge { to, kind: Kind::Depends, id: *id });
            }
        }
    }
    for (index, reader) in judged.iter().enumerate() {
        let Some(reader) = reader.as_ref().filter(|_| history.transactions[index].is_committed())
        else {
            continue;
        };
        for at in &reader.external {
            if let Some(from) = read_from(versions, at.id, at.seen, reader.snapshot.from)
                && from != index
            {
                graph[from].push(Edge { to: index, kind: Kind::Depends, id: at.id });
            }
        }
        let anti = anti_dependencies(index, history, versions, judged);
        graph[index].extend(anti.into_iter().map(|(edge, _)| edge));
    }
    graph
}

/// The transaction that made a block as it was read.
fn read_from(versions: &Versions, id: u64, seen: Seen, snapshot: u64) -> Option<usize> {
    if let Seen::Value(value) = seen {
        return versions.writes.get(&value).map(|write| write.writer);
    }
    // The oldest of the newest versions that look the same: the one that made it so.
    let until = versions.until(id, snapshot).iter().filter(|version| version.place.to <= snapshot);
    let same = until.rev().take_while(|version| seen.matches(version.value));
    same.last().and_then(|version| version.writer)
}

/// The shortest path, as the edges taken.
fn path(graph: &[Vec<Edge>], from: usize, to: usize) -> Option<Vec<(usize, Edge)>> {
    let mut came_by: Vec<Option<(usize, Edge)>> = vec![None; graph.len()];
    let mut next = VecDeque::from([from]);
    while let Some(at) = next.pop_front() {
        if at == to {
            break;
        }
        for edge in &graph[at] {
            if edge.to != from && came_by[edge.to].is_none() {
                came_by[edge.to] = Some((at, *edge));
                next.push_back(edge.to);
            }
        }
    }
    let (mut path, mut at) = (Vec::new(), to);
    while at != from {
        let (before, edge) = came_by[at]?;
        path.push((before, edge));
        at = before;
    }
    path.reverse();
    Some(path)
}

/// Names the cycle that an edge and a path close.
fn named(history: &History, from: usize, edge: Edge, path: &[(usize, Edge)]) -> Finding {
    let cycle: Vec<(usize, Edge)> =
        [(from, edge)].into_iter().chain(path.iter().copied()).collect();
    let anti = |at: usize| cycle[at % cycle.len()].1.kind != Kind::Depends;
    let dangerous = (0..cycle.len()).find(|at| anti(*at) && anti(at + 1));
    let first = dangerous.unwrap_or(0);
    let transactions = (0..cycle.len()).map(|at| cycle[(first + at) % cycle.len()].0).collect();
    let only_reads =
        |(at, _): &(usize, Edge)| matches!(history.transactions[*at].outcome, Outcome::ReadOnly);
    let by_range = |(_, edge): &(usize, Edge)| edge.kind == Kind::AntiDepends { by_range: true };
    let anomaly = match dangerous {
        None => Anomaly::Cycle,
        Some(_) if cycle.iter().any(only_reads) => Anomaly::ReadOnlyAnomaly,
        Some(_) if cycle.iter().any(by_range) => Anomaly::RangeSkew,
        Some(_) => Anomaly::WriteSkew,
    };
    Finding { anomaly, transactions, id: Some(edge.id) }
}
