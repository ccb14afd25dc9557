//! Recovery after a commit of any length: with bounded memory, and with no more space than the
//! reserve keeps for it.

#[path = "support/options.rs"]
mod options;

use aegis_blocks::io::FileName;
use aegis_blocks::io::sim::{CrashChoice, FaultKind, OperationKind, SimDisk, SyncFailure};
use aegis_blocks::{
    Block, BlockId, BlockType, Durability, Error, LocalBackend, Options, StorageBackend, WriteBatch,
};

use options::short_segments;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Short segments, so that a long commit takes many.
fn short() -> Options {
    short_segments(256 * KIB, 64 * KIB).zero_ahead_len(0).single_threaded(true)
}

fn open(disk: &SimDisk, options: Options) -> LocalBackend<SimDisk> {
    LocalBackend::open_on(disk.clone(), options).expect("the store opens")
}

fn block(id: u64, len: u64) -> Block {
    let byte = (id % 251) as u8;
    Block::new(BlockId(id), BlockType::TableData, vec![byte; len as usize])
}

/// One commit of so many blocks.
fn batch(ids: std::ops::RangeInclusive<u64>, len: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    ids.for_each(|id| {
        batch.write(block(id, len));
    });
    batch
}

fn holds<D: aegis_blocks::io::Disk>(
    store: &LocalBackend<D>,
    ids: std::ops::RangeInclusive<u64>,
    len: u64,
) {
    for id in ids {
        assert!(store.read_block(BlockId(id)).expect("a block") == block(id, len), "block {id}");
    }
}

/// What a kill leaves: all that was written, synced or not.
fn kill(store: LocalBackend<SimDisk>, disk: &SimDisk) -> SimDisk {
    let left = disk.freeze();
    disk.crash_at(0, false);
    drop(store);
    left
}

fn used_len(disk: &SimDisk) -> u64 {
    disk.files().iter().map(|(_, len)| len.div_ceil(4096) * 4096).sum()
}

fn len_of(disk: &SimDisk, wanted: FileName) -> u64 {
    disk.files().iter().find(|(name, _)| *name == wanted).map_or(0, |(_, len)| *len)
}

#[test]
fn commit_longer_than_what_is_free_is_recovered_on_a_full_disk() {
    for hides_the_disk in [false, true] {
        let disk = SimDisk::new(1);
        disk.set_hides_the_disk(hides_the_disk);
        let store = open(&disk, short());
        store.apply(batch(1..=100, 40_000)).expect("a long commit");
        let mut disk = kill(store, &disk);
        for round in 0..3 {
            disk.set_capacity(Some(used_len(&disk)));
            let store = open(&disk, short());
            let recovery = *store.recovery();
            assert!(!recovery.clean && recovery.torn_bytes == 0, "{recovery:?}");
            assert_eq!(recovery.resynced_frames > 1, round == 0, "{recovery:?}");
            holds(&store, 1 + round..=100, 40_000);
            let refused = store.apply(batch(200..=300, 40_000)).expect_err("there is no space");
            assert!(matches!(refused, Error::StorageFull { .. }), "{refused:?}");
            store.delete_block(BlockId(1 + round)).expect("a delete on a full disk");
            let violations = disk.violations();
            assert!(violations.is_empty(), "{violations:?}");
            disk = kill(store, &disk);
        }
    }
}

#[test]
fn commit_of_more_blocks_than_are_held_is_recovered_witnessed_or_not() {
    let count = 60_000;
    for is_witnessed in [false, true] {
        let disk = SimDisk::new(2);
        let store = open(&disk, short());
        store.apply(batch(1..=count, 5)).expect("a commit of many blocks");
        if is_witnessed {
            store.write_block(block(count + 1, 5)).expect("a commit that vouches for it");
        }
        let killed = kill(store, &disk);
        let last = count + u64::from(is_witnessed);
        for writes in [false, true] {
            let store = open(&killed, short().read_only(!writes));
            let recovery = *store.recovery();
            assert!(recovery.frames > 4, "{recovery:?}");
            let unwitnessed = if is_witnessed { 1 } else { recovery.frames };
            assert_eq!(recovery.resynced_frames, if writes { unwitnessed } else { 0 });
            assert_eq!(store.stats().total_blocks, last);
            holds(&store, 1..=last, 5);
        }
        // What was answered is durable.
        let store = open(&killed.crash(CrashChoice::Nothing), short());
        assert_eq!((store.stats().total_blocks, store.recovery().resynced_frames), (last, 0));
        holds(&store, 1..=last, 5);
    }
}

