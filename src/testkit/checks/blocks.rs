//! Single blocks: reads return the bytes written, under the same id.

use bytes::Bytes;

use crate::block::{Block, BlockId, BlockType};
use crate::error::Error;
use crate::testkit::Rng;
use crate::testkit::subject::{Subject, block, ok, refused};

const TYPES: [BlockType; 6] = [
    BlockType::TableData,
    BlockType::TimeSeriesData,
    BlockType::DocumentData,
    BlockType::IndexData,
    BlockType::LogEntry,
    BlockType::Metadata,
];

pub(in crate::testkit) fn written_block_reads_back(s: &mut Subject<'_>) {
    let id = s.allocate("payload");
    s.holds(id, "payload");
    s.put(70, "explicit");
    s.holds(70, "explicit");
    s.holds(id, "payload");
}

pub(in crate::testkit) fn write_replaces_the_block(s: &mut Subject<'_>) {
    s.put(5, "a long first payload");
    let mut second = Block::new(BlockId(5), BlockType::Metadata, "2nd");
    second.header.version = 2;
    second.header.flags = 0x8001;
    s.put_block(second);
    s.holds(5, "2nd");
    s.check();
    let tx = s.begin();
    tx.put(5, "third");
    tx.commit();
    s.holds(5, "third");
    assert_eq!(s.stats().total_blocks, 1, "a block that is replaced is still one block");
}

pub(in crate::testkit) fn write_to_id_zero_allocates(s: &mut Subject<'_>) {
    let id = s.allocate("single");
    assert_ne!(id, 0, "an allocated id names a block");
    s.holds(id, "single");
    let tx = s.begin();
    let id = tx.allocate("in a transaction");
    assert_ne!(id, 0, "an allocated id names a block");
    tx.holds(id, "in a transaction");
    tx.commit();
    s.holds(id, "in a transaction");
}

pub(in crate::testkit) fn id_zero_never_names_a_block(s: &mut Subject<'_>) {
    for _ in 0..2 {
        s.lacks(0);
        refused!(s.store().delete_block(BlockId(0)), Error::BlockNotFound { id: BlockId(0) });
        let tx = s.begin();
        tx.lacks(0);
        let id = tx.allocate("x");
        tx.lacks(0);
        let deleted = tx.store().delete_block_in_tx(tx.id, BlockId(0));
        refused!(deleted, Error::BlockNotFound { id: BlockId(0) });
        tx.holds(id, "x");
        tx.commit();
        s.allocate("y");
    }
}

pub(in crate::testkit) fn deleted_block_is_gone(s: &mut Subject<'_>) {
    s.put(1, "stays");
    s.put(2, "goes");
    s.remove(2);
    s.lacks(2);
    s.holds(1, "stays");
    let tx = s.begin();
    tx.remove(1);
    tx.lacks(1);
    tx.commit();
    s.lacks(1);
}

pub(in crate::testkit) fn deleting_an_absent_block_is_not_found(s: &mut Subject<'_>) {
    let never = BlockId(9);
    refused!(s.store().delete_block(never), Error::BlockNotFound { id } if id == never);
    s.put(1, "once");
    s.remove(1);
    refused!(s.store().delete_block(BlockId(1)), Error::BlockNotFound { id: BlockId(1) });
    s.lacks(9);
}

pub(in crate::testkit) fn deleting_an_absent_block_in_a_transaction_is_not_found(
    s: &mut Subject<'_>,
) {
    s.put(1, "once");
    let tx = s.begin();
    s.put(2, "too late to be seen");
    let delete = |id| tx.store().delete_block_in_tx(tx.id, BlockId(id));
    refused!(delete(9), Error::BlockNotFound { id: BlockId(9) });
    refused!(delete(2), Error::BlockNotFound { id: BlockId(2) });
    tx.remove(1);
    refused!(delete(1), Error::BlockNotFound { id: BlockId(1) });
    // The transaction goes on, without the deletes that found nothing.
    tx.put(3, "after");
    tx.commit();
    s.holds(2, "too late to be seen");
    s.holds(3, "after");
    s.lacks(1);
}

pub(in crate::testkit) fn reading_an_absent_block_is_not_found(s: &mut Subject<'_>) {
    s.lacks(1);
    s.lacks(u64::MAX);
    s.put(2, "other");
    s.lacks(1);
    let tx = s.begin();
    tx.lacks(1);
    tx.put(3, "goes on");
    tx.commit();
    s.holds(3, "goes on");
}

pub(in crate::testkit) fn deleted_block_can_be_written_again(s: &mut Subject<'_>) {
    for round in 0..3 {
        s.put(4, format!("life {round}"));
        s.holds(4, format!("life {round}"));
        s.remove(4);
        s.lacks(4);
    }
    s.put(4, "last life");
    s.holds(4, "last life");
}

pub(in crate::testkit) fn empty_payload_is_a_block(s: &mut Subject<'_>) {
    s.put_block(Block::empty(BlockId(1), BlockType::LogEntry));
    s.holds(1, "");
    assert_eq!(s.stats().total_blocks, 1, "an empty block counts");
    let tx = s.begin();
    let id = tx.put_block(Block::empty(BlockId(0), BlockType::Metadata));
    tx.put(1, "filled");
    tx.commit();
    s.holds(id, "");
    s.put(1, "");
    s.holds(1, "");
}

