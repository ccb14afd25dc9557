//! Faults: every operation of a workload fails, in every way, once or from there on.
//!
//! Owns the failure policy as a caller sees it. An interrupted or short transfer is no failure.
//! Without space a commit is refused and the store goes on once there is space. After any other
//! failed write or sync the store takes no commit until it is opened again; it still shows every
//! commit that was acknowledged. The model tells what may be there later.

#[path = "../fault_kinds.rs"]
mod fault_kinds;

use aegis_blocks::Error;
use aegis_blocks::io::sim::{
    CrashChoice, Fault, FaultKind, Operation, OperationKind, Profile, Share, SimDisk, SyncFailure,
};

use super::cuts::{Cut, Tape, check_goes_on, leave};
use super::oracle::History;
use super::tally::{Case, Tally};
use super::workload::{Run, counts, reopen};
use fault_kinds::OF_THE_DISK;

/// Paths that a sweep over faults must take.
pub const PATHS: &[&str] = &[
    "poisoned",
    "storage full",
    "healed",
    "transparent",
    "open failed",
    "unknown kept",
    "unknown lost",
];

/// Shortages of the process, besides [`OF_THE_DISK`].
const SHORTAGES: [FaultKind; 3] = [FaultKind::Emfile, FaultKind::Enomem, FaultKind::Efbig];

/// What happens after the workload.
#[derive(Debug, Clone)]
enum End {
    /// The store is closed and opened again.
    Close,
    /// The store is used on, once the disk is well again.
    GoOn,
    /// The run ends; then the cache loses what a failed sync has left in it.
    DropCaches,
    Cut(Cut),
}

fn ends(seed: u64) -> [End; 8] {
    let random = |seed, garbage| End::Cut(Cut::Power(CrashChoice::Random { seed, garbage }));
    [
        End::Close,
        End::GoOn,
        End::DropCaches,
        End::Cut(Cut::Kill),
        End::Cut(Cut::Power(CrashChoice::Nothing)),
        End::Cut(Cut::Power(CrashChoice::Everything)),
        random(seed, false),
        random(seed, true),
    ]
}

/// A fault, the operation that it strikes, and what a failed sync does to the cache.
#[derive(Debug, Clone, Copy)]
struct Strike {
    struck: OperationKind,
    fault: Fault,
    behaviour: SyncFailure,
}

/// Where a workload starts.
pub struct Start {
    pub word: String,
    disk: SimDisk,
    history: History,
}

impl Start {
    /// On an empty disk.
    pub fn fresh(word: &str, profile: Profile, seed: u64) -> Start {
        let disk = SimDisk::new(seed);
        disk.set_profile(profile);
        Start { word: word.to_string(), disk, history: History::new() }
    }

    /// On what a cut left of another workload, shortly before its end.
    pub fn crashed(word: &str, profile: Profile, seed: u64) -> Start {
        let tape = Tape::record(word, profile, seed);
        let image = &tape.images[tape.images.len() - 4];
        let choice = match seed % 3 {
            0 => CrashChoice::Nothing,
            1 => CrashChoice::Everything,
            _ => CrashChoice::Random { seed, garbage: false },
        };
        let disk = image.disk.crash(choice);
        let mut history = tape.history;
        let store = reopen(word, &disk.freeze());
        let count = history.check(&store, counts(image.mark));
        history.settle(count);
        Start { word: word.to_string(), disk, history }
    }

    fn run(&self) -> Run {
        Run::resume(&self.word, self.disk.freeze(), self.history.clone())
    }

    /// The operations when nothing fails.
    fn operations(&self, tally: &mut Tally) -> Vec<Operation> {
        let mut run = self.run();
        let operations = run.whole_recorded(&self.word);
        assert!(run.failures.is_empty(), "{} fails by itself: {:?}", self.word, run.failures);
        run.paths.iter().for_each(|path| tally.took(path, true));
        operations
    }
}

