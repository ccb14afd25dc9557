//! Errors on purpose: which operation fails, how, and with what effect.
//!
//! Owns the list of armed [`Fault`]s and the count of operations. Every call of
//! [`Disk`](crate::io::Disk) and [`DiskFile`](crate::io::DiskFile) is an operation, numbered
//! from 0. A fault that makes no sense for the operation it meets (no space for a read) passes it
//! by. The operation itself decides how an effect changes its files.

use std::io;

use super::super::{FileName, PAGE_LEN};
use super::content::SECTOR_LEN;

/// The kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the call of the same name")]
pub enum OperationKind {
    /// [`How::CreateNew`](crate::io::How::CreateNew).
    Create,
    Open,
    Rename,
    Remove,
    List,
    SyncDir,
    Lock,
    /// Taking the shared lock, which makes no file.
    LockShared,
    FreeSpace,
    /// Plain or vectored.
    Write,
    Read,
    Map,
    SyncData,
    Zero,
    SetLen,
    Len,
}

impl OperationKind {
    /// Returns whether a power cut before the operation can leave other bytes than one after it.
    pub fn is_change(self) -> bool {
        use OperationKind as K;
        matches!(
            self,
            K::Create
                | K::Rename
                | K::Remove
                | K::SyncDir
                | K::Lock
                | K::Write
                | K::SyncData
                | K::Zero
                | K::SetLen
        )
    }

    fn is_sync(self) -> bool {
        matches!(self, OperationKind::SyncData | OperationKind::SyncDir)
    }
}

/// An operation that was carried out or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its number.
    pub index: u64,
    /// Its kind.
    pub kind: OperationKind,
    /// The file it was about, by the name it was opened with.
    pub name: Option<FileName>,
}

/// How much of a short transfer gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// One byte.
    OneByte,
    /// Half of the bytes.
    Half,
    /// All but the last byte.
    AllButOne,
}

impl Share {
    /// Returns the share of `len` bytes; at least one, so that the transfer makes progress. A
    /// direct transfer is cut between pages only.
    pub(super) fn of(self, len: usize, direct: bool) -> usize {
        let short = match self {
            Share::OneByte => 1,
            Share::Half => len.div_ceil(2),
            Share::AllButOne => len.saturating_sub(1).max(1),
        };
        let short = if direct { (short / PAGE_LEN).max(1) * PAGE_LEN } else { short };
        short.min(len)
    }
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The device refuses (`EIO`). Half of a write may have got through. A sync leaves doubt for
    /// ever: see [`SyncFailure`](super::SyncFailure).
    Eio,
    /// As `Eio`, reported by a change that took effect completely.
    EioAfterEffect,
    /// No space (`ENOSPC`), for operations that may need some. Zeroing may have got half of the
    /// way.
    Enospc,
    /// No space left to this user (`EDQUOT`), otherwise as `Enospc`.
    Edquot,
    /// No descriptor is left (`EMFILE`), for operations that open a file. Nothing is done.
    Emfile,
    /// No address space or map is left (`ENOMEM`), for operations that map a file. Nothing is done.
    Enomem,
    /// The process may make no file so long (`EFBIG`), for operations that extend one. Writes are
    /// excepted: they are refused before. Nothing is done.
    Efbig,
    /// A signal came (`EINTR`), for transfers and syncs. When sticky, every other one succeeds.
    Eintr,
    /// A write takes only some of the bytes.
    ShortWrite(Share),
    /// A write takes no byte and reports no error.
    WriteZero,
    /// A read brings only some of the bytes.
    ShortRead(Share),
    /// A sync reports success and does nothing.
    Lie,
}

impl FaultKind {
    /// Returns the fault's effect on such an operation; none when it does not concern it.
    fn verdict(self, kind: OperationKind) -> Option<Verdict> {
        use OperationKind as K;
        let fails = |errno, concerned: bool| {
            let error = io::Error::from_raw_os_error(errno);
            concerned.then_some(Verdict { effect: Effect::Fail, error: Some(error) })
        };
        let refuses = |errno, concerned: bool| {
            let error = io::Error::from_raw_os_error(errno);
            concerned.then_some(Verdict { effect: Effect::Nothing, error: Some(error) })
        };
        let passes = |effect, concerned: bool| concerned.then_some(Verdict { effect, error: None });
        match self {
            FaultKind::Eio => fails(libc::EIO, true),
            FaultKind::EioAfterEffect => kind.is_change().then(|| Verdict {
                effect: Effect::Full,
                error: Some(io::Error::from_raw_os_error(libc::EIO)),
            }),
            FaultKind::Enospc => fails(libc::ENOSPC, kind.is_change() && kind != K::Remove),
            FaultKind::Edquot => fails(libc::EDQUOT, kind.is_change() && kind != K::Remove),
            FaultKind::Emfile => refuses(libc::EMFILE, matches!(kind, K::Create | K::Open)),
            FaultKind::Enomem => refuses(libc::ENOMEM, kind == K::Map),
            FaultKind::Efbig => refuses(libc::EFBIG, matches!(kind, K::Zero | K::SetLen)),
            FaultKind::Eintr => {
                let transfer = matches!(kind, K::Read | K::Write);
                let error = Some(io::Error::from_raw_os_error(libc::EINTR));
                // An interrupted transfer has moved nothing; an interrupted sync leaves doubt.
                let effect = if transfer { Effect::Nothing } else { Effect::Fail };
                (transfer || kind.is_sync()).then_some(Verdict { effect, error })
            }
            FaultKind::ShortWrite(share) => passes(Effect::Short(share), kind == K::Write),
            FaultKind::ShortRead(share) => passes(Effect::Short(share), kind == K::Read),
            FaultKind::WriteZero => passes(Effect::Nothing, kind == K::Write),
            FaultKind::Lie => passes(Effect::Nothing, kind.is_sync()),
        }
    }
}

