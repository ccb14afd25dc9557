//! A disk that remembers: one file, served through FUSE from memory, that logs what reaches it.
//!
//! Owns the bytes and the log of writes and flushes. A loop device over the file makes a block
//! device of it, on which a real file system can be mounted. Speaks as much of the kernel's
//! protocol (7.31) as a mount whose root is a single plain file needs:
//!
//! | request           | answer                                                          |
//! |-------------------|-----------------------------------------------------------------|
//! | `INIT`            | writes of up to 1 MiB                                           |
//! | `OPEN`            | past the page cache, so that every write is seen as it comes     |
//! | `READ`, `WRITE`   | from and to memory; a write is logged                           |
//! | `FSYNC`           | logged: this is how the loop device's flushes arrive            |
//! | `GETATTR`, `STATFS`, `FLUSH`, `RELEASE`, `DESTROY` | what little there is to say     |
//! | others            | `ENOSYS`; among them the calls that discard and reserve          |
//!
//! A request is answered after it was logged, one at a time. A write that was logged before a flush
//! is taken to be covered by it.
//!
//! The server is a process of its own, this test binary started again: a thread beside the store
//! would wait for the lock of the address space whenever the store holds it in a page fault that
//! only the server can end. It ends when its disk is taken off, or when the test's process is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::arena::Skipped;
use crate::volume::unmount;

const WRITE_LEN_MAX: usize = 1 << 20;
const HEADER_LEN: usize = 40;
const ANSWER_LEN: usize = 16;
/// Longer than a header and the description of a write.
const REQUEST_LEN_MAX: usize = WRITE_LEN_MAX + 4096;

const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const DESTROY: u32 = 38;
/// `FORGET`, `INTERRUPT` and `BATCH_FORGET` get no answer.
const UNANSWERED: [u32; 3] = [2, 36, 42];

/// What reached the disk.
#[derive(Debug, Clone)]
pub enum Event {
    Write { offset: usize, data: Vec<u8> },
    Flush,
}

/// Stands in the place of an offset for a flush.
const FLUSHED: u64 = u64::MAX;

/// The disk, while it is mounted.
pub struct BlockLog {
    file: PathBuf,
    log: File,
    server: Option<Child>,
}

impl BlockLog {
    /// Serves these bytes as `file`.
    pub fn serve(file: &Path, bytes: &[u8]) -> Result<BlockLog, Skipped> {
        fs::write(file, []).expect("a file to mount on");
        fs::write(file.with_extension("base"), bytes).expect("the bytes");
        let log = File::create(file.with_extension("log")).expect("a log");
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args(["--exact", "blocklog::server_started_by_a_test", "--nocapture"]);
        command.env(SERVED, file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command.spawn().expect("a server");
        let said = BufReader::new(server.stdout.take().expect("piped"))
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("server: ").map(str::to_string));
        let disk = BlockLog { file: file.to_path_buf(), log, server: Some(server) };
        match said.as_deref() {
            Some("mounted") => Ok(disk),
            why => Err(Skipped(why.unwrap_or("the server of the block log ended").to_string())),
        }
    }

    /// How long the log is now, in bytes.
    pub fn len(&self) -> u64 {
        self.log.metadata().expect("the log").len()
    }

    /// Takes the disk off and returns its log, each event with the length of the log behind it.
    pub fn end(mut self) -> Vec<(Event, u64)> {
        unmount(&self.file);
        let mut server = self.server.take().expect("a server");
        // Waiting would close the pipe first.
        let pipe = server.stdin.take();
        let ended = server.wait().expect("its end");
        drop(pipe);
        assert!(ended.success(), "the server of the block log: {ended}");
        let log = fs::read(self.file.with_extension("log")).expect("the log");
        let (mut events, mut at) = (Vec::new(), 0);
        while at < log.len() {
            let (offset, len) = (u64_at(&log, at), u64_at(&log, at + 8) as usize);
            let data = log[at + 16..at + 16 + len].to_vec();
            at += 16 + len;
            let event = match offset {
                FLUSHED => Event::Flush,
                offset => Event::Write { offset: offset as usize, data },
            };
            events.push((event, at as u64));
        }
        events
    }
}

impl Drop for BlockLog {
    fn drop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        // What was never mounted cannot be unmounted.
        let unmounted = umount2(&self.file, MntFlags::MNT_DETACH);
        // Its answers are what writers under way wait for, so without it they get an error.
        let ended = server.kill().and_then(|()| server.wait());
        assert!(std::thread::panicking() || ended.is_ok(), "{ended:?}, {unmounted:?}");
    }
}

/// Names the file to serve.
const SERVED: &str = "AEGIS_BLOCK_LOG";

