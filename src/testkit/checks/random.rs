//! Seeded random operations against the [`Model`]: alone with several open transactions and reopen,
//! and from many threads that each own their blocks.

use bytes::Bytes;

use crate::backend::StorageBackend;
use crate::block::{Block, BlockId, BlockType};
use crate::error::Error;
use crate::testkit::model::Model;
use crate::testkit::rng::{Rng, seed, soak};
use crate::testkit::subject::{Mark, Subject, Tx, block, expect_block, ok, refused, threads};

pub(in crate::testkit) fn random_operations_match_the_model(s: &mut Subject<'_>) {
    let seed = seed(0xAE615);
    println!("seed {seed} (replay with AEGIS_SEED={seed})");
    let mut rng = Rng::new(seed);
    for _ in 0..6 * soak() {
        live(s, &mut rng, 150);
        s.check();
        // Every other life ends with transactions open.
        s.reopen_or_begin_anew();
        s.check();
    }
}

/// Ids that operations choose from, so few that they meet again and again.
const IDS: u64 = 12;
const OPEN_COUNT_MAX: usize = 4;

/// The operations between two opens of the store.
fn live(s: &Subject<'_>, rng: &mut Rng, steps: u64) {
    let (mut open, max) = (Vec::new(), s.fitting(usize::MAX));
    let offers = offers(s);
    for _ in 0..steps {
        let (op, id) = (rng.below(32), 1 + rng.below(IDS));
        match op {
            0..=4 => drop(s.put_block(random_block(rng, id, max))),
            5 => drop(s.put_block(random_block(rng, 0, max))),
            6..=7 => delete(s, id),
            8..=9 => read(s, id),
            10 => ok(s.store().sync(), "sync"),
            11 if rng.once_in(4) => s.check(),
            12..=15 if open.len() < OPEN_COUNT_MAX => open.push((s.begin(), Vec::new())),
            _ if open.is_empty() => {}
            16..=27 => {
                let chosen = rng.below(open.len() as u64) as usize;
                let (tx, marks) = &mut open[chosen];
                match rng.below(6) {
                    0 if offers.ranges => tx.lists(id, id + rng.below(IDS)),
                    1..=2 if offers.savepoints => mark_or_undo(tx, marks, rng),
                    _ => operate(tx, rng, id, max),
                }
            }
            _ => {
                let (tx, _) = open.swap_remove(rng.below(open.len() as u64) as usize);
                if !rng.once_in(3) {
                    tx.commit_as_modelled();
                } else {
                    tx.rollback();
                }
            }
        }
    }
    if rng.once_in(2) {
        open.into_iter().for_each(|(tx, _)| tx.commit_as_modelled());
    }
}

/// Which of the calls that a backend need not offer it offers.
struct Offers {
    ranges: bool,
    savepoints: bool,
}

fn offers(s: &Subject<'_>) -> Offers {
    let tx = s.begin();
    let listed = s.store().ids_in_tx(tx.id, BlockId(1), BlockId(1));
    let ranges = s.offered(listed, "ids_in_tx").is_some();
    let savepoints = tx.mark().is_some();
    tx.rollback();
    Offers { ranges, savepoints }
}

/// Makes a savepoint, or goes back to one; later ones are then gone.
fn mark_or_undo(tx: &Tx<'_, '_>, marks: &mut Vec<Mark>, rng: &mut Rng) {
    if marks.is_empty() || rng.once_in(2) {
        marks.extend(tx.mark());
    } else {
        marks.truncate(1 + rng.below(marks.len() as u64) as usize);
        marks.iter().last().into_iter().for_each(|mark| tx.undo_to(mark));
    }
}

fn random_block(rng: &mut Rng, id: u64, len_max: usize) -> Block {
    let types = [BlockType::TableData, BlockType::LogEntry, BlockType::Metadata];
    let mut block =
        Block::new(BlockId(id), types[rng.below(3) as usize], random_payload(rng, len_max));
    block.header.version = rng.below(3) as u16;
    block.header.flags = rng.next_u64() as u16;
    block
}

/// Mostly short, some around a page, a few long.
fn random_payload(rng: &mut Rng, len_max: usize) -> Bytes {
    let len = match rng.below(40) {
        0 => 20_000 + rng.below(60_000),
        1..=4 => 4000 + rng.below(200),
        5..=8 => 0,
        _ => rng.below(300),
    };
    rng.bytes(len_max.min(len as usize))
}

