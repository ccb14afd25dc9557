//! The cells of a run: which engines, at how many threads, under which workloads.

use crate::RunArgs;
use crate::cell::Workload;
use crate::engine::{KINDS, Kind, Role};
use crate::failure::{Failure, Outcome};
use crate::workloads::reads::Reading;

/// A table: one workload, all engines that can do it.
#[derive(Debug, Clone)]
pub struct Sheet {
    /// On the command line.
    pub name: &'static str,
    /// Above the table.
    pub title: String,
    /// The work of each cell.
    pub workload: Workload,
    /// Columns.
    pub threads: Vec<usize>,
    /// Rows.
    pub engines: Vec<&'static str>,
}

/// All sheets of a run.
pub fn sheets(args: &RunArgs) -> Outcome<Vec<Sheet>> {
    let mut sheets = if args.quick { quick() } else { full() };
    for name in &args.only {
        if !sheets.iter().any(|sheet| sheet.name == *name) {
            return Err(Failure::Unknown { name: name.clone() });
        }
    }
    for name in &args.engines {
        Kind::named(name)?;
    }
    sheets.retain(|sheet| args.only.is_empty() || args.only.iter().any(|name| sheet.name == *name));
    for sheet in &mut sheets {
        let is_asked =
            |name: &&str| args.engines.is_empty() || args.engines.iter().any(|e| e == name);
        sheet.engines.retain(is_asked);
        if !args.threads.is_empty() {
            sheet.threads.retain(|threads| args.threads.contains(threads));
        }
    }
    Ok(sheets)
}

fn full() -> Vec<Sheet> {
    let sweep = [1, 2, 4, 8, 16, 32, 64, 128, 256];
    let mut sheets = commits(&sweep);
    sheets.extend(stores(100_000, 50_000, 10_000));
    sheets
}

fn quick() -> Vec<Sheet> {
    let mut sheets = commits(&[1, 8]);
    sheets.extend(stores(2000, 2000, 1000));
    sheets
}

fn commits(sweep: &[usize]) -> Vec<Sheet> {
    let writes = KINDS.iter().filter(|kind| kind.role != Role::Reader);
    let all: Vec<_> = writes.map(|kind| kind.name).collect();
    let commit = |name, title: &str, size, batch, threads: &[usize]| Sheet {
        name,
        title: title.into(),
        workload: Workload::Commit { size, batch },
        threads: threads.to_vec(),
        engines: all.clone(),
    };
    vec![
        commit("commit-4k", "One new 4 KiB block a durable commit", 4 << 10, 1, sweep),
        commit("commit-64k", "One new 64 KiB block a durable commit", 64 << 10, 1, sweep),
        commit("batch-100x4k", "100 new blocks of 4 KiB a durable commit", 4 << 10, 100, &[1]),
        commit("batch-16x1m", "16 new blocks of 1 MiB a durable commit", 1 << 20, 16, &[1]),
    ]
}

fn stores(ids: u64, blocks: u64, rewritten: u64) -> Vec<Sheet> {
    let names = |keep: fn(&Kind) -> bool| -> Vec<_> {
        KINDS.iter().filter(|kind| keep(kind)).map(|kind| kind.name).collect()
    };
    let stores = names(|kind| kind.role == Role::Store && kind.name != "canopydb-occ");
    let tellers = names(|kind| kind.transfers.is_some());
    let writers = names(|kind| matches!(kind.role, Role::Store | Role::Grouped | Role::Prepared));
    let readers = names(|kind| {
        matches!(kind.role, Role::Store | Role::Reader) && kind.name != "canopydb-occ"
    });
    let sheet = |name, title, workload, threads: &[usize], engines: &[&'static str]| Sheet {
        name,
        title,
        workload,
        threads: threads.to_vec(),
        engines: engines.to_vec(),
    };
    let read = |writers, reading| Workload::Read { blocks, writers, reading };
    let reopen = |killed| Workload::Reopen { blocks, killed };
    let times = 10;
    vec![
        sheet(
            "transfers",
            "Serializable transfers between 2 of 1,000 random blocks of 4 KiB, conflicts retried"
                .into(),
            Workload::Transfer { accounts: 1000 },
            &[8],
            &tellers,
        ),
        sheet(
            "overwrite",
            format!("Random overwrites of {ids} blocks of 4 KiB, one a durable commit"),
            Workload::Overwrite { ids },
            &[8, 64],
            &writers,
        ),
        sheet(
            "read",
            format!("Hot random reads of 4 KiB, {blocks} blocks"),
            read(0, Reading::Ends),
            &[1, 2, 8],
            &readers,
        ),
        sheet(
            "read-use",
            format!("Hot random reads of 4 KiB, every byte used by the reader, {blocks} blocks"),
            read(0, Reading::Every),
            &[1, 2, 8],
            &readers,
        ),
        sheet(
            "read-beside-commits",
            format!(
                "Hot random reads of 4 KiB, {blocks} blocks, while 8 threads commit 4 KiB each"
            ),
            read(8, Reading::Ends),
            &[2],
            &stores,
        ),
        sheet(
            "view",
            format!(
                "Begin and drop of a read transaction beside a hot 4 KiB read, {blocks} blocks"
            ),
            Workload::View { blocks },
            &[1, 8],
            &stores,
        ),
        sheet(
            "open-closed",
            format!("Open and one read after a close, {blocks} blocks of 4 KiB"),
            reopen(false),
            &[1],
            &stores,
        ),
        sheet(
            "open-killed",
            format!("Open and one read after kill -9, {blocks} blocks of 4 KiB"),
            reopen(true),
            &[1],
            &stores,
        ),
        sheet(
            "space",
            format!(
                "Disk space after {rewritten} blocks of 4 KiB were overwritten {times} times each"
            ),
            Workload::Space { blocks: rewritten, times },
            &[1],
            &stores,
        ),
    ]
}
