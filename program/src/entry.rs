//! Entries: how one file, directory or symbolic link is described in a store. Owns the byte layout
//! of the metadata block; does no I/O. The content of a file lies in chunk blocks that its entry
//! names.
//!
//! | offset | size     | field         | meaning                                                  |
//! |-------:|---------:|---------------|----------------------------------------------------------|
//! |      0 |        4 | magic         | `AGFE`                                                   |
//! |      4 |        2 | version       | 2                                                        |
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
//! |     48 |        8 | ctime seconds | of the file when it was read; 0 where not known          |
//! |     56 |        4 | ctime nanos   | below 1 000 000 000; 0 where not known                   |
//! |     60 |        4 | known         | bit 0: the ctime, bit 1: the owner; others are 0         |
//! |     64 |        4 | user id       | 0 where not known                                        |
//! |     68 |        4 | group id      | 0 where not known                                        |
//! |     72 | path     | path          | relative to the imported tree; empty for its root        |
//! |        | target   | target        | as `readlink` returns it                                 |
//! |        | 8 a chunk| chunks        | block ids, in order; 0 for a chunk that is all zeros     |
//!
//! Integers are little-endian, and nothing may follow the last field. A path is a list of names
//! joined by `/`; no name is empty, `.` or `..`, or holds a zero byte. Names are bytes, not text.
//! Version 1 has no fields from byte 48 to 72 and no chunk id 0; it is read, and no longer written.
//!
//! Invariant: an entry's own id is smaller than the ids of its chunks. A walk in id order meets the
//! entry first and need not read the chunks to find the next one.

use std::borrow::Cow;
use std::fmt;

use aegis_blocks::BlockId;

/// The longest path and the longest link target, in bytes: Linux's `PATH_MAX`.
pub const PATH_LEN_MAX: usize = 4096;

const MAGIC: [u8; 4] = *b"AGFE";
const VERSION: u16 = 2;
/// Without ctime, owner and holes.
const OLDEST_VERSION: u16 = 1;
const FIXED_LEN: usize = 72;
#[cfg(test)]
const OLDEST_FIXED_LEN: usize = 48;
const MODE_MAX: u32 = 0o7777;
const NANOS_PER_SECOND: u32 = 1_000_000_000;

const KIND_FILE: u8 = 1;
const KIND_DIRECTORY: u8 = 2;
const KIND_SYMLINK: u8 = 3;

const KNOWN_CTIME: u32 = 1;
const KNOWN_OWNER: u32 = 2;

/// In the place of a chunk's id: the chunk is all zeros, and no block holds it.
pub const HOLE: BlockId = BlockId(0);

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
    pub mtime: Timestamp,
    /// When the file last changed in any way, by the clock of its file system. Not known for
    /// entries of version 1, for directories and links, and for files that changed just before they
    /// were read.
    pub ctime: Option<Timestamp>,
    /// Whom it belonged to. Not known for entries of version 1.
    pub owner: Option<Owner>,
    /// Its kind and content.
    pub content: Content,
    /// Whether this is a file whose import has not finished; only `import` looks at it.
    pub staged: bool,
}

/// A time stamp as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    /// Since 1970.
    pub seconds: i64,
    /// Below 1 000 000 000.
    pub nanos: u32,
}

/// Numbers of a user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Of the user.
    pub user: u32,
    /// Of the group.
    pub group: u32,
}

/// Kind and content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A plain file.
    File {
        /// Bytes of content.
        len: u64,
        /// Bytes of every chunk but the last.
        chunk_len: u32,
        /// The blocks that hold the content, in order; [`HOLE`] for one that is all zeros.
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

    /// The content in order, holes too; empty unless a file.
    pub fn chunks(&self) -> &[BlockId] {
        if let Content::File { chunks, .. } = self { chunks } else { &[] }
    }

    /// The blocks that hold the content; none unless a file.
    pub fn blocks(&self) -> impl Iterator<Item = BlockId> {
        self.chunks().iter().copied().filter(|chunk| *chunk != HOLE)
    }

    /// Bytes of the chunk at a place of [`Content::chunks`].
    pub fn len_of_chunk(&self, at: usize) -> u64 {
        let Content::File { len, chunk_len, .. } = self else { return 0 };
        let chunk_len = u64::from(*chunk_len);
        len.saturating_sub(at as u64 * chunk_len).min(chunk_len)
    }
}

