//! SIGINT, SIGTERM, SIGHUP and SIGKILL: what a command says, and what it leaves.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, StorageBackend};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::desk::{Desk, PROGRAM, noise, set_mode, snapshot};

/// A child that was started and its signals.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Waits until the program listens for signals: it has them blocked then.
    fn await_listening(&mut self) {
        let status = format!("/proc/{}/status", self.0.id());
        let is_blocked = || {
            let status = fs::read_to_string(&status).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (Signal::SIGTERM as u32 - 1)) != 0
        };
        while !is_blocked() {
            assert!(!self.has_ended());
            std::thread::yield_now();
        }
    }

    /// Waits until something has come of the program, or it has ended.
    fn await_that(&mut self, is_so: impl Fn() -> bool) {
        while !is_so() && !self.has_ended() {
            std::thread::yield_now();
        }
    }

    /// Exit code, `None` after SIGKILL, and standard error.
    fn end(self) -> (Option<i32>, String) {
        let output = self.0.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

/// The program with the signals that it listens to as they are by default: one that is ignored
/// here, as under `nohup` or in a background job of a shell, would stay so.
fn listening(desk: &Desk, arguments: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", PROGRAM]).args(arguments);
    command.current_dir(desk.0.path()).stdin(Stdio::null());
    command
}

/// Nothing is to be recovered: the store was closed.
fn check_closed(desk: &Desk) {
    let output = desk.run(&["stat", "store"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

fn count(dir: &std::path::Path) -> usize {
    fs::read_dir(dir).map_or(0, |list| list.count())
}

/// A store of some size with files in it, and the tree that they are from.
fn with_many_files() -> Desk {
    let desk = Desk::new();
    desk.make_tree();
    for i in 0..1500 {
        fs::write(desk.path("tree/a").join(i.to_string()), noise(20_000 + i)).unwrap();
    }
    desk.import(&["--durability", "buffered"]);
    desk
}

#[test]
fn put_that_waits_for_input_ends_at_a_signal_and_makes_nothing() {
    for (signal, code, words) in [
        (Signal::SIGINT, 130, "interrupted"),
        (Signal::SIGTERM, 143, "ended by SIGTERM"),
        (Signal::SIGHUP, 129, "ended by SIGHUP"),
    ] {
        let desk = Desk::new();
        let mut put = Running::start(listening(&desk, &["put", "store"]).stdin(Stdio::piped()));
        put.await_listening();
        put.send(signal);
        // The pipe is open until the program has ended.
        let stdin = put.0.stdin.take();
        let line = format!("aegis-blocks: {words}: nothing was stored\n");
        assert_eq!(put.end(), (Some(code), line));
        drop(stdin);
        assert_eq!(count(desk.0.path()), 0);
    }
}

#[test]
fn a_signal_that_was_ignored_stays_so() {
    let desk = Desk::new();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "trap '' HUP INT; exec \"$0\" put store", PROGRAM]);
    shell.current_dir(desk.0.path()).stdin(Stdio::piped());
    let mut put = Running::start(&mut shell);
    put.await_listening();
    put.send(Signal::SIGHUP);
    put.send(Signal::SIGINT);
    put.0.stdin.take().unwrap().write_all(b"kept").unwrap();
    assert_eq!(put.end(), (Some(0), String::new()));
    assert_eq!(desk.ok(&["get", "store", "1"]), "kept");
}

#[test]
fn a_reader_that_does_not_read_holds_no_command_up() {
    let desk = Desk::new();
    let store = LocalBackend::open(desk.path("store")).unwrap();
    let tx = store.begin_transaction().unwrap();
    for _ in 0..20_000 {
        let block = Block::empty(BlockId(0), BlockType::LogEntry);
        store.write_block_in_tx(tx, block).unwrap();
    }
    store.commit_transaction(tx).unwrap();
    store.close().unwrap();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut ls = Running::start(&mut listening(&desk, &["ls", "store"]));
        // It has begun. More than a pipe takes is to come, and nothing more is read.
        let mut stdout = ls.0.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 1]).unwrap();
        ls.send(signal);
        let (found, stderr) = ls.end();
        assert_eq!(found, Some(code), "{stderr}");
        assert!(stderr.contains("is not complete"), "{stderr}");
        drop(stdout);
        check_closed(&desk);
    }
}

