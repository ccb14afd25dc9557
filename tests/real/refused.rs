//! What file systems refuse: wishes that a store goes on without, and what it insists on.
//!
//! A child works on a store below `strace`, which answers one kind of call in the kernel's place,
//! each time. The parent then opens what is left undisturbed and compares.

use std::fs;
use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aegis_blocks::{
    Block, BlockId, Error, LocalBackend, Options, ReadMode, Result, StorageBackend,
};

use crate::arena::{Arena, Skipped, say, tool};
use crate::fill::filling;

const DIRECTORY: &str = "AEGIS_REFUSED_DIRECTORY";

/// Calls that a store goes on without, and how they are refused.
const WISHES: [(&str, &str); 12] = [
    ("fchmod", "EPERM"),
    ("fchmod", "EOPNOTSUPP"),
    ("fchmod", "ENOSYS"),
    ("fallocate", "EOPNOTSUPP"),
    ("fallocate", "ENOSYS"),
    ("sync_file_range", "ENOSYS"),
    ("fadvise64", "ENOSYS"),
    ("madvise", "EINVAL"),
    ("fstatfs", "ENOSYS"),
    ("ioctl", "ENOTTY"),
    ("linkat", "EPERM"),
    ("linkat", "EOPNOTSUPP"),
];

/// Calls that a store is nothing without: each refusal is the error of the open.
const NEEDS: [(&str, &str, &str); 4] = [
    ("flock", "ENOLCK", "lock failed on "),
    ("flock", "EOPNOTSUPP", "lock failed on "),
    ("fsync", "EINVAL", "open failed on "),
    ("fdatasync", "EINVAL", "write failed on "),
];

fn options() -> Options {
    LocalBackend::options().segment_len_max(256 << 10).read_mode(ReadMode::Copied)
}

const BLOCKS: u64 = 60;

fn block(id: u64) -> Block {
    filling(id, 9000)
}

fn fill(store: &LocalBackend) {
    for id in 1..=BLOCKS {
        store.write_block(block(id)).expect("a write");
    }
}

/// Everything that a store does, once.
fn work(path: &Path) -> Result<()> {
    let store = options().open(path.join("store"))?;
    (1..=BLOCKS).try_for_each(|id| store.write_block(block(id)).map(drop))?;
    (1..=BLOCKS / 2).try_for_each(|id| store.delete_block(BlockId(id)))?;
    store.checkpoint()?;
    store.compact_now()?;
    store.prepare_space(1 << 20)?;
    assert!(store.space()?.left_bytes > 0, "unknown is not full");
    store.backup_to(path.join("first"), None, &|_| Continue(()))?;
    store.write_block(block(BLOCKS + 1))?;
    store.backup_to(path.join("second"), Some(&path.join("first")), &|_| Continue(()))?;
    store.close()?;
    LocalBackend::restore(path.join("second"), path.join("again"), &|_| Continue(()))?;
    let store = options().open(path.join("again"))?;
    println!("modes refused: {}", store.recovery().modes_refused);
    store.close()
}

/// The child's half. Does nothing unless a test has started it.
#[test]
fn worker_started_by_a_test() {
    let Some(path) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    match work(&path) {
        Ok(()) => println!("done"),
        Err(error) => println!("error: {error}"),
    }
}

/// Has a child work in `path`, and returns what it says and how many calls were refused.
fn refused(arena: &Arena, path: &Path, call: &str, errno: &str) -> (String, usize) {
    let trace = arena.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&trace).arg("-e").arg(format!("trace={call}"));
    command.arg("-e").arg(format!("inject={call}:error={errno}"));
    command.arg(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "refused::worker_started_by_a_test", "--nocapture"]);
    command.env(DIRECTORY, path).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().expect("its end");
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{call} {errno}: {words}");
    let traced = fs::read_to_string(&trace).expect("a trace");
    (words, traced.matches("(INJECTED)").count())
}

pub fn wishes(arena: &Arena) -> std::result::Result<(), Skipped> {
    tool("strace")?;
    let mut count = 0;
    for (call, errno) in WISHES {
        let path = arena.path().join("wishes");
        fs::create_dir(&path).expect("a directory");
        let (words, refused) = refused(arena, &path, call, errno);
        assert!(refused > 0, "{call} was never refused");
        assert!(words.contains("done"), "{call} {errno}: {words}");
        count += refused;
        for name in ["store", "again"] {
            let store = options().open(path.join(name)).expect("opens");
            for id in BLOCKS / 2 + 1..=BLOCKS + 1 {
                let found = store.read_block(BlockId(id)).expect("readable");
                assert_eq!(found, block(id), "{call} {errno}");
            }
            store.close().expect("a clean close");
            let report = LocalBackend::verify(path.join(name)).expect("a report");
            assert_eq!(report.damage, [], "{call} {errno}");
        }
        fs::remove_dir_all(&path).expect("removed");
    }
    say(&format!("{} wishes, refused {count} times", WISHES.len()));
    Ok(())
}

