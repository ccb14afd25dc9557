//! `import`: packs a file or a directory tree into a store, one transaction per file, from many
//! threads whose commits share syncs.
//!
//! Running it again, after a crash, damage or a change, brings the store up to date. A file that is
//! known (see [`crate::content`]) is passed over. A changed one is replaced in one transaction. A
//! file of which the store lost a part is stored again. Leftovers of a crash are removed first.
//! [`crate::entry`] says how files lie in the store.

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aegis_blocks::{Error, LocalBackend};
use indicatif::{ProgressBar, ProgressStyle};

use crate::catalog::{Catalog, Stored};
use crate::content::{Source, describe_item, is_known};
use crate::entry::{Content, Entry, printable};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::size::{Size, grouped};
use crate::store::{BLOCK_LEN_MAX, DurabilityArg};
use crate::tree::{Item, Tree};
use crate::upload::{self, Upload};
use crate::{interrupt, output, overlap, store};

/// Attributes kept of a file, for `--help` and the manual.
const KEPT: &str = "\
What is kept of files, directories and symbolic links:
  content, name, mode, date of change   kept, and set by export
  owner and group (as numbers)          kept, set by: export --owner
  set-user-id, set-group-id bits        kept, set by: export --setid
  holes                                 not as such; export makes holes of pages that are all zeros
  hard links                            not kept: each name becomes a file of its own
  extended attributes, access lists     not kept
  devices, pipes, sockets               left out
What is not kept is counted or named on standard error.

A file counts as unchanged if its length, dates (the one that the system sets, too), mode and owner
are as stored, or if its bytes are. The exit code is 1 if a file could not be read or changed while
it was read.";

/// Pack a file or directory tree into a store; run again to complete or update it.
#[derive(clap::Args)]
#[command(after_long_help = KEPT)]
pub struct Args {
    /// Directory of the store; made where there is none
    store: PathBuf,
    /// File or directory to pack
    path: PathBuf,
    /// Threads that read and commit
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Length of the blocks that file contents are cut into, at most 32MiB
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    chunk: Size,
    /// When a commit returns
    #[arg(long, value_enum, default_value = "durable")]
    durability: DurabilityArg,
    /// Compare the bytes of every file with the stored ones, even if the dates match
    #[arg(long)]
    checksum: bool,
    /// Also delete stored files that are no longer in PATH
    #[arg(long)]
    delete: bool,
}

/// Counts of items, by outcome.
#[derive(Debug, Default)]
struct Tally {
    stored: u64,
    replaced: u64,
    unchanged: u64,
    deleted: u64,
    bytes: u64,
    failed: Vec<String>,
    /// One line for each file that is stored as it was read and changed meanwhile.
    changed: Vec<String>,
    /// The store itself failed; nothing further was tried.
    store_error: Option<Error>,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let chunk_len = match u32::try_from(args.chunk.0) {
        Ok(len @ 1..=BLOCK_LEN_MAX) => len,
        _ => {
            let max = Size(u64::from(BLOCK_LEN_MAX));
            return Err(Failure::usage(format!("--chunk must be from 1 B to {max}")));
        }
    };
    overlap::refuse_import(&args.store, &args.path)?;
    // The tree comes first: a path that is not there must not leave an empty store behind.
    let tree = Tree::walk(&args.path, &args.store)?;
    let store = store::open_or_create(&args.store, args.durability)?;
    let started = Instant::now();
    let tally = store::with_store(store, |store| import_tree(store, &tree, args, chunk_len))?;
    report_import(&tree, tally, started.elapsed())
}

fn import_tree(
    store: &LocalBackend,
    tree: &Tree,
    args: &Args,
    chunk_len: u32,
) -> Result<Tally, Failure> {
    let catalog = Catalog::scan(store)?;
    catalog.report_malformed();
    for stored in &catalog.leftover {
        upload::delete_entry(store, stored)?;
    }
    let import = Import {
        store,
        catalog: &catalog,
        tree,
        chunk_len,
        compares_all: args.checksum,
        next: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
        tally: Mutex::new(Tally { failed: tree.failed.clone(), ..Tally::default() }),
        bar: progress_bar(tree.bytes),
    };
    let mut tally = import.run_threads(usize::from(args.threads));
    if tally.store_error.is_none() {
        delete_gone(args, store, &catalog, tree, &mut tally)?;
    }
    Ok(tally)
}

