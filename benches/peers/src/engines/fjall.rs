//! fjall: a log-structured merge tree with optimistic transactions.

use std::path::Path;

use fjall::{
    KeyspaceCreateOptions, OptimisticTxDatabase, OptimisticTxKeyspace, PersistMode, Readable,
};

use crate::engine::{Engine, Session, Transfer, Write, balance, with_balance};
use crate::failure::{Failure, Outcome};

const NAME: &str = "fjall";

/// Opens with default options; every commit persists with `SyncAll`.
pub fn open(dir: &Path) -> Outcome<Box<dyn Engine>> {
    let db = OptimisticTxDatabase::builder(dir.join("fjall")).open().map_err(Failure::of(NAME))?;
    let blocks =
        db.keyspace("blocks", KeyspaceCreateOptions::default).map_err(Failure::of(NAME))?;
    Ok(Box::new(Fjall { db, blocks }))
}

struct Fjall {
    db: OptimisticTxDatabase,
    blocks: OptimisticTxKeyspace,
}

impl Engine for Fjall {
    fn session(&self) -> Outcome<Box<dyn Session + '_>> {
        Ok(Box::new(Handle { store: self }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(())
    }
}

struct Handle<'a> {
    store: &'a Fjall,
}

impl Handle<'_> {
    fn try_transfer(&self, from: u64, to: u64) -> fjall::Result<Transfer> {
        let Fjall { db, blocks } = self.store;
        let mut tx = db.write_tx()?.durability(Some(PersistMode::SyncAll));
        let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
        let source = tx.get(blocks, from)?.unwrap_or_default();
        let target = tx.get(blocks, to)?.unwrap_or_default();
        let (less, more) = (balance(&source), balance(&target));
        if less > 0 {
            tx.insert(blocks, from, with_balance(&source, less - 1));
            tx.insert(blocks, to, with_balance(&target, more + 1));
        }
        Ok(tx.commit()?.map_or(Transfer::Conflict, |()| Transfer::Done))
    }
}

impl Session for Handle<'_> {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        let mut batch = self.store.db.inner().batch().durability(Some(PersistMode::SyncAll));
        for write in writes {
            batch.insert(self.store.blocks.inner(), write.id.to_be_bytes(), &write.data[..]);
        }
        batch.commit().map_err(Failure::of(NAME))
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        let found = self.store.blocks.get(id.to_be_bytes()).map_err(Failure::of(NAME))?;
        if let Some(data) = &found {
            sink(data);
        }
        Ok(found.is_some())
    }

    fn transfer(&mut self, from: u64, to: u64) -> Outcome<Transfer> {
        self.try_transfer(from, to).map_err(Failure::of(NAME))
    }

    fn view(&mut self) -> Outcome<()> {
        drop(self.store.db.read_tx());
        Ok(())
    }
}
