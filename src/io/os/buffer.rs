//! Page-aligned buffers, for writes that bypass the page cache.
//!
//! Owns [`AlignedBuf`]. Invariant: the first byte lies on a multiple of [`PAGE_LEN`], also after
//! the buffer has grown, or after its bytes were taken out. It gets there without unsafe code: the
//! allocation is up to a page too long, and the buffer starts at its first aligned byte.

use bytes::{Buf, Bytes, BytesMut};

use super::super::PAGE_LEN;

/// A growable byte buffer that starts on a page boundary.
#[derive(Debug, Default)]
pub struct AlignedBuf {
    /// Never grows in place, which would move it off the boundary.
    bytes: BytesMut,
}

impl AlignedBuf {
    /// Makes an empty buffer that takes `capacity` bytes without growing.
    pub fn with_capacity(capacity: usize) -> AlignedBuf {
        let mut buf = AlignedBuf { bytes: BytesMut::with_capacity(capacity + PAGE_LEN) };
        buf.start_on_page();
        buf
    }

    /// Returns the bytes held.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether the buffer holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns how many bytes the buffer can hold before it has to grow.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Forgets the bytes and keeps the capacity.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Allocates for `additional` bytes more than are held.
    pub fn reserve(&mut self, additional: usize) {
        let needed = self.len() + additional;
        if needed > self.capacity() {
            let mut larger = AlignedBuf::with_capacity(needed.max(2 * self.capacity()));
            larger.bytes.extend_from_slice(self.as_slice());
            *self = larger;
        }
    }

    /// Appends bytes, growing where necessary.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Cuts the buffer to `len` bytes, or appends zeros until it has that many.
    pub fn resize_zeroed(&mut self, len: usize) {
        self.reserve(len.saturating_sub(self.len()));
        self.bytes.resize(len, 0);
    }

    /// Returns the bytes held.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the bytes held, for changes in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Takes the bytes out, without copying them. The buffer is empty then, and goes on in the rest
    /// of the same memory.
    ///
    /// # Panics
    /// If the bytes are not whole pages: the rest would not start on one.
    pub fn take_filled(&mut self) -> Bytes {
        assert!(self.len().is_multiple_of(PAGE_LEN), "whole pages are taken out");
        self.bytes.split().freeze()
    }

    /// Starts anew at the beginning of the memory, if that takes `capacity` bytes and all bytes
    /// that were taken out of it have been dropped. Returns whether it did. The buffer is empty
    /// then.
    pub fn try_reuse(&mut self, capacity: usize) -> bool {
        self.bytes.clear();
        let is_reused = self.bytes.try_reclaim(capacity + PAGE_LEN);
        self.start_on_page();
        is_reused
    }

    /// Skips to the first byte on a page boundary.
    fn start_on_page(&mut self) {
        let address = self.bytes.as_ptr().addr();
        let padding_len = address.next_multiple_of(PAGE_LEN) - address;
        if padding_len > 0 && padding_len <= self.bytes.capacity() {
            self.bytes.resize(padding_len, 0);
            self.bytes.advance(padding_len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(buf: &AlignedBuf, expected: &[u8]) {
        assert_eq!(buf.as_slice(), expected);
        assert_eq!(buf.len(), expected.len());
        assert_eq!(buf.is_empty(), expected.is_empty());
        assert!(buf.capacity() >= buf.len());
        assert_eq!(buf.as_slice().as_ptr().addr() % PAGE_LEN, 0);
    }

    #[test]
    fn stays_aligned_while_it_grows() {
        let mut buf = AlignedBuf::with_capacity(0);
        let mut model = Vec::new();
        check(&buf, &model);
        for step in 0..200_usize {
            let piece = vec![step as u8; step * 37 % 1500];
            buf.extend_from_slice(&piece);
            model.extend_from_slice(&piece);
            check(&buf, &model);
        }
    }

    #[test]
    fn room_that_was_reserved_is_used_in_place() {
        let mut buf = AlignedBuf::with_capacity(3 * PAGE_LEN);
        let start = buf.as_slice().as_ptr();
        buf.resize_zeroed(3 * PAGE_LEN);
        assert_eq!(buf.as_slice().as_ptr(), start);
        check(&buf, &[0; 3 * PAGE_LEN]);
    }

    #[test]
    fn growing_again_shows_zeros_and_not_old_bytes() {
        let mut buf = AlignedBuf::with_capacity(16);
        buf.extend_from_slice(&[7; 16]);
        buf.resize_zeroed(4);
        buf.resize_zeroed(8);
        check(&buf, &[7, 7, 7, 7, 0, 0, 0, 0]);
        buf.as_mut_slice()[7] = 9;
        check(&buf, &[7, 7, 7, 7, 0, 0, 0, 9]);
        buf.clear();
        check(&buf, &[]);
    }

    #[test]
    fn bytes_that_are_taken_out_stay_while_the_buffer_goes_on_behind_them() {
        let mut buf = AlignedBuf::with_capacity(3 * PAGE_LEN);
        buf.extend_from_slice(&[1; PAGE_LEN]);
        let first = buf.take_filled();
        check(&buf, &[]);
        buf.extend_from_slice(&[2; PAGE_LEN]);
        assert_eq!(buf.as_slice().as_ptr(), first.as_ptr_range().end, "in the same memory");
        let second = buf.take_filled();
        assert_eq!((&first[..], &second[..]), (&[1; PAGE_LEN][..], &[2; PAGE_LEN][..]));
        check(&buf, &[]);
    }

    #[test]
    fn memory_is_used_again_once_all_bytes_of_it_are_dropped() {
        let mut buf = AlignedBuf::with_capacity(3 * PAGE_LEN);
        let start = buf.as_slice().as_ptr();
        buf.extend_from_slice(&[1; 2 * PAGE_LEN]);
        let taken = buf.take_filled();
        let slice = taken.slice(5..7);
        drop(taken);
        assert!(!buf.try_reuse(3 * PAGE_LEN), "a reader holds two of its bytes");
        check(&buf, &[]);
        assert_eq!(&slice[..], [1, 1]);
        drop(slice);
        assert!(!buf.try_reuse(4 * PAGE_LEN), "it is too short");
        assert!(buf.try_reuse(3 * PAGE_LEN));
        buf.resize_zeroed(3 * PAGE_LEN);
        assert_eq!(buf.as_slice().as_ptr(), start);
        check(&buf, &[0; 3 * PAGE_LEN]);
    }
}
