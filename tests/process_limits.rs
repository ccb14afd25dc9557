//! Limits of the process: a shortage that touched nothing refuses the call that met it, by name,
//! and nothing else; once the limit is lifted the same store goes on.
//!
//! A limit is the whole process's, so each case runs in a child: this binary again, told what to do
//! by its environment. A child that a signal ends has failed.

#[path = "support/counted.rs"]
mod counted;
#[path = "support/fill.rs"]
mod fill;
#[path = "support/options.rs"]
mod options;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_blocks::{
    Block, BlockId, Durability, Error, LocalBackend, Options, ReadMode, Resource, Result,
    StorageBackend,
};
use memmap2::{Mmap, MmapMut};
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use nix::unistd::{Uid, chown, geteuid, setuid};

use options::short_segments;

const CASE: &str = "AEGIS_LIMIT_CASE";
const STORE: &str = "AEGIS_LIMIT_STORE";
const SEGMENT_LEN: u64 = 64 << 10;
const PAYLOAD_LEN: usize = 10 << 10;

/// Every few blocks begin a segment, and reads go to the files.
fn options() -> Options {
    short_segments(SEGMENT_LEN, 16 << 10).zero_ahead_len(0).recent_len(0)
}

fn block(id: u64) -> Block {
    fill::filling(id, PAYLOAD_LEN)
}

fn run_in_a_child(case: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "child_started_by_a_test", "--nocapture"])
        .env(CASE, case)
        .env(STORE, directory.path().join("store"))
        .output()
        .expect("the child starts");
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let words = told(&output.stdout) + &told(&output.stderr);
    assert!(output.status.success(), "{case}: {}: {words}", output.status);
    assert!(words.contains("all as promised"), "{case}: the child did nothing: {words}");
    counted::tell("children under a limit", 1);
}

/// The child's half. Does nothing unless a test has started it.
#[test]
fn child_started_by_a_test() {
    let Ok(case) = std::env::var(CASE) else { return };
    let path = PathBuf::from(std::env::var_os(STORE).expect("a store"));
    match case.as_str() {
        "descriptors" => descriptors(&path),
        "descriptors of reads" => descriptors_of_reads(&path),
        "address space" => address_space(&path),
        "maps" => maps(&path),
        "file length" => file_length(&path),
        "descriptors of opening" => descriptors_of_opening(&path),
        "threads" => threads(&path),
        "what it takes" => what_it_takes(&path),
        other => panic!("no such case: {other}"),
    }
    println!("all as promised");
}

/// Writes until a write is refused, and says by which error and how many were taken. Before each of
/// them it takes away what there is too much of.
fn write_until_refused(
    store: &LocalBackend,
    first: u64,
    mut take_away: impl FnMut(),
) -> (u64, Error) {
    for id in first..first + 1000 {
        take_away();
        if let Err(error) = store.write_block(block(id)) {
            return (id, error);
        }
    }
    panic!("nothing was refused");
}

/// What was acknowledged is there; what was refused is not, and the store takes it now.
fn check_goes_on(store: &LocalBackend, refused: u64) {
    assert!(!store.block_exists(BlockId(refused)).expect("an answer"), "refused and there");
    for id in refused..refused + 20 {
        store.write_block(block(id)).expect("the limit is lifted");
    }
    for id in 1..refused + 20 {
        assert_eq!(store.read_block(BlockId(id)).expect("the block").data, block(id).data);
    }
}

fn check_after_reopening(store: LocalBackend, path: &Path, count: u64) -> Result<()> {
    store.close()?;
    let store = options().open(path)?;
    assert_eq!(store.stats().total_blocks, count);
    store.close()
}

/// Leaves no descriptor to the process.
fn take_descriptors() -> Vec<File> {
    let used = fs::read_dir("/proc/self/fd").expect("descriptors").count() as u64;
    let (_, hard) = getrlimit(Limit::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Limit::RLIMIT_NOFILE, used + 8, hard).expect("a lower limit");
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken
}

/// Each file that is read keeps a descriptor: the store's own are given back for the next one.
fn descriptors_of_reads(path: &Path) {
    let store = options().read_mode(ReadMode::Pread).open(path).expect("a new store");
    for id in 1..=60 {
        store.write_block(block(id)).expect("a write");
    }
    store.read_block(BlockId(1)).expect("a file is open now");
    let taken = take_descriptors();
    for id in (1..=60).rev() {
        assert_eq!(store.read_block(BlockId(id)).expect("reads go on").data, block(id).data);
    }
    drop(taken);
    let (_, hard) = getrlimit(Limit::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Limit::RLIMIT_NOFILE, hard, hard).expect("no limit");
    check_after_reopening(store, path, 60).expect("closes and opens");
}

