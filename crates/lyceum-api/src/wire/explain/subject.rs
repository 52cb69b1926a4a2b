//! `POST /v1/explanations`: what is explained, beside the fields that say how.

use super::{Extras, OptionsBody, When};
use crate::error::ApiError;
use crate::wire::{model_ref, predict, unsupported, within};
use base64::Engine as _;
use lyceum_service::Content;
use lyceum_service::explain::{Frame, Request, Saying, What};
use lyceum_types::limits;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

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
                predict::instance("features", features)?
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

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_service::explain::{BaselineChoice, Granularity, Method, MethodChoice, Steps, TargetChoice};
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
            (json!({"baseline": "zeros"}), "baseline", "invalid_type"),
        ] {
            let mut body = json!({"model": "m", "input": "x"});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            assert_eq!(refused(body.clone()), (param.to_owned(), code), "{body}");
        }
    }

    #[test]
    fn a_wrong_baseline_or_method_is_told_what_there_is() {
        let told = |extra: Value| {
            let mut body = json!({"model": "m", "input": "x"});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            Body::parse(body.to_string().as_bytes()).unwrap_err().detail.message
        };
        let baseline = told(json!({"baseline": "zeros"}));
        assert!(baseline.contains("{\"type\": \"zeros\"}") && baseline.contains("background"), "{baseline}");
        let method = told(json!({"method": "magic"}));
        let all = ["leave_one_out", "attention_rollout", "tracin"];
        assert!(all.iter().all(|name| method.contains(name)), "{method}");
    }
}
