//! `export`: writes back the files that `import` packed.
//!
//! Order: directories, then files and links from many threads, then the directories' own modes and
//! times, deepest first, also after a signal. Nothing is written outside of the target (see
//! [`crate::rooted`]), even from a hostile store, nor into a store that the target holds. Files of
//! the same path are replaced, other files in the target stay. A file that cannot be written, or
//! not as it was, is named, and the others go on.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aegis_blocks::{LocalBackend, StorageBackend};
use indicatif::ProgressBar;
use nix::unistd::geteuid;
use parking_lot::Mutex;

use crate::catalog::{Catalog, Stored};
use crate::entry::{Content, Entry, HOLE, printable};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::rooted::{Date, Root, write_sparse};
use crate::size::{Size, grouped};
use crate::{import, interrupt, output, overlap, store};

/// Write back the files that `import` packed. Files of the same names are replaced, others stay.
///
/// Running it again completes an export that was interrupted. The attributes kept of a file are
/// listed by: aegis-blocks import --help
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Directory to write to; made where there is none
    dir: PathBuf,
    /// Threads that read and write
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Also set owner and group, as numbers; needs the rights to do so
    #[arg(long)]
    owner: bool,
    /// Also set the set-user-id and set-group-id bits of files
    #[arg(long)]
    setid: bool,
}

const SETID_BITS: u32 = 0o6000;

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    overlap::refuse_export(&args.store, &args.dir)?;
    let store = store::open_to_read(&args.store)?;
    let started = Instant::now();
    let done = store::with_store(store, |store| export_tree(store, args))?;
    report_export(&done, started.elapsed())
}

/// Counts of entries, by outcome.
struct Done {
    entries: usize,
    bytes: u64,
    written: usize,
    not_exported: usize,
    dates_lost: usize,
}

fn export_tree(store: &LocalBackend, args: &Args) -> Result<Done, Failure> {
    let catalog = Catalog::scan(store)?;
    catalog.report_malformed();
    let all: Vec<&Stored> = catalog.newest().map(|(_, stored)| stored).collect();
    if all.is_empty() && catalog.malformed.is_empty() {
        let shown = args.store.display();
        return Err(Failure::missing(format!("{shown} holds no imported files")));
    }
    let root = Root::open(&args.dir, args.owner)?;
    let bytes = all.iter().map(|stored| stored.entry.content.len()).sum();
    let export = Export {
        store,
        catalog: &catalog,
        root: &root,
        setid: args.setid,
        blocked: HashSet::new(),
        next: AtomicUsize::new(0),
        written: AtomicUsize::new(0),
        said: Mutex::default(),
        bar: import::progress_bar(bytes),
    };
    let export = export.prepare_directories(&all);
    export.export_leaves(&all, usize::from(args.threads));
    export.finish_directories(&all);
    export.bar.finish_and_clear();
    let synced = root.sync().map_err(|e| Failure::io("cannot sync", &args.dir, e));
    let said = export.said.into_inner();
    said.failed.iter().chain(&said.dates).for_each(output::warn);
    report_not_set(&all, args);
    synced?;
    Ok(Done {
        entries: all.len(),
        bytes,
        written: export.written.into_inner(),
        not_exported: said.failed.len() + catalog.malformed.len(),
        dates_lost: said.dates.len(),
    })
}

/// Names entries that the target lacks, because no option asked for them.
fn report_not_set(all: &[&Stored], args: &Args) {
    let count = |differs: &dyn Fn(&Entry) -> bool| {
        grouped(all.iter().filter(|stored| differs(&stored.entry)).count() as u64)
    };
    let user = geteuid().as_raw();
    let of_others = count(&|entry| entry.owner.is_some_and(|owner| owner.user != user));
    if !args.owner && of_others != "0" {
        output::note(format_args!("not set: the owner of {of_others} items (--owner sets it)"));
    }
    let is_file = |entry: &Entry| matches!(entry.content, Content::File { .. });
    let with_bits = count(&|entry| is_file(entry) && entry.mode & SETID_BITS != 0);
    if !args.setid && with_bits != "0" {
        output::note(format_args!("not set: set-id bits of {with_bits} files (--setid sets them)"));
    }
}

fn report_export(done: &Done, elapsed: Duration) -> Outcome {
    if interrupt::requested() {
        let (written, entries) = (grouped(done.written as u64), grouped(done.entries as u64));
        let rest = "run it again to complete";
        return Err(Failure::interrupted(&format!("{written} of {entries} exported; {rest}")));
    }
    let (not_exported, dates) = (done.not_exported, done.dates_lost);
    if not_exported > 0 {
        return Err(Failure::new(format!("{not_exported} items were not exported")));
    }
    if dates > 0 {
        return Err(Failure::new(format!("{dates} items have another date than they had")));
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
    Ok(Exit::Done)
}

/// State shared by the threads.
struct Export<'a> {
    store: &'a LocalBackend,
    catalog: &'a Catalog,
    root: &'a Root,
    setid: bool,
    /// Directories that nothing is written into.
    blocked: HashSet<&'a [u8]>,
    next: AtomicUsize,
    written: AtomicUsize,
    said: Mutex<Said>,
    bar: ProgressBar,
}

/// Lines for standard error, one for each entry at most.
#[derive(Default)]
struct Said {
    failed: Vec<String>,
    dates: Vec<String>,
}

