//! `explain` in requests, and `POST /v1/explanations`.

use super::{model_ref, unsupported, within};
use crate::error::ApiError;
use base64::Engine as _;
use lyceum_service::Content;
use lyceum_service::explain::{
    BaselineChoice, CONTEXTCITE, Check, DIRECT_LOGIT, Frame, Granularity, Method, MethodChoice, Options,
    QuantityName, Request, SaidPart, Saying, Steps, TRACIN, TargetChoice, What, Wish,
};
use lyceum_types::limits;
use serde::Deserialize;
use serde_json::{Map, Value};
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
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
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
                    return refuse(
                        "granularity",
                        format!(
                            "{name:?} is none of token, word, sentence, paragraph, message, feature, patch:N, step, channel"
                        ),
                    );
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
        let mut evaluate = Vec::new();
        for (i, name) in self.evaluate.iter().flatten().enumerate() {
            match Check::named(name) {
                Some(check) => evaluate.push(check),
                None => {
                    let all: Vec<&str> = Check::ALL.into_iter().map(Check::name).collect();
                    let message = format!("{name:?} is none of {}", all.join(", "));
                    return refuse(&format!("evaluate[{i}]"), message);
                }
            }
        }
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
            evaluate,
            counterfactual,
            max_passes,
            seed,
        };
        Ok((options, extras))
    }

    /// The method with its settings; a setting of another method is refused.
    fn method(&self, at: &impl Fn(&str) -> String) -> Result<MethodChoice, ApiError> {
        let name = self.method.as_deref().unwrap_or("auto");
        let mut method = match name {
            "auto" => None,
            CONTEXTCITE | DIRECT_LOGIT => None,
            "attention_weights" | "attention_rollout" | TRACIN => None,
            // The name by which the wire knows ablation with tokens left out.
            "leave_one_out" => Some(Method::Ablation),
            name => match Method::named(name) {
                Some(method) => Some(method),
                None => {
                    let all: Vec<&str> = Method::all().iter().map(Method::name).collect();
                    let message = format!(
                        "{}: {name:?} is none of auto, {CONTEXTCITE}, {DIRECT_LOGIT}, {}",
                        at("method"),
                        all.join(", ")
                    );
                    return Err(ApiError::field(at("method"), "unsupported_method", message));
                }
            },
        };
        let mut unused: Vec<&str> = Vec::new();
        let mut setting = |field: &'static str, given: bool, fits: bool| {
            if given && !fits {
                unused.push(field);
            }
        };
        let m = method.clone();
        let is = |f: fn(&Method) -> bool| m.as_ref().is_some_and(f);
        let steps = |m: &Method| matches!(m, Method::IntegratedGradients { .. } | Method::Conductance { .. });
        let samples = |m: &Method| matches!(m, Method::SmoothGrad { .. } | Method::KernelShap { .. });
        let layers = |m: &Method| matches!(m, Method::GradCam { .. } | Method::Conductance { .. });
        setting("n_steps", self.n_steps.is_some(), is(steps));
        setting("n_samples", self.n_samples.is_some(), is(samples) || name == CONTEXTCITE);
        setting("layer", self.layer.is_some(), is(layers));
        let sampling = is(|m| matches!(m, Method::ShapleySampling { .. }));
        setting("n_permutations", self.n_permutations.is_some(), sampling);
        setting("deviation", self.deviation.is_some(), is(|m| matches!(m, Method::SmoothGrad { .. })));
        setting("epsilon", self.epsilon.is_some(), is(|m| matches!(m, Method::Relevance { .. })));
        let moves = is(|m| matches!(m, Method::Occlusion { .. }));
        setting("window", self.window.is_some(), moves);
        setting("stride", self.stride.is_some(), moves);
        if let Some(field) = unused.first() {
            return Err(unsupported(&at(field), &format!("it is no setting of {name}: leave it out")));
        }
        let bounded = |field: &str, n: Option<usize>| match n {
            None => Ok(None),
            Some(n) => within(&at(field), n, 1, limits::EXPLAIN_SAMPLES_MAX).map(Some),
        };
        let (given_steps, given_samples) =
            (bounded("n_steps", self.n_steps)?, bounded("n_samples", self.n_samples)?);
        let given_permutations = bounded("n_permutations", self.n_permutations)?;
        match &mut method {
            Some(Method::IntegratedGradients { n_steps }) => {
                *n_steps = given_steps.map_or(Steps::Refined, Steps::Fixed);
            }
            Some(Method::Conductance { layer, n_steps }) => {
                *n_steps = given_steps.unwrap_or(*n_steps);
                match &self.layer {
                    Some(given) => layer.clone_from(given),
                    None => {
                        let message = format!("{}: name a hidden layer, such as hidden.0", at("layer"));
                        return Err(ApiError::field(at("layer"), "missing_required_parameter", message));
                    }
                }
            }
            Some(Method::SmoothGrad { n_samples, deviation }) => {
                *n_samples = given_samples.unwrap_or(*n_samples);
                *deviation = self.deviation.unwrap_or(*deviation);
            }
            Some(Method::KernelShap { n_samples }) => *n_samples = given_samples.unwrap_or(*n_samples),
            Some(Method::ShapleySampling { n_permutations }) => {
                *n_permutations = given_permutations.unwrap_or(*n_permutations);
            }
            Some(Method::GradCam { layer }) => layer.clone_from(&self.layer),
            Some(Method::Relevance { epsilon }) => *epsilon = self.epsilon.unwrap_or(*epsilon),
            Some(Method::Occlusion { window, stride }) => {
                *window = self.window.unwrap_or(*window);
                *stride = self.stride.unwrap_or(*stride);
            }
            _ => {}
        }
        if name == TRACIN && !at("").is_empty() {
            let message =
                format!("{}: row influence is asked for alone, at POST /v1/explanations", at("method"));
            return Err(ApiError::field(at("method"), "unsupported_method", message));
        }
        Ok(match (name, method) {
            ("attention_weights", _) => MethodChoice::Attention { rollout: false },
            ("attention_rollout", _) => MethodChoice::Attention { rollout: true },
            (CONTEXTCITE, _) => MethodChoice::ContextCite { n_samples: given_samples },
            (DIRECT_LOGIT, _) => MethodChoice::DirectLogit,
            (TRACIN, _) => MethodChoice::Tracin,
            (_, Some(method)) => MethodChoice::Named(method),
            (_, None) => MethodChoice::Auto,
        })
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
}

