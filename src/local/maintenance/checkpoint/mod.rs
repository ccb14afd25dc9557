//! Checkpoints: durable images of the index, used in place below the entries in memory.
//!
//! Owns [`Chain`], the images in use: a *base* with every block, and above it *deltas* with the
//! changes from one checkpoint to the next, deletions included. The `format` modules define the
//! files, [`image`] reads, [`write`] writes, [`schedule`] throttles.
//!
//! Invariants:
//!
//! 1. A checkpoint at LSN `c` is made only after every commit up to `c` is durable in the log. So
//!    the log always reaches as far as a checkpoint.
//! 2. Its header names the place in the log behind `c`, the images below it, and every segment that
//!    an entry of the chain points into. Recovery reads these, and the log from that place on.
//! 3. Files of the previous chain are removed after the new checkpoint's name is durable. Segments
//!    that it does not list are reused only after that.
//!
//! A delta costs one record a change, a base one record a block. A base is written when the deltas
//! together would outgrow [`DELTA_SHARE`] of it (a merge policy of the log-structured merge tree,
//! O'Neil et al. 1996). So each change costs two records of a base, however large the store is. If
//! the deltas are too many before that, the new one merges the newest of them: those that together
//! are no longer than the next. If a checkpoint covers a two-hundredth of the blocks, a record is
//! written two to three times until it is in a base. If it covers a tenth, once.

pub(crate) mod image;
pub(crate) mod schedule;
pub(crate) mod write;

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::block::{BlockId, Lsn};
use crate::error::{Defect, Error, Result};
use crate::io::{Disk, FileName};
use crate::local::format::PAGE;
use crate::local::format::checkpoint::{self, ImageName, SegmentUse, Summary};
use crate::local::format::description::Description;
use crate::local::format::location::Location;
use crate::local::format::page::Record;
use crate::local::format::place::damaged;
use crate::local::maintenance::checkpoint::image::{Image, ImageCursor};
use crate::local::maintenance::checkpoint::schedule::ImageSchedule;
use crate::local::maintenance::checkpoint::write::{NotWritten, Writer};
use crate::local::options::ReadMode;
use crate::mvcc::index::{Base, Index, Newest};
use crate::order::ScanOrder;

/// Deltas hold at most one record for so many records of the base.
const DELTA_SHARE: u64 = 2;
/// Deltas above a base. A look-up searches each until it finds the id.
const DELTA_COUNT_MAX: usize = 7;
/// Approximate length of a record.
const RECORD_LEN: u64 = 32;
/// Header, segment table, a leaf and the page above it.
const DELTA_LEN_MIN: u64 = 4 * PAGE;

const _: () = assert!(DELTA_COUNT_MAX <= checkpoint::BELOW_MAX);

/// The images in use, newest first; the last one is the base.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain {
    images: Vec<Arc<Image>>,
    /// Segments with frames, as of the newest image.
    segments: Arc<[SegmentUse]>,
    /// How new images are read.
    mode: ReadMode,
}

impl Chain {
    /// A chain without images.
    pub(crate) fn empty(mode: ReadMode) -> Chain {
        Chain { images: Vec::new(), segments: Arc::default(), mode }
    }

    /// Opens the chain that a checkpoint heads.
    ///
    /// # Errors
    /// As [`Image::open`], for any image of the chain.
    pub(crate) fn open<D: Disk>(
        disk: &D,
        store: &Description,
        number: u64,
        mode: ReadMode,
    ) -> Result<Chain> {
        let (head, segments) = Image::open(disk, store, number, mode)?;
        let below = head.header.below.clone();
        let mut images = vec![Arc::new(head)];
        for name in below {
            let (image, _) = Image::open(disk, store, name.number, mode)?;
            if image.header.name != name {
                let file = FileName::Checkpoint(name.number);
                return Err(damaged(file, 0, Defect::ForeignCheckpoint));
            }
            images.push(Arc::new(image));
        }
        Ok(Chain { images, segments: segments.into(), mode })
    }

    /// Every segment that an image points into, and the one in which the log continues.
    pub(crate) fn segments(&self) -> &[SegmentUse] {
        &self.segments
    }

    /// The summary of the newest image; `None` without a checkpoint.
    pub(crate) fn summary(&self) -> Option<&Summary> {
        self.images.first().map(|image| &image.header.summary)
    }

    /// Names of the images, newest first.
    pub(crate) fn image_names(&self) -> Vec<ImageName> {
        self.images.iter().map(|image| image.header.name).collect()
    }

    /// Names of the images, newest first, with the lengths of their files.
    pub(crate) fn image_files(&self) -> impl Iterator<Item = (ImageName, u64)> {
        let headers = self.images.iter().map(|image| &image.header);
        headers.map(|header| (header.name, header.layout.page_count * crate::local::format::PAGE))
    }

