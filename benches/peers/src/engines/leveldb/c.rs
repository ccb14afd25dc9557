//! The calls of LevelDB's C library (`leveldb/c.h` of 1.23) that the adapter needs, each behind a
//! safe method.
//!
//! Owns the library's handles, which it frees on drop, and what the library allocates: bytes that
//! were read and texts of errors. The crate `leveldb-sys` compiles a copy of 1.22 and links no
//! library that is installed, so it is not used.
#![expect(unsafe_code, reason = "a C library is called")]

use std::ffi::{CStr, CString, c_char, c_uchar};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

/// The library's own types: only it knows what they hold.
mod opaque {
    #[repr(C)]
    pub struct Db([u8; 0]);
    #[repr(C)]
    pub struct Options([u8; 0]);
    #[repr(C)]
    pub struct ReadOptions([u8; 0]);
    #[repr(C)]
    pub struct Snapshot([u8; 0]);
    #[repr(C)]
    pub struct WriteBatch([u8; 0]);
    #[repr(C)]
    pub struct WriteOptions([u8; 0]);
}

#[link(name = "leveldb")]
unsafe extern "C" {
    fn leveldb_open(
        options: *const opaque::Options,
        name: *const c_char,
        error: *mut *mut c_char,
    ) -> *mut opaque::Db;
    fn leveldb_close(db: *mut opaque::Db);
    fn leveldb_write(
        db: *mut opaque::Db,
        options: *const opaque::WriteOptions,
        batch: *mut opaque::WriteBatch,
        error: *mut *mut c_char,
    );
    fn leveldb_get(
        db: *mut opaque::Db,
        options: *const opaque::ReadOptions,
        key: *const c_char,
        key_len: usize,
        value_len: *mut usize,
        error: *mut *mut c_char,
    ) -> *mut c_char;
    fn leveldb_create_snapshot(db: *mut opaque::Db) -> *const opaque::Snapshot;
    fn leveldb_release_snapshot(db: *mut opaque::Db, snapshot: *const opaque::Snapshot);
    fn leveldb_free(allocated: *mut c_char);

    safe fn leveldb_options_create() -> *mut opaque::Options;
    fn leveldb_options_set_create_if_missing(options: *mut opaque::Options, on: c_uchar);
    fn leveldb_options_destroy(options: *mut opaque::Options);

    safe fn leveldb_readoptions_create() -> *mut opaque::ReadOptions;
    fn leveldb_readoptions_set_verify_checksums(options: *mut opaque::ReadOptions, on: c_uchar);
    fn leveldb_readoptions_destroy(options: *mut opaque::ReadOptions);

    safe fn leveldb_writeoptions_create() -> *mut opaque::WriteOptions;
    fn leveldb_writeoptions_set_sync(options: *mut opaque::WriteOptions, on: c_uchar);
    fn leveldb_writeoptions_destroy(options: *mut opaque::WriteOptions);

    safe fn leveldb_writebatch_create() -> *mut opaque::WriteBatch;
    fn leveldb_writebatch_put(
        batch: *mut opaque::WriteBatch,
        key: *const c_char,
        key_len: usize,
        value: *const c_char,
        value_len: usize,
    );
    fn leveldb_writebatch_destroy(batch: *mut opaque::WriteBatch);
}

/// The library's own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Takes over the text that a call may have left.
fn outcome(text: *mut c_char) -> Result<(), Error> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: a call that leaves a text allocates it, ends it with a zero, and hands it over.
    let error = unsafe {
        let words = CStr::from_ptr(text).to_string_lossy().into_owned();
        leveldb_free(text);
        Error(words)
    };
    Err(error)
}

/// An open store; all threads share it.
pub struct Store {
    db: NonNull<opaque::Db>,
    synced: *mut opaque::WriteOptions,
    verified: *mut opaque::ReadOptions,
}

