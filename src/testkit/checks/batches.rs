//! Several operations or ids in one call: batches, and reads of many blocks.

use crate::block::BlockId;
use crate::error::Error;
use crate::testkit::subject::{Subject, block, expect_block, ok, refused};
use crate::transaction::WriteBatch;

pub(in crate::testkit) fn batch_is_one_commit(s: &mut Subject<'_>) {
    s.put(1, "old");
    s.put(2, "old");
    let before = s.stats();
    let mut batch = WriteBatch::new();
    batch.write(block(0, "allocated")).write(block(1, "new")).delete(BlockId(2));
    batch.write(block(0, "allocated too"));
    let Some(ids) = s.offered(s.store().apply(batch), "apply") else { return };
    assert_eq!(ids.len(), 3, "one id for each write");
    assert_eq!(ids[1], BlockId(1), "ids are in the order of the writes");
    let after = s.stats();
    assert_eq!(after.commits - before.commits, 1, "commits that a batch makes");
    let taken = after.visible_lsn.0 - before.visible_lsn.0;
    assert_eq!(taken, 1, "places in commit order that a batch takes");
    assert!(ids[0] < ids[2], "ids are allocated in the order of the writes");
    for (id, data) in [(ids[0], "allocated"), (BlockId(1), "new"), (ids[2], "allocated too")] {
        s.model().write(block(id.0, data));
        s.holds(id.0, data);
    }
    assert!(s.model().delete(2));
}

pub(in crate::testkit) fn last_operation_of_a_batch_wins(s: &mut Subject<'_>) {
    s.put(1, "old");
    s.put(2, "old");
    let mut batch = WriteBatch::new();
    batch.write(block(7, "made here")).delete(BlockId(7));
    batch.write(block(1, "not for long")).delete(BlockId(1));
    batch.delete(BlockId(2)).write(block(2, "first")).write(block(2, "last"));
    let Some(ids) = s.offered(s.store().apply(batch), "apply") else { return };
    assert_eq!(ids, [7, 1, 2, 2].map(BlockId), "the ids of all writes, in order");
    assert!(s.model().delete(1));
    s.model().write(block(2, "last"));
    s.lacks(7);
    s.lacks(1);
    s.holds(2, "last");
}

pub(in crate::testkit) fn batch_is_refused_whole(s: &mut Subject<'_>) {
    s.put(1, "old");
    let mut batch = WriteBatch::new();
    batch.write(block(1, "lost")).write(block(2, "lost")).delete(BlockId(9));
    let answer = s.store().apply(batch);
    if matches!(answer, Err(Error::Unsupported { .. })) {
        return drop(s.offered(answer, "apply"));
    }
    refused!(answer, Error::BlockNotFound { id: BlockId(9) });
    s.holds(1, "old");
    s.lacks(2);
    let mut lying = block(3, "payload");
    lying.header.checksum ^= 1;
    let mut batch = WriteBatch::new();
    batch.write(block(1, "lost")).write(lying);
    refused!(s.store().apply(batch), Error::InvalidArgument { .. });
    s.holds(1, "old");
    assert_eq!(s.stats().open_transactions, 0, "a refused batch leaves nothing open");
}

pub(in crate::testkit) fn many_blocks_are_read_in_the_order_of_their_ids(s: &mut Subject<'_>) {
    for id in 1..=40 {
        s.put(id, format!("block {id}"));
    }
    let asked: Vec<BlockId> = (0..100).map(|n| BlockId(1 + n * 17 % 40)).collect();
    let Some(found) = s.offered(s.store().read_blocks(&asked), "read_blocks") else { return };
    assert_eq!(found.len(), asked.len(), "one answer for each id");
    for (id, found) in asked.iter().zip(found) {
        expect_block(Ok(found), *id, s.model().read(id.0), "read_blocks");
    }
    assert!(ok(s.store().read_blocks(&[]), "read_blocks of nothing").is_empty());
    let absent = [BlockId(1), BlockId(50), BlockId(2), BlockId(60)];
    refused!(s.store().read_blocks(&absent), Error::BlockNotFound { id: BlockId(50) });
}
