//! Files that the command line asks for (`get -o`, `bench --json`), opened before the work begins.
//!
//! Invariants: the file's old content stays until [`OutFile::write`]. A file that was made here and
//! not written is removed. No file inside of a store is touched.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::overlap;

/// A file that will be written.
pub struct OutFile {
    path: PathBuf,
    file: File,
    /// It was not there before, and has no content yet.
    is_unwritten: bool,
}

impl OutFile {
    /// Opens or makes a file and leaves its content alone.
    pub fn open(path: &Path) -> Result<OutFile, Failure> {
        overlap::refuse_inside_store(path)?;
        let failed = |e| Failure::io("cannot write", path, e);
        let mut options = OpenOptions::new();
        let (file, is_unwritten) = match options.write(true).create_new(true).open(path) {
            Ok(file) => (file, true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // Not made: a dangling link may point into a store.
                let file = OpenOptions::new().write(true).open(path);
                (file.map_err(failed)?, false)
            }
            Err(e) => return Err(failed(e)),
        };
        Ok(OutFile { path: path.to_path_buf(), file, is_unwritten })
    }

    /// Replaces the content.
    pub fn write(mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.replace_file(bytes);
        written.map_err(|e| Failure::io("cannot write", &self.path, e))?;
        self.is_unwritten = false;
        Ok(())
    }

    fn replace_file(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Pipes and devices have no content that could go.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
            self.file.rewind()?;
        }
        self.file.write_all(bytes)
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if self.is_unwritten
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            crate::output::warn(format_args!("left behind {}: {e}", self.path.display()));
        }
    }
}
