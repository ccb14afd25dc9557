//! The thread pool: work of one call that all processors share.
//!
//! Owns the pool, one of the process, started when it is first wanted. It is rayon's, and none of
//! the program's own. A thread that waits in a rayon pool takes up other work of that pool
//! meanwhile, and our callers hold the log, or a store that is being opened. In the program's pool
//! that work could want the same lock, and wait for ever for the thread that it runs on. So nothing
//! of the program's runs in this pool, and a caller that is a thread of any pool works alone. So
//! does every caller in a process that was forked from the one that started the pool: its threads
//! are not there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::sync::Process;

/// The pool that shares the caller's work; `None` where the caller must do it alone.
pub(crate) fn shared_pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    /// The process that starts the pool, noted before. In its children the pool is never touched.
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
        // Without threads the work takes longer, and is done.
        ThreadPoolBuilder::new().thread_name(name).build().ok()
    };
    POOL.get_or_init(start).as_ref()
}
