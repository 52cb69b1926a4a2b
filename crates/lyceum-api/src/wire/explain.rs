//! `explain` in requests: how to explain. What is explained at `POST /v1/explanations` is in `subject`, the method with
//! its settings in `method`.

mod method;
mod subject;

pub use subject::Body;

use super::within;
use crate::error::ApiError;
use lyceum_service::explain::{
    BaselineChoice, Check, Granularity, Options, QuantityName, SaidPart, TargetChoice, Wish,
};
use lyceum_types::limits;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// How to explain; everything may be left out.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ExplainOptions)]
pub struct OptionsBody {
    /// `auto`, a name of `GET /v1/models/{m}/explanation_methods`, `attention_weights`, `attention_rollout`, or `tracin`:
    /// the training rows that pulled the answer where it is.
    pub method: Option<String>,
    /// `token`, `word`, `sentence`, `paragraph`, `message`, `feature`, `patch:16`, `step` or `channel`.
    pub granularity: Option<String>,
    /// Of a conversation with an imported language model: only these messages, by number from 0, are cut into parts; the
    /// others stay as they are.
    pub sources: Option<Vec<usize>>,
    pub target: Option<TargetBody>,
    /// `logit`, `probability` or `logprob`.
    pub quantity: Option<String>,
    pub baseline: Option<BaselineBody>,
    /// `comprehensiveness`, `sufficiency`, `deletion_auc`, `insertion_auc`, `infidelity`, `sensitivity`.
    pub evaluate: Option<Vec<String>>,
    /// The most examples that may go forward through the model.
    pub max_passes: Option<u64>,
    /// Also the smallest change of a row of a table that gives another answer.
    pub counterfactual: Option<CounterfactualBody>,
    pub seed: Option<u64>,
    /// Of `integrated_gradients` and `conductance`.
    pub n_steps: Option<usize>,
    /// Of `smooth_grad`, `kernel_shap` and `contextcite` (masks).
    pub n_samples: Option<usize>,
    /// Of `shapley_sampling`.
    pub n_permutations: Option<usize>,
    /// Of `smooth_grad`: the noise, as a part of the input's range.
    pub deviation: Option<f64>,
    /// Of `grad_cam` and `conductance`.
    pub layer: Option<String>,
    /// Of `relevance`.
    pub epsilon: Option<f32>,
    /// Of `occlusion`: rows and columns.
    pub window: Option<[usize; 2]>,
    pub stride: Option<[usize; 2]>,
    /// Also give the heat map of a picture as a PNG (a data URL).
    pub png: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ExplainTarget)]
pub struct TargetBody {
    /// A label of a classifier.
    pub label: Option<String>,
    /// Another label, or another text: explains the difference.
    pub not: Option<String>,
    /// Where there is a label at each step: which.
    pub step: Option<usize>,
    /// A number of a regression.
    pub output: Option<String>,
    /// A part of the completion.
    pub text: Option<String>,
    /// What of an answer: `content` (by default), `reasoning`, or `tool_call`.
    pub part: Option<String>,
    /// Of several calls, the number of one, from 0.
    pub call: Option<usize>,
    /// Of several questions to a language model in `/v1/decisions`: the number of one, from 0.
    pub question: Option<usize>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ExplainCounterfactual)]
pub struct CounterfactualBody {
    /// The wanted label; without it, the second likeliest.
    pub label: Option<String>,
    /// Columns that may change, 1 to 5; 3 by default.
    pub max_changes: Option<usize>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(
    tag = "type",
    rename_all = "snake_case",
    deny_unknown_fields,
    expecting = "an object such as {\"type\": \"zeros\"}, of the types zeros, mean, drop, values and background"
)]
#[schema(as = ExplainBaseline)]
pub enum BaselineBody {
    Zeros {},
    /// The mean row of the training data.
    Mean {},
    /// Texts: absent tokens are left out.
    Drop {},
    /// One instance.
    Values {
        values: Value,
    },
    /// Several: absent features are averaged over them.
    Background {
        rows: Vec<Value>,
    },
}

/// What the answer adds beside the explanation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    pub png: bool,
}

/// When the answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Now,
    InBackground,
}

impl OptionsBody {
    /// The question that is explained, of a request that asks several; taken out before the rest is parsed.
    pub fn take_question(&mut self) -> Option<usize> {
        let target = self.target.as_mut()?;
        let question = target.question.take();
        if question.is_some() && *target == TargetBody::default() {
            self.target = None;
        }
        question
    }

