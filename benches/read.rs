//! Reading many blocks in one call beside reading them one by one, from the disk and from memory.
//!
//! Workload: 4,096 blocks of 16 KiB, read in a shuffled order (a fixed walk); 5 rounds of each,
//! taking turns, the medians are printed. Each opens the store anew; before a cold one the kernel
//! is told to forget the files. One thread; `read_blocks` may have the two I/O workers help. Each
//! way of reading in turn.
//!
//! Run with `cargo bench --bench read [-- DIR]`, where `DIR` lies on the disk to try.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, ReadMode, StorageBackend};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

const BLOCK_COUNT: u64 = 4096;
const BLOCK_LEN: usize = 16 << 10;
const ROUND_COUNT: usize = 5;
const MODES: [ReadMode; 3] = [ReadMode::Mapped, ReadMode::Copied, ReadMode::Pread];
/// Cold or hot, one by one or together.
const KINDS: [(bool, bool); 4] = [(true, false), (true, true), (false, false), (false, true)];

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let parent = std::env::args_os().skip(1).find(|arg| !arg.to_string_lossy().starts_with("--"));
    let dir = tempfile::tempdir_in(parent.map_or_else(std::env::temp_dir, Into::into))?;
    let path = dir.path().join("store");
    fill(&path)?;
    // A step that shares no factor with the count visits every id once.
    let ids: Vec<BlockId> = (0..BLOCK_COUNT).map(|n| BlockId(1 + n * 1663 % BLOCK_COUNT)).collect();
    let mut times = [const { Vec::new() }; 4 * MODES.len()];
    for _ in 0..ROUND_COUNT {
        for (kind, (cold, together)) in KINDS.into_iter().enumerate() {
            for (i, mode) in MODES.into_iter().enumerate() {
                times[kind * MODES.len() + i].push(round(&path, &ids, mode, cold, together)?);
            }
        }
    }
    let names = ["cold, one by one", "cold, read_blocks", "hot, one by one", "hot, read_blocks"];
    let names = names.into_iter().flat_map(|name| MODES.map(|mode| (name, mode)));
    for ((name, mode), times) in names.zip(&mut times) {
        times.sort_unstable();
        let median = times[ROUND_COUNT / 2];
        let (ms, per_block) = (median.as_secs_f64() * 1e3, median / BLOCK_COUNT as u32);
        println!("{name:18} {:8} {ms:8.1} ms {per_block:10.1?} a block", format!("{mode:?}"));
    }
    Ok(())
}

fn fill(path: &Path) -> Result<(), Failure> {
    let store = LocalBackend::open(path)?;
    for id in 1..=BLOCK_COUNT {
        let payload = vec![id as u8; BLOCK_LEN];
        let block = Block::new(BlockId(id), BlockType::TableData, payload);
        store.write_block_with(block, aegis_blocks::Durability::Buffered)?;
    }
    Ok(store.close()?)
}

/// Opens the store, reads every block and returns how long the reads took.
fn round(
    path: &Path,
    ids: &[BlockId],
    mode: ReadMode,
    cold: bool,
    together: bool,
) -> Result<Duration, Failure> {
    let store = LocalBackend::options().read_mode(mode).open(path)?;
    if cold {
        // After the opening, which has walked over the files.
        for entry in std::fs::read_dir(path)? {
            let file = File::open(entry?.path())?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    } else {
        store.read_blocks(ids)?;
    }
    let started = Instant::now();
    if together {
        assert_eq!(store.read_blocks(ids)?.len(), ids.len());
    } else {
        for id in ids {
            store.read_block(*id)?;
        }
    }
    let took = started.elapsed();
    store.close()?;
    Ok(took)
}
