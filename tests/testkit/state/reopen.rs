//! What an open and a crash of the reference backend leave, and the flaws of both.

use aegis_blocks::{Block, Lsn, StorageStats};

use super::{Quirks, State};
use crate::flaws::Flaw;

impl State {
    /// What every open does: no transaction lives on, and no snapshot needs older versions.
    pub fn restart(&mut self) {
        self.open.clear();
        self.ended.clear();
        self.counters = StorageStats::default();
        self.counters.durable_lsn = Lsn(self.lsn);
        self.quirks = Quirks::default();
        self.prune();
    }

    pub fn plant_at_reopen(&mut self) {
        match self.flaw {
            Some(Flaw::ReopenLosesTheNewest) => self.lose(self.lsn, 0),
            Some(Flaw::HalfACommitAfterReopen) => self.lose(self.lsn, 1),
            Some(Flaw::ReopenTakesAnId) => {
                self.next_id = self.next_id.and_then(|n| n.checked_add(1))
            }
            Some(Flaw::DeletesReturn) => {
                for versions in self.versions.values_mut() {
                    versions.retain(|version| version.block.is_some());
                }
            }
            Some(Flaw::PendingCommitsAtReopen) => self.commit_pending(),
            Some(Flaw::RolledBackReturns) => {
                for ops in std::mem::take(&mut self.quirks.refused) {
                    self.apply(ops, false);
                }
            }
            Some(Flaw::ReopenCutsLongPayloads) => {
                self.every_block(|block| block.data.truncate((1 << 20) - 1));
            }
            Some(Flaw::ReopenDropsFlags) => self.every_block(|block| block.header.flags = 0),
            Some(Flaw::ReopenReusesIds) => {
                let largest = self.versions.keys().last();
                self.next_id = largest.map_or(Some(1), |id| id.checked_add(1));
            }
            _ => {}
        }
    }

    pub fn plant_at_crash(&mut self) {
        match self.flaw {
            Some(Flaw::CrashLosesTheNewest) => self.lose(self.lsn, 0),
            Some(Flaw::HalfACommitAfterCrash) => self.lose(self.lsn, 1),
            Some(Flaw::CrashLosesOneInTheMiddle) => self.lose(self.lsn.saturating_sub(3), 0),
            Some(Flaw::PendingCommitsAtCrash) => self.commit_pending(),
            _ => {}
        }
    }

    /// Loses a commit, except for its first `kept` operations.
    pub fn lose(&mut self, lsn: u64, kept: usize) {
        let mut seen = 0;
        for versions in self.versions.values_mut() {
            versions.retain(|version| {
                seen += usize::from(version.lsn == lsn);
                version.lsn != lsn || seen <= kept
            });
        }
        self.versions.retain(|_, versions| !versions.is_empty());
    }

    pub fn commit_pending(&mut self) {
        for (_, tx) in std::mem::take(&mut self.open) {
            self.apply(tx.ops, false);
        }
    }

    pub fn every_block(&mut self, change: impl Fn(&mut Block)) {
        let versions = self.versions.values_mut().flatten();
        versions.filter_map(|version| version.block.as_mut()).for_each(change);
    }
}
