//! Words: the glossary and the sources agree, and the rules of prose hold.
//!
//! docs/glossary.md has a table of words and a table of retired ones. A word of the first occurs in
//! `src`; one of the second occurs neither in `src` nor in a document. To retire a word is one line
//! in the second table. A name counts as its parts: `SlotList` and `slot_list` are both "slot
//! list".
//!
//! The bounds of this file only go down.

#[path = "support/counted.rs"]
mod counted;

use std::fs;
use std::path::{Path, PathBuf};

/// Subjects that name no thread, struct, file or caller. The plural is a possessive in a name.
const VAGUE: [&str; 9] = [
    "whoever",
    "somebody",
    "nobody",
    "everybody",
    "anybody",
    "someone",
    "anyone",
    "everyone",
    "no one",
];

/// What has sources of Rust. Most of it is not compiled into the store.
const OF_SOURCES: [&str; 6] = ["src", "tests", "benches", "examples", "program", "fuzz"];
/// Columns of a comment and of a line of prose, at most; no document has a longer line.
const COLUMNS: usize = 100;
/// Words of a sentence of the documents, at most.
const SENTENCE_LEN_MAX: usize = 25;
/// Documents, and the words of their median sentence.
const MEDIANS_MAX: [(&str, usize); 2] = [("README.md", 14), ("docs/architecture.md", 17)];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("a document")
}

/// Files with an extension, below a directory.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            // What was built is generated in part.
            if !path.ends_with("target") {
                found.extend(files(&path, extension));
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<String> {
    let paths = files(&root().join("src"), "rs");
    paths.iter().map(|path| fs::read_to_string(path).expect("a source")).collect()
}

/// The path from the root, as it is printed.
fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned()
}

/// All sources of Rust but this one, which has the words that it refuses, and the mutants, which
/// are Rust in part; by path from the root.
fn all_sources() -> Vec<(String, String)> {
    let mut paths: Vec<_> =
        OF_SOURCES.iter().flat_map(|dir| files(&root().join(dir), "rs")).collect();
    let mutants = fs::read_dir(root().join("tests/mutants")).expect("a directory");
    let mutants = mutants.map(|entry| entry.expect("an entry").path());
    paths.extend(mutants.filter(|path| path.extension().is_none()));
    paths.retain(|path| !path.ends_with(file!()));
    paths.iter().map(|path| (relative(path), fs::read_to_string(path).expect("a source"))).collect()
}

/// README, CONTRIBUTING and the pages of docs, by path from the root.
fn documents() -> Vec<(String, String)> {
    let mut paths = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    paths.extend(files(&root().join("docs"), "md"));
    paths.iter().map(|path| (relative(path), fs::read_to_string(path).expect("a page"))).collect()
}

/// The words of a text in lower case, with a space around each. Names fall into their parts.
fn stream(text: &str) -> String {
    let mut stream = String::from(" ");
    let mut was_lower = false;
    for c in text.chars() {
        if !c.is_alphanumeric() {
            if !stream.ends_with(' ') {
                stream.push(' ');
            }
        } else {
            if c.is_uppercase() && was_lower {
                stream.push(' ');
            }
            stream.extend(c.to_lowercase());
        }
        was_lower = c.is_lowercase();
    }
    stream.push(' ');
    stream
}

/// Whether a stream has the word or the phrase, in the singular or the plural.
fn has(stream: &str, word: &str) -> bool {
    let word = self::stream(word);
    stream.contains(&word) || stream.contains(&format!(" {}s ", word.trim()))
}