/// Lets every operation fail in every way.
pub fn sweep(tally: &mut Tally, case: &Case, start: &Start, share: u64) {
    for operation in start.operations(tally) {
        for kind in
            OF_THE_DISK.into_iter().chain(SHORTAGES).filter(|kind| concerns(*kind, operation.kind))
        {
            for sticky in [false, true] {
                let fault = Fault { at_operation: operation.index, kind, sticky };
                let case = case.within(format_args!("{}/{kind:?}/{sticky}", operation.index));
                let behaviour = SyncFailure::CacheKept;
                let strike = Strike { struck: operation.kind, fault, behaviour };
                try_ends(tally, &case, start, strike, share);
            }
        }
    }
}

/// Whether an operation can fail in this way.
fn concerns(kind: FaultKind, operation: OperationKind) -> bool {
    use OperationKind as K;
    let is_sync = matches!(operation, K::SyncData | K::SyncDir);
    match kind {
        FaultKind::EioAfterEffect => operation.is_change(),
        FaultKind::Enospc | FaultKind::Edquot => operation.is_change() && operation != K::Remove,
        FaultKind::Emfile => matches!(operation, K::Create | K::Open),
        FaultKind::Enomem => operation == K::Map,
        FaultKind::Efbig => matches!(operation, K::Zero | K::SetLen),
        FaultKind::Eintr => is_sync || matches!(operation, K::Read | K::Write),
        FaultKind::ShortWrite(_) | FaultKind::WriteZero => operation == K::Write,
        FaultKind::ShortRead(_) => operation == K::Read,
        _ => true,
    }
}

/// Lets every sync fail, and the next one report success.
pub fn sweep_syncs(tally: &mut Tally, case: &Case, start: &Start, share: u64) {
    let is_sync = |operation: &Operation| {
        matches!(operation.kind, OperationKind::SyncData | OperationKind::SyncDir)
    };
    for operation in start.operations(tally).into_iter().filter(is_sync) {
        for kind in [FaultKind::Eio, FaultKind::Enospc, FaultKind::Edquot, FaultKind::Eintr] {
            for behaviour in [SyncFailure::CacheKept, SyncFailure::CacheReverted] {
                let fault = Fault { at_operation: operation.index, kind, sticky: false };
                let case = case.within(format_args!("{}/{kind:?}/{behaviour:?}", operation.index));
                let strike = Strike { struck: operation.kind, fault, behaviour };
                try_ends(tally, &case, start, strike, share);
            }
        }
    }
}

fn try_ends(tally: &mut Tally, case: &Case, start: &Start, strike: Strike, share: u64) {
    let ends = ends(case.seed());
    let (chosen, mut ran) = ((case.seed() % ends.len() as u64) as usize, false);
    for (number, end) in ends.into_iter().enumerate() {
        let case = case.within(number);
        // A long run tries every fault with one end at least.
        let share = if number == chosen && tally.is_long() { 1 } else { share };
        if tally.runs(&case, share) {
            ran = true;
            let _trying = case.trying((strike, &end));
            let mut run = start.run();
            run.disk.set_sync_failure(strike.behaviour);
            run.disk.inject(strike.fault);
            if carry_out(&mut run, &start.word) {
                tally.count("faults");
                check_policy(tally, &run, strike);
                check_end(tally, run, &start.word, strike, &end, case.seed());
            }
        }
    }
    tally.add("faults left out", u64::from(!ran));
}

/// Carries a word out on a failing disk; false when nothing failed.
fn carry_out(run: &mut Run, word: &str) -> bool {
    run.open();
    if run.store.is_none() {
        run.open();
    }
    word.bytes().for_each(|letter| run.step(letter));
    if run.disk.faults_struck() == 0 {
        run.close();
    }
    run.disk.faults_struck() > 0
}

