//! Kinds of stores, and the states that each of them was in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, Options, StorageBackend};
use tempfile::TempDir;

use crate::files::names;
use crate::noise::payload;

/// Newest version of each block that there is.
pub type State = BTreeMap<u64, u64>;

/// What the checkpoint of a store covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// There is none.
    None,
    /// Everything, and the log is there from its first commit on.
    All,
    /// What was written before the last third.
    Part,
    /// Everything, and replaced versions are gone from the log.
    Packed,
}

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Closed, or killed.
    pub closed: bool,
    /// Of many segments, or of one.
    pub is_long: bool,
    pub image: Image,
}

impl Kind {
    pub fn all() -> impl Iterator<Item = Kind> {
        let images = [Image::None, Image::All, Image::Part, Image::Packed];
        [true, false].into_iter().flat_map(move |closed| {
            [true, false].into_iter().flat_map(move |is_long| {
                images.into_iter().map(move |image| Kind { closed, is_long, image })
            })
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed = if self.closed { "closed" } else { "killed" };
        let segments = if self.is_long { "many segments" } else { "one segment" };
        f.pad(&format!("{closed}, {segments}, checkpoint: {:?}", self.image))
    }
}

pub fn options(kind: Kind) -> Options {
    LocalBackend::options()
        .single_threaded(true)
        .segment_len_max(if kind.is_long { 64 << 10 } else { 4 << 20 })
        .block_len_max(16 << 10)
        .zero_ahead_len(64 << 10)
        .checkpoint_log_len(1 << 40)
        .space_amplification_max(100.0)
}

/// The version of a block with these bytes.
pub fn version_of(id: u64, bytes: &[u8]) -> Option<u64> {
    (1..=VERSION_MAX).find(|version| payload(id, *version) == bytes)
}

const VERSION_MAX: u64 = 9;

/// A store that is closed, and what it was like before.
pub struct Store {
    pub kind: Kind,
    pub directory: TempDir,
    /// After each commit, from none on.
    pub states: Vec<State>,
    /// Copies that were made of other paths.
    copies: std::cell::Cell<u32>,
}

impl Store {
    /// Makes a store. Beside it stands a copy of it as it was while it was open, at two thirds.
    pub fn make(kind: Kind) -> Store {
        let directory = tempfile::tempdir().expect("a directory");
        let (states, copies) = (vec![State::new()], std::cell::Cell::new(0));
        let mut made = Store { kind, directory, states, copies };
        let open = options(kind).open(made.path("open")).expect("opens");
        (1..=30).for_each(|id| made.write(&open, id, 1));
        (1..=10).for_each(|id| made.write(&open, id, 2));
        (11..=14).for_each(|id| made.delete(&open, id));
        if kind.image == Image::Part {
            open.checkpoint().expect("makes a checkpoint");
        }
        copy(&made.path("open"), &made.path("older"));
        (31..=45).for_each(|id| made.write(&open, id, 1));
        (20..=24).for_each(|id| made.write(&open, id, 2));
        match kind.image {
            Image::All => open.checkpoint().expect("makes a checkpoint"),
            Image::Packed => drop(open.compact_now().expect("compacts")),
            Image::None | Image::Part => {}
        }
        if kind.closed {
            open.close().expect("closes");
            copy(&made.path("open"), &made.path("store"));
        } else {
            copy(&made.path("open"), &made.path("store"));
            open.close().expect("closes");
        }
        made
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// How many commits were acknowledged.
    pub fn commits(&self) -> usize {
        self.states.len() - 1
    }

    /// Another copy of one of the directories.
    pub fn copy_of(&self, name: &str) -> PathBuf {
        self.copies.set(self.copies.get() + 1);
        let to = self.path(&format!("copy-{}", self.copies.get()));
        copy(&self.path(name), &to);
        to
    }

    pub fn write(&mut self, store: &LocalBackend, id: u64, version: u64) {
        write(store, id, version);
        let mut state = self.states[self.commits()].clone();
        state.insert(id, version);
        self.states.push(state);
    }

    fn delete(&mut self, store: &LocalBackend, id: u64) {
        store.delete_block(BlockId(id)).expect("deletes");
        let mut state = self.states[self.commits()].clone();
        state.remove(&id);
        self.states.push(state);
    }
}

pub fn write(store: &LocalBackend, id: u64, version: u64) {
    let block = Block::new(BlockId(id), BlockType::TableData, payload(id, version));
    store.write_block(block).expect("writes");
}

/// Copies the files of a directory, in the order of their names.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    for name in names(from) {
        fs::copy(from.join(&name), to.join(&name)).expect("copies");
    }
}

/// The name of the last file of a kind; of segments the last one that holds a frame.
pub fn last_file(path: &Path, prefix: &str) -> Option<String> {
    let is_used = |name: &String| prefix != "SEG-" || used_len(&path.join(name)) > 4096;
    names(path).into_iter().rfind(|name| name.starts_with(prefix) && is_used(name))
}

/// Bytes of a file up to the last one that is not zero.
pub fn used_len(path: &Path) -> u64 {
    let bytes = fs::read(path).expect("reads");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}
