//! `POST /v1/completions`, as OpenAI's `CompletionCreateParams` and `Completion` (with vLLM's `top_k`, `stop_token_ids`, `prompt_logprobs` and
//! `return_token_ids`).

use super::explain::{Extras, OptionsBody};
use super::{advisory, model_ref, priority, sampling, unsupported, within};
use crate::error::ApiError;
use lyceum_service::completions::{Prompt, Request};
use lyceum_service::explain::Options;
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CompletionRequest)]
pub struct Body {
    /// `name`, `name@3` or `name@alias`.
    pub model: String,
    /// A text, texts, token ids or lists of token ids. Without one, a new document begins.
    pub prompt: Option<PromptBody>,
    /// Beyond 1 it is not supported.
    pub best_of: Option<u32>,
    /// Whether the prompt stands before the completion.
    pub echo: Option<bool>,
    /// -2 to 2: taken from a token's logit as often as it was said.
    pub frequency_penalty: Option<f64>,
    /// Token ids with what is added to their logits, -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Log-probabilities of each token and of this many most likely ones, 0 to 5.
    pub logprobs: Option<i64>,
    /// 16 by default, or what the context has room for; 0 with `echo` or `prompt_logprobs` only.
    pub max_tokens: Option<i64>,
    /// Completions of each prompt.
    pub n: Option<i64>,
    /// -2 to 2: taken from the logits of tokens that were said.
    pub presence_penalty: Option<f64>,
    /// The same request with the same seed gives the same bytes.
    pub seed: Option<i64>,
    /// Up to 4 texts at which a completion ends; they are not part of it.
    pub stop: Option<StopBody>,
    /// Tokens that end a completion beside the model's own.
    pub stop_token_ids: Option<Vec<u32>>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// Not supported.
    pub suffix: Option<String>,
    /// 0 to 2, 1 by default; 0 takes the most likely token.
    pub temperature: Option<f64>,
    /// The most likely tokens that together have this probability.
    pub top_p: Option<f64>,
    /// The most likely tokens, this many; -1 or 0 for all.
    pub top_k: Option<i64>,
    /// Only tokens at least this likely beside the likeliest, 0 to 1.
    pub min_p: Option<f64>,
    /// Divides the logits of tokens in the prompt and the answer; 1 is none.
    pub repetition_penalty: Option<f64>,
    /// Log-probabilities of each token of the prompt and of this many most likely ones, 0 to 20; not in a
    /// stream.
    pub prompt_logprobs: Option<i64>,
    /// Whether the ids of the prompt and of the completion are given.
    pub return_token_ids: Option<bool>,
    /// Whether to go on behind the model's own end, up to `max_tokens`.
    pub ignore_eos: Option<bool>,
    /// 0, by default, or 1: when nobody else waits for an answer.
    pub priority: Option<i64>,
    /// Accepted, without effect.
    pub user: Option<String>,
    /// Also say why, for one text prompt with `n` 1: a stream has it in its last event.
    pub explain: Option<OptionsBody>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text, texts, token ids or lists of token ids")]
#[schema(as = CompletionPrompt)]
pub enum PromptBody {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or up to 4 texts")]
#[schema(as = CompletionStop)]
pub enum StopBody {
    One(String),
    Several(Vec<String>),
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// A last event with the usage of the whole request.
    pub include_usage: Option<bool>,
    /// Padding against observers of event sizes; not supported when true.
    pub include_obfuscation: Option<bool>,
}

/// The explanation that was asked for.
#[derive(Clone, Debug)]
pub struct Why {
    pub prompt: String,
    pub options: Options,
    pub extras: Extras,
}

/// How the answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Whole,
    Stream { include_usage: bool },
}

impl Delivery {
    pub fn parse(stream: Option<bool>, options: Option<StreamOptions>) -> Result<Self, ApiError> {
        if !stream.unwrap_or(false) {
            if options.is_some() {
                let message = "stream_options: only allowed with stream: true";
                return Err(ApiError::field("stream_options", "invalid_value", message));
            }
            return Ok(Delivery::Whole);
        }
        let options = options.unwrap_or_default();
        if options.include_obfuscation == Some(true) {
            return Err(unsupported("stream_options.include_obfuscation", "leave it out or send false"));
        }
        Ok(Delivery::Stream { include_usage: options.include_usage.unwrap_or(false) })
    }
}

impl Body {
    /// The request, and how its answer travels.
    pub fn parse(mut self) -> Result<(Request, Delivery, Option<Why>), ApiError> {
        self.refuse_unsupported()?;
        let why = self.why()?;
        let delivery = Delivery::parse(self.stream, self.stream_options)?;
        let prompts = prompts(self.prompt)?;
        let n = within("n", self.n.unwrap_or(1), 1, limits::CHOICES_MAX as i64)? as usize;
        if n * prompts.len() > limits::CHOICES_MAX {
            let message = format!(
                "n: {n} completions of {} prompts are more than {}",
                prompts.len(),
                limits::CHOICES_MAX
            );
            return Err(ApiError::field("n", "invalid_value", message));
        }
        let echo = self.echo.unwrap_or(false);
        let min_tokens = if echo || self.prompt_logprobs.is_some() { 0 } else { 1 };
        let max_tokens = match self.max_tokens {
            Some(n) => Some(within("max_tokens", n, min_tokens, limits::MAX_TOKENS_MAX as i64)? as usize),
            None => None,
        };
        let logprobs = match self.logprobs {
            Some(k) => Some(within("logprobs", k, 0, limits::LOGPROBS_MAX as i64)? as usize),
            None => None,
        };
        let prompt_logprobs = match self.prompt_logprobs {
            Some(_) if delivery != Delivery::Whole => {
                return Err(unsupported("prompt_logprobs", "leave it out, or leave stream out"));
            }
            Some(k) => Some(within("prompt_logprobs", k, 0, limits::PROMPT_LOGPROBS_MAX as i64)? as usize),
            None => None,
        };
        let sampling = sampling::Fields {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias,
            seed: self.seed,
        };
        let sampling = sampling.parse()?;
        let stop = stops(self.stop)?;
        let model = model_ref(&self.model)?;
        let request = Request {
            model,
            prompts,
            n,
            max_tokens,
            sampling,
            stop,
            stop_ids: self.stop_token_ids.unwrap_or_default(),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            logprobs,
            echo,
            prompt_logprobs,
            priority: priority(self.priority)?,
        };
        Ok((request, delivery, why))
    }

