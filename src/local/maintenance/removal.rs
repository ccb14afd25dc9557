//! Removal of images that are out of use.
//!
//! Owns the steps. A file system that frees a large file at once delays writes and syncs of other
//! files: 25 ms for 115 MiB. So an image without readers is shortened to a page first, step by step
//! from its end, throttled while others commit. Then its name is removed. A crash in between leaves
//! a short unused file, which the next open removes. Segments are removed at once: they are
//! shorter, and their space is needed.

use crate::error::{Error, IoOp, Result};
use crate::io::{Disk, DiskFile, FileName, How};
use crate::local::format::PAGE;
use crate::local::maintenance::Maintenance;
use crate::local::maintenance::throttle::Throttle;
use crate::unheard::unheard;

/// Steps in which the length of a segment is removed.
const STEP_COUNT: u64 = 16;

impl<D: Disk> Maintenance<D> {
    /// Removes a file without readers.
    ///
    /// # Errors
    /// [`Error::Io`]: the next open removes the file.
    pub(super) fn remove_unseen(&self, name: FileName) -> Result<()> {
        unheard(self.shrink_in_steps(name), "a file that cannot be cut is removed at once");
        self.remove_at_once(name)
    }

    /// Removes a file that may have readers.
    ///
    /// # Errors
    /// As [`Maintenance::remove_unseen`].
    pub(super) fn remove_at_once(&self, name: FileName) -> Result<()> {
        let removed = self.parts.disk.remove(name);
        removed.map_err(|e| Error::io(IoOp::Remove, self.parts.disk.path(), e))
    }

    fn shrink_in_steps(&self, name: FileName) -> std::io::Result<()> {
        let step_len = (self.parts.space.segment_capacity() / STEP_COUNT).max(PAGE);
        let file = self.parts.disk.open(name, How::ReadWrite)?;
        // A reader of an earlier session may still use it.
        if file.is_mapped_elsewhere() {
            return Ok(());
        }
        let (mut len, throttle) = (file.len()?, Throttle::new(&self.parts.shared));
        while len > step_len {
            len -= step_len;
            file.set_len(len.max(PAGE))?;
            throttle.pause_if_others_commit();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalBackend;
    use crate::io::sim::SimDisk;

    #[test]
    fn file_is_cut_to_a_page_before_it_goes() {
        let disk = SimDisk::new(1);
        let options = LocalBackend::options().single_threaded(true).segment_len_max(64 << 10);
        let store = LocalBackend::open_on(disk.clone(), options.block_len_max(32 << 10));
        let store = store.expect("opens");
        let name = FileName::Segment(99);
        let file = disk.open(name, How::CreateNew).expect("a file");
        file.zero(0, (60 << 10) + 1).expect("grows");
        let maintenance = &store.inner.maintenance;
        maintenance.shrink_in_steps(name).expect("is cut");
        assert_eq!(file.len().expect("a length"), PAGE, "the header stays");
        maintenance.remove_unseen(name).expect("goes");
        assert!(disk.open(name, How::Read).is_err());
        assert!(maintenance.remove_unseen(name).is_err(), "a missing file cannot be removed");
    }
}