/// Why a block is not taken for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// It does not begin with the magic: another program's block.
    Foreign,
    /// A newer program wrote it.
    Version(u16),
    /// It is too short or too long.
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
        self.encode_known(&mut out);
        debug_assert_eq!(out.len(), FIXED_LEN);
        out.extend_from_slice(&self.path);
        out.extend_from_slice(target);
        chunks.iter().for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
        debug_assert_eq!(out.len(), total_len);
        out
    }

    /// The fields that version 1 does not have.
    fn encode_known(&self, out: &mut Vec<u8>) {
        let ctime = self.ctime.unwrap_or(Timestamp { seconds: 0, nanos: 0 });
        let owner = self.owner.unwrap_or(Owner { user: 0, group: 0 });
        let known = self.ctime.map_or(0, |_| KNOWN_CTIME) | self.owner.map_or(0, |_| KNOWN_OWNER);
        out.extend_from_slice(&ctime.seconds.to_le_bytes());
        out.extend_from_slice(&ctime.nanos.to_le_bytes());
        out.extend_from_slice(&known.to_le_bytes());
        out.extend_from_slice(&owner.user.to_le_bytes());
        out.extend_from_slice(&owner.group.to_le_bytes());
    }

    /// Decodes a metadata block. Allocates no more than the block's own length.
    pub fn decode(bytes: &[u8]) -> Result<Entry, Malformed> {
        let mut rest = Reader(bytes);
        if rest.take_bytes(4).map_err(|_| Malformed::Foreign)? != MAGIC {
            return Err(Malformed::Foreign);
        }
        let version = u16::from_le_bytes(rest.take_array()?);
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(Malformed::Version(version));
        }
        let [kind, state] = rest.take_array()?;
        let staged = match state {
            STATE_COMPLETE => false,
            STATE_STAGED => true,
            _ => return Err(Malformed::Field("state")),
        };
        let mode = check_at_most(rest.take_u32()?, MODE_MAX, "mode")?;
        let path_len = check_at_most(rest.take_u32()?, PATH_LEN_MAX as u32, "path length")?;
        let seconds = i64::from_le_bytes(rest.take_array()?);
        let nanos = check_at_most(rest.take_u32()?, NANOS_PER_SECOND - 1, "time")?;
        let target_len = check_at_most(rest.take_u32()?, PATH_LEN_MAX as u32, "target length")?;
        let len = u64::from_le_bytes(rest.take_array()?);
        let chunk_len = rest.take_u32()?;
        let chunk_count = rest.take_u32()?;
        let (ctime, owner) =
            if version > OLDEST_VERSION { rest.take_known_fields()? } else { (None, None) };
        let path = rest.take_bytes(path_len as usize)?.to_vec();
        if !path_is_safe(&path) {
            return Err(Malformed::Path);
        }
        let target = rest.take_bytes(target_len as usize)?.to_vec();
        let chunks = rest.take_chunks(chunk_count)?;
        if version == OLDEST_VERSION && chunks.contains(&HOLE) {
            return Err(Malformed::Field("chunk id"));
        }
        let content = decode_content(kind, len, chunk_len, chunks, target)?;
        if staged && kind != KIND_FILE {
            return Err(Malformed::Field("state"));
        }
        let mtime = Timestamp { seconds, nanos };
        Ok(Entry { path, mode, mtime, ctime, owner, content, staged })
    }
}

/// Combines the fields of one kind and refuses fields that the kind does not have.
fn decode_content(
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

fn check_at_most(value: u32, max: u32, name: &'static str) -> Result<u32, Malformed> {
    if value <= max { Ok(value) } else { Err(Malformed::Field(name)) }
}

/// Returns whether a path stays inside the tree it is relative to.
pub fn path_is_safe(path: &[u8]) -> bool {
    let name_is_safe =
        |name: &[u8]| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0);
    path.is_empty() || (path.len() <= PATH_LEN_MAX && path.split(|b| *b == b'/').all(name_is_safe))
}

