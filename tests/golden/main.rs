//! Golden stores: small stores that released versions of the format wrote, which every later
//! version must open, read, write to and open again; and the refusal of stores that a later version
//! wrote.
//!
//! `tests/golden/<format version>/<name>.store` is an archive of the files, `<name>.expected` says
//! what is in it. They are never written again. For a new format version: raise `VERSION` here and
//! run `cargo test --test golden -- --ignored`; it makes the directory of that version, and none
//! other.

mod archive;
mod expected;
#[path = "../support/files.rs"]
mod files;
mod make;
mod newer;
#[path = "../support/options.rs"]
mod options;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use aegis_blocks::{
    Block, BlockId, BlockType, LocalBackend, Lsn, Probe, StorageBackend, StorageExt,
};
use archive::Files;
use expected::{Blocks, Content, Expected, check};

/// The format version that this library writes.
const VERSION: u32 = 1;

fn directory(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version.to_string())
}

/// Every golden store there is: its version and name, its files, and what it holds.
fn golden() -> Vec<(String, Files, Expected)> {
    let mut found = Vec::new();
    for version in 1..=VERSION {
        let mut names: Vec<PathBuf> = fs::read_dir(directory(version))
            .expect("golden stores of every version")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|e| e == "store"))
            .collect();
        names.sort();
        for path in names {
            let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let text = |path: &Path| fs::read_to_string(path).expect("text");
            let expected = Expected::decode(&text(&path.with_extension("expected")));
            found.push((format!("{version}/{stem}"), archive::decode(&text(&path)), expected));
        }
    }
    found
}

/// Puts a golden store in a directory; a backup is restored.
fn unpack(files: &Files, path: &Path) {
    if !files.contains_key("MANIFEST") {
        return archive::write_directory(path, files);
    }
    let backup = path.with_extension("backup");
    archive::write_directory(&backup, files);
    assert_eq!(LocalBackend::verify_backup(&backup).expect("a backup").damage, []);
    LocalBackend::restore(&backup, path, &|_| ControlFlow::Continue(())).expect("restores");
}

fn is_undamaged(path: &Path, context: &str) {
    let report = LocalBackend::verify(path).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(report.damage, [], "{context}");
}

/// Writes, replaces and deletes blocks, and remembers that.
fn change(store: &LocalBackend, blocks: &mut Blocks) {
    let highest = blocks.keys().next_back().copied().unwrap_or(0);
    let new = Block::new(BlockId(0), BlockType::LogEntry, "written by a later version");
    if highest < u64::MAX - 1 {
        let id = store.write_block(new.clone()).expect("a new id");
        assert!(id.0 > highest, "{id} was given out before");
        blocks.insert(id.0, Content::of(&new));
    }
    let replaced: Vec<u64> = blocks.keys().copied().step_by(5).collect();
    let transaction = store.begin().expect("begins");
    for (n, id) in replaced.into_iter().enumerate() {
        let block = Block::new(BlockId(id), BlockType::Metadata, vec![7; n * 100]);
        if n % 4 == 3 {
            transaction.delete(BlockId(id)).expect("deletes");
            blocks.remove(&id);
        } else {
            blocks.insert(id, Content::of(&block));
            transaction.write(block).expect("writes");
        }
    }
    transaction.commit().expect("commits");
}

#[test]
fn every_golden_store_opens_is_whole_takes_writes_and_opens_again() {
    let golden = golden();
    let names: BTreeSet<&str> = golden.iter().map(|(name, ..)| name.as_str()).collect();
    for (name, _) in make::MAKERS {
        assert!(names.contains(format!("{VERSION}/{name}").as_str()), "{name} is missing");
    }
    for (name, files, expected) in &golden {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        unpack(files, &path);
        is_undamaged(&path, name);
        let probe = LocalBackend::probe(&path).expect("can be looked at");
        assert_eq!(matches!(probe, Probe::Clean { .. }), expected.clean, "{name}: {probe:?}");

        let store = LocalBackend::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let report = store.recovery();
        assert_eq!(
            (report.clean, report.torn_bytes > 0),
            (expected.clean, expected.torn),
            "{name}"
        );
        assert_eq!(store.stats().visible_lsn, Lsn(expected.lsn), "{name}");
        check(&store, &expected.blocks, name);
        let mut blocks = expected.blocks.clone();
        change(&store, &mut blocks);
        check(&store, &blocks, name);
        store.checkpoint().expect("a checkpoint");
        store.compact_now().expect("compacts");
        check(&store, &blocks, name);
        change(&store, &mut blocks);
        store.close().expect("closes");

        is_undamaged(&path, name);
        let store = LocalBackend::open(&path).expect("opens again");
        assert!(store.recovery().clean, "{name}");
        check(&store, &blocks, name);
        store.close().expect("closes");
    }
    println!("{} golden stores", golden.len());
}

