//! Uploads: one file, directory or link on its way into a store, visible all at once.
//!
//! Protocol, for an entry that replaces `old` (or nothing):
//! 1. Begin. Write an empty metadata block to learn the entry's id, so that it is below those of
//!    the chunks.
//! 2. Write the chunks. Whenever [`TRANSACTION_LEN_MAX`] bytes are pending, write the entry as
//!    *staged*, commit, begin again. Memory stays bounded, and the staged entry names the chunks
//!    that a crash leaves behind.
//! 3. Write the entry as complete, delete `old` and its chunks, commit. This commit is the point at
//!    which the file changes from old to new.
//!
//! Dropping an upload before step 3 rolls back and removes the staged chunks of step 2.

use aegis_blocks::{
    Block, BlockId, BlockType, Error, LocalBackend, Result, StorageBackend, TransactionId,
};
use bytes::Bytes;

use crate::catalog::Stored;
use crate::entry::{Content, Entry, HOLE};

/// Pending bytes at which a large file is committed in part.
const TRANSACTION_LEN_MAX: usize = 32 << 20;

/// One entry on its way into the store.
pub struct Upload<'a> {
    store: &'a LocalBackend,
    entry: Entry,
    id: BlockId,
    /// `None` once committed.
    tx: Option<TransactionId>,
    pending_len: usize,
    is_staged: bool,
}

impl<'a> Upload<'a> {
    /// Begins an upload. A file comes without length and chunks: [`Upload::push`] adds them.
    pub fn begin(store: &'a LocalBackend, entry: Entry) -> Result<Upload<'a>> {
        let tx = store.begin_transaction()?;
        let mut upload =
            Upload { store, entry, id: BlockId(0), tx: Some(tx), pending_len: 0, is_staged: false };
        let placeholder = Block::empty(BlockId(0), BlockType::Metadata);
        upload.id = store.write_block_in_tx(tx, placeholder)?;
        Ok(upload)
    }

    /// Adds the next chunk of a file; all but the last are `chunk_len` long.
    pub fn push_chunk(&mut self, data: impl Into<Bytes>) -> Result<()> {
        let data = data.into();
        let data_len = data.len();
        let chunk = if is_zeros(&data) {
            HOLE
        } else {
            let block = Block::new(BlockId(0), BlockType::DocumentData, data);
            self.pending_len += data_len;
            self.store.write_block_in_tx(self.open_transaction()?, block)?
        };
        let Content::File { len, chunks, .. } = &mut self.entry.content else {
            unreachable!("only files have chunks");
        };
        *len += data_len as u64;
        chunks.push(chunk);
        if self.pending_len >= TRANSACTION_LEN_MAX { self.stage_entry() } else { Ok(()) }
    }

    fn stage_entry(&mut self) -> Result<()> {
        self.entry.staged = true;
        self.write_entry()?;
        self.commit_pending()?;
        self.is_staged = true;
        self.pending_len = 0;
        self.tx = Some(self.store.begin_transaction()?);
        Ok(())
    }

    /// The file changed while it was read: the next import compares it, even if its dates match.
    pub fn forget_ctime(&mut self) {
        self.entry.ctime = None;
    }

    /// Makes the entry visible in place of `old`.
    pub fn finish(mut self, old: Option<&Stored>) -> Result<()> {
        self.entry.staged = false;
        self.write_entry()?;
        if let Some(old) = old {
            delete_in_tx(self.store, self.open_transaction()?, old)?;
        }
        self.commit_pending()?;
        self.is_staged = false;
        Ok(())
    }

    fn write_entry(&self) -> Result<()> {
        let block = Block::new(self.id, BlockType::Metadata, self.entry.encode());
        self.store.write_block_in_tx(self.open_transaction()?, block)?;
        Ok(())
    }

    fn commit_pending(&mut self) -> Result<()> {
        let tx = self.open_transaction()?;
        // Ended either way: a refused commit is rolled back by the store.
        self.tx = None;
        self.store.commit_transaction(tx)
    }

    fn open_transaction(&self) -> Result<TransactionId> {
        self.tx.ok_or(Error::Closed)
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        let rolled_back = self.tx.take().map_or(Ok(()), |tx| self.store.rollback_transaction(tx));
        if !self.is_staged {
            // Nothing of it is in the store: what was not committed is gone in any case.
            return;
        }
        let (id, entry) = (self.id, self.entry.clone());
        let stored = Stored { id, entry, missing: Vec::new() };
        if let Err(e) = rolled_back.and_then(|()| delete_entry(self.store, &stored)) {
            crate::output::warn(format_args!(
                "cannot remove the stored part of {}; the next import tries again: {e}",
                String::from_utf8_lossy(&self.entry.path)
            ));
        }
    }
}

/// Whether a chunk holds nothing but zeros. Compares it with itself, one byte on: that is `memcmp`.
pub fn is_zeros(data: &[u8]) -> bool {
    data.first().is_none_or(|first| *first == 0 && data[1..] == data[..data.len() - 1])
}

/// Writes a file's new attributes in place of its entry; its chunks stay.
pub fn refresh_entry(store: &LocalBackend, stored: &Stored, entry: &Entry) -> Result<()> {
    assert_eq!(stored.entry.content.chunks(), entry.content.chunks(), "the content stays");
    store.write_block(Block::new(stored.id, BlockType::Metadata, entry.encode()))?;
    Ok(())
}

/// Deletes an entry and its chunks.
pub fn delete_entry(store: &LocalBackend, stored: &Stored) -> Result<()> {
    let tx = store.begin_transaction()?;
    match delete_in_tx(store, tx, stored) {
        Ok(()) => store.commit_transaction(tx),
        Err(error) => {
            store.rollback_transaction(tx)?;
            Err(error)
        }
    }
}

/// Chunks that are gone already are passed over: `rm` may have taken them.
fn delete_in_tx(store: &LocalBackend, tx: TransactionId, stored: &Stored) -> Result<()> {
    for id in stored.entry.content.blocks().chain([stored.id]) {
        match store.delete_block_in_tx(tx, id) {
            Ok(()) | Err(Error::BlockNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
