//! What must hold between the tables of a document. A rule is silent where one of its keys has a problem
//! already.

use super::section::Problems;
use super::tree::Node;
use super::{Draft, ProblemCode};
use crate::spec::{
    ColumnKind, DataSpec, InputSpec, ModelSpec, OptimizerSpec, RecurrentHead, RobustSpec, ScheduleSpec, Task,
    TrainSpec, TransformerVariant,
};
use crate::suggest::did_you_mean;

pub(super) fn check(draft: &Draft, root: &Node, problems: &Problems) {
    let rules = Rules::new(root, problems);
    let Some(task) = draft.task else { return };
    if let Some(data) = &draft.data {
        parts(task, data, &rules);
        columns(task, data, &rules);
        forecasting(task, data, &rules);
    }
    if let Some(model) = &draft.model {
        task_and_family(task, model, &rules);
    }
    if let (Some(data), model) = (&draft.data, draft.model.as_ref()) {
        input(task, data, model, &rules);
    }
    if let Some(train) = &draft.train {
        rates(train, &rules);
        early_stopping(task, train, draft.data.as_ref(), &rules);
        robust(task, train, &rules);
    }
    super::privacy::check(draft, &rules);
    super::gate::check(draft, &rules);
}

pub(super) struct Rules<'a> {
    root: &'a Node,
    problems: &'a Problems,
}

impl<'a> Rules<'a> {
    pub(super) fn new(root: &'a Node, problems: &'a Problems) -> Self {
        Rules { root, problems }
    }

    /// Notes a contradiction at `key` unless one of the `keys` it rests on has a problem.
    pub(super) fn note(&self, key: &[&str], rests_on: &[&str], message: String, fix: impl Into<String>) {
        let path = key.join(".");
        if self.problems.at(&path) || rests_on.iter().any(|key| self.problems.touch(key)) {
            return;
        }
        // The key itself, or the nearest table above it that was written.
        let place = (0..=key.len()).rev().find_map(|n| self.root.find(&key[..n])).and_then(|node| node.place);
        self.problems.note(place, path, ProblemCode::Contradiction, message, fix);
    }
}

/// Which rows are for training, validation and folds.
fn parts(task: Task, data: &DataSpec, rules: &Rules<'_>) {
    if data.valid.is_some() && data.valid_fraction.is_some() {
        let message = "valid and valid_fraction both say which rows validate".to_owned();
        rules.note(&["data", "valid_fraction"], &["data.valid"], message, "remove one of the two");
    }
    // The rows of these are parted at their end: a group is kept whole by folds alone.
    let by_order = matches!(task, Task::LanguageModeling | Task::SequenceToSequence);
    if by_order && data.group.is_some() && data.folds.is_none() {
        let message = format!("rows of {} are parted where they end, not by group", task.as_str());
        rules.note(
            &["data", "group"],
            &["task"],
            message,
            "remove it, or add folds, which keep groups whole",
        );
    }
}

/// A column has one part to play.
fn columns(task: Task, data: &DataSpec, rules: &Rules<'_>) {
    if task == Task::Classification && data.target.len() > 1 {
        let message = format!("classification has one target column, {} are named", data.target.len());
        rules.note(&["data", "target"], &["task"], message, "name one column, or train one model for each");
    }
    for target in &data.target {
        if data.features.contains(target) {
            let message =
                format!("\"{target}\" is the target and a feature: the answer would be in the question");
            rules.note(&["data", "features"], &["data.target"], message, "remove it from features");
        }
        if data.columns.get(target) == Some(&ColumnKind::Drop) {
            let message = format!("\"{target}\" is the target and is dropped");
            rules.note(&["data", "columns", target], &["data.target"], message, "remove it from columns");
        }
    }
    for (key, role) in [("group", &data.group), ("time", &data.time)] {
        let Some(column) = role else { continue };
        if data.target.contains(column) {
            let message = format!("\"{column}\" is the target and cannot be the {key} too");
            rules.note(&["data", key], &["data.target"], message, format!("name another column as {key}"));
        }
    }
}

