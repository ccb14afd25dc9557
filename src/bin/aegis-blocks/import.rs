//! `import`: packs a file or a directory tree into a store, one transaction per file, from many
//! threads whose commits share syncs.
//!
//! Running it again, after a crash or a change, brings the store up to date: a file of the same
//! path, kind, length, time and mode is skipped, a changed one replaced in one transaction. What a
//! crash left half done is removed first. See [`crate::entry`] for what lies in the store.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aegis_blocks::{Error, LocalBackend};
use indicatif::{ProgressBar, ProgressStyle};

use crate::catalog::{Catalog, Stored};
use crate::entry::{Content, Entry, printable};
use crate::failure::{Failure, Outcome};
use crate::size::{Size, grouped};
use crate::store::DurabilityArg;
use crate::tree::{Item, Tree, mtime};
use crate::upload::{self, Upload};
use crate::{interrupt, output, store};

/// Pack a file or directory tree into a store; run again to complete or update it.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store; made where there is none
    store: PathBuf,
    /// File or directory to pack
    path: PathBuf,
    /// Threads that read and commit
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Length of the blocks that file contents are cut into
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    chunk: Size,
    /// When a commit returns
    #[arg(long, value_enum, default_value = "durable")]
    durability: DurabilityArg,
    /// Also delete stored files that are no longer in PATH
    #[arg(long)]
    delete: bool,
}

/// What became of the items.
#[derive(Debug, Default)]
struct Tally {
    stored: u64,
    replaced: u64,
    unchanged: u64,
    deleted: u64,
    bytes: u64,
    failed: Vec<String>,
    /// The store itself failed; nothing further was tried.
    store_error: Option<Error>,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let chunk_len = match u32::try_from(args.chunk.0) {
        Ok(len @ 1..) => len,
        _ => return Err(Failure::usage("--chunk must be from 1 B to less than 4 GiB")),
    };
    // The tree comes first: a path that is not there must not leave an empty store behind.
    let tree = Tree::walk(&args.path, &args.store)?;
    let store = store::open_or_create(&args.store, args.durability)?;
    interrupt::listen()?;
    let started = Instant::now();
    let tally = store::with(store, |store| import_tree(store, &tree, args, chunk_len))?;
    report(&tree, &tally, started.elapsed())
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
        upload::delete(store, stored)?;
    }
    let import = Import {
        store,
        catalog: &catalog,
        tree,
        chunk_len,
        next: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
        tally: Mutex::new(Tally { failed: tree.failed.clone(), ..Tally::default() }),
        bar: progress_bar(tree.bytes),
    };
    let mut tally = import.run(usize::from(args.threads));
    if let Some(error) = tally.store_error.take() {
        return Err(error.into());
    }
    if !interrupt::requested() {
        delete_gone(args, store, &catalog, tree, &mut tally)?;
    }
    Ok(tally)
}

fn report(tree: &Tree, tally: &Tally, elapsed: Duration) -> Outcome {
    for line in &tree.left_out {
        eprintln!("left out {line}");
    }
    for line in &tally.failed {
        eprintln!("aegis-blocks: {line}");
    }
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
    })?;
    if interrupt::requested() {
        return Err(Failure::interrupted("what was stored stays; run it again to complete"));
    }
    if !tally.failed.is_empty() {
        return Err(Failure::new(format!("{} items were not imported", tally.failed.len())));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the threads share.
struct Import<'a> {
    store: &'a LocalBackend,
    catalog: &'a Catalog,
    tree: &'a Tree,
    chunk_len: u32,
    next: AtomicUsize,
    stopped: AtomicBool,
    tally: Mutex<Tally>,
    bar: ProgressBar,
}

/// Why one item is not in the store.
enum ItemError {
    /// Its source could not be read, or the user interrupted: the others go on.
    Source(String),
    /// The store failed: no other item would fare better.
    Store(Error),
}

impl From<Error> for ItemError {
    fn from(error: Error) -> ItemError {
        ItemError::Store(error)
    }
}

/// What became of one item.
enum Fate {
    Unchanged,
    Stored { bytes: u64, replaced: bool },
    Interrupted,
}

