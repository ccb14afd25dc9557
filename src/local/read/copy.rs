//! Copying files between two directories, and comparing them with what a manifest says.
//!
//! Owns the list of files made so far: a copy that fails removes them again. Every file is durable
//! when its copying returns; its name is durable after the target's `sync_dir`. Does not know what
//! the files mean.

use std::io;
use std::ops::ControlFlow;

use crate::checksum;
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, DiskFile, FileName, How, write_all_at};
use crate::local::format::manifest::Row;
use crate::local::format::place::{damaged, path_of};
use crate::sync::Process;
use crate::unheard::unheard;

/// How far a backup or restore has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyProgress {
    /// Bytes copied so far.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes_total: u64,
}

pub(crate) type Watch<'a> = &'a dyn Fn(CopyProgress) -> ControlFlow<()>;

/// Bytes read and written at once.
const CHUNK_LEN: usize = 1 << 20;
/// The same beside commits, which wait behind at most two of these.
const SHORT_CHUNK_LEN: usize = 128 << 10;

/// Files on their way into a directory.
pub(crate) struct Copying<'a, T: Disk> {
    target: &'a T,
    watch: &'a dyn Fn(CopyProgress) -> ControlFlow<()>,
    /// Throttles between two chunks, where others use the disk.
    rest: Option<&'a dyn Fn()>,
    progress: CopyProgress,
    made: Vec<FileName>,
}

impl<'a, T: Disk> Copying<'a, T> {
    pub(crate) fn start_copying(
        target: &'a T,
        watch: &'a dyn Fn(CopyProgress) -> ControlFlow<()>,
        rest: Option<&'a dyn Fn()>,
        bytes_total: u64,
    ) -> Copying<'a, T> {
        let progress = CopyProgress { bytes_done: 0, bytes_total };
        Copying { target, watch, rest, progress, made: Vec::new() }
    }

    /// Copies the first `len` bytes of a file, with other bytes behind them. Returns the checksum
    /// of all, and whether the file system made a reflink, which takes no space of its own.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: the source is missing or ends before; [`Error::Aborted`], [`Error::Io`],
    /// [`Error::StorageFull`].
    pub(crate) fn copy_file<S: Disk>(
        &mut self,
        source: &S,
        name: FileName,
        len: u64,
        behind: &[u8],
    ) -> Result<(u32, bool)> {
        let file = self.create_file(name)?;
        let path = path_of(self.target.path(), name);
        let is_cloned = try_clone_file(source, name, &file, len);
        let crc = if is_cloned {
            self.checksum_target(name, len)?
        } else {
            let before = self.progress.bytes_done;
            let gives_way = self.rest.is_some();
            let crc = for_each_chunk(source, name, len, gives_way, &mut |offset, chunk| {
                self.progress.bytes_done = before + offset;
                self.report_progress()?;
                let written = write_all_at(&file, offset, chunk);
                written.map_err(|e| Error::space(IoOp::Write, self.target.path(), len, e))?;
                if gives_way {
                    // Left to the sync, all bytes would go to the disk at once.
                    file.begin_write_back(offset, chunk.len() as u64);
                }
                Ok(())
            })?;
            self.progress.bytes_done = before + len;
            crc
        };
        let written = write_all_at(&file, len, behind);
        written.map_err(|e| Error::space(IoOp::Write, self.target.path(), len, e))?;
        self.progress.bytes_done += behind.len() as u64;
        file.sync_data().map_err(|e| Error::io(IoOp::Sync, path, e))?;
        self.report_progress()?;
        Ok((checksum::crc32c_append(crc, behind), is_cloned))
    }

    /// Reads the bytes that [`Copying::copy_file`] would copy, and returns their checksum. Counts
    /// as no progress, but throttles and may be aborted.
    ///
    /// # Errors
    /// As [`Copying::copy_file`].
    pub(crate) fn checksum_source<S: Disk>(
        &self,
        source: &S,
        name: FileName,
        len: u64,
        behind: &[u8],
    ) -> Result<u32> {
        let gives_way = self.rest.is_some();
        let crc = for_each_chunk(source, name, len, gives_way, &mut |_, _| self.report_progress())?;
        Ok(checksum::crc32c_append(crc, behind))
    }

    /// Reads a file of the target that was not written here, and returns its checksum.
    fn checksum_target(&mut self, name: FileName, len: u64) -> Result<u32> {
        let before = self.progress.bytes_done;
        let read = for_each_chunk(self.target, name, len, self.rest.is_some(), &mut |offset, _| {
            self.progress.bytes_done = before + offset;
            self.report_progress()
        });
        self.progress.bytes_done = before + len;
        read
    }

    /// Takes a file from an earlier backup: a hard link where that is possible, else a copy. False
    /// when the earlier backup has lost it or it is damaged there; then no such file is here.
    ///
    /// # Errors
    /// As [`Copying::copy_file`], but for the damage.
    pub(crate) fn link_or_copy_earlier(&mut self, earlier: &T, row: &Row) -> Result<bool> {
        let (name, before) = (row.file.name, self.progress.bytes_done);
        let taken = match self.target.link_from(earlier, name) {
            Ok(()) => {
                self.made.push(name);
                self.checksum_target(name, row.file.len)
            }
            Err(_no_second_names_here) => {
                self.copy_file(earlier, name, row.file.len, &[]).map(|(crc, _)| crc)
            }
        };
        match taken {
            Ok(crc) if crc == row.crc => return Ok(true),
            Ok(_) | Err(Error::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        self.progress.bytes_done = before;
        if self.made.last() == Some(&name) {
            self.made.pop();
            let removed = self.target.remove(name);
            removed.map_err(|e| Error::io(IoOp::Remove, path_of(self.target.path(), name), e))?;
        }
        Ok(false)
    }

    /// Writes a file of these bytes under a temporary name, and then renames it to its own.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::StorageFull`].
    pub(crate) fn publish_file(&mut self, name: FileName, bytes: &[u8]) -> Result<()> {
        let unfinished = FileName::Temporary(1);
        let target = self.target;
        let io = |op| move |e| Error::space(op, target.path(), bytes.len() as u64, e);
        let file = self.create_file(unfinished)?;
        write_all_at(&file, 0, bytes).map_err(io(IoOp::Write))?;
        file.sync_data().map_err(io(IoOp::Sync))?;
        self.made.push(name);
        target.rename(unfinished, name).map_err(io(IoOp::Rename))?;
        self.sync_names()
    }

    /// Removes a file, durably.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn remove_durably(&self, name: FileName) -> Result<()> {
        let removed = self.target.remove(name);
        removed.map_err(|e| Error::io(IoOp::Remove, path_of(self.target.path(), name), e))?;
        self.sync_names()
    }

    /// Makes the names so far durable.
    pub(crate) fn sync_names(&self) -> Result<()> {
        self.target.sync_dir().map_err(|e| Error::io(IoOp::Sync, self.target.path(), e))
    }

    /// Removes the files made so far, if that is still possible.
    pub(crate) fn remove_made_files(self) {
        // The manifest goes first, durably: a half-removed backup must not look like a backup.
        for name in self.made.into_iter().rev() {
            unheard(self.target.remove(name), "the first error is the caller's answer");
            if name == FileName::Manifest {
                unheard(self.target.sync_dir(), "the first error is the caller's answer");
            }
        }
        unheard(self.target.sync_dir(), "the first error is the caller's answer");
    }

    fn create_file(&mut self, name: FileName) -> Result<T::File> {
        let created = self.target.open(name, How::CreateNew);
        let path = self.target.path();
        let file = created.map_err(|e| Error::space(IoOp::Open, path, CHUNK_LEN as u64, e))?;
        self.made.push(name);
        Ok(file)
    }

    /// Throttles, and reports the progress.
    fn report_progress(&self) -> Result<()> {
        self.rest.iter().for_each(|rest| rest());
        let process = Process::current();
        let wish = (self.watch)(self.progress);
        process.check()?;
        match wish {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Aborted),
        }
    }
}