/// Everything that a store does, where files cannot be mapped.
fn check_unmapped(store: &LocalBackend, first: u64) {
    for id in first..first + 60 {
        store.write_block(block(id)).expect("no map is needed");
    }
    for id in first..first + 60 {
        assert_eq!(store.read_block(BlockId(id)).expect("no map is needed").data, block(id).data);
    }
    store.checkpoint().expect("no map is needed");
    for id in first..first + 30 {
        store.delete_block(BlockId(id)).expect("no map is needed");
        assert!(store.block_exists(BlockId(id + 30)).expect("no map is needed"));
    }
    store.compact_now().expect("no map is needed");
}

fn address_space(path: &Path) {
    // A segment is longer than what is left.
    let options = || options().segment_len_max(256 << 20).single_threaded(true);
    let status = fs::read_to_string("/proc/self/statm").expect("what is used");
    let pages: u64 = status.split(' ').next().expect("a figure").parse().expect("a figure");
    let (_, hard) = getrlimit(Limit::RLIMIT_AS).expect("a limit");
    setrlimit(Limit::RLIMIT_AS, (pages << 12) + (128 << 20), hard).expect("a lower limit");
    let store = options().open(path).expect("no map is needed");
    check_unmapped(&store, 1);
    store.close().expect("closes");
    let store = options().open(path).expect("no map is needed");
    assert_eq!(store.stats().total_blocks, 30);
    check_unmapped(&store, 61);
    store.close().expect("closes");
}

/// Takes every map that the process may have (`vm.max_map_count`), but for a few.
fn take_maps() -> Vec<Mmap> {
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").expect("a limit");
    let mut taken = Vec::with_capacity(limit.trim().parse().expect("a figure"));
    // Neighbours with other rights stay maps of their own.
    while let Ok(map) = MmapMut::map_anon(4096).and_then(MmapMut::make_read_only) {
        taken.push(map);
        match MmapMut::map_anon(4096).and_then(MmapMut::make_exec) {
            Ok(map) => taken.push(map),
            Err(_) => break,
        }
    }
    taken.truncate(taken.len() - 8);
    taken
}

fn maps(path: &Path) {
    let store = options().open(path).expect("a new store");
    let taken = take_maps();
    check_unmapped(&store, 1);
    drop(taken);
    check_after_reopening(store, path, 30).expect("closes and opens");
}

fn descriptors(path: &Path) {
    let store = options().open(path).expect("a new store");
    store.write_block(block(1)).expect("a write");
    let mut taken = take_descriptors();
    // A thread of the store may have had a file open for a moment, and give its descriptor back.
    let (refused, error) = write_until_refused(&store, 2, || taken.extend(File::open("/dev/null")));
    assert!(
        matches!(error, Error::ResourceExhausted { resource: Resource::Descriptors, .. }),
        "{error:?}"
    );
    for id in 1..refused {
        assert_eq!(store.read_block(BlockId(id)).expect("reads go on").data, block(id).data);
    }
    drop(taken);
    check_goes_on(&store, refused);
    check_after_reopening(store, path, refused + 19).expect("closes and opens");
}

/// Descriptors that opening takes at most, whatever the store holds: `docs/reliability.md` says so.
const OPENING_DESCRIPTORS: u64 = 12;

/// Opens with ever more descriptors left, until that is enough, and returns how many were.
fn open_with_few(path: &Path, options: fn() -> Options, what: &str) -> u64 {
    let (_, hard) = getrlimit(Limit::RLIMIT_NOFILE).expect("a limit");
    let used = fs::read_dir("/proc/self/fd").expect("descriptors").count() as u64 - 1;
    for left in 0..=OPENING_DESCRIPTORS {
        setrlimit(Limit::RLIMIT_NOFILE, used + left, hard).expect("a lower limit");
        let opened = options().open(path);
        setrlimit(Limit::RLIMIT_NOFILE, hard, hard).expect("no limit");
        match opened {
            Ok(store) => {
                println!("{what}: {left} descriptors are enough");
                drop(store);
                return left;
            }
            Err(Error::ResourceExhausted { resource: Resource::Descriptors, .. }) => {}
            Err(error) => panic!("{what}, {left} descriptors left: {error:?}"),
        }
    }
    panic!("{what}: {OPENING_DESCRIPTORS} descriptors are not enough");
}

