//! Which rows a micro-step sees: a pure function of the seed and the step, so that a resumed run continues
//! the same order with nothing stored.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How training examples are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Each epoch visits every one of `n` rows once, in a fresh order.
    Shuffled { n: usize },
    /// Windows at uniformly random offsets `0..n_offsets` of a stream; an epoch is as many windows as the
    /// stream holds without overlap.
    Windows { n_offsets: usize, per_epoch: usize },
}

/// The plan of a run: sizes of its steps.
#[derive(Clone, Debug)]
pub struct Order {
    draw: Draw,
    seed: u64,
    batch_size: usize,
    accumulate: usize,
    /// The permutation of the epoch that was asked for last.
    epoch: Option<u64>,
    permutation: Vec<usize>,
}

/// Streams of the job's generator: each use draws from its own.
const STREAM_ORDER: u64 = 1 << 40;

impl Order {
    /// # Panics
    /// When there is nothing to draw from, or a size is 0: the spec's parser refuses both.
    pub fn new(draw: Draw, seed: u64, batch_size: usize, accumulate: usize) -> Self {
        let n = match draw {
            Draw::Shuffled { n } => n,
            Draw::Windows { n_offsets, per_epoch } => n_offsets.min(per_epoch),
        };
        assert!(n > 0 && batch_size > 0 && accumulate > 0, "an empty training part or batch: bug");
        Order { draw, seed, batch_size, accumulate, epoch: None, permutation: Vec::new() }
    }

    fn examples_per_epoch(&self) -> usize {
        match self.draw {
            Draw::Shuffled { n } => n,
            Draw::Windows { per_epoch, .. } => per_epoch,
        }
    }

    fn micro_steps_per_epoch(&self) -> usize {
        self.examples_per_epoch().div_ceil(self.batch_size)
    }

    /// Optimiser steps an epoch; the last may have fewer micro-steps, and its last batch fewer rows.
    pub fn steps_per_epoch(&self) -> usize {
        self.micro_steps_per_epoch().div_ceil(self.accumulate)
    }

    /// Examples in the first `steps` optimiser steps.
    pub fn n_examples(&self, steps: u64) -> u64 {
        let (an_epoch, per_epoch) = (self.examples_per_epoch() as u64, self.steps_per_epoch() as u64);
        let begun = (steps % per_epoch) * (self.batch_size * self.accumulate) as u64;
        (steps / per_epoch) * an_epoch + begun.min(an_epoch)
    }

    /// The epoch (from 0) of an optimiser step (from 0).
    pub fn epoch_of(&self, step: u64) -> u64 {
        step / self.steps_per_epoch() as u64
    }

    /// How many micro-steps this optimiser step has.
    pub fn n_micro_steps(&self, step: u64) -> usize {
        let first = (step % self.steps_per_epoch() as u64) as usize * self.accumulate;
        self.accumulate.min(self.micro_steps_per_epoch() - first)
    }

    /// The rows (or offsets) of micro-step `micro` of optimiser step `step`, written to `rows`.
    pub fn rows(&mut self, step: u64, micro: usize, rows: &mut Vec<usize>) {
        rows.clear();
        let within = (step % self.steps_per_epoch() as u64) as usize * self.accumulate + micro;
        let start = within * self.batch_size;
        let end = (start + self.batch_size).min(self.examples_per_epoch());
        let epoch = self.epoch_of(step);
        match self.draw {
            Draw::Shuffled { n } => {
                if self.epoch != Some(epoch) {
                    self.permutation.clear();
                    self.permutation.extend(0..n);
                    self.permutation.shuffle(&mut generator(self.seed, STREAM_ORDER + epoch));
                    self.epoch = Some(epoch);
                }
                rows.extend_from_slice(&self.permutation[start..end]);
            }
            Draw::Windows { n_offsets, .. } => {
                let micro_step = epoch * self.micro_steps_per_epoch() as u64 + within as u64;
                let mut rng = generator(self.seed, STREAM_ORDER + micro_step);
                rows.extend((start..end).map(|_| rng.random_range(0..n_offsets)));
            }
        }
    }
}

/// The generator of one use within a job.
pub fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_every_row_once_and_a_later_start_sees_the_same_rows() {
        let mut order = Order::new(Draw::Shuffled { n: 23 }, 4, 3, 2);
        assert_eq!((order.steps_per_epoch(), order.n_micro_steps(0), order.n_micro_steps(3)), (4, 2, 2));
        let mut rows = Vec::new();
        let mut seen = Vec::new();
        for step in 0..4 {
            for micro in 0..order.n_micro_steps(step) {
                order.rows(step, micro, &mut rows);
                seen.extend_from_slice(&rows);
            }
        }
        for (steps, n) in [(0, 0), (1, 6), (3, 18), (4, 23), (5, 29), (8, 46)] {
            assert_eq!(order.n_examples(steps), n, "{steps}");
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..23).collect::<Vec<_>>());
        order.rows(9, 1, &mut rows);
        let mut again = Vec::new();
        Order::new(Draw::Shuffled { n: 23 }, 4, 3, 2).rows(9, 1, &mut again);
        assert_eq!(rows, again);
    }

    #[test]
    fn random_windows_stay_inside_the_stream() {
        let mut order = Order::new(Draw::Windows { n_offsets: 10, per_epoch: 7 }, 1, 4, 1);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        order.rows(0, 0, &mut a);
        order.rows(2, 0, &mut b);
        assert!(a.len() == 4 && a.iter().all(|&o| o < 10) && a != b);
    }
}
