//! State of the simulated disk: files, names, and the changes that no sync has made durable.
//!
//! Owns [`Media`]: the durable state and the state that calls see, of every file and of the
//! directory. One chronological log of [`Change`]s lies between the two. Rules, each with a test:
//!
//! 1. A successful sync of a file makes its bytes and its length durable, and no name.
//! 2. A successful sync of the directory makes names durable, and no byte.
//! 3. After a failed sync of a file the changes before it stay doubtful for ever. A power cut may
//!    keep or lose each one. No later sync makes them durable, though it reports success. Calls
//!    still see them, or no longer do ([`SyncFailure`]). The same holds for names.
//! 4. A removed file stays for its open handles, and takes space until they are closed.
//!
//! A copy is cheap: contents are shared. Knows nothing of faults, locks or threads; the effect of a
//! power cut is in [`super::crash`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::super::{Entry, FileName, PAGE_LEN};
use super::change::{Change, FileId, NameChange, What, put_sectors};
use super::content::{Content, Piece, SectorMask, pieces};
use super::{Profile, SyncFailure};

/// Free space of a disk without a limit: larger than any test, small enough to add to.
const UNLIMITED_SPACE: u64 = 1 << 60;

/// Everything that a power cut leaves something of.
#[derive(Debug, Clone)]
pub(super) struct Media {
    pub(super) files: BTreeMap<FileId, Inode>,
    pub(super) next_file: FileId,
    pub(super) durable_names: BTreeMap<FileName, FileId>,
    pub(super) names: BTreeMap<FileName, FileId>,
    pub(super) strangers: Vec<Entry>,
    /// In the order in which calls made them.
    pub(super) pending: Vec<Change>,
    pub(super) profile: Profile,
    /// In bytes; `None` for no limit.
    pub(super) capacity: Option<u64>,
    /// No read gets past the cache.
    pub(super) hides_the_disk: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) durable: Content,
    pub(super) cached: Content,
}

impl Media {
    pub(super) fn new() -> Media {
        Media {
            files: BTreeMap::new(),
            next_file: 1,
            durable_names: BTreeMap::new(),
            names: BTreeMap::new(),
            strangers: Vec::new(),
            pending: Vec::new(),
            profile: Profile::default(),
            capacity: None,
            hides_the_disk: false,
        }
    }

    /// Returns the bytes that can be written to files that are not there yet.
    pub(super) fn free_space(&self, is_open: impl Fn(FileId) -> bool) -> u64 {
        let Some(capacity) = self.capacity else {
            return UNLIMITED_SPACE;
        };
        let named: BTreeSet<FileId> = self.names.values().copied().collect();
        let takes_space = |file: &FileId| named.contains(file) || is_open(*file);
        let files = self.files.iter().filter(|(file, _)| takes_space(file));
        let page_count: u64 = files.map(|(_, inode)| inode.cached.page_count()).sum();
        capacity.saturating_sub(page_count * PAGE_LEN as u64)
    }

    pub(super) fn lookup(&self, name: FileName) -> io::Result<FileId> {
        self.check_stranger(name)?;
        self.names.get(&name).copied().ok_or(io::ErrorKind::NotFound.into())
    }