#[test]
fn an_import_stops_in_order_and_is_completed_by_the_next() {
    let desk = Desk::new();
    desk.make_tree();
    for i in 0..2000 {
        fs::write(desk.path("tree/a").join(i.to_string()), noise(i * 10)).unwrap();
    }
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut import =
            listening(&desk, &["import", "store", "tree", "--chunk", "4KiB", "--threads", "1"]);
        let mut import = Running::start(&mut import);
        import.await_listening();
        import.await_that(|| count(&desk.path("store")) >= 3);
        import.send(signal);
        let (found, stderr) = import.end();
        assert_eq!(found, Some(code), "{stderr}");
        if desk.path("store/META").exists() {
            check_closed(&desk);
        }
    }
    desk.import(&[]);
    desk.check_export();
    desk.ok(&["verify", "store"]);
}

#[test]
fn an_export_stops_in_order_and_leaves_whole_files_and_right_modes() {
    let desk = with_many_files();
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let mut export = Running::start(&mut listening(&desk, &["export", "store", "out"]));
        export.await_listening();
        export.await_that(|| count(&desk.path("out/a")) > 20);
        export.send(signal);
        let (found, stderr) = export.end();
        assert_eq!(found, Some(code), "{stderr}");
        assert!(stderr.contains(" exported; run it again to complete\n"), "{stderr}");
        let (tree, out) = (snapshot(&desk.path("tree")), snapshot(&desk.path("out")));
        for (name, found) in &out {
            let name = String::from_utf8_lossy(name);
            assert_eq!(
                tree.get(name.as_bytes()).or_else(|| tree.get(&b"not \xff\xfe text\n"[..])),
                Some(found),
                "{name}"
            );
        }
        check_closed(&desk);
        set_mode(&desk.path("out/a/read-only"), 0o755);
        fs::remove_dir_all(desk.path("out")).unwrap();
    }
}

#[test]
fn what_a_killed_export_left_goes_with_the_next() {
    let desk = with_many_files();
    let leftovers = || {
        let names = snapshot(&desk.path("out"));
        names
            .into_keys()
            .filter(|name| String::from_utf8_lossy(name).contains(".aegis-blocks-"))
            .count()
    };
    // One that was surely left, whatever the kill meets.
    fs::create_dir_all(desk.path("out/a/read-only")).unwrap();
    for dir in ["", "a", "a/read-only"] {
        fs::write(desk.path("out").join(dir).join(".aegis-blocks-77-1.tmp"), "half").unwrap();
    }
    for _ in 0..3 {
        let mut export = Running::start(&mut listening(&desk, &["export", "store", "out"]));
        export.await_that(|| count(&desk.path("out/a")) > 100);
        export.send(Signal::SIGKILL);
        export.end();
        let mode = fs::metadata(desk.path("out")).unwrap();
        assert_ne!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o700);
    }
    desk.ok(&["export", "store", "out"]);
    assert_eq!(leftovers(), 0);
    assert_eq!(snapshot(&desk.path("out")), snapshot(&desk.path("tree")));
}

#[test]
fn a_second_export_into_the_same_directory_waits_for_its_turn() {
    let desk = with_many_files();
    fs::create_dir(desk.path("out")).unwrap();
    let dir = fs::File::open(desk.path("out")).unwrap();
    dir.lock().unwrap();
    let line = desk.refused(3, &["export", "store", "out"]);
    assert_eq!(line, "out is being written to by another export");
    dir.unlock().unwrap();
    desk.ok(&["export", "store", "out"]);
}

#[test]
fn a_backup_that_is_stopped_is_removed_and_one_that_is_killed_is_unfinished() {
    let desk = with_many_files();
    let start = |command: &[&str], into: &str| {
        let mut running = Running::start(&mut listening(&desk, command));
        running.await_listening();
        running.await_that(|| count(&desk.path(into).join("unfinished")) > 0);
        running
    };
    let mut stopped = 0;
    desk.ok(&["backup", "store", "whole"]);
    for (command, into) in
        [(&["backup", "store", "out"][..], "out"), (&["restore", "whole", "again"], "again")]
    {
        for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
            let running = start(command, into);
            running.send(signal);
            let (found, stderr) = running.end();
            if found == Some(code) {
                assert!(stderr.ends_with("what was copied is removed again\n"), "{stderr}");
                assert!(!desk.path(into).exists());
                stopped += 1;
            } else {
                assert_eq!(found, Some(0), "{stderr}");
                fs::remove_dir_all(desk.path(into)).unwrap();
            }
        }
        let running = start(command, into);
        running.send(Signal::SIGKILL);
        let (found, stderr) = running.end();
        if found.is_none() && desk.path(into).join("unfinished").exists() {
            assert!(desk.refused(4, &["verify", into]).contains("is unfinished"), "{stderr}");
            desk.ok(command);
        }
        assert!(desk.ok(&["verify", into]).starts_with("sound"));
    }
    assert!(stopped > 0, "no signal came in time");
    desk.ok(&["ls", "again"]);
}
