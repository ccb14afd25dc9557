//! Images: checkpoint files, used in place.
//!
//! Owns [`Image`]. Opening one reads only its header and segment table. A page's checksum is
//! verified when the page is first used, and remembered in one bit; without a map, at each read.
//! Many ascending ids are looked up leaf by leaf. A damaged page is an error of the look-ups that
//! need it, never a wrong answer.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::BlockId;
use crate::error::{Defect, Error, IoOp, Resource, Result, shortage};
use crate::io::{Disk, DiskFile, FileName, How, PAGE_LEN, View, read_exact_at};
use crate::local::format::checkpoint::{
    Header, ROW_LEN, SegmentUse, Summary, decode_segment_table,
};
use crate::local::format::description::Description;
use crate::local::format::page::{ImagePage, Record};
use crate::local::format::place::{damaged, path_of};
use crate::local::format::{FORMAT_VERSION, PAGE};
use crate::local::options::ReadMode;
use crate::local::read::mapping::{map_of_file, view_of_file};
use crate::order::ScanOrder;

/// An open image.
pub(crate) struct Image {
    pub(crate) header: Header,
    seed: u32,
    view: Box<dyn View>,
    /// Pages are read from the file each time, and verified each time.
    is_read: bool,
    path: std::path::PathBuf,
    /// A bit for each page: it was verified.
    verified: Box<[AtomicU64]>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Image {
    /// Opens an image and reads its segment table.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: header, table or length are not what was written;
    /// [`Error::UnsupportedFormat`], [`Error::Io`].
    pub(crate) fn open<D: Disk>(
        disk: &D,
        store: &Description,
        number: u64,
        mode: ReadMode,
    ) -> Result<(Image, Vec<SegmentUse>)> {
        let (file, header) = open_with_header(disk, store, number)?;
        let name = FileName::Checkpoint(number);
        let path = path_of(disk.path(), name);
        let io = |op| {
            let path = path.clone();
            move |e| Error::io(op, path, e)
        };
        let len = file.len().map_err(io(IoOp::Read))?;
        if len != header.layout.page_count * PAGE {
            return Err(damaged(name, len, Defect::Truncated));
        }
        let layout = &header.layout;
        let mut rows = vec![0; layout.segment_count as usize * ROW_LEN];
        let table_at = layout.table_page * PAGE;
        read_exact_at(&file, table_at, &mut rows).map_err(io(IoOp::Read))?;
        let segments = decode_segment_table(&rows, layout);
        let segments = segments.ok_or_else(|| damaged(name, table_at, Defect::Checkpoint))?;
        let words = layout.page_count.div_ceil(64) as usize;
        let verified = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        let seed = header.image_page_seed(store);
        // Pages are used within one call, so copies of them would not be used twice.
        let map = (mode != ReadMode::Pread).then(|| map_of_file(&file, len, ReadMode::Mapped));
        let (view, is_read) = match map {
            Some(Err(error)) if shortage(&error, IoOp::Map) != Some(Resource::Memory) => {
                return Err(io(IoOp::Map)(error));
            }
            Some(Ok(map)) => (map, false),
            // Without a map, each page is read when it is needed.
            Some(Err(_)) | None => {
                (view_of_file(file, len, ReadMode::Pread).map_err(io(IoOp::Map))?, true)
            }
        };
        Ok((Image { header, seed, view, is_read, path, verified }, segments))
    }

    /// Reads the summary from the header alone, even if other parts are damaged or missing.
    ///
    /// # Errors
    /// As [`Image::open`], as far as the header goes.
    pub(crate) fn read_summary<D: Disk>(
        disk: &D,
        store: &Description,
        number: u64,
    ) -> Result<Summary> {
        open_with_header(disk, store, number).map(|(_, header)| header.summary)
    }

    /// The record of an id, if the image has one.
    pub(crate) fn find_record(&self, id: BlockId) -> Result<Option<Record>> {
        let Some(number) = self.leaf_for(id)? else { return Ok(None) };
        let bytes = self.verified_page(number)?;
        let page = ImagePage::from_checked(&bytes);
        let at = page.seek_at_or_behind(id);
        if at == page.entry_count() || page.id_at(at) != id {
            return Ok(None);
        }
        page.record_at(at).map(Some).ok_or_else(|| self.page_damage(number))
    }

    /// Adds the records of those ascending ids for which none is found yet. Visits each leaf once.
    pub(crate) fn find_records(&self, ids: &[BlockId], found: &mut [Option<Record>]) -> Result<()> {
        debug_assert_eq!(ids.len(), found.len(), "each id has a place for its record");
        let (mut number, mut bytes): (u64, Cow<'_, [u8]>) = (0, Cow::Borrowed(&[]));
        for (id, found) in ids.iter().zip(found).filter(|(_, found)| found.is_none()) {
            if bytes.is_empty() || ImagePage::from_checked(&bytes).last_id() < *id {
                let Some(leaf) = self.leaf_for(*id)? else { continue };
                (number, bytes) = (leaf, self.verified_page(leaf)?);
            }
            let page = ImagePage::from_checked(&bytes);
            let at = page.seek_at_or_behind(*id);
            if at < page.entry_count() && page.id_at(at) == *id {
                *found = Some(page.record_at(at).ok_or_else(|| self.page_damage(number))?);
            }
        }
        Ok(())
    }

    /// A cursor before the records of a range, in an order.
    pub(crate) fn cursor_over(
        &self,
        (first, last): (BlockId, BlockId),
        order: ScanOrder,
    ) -> Result<ImageCursor<'_>> {
        let number = match order {
            ScanOrder::Ascending => {
                let start = u64::from(self.header.layout.leaf_count > 0);
                self.leaf_for(first)?.unwrap_or(start)
            }
            // No record lies before the first leaf.
            ScanOrder::Descending => self.leaf_for(last)?.unwrap_or(0),
        };
        let mut cursor =
            ImageCursor { image: self, order, number, bytes: Cow::Borrowed(&[]), at: 0 };
        cursor.load_leaf()?;
        if !cursor.bytes.is_empty() {
            let page = ImagePage::from_checked(&cursor.bytes);
            cursor.at = match order {
                ScanOrder::Ascending => page.seek_at_or_behind(first),
                ScanOrder::Descending => page.seek_behind(last),
            };
        }
        Ok(cursor)
    }

    /// Verifies every page, both copies of the header among them, and adds all damage to `found`.
    /// The segment table was verified when the image was opened.
    ///
    /// # Errors
    /// [`Error::Io`] only.
    pub(crate) fn collect_damage(&self, found: &mut Vec<Error>) -> Result<()> {
        let layout = &self.header.layout;
        for number in [0, layout.page_count - 1] {
            if Header::decode(&self.page_bytes(number)?).as_ref() != Some(&self.header) {
                found.push(self.page_damage(number));
            }
        }
        for number in 1..layout.table_page {
            match self.verify_page(number) {
                Ok(_) => {}
                Err(error @ Error::Corrupt { .. }) => found.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The records of a leaf: one of pages `1..=leaf_count`.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub(crate) fn leaf_records(&self, number: u64) -> Result<Vec<(BlockId, Record)>> {
        let bytes = self.verified_page(number)?;
        let page = ImagePage::from_checked(&bytes);
        if page.level() != 0 {
            return Err(self.page_damage(number));
        }
        let record = |at| page.record_at(at).map(|record| (page.id_at(at), record));
        (0..page.entry_count())
            .map(record)
            .collect::<Option<_>>()
            .ok_or_else(|| self.page_damage(number))
    }

    /// The leaf that holds an id, if one does.
    fn leaf_for(&self, id: BlockId) -> Result<Option<u64>> {
        let layout = &self.header.layout;
        let (mut number, mut above) = (layout.root, u8::MAX);
        while number > layout.leaf_count {
            let bytes = self.verified_page(number)?;
            let page = ImagePage::from_checked(&bytes);
            let level = page.level();
            let Some(child) = page.child_page_of(id) else { return Ok(None) };
            // The search must descend, whatever the file holds.
            if level == 0 || level >= above || child == 0 || child >= number {
                return Err(self.page_damage(number));
            }
            (number, above) = (child, level);
        }
        if number == 0 {
            return Ok(None);
        }
        match ImagePage::from_checked(&self.verified_page(number)?).level() {
            0 => Ok(Some(number)),
            _ => Err(self.page_damage(number)),
        }
    }

    fn verified_page(&self, number: u64) -> Result<Cow<'_, [u8]>> {
        let (word, bit) = (&self.verified[(number / 64) as usize], 1 << (number % 64));
        if word.load(Ordering::Relaxed) & bit != 0 && !self.is_read {
            return self.page_bytes(number);
        }
        let bytes = self.verify_page(number)?;
        word.fetch_or(bit, Ordering::Relaxed);
        Ok(bytes)
    }

    fn verify_page(&self, number: u64) -> Result<Cow<'_, [u8]>> {
        let bytes = self.page_bytes(number)?;
        match ImagePage::check_page(&bytes, self.seed, number) {
            Some(_) => Ok(bytes),
            None => Err(self.page_damage(number)),
        }
    }

    fn page_bytes(&self, number: u64) -> Result<Cow<'_, [u8]>> {
        let bytes = self.view.slice(number * PAGE, PAGE_LEN);
        bytes.map_err(|e| Error::io(IoOp::Read, &self.path, e))
    }

    fn page_damage(&self, number: u64) -> Error {
        let name = FileName::Checkpoint(self.header.name.number);
        damaged(name, number * PAGE, Defect::Checkpoint)
    }
}

/// Opens the file of an image and reads its header, which must name this store and this number.
fn open_with_header<D: Disk>(
    disk: &D,
    store: &Description,
    number: u64,
) -> Result<(D::File, Header)> {
    let name = FileName::Checkpoint(number);
    let path = path_of(disk.path(), name);
    let io = |op| {
        let path = path.clone();
        move |e| Error::io(op, path, e)
    };
    let file = disk.open(name, How::Read).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => damaged(name, 0, Defect::MissingFile),
        _ => io(IoOp::Open)(e),
    })?;
    let len = file.len().map_err(io(IoOp::Read))?;
    let header = match read_header(&file, len).map_err(io(IoOp::Read))? {
        Ok(header) => header,
        Err(Some(found)) => {
            let path = disk.path().to_path_buf();
            return Err(Error::UnsupportedFormat { path, found, supported: FORMAT_VERSION });
        }
        Err(None) => return Err(damaged(name, 0, Defect::Checkpoint)),
    };
    match header.store_id == store.store_id && header.name.number == number {
        true => Ok((file, header)),
        false => Err(damaged(name, 0, Defect::ForeignCheckpoint)),
    }
}

