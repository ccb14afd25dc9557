//! Values stay out of messages: every block holds a canary, every error that can be provoked is
//! printed in every way, and the canary is in none of them.

use std::error::Error as _;
use std::ops::ControlFlow;
use std::path::Path;

use aegis_blocks::fuzz;
use aegis_blocks::io::sim::{FaultKind, OperationKind, SimDisk};
use aegis_blocks::io::{Entry, FileName};
use aegis_blocks::{
    Block, BlockId, BlockType, LocalBackend, MemoryBackend, Options, Result, StorageBackend,
    StorageExt, TransactionId, WriteBatch,
};

const CANARY: &str = "Kanarienvogel-9f3b";

fn block(id: u64) -> Block {
    Block::new(BlockId(id), BlockType::TableData, CANARY.repeat(20))
}

fn options() -> Options {
    LocalBackend::options().single_threaded(true).zero_ahead_len(0)
}

fn open(disk: &SimDisk) -> Result<LocalBackend<SimDisk>> {
    LocalBackend::open_on(disk.clone(), options())
}

/// A closed store full of canaries.
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
    texts: Vec<String>,
    variants: Vec<String>,
}

impl Printed {
    fn print(&mut self, value: &impl std::fmt::Debug) {
        self.texts.push(format!("{value:?}\n{value:#?}\n{value:x?}"));
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
        self.texts.push(error.to_string());
        self.print(&error);
        let mut source = error.source();
        while let Some(deeper) = source {
            self.texts.push(deeper.to_string());
            self.print(&deeper);
            source = deeper.source();
        }
        let debug = format!("{error:?}");
        let name: String = debug.chars().take_while(|c| c.is_alphanumeric()).collect();
        self.variants.push(name);
    }

    /// The canary as text, as numbers and as hexadecimal digits.
    fn check(&self) {
        let list = |form: fn(&u8) -> String, between: &str| {
            CANARY.bytes().take(6).map(|b| form(&b)).collect::<Vec<_>>().join(between)
        };
        let hex: fn(&u8) -> String = |b| format!("{b:02x}");
        let decimal: fn(&u8) -> String = |b| b.to_string();
        let forms = [
            CANARY[..6].to_string(),
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
fn check_finds_a_canary_in_every_form() {
    for told in [format!("{:?}", block(1)), format!("{:?}", CANARY.as_bytes())] {
        let printed = Printed { texts: vec![told], ..Printed::default() };
        assert!(std::panic::catch_unwind(|| printed.check()).is_err());
    }
    let mut printed = Printed::default();
    printed.print(&CANARY.as_bytes());
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
    printed.variants.sort();
    printed.variants.dedup();
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
    // Left out: `Unsupported`, since both backends offer everything, `IdsExhausted`, which takes 2^64 blocks, and those
    // that are the same whatever a block holds (`Forked`, `InCallback`, `ReadOnly`, `ResourceExhausted` and the like).
    assert_eq!(printed.variants, every, "errors that were provoked");
}

/// Errors of arguments and of transactions.
fn calls(printed: &mut Printed) {
    let disk = SimDisk::new(2);
    let options = options().block_len_max(1000).transaction_len_max(1000);
    let store = LocalBackend::open_on(disk.clone(), options).expect("a new store");
    store.write_block(block(1)).expect("a write");
    printed.error(store.read_block(BlockId(99)));
    let long = Block::new(BlockId(2), BlockType::TableData, CANARY.repeat(100));
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
    for (name, len) in clean.files() {
        for offset in (0..len).step_by(16) {
            let disk = clean.freeze();
            disk.flip_bit(name, offset, 3);
            match open(&disk) {
                Ok(store) => {
                    for id in 1..=6 {
                        printed.answer(store.read_block(BlockId(id)).map(|_| ()));
                    }
                    printed.print(store.recovery());
                }
                Err(error) => printed.error::<()>(Err(error)),
            }
            printed.print(&fuzz::verify(&disk));
        }
    }
    let mut image = fuzz::ImageWriter::of_disk(&clean);
    for at in 0..image.len() - 8 {
        // A later version in both copies of the description.
        if image[at..at + 8] == *b"AEGISBLK" {
            image[at + 8] = 2;
        }
    }
    (fuzz::target("store").seal)(&mut image);
    printed.error(open(&fuzz::disk(&image)));
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
    let long = Block::new(BlockId(7), BlockType::TableData, CANARY.repeat(200_000));
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