/// Makes a path fit for a terminal: bytes that are no text or would move the cursor are replaced.
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
    fn take_bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed::Length)?;
        self.0 = tail;
        Ok(head)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed::Length)?;
        self.0 = tail;
        Ok(*head)
    }

    fn take_u32(&mut self) -> Result<u32, Malformed> {
        self.take_array().map(u32::from_le_bytes)
    }

    /// The ids must fill the rest exactly, which bounds `count` before anything is allocated.
    fn take_chunks(&mut self, count: u32) -> Result<Vec<BlockId>, Malformed> {
        let (ids, rest) = self.0.as_chunks::<8>();
        if ids.len() != count as usize || !rest.is_empty() {
            return Err(Malformed::Length);
        }
        Ok(ids.iter().map(|id| BlockId(u64::from_le_bytes(*id))).collect())
    }

    /// The fields that version 1 does not have. An unknown value is written as 0.
    fn take_known_fields(&mut self) -> Result<(Option<Timestamp>, Option<Owner>), Malformed> {
        let seconds = i64::from_le_bytes(self.take_array()?);
        let nanos = check_at_most(self.take_u32()?, NANOS_PER_SECOND - 1, "time")?;
        let known =
            check_at_most(self.take_u32()?, KNOWN_CTIME | KNOWN_OWNER, "list of known fields")?;
        let (user, group) = (self.take_u32()?, self.take_u32()?);
        let ctime = (known & KNOWN_CTIME != 0).then_some(Timestamp { seconds, nanos });
        let owner = (known & KNOWN_OWNER != 0).then_some(Owner { user, group });
        if (ctime.is_none() && (seconds, nanos) != (0, 0))
            || (owner.is_none() && (user, group) != (0, 0))
        {
            return Err(Malformed::Field("field that is not known"));
        }
        Ok((ctime, owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let entry = |path: &[u8], content| Entry {
            path: path.to_vec(),
            mode: 0o4755,
            mtime: Timestamp { seconds: -1, nanos: 999_999_999 },
            ctime: Some(Timestamp { seconds: 1 << 40, nanos: 1 }),
            owner: Some(Owner { user: 1000, group: u32::MAX }),
            content,
            staged: false,
        };
        let chunks = vec![BlockId(2), HOLE, BlockId(u64::MAX)];
        let file = Content::File { len: 9, chunk_len: 4, chunks };
        vec![
            entry(b"a/b\xff/c", file.clone()),
            Entry { staged: true, ..entry(b"staged", file) },
            entry(b"empty", Content::File { len: 0, chunk_len: 4096, chunks: Vec::new() }),
            Entry { ctime: None, owner: None, ..entry(b"", Content::Directory) },
            entry(b"link", Content::Symlink { target: b"../../etc/passwd".to_vec() }),
        ]
    }

    #[test]
    fn entries_survive_the_round_trip() {
        for entry in entries() {
            assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }
    }

    /// Version 1 is the same without the fields that it does not know.
    fn as_version_1(entry: &Entry) -> Vec<u8> {
        let mut bytes = entry.encode();
        bytes[4] = 1;
        bytes.drain(OLDEST_FIXED_LEN..FIXED_LEN);
        bytes
    }

    #[test]
    fn entries_of_version_1_are_read_without_what_they_do_not_have() {
        for entry in entries() {
            let decoded = Entry::decode(&as_version_1(&entry));
            if entry.content.chunks().contains(&HOLE) {
                assert_eq!(decoded, Err(Malformed::Field("chunk id")));
            } else {
                assert_eq!(decoded, Ok(Entry { ctime: None, owner: None, ..entry }));
            }
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
                mtime: Timestamp { seconds: 0, nanos: 0 },
                ctime: None,
                owner: None,
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