/// The server's half. Does nothing unless a test has started it.
#[test]
fn server_started_by_a_test() {
    let Some(file) = std::env::var_os(SERVED).map(PathBuf::from) else { return };
    std::thread::spawn(|| {
        // The test's end of the pipe closes with the test's process.
        if std::io::stdin().read(&mut [0]).is_ok() {
            std::process::exit(1);
        }
    });
    let bytes = fs::read(file.with_extension("base")).expect("the bytes");
    let mut options = OpenOptions::new();
    let log = options.append(true).open(file.with_extension("log")).expect("the log");
    match mount_on(&file) {
        Ok(device) => {
            println!("server: mounted");
            serve(device, Disk { bytes, log });
            // The test listens no more, not to the test runner either.
            std::process::exit(0);
        }
        Err(e) => println!("server: no FUSE here: {e}"),
    }
}

fn mount_on(file: &Path) -> std::io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let options = format!("fd={},rootmode=100600,user_id=0,group_id=0", device.as_raw_fd());
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some("aegis-block-log"), file, Some("fuse"), flags, Some(options.as_str()))?;
    Ok(device)
}

struct Disk {
    bytes: Vec<u8>,
    log: File,
}

/// Answers requests until the disk is taken off.
fn serve(mut device: File, mut disk: Disk) {
    let mut request = vec![0; REQUEST_LEN_MAX];
    loop {
        let len = match device.read(&mut request) {
            Ok(len) => len,
            Err(e) if e.raw_os_error() == Some(Errno::ENODEV as i32) => return,
            // The request was taken back.
            Err(e)
                if [Errno::ENOENT as i32, Errno::EINTR as i32]
                    .map(Some)
                    .contains(&e.raw_os_error()) =>
            {
                continue;
            }
            Err(e) => panic!("no request of the kernel: {e}"),
        };
        let request = &request[..len];
        let (opcode, unique) = (u32_at(request, 4), u64_at(request, 8));
        if UNANSWERED.contains(&opcode) {
            continue;
        }
        let (error, body) = match disk.answer(opcode, &request[HEADER_LEN..]) {
            Ok(body) => (0, body),
            Err(errno) => (-(errno as i32), Vec::new()),
        };
        let mut answer = ((ANSWER_LEN + body.len()) as u32).to_le_bytes().to_vec();
        answer.extend(error.to_le_bytes());
        answer.extend(unique.to_le_bytes());
        answer.extend(body);
        match device.write_all(&answer) {
            Ok(()) => {}
            // The request was given up: its process is gone.
            Err(e) if e.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            Err(e) => panic!("the kernel refuses an answer to request {opcode}: {e}"),
        }
    }
}

impl Disk {
    fn answer(&mut self, opcode: u32, body: &[u8]) -> Result<Vec<u8>, Errno> {
        match opcode {
            INIT => Ok(initial()),
            GETATTR => Ok(self.attributes()),
            // A handle, FOPEN_DIRECT_IO, padding.
            OPEN => Ok(words(&[0, 0, 1, 0])),
            STATFS => Ok(vec![0; 80]),
            READ => {
                let (offset, len) = (u64_at(body, 8) as usize, u32_at(body, 16) as usize);
                let end = (offset + len).min(self.bytes.len());
                Ok(self.bytes[offset.min(end)..end].to_vec())
            }
            WRITE => {
                let (offset, len) = (u64_at(body, 8) as usize, u32_at(body, 16));
                let data = body[40..40 + len as usize].to_vec();
                let place = self.bytes.get_mut(offset..offset + data.len()).ok_or(Errno::ENOSPC)?;
                place.copy_from_slice(&data);
                self.remember(offset as u64, &data);
                Ok(words(&[len, 0]))
            }
            FSYNC => {
                self.remember(FLUSHED, &[]);
                Ok(Vec::new())
            }
            FLUSH | RELEASE | DESTROY => Ok(Vec::new()),
            _ => Err(Errno::ENOSYS),
        }
    }

    fn remember(&mut self, offset: u64, data: &[u8]) {
        let len = data.len() as u64;
        let event = [&offset.to_le_bytes()[..], &len.to_le_bytes(), data].concat();
        self.log.write_all(&event).expect("room for the log");
    }

    fn attributes(&self) -> Vec<u8> {
        let len = self.bytes.len() as u64;
        // Valid for no time at all; inode 1.
        let mut answer = words(&[0, 0, 0, 0, 1, 0]);
        answer.extend(len.to_le_bytes());
        answer.extend((len / 512).to_le_bytes());
        // Three times in seconds, three in nanoseconds.
        answer.extend([0; 36]);
        answer.extend(words(&[0o100_600, 1, 0, 0, 0, 4096, 0]));
        answer
    }
}

/// Version, nothing read ahead, big writes and many pages, a few requests at a time.
fn initial() -> Vec<u8> {
    const BIG_WRITES: u32 = 1 << 5;
    const MAX_PAGES: u32 = 1 << 22;
    let pages = (WRITE_LEN_MAX / 4096) as u32;
    let at_a_time = 16 | 12 << 16;
    let mut answer = words(&[7, 31, 0, BIG_WRITES | MAX_PAGES, at_a_time]);
    answer.extend(words(&[WRITE_LEN_MAX as u32, 1, pages]));
    answer.resize(64, 0);
    answer
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
