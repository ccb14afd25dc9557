//! What the documents name exists: tests, files, functions.
//!
//! What docs/reliability.md says is tested has a test of that name, in the program that it names.
//! A test is named there by two words in code, one behind the other: program and name. The program
//! is one of `tests/` or `program/tests/`, or `lib` for the library's own tests, whose names hold
//! their modules.

#[path = "support/counted.rs"]
mod counted;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = "docs/reliability.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust sources below a directory, or the one file.
fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "rs")).fold(
        Vec::new(),
        |mut all, path| {
            all.extend(sources(&path));
            all
        },
    )
}

/// Functions, and claims of the programs that run their own, which some sources hold.
fn names(sources: &[PathBuf]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources {
        let text = fs::read_to_string(source).expect("a source");
        for line in text.lines().map(str::trim) {
            let rest = line.strip_prefix("fn ").or_else(|| line.strip_prefix("pub fn "));
            let end = |c: char| !(c.is_alphanumeric() || c == '_');
            names.extend(rest.and_then(|rest| rest.split(end).next()).map(str::to_string));
            let claim = line.strip_prefix("name: \"").and_then(|rest| rest.strip_suffix("\","));
            names.extend(claim.map(str::to_string));
            // Tests that a macro makes: `name: arguments;`.
            let made = line.split_once(": ").filter(|_| line.ends_with(';'));
            names.extend(made.map(|(name, _)| name.to_string()));
        }
    }
    names
}

/// The programs that hold tests, and their names.
fn programs() -> BTreeMap<String, BTreeSet<String>> {
    let inside = ["src", "tests/inside"].map(|dir| sources(&root().join(dir))).concat();
    let mut programs = BTreeMap::from([("lib".to_string(), names(&inside))]);
    let tests = ["tests", "program/tests"].map(|dir| fs::read_dir(root().join(dir)));
    for entry in tests.into_iter().flat_map(|entries| entries.expect("the tests")) {
        let path = entry.expect("an entry").path();
        let program = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut of_program = sources(&path);
        if program == "crash" {
            of_program.extend(sources(&root().join("tests/support")));
        }
        programs.insert(program, names(&of_program));
    }
    programs
}

/// What stands in code in a document, the words between single backticks. Blocks of code are left
/// out.
fn words_in_code(document: &str) -> Vec<String> {
    let text = document.split("```").step_by(2).collect::<String>();
    text.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

/// Whether `word` is `Type::name`, where a program's code would have it.
fn type_and_name(word: &str) -> Option<(&str, &str)> {
    let is_name = |part: &str| part.chars().all(|c| c.is_alphanumeric() || c == '_');
    let (of, name) = word.split_once("::")?;
    let name = name.split('(').next().expect("a first part");
    (of.starts_with(char::is_uppercase) && is_name(of) && is_name(name)).then_some((of, name))
}

/// Whether a source defines the type or has an `impl` of it, and defines that name.
fn defines(source: &str, of: &str, name: &str) -> bool {
    let is_word = |line: &str, word: &str| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|part| part == word)
    };
    let heads = ["pub enum ", "enum ", "pub struct ", "struct ", "pub trait ", "trait ", "impl"];
    let is_head = |line: &str| {
        let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
        heads.iter().any(|head| line.starts_with(head)) && is_word(line, of)
    };
    let defined = [format!("fn {name}("), format!("fn {name}<"), format!(" {name}:")];
    let is_variant = |line: &str| {
        let rest = line.trim().strip_prefix(name);
        rest.is_some_and(|rest| {
            rest.starts_with([',', '(']) || rest.starts_with(" {") || rest.is_empty()
        })
    };
    source.lines().any(is_head)
        && source.lines().any(|line| defined.iter().any(|d| line.contains(d)) || is_variant(line))
}

/// The file or directory of a word in code that is a path of this project, or the end of one.
fn path_of(word: &str) -> Option<&str> {
    const PLACES: [&str; 7] =
        ["src/", "tests/", "benches/", "scripts/", "docs/", "examples/", "program/"];
    let path = word.split(' ').next().expect("a first part");
    let is_path = PLACES.iter().any(|place| path.starts_with(place)) || path.ends_with(".rs");
    is_path.then_some(path)
}

fn is_there(path: &str, all: &[PathBuf]) -> bool {
    match path.split_once('*') {
        Some((dir, _)) => root().join(dir).is_dir(),
        None => root().join(path).exists() || all.iter().any(|source| source.ends_with(path)),
    }
}

