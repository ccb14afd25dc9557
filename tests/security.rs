//! What another user plants in a store's directory, what others may read of it, and what its errors
//! and its source say: links and devices are refused, modes are the owner's alone, and no value
//! gets into a message.
//!
//! A store of wider modes is opened as it is: that was its owner's decision. Where others can
//! write to the directory, files that are not ours or have a second name are refused.

#[path = "support/fill.rs"]
mod fill;
#[path = "support/options.rs"]
mod options;

use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_blocks::{
    Block, BlockId, Error, IoOp, LocalBackend, NotAStoreReason, Options, StorageBackend,
};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{geteuid, mkfifo};
use tempfile::TempDir;

use options::short_segments;

fn options() -> Options {
    short_segments(64 << 10, 16 << 10).zero_ahead_len(0)
}

fn block(id: u64) -> Block {
    fill::filling(id, 15_000)
}

fn write(store: &LocalBackend, ids: RangeInclusive<u64>) {
    for id in ids {
        store.write_block(block(id)).expect("a write");
    }
}

/// A closed store of several segments, in a directory of its own.
fn closed_store() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("store");
    let store = options().open(&path).expect("a new store");
    write(&store, 1..=8);
    store.close().expect("a clean close");
    (directory, path)
}

#[track_caller]
fn check(path: &Path) {
    let store = options().open(path).expect("the store opens");
    for id in 1..=8 {
        assert_eq!(store.read_block(BlockId(id)).expect("a block"), block(id));
    }
    store.close().expect("a clean close");
}

/// The files of a store, by name.
fn files(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).expect("the store's directory");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

// Planted files.

/// Puts something in place of a file.
type Plant = fn(&Path, &Path);

const PLANTS: [(&str, Plant); 4] = [
    ("link", |_, at| symlink("elsewhere", at).expect("a dangling link")),
    ("link to the file", |moved, at| symlink(moved, at).expect("a link")),
    ("pipe", |_, at| mkfifo(at, Mode::S_IRWXU).expect("a pipe")),
    ("directory", |_, at| fs::create_dir(at).expect("a directory")),
];

fn unplant(at: &Path) {
    let removed =
        if at.is_dir() && !at.is_symlink() { fs::remove_dir(at) } else { fs::remove_file(at) };
    removed.expect("what was planted is gone");
}

#[track_caller]
fn refused_as_unsafe(path: &Path, what: &str) {
    for _ in 0..2 {
        let error = options().open(path).expect_err("something else stands in place of a file");
        let reason = NotAStoreReason::UnsafeFile;
        assert!(
            matches!(&error, Error::NotAStore { reason: found, .. } if *found == reason),
            "{what}: {error:?}"
        );
        let error = LocalBackend::verify(path).expect_err("the same for verify");
        assert!(matches!(error, Error::NotAStore { .. }), "{what}: {error:?}");
    }
}

#[test]
fn nothing_but_plain_files_is_opened_in_place_of_any_file() {
    let (directory, path) = closed_store();
    let moved = directory.path().join("moved");
    for victim in files(&path) {
        fs::rename(&victim, &moved).expect("the file moves away");
        for (what, plant) in PLANTS {
            plant(&moved, &victim);
            refused_as_unsafe(&path, what);
            unplant(&victim);
        }
        fs::rename(&moved, &victim).expect("the file comes back");
    }
    check(&path);
    // Names of ours that are not there yet: unfinished files and checkpoints.
    for name in ["TMP-00000000000000aa", "CKPT-00000000000000aa", "SEG-00000000000000aa"] {
        for (what, plant) in PLANTS {
            plant(&moved, &path.join(name));
            refused_as_unsafe(&path, what);
            unplant(&path.join(name));
        }
    }
    check(&path);
}

#[test]
fn devices_are_refused_in_place_of_any_file() {
    if !geteuid().is_root() {
        println!("skipped: only root can make a device");
        return;
    }
    let (directory, path) = closed_store();
    let moved = directory.path().join("moved");
    for victim in files(&path) {
        fs::rename(&victim, &moved).expect("the file moves away");
        for (kind, device) in [(SFlag::S_IFCHR, makedev(1, 5)), (SFlag::S_IFBLK, makedev(7, 0))] {
            match mknod(&victim, kind, Mode::S_IRUSR | Mode::S_IWUSR, device) {
                Ok(()) => {
                    refused_as_unsafe(&path, "device");
                    let kind = fs::symlink_metadata(&victim).expect("the device").file_type();
                    assert!(kind.is_char_device() || kind.is_block_device());
                    unplant(&victim);
                }
                Err(e) => println!("skipped: no device can be made here: {e}"),
            }
        }
        fs::rename(&moved, &victim).expect("the file comes back");
    }
    check(&path);
}

