//! A process that is killed while it writes.
//!
//! 1. It opens the closed store and overwrites random blocks with 4 KiB each, without waiting for
//!    syncs. It ends when the log beyond the checkpoint has [`LOG_LEN`] bytes.
//! 2. It writes the probe of its round, syncs, says so, and writes on.
//! 3. The other process kills it then. Were it not killed, it would end after as much again.

use std::path::PathBuf;

use aegis_blocks::StorageBackend;
use serde::{Deserialize, Serialize};

use crate::failure::Outcome;
use crate::growth::SEED;
use crate::growth::store::{apply, block, open_buffered, probe};
use crate::own::failed;
use crate::payload::{Noise, Payloads};
use crate::workloads::BLOCK_LEN;
use crate::workloads::reopen::{FILLED, elsewhere};

/// Below the log bytes after which a store makes a checkpoint by itself.
const LOG_LEN: u64 = 64 << 20;

/// The task of the process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Victim {
    /// The store.
    pub path: PathBuf,
    /// Blocks 1 to this are overwritten.
    pub blocks: u64,
    /// Chooses them and what the probe holds.
    pub round: u64,
}

impl Victim {
    /// Starts the process, waits until the probe is durable and kills it.
    pub fn kill(&self) -> Outcome<()> {
        elsewhere("victim", &serde_json::to_string(self)?, true)
    }

    /// The work of the process.
    pub fn write(&self) -> Outcome<()> {
        let store = open_buffered(&self.path)?;
        let payloads = Payloads::new(1, 1, BLOCK_LEN);
        let mut noise = Noise::new(SEED ^ (self.round << 48));
        let mut write_until = |log_len| -> Outcome<()> {
            while store.stats().log_bytes < log_len {
                let ids: Vec<u64> = (0..100).map(|_| 1 + noise.below(self.blocks)).collect();
                apply(&store, ids.into_iter().map(|id| block(id, payloads.get(id))))?;
            }
            Ok(())
        };
        write_until(LOG_LEN)?;
        store.write_block(probe(self.blocks, self.round)).map_err(failed)?;
        store.sync().map_err(failed)?;
        println!("{FILLED}");
        write_until(2 * LOG_LEN)
    }
}