/// A fault of one operation, or of every one from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The number of the operation.
    pub at_operation: u64,
    /// How it fails.
    pub kind: FaultKind,
    /// Whether all later operations fail too.
    pub sticky: bool,
}

/// Effect of an operation on files.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Effect {
    Full,
    /// A transfer moves this much.
    Short(Share),
    /// The remains of such a failure: half a write, half a range of zeros, doubt after a sync.
    Fail,
    Nothing,
}

impl Effect {
    /// Returns how many of `len` bytes of a write get through.
    pub(super) fn written_len(self, len: usize, direct: bool) -> usize {
        match self {
            Effect::Full => len,
            Effect::Short(share) => share.of(len, direct),
            Effect::Fail => len / 2 / SECTOR_LEN * SECTOR_LEN,
            Effect::Nothing => 0,
        }
    }
}

/// Effect and result of an operation.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) effect: Effect,
    /// Reported in place of the result.
    pub(super) error: Option<io::Error>,
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy)]
enum Trigger {
    Operation(u64),
    /// The operation of this kind that `skip` others go before; any kind of file or one.
    Kind {
        kind: OperationKind,
        name: Option<FileName>,
        skip: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Armed {
    trigger: Trigger,
    kind: FaultKind,
    sticky: bool,
    strikes: u64,
}

/// The faults to come.
#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: Vec<Armed>,
    struck: u64,
}

impl Faults {
    pub(super) fn arm(&mut self, fault: Fault) {
        let Fault { at_operation, kind, sticky } = fault;
        let trigger = Trigger::Operation(at_operation);
        self.armed.push(Armed { trigger, kind, sticky, strikes: 0 });
    }

    pub(super) fn arm_kind(
        &mut self,
        (operation, name): (OperationKind, Option<FileName>),
        skip: u64,
        (kind, sticky): (FaultKind, bool),
    ) {
        let trigger = Trigger::Kind { kind: operation, name, skip };
        self.armed.push(Armed { trigger, kind, sticky, strikes: 0 });
    }

    pub(super) fn disarm(&mut self) {
        self.armed.clear();
    }

    /// Returns how many operations were struck.
    pub(super) fn struck(&self) -> u64 {
        self.struck
    }

    /// Decides about the next operation: the fault armed first strikes.
    pub(super) fn judge(&mut self, operation: Operation) -> Verdict {
        let mut found = None;
        for armed in &mut self.armed {
            let due = armed.is_due(operation);
            if found.is_none() && due {
                found = armed.strike(operation);
            }
        }
        self.armed.retain(|armed| armed.sticky || !armed.is_past(operation));
        self.struck += u64::from(found.is_some());
        found.unwrap_or(Verdict { effect: Effect::Full, error: None })
    }
}

impl Armed {
    fn is_due(&mut self, operation: Operation) -> bool {
        match &mut self.trigger {
            Trigger::Operation(at) if self.sticky => operation.index >= *at,
            Trigger::Operation(at) => operation.index == *at,
            Trigger::Kind { kind, name, skip } => {
                let ours = operation.kind == *kind && (name.is_none() || *name == operation.name);
                let due = ours && *skip == 0;
                *skip -= u64::from(ours && *skip > 0);
                due
            }
        }
    }

    fn strike(&mut self, operation: Operation) -> Option<Verdict> {
        let verdict = self.kind.verdict(operation.kind)?;
        self.strikes += 1;
        let spared = self.kind == FaultKind::Eintr && self.strikes.is_multiple_of(2);
        (!spared).then_some(verdict)
    }

    fn is_past(&self, operation: Operation) -> bool {
        match self.trigger {
            Trigger::Operation(at) => operation.index >= at,
            Trigger::Kind { .. } => self.strikes > 0,
        }
    }
}
