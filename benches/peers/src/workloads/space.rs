//! Bytes on disk after many overwrites, once the store is closed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cell::{Figures, Spec};
use crate::failure::{Failure, Outcome};
use crate::payload::Payloads;
use crate::workloads::{BLOCK_LEN, compare_some, fill};

/// Fills once, overwrites everything `times` times, closes and measures.
pub fn run(spec: &Spec, blocks: u64, times: u64) -> Outcome<Figures> {
    let engine = spec.kind()?.open(&spec.dir)?;
    let payloads = Payloads::new(1, 0, BLOCK_LEN);
    let mut session = engine.session()?;
    for shift in 0..=times {
        fill(&mut *session, blocks, &payloads, shift)?;
    }
    let checked = compare_some(&mut *session, blocks, &payloads, times)?;
    drop(session);
    engine.close()?;
    let len = disk_len(&spec.dir).map_err(Failure::io("cannot measure", &spec.dir))?;
    let user_len = blocks * BLOCK_LEN as u64;
    Ok(Figures::from([
        ("disk_mib".into(), len as f64 / f64::from(1 << 20)),
        ("space_amplification".into(), len as f64 / user_len as f64),
        ("checked".into(), checked as f64),
    ]))
}

/// Bytes that a directory and everything below takes on disk.
pub fn disk_len(path: &Path) -> std::io::Result<u64> {
    let metadata = path.symlink_metadata()?;
    let mut len = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in path.read_dir()? {
            len += disk_len(&entry?.path())?;
        }
    }
    Ok(len)
}