#[test]
fn second_names_are_refused_where_others_can_write() {
    let (directory, path) = closed_store();
    for victim in files(&path) {
        let second = directory.path().join("second");
        fs::hard_link(&victim, &second).expect("a second name");
        check(&path);
        for mode in [0o770, 0o707] {
            set_mode(&path, mode);
            let error = options().open(&path).expect_err("another process may have the file open");
            assert!(
                matches!(&error, Error::Io { op: IoOp::Open | IoOp::Lock, source, .. }
                    if source.kind() == std::io::ErrorKind::PermissionDenied),
                "{victim:?}: {error:?}"
            );
        }
        set_mode(&path, 0o700);
        fs::remove_file(&second).expect("the second name is gone");
    }
    check(&path);
}

#[test]
fn files_of_others_are_refused_where_they_can_write() {
    if !geteuid().is_root() {
        println!("skipped: only root can give files away");
        return;
    }
    let (_directory, path) = closed_store();
    set_mode(&path, 0o777);
    for victim in files(&path) {
        nix::unistd::chown(&victim, Some(65_534.into()), None).expect("given away");
        let error = options().open(&path).expect_err("the file is another user's");
        assert!(matches!(&error, Error::Io { op: IoOp::Open | IoOp::Lock, .. }), "{error:?}");
        nix::unistd::chown(&victim, Some(0.into()), None).expect("taken back");
    }
    check(&path);
}

/// The store is open and goes on to new files. What was planted under their names is refused or
/// replaced, never written through.
#[test]
fn nothing_is_written_through_what_is_planted_under_names_to_come() {
    let prefixes = ["TMP-", "SEG-"];
    for (what, plant) in PLANTS {
        for prefix in prefixes {
            let (directory, path) = closed_store();
            let victim = directory.path().join("victim");
            fs::write(&victim, "another user's").expect("a file");
            let store = options().open(&path).expect("the store opens");
            let known = files(&path);
            let planted: Vec<_> = (1..200)
                .map(|number| path.join(format!("{prefix}{number:016x}")))
                .filter(|name| !known.contains(name))
                .collect();
            // The store makes files beside us: what it got to first is not planted.
            planted.iter().filter(|at| !at.exists()).for_each(|at| plant(&victim, at));
            let mut committed = 0;
            let refusal = (9..=40).find_map(|id| match store.write_block(block(id)) {
                Ok(_) => {
                    committed = id;
                    None
                }
                Err(error) => Some(error),
            });
            if let Some(error) = &refusal {
                let named = matches!(error, Error::Io { .. } | Error::Poisoned { .. });
                assert!(named, "{what} at {prefix}: {error:?}");
            }
            // A file is made where nothing is; the name that it gets then may be taken by anything
            // that a renaming replaces.
            let stops = prefix == "TMP-" || what == "directory";
            assert_eq!(refusal.is_some(), stops, "{what} at {prefix}");
            drop(store);
            assert_eq!(fs::read(&victim).expect("the victim"), b"another user's", "{what}");
            for at in planted.iter().filter(|at| at.symlink_metadata().is_ok()) {
                if !at.symlink_metadata().expect("looked at").is_file() {
                    unplant(at);
                }
            }
            let store = options().open(&path).expect("the store, without what was planted");
            for id in 1..=committed {
                assert_eq!(store.read_block(BlockId(id)).expect("a block"), block(id), "{what}");
            }
        }
    }
}

// Modes.

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").mode() & 0o7777
}

const CHILD: &str = "AEGIS_SECURITY_CHILD";

#[test]
fn files_and_directory_are_the_owners_alone_under_every_umask() {
    if let Some(path) = std::env::var_os(CHILD) {
        let store = options().open(&path).expect("a new store");
        write(&store, 1..=8);
        store.close().expect("a clean close");
        return;
    }
    for umask in ["0000", "0022", "0277", "0777"] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("store");
        let status = Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$0\" --exact \"$1\"")])
            .arg(std::env::current_exe().expect("this binary"))
            .arg("files_and_directory_are_the_owners_alone_under_every_umask")
            .env(CHILD, &path)
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.expect("started").success());
        assert_eq!(mode(&path), 0o700, "umask {umask}");
        files(&path).iter().for_each(|file| assert_eq!(mode(file), 0o600, "{file:?}, {umask}"));
        check(&path);
    }
}

#[test]
fn wider_modes_are_left_as_they_are_and_new_files_are_not_wide() {
    let (_directory, path) = closed_store();
    set_mode(&path, 0o755);
    let wide: Vec<_> = files(&path).into_iter().filter(|file| !file.ends_with("LOCK")).collect();
    wide.iter().for_each(|file| set_mode(file, 0o644));
    let store = options().open(&path).expect("the owner widened them");
    write(&store, 9..=20);
    store.close().expect("a clean close");
    assert_eq!(mode(&path), 0o755);
    let (mut kept, mut new) = (0, 0);
    for file in files(&path) {
        let is_wide = wide.contains(&file);
        assert_eq!(mode(&file), if is_wide { 0o644 } else { 0o600 }, "{file:?}");
        *(if is_wide { &mut kept } else { &mut new }) += 1;
    }
    assert!(kept >= 4 && new >= 2, "{kept} kept, {new} new");
    check(&path);
}

// Source.

/// Blocks of unsafe code in library and program. More need a reason, and then a higher number here.
const UNSAFE_BLOCK_COUNT: usize = 11;

