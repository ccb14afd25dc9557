//! Damage of files between two runs, by a bad device, a careless user or an attacker.
//!
//! Owns the changes that no program made: they are durable at once, count as no operation and meet
//! no fault. Meant for a disk that no store has open; pending changes of a damaged file stay
//! pending. A file that does not exist is a mistake of the test, and panics.

use super::super::{Entry, FileName};
use super::SimDisk;
use super::change::FileId;
use super::content::Content;
use super::media::Media;

impl SimDisk {
    /// Lists the plain files and their lengths in bytes, in the order of their names.
    pub fn files(&self) -> Vec<(FileName, u64)> {
        let state = self.shared.state.lock();
        let media = &state.media;
        media.names.iter().map(|(name, file)| (*name, media.cached(*file).len())).collect()
    }

    /// Returns all bytes of a file; `None` when there is no such file.
    pub fn contents(&self, name: FileName) -> Option<Vec<u8>> {
        let content = {
            let state = self.shared.state.lock();
            state.media.cached(*state.media.names.get(&name)?).clone()
        };
        let mut bytes = vec![0; usize::try_from(content.len()).expect("a file that fits")];
        content.read(0, &mut bytes);
        Some(bytes)
    }

    /// Inverts one bit, 0 to 7, of the byte at `offset`.
    pub fn flip_bit(&self, name: FileName, offset: u64, bit: u8) {
        self.damage(name, |content| {
            assert!(offset < content.len() && bit < 8, "no bit {bit} at {offset} of {name}");
            let mut byte = [0];
            content.read(offset, &mut byte);
            content.write(offset, &[byte[0] ^ 1 << bit]);
        });
    }

    /// Cuts a file, or extends it with zeros.
    pub fn truncate(&self, name: FileName, len: u64) {
        self.damage(name, |content| content.set_len(len));
    }

    /// Puts bytes in place of others, or behind the end.
    pub fn overwrite(&self, name: FileName, offset: u64, bytes: &[u8]) {
        self.damage(name, |content| {
            content.write(offset, bytes);
            content.extend_len(offset + bytes.len() as u64);
        });
    }

    /// Creates a file with these bytes, or replaces it.
    pub fn put_file(&self, name: FileName, bytes: &[u8]) {
        let mut content = Content::default();
        content.write(0, bytes);
        content.set_len(bytes.len() as u64);
        self.shared.state.lock().media.install(name, content);
    }

    /// Copies a file, or replaces the target.
    pub fn copy_file(&self, from: FileName, to: FileName) {
        let media = &mut self.shared.state.lock().media;
        let content = media.cached(media.expect_file(from)).clone();
        media.install(to, content);
    }

    /// Copies a file from another disk, or replaces the target.
    pub fn copy_file_from(&self, other: &SimDisk, from: FileName, to: FileName) {
        let content = {
            let media = &other.shared.state.lock().media;
            media.cached(media.expect_file(from)).clone()
        };
        self.shared.state.lock().media.install(to, content);
    }

    /// Removes a file.
    pub fn remove_file(&self, name: FileName) {
        let mut state = self.shared.state.lock();
        state.media.expect_file(name);
        state.media.names.remove(&name);
        state.media.durable_names.remove(&name);
        state.collect();
    }

    /// Puts something into the directory that is not a file of ours.
    ///
    /// # Panics
    /// For an [`Entry::File`]: see [`SimDisk::put_file`].
    pub fn add_entry(&self, entry: Entry) {
        assert!(!matches!(entry, Entry::File { .. }), "{entry:?} is a plain file");
        self.shared.state.lock().media.strangers.push(entry);
    }

    fn damage(&self, name: FileName, harm: impl Fn(&mut Content)) {
        let media = &mut self.shared.state.lock().media;
        let file = media.expect_file(name);
        let inode = media.inode_mut(file);
        harm(&mut inode.cached);
        harm(&mut inode.durable);
    }
}

impl Media {
    fn expect_file(&self, name: FileName) -> FileId {
        *self.names.get(&name).unwrap_or_else(|| panic!("there is no {name} to damage"))
    }

    fn install(&mut self, name: FileName, content: Content) {
        let file = self.next_file;
        self.next_file += 1;
        let inode = self.files.entry(file).or_default();
        inode.durable = content.clone();
        inode.cached = content;
        self.names.insert(name, file);
        self.durable_names.insert(name, file);
    }
}