/// Pairs of words in code with nothing but a space between, whose first one is a program.
fn named(document: &str, programs: &BTreeMap<String, BTreeSet<String>>) -> Vec<(String, String)> {
    let words: Vec<&str> = document.split('`').collect();
    let mut pairs = Vec::new();
    // Code is at odd places.
    for at in (1..words.len().saturating_sub(2)).step_by(2) {
        let is_name =
            |word: &str| word.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':');
        if words[at + 1] == " " && programs.contains_key(words[at]) && is_name(words[at + 2]) {
            pairs.push((words[at].to_string(), words[at + 2].to_string()));
        }
    }
    pairs
}

#[test]
fn every_test_that_the_document_names_exists() {
    let document = fs::read_to_string(root().join(DOCUMENT)).expect("the document");
    let programs = programs();
    let pairs = named(&document, &programs);
    let missing: Vec<_> = pairs
        .iter()
        .filter(|(program, name)| {
            let name = name.rsplit("::").next().expect("a last part");
            !programs[program].contains(name)
        })
        .collect();
    counted::tell("tests named", pairs.len() as u64);
    counted::tell("names of no test", missing.len() as u64);
    assert!(missing.is_empty(), "{DOCUMENT} names what is no test: {missing:#?}");
    assert!(pairs.len() > 100, "{} tests are named", pairs.len());
}

/// The table of CONTRIBUTING.md names tests that exist: a program, `lib`, `cli` or a path.
#[test]
fn every_test_that_covers_a_part_exists() {
    let document = fs::read_to_string(root().join("CONTRIBUTING.md")).expect("the document");
    let (_, table) = document.split_once("\n| file or folder |").expect("the table");
    let table = table.split("\n\n").next().expect("its rows");
    let programs = programs();
    let mut count = 0;
    for row in table.lines().skip(2) {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().expect("a last cell");
        for test in words_in_code(tests) {
            let is_other = test == "cli" || test.contains('/') || test.contains(' ');
            let is_inside = programs["lib"].contains(&test) || test == "document";
            assert!(programs.contains_key(&test) || is_other || is_inside, "no test {test}: {row}");
            count += 1;
        }
    }
    assert!(count > 50, "{count} tests are named");
}

/// A reader who follows the documents into the sources finds what they name.
#[test]
fn every_place_in_the_code_that_a_document_names_exists() {
    let mut documents = ["README.md", "CONTRIBUTING.md"].map(|name| root().join(name)).to_vec();
    for dir in ["docs", "docs/decisions"] {
        let entries = fs::read_dir(root().join(dir)).expect("the documents");
        documents.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    documents.retain(|path| path.extension().is_some_and(|e| e == "md"));
    let places = ["src", "tests", "benches", "examples", "program"];
    let all: Vec<_> = places.iter().flat_map(|dir| sources(&root().join(dir))).collect();
    let texts: Vec<_> =
        all.iter().map(|path| fs::read_to_string(path).expect("a source")).collect();
    let (mut missing, mut count) = (Vec::new(), 0);
    for document in &documents {
        let name = document.file_name().expect("a name").to_string_lossy();
        for word in words_in_code(&fs::read_to_string(document).expect("a document")) {
            let there = match (path_of(&word), type_and_name(&word)) {
                (Some(path), _) => is_there(path, &all),
                (None, Some((of, name))) => texts.iter().any(|text| defines(text, of, name)),
                (None, None) => continue,
            };
            count += 1;
            if !there {
                missing.push(format!("{name}: `{word}`"));
            }
        }
    }
    counted::tell("places in the code named by documents", count);
    assert!(missing.is_empty(), "what is not there is named: {missing:#?}");
    assert!(count > 150, "{count} places are named");
}

/// Every row of the tables of promises ends with tests.
#[test]
fn every_promise_names_its_test() {
    let document = fs::read_to_string(root().join(DOCUMENT)).expect("the document");
    let (_, section) = document.split_once("\n## Promises, and the tests").expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let programs = programs();
    let is_row = |line: &&str| {
        let head = ["|---", "| event |", "| promise |"].iter().any(|head| line.starts_with(head));
        line.starts_with('|') && !head
    };
    let mut rows = 0;
    for row in section.lines().filter(is_row) {
        let tests = row.rsplit(" | ").next().expect("a last cell");
        assert!(!named(tests, &programs).is_empty(), "no test is named in {row}");
        rows += 1;
    }
    assert_eq!(rows, 8 + 13, "events and promises");
}