// SAFETY: LevelDB's database may be used by several threads at once (doc/index.md, "Concurrency"),
// and the options are not changed after `Store::open`.
unsafe impl Send for Store {}
// SAFETY: as for `Send`.
unsafe impl Sync for Store {}

impl Store {
    /// Opens a store, or makes one.
    pub fn open(path: &Path) -> Result<Store, Error> {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error("the path holds a zero byte".into()))?;
        let options = leveldb_options_create();
        let mut error = ptr::null_mut();
        // SAFETY: the options are from the line above and are freed here once. The library copies
        // options and name, and sets `error` if it fails.
        let db = unsafe {
            leveldb_options_set_create_if_missing(options, 1);
            let db = leveldb_open(options, name.as_ptr(), &mut error);
            leveldb_options_destroy(options);
            db
        };
        outcome(error)?;
        let db = NonNull::new(db).ok_or_else(|| Error("no store and no error".into()))?;
        let (synced, verified) = (leveldb_writeoptions_create(), leveldb_readoptions_create());
        // SAFETY: both are from the line above.
        unsafe {
            leveldb_writeoptions_set_sync(synced, 1);
            leveldb_readoptions_set_verify_checksums(verified, 1);
        }
        Ok(Store { db, synced, verified })
    }

    /// Writes a batch as one, and returns when the log is synced.
    pub fn write(&self, batch: &mut Batch) -> Result<(), Error> {
        let mut error = ptr::null_mut();
        // SAFETY: store, options and batch live as long as `self` and `batch`.
        unsafe { leveldb_write(self.db.as_ptr(), self.synced, batch.0, &mut error) };
        outcome(error)
    }

    /// Reads a value; the bytes are the caller's own.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>, Error> {
        let (mut len, mut error) = (0, ptr::null_mut());
        // SAFETY: store and options live as long as `self`; the library reads `key.len()` bytes of
        // the key.
        let start = unsafe {
            let key_start = key.as_ptr().cast();
            let db = self.db.as_ptr();
            leveldb_get(db, self.verified, key_start, key.len(), &mut len, &mut error)
        };
        outcome(error)?;
        Ok(NonNull::new(start).map(|start| Value { start, len }))
    }

    /// Makes a snapshot and releases it.
    pub fn pin(&self) {
        // SAFETY: the store lives as long as `self`; the snapshot is of this store and is released
        // once.
        unsafe {
            let snapshot = leveldb_create_snapshot(self.db.as_ptr());
            leveldb_release_snapshot(self.db.as_ptr(), snapshot);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: all three are from `Store::open` and are freed here once; no batch, value or
        // snapshot refers to the store.
        unsafe {
            leveldb_close(self.db.as_ptr());
            leveldb_writeoptions_destroy(self.synced);
            leveldb_readoptions_destroy(self.verified);
        }
    }
}

/// Writes that become visible and durable as one.
pub struct Batch(*mut opaque::WriteBatch);

impl Batch {
    /// An empty one.
    pub fn new() -> Batch {
        Batch(leveldb_writebatch_create())
    }

    /// Adds a write; the library copies key and value.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let (key_start, value_start) = (key.as_ptr().cast(), value.as_ptr().cast());
        // SAFETY: the batch lives as long as `self`; the library reads as many bytes as it is told.
        unsafe { leveldb_writebatch_put(self.0, key_start, key.len(), value_start, value.len()) };
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: it is from `Batch::new` and is freed here once.
        unsafe { leveldb_writebatch_destroy(self.0) };
    }
}

/// Bytes that the library copied for its caller, who may keep them: a copy into a `Vec` would be
/// one more than a program in C++ makes.
pub struct Value {
    start: NonNull<c_char>,
    len: usize,
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `leveldb_get` allocated and filled `len` bytes, which nothing changes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: `leveldb_get` allocated it; it is freed here once.
        unsafe { leveldb_free(self.start.as_ptr()) };
    }
}