/// The first cells of the table below a heading of the glossary.
fn column(glossary: &str, heading: &str) -> Vec<String> {
    let (_, section) = glossary.split_once(heading).expect("the heading");
    let section = section.split("\n## ").next().expect("its text");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let first = |row: &str| row.split('|').nth(1).expect("a cell").trim().replace('`', "");
    rows.flat_map(|row| first(row).split(", ").map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Lines with a vague subject: in a comment, a string or a name.
fn vague_lines(path: &str, text: &str) -> Vec<String> {
    let is_vague = |line: &str| {
        let line = stream(line);
        VAGUE.iter().any(|word| has(&line, word))
    };
    let lines = text.lines().enumerate().filter(|(_, line)| is_vague(line));
    lines.map(|(at, line)| format!("{path}:{}: {}", at + 1, line.trim())).collect()
}

/// The paragraphs and list items of a page: no tables, code, headings or pictures.
fn paragraphs(page: &str) -> Vec<String> {
    let (mut paragraphs, mut is_code) = (vec![String::new()], false);
    for line in page.lines().map(str::trim) {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        if is_fence || line.is_empty() || line.starts_with(['|', '#', '<', '!']) {
            paragraphs.push(String::new());
        } else if !is_code {
            let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
            let item = line
                .strip_prefix("- ")
                .or_else(|| number.strip_prefix(". ").filter(|_| number.len() < line.len()));
            if item.is_some() {
                paragraphs.push(String::new());
            }
            let paragraph = paragraphs.last_mut().expect("one");
            paragraph.push_str(item.unwrap_or(line));
            paragraph.push(' ');
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs
}

/// A paragraph with each piece of code as one word, and without the targets of links.
fn plain(paragraph: &str) -> String {
    let parts = paragraph.split('`').enumerate();
    let mut text: String =
        parts.map(|(at, part)| if at % 2 == 1 { "Code" } else { part }).collect();
    while let Some(at) = text.find("](") {
        let end = text[at..].find(')').map_or(text.len(), |end| at + end + 1);
        text.replace_range(at..end, "");
    }
    text.replace(['*', '[', ']', '"', '(', ')'], "")
}

/// The lengths of a page's sentences in words. A sentence ends at a full stop, a question mark or
/// an exclamation mark that a capital, a digit or the paragraph's end follows.
fn sentence_lens(page: &str) -> Vec<usize> {
    let mut lens = Vec::new();
    for paragraph in paragraphs(page) {
        let text = plain(&paragraph);
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut len = 0;
        for (at, word) in words.iter().enumerate() {
            len += usize::from(word.contains(char::is_alphanumeric));
            let next = words.get(at + 1).and_then(|word| word.chars().next());
            let begins = next.is_none_or(|c| c.is_uppercase() || c.is_ascii_digit());
            if (word.ends_with(['.', '!', '?']) && begins) || next.is_none() {
                lens.push(len);
                len = 0;
            }
        }
    }
    lens.retain(|len| *len > 0);
    lens.sort_unstable();
    lens
}

#[test]
fn every_word_of_the_glossary_occurs_in_the_sources() {
    let sources = stream(&sources().join("\n"));
    let words = column(&read("docs/glossary.md"), "\n## Words");
    let missing: Vec<_> = words.iter().filter(|word| !has(&sources, word)).collect();
    counted::tell("words of the glossary", words.len() as u64);
    assert!(missing.is_empty(), "no source has these words: {missing:?}");
    assert!(words.len() > 60, "{} words", words.len());
}

#[test]
fn no_retired_word_occurs_in_sources_or_documents() {
    let glossary = read("docs/glossary.md");
    let retired = column(&glossary, "\n## Retired words");
    let mut texts = documents();
    texts.retain(|(path, _)| path != "docs/glossary.md");
    texts.push(("src".to_owned(), sources().join("\n")));
    for (path, text) in texts {
        let text = stream(&text);
        let found: Vec<_> = retired.iter().filter(|word| has(&text, word)).collect();
        assert!(
            found.is_empty(),
            "{path} has retired words, docs/glossary.md says for what: {found:?}"
        );
    }
    let sources = stream(&sources().join("\n"));
    let going = column(&glossary, "\n## Words of the code that are going");
    for word in going.iter().filter(|word| !has(&sources, word)) {
        println!("{word} is gone from src: it can be retired");
    }
}

#[test]
fn subjects_are_threads_structs_files_and_callers() {
    let sources = all_sources();
    let documents = documents();
    let texts = sources.iter().chain(&documents);
    let vague: Vec<_> = texts.flat_map(|(path, text)| vague_lines(path, text)).collect();
    counted::tell("files with no vague subject", (sources.len() + documents.len()) as u64);
    assert!(sources.len() > 300, "{} sources", sources.len());
    assert!(vague.is_empty(), "which thread, struct, file or caller? {vague:#?}");

    // Split, capital, possessive; and what only begins so.
    for line in ["// Nobody waits", "fn reads_nobodys_block() {", "\"no-one\"", "SomeoneElse"] {
        assert_eq!(vague_lines("a", line).len(), 1, "{line}");
    }
    assert!(vague_lines("a", "// any body, no only call of anything").is_empty());
}

#[test]
fn comments_and_prose_wrap() {
    let is_long = |line: &&str| line.chars().count() > COLUMNS;
    let mut long = Vec::new();
    // Tables, too: where a row does not fit, its cells go on in the next one.
    for (path, text) in all_sources() {
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("//") && is_long(&line) {
                long.push(format!("{path}:{}", number + 1));
            }
        }
    }
    counted::tell("comment lines over 100 columns", long.len() as u64);
    assert!(long.is_empty(), "comment lines are too long: {long:#?}");

    for (path, text) in documents() {
        let mut is_code = false;
        for (number, line) in text.lines().enumerate() {
            is_code ^= line.trim_start().starts_with("```");
            let is_prose = !is_code && !line.starts_with(['|', '#', '<', '!']);
            if is_prose && is_long(&line) && !line.contains("](") && !line.contains("://") {
                long.push(format!("{path}:{}", number + 1));
            }
        }
    }
    counted::tell("lines of documents over 100 columns", long.len() as u64);
    assert!(long.is_empty(), "lines are too long: {long:#?}");
}

#[test]
fn sentences_are_short() {
    for (path, max) in MEDIANS_MAX {
        let lens = sentence_lens(&read(path));
        let median = lens[lens.len() / 2];
        println!("{path}: {} sentences, median {median}", lens.len());
        assert!(median <= max, "the median sentence of {path} has {median} words");
    }
    let mut over = 0;
    for (path, page) in documents() {
        let lens = sentence_lens(&page);
        let of_page = lens.iter().filter(|len| **len > SENTENCE_LEN_MAX).count();
        if of_page > 0 {
            println!(
                "{path}: {of_page} sentences over {SENTENCE_LEN_MAX} words, the longest {:?}",
                lens.last()
            );
        }
        over += of_page;
    }
    counted::tell("sentences of documents over 25 words", over as u64);
    assert_eq!(over, 0, "sentences that are too long");
}

#[test]
fn sentences_end_where_they_end() {
    let page = "# A heading. Not counted.\n\nOne two `a. B` four. Five, e.g. this\n[one](to/a.md) ends! 12 more?\n\
                - An item without an end\n1. Two words.\n\n| a | table. |\n```\ncode. Code.\n```\n";
    assert_eq!(sentence_lens(page), [2, 2, 4, 5, 5]);
}