impl TargetBody {
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

/// `POST /v1/explanations`: what is explained, and beside it the fields of [`OptionsBody`].
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = ExplanationRequest)]
#[expect(
    dead_code,
    reason = "documents the shape; its two parts are read apart, so that unknown fields are seen"
)]
pub struct Body {
    pub model: String,
    /// A text.
    pub input: Option<String>,
    /// With `completion`: what a language model read,
    pub prompt: Option<String>,
    /// and what it said.
    pub completion: Option<String>,
    /// In the place of `prompt`: what a model with a chat template was asked.
    #[schema(value_type = Option<Vec<Object>>)]
    pub messages: Option<Vec<Value>>,
    /// With `messages`: the functions that it was told of, and further variables of its chat template. Where
    /// `target.part` is named, `completion` is the whole answer with the marks of thinking and calls.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// A picture as base64, or a data URL.
    pub image: Option<String>,
    /// A row: an object of features, or values in the model's order.
    #[schema(value_type = Option<Object>)]
    pub features: Option<Value>,
    /// Answer at once with `status: queued`; the explanation is then under `GET /v1/explanations/{id}`, also after a
    /// restart: it is kept on disk with the words that it is about.
    pub background: Option<bool>,
    #[serde(flatten)]
    pub options: OptionsBody,
}

#[derive(Deserialize)]
struct Subject {
    model: String,
    input: Option<String>,
    prompt: Option<String>,
    completion: Option<String>,
    messages: Option<Vec<Value>>,
    tools: Option<Vec<Value>>,
    chat_template_kwargs: Option<Map<String, Value>>,
    image: Option<String>,
    features: Option<Value>,
    background: Option<bool>,
}

const SUBJECT_FIELDS: [&str; 10] = [
    "model",
    "input",
    "prompt",
    "completion",
    "messages",
    "tools",
    "chat_template_kwargs",
    "image",
    "features",
    "background",
];

impl Body {
    /// The fields of both parts in one object.
    pub fn parse(bytes: &[u8]) -> Result<(Request, Extras, When), ApiError> {
        let mut all: Map<String, Value> = crate::body::parse(bytes)?;
        let mut subject = Map::new();
        for field in SUBJECT_FIELDS {
            if let Some(value) = all.remove(field) {
                subject.insert(field.to_owned(), value);
            }
        }
        let subject: Subject = crate::body::parse(Value::Object(subject).to_string().as_bytes())?;
        let options: OptionsBody = crate::body::parse(Value::Object(all).to_string().as_bytes())?;
        let when = if subject.background == Some(true) { When::InBackground } else { When::Now };
        let (options, extras) = options.parse("")?;
        Ok((Request { model: model_ref(&subject.model)?, what: subject.what()?, options }, extras, when))
    }
}

