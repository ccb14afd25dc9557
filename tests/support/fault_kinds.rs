//! Ways in which an operation of a simulated disk fails.

use super::{FaultKind, Share};

/// Faults of the disk itself. Inputs of the fuzz target `operations` name them by their places.
pub const OF_THE_DISK: [FaultKind; 12] = [
    FaultKind::Eio,
    FaultKind::EioAfterEffect,
    FaultKind::Enospc,
    FaultKind::Edquot,
    FaultKind::Eintr,
    FaultKind::ShortWrite(Share::OneByte),
    FaultKind::ShortWrite(Share::Half),
    FaultKind::ShortWrite(Share::AllButOne),
    FaultKind::WriteZero,
    FaultKind::ShortRead(Share::OneByte),
    FaultKind::ShortRead(Share::Half),
    FaultKind::ShortRead(Share::AllButOne),
];