fn report_import(tree: &Tree, mut tally: Tally, elapsed: Duration) -> Outcome {
    tree.left_out.iter().for_each(|line| output::note(format_args!("left out {line}")));
    tally.failed.iter().chain(&tally.changed).for_each(output::warn);
    report_not_kept(tree);
    let printed = print_summary(&tally, elapsed);
    if let Some(error) = tally.store_error.take() {
        return Err(Failure::from(error).after("what was stored until then stays"));
    }
    interrupt::check_not_stopped("what was stored stays; run it again to complete")?;
    let (failed, changed) = (tally.failed.len(), tally.changed.len());
    match (failed, changed) {
        (0, 0) => printed.map(|()| Exit::Done),
        (0, _) => Err(Failure::new(format!("{changed} files changed while they were read"))),
        (_, 0) => Err(Failure::new(format!("{failed} items were not imported"))),
        _ => Err(Failure::new(format!(
            "{failed} items were not imported, {changed} files changed while they were read"
        ))),
    }
}

/// Names attributes of the tree that the store does not keep.
fn report_not_kept(tree: &Tree) {
    if tree.with_links > 0 {
        let count = grouped(tree.with_links);
        output::note(format_args!("not kept: that {count} files have further names (hard links)"));
    }
    if tree.with_attributes > 0 {
        let count = grouped(tree.with_attributes);
        output::note(format_args!(
            "not kept: extended attributes or access lists of {count} items"
        ));
    }
}

fn print_summary(tally: &Tally, elapsed: Duration) -> Result<(), Failure> {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let written = tally.stored + tally.replaced;
    output::print(|out| {
        writeln!(
            out,
            "{} stored, {} replaced, {} unchanged, {} deleted: {} in {seconds:.2} s \
             ({:.1} MB/s, {:.0} files/s)",
            grouped(tally.stored),
            grouped(tally.replaced),
            grouped(tally.unchanged),
            grouped(tally.deleted),
            Size(tally.bytes),
            tally.bytes as f64 / 1e6 / seconds,
            written as f64 / seconds,
        )?;
        Ok(())
    })
}

/// State shared by the threads.
struct Import<'a> {
    store: &'a LocalBackend,
    catalog: &'a Catalog,
    tree: &'a Tree,
    chunk_len: u32,
    compares_all: bool,
    next: AtomicUsize,
    stopped: AtomicBool,
    tally: Mutex<Tally>,
    bar: ProgressBar,
}

/// Why one item is not in the store.
enum ItemError {
    /// It could not be read, or no block takes it: the others go on.
    Item(String),
    /// The store failed: no other item would fare better.
    Store(Error),
}

impl From<Error> for ItemError {
    fn from(error: Error) -> ItemError {
        ItemError::Store(error)
    }
}

/// Outcome of one item.
enum Fate {
    Unchanged,
    Stored { bytes: u64, replaced: bool, changed: bool },
    Interrupted,
}

