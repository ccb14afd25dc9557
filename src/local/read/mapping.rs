//! Reading: the view of an open file in each [`ReadMode`].
//!
//! Owns the views that are not a plain map. In each mode the caller verifies the bytes after
//! [`View::bytes`] has returned:
//!
//! | mode     | what is verified and handed out | when the disk fails under a read              |
//! |----------|---------------------------------|-----------------------------------------------|
//! | `Copied` | a copy out of the map           | `SIGBUS` while it is copied, never later      |
//! | `Mapped` | the map itself                  | `SIGBUS`, then or at a later use of the bytes |
//! | `Pread`  | a buffer that the system filled | an error of that read                         |
//!
//! Invariant: bytes of all modes but `Mapped` are the caller's own. So no reader holds such a view
//! once its call has returned, and the segment below it may be written to again.

use std::borrow::Cow;
use std::io;

use bytes::Bytes;

use crate::io::{DiskFile, View, read_exact_at};
use crate::local::options::ReadMode;

/// Shows bytes `0..len` of a file that the view owns.
pub(crate) fn view_of_file<F: DiskFile>(
    file: F,
    len: u64,
    mode: ReadMode,
) -> io::Result<Box<dyn View>> {
    match mode {
        ReadMode::Mapped | ReadMode::Copied => map_of_file(&file, len, mode),
        ReadMode::Pread => {
            file.expect_random();
            Ok(Box::new(Asked { file }))
        }
    }
}

/// Maps bytes `0..len` of a file.
pub(crate) fn map_of_file<F: DiskFile>(
    file: &F,
    len: u64,
    mode: ReadMode,
) -> io::Result<Box<dyn View>> {
    let map = file.map(len as usize)?;
    Ok(if mode == ReadMode::Copied { Box::new(Copied { map }) } else { map })
}

/// A map that lends nothing for longer than a call.
struct Copied {
    map: Box<dyn View>,
}

impl View for Copied {
    fn bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        Ok(match self.map.slice(offset, len)? {
            Cow::Borrowed(lent) => Bytes::copy_from_slice(lent),
            Cow::Owned(own) => own.into(),
        })
    }

    fn slice(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        Ok(Cow::Owned(self.bytes(offset, len)?.into()))
    }

    fn settle(&self) {
        self.map.settle();
    }

    fn is_shared(&mut self) -> bool {
        self.map.is_shared()
    }
}

/// A file that the system reads for each call. Each read checks where the file ends.
struct Asked<F> {
    file: F,
}

impl<F: DiskFile> Asked<F> {
    fn read_from_file(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        read_exact_at(&self.file, offset, &mut bytes)?;
        Ok(bytes)
    }
}

impl<F: DiskFile> View for Asked<F> {
    fn bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.read_from_file(offset, len).map(Bytes::from)
    }

    fn slice(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        self.read_from_file(offset, len).map(Cow::Owned)
    }

    fn is_shared(&mut self) -> bool {
        false
    }
}