    /// Bytes of the files.
    pub(crate) fn file_len(&self) -> u64 {
        self.image_files().map(|(_, len)| len).sum()
    }

    /// The images, newest first; the last one is the base.
    pub(crate) fn images(&self) -> &[Arc<Image>] {
        &self.images
    }

    /// The first damage in the newest images, of which it reads at most `len_max` bytes.
    ///
    /// # Errors
    /// [`Error::Io`] only.
    pub(crate) fn first_damage(&self, len_max: u64) -> Result<Option<Error>> {
        let (mut found, mut len) = (Vec::new(), 0);
        for image in &self.images {
            len += image.header.layout.page_count * PAGE;
            if len > len_max {
                break;
            }
            image.collect_damage(&mut found)?;
        }
        Ok(found.into_iter().next())
    }

    /// Verifies every page of every image and returns all damage.
    ///
    /// # Errors
    /// [`Error::Io`] only.
    pub(crate) fn verify_pages(&self) -> Result<Vec<Error>> {
        let mut found = Vec::new();
        self.images.iter().try_for_each(|image| image.collect_damage(&mut found))?;
        Ok(found)
    }

    /// Writes the image of an index whose entries were frozen at the LSN of the plan's summary.
    /// Returns the chain that begins with it.
    ///
    /// # Errors
    /// [`ImageNotMade::Disk`] leaves this chain as it was; [`ImageNotMade::Damaged`]: part of it is
    /// damaged.
    pub(crate) fn write_image<D: Disk>(
        &self,
        disk: &D,
        store: &Description,
        index: &Index<Location>,
        order: &ImagePlan<'_>,
    ) -> std::result::Result<Chain, ImageNotMade> {
        let ImagePlan { number, summary, segments, is_full, schedule } = *order;
        let taken_in = match is_full && self.are_deltas_wide() {
            true => self.images.len(),
            false => self.merged_image_count(index.frozen_count()),
        };
        let (merged, below) = self.images.split_at(taken_in);
        assert!(below.len() <= checkpoint::BELOW_MAX, "the header has a place for each of them");
        let merged_count: u64 = merged.iter().map(|image| image.header.layout.entry_count).sum();
        let expected_len = (index.frozen_count() + merged_count) * RECORD_LEN;
        let mut writer = Writer::create_file(disk, store, number, schedule, expected_len)?;
        self.write_records(&mut writer, index, merged)?;
        let names = below.iter().map(|image| image.header.name).collect();
        writer.finish_image(summary, names, segments)?;
        let (head, _) =
            Image::open(disk, store, number, self.mode).map_err(ImageNotMade::Damaged)?;
        let mut images = vec![Arc::new(head)];
        images.extend(below.iter().cloned());
        Ok(Chain { images, segments: segments.into(), mode: self.mode })
    }

    /// The number of newest images to merge with so many new records: none while another delta
    /// fits, all if a new base is due.
    fn merged_image_count(&self, count: u64) -> usize {
        let Some((base, deltas)) = self.images.split_last() else { return 0 };
        let entry_count = |image: &Arc<Image>| image.header.layout.entry_count;
        let deltas: Vec<u64> = deltas.iter().map(entry_count).collect();
        match (deltas.iter().sum::<u64>() + count) * DELTA_SHARE <= entry_count(base) {
            true => merged_delta_count(&deltas, count),
            false => self.images.len(),
        }
    }

    /// Whether another delta would make the deltas longer than their share of the base.
    fn are_deltas_wide(&self) -> bool {
        let Some((_, base_len)) = self.image_files().last() else { return false };
        let deltas_len = self.file_len() - base_len;
        (deltas_len + DELTA_LEN_MIN) * DELTA_SHARE > base_len
    }

    /// Merges the frozen entries with the records of `merged`, newest first.
    fn write_records<D: Disk>(
        &self,
        writer: &mut Writer<'_, D>,
        index: &Index<Location>,
        merged: &[Arc<Image>],
    ) -> std::result::Result<(), ImageNotMade> {
        let is_base = merged.len() == self.images.len();
        let all = (BlockId(0), BlockId(u64::MAX));
        let mut older =
            Merge::over_images(merged, all, ScanOrder::Ascending).map_err(ImageNotMade::Damaged)?;
        let mut push = |id, record: Record| match record.value {
            // A base has no records below it that a deletion could hide.
            None if is_base => Ok(()),
            _ => writer.push_record(id, record),
        };
        for page in index.frozen_pages() {
            for (id, record) in index.frozen_entries(page) {
                while let Some((older_id, older_record)) = older.peek_newest()
                    && older_id <= id
                {
                    if older_id < id {
                        push(older_id, older_record)?;
                    }
                    older.advance_cursors().map_err(ImageNotMade::Damaged)?;
                }
                push(id, record)?;
            }
        }
        while let Some((id, record)) = older.peek_newest() {
            push(id, record)?;
            older.advance_cursors().map_err(ImageNotMade::Damaged)?;
        }
        Ok(())
    }
}