pub fn needs(arena: &Arena) -> std::result::Result<(), Skipped> {
    tool("strace")?;
    for (call, errno, message) in NEEDS {
        let path = arena.path().join("needs");
        fs::create_dir(&path).expect("a directory");
        let (words, refused) = refused(arena, &path, call, errno);
        assert!(refused > 0, "{call} was never refused");
        let line = words.lines().find(|line| line.starts_with("error: "));
        let line = line.unwrap_or_else(|| panic!("{call} {errno}: {words}"));
        assert!(line.contains(message), "{call} {errno}: {line}");
        assert!(line.contains("(os error "), "the system's words: {line}");
        // A store only if all of it is there.
        match options().create(false).open(path.join("store")) {
            Ok(store) => store.close().expect("a clean close"),
            Err(error) => assert!(matches!(error, Error::NotAStore { .. }), "{error:?}"),
        }
        fs::remove_dir_all(&path).expect("removed");
    }
    Ok(())
}

/// Damages the seventh block of a store.
fn damage(path: &Path) -> (PathBuf, Vec<u8>) {
    let segment = path.join("SEG-0000000000000001");
    let mut bytes = fs::read(&segment).expect("a segment");
    let at = bytes.windows(9000).position(|window| window == [7; 9000]).expect("a payload");
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).expect("damaged");
    (segment, bytes)
}

/// A repaired store whose file system has no exchange of names is there, beside the damaged one.
pub fn exchange(arena: &Arena) -> std::result::Result<(), Skipped> {
    tool("strace")?;
    let path = arena.path().join("store");
    let store = options().open(&path).expect("a store");
    fill(&store);
    store.close().expect("a clean close");
    let (segment, bytes) = damage(&path);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2"]);
    command.args(["-e", "inject=renameat2:error=EINVAL"]);
    command.arg(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "refused::repairer_started_by_a_test", "--nocapture"]);
    let output = command.env(DIRECTORY, &path).output().expect("its end");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(words.contains("done: this backend does not offer an exchange of two"), "{words}");
    assert!(fs::read(&segment).expect("the damaged one") == bytes, "it was not touched");
    let repaired = path.with_file_name("store.repairing-1");
    let store = options().open(repaired).expect("the repaired store");
    for id in (1..=BLOCKS).filter(|id| *id != 7) {
        assert_eq!(store.read_block(BlockId(id)).expect("saved"), block(id));
    }
    Ok(())
}

/// A volume has no other name, and nothing is copied to the file system around it.
pub fn volume(arena: &Arena) -> std::result::Result<(), Skipped> {
    let path = arena.memory("volume", "")?;
    let store = options().open(&path).expect("a store");
    fill(&store);
    store.close().expect("a clean close");
    assert_eq!(LocalBackend::repair(&path).expect("nothing to repair"), Default::default());
    damage(&path);
    let error = LocalBackend::repair(&path).expect_err("a mount point");
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    assert_eq!(fs::read_dir(arena.path()).expect("the arena").count(), 1, "nothing beside it");
    let out = arena.path().join("out");
    let report = LocalBackend::salvage(&path, &out).expect("a copy");
    assert_eq!(report.losses.len(), 1, "{report:?}");
    Ok(())
}

#[test]
fn repairer_started_by_a_test() {
    let Some(path) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let error = LocalBackend::repair(path).expect_err("no exchange");
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    println!("done: {error}");
}

/// A file system without an end says that it has no blocks at all. That is not full.
pub fn untold(arena: &Arena) -> std::result::Result<(), Skipped> {
    let path = arena.memory("endless", "size=0")?;
    let rung = Arc::new(AtomicBool::new(false));
    let bell = Arc::clone(&rung);
    let options = options().on_space_low(1 << 40, move |_| bell.store(true, Ordering::SeqCst));
    let store = options.open(path.join("store")).expect("a store");
    fill(&store);
    store.compact_now().expect("compacts");
    assert_eq!(store.space().expect("a report").left_bytes, u64::MAX);
    store.close().expect("a clean close");
    assert!(!rung.load(Ordering::SeqCst), "no alarm");
    Ok(())
}
