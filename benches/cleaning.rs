//! Cost of moves by the design of the log: a model of its cleaning, without a disk and the store.
//!
//! | what     | value                                                                          |
//! |----------|--------------------------------------------------------------------------------|
//! | workload | [`TURNS`] overwrites of each of [`BLOCKS`] blocks on average, all of one size; |
//! |          | the first [`TURNS_NOT_COUNTED`] are not counted                                |
//! | draws    | Zipf with the exponent 0.99, drawn as in `benches/space.rs`; with 0: uniform   |
//! | segments | of 16,000 and 4,000 blocks: 64 MB and 16 MB, if a block has 4 KiB              |
//! | pace     | blocks moved for each one committed, at most: 1 as in the store while others   |
//! |          | write, 3 as good as unlimited                                                  |
//! | tails    | 1: moves and commits go to one segment, as in the store; 2: moves have theirs; |
//! |          | 3: blocks moved twice have theirs again                                        |
//! | scores   | [`SCORES`]; cost-benefit is the store's, its source is the module compaction   |
//! | goal     | segments are emptied while the log has over 1 / [`UTILISATION`] of the blocks  |
//!
//! Run with `cargo bench --bench cleaning`. A row for each design has the bytes written for each
//! byte overwritten, moves included, and the peak of the log over the live blocks. Bytes written
//! are at most 1 plus the pace: a design that gets there does not keep the log to its goal.
//! Deterministic: every design gets the same overwrites, from [`SEED`].

#[path = "../tests/support/xorshift.rs"]
mod xorshift;

use xorshift::Rng;

const SEED: u64 = 0x1357_9bdf_2468_ace1;
const BLOCKS: usize = 100_000;
const TURNS: usize = 7;
const TURNS_NOT_COUNTED: usize = 3;
/// Commits whose moves may be made up for at once, after the log was small enough.
const PACE_SAVED: usize = 2000;
const UTILISATION: f64 = 0.7;
/// Segments with a larger live share are left alone.
const IN_FORCE_MAX: f64 = 0.98;
/// The tail that commits go to.
const COMMITS: usize = 0;

/// Priority of a segment for emptying, by its live share and its age. The age is counted in commits
/// since it was begun; the store counts segments.
type Score = fn(f64, f64) -> f64;
const SCORES: [(&str, Score); 2] = [
    ("cost-benefit", |in_force, age| (1.0 - in_force) * age / (1.0 + in_force)),
    ("greedy", |in_force, _| 1.0 - in_force),
];

const COLUMNS: &str = "\
| draw | segment, blocks | pace | tails | score | written for each byte overwritten | peak of the log over the blocks |
|---|---:|---:|---:|---|---:|---:|";
const LEFT_OUT: &str = "
Left out: emptied segments are free at once here, in the store with the next checkpoint; space zeroed ahead of the tail;
pages and ends of segments that are not filled. `AEGIS_SPACE=zipf cargo bench --bench space` measures it with all of that.";

/// Which blocks are overwritten: summed weights by rank, and the block of each rank.
struct Draw {
    sums: Vec<f64>,
    blocks: Vec<usize>,
}

impl Draw {
    fn new(exponent: f64) -> Draw {
        let weight = |rank: usize| (rank as f64).powf(-exponent);
        let mut sums: Vec<f64> = (1..=BLOCKS).map(weight).collect();
        (1..BLOCKS).for_each(|n| sums[n] += sums[n - 1]);
        let mut rng = Rng(SEED);
        let mut blocks: Vec<usize> = (0..BLOCKS).collect();
        for n in (1..BLOCKS).rev() {
            blocks.swap(n, rng.below(n as u64 + 1) as usize);
        }
        Draw { sums, blocks }
    }

    fn block(&self, rng: &mut Rng) -> usize {
        let at = self.sums[BLOCKS - 1] * rng.below(1 << 53) as f64 / (1_u64 << 53) as f64;
        self.blocks[self.sums.partition_point(|sum| *sum <= at).min(BLOCKS - 1)]
    }
}

struct Design {
    segment_blocks: usize,
    pace: usize,
    tails: usize,
    score: Score,
}

#[derive(Default)]
struct Segment {
    /// In the order in which they were written; none once the segment is free.
    blocks: Vec<usize>,
    in_force: usize,
    /// Commits before it was begun.
    begun: usize,
    /// The tail that wrote it.
    tail: usize,
}

struct Log {
    design: Design,
    /// All that ever were, in the order in which they were begun.
    segments: Vec<Segment>,
    /// The segment of each block.
    places: Vec<Option<usize>>,
    /// The segment that each tail is in.
    tails: Vec<Option<usize>>,
    /// The segment that is being emptied, and which of its blocks is next.
    victim: Option<(usize, usize)>,
    /// Blocks of all segments, dead ones included.
    used: usize,
    committed: usize,
}

