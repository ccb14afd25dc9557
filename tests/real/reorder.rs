//! Crash images: what a disk that reorders writes between two flushes may hold after a power cut.
//!
//! A store works on ext4 on a [`BlockLog`]. For a moment in the log an image is made of everything
//! up to the last flush before it, and of a subset of the 4 KiB units written since; ext4 recovers
//! from that, then the store. An acknowledgement counts when the log was no longer at its
//! publication than at the moment. Every other round starts on a crash image of the round before,
//! so that its log has the recovery of file system and store in it, and the cuts there are cuts of
//! a recovery.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use aegis_blocks::testkit::{Rng, seed};
use aegis_blocks::{Defect, Error, LocalBackend, Options, WriteMode};

use crate::arena::{Arena, Skipped, say, tell};
use crate::blocklog::{BlockLog, Event};
use crate::options::short_segments;
use crate::oracle::{Summary, check, nothing, scan};
use crate::volume::{Kind, Volume};
use crate::workload::{Record, State, THREADS, run};

const SEED: u64 = 0x8E0D;
const IMAGE_LEN: u64 = 24 << 20;
const UNIT_LEN: usize = 4096;
const IMAGES_PER_ROUND: u64 = 20;

fn options(rng: &mut Rng) -> Options {
    let mode = if rng.once_in(2) { WriteMode::Direct } else { WriteMode::Buffered };
    short_segments(128 << 10, 32 << 10).write_mode(mode)
}

/// From which event on which records hold.
struct Epoch {
    from: usize,
    records: Vec<Record>,
    /// Acknowledgements up to this moment count; without it, up to the moment of the cut.
    until: Option<usize>,
}

/// A disk before anything was logged, the log, and what the store's threads were told.
struct Round {
    base: Vec<u8>,
    log: Vec<Event>,
    epochs: Vec<Epoch>,
}

/// A crash image that the next round starts on.
struct Crashed {
    image: Vec<u8>,
    records: Vec<Record>,
    until: usize,
}

#[derive(Debug, Default)]
struct Tally {
    summary: Summary,
    rounds: u64,
    writes: u64,
    flushes: u64,
    lost_units: u64,
    torn_tails: u64,
    resynced_frames: u64,
    of_recovery: u64,
    without_store: u64,
}

struct Trial<'a> {
    arena: &'a Arena,
    rng: Rng,
    session: u64,
    tally: Tally,
}

fn unchanged(states: Vec<State>) -> Vec<Record> {
    states.into_iter().map(|base| Record { base, ..Record::default() }).collect()
}

/// Recovers from this many crash images.
pub fn crash_images(arena: &Arena, images: u64) -> Result<(), Skipped> {
    let seed = seed(SEED);
    say(&format!("{images} crash images, seed {seed}"));
    let empty = arena.path().join("empty.image");
    fs::File::create_new(&empty).and_then(|f| f.set_len(IMAGE_LEN)).expect("an image");
    Kind::Ext4.format(&empty)?;
    let empty = fs::read(&empty).expect("the image");
    let mut trial = Trial { arena, rng: Rng::new(seed), session: 0, tally: Tally::default() };
    let mut crashed: Option<Crashed> = None;
    let mut left = images;
    while left > 0 {
        let round = match crashed.take() {
            Some(crashed) => trial.work(crashed.image, crashed.records, Some(crashed.until))?,
            None => trial.work(empty.clone(), unchanged(nothing()), None)?,
        };
        let is_second = round.epochs[0].until.is_some();
        let count = left.min(IMAGES_PER_ROUND);
        for _ in 0..count {
            let image = trial.crash(&round);
            if !is_second {
                crashed = Some(image);
            }
        }
        left -= count;
    }
    let Tally { summary, rounds, writes, flushes, lost_units, .. } = &trial.tally;
    let Tally { torn_tails, resynced_frames, of_recovery, without_store, .. } = &trial.tally;
    say(&format!(
        "{images} crash images ({of_recovery} of a recovery, {without_store} before there was a \
         store) from {rounds} logs with {writes} writes and {flushes} flushes; {lost_units} units \
         lost; {} acknowledged commits looked for, none lost; {} buffered or late ones were lost; \
         {torn_tails} torn tails, {resynced_frames} frames synced again",
        summary.kept, summary.lost_lawfully,
    ));
    assert!(images < 200 || (*torn_tails > 0 && *of_recovery > 0), "not all paths were taken");
    tell("crash images", images);
    Ok(())
}

