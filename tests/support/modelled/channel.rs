//! Bounded queues as crossbeam-channel has them: what is sent is received once, senders wait while
//! the queue is full, receivers while it is empty, and a queue without receivers drops what it
//! holds.

use std::collections::VecDeque;
use std::sync::Arc;

pub(crate) use crossbeam_channel::{RecvError, SendError, TryRecvError, TrySendError};

use super::{Condvar, Mutex};

struct Channel<T> {
    capacity: usize,
    queue: Mutex<Queue<T>>,
    changed: Condvar,
}

struct Queue<T> {
    items: VecDeque<T>,
    sender_count: usize,
    receiver_count: usize,
}

pub(crate) struct Sender<T>(Arc<Channel<T>>);

pub(crate) struct Receiver<T>(Arc<Channel<T>>);

pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Queue { items: VecDeque::new(), sender_count: 1, receiver_count: 1 };
    let channel = Channel { capacity, queue: Mutex::new(queue), changed: Condvar::new() };
    let channel = Arc::new(channel);
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut queue = self.0.queue.lock();
        while queue.receiver_count > 0 && queue.items.len() >= self.0.capacity {
            self.0.changed.wait(&mut queue);
        }
        if queue.receiver_count == 0 {
            return Err(SendError(item));
        }
        queue.items.push_back(item);
        drop(queue);
        self.0.changed.notify_all();
        Ok(())
    }

    pub(crate) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let mut queue = self.0.queue.lock();
        if queue.receiver_count == 0 {
            return Err(TrySendError::Disconnected(item));
        }
        if queue.items.len() >= self.0.capacity {
            return Err(TrySendError::Full(item));
        }
        queue.items.push_back(item);
        drop(queue);
        self.0.changed.notify_all();
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.queue.lock().items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.0.capacity
    }
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut queue = self.0.queue.lock();
        match queue.items.pop_front() {
            Some(item) => {
                drop(queue);
                self.0.changed.notify_all();
                Ok(item)
            }
            None if queue.sender_count == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        let mut queue = self.0.queue.lock();
        while queue.items.is_empty() && queue.sender_count > 0 {
            self.0.changed.wait(&mut queue);
        }
        let item = queue.items.pop_front();
        drop(queue);
        self.0.changed.notify_all();
        item.ok_or(RecvError)
    }
}

impl<T> Iterator for &Receiver<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.recv().ok()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.queue.lock().sender_count += 1;
        Sender(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.queue.lock().receiver_count += 1;
        Receiver(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.queue.lock().sender_count -= 1;
        self.0.changed.notify_all();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.receiver_count -= 1;
        let last = queue.receiver_count == 0;
        let dropped = if last { std::mem::take(&mut queue.items) } else { VecDeque::new() };
        drop(queue);
        self.0.changed.notify_all();
        drop(dropped);
    }
}
