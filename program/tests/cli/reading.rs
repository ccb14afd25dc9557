//! Commands that only look: at a store on a read-only mount, beside one another, and at incomplete
//! files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::desk::{Desk, PROGRAM, snapshot};

/// Mounts `store` for reading only, in a mount namespace of its own, and runs the program there.
const SCRIPT: &str = "mount --bind store store && mount -o remount,bind,ro store || exit 99
    ! touch store/LOCK 2>/dev/null || exit 99
    exec \"$@\"";

/// What the program does beside a store that nothing can be written to; `None` where mounts are
/// refused.
fn run_mounted(desk: &Desk, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", SCRIPT, "sh", PROGRAM]).args(arguments);
    let output = command.current_dir(desk.0.path()).stdin(Stdio::null()).output();
    output.ok().filter(|output| output.status.code() != Some(99) && !is_refused(output))
}

fn is_refused(output: &Output) -> bool {
    output.stderr.starts_with(b"unshare: ")
}

/// The files of the store, with their times.
fn files_of(desk: &Desk) -> impl PartialEq + use<> {
    snapshot(&desk.path("store"))
}

/// What a kill leaves: the log goes on behind its last mark with bytes that are no frame.
fn tear(store: &Path) {
    let names = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let last = names.filter(|path| path.to_string_lossy().contains("SEG-"));
    let last = last.filter(|path| fs::metadata(path).unwrap().len() > 4096).max().unwrap();
    OpenOptions::new().append(true).open(last).unwrap().write_all(&[0xA5; 4096]).unwrap();
}

#[test]
fn a_store_on_a_read_only_mount_is_listed_read_exported_and_backed_up() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    let id = desk.put(b"seven", &[]);
    for is_torn in [false, true] {
        if is_torn {
            tear(&desk.path("store"));
        }
        let before = files_of(&desk);
        let Some(listed) = run_mounted(&desk, &["ls", "store"]) else {
            eprintln!("skipped: no read-only mount can be made here");
            return;
        };
        assert!(listed.status.success(), "{listed:?}");
        assert_eq!(String::from_utf8_lossy(&listed.stderr).contains("not closed"), is_torn);
        let run = |arguments: &[&str]| {
            let output = run_mounted(&desk, arguments).unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert!(run(&["ls", "store", "--files"]).contains("a/large"));
        assert_eq!(run(&["get", "store", &id]), "seven");
        assert!(run(&["stat", "store", "--json"]).contains("\"closed_cleanly\""));
        assert!(run(&["verify", "store"]).starts_with("sound: "));
        let probed = if is_torn { "not closed: " } else { "clean: " };
        assert!(run(&["probe", "store"]).starts_with(probed));
        let out = fs::remove_dir_all(desk.path("out"));
        assert_eq!(out.is_ok(), is_torn, "the first export makes it");
        run(&["export", "store", "out"]);
        assert_eq!(snapshot(&desk.path("out")), snapshot(&desk.path("tree")));
        let (backup, again) = (format!("backup-{is_torn}"), format!("again-{is_torn}"));
        run(&["backup", "store", &backup]);
        run(&["salvage", "store", &format!("salvaged-{is_torn}")]);
        desk.ok(&["restore", &backup, &again]);
        assert_eq!(desk.ok(&["get", &again, &id]), "seven");
        let refused = run_mounted(&desk, &["rm", "store", &id]).unwrap();
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(5), "{stderr}");
        assert!(stderr.contains("Read-only file system"), "{stderr}");
        assert!(files_of(&desk) == before, "something was changed");
    }
}

#[test]
fn commands_that_only_look_change_nothing_and_run_beside_a_reader() {
    let desk = Desk::new();
    desk.make_tree();
    desk.import(&[]);
    let id = desk.put(b"seven", &[]);
    tear(&desk.path("store"));
    let before = files_of(&desk);
    let reader = aegis_blocks::LocalBackend::options().read_only(true);
    let reader = reader.open(desk.path("store")).unwrap();
    desk.ok(&["ls", "store"]);
    desk.ok(&["get", "store", &id]);
    desk.ok(&["stat", "store"]);
    desk.ok(&["verify", "store"]);
    desk.ok(&["probe", "store"]);
    desk.ok(&["export", "store", "out"]);
    desk.ok(&["backup", "store", "backup"]);
    assert!(files_of(&desk) == before, "something was changed");
    let line = desk.refused(3, &["rm", "store", &id]);
    assert!(line.contains("is open elsewhere"), "{line}");
    reader.close().unwrap();
    desk.ok(&["rm", "store", &id]);
}
