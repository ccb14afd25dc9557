//! Values stay out of messages: every block holds a secret, every error that can be provoked is
//! printed in every way, and the secret is in none of them.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aegis_blocks::io::sim::{FaultKind, OperationKind, SimDisk};
use aegis_blocks::io::{Entry, FileName};
use aegis_blocks::{
    Block, BlockId, BlockType, LocalBackend, MemoryBackend, Options, Result, StorageBackend,
    StorageExt, TransactionId, WriteBatch,
};

const SECRET: &str = "Geheimnisvoll-9f3b";

fn block(id: u64) -> Block {
    Block::new(BlockId(id), BlockType::TableData, SECRET.repeat(20))
}

fn options() -> Options {
    LocalBackend::options().single_threaded(true).zero_ahead_len(0)
}

fn open(disk: &SimDisk) -> Result<LocalBackend<SimDisk>> {
    LocalBackend::open_on(disk.clone(), options())
}

/// A closed store full of secrets.
fn closed() -> SimDisk {
    let disk = SimDisk::new(1);
    let store = open(&disk).expect("a new store");
    for id in 1..=6 {
        store.write_block(block(id)).expect("a write");
    }
    store.close().expect("a clean close");
    disk
}

/// What was printed, and the errors that were.
#[derive(Default)]
struct Printed {
    texts: BTreeSet<String>,
    variants: BTreeSet<String>,
}

impl Printed {
    fn print(&mut self, value: &impl std::fmt::Debug) {
        self.texts.insert(format!("{value:?}\n{value:#?}\n{value:x?}"));
    }

    /// An error where there is one.
    fn answer<T>(&mut self, answer: Result<T>) {
        if answer.is_err() {
            self.error(answer);
        }
    }

    #[track_caller]
    fn error<T>(&mut self, answer: Result<T>) {
        let Err(error) = answer else { panic!("an error was to be provoked") };
        self.texts.insert(error.to_string());
        self.print(&error);
        let mut source = error.source();
        while let Some(deeper) = source {
            self.texts.insert(deeper.to_string());
            self.print(&deeper);
            source = deeper.source();
        }
        let debug = format!("{error:?}");
        let name: String = debug.chars().take_while(|c| c.is_alphanumeric()).collect();
        self.variants.insert(name);
    }

    /// The secret as text, as numbers and as hexadecimal digits.
    fn check(&self) {
        let list = |form: fn(&u8) -> String, between: &str| {
            SECRET.bytes().take(6).map(|b| form(&b)).collect::<Vec<_>>().join(between)
        };
        let hex: fn(&u8) -> String = |b| format!("{b:02x}");
        let decimal: fn(&u8) -> String = |b| b.to_string();
        let forms = [
            SECRET[..6].to_string(),
            list(decimal, ", "),
            list(hex, ", "),
            list(hex, ""),
            list(hex, " "),
        ];
        for text in &self.texts {
            let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for form in &forms {
                let found = one_line.find(form).map(|at| &one_line[..at.min(200)]);
                assert_eq!(found, None, "a value is in a message that begins like this");
            }
        }
    }
}

#[test]
fn check_finds_a_secret_in_every_form() {
    for told in [format!("{:?}", block(1)), format!("{:?}", SECRET.as_bytes())] {
        let printed = Printed { texts: [told].into(), ..Printed::default() };
        assert!(std::panic::catch_unwind(|| printed.check()).is_err());
    }
    let mut printed = Printed::default();
    printed.print(&SECRET.as_bytes());
    assert!(std::panic::catch_unwind(|| printed.check()).is_err());
}

#[test]
fn no_value_is_in_any_message() {
    let mut printed = Printed::default();
    calls(&mut printed);
    damage(&mut printed);
    failures(&mut printed);
    paths(&mut printed);
    handles(&mut printed);
    printed.check();
    let every = [
        "Aborted",
        "BlockNotFound",
        "BlockTooLarge",
        "Closed",
        "Conflict",
        "Corrupt",
        "InvalidArgument",
        "Io",
        "Locked",
        "NotAStore",
        "Poisoned",
        "StorageFull",
        "TransactionNotActive",
        "TransactionNotFound",
        "TransactionTooLarge",
        "UnsupportedFormat",
    ];
    // Left out: `Unsupported`, since both backends offer everything, `IdsExhausted`, which takes
    // 2^64 blocks, and those that are the same whatever a block holds (`Forked`, `InCallback`,
    // `ReadOnly`, `ResourceExhausted` and the like).
    assert_eq!(printed.variants, every.map(str::to_string).into(), "errors that were provoked");
}