fn task_and_family(task: Task, model: &ModelSpec, rules: &Rules<'_>) {
    let family = model.family();
    match model {
        ModelSpec::Mlp(_) | ModelSpec::Cnn(_) => {
            if matches!(task, Task::LanguageModeling | Task::SequenceToSequence) {
                let message = format!("{family} gives one answer a row and cannot do {}", task.as_str());
                let fix = "write family = \"lstm\" or family = \"transformer\", or another task";
                rules.note(&["model", "family"], &["task"], message, fix);
            }
        }
        ModelSpec::Rnn(model) | ModelSpec::Lstm(model) | ModelSpec::Gru(model) => {
            let fitting: &[RecurrentHead] = match task {
                Task::LanguageModeling => &[RecurrentHead::Next],
                Task::SequenceToSequence => &[RecurrentHead::Step],
                Task::Classification | Task::Regression => &[RecurrentHead::Last, RecurrentHead::Step],
                Task::Forecasting => &[RecurrentHead::Last],
            };
            if !fitting.contains(&model.head) {
                let name = |head: &RecurrentHead| match head {
                    RecurrentHead::Last => "\"last\"",
                    RecurrentHead::Step => "\"step\"",
                    RecurrentHead::Next => "\"next\"",
                };
                let message = format!("the head {} cannot do {}", name(&model.head), task.as_str());
                let fix =
                    format!("write head = {}", fitting.iter().map(name).collect::<Vec<_>>().join(" or "));
                rules.note(&["model", "head"], &["task", "model.family"], message, fix);
            }
        }
        ModelSpec::Transformer(model) => {
            let (variant, fix) = match task {
                Task::LanguageModeling => (TransformerVariant::Decoder, "write variant = \"decoder\""),
                Task::SequenceToSequence => {
                    (TransformerVariant::EncoderDecoder, "write variant = \"encoder_decoder\"")
                }
                _ => (TransformerVariant::Encoder, "write variant = \"encoder\""),
            };
            if model.variant != variant {
                let message = format!("this variant cannot do {}", task.as_str());
                rules.note(&["model", "variant"], &["task", "model.family"], message, fix);
            }
        }
    }
}

/// What a row is, against what reads it.
fn input(task: Task, data: &DataSpec, model: Option<&ModelSpec>, rules: &Rules<'_>) {
    let Some(input) = &data.input else { return };
    let (words, is_text, is_series) = match input {
        InputSpec::Tabular => ("tabular", false, false),
        InputSpec::Image { .. } => ("image", false, false),
        InputSpec::Text { .. } => ("text", true, false),
        InputSpec::Audio { .. } => ("audio", false, false),
        InputSpec::Series { .. } => ("series", false, true),
    };
    let text_task = matches!(task, Task::LanguageModeling | Task::SequenceToSequence);
    if text_task && !is_text {
        let message = format!("{} reads text, not {words}", task.as_str());
        rules.note(&["data", "input", "type"], &["task"], message, "write type = \"text\", or remove input");
    }
    if task == Task::Forecasting && !is_series {
        let message = format!("forecasting reads a series, not {words}");
        rules.note(
            &["data", "input", "type"],
            &["task"],
            message,
            "write type = \"series\", or remove input",
        );
    }
    if data.tokenizer.is_some() && matches!(input, InputSpec::Image { .. } | InputSpec::Audio { .. }) {
        let message = format!("input type \"{words}\" has no words to tokenise");
        rules.note(&["data", "tokenizer"], &["data.input"], message, "remove tokenizer");
    }
    if matches!(model, Some(ModelSpec::Cnn(_))) && matches!(input, InputSpec::Tabular) {
        let message = "a cnn needs neighbours: columns of a table have none".to_owned();
        let fix = "write family = \"mlp\", or input type \"series\" or \"image\"";
        rules.note(&["model", "family"], &["data.input"], message, fix);
    }
}

