//! Volumes: a real file system in an image file, under a loop device, whose power can be cut.
//!
//! Owns image and mount. Invariant: nothing is written below a volume's path, and no power is cut,
//! before it was seen that a file system of the right kind on a loop device is mounted there.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{major, minor};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};

use crate::arena::{Skipped, tool};

/// Major number of loop devices.
const LOOP: u64 = 7;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

/// What a power cut leaves of what was not synced.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Cut {
    /// The journal is written before the cut: names and lengths without the data.
    JournalKept = 1,
    /// Nothing is written any more.
    AllLost = 2,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
        }
    }

    /// Makes a file system in an image file, that of a volume or of its own.
    pub fn format(self, image: &Path) -> Result<(), Skipped> {
        let make = format!("mkfs.{}", self.name());
        tool(&make)?;
        let mut command = Command::new(&make);
        match self {
            // Nothing is zeroed behind our back later.
            Kind::Ext4 => {
                command.args(["-F", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,nodiscard"])
            }
            Kind::Xfs => command.args(["-f", "-K"]),
        };
        run(command.arg("-q").arg(image))
    }
}

/// A file system in an image file.
pub struct Volume {
    kind: Kind,
    image: PathBuf,
    point: PathBuf,
    mounted: bool,
}

nix::ioctl_write_ptr_bad!(
    /// The file system goes down as if the power had failed: `FS_IOC_SHUTDOWN`.
    shut_down,
    0x8004_587d,
    u32
);

/// How long a file system that was given up may be busy.
const BUSY_MAX: Duration = Duration::from_secs(20);

/// Unmounts what is no longer used. A child that another test has just started holds the files of
/// all tests until its exec is over, which its start does not wait for; so this tries again for a
/// while. A file that is left open is still found.
pub fn unmount(point: &Path) {
    let started = Instant::now();
    loop {
        match umount2(point, MntFlags::empty()) {
            Ok(()) => return,
            Err(Errno::EBUSY) if started.elapsed() < BUSY_MAX => std::thread::yield_now(),
            Err(e) => panic!("{} cannot be unmounted: {e}", point.display()),
        }
    }
}

/// Runs a program of the system; what it says against it is why a test is skipped.
pub fn run(command: &mut Command) -> Result<(), Skipped> {
    let output = command.stdin(Stdio::null()).output().expect("a program that was found");
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Skipped(format!("{command:?}: {}", words.trim())))
}

impl Volume {
    /// Makes a new file system of this length in `directory`, and mounts it once to see that it
    /// works.
    pub fn new(kind: Kind, directory: &Path, len: u64) -> Result<Volume, Skipped> {
        let image = directory.join(format!("{}.image", kind.name()));
        File::create_new(&image).and_then(|file| file.set_len(len)).expect("an image");
        kind.format(&image)?;
        let mut volume = Volume::over(kind, &image);
        volume.try_mount("")?;
        volume.unmount();
        Ok(volume)
    }

    /// Takes an image that holds a file system.
    pub fn over(kind: Kind, image: &Path) -> Volume {
        let point = image.with_extension("mounted");
        if !point.is_dir() {
            fs::create_dir(&point).expect("a mount point");
        }
        Volume { kind, image: image.to_path_buf(), point, mounted: false }
    }

    /// Has the loop device take one page at a time. Otherwise it acknowledges a longer request of
    /// which its image took only a part: with an image that runs out of space that is a disk that
    /// lies.
    pub fn take_single_pages(&self) {
        let device = fs::metadata(&self.point).expect("mounted").dev();
        let number = format!("{}:{}", major(device), minor(device));
        let limit = Path::new("/sys/dev/block").join(number).join("queue/max_sectors_kb");
        fs::write(&limit, "4").unwrap_or_else(|e| panic!("{}: {e}", limit.display()));
    }

    /// Mounts it, with more options than the loop device.
    pub fn mount(&mut self, options: &str) {
        self.try_mount(options).unwrap_or_else(|Skipped(why)| panic!("{why}"));
    }

    fn try_mount(&mut self, options: &str) -> Result<(), Skipped> {
        assert!(!self.mounted, "mounted twice");
        let options = format!("loop,nodiscard,{options}");
        let mut command = Command::new("mount");
        command.args(["-t", self.kind.name(), "-o", options.trim_end_matches(',')]);
        run(command.arg(&self.image).arg(&self.point))?;
        self.mounted = true;
        self.path();
        Ok(())
    }

    /// The root of the mounted file system, certainly that and nothing else.
    pub fn path(&self) -> &Path {
        let magic = match self.kind {
            Kind::Ext4 => EXT4_SUPER_MAGIC,
            Kind::Xfs => XFS_SUPER_MAGIC,
        };
        let found = statfs(&self.point).expect("a file system").filesystem_type();
        assert_eq!(found, magic, "{} is not {:?}", self.point.display(), self.kind);
        let device = fs::metadata(&self.point).expect("its root").dev();
        assert_eq!(major(device), LOOP, "{} is not on a loop device", self.point.display());
        let around = self.point.parent().expect("a directory around it");
        assert_ne!(device, fs::metadata(around).expect("a directory").dev(), "not a mount point");
        &self.point
    }

    /// Cuts the power: from here on nothing reaches the image, and every write fails.
    #[expect(unsafe_code, reason = "an ioctl that no crate has a call for")]
    pub fn cut(&self, how: Cut) {
        let root = File::open(self.path()).expect("the root");
        let device = root.metadata().expect("the root").dev();
        assert_eq!(major(device), LOOP, "the power of a real disk must stay on");
        // SAFETY: the call reads four bytes through the pointer, which is that of a live `u32`.
        unsafe { shut_down(root.as_raw_fd(), &(how as u32)) }.expect("a power cut");
    }

    /// Unmounts it; no process may have a file open in there.
    pub fn unmount(&mut self) {
        unmount(&self.point);
        self.mounted = false;
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            let unmounted = umount2(&self.point, MntFlags::MNT_DETACH);
            assert!(std::thread::panicking() || unmounted.is_ok(), "{unmounted:?}");
        }
    }
}
