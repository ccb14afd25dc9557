//! Begin and drop of a read transaction beside a hot read of 4 KiB, in alternating slices.

use std::time::Duration;

use crate::cell::{Figures, Spec};
use crate::closed_loop::{Length, Many, Worker, run as closed_loop};
use crate::engine::{Engine, Session};
use crate::failure::Outcome;
use crate::payload::Payloads;
use crate::workloads::reads::{Reader, Reading, warm};
use crate::workloads::{BLOCK_LEN, fill};

/// Pairs of slices that a cell is cut into.
const SLICES: u32 = 4;

/// Measures both; the ratio is taken within a pair of slices, its median is reported.
pub fn run(spec: &Spec, blocks: u64) -> Outcome<Figures> {
    let engine = spec.kind()?.open(&spec.dir)?;
    fill(&mut *engine.session()?, blocks, &Payloads::new(1, 0, BLOCK_LEN), 0)?;
    warm(&*engine, blocks)?;
    let slice = Length::Time(Duration::from_secs_f64(spec.seconds) / (2 * SLICES));
    let (mut reads, mut views, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut checked = 0;
    for _ in 0..SLICES {
        let read = |thread| Reader::new(&*engine, thread, blocks, Reading::Ends).map(Many);
        let view = |_| Viewer::new(&*engine).map(Many);
        let warm_up = Duration::from_millis(20);
        let read = closed_loop(spec.threads, warm_up, slice, read)?;
        let view = closed_loop(spec.threads, warm_up, slice, view)?;
        reads.push(1e9 * spec.threads as f64 / read.per_s());
        views.push(1e9 * spec.threads as f64 / view.per_s());
        ratios.push(read.per_s() / view.per_s());
        checked += read.checked;
    }
    engine.close()?;
    Ok(Figures::from([
        ("read_ns".into(), median(&mut reads)),
        ("view_ns".into(), median(&mut views)),
        ("view_over_read".into(), median(&mut ratios)),
        ("checked".into(), checked as f64),
    ]))
}

/// The middle one; of an even number the upper of the two.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

struct Viewer<'a>(Box<dyn Session + 'a>);

impl<'a> Viewer<'a> {
    fn new(engine: &'a dyn Engine) -> Outcome<Self> {
        engine.session().map(Viewer)
    }
}

impl Worker for Viewer<'_> {
    fn step(&mut self) -> Outcome<u64> {
        self.0.view().map(|()| 1)
    }

    fn check(&mut self) -> Outcome<u64> {
        Ok(0)
    }
}
