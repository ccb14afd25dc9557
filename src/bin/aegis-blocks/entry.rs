//! Entries: how one file, directory or symbolic link is described in a store. Owns the byte layout
//! of the metadata block; does no I/O. The content of a file lies in chunk blocks that its entry
//! names.
//!
//! | offset | size     | field         | meaning                                                  |
//! |-------:|---------:|---------------|----------------------------------------------------------|
//! |      0 |        4 | magic         | `AGFE`                                                   |
//! |      4 |        2 | version       | 1                                                        |
//! |      6 |        1 | kind          | 1 file, 2 directory, 3 symbolic link                     |
//! |      7 |        1 | state         | 1 complete, 2 staged: chunks of an import under way      |
//! |      8 |        4 | mode          | permission, set-id and sticky bits, at most `0o7777`     |
//! |     12 |        4 | `path_len`    | at most [`PATH_LEN_MAX`]                                 |
//! |     16 |        8 | mtime seconds | since 1970, signed                                       |
//! |     24 |        4 | mtime nanos   | below 1 000 000 000                                      |
//! |     28 |        4 | `target_len`  | of the link's target; 0 for other kinds                  |
//! |     32 |        8 | `len`         | bytes of content; 0 unless a file                        |
//! |     40 |        4 | `chunk_len`   | of every chunk but the last, which may be shorter        |
//! |     44 |        4 | `chunk_count` | `len / chunk_len`, rounded up                            |
//! |     48 | path     | path          | relative to the imported tree; empty for its root        |
//! |        | target   | target        | as `readlink` returns it                                 |
//! |        | 8 a chunk| chunks        | block ids, in order, never 0                             |
//!
//! Integers are little-endian, and nothing may follow the last field. A path is a list of names
//! joined by `/`; no name is empty, `.` or `..`, or holds a zero byte. Names are bytes, not text.
//!
//! Invariant: an entry's own id is smaller than the ids of its chunks, so whoever walks a store in
//! id order meets the entry first and need not read the chunks to find the next one.

use std::borrow::Cow;
use std::fmt;

use aegis_blocks::BlockId;

/// The longest path and the longest link target, in bytes: Linux's `PATH_MAX`.
pub const PATH_LEN_MAX: usize = 4096;

const MAGIC: [u8; 4] = *b"AGFE";
const VERSION: u16 = 1;
const FIXED_LEN: usize = 48;
const MODE_MAX: u32 = 0o7777;
const NANOS_PER_SECOND: u32 = 1_000_000_000;

const KIND_FILE: u8 = 1;
const KIND_DIRECTORY: u8 = 2;
const KIND_SYMLINK: u8 = 3;

const STATE_COMPLETE: u8 = 1;
const STATE_STAGED: u8 = 2;

/// One file, directory or symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it belongs in the tree, names joined by `/`; empty for the root.
    pub path: Vec<u8>,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// When the content last changed.
    pub mtime: Mtime,
    /// What it is and holds.
    pub content: Content,
    /// Whether this is a file whose import has not finished; nobody but `import` looks at it.
    pub staged: bool,
}

/// A time stamp as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtime {
    /// Since 1970.
    pub seconds: i64,
    /// Below 1 000 000 000.
    pub nanos: u32,
}

/// What an entry is and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A plain file.
    File {
        /// Bytes of content.
        len: u64,
        /// Bytes of every chunk but the last.
        chunk_len: u32,
        /// The blocks that hold the content, in order.
        chunks: Vec<BlockId>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// As `readlink` returns it.
        target: Vec<u8>,
    },
}

impl Content {
    /// Bytes of content; 0 unless a file.
    pub fn len(&self) -> u64 {
        if let Content::File { len, .. } = self { *len } else { 0 }
    }

    /// The blocks of the content; none unless a file.
    pub fn chunks(&self) -> &[BlockId] {
        if let Content::File { chunks, .. } = self { chunks } else { &[] }
    }
}

