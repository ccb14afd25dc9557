//! Costs of our own store as it grows: the same measurements on thousands to millions of blocks.
//!
//! Each store is filled once with blocks of 16 bytes. Rounds then go through the sizes in turn,
//! every other round backwards, so a change of the disk's mood meets all sizes alike. Medians over
//! rounds are reported; a ratio of two sizes is taken within a round.
//!
//! | figure               | what it is                                     | goal             |
//! |----------------------|------------------------------------------------|------------------|
//! | open after a close   | with one read; median of 5 in a turn           | at most 3 ms     |
//! | open after a kill    | with one read, 64 MiB of log to replay, once   | none             |
//! | commits/s            | 64 threads, 4 KiB over a random block each     | 0.90 of smallest |
//! | written / user bytes | by `/proc/self/io`, while commits are timed    | none             |
//! | reads/s              | 1 thread, 10,000 hot 4 KiB blocks over all ids | 0.75 of smallest |
//! | index and checkpoint | bytes a block by `stats()`, after a checkpoint | none             |
//!
//! A small store is overwritten many times in a turn and compacts meanwhile; a large one is not.
//! The bytes written for each user byte tell how much of a ratio of commits is due to that.
//!
//! Blocks written in a turn stay in the store, so stores grow by blocks of 4 KiB over the rounds.
//! The last turn of a store removes its files: with the defaults, all together take less than 12
//! GB.

mod killed;
mod picture;
mod steps;
mod store;
mod table;

use std::path::Path;
use std::time::Duration;

pub use killed::Victim;

use crate::GrowthArgs;
use crate::failure::{Failure, Outcome};
use store::Store;
use table::{Row, Table};

/// The seed of all choices of ids.
const SEED: u64 = 0x9e0a_73b1;

/// Sizes in blocks.
const SIZES: &[u64] = &[10_000, 100_000, 1_000_000, 4_000_000, 20_000_000];
const QUICK_SIZES: &[u64] = &[1_000, 20_000];

/// Measures all sizes and writes what was asked for.
pub fn run(args: &GrowthArgs) -> Outcome<()> {
    let table = measure(args)?;
    print!("{}", table.to_markdown());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&table.rows)?;
        std::fs::write(path, json).map_err(Failure::io("cannot write", path))?;
    }
    if let Some(dir) = &args.svg {
        std::fs::create_dir_all(dir).map_err(Failure::io("cannot make", dir))?;
        let path = dir.join("growth.svg");
        std::fs::write(&path, picture::draw(&table)).map_err(Failure::io("cannot write", &path))?;
    }
    Ok(())
}

fn measure(args: &GrowthArgs) -> Outcome<Table> {
    let (sizes, rounds, seconds) = if args.quick { (QUICK_SIZES, 1, 0.1) } else { (SIZES, 3, 2.0) };
    let sizes = if args.blocks.is_empty() { sizes } else { &args.blocks };
    let rounds = args.rounds.unwrap_or(rounds);
    let time = Duration::from_secs_f64(args.seconds.unwrap_or(seconds));
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let stores = fill(sizes, &parent)?;
    let mut rows: Vec<Row> =
        sizes.iter().map(|blocks| Row { blocks: *blocks, rounds: Vec::new() }).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let figures = stores[index].measure(round, time)?;
            eprintln!("round {} {}", round + 1, table::brief(sizes[index], &figures));
            rows[index].rounds.push(figures);
            if round + 1 == rounds {
                stores[index].remove()?;
            }
        }
    }
    Ok(Table { rows, seconds: time.as_secs_f64() })
}

fn fill(sizes: &[u64], parent: &Path) -> Outcome<Vec<Store>> {
    let one = |blocks: &u64| {
        let started = std::time::Instant::now();
        let store = Store::fill(parent, *blocks)?;
        eprintln!("filled {blocks} blocks in {:.1} s", started.elapsed().as_secs_f64());
        Ok(store)
    };
    sizes.iter().map(one).collect()
}
