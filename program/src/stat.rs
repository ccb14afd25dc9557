//! `stat`: what a store holds and what it takes on disk.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aegis_blocks::{LocalBackend, StorageBackend};
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::size::{Size, grouped};
use crate::{output, store};

/// Show what a store holds and what it takes on disk.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Print one JSON object, lengths in bytes
    #[arg(long)]
    json: bool,
}

/// The names are those of the JSON object.
#[derive(Serialize)]
struct Stat {
    blocks: u64,
    payload_bytes: u64,
    disk_bytes: u64,
    segments: u64,
    index_bytes: u64,
    lsn: u64,
    closed_cleanly: bool,
    recovered_frames: u64,
    recovered_bytes: u64,
    torn_bytes: u64,
    open_ms: f64,
    live_bytes: u64,
    dead_bytes: u64,
    empty_bytes: u64,
    pinned_bytes: u64,
    free_bytes: u64,
    checkpoint_bytes: u64,
    reserve_bytes: u64,
    files: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let stat = store::with_store(store::open_to_read(&args.store)?, |store| {
        collect_stat(store, &args.store)
    })?;
    output::print(|out| if args.json { print_json(out, &stat) } else { print_text(out, &stat) })?;
    Ok(Exit::Done)
}

fn collect_stat(store: &LocalBackend, dir: &Path) -> Result<Stat, Failure> {
    let stats = store.stats();
    let recovery = store.recovery();
    let space = store.space()?;
    Ok(Stat {
        blocks: stats.total_blocks,
        payload_bytes: stats.total_bytes,
        disk_bytes: disk_bytes(dir)?,
        segments: stats.segments,
        index_bytes: stats.index_bytes,
        lsn: stats.visible_lsn.0,
        closed_cleanly: recovery.clean,
        recovered_frames: recovery.frames,
        recovered_bytes: recovery.bytes,
        torn_bytes: recovery.torn_bytes,
        open_ms: recovery.elapsed.as_secs_f64() * 1e3,
        live_bytes: space.live_bytes,
        dead_bytes: space.dead_bytes,
        empty_bytes: space.empty_bytes,
        pinned_bytes: space.pinned_bytes,
        free_bytes: space.free_bytes,
        checkpoint_bytes: space.checkpoint_bytes,
        reserve_bytes: space.reserve_bytes,
        files: space.files,
    })
}

fn print_json(out: &mut dyn Write, stat: &Stat) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, stat).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

fn print_text(out: &mut dyn Write, stat: &Stat) -> Result<(), Failure> {
    writeln!(out, "blocks        {}", grouped(stat.blocks))?;
    writeln!(out, "payload       {}", Size(stat.payload_bytes))?;
    writeln!(out, "on disk       {} in {} segments", Size(stat.disk_bytes), stat.segments)?;
    writeln!(out, "index memory  {}", Size(stat.index_bytes))?;
    writeln!(out, "newest commit lsn {}", stat.lsn)?;
    writeln!(
        out,
        "last open     {} frames ({}) replayed in {:.1} ms, {}",
        grouped(stat.recovered_frames),
        Size(stat.recovered_bytes),
        stat.open_ms,
        if stat.closed_cleanly { "after a clean close" } else { "after a crash" },
    )?;
    print_bars(out, stat)
}

/// Space by use, one bar each; all bars together are as long as the line.
fn print_bars(out: &mut dyn Write, stat: &Stat) -> Result<(), Failure> {
    let parts = [
        ("in force", stat.live_bytes),
        ("dead", stat.dead_bytes),
        ("all dead", stat.empty_bytes),
        ("kept ahead", stat.free_bytes),
        ("checkpoints", stat.checkpoint_bytes),
        ("reserve", stat.reserve_bytes),
    ];
    let total: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    for (name, bytes) in parts {
        let width = (bytes as f64 / total.max(1) as f64 * BAR_WIDTH).ceil() as usize;
        let line = format!("{name:<13} {:>10} {}", Size(bytes).to_string(), "#".repeat(width));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Characters of all bars together.
const BAR_WIDTH: f64 = 48.0;

/// The bytes that the directory's files really occupy.
fn disk_bytes(dir: &Path) -> Result<u64, Failure> {
    let failed = |e| Failure::io("cannot list", dir, e);
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        // Allocated blocks are counted in units of 512 bytes, not in the file system's own.
        bytes += entry.and_then(|e| e.metadata()).map_err(failed)?.blocks() * 512;
    }
    Ok(bytes)
}
