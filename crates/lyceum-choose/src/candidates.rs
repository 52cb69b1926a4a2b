//! Who runs: the candidates of the document, or with `auto` the families that can read the data in usual sizes.
//!
//! `auto` always begins with the linear model, the simplest that can be served; a choice without it would not
//! know what the others are worth.

use lyceum_models::InputShape;
use lyceum_types::spec::choose::{Candidate, ChooseSpec, usual_name};
use lyceum_types::spec::{
    ActivationSpec, CnnSpec, ConvNorm, ConvSpec, MlpSpec, ModelSpec, NormKind, OptimizerSpec, PoolKind,
    Positional, PrecisionSpec, RecurrentHead, RecurrentSpec, ScheduleSpec, Spec, TrainSpec, TransformerSpec,
    TransformerVariant,
};

/// The fewest steps of a usual training.
const STEPS_MIN: usize = 600;

/// The job spec that a candidate is, with the winner's name and without the test part, which a race may not see.
pub fn job(choose: &ChooseSpec, candidate: &Candidate) -> Spec {
    let mut data = choose.data.clone();
    (data.test, data.folds) = (None, None);
    let train = candidate.train.as_ref().or(choose.train.as_ref()).cloned();
    Spec {
        name: choose.name.clone(),
        task: choose.task,
        seed: choose.seed,
        data,
        model: candidate.model.clone(),
        train: train.unwrap_or_else(|| usual_training(&candidate.model)),
        // Every run of a race would spend: the document refuses it.
        privacy: None,
        gate: None,
    }
}

/// The same training in `share` of its length: a whole schedule of fewer steps.
pub fn shortened(train: &TrainSpec, share: f64) -> TrainSpec {
    let part = |n: usize| ((n as f64 * share).ceil() as usize).max(1);
    let mut short = train.clone();
    short.epochs = train.epochs.map(part);
    short.steps = train.steps.map(part);
    let warmup = match &mut short.schedule {
        ScheduleSpec::Constant { warmup_steps }
        | ScheduleSpec::Linear { warmup_steps, .. }
        | ScheduleSpec::Cosine { warmup_steps, .. }
        | ScheduleSpec::Step { warmup_steps, .. } => warmup_steps,
    };
    *warmup = (*warmup as f64 * share) as usize;
    if let ScheduleSpec::Step { step_size, .. } = &mut short.schedule {
        *step_size = part(*step_size);
    }
    short
}

/// The usual training of a family on `n_rows` rows: as many epochs as it has, or as many more as a small table needs for
/// [`STEPS_MIN`] steps. (Sixty epochs over iris are 120 steps, after which a linear model is right of 80 % of its rows; it
/// can be of 97 %.)
pub fn lengthened(train: &TrainSpec, n_rows: usize) -> TrainSpec {
    let a_epoch = n_rows.div_ceil(train.batch_size).max(1);
    let epochs = train.epochs.map(|epochs| epochs.max(STEPS_MIN.div_ceil(a_epoch)));
    TrainSpec { epochs, ..train.clone() }
}

/// The linear model, from which what `auto` offers is also found out.
pub fn linear() -> ModelSpec {
    mlp(&[], 0.0)
}

/// A job that reads rows of texts, where no candidate is trained.
pub fn reader_of_texts(choose: &ChooseSpec) -> Spec {
    let model = ModelSpec::Gru(recurrent(64));
    job(choose, &Candidate { name: usual_name(&model), model, train: None })
}

/// Candidates for inputs of this shape.
pub fn auto(input: &InputShape) -> Vec<Candidate> {
    let models = match *input {
        InputShape::Features { .. } => {
            vec![linear(), mlp(&[16], 0.0), mlp(&[64], 0.1), mlp(&[128, 64], 0.2)]
        }
        InputShape::Image { shape: [channels, ..] } => {
            let mut models =
                vec![linear(), mlp(&[64], 0.1), mlp(&[256, 128], 0.2), cnn(&[8, 16]), cnn(&[16, 32])];
            if channels == 1 {
                models.extend([ModelSpec::Gru(recurrent(64)), ModelSpec::Lstm(recurrent(64))]);
            }
            models
        }
        InputShape::Series { .. } => vec![
            linear(),
            mlp(&[64], 0.1),
            cnn(&[16, 32]),
            ModelSpec::Rnn(recurrent(32)),
            ModelSpec::Gru(recurrent(32)),
            ModelSpec::Lstm(recurrent(32)),
            transformer(32, 1),
        ],
        InputShape::Tokens { .. } | InputShape::Pair { .. } => vec![
            ModelSpec::Gru(recurrent(64)),
            ModelSpec::Lstm(recurrent(64)),
            transformer(64, 1),
            transformer(64, 2),
        ],
    };
    let named = |model: ModelSpec| Candidate { name: usual_name(&model), model, train: None };
    models.into_iter().map(named).collect()
}