    /// What is to be explained of the one completion of one text.
    fn why(&mut self) -> Result<Option<Why>, ApiError> {
        let Some(options) = self.explain.take() else { return Ok(None) };
        let (options, extras) = options.parse("explain.")?;
        let single = self.n.unwrap_or(1) == 1 && !self.echo.unwrap_or(false);
        match &self.prompt {
            Some(PromptBody::Text(prompt)) if single => {
                Ok(Some(Why { prompt: prompt.clone(), options, extras }))
            }
            _ => Err(unsupported("explain", "send one text as the prompt, n 1 and no echo")),
        }
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        advisory("user", self.user.as_deref())?;
        if self.best_of.is_some_and(|best_of| best_of != 1) {
            return Err(unsupported("best_of", "leave it out and use n"));
        }
        if self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(unsupported("suffix", "these models continue a text; they do not fill one in"));
        }
        Ok(())
    }
}

fn prompts(body: Option<PromptBody>) -> Result<Vec<Prompt>, ApiError> {
    let prompts: Vec<Prompt> = match body {
        None => vec![Prompt::Beginning],
        Some(PromptBody::Text(text)) => vec![Prompt::Text(text)],
        Some(PromptBody::Tokens(ids)) => vec![Prompt::Tokens(ids)],
        Some(PromptBody::Texts(texts)) => texts.into_iter().map(Prompt::Text).collect(),
        Some(PromptBody::TokenLists(lists)) => lists.into_iter().map(Prompt::Tokens).collect(),
    };
    let refuse = |message: String| Err(ApiError::field("prompt", "invalid_value", message));
    if prompts.is_empty() || prompts.len() > limits::PROMPTS_MAX {
        return refuse(format!(
            "prompt: {} prompts are not between 1 and {}",
            prompts.len(),
            limits::PROMPTS_MAX
        ));
    }
    if prompts.iter().any(|prompt| matches!(prompt, Prompt::Tokens(ids) if ids.is_empty())) {
        return refuse("prompt: a list of token ids is empty".into());
    }
    Ok(prompts)
}

