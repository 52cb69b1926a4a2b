//! `[train]`: how long, with what optimiser and schedule, and when to look.

use super::ProblemCode;
use super::section::{DECAY, FACTOR, NOT_NEGATIVE, POSITIVE, SHARE, Section};
use crate::limits;
use crate::spec::tune::Auto;
use crate::spec::{EarlyStopping, OptimizerSpec, PrecisionSpec, ScheduleSpec, TrainSpec};

const STEPS_MAX: usize = 1_000_000_000;
const BATCH_MAX: usize = 1 << 20;

const PRECISIONS: &[(&str, PrecisionSpec)] =
    &[("auto", PrecisionSpec::Auto), ("f32", PrecisionSpec::F32), ("bf16", PrecisionSpec::Bf16)];

pub(super) fn read(mut section: Section<'_>) -> TrainSpec {
    let epochs = section.size("epochs", 1, 1_000_000);
    let steps = section.size("steps", 1, STEPS_MAX);
    if section.has("epochs") && section.has("steps") {
        let message = "epochs and steps both say how long to train";
        section.note("steps", ProblemCode::Contradiction, message, "remove one of the two");
    } else if !section.has("epochs") {
        section.require("steps", "how long to train", "epochs = 20 or steps = 2000");
    }
    section.elsewhere(&["privacy"], "the document itself: write [privacy]");
    section.elsewhere(&["method", "beta", "lora"], "fine-tuning: family = an imported model's name");
    let optimizer = section.section("optimizer").and_then(optimizer).unwrap_or(DEFAULT_OPTIMIZER);
    let schedule = section.section("schedule").and_then(schedule);
    let train = TrainSpec {
        epochs,
        steps,
        // As torch.utils.data.DataLoader.
        batch_size: section.size_or("batch_size", 1, 1, BATCH_MAX),
        accumulate: section.size_or("accumulate", 1, 1, BATCH_MAX),
        optimizer,
        schedule: schedule.unwrap_or(ScheduleSpec::Constant { warmup_steps: 0 }),
        grad_clip: section.number("grad_clip", POSITIVE),
        precision: section.choice("precision", PRECISIONS).unwrap_or(PrecisionSpec::Auto),
        early_stopping: section.section("early_stopping").map(early_stopping),
        checkpoint_every: section.size("checkpoint_every", 1, STEPS_MAX),
        checkpoints_kept: section.size("checkpoints_kept", 1, limits::CHECKPOINTS_KEPT_MAX),
        eval_every: section.size("eval_every", 1, STEPS_MAX),
        robust: section.section("robust").and_then(super::robust::read),
    };
    section.finish();
    train
}

/// `[train]` of a fine-tuning, where every key may be left to the program.
pub(super) fn read_tuned(mut section: Section<'_>, auto: Auto) -> TrainSpec {
    let steps = section.size("steps", 1, STEPS_MAX);
    let epochs_open = section.is_left_open("epochs");
    if steps.is_some() && !epochs_open {
        let message = "epochs and steps both say how long to train";
        section.note("steps", ProblemCode::Contradiction, message, "remove one of the two");
    }
    let open = left_open();
    let optimizer = if auto.lr { None } else { section.section("optimizer").and_then(optimizer) };
    let schedule = if auto.schedule { None } else { section.section("schedule").and_then(schedule) };
    let train = TrainSpec {
        epochs: if epochs_open { None } else { section.size("epochs", 1, 1_000_000) },
        steps,
        batch_size: if auto.batch_size { 1 } else { section.size_or("batch_size", 1, 1, BATCH_MAX) },
        accumulate: section.size_or("accumulate", 1, 1, BATCH_MAX),
        optimizer: optimizer.unwrap_or(open.optimizer),
        schedule: schedule.unwrap_or(open.schedule),
        grad_clip: section.number("grad_clip", POSITIVE).or(open.grad_clip),
        precision: section.choice("precision", PRECISIONS).unwrap_or(open.precision),
        early_stopping: section.section("early_stopping").map(early_stopping),
        checkpoint_every: section.size("checkpoint_every", 1, STEPS_MAX),
        checkpoints_kept: section.size("checkpoints_kept", 1, limits::CHECKPOINTS_KEPT_MAX),
        eval_every: section.size("eval_every", 1, STEPS_MAX),
        robust: None,
    };
    section.finish();
    train
}

/// A fine-tuning of which nothing is said: AdamW without decay, gradients of norm 1.
pub(super) fn left_open() -> TrainSpec {
    TrainSpec {
        epochs: None,
        steps: None,
        batch_size: 1,
        accumulate: 1,
        optimizer: OptimizerSpec::Adamw { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 },
        schedule: ScheduleSpec::Constant { warmup_steps: 0 },
        grad_clip: Some(1.0),
        precision: PrecisionSpec::Auto,
        early_stopping: None,
        checkpoint_every: None,
        checkpoints_kept: None,
        eval_every: None,
        robust: None,
    }
}

/// AdamW as PyTorch sets it.
const DEFAULT_OPTIMIZER: OptimizerSpec =
    OptimizerSpec::Adamw { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-2 };

#[derive(Clone, Copy)]
enum OptimizerName {
    Sgd,
    Momentum,
    Adam,
    Adamw,
}

