//! Writing an image: takes records in id order, and makes a durable file under its final name.
//!
//! Owns the unfinished file. Pages are written in their order: leaves first, then level by level
//! the pages above them, the segment table and the copy of the header; the header itself last. The
//! file gets its name once all of it is durable, so a named checkpoint is whole.

use std::io;

use crate::block::BlockId;
use crate::checksum;
use crate::io::{Disk, DiskFile, FileName, How, PAGE_LEN, write_all_at};
use crate::local::format::PAGE;
use crate::local::format::checkpoint::{
    Header, ImageLayout, ImageName, SegmentUse, Summary, encode_segment_table, seed_of_image_pages,
};
use crate::local::format::description::Description;
use crate::local::format::page::{
    CHILDREN_MAX, DENSE_MAX, Record, encode_inner_page, encode_leaf, next_leaf_shape,
};
use crate::local::maintenance::checkpoint::schedule::{CHUNK_LEN, ImageSchedule};

/// An image under construction.
pub(crate) struct Writer<'a, D: Disk> {
    disk: &'a D,
    store: &'a Description,
    name: ImageName,
    seed: u32,
    file: D::File,
    gathered: Vec<u8>,
    written_len: u64,
    schedule: ImageSchedule<'a>,
    /// Approximate length of the image.
    expected_len: u64,
    /// Records that are not in a leaf yet.
    waiting: Vec<(BlockId, Record)>,
    /// First ids of the pages of the level under construction.
    firsts: Vec<BlockId>,
    entry_count: u64,
}

impl<'a, D: Disk> Writer<'a, D> {
    /// Begins an image of about so many bytes.
    ///
    /// # Errors
    /// The disk's own.
    pub(crate) fn create_file(
        disk: &'a D,
        store: &'a Description,
        number: u64,
        schedule: ImageSchedule<'a>,
        expected_len: u64,
    ) -> io::Result<Writer<'a, D>> {
        let mut salt = [0; 8];
        disk.random(&mut salt)?;
        let name = ImageName { number, salt: u64::from_le_bytes(salt) };
        let file = disk.open(FileName::Temporary(number), How::CreateNew)?;
        Ok(Writer {
            disk,
            store,
            name,
            seed: seed_of_image_pages(store, name),
            file,
            // The place of the header.
            gathered: vec![0; PAGE_LEN],
            written_len: 0,
            schedule,
            expected_len,
            waiting: Vec::with_capacity(DENSE_MAX),
            firsts: Vec::new(),
            entry_count: 0,
        })
    }

    /// Adds a record; ids ascend.
    ///
    /// # Errors
    /// The disk's own.
    pub(crate) fn push_record(&mut self, id: BlockId, record: Record) -> io::Result<()> {
        debug_assert!(self.waiting.last().is_none_or(|(last, _)| *last < id), "ids ascend");
        self.waiting.push((id, record));
        self.entry_count += 1;
        if self.waiting.len() == DENSE_MAX { self.write_leaf() } else { Ok(()) }
    }

    /// Completes the image and makes it durable under its name.
    ///
    /// # Errors
    /// The disk's own, with whether the name may be durable all the same.
    pub(crate) fn finish_image(
        mut self,
        summary: Summary,
        below: Vec<ImageName>,
        segments: &[SegmentUse],
    ) -> Result<Header, NotWritten> {
        while !self.waiting.is_empty() {
            self.write_leaf()?;
        }
        let leaf_count = self.firsts.len() as u64;
        let root = self.write_levels()?;
        let table_page = self.next_page_number();
        let rows = encode_segment_table(segments);
        let layout = ImageLayout {
            entry_count: self.entry_count,
            leaf_count,
            root,
            page_count: table_page + (rows.len() as u64).div_ceil(PAGE) + 1,
            table_page,
            segment_count: segments.len() as u64,
            table_crc: checksum::crc32c(&rows),
        };
        let store_id = self.store.store_id;
        let header = Header { store_id, name: self.name, summary, layout, below };
        let first = header.encode();
        self.gathered.extend_from_slice(&rows);
        self.gathered.resize(self.gathered.len().next_multiple_of(PAGE_LEN), 0);
        self.gathered.extend_from_slice(&first);
        self.write_gathered()?;
        assert_eq!(self.written_len, layout.page_count * PAGE, "the layout is what was written");
        write_all_at(&self.file, 0, &first)?;
        self.file.sync_data()?;
        self.publish_name()?;
        Ok(header)
    }

    fn publish_name(&self) -> Result<(), NotWritten> {
        let number = self.name.number;
        let (from, to) = (FileName::Temporary(number), FileName::Checkpoint(number));
        self.disk.rename(from, to)?;
        self.disk.sync_dir().map_err(|source| NotWritten { source, names_unknown: true })
    }

    fn write_leaf(&mut self) -> io::Result<()> {
        debug_assert!(!self.waiting.is_empty(), "a leaf has a record");
        let (count, id_len) = next_leaf_shape(&self.waiting);
        let leaf = &self.waiting[..count];
        let bytes = encode_leaf(leaf, id_len, self.seed, self.next_page_number());
        self.firsts.push(leaf[0].0);
        self.waiting.drain(..count);
        self.write_page(&bytes)
    }

    /// Writes the pages above the leaves and returns the number of the topmost; 0 without leaves.
    fn write_levels(&mut self) -> io::Result<u64> {
        let (mut level, mut first_child) = (1, 1);
        while self.firsts.len() > 1 {
            let below = std::mem::take(&mut self.firsts);
            let next_level = self.next_page_number();
            for children in below.chunks(CHILDREN_MAX) {
                let number = self.next_page_number();
                let bytes = encode_inner_page(children, level, first_child, self.seed, number);
                first_child += children.len() as u64;
                self.firsts.push(children[0]);
                self.write_page(&bytes)?;
            }
            (level, first_child) = (level + 1, next_level);
        }
        Ok(if self.firsts.is_empty() { 0 } else { self.next_page_number() - 1 })
    }

    fn next_page_number(&self) -> u64 {
        let len = self.written_len + self.gathered.len() as u64;
        debug_assert!(len.is_multiple_of(PAGE), "the file consists of whole pages");
        len / PAGE
    }

    fn write_page(&mut self, bytes: &[u8]) -> io::Result<()> {
        assert_eq!(bytes.len(), PAGE_LEN, "pages have one length");
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= CHUNK_LEN { self.write_gathered() } else { Ok(()) }
    }

    fn write_gathered(&mut self) -> io::Result<()> {
        let written = write_all_at(&self.file, self.written_len, &self.gathered);
        written?;
        self.file.begin_write_back(self.written_len, self.gathered.len() as u64);
        self.written_len += self.gathered.len() as u64;
        self.gathered.clear();
        self.schedule.pause_if_ahead(self.written_len, self.expected_len);
        Ok(())
    }
}

/// The error of the disk that kept an image from being made.
#[derive(Debug)]
pub(crate) struct NotWritten {
    pub(crate) source: io::Error,
    /// A sync of the directory failed: its names may not be durable.
    pub(crate) names_unknown: bool,
}

impl From<io::Error> for NotWritten {
    fn from(source: io::Error) -> NotWritten {
        NotWritten { source, names_unknown: false }
    }
}
