//! canopydb: a copy-on-write B+ tree in memory before a write-ahead log, with optimistic writers.

use std::path::Path;

use canopydb::{Database, DbOptions, EnvOptions, Error};

use crate::engine::{Engine, Session, Transfer, Write, balance, with_balance};
use crate::failure::{Failure, Outcome};

const NAME: &str = "canopydb";
const TREE: &[u8] = b"blocks";

/// Opens with write transactions that exclude each other.
pub fn open_exclusive(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open(dir, false)
}

/// Opens with write transactions that run beside each other and may conflict.
pub fn open_concurrent(dir: &Path) -> Outcome<Box<dyn Engine>> {
    open(dir, true)
}

fn open(dir: &Path, is_concurrent: bool) -> Outcome<Box<dyn Engine>> {
    let path = dir.join("canopydb");
    std::fs::create_dir_all(&path).map_err(Failure::io("cannot make", &path))?;
    let mut options = DbOptions::new();
    options.default_commit_sync = true;
    let db = Database::with_options(EnvOptions::new(&path), options).map_err(Failure::of(NAME))?;
    let store = Canopy { db, is_concurrent };
    // Made once by itself, so that the first writers do not conflict about it.
    let made = store.db.begin_write().and_then(|tx| {
        tx.get_or_create_tree(TREE)?;
        tx.commit()
    });
    made.map_err(Failure::of(NAME))?;
    Ok(Box::new(store))
}

struct Canopy {
    db: Database,
    is_concurrent: bool,
}

impl Canopy {
    fn insert(&self, writes: &[Write]) -> Result<(), Error> {
        let tx = self.db.begin_write_with(self.is_concurrent)?;
        let mut tree = tx.get_or_create_tree(TREE)?;
        for write in writes {
            tree.insert(&write.id.to_be_bytes(), &write.data)?;
        }
        drop(tree);
        tx.commit_with(true).map(drop)
    }

    fn read(&self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Result<bool, Error> {
        let tx = self.db.begin_read()?;
        let Some(tree) = tx.get_tree(TREE)? else {
            return Ok(false);
        };
        let found = tree.get(&id.to_be_bytes())?;
        if let Some(data) = &found {
            sink(data);
        }
        Ok(found.is_some())
    }

    fn move_one(&self, from: u64, to: u64) -> Result<(), Error> {
        let tx = self.db.begin_write_with(self.is_concurrent)?;
        let mut tree = tx.get_or_create_tree(TREE)?;
        let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
        let source = tree.get(&from)?.map_or(Vec::new(), |data| data.to_vec());
        let target = tree.get(&to)?.map_or(Vec::new(), |data| data.to_vec());
        let (less, more) = (balance(&source), balance(&target));
        if less > 0 {
            tree.insert(&from, &with_balance(&source, less - 1))?;
            tree.insert(&to, &with_balance(&target, more + 1))?;
        }
        drop(tree);
        tx.commit_with(true).map(drop)
    }
}

impl Engine for Canopy {
    fn session(&self) -> Outcome<Box<dyn Session + '_>> {
        Ok(Box::new(Handle { store: self }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.db.sync().map_err(Failure::of(NAME))
    }
}

struct Handle<'a> {
    store: &'a Canopy,
}

impl Session for Handle<'_> {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        loop {
            match self.store.insert(writes) {
                // Neighbours in the tree may conflict though their keys differ.
                Err(Error::WriteConflict) => {}
                other => return other.map_err(Failure::of(NAME)),
            }
        }
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        self.store.read(id, sink).map_err(Failure::of(NAME))
    }

    fn transfer(&mut self, from: u64, to: u64) -> Outcome<Transfer> {
        match self.store.move_one(from, to) {
            Ok(()) => Ok(Transfer::Done),
            Err(Error::WriteConflict) => Ok(Transfer::Conflict),
            Err(error) => Err(Failure::of(NAME)(error)),
        }
    }

    fn view(&mut self) -> Outcome<()> {
        self.store.db.begin_read().map(drop).map_err(Failure::of(NAME))
    }
}
