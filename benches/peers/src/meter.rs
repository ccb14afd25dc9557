//! Resources used by a process: processor time, bytes written, syncs; and those used by others.
//!
//! Syncs are counted by definitions of `fsync` and `fdatasync` in the program. The linker takes
//! these before the C library's, for C code linked into it as well. The figures of `syncs` come
//! from `strace` and check this count.
#![expect(unsafe_code, reason = "two functions of the C library are replaced by counting ones")]

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::time::{ClockId, clock_gettime};

static SYNCS: AtomicU64 = AtomicU64::new(0);

/// Counts, then does what the C library does.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: libc::c_int) -> libc::c_int {
    SYNCS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the system call takes a number, checks it, and touches no memory of this process.
    unsafe { libc::syscall(libc::SYS_fdatasync, fd) as libc::c_int }
}

/// Counts, then does what the C library does.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: libc::c_int) -> libc::c_int {
    SYNCS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as for `fdatasync`.
    unsafe { libc::syscall(libc::SYS_fsync, fd) as libc::c_int }
}

/// A reading of all meters, or the difference of two.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// `fsync` and `fdatasync` of this process.
    pub syncs: u64,
    /// Processor time of this process, user and system.
    pub cpu: Duration,
    /// Bytes that this process sent towards the disk (`write_bytes` of `/proc/self/io`).
    pub written: u64,
    /// Processor time of the whole machine, this process included.
    pub machine_cpu: Duration,
}

impl Reading {
    /// Reads all meters.
    pub fn now() -> Reading {
        Reading {
            syncs: SYNCS.load(Ordering::Relaxed),
            cpu: own_cpu(),
            written: field_of("/proc/self/io", "write_bytes:"),
            machine_cpu: machine_cpu(),
        }
    }

    /// Resources used since an earlier reading.
    pub fn since(&self, earlier: &Reading) -> Reading {
        Reading {
            syncs: self.syncs - earlier.syncs,
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written: self.written - earlier.written,
            machine_cpu: self.machine_cpu.saturating_sub(earlier.machine_cpu),
        }
    }
}

/// Processor time of the thread that asks.
pub fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn own_cpu() -> Duration {
    let duration =
        |time: TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(Duration::ZERO, |usage| duration(usage.user_time()) + duration(usage.system_time()))
}

/// User, nice, system, interrupts: the busy columns of the first line of `/proc/stat`, in 1/100 s.
fn machine_cpu() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let columns = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = columns.filter_map(|column| column.parse().ok()).collect();
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|i| ticks.get(*i)).sum();
    Duration::from_millis(busy * 10)
}

/// Resident memory of this process, in bytes.
pub fn resident_len() -> u64 {
    1024 * field_of("/proc/self/status", "VmRSS:")
}

/// Anonymous memory of this process, in bytes: what mapped files do not count in.
pub fn anonymous_len() -> u64 {
    1024 * field_of("/proc/self/status", "RssAnon:")
}

fn field_of(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let fields: HashMap<&str, u64> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?.parse().ok()?))
        })
        .collect();
    fields.get(name).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_of_the_standard_library_are_counted() {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let file = fs::File::create(dir.path().join("file")).expect("and for a file");
        let before = Reading::now();
        file.sync_data().expect("a new file can be synced");
        file.sync_all().expect("a new file can be synced");
        assert!(Reading::now().since(&before).syncs >= 2);
    }

    #[test]
    fn memory_is_read_from_the_right_field() {
        assert!(resident_len() >= anonymous_len() && anonymous_len() > 0);
    }
}