/// What a caller may see of one fault.
fn check_policy(tally: &mut Tally, run: &Run, strike: Strike) {
    let Strike { struck, fault, behaviour } = strike;
    let is_sync = matches!(struck, OperationKind::SyncData | OperationKind::SyncDir);
    let transparent = match fault.kind {
        FaultKind::Eintr => !is_sync && !fault.sticky,
        FaultKind::ShortWrite(_) | FaultKind::ShortRead(_) => true,
        _ => false,
    };
    if transparent {
        assert!(run.failures.is_empty(), "{fault:?} of a {struck:?} shows: {:?}", run.failures);
    }
    let no_space = matches!(fault.kind, FaultKind::Enospc | FaultKind::Edquot);
    if no_space && !fault.sticky && !is_sync && struck != OperationKind::Write {
        let poisoned = run.failures.iter().find(|e| matches!(e, Error::Poisoned { .. }));
        assert!(poisoned.is_none(), "no space for a {struck:?} poisons");
    }
    let is_short = matches!(fault.kind, FaultKind::Emfile | FaultKind::Enomem | FaultKind::Efbig);
    if is_short {
        let poisoned = run.failures.iter().find(|e| matches!(e, Error::Poisoned { .. }));
        assert!(poisoned.is_none() && !run.poisoned, "{:?} of a {struck:?} poisons", fault.kind);
    }
    if let Some(store) = &run.store {
        // Bytes of buffered commits that the cache forgot may not even be there to be read.
        let forgot = behaviour == SyncFailure::CacheReverted;
        if !forgot || run.history.live() == run.history.floor() {
            run.history.check(store, run.history.live()..=run.history.live());
        }
    }
    let full = run.failures.iter().any(|error| matches!(error, Error::StorageFull { .. }));
    tally.took("storage full", full);
    tally.took("poisoned", run.poisoned);
    tally.took("transparent", transparent);
    tally.took("open failed", run.store.is_none());
}

fn check_end(tally: &mut Tally, mut run: Run, word: &str, strike: Strike, end: &End, seed: u64) {
    run.disk.clear_faults();
    let most = run.history.most();
    let unknown = most > run.history.live();
    match end {
        End::Close => {
            run.close();
            run.open();
        }
        End::GoOn => go_on(tally, &mut run, strike.struck, strike.fault),
        End::DropCaches => end_with(&mut run, &Cut::Kill),
        End::Cut(cut) => end_with(&mut run, cut),
    }
    if run.store.is_none() && !run.poisoned {
        run.open();
    }
    let Some(store) = run.store.take() else { panic!("O1: {:?}", run.failures) };
    let count = run.history.live();
    if unknown && !matches!(end, End::GoOn) {
        tally.took("unknown kept", count == most);
        tally.took("unknown lost", count < most);
    }
    if matches!(end, End::DropCaches) {
        run.disk.drop_caches();
    }
    if !(run.poisoned && matches!(end, End::GoOn)) {
        run.history.check(&store, count..=count);
    }
    // O5: what was answered stays. A store that went on may hold commits that are not synced.
    let left = run.disk.crash(CrashChoice::Nothing);
    leave(store, &run.disk);
    let store = reopen(word, &left);
    let count = run.history.check(&store, run.history.floor()..=run.history.most());
    run.history.settle(count);
    if seed.is_multiple_of(4) {
        check_goes_on(word, store, &left, run.history, seed);
    } else {
        leave(store, &left);
    }
}

/// Ends the run in the middle of things and opens the store again.
fn end_with(run: &mut Run, cut: &Cut) {
    let left = cut.apply(&run.disk);
    if let Some(store) = run.store.take() {
        leave(store, &run.disk);
    }
    run.disk = left;
    run.open();
}

/// Uses the store after the disk is well again.
fn go_on(tally: &mut Tally, run: &mut Run, struck: OperationKind, fault: Fault) {
    if run.store.is_none() {
        run.open();
    }
    run.step(b'g');
    let (poisoned, before) = (run.poisoned, run.failures.len());
    run.step(b's');
    run.step(b'l');
    let failures = &run.failures[before..];
    if poisoned {
        let refused = failures.iter().all(|error| matches!(error, Error::Poisoned { .. }));
        assert!(refused && failures.len() == 2, "a poisoned store answers {failures:?}");
    }
    let space = matches!(fault.kind, FaultKind::Enospc | FaultKind::Edquot);
    let space = space && matches!(struck, OperationKind::Zero | OperationKind::Create);
    if space && !fault.sticky {
        assert!(failures.is_empty(), "space is back: {failures:?}");
        tally.took("healed", true);
    }
}