/// Hundreds of segments, closed and not, with each way of reading.
fn descriptors_of_opening(path: &Path) {
    let fill = |first: u64| {
        let store = options().durability(Durability::Buffered).open(path).expect("opens");
        for id in first..first + 1000 {
            store.write_block(block(id)).expect("a write");
        }
        store.sync().expect("a sync");
        store
    };
    fill(1).close().expect("closes");
    assert!(open_with_few(path, options, "closed") > 1);
    let by_file = || options().read_mode(ReadMode::Pread);
    drop(fill(1001));
    open_with_few(path, by_file, "not closed, without maps");
    drop(fill(2001));
    open_with_few(path, options, "not closed");
    let store = options().open(path).expect("opens");
    for id in [1, 1000, 1500, 3000] {
        assert_eq!(store.read_block(BlockId(id)).expect("the block").data, block(id).data);
    }
    assert_eq!(store.stats().total_blocks, 3000);
    store.close().expect("closes");
}

/// Who may do everything has no limit on threads: such a process becomes another user first, one
/// who has none.
fn become_unprivileged(path: &Path) {
    if !geteuid().is_root() {
        return;
    }
    let user = Uid::from_raw(60_000 + std::process::id() % 4000);
    let directory = path.parent().expect("a directory");
    chown(directory, Some(user), None).expect("the directory is given away");
    setuid(user).expect("another user");
}