#[test]
fn commit_that_takes_most_of_a_quota_is_recovered_within_it() {
    let options = || short().max_bytes(MIB).segment_len_max(64 * KIB).block_len_max(16 << 10);
    let disk = SimDisk::new(3);
    let store = open(&disk, options());
    let count = (1..200)
        .rev()
        .find(|count| store.apply(batch(1..=*count, 10_000)).is_ok())
        .expect("some commit is within the quota");
    assert!(count > 40, "{count} blocks of 10 kB are all that 1 MiB takes");
    let mut disk = kill(store, &disk);
    for round in 0..4 {
        let store = open(&disk, options());
        holds(&store, 1 + round..=count, 10_000);
        store.delete_block(BlockId(1 + round)).expect("a delete within the quota");
        // The quota is not enforced on what opening makes: a few pages, whatever was committed.
        assert!(used_len(&disk) <= MIB + (round + 1) * 16 * KIB, "{}", used_len(&disk));
        disk = kill(store, &disk);
    }
    let store = open(&disk, options());
    (5..=count / 2).for_each(|id| store.delete_block(BlockId(id)).expect("a delete"));
    store.compact_now().expect("gives space back");
    assert!(used_len(&disk) <= MIB, "{} bytes are taken", used_len(&disk));
    store.write_block(block(1, 10_000)).expect("there is space again");
}

/// Every state that a power cut in recovery may leave is recovered: all blocks, or those that were
/// durable.
fn cut_recovery(left: &SimDisk, durable: u64, last: u64, garbage: bool) {
    left.record_images();
    let store = open(left, short());
    let images = left.take_images();
    assert!(images.len() > 6, "{} changes were made", images.len());
    let answered = open(&left.crash(CrashChoice::Nothing), short());
    assert_eq!((store.stats().total_blocks, answered.stats().total_blocks), (last, last));
    drop(store);
    for image in images {
        let random = |seed| CrashChoice::Random { seed, garbage: garbage && seed % 2 == 1 };
        let choices = [CrashChoice::Nothing, CrashChoice::Everything].into_iter();
        for choice in choices.chain((0..6).map(random)) {
            let disk = image.disk.crash(choice.clone());
            let store = open(&disk, short());
            let found = store.stats().total_blocks;
            let told = format!("{found} at operation {}, {choice:?}", image.operation);
            assert!(found == last || found == durable, "{told}");
            holds(&store, 1..=found, 30_000);
            store.write_block(block(1000, 1)).expect("the store goes on");
            let again = open(&disk.crash(CrashChoice::Nothing), short());
            assert_eq!(again.stats().total_blocks, found + 1, "{told}");
        }
    }
}

#[test]
fn recovery_of_a_long_commit_is_interrupted_anywhere_and_done_again() {
    for durability in [Durability::Durable, Durability::Buffered] {
        for hides_the_disk in [false, true] {
            let disk = SimDisk::new(4);
            disk.set_hides_the_disk(hides_the_disk);
            let store = open(&disk, short());
            store.write_block(block(1, 30_000)).expect("a short commit");
            let long = batch(2..=25, 30_000);
            store.apply_with(long, durability).expect("a commit of several segments");
            let durable = if durability == Durability::Durable { 25 } else { 1 };
            // What recovery cannot see on the disk is written over itself, which most disks do
            // without tearing it.
            cut_recovery(&kill(store, &disk), durable, 25, !hides_the_disk);
        }
    }
}

