//! LevelDB: a log-structured merge tree in C++ with a group commit of its own, without
//! transactions that read.

use std::path::Path;

use crate::engine::{Engine, Session, Transfer, Write};
use crate::failure::{Failure, Outcome};

mod c;

const NAME: &str = "leveldb";

/// Opens with default options; every write syncs the log, and reads verify checksums.
pub fn open(dir: &Path) -> Outcome<Box<dyn Engine>> {
    let store = c::Store::open(&dir.join("leveldb")).map_err(Failure::of(NAME))?;
    Ok(Box::new(Level { store }))
}

struct Level {
    store: c::Store,
}

impl Engine for Level {
    fn session(&self) -> Outcome<Box<dyn Session + '_>> {
        Ok(Box::new(Handle { store: &self.store }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(())
    }
}

struct Handle<'a> {
    store: &'a c::Store,
}

impl Session for Handle<'_> {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        let mut batch = c::Batch::new();
        for write in writes {
            batch.put(&write.id.to_be_bytes(), &write.data);
        }
        self.store.write(&mut batch).map_err(Failure::of(NAME))
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        let found = self.store.get(&id.to_be_bytes()).map_err(Failure::of(NAME))?;
        if let Some(data) = &found {
            sink(data);
        }
        Ok(found.is_some())
    }

    fn transfer(&mut self, _: u64, _: u64) -> Outcome<Transfer> {
        Err(Failure::Unsupported { engine: NAME, what: "transactions" })
    }

    fn view(&mut self) -> Outcome<()> {
        self.store.pin();
        Ok(())
    }
}
