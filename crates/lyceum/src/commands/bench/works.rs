//! The works: models and batches of the shapes that both sides run, and our side's step.

use lyceum_kernels::matmul::peak::multiply_adds;
use lyceum_kernels::matmul::{Epilogue, Mat, Precision, Write, matmul};
use lyceum_kernels::{cpu, pool};
use lyceum_models::batch::{Batch, Input, Target, Tokens};
use lyceum_models::{InputShape, Model, ModelShape, OutputShape};
use lyceum_nn::{Dropout, Examples, Grads, Recording, Tape, Workspace};
use lyceum_train::optim::Optimizer;
use lyceum_train::private::Noise;
use lyceum_types::spec::{
    ActivationSpec, CnnSpec, ConvSpec, MlpSpec, ModelSpec, NormKind, OptimizerSpec, Positional,
    RecurrentHead, RecurrentSpec, TransformerSpec, TransformerVariant,
};
use std::time::Instant;

/// Side of the square matrix product.
pub const SIDE: usize = 1024;
/// Different batches, so that no step repeats the one before.
const BATCHES: usize = 4;

/// Something that both sides run.
pub struct Work {
    pub name: &'static str,
    pub precision: Precision,
    pub steps_a_round: usize,
    pub is_trained: bool,
}

const fn work(name: &'static str, precision: Precision, steps_a_round: usize) -> Work {
    Work { name, precision, steps_a_round, is_trained: true }
}

pub const WORKS: [Work; 11] = [
    Work { name: "matmul", precision: Precision::F32, steps_a_round: 5, is_trained: false },
    Work { name: "matmul", precision: Precision::Bf16, steps_a_round: 5, is_trained: false },
    work("gpt_small", Precision::F32, 5),
    work("gpt_small", Precision::Bf16, 5),
    work("gpt_medium", Precision::F32, 1),
    work("gpt_medium", Precision::Bf16, 1),
    work("mlp", Precision::F32, 20),
    work("cnn", Precision::F32, 3),
    work("lstm", Precision::F32, 5),
    work("mlp", Precision::Bf16, 20),
    work("cnn", Precision::Bf16, 3),
];

impl Work {
    /// Whether `name` is the work's, alone or with its precision.
    pub fn is_called(&self, name: &str) -> bool {
        match name.split_once(':') {
            Some((name, precision)) => name == self.name && precision == self.precision_name(),
            None => name == self.name,
        }
    }

    pub fn precision_name(&self) -> &'static str {
        match self.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    fn weight_decay(&self) -> f64 {
        if self.name.starts_with("gpt") { 0.1 } else { 0.01 }
    }
}

/// Our side of a work, ready to step.
pub enum Worker {
    Product { precision: Precision, a: Vec<f32>, b: Vec<f32>, out: Vec<f32> },
    Training(Box<Training>),
}

pub struct Training {
    pub model: Model,
    optimizer: Optimizer,
    grads: Grads,
    ws: Workspace,
    pub batches: Vec<Batch>,
    precision: Precision,
    step: u64,
}

impl Worker {
    pub fn new(work: &Work) -> Self {
        if !work.is_trained {
            let numbers = |seed: usize| {
                (0..SIDE * SIDE).map(|i| ((i * 7919 + seed) % 1000) as f32 / 500.0 - 1.0).collect()
            };
            let out = vec![0.0; SIDE * SIDE];
            return Worker::Product { precision: work.precision, a: numbers(1), b: numbers(2), out };
        }
        Worker::Training(Box::new(Training::new(work)))
    }

    /// The median seconds of `n` steps.
    pub fn seconds(&mut self, n: usize) -> f64 {
        let mut samples: Vec<f64> = (0..n)
            .map(|_| {
                let started = Instant::now();
                match self {
                    Worker::Product { precision, a, b, out } => {
                        let (a, b) = (Mat::new(a, SIDE, SIDE), Mat::new(b, SIDE, SIDE));
                        matmul(a, b, out, Write::Overwrite, Epilogue::default(), *precision);
                    }
                    Worker::Training(training) => {
                        training.step();
                    }
                }
                started.elapsed().as_secs_f64()
            })
            .collect();
        super::median(&mut samples)
    }

