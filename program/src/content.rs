//! Reading a file that may change meanwhile, to store it or to compare it with what is stored.
//!
//! Owns the rule by which a file counts as unchanged. Its length, times (mtime and ctime), mode and
//! owner are as stored, or all of its bytes are. A ctime is trusted only if it is older than
//! [`SETTLED_AFTER`] when the file is read. A slow clock may give a second change the same ctime. A
//! file with a younger one is compared at the next import.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aegis_blocks::{Error, LocalBackend, StorageBackend};

use crate::catalog::Stored;
use crate::entry::{Content, Entry, HOLE, Timestamp};
use crate::tree::{Item, ctime, mtime, owner};
use crate::upload::is_zeros;

/// The slowest clock of a file system that is common: FAT's.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// A file that is being read.
pub struct Source {
    file: File,
    /// As it was before the first byte was read.
    pub metadata: Metadata,
}

impl Source {
    /// Opens a file that may have been swapped since the walk for a link or a pipe: neither is
    /// followed or waited for.
    pub fn open(item: &Item) -> io::Result<Source> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&item.source)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("no longer a plain file"));
        }
        Ok(Source { file, metadata })
    }

    /// Reads up to `chunk_len` bytes at `offset`; fewer only at the end. A file that grows is read
    /// to the length that it had, so the read ends despite appends. Files of /proc and the like say
    /// 0 and hold more; they are read to their end.
    pub fn read(&mut self, offset: u64, chunk_len: u64) -> io::Result<Vec<u8>> {
        let expected = self.metadata.len().saturating_sub(offset).min(chunk_len);
        let wanted = if self.metadata.len() == 0 { chunk_len } else { expected };
        let mut chunk = Vec::with_capacity(expected as usize);
        (&mut self.file).take(wanted).read_to_end(&mut chunk)?;
        Ok(chunk)
    }

    /// Whether the file is unchanged since before the first byte was read, after `read_len` bytes.
    pub fn is_unchanged(&self, read_len: u64) -> io::Result<bool> {
        let (before, now) = (&self.metadata, self.file.metadata()?);
        let same = |of: fn(&Metadata) -> Timestamp| of(before) == of(&now);
        let is_whole = before.len() == 0 || before.len() == read_len;
        Ok(is_whole && before.len() == now.len() && same(mtime) && same(ctime))
    }

    /// Whether the stored content equals the file's. A stored block that is damaged is not.
    ///
    /// # Errors
    /// Of the file, or of the store.
    pub fn holds_stored(
        &mut self,
        store: &LocalBackend,
        content: &Content,
    ) -> io::Result<Result<bool, Error>> {
        let mut offset = 0;
        for (at, id) in content.chunks().iter().enumerate() {
            let found = self.read(offset, content.len_of_chunk(at))?;
            offset += found.len() as u64;
            let is_same = match id {
                id if *id == HOLE => is_zeros(&found),
                id => match store.read_block(*id) {
                    Ok(block) => block.data == found,
                    Err(Error::Corrupt { .. } | Error::BlockNotFound { .. }) => false,
                    Err(error) => return Ok(Err(error)),
                },
            };
            if !is_same || found.len() as u64 != content.len_of_chunk(at) {
                return Ok(Ok(false));
            }
        }
        Ok(Ok(offset == content.len() && self.is_unchanged(offset)?))
    }
}

/// Makes the entry of a walked item.
pub fn describe_item(item: &Item, metadata: &Metadata, content: Content) -> Entry {
    let ctime = metadata.is_file().then(|| ctime(metadata)).filter(|time| is_settled(*time));
    Entry {
        path: item.path.clone(),
        mode: metadata.mode() & 0o7777,
        mtime: mtime(metadata),
        ctime,
        owner: Some(owner(metadata)),
        content,
        staged: false,
    }
}

/// Whether a file can be passed over unread.
pub fn is_known(old: &Stored, item: &Item) -> bool {
    let metadata = &item.metadata;
    let Content::File { len, .. } = &old.entry.content else { return false };
    let entry = &old.entry;
    old.is_complete()
        && *len == metadata.len()
        && entry.mtime == mtime(metadata)
        && entry.ctime == Some(ctime(metadata))
        && entry.mode == metadata.mode() & 0o7777
        && entry.owner == Some(owner(metadata))
}

fn is_settled(time: Timestamp) -> bool {
    SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|now| is_settled_at(now, time))
}

fn is_settled_at(now: Duration, time: Timestamp) -> bool {
    let since_1970 = u64::try_from(time.seconds).map(|seconds| Duration::new(seconds, time.nanos));
    since_1970.is_ok_and(|time| time.saturating_add(SETTLED_AFTER) < now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_ctime_is_not_trusted_nor_one_of_the_future() {
        let now = Duration::new(1_000_000, 500);
        for (seconds, nanos, is_settled) in [
            (999_997, 0, true),
            (999_998, 499, true),
            (999_998, 500, false),
            (1_000_000, 500, false),
            (1_000_001, 0, false),
            (i64::MAX, 0, false),
            (-1, 0, false),
        ] {
            assert_eq!(is_settled_at(now, Timestamp { seconds, nanos }), is_settled, "{seconds}");
        }
    }
}
