//! Group commit by hand: one writer thread in front of an engine that has none.
//!
//! Callers send their writes over a channel and wait. The writer takes all that have gathered,
//! commits them as one transaction, and answers all callers. This is the common design today.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::engine::{Engine, Session, Transfer, Write};
use crate::failure::{Failure, Outcome};

/// Callers whose writes share a transaction, at most.
const GROUP_LEN_MAX: usize = 256;

/// LMDB behind a writer thread.
#[cfg(feature = "lmdb")]
pub fn open_lmdb(dir: &Path) -> Outcome<Box<dyn Engine>> {
    Ok(Box::new(Grouped::start(crate::engines::lmdb::open(dir)?)))
}

/// redb behind a writer thread.
#[cfg(feature = "redb")]
pub fn open_redb(dir: &Path) -> Outcome<Box<dyn Engine>> {
    Ok(Box::new(Grouped::start(crate::engines::redb::open(dir)?)))
}

/// SQLite behind a writer thread.
#[cfg(feature = "sqlite")]
pub fn open_sqlite(dir: &Path) -> Outcome<Box<dyn Engine>> {
    Ok(Box::new(Grouped::start(crate::engines::sqlite::open(dir)?)))
}

struct Request {
    writes: Vec<Write>,
    answer: Sender<bool>,
}

struct Grouped {
    inner: Arc<dyn Engine>,
    requests: Option<Sender<Request>>,
    writer: Option<JoinHandle<Outcome<()>>>,
}

impl Grouped {
    fn start(inner: Box<dyn Engine>) -> Grouped {
        let inner: Arc<dyn Engine> = Arc::from(inner);
        let (requests, queue) = bounded(GROUP_LEN_MAX);
        let engine = Arc::clone(&inner);
        let writer = std::thread::spawn(move || write(&*engine, &queue));
        Grouped { inner, requests: Some(requests), writer: Some(writer) }
    }
}

/// The writer thread: goes on until every sender is gone or a commit fails.
fn write(engine: &dyn Engine, queue: &Receiver<Request>) -> Outcome<()> {
    let mut session = engine.session()?;
    let mut group = Vec::with_capacity(GROUP_LEN_MAX);
    let mut writes = Vec::new();
    while let Ok(first) = queue.recv() {
        group.push(first);
        group.extend(queue.try_iter().take(GROUP_LEN_MAX - 1));
        writes.extend(group.iter_mut().flat_map(|request| request.writes.drain(..)));
        let committed = session.commit(&writes);
        for request in group.drain(..) {
            // A caller that has gone asks no more.
            if request.answer.send(committed.is_ok()).is_err() {}
        }
        writes.clear();
        committed?;
    }
    Ok(())
}

impl Engine for Grouped {
    fn session(&self) -> Outcome<Box<dyn Session + '_>> {
        let requests = self.requests.clone().ok_or(Failure::Thread)?;
        let (answer, answers) = bounded(1);
        Ok(Box::new(Caller { inner: self.inner.session()?, requests, answer, answers }))
    }

    fn close(mut self: Box<Self>) -> Outcome<()> {
        drop(self.requests.take());
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            _ => Err(Failure::Thread),
        }
    }
}

struct Caller<'a> {
    inner: Box<dyn Session + 'a>,
    requests: Sender<Request>,
    answer: Sender<bool>,
    answers: Receiver<bool>,
}

impl Session for Caller<'_> {
    fn commit(&mut self, writes: &[Write]) -> Outcome<()> {
        let request = Request { writes: writes.to_vec(), answer: self.answer.clone() };
        self.requests.send(request).map_err(|_| Failure::Thread)?;
        match self.answers.recv() {
            Ok(true) => Ok(()),
            _ => Err(Failure::Thread),
        }
    }

    fn read(&mut self, id: u64, sink: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        self.inner.read(id, sink)
    }

    fn transfer(&mut self, from: u64, to: u64) -> Outcome<Transfer> {
        self.inner.transfer(from, to)
    }

    fn view(&mut self) -> Outcome<()> {
        self.inner.view()
    }
}
