//! Every rule of the simulated disk, by a test that fails without the rule.

mod crash;
mod damage;
mod explore;
mod fault;
mod misuse;

use std::io::IoSlice;

use super::super::{DiskFile, write_all_at};
use super::content::SECTOR_LEN;
use super::*;

const A: FileName = FileName::Segment(1);
const B: FileName = FileName::Segment(2);

fn new_file(disk: &SimDisk, name: FileName) -> SimFile {
    disk.open(name, How::CreateNew).expect("a new file")
}

fn put(file: &SimFile, offset: u64, bytes: &[u8]) {
    write_all_at(file, offset, bytes).expect("written");
}

/// A disk with one file that is durable, name and all.
fn disk_with(name: FileName, bytes: &[u8]) -> (SimDisk, SimFile) {
    let disk = SimDisk::new(1);
    let file = new_file(&disk, name);
    put(&file, 0, bytes);
    file.sync_data().expect("synced");
    disk.sync_dir().expect("synced");
    assert_eq!(disk.pending_units(), 0);
    (disk, file)
}

fn sectors(values: &[u8]) -> Vec<u8> {
    values.iter().flat_map(|value| [*value; SECTOR_LEN]).collect()
}

/// The first byte of every sector.
fn sector_values(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(SECTOR_LEN).map(|sector| sector[0]).collect()
}

/// The bytes of a file after the cut.
fn left(disk: &SimDisk, choice: CrashChoice, name: FileName) -> Option<Vec<u8>> {
    disk.crash(choice).contents(name)
}

fn subsets(disk: &SimDisk) -> Vec<CrashChoice> {
    let count = disk.pending_units();
    assert!(count <= 12, "{count} units have too many subsets");
    let subset = |bits: usize| (0..count).filter(move |unit| bits & 1 << unit != 0).collect();
    (0..1 << count).map(|bits| CrashChoice::Keep(subset(bits))).collect()
}

#[track_caller]
fn check_errno<T>(result: io::Result<T>, errno: i32) {
    assert_eq!(result.err().expect("an error").raw_os_error(), Some(errno));
}