impl Trial<'_> {
    /// Two sessions on a disk that logs.
    fn work(
        &mut self,
        base: Vec<u8>,
        records: Vec<Record>,
        until: Option<usize>,
    ) -> Result<Round, Skipped> {
        let file = self.arena.path().join("logged");
        let disk = BlockLog::serve(&file, &base)?;
        let mut volume = Volume::over(Kind::Ext4, &file);
        volume.mount("");
        let path = volume.path().join("store");
        let mut epochs = vec![Epoch { from: 0, records, until }];
        for _ in 0..2 {
            self.session += 1;
            let store = options(&mut self.rng).open(&path).expect("the store opens");
            let states = scan(&store);
            let Epoch { records, until, .. } = epochs.last().expect("one");
            check(&states, records, |moment| until.is_none_or(|until| moment as usize <= until));
            let from = disk.len() as usize;
            let commits_left = AtomicU64::new(THREADS + self.rng.below(200));
            let records = run(&store, self.session, states, |_, answer| {
                assert!(answer.is_ok(), "{answer:?}");
                let left = commits_left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                let go_on =
                    if left.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
                (disk.len(), go_on)
            });
            epochs.push(Epoch { from, records, until: None });
            store.close().expect("a clean close");
        }
        volume.unmount();
        let (log, ends): (Vec<Event>, Vec<u64>) = disk.end().into_iter().unzip();
        // From bytes of the log to events that were wholly there.
        let events = |len: u64| ends.partition_point(|end| *end <= len);
        for epoch in &mut epochs[1..] {
            epoch.from = events(epoch.from as u64);
            let outcomes = epoch.records.iter_mut().flat_map(|record| &mut record.outcomes);
            outcomes.for_each(|(_, moment)| *moment = events(*moment) as u64);
        }
        self.tally.rounds += 1;
        let flushes = log.iter().filter(|event| matches!(event, Event::Flush)).count() as u64;
        self.tally.flushes += flushes;
        self.tally.writes += log.len() as u64 - flushes;
        Ok(Round { base, log, epochs })
    }

    /// Makes a crash image of a moment, recovers from it and compares.
    fn crash(&mut self, round: &Round) -> Crashed {
        let moment = self.moment(&round.log);
        let image = self.image(&round.base, &round.log[..moment]);
        let epoch = round.epochs.iter().rfind(|epoch| epoch.from <= moment).expect("the first");
        let until = epoch.until.unwrap_or(moment);
        self.tally.of_recovery += u64::from(epoch.until.is_some());
        self.recover(&image, &epoch.records, until);
        Crashed { image, records: epoch.records.clone(), until }
    }

    /// A number of events: often right before a flush, when most is at stake.
    fn moment(&mut self, log: &[Event]) -> usize {
        let start = self.rng.below(log.len() as u64 + 1) as usize;
        if self.rng.once_in(2) {
            return start;
        }
        let flush = log[start..].iter().position(|event| matches!(event, Event::Flush));
        flush.map_or(start, |ahead| start + ahead)
    }

    /// The disk after a power cut at the end of this log.
    fn image(&mut self, base: &[u8], log: &[Event]) -> Vec<u8> {
        let flushed = log.iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
        let mut image = base.to_vec();
        let mut put =
            |offset: usize, data: &[u8]| image[offset..offset + data.len()].copy_from_slice(data);
        for event in &log[..flushed] {
            if let Event::Write { offset, data } = event {
                put(*offset, data);
            }
        }
        let units: Vec<(usize, &[u8])> = log[flushed..]
            .iter()
            .filter_map(|event| match event {
                Event::Write { offset, data } => Some((*offset, data)),
                Event::Flush => None,
            })
            .flat_map(|(offset, data)| {
                data.chunks(UNIT_LEN)
                    .enumerate()
                    .map(move |(n, unit)| (offset + n * UNIT_LEN, unit))
            })
            .collect();
        let kept = self.subset(units.len() as u64);
        for ((offset, unit), kept) in units.into_iter().zip(kept) {
            if kept {
                put(offset, unit);
            }
            self.tally.lost_units += u64::from(!kept);
        }
        image
    }

    /// Which units of the last ones survive: none, all, all but one, one alone, the first ones, or
    /// any.
    fn subset(&mut self, count: u64) -> Vec<bool> {
        let kind = self.rng.below(8);
        let chosen = self.rng.below(count.max(1));
        (0..count)
            .map(|unit| match kind {
                0 => false,
                1 => true,
                2 => unit != chosen,
                3 => unit == chosen,
                4 => unit < chosen,
                5 => !self.rng.once_in(8),
                _ => self.rng.once_in(2),
            })
            .collect()
    }

    fn recover(&mut self, image: &[u8], records: &[Record], until: usize) {
        let file: PathBuf = self.arena.path().join("crashed.image");
        fs::write(&file, image).expect("an image");
        let mut volume = Volume::over(Kind::Ext4, &file);
        volume.mount("");
        let path = volume.path().join("store");
        self.tally.without_store += u64::from(!no_damage(&path));
        let store = options(&mut self.rng).open(&path).expect("the store opens after a cut");
        let found = scan(&store);
        self.tally.summary += check(&found, records, |moment| moment as usize <= until);
        self.tally.torn_tails += u64::from(store.recovery().torn_bytes > 0);
        self.tally.resynced_frames += store.recovery().resynced_frames;
        store.close().expect("a clean close");
        assert!(no_damage(&path), "the store was opened");
        volume.unmount();
    }
}

/// Sees that nothing is damaged; false where there is no store.
fn no_damage(path: &Path) -> bool {
    match LocalBackend::verify(path) {
        Ok(report) => {
            assert_eq!(report.damage, [], "damage after a power cut");
            true
        }
        // `META` comes last when a store is made.
        Err(Error::NotAStore { .. } | Error::Corrupt { defect: Defect::Meta, .. }) => false,
        Err(error) => panic!("{error:?}"),
    }
}
