//! Page-aligned buffers, for writes that bypass the page cache.
//!
//! Owns [`AlignedBuf`]. Invariant: the first byte lies on a multiple of [`PAGE_LEN`], also after
//! the buffer has grown. It gets there without unsafe code: the storage is up to a page too long,
//! and the bytes before the first aligned one are padding.

use super::super::PAGE_LEN;

/// A growable byte buffer that starts on a page boundary.
#[derive(Debug)]
pub struct AlignedBuf {
    /// Padding, then the bytes. Never grows in place, which would move it off the boundary.
    storage: Vec<u8>,
    padding_len: usize,
}

impl AlignedBuf {
    /// Makes an empty buffer that takes `capacity` bytes without growing.
    pub fn with_capacity(capacity: usize) -> AlignedBuf {
        let mut storage: Vec<u8> = Vec::with_capacity(capacity + PAGE_LEN);
        let address = storage.as_ptr().addr();
        let padding_len = address.next_multiple_of(PAGE_LEN) - address;
        storage.resize(padding_len, 0);
        AlignedBuf { storage, padding_len }
    }

    /// Returns the bytes held.
    pub fn len(&self) -> usize {
        self.storage.len() - self.padding_len
    }

    /// Returns whether the buffer holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many bytes the buffer can hold before it has to grow.
    pub fn capacity(&self) -> usize {
        self.storage.capacity() - self.padding_len
    }

    /// Forgets the bytes and keeps the capacity.
    pub fn clear(&mut self) {
        self.storage.truncate(self.padding_len);
    }

    /// Allocates for `additional` bytes more than are held.
    pub fn reserve(&mut self, additional: usize) {
        let needed = self.len() + additional;
        if needed > self.capacity() {
            let mut larger = AlignedBuf::with_capacity(needed.max(2 * self.capacity()));
            larger.storage.extend_from_slice(self.as_slice());
            *self = larger;
        }
    }

    /// Appends bytes, growing where necessary.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.storage.extend_from_slice(bytes);
    }

    /// Cuts the buffer to `len` bytes, or appends zeros until it has that many.
    pub fn resize_zeroed(&mut self, len: usize) {
        self.reserve(len.saturating_sub(self.len()));
        self.storage.resize(self.padding_len + len, 0);
    }

    /// Returns the bytes held.
    pub fn as_slice(&self) -> &[u8] {
        &self.storage[self.padding_len..]
    }

    /// Returns the bytes held, for changes in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.storage[self.padding_len..]
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
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
    fn owns_bytes_that_are_shared() {
        let mut buf = AlignedBuf::with_capacity(4);
        buf.extend_from_slice(b"page");
        let shared = bytes::Bytes::from_owner(buf);
        assert_eq!(&shared.slice(1..3)[..], b"ag");
    }
}
