//! `put`: stores a file or standard input as one block and prints its id.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aegis_blocks::{Block, BlockId, StorageBackend};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::size::Size;
use crate::store::{BLOCK_LEN_MAX, DurabilityArg, TypeArg};
use crate::{interrupt, output, store};

/// Store a file or standard input as one block and print its id.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store; made where there is none
    store: PathBuf,
    /// File to store, at most 32 MiB; `-` for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Id to write to, replacing the block that has it; without this the store chooses a new id
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    id: u64,
    /// Type that the block's header names
    #[arg(long = "type", value_enum, default_value = "document-data")]
    block_type: TypeArg,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    // Read first: a file that is not there must not leave an empty store behind. The input may be a
    // terminal or a pipe that nothing comes out of.
    let payload = interrupt::at_once("nothing was stored", || read_payload(&args.file))?;
    let store = store::open_or_create(&args.store, DurabilityArg::Durable)?;
    let block = Block::new(BlockId(args.id), args.block_type.into(), payload);
    let id = store::with_store(store, |store| {
        interrupt::check_not_stopped("nothing was stored")?;
        Ok(store.write_block(block)?)
    })?;
    let printed = output::print_all(|out| Ok(writeln!(out, "{id}")?));
    printed.map_err(|failure| failure.after(&format!("block {id} is stored")))?;
    Ok(Exit::Done)
}

fn read_payload(file: &Path) -> Result<Vec<u8>, Failure> {
    if file.as_os_str() == "-" {
        let failed = |e| Failure::refused(format!("cannot read standard input: {e}"));
        return read_at_most(io::stdin().lock(), 0, "standard input", failed);
    }
    let failed = |e| Failure::io("cannot read", file, e);
    let opened = File::open(file).map_err(failed)?;
    let len = opened.metadata().map_err(failed)?.len();
    read_at_most(opened, len, &file.display().to_string(), failed)
}

/// Reads to the end, or to the length that no block has, so memory is bounded.
fn read_at_most(
    input: impl Read,
    expected_len: u64,
    name: &str,
    failed: impl FnOnce(io::Error) -> Failure,
) -> Result<Vec<u8>, Failure> {
    let len_max = u64::from(BLOCK_LEN_MAX);
    let mut payload = Vec::with_capacity(expected_len.min(len_max) as usize + 1);
    input.take(len_max + 1).read_to_end(&mut payload).map_err(failed)?;
    if payload.len() as u64 > len_max {
        let limit = Size(len_max);
        return Err(Failure::usage(format!(
            "{name} is longer than a block may be ({limit}): nothing was stored"
        )));
    }
    Ok(payload)
}