fn forecasting(task: Task, data: &DataSpec, rules: &Rules<'_>) {
    if task == Task::Forecasting {
        if data.window.is_none() {
            let message = "forecasting needs the number of steps that are seen".to_owned();
            rules.note(&["data", "window"], &["task"], message, "add window = 24 (and horizon = 1)");
        }
        return;
    }
    let given = [("window", data.window), ("horizon", data.horizon), ("season", data.season)];
    for (key, _) in given.into_iter().filter(|(_, value)| value.is_some()) {
        let message = format!("belongs to forecasting, and the task is {}", task.as_str());
        rules.note(&["data", key], &["task"], message, "remove it, or write task = \"forecasting\"");
    }
}

/// The schedule against the optimiser's rate and the length of the run.
fn rates(train: &TrainSpec, rules: &Rules<'_>) {
    let lr = match train.optimizer {
        OptimizerSpec::Sgd { lr, .. } | OptimizerSpec::Adam { lr, .. } | OptimizerSpec::Adamw { lr, .. } => {
            lr
        }
    };
    let (warmup_steps, min_lr) = match train.schedule {
        ScheduleSpec::Constant { warmup_steps } | ScheduleSpec::Step { warmup_steps, .. } => {
            (warmup_steps, 0.0)
        }
        ScheduleSpec::Linear { warmup_steps, min_lr } | ScheduleSpec::Cosine { warmup_steps, min_lr } => {
            (warmup_steps, min_lr)
        }
    };
    if min_lr > lr {
        let message = format!("min_lr = {min_lr} is above the optimiser's lr = {lr}");
        let key = ["train", "schedule", "min_lr"];
        rules.note(&key, &["train.optimizer"], message, "write a min_lr below lr");
    }
    if let Some(steps) = train.steps
        && warmup_steps >= steps
    {
        let message = format!("warms up for {warmup_steps} of {steps} steps: the full rate is never reached");
        let key = ["train", "schedule", "warmup_steps"];
        rules.note(&key, &["train.steps"], message, "write fewer warm-up steps than steps");
    }
}

/// What is changed must be numbers, and an attack must know what is wrong.
fn robust(task: Task, train: &TrainSpec, rules: &Rules<'_>) {
    let Some(robust) = &train.robust else { return };
    let fits = match robust {
        RobustSpec::Adversarial(_) | RobustSpec::Trades { .. } => task == Task::Classification,
        RobustSpec::Noise { .. } => {
            matches!(task, Task::Classification | Task::Regression | Task::Forecasting)
        }
    };
    if !fits {
        let message =
            format!("training on changed inputs is not defined for {} by this method", task.as_str());
        rules.note(&["train", "robust"], &["task"], message, "remove robust, or train a classifier");
    }
}

fn early_stopping(task: Task, train: &TrainSpec, data: Option<&DataSpec>, rules: &Rules<'_>) {
    let Some(stopping) = &train.early_stopping else { return };
    let names: Vec<String> = task.metrics().iter().map(|name| format!("valid_{name}")).collect();
    let key = ["train", "early_stopping", "metric"];
    if !names.contains(&stopping.metric) {
        let message = format!("\"{}\" is no validation metric of {}", stopping.metric, task.as_str());
        let fix = match did_you_mean(&stopping.metric, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write one of {}", names.join(", ")),
        };
        rules.note(&key, &["task"], message, fix);
    }
    if data.is_some_and(|data| data.valid.is_none() && data.valid_fraction.is_none()) {
        let message = "early stopping needs validation rows, and none are named".to_owned();
        let fix = "add valid = \"…\" or valid_fraction = 0.1 under [data]";
        rules.note(&["train", "early_stopping"], &["data.valid", "data.valid_fraction"], message, fix);
    }
}