/// Why a block is not taken for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// It does not begin with the magic: somebody else's block.
    Foreign,
    /// A newer program wrote it.
    Version(u16),
    /// It ends too early or goes on too long.
    Length,
    /// A field holds a value that no entry has.
    Field(&'static str),
    /// The path would lead out of the tree or cannot exist.
    Path,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Foreign => f.write_str("not an entry"),
            Malformed::Version(found) => {
                write!(f, "entry of version {found}; this program reads up to {VERSION}")
            }
            Malformed::Length => f.write_str("entry whose length contradicts its fields"),
            Malformed::Field(name) => write!(f, "entry with an impossible {name}"),
            Malformed::Path => f.write_str("entry whose path would leave the tree"),
        }
    }
}

impl Entry {
    /// Encodes the entry as the payload of a metadata block.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, len, chunk_len, chunks, target): (u8, u64, u32, &[BlockId], &[u8]) = match &self
            .content
        {
            Content::File { len, chunk_len, chunks } => (KIND_FILE, *len, *chunk_len, chunks, &[]),
            Content::Directory => (KIND_DIRECTORY, 0, 0, &[], &[]),
            Content::Symlink { target } => (KIND_SYMLINK, 0, 0, &[], target),
        };
        debug_assert!(path_is_safe(&self.path) && target.len() <= PATH_LEN_MAX);
        let state = if self.staged { STATE_STAGED } else { STATE_COMPLETE };
        let total_len = FIXED_LEN + self.path.len() + target.len() + 8 * chunks.len();
        let mut out = Vec::with_capacity(total_len);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[kind, state]);
        out.extend_from_slice(&(self.mode & MODE_MAX).to_le_bytes());
        out.extend_from_slice(&(self.path.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.mtime.seconds.to_le_bytes());
        out.extend_from_slice(&self.mtime.nanos.to_le_bytes());
        out.extend_from_slice(&(target.len() as u32).to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&chunk_len.to_le_bytes());
        out.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.path);
        out.extend_from_slice(target);
        chunks.iter().for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
        debug_assert_eq!(out.len(), total_len);
        out
    }

    /// Decodes a metadata block. Allocates no more than the block's own length.
    pub fn decode(bytes: &[u8]) -> Result<Entry, Malformed> {
        let mut rest = Reader(bytes);
        if rest.take(4).map_err(|_| Malformed::Foreign)? != MAGIC {
            return Err(Malformed::Foreign);
        }
        match u16::from_le_bytes(rest.array()?) {
            VERSION => {}
            found => return Err(Malformed::Version(found)),
        }
        let [kind, state] = rest.array()?;
        let staged = match state {
            STATE_COMPLETE => false,
            STATE_STAGED => true,
            _ => return Err(Malformed::Field("state")),
        };
        let mode = checked(rest.u32()?, MODE_MAX, "mode")?;
        let path_len = checked(rest.u32()?, PATH_LEN_MAX as u32, "path length")?;
        let seconds = i64::from_le_bytes(rest.array()?);
        let nanos = checked(rest.u32()?, NANOS_PER_SECOND - 1, "time")?;
        let target_len = checked(rest.u32()?, PATH_LEN_MAX as u32, "target length")?;
        let len = u64::from_le_bytes(rest.array()?);
        let chunk_len = rest.u32()?;
        let chunk_count = rest.u32()?;
        let path = rest.take(path_len as usize)?.to_vec();
        if !path_is_safe(&path) {
            return Err(Malformed::Path);
        }
        let target = rest.take(target_len as usize)?.to_vec();
        let chunks = rest.chunks(chunk_count)?;
        let content = content(kind, len, chunk_len, chunks, target)?;
        if staged && kind != KIND_FILE {
            return Err(Malformed::Field("state"));
        }
        Ok(Entry { path, mode, mtime: Mtime { seconds, nanos }, content, staged })
    }
}

/// Puts the fields of one kind together and refuses what the kind does not have.
fn content(
    kind: u8,
    len: u64,
    chunk_len: u32,
    chunks: Vec<BlockId>,
    target: Vec<u8>,
) -> Result<Content, Malformed> {
    let is_bare = len == 0 && chunk_len == 0 && chunks.is_empty();
    match kind {
        KIND_FILE if target.is_empty() && chunk_len > 0 => {
            if len.div_ceil(u64::from(chunk_len)) != chunks.len() as u64 {
                return Err(Malformed::Field("chunk count"));
            }
            Ok(Content::File { len, chunk_len, chunks })
        }
        KIND_DIRECTORY if is_bare && target.is_empty() => Ok(Content::Directory),
        KIND_SYMLINK if is_bare && !target.is_empty() && !target.contains(&0) => {
            Ok(Content::Symlink { target })
        }
        KIND_FILE | KIND_DIRECTORY | KIND_SYMLINK => Err(Malformed::Field("content")),
        _ => Err(Malformed::Field("kind")),
    }
}

