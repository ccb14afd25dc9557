//! Eight tellers move money between twenty accounts at the same time, in serializable transactions
//! that run again when they conflict. No money is made or lost, and no auditor ever sees half a
//! transfer.
//!
//! Run with `cargo run --release --example bank`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aegis_blocks::{
    Block, BlockId, BlockType, Error, IsolationLevel, LocalBackend, Result, StorageBackend,
    StorageExt, Transaction,
};

const TELLERS: u64 = 8;
const ACCOUNTS: u64 = 20;
const TRANSFERS_PER_TELLER: u64 = 200;
const FIRST_BALANCE: i64 = 100;

/// Results of all tellers.
#[derive(Default)]
struct Ledger {
    moved: AtomicU64,
    short_of_money: AtomicU64,
    tries: AtomicU64,
    audits: AtomicU64,
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store = LocalBackend::open(dir.path().join("bank.store"))?;
    let opening = store.begin()?;
    for account in 1..=ACCOUNTS {
        opening.write(holding(account, FIRST_BALANCE))?;
    }
    opening.commit()?;
    println!("{ACCOUNTS} accounts of {FIRST_BALANCE}, {TELLERS} tellers");

    let (ledger, started) = (Ledger::default(), Instant::now());
    std::thread::scope(|scope| {
        let tellers: Vec<_> = (1..=TELLERS)
            .map(|teller| {
                let (store, ledger) = (store.clone(), &ledger);
                scope.spawn(move || work(&store, ledger, teller))
            })
            .collect();
        let join = |teller: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            teller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        tellers.into_iter().try_for_each(join)
    })?;
    let seconds = started.elapsed().as_secs_f64();

    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (transfers, stats) = (TELLERS * TRANSFERS_PER_TELLER, store.stats());
    println!("transfers   {transfers} in {seconds:.2} s");
    println!("  moved     {}", count(&ledger.moved));
    println!("  refused   {} for want of money", count(&ledger.short_of_money));
    println!("  tried     {} times, {} conflicts", count(&ledger.tries), stats.conflicts);
    println!("syncs       {} for {} commits", stats.log_syncs, stats.commits);
    let sum = audit(&store)?;
    println!("audits      {} while the tellers worked, and one now", count(&ledger.audits));
    println!("sum         {sum}, as at the opening");
    store.close()?;
    Ok(())
}

/// Moves money until the teller's share of transfers is done; audits the bank now and then.
fn work(store: &LocalBackend, ledger: &Ledger, teller: u64) -> Result<()> {
    let mut state = teller;
    for n in 0..TRANSFERS_PER_TELLER {
        let (from, to) = (1 + random(&mut state) % ACCOUNTS, 1 + random(&mut state) % ACCOUNTS);
        let amount = (random(&mut state) % 60) as i64;
        let moved = loop {
            let moved = store.transact(IsolationLevel::Serializable, |tx| {
                ledger.tries.fetch_add(1, Ordering::Relaxed);
                transfer(tx, from, to, amount)
            });
            match moved {
                // Lost against others in every one of its tries: all the tellers want this account.
                Err(Error::Conflict { .. }) => {}
                other => break other?,
            }
        };
        let counter = if moved { &ledger.moved } else { &ledger.short_of_money };
        counter.fetch_add(1, Ordering::Relaxed);
        if n % 50 == 0 {
            audit(store)?;
            ledger.audits.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// False when the account does not hold that much.
fn transfer(tx: &Transaction, from: u64, to: u64, amount: i64) -> Result<bool> {
    let rich = balance(&tx.read(BlockId(from))?);
    if rich < amount {
        return Ok(false);
    }
    tx.write(holding(from, rich - amount))?;
    // After the write: an account may send money to itself.
    let poor = balance(&tx.read(BlockId(to))?);
    tx.write(holding(to, poor + amount))?;
    Ok(true)
}

/// Counts all money as of one moment.
fn audit(store: &LocalBackend) -> Result<i64> {
    let mut sum = 0;
    for account in store.blocks(..)? {
        sum += balance(&account?);
    }
    assert_eq!(sum, ACCOUNTS as i64 * FIRST_BALANCE, "no money is made or lost");
    Ok(sum)
}

fn holding(account: u64, balance: i64) -> Block {
    Block::new(BlockId(account), BlockType::TableData, balance.to_le_bytes().to_vec())
}

fn balance(account: &Block) -> i64 {
    let bytes = account.data[..].try_into().expect("an account is a number of eight bytes");
    i64::from_le_bytes(bytes)
}

/// Marsaglia's xorshift64: every run moves the same money, in another order.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 8
}
