//! LMDB through heed: a memory-mapped copy-on-write B+ tree, one writer at a time.

use std::path::Path;

use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions};

use crate::engine::{Engine, Session, Transfer, Write, balance, with_balance};
use crate::failure::{Failure, Outcome};

const NAME: &str = "lmdb";

/// Address space, not memory or disk.
const MAP_LEN: usize = 64 << 30;
const READERS_MAX: u32 = 512;

/// Opens with default flags, which sync every commit. Reads borrow bytes until the read transaction
/// ends.
pub fn open(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open_with(dir, false)
}

/// The same, with a copy of the bytes read, as a caller needs to keep them. An open read
/// transaction keeps the file from reusing pages.
pub fn open_copied(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open_with(dir, true)
}

fn open_with(dir: &Path, copies: bool) -> Outcome<Box<dyn Engine>> {
    let path = dir.join("lmdb");
    std::fs::create_dir_all(&path).map_err(Failure::io("cannot make", &path))?;
    Ok(Box::new(Lmdb::open(&path, copies).map_err(Failure::of(NAME))?))
}

struct Lmdb {
    env: Env,
    blocks: Database<'static, U64<BigEndian>, Bytes>,
    copies: bool,
}

impl Lmdb {
    #[expect(unsafe_code, reason = "LMDB maps its file, which no other program may change")]
    fn open(path: &Path, copies: bool) -> heed::Result<Lmdb> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_LEN).max_readers(READERS_MAX);
        // SAFETY: the directory is this cell's own, and no other process writes to it.
        let env = unsafe { options.open(path) }?;
        let made = env.create_databases_and_commit(env.write_txn()?, |opener, tx| {
            opener.create_database(tx, None).map(CommitOrAbort::<_, ()>::Commit)
        })?;
        let blocks = made.unwrap_commit();
        Ok(Lmdb { env, blocks, copies })
    }

    fn insert(&self, writes: &[Write]) -> heed::Result<()> {
        let mut tx = self.env.write_txn()?;
        for write in writes {
            self.blocks.put(&mut tx, &write.id, &write.data)?;
        }
        tx.commit()
    }

    fn read(&self, id: u64, sink: &mut dyn FnMut(&[u8])) -> heed::Result<bool> {
        let tx = self.env.read_txn()?;
        let found = self.blocks.get(&tx, &id)?;
        match found {
            Some(data) if self.copies => sink(&bytes::Bytes::copy_from_slice(data)),
            Some(data) => sink(data),
            None => {}
        }
        Ok(found.is_some())
    }

    fn move_one(&self, from: u64, to: u64) -> heed::Result<()> {
        let mut tx = self.env.write_txn()?;
        let source = self.blocks.get(&tx, &from)?.unwrap_or_default().to_vec();
        let target = self.blocks.get(&tx, &to)?.unwrap_or_default().to_vec();
        let (less, more) = (balance(&source), balance(&target));
        if less > 0 {
            self.blocks.put(&mut tx, &from, &with_balance(&source, less - 1))?;
            self.blocks.put(&mut tx, &to, &with_balance(&target, more + 1))?;
        }
        tx.commit()
    }
}

impl Engine for Lmdb {
    fn session(&self) -> Outcome<Box<dyn Session + '_>> {
        Ok(Box::new(Handle { store: self }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

struct Handle<'a> {
    store: &'a Lmdb,
}

impl Session for Handle<'_> {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        self.store.insert(writes).map_err(Failure::of(NAME))
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        self.store.read(id, sink).map_err(Failure::of(NAME))
    }

    fn transfer(&mut self, from: u64, to: u64) -> Outcome<Transfer> {
        let moved = self.store.move_one(from, to);
        moved.map(|()| Transfer::Done).map_err(Failure::of(NAME))
    }

    fn view(&mut self) -> Outcome<()> {
        self.store.env.read_txn().map(drop).map_err(Failure::of(NAME))
    }
}
