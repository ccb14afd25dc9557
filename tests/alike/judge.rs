//! What is said of a store, by all who say something.

use std::fmt;
use std::path::Path;

use aegis_blocks::{Error, LocalBackend, Probe, StorageBackend};

use crate::files::contents;
use crate::kinds::{State, Store, copy, options, version_of};

/// What all of them say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was acknowledged is there.
    Whole,
    /// The damage, for which the store does not open.
    Named(String),
    /// The damage, which all name, and without which the store opens: what it costs is named when
    /// it is read.
    InPart(String),
    /// The damage, which verification names, and those who read what is damaged.
    Unread(String),
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
            Verdict::InPart(damage) => write!(f, "named, and opened: {damage}"),
            Verdict::Unread(damage) => write!(f, "named when read: {damage}"),
            Verdict::Shorter(count) => write!(f, "{count} commits shorter"),
            Verdict::Wrong(why) => write!(f, "WRONG: {why}"),
        }
    }
}

/// What an open store shows.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    state: State,
    /// Why the rest is not shown.
    unread: Option<String>,
    checkpoint_damaged: bool,
}

/// Asks every command. Those that only look may change nothing, nor may an open that refuses.
pub fn judge(store: &Store, path: &Path) -> Verdict {
    let before = contents(path);
    let probed = match LocalBackend::probe(path).expect("an answer") {
        Probe::Damaged(damage) => Some(format!("{} in {}", damage.defect, damage.place)),
        _ => None,
    };
    let verified = LocalBackend::verify(path).expect("an answer").damage;
    let verified: Vec<_> =
        verified.iter().map(|d| format!("{} in {}", d.defect, d.place)).collect();
    let read = shown(options(store.kind).read_only(true).open(path));
    if contents(path) != before {
        return Verdict::Wrong("who only looks has changed something".to_string());
    }
    let open = path.with_extension("open");
    copy(path, &open);
    let written = shown(options(store.kind).open(&open));
    let is_unchanged = contents(&open) == before;
    if read != written {
        return Verdict::Wrong(format!("open to be read {read:?}, open to be written {written:?}"));
    }
    match (probed, read) {
        (Some(damage), _) if !verified.contains(&damage) => {
            Verdict::Wrong(format!("verify names {verified:?}, not {damage}"))
        }
        (Some(damage), Err(refused)) => match damage == refused && is_unchanged {
            true => Verdict::Named(damage),
            false => Verdict::Wrong(format!("{damage}; {refused}; unchanged: {is_unchanged}")),
        },
        (Some(damage), Ok(shown)) => {
            match shown.checkpoint_damaged && is_part(&shown.state, &store.states) {
                true => Verdict::InPart(damage),
                false => Verdict::Wrong(format!("{damage}; {shown:?}")),
            }
        }
        (None, Err(refused)) => Verdict::Wrong(format!("not probed: {refused}")),
        (None, Ok(shown)) => match (shown.unread, verified.into_iter().next()) {
            (None, None) => measure(&shown.state, &store.states),
            (Some(_), Some(damage)) => Verdict::Unread(damage),
            (unread, damage) => Verdict::Wrong(format!("read {unread:?}, verified {damage:?}")),
        },
    }
}

/// How much of a store's history a state holds.
fn measure(state: &State, states: &[State]) -> Verdict {
    let newest = states.len() - 1;
    match states.iter().rposition(|known| known == state) {
        Some(at) if at == newest => Verdict::Whole,
        Some(at) => Verdict::Shorter(newest - at),
        // A life that went on has written more on top.
        None if holds(state, &states[newest]) => Verdict::Whole,
        None => Verdict::Wrong(format!("a state that never was: {state:?}")),
    }
}

/// Whether all blocks of a state are there, perhaps in later versions.
fn holds(found: &State, state: &State) -> bool {
    state.iter().all(|(id, version)| found.get(id).is_some_and(|found| found >= version))
}

/// Whether nothing but what the newest state has is there.
fn is_part(found: &State, states: &[State]) -> bool {
    found.iter().all(|(id, version)| states[states.len() - 1].get(id) == Some(version))
}

/// What an open store shows, or why it does not open.
fn shown(opened: aegis_blocks::Result<LocalBackend>) -> Result<Shown, String> {
    let words = |error: Error| match error {
        Error::Corrupt { defect, place } => format!("{defect} in {place}"),
        other => format!("another error: {other}"),
    };
    let store = opened.map_err(words)?;
    let checkpoint_damaged = store.recovery().checkpoint_damaged;
    let mut shown = Shown { state: State::new(), unread: None, checkpoint_damaged };
    let ids = store.ids(..).map_err(|error| shown.unread = Some(words(error)));
    for id in ids.unwrap_or_default() {
        match store.read_block(id) {
            Ok(block) => {
                let version = version_of(id.0, &block.data).ok_or("bytes that are made up")?;
                shown.state.insert(id.0, version);
            }
            Err(error) => drop(shown.unread.get_or_insert(words(error))),
        }
    }
    Ok(shown)
}
