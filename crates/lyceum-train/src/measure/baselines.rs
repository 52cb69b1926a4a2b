//! How good the simple methods are on the rows that a model is measured on.

use super::{
    ANSWERS_MAX, Measured, classifier, exact, labelled_steps, language, no_targets, question_tokens,
    regressor, restore,
};
use crate::baseline::{
    Bigram, Linear, Logistic, Majority, Mean, TfidfLogistic, Trigram, Trivial, last_value, seasonal_naive,
};
use crate::data::Dataset;
use crate::error::TrainError;
use lyceum_models::prepare::series::{Fields, Series};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_types::control::Control;
use lyceum_types::spec::{Spec, Task};

/// The trivial method of the task, fitted on the training part.
pub fn fit_trivial(preparation: &Preparation, train: &Dataset, spec: &Spec) -> Result<Trivial, TrainError> {
    Ok(match (spec.task, &preparation.output) {
        (Task::Classification, OutputPreparation::Labels { names }) => {
            let labels = train.labels().ok_or_else(|| no_targets("classification"))?;
            Trivial::Majority(Majority::fit(labels, names.len())?)
        }
        (Task::Classification, OutputPreparation::StepLabels { names }) => {
            Trivial::Majority(Majority::fit(&labelled_steps(train)?.labels, names.len())?)
        }
        (Task::Regression, _) => {
            let (targets, width) = train.values().ok_or_else(|| no_targets("regression"))?;
            Trivial::Mean(Mean::fit(targets, width)?)
        }
        (Task::Forecasting, _) => Trivial::LastValue,
        (Task::LanguageModeling | Task::SequenceToSequence | Task::Classification, _) => {
            let texts = training_texts(train);
            Trivial::Bigram(Bigram::fit(texts.iter().map(Vec::as_slice), vocabulary(preparation))?)
        }
    })
}

/// A trivial method on a part.
pub fn measure_trivial(
    trivial: &Trivial,
    preparation: &Preparation,
    part: &Dataset,
    spec: &Spec,
) -> Result<Measured, TrainError> {
    match (trivial, &preparation.output) {
        (Trivial::Majority(majority), OutputPreparation::Labels { names }) => {
            let labels = part.labels().ok_or_else(|| no_targets("classification"))?;
            let log_probs = majority.log_probs(labels.len());
            classifier("majority".into(), &log_probs, labels, names.len(), spec.seed, Vec::new())
        }
        (Trivial::Majority(majority), OutputPreparation::StepLabels { names }) => {
            let labels = labelled_steps(part)?.labels;
            let log_probs = majority.log_probs(labels.len());
            classifier("majority".into(), &log_probs, &labels, names.len(), spec.seed, Vec::new())
        }
        (Trivial::Mean(mean), OutputPreparation::Values { .. }) => {
            let (targets, width) = part.values().ok_or_else(|| no_targets("regression"))?;
            let predicted = restore(preparation, &mean.predict(targets.len() / width));
            regressor("mean".into(), &predicted, &preparation.output.restore(targets), width, spec.seed)
        }
        (Trivial::LastValue, OutputPreparation::Values { .. }) => {
            let seen = Windows::of(preparation, part, spec)?;
            let last = last_value(&seen.original, seen.window, seen.channels, &seen.forecast, seen.horizon);
            regressor("last_value".into(), &last, &seen.targets, seen.width, spec.seed)
        }
        (Trivial::Bigram(bigram), OutputPreparation::Tokens) => n_gram(
            "bigram",
            (preparation, part),
            &|context, token| bigram.loss(context, token),
            &|context, end, n| bigram.greedy(context, end, n),
        ),
        _ => Err(no_targets("a baseline of another task")),
    }
}