fn sources(path: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).expect("the sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            found.push((path, text));
        }
    }
    found
}

#[test]
fn unsafe_code_is_in_one_module_and_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("program/src");
    let mut count = 0;
    for (path, text) in sources(&root).into_iter().chain(sources(&program)) {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let code = |line: &&str| !line.starts_with("//");
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| code(line)) {
            let forms = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern"];
            let found: usize = forms.iter().map(|form| line.matches(form).count()).sum();
            if found > 0 {
                assert!(path.starts_with(root.join("io/os")) || path == root.join("io/os.rs"));
                let before = lines[..at].iter().rev().take_while(|line| !code(line));
                let explained = before.clone().any(|line| line.starts_with("// SAFETY: "));
                assert!(explained, "{}:{} has no SAFETY comment", path.display(), at + 1);
            }
            count += found;
        }
    }
    assert_eq!(count, UNSAFE_BLOCK_COUNT, "blocks of unsafe code");
}

/// What a lock or a `OnceLock` holds while a thread has it stays so in a child that is forked then.
#[test]
fn statics_that_a_forked_child_inherits_are_atomic() {
    // Words of a thread, bytes that nothing changes, atomics in a struct, and the pool, which is
    // not touched in a child of the process that started it.
    let others = ["Cell<", "Zeros", "DescriptorSlot", "OnceLock<Option<ThreadPool>>"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut count = 0;
    for (path, text) in sources(&root) {
        for line in text.lines().map(|line| line.trim().trim_start_matches("pub(crate) ")) {
            let Some((_, kind)) = line.strip_prefix("static ").and_then(|l| l.split_once(": "))
            else {
                continue;
            };
            let is_atomic = kind.starts_with("Atomic");
            let is_known = others.iter().any(|other| kind.starts_with(other));
            assert!(is_atomic || is_known, "{}: {line}", path.display());
            count += 1;
        }
    }
    assert!(count >= 12, "{count} statics were found");
}

#[test]
fn library_prints_and_logs_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let is_silent = |path: &Path| !path.starts_with(root.join("testkit"));
    for (path, text) in sources(&root).into_iter().filter(|(path, _)| is_silent(path)) {
        for (at, line) in text.lines().enumerate() {
            let code = !line.trim_start().starts_with("//");
            let prints = ["print!(", "println!(", "eprint!(", "eprintln!(", "dbg!("];
            let found = prints.iter().any(|form| line.contains(form));
            assert!(!(code && found), "{}:{} prints", path.display(), at + 1);
        }
    }
}

/// Nothing is decided by the time of day, which may be set back: the one clock is monotonic.
#[test]
fn library_asks_for_no_wall_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (path, text) in sources(&root) {
        for (at, line) in text.lines().enumerate() {
            let code = !line.trim_start().starts_with("//");
            let asks = ["SystemTime", "UNIX_EPOCH", "CLOCK_REALTIME"];
            let found = asks.iter().any(|form| line.contains(form));
            assert!(!(code && found), "{}:{} asks for the time of day", path.display(), at + 1);
            let monotonic = line.contains("Instant::now");
            let place = path == root.join("io/os.rs");
            assert!(!(code && monotonic) || place, "{}:{} has a clock", path.display(), at + 1);
        }
    }
}

/// What weakens the store is in no source of it: mutants are written into a copy of the checkout.
#[test]
fn no_source_holds_a_mutant_or_asks_the_environment() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (path, source) in sources(&root) {
        for form in ["mutant::on", "planted(", "mod mutant"] {
            assert!(!source.contains(form), "{} has {form}", path.display());
        }
        let tests = path.components().any(|part| part.as_os_str() == "testkit")
            || path.ends_with("tests.rs");
        assert!(tests || !source.contains("env::var"), "{} asks for a variable", path.display());
    }
}

/// A result that is dropped is dropped on purpose, by `unheard` and with a reason.
#[test]
fn no_result_is_dropped_without_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let product = ["src", "program/src"].map(|dir| sources(&root.join(dir)));
    // A call whose result is a value, and no error.
    let silenced = [".ok();", ".unwrap_or_default();"];
    let values = ["into_inner(", ".take()", ".lock()", ".insert(", "replace("];
    for (path, source) in product.concat() {
        let is_test = path.components().any(|part| part.as_os_str() == "tests");
        if is_test || path.ends_with("tests.rs") || path.ends_with("unheard.rs") {
            continue;
        }
        let product = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for (at, line) in product.lines().enumerate() {
            let code = line.trim();
            let calls = code.strip_prefix("drop(").is_some_and(|argument| {
                argument.contains('(') && !values.iter().any(|value| argument.contains(value))
            });

            let silent = match code.strip_prefix("let ") {
                Some(bound) => bound
                    .strip_prefix("_ = ")
                    .is_some_and(|result| result.contains('(') && !result.starts_with('(')),
                None => silenced.iter().any(|form| code.ends_with(form)),
            };
            assert!(!calls && !silent, "{}:{}: {code}", path.display(), at + 1);
        }
    }
}