fn checked(value: u32, max: u32, name: &'static str) -> Result<u32, Malformed> {
    if value <= max { Ok(value) } else { Err(Malformed::Field(name)) }
}

/// Returns whether a path stays inside the tree it is relative to.
pub fn path_is_safe(path: &[u8]) -> bool {
    let name_is_safe =
        |name: &[u8]| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0);
    path.is_empty() || (path.len() <= PATH_LEN_MAX && path.split(|b| *b == b'/').all(name_is_safe))
}

/// Makes a path fit for a terminal: what is not text or would move the cursor is replaced.
pub fn printable(path: &[u8]) -> Cow<'_, str> {
    if path.is_empty() {
        return Cow::Borrowed(".");
    }
    let text = String::from_utf8_lossy(path);
    if text.contains(char::is_control) {
        return Cow::Owned(text.replace(char::is_control, "\u{fffd}"));
    }
    text
}

/// Cuts fields off the front of a block.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed::Length)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed::Length)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// The ids must fill the rest exactly, which bounds `count` before anything is allocated.
    fn chunks(&mut self, count: u32) -> Result<Vec<BlockId>, Malformed> {
        let (ids, rest) = self.0.as_chunks::<8>();
        if ids.len() != count as usize || !rest.is_empty() {
            return Err(Malformed::Length);
        }
        let ids: Vec<BlockId> = ids.iter().map(|id| BlockId(u64::from_le_bytes(*id))).collect();
        if ids.contains(&BlockId(0)) { Err(Malformed::Field("chunk id")) } else { Ok(ids) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let entry = |path: &[u8], content| Entry {
            path: path.to_vec(),
            mode: 0o4755,
            mtime: Mtime { seconds: -1, nanos: 999_999_999 },
            content,
            staged: false,
        };
        let chunks = vec![BlockId(2), BlockId(u64::MAX), BlockId(9)];
        let file = Content::File { len: 9, chunk_len: 4, chunks };
        vec![
            entry(b"a/b\xff/c", file.clone()),
            Entry { staged: true, ..entry(b"staged", file) },
            entry(b"empty", Content::File { len: 0, chunk_len: 4096, chunks: Vec::new() }),
            entry(b"", Content::Directory),
            entry(b"link", Content::Symlink { target: b"../../etc/passwd".to_vec() }),
        ]
    }

    #[test]
    fn entries_survive_the_round_trip() {
        for entry in entries() {
            assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }
    }

    #[test]
    fn every_cut_and_every_tail_is_refused() {
        for entry in entries() {
            let mut bytes = entry.encode();
            for len in 0..bytes.len() {
                assert!(Entry::decode(&bytes[..len]).is_err(), "cut to {len}");
            }
            bytes.push(0);
            assert_eq!(Entry::decode(&bytes), Err(Malformed::Length));
        }
    }

    #[test]
    fn a_flipped_byte_never_yields_an_unsafe_entry() {
        for entry in entries() {
            let bytes = entry.encode();
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[at] ^= 1 << bit;
                    if let Ok(decoded) = Entry::decode(&flipped) {
                        assert!(path_is_safe(&decoded.path));
                        assert_eq!(decoded.encode(), flipped, "byte {at} bit {bit}");
                    }
                }
            }
        }
    }

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        for path in ["/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b"] {
            let entry = Entry {
                path: path.into(),
                mode: 0,
                mtime: Mtime { seconds: 0, nanos: 0 },
                content: Content::Directory,
                staged: false,
            };
            let mut bytes = Entry { path: vec![b'x'; path.len()], ..entry }.encode();
            bytes[FIXED_LEN..].copy_from_slice(path.as_bytes());
            assert_eq!(Entry::decode(&bytes), Err(Malformed::Path), "{path:?}");
        }
    }

    #[test]
    fn a_count_beyond_the_block_allocates_nothing() {
        let mut bytes = entries()[0].encode();
        bytes[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Entry::decode(&bytes), Err(Malformed::Length));
    }
}