    pub(super) fn create(&mut self, name: FileName) -> io::Result<FileId> {
        if self.names.contains_key(&name) || self.check_stranger(name).is_err() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, Inode::default());
        self.change_name(NameChange::Create { name, file });
        Ok(file)
    }

    pub(super) fn rename(&mut self, from: FileName, to: FileName) -> io::Result<()> {
        let file = self.lookup(from)?;
        self.check_stranger(to)?;
        if self.names.get(&to) != Some(&file) {
            self.change_name(NameChange::Rename { from, to, file });
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, name: FileName) -> io::Result<()> {
        let file = self.lookup(name)?;
        self.change_name(NameChange::Remove { name, file });
        Ok(())
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names, true, true);
        self.log(What::Name(change));
    }

    fn check_stranger(&self, wanted: FileName) -> io::Result<()> {
        let in_place = |entry: &Entry| matches!(entry, Entry::NotAFile { name } if *name == wanted);
        if self.strangers.iter().any(in_place) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
        }
        Ok(())
    }

    pub(super) fn list(&self) -> Vec<Entry> {
        let entry = |(name, file): (&FileName, &FileId)| {
            let len = self.cached(*file).len();
            Entry::File { name: *name, len }
        };
        self.names.iter().map(entry).chain(self.strangers.iter().cloned()).collect()
    }

    pub(super) fn sync_names(&mut self) {
        let mut renewed = BTreeSet::new();
        for change in &self.pending {
            if let (What::Name(name), false) = (&change.what, change.doubtful) {
                name.apply(&mut self.durable_names, true, true);
                renewed.extend(name.touches());
            }
        }
        // Durable names are newer than doubtful ones, which cannot undo them.
        self.pending.retain(|change| match &change.what {
            What::Name(name) => {
                change.doubtful && name.touches().all(|name| !renewed.contains(&name))
            }
            _ => true,
        });
    }

    pub(super) fn fail_sync_names(&mut self) {
        for change in &mut self.pending {
            change.doubtful |= matches!(change.what, What::Name(_));
        }
    }

    /// Forgets files that nothing leads to any more.
    pub(super) fn collect(&mut self, is_open: impl Fn(FileId) -> bool) {
        let mut reachable: BTreeSet<FileId> =
            self.names.values().chain(self.durable_names.values()).copied().collect();
        reachable.extend(self.pending.iter().filter_map(|change| match change.what {
            What::Name(name) => Some(name.file()),
            _ => None,
        }));
        let lives = |file: FileId| reachable.contains(&file) || is_open(file);
        self.files.retain(|file, _| lives(*file));
        self.pending.retain(|change| change.what.file().is_none_or(lives));
    }

    pub(super) fn cached(&self, file: FileId) -> &Content {
        &self.inode(file).cached
    }

    pub(super) fn inode(&self, file: FileId) -> &Inode {
        self.files.get(&file).expect("a file that is open or has a name")
    }

    pub(super) fn inode_mut(&mut self, file: FileId) -> &mut Inode {
        self.files.get_mut(&file).expect("a file that is open or has a name")
    }

    fn log(&mut self, what: What) {
        self.pending.push(Change { doubtful: false, what });
    }

    /// Writes bytes, which may come in several buffers.
    pub(super) fn write(&mut self, file: FileId, offset: u64, bufs: &[&[u8]]) {
        let mut at = offset;
        let cached = &mut self.inode_mut(file).cached;
        for buf in bufs {
            cached.write(at, buf);
            at += buf.len() as u64;
        }
        for piece in pieces(offset, at - offset) {
            self.log_sectors(file, piece);
        }
        if at > offset {
            self.extend(file, at);
        }
    }

    /// Logs the sectors of a piece as the calls now see them.
    fn log_sectors(&mut self, file: FileId, piece: Piece) {
        let page = self.cached(file).page(piece.page).expect("a page just written");
        let content = Arc::clone(page);
        self.log(What::Sectors { file, page: piece.page, mask: piece.sectors(), content });
    }

    fn extend(&mut self, file: FileId, len: u64) {
        let cached = &mut self.inode_mut(file).cached;
        if len > cached.len() {
            cached.extend_len(len);
            self.log(What::Extended { file, len });
        }
    }

    /// Fills a range with zeros, taking space for it.
    pub(super) fn zero(&mut self, file: FileId, offset: u64, len: u64) {
        let zeros = Arc::new([0; PAGE_LEN]);
        let mut blanks: Vec<(u64, u64)> = Vec::new();
        for piece in pieces(offset, len) {
            let inode = self.inode_mut(file);
            let was_hole = inode.cached.page(piece.page).is_none();
            let is_blank = was_hole && inode.durable.page(piece.page).is_none();
            if was_hole || piece.is_whole_page() {
                inode.cached.put_page(piece.page, Some(Arc::clone(&zeros)));
            } else {
                inode.cached.write_piece(piece, &zeros[..piece.len]);
            }
            match blanks.last_mut() {
                _ if !is_blank => self.log_sectors(file, piece),
                Some((first, count)) if *first + *count == piece.page => *count += 1,
                _ => blanks.push((piece.page, 1)),
            }
        }
        for (page, count) in blanks {
            self.log(What::Blank { file, page, count });
        }
        if len > 0 {
            self.extend(file, offset + len);
        }
    }

    pub(super) fn set_len(&mut self, file: FileId, len: u64) {
        let cached = &mut self.inode_mut(file).cached;
        if len < cached.len() {
            cached.set_len(len);
            self.log(What::Cut { file, len });
        } else {
            self.extend(file, len);
        }
    }

    /// Makes a file durable, except for changes that an earlier failure has left doubtful.
    pub(super) fn sync_file(&mut self, file: FileId) {
        let of_file = |change: &Change| change.what.file() == Some(file);
        if self.pending.iter().any(|change| of_file(change) && change.doubtful) {
            return self.sync_past_doubt(file);
        }
        let inode = self.inode_mut(file);
        inode.durable = inode.cached.clone();
        self.pending.retain(|change| !of_file(change));
    }

    fn sync_past_doubt(&mut self, file: FileId) {
        let of_file = |change: &Change| change.what.file() == Some(file);
        let is_due = |change: &mut Change| of_file(change) && !change.doubtful;
        let due: Vec<Change> = self.pending.extract_if(.., is_due).collect();
        let mut renewed: BTreeMap<u64, SectorMask> = BTreeMap::new();
        let mut length_is_renewed = false;
        let durable = &mut self.inode_mut(file).durable;
        for change in due {
            match change.what {
                What::Sectors { page, mask, content, .. } => {
                    put_sectors(durable, page, mask, &content);
                    *renewed.entry(page).or_default() |= mask;
                }
                What::Blank { .. } | What::Name(_) => {}
                What::Extended { len, .. } => {
                    durable.set_len_only(len);
                    length_is_renewed = true;
                }
                What::Cut { len, .. } => {
                    durable.set_len(len);
                    length_is_renewed = true;
                }
            }
        }
        // Durable bytes are newer than doubtful ones, which cannot undo them.
        let nothing_renewed = renewed.is_empty() && !length_is_renewed;
        self.pending.retain_mut(|change| match &mut change.what {
            What::Sectors { file: of, page, mask, .. } if *of == file => {
                *mask &= !renewed.get(page).copied().unwrap_or(0);
                *mask != 0
            }
            What::Extended { file: of, .. } if *of == file => !length_is_renewed,
            What::Cut { file: of, .. } if *of == file => nothing_renewed,
            _ => true,
        });
    }

    /// Leaves a file as a failed sync does.
    pub(super) fn fail_sync_file(&mut self, file: FileId, behaviour: SyncFailure) {
        match behaviour {
            SyncFailure::CacheKept => {
                for change in &mut self.pending {
                    change.doubtful |= change.what.file() == Some(file);
                }
            }
            SyncFailure::CacheReverted => {
                let inode = self.inode_mut(file);
                inode.cached = inode.durable.clone();
                inode.cached.cut_pages();
                self.pending.retain(|change| change.what.file() != Some(file));
            }
        }
    }

    /// Forgets the doubtful bytes, as the page cache may do at any time: it holds them to be clean.
    pub(super) fn drop_caches(&mut self) {
        let in_doubt = |change: &Change| change.doubtful.then(|| change.what.file()).flatten();
        let files: BTreeSet<FileId> = self.pending.iter().filter_map(in_doubt).collect();
        self.pending.retain(|change| in_doubt(change).is_none());
        for file in files {
            self.inode_mut(file).cached = self.on_disk(file);
        }
    }

    /// The bytes that a read past the cache sees: due changes are written back, and the disk has no
    /// doubtful bytes.
    pub(super) fn written_back(&self, file: FileId) -> Content {
        let in_doubt = |change: &Change| change.doubtful && change.what.file() == Some(file);
        if !self.pending.iter().any(in_doubt) {
            return self.cached(file).clone();
        }
        self.on_disk(file)
    }

    fn on_disk(&self, file: FileId) -> Content {
        let mut content = self.inode(file).durable.clone();
        for change in self.pending.iter().filter(|change| !change.doubtful) {
            change.what.replay(file, &mut content);
        }
        content.cut_pages();
        content
    }
}