/// The best simple method, fitted on `train` and measured on `part`.
pub fn measure_simple(
    preparation: &Preparation,
    train: &Dataset,
    part: &Dataset,
    spec: &Spec,
    control: &Control,
) -> Result<Measured, TrainError> {
    match (spec.task, &preparation.output) {
        (Task::Classification, OutputPreparation::Labels { names }) => {
            let none = || no_targets("classification");
            let (fit, labels) = (train.labels().ok_or_else(none)?, part.labels().ok_or_else(none)?);
            let k = names.len();
            let (name, log_probs) = match (train.texts(), part.texts(), train.dense(), part.dense()) {
                (Some(texts), Some(others), ..) => {
                    ("tfidf_logistic", TfidfLogistic::fit(texts, fit, k, control)?.log_probs(others))
                }
                (.., Some((x, width)), Some((others, _))) => {
                    ("logistic", Logistic::fit(x, width, fit, k, control)?.log_probs(others))
                }
                _ => return Err(no_targets("a baseline of token inputs without texts")),
            };
            classifier(name.into(), &log_probs, labels, k, spec.seed, Vec::new())
        }
        (Task::Classification, OutputPreparation::StepLabels { names }) => {
            let (fit, steps, k) = (labelled_steps(train)?, labelled_steps(part)?, names.len());
            let logistic = Logistic::fit(&fit.features, fit.width, &fit.labels, k, control)?;
            let log_probs = logistic.log_probs(&steps.features);
            classifier("logistic".into(), &log_probs, &steps.labels, k, spec.seed, Vec::new())
        }
        (Task::Regression, _) => {
            let none = || no_targets("regression");
            let ((fit, width), (targets, _)) =
                (train.values().ok_or_else(none)?, part.values().ok_or_else(none)?);
            let ((x, columns), (others, _)) =
                (train.dense().ok_or_else(none)?, part.dense().ok_or_else(none)?);
            let linear = Linear::fit(x, columns, fit, width, control)?.predict(others);
            let targets = preparation.output.restore(targets);
            regressor("linear".into(), &restore(preparation, &linear), &targets, width, spec.seed)
        }
        (Task::Forecasting, _) => forecaster(preparation, train, part, spec, control),
        (Task::LanguageModeling | Task::SequenceToSequence | Task::Classification, _) => {
            let texts = training_texts(train);
            let trigram = Trigram::fit(texts.iter().map(Vec::as_slice), vocabulary(preparation))?;
            n_gram(
                "trigram",
                (preparation, part),
                &|context, token| trigram.loss(context, token),
                &|context, end, n| trigram.greedy(context, end, n),
            )
        }
    }
}

fn vocabulary(preparation: &Preparation) -> usize {
    preparation.tokenizer().map_or(0, |tokenizer| tokenizer.vocab_size())
}

/// What follows a context, until an end token or so many ids.
type Greedy<'a> = &'a dyn Fn(&[u32], u32, usize) -> Vec<u32>;

/// A method that counts tokens: its losses, and its own answers where rows have some.
fn n_gram(
    name: &str,
    (preparation, part): (&Preparation, &Dataset),
    loss: &dyn Fn(&[u32], u32) -> f64,
    greedy: Greedy<'_>,
) -> Result<Measured, TrainError> {
    let mut measured = language(name.into(), &token_losses(part, loss), part, preparation)?;
    if part.tokens().is_none() {
        let end = preparation.tokenizer().and_then(|t| t.eos()).unwrap_or(u32::MAX);
        let n = part.len().min(ANSWERS_MAX);
        let answers: Vec<Vec<u32>> = (0..n).map(|i| greedy(&question_tokens(part, i), end, 64)).collect();
        exact(&mut measured.metrics, &answers, part, preparation)?;
    }
    Ok(measured)
}

/// The token sequences that n-gram baselines learn from.
fn training_texts(data: &Dataset) -> Vec<Vec<u32>> {
    match data.tokens() {
        Some(stream) => vec![stream.to_vec()],
        None => (0..data.len()).map(|i| whole_tokens(data, i)).collect(),
    }
}

fn whole_tokens(data: &Dataset, i: usize) -> Vec<u32> {
    let mut all = data.example_tokens(i).unwrap_or_default().to_vec();
    if data.is_pairs() {
        all.extend_from_slice(data.answer_tokens(i).unwrap_or_default());
    }
    all
}

