//! Children: what is run in one, and how it ended.

#![expect(unsafe_code, reason = "a fork and an exit without destructors are unsafe by nature")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use aegis_blocks::{
    BlockId, Durability, Error, LocalBackend, Result, StorageBackend, StorageExt, StorageStats,
    TransactionId, WriteBatch,
};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::block::block;

/// A child by the C library's `fork`.
pub fn forked(body: impl FnOnce()) -> Pid {
    // SAFETY: the child runs `body`, which is what is tested, and exits without destructors.
    match unsafe { fork() }.expect("forks") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => run(body),
    }
}

/// A child by the system call alone, of which no handler in the C library hears.
pub fn forked_raw(body: impl FnOnce()) -> Pid {
    // SAFETY: as above.
    match unsafe { nix::libc::syscall(nix::libc::SYS_fork) } {
        0 => run(body),
        child => Pid::from_raw(i32::try_from(child).expect("a process id")),
    }
}

fn run(body: impl FnOnce()) -> ! {
    nix::unistd::alarm::set(30);
    let ended = catch_unwind(AssertUnwindSafe(body));
    exit(i32::from(ended.is_err()))
}

/// Ends a child without destructors.
pub fn exit(code: i32) -> ! {
    // SAFETY: it does not return, and runs nothing of this program.
    unsafe { nix::libc::_exit(code) }
}

/// Forks in the middle of something. Returns in both processes: true in the child.
pub fn fork_here() -> bool {
    // SAFETY: the child goes on, which is what is tested.
    let forked = unsafe { fork() }.expect("forks");
    if matches!(forked, ForkResult::Child) {
        nix::unistd::alarm::set(30);
    }
    matches!(forked, ForkResult::Child)
}

/// Waits for a child that is to end well.
pub fn ends_well(child: Pid) {
    let status = waitpid(child, None).expect("a child");
    assert_eq!(status, WaitStatus::Exited(child, 0), "the child failed or hung");
}

/// Waits for any child that is to be ended by `abort`.
pub fn is_aborted() {
    let status = waitpid(None, None).expect("a child");
    assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGABRT, _)), "{status:?}");
}

pub fn refused<R>(answer: Result<R>) {
    let answer = answer.map(|_| "not refused");
    assert!(matches!(answer, Err(Error::Forked)), "{answer:?}");
}

/// Every call of a backend, in a child.
pub fn is_refused(store: &(impl StorageBackend + Clone + 'static)) {
    let tx = TransactionId(1);
    refused(store.write_block(block(1, "child")));
    refused(store.write_block_with(block(1, "child"), Durability::Durable));
    refused(store.read_block(BlockId(1)));
    refused(store.read_blocks(&[BlockId(1)]));
    refused(store.delete_block(BlockId(1)));
    refused(store.delete_block_with(BlockId(1), Durability::Buffered));
    refused(store.block_exists(BlockId(1)));
    refused(store.begin_transaction());
    refused(store.begin_transaction_within(Default::default(), Duration::MAX));
    refused(store.write_block_in_tx(tx, block(1, "child")));
    refused(store.read_block_in_tx(tx, BlockId(1)));
    refused(store.delete_block_in_tx(tx, BlockId(1)));
    refused(store.block_exists_in_tx(tx, BlockId(1)));
    refused(store.ids_in_tx(tx, BlockId(1), BlockId(2)));
    refused(store.savepoint_in_tx(tx));
    refused(store.commit_transaction(tx));
    refused(store.submit_transaction(tx, None));
    refused(store.rollback_transaction(tx));
    refused(store.apply(WriteBatch::new()));
    refused(store.apply_with(WriteBatch::new(), Durability::Durable));
    refused(store.sync());
    refused(store.sync_to(aegis_blocks::Lsn(1)));
    refused(store.begin());
    refused(store.begin_timeout(Duration::MAX));
    refused(store.snapshot());
    refused(store.blocks(..));
    refused(store.transact(Default::default(), |_| Ok(())));
    assert_eq!(store.stats(), StorageStats::default());
    assert!(store.oldest_snapshot().is_none());
}

/// Every call of a store on disk, in a child, which then drops the handle.
pub fn local_is_refused(store: LocalBackend, dir: &std::path::Path) {
    is_refused(&store);
    refused(store.ids(..).map(|_| ()));
    refused(store.prepare_space(1));
    refused(store.checkpoint());
    refused(store.compact_now());
    refused(store.pause_compaction());
    refused(store.resume_compaction());
    refused(store.space());
    refused(store.backup_to(dir.join("never"), None, &|_| std::ops::ControlFlow::Continue(())));
    assert!(!dir.join("never").exists());
    assert!(format!("{store:?}").contains("store"));
    assert_eq!(store.recovery(), store.clone().recovery());
    let again = LocalBackend::open(dir.join("store"));
    assert!(matches!(again, Err(Error::Locked { .. })), "{again:?}");
    refused(store.clone().close());
    drop(store);
}
