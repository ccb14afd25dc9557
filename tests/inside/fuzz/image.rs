//! Store images: the files of a store in a few hundred bytes.
//!
//! Owns the inputs of the target `store`. An image is any number of files, one behind the other:
//!
//! | size | field     | meaning                                                        |
//! |-----:|-----------|----------------------------------------------------------------|
//! |    1 | kind      | modulo 8: 0 description, 1 lock, 2 or 3 segment, 4 unfinished, |
//! |      |           | 5 checkpoint; 6 a strange name, 7 not a file: number only      |
//! |    8 | number    | in the file's name                                             |
//! |    4 | `len`     | of the file, modulo [`FILE_LEN_MAX`]; holes are zeros          |
//! |    1 | run count |                                                                |
//! |      | runs      | each an offset (4 bytes), a length (2 bytes), and that many bytes |
//!
//! Any bytes are an image: what is cut off is left out.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::io::sim::SimDisk;
use crate::io::{Entry, FileName};
use crate::local::format::{PAGE, le};

/// Longer files would only make the fuzzer slow.
pub(super) const FILE_LEN_MAX: u64 = 1 << 21;

/// The files of an image.
pub(super) type Files = BTreeMap<FileName, Vec<u8>>;

/// Bytes of one file that stand in the image.
struct Run {
    name: FileName,
    at: usize,
    /// In the image.
    bytes: Range<usize>,
}

/// An image, taken apart.
pub(super) struct Image {
    pub(super) files: Files,
    strangers: Vec<Entry>,
    runs: Vec<Run>,
}

impl Image {
    pub(super) fn parse(data: &[u8]) -> Image {
        let mut image = Image { files: Files::new(), strangers: Vec::new(), runs: Vec::new() };
        let mut at = 0;
        while let Some(next) = image.parse_file(data, at) {
            at = next;
        }
        for run in &image.runs {
            if let Some(file) = image.files.get_mut(&run.name) {
                let len = run.bytes.len().min(file.len().saturating_sub(run.at));
                let source = run.bytes.start..run.bytes.start + len;
                file[run.at..][..len].copy_from_slice(&data[source]);
            }
        }
        image
    }

    fn parse_file(&mut self, data: &[u8], at: usize) -> Option<usize> {
        let head = data.get(at..at + 14)?;
        let number = le::u64(head, 1);
        let len = u64::from(le::u32(head, 9)) % (FILE_LEN_MAX + 1);
        let name = match head[0] % 8 {
            0 => FileName::Meta,
            1 if number == 1 => FileName::Reserve,
            1 => FileName::Lock,
            2 | 3 => FileName::Segment(number),
            4 => FileName::Temporary(number),
            5 => FileName::Checkpoint(number),
            other => {
                let name = format!("stranger-{number}");
                self.strangers.push(match other {
                    6 => Entry::Unknown { name },
                    _ => Entry::NotAFile { name: FileName::Segment(number) },
                });
                return Some(at + 14);
            }
        };
        self.runs.retain(|run| run.name != name);
        let mut next = at + 14;
        for _ in 0..head[13] {
            let Some(run) = data.get(next..next + 6) else { break };
            let bytes = next + 6..(next + 6 + usize::from(le::u16(run, 4))).min(data.len());
            next = bytes.end;
            let run_at = le::u32(run, 0) as usize;
            if run_at < len as usize {
                self.runs.push(Run { name, at: run_at, bytes });
            }
        }
        self.files.insert(name, vec![0; len as usize]);
        Some(next)
    }

    /// Puts the files on a new disk.
    pub(super) fn disk(&self) -> SimDisk {
        let disk = SimDisk::new(1);
        for (name, bytes) in &self.files {
            disk.put_file(*name, bytes);
        }
        for stranger in &self.strangers {
            disk.add_entry(stranger.clone());
        }
        disk
    }

    /// Writes changed files back into the image they come from.
    pub(super) fn write_back(&self, data: &mut [u8]) {
        for run in &self.runs {
            let file = &self.files[&run.name];
            let len = run.bytes.len().min(file.len() - run.at);
            data[run.bytes.start..][..len].copy_from_slice(&file[run.at..][..len]);
        }
    }
}

/// Writes images.
#[derive(Debug, Default)]
pub struct ImageWriter {
    bytes: Vec<u8>,
}

impl ImageWriter {
    /// The image of a disk.
    pub fn of_disk(disk: &SimDisk) -> Vec<u8> {
        let mut writer = ImageWriter::default();
        for (name, _) in disk.files() {
            let content = disk.contents(name).expect("listed");
            writer.file(name, &content);
        }
        writer.bytes
    }

    /// Adds a file, without its zeros.
    fn file(&mut self, name: FileName, content: &[u8]) {
        let (kind, number) = match name {
            FileName::Meta => (0, 0),
            FileName::Lock => (1, 0),
            FileName::Reserve => (1, 1),
            FileName::Segment(number) => (2, number),
            FileName::Temporary(number) => (4, number),
            FileName::Checkpoint(number) => (5, number),
            FileName::Manifest => return,
        };
        let runs = runs_of(content);
        assert!(content.len() as u64 <= FILE_LEN_MAX && runs.len() <= 255, "{name} is too long");
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self.bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
        self.bytes.push(runs.len() as u8);
        for run in runs {
            self.bytes.extend_from_slice(&(run.start as u32).to_le_bytes());
            self.bytes.extend_from_slice(&(run.len() as u16).to_le_bytes());
            self.bytes.extend_from_slice(&content[run]);
        }
    }
}

/// The parts of a file that are not long stretches of zeros.
fn runs_of(content: &[u8]) -> Vec<Range<usize>> {
    const UNIT_LEN: usize = 32;
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, unit) in content.chunks(UNIT_LEN).enumerate() {
        if unit.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = number * UNIT_LEN;
        match runs.last_mut() {
            Some(last) if last.end == start && last.len() < 4 * PAGE as usize => {
                last.end = start + unit.len();
            }
            _ => runs.push(start..start + unit.len()),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_of_a_disk_holds_its_files() {
        let disk = SimDisk::new(1);
        let content: Vec<u8> = (0..9000_u32).map(|at| (at / 500 % 2 * at) as u8).collect();
        disk.put_file(FileName::Segment(7), &content);
        disk.put_file(FileName::Meta, &[0; 100]);
        let mut bytes = ImageWriter::of_disk(&disk);
        assert!(bytes.len() < 7000, "{} bytes for {}", bytes.len(), content.len());
        let mut image = Image::parse(&bytes);
        assert_eq!(image.files[&FileName::Segment(7)], content);
        assert_eq!(image.disk().files(), disk.files());
        image.files.get_mut(&FileName::Segment(7)).expect("there")[600] ^= 1;
        image.write_back(&mut bytes);
        let changed = Image::parse(&bytes).files.remove(&FileName::Segment(7)).expect("there");
        assert_eq!(changed.iter().zip(&content).filter(|(a, b)| a != b).count(), 1);
    }
}