/// How a family is trained when nothing is said.
fn usual_training(model: &ModelSpec) -> TrainSpec {
    let (epochs, lr, grad_clip) = match model {
        // Without hidden layers the loss is convex: larger steps do no harm.
        ModelSpec::Mlp(mlp) if mlp.hidden.is_empty() => (60, 2e-2, None),
        ModelSpec::Mlp(_) => (30, 3e-3, None),
        ModelSpec::Cnn(_) => (15, 2e-3, None),
        ModelSpec::Rnn(_) | ModelSpec::Lstm(_) | ModelSpec::Gru(_) => (12, 5e-3, Some(1.0)),
        ModelSpec::Transformer(_) => (8, 1e-3, Some(1.0)),
    };
    TrainSpec {
        epochs: Some(epochs),
        steps: None,
        batch_size: 64,
        accumulate: 1,
        optimizer: OptimizerSpec::Adamw { lr, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 },
        schedule: ScheduleSpec::Cosine { warmup_steps: 0, min_lr: 1e-5 },
        grad_clip,
        precision: PrecisionSpec::Auto,
        early_stopping: None,
        checkpoint_every: None,
        checkpoints_kept: None,
        eval_every: None,
        robust: None,
    }
}

fn mlp(hidden: &[usize], dropout: f64) -> ModelSpec {
    ModelSpec::Mlp(MlpSpec { hidden: hidden.to_vec(), activation: ActivationSpec::Relu, dropout })
}

/// 3-wide convolutions with batch norm, the last one pooled, and a hidden layer of 64.
fn cnn(channels: &[usize]) -> ModelSpec {
    let layer = |(i, &channels): (usize, &usize)| ConvSpec {
        channels,
        kernel: 3,
        stride: 1,
        padding: None,
        dilation: 1,
        groups: 1,
        norm: Some(ConvNorm::Batch),
        pool: (i > 0).then_some(2),
        residual: None,
    };
    ModelSpec::Cnn(CnnSpec {
        conv: channels.iter().enumerate().map(layer).collect(),
        global_pool: None::<PoolKind>,
        hidden: vec![64],
        activation: ActivationSpec::Relu,
        dropout: 0.2,
    })
}

fn recurrent(hidden_size: usize) -> RecurrentSpec {
    RecurrentSpec {
        hidden_size,
        num_layers: 1,
        bidirectional: false,
        dropout: 0.0,
        head: RecurrentHead::Last,
        bptt: None,
        embedding_dim: None,
        one_hot: false,
    }
}

fn transformer(d_model: usize, layers: usize) -> ModelSpec {
    ModelSpec::Transformer(TransformerSpec {
        variant: TransformerVariant::Encoder,
        d_model,
        nhead: 4,
        num_encoder_layers: layers,
        num_decoder_layers: 0,
        dim_feedforward: 2 * d_model,
        context: 128,
        positional: Positional::Learned,
        norm: NormKind::Layer,
        norm_first: true,
        activation: ActivationSpec::Gelu,
        bias: true,
        tie_embeddings: false,
        dropout: 0.1,
        layer_norm_eps: 1e-5,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_models::{Model, ModelShape, OutputShape};

    #[test]
    fn every_automatic_candidate_can_read_its_data() {
        let inputs = [
            InputShape::Features { n: 5 },
            InputShape::Image { shape: [1, 8, 8] },
            InputShape::Image { shape: [3, 8, 8] },
            InputShape::Series { steps: 28, channels: 1 },
            InputShape::Tokens { vocabulary: 50, time: 20 },
        ];
        for input in inputs {
            let candidates = auto(&input);
            assert!(candidates.len() >= 4);
            for candidate in candidates {
                let shape = ModelShape { input: input.clone(), output: OutputShape::Classes { n: 3 } };
                let built = Model::new(&candidate.model, &shape, 1);
                assert!(built.is_ok(), "{} on {input:?}", candidate.name);
            }
        }
    }

    #[test]
    fn a_small_table_gets_more_epochs_and_a_large_one_its_usual() {
        let train = usual_training(&linear());
        let epochs = |n_rows: usize| lengthened(&train, n_rows).epochs.unwrap();
        assert_eq!((epochs(80), epochs(1280), epochs(100_000)), (300, 60, 60));
        let steps = TrainSpec { epochs: None, steps: Some(7), ..train.clone() };
        assert_eq!(lengthened(&steps, 10), steps);
    }

    #[test]
    fn a_shorter_training_is_a_whole_one_of_fewer_steps() {
        let mut train = usual_training(&linear());
        train.schedule = ScheduleSpec::Step { warmup_steps: 40, step_size: 100, gamma: 0.1 };
        let short = shortened(&train, 0.25);
        assert_eq!(short.epochs, Some(15));
        assert_eq!(short.schedule, ScheduleSpec::Step { warmup_steps: 10, step_size: 25, gamma: 0.1 });
        assert_eq!(shortened(&train, 1.0), train);
    }
}
