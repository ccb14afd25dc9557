//! What a golden store holds: a text file beside the archive, made when the store was made.
//!
//! A line says how opening goes (`clean` or `unclean`), the newest commit and whether a tail is
//! torn off, then one line a block: id, type, version, flags, length and FNV-1a hash of its
//! payload.

use std::collections::BTreeMap;
use std::fmt::Write;

use aegis_blocks::{Block, BlockHeader, BlockId, LocalBackend, StorageBackend};

/// A block without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    block_type: String,
    version: u16,
    flags: u16,
    len: usize,
    hash: u64,
}

impl Content {
    pub fn of(block: &Block) -> Content {
        let BlockHeader { block_type, version, flags, .. } = block.header;
        let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        let hash = block.data.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
        let len = block.data.len();
        Content { block_type: format!("{block_type:?}"), version, flags, len, hash }
    }
}

/// Contents by id.
pub type Blocks = BTreeMap<u64, Content>;

/// What opening a golden store finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub clean: bool,
    pub lsn: u64,
    pub torn: bool,
    pub blocks: Blocks,
}

impl Expected {
    pub fn encode(&self) -> String {
        let word = if self.clean { "clean" } else { "unclean" };
        let mut out = format!("{word} lsn {} torn {}\n", self.lsn, self.torn);
        for (id, Content { block_type, version, flags, len, hash }) in &self.blocks {
            writeln!(out, "{id} {block_type} {version} {flags} {len} {hash:016x}").expect("memory");
        }
        out
    }

    pub fn decode(text: &str) -> Expected {
        let mut lines = text.lines();
        let first: Vec<&str> = lines.next().expect("a first line").split(' ').collect();
        let [word, "lsn", lsn, "torn", torn] = first[..] else { panic!("{first:?}") };
        let number = |text: &str| text.parse().expect("a number");
        let clean = word == "clean";
        assert!(clean || word == "unclean");
        let blocks = lines.map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [id, block_type, version, flags, len, hash] = words[..] else { panic!("{line}") };
            let content = Content {
                block_type: block_type.to_string(),
                version: version.parse().expect("a number"),
                flags: flags.parse().expect("a number"),
                len: len.parse().expect("a number"),
                hash: u64::from_str_radix(hash, 16).expect("a hash"),
            };
            (number(id), content)
        });
        let blocks = blocks.collect();
        Expected { clean, lsn: number(lsn), torn: torn == "true", blocks }
    }
}

/// Compares every block, the list of ids and the totals.
pub fn check(store: &LocalBackend, blocks: &Blocks, context: &str) {
    let ids: Vec<u64> = store.ids(..).expect("ids").iter().map(|id| id.0).collect();
    assert!(ids.iter().eq(blocks.keys()), "{context}: ids {ids:?}, not {:?}", blocks.keys());
    let mut total = 0;
    for (id, expected) in blocks {
        let block = store.read_block(BlockId(*id));
        let block = block.unwrap_or_else(|e| panic!("{context}: block {id}: {e}"));
        assert_eq!(Content::of(&block), *expected, "{context}: block {id}");
        total += expected.len as u64;
    }
    let stats = store.stats();
    let totals = (stats.total_blocks, stats.total_bytes);
    assert_eq!(totals, (blocks.len() as u64, total), "{context}");
}
