//! The bytes of a simulated file: sparse, and cheap to copy.
//!
//! Owns [`Content`], a length and a two-level table of shared pages. A copy costs one reference
//! count; the first change after it copies the table of chunks, one chunk and one page. A page that
//! is absent reads as zeros and takes no space on the disk; one that was zeroed is present.
//! Invariant between calls from outside this module: bytes at and beyond the length are zero.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::PAGE_LEN;

/// The unit into which a power cut tears writes, in bytes.
pub(super) const SECTOR_LEN: usize = 512;
pub(super) const SECTORS_PER_PAGE: usize = PAGE_LEN / SECTOR_LEN;
const PAGES_PER_CHUNK: u64 = 32;

pub(super) type Page = [u8; PAGE_LEN];

/// One bit for each sector of a page, the lowest for the first.
pub(super) type SectorMask = u8;

const _: () = assert!(SECTORS_PER_PAGE == SectorMask::BITS as usize);

#[derive(Debug, Clone, Default)]
struct Chunk {
    pages: [Option<Arc<Page>>; PAGES_PER_CHUNK as usize],
}

/// A file's bytes at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    chunks: Arc<BTreeMap<u64, Arc<Chunk>>>,
    len: u64,
}

/// The part of one page that a range of bytes covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// The page's number.
    pub(super) page: u64,
    /// Where the part begins in the page.
    pub(super) start: usize,
    /// How long it is, at least 1.
    pub(super) len: usize,
}

impl Piece {
    pub(super) fn is_whole_page(self) -> bool {
        self.len == PAGE_LEN
    }

    /// Returns the sectors that the part touches.
    pub(super) fn sectors(self) -> SectorMask {
        let first = self.start / SECTOR_LEN;
        let last = (self.start + self.len - 1) / SECTOR_LEN;
        (first..=last).fold(0, |mask, sector| mask | 1 << sector)
    }
}