impl<'a> Export<'a> {
    /// Makes the directories, those above before those below.
    fn prepare_directories(mut self, all: &[&'a Stored]) -> Export<'a> {
        let has_root = all.iter().any(|stored| stored.entry.path.is_empty());
        if !has_root && let Err(error) = self.prepare_one(b"", 0o755) {
            self.said.get_mut().failed.push(format!("cannot clean the target: {error}"));
        }
        for stored in all.iter().filter(|stored| stored.entry.content == Content::Directory) {
            let entry = &stored.entry;
            if self.is_blocked(&entry.path) {
                self.blocked.insert(&entry.path);
                continue;
            }
            if let Err(error) = self.prepare_one(&entry.path, entry.mode) {
                self.note_failure(entry, &error.into());
                self.blocked.insert(&entry.path);
            }
        }
        self
    }

    /// A store inside of the target is not written to, unless it was imported.
    fn prepare_one(&self, path: &[u8], mode: u32) -> io::Result<()> {
        let found = self.root.prepare_directory(path, mode)?;
        let below = |name: &str| {
            let slash = if path.is_empty() { "" } else { "/" };
            [path, slash.as_bytes(), name.as_bytes()].concat()
        };
        let is_ours =
            ["META", "MANIFEST"].iter().any(|name| self.catalog.get(&below(name)).is_some());
        if found.is_store && !is_ours {
            return Err(io::Error::other("it holds a block store, which only the store writes to"));
        }
        Ok(())
    }

    /// Whether a directory above is not to be written into.
    fn is_blocked(&self, path: &[u8]) -> bool {
        !self.blocked.is_empty()
            && (self.blocked.contains(&b""[..])
                || import::ancestors(path).any(|above| self.blocked.contains(above)))
    }

    fn export_leaves(&self, all: &[&Stored], threads: usize) {
        std::thread::scope(|scope| {
            for _ in 0..threads.min(all.len()) {
                scope.spawn(|| {
                    while !interrupt::requested() {
                        let next = self.next.fetch_add(1, Ordering::Relaxed);
                        let Some(stored) = all.get(next) else { return };
                        self.export_leaf(&stored.entry);
                    }
                });
            }
        });
    }

    /// Writes a file or link; a failure is counted and named.
    fn export_leaf(&self, entry: &Entry) {
        if entry.content != Content::Directory && self.is_blocked(&entry.path) {
            return self
                .note_failure(entry, &Failure::new("its directory could not be written to"));
        }
        // A bug that one file meets must not cost the others.
        let written = catch_unwind(AssertUnwindSafe(|| self.write_leaf(entry)));
        match written.unwrap_or_else(|_| Err(Failure::new("this program has a bug"))) {
            Ok(date) => self.count_written(entry, date),
            Err(_) if interrupt::requested() => {}
            Err(failure) => self.note_failure(entry, &failure),
        }
    }

    fn write_leaf(&self, entry: &Entry) -> Result<Date, Failure> {
        match &entry.content {
            Content::Directory => Ok(Date::Kept),
            Content::Symlink { target } => Ok(self.root.write_symlink(entry, target)?),
            Content::File { .. } => {
                let mode = if self.setid { entry.mode } else { entry.mode & !SETID_BITS };
                self.root.write_file(entry, mode, |file| self.write_chunks(file, entry))
            }
        }
    }

    /// Writes the chunks and checks that each is as long as the file says.
    fn write_chunks(&self, file: &mut File, entry: &Entry) -> Result<(), Failure> {
        let mut offset = 0;
        for (at, id) in entry.content.chunks().iter().enumerate() {
            interrupt::check_not_stopped("the file is not complete")?;
            let expected = entry.content.len_of_chunk(at);
            if *id != HOLE {
                let chunk = self.store.read_block(*id)?;
                let found = chunk.data.len() as u64;
                if found != expected {
                    let what = format!("block {id} holds {found} bytes, not {expected}");
                    return Err(Failure::new(what));
                }
                write_sparse(file, offset, &chunk.data)?;
            }
            offset += expected;
            self.bar.inc(expected);
        }
        Ok(file.set_len(offset)?)
    }

    /// Gives the directories their own modes and times: those below before those above, because
    /// writing into one changes its time.
    fn finish_directories(&self, all: &[&Stored]) {
        for stored in all.iter().rev().filter(|s| s.entry.content == Content::Directory) {
            let entry = &stored.entry;
            if self.blocked.contains(entry.path.as_slice()) {
                continue;
            }
            match self.root.finish_directory(entry) {
                Ok(Date::Kept) => {}
                Ok(Date::Lost) => self.note_lost_date(entry),
                Err(error) => self.note_failure(entry, &error.into()),
            }
        }
    }

    fn count_written(&self, entry: &Entry, date: Date) {
        self.written.fetch_add(1, Ordering::Relaxed);
        if date == Date::Lost {
            self.note_lost_date(entry);
        }
    }

    fn note_lost_date(&self, entry: &Entry) {
        let seconds = entry.mtime.seconds;
        let line = format!(
            "{}: the file system of the target has no date {seconds} s from 1970",
            printable(&entry.path)
        );
        self.said.lock().dates.push(line);
    }

    fn note_failure(&self, entry: &Entry, failure: &Failure) {
        let line = format!("cannot export {}: {failure}", printable(&entry.path));
        self.said.lock().failed.push(line);
    }
}
