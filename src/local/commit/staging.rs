//! Staging memory: where groups are laid out, and where readers find their bytes afterwards.
//!
//! Owns chunks of memory, of which one is filled group after group. A full chunk is retired, and
//! used again once its last bytes are dropped: groups under way, the recent bytes and readers hold
//! them. The chunk that was retired last is taken first, and free chunks beyond [`SPARE_COUNT_MAX`]
//! are given back. So groups are laid out in a few chunks that stay in the processor's cache.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::io::{AlignedBuf, PAGE_LEN};

/// A chunk takes so many bytes, or a multiple of that if its first group is longer.
const CHUNK_LEN: usize = 256 << 10;
/// Longer chunks are not kept.
const KEPT_LEN_MAX: usize = 4 << 20;
/// Free chunks that are kept.
const SPARE_COUNT_MAX: usize = 2;

/// Memory for groups.
#[derive(Debug, Default)]
pub(crate) struct StagingMemory {
    active: Chunk,
    retired: VecDeque<Chunk>,
}

/// Memory that is filled from its start to its end.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) buf: AlignedBuf,
    /// Bytes that it takes when it is free.
    len: usize,
}

impl StagingMemory {
    /// Takes memory for a group of `len` bytes out.
    pub(crate) fn take_chunk(&mut self, len: usize) -> Chunk {
        let active = std::mem::take(&mut self.active);
        if active.buf.capacity() >= len {
            return active;
        }
        if active.len > 0 {
            self.retired.push_back(active);
        }
        self.take_free_chunk(len).unwrap_or_else(|| {
            let len = len.next_multiple_of(CHUNK_LEN);
            Chunk { buf: AlignedBuf::with_capacity(len), len }
        })
    }

    /// Takes the bytes of a group out of its memory, and the memory back.
    pub(crate) fn finish_chunk(&mut self, mut chunk: Chunk) -> Bytes {
        let staged = chunk.buf.take_filled();
        // A group that grew beyond its chunk has moved to a longer one, of which up to a page is
        // padding.
        chunk.len = chunk.len.max((staged.len() + chunk.buf.capacity()).saturating_sub(PAGE_LEN));
        if chunk.len <= KEPT_LEN_MAX {
            self.active = chunk;
        }
        staged
    }

    /// Takes the free chunk that was retired last, and gives back older ones that are free.
    fn take_free_chunk(&mut self, len: usize) -> Option<Chunk> {
        let (mut found, mut spare_count) = (None, 0);
        for at in (0..self.retired.len()).rev() {
            let chunk = &mut self.retired[at];
            if !chunk.buf.try_reuse(chunk.len) {
                continue;
            }
            let fits = found.is_none() && chunk.len >= len;
            if fits || spare_count == SPARE_COUNT_MAX {
                let taken = self.retired.remove(at);
                found = if fits { taken } else { found };
            } else {
                spare_count += 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lays out a group of `len` bytes that all are `byte`.
    fn stage(memory: &mut StagingMemory, len: usize, byte: u8) -> Bytes {
        let mut chunk = memory.take_chunk(len);
        assert!(chunk.buf.capacity() >= len && chunk.buf.is_empty());
        chunk.buf.extend_from_slice(&vec![byte; len]);
        memory.finish_chunk(chunk)
    }

    #[test]
    fn memory_of_dropped_groups_is_used_again_and_held_groups_keep_theirs() {
        let mut memory = StagingMemory::default();
        let held: Vec<Bytes> = (0..100).map(|byte| stage(&mut memory, 64 << 10, byte)).collect();
        let known: Vec<_> = held.iter().map(|group| group.as_ptr()).collect();
        for (byte, group) in held.iter().enumerate() {
            assert!(group.iter().all(|found| usize::from(*found) == byte));
        }
        drop(held);
        for byte in 0..100 {
            let group = stage(&mut memory, 64 << 10, byte);
            assert!(known.contains(&group.as_ptr()), "no new memory");
        }
        assert!(memory.retired.len() <= SPARE_COUNT_MAX + 1, "the rest was given back");
    }

    #[test]
    fn long_groups_get_memory_of_their_own_and_very_long_ones_leave_none() {
        let mut memory = StagingMemory::default();
        let long = stage(&mut memory, 3 << 20, 1);
        let short = stage(&mut memory, 4096, 2);
        drop(long);
        let very_long = stage(&mut memory, KEPT_LEN_MAX + 4096, 3);
        assert_eq!((short[0], very_long[0], memory.active.len), (2, 3, 0));
        let kept_len: usize = memory.retired.iter().map(|chunk| chunk.len).sum();
        assert_eq!(kept_len, (3 << 20) + CHUNK_LEN);
    }

    #[test]
    fn group_that_outgrows_its_chunk_keeps_its_bytes() {
        let mut memory = StagingMemory::default();
        let mut chunk = memory.take_chunk(1);
        (0..100).for_each(|byte| chunk.buf.extend_from_slice(&[byte; 8192]));
        let staged = memory.finish_chunk(chunk);
        assert!(staged.chunks(8192).enumerate().all(|(byte, page)| page == [byte as u8; 8192]));
        assert!(memory.active.len >= 100 * 8192);
    }
}
