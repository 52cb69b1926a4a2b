//! The slow clear twin of every backward: finite differences.
//!
//! One door, [`Check`], used by the test of each operation: it draws inputs and parameters from a seed, runs
//! the operation under every CPU path of the machine, and compares the gradients of all inputs and weights,
//! with and without weights per example, with central differences of `Σ c·y` for random `c`.

use crate::params::{Grads, Init, ParamId, ParamKind, Params};
use crate::tape::{Dropout, Examples, Recording, Tape, Var};
use crate::{NnError, Workspace};
use lyceum_kernels::cpu;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The subject of a check: inputs with examples outermost, and parameters.
pub struct Check {
    n_examples: usize,
    inputs: Vec<(Vec<usize>, Vec<f32>)>,
    params: Params,
    rng: ChaCha8Rng,
    tolerance: f64,
    step: f32,
    training: bool,
    per_example: bool,
    has_norms: bool,
}

impl Check {
    pub fn new(n_examples: usize) -> Self {
        Check {
            n_examples,
            inputs: Vec::new(),
            params: Params::new(),
            rng: ChaCha8Rng::seed_from_u64(7),
            tolerance: 4e-3,
            step: 5e-3,
            training: false,
            per_example: true,
            has_norms: true,
        }
    }

    /// An input with numbers in (−1, 1).
    pub fn input(mut self, dims: &[usize]) -> Self {
        let n: usize = dims.iter().product();
        let data = (0..n).map(|_| self.rng.random_range(-1.0f32..1.0)).collect();
        self.inputs.push((dims.to_vec(), data));
        self
    }

    /// An input with given numbers.
    pub fn input_of(mut self, dims: &[usize], data: Vec<f32>) -> Self {
        self.inputs.push((dims.to_vec(), data));
        self
    }

    /// A learnt parameter with numbers in (−1, 1).
    pub fn param(self, name: &str, dims: &[usize]) -> Self {
        self.param_of(name, dims, ParamKind::Weight, Init::Uniform(1.0))
    }

    pub fn param_of(mut self, name: &str, dims: &[usize], kind: ParamKind, init: Init) -> Self {
        self.params.add(name, dims, kind, init, &mut self.rng);
        self
    }

    /// The largest difference allowed, relative to the largest gradient of a tensor.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// The half-width of the differences.
    pub fn step(mut self, step: f32) -> Self {
        self.step = step;
        self
    }

    /// Runs the operation as in training (dropout, batch statistics).
    pub fn training(mut self) -> Self {
        self.training = true;
        self
    }

    /// For operations that mix examples (batch norm): no weights per example.
    pub fn mixes_examples(mut self) -> Self {
        self.per_example = false;
        self
    }

    /// For operations that have no gradient of one example: asking for norms is refused.
    pub fn refuses_norms(mut self) -> Self {
        self.has_norms = false;
        self
    }

    /// Compares all gradients.
    ///
    /// # Panics
    /// When one differs, naming the path, the tensor and the element.
    pub fn run(mut self, build: impl Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> Result<Var, NnError>) {
        for &path in cpu::available() {
            cpu::with_path(path, || self.run_on_this_path(path.name(), &build));
        }
    }

