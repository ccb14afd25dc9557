//! redb: a copy-on-write B+ tree, one writer at a time.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::engine::{Engine, Session, Transfer, Write, balance, with_balance};
use crate::failure::{Failure, Outcome};

const NAME: &str = "redb";
const BLOCKS: TableDefinition<u64, &[u8]> = TableDefinition::new("blocks");

/// Opens with default options; every commit is `Immediate`.
pub fn open(dir: &Path) -> Outcome<Box<dyn Engine>> {
    let db = Database::create(dir.join("redb")).map_err(Failure::of(NAME))?;
    let store = Redb { db };
    store.write(|_| Ok(())).map_err(Failure::of(NAME))?;
    Ok(Box::new(store))
}

struct Redb {
    db: Database,
}

type Table<'t> = redb::Table<'t, u64, &'static [u8]>;

impl Redb {
    fn write(
        &self,
        body: impl FnOnce(&mut Table<'_>) -> Result<(), redb::StorageError>,
    ) -> Result<(), redb::Error> {
        let mut tx = self.db.begin_write()?;
        tx.set_durability(Durability::Immediate)?;
        body(&mut tx.open_table(BLOCKS)?)?;
        Ok(tx.commit()?)
    }

    fn read(&self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Result<bool, redb::Error> {
        let table = self.db.begin_read()?.open_table(BLOCKS)?;
        let found = table.get(id)?;
        if let Some(data) = &found {
            sink(data.value());
        }
        Ok(found.is_some())
    }
}

impl Engine for Redb {
    fn session(&self) -> Outcome<Box<dyn Session + '_>> {
        Ok(Box::new(Handle { store: self }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(())
    }
}

struct Handle<'a> {
    store: &'a Redb,
}

fn move_one(table: &mut Table<'_>, from: u64, to: u64) -> Result<(), redb::StorageError> {
    let fetch = |table: &Table<'_>, id| {
        table.get(id).map(|found| found.map_or(Vec::new(), |data| data.value().to_vec()))
    };
    let (source, target) = (fetch(table, from)?, fetch(table, to)?);
    let (less, more) = (balance(&source), balance(&target));
    if less > 0 {
        table.insert(from, with_balance(&source, less - 1).as_slice())?;
        table.insert(to, with_balance(&target, more + 1).as_slice())?;
    }
    Ok(())
}

impl Session for Handle<'_> {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        let insert = |table: &mut Table<'_>| {
            writes.iter().try_for_each(|write| table.insert(write.id, &write.data[..]).map(drop))
        };
        self.store.write(insert).map_err(Failure::of(NAME))
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        self.store.read(id, sink).map_err(Failure::of(NAME))
    }

    fn transfer(&mut self, from: u64, to: u64) -> Outcome<Transfer> {
        let moved = self.store.write(|table| move_one(table, from, to));
        moved.map(|()| Transfer::Done).map_err(Failure::of(NAME))
    }

    fn view(&mut self) -> Outcome<()> {
        self.store.db.begin_read().map(drop).map_err(Failure::of(NAME))
    }
}
