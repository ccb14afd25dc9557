//! The machine of the figures: processor, kernel, disk. Reads `/proc`; says "unknown" where that
//! does not tell.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use serde::Serialize;

/// The machine of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processors this process may use.
    pub cpus: usize,
    /// The processor's name.
    pub cpu: String,
    /// The kernel's release.
    pub kernel: String,
    /// File system of the measured directory.
    pub file_system: String,
    /// Device that the file system lies on.
    pub device: String,
    /// The directory.
    pub dir: PathBuf,
}

const UNKNOWN: &str = "unknown";

impl Machine {
    /// Describes the machine and the disk that `dir` is on.
    pub fn of(dir: &Path) -> Machine {
        let (file_system, device) = read_mount_of(dir);
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get()),
            cpu: read_cpu_name(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or(UNKNOWN.into(), |text| text.trim().into()),
            file_system,
            device,
            dir: dir.to_path_buf(),
        }
    }

    /// Whether the directory lies in memory, where a sync costs nothing and proves nothing.
    pub fn is_in_memory(&self) -> bool {
        is_in_memory(&self.file_system)
    }
}

/// Where to measure when the user does not say: the directory for temporary files, or, where that
/// lies in memory, the current one.
pub fn default_dir() -> PathBuf {
    let temporary = std::env::temp_dir();
    if !is_in_memory(&read_mount_of(&temporary).0) {
        return temporary;
    }
    std::env::current_dir().unwrap_or(temporary)
}

/// Bytes that can still be written to the disk of `path`, which need not exist itself; plenty where
/// the system does not tell.
pub fn free_space_len(path: &Path) -> u64 {
    let dir = path.ancestors().find(|dir| dir.exists()).unwrap_or(path);
    statvfs(dir).map_or(u64::MAX, |free| free.blocks_available() * free.fragment_size())
}

fn is_in_memory(file_system: &str) -> bool {
    matches!(file_system, "tmpfs" | "ramfs")
}

fn read_cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or(UNKNOWN.into(), |(_, name)| name.into())
}

/// File system and device of a directory.
fn read_mount_of(dir: &Path) -> (String, String) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    find_mount(&mounts, &dir).unwrap_or((UNKNOWN.into(), UNKNOWN.into()))
}

/// The mount with the longest path above `dir`; of equal ones the last, which hides the others.
fn find_mount(mounts: &str, dir: &Path) -> Option<(String, String)> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
            dir.starts_with(point).then_some((point.len(), kind, device))
        })
        .max_by_key(|(len, _, _)| *len)
        .map(|(_, kind, device)| (kind.to_string(), device.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n\
                          /dev/vdb /tmp/data xfs rw 0 0\n/dev/vdc /tmp/data btrfs rw 0 0\n";

    #[test]
    fn the_nearest_mount_counts() {
        for (dir, kind, device) in [
            ("/home", "ext4", "/dev/vda"),
            ("/tmp/x", "tmpfs", "tmpfs"),
            ("/tmpfile", "ext4", "/dev/vda"),
            ("/tmp/data/x", "btrfs", "/dev/vdc"),
        ] {
            let expected = Some((kind.to_string(), device.to_string()));
            assert_eq!(find_mount(MOUNTS, Path::new(dir)), expected, "{dir}");
        }
    }
}