/// Each example's (or window's) losses under a method that sees the tokens before.
fn token_losses(data: &Dataset, loss: &dyn Fn(&[u32], u32) -> f64) -> Vec<(f64, u64)> {
    /// An n-gram sees no further back.
    const REACH: usize = 4;
    let sum = |tokens: &[u32], from: usize| {
        let total = (from..tokens.len()).map(|i| loss(&tokens[i.saturating_sub(REACH)..i], tokens[i])).sum();
        (total, (tokens.len() - from) as u64)
    };
    match (data.tokens(), data.context()) {
        (Some(stream), Some(context)) => (1..stream.len())
            .step_by(context)
            .map(|start| {
                let end = (start + context).min(stream.len());
                // The model sees only its window, the method sees as far as it can: a fair advantage to it.
                let seen = start.saturating_sub(REACH);
                sum(&stream[seen..end], start - seen)
            })
            .collect(),
        _ => (0..data.len())
            .map(|i| {
                let tokens = whole_tokens(data, i);
                let n = data.answer_tokens(i).map_or(0, <[u32]>::len);
                sum(&tokens, tokens.len() - n)
            })
            .collect(),
    }
}

/// The windows of a forecast in the units of the data.
struct Windows {
    /// `[n, window, channels]`
    original: Vec<f32>,
    window: usize,
    channels: usize,
    horizon: usize,
    /// Channels that are forecast.
    forecast: Vec<usize>,
    /// `[n, width]`
    targets: Vec<f64>,
    width: usize,
}

impl Windows {
    fn of(preparation: &Preparation, part: &Dataset, spec: &Spec) -> Result<Self, TrainError> {
        let InputPreparation::Series(series) = &preparation.input else {
            return Err(no_targets("a forecast of something that is no series"));
        };
        let none = || no_targets("forecasting");
        let ((targets, width), (seen, _)) = (part.values().ok_or_else(none)?, part.dense().ok_or_else(none)?);
        let channels = series.channels();
        let unscaled = |(i, &v): (usize, &f32)| {
            (f64::from(v) * series.std[i % channels] + series.mean[i % channels]) as f32
        };
        Ok(Windows {
            original: seen.iter().enumerate().map(unscaled).collect(),
            window: series.steps,
            channels,
            horizon: spec.data.horizon.unwrap_or(1),
            forecast: target_channels(series, &preparation.output),
            targets: preparation.output.restore(targets),
            width,
        })
    }
}

/// The better of linear regression and the seasonal naive forecast.
fn forecaster(
    preparation: &Preparation,
    train: &Dataset,
    part: &Dataset,
    spec: &Spec,
    control: &Control,
) -> Result<Measured, TrainError> {
    let none = || no_targets("forecasting");
    let (fit, width) = train.values().ok_or_else(none)?;
    let ((x, columns), (others, _)) = (train.dense().ok_or_else(none)?, part.dense().ok_or_else(none)?);
    let Windows { original, window, channels, horizon, forecast, targets, .. } =
        Windows::of(preparation, part, spec)?;
    let linear = restore(preparation, &Linear::fit(x, columns, fit, width, control)?.predict(others));
    let linear = regressor("linear".into(), &linear, &targets, width, spec.seed)?;
    let Some(season) = spec.data.season else { return Ok(linear) };
    let seasonal = seasonal_naive(&original, window, channels, &forecast, horizon, season)?;
    let seasonal = regressor("seasonal_naive".into(), &seasonal, &targets, width, spec.seed)?;
    let error = |m: &Measured| m.metrics.get("rmse").map_or(f64::INFINITY, |m| m.value);
    Ok(if error(&seasonal) < error(&linear) { seasonal } else { linear })
}

/// Which channels of the window are forecast: by name, or the only one.
fn target_channels(series: &Series, output: &OutputPreparation) -> Vec<usize> {
    let (Fields::Channels(channels), OutputPreparation::Values { names, .. }) = (&series.fields, output)
    else {
        return (0..series.channels()).collect();
    };
    let named = |channel: &String| {
        names.iter().any(|n| {
            n == channel || n.starts_with(&format!("{channel}[")) || n.starts_with(&format!("{channel}+"))
        })
    };
    let found: Vec<usize> = (0..channels.len()).filter(|&c| named(&channels[c])).collect();
    if found.is_empty() { (0..channels.len()).collect() } else { found }
}
