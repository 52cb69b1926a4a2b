//! Several operations for some examples at a time, in serving.
//!
//! Operation by operation, a large batch passes through memory once for every operation, and threads meet after
//! each. Here every thread takes some examples through all of a layer: their values stay in its own cache, and
//! threads meet once. Rows do not depend on each other, so the bits are the same.

use super::{Recording, Tape, Var};
use crate::ops::Op;
use crate::{Examples, NnError};
use lyceum_kernels::pool;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Rows of one part: products with fewer leave the weights too little used, more outgrow a core's cache.
const ROWS_A_PART: usize = 128;
/// The least share of the threads' time that a division may use: else every operation is divided by itself.
const BUSY_MIN: f64 = 0.75;

impl Tape<'_> {
    /// The examples of a part for [`in_parts`](Self::in_parts) of a value `[B, T, …]`; None where operations one
    /// after another are better (too few examples for the threads), or where something is recorded or looked at.
    pub fn examples_a_part(&self, x: Var) -> Option<usize> {
        let shape = self.shape(x);
        let threads = pool::threads();
        if !self.is_bare() || shape.rank() < 2 || shape[0] == 0 {
            return None;
        }
        examples_a_part(shape[0], shape[1], threads)
    }

    /// `f` of the examples of `x` `[B, …]`, `per_part` of them at a time, each part on a tape of its own and many at
    /// once. `f` is given the part's value and which examples they are, and returns a value of the same shape. `x`
    /// is not readable afterwards.
    ///
    /// # Panics
    /// Where something is recorded: parts have no way back.
    pub fn in_parts(
        &mut self,
        x: Var,
        per_part: usize,
        f: impl Fn(&mut Tape<'_>, Var, Range<usize>) -> Result<Var, NnError> + Sync,
    ) -> Result<Var, NnError> {
        assert!(self.is_bare(), "parts of a batch have no way back: bug");
        let shape = self.shape(x);
        let (n, len) = (shape.first(), shape.len() / shape.first().max(1));
        let mut value = std::mem::take(&mut self.ws.nodes[x.0 as usize].value);
        let spare = Mutex::new(std::mem::take(&mut self.ws.parts));
        let failure = Mutex::new(None);
        let (params, phase, precision) = (self.params, self.phase, self.precision);
        pool::for_each_chunk(&mut value, per_part.max(1) * len, |part, chunk| {
            let examples = part * per_part..(part * per_part + chunk.len() / len).min(n);
            let lock = || spare.lock().unwrap_or_else(PoisonError::into_inner);
            let mut ws = lock().pop().unwrap_or_default();
            let dims = shape.with_first(examples.len());
            let mut tape = Tape::new(&mut ws, params, Recording::Off, Examples::Even(examples.len()));
            (tape.phase, tape.precision) = (phase, precision);
            let done = tape.input(dims.dims(), chunk).and_then(|x| f(&mut tape, x, examples)).map(|y| {
                assert_eq!(tape.shape(y), dims, "a part keeps its shape: bug");
                chunk.copy_from_slice(tape.value(y));
            });
            if let Err(error) = done {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            lock().push(ws);
        });
        self.ws.parts = spare.into_inner().unwrap_or_else(PoisonError::into_inner);
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(self.push(Op::Leaf, shape, value, false)),
        }
    }
}

/// As many as make [`ROWS_A_PART`] rows, if every thread is busy most of the time then, or fewer.
fn examples_a_part(n: usize, time: usize, threads: usize) -> Option<usize> {
    let most = (ROWS_A_PART / time.max(1)).clamp(1, n);
    let busy = |per_part: &usize| {
        let rounds = n.div_ceil(*per_part).div_ceil(threads);
        n as f64 / (rounds * threads * per_part) as f64
    };
    (most.div_ceil(2)..=most).rev().find(|per_part| busy(per_part) >= BUSY_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Init, ParamKind, Params, Workspace};
    use rand::SeedableRng;

    fn params() -> Params {
        let mut params = Params::new();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        params.add("w", &[6, 6], ParamKind::Weight, Init::Normal(0.5), &mut rng);
        params
    }

    #[test]
    fn parts_of_every_size_have_the_bits_of_the_whole_and_keep_their_memory() {
        let params = params();
        let w = params.find("w").unwrap();
        let numbers: Vec<f32> = (0..7 * 3 * 6).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let layer = |tape: &mut Tape<'_>, x: Var| tape.linear_residual(x, w, None, Activation::Gelu, Some(x));
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &params, Recording::Off, Examples::Even(7));
        let x = tape.input(&[7, 3, 6], &numbers).unwrap();
        let y = layer(&mut tape, x).unwrap();
        let whole = tape.value(y).to_vec();
        for per_part in 1..=8 {
            let mut tape = Tape::new(&mut ws, &params, Recording::Off, Examples::Even(7));
            let x = tape.input(&[7, 3, 6], &numbers).unwrap();
            let y = tape.in_parts(x, per_part, |tape, x, examples| {
                assert_eq!(tape.examples().n(), examples.len());
                let y = layer(tape, x)?;
                tape.release(x);
                Ok(y)
            });
            assert_eq!(tape.value(y.unwrap()), whole, "{per_part}");
        }
        assert!(ws.parts.len() <= pool::threads() && ws.bytes() > 0);
        ws.shrink();
        assert_eq!(ws.bytes(), 0);
    }

    #[test]
    fn a_part_that_fails_fails_the_whole_and_recording_refuses_parts() {
        let params = params();
        let w = params.find("w").unwrap();
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &params, Recording::Off, Examples::Even(2));
        let x = tape.input(&[2, 3, 5], &[0.0; 30]).unwrap();
        let y = tape.in_parts(x, 1, |tape, x, _| tape.linear(x, w, None, Activation::None));
        assert!(y.unwrap_err().to_string().contains("linear"));
        let mut tape = Tape::new(&mut ws, &params, Recording::Inputs, Examples::Even(64));
        let x = tape.input(&[64, 64, 1], &[0.0; 4096]).unwrap();
        assert_eq!(tape.examples_a_part(x), None);
    }

    #[test]
    fn parts_keep_threads_busy() {
        assert_eq!(examples_a_part(32, 128, 2), Some(1));
        assert_eq!(examples_a_part(64, 16, 2), Some(8));
        // Three long texts would leave a thread idle for half a round, one for all of it.
        assert_eq!(examples_a_part(3, 512, 2), Some(1));
        assert_eq!(examples_a_part(1, 512, 2), None);
        assert_eq!(examples_a_part(20, 512, 16), None);
        for (n, time, threads) in (1..70).flat_map(|n| [(n, 8, 2), (n, 64, 3), (n, 300, 8)]) {
            if let Some(per_part) = examples_a_part(n, time, threads) {
                assert!(per_part >= 1 && per_part <= n && (per_part == 1 || per_part * time <= ROWS_A_PART));
            }
        }
    }
}
