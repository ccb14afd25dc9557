//! `export`: writes back what `import` packed.
//!
//! Directories first, then files and links from many threads, then the directories' own modes and
//! times, deepest first. Nothing is written outside of the target (see [`crate::rooted`]), whatever
//! the store says. Files that stand in the way are replaced, other files in the target stay.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aegis_blocks::{LocalBackend, StorageBackend};
use indicatif::ProgressBar;

use crate::catalog::{Catalog, Stored};
use crate::entry::{Content, Entry, printable};
use crate::failure::{Failure, Outcome};
use crate::rooted::Root;
use crate::size::{Size, grouped};
use crate::{import, interrupt, output, store};

/// Write back the files that `import` packed.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Directory to write to; made where there is none
    dir: PathBuf,
    /// Threads that read and write
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Also restore set-user-id and set-group-id bits of files
    #[arg(long)]
    setid: bool,
}

const SETID_BITS: u32 = 0o6000;

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let store = store::open(&args.store)?;
    interrupt::listen()?;
    let started = Instant::now();
    let done = store::with(store, |store| export_tree(store, args))?;
    report(&done, started.elapsed())
}

/// What became of the entries.
struct Done {
    entries: usize,
    bytes: u64,
    not_exported: usize,
}

fn export_tree(store: &LocalBackend, args: &Args) -> Result<Done, Failure> {
    let catalog = Catalog::scan(store)?;
    catalog.report_malformed();
    let all: Vec<&Stored> = catalog.newest().map(|(_, stored)| stored).collect();
    if all.is_empty() && catalog.malformed.is_empty() {
        return Err(Failure::io("nothing to export:", &args.store, "it holds no imported files"));
    }
    let root = Root::open(&args.dir).map_err(|e| Failure::io("cannot write to", &args.dir, e))?;
    let bytes = all.iter().map(|stored| stored.entry.content.len()).sum();
    let export = Export {
        store,
        root: &root,
        setid: args.setid,
        next: AtomicUsize::new(0),
        failed: Mutex::new(Vec::new()),
        bar: import::progress_bar(bytes),
    };
    export.directories(&all, |dir| root.create_directory(&dir.path));
    export.leaves(&all, usize::from(args.threads));
    let deepest_first: Vec<&Stored> = all.iter().rev().copied().collect();
    export.directories(&deepest_first, |dir| root.finish_directory(&dir.path, dir.mode, dir.mtime));
    root.sync().map_err(|e| Failure::io("cannot sync", &args.dir, e))?;
    export.bar.finish_and_clear();
    let failed = export.failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    failed.iter().for_each(|line| eprintln!("aegis-blocks: {line}"));
    let not_exported = failed.len() + catalog.malformed.len();
    Ok(Done { entries: all.len(), bytes, not_exported })
}

fn report(done: &Done, elapsed: Duration) -> Outcome {
    if interrupt::requested() {
        return Err(Failure::interrupted("the target is incomplete; run it again to complete"));
    }
    if done.not_exported > 0 {
        return Err(Failure::new(format!("{} items were not exported", done.not_exported)));
    }
    let seconds = elapsed.as_secs_f64().max(1e-9);
    output::print(|out| {
        writeln!(
            out,
            "{} exported: {} in {seconds:.2} s ({:.1} MB/s, {:.0} files/s)",
            grouped(done.entries as u64),
            Size(done.bytes),
            done.bytes as f64 / 1e6 / seconds,
            done.entries as f64 / seconds,
        )?;
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What the threads share.
struct Export<'a> {
    store: &'a LocalBackend,
    root: &'a Root,
    setid: bool,
    next: AtomicUsize,
    failed: Mutex<Vec<String>>,
    bar: ProgressBar,
}

impl Export<'_> {
    fn directories(&self, all: &[&Stored], act: impl Fn(&Entry) -> std::io::Result<()>) {
        for stored in all.iter().filter(|s| s.entry.content == Content::Directory) {
            if let Err(error) = act(&stored.entry) {
                self.fail(&stored.entry, &error.into());
            }
        }
    }

    fn leaves(&self, all: &[&Stored], threads: usize) {
        std::thread::scope(|scope| {
            for _ in 0..threads.min(all.len()) {
                scope.spawn(|| {
                    while !interrupt::requested() {
                        let next = self.next.fetch_add(1, Ordering::Relaxed);
                        let Some(stored) = all.get(next) else { return };
                        match self.leaf(&stored.entry) {
                            Err(failure) if !interrupt::requested() => {
                                self.fail(&stored.entry, &failure);
                            }
                            _ => {}
                        }
                    }
                });
            }
        });
    }

    fn leaf(&self, entry: &Entry) -> Result<(), Failure> {
        match &entry.content {
            Content::Directory => Ok(()),
            Content::Symlink { target } => {
                Ok(self.root.write_symlink(&entry.path, target, entry.mtime)?)
            }
            Content::File { .. } => {
                let mode = if self.setid { entry.mode } else { entry.mode & !SETID_BITS };
                self.root.write_file(&entry.path, mode, entry.mtime, |file| self.fill(file, entry))
            }
        }
    }

    /// Writes the chunks and checks that they add up to the file.
    fn fill(&self, file: &mut File, entry: &Entry) -> Result<(), Failure> {
        let mut len = 0;
        for id in entry.content.chunks() {
            if interrupt::requested() {
                return Err(Failure::new("interrupted"));
            }
            let chunk = self.store.read_block(*id)?;
            file.write_all(&chunk.data)?;
            len += chunk.data.len() as u64;
            self.bar.inc(chunk.data.len() as u64);
        }
        if len != entry.content.len() {
            let expected = entry.content.len();
            return Err(Failure::new(format!("its blocks hold {len} bytes, not {expected}")));
        }
        Ok(())
    }

    fn fail(&self, entry: &Entry, failure: &Failure) {
        let line = format!("cannot export {}: {failure}", printable(&entry.path));
        let mut failed = self.failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // A directory that cannot be made cannot be finished either: said once.
        if !failed.contains(&line) {
            failed.push(line);
        }
    }
}
