//! Archives: the files of a store as text, small enough to keep in the repository.
//!
//! One line a file, then one line for each stretch of it that is not zero:
//!
//! | line                     | meaning                                                    |
//! |--------------------------|------------------------------------------------------------|
//! | `file NAME LEN`          | a file and its length; all of it is zero but for           |
//! | `OFFSET HEX`             | these bytes at this place                                  |
//! | `OFFSET fill LEN HEX`    | so many times this byte                                    |

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::files::contents;

/// Bytes of a line of hexadecimal digits.
const LINE_LEN: usize = 48;
/// Shorter stretches of one byte stand in full.
const FILL_LEN_MIN: usize = 16;

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The files of a directory but for `LOCK`.
pub fn read_directory(path: &Path) -> Files {
    let mut files = contents(path);
    files.remove("LOCK");
    files
}

pub fn write_directory(path: &Path, files: &Files) {
    fs::create_dir(path).expect("a new directory");
    for (name, bytes) in files {
        fs::write(path.join(name), bytes).expect("a file");
    }
}

pub fn encode(files: &Files) -> String {
    let mut out = String::new();
    for (name, bytes) in files {
        writeln!(out, "file {name} {}", bytes.len()).expect("memory");
        let (mut at, mut plain) = (0, 0);
        while at < bytes.len() {
            let run = bytes[at..].iter().take_while(|byte| **byte == bytes[at]).count();
            if run >= FILL_LEN_MIN || at + run == bytes.len() && bytes[at] == 0 {
                encode_plain(&mut out, plain, &bytes[plain..at]);
                if bytes[at] != 0 {
                    writeln!(out, "{at} fill {run} {:02x}", bytes[at]).expect("memory");
                }
                plain = at + run;
            }
            at += run;
        }
        encode_plain(&mut out, plain, &bytes[plain..]);
    }
    out
}

fn encode_plain(out: &mut String, at: usize, bytes: &[u8]) {
    for (n, line) in bytes.chunks(LINE_LEN).enumerate() {
        let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{} {hex}", at + n * LINE_LEN).expect("memory");
    }
}

pub fn decode(text: &str) -> Files {
    let mut files = Files::new();
    let mut open = (String::new(), Vec::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |text: &str| text.parse::<usize>().expect("a number");
        let byte = |text: &str| u8::from_str_radix(text, 16).expect("a byte");
        let (name, file) = &mut open;
        match words[..] {
            ["file", next, len] => {
                let next = (next.to_string(), vec![0; number(len)]);
                let (name, content) = std::mem::replace(&mut open, next);
                files.insert(name, content);
            }
            [at, "fill", len, value] => file[number(at)..][..number(len)].fill(byte(value)),
            [at, hex] => {
                for (place, n) in file[number(at)..].iter_mut().zip(0..hex.len() / 2) {
                    *place = byte(&hex[2 * n..2 * n + 2]);
                }
            }
            _ => panic!("no line of an archive, in {name}: {line:?}"),
        }
    }
    files.insert(open.0, open.1);
    files.remove("");
    files
}
