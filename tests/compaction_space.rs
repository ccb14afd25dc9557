//! Compaction of a full disk: it gives back what it can, or names the bytes that are missing.

#[path = "support/compacting.rs"]
mod compacting;
#[path = "support/fill.rs"]
mod fill;
#[path = "support/log_len.rs"]
mod log_len;

use aegis_blocks::io::sim::{CrashChoice, SimDisk};
use aegis_blocks::{BlockId, Error, LocalBackend, StorageBackend};

use compacting::{SEGMENT_LEN, options};
use fill::filling;
use log_len::log_len;

/// What could be given back is, or the error names the bytes that are missing; with those it goes
/// on.
#[test]
fn compaction_of_a_full_disk_gives_back_or_names_what_is_missing() {
    let mut missing_count = 0;
    for keep_every in 2..=9 {
        let disk = SimDisk::new(keep_every);
        let large = options().segment_len_max(1 << 20);
        let store = LocalBackend::open_on(disk.clone(), large).expect("opens");
        store.pause_compaction().expect("pauses");
        let fill = |id| filling(id, 30_000);
        disk.set_capacity(Some(12 << 20));
        let count = (1..).take_while(|id| store.write_block(fill(*id)).is_ok()).count() as u64;
        assert!(count > 300, "{count} blocks");
        let gone = (1..=count).filter(|id| id % keep_every > 0);
        let gone = gone.take_while(|id| store.delete_block(BlockId(*id)).is_ok()).count();
        let context = format!("one of {keep_every}, {gone} of {count} blocks deleted");
        let mut capacity = 12 << 20;
        let report = loop {
            let used_len = log_len(&disk);
            match store.compact_now() {
                Ok(report) => break report,
                Err(Error::StorageFull { needed, .. }) => {
                    assert!(needed > 0 && needed <= 2 << 20, "{context}: {needed}");
                    // A roll and a mark, at most, beside what is moved.
                    let more_len = log_len(&disk).saturating_sub(used_len);
                    assert!(more_len <= SEGMENT_LEN, "{context}: {more_len} bytes more");
                    missing_count += 1;
                    capacity += needed;
                    disk.set_capacity(Some(capacity));
                    assert!(capacity < 16 << 20, "{context}: what it asked for is not enough");
                }
                Err(error) => panic!("{context}: {error:?}"),
            }
        };
        println!("{context}: {report:?}, capacity {capacity}");
        let most_len = report.live_bytes * 6 / 5 + (2 << 20);
        assert!(report.log_bytes <= most_len, "{context}: {report:?}");
        store.write_block(fill(1)).unwrap_or_else(|e| panic!("{context}: {e}"));
        let left = LocalBackend::open_on(disk.crash(CrashChoice::Everything), options());
        let left = left.unwrap_or_else(|e| panic!("{context}: {e}"));
        for id in (keep_every..=count).step_by(keep_every as usize) {
            assert!(left.read_block(BlockId(id)).expect("is there").data == fill(id).data);
        }
    }
    println!("{missing_count} times some bytes were missing");
}
