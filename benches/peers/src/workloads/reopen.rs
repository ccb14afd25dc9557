//! Opening after a close and after a kill: another process fills the store and ends, this one
//! opens.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::cell::{Figures, Spec, Workload};
use crate::failure::{Failure, Outcome};
use crate::payload::Payloads;
use crate::workloads::{BLOCK_LEN, compare, compare_some, fill};

/// The line that the other process prints when its store is filled.
pub const FILLED: &str = "filled";

/// Fills in another process, ends it as the workload says, and measures opening and one read.
pub fn run(spec: &Spec, blocks: u64, killed: bool) -> Outcome<Figures> {
    elsewhere("fill", &serde_json::to_string(spec)?, killed)?;
    let payloads = Payloads::new(1, 0, BLOCK_LEN);
    let started = Instant::now();
    let engine = spec.kind()?.open(&spec.dir)?;
    let mut session = engine.session()?;
    compare(&mut *session, 1 + blocks / 2, payloads.get(1 + blocks / 2))?;
    let open_ms = started.elapsed().as_secs_f64() * 1e3;
    let checked = compare_some(&mut *session, blocks, &payloads, 0)?;
    drop(session);
    engine.close()?;
    Ok(Figures::from([("open_ms".into(), open_ms), ("checked".into(), checked as f64)]))
}

/// Starts this program with a command that fills a store, waits until it says so, and kills it or
/// lets it close the store.
pub fn elsewhere(command: &str, spec: &str, killed: bool) -> Outcome<()> {
    let program = std::env::current_exe().map_err(Failure::io("cannot find", "this program"))?;
    let failed = || Failure::io("cannot run", program.clone());
    let mut child = Command::new(&program)
        .args([command, spec])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed())?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(failed())?;
    }
    if killed {
        child.kill().map_err(failed())?;
    }
    // Its end of input: the child closes its store and ends, if it still can.
    drop(child.stdin.take());
    let status = child.wait().map_err(failed())?;
    if line.trim() != FILLED || status.success() == killed {
        return Err(Failure::Cell { cell: format!("{command} {spec}"), status });
    }
    Ok(())
}

/// The other process: fills, says so, waits for the end of its input, closes.
pub fn fill_here(spec: &Spec) -> Outcome<()> {
    let Workload::Reopen { blocks, .. } = spec.workload else {
        return Err(Failure::Unknown { name: "a workload that fills".into() });
    };
    let engine = spec.kind()?.open(&spec.dir)?;
    fill(&mut *engine.session()?, blocks, &Payloads::new(1, 0, BLOCK_LEN), 0)?;
    println!("{FILLED}");
    std::io::stdin().lines().for_each(drop);
    engine.close()
}
