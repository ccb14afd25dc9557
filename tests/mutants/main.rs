//! Mutants: bugs that are planted in a copy of the sources, one at a time, so that the tests are
//! tested.
//!
//! Each file beside this one is a mutant, named as the file. Nothing of it is compiled into the
//! product: `scripts/mutants` copies the checkout, writes all mutants into the copy, builds that
//! once, and chooses one by the variable `AEGIS_MUTANT`. The test that the mutant names must fail
//! then.
//!
//! ```text
//! test: PROGRAM NAME         the test that must fail: a program of tests/, or lib
//! what: ONE LINE             what the bug does
//! file: PATH                 the source that is changed; several of these groups may follow
//! --- old
//! whole lines that occur once in the file, as many as that takes
//! --- new
//! the same with the bug, where crate::mutant::on("the mutant's name")
//! ```
//!
//! Without an argument (`cargo test`) the program checks that all mutants still apply, that no two
//! change the same line, and that their tests exist. `list` prints them, `write DIR` writes them
//! into a copy.

#[path = "../support/counted.rs"]
mod counted;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The switch that the copy is compiled with.
const SWITCH: &str = r#"//! Chooses the mutant that is active.

/// Whether `AEGIS_MUTANT` names this mutant.
pub(crate) fn on(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("AEGIS_MUTANT").ok()).as_deref() == Some(name)
}
"#;

/// The crates that compile the sources, each with the line that brings the switch in.
const ROOTS: [(&str, &str); 4] = [
    ("src/lib.rs", "mod mutant;\n"),
    ("program/src/main.rs", "#[path = \"../../src/mutant.rs\"]\nmod mutant;\n"),
    ("tests/loom/main.rs", "#[path = \"../../src/mutant.rs\"]\nmod mutant;\n"),
    ("tests/shuttle/main.rs", "#[path = \"../../src/mutant.rs\"]\nmod mutant;\n"),
];

/// One place of a source, before and after.
struct Change {
    file: String,
    old: String,
    new: String,
}

/// A bug, and the test that must fail with it.
struct Mutant {
    name: String,
    program: String,
    test: String,
    what: String,
    changes: Vec<Change>,
}

/// The part of a mutant's file that lines are read into.
enum Part {
    Head,
    Old,
    New,
}

fn parse(name: &str, text: &str) -> Result<Mutant, String> {
    let mut mutant = Mutant {
        name: name.to_owned(),
        program: String::new(),
        test: String::new(),
        what: String::new(),
        changes: Vec::new(),
    };
    let mut part = Part::Head;
    for line in text.lines() {
        if let Some(file) = line.strip_prefix("file: ") {
            let file = file.trim().to_owned();
            mutant.changes.push(Change { file, old: String::new(), new: String::new() });
            part = Part::Head;
            continue;
        }
        if line == "--- old" || line == "--- new" {
            part = if line == "--- old" { Part::Old } else { Part::New };
            continue;
        }
        match (&part, mutant.changes.last_mut()) {
            (Part::Old, Some(change)) => change.old += &format!("{line}\n"),
            (Part::New, Some(change)) => change.new += &format!("{line}\n"),
            _ => read_head(&mut mutant, line)?,
        }
    }
    let complete = !mutant.test.is_empty() && !mutant.what.is_empty() && !mutant.changes.is_empty();
    let switched =
        mutant.changes.iter().any(|c| c.new.contains(&format!("mutant::on(\"{name}\")")));
    match (complete, switched) {
        (false, _) => {
            Err("wants `test:`, `what:` and at least one `file:` with old and new".into())
        }
        (_, false) => Err(format!("has no `mutant::on(\"{name}\")` in what is new")),
        _ => Ok(mutant),
    }
}

fn read_head(mutant: &mut Mutant, line: &str) -> Result<(), String> {
    if let Some(test) = line.strip_prefix("test: ") {
        let (program, name) = test.trim().split_once(' ').ok_or("`test:` wants PROGRAM NAME")?;
        (mutant.program, mutant.test) = (program.to_owned(), name.to_owned());
    } else if let Some(what) = line.strip_prefix("what: ") {
        mutant.what = what.trim().to_owned();
    } else if !line.trim().is_empty() {
        return Err(format!("has a line that belongs to nothing: {line}"));
    }
    Ok(())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All mutants, by name.
fn load() -> Result<Vec<Mutant>, String> {
    let entries = fs::read_dir(root().join("tests/mutants")).map_err(|e| e.to_string())?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    paths.retain(|path| path.extension().is_none());
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))?;
        parse(&name, &text).map_err(|why| format!("{name} {why}"))
    };
    paths.iter().map(read).collect()
}

/// A change of a source: the lines from `first` up to `end` become others.
struct Edit {
    first: usize,
    end: usize,
    new: Vec<String>,
    mutant: String,
}

/// The lines of a change that differ, with their place in the source; an error when the old lines
/// are not there once.
fn locate(source: &str, change: &Change, mutant: &str) -> Result<Edit, String> {
    let count = source.matches(&change.old).count();
    let at = source
        .find(&change.old)
        .filter(|_| count == 1)
        .ok_or_else(|| format!("{mutant}: its lines are {count} times in {}", change.file))?;
    let (old, new): (Vec<&str>, Vec<&str>) =
        (change.old.lines().collect(), change.new.lines().collect());
    let before = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[before..], &new[before..]);
    let after = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let first = source[..at].lines().count() + before;
    Ok(Edit {
        first,
        end: first + old.len() - after,
        new: new[..new.len() - after].iter().map(|&line| line.to_owned()).collect(),
        mutant: mutant.to_owned(),
    })
}