impl Log {
    fn filled(design: Design) -> Log {
        let (segments, places, tails) = (vec![], vec![None; BLOCKS], vec![None; design.tails]);
        let (victim, used, committed) = (None, 0, 0);
        let mut log = Log { design, segments, places, tails, victim, used, committed };
        (0..BLOCKS).for_each(|block| log.append(block, COMMITS));
        log
    }

    fn append(&mut self, block: usize, tail: usize) {
        let to = self.room(tail);
        self.segments[to].blocks.push(block);
        self.segments[to].in_force += 1;
        self.used += 1;
        let Some(from) = self.places[block].replace(to) else { return };
        self.segments[from].in_force -= 1;
        if self.segments[from].in_force == 0 && !self.tails.contains(&Some(from)) {
            self.free(from);
        }
    }

    /// The segment that this tail is in, a new one if that is full.
    fn room(&mut self, tail: usize) -> usize {
        let has_room = |at: &usize| self.segments[*at].blocks.len() < self.design.segment_blocks;
        self.tails[tail].filter(has_room).unwrap_or_else(|| {
            self.segments.push(Segment { begun: self.committed, tail, ..Segment::default() });
            *self.tails[tail].insert(self.segments.len() - 1)
        })
    }

    fn free(&mut self, segment: usize) {
        assert_eq!(self.segments[segment].in_force, 0);
        self.used -= std::mem::take(&mut self.segments[segment].blocks).len();
    }

    /// Moves one block, if the log is too large and a segment is worth it.
    fn clean(&mut self) -> bool {
        while let Some((victim, next)) = self.victim.or_else(|| self.choose()) {
            let segment = &self.segments[victim];
            let is_in_force = |at: &usize| self.places[segment.blocks[*at]] == Some(victim);
            if let Some(at) = (next..segment.blocks.len()).find(is_in_force) {
                self.append(segment.blocks[at], (segment.tail + 1).min(self.design.tails - 1));
                self.victim = Some((victim, at + 1));
                return true;
            }
            self.free(victim);
            self.victim = None;
        }
        false
    }

    /// The segment to empty, from its first block on.
    fn choose(&self) -> Option<(usize, usize)> {
        if self.used as f64 * UTILISATION <= BLOCKS as f64 {
            return None;
        }
        let scored = self.segments.iter().enumerate().filter_map(|(at, segment)| {
            let in_force = segment.in_force as f64 / segment.blocks.len().max(1) as f64;
            let is_sealed = !segment.blocks.is_empty() && !self.tails.contains(&Some(at));
            let age = (self.committed - segment.begun + 1) as f64;
            let score = (self.design.score)(in_force, age);
            (is_sealed && in_force < IN_FORCE_MAX).then_some((score, at))
        });
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, at)| (at, 0))
    }
}

/// Blocks written for each one overwritten, and the peak of the log over the blocks.
fn cost(design: Design, draw: &Draw) -> (f64, f64) {
    let (mut log, mut rng) = (Log::filled(design), Rng(SEED));
    let (mut may_move, mut moved, mut peak) = (0, 0, 0);
    for n in 0..TURNS * BLOCKS {
        if n == TURNS_NOT_COUNTED * BLOCKS {
            (moved, peak) = (0, 0);
        }
        log.append(draw.block(&mut rng), COMMITS);
        log.committed += 1;
        may_move += log.design.pace;
        while may_move > 0 && log.clean() {
            may_move -= 1;
            moved += 1;
        }
        may_move = may_move.min(log.design.pace * PACE_SAVED);
        peak = peak.max(log.used);
    }
    let overwritten = ((TURNS - TURNS_NOT_COUNTED) * BLOCKS) as f64;
    (1.0 + moved as f64 / overwritten, peak as f64 / BLOCKS as f64)
}

fn print_rows(name: &str, draw: &Draw, tails_max: usize, scores: &[(&str, Score)]) {
    for (segment_blocks, pace) in [(16_000, 1), (16_000, 3), (4000, 1), (4000, 3)] {
        for tails in 1..=tails_max {
            for &(score_name, score) in scores {
                let design = Design { segment_blocks, pace, tails, score };
                let (written, peak) = cost(design, draw);
                println!(
                    "| {name} | {segment_blocks} | {pace} | {tails} | {score_name} | {written:.2} | {peak:.2} |"
                );
            }
        }
    }
}

fn main() {
    println!("{BLOCKS} blocks, {UTILISATION} of the log in force, seed {SEED:#x}\n\n{COLUMNS}");
    print_rows("Zipf", &Draw::new(0.99), 3, &SCORES);
    print_rows("uniform", &Draw::new(0.0), 2, &SCORES[..1]);
    println!("{LEFT_OUT}");
}
