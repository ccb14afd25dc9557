//! What acknowledged commits survive: one test for each cell of the table of [`Durability`].
//!
//! A process that is killed leaves its files as they are, synced or not ([`SimDisk::freeze`]). A
//! system that crashes and a power cut leave what was synced, and any part of the rest
//! ([`SimDisk::crash`]); what a power cut leaves may also be torn within a sector or garbage. Every
//! outcome of [`CrashChoice::all`] is tried.

#[path = "support/options.rs"]
mod options;

use std::time::Duration;

use aegis_blocks::io::sim::{CrashChoice, SimDisk};
use aegis_blocks::{
    Block, BlockId, BlockType, Durability, Error, LocalBackend, Options, StorageBackend,
    StorageExt, WriteBatch,
};

use options::short_segments;

/// Each commit writes this many blocks of its own.
const BLOCKS_PER_COMMIT: u64 = 2;
const COMMIT_COUNT: u64 = 6;

fn options(durability: Durability) -> Options {
    let never = Duration::from_secs(1 << 30);
    short_segments(64 << 10, 32 << 10)
        .single_threaded(true)
        .durability(durability)
        .sync_interval(never)
        .zero_ahead_len(0)
}

fn open(disk: &SimDisk, durability: Durability) -> LocalBackend<SimDisk> {
    LocalBackend::open_on(disk.clone(), options(durability)).expect("the store opens")
}

fn block(commit: u64, part: u64) -> Block {
    let id = BlockId(1 + commit * BLOCKS_PER_COMMIT + part);
    Block::new(id, BlockType::TableData, vec![commit as u8; 700])
}

/// Commits number `commit`, as durable as the store's default.
fn commit(store: &LocalBackend<SimDisk>, commit: u64) {
    let tx = store.begin().expect("begins");
    for part in 0..BLOCKS_PER_COMMIT {
        tx.write(block(commit, part)).expect("writes");
    }
    tx.commit().expect("commits");
}

/// A running store with acknowledged commits of a level, and its disk.
fn running(durability: Durability) -> (LocalBackend<SimDisk>, SimDisk) {
    let disk = SimDisk::new(7);
    let store = open(&disk, durability);
    (0..COMMIT_COUNT).for_each(|number| commit(&store, number));
    (store, disk)
}

/// How many commits a disk holds: a prefix, each of them whole.
fn surviving(disk: &SimDisk) -> u64 {
    let store = open(disk, Durability::Durable);
    let there = |commit: u64, part: u64| match store.read_block(block(commit, part).header.block_id)
    {
        Ok(found) => {
            assert_eq!(found, block(commit, part));
            true
        }
        Err(Error::BlockNotFound { .. }) => false,
        Err(error) => panic!("commit {commit} is neither there nor gone: {error:?}"),
    };
    let whole = |commit: &u64| {
        let parts = (0..BLOCKS_PER_COMMIT).filter(|part| there(*commit, *part)).count() as u64;
        assert!(parts == 0 || parts == BLOCKS_PER_COMMIT, "half of commit {commit} survived");
        parts > 0
    };
    let survived: Vec<u64> = (0..COMMIT_COUNT).filter(whole).collect();
    let count = survived.len() as u64;
    assert!(survived.into_iter().eq(0..count), "a later commit survived an earlier one");
    count
}

/// The disks that a crash may leave: of the system, or, with garbage, of the power.
fn left_by(disk: &SimDisk, garbage: bool) -> impl Iterator<Item = SimDisk> {
    let outcomes = CrashChoice::all(disk.pending_units(), 3);
    let fits = move |choice: &CrashChoice| {
        garbage || !matches!(choice, CrashChoice::Random { garbage: true, .. })
    };
    outcomes.filter(fits).map(|choice| disk.crash(choice))
}

/// Asserts that nothing is lost.
fn keeps_all(durability: Durability, garbage: bool) {
    let (store, disk) = running(durability);
    let mut outcomes = 0;
    for left in left_by(&disk, garbage) {
        assert_eq!(surviving(&left), COMMIT_COUNT);
        outcomes += 1;
    }
    println!("{outcomes} outcomes");
    drop(store);
}