/// A source with all edits, from the last to the first. Two that change the same line are an error.
fn edited(file: &str, source: &str, mut edits: Vec<Edit>) -> Result<String, String> {
    edits.sort_by_key(|edit| (edit.first, edit.end));
    for pair in edits.windows(2) {
        if pair[0].end > pair[1].first {
            let (one, other) = (&pair[0].mutant, &pair[1].mutant);
            return Err(format!("{one} and {other} change the same line of {file}"));
        }
    }
    let mut lines: Vec<String> = source.lines().map(str::to_owned).collect();
    for edit in edits.into_iter().rev() {
        lines.splice(edit.first..edit.end, edit.new);
    }
    Ok(lines.join("\n") + "\n")
}

/// The sources with every mutant in them, by path, and what does not apply.
fn apply(mutants: &[Mutant]) -> (BTreeMap<String, String>, Vec<String>) {
    let mut sources: BTreeMap<&str, (String, Vec<Edit>)> = BTreeMap::new();
    let mut complaints = Vec::new();
    for mutant in mutants {
        for change in &mutant.changes {
            let (source, edits) = sources.entry(&change.file).or_insert_with(|| {
                (fs::read_to_string(root().join(&change.file)).unwrap_or_default(), Vec::new())
            });
            match locate(source, change, &mutant.name) {
                Ok(edit) => edits.push(edit),
                Err(why) => complaints.push(why),
            }
        }
    }
    let mut changed = BTreeMap::new();
    for (file, (source, edits)) in sources {
        match edited(file, &source, edits) {
            Ok(text) => drop(changed.insert(file.to_owned(), text)),
            Err(why) => complaints.push(why),
        }
    }
    (changed, complaints)
}

/// All text of the sources that hold the tests of a program.
fn sources_of(program: &str) -> String {
    fn collect(path: &Path, text: &mut String) {
        if path.is_dir() {
            let Ok(entries) = fs::read_dir(path) else { return };
            for entry in entries.flatten() {
                collect(&entry.path(), text);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *text += &fs::read_to_string(path).unwrap_or_default();
        }
    }
    let mut text = String::new();
    if program == "lib" {
        collect(&root().join("src"), &mut text);
        collect(&root().join("tests/inside"), &mut text);
        collect(&root().join("tests/inside"), &mut text);
    } else {
        collect(&root().join("tests").join(program), &mut text);
        collect(&root().join("program/tests").join(program), &mut text);
        collect(&root().join("tests").join(format!("{program}.rs")), &mut text);
        // Suites share claims and workloads.
        collect(&root().join("tests/support"), &mut text);
    }
    text
}

/// What is wrong with the mutants: nothing, if they all apply and name tests.
fn check(mutants: &[Mutant]) -> Vec<String> {
    let (_, mut complaints) = apply(mutants);
    let mut sources = BTreeMap::new();
    for mutant in mutants {
        let text: &String =
            sources.entry(&mutant.program).or_insert_with(|| sources_of(&mutant.program));
        let function = mutant.test.rsplit("::").next().unwrap_or_default();
        // A function, a claim of a sweep, or a row of a macro that makes tests.
        let forms = ["fn NAME(", "\"NAME\"", "NAME: \""].map(|form| form.replace("NAME", function));
        // A test beside the sources is named with its modules, or the runner does not find it.
        let in_full = mutant.program != "lib" || mutant.test.contains("::");
        if !in_full || !forms.iter().any(|form| text.contains(form)) {
            complaints.push(format!(
                "{}: there is no test {} in {}",
                mutant.name, mutant.test, mutant.program
            ));
        }
    }
    complaints
}

/// Writes the sources with every mutant, and the switch, into a copy of the checkout.
fn write(mutants: &[Mutant], dir: &Path) -> Result<(), String> {
    let put = |path: &str, text: &str| {
        fs::write(dir.join(path), text).map_err(|e| format!("{path}: {e}"))
    };
    let (mut changed, complaints) = apply(mutants);
    if !complaints.is_empty() {
        return Err(complaints.join("\n"));
    }
    for (path, line) in ROOTS {
        let source = changed
            .entry(path.to_owned())
            .or_insert_with(|| fs::read_to_string(root().join(path)).unwrap_or_default());
        *source += line;
    }
    for (path, text) in &changed {
        put(path, text)?;
    }
    put("src/mutant.rs", SWITCH)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = load().and_then(|mutants| match words[..] {
        ["list"] => {
            for mutant in &mutants {
                println!("{}|{}|{}|{}", mutant.name, mutant.what, mutant.program, mutant.test);
            }
            Ok(())
        }
        ["write", dir] => write(&mutants, Path::new(dir)),
        _ => {
            let complaints = check(&mutants);
            if !complaints.is_empty() {
                return Err(complaints.join("\n"));
            }
            counted::tell("mutants that apply and name a test", mutants.len() as u64);
            Ok(())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