/// What occurs in the files: codes of frames, of table rows, shapes of pages (level, length of
/// ids).
#[derive(Default)]
struct Seen {
    kinds: BTreeSet<u8>,
    rows: BTreeSet<u8>,
    pages: BTreeSet<(u8, u8)>,
    parts: u32,
    below: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

impl Seen {
    /// Walks a segment as `docs/format.md` has it, without the engine.
    fn segment(&mut self, bytes: &[u8]) {
        let mut at = 4096;
        while at + 64 <= bytes.len() {
            if bytes[at..at + 4] != *b"AGF1" {
                at = (at + 4096) / 4096 * 4096;
                continue;
            }
            let frame = &bytes[at..];
            self.kinds.insert(frame[8]);
            self.parts = self.parts.max(u32_at(frame, 44));
            let rows = (0..u32_at(frame, 32) as usize).map(|n| frame[64 + n * 32 + 20]);
            self.rows.extend(rows);
            let end = at + u32_at(frame, 12) as usize;
            at = if frame[9] & 1 == 0 { end.div_ceil(8) * 8 } else { end.div_ceil(4096) * 4096 };
        }
    }

    fn checkpoint(&mut self, bytes: &[u8]) {
        self.below = self.below.max(u32_at(bytes, 76));
        let table_page = u32_at(bytes, 136) as usize;
        let pages = (1..table_page).map(|n| &bytes[n * 4096..]);
        self.pages.extend(pages.map(|page| (page[6], page[7])));
    }
}

#[test]
fn golden_stores_hold_every_kind_of_frame_row_and_page() {
    let mut seen = Seen::default();
    for (_, files, _) in golden() {
        for (name, bytes) in files {
            match name.split('-').next() {
                Some("SEG") => seen.segment(&bytes),
                Some("CKPT") => seen.checkpoint(&bytes),
                _ => {}
            }
        }
    }
    assert!(seen.kinds.into_iter().eq(1..=5), "frames");
    assert!(seen.rows.into_iter().eq(1..=4), "rows");
    assert!(seen.pages.into_iter().eq([(0, 0), (0, 4), (0, 8), (1, 0)]), "pages");
    assert!(seen.parts > 0 && seen.below > 0, "commits in parts, images on others");
}

#[test]
fn golden_stores_are_small() {
    for version in 1..=VERSION {
        let entries = fs::read_dir(directory(version)).expect("golden stores");
        let len: u64 =
            entries.map(|e| e.expect("an entry").metadata().expect("a file").len()).sum();
        assert!(len <= 200 << 10, "{len} bytes");
    }
}

#[test]
fn archives_give_back_what_went_in() {
    let mut noise: Vec<u8> =
        (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    noise[100..200].fill(7);
    noise[300..900].fill(0);
    noise.extend([0; 5]);
    let files = Files::from([
        ("a".to_string(), noise),
        ("b".to_string(), vec![]),
        ("c".to_string(), vec![0; 70_000]),
        ("d".to_string(), vec![1; 70_000]),
    ]);
    assert!(archive::decode(&archive::encode(&files)) == files);
}

#[test]
#[ignore = "makes the golden stores of a new format version; those of earlier ones stay as they are"]
fn make_golden_stores() {
    let to = directory(VERSION);
    fs::create_dir(&to).expect("golden stores are made once");
    for (name, make) in make::MAKERS {
        let dir = tempfile::tempdir().expect("a directory");
        let files = make(&dir.path().join("made"));
        let copy = dir.path().join("copy");
        unpack(&files, &copy);
        let store = LocalBackend::open(&copy).expect("opens");
        let report = *store.recovery();
        let ids = store.ids(..).expect("ids");
        let content = |id: BlockId| (id.0, Content::of(&store.read_block(id).expect("reads")));
        let blocks = ids.into_iter().map(content).collect();
        let (clean, torn) = (report.clean, report.torn_bytes > 0);
        let lsn = store.stats().visible_lsn.0;
        let expected = Expected { clean, lsn, torn, blocks };
        fs::write(to.join(name).with_extension("store"), archive::encode(&files)).expect("writes");
        fs::write(to.join(name).with_extension("expected"), expected.encode()).expect("writes");
    }
}
