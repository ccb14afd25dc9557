//! WiredTiger: a B+ tree in a cache before a write-ahead log with a group commit of its own, and
//! optimistic transactions.

use std::marker::PhantomData;
use std::path::Path;

use wiredtiger::{Connection, Cursor, Error, Result};

use crate::engine::{self, Engine, Transfer, Write, balance, with_balance};
use crate::failure::{Failure, Outcome};

const NAME: &str = "wiredtiger";

/// Every commit syncs the log. By default there is no log, commits sync nothing, and 100 sessions
/// are too few for 256 threads.
const CONFIG: &str = "create,log=(enabled=true),transaction_sync=(enabled=true,method=fsync),\
                      session_max=512";
const TABLE: &str = "table:blocks";

/// `WT_ROLLBACK` of `wiredtiger.h`, which the crate does not export.
const CONFLICT: i32 = -31800;

/// Opens with default options but for [`CONFIG`], and makes the table when the store is new.
pub fn open(dir: &Path) -> Outcome<Box<dyn Engine>> {
    let path = dir.join("wiredtiger");
    std::fs::create_dir_all(&path).map_err(Failure::io("cannot make", &path))?;
    let opened = Connection::open(&path.to_string_lossy(), CONFIG).and_then(|connection| {
        connection.open_session()?.create(TABLE, "key_format=u,value_format=u")?;
        Ok(connection)
    });
    Ok(Box::new(Tiger { connection: opened.map_err(Failure::of(NAME))? }))
}

struct Tiger {
    connection: Connection,
}

impl Tiger {
    fn handle(&self) -> Result<Handle<'_>> {
        let session = self.connection.open_session()?;
        let cursor = session.open_cursor(TABLE, "")?;
        Ok(Handle { cursor, session, store: PhantomData })
    }
}

impl Engine for Tiger {
    fn session(&self) -> Outcome<Box<dyn engine::Session + '_>> {
        Ok(Box::new(self.handle().map_err(Failure::of(NAME))?))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.connection.close().map_err(Failure::of(NAME))
    }
}

/// Fields are dropped in this order: closing a session would free its cursor.
struct Handle<'a> {
    cursor: Cursor,
    session: wiredtiger::Session,
    /// Sessions end before their connection does.
    store: PhantomData<&'a Tiger>,
}

impl Handle<'_> {
    /// Runs `body` as a transaction, which is rolled back when `body` fails. A commit that fails
    /// rolls back by itself.
    fn transact(&mut self, body: impl FnOnce(&mut Cursor) -> Result<()>) -> Result<()> {
        self.session.begin_transaction()?;
        match body(&mut self.cursor) {
            Ok(()) => self.session.commit_transaction(),
            Err(error) => {
                self.session.rollback_transaction()?;
                Err(error)
            }
        }
    }

    fn find(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let is_found = show(&mut self.cursor, id, sink)?;
        // A cursor that stays where it is pins its page and its snapshot.
        self.cursor.reset()?;
        Ok(is_found)
    }
}

/// Shows the bytes of a block, which are lent until the cursor moves.
fn show(cursor: &mut Cursor, id: u64, sink: &mut dyn FnMut(&[u8])) -> Result<bool> {
    // Named: the cursor keeps a pointer to it until the search has ended.
    let key = id.to_be_bytes();
    cursor.set_key(&key);
    let is_found = cursor.search()?;
    if is_found {
        sink(cursor.get_value()?);
    }
    Ok(is_found)
}

fn put(cursor: &mut Cursor, id: u64, data: &[u8]) -> Result<()> {
    // Named, as in `show`.
    let key = id.to_be_bytes();
    cursor.set_key(&key);
    cursor.set_value(data);
    cursor.insert()
}

fn move_one(cursor: &mut Cursor, from: u64, to: u64) -> Result<()> {
    let (mut source, mut target) = (Vec::new(), Vec::new());
    show(cursor, from, &mut |bytes| source.extend_from_slice(bytes))?;
    show(cursor, to, &mut |bytes| target.extend_from_slice(bytes))?;
    let (less, more) = (balance(&source), balance(&target));
    if less > 0 {
        put(cursor, from, &with_balance(&source, less - 1))?;
        put(cursor, to, &with_balance(&target, more + 1))?;
    }
    Ok(())
}

impl engine::Session for Handle<'_> {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        let insert = |cursor: &mut Cursor| {
            writes.iter().try_for_each(|write| put(cursor, write.id, &write.data))
        };
        loop {
            match self.transact(insert) {
                // Nothing was changed: the cache had to give way to others first.
                Err(Error::Wt { code: CONFLICT, .. }) => {}
                other => return other.map_err(Failure::of(NAME)),
            }
        }
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        self.find(id, sink).map_err(Failure::of(NAME))
    }

    fn transfer(&mut self, from: u64, to: u64) -> Outcome<Transfer> {
        match self.transact(|cursor| move_one(cursor, from, to)) {
            Ok(()) => Ok(Transfer::Done),
            Err(Error::Wt { code: CONFLICT, .. }) => Ok(Transfer::Conflict),
            Err(error) => Err(Failure::of(NAME)(error)),
        }
    }

    /// A transaction takes its snapshot as it begins.
    fn view(&mut self) -> Outcome<()> {
        let pinned = self.session.begin_transaction();
        pinned.and_then(|()| self.session.rollback_transaction()).map_err(Failure::of(NAME))
    }
}