pub(in crate::testkit) fn every_header_field_round_trips(s: &mut Subject<'_>) {
    let fields = [(0, 0), (1, 0), (0, 1), (u16::MAX, u16::MAX), (0x1234, 0xFEDC)];
    let tx = s.begin();
    for (n, block_type) in TYPES.into_iter().enumerate() {
        for (m, (version, flags)) in fields.into_iter().enumerate() {
            let id = (1 + n * fields.len() + m) as u64;
            let mut single = Block::new(BlockId(id), block_type, format!("{block_type:?} {m}"));
            single.header.version = version;
            single.header.flags = flags;
            let mut in_tx = single.clone();
            in_tx.header.block_id = BlockId(id + 100);
            s.put_block(single);
            tx.put_block(in_tx.clone());
            let own = ok(s.store().read_block_in_tx(tx.id, BlockId(id + 100)), "read_block_in_tx");
            assert_eq!(own, in_tx, "a transaction's own write");
        }
    }
    tx.commit();
    // The check that ends every claim compares each header.
    s.check();
}

/// Blocks whose header was changed after [`Block::new`] so that it lies about the payload.
fn liars(id: u64) -> [Block; 4] {
    let mut liars = [0; 4].map(|_| block(id, "the truth"));
    liars[0].header.data_size += 1;
    liars[1].header.checksum ^= 1;
    liars[2].header.uncompressed_size += 1;
    liars[3].data = Bytes::from_static(b"not truth");
    liars
}

pub(in crate::testkit) fn header_that_lies_is_refused(s: &mut Subject<'_>) {
    s.put(1, "before");
    for id in [0, 1, 2] {
        for liar in liars(id) {
            refused!(s.store().write_block(liar), Error::InvalidArgument { .. });
        }
    }
    s.holds(1, "before");
    s.lacks(2);
    assert_eq!(s.allocate("next"), 2, "a refused write takes no id");
}

pub(in crate::testkit) fn header_that_lies_is_refused_in_a_transaction(s: &mut Subject<'_>) {
    s.put(1, "before");
    let tx = s.begin();
    tx.put(2, "pending");
    for id in [0, 1, 2, 3] {
        for liar in liars(id) {
            refused!(s.store().write_block_in_tx(tx.id, liar), Error::InvalidArgument { .. });
        }
    }
    tx.holds(1, "before");
    tx.holds(2, "pending");
    tx.lacks(3);
    tx.commit();
    s.holds(2, "pending");
}

pub(in crate::testkit) fn ids_of_any_value_are_ordinary(s: &mut Subject<'_>) {
    let near = |n: u64| [n - 1, n, n + 1];
    let mut ids: Vec<u64> = [1 << 8, 1 << 16, 1 << 32, 1 << 48, 1 << 63].map(near).concat();
    ids.extend([1, 63, 64, 65, u64::MAX - 1, u64::MAX]);
    for id in &ids {
        s.put(*id, format!("block {id}"));
    }
    let tx = s.begin();
    for id in &ids {
        s.holds(*id, format!("block {id}"));
        tx.holds(*id, format!("block {id}"));
        if id % 2 == 0 { tx.remove(*id) } else { tx.put(*id, "odd") }
    }
    tx.commit();
    s.holds(u64::MAX, "odd");
    s.lacks(u64::MAX - 1);
    s.lacks(2);
}

pub(in crate::testkit) fn payloads_of_any_bytes_and_length_round_trip(s: &mut Subject<'_>) {
    let mut rng = Rng::new(1);
    let near = |n: usize| [n - 1, n, n + 1];
    let mut id = 0;
    for len in [1, 64, 512, 4096, 8192, 65_536].map(near).concat() {
        let len = s.fitting(len);
        for data in [Bytes::from(vec![0; len]), vec![0xFF; len].into(), rng.bytes(len)] {
            id += 1;
            s.put(id, data);
        }
    }
    // A block inside a block: bytes that look like the store's own.
    let inner = ok(block(3, "inner").to_bytes(), "to_bytes");
    s.put(id + 1, inner);
    s.check();
}

pub(in crate::testkit) fn large_block_round_trips(s: &mut Subject<'_>) {
    let mut rng = Rng::new(2);
    let (first, second) = (s.bytes(&mut rng, 1 << 20), s.bytes(&mut rng, (1 << 20) + 13));
    s.put(1, first.clone());
    s.holds(1, first);
    let tx = s.begin();
    tx.put(1, second.clone());
    tx.holds(1, second.clone());
    tx.commit();
    s.holds(1, second);
}

pub(in crate::testkit) fn payload_in_hand_never_changes(s: &mut Subject<'_>) {
    let mut rng = Rng::new(3);
    let data: Vec<Bytes> = [10, 5000, 70_000].map(|len| s.bytes(&mut rng, len)).into();
    for (id, data) in (1..).zip(&data) {
        s.put(id, data.clone());
    }
    let read = |id| ok(s.store().read_block(BlockId(id)), "read_block").data;
    let mut in_hand: Vec<Bytes> = (1..4).map(read).collect();
    let tx = s.begin();
    let read = |id| ok(tx.store().read_block_in_tx(tx.id, BlockId(id)), "read_block_in_tx").data;
    in_hand.extend((1..4).map(read));
    tx.rollback();
    for round in 0..20 {
        for id in 1..4 {
            s.put(id, s.bytes(&mut rng, 30_000 + round));
        }
    }
    s.remove(1);
    assert!(in_hand.iter().zip(data.iter().cycle()).all(|(a, b)| a == b), "after overwrites");
    let remembers = s.reopen().is_some();
    let when = if remembers { "after reopen" } else { "after the store was dropped" };
    assert!(in_hand.iter().zip(data.iter().cycle()).all(|(a, b)| a == b), "{when}");
}
