//! Salvage: copies every intact block of a store that may not open into a new store.
//!
//! Owns [`SalvageReport`] and the choice of versions; [`evidence`] reads the files. Never changes
//! the damaged store. For each block:
//!
//! | newest event known                             | outcome                                 |
//! |------------------------------------------------|-----------------------------------------|
//! | a version that is intact, at any of its places | copied                                  |
//! | a deletion, or a checkpoint that leaves it out | left out                                |
//! | a version that is damaged                      | the next older decides: `older`, `lost` |
//!
//! The changes of lost frames are unknown: a block that only they changed is copied in its state
//! before. So the copy may hold part of a commit, which no opened store would show.

mod evidence;

use crate::block::{Block, BlockId, BlockType, Lsn};
use crate::checksum;
use crate::error::{Defect, Place, Result};
use crate::io::{Disk, DiskFile, FileName};

use crate::local::format::location::Location;
use crate::local::format::page_up;
use crate::local::format::place::damaged;
use crate::local::offline::salvage::evidence::{Evidence, KnownVersion};
use crate::local::offline::verify::is_payload_intact;
use crate::local::options::Options;
use crate::local::recovery::identity::read_description;
use crate::local::recovery::listing::Listing;
use crate::transaction::WriteBatch;
use crate::{Durability, StorageBackend};

/// The outcome of a salvage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// Blocks copied.
    pub blocks: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Damaged places, and the commits that each may have cost.
    pub losses: Vec<Loss>,
    /// Written blocks without any intact version.
    pub lost: Vec<BlockId>,
    /// Blocks of which an older version was copied, because the newest one is damaged.
    pub older: Vec<OlderVersion>,
    /// Copied blocks whose entry in the checkpoint is damaged: they may have been deleted.
    pub unsure: Vec<BlockId>,
    /// No whole checkpoint is left: blocks that were deleted long ago may reappear.
    pub deleted_may_reappear: bool,
}

impl SalvageReport {
    /// Whether the copy holds all that the store held.
    pub fn is_complete(&self) -> bool {
        let nothing_named = self.lost.is_empty() && self.older.is_empty() && self.unsure.is_empty();
        let no_commit = self.losses.iter().all(|loss| loss.lsns.is_none());
        nothing_named && no_commit && !self.deleted_may_reappear
    }
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// The defect.
    pub defect: Defect,
    /// Where.
    pub place: Place,
    /// The first and the last commit with damaged frames there; `None` if no commit is known to
    /// have any. Blocks of such a commit may be intact all the same if a checkpoint names them.
    pub lsns: Option<(Lsn, Lsn)>,
}

/// A block whose newest version is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OlderVersion {
    /// The block.
    pub id: BlockId,
    /// The commit that made the version that was copied.
    pub kept: Lsn,
    /// The commit that made the damaged one.
    pub lost: Lsn,
}

/// Blocks and payload bytes that are copied in one commit.
const BATCH_COUNT_MAX: usize = 1024;
const BATCH_LEN_MAX: u64 = 4 << 20;

/// A version to copy.
struct Chosen {
    id: BlockId,
    location: Location,
}

/// The plan of a copy.
pub(crate) struct Salvage<F> {
    evidence: Evidence<F>,
    chosen: Vec<Chosen>,
    report: SalvageReport,
}

impl<F: DiskFile> Salvage<F> {
    /// Reads a store whose lock the caller holds, and chooses the versions to copy.
    ///
    /// # Errors
    /// - [`Error::Corrupt`] with [`Defect::Meta`]: without the salt in `META` no frame can be told
    ///   from other bytes.
    /// - [`Error::UnsupportedFormat`], [`Error::Io`].
    pub(crate) fn plan_copy<D: Disk<File = F>>(disk: &D, listing: &Listing) -> Result<Salvage<F>> {
        if !listing.has_meta {
            return Err(damaged(FileName::Meta, 0, Defect::Meta));
        }
        let store = read_description(disk)?;
        let mut evidence = Evidence::gather_from_files(disk, &store, listing)?;
        let mut report = SalvageReport {
            losses: std::mem::take(&mut evidence.losses),
            deleted_may_reappear: evidence.deleted_may_reappear,
            ..SalvageReport::default()
        };
        let mut chosen = Vec::new();
        for (id, events) in std::mem::take(&mut evidence.events) {
            chosen.extend(choose_version(&mut evidence, &mut report, id, events)?);
        }
        Ok(Salvage { evidence, chosen, report })
    }

    /// Options for a store that can hold the copy.
    pub(crate) fn copy_options(&self) -> Options {
        let longest = self.chosen.iter().map(|chosen| chosen.location.len).max().unwrap_or(0);
        let mut options = Options::default().durability(Durability::Buffered);
        let longest = options.block_len_or_default().max(longest);
        options.segment_len_max = options.segment_len_max.max(page_up(2 * u64::from(longest)));
        options.block_len_max(longest)
    }