pub(super) fn stops(body: Option<StopBody>) -> Result<Vec<String>, ApiError> {
    let stops = match body {
        None => vec![],
        Some(StopBody::One(stop)) => vec![stop],
        Some(StopBody::Several(stops)) => stops,
    };
    let refuse = |message: String| Err(ApiError::field("stop", "invalid_value", message));
    if stops.len() > limits::STOPS_MAX {
        return refuse(format!("stop: {} texts are more than {}", stops.len(), limits::STOPS_MAX));
    }
    for stop in &stops {
        if stop.is_empty() || stop.chars().count() > limits::STOP_CHARS_MAX {
            return refuse(format!("stop: a text must have 1 to {} characters", limits::STOP_CHARS_MAX));
        }
    }
    Ok(stops)
}

/// A completion, or a piece of one in a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion {
    pub id: String,
    /// `text_completion`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: i64,
    /// The version that answered: `name@3`.
    pub model: String,
    /// The weights that answered: the first half of their sha256.
    pub system_fingerprint: String,
    pub choices: Vec<Choice>,
    /// In a stream with `include_usage`: null in every event but the last.
    #[serde(skip_serializing_if = "UsageField::is_absent")]
    #[schema(value_type = Option<Usage>)]
    pub usage: UsageField,
    /// Where `explain` asked for it; null where nothing was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub explanation: Option<serde_json::Value>,
}

/// A field that is absent, null, or there.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum UsageField {
    Absent,
    Null(()),
    Usage(Usage),
}

impl UsageField {
    fn is_absent(&self) -> bool {
        matches!(self, UsageField::Absent)
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CompletionChoice)]
pub struct Choice {
    pub text: String,
    pub index: usize,
    pub logprobs: Option<Logprobs>,
    /// `stop` or `length`; null in a stream until the end.
    pub finish_reason: Option<&'static str>,
    /// With `prompt_logprobs`: for each token of the prompt its own log-probability and those of the most
    /// likely ones, by id; null for the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub prompt_logprobs: Option<Vec<Option<PromptLogprobs>>>,
    /// With `return_token_ids`: the prompt (in a stream: in the first event of a choice).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// With `return_token_ids`: what was made, without the token that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// By id: the token of the prompt first, then the most likely ones, best first.
#[derive(Debug)]
pub struct PromptLogprobs(pub Vec<(u32, PromptLogprob)>);

#[derive(Debug, Serialize)]
pub struct PromptLogprob {
    /// Null for a token that the model never says.
    pub logprob: f32,
    /// 1 is the likeliest.
    pub rank: usize,
    pub decoded_token: String,
}

impl Serialize for PromptLogprobs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, logprob)| (id.to_string(), logprob)))
    }
}

#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = CompletionLogprobs)]
pub struct Logprobs {
    pub tokens: Vec<String>,
    /// Natural logarithms; null for the first token of an echoed prompt, and for a token of the prompt that
    /// the model never says (one that begins a document).
    pub token_logprobs: Vec<Option<f32>>,
    /// The most likely tokens; null for the first token of an echoed prompt.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token begins, in characters of the text.
    pub text_offset: Vec<usize>,
    /// Beside OpenAI's fields: the entropy of the whole distribution at each token, in nats; null where there is no
    /// log-probability.
    pub token_entropies: Vec<Option<f32>>,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = CompletionUsage)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub total_tokens: u64,
    pub prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = PromptTokensDetails)]
pub struct PromptTokensDetails {
    /// Computed before for the same beginning.
    pub cached_tokens: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(extra: Value) -> Result<(Request, Delivery), ApiError> {
        let mut body = json!({"model": "tiny", "prompt": "a"});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        let (request, delivery, _) = crate::body::parse::<Body>(body.to_string().as_bytes())?.parse()?;
        Ok((request, delivery))
    }

    #[test]
    fn defaults_are_those_of_openai() {
        let (request, delivery) = parse(json!({})).unwrap();
        assert_eq!(delivery, Delivery::Whole);
        assert_eq!((request.n, request.max_tokens, request.echo), (1, None, false));
        assert_eq!((request.sampling.temperature, request.sampling.top_p), (None, None));
        assert_eq!((request.sampling.top_k, request.sampling.seed, request.logprobs), (None, None, None));
    }

