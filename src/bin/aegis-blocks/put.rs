//! `put`: stores a file or standard input as one block and prints its id.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aegis_blocks::{Block, BlockId, Error, StorageBackend};

use crate::failure::{Failure, Outcome};
use crate::store::{DurabilityArg, TypeArg};
use crate::{output, store};

/// Store a file or standard input as one block and print its id.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store; made where there is none
    store: PathBuf,
    /// File to store; `-` for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Id to write to, replacing what is there; without it the store allocates one
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    id: u64,
    /// What the payload holds
    #[arg(long = "type", value_enum, default_value = "document-data")]
    block_type: TypeArg,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    // Read first: a file that is not there must not leave an empty store behind.
    let payload = read_payload(&args.file)?;
    if u32::try_from(payload.len()).is_err() {
        let len = payload.len() as u64;
        return Err(Error::BlockTooLarge { len, len_max: u64::from(u32::MAX) }.into());
    }
    let store = store::open_or_create(&args.store, DurabilityArg::Durable)?;
    let block = Block::new(BlockId(args.id), args.block_type.into(), payload);
    let id = store::with(store, |store| Ok(store.write_block(block)?))?;
    output::print(|out| Ok(writeln!(out, "{id}")?))?;
    Ok(ExitCode::SUCCESS)
}

fn read_payload(file: &Path) -> Result<Vec<u8>, Failure> {
    if file.as_os_str() == "-" {
        let mut payload = Vec::new();
        std::io::stdin()
            .lock()
            .read_to_end(&mut payload)
            .map_err(|e| Failure::new(format!("cannot read standard input: {e}")))?;
        return Ok(payload);
    }
    std::fs::read(file).map_err(|e| Failure::io("cannot read", file, e))
}
