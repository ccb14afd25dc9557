//! SQLite in WAL mode, `synchronous=FULL`, one connection a thread.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::engine::{Engine, Session, Transfer, Write, balance, with_balance};
use crate::failure::{Failure, Outcome};

const NAME: &str = "sqlite";

/// Long enough that a writer which waits for 255 others does not give up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(120);

const UPSERT: &str = "INSERT INTO blocks VALUES (?1, ?2) \
                      ON CONFLICT (id) DO UPDATE SET data = excluded.data";
const SELECT: &str = "SELECT data FROM blocks WHERE id = ?1";

/// Opens a store, and makes its table when it is new.
pub fn open(dir: &Path) -> Outcome<Box<dyn Engine>> {
    let path = dir.join("sqlite");
    let keeper = connect(&path).map_err(Failure::of(NAME))?;
    keeper
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS blocks (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
        )
        .map_err(Failure::of(NAME))?;
    Ok(Box::new(Sqlite { path, keeper: parking_lot::Mutex::new(keeper) }))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

struct Sqlite {
    path: PathBuf,
    /// Open as long as the store, so that no session's end is the last one's.
    keeper: parking_lot::Mutex<Connection>,
}

impl Engine for Sqlite {
    fn session(&self) -> Outcome<Box<dyn Session + '_>> {
        let connection = connect(&self.path).map_err(Failure::of(NAME))?;
        Ok(Box::new(Handle { connection }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.keeper.into_inner().close().map_err(|(_, error)| Failure::of(NAME)(error))
    }
}

struct Handle {
    connection: Connection,
}

impl Handle {
    fn insert(&mut self, writes: &[Write]) -> rusqlite::Result<()> {
        if let [write] = writes {
            let mut upsert = self.connection.prepare_cached(UPSERT)?;
            return upsert.execute((write.id as i64, &write.data[..])).map(drop);
        }
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for write in writes {
            tx.prepare_cached(UPSERT)?.execute((write.id as i64, &write.data[..]))?;
        }
        tx.commit()
    }

    fn find(&self, id: u64, sink: &mut dyn FnMut(&[u8])) -> rusqlite::Result<bool> {
        let mut select = self.connection.prepare_cached(SELECT)?;
        let show =
            |row: &rusqlite::Row<'_>| row.get_ref(0)?.as_blob().map(&mut *sink).map_err(Into::into);
        select.query_row([id as i64], show).optional().map(|found| found.is_some())
    }

    fn move_one(&mut self, from: u64, to: u64) -> rusqlite::Result<()> {
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let fetch = |id: u64| -> rusqlite::Result<Vec<u8>> {
            tx.prepare_cached(SELECT)?.query_row([id as i64], |row| row.get(0))
        };
        let (source, target) = (fetch(from)?, fetch(to)?);
        let (less, more) = (balance(&source), balance(&target));
        if less > 0 {
            let mut upsert = tx.prepare_cached(UPSERT)?;
            upsert.execute((from as i64, with_balance(&source, less - 1)))?;
            upsert.execute((to as i64, with_balance(&target, more + 1)))?;
        }
        tx.commit()
    }

    /// A deferred transaction has no snapshot before its first read.
    fn pin(&mut self) -> rusqlite::Result<()> {
        let tx = self.connection.transaction()?;
        tx.prepare_cached("SELECT 1 FROM blocks LIMIT 1")?.exists([])?;
        tx.commit()
    }
}

impl Session for Handle {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        self.insert(writes).map_err(Failure::of(NAME))
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        self.find(id, sink).map_err(Failure::of(NAME))
    }

    fn transfer(&mut self, from: u64, to: u64) -> Outcome<Transfer> {
        self.move_one(from, to).map(|()| Transfer::Done).map_err(Failure::of(NAME))
    }

    fn view(&mut self) -> Outcome<()> {
        self.pin().map_err(Failure::of(NAME))
    }
}
