//! Recent bytes: the end of the log, kept in memory for readers.
//!
//! In direct mode the log bypasses the page cache, so a block that was just written would be read
//! back from the disk. Owns the last bytes written, span by span in log order, up to a limit; the
//! oldest span goes first. A span is the staged bytes of one write, or the caller's own payload. A
//! span that a reader holds lives until the reader drops it. `len` is the sum of the spans.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::local::format::location::Location;
use crate::sync::{AtomicU64, Ordering, RwLock};

/// The end of the log in memory.
#[derive(Debug)]
pub(crate) struct Recent {
    len_max: AtomicU64,
    spans: RwLock<Spans>,
}

#[derive(Debug, Default)]
struct Spans {
    len: u64,
    queue: VecDeque<Span>,
}

/// Bytes of a segment, ascending in the queue.
#[derive(Debug)]
struct Span {
    place: (u64, u64),
    bytes: Bytes,
}

impl Recent {
    /// Keeps up to `len_max` bytes; with 0 nothing.
    pub(crate) fn new(len_max: u64) -> Recent {
        Recent { len_max: AtomicU64::new(len_max), spans: RwLock::default() }
    }

    /// Whether anything is kept at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.len_max.load(Ordering::Relaxed) > 0
    }

    /// Keeps up to `len_max` bytes from now on.
    pub(crate) fn set_len_max(&self, len_max: u64) {
        if self.len_max.swap(len_max, Ordering::Relaxed) > len_max {
            self.drop_oldest_spans();
        }
    }

    /// Bytes that are kept.
    pub(crate) fn len(&self) -> u64 {
        self.spans.read().len
    }

    /// Adds bytes that were written after all others.
    pub(crate) fn push_written(&self, segment: u64, offset: u64, bytes: Bytes) {
        let mut spans = self.spans.write();
        spans.len += bytes.len() as u64;
        spans.queue.push_back(Span { place: (segment, offset), bytes });
        let is_over = spans.len > self.len_max.load(Ordering::Relaxed);
        drop(spans);
        if is_over {
            self.drop_oldest_spans();
        }
    }

    /// Drops the oldest spans until at most the limit is left. Each is dropped without the lock:
    /// its bytes may be the caller's own, and their owner may read the store when it is dropped.
    fn drop_oldest_spans(&self) {
        loop {
            let oldest =
                self.spans.write().take_oldest_beyond(self.len_max.load(Ordering::Relaxed));
            if oldest.is_none() {
                return;
            }
        }
    }

    /// The payload at a place, if it is kept.
    pub(crate) fn find_payload(&self, location: &Location) -> Option<Bytes> {
        if !self.is_enabled() {
            return None;
        }
        let place = (u64::from(location.segment), u64::from(location.offset));
        let spans = self.spans.read();
        let behind = spans.queue.partition_point(|span| span.place <= place);
        let span = spans.queue.get(behind.checked_sub(1)?)?;
        let from = place.1.checked_sub(span.place.1).filter(|_| span.place.0 == place.0)?;
        let (from, len) = (usize::try_from(from).ok()?, location.len as usize);
        let found = from.checked_add(len).is_some_and(|to| to <= span.bytes.len());
        found.then(|| span.bytes.slice(from..from + len))
    }
}

impl Spans {
    /// Takes the oldest span out where more than `len_max` bytes are kept.
    fn take_oldest_beyond(&mut self, len_max: u64) -> Option<Span> {
        if self.len <= len_max {
            return None;
        }
        let oldest = self.queue.pop_front()?;
        self.len -= oldest.bytes.len() as u64;
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::block::{Block, BlockId, BlockType};

    fn at(segment: u64, offset: u64, len: usize) -> Location {
        let block = Block::new(BlockId(1), BlockType::TableData, vec![0; len]);
        Location::new(&block.header, segment, offset)
    }

    /// Bytes that call back when they are dropped.
    struct Told(Box<dyn FnMut() + Send>);

    impl AsRef<[u8]> for Told {
        fn as_ref(&self) -> &[u8] {
            b"0123456789"
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    #[test]
    fn owner_of_bytes_that_are_forgotten_may_read() {
        let (recent, (sender, read)) = (Arc::new(Recent::new(20)), std::sync::mpsc::channel());
        let within = Arc::clone(&recent);
        let tell =
            move || sender.send(within.find_payload(&at(2, 50, 10))).expect("the test waits");
        recent.push_written(1, 100, Bytes::from_owner(Told(Box::new(tell))));
        recent.push_written(2, 50, Bytes::from_static(b"abcdefghij"));
        recent.push_written(3, 10, Bytes::from_static(b"-"));
        assert_eq!(read.recv().expect("told").as_deref(), Some(&b"abcdefghij"[..]));
        recent.set_len_max(0);
        assert_eq!(recent.len(), 0);
    }

    #[test]
    fn finds_what_is_kept_and_forgets_the_oldest() {
        let recent = Recent::new(20);
        recent.push_written(1, 100, Bytes::from_static(b"0123456789"));
        recent.push_written(2, 50, Bytes::from_static(b"abcdefghij"));
        assert_eq!(recent.find_payload(&at(1, 102, 3)).as_deref(), Some(&b"234"[..]));
        assert_eq!(recent.find_payload(&at(2, 59, 1)).as_deref(), Some(&b"j"[..]));
        for (segment, offset, len) in [(1, 99, 1), (1, 108, 3), (1, 110, 1), (2, 49, 1), (3, 50, 1)]
        {
            assert_eq!(recent.find_payload(&at(segment, offset, len)), None);
        }
        recent.push_written(2, 60, Bytes::from_static(b"k"));
        assert_eq!(recent.find_payload(&at(1, 102, 3)), None);
        assert_eq!(recent.find_payload(&at(2, 60, 1)).as_deref(), Some(&b"k"[..]));
    }

    #[test]
    fn lower_limit_holds_at_once_and_a_higher_one_from_the_next_bytes_on() {
        let recent = Recent::new(20);
        recent.push_written(1, 100, Bytes::from_static(b"0123456789"));
        recent.push_written(1, 110, Bytes::from_static(b"abcdefghij"));
        recent.set_len_max(19);
        assert_eq!((recent.find_payload(&at(1, 100, 3)), recent.len()), (None, 10));
        recent.set_len_max(0);
        assert!(!recent.is_enabled() && recent.len() == 0);
        recent.set_len_max(20);
        assert_eq!(recent.find_payload(&at(1, 110, 3)), None);
        recent.push_written(1, 120, Bytes::from_static(b"k"));
        assert_eq!(recent.find_payload(&at(1, 120, 1)).as_deref(), Some(&b"k"[..]));
    }

    #[test]
    fn empty_payload_at_a_spans_end_is_found_or_absent_but_never_wrong() {
        let recent = Recent::new(20);
        recent.push_written(1, 100, Bytes::from_static(b"0123"));
        assert_eq!(recent.find_payload(&at(1, 104, 0)).as_deref(), Some(&b""[..]));
        assert_eq!(Recent::new(0).find_payload(&at(1, 100, 1)), None);
    }
}
