//! Recent bytes: the end of the log, kept in memory for readers.
//!
//! In direct mode the log bypasses the page cache, so a block that was just written would be read
//! back from the disk. Owns the last bytes written, span by span in log order, up to a limit; the
//! oldest span goes first. A span is the staged bytes of one write, or the caller's own payload. A
//! span that a reader holds lives until the reader drops it. `len` is the sum of the spans.
//!
//! The limit follows the readers. It begins with [`WINDOW_LEN_MIN`]: so much stays in the
//! processor's cache, while writes to memory that was last used long ago cost up to half of the
//! commits. It is doubled, up to the option's limit, if readers often ask for bytes that have just
//! gone. It is halved if they seldom ask for the older half. Both are looked at each time that as
//! many bytes as the limit have been written.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::local::format::location::Location;
use crate::mvcc::version::VersionLen;
use crate::sync::{AtomicU64, Ordering, RwLock};

/// The limit is not lowered beyond this to make writes faster.
const WINDOW_LEN_MIN: u64 = 2 << 20;
/// Readers ask often if they ask for one byte of so many bytes written.
const WRITTEN_PER_READ: u64 = 32;
/// So many marks remember how far back the option's limit reaches.
const MARK_COUNT: usize = 16;
/// A place behind all others.
const NOWHERE: u64 = u64::MAX;

/// The end of the log in memory.
#[derive(Debug)]
pub(crate) struct Recent {
    /// The limit of the option, or less if the memory budget asks for that.
    len_max: AtomicU64,
    spans: RwLock<Spans>,
    /// The oldest place that is kept.
    kept_from: AtomicU64,
    /// About the oldest place that would be kept with the option's limit.
    reach_from: AtomicU64,
    /// Bytes that readers did not find but would have with the option's limit.
    missed_len: AtomicU64,
    /// Bytes that readers found in the older half.
    old_len: AtomicU64,
}

#[derive(Debug)]
struct Spans {
    len: u64,
    queue: VecDeque<Span>,
    /// The limit that follows the readers.
    window_len: u64,
    /// Bytes to write until a limit that was raised is reached. Readers are not counted until then.
    unfilled_len: u64,
    /// Bytes written since readers are counted.
    pushed_len: u64,
    marks: VecDeque<u64>,
    /// Bytes written since the last mark.
    unmarked_len: u64,
}

/// Bytes of a segment, ascending in the queue.
#[derive(Debug)]
struct Span {
    place: u64,
    bytes: Bytes,
}

impl Recent {
    /// Keeps up to `len_max` bytes; with 0 nothing.
    pub(crate) fn new(len_max: u64) -> Recent {
        Recent {
            len_max: AtomicU64::new(len_max),
            spans: RwLock::new(Spans {
                len: 0,
                queue: VecDeque::new(),
                window_len: WINDOW_LEN_MIN,
                unfilled_len: 0,
                pushed_len: 0,
                marks: VecDeque::new(),
                unmarked_len: 0,
            }),
            kept_from: AtomicU64::new(NOWHERE),
            reach_from: AtomicU64::new(NOWHERE),
            missed_len: AtomicU64::new(0),
            old_len: AtomicU64::new(0),
        }
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
        let (place, len) = (segment << 32 | offset, bytes.len() as u64);
        let len_max = self.len_max.load(Ordering::Relaxed);
        let mut spans = self.spans.write();
        debug_assert!(
            spans.queue.back().is_none_or(|span| span.place < place),
            "spans are pushed in log order"
        );
        if spans.queue.is_empty() {
            self.kept_from.store(place, Ordering::Relaxed);
        }
        spans.len += len;
        spans.queue.push_back(Span { place, bytes });
        if let Some(reach_from) = spans.mark_place(place, len, len_max) {
            self.reach_from.store(reach_from, Ordering::Relaxed);
        }
        if spans.is_count_due(len) {
            let missed_len = self.missed_len.swap(0, Ordering::Relaxed);
            let old_len = self.old_len.swap(0, Ordering::Relaxed);
            spans.follow_readers(missed_len, old_len, len_max);
        }
        let is_over = spans.len > spans.window_len.min(len_max);
        drop(spans);
        if is_over {
            self.drop_oldest_spans();
        }
    }

    /// Drops the oldest spans until at most the limit is left. Each is dropped without the lock:
    /// its bytes may be the caller's own, and their owner may read the store when it is dropped.
    fn drop_oldest_spans(&self) {
        loop {
            let mut spans = self.spans.write();
            let oldest = spans.take_oldest_beyond(self.len_max.load(Ordering::Relaxed));
            let kept_from = spans.queue.front().map_or(NOWHERE, |span| span.place);
            self.kept_from.store(kept_from, Ordering::Relaxed);
            drop(spans);
            if oldest.is_none() {
                return;
            }
        }
    }