impl Import<'_> {
    fn run(self, threads: usize) -> Tally {
        std::thread::scope(|scope| {
            for _ in 0..threads.min(self.tree.items.len()) {
                scope.spawn(|| self.work());
            }
        });
        self.bar.finish_and_clear();
        self.tally.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One thread: takes items until none is left.
    fn work(&self) {
        while !self.stopped.load(Ordering::Relaxed) && !interrupt::requested() {
            let Some(item) = self.tree.items.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let fate = self.import(item);
            let mut tally = self.tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match fate {
                Ok(Fate::Unchanged) => {
                    tally.unchanged += 1;
                    self.bar.inc(content_len(item));
                }
                Ok(Fate::Stored { bytes, replaced }) => {
                    tally.bytes += bytes;
                    if replaced { tally.replaced += 1 } else { tally.stored += 1 }
                }
                Ok(Fate::Interrupted) => {}
                Err(ItemError::Source(line)) => tally.failed.push(line),
                Err(ItemError::Store(error)) => {
                    tally.store_error.get_or_insert(error);
                    self.stopped.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn import(&self, item: &Item) -> Result<Fate, ItemError> {
        let old = self.catalog.get(&item.path);
        let kind = item.metadata.file_type();
        if kind.is_file() {
            if old.is_some_and(|old| is_unchanged(old, item)) {
                return Ok(Fate::Unchanged);
            }
            return self.import_file(item, old);
        }
        let content = if kind.is_dir() {
            Content::Directory
        } else {
            let target = std::fs::read_link(&item.source).map_err(|e| unreadable(item, &e))?;
            Content::Symlink { target: target.into_os_string().into_vec() }
        };
        let entry = describe(item, &item.metadata, content);
        if old.is_some_and(|old| old.entry == entry) {
            return Ok(Fate::Unchanged);
        }
        Upload::begin(self.store, entry)?.finish(old)?;
        Ok(Fate::Stored { bytes: 0, replaced: old.is_some() })
    }

    fn import_file(&self, item: &Item, old: Option<&Stored>) -> Result<Fate, ItemError> {
        let (mut file, metadata) = open_plain(item).map_err(|e| unreadable(item, &e))?;
        let content = Content::File { len: 0, chunk_len: self.chunk_len, chunks: Vec::new() };
        let mut upload = Upload::begin(self.store, describe(item, &metadata, content))?;
        let mut bytes = 0;
        loop {
            if interrupt::requested() {
                return Ok(Fate::Interrupted);
            }
            let left = metadata.len().saturating_sub(bytes);
            let chunk =
                read_chunk(&mut file, left, self.chunk_len).map_err(|e| unreadable(item, &e))?;
            let chunk_len = chunk.len();
            if chunk_len > 0 {
                bytes += chunk_len as u64;
                self.bar.inc(chunk_len as u64);
                upload.push(chunk)?;
            }
            if chunk_len < self.chunk_len as usize {
                break;
            }
        }
        upload.finish(old)?;
        Ok(Fate::Stored { bytes, replaced: old.is_some() })
    }
}

/// A file that may have been swapped since the walk for a link or a pipe: neither is followed or
/// waited for.
fn open_plain(item: &Item) -> io::Result<(File, std::fs::Metadata)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&item.source)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("no longer a plain file"));
    }
    Ok((file, metadata))
}

/// Reads up to `chunk_len` bytes; fewer only at the end of the file. `left` is what the file is
/// expected to hold still: it sizes the buffer, so that many small files stay small.
fn read_chunk(file: &mut File, left: u64, chunk_len: u32) -> io::Result<Vec<u8>> {
    let expected = left.min(u64::from(chunk_len)) as usize;
    let mut chunk = Vec::with_capacity(expected);
    file.take(u64::from(chunk_len)).read_to_end(&mut chunk)?;
    Ok(chunk)
}

fn describe(item: &Item, metadata: &std::fs::Metadata, content: Content) -> Entry {
    Entry {
        path: item.path.clone(),
        mode: metadata.mode() & 0o7777,
        mtime: mtime(metadata),
        content,
        staged: false,
    }
}

fn is_unchanged(old: &Stored, item: &Item) -> bool {
    let Content::File { len, .. } = &old.entry.content else {
        return false;
    };
    *len == item.metadata.len()
        && old.entry.mtime == mtime(&item.metadata)
        && old.entry.mode == item.metadata.mode() & 0o7777
}

fn content_len(item: &Item) -> u64 {
    if item.metadata.is_file() { item.metadata.len() } else { 0 }
}

fn unreadable(item: &Item, error: &io::Error) -> ItemError {
    ItemError::Source(format!("cannot read {}: {error}", item.source.display()))
}

/// Deletes stored entries that the tree no longer has: those below something that is no longer a
/// directory always, since both cannot be written back; the others when the user asked for it.
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
        eprintln!("nothing is deleted because not everything could be read");
    }
    for (path, stored) in catalog.newest() {
        let delete = args.delete && tally.failed.is_empty();
        if !present.contains(path) && (delete || ancestors(path).any(|a| leaves.contains(a))) {
            upload::delete(store, stored)
                .map_err(|e| Failure::new(format!("{}: {e}", printable(path))))?;
            tally.deleted += 1;
        }
    }
    Ok(())
}

/// The paths of the directories that a path lies in, without the root.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
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
