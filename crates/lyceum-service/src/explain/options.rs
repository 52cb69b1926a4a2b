//! How to explain, with the choices that are made where the caller makes none.

use super::Wish;
use crate::resident::Resident;
use crate::{Content, ServiceError, predict};
use lyceum_explain::{Baseline, Check, Method, Subject};
use lyceum_models::InputShape;
use lyceum_models::prepare::tabular::{CategoryMissing, Code, NumberMissing};
use lyceum_models::prepare::{InputPreparation, PreparedValue};
use lyceum_types::limits;
use lyceum_types::spec::Unseen;

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub method: MethodChoice,
    pub target: TargetChoice,
    /// The part of an answer in which the target stands; None: its words.
    pub part: Option<SaidPart>,
    /// None: the logit of a class, the log-probability of a continuation, the number of a regression.
    pub quantity: Option<QuantityName>,
    pub baseline: BaselineChoice,
    /// None: words, columns, steps, or patches that make at most 256 of a picture.
    pub granularity: Option<Granularity>,
    /// Of a conversation: the messages whose texts are cut into parts, by number; None: all.
    pub sources: Option<Vec<usize>>,
    pub evaluate: Vec<Check>,
    /// Also the smallest change of a row that gives another answer.
    pub counterfactual: Option<Wish>,
    pub max_passes: u64,
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            method: MethodChoice::Auto,
            target: TargetChoice::Likeliest,
            part: None,
            quantity: None,
            baseline: BaselineChoice::Auto,
            granularity: None,
            sources: None,
            evaluate: Vec::new(),
            counterfactual: None,
            max_passes: limits::EXPLAIN_PASSES_DEFAULT,
            seed: 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum MethodChoice {
    /// Exact where that is cheap, else one pass forward and one back.
    Auto,
    Named(Method),
    /// Weights of attention, or their rollout: labelled as what they are.
    Attention {
        rollout: bool,
    },
    /// A linear model over random subsets of the parts of a prompt. None: as many as are usual, within `max_passes`.
    ContextCite {
        n_samples: Option<usize>,
    },
    /// What the layers of an imported language model add to a logit.
    DirectLogit,
    /// Training rows instead of features.
    Tracin,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TargetChoice {
    /// The class that the model chooses; the first number of a regression; the whole continuation.
    Likeliest,
    Label {
        label: String,
        not: Option<String>,
        step: Option<usize>,
    },
    /// A number of a regression by its name.
    Output {
        output: String,
    },
    /// A part of the continuation, and what might have stood there.
    Text {
        text: Option<String>,
        not: Option<String>,
    },
}

/// A part of what a language model says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaidPart {
    /// What it answers in words.
    Content,
    /// What it thinks before.
    Reasoning,
    /// Its call of a tool, by number.
    Call(usize),
}

