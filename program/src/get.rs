//! `get`: writes a block's payload to standard output or a file.

use std::path::PathBuf;

use aegis_blocks::{BlockId, LocalBackend, StorageBackend};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::outfile::OutFile;
use crate::{output, store};

/// Write a block's payload to standard output or a file.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Id of the block
    id: u64,
    /// File to write instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    store::with_store(store::open_to_read(&args.store)?, |store| write_block(store, args))?;
    Ok(Exit::Done)
}

fn write_block(store: &LocalBackend, args: &Args) -> Result<(), Failure> {
    // Read before the file is touched: an unknown id must not empty it.
    let block = store.read_block(BlockId(args.id))?;
    match &args.output {
        Some(file) => OutFile::open(file)?.write(&block.data),
        None => output::print(|out| Ok(out.write_all(&block.data)?)),
    }
}
