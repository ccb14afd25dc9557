//! One run of the machine: everything about a simulated disk that a power cut takes away.
//!
//! Owns the operation count, faults, the lock, open files and the bytes that readers hold. Each
//! call of the program passes through [`Shared::run`], which decides whether the operation happens,
//! and what it reports.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::{fmt, io};

use super::super::FileName;
use super::change::FileId;
use super::fault::{Effect, Faults, Operation, OperationKind, Verdict};
use super::media::Media;
use super::{Shared, SimDisk, SyncFailure};

#[derive(Debug)]
pub(super) struct State {
    pub(super) media: Media,
    pub(super) operations: u64,
    pub(super) faults: Faults,
    pub(super) crash_point: Option<CrashPoint>,
    pub(super) crashed: bool,
    /// The holders of the lock: one writer, or a number of readers.
    pub(super) is_locked: bool,
    pub(super) look_count: u64,
    pub(super) sync_failure: SyncFailure,
    pub(super) log: Option<Vec<Operation>>,
    pub(super) images: Option<Vec<Image>>,
    pub(super) mark: u64,
    pub(super) violations: Vec<String>,
    /// How many handles and views keep each file.
    open: BTreeMap<FileId, u64>,
    /// Ranges of files that readers hold through a view.
    pins: BTreeMap<FileId, Vec<Weak<Pin>>>,
    pins_checked_count: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct CrashPoint {
    pub(super) operation: u64,
    pub(super) takes_effect: bool,
}

/// A range of a file that a reader holds.
#[derive(Debug)]
pub(super) struct Pin(pub(super) Range<u64>);

/// A disk as it was before an operation.
#[derive(Debug, Clone)]
pub struct Image {
    /// The number of the operation.
    pub operation: u64,
    /// The last mark that was set before.
    pub mark: u64,
    /// The disk; cut its power to see the rest.
    pub disk: SimDisk,
}

/// The error of every call after the power is gone.
#[derive(Debug)]
struct PowerLoss;

impl fmt::Display for PowerLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("crashed")
    }
}

impl std::error::Error for PowerLoss {}

fn power_loss() -> io::Error {
    io::Error::other(PowerLoss)
}

/// Returns whether an error says that the simulated power is gone.
pub fn is_power_loss(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<PowerLoss>())
}

impl Shared {
    /// Runs an operation, or a part of it, or none.
    pub(super) fn run<T>(
        self: &Arc<Self>,
        kind: OperationKind,
        name: Option<FileName>,
        body: impl FnOnce(&mut State, Effect) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.images.is_some() && kind.is_change() && !state.crashed {
            state.keep_image(self);
        }
        let Verdict { effect, error } = state.admit(kind, name)?;
        let result = body(&mut state, effect);
        match error {
            // The result may own a value whose drop takes the lock.
            Some(error) => {
                drop(state);
                drop(result);
                Err(error)
            }
            None => result,
        }
    }

    /// Runs an operation that happens completely or not at all.
    pub(super) fn run_whole<T>(
        self: &Arc<Self>,
        kind: OperationKind,
        name: Option<FileName>,
        body: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.run(kind, name, |state, effect| match effect {
            Effect::Full | Effect::Short(_) => body(state),
            // Replaced by the fault's own error.
            Effect::Fail | Effect::Nothing => Err(io::ErrorKind::Other.into()),
        })
    }
}

impl State {
    pub(super) fn new(media: Media) -> State {
        State {
            media,
            operations: 0,
            faults: Faults::default(),
            crash_point: None,
            crashed: false,
            is_locked: false,
            look_count: 0,
            sync_failure: SyncFailure::default(),
            log: None,
            images: None,
            mark: 0,
            violations: Vec::new(),
            open: BTreeMap::new(),
            pins: BTreeMap::new(),
            pins_checked_count: 0,
        }
    }

    /// Counts the next operation and decides about it.
    fn admit(&mut self, kind: OperationKind, name: Option<FileName>) -> io::Result<Verdict> {
        if self.crashed {
            return Err(power_loss());
        }
        let operation = Operation { index: self.operations, kind, name };
        self.operations += 1;
        if let Some(log) = &mut self.log {
            log.push(operation);
        }
        match self.crash_point {
            Some(point) if operation.index >= point.operation => {
                self.crashed = true;
                if !point.takes_effect {
                    return Err(power_loss());
                }
                Ok(Verdict { effect: Effect::Full, error: Some(power_loss()) })
            }
            _ => Ok(self.faults.judge(operation)),
        }
    }

    fn keep_image(&mut self, shared: &Arc<Shared>) {
        let disk = SimDisk { shared: Arc::clone(shared) }.successor(self.media.clone());
        let image = Image { operation: self.operations, mark: self.mark, disk };
        self.images.get_or_insert_default().push(image);
    }

    pub(super) fn open_file(&mut self, file: FileId) {
        *self.open.entry(file).or_default() += 1;
    }

    pub(super) fn close_file(&mut self, file: FileId) {
        let count = self.open.get_mut(&file).expect("a file that was opened");
        *count -= 1;
        if *count == 0 {
            self.open.remove(&file);
            self.collect();
        }
    }

    pub(super) fn collect(&mut self) {
        self.media.collect(|file| self.open.contains_key(&file));
    }

    pub(super) fn free_space(&self) -> u64 {
        self.media.free_space(|file| self.open.contains_key(&file))
    }

    /// Remembers that a reader holds a range.
    pub(super) fn pin(&mut self, file: FileId, pin: &Arc<Pin>) {
        let pins = self.pins.entry(file).or_default();
        if pins.len() >= 2 * self.pins_checked_count.max(PIN_COUNT_MIN) {
            pins.retain(|pin| pin.strong_count() > 0);
            self.pins_checked_count = pins.len();
        }
        pins.push(Arc::downgrade(pin));
    }

    /// Returns the ranges of a file that readers hold, as far as they lie in `range`.
    pub(super) fn pinned(&self, file: FileId, range: Range<u64>) -> Vec<Range<u64>> {
        let held = self.pins.get(&file).into_iter().flatten().filter_map(Weak::upgrade);
        let overlaps = held.map(|pin| pin.0.start.max(range.start)..pin.0.end.min(range.end));
        overlaps.filter(|overlap| !overlap.is_empty()).collect()
    }

    /// Notes a mistake of the program and panics.
    pub(super) fn violate(&mut self, what: String) -> ! {
        self.violations.push(what.clone());
        panic!("{what}");
    }
}

const PIN_COUNT_MIN: usize = 32;

#[cfg(test)]
impl State {
    pub(super) fn pin_count(&self) -> usize {
        self.pins.values().map(Vec::len).sum()
    }
}