    /// The product's share of the machine's measured multiply-adds, both measured in turn.
    pub fn share_of_peak(&mut self, rounds: usize) -> Option<f64> {
        let Worker::Product { precision, .. } = self else { return None };
        let precision = *precision;
        if precision == Precision::Bf16 && !cpu::has_bf16() {
            return None;
        }
        let per_product = (SIDE * SIDE * SIDE) as f64;
        let mut shares: Vec<f64> = (0..rounds.max(1))
            .map(|_| {
                let (path, threads) = (cpu::path(), pool::threads());
                let started = Instant::now();
                pool::parallel_for(threads, |_| {
                    multiply_adds(path, precision, 2_000_000);
                });
                let operations = multiply_adds(path, precision, 1) * 2_000_000.0 * threads as f64;
                let peak = operations / started.elapsed().as_secs_f64();
                2.0 * per_product / self.seconds(3) / peak
            })
            .collect();
        Some(super::median(&mut shares))
    }
}

impl Training {
    pub fn new(work: &Work) -> Self {
        let (spec, shape) = model(work.name);
        let model = Model::new(&spec, &shape, 1).expect("the sizes of a work fit together: bug");
        let optimizer = OptimizerSpec::Adamw {
            lr: 1e-3,
            betas: [0.9, 0.99],
            eps: 1e-8,
            weight_decay: work.weight_decay(),
        };
        Training {
            optimizer: Optimizer::new(&optimizer, &model.params),
            grads: Grads::new(&model.params),
            ws: Workspace::new(),
            batches: (0..BATCHES).map(|i| batch(work.name, i)).collect(),
            precision: work.precision,
            step: 0,
            model,
        }
    }

    /// The MLP in f32 with plain gradient descent, on batches of `n` rows.
    pub fn mlp_with_sgd(n: usize, lr: f64) -> Self {
        let work = WORKS.iter().find(|work| work.is_called("mlp:f32")).expect("there is such a work: bug");
        let mut training = Self::new(work);
        training.batches = (0..BATCHES).map(|i| dense(n, &[784], i)).collect();
        training.optimizer = Optimizer::new(
            &OptimizerSpec::Sgd { lr, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 },
            &training.model.params,
        );
        training
    }

    /// The calls of a private step over one batch: gradients, norms, the weighted sum, noise of the clip.
    pub fn private_step(&mut self) -> Result<(), lyceum_nn::NnError> {
        let batch = &self.batches[self.step as usize % self.batches.len()];
        self.grads.clear();
        let mut tape =
            Tape::new(&mut self.ws, &self.model.params, Recording::Weights, Examples::Even(batch.n))
                .training(Dropout { seed: 1, step: self.step });
        let (loss, _) = self.model.loss(&mut tape, batch, 1.0)?;
        tape.backward_inputs(loss, &[1.0]);
        let mut squares = vec![0.0; batch.n];
        tape.example_norms(&mut squares)?;
        let weights: Vec<f32> = squares.iter().map(|square| (1.0 / square.sqrt()).min(1.0) as f32).collect();
        tape.backward_weights(&mut self.grads, Some(&weights));
        self.grads.finish();
        Noise::insecure(1).add(self.step, 1.0, &self.model.params, &mut self.grads);
        self.optimizer.step(&mut self.model.params, &self.grads, 0.1, 1.0 / batch.n as f32);
        self.step += 1;
        Ok(())
    }

    /// One optimiser step; the loss before it.
    pub fn step(&mut self) -> f32 {
        let batch = &self.batches[self.step as usize % self.batches.len()];
        let key = Dropout { seed: 1, step: self.step };
        self.step += 1;
        self.grads.clear();
        let mut tape =
            Tape::new(&mut self.ws, &self.model.params, Recording::Weights, Examples::Even(batch.n))
                .training(key)
                .with_precision(self.precision);
        let scale = 1.0 / batch.target.n_terms() as f32;
        let (loss, _) = self.model.loss(&mut tape, batch, scale).expect("the batch of a work fits: bug");
        let value = tape.value(loss)[0];
        tape.backward(loss, &mut self.grads);
        self.grads.finish();
        self.optimizer.step(&mut self.model.params, &self.grads, 1e-3, 1.0);
        value
    }
}