/// Reads the header from the first page, or if that is damaged from the last. The inner error is
/// the newer format version that both pages name, if they do.
fn read_header<F: DiskFile>(
    file: &F,
    len: u64,
) -> std::io::Result<std::result::Result<Header, Option<u32>>> {
    let mut newer = [None; 2];
    for (at, newer) in [0, (len / PAGE).saturating_sub(1) * PAGE].into_iter().zip(&mut newer) {
        let mut page = vec![0; PAGE.min(len - at) as usize];
        read_exact_at(file, at, &mut page)?;
        if let Some(header) = Header::decode(&page) {
            return Ok(Ok(header));
        }
        *newer = Header::newer_version(&page);
    }
    Ok(Err(newer[0].filter(|_| newer[0] == newer[1])))
}

/// Walks an image's records in an order of their ids.
pub(crate) struct ImageCursor<'a> {
    image: &'a Image,
    order: ScanOrder,
    /// The leaf of the cursor; 0 without one.
    number: u64,
    bytes: Cow<'a, [u8]>,
    /// Records of the leaf that lie before the cursor, in the order of their ids.
    at: usize,
}

impl ImageCursor<'_> {
    /// The next record.
    pub(crate) fn next_record(&mut self) -> Result<Option<(BlockId, Record)>> {
        while !self.bytes.is_empty() {
            let page = ImagePage::from_checked(&self.bytes);
            let (next, behind) = match self.order {
                ScanOrder::Ascending => {
                    (Some(self.at).filter(|at| *at < page.entry_count()), self.at + 1)
                }
                ScanOrder::Descending => (self.at.checked_sub(1), self.at.saturating_sub(1)),
            };
            if let Some(at) = next {
                let record =
                    page.record_at(at).ok_or_else(|| self.image.page_damage(self.number))?;
                self.at = behind;
                return Ok(Some((page.id_at(at), record)));
            }
            self.load_next_leaf()?;
        }
        Ok(None)
    }

    fn load_next_leaf(&mut self) -> Result<()> {
        debug_assert!(self.number > 0, "the cursor is in a leaf");
        match self.order {
            ScanOrder::Ascending => self.number += 1,
            ScanOrder::Descending => self.number -= 1,
        }
        self.load_leaf()?;
        self.at = match self.order {
            ScanOrder::Descending if !self.bytes.is_empty() => {
                ImagePage::from_checked(&self.bytes).entry_count()
            }
            _ => 0,
        };
        Ok(())
    }

    fn load_leaf(&mut self) -> Result<()> {
        let in_leaves = (1..=self.image.header.layout.leaf_count).contains(&self.number);
        self.bytes =
            if in_leaves { self.image.verified_page(self.number)? } else { Cow::Borrowed(&[]) };
        if in_leaves && ImagePage::from_checked(&self.bytes).level() != 0 {
            return Err(self.image.page_damage(self.number));
        }
        Ok(())
    }
}
