//! How to test a program of your own against power cuts. It runs on a simulated disk, and the power
//! is cut at every operation in turn. After a restart the store must hold all that the program has
//! promised its users.
//!
//! Run with `cargo run --features sim --example powercut`.

use aegis_blocks::io::sim::{CrashChoice, SimDisk};
use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, Result, StorageBackend, StorageExt};

const TOTAL: u64 = 100;
const STOCK: BlockId = BlockId(1);
const SOLD: BlockId = BlockId(2);

/// The program under test: it sells one piece after the other and returns how many it said were
/// sold.
fn sell(disk: &SimDisk) -> u64 {
    let Ok(shop) = LocalBackend::open_on(disk.clone(), LocalBackend::options()) else { return 0 };
    (1..=5).take_while(|sold| sell_one(&shop, *sold).is_ok()).last().unwrap_or(0)
}

fn sell_one(shop: &LocalBackend<SimDisk>, sold: u64) -> Result<()> {
    let tx = shop.begin()?;
    for (id, count) in [(STOCK, TOTAL - sold), (SOLD, sold)] {
        tx.write(Block::new(id, BlockType::TableData, count.to_le_bytes().to_vec()))?;
    }
    tx.commit().map(|_| ())
}

/// Nothing that was said to be sold is in stock again, and nothing is in both places.
fn check(disk: SimDisk, said: u64) -> Result<()> {
    let shop = LocalBackend::open_on(disk, LocalBackend::options())?;
    let count = |id| match shop.block_exists(id)? {
        true => Ok(shop.read_block(id)?.data[..].try_into().map_or(u64::MAX, u64::from_le_bytes)),
        false => Ok(0),
    };
    let (stock, sold) = (count(STOCK)?, count(SOLD)?);
    assert!(sold >= said && (stock + sold == TOTAL || sold == 0), "{stock} + {sold}, said {said}");
    Ok(())
}

fn main() -> Result<()> {
    for operation in 0.. {
        let disk = SimDisk::new(operation);
        disk.crash_at(operation, false);
        let said = sell(&disk);
        // Unsynced changes survive not at all, wholly, or in any part.
        let random = CrashChoice::Random { seed: operation, garbage: true };
        for choice in [CrashChoice::Nothing, CrashChoice::Everything, random] {
            check(disk.crash(choice), said)?;
        }
        if !disk.is_crashed() {
            println!("the power went at each of {operation} operations, and nothing was lost");
            break;
        }
    }
    Ok(())
}

#[test]
fn shop_survives_a_power_cut_at_every_operation() {
    main().expect("nothing was lost");
}
