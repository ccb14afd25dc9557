//! `stat`: what a store holds and what it takes on disk.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aegis_blocks::{LocalBackend, StorageBackend};
use serde::Serialize;

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
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let stat = store::with(store::open(&args.store)?, |store| stat(store, &args.store))?;
    output::print(|out| if args.json { print_json(out, &stat) } else { print_text(out, &stat) })?;
    Ok(ExitCode::SUCCESS)
}

fn stat(store: &LocalBackend, dir: &Path) -> Result<Stat, Failure> {
    let stats = store.stats();
    let recovery = store.recovery();
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
    Ok(())
}

/// The bytes that the directory's files really occupy.
fn disk_bytes(dir: &Path) -> Result<u64, Failure> {
    let failed = |e| Failure::io("cannot list", dir, e);
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        // Allocated blocks are counted in units of 512 bytes whatever the file system's own are.
        bytes += entry.and_then(|e| e.metadata()).map_err(failed)?.blocks() * 512;
    }
    Ok(bytes)
}
