//! What is said of a store, by all who say something.

use std::fmt;
use std::path::Path;

use aegis_blocks::{Error, LocalBackend, Probe, StorageBackend};

use crate::kinds::{State, Store, copy, files, options, version_of};

/// What all of them say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was acknowledged is there.
    Whole,
    /// The damage.
    Named(String),
    /// Nothing is wrong, and so many of the last commits are not there.
    Shorter(usize),
    /// What they say does not go together, or is not true.
    Wrong(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Whole => write!(f, "whole"),
            Verdict::Named(damage) => write!(f, "named: {damage}"),
            Verdict::Shorter(count) => write!(f, "{count} commits shorter"),
            Verdict::Wrong(why) => write!(f, "WRONG: {why}"),
        }
    }
}

/// Asks everybody. Those who only look may change nothing, and who refuses to open may not either.
pub fn judge(store: &Store, path: &Path) -> Verdict {
    let before = files(path);
    let probed = match LocalBackend::probe(path).expect("an answer") {
        Probe::Damaged(damage) => Some(format!("{} in {}", damage.defect, damage.place)),
        _ => None,
    };
    let verified = LocalBackend::verify(path).expect("an answer").damage;
    let verified: Vec<_> =
        verified.iter().map(|d| format!("{} in {}", d.defect, d.place)).collect();
    let read = shown(options(store.kind).read_only(true).open(path));
    if files(path) != before {
        return Verdict::Wrong("who only looks has changed something".to_string());
    }
    let open = path.with_extension("open");
    copy(path, &open);
    let written = shown(options(store.kind).open(&open));
    let is_unchanged = files(&open) == before;
    match (probed, read, written) {
        (Some(damage), Err(read), Err(written)) if damage == read && read == written => {
            match (verified.contains(&damage), is_unchanged) {
                (false, _) => Verdict::Wrong(format!("verify does not name {damage}")),
                (true, false) => Verdict::Wrong(format!("changed in spite of {damage}")),
                (true, true) => Verdict::Named(damage),
            }
        }
        (None, Ok(read), Ok(written)) if read == written && verified.is_empty() => {
            let newest = store.states.len() - 1;
            match store.states.iter().rposition(|state| *state == read) {
                Some(at) => match newest - at {
                    0 => Verdict::Whole,
                    short => Verdict::Shorter(short),
                },
                None => Verdict::Wrong(format!("a state that never was: {read:?}")),
            }
        }
        (probed, read, written) => Verdict::Wrong(format!(
            "probe {probed:?}, verify {verified:?}, read {:?}, open {:?}",
            read.map(|state| state.len()),
            written.map(|state| state.len())
        )),
    }
}

/// What an open store shows, or why there is none.
fn shown(opened: aegis_blocks::Result<LocalBackend>) -> Result<State, String> {
    let words = |error: Error| match error {
        Error::Corrupt { defect, place } => format!("{defect} in {place}"),
        other => format!("another error: {other}"),
    };
    let store = opened.map_err(words)?;
    let mut state = State::new();
    for id in store.ids(..).map_err(words)? {
        let block =
            store.read_block(id).map_err(|error| format!("on reading: {}", words(error)))?;
        let version = version_of(id.0, &block.data).ok_or("made up bytes")?;
        state.insert(id.0, version);
    }
    Ok(state)
}
