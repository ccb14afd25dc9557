//! The process that a store belongs to, and detection of a forked child.
//!
//! Owns one word of memory that the kernel clears in each child (`MADV_WIPEONFORK`). A fork, a raw
//! `clone` included, is thereby seen without a system call. A process writes a number into it that
//! no ancestor had. [`Process`] is that number, noted where something is made. Where the kernel has
//! no such memory, the process id is the number, and each look is a system call. A child of `vfork`
//! shares all memory with its parent and is not told from it: it may only exec or exit.
//!
//! Rule: a struct that holds locks, threads, maps or descriptors of a store notes its [`Process`].
//! Every call looks at it **before** the first lock, since a lock that another thread held at the
//! fork is never released in the child. Every drop checks it, too, and in a child forgets its
//! resources: [`ProcessBound`].
//!
//! Rule: what the stores of a process share (a `static`) is atomic. A lock or a `OnceLock` that
//! another thread had at the fork stays so in the child, which may open a store of its own. The
//! thread pool's is guarded by its process. `tests/security.rs` looks at every `static`.
//!
//! Also owns the list of descriptors that must not live on in a child, those of the stores' locks.
//! A lock belongs to an opening of a file, which a child shares: it would stay locked when the
//! parent is killed. A handler of `fork` closes them in the child; a raw `clone` runs no handler.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};

use crate::error::{Error, ForkedProcess, Result};
use crate::unheard::unheard;

/// The process in which something was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    /// Cleared by the kernel in a child; `None` where it cannot.
    word: Option<&'static AtomicU64>,
    /// The value in the word of that process, or its id.
    number: u64,
}

impl Process {
    /// The process that calls.
    pub(crate) fn current() -> Process {
        /// Counts on in a child, so that it takes a number which no ancestor had.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let Some(word) = cleared_word() else {
            return Process { word: None, number: u64::from(std::process::id()) };
        };
        let mut number = word.load(Ordering::Relaxed);
        if number == 0 {
            let own = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            let written = word.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed);
            number = written.map_or_else(|others| others, |_zero| own);
        }
        Process { word: Some(word), number }
    }

    /// Number that no ancestor and no descendant has; never 0.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the caller is still in that process. Takes no lock.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        match self.word {
            Some(word) => word.load(Ordering::Relaxed) == self.number,
            None => u64::from(std::process::id()) == self.number,
        }
    }

    /// Refuses a call in any other process.
    ///
    /// # Errors
    /// [`Error::Forked`].
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_current() { Ok(()) } else { Err(Error::Forked) }
    }

    /// As [`Process::check`], for calls of the operating system.
    ///
    /// # Errors
    /// An error that [`Error::io`] turns into [`Error::Forked`].
    #[inline]
    pub(crate) fn check_io(&self) -> std::io::Result<()> {
        if self.is_current() { Ok(()) } else { Err(std::io::Error::other(ForkedProcess)) }
    }

    /// Ends a child that was forked in a callback and returned from it. The frames below belong to
    /// the parent's store: they hold its locks and would write to its files.
    pub(crate) fn end_if_forked(&self) {
        if !self.is_current() {
            let message =
                b"a child that was forked in a callback of a block store returned from it\n";
            // Not by `eprintln`: another thread may have held its lock at the fork.
            let written = nix::unistd::write(std::io::stderr(), message);
            unheard(written, "the process ends, and there is no other place to say so");
            std::process::abort();
        }
    }
}

/// Something that is dropped in the process that made it, and forgotten in any other.
#[derive(Debug)]
pub(crate) struct ProcessBound<T> {
    process: Process,
    value: ManuallyDrop<T>,
}

impl<T> ProcessBound<T> {
    pub(crate) fn new(value: T) -> ProcessBound<T> {
        ProcessBound { process: Process::current(), value: ManuallyDrop::new(value) }
    }

    /// The process that made it.
    #[inline]
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }
}

