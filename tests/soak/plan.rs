//! What the writers do: the `n`th step of a thread follows from seed, thread and `n`, so the parent
//! knows what a store must hold from the number of the last acknowledged step alone.

use std::collections::BTreeMap;

use aegis_blocks::testkit::Rng;
use aegis_blocks::{
    Block, BlockId, BlockType, Error, LocalBackend, Result, StorageBackend, StorageExt, WriteBatch,
};

/// Threads that write blocks of their own.
pub const WRITERS: u64 = 4;
/// Blocks that each of them has, at most.
pub const BLOCKS: u64 = 500;
const LEN_MAX: u64 = 8000;
/// Accounts that several threads move money between.
pub const ACCOUNTS: u64 = 32;
const FIRST_ACCOUNT: u64 = 1 << 40;
pub const MONEY: u64 = 1000;

/// The step that wrote each block of a thread.
pub type Blocks = BTreeMap<u64, u64>;

/// One step: changes that are one commit. `None` deletes.
pub struct Step {
    number: u64,
    changes: Vec<(u64, bool)>,
    in_transaction: bool,
}

impl Step {
    pub fn new(seed: u64, thread: u64, number: u64) -> Step {
        let mut rng = Rng::new(seed ^ thread << 56 ^ number);
        // The first steps write every block once.
        if number * 50 <= BLOCKS {
            let ids = (number - 1) * 50..number * 50;
            let changes = ids.map(|n| (id(thread, n), true)).collect();
            return Step { number, changes, in_transaction: false };
        }
        let kind = rng.next_u64();
        let mut change = |writes| (id(thread, rng.below(BLOCKS)), rng.below(100) < writes);
        let (changes, in_transaction) = match kind % 20 {
            0..11 => (vec![change(100)], false),
            11..13 => (vec![change(0)], false),
            13..18 => ((0..2 + kind % 7).map(|_| change(80)).collect(), true),
            _ => ((0..5 + kind % 16).map(|_| change(100)).collect(), false),
        };
        Step { number, changes, in_transaction }
    }

    /// What becomes of a thread's blocks.
    pub fn apply(&self, blocks: &mut Blocks) {
        for (id, writes) in &self.changes {
            if *writes {
                blocks.insert(*id, self.number);
            } else {
                blocks.remove(id);
            }
        }
    }

    /// Does it to a store.
    pub fn run(&self, store: &LocalBackend) -> Result<()> {
        match &self.changes[..] {
            changes if self.in_transaction => {
                let transaction = store.begin()?;
                for (id, writes) in changes {
                    match writes {
                        true => drop(transaction.write(block(*id, self.number))?),
                        false => found(transaction.delete(BlockId(*id)))?,
                    }
                }
                transaction.commit().map(drop)
            }
            [(id, false)] => found(store.delete_block(BlockId(*id))),
            [(id, true)] => store.write_block(block(*id, self.number)).map(drop),
            changes => {
                let mut batch = WriteBatch::new();
                for (id, _) in changes {
                    batch.write(block(*id, self.number));
                }
                store.apply(batch).map(drop)
            }
        }
    }
}

/// Deleting what is not there changes nothing.
fn found(answer: Result<()>) -> Result<()> {
    match answer {
        Err(Error::BlockNotFound { .. }) => Ok(()),
        answer => answer,
    }
}

fn id(thread: u64, n: u64) -> u64 {
    1 + thread * 10_000 + n
}

/// The thread whose block this is; `None` for an account.
pub fn thread_of(id: u64) -> Option<u64> {
    (id < FIRST_ACCOUNT).then_some((id - 1) / 10_000)
}

/// What a step writes to a block: id and step, then bytes made from them.
pub fn payload(id: u64, number: u64) -> Vec<u8> {
    let mut rng = Rng::new(id << 32 ^ number);
    let len = 16 + rng.below(LEN_MAX) as usize;
    let mut out = [id.to_le_bytes(), number.to_le_bytes()].concat();
    while out.len() < len {
        out.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    out.truncate(len);
    out
}

fn block(id: u64, number: u64) -> Block {
    Block::new(BlockId(id), BlockType::TableData, payload(id, number))
}

/// The step that wrote what a block holds, if one did.
pub fn written_by(block: &Block) -> Option<u64> {
    let number = u64::from_le_bytes(block.data.get(8..16)?.try_into().ok()?);
    (block.data == payload(block.header.block_id.0, number)).then_some(number)
}

pub fn account(n: u64) -> BlockId {
    BlockId(FIRST_ACCOUNT + n)
}

pub fn account_block(n: u64, money: u64) -> Block {
    Block::new(account(n), BlockType::Metadata, money.to_le_bytes().to_vec())
}

/// Puts the money there where there is none yet.
pub fn open_accounts(store: &LocalBackend) -> Result<()> {
    if store.block_exists(account(0))? {
        return Ok(());
    }
    let mut batch = WriteBatch::new();
    for n in 0..ACCOUNTS {
        batch.write(account_block(n, MONEY));
    }
    store.apply(batch).map(drop)
}

pub fn money(block: &Block) -> u64 {
    u64::from_le_bytes(block.data[..].try_into().expect("8 bytes"))
}