/// Makes an empty file a reflink of the first `len` bytes of another one, where the file system
/// can.
fn try_clone_file<S: Disk>(source: &S, name: FileName, empty: &impl DiskFile, len: u64) -> bool {
    // The copying reports an error of the source.
    let Ok(original) = source.open(name, How::Read) else { return false };
    let is_whole = original.len().is_ok_and(|found| found >= len);
    let original = original.system_file().filter(|_| is_whole && len > 0);
    original.is_some_and(|original| empty.reflink_from(original, len).is_ok())
}

/// Compares a file with its row.
///
/// # Errors
/// [`Error::Corrupt`]: it is another one; [`Error::Io`].
pub(crate) fn compare_with_row<S: Disk>(source: &S, row: &Row) -> Result<()> {
    let crc = for_each_chunk(source, row.file.name, row.file.len, false, &mut |_, _| Ok(()))?;
    check_against_row(source, row, crc)
}

/// Checks a file's checksum and length against its row.
pub(crate) fn check_against_row<S: Disk>(source: &S, row: &Row, crc: u32) -> Result<()> {
    let (name, len) = (row.file.name, row.file.len);
    if crc != row.crc {
        return Err(damaged(name, 0, Defect::BackupChecksum));
    }
    let path = path_of(source.path(), name);
    let real = source.open(name, How::Read).and_then(|file| file.len());
    match real.map_err(|e| Error::io(IoOp::Read, path, e))? {
        real if real == len => Ok(()),
        _ => Err(damaged(name, len, Defect::BackupChecksum)),
    }
}

/// Reads the first `len` bytes of a file, chunk by chunk, and returns their checksum. With
/// `gives_way` it reads little at once.
fn for_each_chunk<S: Disk>(
    source: &S,
    name: FileName,
    len: u64,
    gives_way: bool,
    each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<u32> {
    let path = path_of(source.path(), name);
    let file = source.open(name, How::Read).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => damaged(name, 0, Defect::MissingFile),
        _ => Error::io(IoOp::Open, &path, e),
    })?;
    let real_len = file.len().map_err(|e| Error::io(IoOp::Read, &path, e))?;
    if real_len < len {
        return Err(damaged(name, real_len, Defect::Truncated));
    }
    let chunk_len = if gives_way { SHORT_CHUNK_LEN } else { CHUNK_LEN };
    if gives_way {
        // The system's own read-ahead may be megabytes.
        file.expect_random();
    }
    let mut buffer = vec![0; chunk_len.min(len as usize)];
    let (mut crc, mut offset) = (0, 0);
    while offset < len {
        let chunk = &mut buffer[..chunk_len.min((len - offset) as usize)];
        if gives_way {
            file.begin_read(offset + chunk.len() as u64, chunk_len as u64);
        }
        let read = crate::io::read_exact_at(&file, offset, chunk);
        read.map_err(|e| Error::io(IoOp::Read, &path, e))?;
        crc = checksum::crc32c_append(crc, chunk);
        each(offset, chunk)?;
        offset += chunk.len() as u64;
    }
    Ok(crc)
}