fn threads(path: &Path) {
    become_unprivileged(path);
    options().open(path).expect("a new store").close().expect("closes");
    let names = || {
        let entries = fs::read_dir(path).expect("the store").map(|entry| entry.expect("a file"));
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let (soft, hard) = getrlimit(Limit::RLIMIT_NPROC).expect("a limit");
    setrlimit(Limit::RLIMIT_NPROC, 1, hard).expect("a lower limit");
    let error = options().open(path).map(drop).expect_err("there are no threads to be had");
    assert!(
        matches!(error, Error::ResourceExhausted { resource: Resource::Threads, .. }),
        "{error:?}"
    );
    assert_eq!(names(), before, "what was refused left no file");
    let alone = || options().single_threaded(true);
    let store = alone().open(path).expect("it needs no thread");
    store.write_block(block(1)).expect("a write");
    store.close().expect("closes");
    setrlimit(Limit::RLIMIT_NPROC, soft, hard).expect("no limit");
    let store = options().open(path).expect("the limit is lifted");
    store.write_block(block(2)).expect("a write");
    check_after_reopening(store, path, 2).expect("closes and opens");
}

fn file_length(path: &Path) {
    let store = options().open(path).expect("a new store");
    store.write_block(block(1)).expect("a write");
    let (_, hard) = getrlimit(Limit::RLIMIT_FSIZE).expect("a limit");
    store.close().expect("closes");
    setrlimit(Limit::RLIMIT_FSIZE, 40 << 10, hard).expect("a lower limit");
    let store = options().open(path).expect("the log ends below the limit");
    let (refused, error) = write_until_refused(&store, 2, || {});
    assert!(
        matches!(error, Error::ResourceExhausted { resource: Resource::FileLength, .. }),
        "{error:?}"
    );
    assert!(refused > 2, "what fits is taken");
    setrlimit(Limit::RLIMIT_FSIZE, hard, hard).expect("no limit");
    check_goes_on(&store, refused);
    let count = store.stats().total_blocks;
    // Opening writes the last page of the log again: below a limit that forbids it, it is refused
    // by name.
    drop(store);
    setrlimit(Limit::RLIMIT_FSIZE, 4 << 10, hard).expect("a lower limit");
    let error = options().open(path).map(drop).expect_err("the limit is below the log's end");
    assert!(
        matches!(error, Error::ResourceExhausted { resource: Resource::FileLength, .. }),
        "{error:?}"
    );
    setrlimit(Limit::RLIMIT_FSIZE, hard, hard).expect("no limit");
    let store = options().open(path).expect("opens again");
    check_after_reopening(store, path, count).expect("closes and opens");
}

/// What this process has of a store below a path: descriptors, maps, and threads by the names of
/// the store's.
fn taken(path: &Path) -> [u64; 3] {
    let entries = |directory: &str| fs::read_dir(directory).expect("a listing").flatten();
    let links = entries("/proc/self/fd").filter_map(|entry| fs::read_link(entry.path()).ok());
    let maps = fs::read_to_string("/proc/self/maps").expect("the maps of this process");
    let below = path.to_string_lossy().into_owned();
    let names =
        entries("/proc/self/task").map(|entry| fs::read_to_string(entry.path().join("comm")));
    let is_ours = |name: std::io::Result<String>| name.is_ok_and(|name| name.starts_with("aegis-"));
    [
        links.filter(|target| target.starts_with(path)).count() as u64,
        maps.lines().filter(|line| line.contains(&below)).count() as u64,
        names.map(is_ours).filter(|is_ours| *is_ours).count() as u64,
    ]
}

/// The table of docs/reliability.md: what is taken at rest, and at most beside what the options
/// allow.
fn told() -> [[u64; 2]; 3] {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md");
    let document = fs::read_to_string(document).expect("the document");
    let (_, document) = document.split_once("### What a store takes").expect("the table");
    ["descriptors", "maps", "threads"].map(|what| {
        let row = document.lines().find(|line| line.starts_with(&format!("| {what} | ")));
        let cells: Vec<_> = row.expect("a row").split(" | ").collect();
        let first =
            |cell: &str| cell.split(&[' ', ',']).next().and_then(|number| number.parse().ok());
        [1, 2].map(|cell| first(cells[cell]).expect("a number"))
    })
}

fn what_it_takes(path: &Path) {
    let told = told();
    let at_rest = told.map(|[at_rest, _]| at_rest);
    let store = LocalBackend::open(path).expect("a new store");
    store.write_block(block(1)).expect("a write");
    // A thread that was just started gives itself its name.
    while taken(path)[2] < at_rest[2] {
        std::thread::yield_now();
    }
    let rested = taken(path);
    println!("at rest {rested:?}");
    assert!(rested.iter().zip(at_rest).all(|(taken, told)| *taken <= told), "{rested:?}");
    store.close().expect("closes");
    assert_eq!(taken(path), [0; 3], "a closed store has nothing");
    for mode in [ReadMode::Copied, ReadMode::Mapped, ReadMode::Pread] {
        let (files_max, maps_max) = (5, 7);
        let options = options().read_mode(mode).checkpoint_log_len(100 << 10);
        let options = options.open_segments_max(files_max).mapped_segments_max(maps_max);
        let store = options.open(path).expect("opens");
        let mut most = [0; 3];
        for id in 1..300 {
            store.write_block(block(id)).expect("a write");
            let read = store.read_block(BlockId(1 + id * 7 % id)).expect("a read");
            let now = taken(path);
            for (most, now) in most.iter_mut().zip(now) {
                *most = now.max(*most);
            }
            drop(read);
        }
        assert!(store.stats().segments > 40, "{:?}", store.stats().segments);
        let files_max = if mode == ReadMode::Pread { files_max as u64 } else { 0 };
        let maps_max = if mode == ReadMode::Pread { 0 } else { maps_max as u64 };

        let at_most = [told[0][1] + files_max, told[1][1] + maps_max, told[2][1]];
        for (most, at_most) in most.iter().zip(at_most) {
            assert!(*most <= at_most, "{mode:?}: {most:?} instead of {at_most:?}");
        }
        store.close().expect("closes");
    }
}

#[test]
fn store_takes_no_more_of_its_process_than_the_document_says() {
    run_in_a_child("what it takes");
}

#[test]
fn commit_that_finds_no_descriptor_is_refused_and_the_store_goes_on() {
    run_in_a_child("descriptors");
}

#[test]
fn commit_that_would_make_a_file_too_long_is_refused_and_ends_no_process() {
    run_in_a_child("file length");
}

#[test]
fn opening_needs_few_descriptors_whatever_the_store_holds() {
    run_in_a_child("descriptors of opening");
}

#[test]
fn open_that_gets_no_thread_is_refused_by_name_and_changes_nothing() {
    run_in_a_child("threads");
}

#[test]
fn reads_give_descriptors_of_the_store_back_for_one_that_is_missing() {
    run_in_a_child("descriptors of reads");
}

#[test]
fn store_without_address_space_for_maps_reads_writes_and_opens() {
    run_in_a_child("address space");
}

#[test]
fn store_without_maps_reads_and_writes() {
    run_in_a_child("maps");
}