impl Subject {
    fn what(mut self) -> Result<What, ApiError> {
        let frame = Frame {
            tools: self.tools.take().unwrap_or_default(),
            variables: self.chat_template_kwargs.take().unwrap_or_default(),
        };
        if self.messages.is_none() && frame != Frame::default() {
            return Err(unsupported("tools", "they and chat_template_kwargs go with messages"));
        }
        if let Some(messages) = self.messages.take() {
            within("messages", messages.len(), 1, limits::MESSAGES_MAX)?;
            return match self {
                Subject {
                    completion: Some(completion),
                    input: None,
                    prompt: None,
                    image: None,
                    features: None,
                    ..
                } => Ok(What::Conversation { messages, frame, saying: Saying::Text(completion) }),
                _ => {
                    let message = "messages are explained together with completion, and nothing else";
                    Err(ApiError::field("completion", "missing_required_parameter", message))
                }
            };
        }
        let content = match (self.input, self.prompt, self.completion, self.image, self.features) {
            (Some(text), None, None, None, None) => Content::Text(text),
            (None, Some(prompt), Some(completion), None, None) => {
                return Ok(What::Continuation { prompt, completion });
            }
            (None, None, None, Some(image), None) => Content::File(file(&image)?),
            (None, None, None, None, Some(features @ (Value::Object(_) | Value::Array(_)))) => {
                super::predict::instance("features", features)?
            }
            _ => {
                let message = "send one of input, features, image, or prompt (or messages) with completion";
                return Err(ApiError::field("input", "missing_required_parameter", message));
            }
        };
        Ok(What::Input(content))
    }
}

fn file(image: &str) -> Result<Vec<u8>, ApiError> {
    let data = match image.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,").map_or("", |(_, data)| data),
        None => image,
    };
    match base64::engine::general_purpose::STANDARD.decode(data) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(ApiError::field("image", "invalid_value", "image: not base64, or a data URL without it")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(body: Value) -> (String, &'static str) {
        let error = Body::parse(body.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.status, 400, "{body}");
        (error.detail.param.unwrap(), error.detail.code.unwrap())
    }

    #[test]
    fn a_request_names_one_input_and_the_methods_own_settings() {
        let parse = |body: Value| Body::parse(body.to_string().as_bytes()).unwrap().0;
        let request = parse(json!({"model": "m", "features": {"a": 1}, "method": "integrated_gradients",
            "n_steps": 7, "target": {"label": "yes", "not": "no"}, "baseline": {"type": "mean"}, "seed": 3}));
        let ig = Method::IntegratedGradients { n_steps: Steps::Fixed(7) };
        assert_eq!(request.options.method, MethodChoice::Named(ig));
        assert_eq!(request.options.baseline, BaselineChoice::Mean);
        let label = TargetChoice::Label { label: "yes".into(), not: Some("no".into()), step: None };
        assert_eq!((request.options.target, request.options.seed), (label, 3));
        let request =
            parse(json!({"model": "m", "prompt": "a", "completion": "b", "granularity": "sentence"}));
        assert_eq!(request.what, What::Continuation { prompt: "a".into(), completion: "b".into() });
        assert_eq!(request.options.granularity, Some(Granularity::Sentence));
    }

    #[test]
    fn what_would_be_ignored_is_refused_by_its_name() {
        for (extra, param, code) in [
            (json!({"prompt": "x"}), "input", "missing_required_parameter"),
            (json!({"methods": "saliency"}), "methods", "unknown_parameter"),
            (json!({"method": "magic"}), "method", "unsupported_method"),
            (json!({"method": "saliency", "n_steps": 3}), "n_steps", "unsupported_parameter"),
            (json!({"epsilon": 0.1}), "epsilon", "unsupported_parameter"),
            (json!({"method": "conductance"}), "layer", "missing_required_parameter"),
            (json!({"granularity": "patch:0"}), "granularity", "invalid_value"),
            (json!({"evaluate": ["truth"]}), "evaluate[0]", "invalid_value"),
            (json!({"max_passes": 0}), "max_passes", "invalid_value"),
            (json!({"target": {"label": "a", "text": "b"}}), "target", "invalid_value"),
            (json!({"baseline": {"type": "background", "rows": []}}), "baseline.rows", "invalid_value"),
        ] {
            let mut body = json!({"model": "m", "input": "x"});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            assert_eq!(refused(body.clone()), (param.to_owned(), code), "{body}");
        }
    }
}