    /// Expects the operation to refuse, naming itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn fails(
        mut self,
        op: &str,
        build: impl Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> Result<Var, NnError>,
    ) {
        let ids: Vec<ParamId> = self.params.ids().collect();
        let mut ws = Workspace::new();
        let (mut tape, vars) = tape(&mut ws, &self.params, &self.inputs, self.n_examples, self.training);
        let error = build(&mut tape, &vars, &ids).expect_err("the operation should refuse");
        assert!(error.to_string().contains(op), "the error names {op}: {error}");
        self.inputs.clear();
    }

    fn run_on_this_path(
        &mut self,
        path: &str,
        build: &impl Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> Result<Var, NnError>,
    ) {
        let ids: Vec<ParamId> = self.params.ids().collect();
        let mut ws = Workspace::new();
        // The forward value, and the coefficients of the scalar that is differentiated.
        let forward = |params: &Params, inputs: &[(Vec<usize>, Vec<f32>)], ws: &mut Workspace| {
            let (mut tape, vars) = tape(ws, params, inputs, self.n_examples, self.training);
            let y = build(&mut tape, &vars, &ids).expect("the operation runs");
            tape.value(y).to_vec()
        };
        let y = forward(&self.params, &self.inputs, &mut ws);
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let c: Vec<f32> = y.iter().map(|_| rng.random_range(-1.0f32..1.0)).collect();
        let weights: Vec<f32> = (0..self.n_examples).map(|i| 0.25 + i as f32 * 0.5).collect();

        let (mut plain, mut weighted) = (Grads::new(&self.params), Grads::new(&self.params));
        let mut fused = Grads::new(&self.params);
        let mut input_grads = Vec::new();
        {
            let (mut tape, vars) = tape(&mut ws, &self.params, &self.inputs, self.n_examples, self.training);
            let y = build(&mut tape, &vars, &ids).expect("the operation runs");
            tape.backward_inputs(y, &c);
            tape.backward_weights(&mut plain, None);
            if self.per_example {
                tape.backward_weights(&mut weighted, Some(&weights));
                self.compare_norms(path, &mut tape);
            }
            for (i, &var) in vars.iter().enumerate() {
                let zero = vec![0.0; self.inputs[i].1.len()];
                input_grads.push(tape.grad(var).map_or(zero, <[f32]>::to_vec));
            }
        }
        {
            let (mut tape, vars) = tape(&mut ws, &self.params, &self.inputs, self.n_examples, self.training);
            let y = build(&mut tape, &vars, &ids).expect("the operation runs");
            tape.backward_from(y, &c, &mut fused);
        }
        for grads in [&mut plain, &mut weighted, &mut fused] {
            grads.finish();
        }
        let total = |y: &[f32], weights: Option<&[f32]>| -> f64 {
            let per = y.len() / self.n_examples.max(1);
            let weight = |i: usize| weights.map_or(1.0, |w| w[(i / per.max(1)).min(w.len() - 1)] as f64);
            y.iter().zip(&c).enumerate().map(|(i, (y, c))| *y as f64 * *c as f64 * weight(i)).sum()
        };
        let h = self.step;
        for t in 0..self.inputs.len() {
            let numeric: Vec<f64> = (0..self.inputs[t].1.len())
                .map(|e| {
                    let mut at = |delta: f32| {
                        let mut inputs = self.inputs.clone();
                        inputs[t].1[e] += delta;
                        total(&forward(&self.params, &inputs, &mut ws), None)
                    };
                    (at(h) - at(-h)) / (2.0 * h as f64)
                })
                .collect();
            compare(&format!("{path}: input {t}"), &input_grads[t], &numeric, self.tolerance);
        }
        for &id in ids.iter().filter(|&&id| self.params.kind(id) == ParamKind::Weight) {
            let name = self.params.name(id).to_owned();
            let mut numeric = [Vec::new(), Vec::new()];
            for e in 0..self.params.value(id).len() {
                let mut at = |delta: f32| {
                    let mut params = self.params.clone();
                    params.value_mut(id)[e] += delta;
                    let y = forward(&params, &self.inputs, &mut ws);
                    (total(&y, None), total(&y, Some(&weights)))
                };
                let (high, low) = (at(h), at(-h));
                numeric[0].push((high.0 - low.0) / (2.0 * h as f64));
                numeric[1].push((high.1 - low.1) / (2.0 * h as f64));
            }
            compare(&format!("{path}: {name}"), plain.value(id), &numeric[0], self.tolerance);
            compare(&format!("{path}: {name}, fused walk"), fused.value(id), &numeric[0], self.tolerance);
            if self.per_example {
                compare(
                    &format!("{path}: {name}, weighted"),
                    weighted.value(id),
                    &numeric[1],
                    self.tolerance,
                );
            }
        }
    }
}

impl Check {
    /// Each example's norm against that of its gradient alone.
    fn compare_norms(&self, path: &str, tape: &mut Tape<'_>) {
        let mut squares = vec![0.0; self.n_examples];
        let asked = tape.example_norms(&mut squares);
        if !self.has_norms {
            assert!(matches!(asked, Err(NnError::MixesExamples { .. })), "{path}: {asked:?}");
            return;
        }
        asked.expect("the operation has gradients of one example");
        for (i, square) in squares.iter().enumerate() {
            let mut alone = Grads::new(&self.params);
            let only: Vec<f32> = (0..self.n_examples).map(|j| f32::from(u8::from(i == j))).collect();
            tape.backward_weights(&mut alone, Some(&only));
            alone.finish();
            let sum = |id| alone.value(id).iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            let want: f64 = self.params.ids().map(sum).sum();
            let error = (square - want).abs() / want.max(1e-6);
            assert!(error < 1e-4, "{path}: squared norm of example {i} is {square}, alone {want}");
        }
    }
}

fn tape<'a>(
    ws: &'a mut Workspace,
    params: &'a Params,
    inputs: &[(Vec<usize>, Vec<f32>)],
    n_examples: usize,
    training: bool,
) -> (Tape<'a>, Vec<Var>) {
    let mut tape = Tape::new(ws, params, Recording::InputsAndWeights, Examples::Even(n_examples));
    if training {
        tape = tape.training(Dropout { seed: 3, step: 5 });
    }
    let vars =
        inputs.iter().map(|(dims, data)| tape.watched(dims, data).expect("the input fits: bug")).collect();
    (tape, vars)
}

fn compare(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let scale = want.iter().fold(1e-2f64, |m, x| m.max(x.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (got as f64 - want).abs() / scale;
        assert!(
            error <= tolerance,
            "{what}[{i}]: gradient {got}, finite differences {want}, error {error:.2e}"
        );
    }
}
