//! Spreading: work of one call that all processors share.
//!
//! Owns the pool for it, one of the process, started when it is first wanted. It is rayon's, and none of the
//! program's own: who waits there for the rest of his work takes up other work of the pool meanwhile, and our
//! callers hold the log, or a store that is being opened. The program's work may want just that, and waits
//! for ever for the thread that it runs on. So nothing of the program's runs in this pool, and a caller that is a
//! thread of any pool works alone. So does every caller in a process that was forked from the one that started
//! the pool: its threads are not there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::sync::Process;

/// Where the caller can have work done beside his own; `None` where he has to do it alone.
pub(crate) fn shared_pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    /// The process that starts the pool, noted before: in its children the pool is never looked at.
    static STARTER: AtomicU64 = AtomicU64::new(0);
    let own = Process::current().number();
    let first = STARTER.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed);
    if first.is_err_and(|starter| starter != own) {
        return None;
    }
    if rayon::current_thread_index().is_some() {
        return None;
    }
    let start = || {
        let name = |number| format!("aegis-spread-{number}");
        // Without threads work takes longer, and is done.
        ThreadPoolBuilder::new().thread_name(name).build().ok()
    };
    POOL.get_or_init(start).as_ref()
}
