//! What the world does to files.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::kinds::{Store, last_file, used_len};

const PAGE_LEN: u64 = 4096;

/// A kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// None: the store as it is.
    Nothing,
    /// The last segment ends at half of what was written to it.
    CutToHalf,
    /// It ends behind its header.
    CutToHeader,
    /// It is empty.
    CutToNothing,
    /// It ends one byte before its last one.
    CutOne,
    /// Its second half is zeros.
    ZeroedHalf,
    /// Its last pages are zeros.
    ZeroedPages(u64),
    /// It is gone.
    LastGone,
    /// It is gone, and so is the one before.
    LastTwoGone,
    /// The last segment is as it was when two thirds were written.
    OlderLast,
}

impl Harm {
    /// What takes away the end of the log.
    pub const ENDS: &[Harm] = &[
        Harm::Nothing,
        Harm::CutToHalf,
        Harm::CutToHeader,
        Harm::CutToNothing,
        Harm::CutOne,
        Harm::ZeroedHalf,
        Harm::ZeroedPages(1),
        Harm::ZeroedPages(2),
        Harm::ZeroedPages(3),
        Harm::ZeroedPages(5),
        Harm::LastGone,
        Harm::LastTwoGone,
        Harm::OlderLast,
    ];

    /// Damages a copy of the store; `None` where it has no such file.
    pub fn apply(self, store: &Store) -> Option<PathBuf> {
        let path = store.copy_of("store");
        let last = last_file(&path, "SEG-").map(|name| path.join(name));
        match self {
            Harm::Nothing => {}
            Harm::CutToHalf => cut(&last?, |used| used / 2),
            Harm::CutToHeader => cut(&last?, |_| PAGE_LEN),
            Harm::CutToNothing => cut(&last?, |_| 0),
            Harm::CutOne => cut(&last?, |used| used - 1),
            Harm::ZeroedHalf => zero(&last?, |used| used / 2),
            Harm::ZeroedPages(count) => {
                zero(&last?, |used| used.next_multiple_of(PAGE_LEN) - count * PAGE_LEN);
            }
            Harm::LastGone => fs::remove_file(last?).expect("removes"),
            Harm::LastTwoGone => {
                for _ in 0..2 {
                    let name = last_file(&path, "SEG-")?;
                    fs::remove_file(path.join(name)).expect("removes");
                }
            }
            Harm::OlderLast => {
                let name = last?.file_name()?.to_owned();
                take(&store.path("older").join(&name), &path.join(&name))?;
            }
        }
        Some(path)
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

fn cut(path: &Path, to: impl Fn(u64) -> u64) {
    let len = to(used_len(path));
    fs::File::options().write(true).open(path).expect("opens").set_len(len).expect("cuts");
}

fn zero(path: &Path, from: impl Fn(u64) -> u64) {
    let from = from(used_len(path)) as usize;
    let mut bytes = fs::read(path).expect("reads");
    bytes[from..].fill(0);
    fs::write(path, bytes).expect("writes");
}

fn take(from: &Path, to: &Path) -> Option<()> {
    from.exists().then(|| fs::copy(from, to).expect("copies")).map(drop)
}
