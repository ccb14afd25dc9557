//! The fuzz targets without a fuzzer: every input of the corpora, and seeded mutations of them.
//!
//! The bodies (`tests/inside/fuzz`) are those that `scripts/fuzz` runs under libFuzzer.
//! `AEGIS_SEED` sets the seed, `AEGIS_SOAK` multiplies the mutations:
//!
//! ```text
//! AEGIS_SOAK=100 cargo test --release --lib fuzz_corpus -- --nocapture
//! ```

use std::fs;
use std::path::PathBuf;

use super::counted;
use crate::local::fuzz::{TARGETS, Target, target};
use crate::testkit::{Rng, seed, soak};

/// Mutations of a target, by what one costs.
const DECODER_MUTATIONS: u64 = 20_000;
const STORE_MUTATIONS: u64 = 1_500;
/// Corpora are kept small: they are part of the repository.
const CORPUS_LEN_MAX: usize = 16 << 10;
const INPUT_LEN_MAX: usize = 8 << 10;

fn directory(target: &Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name)
}

/// The inputs of a target, in the order of their names.
pub fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory(target)).expect("a corpus");
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read(path).expect("an input"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// Writes the seeds of every target into its corpus.
#[test]
#[ignore = "changes the repository: run it by hand when the format changes"]
fn write_corpora() {
    for target in &TARGETS {
        fs::create_dir_all(directory(target)).expect("a directory");
        for (name, input) in (target.seeds)() {
            fs::write(directory(target).join(name), input).expect("written");
        }
    }
}

#[test]
fn every_corpus_is_small_and_holds_what_is_accepted_and_what_is_refused() {
    for target in &TARGETS {
        let inputs = corpus(target);
        let total: usize = inputs.iter().map(|(_, input)| input.len()).sum();
        assert!(total <= CORPUS_LEN_MAX, "{}: {total} bytes", target.name);
        let mut accepted = 0;
        for (name, input) in &inputs {
            println!("{}/{name}", target.name);
            accepted += usize::from((target.run)(input));
        }
        assert!((1..inputs.len()).contains(&accepted), "{}: {accepted} accepted", target.name);
    }
}

#[test]
fn every_seed_is_accepted_after_sealing_as_before() {
    for target in &TARGETS {
        for (name, input) in (target.seeds)() {
            let mut sealed = input.clone();
            (target.seal)(&mut sealed);
            if (target.run)(&input) {
                assert!((target.run)(&sealed), "{}/{name}", target.name);
            }
        }
    }
}

fn mutations_break_no_promise(name: &str, count: u64) {
    let (target, seed) = (target(name), seed(1));
    println!("{name}: AEGIS_SEED={seed}");
    let corpus = corpus(target);
    let mut random = Rng::new(seed);
    let mut accepted = 0;
    for number in 0..count * soak() {
        let mut input = mutated(&mut random, &corpus);
        if !random.once_in(4) {
            (target.seal)(&mut input);
        }
        let told = Told { name, number, input: &input };
        accepted += u64::from((target.run)(&input));
        std::mem::forget(told);
    }
    let total = count * soak();
    println!("{name}: {accepted} of {total} mutations accepted");
    assert!(accepted > 0 && accepted < total, "mutations of {name} try one branch only");
    counted::tell("mutations", total);
    counted::tell("fuzz targets", 1);
}

/// Prints the input when the target panics.
struct Told<'a> {
    name: &'a str,
    number: u64,
    input: &'a [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let path = std::env::temp_dir().join(format!("fuzz-{}-{}", self.name, self.number));
        match fs::write(&path, self.input) {
            Ok(()) => println!("{}: the input is {}", self.name, path.display()),
            Err(_) => println!("{}: the input is {:02x?}", self.name, self.input),
        }
    }
}

/// One to four changes to an input of the corpus.
fn mutated(random: &mut Rng, corpus: &[(String, Vec<u8>)]) -> Vec<u8> {
    let pick = |random: &mut Rng, len: usize| random.below(len as u64) as usize;
    let mut input = corpus[pick(random, corpus.len())].1.clone();
    for _ in 0..=random.below(4) {
        if input.is_empty() {
            input.push(random.next_u64() as u8);
        }
        let at = pick(random, input.len());
        let len = pick(random, 64).min(input.len() - at);
        match random.below(9) {
            0 | 1 => input[at] ^= 1 << random.below(8),
            2 => input[at] = [0, 1, 0x7f, 0x80, 0xff][pick(random, 5)],
            3 => {
                let value = [0, 1, u64::MAX, u64::MAX - 1, 1 << 32, 1 << 63][pick(random, 6)];
                for (byte, new) in input[at..].iter_mut().zip(value.to_le_bytes()) {
                    *byte = new;
                }
            }
            4 => input[at] = input[at].wrapping_add(random.next_u64() as u8 | 1),
            5 => {
                input.drain(at..at + len);
            }
            6 => {
                let again = input[at..at + len].to_vec();
                let to = pick(random, input.len());
                input.splice(to..to, again);
            }
            7 => {
                let copied = input[at..at + len].to_vec();
                let to = pick(random, input.len() - len + 1);
                input[to..to + len].copy_from_slice(&copied);
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(INPUT_LEN_MAX);
    input
}

macro_rules! mutations {
    ($($test:ident: $name:literal, $count:expr;)+) => {$(
        #[test]
        fn $test() {
            mutations_break_no_promise($name, $count);
        }
    )+};
}

mutations! {
    mutated_blocks_are_read_or_refused: "block", DECODER_MUTATIONS;
    mutated_descriptions_are_read_or_refused: "description", DECODER_MUTATIONS;
    mutated_segment_headers_are_read_or_refused: "segment_header", DECODER_MUTATIONS;
    mutated_frame_headers_are_read_or_refused: "frame_header", DECODER_MUTATIONS;
    mutated_tables_are_read_or_refused: "op_table", DECODER_MUTATIONS;
    mutated_cuts_are_read_or_refused: "cut", DECODER_MUTATIONS;
    mutated_file_names_are_read_or_refused: "file_name", DECODER_MUTATIONS;
    mutated_segments_are_scanned_to_their_end: "segment", STORE_MUTATIONS;
    mutated_stores_are_opened_or_refused: "store", STORE_MUTATIONS;
    mutated_operations_keep_every_acknowledged_commit: "operations", STORE_MUTATIONS;
}