    /// Copies into an empty store.
    ///
    /// # Errors
    /// Those of commits. Blocks that were copied before stay there.
    pub(crate) fn copy_to(mut self, store: &impl StorageBackend) -> Result<SalvageReport> {
        let (mut batch, mut batch_len) = (WriteBatch::new(), 0);
        let mut highest = BlockId(0);
        for Chosen { id, location } in std::mem::take(&mut self.chosen) {
            let data = self.read_checked_payload(&location)?;
            self.report.blocks += 1;
            self.report.bytes += data.len() as u64;
            batch_len += data.len() as u64;
            highest = id;
            batch.write(Block { header: location.block_header(id), data: data.into() });
            if batch.len() >= BATCH_COUNT_MAX || batch_len >= BATCH_LEN_MAX {
                store.apply(std::mem::take(&mut batch))?;
                batch_len = 0;
            }
        }
        store.apply(batch)?;
        // Allocated ids must not be allocated again.
        let id_max = self.evidence.id_max;
        if id_max > highest {
            store.write_block(Block::new(id_max, BlockType::Metadata, ""))?;
            store.delete_block(id_max)?;
        }
        Ok(self.report)
    }

    fn read_checked_payload(&mut self, location: &Location) -> Result<Vec<u8>> {
        let gone = || damaged(FileName::Segment(0), 0, Defect::MissingSegment);
        let scanner = self.evidence.scanners.get_mut(&u64::from(location.segment));
        let scanner = scanner.ok_or_else(gone)?;
        let offset = u64::from(location.offset);
        let payload = scanner.read_payload(offset, location.len)?.to_vec();
        // The damaged store may change between two reads.
        match checksum::crc32c(&payload) == location.checksum {
            true => Ok(payload),
            false => Err(scanner.damage_at(Defect::PayloadChecksum, offset, Lsn(0))),
        }
    }
}

/// Chooses the version of a block to copy, if there is one, and reports its damage.
fn choose_version<F: DiskFile>(
    evidence: &mut Evidence<F>,
    report: &mut SalvageReport,
    id: BlockId,
    mut events: Vec<KnownVersion>,
) -> Result<Option<Chosen>> {
    // Newest first; of one commit's places the later one.
    let place = |event: &KnownVersion| event.value.map(|at| (at.segment, at.offset));
    events.sort_by_key(|event| std::cmp::Reverse((event.lsn, place(event))));
    let Some(newest) = events.first().map(|event| event.lsn) else { return Ok(None) };
    if evidence.was_deleted(id, newest) {
        return Ok(None);
    }
    for KnownVersion { lsn, value } in events {
        let Some(location) = value else {
            if lsn < newest {
                report.lost.push(id);
            }
            return Ok(None);
        };
        let scanner = evidence.scanners.get_mut(&u64::from(location.segment));
        let is_intact =
            scanner.map_or(Ok(false), |scanner| is_payload_intact(scanner, &location))?;
        if !is_intact {
            note_damaged_payload(evidence, report, id, lsn, &location)?;
            continue;
        }
        if lsn < newest {
            report.older.push(OlderVersion { id, kept: lsn, lost: newest });
        }
        if evidence.is_unsure(id, lsn) {
            report.unsure.push(id);
        }
        return Ok(Some(Chosen { id, location }));
    }
    report.lost.push(id);
    Ok(None)
}

/// Reports a damaged payload in an existing segment.
fn note_damaged_payload<F>(
    evidence: &Evidence<F>,
    report: &mut SalvageReport,
    id: BlockId,
    lsn: Lsn,
    location: &Location,
) -> Result<()> {
    let Some(scanner) = evidence.scanners.get(&u64::from(location.segment)) else {
        return Ok(());
    };
    let place = Place {
        file: FileName::Segment(scanner.number).to_string(),
        offset: u64::from(location.offset),
        lsn: Some(lsn),
        block: Some(id),
    };
    // A checkpoint and a frame may name the same place.
    if report.losses.last().is_none_or(|last| last.place != place) {
        report.losses.push(Loss { defect: Defect::PayloadChecksum, place, lsns: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::io::sim::SimDisk;
    use crate::local::LocalBackend;
    use crate::local::recovery::listing::list_store;

    #[test]
    fn payload_that_changes_after_it_was_chosen_is_not_copied() {
        let disk = SimDisk::new(1);
        let options = || Options::default().single_threaded(true).zero_ahead_len(0);
        let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
        for id in 1..=4_u8 {
            let data = vec![id; 2 << 20];
            let block = Block::new(BlockId(id.into()), BlockType::TableData, data);
            store.write_block(block).expect("writes");
        }
        store.close().expect("closes");
        let listing = list_store(&disk, false).expect("a store");
        let salvage = Salvage::plan_copy(&disk, &listing).expect("everything is intact");
        assert!(salvage.report.is_complete() && salvage.chosen.len() == 4);
        let changed = salvage.chosen[0].location;
        let name = FileName::Segment(listing.segments.keys().copied().next().expect("one"));
        disk.flip_bit(name, u64::from(changed.offset) + 100, 1);
        let out = LocalBackend::open_on(SimDisk::new(2), options()).expect("opens");
        let refused = salvage.copy_to(&out).expect_err("other bytes than were chosen");
        assert!(
            matches!(refused, Error::Corrupt { defect: Defect::PayloadChecksum, .. }),
            "{refused:?}"
        );
        assert_eq!(out.stats().total_blocks, 0);
    }
}