    #[test]
    fn a_prompt_is_a_text_texts_ids_or_lists_of_ids() {
        let prompts = |prompt: Value| parse(json!({ "prompt": prompt })).map(|(request, _)| request.prompts);
        assert_eq!(prompts(json!("ab")).unwrap(), [Prompt::Text("ab".into())]);
        assert_eq!(prompts(json!([1, 2])).unwrap(), [Prompt::Tokens(vec![1, 2])]);
        assert_eq!(prompts(json!(["a", "b"])).unwrap(), [Prompt::Text("a".into()), Prompt::Text("b".into())]);
        assert_eq!(
            prompts(json!([[1], [2, 3]])).unwrap(),
            [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]
        );
        assert_eq!(prompts(json!(null)).unwrap(), [Prompt::Beginning]);
        for bad in
            [json!([]), json!([[]]), json!({"a": 1}), json!([-1]), json!([1.5]), json!([1, "a"]), json!(7)]
        {
            let error = prompts(bad.clone()).unwrap_err();
            assert_eq!(
                (error.status.as_u16(), error.detail.param.as_deref()),
                (400, Some("prompt")),
                "{bad}"
            );
        }
    }

    #[test]
    fn every_number_has_its_bounds_and_every_unsupported_field_its_name() {
        for (param, values) in [
            ("n", vec![json!(0), json!(-1), json!(129), json!("1")]),
            ("max_tokens", vec![json!(0), json!(-1), json!(65_537), json!(1e300)]),
            ("temperature", vec![json!(-0.1), json!(2.1), json!("1")]),
            ("top_p", vec![json!(-0.1), json!(1.1)]),
            ("top_k", vec![json!(-2), json!(1 << 21)]),
            ("logprobs", vec![json!(-1), json!(6), json!(true)]),
            ("stop", vec![json!(""), json!(["a", "b", "c", "d", "e"]), json!("x".repeat(257)), json!(3)]),
            ("seed", vec![json!(1.5), json!(u64::MAX)]),
            ("prompt_logprobs", vec![json!(-1), json!(21), json!("1")]),
            ("return_token_ids", vec![json!(1)]),
            ("best_of", vec![json!(2)]),
            ("frequency_penalty", vec![json!(2.5)]),
            ("presence_penalty", vec![json!(-3)]),
            ("min_p", vec![json!(1.5)]),
            ("repetition_penalty", vec![json!(0)]),
            ("suffix", vec![json!("end")]),
            ("user", vec![json!("x".repeat(513))]),
            ("stream_options", vec![json!({"include_usage": true})]),
            ("model", vec![json!(""), json!("../x"), json!("a".repeat(300)), json!(1), json!(null)]),
            ("temprature", vec![json!(1)]),
        ] {
            for value in values {
                let error = parse(json!({ param: value })).unwrap_err();
                let found = (error.status.as_u16(), error.detail.param.as_deref());
                assert_eq!(found, (400, Some(param)), "{param} = {value}: {}", error.detail.message);
                assert!(error.detail.message.contains(param), "{}", error.detail.message);
            }
        }
        let error = parse(json!({"logit_bias": {"1": 500}})).unwrap_err();
        assert_eq!(error.detail.param.as_deref(), Some("logit_bias.1"));
        let error = parse(json!({"stream": true, "stream_options": {"x": 1}})).unwrap_err();
        assert_eq!(error.detail.param.as_deref(), Some("stream_options.x"));
        assert!(parse(json!({"echo": true, "max_tokens": 0})).is_ok());
        assert!(parse(json!({"prompt_logprobs": 0, "max_tokens": 0})).is_ok());
        let error = parse(json!({"stream": true, "prompt_logprobs": 1})).unwrap_err();
        assert_eq!(error.detail.param.as_deref(), Some("prompt_logprobs"));
    }

    #[test]
    fn nulls_and_values_without_effect_pass() {
        let body = json!({"best_of": 1, "frequency_penalty": 0, "presence_penalty": null, "logit_bias": {},
            "suffix": null, "stop": null, "n": null, "seed": -5, "user": "u", "top_k": -1, "stream": true,
            "stream_options": {"include_usage": true, "include_obfuscation": false}});
        let (request, delivery) = parse(body).unwrap();
        assert_eq!(delivery, Delivery::Stream { include_usage: true });
        assert_eq!(request.sampling.seed, Some(-5i64 as u64));
    }
}
