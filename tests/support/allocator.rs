//! An allocator that keeps an account of every thread, for programs that measure memory.

#![expect(unsafe_code, reason = "an allocator is unsafe by nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Live bytes, their peak, and the largest allocation, of one thread.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    pub live: isize,
    pub peak: isize,
    pub largest: usize,
}

thread_local! {
    static ACCOUNT: Cell<Account> = const { Cell::new(Account { live: 0, peak: 0, largest: 0 }) };
}

/// The account of the calling thread.
pub fn account() -> Account {
    ACCOUNT.get()
}

/// Begins a new measurement in the calling thread: the peak is what is live, nothing is largest.
/// Returns the account that it begins with.
pub fn begin() -> Account {
    let now = ACCOUNT.get();
    let begun = Account { peak: now.live, largest: 0, ..now };
    ACCOUNT.set(begun);
    begun
}

fn charge(taken: usize, given_back: usize) {
    let charged = ACCOUNT.try_with(|account| {
        let mut now = account.get();
        now.live += taken as isize - given_back as isize;
        now.peak = now.peak.max(now.live);
        now.largest = now.largest.max(taken);
        account.set(now);
    });
    debug_assert!(charged.is_ok(), "an account has no destructor");
}

struct Accountant;

// SAFETY: every call is handed on to the system's allocator as it is; the account does not
// allocate.
unsafe impl GlobalAlloc for Accountant {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size(), 0);
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        charge(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        charge(new_len, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, new_len) }
    }
}

#[global_allocator]
static ACCOUNTANT: Accountant = Accountant;
