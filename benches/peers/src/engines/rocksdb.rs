//! RocksDB: a log-structured merge tree in C++ with optimistic transactions and a group commit of
//! its own.

use std::path::Path;

use rocksdb::{
    ErrorKind, OptimisticTransactionDB, OptimisticTransactionOptions, Options,
    WriteBatchWithTransaction, WriteOptions,
};

use crate::engine::{Engine, Session, Transfer, Write, balance, with_balance};
use crate::failure::{Failure, Outcome};

const NAME: &str = "rocksdb";

/// Opens with default options; every commit syncs the write-ahead log.
pub fn open(dir: &Path) -> Outcome<Box<dyn Engine>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = OptimisticTransactionDB::open(&options, dir.join("rocksdb"));
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    Ok(Box::new(Rocks { db: db.map_err(Failure::of(NAME))?, synced }))
}

struct Rocks {
    db: OptimisticTransactionDB,
    synced: WriteOptions,
}

impl Rocks {
    /// Both blocks are read for update, so a change of either one is a conflict.
    fn move_one(&self, from: u64, to: u64) -> Result<(), rocksdb::Error> {
        let tx = self.db.transaction_opt(&self.synced, &OptimisticTransactionOptions::default());
        let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
        let source = tx.get_for_update(from, true)?.unwrap_or_default();
        let target = tx.get_for_update(to, true)?.unwrap_or_default();
        let (less, more) = (balance(&source), balance(&target));
        if less > 0 {
            tx.put(from, with_balance(&source, less - 1))?;
            tx.put(to, with_balance(&target, more + 1))?;
        }
        tx.commit()
    }
}

impl Engine for Rocks {
    fn session(&self) -> Outcome<Box<dyn Session + '_>> {
        Ok(Box::new(Handle { store: self }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(())
    }
}

struct Handle<'a> {
    store: &'a Rocks,
}

impl Session for Handle<'_> {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        let mut batch = WriteBatchWithTransaction::<true>::default();
        for write in writes {
            batch.put(write.id.to_be_bytes(), &write.data);
        }
        self.store.db.write_opt(batch, &self.store.synced).map_err(Failure::of(NAME))
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        let found = self.store.db.get_pinned(id.to_be_bytes()).map_err(Failure::of(NAME))?;
        if let Some(data) = &found {
            sink(data);
        }
        Ok(found.is_some())
    }

    fn transfer(&mut self, from: u64, to: u64) -> Outcome<Transfer> {
        match self.store.move_one(from, to) {
            Ok(()) => Ok(Transfer::Done),
            Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::TryAgain) => {
                Ok(Transfer::Conflict)
            }
            Err(error) => Err(Failure::of(NAME)(error)),
        }
    }

    fn view(&mut self) -> Outcome<()> {
        drop(self.store.db.snapshot());
        Ok(())
    }
}
