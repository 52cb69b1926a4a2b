//! Several layers over one input, side by side: `y = [x·W₁ᵀ + b₁ | x·W₂ᵀ + b₂ | …]` (query, key and value; gate
//! and up).
//!
//! Where something is recorded this is `linear`, several times, and `concat_last`; in serving it is one product
//! that prepares the input once, with the same bits.

use crate::ops::Op;
use crate::params::ParamId;
use crate::tape::{StoredProducts, Tape, Var};
use crate::{Activation, NnError};
use lyceum_kernels::matmul::Epilogue;
use lyceum_kernels::scratch;
use lyceum_kernels::stored::StoredWeight;

/// A weight `[N, K]` and its bias `[N]`.
pub type Part = (ParamId, Option<ParamId>);

/// Parts that one call joins.
const PARTS_MAX: usize = 4;

impl Tape<'_> {
    /// See the module: x `[…, K]`, y `[…, Σ N]`.
    pub fn linear_joined(&mut self, x: Var, parts: &[Part]) -> Result<Var, NnError> {
        let params = self.params();
        let weights = parts.iter().filter_map(|&(w, _)| params.stored(w));
        let mut stored: [Option<&StoredWeight>; PARTS_MAX] = [None; PARTS_MAX];
        stored.iter_mut().zip(weights).for_each(|(slot, weight)| *slot = Some(weight));
        let n_stored = stored.iter().flatten().count();
        let k = self.shape(x).last();
        let fits = stored.iter().flatten().all(|weight| weight.k() == k);
        let records = parts.iter().any(|&(w, b)| match b {
            Some(b) => self.needs_grad(&[x], &[w, b]),
            None => self.needs_grad(&[x], &[w]),
        });
        let served = self.stored_products() == StoredProducts::Served;
        if records || n_stored != parts.len() || parts.len() > PARTS_MAX || !fits || !served {
            return self.linear_each(x, parts);
        }
        let first = stored[0].ok_or_else(|| NnError::Shape {
            op: "linear_joined",
            what: "parts",
            got: "none".into(),
            want: "one or more".into(),
        })?;
        let mut all = [first; PARTS_MAX];
        all.iter_mut().zip(stored).for_each(|(to, from)| *to = from.unwrap_or(first));
        let all = &all[..parts.len()];
        let n: usize = all.iter().map(|weight| weight.n()).sum();
        let (m, shape) = (self.shape(x).rows(), self.shape(x).with_last(n));
        let mut out = self.take(m * n);
        if parts.iter().all(|(_, bias)| bias.is_none()) {
            self.row_classes().matmul_stored(self.value(x), m, all, &mut out, Epilogue::default());
        } else {
            scratch::with_f32(n, |bias| {
                let mut at = 0;
                for (&(_, b), weight) in parts.iter().zip(all) {
                    let to = &mut bias[at..at + weight.n()];
                    match b {
                        Some(b) => to.copy_from_slice(params.value(b)),
                        None => to.fill(0.0),
                    }
                    at += weight.n();
                }
                let epilogue = Epilogue { bias: Some(bias), ..Epilogue::default() };
                self.row_classes().matmul_stored(self.value(x), m, all, &mut out, epilogue);
            });
        }
        Ok(self.push(Op::Leaf, shape, out, false))
    }

    fn linear_each(&mut self, x: Var, parts: &[Part]) -> Result<Var, NnError> {
        let mut all: Option<Var> = None;
        for &(weight, bias) in parts {
            let y = self.linear(x, weight, bias, Activation::None)?;
            all = Some(match all {
                None => y,
                Some(before) => self.concat_last(before, y)?,
            });
        }
        all.ok_or_else(|| NnError::Shape {
            op: "linear_joined",
            what: "parts",
            got: "none".into(),
            want: "one or more".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Examples, Init, ParamKind, Params, Recording, Workspace};
    use lyceum_kernels::cpu;
    use lyceum_kernels::stored::Stored;
    use rand::SeedableRng;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1013) as f32 / 1013.0 - 0.5) * 2.0).collect()
    }

    #[test]
    fn one_product_has_the_bits_of_several_for_every_stored_form() {
        let (k, m) = (256, 5);
        let x = numbers(m * k);
        for &path in cpu::available() {
            cpu::with_path(path, || {
                for kind in [Stored::F32, Stored::Bf16, Stored::Q8_0, Stored::Q4_0, Stored::Q4K] {
                    let mut params = Params::new();
                    let parts: Vec<Part> = [24, 8, 16]
                        .iter()
                        .enumerate()
                        .map(|(i, &n)| {
                            let weight = StoredWeight::from_f32(kind, &numbers(n * k), n, k).unwrap();
                            let weight = params.add_stored(&format!("w{i}"), weight);
                            let bias =
                                params.add_value(&format!("b{i}"), &[n], ParamKind::Weight, numbers(n));
                            (weight, (i != 1).then_some(bias))
                        })
                        .collect();
                    let mut ws = Workspace::new();
                    let mut run = |join: bool| {
                        let mut tape = Tape::new(&mut ws, &params, Recording::Off, Examples::Even(1));
                        let x = tape.input(&[m, k], &x).unwrap();
                        let y =
                            if join { tape.linear_joined(x, &parts) } else { tape.linear_each(x, &parts) };
                        tape.value(y.unwrap()).to_vec()
                    };
                    assert_eq!(run(true), run(false), "{kind:?} on {path:?}");
                }
            });
        }
    }

    /// What is not rounded is what the numbers of the weight give, whole layer and all, also of several layers at once.
    #[test]
    fn an_unrounded_product_is_that_of_the_weights_own_numbers() {
        let (k, n, m) = (256, 300, 5);
        let (x, r) = (numbers(m * k), numbers(m * n));
        for kind in [Stored::F32, Stored::Bf16, Stored::Q8_0, Stored::Q4_0, Stored::Q4K] {
            let weight = StoredWeight::from_f32(kind, &numbers(n * k), n, k).unwrap();
            let mut opened = vec![0.0; n * k];
            opened.chunks_exact_mut(k).enumerate().for_each(|(i, row)| weight.row(i, row));
            let mut stored = Params::new();
            let id = stored.add_stored("w", weight);
            let bias = stored.add_value("b", &[n], ParamKind::Weight, numbers(n));
            let mut plain = Params::new();
            plain.add_value("w", &[n, k], ParamKind::Weight, opened);
            plain.add_value("b", &[n], ParamKind::Weight, numbers(n));
            let run = |params: &Params, recording: Recording, products| {
                let mut ws = Workspace::new();
                let tape = Tape::new(&mut ws, params, recording, Examples::Even(1));
                let mut tape = tape.with_stored_products(products);
                let x = tape.entry(&[m, k], &x).unwrap();
                let r = tape.input(&[m, n], &r).unwrap();
                let y = tape.linear_residual(x, id, Some(bias), Activation::Gelu, Some(r)).unwrap();
                let joined = tape.linear_joined(x, &[(id, None), (id, Some(bias))]).unwrap();
                let values = [tape.value(y), tape.value(joined)].concat();
                if recording == Recording::Off {
                    return (values, Vec::new());
                }
                tape.backward_inputs(y, &numbers(m * n));
                (values, tape.grad(x).unwrap().to_vec())
            };
            let off = run(&stored, Recording::Off, StoredProducts::Unrounded).0;
            let (values, gradient) = run(&stored, Recording::Inputs, StoredProducts::Unrounded);
            assert_eq!(off, values, "{kind:?}");
            let want = run(&plain, Recording::Inputs, StoredProducts::Served);
            for (got, want) in [(values, want.0), (gradient, want.1)] {
                let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{kind:?}: {worst}");
            }
        }
    }

    #[test]
    fn a_stored_weight_is_a_plain_one_to_gradients_of_inputs_and_to_embeddings() {
        let (k, n, m) = (64, 300, 3);
        let (w, x, seed) = (numbers(n * k), numbers(m * k), numbers(m * n));
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        let mut plain = Params::new();
        let id = plain.add("w", &[n, k], ParamKind::Buffer, Init::Zeros, &mut rng);
        plain.value_mut(id).copy_from_slice(&w);
        let mut stored = Params::new();
        stored.add_stored("w", StoredWeight::from_f32(Stored::F32, &w, n, k).unwrap());
        let gradient = |params: &Params| {
            let mut ws = Workspace::new();
            let mut tape = Tape::new(&mut ws, params, Recording::Inputs, Examples::Even(1));
            let x = tape.entry(&[m, k], &x).unwrap();
            let y = tape.linear(x, id, None, Activation::None).unwrap();
            let value = tape.value(y).to_vec();
            tape.backward_inputs(y, &seed);
            (value, tape.grad(x).unwrap().to_vec())
        };
        let ((y, dx), (want_y, want_dx)) = (gradient(&stored), gradient(&plain));
        for (got, want) in [(y, want_y), (dx, want_dx)] {
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-3, "{worst}");
        }
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &stored, Recording::Off, Examples::Even(1));
        let rows = tape.embedding(id, &[7, 299], &[2]).unwrap();
        assert_eq!(tape.value(rows), [&w[7 * k..8 * k], &w[299 * k..]].concat());
    }
}
