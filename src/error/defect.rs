//! Damage of stored bytes: what is wrong, and where.
//!
//! Owns [`Defect`] and [`Place`], which say both without a byte of a block.

use crate::block::{BlockId, Lsn};

/// Where damaged bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, relative to the store's directory.
    pub file: String,
    /// Byte offset in that file.
    pub offset: u64,
    /// The commit the bytes belong to, where known.
    pub lsn: Option<Lsn>,
    /// The block the bytes belong to, where known.
    pub block: Option<BlockId>,
}

/// A defect of stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// The bytes of a block do not match its checksum.
    PayloadChecksum,
    /// A frame's header is damaged although later frames prove that it was acknowledged.
    FrameHeader,
    /// A frame's operation table does not match its checksum.
    OpTable,
    /// A segment's header is damaged.
    SegmentHeader,
    /// A segment belongs to another store.
    ForeignSegment,
    /// The store's fixed description is damaged.
    Meta,
    /// A segment that later ones build on is missing.
    MissingSegment,
    /// A frame does not continue the one before it.
    BrokenChain,
    /// A file ends before the bytes that it must hold.
    Truncated,
    /// A serialised block is malformed.
    BlockEncoding,
    /// Part of a checkpoint, the image of the index, is damaged.
    Checkpoint,
    /// A checkpoint belongs to another store, or is not the one that others build on.
    ForeignCheckpoint,
    /// The log does not say that a checkpoint counts.
    Unconfirmed,
    /// The log ends before a commit that a checkpoint holds: acknowledged commits are lost from
    /// there on.
    MissingEnd {
        /// The number in the checkpoint's file name.
        checkpoint: u64,
        /// The newest commit in the checkpoint; the log went at least as far.
        lsn: Lsn,
    },
    /// A segment is longer than any store makes one.
    Oversized,
    /// The number in a file's name is larger than any store gives.
    FileNumber,
    /// The list of a backup's files is damaged.
    Manifest,
    /// A file that a backup's manifest lists, or a checkpoint that a newer one builds on, is
    /// missing.
    MissingFile,
    /// A file of a backup is not the one that its manifest lists.
    BackupChecksum,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.file, self.offset)?;
        if let Some(lsn) = self.lsn {
            write!(f, ", lsn {lsn}")?;
        }
        if let Some(block) = self.block {
            write!(f, ", block {block}")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Defect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Defect::PayloadChecksum => "payload checksum mismatch",
            Defect::FrameHeader => "damaged frame header",
            Defect::OpTable => "damaged operation table",
            Defect::SegmentHeader => "damaged segment header",
            Defect::ForeignSegment => "segment of another store",
            Defect::Meta => "damaged store description",
            Defect::MissingSegment => "missing segment",
            Defect::BrokenChain => "broken frame chain",
            Defect::Truncated => "missing bytes",
            Defect::BlockEncoding => "malformed block encoding",
            Defect::Checkpoint => "damaged checkpoint",
            Defect::ForeignCheckpoint => "checkpoint of another store",
            Defect::Unconfirmed => "unconfirmed checkpoint",
            Defect::MissingEnd { checkpoint, lsn } => {
                return write!(f, "missing end, up to lsn {lsn} by CKPT-{checkpoint:016x},");
            }
            Defect::Oversized => "oversized segment",
            Defect::FileNumber => "file number out of range",
            Defect::Manifest => "damaged manifest",
            Defect::MissingFile => "missing file",
            Defect::BackupChecksum => "another content than the manifest says",
        })
    }
}
