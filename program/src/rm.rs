//! `rm`: deletes blocks, all of them or none.

use std::path::PathBuf;

use aegis_blocks::{BlockId, StorageBackend};

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::{interrupt, store};

/// Delete blocks in one transaction: all of them or, when one does not exist, none.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Ids of the blocks
    #[arg(required = true, value_name = "ID")]
    ids: Vec<u64>,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    store::with_store(store::open(&args.store)?, |store| {
        let tx = store.begin_transaction()?;
        for id in &args.ids {
            // Left open when one is missing: closing the store rolls back.
            store.delete_block_in_tx(tx, BlockId(*id))?;
        }
        interrupt::check_not_stopped("nothing was deleted")?;
        Ok(store.commit_transaction(tx)?)
    })?;
    Ok(Exit::Done)
}