fn delete(s: &Subject<'_>, id: u64) {
    if s.model().read(id).is_some() {
        s.remove(id);
    } else {
        let absent = BlockId(id);
        refused!(s.store().delete_block(absent), Error::BlockNotFound { id } if id == absent);
    }
}

fn read(s: &Subject<'_>, id: u64) {
    let found = s.store().read_block(BlockId(id));
    expect_block(found, BlockId(id), s.model().read(id), "read_block");
    let exists = ok(s.store().block_exists(BlockId(id)), "block_exists");
    assert_eq!(exists, s.model().read(id).is_some(), "block_exists({id})");
}

fn operate(tx: &Tx<'_, '_>, rng: &mut Rng, id: u64, max: usize) {
    let seen = tx.model.borrow().read(id).is_some();
    match rng.below(12) {
        0..=3 => drop(tx.put_block(random_block(rng, id, max))),
        4 => drop(tx.put_block(random_block(rng, 0, max))),
        5..=7 if seen => tx.remove(id),
        5..=7 => {
            let answer = tx.store().delete_block_in_tx(tx.id, BlockId(id));
            refused!(answer, Error::BlockNotFound { id: BlockId(named) } if named == id);
        }
        _ => {
            let found = tx.store().read_block_in_tx(tx.id, BlockId(id));
            expect_block(found, BlockId(id), tx.model.borrow().read(id), "read_block_in_tx");
            let exists =
                ok(tx.store().block_exists_in_tx(tx.id, BlockId(id)), "block_exists_in_tx");
            assert_eq!(exists, seen, "block_exists_in_tx({id})");
        }
    }
}

const THREADS: u64 = 6;
const IDS_PER_THREAD: u64 = 8;

pub(in crate::testkit) fn threads_on_their_own_blocks_match_their_models(s: &mut Subject<'_>) {
    let seed = seed(0x7142EAD);
    println!("seed {seed} (replay with AEGIS_SEED={seed})");
    for round in 0..2 * soak() {
        let (store, before) = (s.store(), s.model().clone());
        let max = s.fitting(usize::MAX);
        let models = threads(THREADS, |thread| {
            let mut rng = Rng::new(seed ^ (round << 32) ^ thread);
            let mut model = before.clone();
            for _ in 0..25 {
                step_alone(store, &mut rng, &mut model, 1 + thread * 1000, max);
            }
            model
        });
        for (thread, model) in (0..).zip(&models) {
            for id in (0..IDS_PER_THREAD).map(|slot| 1 + thread * 1000 + slot) {
                s.saw(id);
                match model.read(id) {
                    Some(found) => s.model().write(found.clone()),
                    None => drop(s.model().delete(id)),
                }
            }
        }
        s.check();
        s.reopen_or_begin_anew();
    }
}

/// One single operation or one transaction of a thread, without concurrent writers.
fn step_alone(store: &dyn StorageBackend, rng: &mut Rng, model: &mut Model, base: u64, max: usize) {
    let mut id = || BlockId(base + rng.below(IDS_PER_THREAD));
    let (single, ids) = (id(), [id(), id(), id(), id()]);
    if rng.once_in(2) {
        if model.delete(single.0) {
            ok(store.delete_block(single), "delete_block");
        } else {
            let block = block(single.0, random_payload(rng, max));
            ok(store.write_block(block.clone()), "write_block");
            model.write(block);
        }
        expect_block(store.read_block(single), single, model.read(single.0), "read_block");
        return;
    }
    let (tx, mut own) = (ok(store.begin_transaction(), "begin_transaction"), model.begin());
    for id in ids {
        if rng.once_in(3) && own.delete(id.0) {
            ok(store.delete_block_in_tx(tx, id), "delete_block_in_tx");
        } else {
            let block = block(id.0, random_payload(rng, max));
            ok(store.write_block_in_tx(tx, block.clone()), "write_block_in_tx");
            own.write(block);
        }
        expect_block(store.read_block_in_tx(tx, id), id, own.read(id.0), "read_block_in_tx");
        expect_block(store.read_block(id), id, model.read(id.0), "read_block, before commit");
    }
    if rng.once_in(4) {
        ok(store.rollback_transaction(tx), "rollback_transaction");
    } else {
        ok(store.commit_transaction(tx), "commit of blocks that only one thread writes");
        model.commit(own);
    }
}