impl<T> Deref for ProcessBound<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for ProcessBound<T> {
    #[expect(unsafe_code, reason = "whether a field is dropped is decided here")]
    fn drop(&mut self) {
        if self.process.is_current() {
            // SAFETY: the value is dropped nowhere else, and not used after this: `self` is being
            // dropped.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}

/// The word that a child finds cleared; `None` where the kernel has no such memory.
fn cleared_word() -> Option<&'static AtomicU64> {
    /// Set once, and never to anything but a page that stays mapped.
    static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
    static IS_REFUSED: AtomicBool = AtomicBool::new(false);
    let mut word = WORD.load(Ordering::Acquire);
    if word.is_null() {
        if IS_REFUSED.load(Ordering::Relaxed) {
            return None;
        }
        let Some(page) = map_cleared_page() else {
            IS_REFUSED.store(true, Ordering::Relaxed);
            return None;
        };
        let null = std::ptr::null_mut();
        let first = WORD.compare_exchange(null, page, Ordering::AcqRel, Ordering::Acquire);
        // The page of a thread that came second stays mapped and unused.
        word = first.map_or_else(|others| others, |_null| page);
    }
    #[expect(unsafe_code, reason = "the word lies in a page of its own")]
    // SAFETY: it points to the first word of a page that is never unmapped, aligned and zero at
    // first, and used as an `AtomicU64` only.
    unsafe {
        word.as_ref()
    }
}

/// Maps a page that the kernel clears in each child.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "memory of a special kind comes from the operating system alone")]
fn map_cleared_page() -> Option<*mut AtomicU64> {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let len = super::super::PAGE_LEN;
    // SAFETY: a new mapping at a place of the kernel's choice touches no other memory, and the
    // advice is for that mapping alone.
    let (page, refused) = unsafe {
        let page = libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0);
        (page, page == libc::MAP_FAILED || libc::madvise(page, len, libc::MADV_WIPEONFORK) != 0)
    };
    // Before Linux 4.14 the advice is refused. The page stays mapped and unused.
    (!refused).then(|| page.cast())
}

#[cfg(not(target_os = "linux"))]
fn map_cleared_page() -> Option<*mut AtomicU64> {
    None
}

/// A place of the list of descriptors that a child closes. Places are used again and never freed,
/// so that the handler of a fork can walk them without a lock. The child itself walks them, too,
/// when it opens a store: a `OnceLock` that a thread of the parent was filling would never be
/// ready there.
#[derive(Debug)]
struct DescriptorSlot {
    descriptor: AtomicI32,
    /// Null, or a place that was leaked.
    next: AtomicPtr<DescriptorSlot>,
}

const NO_DESCRIPTOR: RawFd = -1;

static DESCRIPTOR_SLOTS: DescriptorSlot = DescriptorSlot::new_unused();

/// A descriptor that is closed in each child.
#[derive(Debug)]
pub(super) struct ClosedInChild(&'static DescriptorSlot);

impl ClosedInChild {
    /// Has the descriptor closed in each child that is forked while this is not dropped.
    pub(super) fn new(descriptor: RawFd) -> ClosedInChild {
        assert!(descriptor >= 0, "an open descriptor");
        handle_forks();
        let mut place = &DESCRIPTOR_SLOTS;
        while place
            .descriptor
            .compare_exchange(NO_DESCRIPTOR, descriptor, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            match place.next() {
                Some(next) => place = next,
                None => place.append_unused(),
            }
        }
        ClosedInChild(place)
    }
}

impl Drop for ClosedInChild {
    /// To be dropped before the descriptor is closed here: its number may be another file's after
    /// that.
    fn drop(&mut self) {
        self.0.descriptor.store(NO_DESCRIPTOR, Ordering::Release);
    }
}

impl DescriptorSlot {
    const fn new_unused() -> DescriptorSlot {
        let next = AtomicPtr::new(std::ptr::null_mut());
        DescriptorSlot { descriptor: AtomicI32::new(NO_DESCRIPTOR), next }
    }

    fn next(&self) -> Option<&'static DescriptorSlot> {
        #[expect(unsafe_code, reason = "the list is read in a fork, where a lock may be held")]
        // SAFETY: it is null or points to a place that `append` leaked, and only shared references
        // to places are made.
        unsafe {
            self.next.load(Ordering::Acquire).as_ref()
        }
    }

    /// Adds a place behind this one, unless another thread just did.
    fn append_unused(&self) {
        let new = Box::leak(Box::new(DescriptorSlot::new_unused()));
        let null = std::ptr::null_mut();
        let added = self.next.compare_exchange(null, new, Ordering::AcqRel, Ordering::Acquire);
        unheard(added, "another thread's place will do, and this one stays unused");
    }
}

/// Has [`close_in_child`] called in each child.
#[expect(unsafe_code, reason = "a handler of forks is registered with the C library")]
fn handle_forks() {
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    if !IS_REGISTERED.swap(true, Ordering::AcqRel) {
        // SAFETY: the handler takes no lock and allocates nothing; its code is there as long as the
        // process. Without memory for it a child keeps the descriptors, as one of a raw `clone`
        // does.
        unsafe { libc::pthread_atfork(None, None, Some(close_in_child)) };
    }
}

/// Runs in a child before `fork` returns in it. The file that owns the descriptor is bound to the
/// parent's process. The child neither uses nor closes it, even when it drops it.
extern "C" fn close_in_child() {
    let mut place = Some(&DESCRIPTOR_SLOTS);
    while let Some(here) = place {
        let descriptor = here.descriptor.swap(NO_DESCRIPTOR, Ordering::AcqRel);
        if descriptor != NO_DESCRIPTOR {
            unheard(nix::unistd::close(descriptor), "a child has no use for it either way");
        }
        place = here.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_current_where_it_was_noted() {
        let (first, second) = (Process::current(), Process::current());
        assert_eq!(first.number, second.number);
        assert!(first.number != 0 && first.is_current());
        first.end_if_forked();
    }

    /// Without a fork, does as a child would: its word is zero, and later a number of its own.
    #[test]
    fn another_number_in_the_word_is_another_process() {
        static WORD: AtomicU64 = AtomicU64::new(5);
        let parent = Process { word: Some(&WORD), number: 5 };
        parent.check().expect("the process itself");
        for other in [0, 6] {
            WORD.store(other, Ordering::Relaxed);
            assert!(matches!(parent.check(), Err(Error::Forked)));
            let refused =
                parent.check_io().map_err(|e| Error::io(crate::error::IoOp::Read, "x", e));
            assert!(matches!(refused, Err(Error::Forked)), "{refused:?}");
        }
        let by_id = Process { word: None, number: u64::from(std::process::id()) };
        assert!(by_id.is_current());
        assert!(!Process { number: by_id.number + 1, ..by_id }.is_current());
    }

    #[test]
    fn value_of_another_process_is_forgotten() {
        struct Told<'a>(&'a AtomicU64);
        impl Drop for Told<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        static ELSEWHERE: AtomicU64 = AtomicU64::new(0);
        let dropped = AtomicU64::new(0);
        drop(ProcessBound::new(Told(&dropped)));
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
        let process = Process { word: Some(&ELSEWHERE), number: 1 };
        drop(ProcessBound { process, value: ManuallyDrop::new(Told(&dropped)) });
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn places_of_descriptors_are_used_again() {
        let held: Vec<_> = (0..3).map(|n| ClosedInChild::new(1_000_000 + n)).collect();
        let places: Vec<*const DescriptorSlot> =
            held.iter().map(|held| std::ptr::from_ref(held.0)).collect();
        assert!(places[0] != places[1] && places[1] != places[2]);
        drop(held);
        assert!(places.contains(&std::ptr::from_ref(ClosedInChild::new(1_000_000).0)));
    }
}
