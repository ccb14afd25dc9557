//! Standard output and standard error that take nothing.

use std::fs::{File, OpenOptions};
use std::process::Stdio;

use crate::desk::Desk;

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// The reading end of the pipe is gone.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn put_tells_the_id_when_standard_output_takes_nothing() {
    let desk = Desk::new();
    for (id, stdout, why) in
        [("1", full().into(), "No space left on device"), ("2", closed_pipe(), "Broken pipe")]
    {
        let output = desk.command(&["put", "store"]).stdout(stdout).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{stderr}");
        let begin = format!("aegis-blocks: block {id} is stored; standard output: {why}");
        assert!(stderr.starts_with(&begin), "{stderr}");
        assert_eq!(desk.run(&["get", "store", id]).stdout, b"");
    }
}

#[test]
fn a_full_standard_output_is_named_by_its_stream() {
    let desk = Desk::new();
    desk.put(b"x", &[]);
    for arguments in [
        &["ls", "store"][..],
        &["stat", "store"],
        &["verify", "store"],
        &["get", "store", "1"],
        &["checkpoint", "store"],
        &["--help"],
        &["--version"],
    ] {
        let output = desk.command(arguments).stdout(full()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{arguments:?}: {stderr}");
        let begin = "aegis-blocks: standard output: No space left on device";
        assert!(stderr.starts_with(begin), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_full_standard_error_ends_no_command() {
    let desk = Desk::new();
    desk.make_tree();
    let output = desk.command(&["ls", "missing"]).stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let mut import = desk.command(&["import", "store", "tree"]);
    assert!(import.stderr(full()).output().unwrap().status.success());
    desk.check_export();
}