/// The number of deltas, given by their record counts from the newest on, to merge with `count` new
/// records. None while another delta fits; otherwise those that together are no longer than the one
/// below them.
fn merged_delta_count(deltas: &[u64], count: u64) -> usize {
    if deltas.len() < DELTA_COUNT_MAX {
        return 0;
    }
    let mut sum = count + deltas[0];
    for (merged, below) in deltas.iter().enumerate().skip(1) {
        if merged > 1 && sum <= *below {
            return merged;
        }
        sum += below;
    }
    deltas.len()
}

/// The plan of an image.
#[derive(Clone, Copy)]
pub(crate) struct ImagePlan<'a> {
    /// Its file number.
    pub(crate) number: u64,
    pub(crate) summary: Summary,
    /// Segments that it lists.
    pub(crate) segments: &'a [SegmentUse],
    /// The disk is full: write a base if the deltas would take more than half of its length. Even a
    /// short delta takes whole pages.
    pub(crate) is_full: bool,
    pub(crate) schedule: ImageSchedule<'a>,
}

/// Why an image was not made.
#[derive(Debug)]
pub(crate) enum ImageNotMade {
    /// The disk refused.
    Disk(NotWritten),
    /// An image that it builds on is damaged.
    Damaged(Error),
}

impl From<std::io::Error> for ImageNotMade {
    fn from(source: std::io::Error) -> ImageNotMade {
        ImageNotMade::Disk(source.into())
    }
}

impl From<NotWritten> for ImageNotMade {
    fn from(not_written: NotWritten) -> ImageNotMade {
        ImageNotMade::Disk(not_written)
    }
}

/// Merges several images: the newest record of each id, in an order of the ids.
struct Merge<'a> {
    order: ScanOrder,
    cursors: Vec<(ImageCursor<'a>, Option<(BlockId, Record)>)>,
}

impl<'a> Merge<'a> {
    fn over_images(
        images: &'a [Arc<Image>],
        range: (BlockId, BlockId),
        order: ScanOrder,
    ) -> Result<Merge<'a>> {
        let cursor = |image: &'a Arc<Image>| {
            let mut cursor = image.cursor_over(range, order)?;
            let next = cursor.next_record()?;
            Ok((cursor, next))
        };
        Ok(Merge { order, cursors: images.iter().map(cursor).collect::<Result<_>>()? })
    }

    fn peek_newest(&self) -> Option<(BlockId, Record)> {
        // The first of equal ids is the newest.
        let all = self.cursors.iter().filter_map(|(_, next)| *next);
        all.reduce(|first, next| if self.order.is_before(next.0, first.0) { next } else { first })
    }

    fn advance_cursors(&mut self) -> Result<()> {
        let Some((id, _)) = self.peek_newest() else { return Ok(()) };
        for (cursor, next) in &mut self.cursors {
            if next.is_some_and(|(at, _)| at == id) {
                *next = cursor.next_record()?;
            }
        }
        Ok(())
    }
}

impl Base<Location> for Chain {
    fn lsn(&self) -> Lsn {
        self.summary().map_or(Lsn(0), |summary| summary.lsn)
    }