/// Errors of arguments and of transactions.
fn calls(printed: &mut Printed) {
    let disk = SimDisk::new(2);
    let options = options().block_len_max(1000).transaction_len_max(1000);
    let store = LocalBackend::open_on(disk.clone(), options).expect("a new store");
    store.write_block(block(1)).expect("a write");
    printed.error(store.read_block(BlockId(99)));
    let long = Block::new(BlockId(2), BlockType::TableData, SECRET.repeat(100));
    printed.error(store.write_block(long));
    let mut lying = block(2);
    lying.header.checksum ^= 1;
    printed.error(store.write_block(lying));
    let (one, two) = (store.begin().expect("begun"), store.begin().expect("begun"));
    one.write(block(1)).expect("a write");
    two.write(block(1)).expect("a write");
    two.write(block(2)).expect("a write");
    printed.error(two.write(block(3)));
    printed.print(&two);
    one.commit().expect("the first one wins");
    printed.error(two.commit());
    let tx = store.begin_transaction().expect("begun");
    store.rollback_transaction(tx).expect("rolled back");
    printed.error(store.commit_transaction(tx));
    printed.error(store.commit_transaction(TransactionId(u64::MAX)));
    printed.error(open(&disk));
    let handle = store.clone();
    store.close().expect("a clean close");
    printed.error(handle.write_block(block(3)));
}

/// Every page of a store is damaged in turn.
fn damage(printed: &mut Printed) {
    let clean = closed();
    let dir = tempfile::tempdir().expect("a temporary directory");
    clean.files().iter().for_each(|(name, _)| put(dir.path(), &clean, *name));
    for (name, len) in clean.files() {
        // The store reads no byte of its reserve: one flip in each page is enough.
        let step = if name == FileName::Reserve { 4096 } else { 16 };
        for offset in (0..len).step_by(step) {
            let disk = clean.freeze();
            disk.flip_bit(name, offset, 3);
            put(dir.path(), &disk, name);
            printed.print(&LocalBackend::verify(dir.path()));
            match open(&disk) {
                Ok(store) => {
                    for id in 1..=6 {
                        printed.answer(store.read_block(BlockId(id)).map(|_| ()));
                    }
                    printed.print(store.recovery());
                }
                Err(error) => printed.error::<()>(Err(error)),
            }
        }
        put(dir.path(), &clean, name);
    }
    printed.error(open(&newer(&clean)));
    let block = block(1).to_bytes().expect("encodes");
    for len in 0..block.len() {
        printed.error(Block::from_bytes(&block[..len]));
    }
    for at in 0..block.len() {
        let mut damaged = block.to_vec();
        damaged[at] ^= 4;
        printed.error(Block::from_bytes(&damaged));
    }
}

/// Writes a file of a simulated disk into a directory, where `verify` reads it. The file is not cut
/// first: ext4 syncs a file that is written again after a cut.
fn put(dir: &Path, disk: &SimDisk, name: FileName) {
    let content = disk.contents(name).expect("a listed file");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(dir.join(name.to_string()));
    file.expect("a file").write_all_at(&content, 0).expect("written");
}

/// A disk whose description is of a later version, in both copies and with the right checksums.
fn newer(clean: &SimDisk) -> SimDisk {
    let disk = clean.freeze();
    let mut page = disk.contents(FileName::Meta).expect("a description");
    for at in [0, 2048] {
        let record = &mut page[at..at + 64];
        record[8] = 2;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&record[..12]), &record[16..]);
        record[12..16].copy_from_slice(&sum.to_le_bytes());
    }
    disk.put_file(FileName::Meta, &page);
    disk
}

/// The disk fails, or is full.
fn failures(printed: &mut Printed) {
    use OperationKind as K;
    for kind in [K::Open, K::List, K::Read, K::Map, K::Write, K::SyncData, K::Rename, K::Create] {
        let disk = closed();
        disk.inject_on(kind, None, 0, FaultKind::Eio, true);
        match open(&disk) {
            Ok(store) => {
                for id in 1..=6 {
                    printed.answer(store.write_block(block(id)));
                }
                printed.answer(store.close());
            }
            Err(error) => printed.error::<()>(Err(error)),
        }
    }
    let disk = closed();
    let store = open(&disk).expect("the store opens");
    disk.inject_on(K::Write, None, 0, FaultKind::Eio, true);
    printed.error(store.write_block(block(1)));
    printed.error(store.write_block(block(2)));
    let disk = closed();
    let store = open(&disk).expect("the store opens");
    disk.set_capacity(Some(0));
    let long = Block::new(BlockId(7), BlockType::TableData, SECRET.repeat(200_000));
    printed.error(store.write_block(long));
}

/// Opening something else, or not to the end.
fn paths(printed: &mut Printed) {
    let disk = closed();
    let abort = options().on_progress(|_| ControlFlow::Break(()));
    printed.error(LocalBackend::open_on(disk.clone(), abort));
    disk.add_entry(Entry::NotAFile { name: FileName::Segment(90) });
    printed.error(open(&disk));
    printed.error(LocalBackend::open(Path::new("/dev/null")));
    printed.error(LocalBackend::open_on(disk, options().segment_len_max(1)));
}

/// Handles and reports print themselves without their blocks.
fn handles(printed: &mut Printed) {
    let store = open(&closed()).expect("the store opens");
    printed.print(&store);
    printed.print(&options());
    printed.print(&store.stats());
    printed.print(&store.recovery());
    let transaction = store.begin().expect("begun");
    transaction.write(block(1)).expect("a write");
    printed.print(&transaction);
    let mut batch = WriteBatch::new();
    batch.write(block(1));
    printed.print(&batch);
    printed.print(&store.snapshot().expect("a snapshot"));
    let memory = MemoryBackend::new();
    memory.write_block(block(1)).expect("a write");
    printed.print(&memory);
    printed.error(memory.read_block(BlockId(2)));
}
