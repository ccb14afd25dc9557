//! What the world does to files.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use crate::files::names;
use crate::kinds::{Store, last_file, options, used_len, write};

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
    /// The newest checkpoint is gone.
    CheckpointGone,
    /// A byte of the newest checkpoint is another one.
    CheckpointFlipped(u64),
    /// The newest checkpoint ends at its half.
    CheckpointCut,
    /// The second half of the first segment is zeros.
    FirstZeroed,
    /// The first segment ends at its half.
    FirstCut,
    /// The last segment is as it was when two thirds were written.
    OlderLast,
    /// The first segment that has changed since is as it was then.
    OlderFirst,
    /// A copy was made of the directory while it was written to, the first files before, the last
    /// ones after.
    CopiedWhileOpen,
    /// Two copies went on. This is one of them, with the last segment of the other.
    LastOfAnotherLife,
    /// With the newest checkpoint of the other.
    CheckpointOfAnotherLife,
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

    /// Every kind of damage.
    pub fn all() -> Vec<Harm> {
        let others = [
            Harm::CheckpointGone,
            Harm::CheckpointFlipped(50),
            Harm::CheckpointFlipped(PAGE_LEN + 500),
            Harm::CheckpointCut,
            Harm::FirstZeroed,
            Harm::FirstCut,
            Harm::OlderFirst,
            Harm::CopiedWhileOpen,
            Harm::LastOfAnotherLife,
            Harm::CheckpointOfAnotherLife,
        ];
        [Harm::ENDS, &others].concat()
    }

    /// Whether it leaves the checkpoint all of its pages but one.
    pub fn is_of_a_page(self) -> bool {
        matches!(self, Harm::CheckpointFlipped(_))
    }

    /// Damages a copy of the store; `None` where it has no such file.
    pub fn apply(self, store: &Store) -> Option<PathBuf> {
        let path = store.copy_of("store");
        let last = last_file(&path, "SEG-").map(|name| path.join(name));
        let checkpoint = last_file(&path, "CKPT-").map(|name| path.join(name));
        let segments = || names(&path).into_iter().filter(|name| name.starts_with("SEG-"));
        let first = segments().next().map(|name| path.join(name));
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
            Harm::CheckpointGone => fs::remove_file(checkpoint?).expect("removes"),
            Harm::CheckpointFlipped(offset) => {
                let mut bytes = fs::read(checkpoint.as_ref()?).expect("reads");
                *bytes.get_mut(offset as usize)? ^= 1;
                fs::write(checkpoint?, bytes).expect("writes");
            }
            Harm::CheckpointCut => cut(&checkpoint?, |used| used / 2),
            Harm::FirstZeroed => zero(first.as_ref().filter(|_| first != last)?, |used| used / 2),
            Harm::FirstCut => cut(first.as_ref().filter(|_| first != last)?, |used| used / 2),
            Harm::OlderLast => {
                let name = last?.file_name()?.to_owned();
                take(&store.path("older").join(&name), &path.join(&name))?;
            }
            Harm::OlderFirst => {
                let older = store.path("older");
                let has_changed = |name: &String| {
                    fs::read(older.join(name))
                        .is_ok_and(|was| fs::read(path.join(name)).expect("reads") != was)
                };
                let name = segments().find(has_changed)?;
                take(&older.join(&name), &path.join(&name))?;
            }
            Harm::CopiedWhileOpen => return Some(copy_while_open(store, &path)),
            Harm::LastOfAnotherLife | Harm::CheckpointOfAnotherLife => {
                let other = store.copy_of("store");
                go_on(store, &other, 3);
                go_on(store, &path, 4);
                let kind = if self == Harm::LastOfAnotherLife { "SEG-" } else { "CKPT-" };
                let name = last_file(&path, kind)?;
                take(&other.join(&name), &path.join(&name))?;
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

/// Another session writes a few blocks.
fn go_on(store: &Store, path: &Path, version: u64) {
    let open = options(store.kind).open(path).expect("opens");
    (1..=5 + version).for_each(|id| write(&open, id, version));
    open.close().expect("closes");
}

/// Every file is copied a few commits after the one before it.
fn copy_while_open(store: &Store, path: &Path) -> PathBuf {
    let open = options(store.kind).open(path).expect("opens");
    let to = path.with_extension("torn");
    fs::create_dir(&to).expect("a directory");
    for (name, id) in names(path).into_iter().zip(1..) {
        match fs::copy(path.join(&name), to.join(&name)) {
            Ok(_) => {}
            // The store has removed it by now.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => panic!("cannot copy {name}: {e}"),
        }
        (0..4).for_each(|more| write(&open, 100 + id * 4 + more, 1));
        if id % 2 == 0 {
            open.checkpoint().expect("makes a checkpoint");
        }
    }
    open.close().expect("closes");
    to
}
