//! Transfers: read two random accounts, move one unit, commit; conflicts are retried.
//!
//! Money is neither made nor lost: the sum over all accounts is compared afterwards, and so is the
//! number of transfers that moved something.

use bytes::Bytes;

use crate::cell::{Figures, Spec, figures};
use crate::closed_loop::{Worker, run as closed_loop};
use crate::engine::{Engine, Session, Transfer, Write, balance, with_balance};
use crate::failure::{Failure, Outcome};
use crate::payload::Noise;
use crate::workloads::BLOCK_LEN;

/// First sum of every account: more than a run can take from it.
const BALANCE: u64 = 1 << 32;

/// Measures transfers of all threads.
pub fn run(spec: &Spec, accounts: u64) -> Outcome<Figures> {
    let engine = spec.kind()?.open(&spec.dir)?;
    let filler = Noise::new(1).bytes(BLOCK_LEN);
    let account = |id| Write { id, data: Bytes::from(with_balance(&filler, BALANCE)) };
    engine.session()?.commit(&(1..=accounts).map(account).collect::<Vec<_>>())?;
    let make = |thread| Teller::new(&*engine, thread, accounts);
    let sample = closed_loop(spec.threads, spec.warm_up(), spec.length(), make)?;
    let (sum, moved) = count(&mut *engine.session()?, accounts)?;
    let expected = accounts * BALANCE;
    if sum != expected {
        return Err(Failure::Money { expected, found: sum });
    }
    // Units that lie elsewhere than at first are at most as many as there were transfers.
    if moved == 0 || moved > sample.checked {
        return Err(Failure::Money { expected: sample.checked, found: moved });
    }
    engine.close()?;
    Ok(figures(&sample, 2 * BLOCK_LEN))
}

/// The sum of all balances, and how much accounts hold above what they held at first.
fn count(session: &mut dyn Session, accounts: u64) -> Outcome<(u64, u64)> {
    let (mut sum, mut moved) = (0, 0);
    for id in 1..=accounts {
        let mut found = 0;
        if !session.read(id, &mut |bytes| found = balance(bytes))? {
            return Err(Failure::Lost { id });
        }
        sum += found;
        moved += found.saturating_sub(BALANCE);
    }
    Ok((sum, moved))
}

struct Teller<'a> {
    session: Box<dyn Session + 'a>,
    noise: Noise,
    accounts: u64,
    next: (u64, u64),
    done: u64,
}

impl<'a> Teller<'a> {
    fn new(engine: &'a dyn Engine, thread: usize, accounts: u64) -> Outcome<Self> {
        let mut noise = Noise::new(thread as u64);
        let next = pair(&mut noise, accounts);
        Ok(Teller { session: engine.session()?, noise, accounts, next, done: 0 })
    }
}

/// Two different accounts.
fn pair(noise: &mut Noise, accounts: u64) -> (u64, u64) {
    let from = noise.below(accounts);
    let to = (from + 1 + noise.below(accounts - 1)) % accounts;
    (1 + from, 1 + to)
}

impl Worker for Teller<'_> {
    fn step(&mut self) -> Outcome<u64> {
        match self.session.transfer(self.next.0, self.next.1)? {
            Transfer::Conflict => Ok(0),
            Transfer::Done => {
                self.next = pair(&mut self.noise, self.accounts);
                self.done += 1;
                Ok(1)
            }
        }
    }

    /// Here the number of transfers, warm-up included: the sum is compared by the main thread.
    fn check(&mut self) -> Outcome<u64> {
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_between_two_different_accounts() {
        let mut noise = Noise::new(3);
        for _ in 0..1000 {
            let (from, to) = pair(&mut noise, 3);
            assert!(from != to && (1..=3).contains(&from) && (1..=3).contains(&to));
        }
    }
}
