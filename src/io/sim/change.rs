//! Changes to a simulated disk that no sync has made durable yet.
//!
//! Owns [`Change`] and how one is carried out on durable bytes and names. Invariant: a change makes
//! sense without the ones before it, as a power cut may lose any of those. So a write keeps the
//! whole sectors that it led to, and a change of names the file that it is about.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::FileName;
use super::Profile;
use super::content::{Content, Page, Piece, SECTOR_LEN, SECTORS_PER_PAGE, SectorMask};

/// The number of a file, independent of its names. Never used twice.
pub(super) type FileId = u64;

/// A change that a power cut may lose.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// A sync has failed over it.
    pub(super) doubtful: bool,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// Sectors of one page were written; `content` is the whole page after that. Each sector is a
    /// unit.
    Sectors { file: FileId, page: u64, mask: SectorMask, content: Arc<Page> },
    /// Pages that were absent were filled with zeros. No unit, as keeping and losing read the same;
    /// a cut with garbage shows what was in those blocks before.
    Blank { file: FileId, page: u64, count: u64 },
    /// The file got longer. One unit.
    Extended { file: FileId, len: u64 },
    /// The file got shorter. One unit.
    Cut { file: FileId, len: u64 },
    /// A name was given, taken away or moved. One unit; a move is two under [`Profile::Paranoid`].
    Name(NameChange),
}

/// A change to the directory, bound to the file so that it makes sense without the ones before it.
#[derive(Debug, Clone, Copy)]
pub(super) enum NameChange {
    Create { name: FileName, file: FileId },
    Remove { name: FileName, file: FileId },
    Rename { from: FileName, to: FileName, file: FileId },
}

impl NameChange {
    pub(super) fn file(self) -> FileId {
        let (NameChange::Create { file, .. }
        | NameChange::Remove { file, .. }
        | NameChange::Rename { file, .. }) = self;
        file
    }

    /// Returns the name that the change gives and the name that it removes.
    fn halves(self) -> (Option<FileName>, Option<FileName>) {
        match self {
            NameChange::Create { name, .. } => (Some(name), None),
            NameChange::Remove { name, .. } => (None, Some(name)),
            NameChange::Rename { from, to, .. } => (Some(to), Some(from)),
        }
    }

    pub(super) fn touches(self) -> impl Iterator<Item = FileName> {
        let (added, taken) = self.halves();
        added.into_iter().chain(taken)
    }

    /// Carries the change out, or one half of it.
    pub(super) fn apply(self, names: &mut BTreeMap<FileName, FileId>, adds: bool, takes: bool) {
        let (added, taken) = self.halves();
        if let Some(name) = added.filter(|_| adds) {
            names.insert(name, self.file());
        }
        if let Some(name) = taken.filter(|name| takes && names.get(name) == Some(&self.file())) {
            names.remove(&name);
        }
    }
}

impl What {
    pub(super) fn file(&self) -> Option<FileId> {
        match self {
            What::Sectors { file, .. }
            | What::Blank { file, .. }
            | What::Extended { file, .. }
            | What::Cut { file, .. } => Some(*file),
            What::Name(_) => None,
        }
    }

    /// Returns how many parts of the change a power cut decides about one by one.
    pub(super) fn unit_count(&self, profile: Profile) -> usize {
        match self {
            What::Sectors { mask, .. } => mask.count_ones() as usize,
            What::Blank { .. } => 0,
            What::Name(NameChange::Rename { .. }) if profile == Profile::Paranoid => 2,
            What::Extended { .. } | What::Cut { .. } | What::Name(_) => 1,
        }
    }

    /// Carries the change out once more when it belongs to `wanted`.
    pub(super) fn replay(&self, wanted: FileId, into: &mut Content) {
        match self {
            What::Sectors { file, page, mask, content } if *file == wanted => {
                put_sectors(into, *page, *mask, content);
            }
            What::Extended { file, len } if *file == wanted => into.set_len_only(*len),
            What::Cut { file, len } if *file == wanted => into.set_len(*len),
            _ => {}
        }
    }
}

/// Takes the sectors in `mask` over from `from`.
pub(super) fn put_sectors(into: &mut Content, page: u64, mask: SectorMask, from: &Arc<Page>) {
    if mask == SectorMask::MAX {
        return into.put_page(page, Some(Arc::clone(from)));
    }
    for sector in (0..SECTORS_PER_PAGE).filter(|sector| mask & 1 << sector != 0) {
        let start = sector * SECTOR_LEN;
        into.write_piece(Piece { page, start, len: SECTOR_LEN }, &from[start..][..SECTOR_LEN]);
    }
}