impl Import<'_> {
    fn run_threads(self, threads: usize) -> Tally {
        std::thread::scope(|scope| {
            for _ in 0..threads.min(self.tree.items.len()) {
                scope.spawn(|| self.import_items());
            }
        });
        self.bar.finish_and_clear();
        self.tally.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One thread: takes items until none is left.
    fn import_items(&self) {
        while !self.stopped.load(Ordering::Relaxed) && !interrupt::requested() {
            let Some(item) = self.tree.items.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let fate = self.import_item(item);
            let mut tally = self.tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match fate {
                Ok(Fate::Unchanged) => {
                    tally.unchanged += 1;
                    self.bar.inc(content_len(item));
                }
                Ok(Fate::Stored { bytes, replaced, changed }) => {
                    tally.bytes += bytes;
                    if replaced {
                        tally.replaced += 1
                    } else {
                        tally.stored += 1
                    }
                    if changed {
                        let shown = item.source.display();
                        tally.changed.push(format!("{shown} changed while it was read"));
                    }
                }
                Ok(Fate::Interrupted) => {}
                Err(ItemError::Item(line)) => tally.failed.push(line),
                Err(ItemError::Store(error)) => {
                    tally.store_error.get_or_insert(error);
                    self.stopped.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn import_item(&self, item: &Item) -> Result<Fate, ItemError> {
        let old = self.catalog.get(&item.path);
        let kind = item.metadata.file_type();
        if kind.is_file() {
            if !self.compares_all && old.is_some_and(|old| is_known(old, item)) {
                return Ok(Fate::Unchanged);
            }
            if let Some(fate) = old.map(|old| self.compare_file(item, old)).transpose()?.flatten() {
                return Ok(fate);
            }
            return self.import_file(item, old);
        }
        let content = if kind.is_dir() {
            Content::Directory
        } else {
            let target = std::fs::read_link(&item.source).map_err(|e| unreadable(item, &e))?;
            Content::Symlink { target: target.into_os_string().into_vec() }
        };
        let entry = describe_item(item, &item.metadata, content);
        if old.is_some_and(|old| old.entry == entry) {
            return Ok(Fate::Unchanged);
        }
        Upload::begin(self.store, entry)?.finish(old)?;
        Ok(Fate::Stored { bytes: 0, replaced: old.is_some(), changed: false })
    }

    /// Compares a file with the entry stored under its path; `None` where its bytes differ.
    fn compare_file(&self, item: &Item, old: &Stored) -> Result<Option<Fate>, ItemError> {
        let is_file = matches!(old.entry.content, Content::File { .. });
        if !is_file || !old.is_complete() || old.entry.content.len() != item.metadata.len() {
            return Ok(None);
        }
        let mut source = Source::open(item).map_err(|e| unreadable(item, &e))?;
        let holds = source.holds_stored(self.store, &old.entry.content);
        if !holds.map_err(|e| unreadable(item, &e))?? {
            return Ok(None);
        }
        let entry = describe_item(item, &source.metadata, old.entry.content.clone());
        if entry != old.entry {
            upload::refresh_entry(self.store, old, &entry)?;
        }
        // The ctime is the store's own business.
        if (Entry { ctime: old.entry.ctime, ..entry }) == old.entry {
            return Ok(Some(Fate::Unchanged));
        }
        Ok(Some(Fate::Stored { bytes: 0, replaced: true, changed: false }))
    }

    fn import_file(&self, item: &Item, old: Option<&Stored>) -> Result<Fate, ItemError> {
        let unreadable = |e| unreadable(item, &e);
        let mut source = Source::open(item).map_err(unreadable)?;
        let content = Content::File { len: 0, chunk_len: self.chunk_len, chunks: Vec::new() };
        let mut upload = Upload::begin(self.store, describe_item(item, &source.metadata, content))?;
        let mut bytes = 0;
        loop {
            if interrupt::requested() {
                return Ok(Fate::Interrupted);
            }
            let chunk = source.read(bytes, u64::from(self.chunk_len)).map_err(unreadable)?;
            let chunk_len = chunk.len();
            if chunk_len > 0 {
                bytes += chunk_len as u64;
                self.bar.inc(chunk_len as u64);
                upload.push_chunk(chunk).map_err(|error| self.explain_too_long(item, error))?;
            }
            if chunk_len < self.chunk_len as usize {
                break;
            }
        }
        let changed = !source.is_unchanged(bytes).map_err(unreadable)?;
        if changed {
            upload.forget_ctime();
        }
        upload.finish(old).map_err(|error| self.explain_too_long(item, error))?;
        Ok(Fate::Stored { bytes, replaced: old.is_some(), changed })
    }

    /// The chunks fit into blocks. The entry, which lists them, does not where they are too many.
    fn explain_too_long(&self, item: &Item, error: Error) -> ItemError {
        match error {
            Error::BlockTooLarge { .. } => ItemError::Item(format!(
                "{} has too many chunks of {}: use a larger --chunk",
                item.source.display(),
                Size(u64::from(self.chunk_len))
            )),
            other => ItemError::Store(other),
        }
    }
}

fn content_len(item: &Item) -> u64 {
    if item.metadata.is_file() { item.metadata.len() } else { 0 }
}

fn unreadable(item: &Item, error: &io::Error) -> ItemError {
    ItemError::Item(format!("cannot read {}: {error}", item.source.display()))
}

/// Deletes stored entries that the tree no longer has, if the user asked for it. Those below a path
/// that is no longer a directory are always deleted, since both cannot be written back.
fn delete_gone(
    args: &Args,
    store: &LocalBackend,
    catalog: &Catalog,
    tree: &Tree,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let present: HashSet<&[u8]> = tree.items.iter().map(|item| item.path.as_slice()).collect();
    let leaves: HashSet<&[u8]> = tree
        .items
        .iter()
        .filter(|item| !item.metadata.is_dir())
        .map(|item| item.path.as_slice())
        .collect();
    if args.delete && !tally.failed.is_empty() {
        output::note("nothing is deleted because not everything could be read");
    }
    for (path, stored) in catalog.newest() {
        if interrupt::requested() {
            return Ok(());
        }
        let delete = args.delete && tally.failed.is_empty();
        if !present.contains(path) && (delete || ancestors(path).any(|a| leaves.contains(a))) {
            let deleted = upload::delete_entry(store, stored);
            deleted.map_err(|e| {
                Failure::from(e).after(&format!("cannot delete {}", printable(path)))
            })?;
            tally.deleted += 1;
        }
    }
    Ok(())
}

/// The paths of the directories that a path lies in, without the root.
pub fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

/// A bar that counts bytes; shows nothing where standard error is no terminal.
pub fn progress_bar(bytes: u64) -> ProgressBar {
    let template = "{bar:40} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_are_the_directories_above() {
        let above: Vec<&[u8]> = ancestors(b"a/bc/d").collect();
        assert_eq!(above, [&b"a"[..], b"a/bc"]);
        assert_eq!(ancestors(b"a").count(), 0);
    }
}