#[test]
fn bytes_that_no_sync_brings_to_the_disk_are_not_built_upon() {
    for hides_the_disk in [false, true] {
        let disk = SimDisk::new(5);
        disk.set_hides_the_disk(hides_the_disk);
        disk.set_sync_failure(SyncFailure::CacheKept);
        let store = open(&disk, short());
        store.write_block(block(1, 100)).expect("a write");
        disk.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eio, false);
        store.write_block(block(2, 100)).expect_err("its sync fails");
        drop(store);
        let looked = open(&disk, short().read_only(true)).stats().total_blocks;
        let store = open(&disk, short());
        let found = store.stats().total_blocks;
        // Where the disk is seen they are left out, elsewhere they are written once more.
        assert_eq!((looked, found), if hides_the_disk { (2, 2) } else { (1, 1) });
        store.write_block(block(3, 100)).expect("a write");
        let left = disk.crash(CrashChoice::Nothing);
        drop(store);
        let store = open(&left, short());
        assert_eq!(store.stats().total_blocks, found + 1);
        holds(&store, 1..=found, 100);
    }
}

/// A power cut may bring doubtful bytes to the disk that recovery did not find there.
#[test]
fn commit_that_was_left_out_stays_away_through_power_cuts() {
    let disk = SimDisk::new(8);
    let store = open(&disk, short());
    store.write_block(block(1, 100)).expect("a write");
    disk.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eio, false);
    store.write_block(block(2, 100)).expect_err("its sync fails");
    drop(store);
    let count = |disk: &SimDisk| open(disk, short()).stats().total_blocks;
    let store = open(&disk, short());
    assert_eq!(store.stats().total_blocks, 1, "it was left out");
    let mut states = 0;
    for first in disk.crash_choices(8) {
        let left = disk.crash(first.clone());
        left.record_images();
        assert_eq!(count(&left), 1, "{first:?}");
        for image in left.take_images() {
            for second in [CrashChoice::Nothing, CrashChoice::Everything] {
                states += 1;
                let found = count(&image.disk.crash(second.clone()));
                assert_eq!(found, 1, "{first:?}, {second:?} at operation {}", image.operation);
            }
        }
    }
    assert!(states > 100, "{states} states");
}

#[test]
fn part_of_a_commit_that_is_on_the_disk_is_none_of_it() {
    let disk = SimDisk::new(6);
    let store = open(&disk, short());
    store.write_block(block(1, 30_000)).expect("a short commit");
    disk.record_images();
    store.apply(batch(2..=60, 30_000)).expect("a commit of several segments");
    drop(store);
    let mut partly = 0;
    for image in disk.take_images() {
        let left = image.disk.crash(CrashChoice::Everything);
        let store = open(&left, short());
        let (found, torn_len) = (store.stats().total_blocks, store.recovery().torn_bytes);
        assert!(found == 1 || found == 60, "{found} blocks at operation {}", image.operation);
        partly += u64::from(found == 1 && torn_len > 256 * KIB);
        let again = open(&left.crash(CrashChoice::Nothing), short());
        assert_eq!(again.stats().total_blocks, found);
    }
    assert!(partly > 0, "no image held a part of the commit");
}

