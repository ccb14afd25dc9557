//! aegis-blocks as it comes, and with its other ways of reading.

use std::path::Path;

use aegis_blocks::{
    Block, BlockId, BlockType, Error, IsolationLevel, LocalBackend, Options, ReadMode,
    StorageBackend, StorageExt, WriteBatch,
};

use crate::engine::{Engine, Session, Transfer, Write, balance, with_balance};
use crate::failure::{Failure, Outcome};

const NAME: &str = "aegis-blocks";

/// More than a second's commits, and what the store zeroes ahead of them in any case.
const PREPARED_LEN: u64 = 1 << 30;

/// Opens with default options.
pub fn open(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open_with(dir, LocalBackend::options())
}

/// Opens with default options and makes space that commits find, as a log that recycles its files
/// does.
pub fn open_prepared(dir: &Path) -> Outcome<Box<dyn Engine>> {
    let store = LocalBackend::options().open(dir.join("store")).map_err(Failure::of(NAME))?;
    store.prepare_space(PREPARED_LEN).map_err(Failure::of(NAME))?;
    Ok(Box::new(Aegis { store }))
}

/// Reads are copied out of the map.
pub fn open_copied(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open_with(dir, LocalBackend::options().read_mode(ReadMode::Copied))
}

/// No file is mapped.
pub fn open_pread(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open_with(dir, LocalBackend::options().read_mode(ReadMode::Pread))
}

fn open_with(dir: &Path, options: Options) -> Outcome<Box<dyn Engine>> {
    let store = options.open(dir.join("store")).map_err(Failure::of(NAME))?;
    Ok(Box::new(Aegis { store }))
}

struct Aegis {
    store: LocalBackend,
}

impl Engine for Aegis {
    fn session(&self) -> Outcome<Box<dyn Session + '_>> {
        Ok(Box::new(Handle { store: &self.store }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.store.close().map_err(Failure::of(NAME))
    }
}

struct Handle<'a> {
    store: &'a LocalBackend,
}

fn block(write: &Write) -> Block {
    Block::new(BlockId(write.id), BlockType::TableData, write.data.clone())
}

impl Handle<'_> {
    fn try_transfer(&self, from: u64, to: u64) -> aegis_blocks::Result<()> {
        let tx = self.store.begin_at(IsolationLevel::Serializable)?;
        let (source, target) = (tx.read(BlockId(from))?, tx.read(BlockId(to))?);
        let (less, more) = (balance(&source.data), balance(&target.data));
        if less > 0 {
            let changed = |id, old: &Block, balance| {
                Block::new(BlockId(id), BlockType::TableData, with_balance(&old.data, balance))
            };
            tx.write(changed(from, &source, less - 1))?;
            tx.write(changed(to, &target, more + 1))?;
        }
        tx.commit().map(|_| ())
    }
}

impl Session for Handle<'_> {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        if let [write] = writes {
            self.store.write_block(block(write)).map_err(Failure::of(NAME))?;
        } else {
            let mut batch = WriteBatch::new();
            for write in writes {
                batch.write(block(write));
            }
            self.store.apply(batch).map_err(Failure::of(NAME))?;
        }
        Ok(())
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        match self.store.read_block(BlockId(id)) {
            Ok(block) => sink(&block.data),
            Err(Error::BlockNotFound { .. }) => return Ok(false),
            Err(error) => return Err(Failure::of(NAME)(error)),
        }
        Ok(true)
    }

    fn transfer(&mut self, from: u64, to: u64) -> Outcome<Transfer> {
        match self.try_transfer(from, to) {
            Ok(()) => Ok(Transfer::Done),
            Err(Error::Conflict { .. }) => Ok(Transfer::Conflict),
            Err(error) => Err(Failure::of(NAME)(error)),
        }
    }

    fn view(&mut self) -> Outcome<()> {
        self.store.snapshot().map(drop).map_err(Failure::of(NAME))
    }
}
