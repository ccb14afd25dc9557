//! `verify`: reads every record, checks every checksum and lists the damage.
//!
//! A block that is not there is no damage to a store, and is damage to a file that was packed into
//! it. So files are looked at, too: each one with missing or damaged blocks is named.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use aegis_blocks::{BlockId, Error, LocalBackend, NotAStoreReason, VerifyReport};

use crate::catalog::Catalog;
use crate::entry::printable;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::size::{Size, grouped};
use crate::{interrupt, output, store, unfinished};

/// Read every record and check every checksum; exit code 1 and a list of places when one is wrong.
///
/// Of the files that `import` packed, those with missing or damaged blocks are named, too.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store or backup
    store: PathBuf,
}

const NOTHING_CHANGED: &str = "not everything was checked, and nothing was changed";

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let started = Instant::now();
    unfinished::refuse_unfinished(&args.store)?;
    let report = interrupt::at_once(NOTHING_CHANGED, || match LocalBackend::verify(&args.store) {
        Err(Error::NotAStore { reason: NotAStoreReason::Backup, .. }) => Ok(None),
        report => Ok(Some(report?)),
    })?;
    let Some(report) = report else { return verify_backup(args) };
    let files = incomplete_files(args, &report)?;
    let is_sound = report.damage.is_empty() && files.is_empty();
    let elapsed = started.elapsed().as_secs_f64();
    output::print(|out| {
        for damage in &report.damage {
            writeln!(out, "{} in {}", damage.defect, damage.place)?;
        }
        for file in &files {
            writeln!(out, "{file}")?;
        }
        writeln!(
            out,
            "{}: {} blocks ({}) in {} frames, {} segments and {} checkpoints checked in {elapsed:.2} s",
            if is_sound { "sound" } else { "DAMAGED" },
            grouped(report.blocks),
            Size(report.bytes),
            grouped(report.frames),
            report.segments,
            report.checkpoints,
        )?;
        Ok(())
    })?;
    Ok(Exit::of_check(is_sound))
}

/// Says of each incomplete file what is wrong with it.
fn incomplete_files(args: &Args, report: &VerifyReport) -> Result<Vec<String>, Failure> {
    if report.metadata_blocks == 0 {
        return Ok(Vec::new());
    }
    let store = match store::open_to_read(&args.store) {
        Ok(store) => store,
        Err(why) if report.damage.is_empty() => return Err(why),
        // The report names the obstacle.
        Err(_damaged) => return Ok(Vec::new()),
    };
    let damaged: HashSet<BlockId> =
        report.damage.iter().filter_map(|damage| damage.place.block).collect();
    store::with_store(store, |store| {
        let catalog = Catalog::scan(store)?;
        let wrong = catalog.newest().filter_map(|(path, stored)| {
            let (missing, bad) = (stored.missing.len(), stored.count_in(&damaged));
            let words = [(missing, "missing"), (bad, "damaged")];
            let words = words.iter().filter(|(count, _)| *count > 0);
            let words: Vec<_> = words.map(|(count, what)| format!("{count} {what}")).collect();
            let all = stored.entry.content.blocks().count();
            (!words.is_empty()).then(|| {
                let words = words.join(" and ");
                format!("incomplete file {}: {words} of {all} blocks", printable(path))
            })
        });
        Ok(wrong.collect())
    })
}

/// Compares the files of a backup with its manifest.
fn verify_backup(args: &Args) -> Outcome {
    let verify = || Ok(LocalBackend::verify_backup(&args.store)?);
    let check = interrupt::at_once(NOTHING_CHANGED, verify)?;
    output::print(|out| {
        for damage in &check.damage {
            writeln!(out, "{} in {}", damage.defect, damage.place)?;
        }
        writeln!(
            out,
            "{}: backup of lsn {}, {} in {} files",
            if check.damage.is_empty() { "sound" } else { "DAMAGED" },
            check.lsn,
            Size(check.bytes),
            check.files,
        )?;
        Ok(())
    })?;
    Ok(Exit::of_check(check.damage.is_empty()))
}