    /// The options, whose errors name fields below `path` (`explain.` or nothing).
    pub fn parse(self, path: &str) -> Result<(Options, Extras), ApiError> {
        let at = |field: &str| format!("{path}{field}");
        let refuse = |field: &str, message: String| {
            Err(ApiError::field(at(field), "invalid_value", format!("{}: {message}", at(field))))
        };
        let extras = Extras { png: self.png.unwrap_or(false) };
        let granularity = match self.granularity.as_deref() {
            None => None,
            Some(name) => match Granularity::named(name) {
                Some(granularity) => Some(granularity),
                None => {
                    let all = "token, word, sentence, paragraph, message, feature, patch:N, step, channel";
                    return refuse("granularity", format!("{name:?} is none of {all}"));
                }
            },
        };
        let quantity = match self.quantity.as_deref() {
            None => None,
            Some("logit") => Some(QuantityName::Logit),
            Some("probability") => Some(QuantityName::Probability),
            Some("logprob") => Some(QuantityName::LogProbability),
            Some(name) => {
                return refuse("quantity", format!("{name:?} is none of logit, probability, logprob"));
            }
        };
        let evaluate = self.checks(&at)?;
        let max_passes = match self.max_passes {
            None => limits::EXPLAIN_PASSES_DEFAULT,
            Some(n) => within(&at("max_passes"), n, 1, limits::EXPLAIN_PASSES_MAX)?,
        };
        let (target, part) = match &self.target {
            None => (TargetChoice::Likeliest, None),
            Some(target) => (target.parse(&at("target"))?, target.said_part(&at("target"))?),
        };
        let baseline = match &self.baseline {
            None => BaselineChoice::Auto,
            Some(baseline) => baseline.parse(&at("baseline"))?,
        };
        let method = self.method(&at)?;
        if let Some(sources) = &self.sources {
            within(&at("sources"), sources.len(), 1, limits::MESSAGES_MAX)?;
        }
        let counterfactual = match &self.counterfactual {
            None => None,
            Some(wish) => {
                let param = at("counterfactual.max_changes");
                let changes_max =
                    within(&param, wish.max_changes.unwrap_or(3), 1, limits::COUNTERFACTUAL_CHANGES_MAX)?;
                Some(Wish { label: wish.label.clone(), changes_max })
            }
        };
        let seed = self.seed.unwrap_or(0);
        let options = Options {
            method,
            target,
            part,
            quantity,
            baseline,
            granularity,
            sources: self.sources,
            evaluate,
            counterfactual,
            max_passes,
            seed,
        };
        Ok((options, extras))
    }

    fn checks(&self, at: &impl Fn(&str) -> String) -> Result<Vec<Check>, ApiError> {
        let named = |(i, name): (usize, &String)| {
            Check::named(name).ok_or_else(|| {
                let (param, all) = (at(&format!("evaluate[{i}]")), Check::ALL.map(Check::name).join(", "));
                let message = format!("{param}: {name:?} is none of {all}");
                ApiError::field(param, "invalid_value", message)
            })
        };
        self.evaluate.iter().flatten().enumerate().map(named).collect()
    }
}

impl TargetBody {
    fn parse(&self, path: &str) -> Result<TargetChoice, ApiError> {
        if self.question.is_some() {
            let message = format!("{path}.question: only /v1/decisions asks questions: leave it out");
            return Err(ApiError::field(format!("{path}.question"), "unsupported_parameter", message));
        }
        let not = self.not.clone();
        if *self == (TargetBody { part: self.part.clone(), call: self.call, ..TargetBody::default() })
            && self.part.is_some()
        {
            return Ok(TargetChoice::Likeliest);
        }
        Ok(match (&self.label, &self.output, &self.text, &self.not) {
            (Some(label), None, None, _) => {
                TargetChoice::Label { label: label.clone(), not, step: self.step }
            }
            (None, Some(output), None, None) if self.step.is_none() => {
                TargetChoice::Output { output: output.clone() }
            }
            (None, None, text, _) if self.step.is_none() && (text.is_some() || not.is_some()) => {
                TargetChoice::Text { text: text.clone(), not }
            }
            _ => {
                let message = format!(
                    "{path}: send label (with not, step), or output, or text (with not); one of the three"
                );
                return Err(ApiError::field(path, "invalid_value", message));
            }
        })
    }

    /// The part of an answer; None: none was named.
    fn said_part(&self, path: &str) -> Result<Option<SaidPart>, ApiError> {
        let refuse = |field: &str, message: &str| {
            let field = format!("{path}.{field}");
            let message = format!("{field}: {message}");
            Err(ApiError::field(field, "invalid_value", message))
        };
        match (self.part.as_deref(), self.call) {
            (None, None) => Ok(None),
            (Some("content"), None) => Ok(Some(SaidPart::Content)),
            (Some("reasoning"), None) => Ok(Some(SaidPart::Reasoning)),
            (Some("tool_call"), call) => Ok(Some(SaidPart::Call(call.unwrap_or(0)))),
            (_, Some(_)) => refuse("call", "only with part: \"tool_call\""),
            (Some(_), None) => refuse("part", "there are content, reasoning and tool_call"),
        }
    }
}

impl BaselineBody {
    fn parse(&self, path: &str) -> Result<BaselineChoice, ApiError> {
        Ok(match self {
            BaselineBody::Zeros {} => BaselineChoice::Zeros,
            BaselineBody::Mean {} => BaselineChoice::Mean,
            BaselineBody::Drop {} => BaselineChoice::Drop,
            BaselineBody::Values { values } => {
                BaselineChoice::Values(super::predict::instance(&format!("{path}.values"), values.clone())?)
            }
            BaselineBody::Background { rows } => {
                let n = rows.len();
                within(&format!("{path}.rows"), n, 1, limits::BACKGROUND_ROWS_MAX)?;
                let row = |(i, row): (usize, &Value)| {
                    super::predict::instance(&format!("{path}.rows[{i}]"), row.clone())
                };
                BaselineChoice::Background(rows.iter().enumerate().map(row).collect::<Result<_, _>>()?)
            }
        })
    }
}

/// `POST /v1/models/{m}:explain`, beside KServe v1's `:predict`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ExplainRequest)]
pub struct InstancesBody {
    /// As those of `:predict`.
    pub instances: Vec<Value>,
    pub explain: Option<OptionsBody>,
}