/// Cuts a range of bytes at page boundaries.
pub(super) fn pieces(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let start = at % PAGE_LEN as u64;
        let len = (PAGE_LEN as u64 - start).min(end - at);
        let piece = Piece { page: at / PAGE_LEN as u64, start: start as usize, len: len as usize };
        at += len;
        Some(piece)
    })
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the page, or nothing for a hole.
    pub(super) fn page(&self, page: u64) -> Option<&Arc<Page>> {
        self.chunks.get(&(page / PAGES_PER_CHUNK))?.pages[(page % PAGES_PER_CHUNK) as usize]
            .as_ref()
    }

    /// Returns how many pages take space.
    pub(super) fn page_count(&self) -> u64 {
        let present = |chunk: &Arc<Chunk>| chunk.pages.iter().flatten().count() as u64;
        self.chunks.values().map(present).sum()
    }

    /// Copies bytes out; zeros for holes and beyond the length.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        let mut rest = out;
        for piece in pieces(offset, rest.len() as u64) {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(piece.len);
            match self.page(piece.page) {
                Some(page) => part.copy_from_slice(&page[piece.start..][..piece.len]),
                None => part.fill(0),
            }
            rest = behind;
        }
    }

    /// Writes bytes without checking the length.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in pieces(offset, bytes.len() as u64) {
            let (part, behind) = rest.split_at(piece.len);
            self.write_piece(piece, part);
            rest = behind;
        }
    }

    pub(super) fn write_piece(&mut self, piece: Piece, bytes: &[u8]) {
        let slot = self.slot(piece.page);
        match <&Page>::try_from(bytes) {
            // Not through `make_mut`, which would copy the old bytes first.
            Ok(whole) => *slot = Some(Arc::new(*whole)),
            Err(_) => {
                let page = slot.get_or_insert_with(|| Arc::new([0; PAGE_LEN]));
                Arc::make_mut(page)[piece.start..][..piece.len].copy_from_slice(bytes);
            }
        }
    }

    /// Puts a page in place, shared.
    pub(super) fn put_page(&mut self, page: u64, content: Option<Arc<Page>>) {
        *self.slot(page) = content;
    }

    /// Cuts or extends.
    pub(super) fn set_len(&mut self, len: u64) {
        self.len = len;
        self.cut_pages();
    }

    /// Extends to `len` where that is longer.
    pub(super) fn extend_len(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Sets the length alone; the caller ends with [`Content::cut_pages`].
    pub(super) fn set_len_only(&mut self, len: u64) {
        self.len = len;
    }

    /// Makes bytes beyond the length zero, and pages beyond it absent.
    pub(super) fn cut_pages(&mut self) {
        let page_end = self.len.div_ceil(PAGE_LEN as u64);
        let last = self.chunks.last_key_value();
        if last.is_none_or(|(chunk, _)| chunk * PAGES_PER_CHUNK + PAGES_PER_CHUNK <= page_end) {
            return self.zero_tail();
        }
        let chunk_end = page_end.div_ceil(PAGES_PER_CHUNK);
        let chunks = Arc::make_mut(&mut self.chunks);
        chunks.split_off(&chunk_end);
        if let Some(chunk) = chunks.get_mut(&(page_end / PAGES_PER_CHUNK)) {
            let kept = (page_end % PAGES_PER_CHUNK) as usize;
            if chunk.pages[kept..].iter().any(Option::is_some) {
                Arc::make_mut(chunk).pages[kept..].fill(None);
            }
        }
        self.zero_tail();
    }

    /// Makes the bytes between the length and the end of its page zero.
    fn zero_tail(&mut self) {
        let start = (self.len % PAGE_LEN as u64) as usize;
        let page = self.len / PAGE_LEN as u64;
        let dirty = |content: &Arc<Page>| content[start..].iter().any(|b| *b != 0);
        if start > 0 && self.page(page).is_some_and(dirty) {
            let slot = self.slot(page);
            let content = slot.get_or_insert_with(|| Arc::new([0; PAGE_LEN]));
            Arc::make_mut(content)[start..].fill(0);
        }
    }

    fn slot(&mut self, page: u64) -> &mut Option<Arc<Page>> {
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(chunks.entry(page / PAGES_PER_CHUNK).or_default());
        &mut chunk.pages[(page % PAGES_PER_CHUNK) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads everything, and one page more, which must be zero.
    fn all(content: &Content) -> Vec<u8> {
        let mut bytes = vec![9; content.len() as usize + PAGE_LEN];
        content.read(0, &mut bytes);
        let beyond = bytes.split_off(content.len() as usize);
        assert!(beyond.iter().all(|b| *b == 0), "bytes beyond the length");
        bytes
    }

    #[test]
    fn a_range_is_cut_at_page_boundaries_and_touches_whole_sectors() {
        let cut: Vec<_> =
            pieces(4000, 5000).map(|p| (p.page, p.start, p.len, p.sectors())).collect();
        assert_eq!(cut, [(0, 4000, 96, 0x80), (1, 0, 4096, 0xff), (2, 0, 808, 0x03)]);
        assert_eq!(pieces(7, 0).count(), 0);
    }

    #[test]
    fn agrees_with_a_plain_vector() {
        let mut random = super::super::random::Random::new(3);
        let (mut content, mut model) = (Content::default(), Vec::new());
        let mut older = Vec::new();
        for step in 0..400 {
            let offset = random.below(300_000);
            if step % 5 == 0 {
                content.set_len(offset);
                model.resize(offset as usize, 0);
            } else {
                let bytes = vec![step as u8; random.below(20_000) as usize];
                let end = offset as usize + bytes.len();
                content.write(offset, &bytes);
                content.extend_len(end as u64);
                model.resize(model.len().max(end), 0);
                model[offset as usize..end].copy_from_slice(&bytes);
            }
            assert!(all(&content) == model, "step {step}");
            if step % 50 == 0 {
                older.push((content.clone(), model.clone()));
            }
        }
        for (content, model) in older {
            assert!(all(&content) == model, "a copy changed with its original");
        }
    }

    #[test]
    fn far_offsets_take_the_space_of_their_own_pages_only() {
        let mut content = Content::default();
        content.write(1 << 40, b"far");
        content.set_len((1 << 40) + 3);
        assert_eq!(content.page_count(), 1);
        let mut found = [9; 4];
        content.read((1 << 40) - 1, &mut found);
        assert_eq!(&found, b"\0far");
        content.set_len(1 << 40);
        assert_eq!(content.page_count(), 0);
        content.set_len(u64::MAX);
        assert_eq!(content.page_count(), 0);
    }
}