/// Asserts that a prefix survives, and that the crashes were hard enough to lose some.
fn keeps_a_prefix(durability: Durability, garbage: bool) {
    let (store, disk) = running(durability);
    let counts: Vec<u64> = left_by(&disk, garbage).map(|left| surviving(&left)).collect();
    println!("{} outcomes", counts.len());
    assert!(counts.contains(&0) && counts.contains(&COMMIT_COUNT), "survivors: {counts:?}");
    drop(store);
}

#[test]
fn durable_commits_survive_a_kill() {
    let (_store, disk) = running(Durability::Durable);
    assert_eq!(surviving(&disk.freeze()), COMMIT_COUNT);
}

#[test]
fn buffered_commits_survive_a_kill() {
    let (_store, disk) = running(Durability::Buffered);
    assert_eq!(surviving(&disk.freeze()), COMMIT_COUNT);
}

#[test]
fn durable_commits_survive_a_crash_of_the_system() {
    keeps_all(Durability::Durable, false);
}

#[test]
fn durable_commits_survive_a_power_cut() {
    keeps_all(Durability::Durable, true);
}

#[test]
fn of_buffered_commits_a_prefix_survives_a_crash_of_the_system() {
    keeps_a_prefix(Durability::Buffered, false);
}

#[test]
fn of_buffered_commits_a_prefix_survives_a_power_cut() {
    keeps_a_prefix(Durability::Buffered, true);
}

/// Makes the third commit durable, in a store whose default is buffered.
type Push = fn(&LocalBackend<SimDisk>);

#[test]
fn prefix_reaches_to_the_last_sync_and_durable_commit() {
    let pushes: [(&str, Push); 6] = [
        ("sync", |store| {
            commit(store, 2);
            store.sync().expect("syncs");
        }),
        ("sync_to", |store| {
            commit(store, 2);
            store.sync_to(store.stats().visible_lsn).expect("syncs");
        }),
        ("commit_with", |store| {
            let tx = store.begin().expect("begins");
            tx.write(block(2, 0)).expect("writes");
            tx.write(block(2, 1)).expect("writes");
            tx.commit_with(Durability::Durable).expect("commits");
        }),
        ("apply_with", |store| {
            let mut batch = WriteBatch::new();
            batch.write(block(2, 0)).write(block(2, 1));
            store.apply_with(batch, Durability::Durable).expect("applies");
        }),
        ("write_block_with", |store| {
            commit(store, 2);
            let other = Block::empty(BlockId(1000), BlockType::Metadata);
            store.write_block_with(other, Durability::Durable).expect("writes");
        }),
        ("delete_block_with", |store| {
            let other = Block::empty(BlockId(1000), BlockType::Metadata);
            store.write_block(other).expect("writes");
            commit(store, 2);
            store.delete_block_with(BlockId(1000), Durability::Durable).expect("deletes");
        }),
    ];
    for (name, push) in pushes {
        let disk = SimDisk::new(7);
        let store = open(&disk, Durability::Buffered);
        (0..2).for_each(|number| commit(&store, number));
        push(&store);
        commit(&store, 3);
        let counts: Vec<u64> = left_by(&disk, true).map(|left| surviving(&left)).collect();
        let (least, most) = (counts.iter().min(), counts.iter().max());
        assert_eq!((least, most), (Some(&3), Some(&4)), "{name}: survivors {counts:?}");
    }
}

#[test]
fn buffered_commit_in_a_durable_store_may_be_lost() {
    let disk = SimDisk::new(7);
    let store = open(&disk, Durability::Durable);
    commit(&store, 0);
    let tx = store.begin().expect("begins");
    tx.write(block(1, 0)).expect("writes");
    tx.write(block(1, 1)).expect("writes");
    let ticket = tx.submit_with(Durability::Buffered).expect("hands in");
    assert!(ticket.try_wait().is_some_and(|answer| answer.is_ok()) && !ticket.is_durable());
    let counts: Vec<u64> = left_by(&disk, true).map(|left| surviving(&left)).collect();
    assert_eq!((counts.iter().min(), counts.iter().max()), (Some(&1), Some(&2)));
    store.sync().expect("syncs");
    assert!(ticket.is_durable());
    assert!(left_by(&disk, true).all(|left| surviving(&left) == 2));
}