impl SaidPart {
    pub(super) fn words(self) -> String {
        match self {
            SaidPart::Content => "content: name target.part (reasoning, tool_call)".into(),
            SaidPart::Reasoning => "reasoning".into(),
            SaidPart::Call(n) => format!("tool call {n}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantityName {
    Logit,
    Probability,
    LogProbability,
}

#[derive(Clone, Debug, PartialEq)]
pub enum BaselineChoice {
    /// What fits the method and the input: tokens left out, the mean of a table, zeros.
    Auto,
    Zeros,
    /// The mean row of the training data, as the version's sketches have it.
    Mean,
    Drop,
    Values(Content),
    Background(Vec<Content>),
}

/// What counts as one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    Token,
    Word,
    Sentence,
    Paragraph,
    /// A message of a conversation.
    Message,
    /// Squares of this many pixels.
    Patch(usize),
    /// A column of a table.
    Feature,
    /// A step of a series, or a channel of it.
    Step,
    Channel,
}

impl Granularity {
    pub fn name(self) -> String {
        match self {
            Granularity::Token => "token".into(),
            Granularity::Word => "word".into(),
            Granularity::Sentence => "sentence".into(),
            Granularity::Paragraph => "paragraph".into(),
            Granularity::Message => "message".into(),
            Granularity::Patch(n) => format!("patch:{n}"),
            Granularity::Feature => "feature".into(),
            Granularity::Step => "step".into(),
            Granularity::Channel => "channel".into(),
        }
    }

    pub fn named(name: &str) -> Option<Granularity> {
        Some(match name {
            "token" => Granularity::Token,
            "word" => Granularity::Word,
            "sentence" => Granularity::Sentence,
            "paragraph" => Granularity::Paragraph,
            "message" => Granularity::Message,
            "feature" => Granularity::Feature,
            "step" => Granularity::Step,
            "channel" => Granularity::Channel,
            _ => Granularity::Patch(name.strip_prefix("patch:")?.parse().ok().filter(|&n| n > 0)?),
        })
    }
}

/// Features of a table for which every coalition is asked unasked.
const EXACT_FEATURES_MAX: usize = 10;

/// Why these do not explain models that were trained here.
pub(super) const CITES: &str =
    "contextcite explains language models that were imported: use kernel_shap, or leave_one_out";

pub(super) const LOGITS: &str =
    "direct_logit_attribution explains language models that were imported: use conductance";

pub(super) fn method(
    resident: &Resident,
    subject: &Subject,
    choice: &MethodChoice,
) -> Result<Method, ServiceError> {
    if let MethodChoice::Named(method) = choice {
        return Ok(method.clone());
    }
    let own = match choice {
        MethodChoice::ContextCite { .. } => Some(CITES),
        MethodChoice::DirectLogit => Some(LOGITS),
        _ => None,
    };
    if let Some(why) = own {
        return Err(ServiceError::invalid("method", "unsupported_method", why));
    }
    let named = |name| Method::named(name).ok_or_else(|| ServiceError::internal("no such method", "bug"));
    match resident.model.shape.input {
        _ if resident.model.is_linear() => named("linear_shap"),
        InputShape::Features { .. } if subject.groups().n() <= EXACT_FEATURES_MAX => named("shapley"),
        InputShape::Features { .. } | InputShape::Series { .. } => named("integrated_gradients"),
        _ => named("gradient_x_input"),
    }
}

/// The baseline, and the name that the answer gives it.
pub(super) fn baseline(
    resident: &Resident,
    method: &Method,
    choice: &BaselineChoice,
) -> Result<(Baseline, &'static str), ServiceError> {
    let text = matches!(resident.model.shape.input, InputShape::Tokens { .. } | InputShape::Pair { .. });
    Ok(match choice {
        BaselineChoice::Zeros => (Baseline::Zeros, "zeros"),
        BaselineChoice::Drop => (Baseline::Drop, "drop"),
        BaselineChoice::Auto if text && method.can_drop() => (Baseline::Drop, "drop"),
        BaselineChoice::Auto => match mean(resident) {
            Some(mean) => (Baseline::Values(mean), "mean"),
            None => (Baseline::Zeros, "zeros"),
        },
        BaselineChoice::Mean => match mean(resident) {
            Some(mean) => (Baseline::Values(mean), "mean"),
            None => {
                let message = "this version has no means of its training rows: send baseline values";
                return Err(ServiceError::invalid("baseline", "unsupported_baseline", message));
            }
        },
        BaselineChoice::Values(content) => {
            (Baseline::Values(dense(resident, content, "baseline.values")?), "values")
        }
        BaselineChoice::Background(rows) => {
            let row =
                |(i, content): (usize, &Content)| dense(resident, content, &format!("baseline.rows[{i}]"));
            (Baseline::Background(rows.iter().enumerate().map(row).collect::<Result<_, _>>()?), "background")
        }
    })
}

fn dense(resident: &Resident, content: &Content, path: &str) -> Result<Vec<f32>, ServiceError> {
    match predict::prepare(resident, content, path)?.value {
        PreparedValue::Dense(row) => Ok(row),
        _ => {
            let message = "a text has no values to stand for it: use zeros or drop";
            Err(ServiceError::invalid(path, "unsupported_baseline", message))
        }
    }
}

/// The mean of the training rows as inputs: 0 for a standardised number, the frequencies of categories and of
/// missing values. None where the version's sketches do not say.
fn mean(resident: &Resident) -> Option<Vec<f32>> {
    let InputPreparation::Tabular(encoder) = &resident.preparation.input else { return None };
    let mut row = Vec::with_capacity(encoder.width());
    for column in &encoder.columns {
        let sketch = resident.manifest.features.iter().find(|sketch| sketch.name == column.name)?;
        let n = sketch.n.max(1) as f64;
        let missing = sketch.n_missing as f64 / n;
        match &column.code {
            Code::Number { missing: how, mean, std } => {
                // What is missing was filled in, and counts.
                let filled = match how {
                    NumberMissing::Error => *mean,
                    NumberMissing::Fill(x) | NumberMissing::Indicator(x) => *x,
                };
                let whole = sketch.mean.unwrap_or(filled) * (1.0 - missing) + filled * missing;
                row.push(((whole - mean) / std) as f32);
                if matches!(how, NumberMissing::Indicator(_)) {
                    row.push(missing as f32);
                }
            }
            Code::Category { values, unseen, missing: how } => {
                let filled = |value: &String| matches!(how, CategoryMissing::Fill(v) if v == value);
                let part = |value: &String| {
                    let seen = sketch.counts.get(value).copied().unwrap_or(0) as f64 / n;
                    (seen + if filled(value) { missing } else { 0.0 }) as f32
                };
                row.extend(values.iter().map(part));
                if *unseen == Unseen::Other {
                    let known: u64 = values.iter().filter_map(|v| sketch.counts.get(v)).sum();
                    row.push((1.0 - missing - known as f64 / n).max(0.0) as f32);
                }
                if *how == CategoryMissing::Indicator {
                    row.push(missing as f32);
                }
            }
        }
    }
    Some(row)
}
