//! One thread keeps thousands of durable commits in flight. It submits without waiting, and a
//! callback tells when each commit is safe. For comparison, the same thread then waits for each.
//!
//! Run with `cargo run --release --example pipeline`.

use std::sync::mpsc;
use std::time::Instant;

use aegis_blocks::{
    Block, BlockId, BlockType, CommitTicket, LocalBackend, Result, StorageBackend, StorageExt,
};

const IN_FLIGHT_COUNT: u64 = 5_000;
const ONE_BY_ONE_COUNT: u64 = 500;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store = LocalBackend::open(dir.path().join("pipeline.store"))?;

    let started = Instant::now();
    let (safe, heard) = mpsc::channel();
    for n in 0..IN_FLIGHT_COUNT {
        let safe = safe.clone();
        // The callback runs on the thread that works at commits, so it only passes the result on.
        submit(&store, n)?.on_durable(move |result| {
            if safe.send(result).is_err() {
                eprintln!("commit {n} was answered after the program had failed");
            }
        });
    }
    let submitted = started.elapsed();
    drop(safe);
    let mut lsns = Vec::new();
    for result in heard {
        lsns.push(result?.ok_or("every one wrote a block")?);
    }
    let all_safe = started.elapsed();
    assert_eq!(lsns.len() as u64, IN_FLIGHT_COUNT);
    assert!(lsns.is_sorted(), "commits become safe in the order in which they were submitted");
    let stats = store.stats();
    assert_eq!(stats.durable_lsn, stats.visible_lsn);
    println!("one thread, {IN_FLIGHT_COUNT} commits in flight");
    println!("  submitted after   {:8.1} ms", submitted.as_secs_f64() * 1e3);
    println!("  durable after     {:8.1} ms", all_safe.as_secs_f64() * 1e3);
    println!("  syncs             {:8}", stats.log_syncs);
    println!("  commits a second  {:8.0}", IN_FLIGHT_COUNT as f64 / all_safe.as_secs_f64());

    let started = Instant::now();
    for n in 0..ONE_BY_ONE_COUNT {
        submit(&store, n)?.wait()?;
    }
    let took = started.elapsed();
    println!("one thread, each of {ONE_BY_ONE_COUNT} commits waited for");
    println!("  durable after     {:8.1} ms", took.as_secs_f64() * 1e3);
    println!("  syncs             {:8}", store.stats().log_syncs - stats.log_syncs);
    println!("  commits a second  {:8.0}", ONE_BY_ONE_COUNT as f64 / took.as_secs_f64());
    store.close()?;
    Ok(())
}

/// Hands in a commit of one log entry.
fn submit(store: &LocalBackend, n: u64) -> Result<CommitTicket> {
    let tx = store.begin()?;
    tx.write(Block::new(BlockId(0), BlockType::LogEntry, n.to_le_bytes().to_vec()))?;
    tx.submit()
}
