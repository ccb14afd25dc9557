//! Signals: SIGINT (Ctrl-C), SIGTERM and SIGHUP ask the running command to stop in order.
//!
//! Owns how every command hears them. One thread waits for them; all others have them blocked.
//! 1. The first one sets a flag. Loops ask [`requested`], callbacks of the library return `Break`,
//!    and writes to a reader that does not read end ([`wait_for`]). The command then closes the
//!    store, reports its work, and exits with 128 + the signal's number.
//! 2. Inside of a call that cannot be stopped ([`at_once`]), the first one ends the program there,
//!    with a message that says what that means. The store is crash-safe.
//! 3. The second one ends the program at once.
//!
//! Signals that were ignored when the program began stay so: `nohup`, and jobs of a shell script in
//! the background. SIGPIPE is ignored by every Rust program: a write says so by its error instead.

use std::fmt;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal as Number};
use parking_lot::Mutex;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

/// The number of the first signal that came; 0 for none.
static HEARD: AtomicU8 = AtomicU8::new(0);
/// Effect of ending the program at once, just now; `None` where the command stops by itself.
static AT_ONCE: Mutex<Option<&'static str>> = Mutex::new(None);
/// Ends when the first signal has come, so that it wakes threads that poll it.
static WAKE: OnceLock<PipeReader> = OnceLock::new();

/// A signal that the program listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The terminal went away.
    Hangup,
    /// Ctrl-C.
    Interrupt,
    /// A service manager or `kill`.
    Terminate,
}

const ALL: [Signal; 3] = [Signal::Hangup, Signal::Interrupt, Signal::Terminate];

impl Signal {
    fn native_number(self) -> Number {
        match self {
            Signal::Hangup => Number::SIGHUP,
            Signal::Interrupt => Number::SIGINT,
            Signal::Terminate => Number::SIGTERM,
        }
    }

    /// As the kernel numbers it.
    pub fn number(self) -> u8 {
        self.native_number() as u8
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Signal::Hangup => "ended by SIGHUP",
            Signal::Interrupt => "interrupted",
            Signal::Terminate => "ended by SIGTERM",
        }
    }
}

/// Inside of the error of a write that was given up for a signal.
#[derive(Debug)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped by a signal")
    }
}

impl std::error::Error for Stopped {}

/// Starts listening. Comes before every other thread of the program: they inherit the mask.
pub fn listen() -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::refused(format!("cannot listen for signals: {e}"));
    let ignored = ignored_signals();
    let mut listened = SigSet::empty();
    for signal in ALL {
        if ignored & (1 << (signal.number() - 1)) == 0 {
            listened.add(signal.native_number());
        }
    }
    if listened.iter().next().is_none() {
        return Ok(());
    }
    let (reader, writer) = io::pipe().map_err(failed)?;
    WAKE.set(reader).map_err(|_| Failure::refused("signals are listened to twice"))?;
    listened.thread_block().map_err(|errno| failed(errno.into()))?;
    let mut writer = Some(writer);
    let listener = move || {
        while let Ok(native) = listened.wait() {
            note_signal(native);
            drop(writer.take());
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listener).map_err(failed)?;
    Ok(())
}

/// The signals that are ignored, a bit each, as the process was given them. Systems that do not
/// tell have none.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn note_signal(native: Number) {
    let Some(signal) = ALL.into_iter().find(|signal| signal.native_number() == native) else {
        return;
    };
    let first = HEARD.compare_exchange(0, signal.number(), Ordering::SeqCst, Ordering::SeqCst);
    if first.is_err() {
        output::warn(format_args!("{} again: ended at once", signal.words()));
        std::process::exit(i32::from(Exit::Signal(signal.number()).code()));
    }
    // Held to the end: the command cannot leave the region and go on meanwhile.
    let at_once = AT_ONCE.lock();
    if let Some(meaning) = *at_once {
        output::warn(format_args!("{}: {meaning}", signal.words()));
        std::process::exit(i32::from(Exit::Signal(signal.number()).code()));
    }
}

/// Returns whether a signal asked the command to stop.
pub fn requested() -> bool {
    HEARD.load(Ordering::Relaxed) != 0
}

/// Fails when a signal asked the command to stop; `done` says how far its work came.
pub fn check_not_stopped(done: &str) -> Result<(), Failure> {
    if requested() { Err(Failure::interrupted(done)) } else { Ok(()) }
}

/// The signal that came; as after Ctrl-C when there was none.
pub fn signal() -> Signal {
    let number = HEARD.load(Ordering::Relaxed);
    ALL.into_iter().find(|signal| signal.number() == number).unwrap_or(Signal::Interrupt)
}

/// Runs `body`, one call that cannot be stopped in order: a signal ends the program in the middle
/// of it and says `meaning`.
pub fn at_once<T>(
    meaning: &'static str,
    body: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    {
        let mut at_once = AT_ONCE.lock();
        // Heard before: the listener has looked at the region already, or waits for this lock.
        check_not_stopped(meaning)?;
        assert!(at_once.is_none(), "regions are not nested");
        *at_once = Some(meaning);
    }
    let region = Region;
    let result = body();
    drop(region);
    result
}

/// Leaves the region, by a panic too.
struct Region;

impl Drop for Region {
    fn drop(&mut self) {
        *AT_ONCE.lock() = None;
    }
}

/// Waits until a descriptor is ready.
///
/// # Errors
/// An error that holds [`Stopped`] when a signal came first.
pub fn wait_for(fd: BorrowedFd<'_>, events: PollFlags) -> io::Result<()> {
    let Some(wake) = WAKE.get() else { return Ok(()) };
    loop {
        let mut fds = [PollFd::new(fd, events), PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if fds[1].any() == Some(true) || requested() => {
                return Err(io::Error::other(Stopped));
            }
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
