//! A directory in which the program runs, trees of files, and stores looked at from the inside.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use aegis_blocks::{Block, BlockType, LocalBackend, StorageBackend};
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_aegis-blocks");

/// A directory to work in, with `store` and `tree` in it by convention.
pub struct Desk(pub TempDir);

impl Desk {
    pub fn new() -> Desk {
        Desk(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed and returns its standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with one line, and returns that line.
    pub fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        let line = stderr.trim_end().strip_prefix("aegis-blocks: ");
        line.unwrap_or_else(|| panic!("{stderr}")).to_string()
    }

    /// Runs a command that ends with this code, and returns what it says on standard error.
    pub fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        stderr
    }

    pub fn put(&self, payload: &[u8], arguments: &[&str]) -> String {
        let mut child = self
            .command(&[&["put", "store"], arguments].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(payload).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim_end().to_string()
    }

    /// A small tree with everything that a tree can hold.
    pub fn make_tree(&self) {
        let tree = self.path("tree");
        for dir in ["", "a", "a/empty", "a/read-only"] {
            fs::create_dir(tree.join(dir)).unwrap();
        }
        fs::write(tree.join("empty"), "").unwrap();
        fs::write(tree.join("a/one"), "1").unwrap();
        fs::write(tree.join("a/large"), noise(100_000)).unwrap();
        fs::write(tree.join("a/exactly two chunks"), noise(8192)).unwrap();
        fs::write(tree.join(OsStr::from_bytes(b"not \xff\xfe text\n")), "x").unwrap();
        fs::write(tree.join("a/read-only/file"), "r").unwrap();
        symlink("../empty", tree.join("a/link")).unwrap();
        symlink("/nowhere/at all", tree.join("dangling")).unwrap();
        set_mode(&tree.join("a/one"), 0o751);
        set_mode(&tree.join("a/read-only/file"), 0o400);
        set_mode(&tree.join("a/read-only"), 0o555);
    }

    pub fn import(&self, more: &[&str]) -> String {
        self.ok(&[&["import", "store", "tree", "--chunk", "4KiB"], more].concat())
    }

    /// Exports to a fresh directory and compares.
    pub fn check_export(&self) {
        if self.path("out").exists() {
            fs::remove_dir_all(self.path("out")).unwrap();
        }
        self.ok(&["export", "store", "out"]);
        assert_eq!(snapshot(&self.path("out")), snapshot(&self.path("tree")));
    }
}

/// A directory must be writable again for its owner to be removed.
impl Drop for Desk {
    fn drop(&mut self) {
        for tree in ["tree", "out"] {
            let read_only = self.path(tree).join("a/read-only");
            if read_only.exists() {
                set_mode(&read_only, 0o755);
            }
        }
    }
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(step).collect()
}

/// Path, mode, time and content of everything in a tree.
pub fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, (u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            b"directory".to_vec()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_vec()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let description = (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content);
        found.insert(name, description);
    }
    found
}

pub fn block_count(desk: &Desk) -> u64 {
    let store = LocalBackend::open(desk.path("store")).unwrap();
    let count = store.stats().total_blocks;
    store.close().unwrap();
    count
}

/// Where the path begins in the metadata block of an entry.
pub const ENTRY_PATH_AT: usize = 72;

/// The metadata block of an imported path.
pub fn entry_of(store: &LocalBackend, path: &str) -> Block {
    let ids = store.ids(..).unwrap();
    let mut blocks = ids.into_iter().map(|id| store.read_block(id).unwrap());
    blocks
        .find(|block| {
            let path_len = path.len();
            block.header.block_type == BlockType::Metadata
                && block.data[12..16] == (path_len as u32).to_le_bytes()
                && block.data[ENTRY_PATH_AT..].starts_with(path.as_bytes())
        })
        .unwrap()
}

/// Changes the bytes of the entry of `path`.
pub fn edit_entry(desk: &Desk, path: &str, edit: impl FnOnce(&mut Vec<u8>)) {
    let store = LocalBackend::open(desk.path("store")).unwrap();
    let block = entry_of(&store, path);
    let mut bytes = block.data.to_vec();
    edit(&mut bytes);
    store.write_block(Block::new(block.header.block_id, BlockType::Metadata, bytes)).unwrap();
    drop(block);
    store.close().unwrap();
}
