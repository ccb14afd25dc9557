//! Reading: what a [`ReadMode`] makes of an open file.
//!
//! Owns the views that are not a map as it is. In each mode bytes are verified by whoever asked for
//! them, after [`View::bytes`] has returned:
//!
//! | mode     | what is verified and handed out    | when the disk fails under a read                  |
//! |----------|------------------------------------|---------------------------------------------------|
//! | `Copied` | a copy out of the map              | `SIGBUS` while it is copied, never later          |
//! | `Mapped` | the map itself                     | `SIGBUS`, then or whenever the bytes are looked at |
//! | `Pread`  | a buffer that the system filled    | an error of that read                             |
//!
//! Invariant: bytes of all but `Mapped` are the caller's own, so nobody holds such a view once its call has
//! returned, and the segment below it may be written to again.

use std::borrow::Cow;
use std::io;

use bytes::Bytes;

use crate::io::{DiskFile, View, read_exact_at};
use crate::local::options::ReadMode;

/// Shows bytes `0..len` of a file that is kept for nothing else.
pub(crate) fn view_of<F: DiskFile>(file: F, len: u64, mode: ReadMode) -> io::Result<Box<dyn View>> {
    match mode {
        ReadMode::Mapped | ReadMode::Copied => map_of(&file, len, mode),
        ReadMode::Pread => {
            file.expect_random();
            Ok(Box::new(Asked { file }))
        }
    }
}

/// Maps bytes `0..len` of a file.
pub(crate) fn map_of<F: DiskFile>(file: &F, len: u64, mode: ReadMode) -> io::Result<Box<dyn View>> {
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

/// A file of which the system is asked for the bytes of each call. Where the file ends is looked at then.
struct Asked<F> {
    file: F,
}

impl<F: DiskFile> Asked<F> {
    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        read_exact_at(&self.file, offset, &mut bytes)?;
        Ok(bytes)
    }
}

impl<F: DiskFile> View for Asked<F> {
    fn bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.read(offset, len).map(Bytes::from)
    }

    fn slice(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        self.read(offset, len).map(Cow::Owned)
    }

    fn is_shared(&mut self) -> bool {
        false
    }
}