const OPTIMIZERS: &[(&str, OptimizerName)] = &[
    ("sgd", OptimizerName::Sgd),
    ("momentum", OptimizerName::Momentum),
    ("adam", OptimizerName::Adam),
    ("adamw", OptimizerName::Adamw),
];

/// Defaults of `torch.optim.{SGD, Adam, AdamW}`; `momentum` is SGD with momentum 0.9.
fn optimizer(mut section: Section<'_>) -> Option<OptimizerSpec> {
    section.require("name", "which optimiser", "name = \"adamw\"");
    let name = section.choice("name", OPTIMIZERS)?;
    let lr = section.number_or("lr", 1e-3, POSITIVE);
    section.elsewhere(&["momentum", "dampening", "nesterov"], "the optimisers sgd and momentum");
    section.elsewhere(&["betas", "eps"], "the optimisers adam and adamw");
    let optimizer = match name {
        OptimizerName::Sgd => sgd(&mut section, lr, 0.0),
        OptimizerName::Momentum => sgd(&mut section, lr, 0.9),
        OptimizerName::Adam => {
            let (betas, eps) = moments(&mut section);
            OptimizerSpec::Adam { lr, betas, eps, weight_decay: weight_decay(&mut section, 0.0) }
        }
        OptimizerName::Adamw => {
            let (betas, eps) = moments(&mut section);
            OptimizerSpec::Adamw { lr, betas, eps, weight_decay: weight_decay(&mut section, 1e-2) }
        }
    };
    section.finish();
    Some(optimizer)
}

fn sgd(section: &mut Section<'_>, lr: f64, default_momentum: f64) -> OptimizerSpec {
    let momentum = section.number_or("momentum", default_momentum, DECAY);
    let dampening = section.number_or("dampening", 0.0, SHARE);
    let nesterov = section.flag("nesterov").unwrap_or(false);
    if nesterov && (momentum == 0.0 || dampening != 0.0) {
        let message = "Nesterov's momentum needs a momentum above 0 and no dampening";
        section.note(
            "nesterov",
            ProblemCode::Contradiction,
            message,
            "write momentum = 0.9 and no dampening",
        );
    }
    OptimizerSpec::Sgd { lr, momentum, dampening, nesterov, weight_decay: weight_decay(section, 0.0) }
}

fn weight_decay(section: &mut Section<'_>, default: f64) -> f64 {
    section.number_or("weight_decay", default, NOT_NEGATIVE)
}

fn moments(section: &mut Section<'_>) -> ([f64; 2], f64) {
    let eps = section.number_or("eps", 1e-8, POSITIVE);
    let Some(given) = section.numbers("betas", DECAY) else {
        return ([0.9, 0.999], eps);
    };
    match <[f64; 2]>::try_from(given.as_slice()) {
        Ok(betas) => (betas, eps),
        Err(_) => {
            let message = format!("must be two numbers, has {}", given.len());
            section.note("betas", ProblemCode::OutOfRange, message, "write as in betas = [0.9, 0.999]");
            ([0.9, 0.999], eps)
        }
    }
}

#[derive(Clone, Copy)]
enum ScheduleName {
    Constant,
    Linear,
    Cosine,
    Step,
}

const SCHEDULES: &[(&str, ScheduleName)] = &[
    ("constant", ScheduleName::Constant),
    ("linear", ScheduleName::Linear),
    ("cosine", ScheduleName::Cosine),
    ("step", ScheduleName::Step),
];

/// `gamma` as `torch.optim.lr_scheduler.StepLR`, `min_lr` as `CosineAnnealingLR`'s `eta_min`.
fn schedule(mut section: Section<'_>) -> Option<ScheduleSpec> {
    section.require("name", "which schedule", "name = \"cosine\"");
    let name = section.choice("name", SCHEDULES)?;
    let warmup_steps = section.size_or("warmup_steps", 0, 0, STEPS_MAX);
    section.elsewhere(&["min_lr"], "the schedules linear and cosine");
    section.elsewhere(&["step_size", "gamma"], "the schedule step");
    let schedule = match name {
        ScheduleName::Constant => ScheduleSpec::Constant { warmup_steps },
        ScheduleName::Linear => {
            ScheduleSpec::Linear { warmup_steps, min_lr: section.number_or("min_lr", 0.0, NOT_NEGATIVE) }
        }
        ScheduleName::Cosine => {
            ScheduleSpec::Cosine { warmup_steps, min_lr: section.number_or("min_lr", 0.0, NOT_NEGATIVE) }
        }
        ScheduleName::Step => {
            section.require("step_size", "after how many steps the rate falls", "step_size = 1000");
            ScheduleSpec::Step {
                warmup_steps,
                step_size: section.size_or("step_size", 1, 1, STEPS_MAX),
                gamma: section.number_or("gamma", 0.1, FACTOR),
            }
        }
    };
    section.finish();
    Some(schedule)
}

fn early_stopping(mut section: Section<'_>) -> EarlyStopping {
    section.require("patience", "how many evaluations may pass without a gain", "patience = 5");
    let stopping = EarlyStopping {
        metric: section.text("metric").unwrap_or_else(|| "valid_loss".into()),
        patience: section.size_or("patience", 1, 1, STEPS_MAX),
        min_delta: section.number_or("min_delta", 0.0, NOT_NEGATIVE),
    };
    section.finish();
    stopping
}