    fn get(&self, id: BlockId) -> Result<Option<Newest<Location>>> {
        for image in &self.images {
            if let Some(record) = image.find_record(id)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    fn get_all(&self, ids: &[BlockId]) -> Result<Vec<Option<Newest<Location>>>> {
        let mut found = vec![None; ids.len()];
        self.images.iter().try_for_each(|image| image.find_records(ids, &mut found))?;
        Ok(found)
    }

    fn walk(
        &self,
        first: BlockId,
        last: BlockId,
        order: ScanOrder,
        each: &mut dyn FnMut(BlockId, Newest<Location>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut merge = Merge::over_images(&self.images, (first, last), order)?;
        while let Some((id, record)) =
            merge.peek_newest().filter(|(id, _)| first <= *id && *id <= last)
        {
            if each(id, record).is_break() {
                return Ok(());
            }
            merge.advance_cursors()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Entry;
    use crate::io::sim::SimDisk;
    use crate::local::recovery::identity::read_description;
    use crate::{Block, BlockType, LocalBackend, StorageBackend, WriteBatch};

    /// The images of a base of leaves of every shape and a delta with writes and deletions.
    fn images(mode: ReadMode) -> (Chain, Vec<u64>) {
        let disk = SimDisk::new(3);
        let options = LocalBackend::options().single_threaded(true);
        let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
        let write = |ids: &[u64]| {
            let mut batch = WriteBatch::new();
            for id in ids {
                batch.write(Block::new(BlockId(*id), BlockType::TableData, vec![1; 9]));
            }
            store.apply(batch).expect("commits");
            store.checkpoint().expect("makes an image");
        };
        let dense = 1..=400;
        let near = (0..400).map(|n| 10_000 + n * 3);
        let far = (1..=300).map(|n| n << 40);
        let ids: Vec<u64> = dense.chain(near).chain(far).collect();
        write(&ids);
        ids.iter().step_by(90).for_each(|id| store.delete_block(BlockId(*id)).expect("deletes"));
        let again: Vec<u64> = ids.iter().copied().skip(45).step_by(90).collect();
        write(&again);
        store.close().expect("closes");
        let number = |entry| match entry {
            Entry::File { name: FileName::Checkpoint(number), .. } => Some(number),
            _ => None,
        };
        let newest = disk.list().expect("a list").into_iter().filter_map(number).max();
        let store = read_description(&disk).expect("a store");
        let chain = Chain::open(&disk, &store, newest.expect("an image"), mode).expect("opens");
        assert_eq!(chain.images.len(), 2, "a base and a delta");
        (chain, ids)
    }

    #[test]
    fn ids_looked_up_together_are_answered_as_each_by_itself() {
        for mode in [ReadMode::Mapped, ReadMode::Pread] {
            let (chain, stored) = images(mode);
            let mut ids: Vec<u64> = stored.iter().flat_map(|id| [id - 1, *id, id + 1]).collect();
            ids.push(u64::MAX);
            ids.sort_unstable();
            ids.dedup();
            let ids: Vec<BlockId> = ids.into_iter().map(BlockId).collect();
            let singly: Vec<_> = ids.iter().map(|id| chain.get(*id).expect("whole")).collect();
            let has_value = |found: &&Option<Newest<Location>>| {
                found.as_ref().is_some_and(|newest| newest.value.is_some())
            };
            let (found, in_force) =
                (singly.iter().flatten().count(), singly.iter().filter(has_value).count());
            assert_eq!((found, in_force), (stored.len(), stored.len() - 13));
            // Neighbours, so that each border between two leaves is crossed from each id before it.
            for count in [1, 2, 5, ids.len()] {
                for (ids, singly) in ids.windows(count).zip(singly.windows(count)) {
                    assert_eq!(chain.get_all(ids).expect("whole"), singly, "{ids:?}");
                }
            }
        }
    }

    #[test]
    fn images_are_walked_from_either_end_of_any_range() {
        for mode in [ReadMode::Mapped, ReadMode::Pread] {
            let (chain, ids) = images(mode);
            let walk = |first: u64, last: u64, order| {
                let mut found = Vec::new();
                let each = &mut |id: BlockId, record: Newest<Location>| {
                    found.push((id.0, record));
                    ControlFlow::Continue(())
                };
                chain.walk(BlockId(first), BlockId(last), order, each).expect("whole");
                found
            };
            let borders = [0, 1, 2, 136, 137, 400, 401, 9_999, 10_000, 10_001, 10_600, 11_197];
            let borders: Vec<u64> = borders.into_iter().chain([77 << 40, u64::MAX]).collect();
            for (at, first) in borders.iter().enumerate() {
                for last in &borders[at..] {
                    let up = walk(*first, *last, ScanOrder::Ascending);
                    let expected = ids.iter().filter(|id| first <= *id && *id <= last);
                    assert!(up.iter().map(|(id, _)| id).eq(expected), "{first} to {last}");
                    let mut down = walk(*first, *last, ScanOrder::Descending);
                    down.reverse();
                    assert_eq!(down, up, "{first} to {last}");
                }
            }
        }
    }

    #[test]
    fn deltas_stay_few_and_records_are_seldom_written_again() {
        // Checkpoints of a hundred records each over a base that takes in what comes to half of it.
        for (base, written_max) in [(1000, 1.0), (3000, 1.9), (10_000, 2.5), (20_000, 2.7)] {
            let (mut deltas, mut written) = (Vec::new(), 0);
            let count = base / DELTA_SHARE / 100;
            for _ in 0..count {
                let taken_in = merged_delta_count(&deltas, 100);
                let merged: u64 = 100 + deltas.drain(..taken_in).sum::<u64>();
                deltas.insert(0, merged);
                written += merged;
                assert!(deltas.len() <= DELTA_COUNT_MAX, "{deltas:?}");
            }
            let each = written as f64 / (count * 100) as f64;
            assert!(each <= written_max, "{each} times, base of {base}");
            assert_eq!(deltas.iter().sum::<u64>(), count * 100);
        }
    }
}
