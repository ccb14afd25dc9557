//! A segment that another program cuts while the store has it mapped.
//!
//! No program but the store has a reason to write in its directory, which has mode 0700 and is
//! locked. If one does all the same, a read beyond the new end ends the process by SIGBUS, as with
//! every mapped file, and a read within the last page of the file finds zeros there, which the
//! checksum names. Without maps every read is answered or names what is wrong. Other bytes than
//! were written are never answered. Each cut is tried in a child.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_blocks::{Block, BlockId, BlockType, Error, LocalBackend, ReadMode, StorageBackend};
use nix::libc::SIGBUS;
use nix::sys::resource::{Resource, setrlimit};

use crate::arena::say;
use crate::files::names;

const STORE: &str = "AEGIS_TRUNCATED_STORE";
const LEN: &str = "AEGIS_TRUNCATED_LEN";
const UNMAPPED: &str = "AEGIS_TRUNCATED_UNMAPPED";
const BLOCKS: u64 = 8;

fn payload(id: u64) -> Vec<u8> {
    vec![id as u8 | 0x80; 3000]
}

fn segment(path: &Path) -> PathBuf {
    let first = names(path).into_iter().find(|name| name.starts_with("SEG-"));
    path.join(first.expect("a segment"))
}

#[test]
fn segment_cut_under_its_map_answers_no_wrong_bytes() {
    let (killed, named) = cuts(ReadMode::Mapped);
    assert!(killed > 0 && named > 0, "not all paths were taken");
}

#[test]
fn segment_cut_under_a_store_without_maps_ends_no_process() {
    let (killed, named) = cuts(ReadMode::Pread);
    assert!(killed == 0 && named > 0, "{killed} were killed, {named} errors named");
}

/// Cuts a segment at many places. Returns how many readers were ended by a signal, and how many
/// errors the others named.
fn cuts(mode: ReadMode) -> (u64, usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let (mut killed, mut named) = (0, 0);
    // A page, and within the pages of the blocks.
    for len in (1..=8).flat_map(|page| [page << 12, (page << 12) + 700]) {
        let store = LocalBackend::open(&path).expect("a new store");
        for id in 1..=BLOCKS {
            let block = Block::new(BlockId(id), BlockType::TableData, payload(id));
            store.write_block(block).expect("a write");
        }
        store.close().expect("a clean close");
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args(["--exact", "truncated::reader_started_by_a_test", "--nocapture"]);
        command.env(STORE, &path).env(LEN, len.to_string());
        if mode == ReadMode::Pread {
            command.env(UNMAPPED, "yes");
        }
        let output = command.output().expect("its end");
        let words = String::from_utf8_lossy(&output.stdout);
        assert!(words.contains("opened"), "cut to {len}: {words}");
        let by_signal = output.status.signal() == Some(SIGBUS);
        assert!(by_signal || output.status.success(), "cut to {len}: {}: {words}", output.status);
        killed += u64::from(by_signal);
        named += words.matches("named").count();
        fs::remove_dir_all(&path).expect("the store is gone");
    }
    say(&format!(
        "16 cuts of a segment, {mode:?}: {killed} readers ended by SIGBUS, {named} errors named"
    ));
    (killed, named)
}

/// The reader's half. Does nothing unless the test has started it.
#[test]
fn reader_started_by_a_test() {
    let Some(path) = std::env::var_os(STORE).map(PathBuf::from) else { return };
    let len: u64 = std::env::var(LEN).expect("a length").parse().expect("a number");
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("no core file");
    let mode = std::env::var_os(UNMAPPED).map_or(ReadMode::Mapped, |_| ReadMode::Pread);
    let store = LocalBackend::options().read_mode(mode).open(&path).expect("the store opens");
    println!("opened");
    let cut = OpenOptions::new().write(true).open(segment(&path));
    cut.and_then(|file: File| file.set_len(len)).expect("the segment is cut");
    for id in 1..=BLOCKS {
        match store.read_block(BlockId(id)) {
            Ok(block) => assert!(block.data == payload(id), "block {id} has other bytes"),
            Err(Error::Corrupt { .. } | Error::Io { .. }) => println!("named"),
            Err(error) => panic!("block {id}: {error:?}"),
        }
    }
    // What becomes of the store now is another matter.
    std::process::exit(0);
}