#[test]
fn deletes_leave_of_the_reserve_what_recovery_takes() {
    let disk = SimDisk::new(7);
    let options = || short().segment_len_max(64 * KIB).block_len_max(16 << 10);
    let store = open(&disk, options());
    let count = 60;
    store.apply(batch(1..=count, 10_000)).expect("a long commit");
    // It may read all of that, so none of it goes.
    let reader = store.begin_transaction().expect("a transaction");
    disk.set_capacity(Some(used_len(&disk)));
    let mut refused = None;
    for id in (1..=count).cycle().take(10_000) {
        let done = match store.block_exists(BlockId(id)).expect("an answer") {
            true => store.delete_block(BlockId(id)),
            false => store.write_block(block(id, 0)).map(drop),
        };
        match done {
            Err(error) if store.block_exists(BlockId(id)).expect("an answer") => {
                refused = Some(error);
                break;
            }
            _ => {}
        }
    }
    assert!(matches!(refused, Some(Error::StorageFull { .. }) | None), "{refused:?}");
    let kept = len_of(&disk, FileName::Reserve);
    assert!(store.stats().reserve_drawn_bytes > 0, "nothing was drawn");
    assert!(kept >= 64 * KIB, "{kept} bytes are left for recovery");
    let present: Vec<_> = store.ids(..).expect("a walk");
    assert_eq!(store.read_block_in_tx(reader, BlockId(1)).expect("held"), block(1, 10_000));
    let killed = kill(store, &disk);
    killed.set_capacity(Some(used_len(&killed)));
    let store = open(&killed, options());
    assert_eq!(store.ids(..).expect("a walk"), present);
    // Nothing holds the old versions any more.
    for id in present {
        store.delete_block(id).expect("a delete on a full disk");
    }
}

/// Bytes of the commit below; the figures of `docs/performance.md` are those of 1024.
const COMMIT_MIB: u64 = 400;
const COMMIT_BLOCK_LEN: u64 = 128 * KIB;
const ROLE: &str = "AEGIS_RECOVERY_ROLE";
const STORE: &str = "AEGIS_RECOVERY_STORE";

fn commit_count() -> u64 {
    let length = std::env::var("AEGIS_COMMIT_MIB");
    length.map_or(COMMIT_MIB, |mib| mib.parse().expect("a number of MiB")) * MIB / COMMIT_BLOCK_LEN
}

/// This binary again, in another process, as the child of the test below.
#[cfg(target_os = "linux")]
fn child(role: &str, store: &std::path::Path) -> (std::process::ExitStatus, String) {
    let output = std::process::Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "child_started_by_a_test", "--nocapture"])
        .envs([(ROLE, role.as_ref()), (STORE, store.as_os_str())])
        .output()
        .expect("the child starts");
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status, told.into_owned())
}

/// Does nothing unless a test has started it.
#[cfg(target_os = "linux")]
#[test]
fn child_started_by_a_test() {
    use nix::sys::resource::{Resource, setrlimit};
    use nix::sys::signal::{Signal, raise};

    let Ok(role) = std::env::var(ROLE) else { return };
    let path = std::env::var_os(STORE).expect("a store");
    if role == "writer" {
        let options = LocalBackend::options().transaction_len_max(u64::MAX);
        let store = options.open(&path).expect("a new store");
        let data = bytes::Bytes::from(vec![7; COMMIT_BLOCK_LEN as usize]);
        let mut batch = WriteBatch::new();
        for id in 1..=commit_count() {
            batch.write(Block::new(BlockId(id), BlockType::TableData, data.clone()));
        }
        store.apply(batch).expect("a long commit");
        raise(Signal::SIGKILL).expect("no return");
    }
    let address_space_max = 300_000 * KIB;
    setrlimit(Resource::RLIMIT_AS, address_space_max, address_space_max).expect("a lower limit");
    let store = LocalBackend::options().memory_len_max(64 * MIB).open(&path);
    let store = store.expect("the store opens");
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    let peak = peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * KIB;
    println!("{:?}", store.recovery());
    println!("{} blocks, {} KiB resident at most", store.stats().total_blocks, peak / KIB);
    assert!(!store.recovery().clean && store.recovery().resynced_frames > 0, "it was killed");
    assert_eq!(store.stats().total_blocks, commit_count());
    assert!(peak <= 128 * MIB, "{peak} bytes were resident");
    assert_eq!(store.read_block(BlockId(1)).expect("a block").data, vec![7; 128 << 10]);
}

#[cfg(target_os = "linux")]
#[test]
fn killed_commit_is_opened_with_less_memory_than_it_is_long() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let (status, told) = child("writer", &path);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{told}");
    let report = LocalBackend::verify(&path).expect("is looked at");
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    let (status, told) = child("reader", &path);
    assert!(status.success() && told.contains("resident at most"), "{told}");
    print!("{told}");
}