pub fn model(name: &str) -> (ModelSpec, ModelShape) {
    let gpt = |layers, nhead, d_model, context| {
        let spec = TransformerSpec {
            variant: TransformerVariant::Decoder,
            d_model,
            nhead,
            num_encoder_layers: layers,
            num_decoder_layers: layers,
            dim_feedforward: 4 * d_model,
            context,
            positional: Positional::Learned,
            norm: NormKind::Layer,
            norm_first: true,
            activation: ActivationSpec::Gelu,
            bias: false,
            tie_embeddings: true,
            dropout: 0.0,
            layer_norm_eps: 1e-5,
        };
        let input = InputShape::Tokens { vocabulary: 65, time: context };
        (ModelSpec::Transformer(spec), ModelShape { input, output: OutputShape::Tokens { vocabulary: 65 } })
    };
    let ten = OutputShape::Classes { n: 10 };
    match name {
        "gpt_small" => gpt(4, 4, 128, 64),
        "gpt_medium" => gpt(6, 6, 384, 256),
        "mlp" => {
            let spec = MlpSpec { hidden: vec![512, 256], activation: ActivationSpec::Relu, dropout: 0.0 };
            (ModelSpec::Mlp(spec), ModelShape { input: InputShape::Features { n: 784 }, output: ten })
        }
        "cnn" => {
            let conv = |channels| ConvSpec {
                channels,
                kernel: 3,
                stride: 1,
                padding: Some(1),
                dilation: 1,
                groups: 1,
                norm: None,
                pool: Some(2),
                residual: None,
            };
            let spec = CnnSpec {
                conv: vec![conv(32), conv(64)],
                global_pool: None,
                hidden: vec![128],
                activation: ActivationSpec::Relu,
                dropout: 0.0,
            };
            (
                ModelSpec::Cnn(spec),
                ModelShape { input: InputShape::Image { shape: [1, 28, 28] }, output: ten },
            )
        }
        "lstm" => {
            let spec = RecurrentSpec {
                hidden_size: 128,
                num_layers: 1,
                bidirectional: false,
                dropout: 0.0,
                head: RecurrentHead::Last,
                bptt: None,
                embedding_dim: None,
                one_hot: false,
            };
            let input = InputShape::Series { steps: 64, channels: 64 };
            (ModelSpec::Lstm(spec), ModelShape { input, output: ten })
        }
        _ => unreachable!("a work has a model: bug"),
    }
}

fn mix(i: usize, number: usize) -> usize {
    (i * 2_654_435_761 + number * 97 + 13) >> 7
}

fn dense(n: usize, shape: &[usize], number: usize) -> Batch {
    let width: usize = shape.iter().product();
    let data = (0..n * width).map(|i| (mix(i, number) % 2000) as f32 / 1000.0 - 1.0).collect();
    let target = Target::Classes((0..n).map(|i| (mix(i + 5, number) % 10) as i32).collect());
    Batch { n, input: Input::Dense { shape: shape.to_vec(), data }, target }
}

/// Numbers that need no generator: speed does not depend on them.
pub fn batch(name: &str, number: usize) -> Batch {
    let mix = |i: usize| mix(i, number);
    let tokens = |n: usize, time: usize| {
        let ids = |salt: usize| (0..n * time).map(move |i| (mix(i + salt) % 65) as u32);
        let input =
            Tokens { n, time, ids: ids(0).collect(), lengths: vec![time as u32; n], ..Tokens::default() };
        let target = Target::Steps(ids(1).map(|id| id as i32).collect());
        Batch { n, input: Input::Tokens(input), target }
    };
    match name {
        "gpt_small" => tokens(12, 64),
        "gpt_medium" => tokens(16, 256),
        "mlp" => dense(128, &[784], number),
        "cnn" => dense(128, &[1, 28, 28], number),
        _ => dense(64, &[64, 64], number),
    }
}