    /// The payload at a place, if it is kept.
    pub(crate) fn find_payload(&self, location: &Location) -> Option<Bytes> {
        let (place, len) = (location.place(), location.len as usize);
        if place < self.kept_from.load(Ordering::Relaxed) {
            if place >= self.reach_from.load(Ordering::Relaxed) {
                self.missed_len.fetch_add(len as u64, Ordering::Relaxed);
            }
            return None;
        }
        let spans = self.spans.read();
        let at = spans.queue.partition_point(|span| span.place <= place).checked_sub(1)?;
        let span = &spans.queue[at];
        let is_same_segment = span.place >> 32 == place >> 32;
        let from = usize::try_from(place - span.place).ok().filter(|_| is_same_segment)?;
        let to = from.checked_add(len).filter(|to| *to <= span.bytes.len())?;
        if at < spans.queue.len() / 2 {
            self.old_len.fetch_add(len as u64, Ordering::Relaxed);
        }
        Some(span.bytes.slice(from..to))
    }
}

impl Spans {
    /// Takes the oldest span out where more than the limit is kept.
    fn take_oldest_beyond(&mut self, len_max: u64) -> Option<Span> {
        if self.len <= self.window_len.min(len_max) {
            return None;
        }
        let oldest = self.queue.pop_front()?;
        self.len -= oldest.bytes.len() as u64;
        Some(oldest)
    }

    /// Marks a place every now and then, and returns the oldest mark within `len_max` bytes.
    fn mark_place(&mut self, place: u64, len: u64, len_max: u64) -> Option<u64> {
        self.unmarked_len += len;
        if self.unmarked_len < len_max / MARK_COUNT as u64 {
            return None;
        }
        self.unmarked_len = 0;
        self.marks.push_back(place);
        if self.marks.len() > MARK_COUNT {
            self.marks.pop_front();
        }
        self.marks.front().copied()
    }

    /// Counts written bytes. Returns whether to look at the limit now.
    fn is_count_due(&mut self, len: u64) -> bool {
        let is_filling = self.unfilled_len > 0;
        self.unfilled_len = self.unfilled_len.saturating_sub(len);
        self.pushed_len += len;
        if is_filling { self.unfilled_len == 0 } else { self.pushed_len >= self.window_len }
    }

    /// Sets the limit anew, unless it has just been reached.
    fn follow_readers(&mut self, missed_len: u64, old_len: u64, len_max: u64) {
        let pushed_len = std::mem::take(&mut self.pushed_len);
        let is_often = |len: u64| len.saturating_mul(WRITTEN_PER_READ) >= pushed_len;
        if pushed_len < self.window_len {
            return;
        }
        if is_often(missed_len) {
            let window_len = (self.window_len * 2).min(len_max.max(WINDOW_LEN_MIN));
            self.unfilled_len = window_len.saturating_sub(self.window_len);
            self.window_len = window_len;
        } else if !is_often(old_len * 2) {
            self.window_len = (self.window_len / 2).max(WINDOW_LEN_MIN);
        }
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

    const PAGE: u64 = 4096;

    /// Writes pages `from..to` of segment 1, and reads the one written `behind` pages before each.
    fn write_and_follow(recent: &Recent, pages: std::ops::Range<u64>, behind: u64) -> u64 {
        let page = Bytes::from(vec![7; PAGE as usize]);
        let mut found_count = 0;
        for number in pages {
            recent.push_written(1, number * PAGE, page.clone());
            let place = at(1, number.saturating_sub(behind) * PAGE, PAGE as usize);
            found_count += u64::from(recent.find_payload(&place).is_some());
        }
        found_count
    }

    #[test]
    fn limit_grows_to_where_readers_look_and_shrinks_when_they_stop() {
        let recent = Recent::new(32 << 20);
        let far = (12 << 20) / PAGE;
        write_and_follow(&recent, 0..20_000, far);
        assert_eq!(recent.len(), 16 << 20, "as far as the readers look");
        assert_eq!(write_and_follow(&recent, 20_000..30_000, far), 10_000, "all are found");
        write_and_follow(&recent, 30_000..60_000, 1);
        assert_eq!(recent.len(), WINDOW_LEN_MIN, "no reader looks that far any more");
    }

    #[test]
    fn readers_beyond_the_options_limit_and_rare_ones_do_not_grow_it() {
        let recent = Recent::new(8 << 20);
        write_and_follow(&recent, 0..20_000, (9 << 20) / PAGE);
        assert_eq!(recent.len(), WINDOW_LEN_MIN);
        for start in (20_000..40_000).step_by(100) {
            write_and_follow(&recent, start..start + 99, 0);
            write_and_follow(&recent, start + 99..start + 100, (4 << 20) / PAGE);
        }
        assert_eq!(recent.len(), WINDOW_LEN_MIN);
    }
}
