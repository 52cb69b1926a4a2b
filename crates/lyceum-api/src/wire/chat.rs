//! `POST /v1/chat/completions`, as OpenAI's `CreateChatCompletionRequest` and `CreateChatCompletionResponse` (with vLLM's
//! `top_k`, `min_p`, `repetition_penalty`, `stop_token_ids` and `chat_template_kwargs`).

use super::completions::{Delivery, StopBody, StreamOptions, Usage, stops};
use super::explain::{Extras, OptionsBody};
use super::{
    advisory, cache_retention, check_metadata, model_ref, priority, sampling, thinking, tier, unsupported,
    verbosity, within,
};
use crate::error::ApiError;
use lyceum_service::chat::{AskedForm, Calls, Constraint, Likely, Request, Token, ToolCall};
use lyceum_service::explain::Options;
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatCompletionRequest)]
pub struct Body {
    /// `name`, `name@3` or `name@alias`.
    pub model: String,
    /// The conversation: objects with `role` and `content`, as OpenAI's.
    #[schema(value_type = Vec<Object>)]
    pub messages: Vec<Value>,
    /// -2 to 2: taken from a token's logit as often as it was said.
    pub frequency_penalty: Option<f64>,
    /// Token ids with what is added to their logits, -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Whether each token's log-probability is given.
    pub logprobs: Option<bool>,
    /// With `logprobs`: also those of the most likely tokens, this many, 0 to 20.
    pub top_logprobs: Option<i64>,
    /// Tokens of an answer at most; what the context has room for by default.
    pub max_completion_tokens: Option<i64>,
    /// The older name of `max_completion_tokens`.
    pub max_tokens: Option<i64>,
    /// Answers to the conversation.
    pub n: Option<i64>,
    /// -2 to 2: taken from the logits of tokens that were said.
    pub presence_penalty: Option<f64>,
    /// `text`, `json_object`, or `json_schema` with its schema: the answer is guaranteed to have this form.
    #[schema(value_type = Option<Object>)]
    pub response_format: Option<Value>,
    /// The same request with the same seed gives the same bytes.
    pub seed: Option<i64>,
    /// Up to 4 texts at which an answer ends; they are not part of it.
    pub stop: Option<StopBody>,
    /// Tokens that end an answer beside the model's own.
    pub stop_token_ids: Option<Vec<u32>>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// 0 to 2; 0 takes the most likely token. By default what the model's files recommend, or 1.
    pub temperature: Option<f64>,
    /// The most likely tokens that together have this probability.
    pub top_p: Option<f64>,
    /// The most likely tokens, this many; -1 or 0 for all.
    pub top_k: Option<i64>,
    /// Only tokens at least this likely beside the likeliest, 0 to 1.
    pub min_p: Option<f64>,
    /// Divides the logits of tokens in the prompt and the answer; 1 is none.
    pub repetition_penalty: Option<f64>,
    /// Further variables of the model's chat template, such as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// One of `json` (a schema), `regex`, `choice` (a list) and `grammar` (Lark): as `response_format`.
    #[schema(value_type = Option<Object>)]
    pub structured_outputs: Option<Map<String, Value>>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `auto`, `none`, `required`, or the function to call.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// Whether an answer may have several calls; true by default.
    pub parallel_tool_calls: Option<bool>,
    /// `none` or `medium`, for models whose template can be told whether to think.
    pub reasoning_effort: Option<String>,
    /// Only `medium`.
    pub verbosity: Option<String>,
    /// Only `text`.
    pub modalities: Option<Vec<String>>,
    /// Not supported: these models answer in text.
    #[schema(value_type = Option<Object>)]
    pub audio: Option<Value>,
    /// Not supported: nothing is looked up.
    #[schema(value_type = Option<Object>)]
    pub web_search_options: Option<Value>,
    /// Not supported: every token is made by the model.
    #[schema(value_type = Option<Object>)]
    pub prediction: Option<Value>,
    /// Not supported: the older name of `tools`.
    #[schema(value_type = Option<Object>)]
    pub functions: Option<Value>,
    /// Not supported: the older name of `tool_choice`.
    #[schema(value_type = Option<Object>)]
    pub function_call: Option<Value>,
    /// Not supported other than false.
    pub store: Option<bool>,
    /// Accepted, without effect.
    pub user: Option<String>,
    /// Accepted, without effect.
    pub safety_identifier: Option<String>,
    /// Accepted, without effect.
    pub prompt_cache_key: Option<String>,
    /// Only `in_memory`.
    pub prompt_cache_retention: Option<String>,
    /// `flex`: when nobody else waits for an answer; `auto`, `default` and `priority`: at once, served as `default`.
    pub service_tier: Option<String>,
    /// The same as vLLM says it: 0 at once, 1 when nobody else waits for an answer.
    pub priority: Option<i64>,
    /// Whether to go on behind the model's own end, up to `max_tokens`.
    pub ignore_eos: Option<bool>,
    /// Up to 16 pairs, accepted without effect.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Also say which parts of the conversation the answer comes from.
    pub explain: Option<OptionsBody>,
}

/// The explanation that was asked for.
#[derive(Clone, Debug)]
pub struct Why {
    pub messages: Vec<Value>,
    pub options: Options,
    pub extras: Extras,
}

impl Body {
    /// What is to be explained of the one answer; taken out before the rest is parsed.
    pub fn why(&mut self) -> Result<Option<Why>, ApiError> {
        let Some(options) = self.explain.take() else { return Ok(None) };
        let (options, extras) = options.parse("explain.")?;
        if self.n.unwrap_or(1) != 1 {
            return Err(unsupported("explain", "one answer is explained: send n 1"));
        }
        Ok(Some(Why { messages: self.messages.clone(), options, extras }))
    }

    /// The request, and how its answer travels.
    pub fn parse(self) -> Result<(Request, Delivery), ApiError> {
        self.refuse_unsupported()?;
        let delivery = Delivery::parse(self.stream, self.stream_options)?;
        let n = within("n", self.n.unwrap_or(1), 1, limits::CHOICES_MAX as i64)? as usize;
        let messages = self.messages.len();
        if messages == 0 || messages > limits::MESSAGES_MAX {
            let message = format!("messages: {messages} are not between 1 and {}", limits::MESSAGES_MAX);
            return Err(ApiError::field("messages", "invalid_value", message));
        }
        let (param, max_tokens) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(_), Some(_)) => {
                let message = "max_tokens: max_completion_tokens says the same: send one of them";
                return Err(ApiError::field("max_tokens", "invalid_value", message));
            }
            (None, older) => ("max_tokens", older),
            (newer, None) => ("max_completion_tokens", newer),
        };
        let max_tokens =
            max_tokens.map(|n| within(param, n, 1, limits::MAX_TOKENS_MAX as i64)).transpose()?;
        let logprobs = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (false, None | Some(0)) => None,
            (false, Some(_)) => {
                let message = "top_logprobs: only allowed with logprobs: true";
                return Err(ApiError::field("top_logprobs", "invalid_value", message));
            }
            (true, top) => {
                Some(within("top_logprobs", top.unwrap_or(0), 0, limits::TOP_LOGPROBS_MAX as i64)? as usize)
            }
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
        let form = form(self.response_format.as_ref(), self.structured_outputs.as_ref())?;
        let priority = match (self.service_tier.as_deref(), self.priority) {
            (Some(_), Some(_)) => {
                let message = "priority: service_tier says the same: send one of them";
                return Err(ApiError::field("priority", "invalid_value", message));
            }
            (tier_name @ Some(_), None) => tier(tier_name)?.0,
            (None, number) => priority(number)?,
        };
        let thinking = thinking("reasoning_effort", self.reasoning_effort.as_deref())?;
        let request = Request {
            model: model_ref(&self.model)?,
            messages: self.messages,
            n,
            max_tokens: max_tokens.map(|n| n as usize),
            in_background: false,
            sampling: sampling.parse()?,
            stop: stops(self.stop)?,
            stop_ids: self.stop_token_ids.unwrap_or_default(),
            logprobs,
            template_variables: self.chat_template_kwargs.unwrap_or_default(),
            thinking,
            tools: self.tools.unwrap_or_default(),
            tool_choice: self.tool_choice,
            calls: if self.parallel_tool_calls.unwrap_or(true) { Calls::Any } else { Calls::One },
            form,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            priority,
        };
        Ok((request, delivery))
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        for (param, text) in [
            ("user", &self.user),
            ("safety_identifier", &self.safety_identifier),
            ("prompt_cache_key", &self.prompt_cache_key),
        ] {
            advisory(param, text.as_deref())?;
        }
        check_metadata(self.metadata.as_ref())?;
        for (param, value, hint) in [
            ("audio", &self.audio, "these models answer in text: leave it out"),
            (
                "web_search_options",
                &self.web_search_options,
                "nothing is looked up: put what is to be read into messages",
            ),
            ("prediction", &self.prediction, "every token is made by the model: leave it out"),
            ("functions", &self.functions, "send tools, its newer name"),
            ("function_call", &self.function_call, "send tool_choice, its newer name"),
        ] {
            if value.is_some() {
                return Err(unsupported(param, hint));
            }
        }
        verbosity("verbosity", self.verbosity.as_deref())?;
        cache_retention(self.prompt_cache_retention.as_deref())?;
        if self.store == Some(true) {
            return Err(unsupported("store", "nothing of a chat is stored: leave it out or send false"));
        }
        if self.modalities.as_ref().is_some_and(|all| all.iter().any(|m| m != "text")) {
            return Err(unsupported("modalities", "these models answer in text"));
        }
        Ok(())
    }
}

/// The form that an answer must have.
fn form(
    response_format: Option<&Value>,
    structured: Option<&Map<String, Value>>,
) -> Result<Option<AskedForm>, ApiError> {
    let refuse =
        |param: &str, what: &str| ApiError::field(param, "invalid_value", format!("{param}: {what}"));
    let of_format = |constraint| AskedForm { constraint, field: "response_format" };
    let asked = match response_format {
        None => None,
        Some(format) => match format["type"].as_str() {
            Some("text") => None,
            Some("json_object") => Some(of_format(Constraint::JsonObject)),
            Some("json_schema") => {
                let schema = &format["json_schema"];
                if schema["name"].as_str().is_none_or(str::is_empty) {
                    return Err(refuse("response_format.json_schema.name", "a name is needed"));
                }
                let strict = match &schema["strict"] {
                    Value::Null => false,
                    Value::Bool(strict) => *strict,
                    _ => return Err(refuse("response_format.json_schema.strict", "must be true or false")),
                };
                if !schema["schema"].is_object() {
                    return Err(refuse("response_format.json_schema.schema", "a schema is needed"));
                }
                Some(of_format(Constraint::JsonSchema { schema: schema["schema"].clone(), strict }))
            }
            _ => return Err(refuse("response_format.type", "there are text, json_object and json_schema")),
        },
    };
    let Some(structured) = structured.filter(|all| !all.is_empty()) else { return Ok(asked) };
    let param = "structured_outputs";
    let mut all = structured.iter();
    let (Some((key, value)), None) = (all.next(), all.next()) else {
        return Err(refuse(param, "send one of json, regex, choice and grammar"));
    };
    if asked.is_some() {
        return Err(refuse(param, "response_format says a form too: send one of them"));
    }
    let place = format!("{param}.{key}");
    let text = || value.as_str().map(str::to_owned).ok_or_else(|| refuse(&place, "must be a text"));
    let (field, constraint) = match key.as_str() {
        "json" if value.is_object() => {
            ("structured_outputs.json", Constraint::JsonSchema { schema: value.clone(), strict: false })
        }
        "json" => return Err(refuse(&place, "must be a schema")),
        "regex" => ("structured_outputs.regex", Constraint::Regex(text()?)),
        "grammar" => ("structured_outputs.grammar", Constraint::Grammar(text()?)),
        "choice" => {
            let texts = value.as_array().map(|all| all.iter().map(|one| one.as_str().map(str::to_owned)));
            let texts: Option<Vec<String>> = texts.and_then(Iterator::collect);
            let texts = texts.ok_or_else(|| refuse(&place, "must be a list of texts"))?;
            ("structured_outputs.choice", Constraint::Choice(texts))
        }
        _ => return Err(refuse(&place, "is none of json, regex, choice and grammar")),
    };
    Ok(Some(AskedForm { constraint, field }))
}

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletion)]
pub struct Completion {
    pub id: String,
    /// `chat.completion`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: i64,
    pub model: String,
    /// Says which weights answered.
    pub system_fingerprint: String,
    /// `default` or `flex`: how it was served.
    pub service_tier: &'static str,
    pub choices: Vec<Choice>,
    pub usage: Usage,
    /// Where `explain` asked for it: why the answer is what it is, or with `status: failed` why that is not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub explanation: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionChoice)]
pub struct Choice {
    pub index: usize,
    pub message: Message,
    pub logprobs: Option<Logprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ChatCompletionMessage)]
pub struct Message {
    /// `assistant`
    pub role: &'static str,
    pub content: Option<String>,
    /// Null: these models refuse in words.
    pub refusal: Option<String>,
    /// What the model thought before it answered, where its family separates that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Call>>,
}

/// A call of a function.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionToolCall)]
pub struct Call {
    /// Its number in the answer, in a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    pub id: String,
    /// `function`
    pub r#type: &'static str,
    pub function: Function,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionFunction)]
pub struct Function {
    pub name: String,
    /// JSON.
    pub arguments: String,
}

impl Call {
    pub fn of(call: ToolCall, index: Option<usize>) -> Self {
        let function = Function { name: call.name, arguments: call.arguments };
        Call { index, id: call.id, r#type: "function", function }
    }
}

/// A part of an answer in a stream.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionChunk)]
pub struct Chunk {
    pub id: String,
    /// `chat.completion.chunk`
    pub object: &'static str,
    pub created: i64,
    pub model: String,
    pub system_fingerprint: String,
    /// `default` or `flex`: how it was served.
    pub service_tier: &'static str,
    pub choices: Vec<ChunkChoice>,
    /// Null until the last event, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// The last event's, where `explain` asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub explanation: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionChunkChoice)]
pub struct ChunkChoice {
    pub index: usize,
    pub delta: Delta,
    pub logprobs: Option<Logprobs>,
    pub finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ChatCompletionDelta)]
pub struct Delta {
    /// `assistant`, in the first event of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Call>>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ChatCompletionLogprobs)]
pub struct Logprobs {
    pub content: Vec<TokenLogprob>,
    pub refusal: Option<Vec<TokenLogprob>>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionTokenLogprob)]
pub struct TokenLogprob {
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// Beside OpenAI's fields: the entropy of the whole distribution at this token, in nats.
    pub entropy: Option<f32>,
    pub bytes: Vec<u8>,
    pub top_logprobs: Vec<TopLogprob>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionTopLogprob)]
pub struct TopLogprob {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
}

impl Logprobs {
    /// Tokens with their `n_top` most likely alternatives.
    pub fn push(&mut self, tokens: Vec<Token>, n_top: usize) {
        let top = |Likely { text, bytes, logprob }| TopLogprob { token: text, logprob, bytes };
        self.content.extend(tokens.into_iter().map(|token| TokenLogprob {
            logprob: token.logprob.expect("tokens are told with their log-probabilities: bug"),
            entropy: token.entropy,
            token: token.text,
            bytes: token.bytes,
            top_logprobs: token.top.into_iter().take(n_top).map(top).collect(),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_service::chat::Priority;
    use serde_json::json;

    fn parse(extra: Value) -> Result<(Request, Delivery), ApiError> {
        let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "a"}]});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        crate::body::parse::<Body>(body.to_string().as_bytes())?.parse()
    }

    #[test]
    fn every_field_has_its_bounds_and_what_is_not_supported_is_named() {
        for (param, values) in [
            ("messages", vec![json!([]), json!("a"), json!(null)]),
            ("n", vec![json!(0), json!(129)]),
            ("max_tokens", vec![json!(0), json!(65_537)]),
            ("max_completion_tokens", vec![json!(0)]),
            ("top_logprobs", vec![json!(3)]),
            ("temperature", vec![json!(2.1)]),
            ("modalities", vec![json!(["audio"])]),
            ("store", vec![json!(true)]),
            ("service_tier", vec![json!("scale")]),
            ("priority", vec![json!(2), json!(-1)]),
        ] {
            for value in values {
                let error = parse(json!({ param: value })).unwrap_err();
                let found = (error.status.as_u16(), error.detail.param.as_deref());
                assert_eq!(found, (400, Some(param)), "{param} = {value}: {}", error.detail.message);
            }
        }
        for (param, value) in [
            ("audio", json!({})),
            ("web_search_options", json!({})),
            ("prediction", json!({"type": "content", "content": "a"})),
            ("functions", json!([])),
            ("function_call", json!("auto")),
            ("reasoning_effort", json!("high")),
            ("verbosity", json!("low")),
            ("prompt_cache_retention", json!("24h")),
        ] {
            let error = parse(json!({ param: value })).unwrap_err();
            let found = (error.detail.param.as_deref(), error.detail.code);
            assert_eq!(found, (Some(param), Some("unsupported_parameter")), "{}", error.detail.message);
            assert!(parse(json!({ param: null })).is_ok(), "{param}");
        }
        let many: Map<String, Value> = (0..17).map(|i| (i.to_string(), "".into())).collect();
        assert_eq!(parse(json!({"metadata": many})).unwrap_err().detail.param.as_deref(), Some("metadata"));
        for (body, param) in [
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"structured_outputs": {"regex": 1}}), "structured_outputs.regex"),
            (json!({"structured_outputs": {"json": {}, "regex": "a"}}), "structured_outputs"),
            (json!({"structured_outputs": {"xml": 1}}), "structured_outputs.xml"),
        ] {
            let error = parse(body.clone()).unwrap_err();
            assert_eq!(error.detail.param.as_deref(), Some(param), "{body}");
        }
        let both = parse(json!({"service_tier": "flex", "priority": 1})).unwrap_err();
        assert_eq!(both.detail.param.as_deref(), Some("priority"));
        let both = parse(json!({"max_tokens": 1, "max_completion_tokens": 1})).unwrap_err();
        assert_eq!(both.detail.param.as_deref(), Some("max_tokens"));
        let top = parse(json!({"logprobs": true, "top_logprobs": 21})).unwrap_err();
        assert_eq!(top.detail.param.as_deref(), Some("top_logprobs"));
    }

    #[test]
    fn flex_and_one_are_the_batch_class_and_everything_else_is_wanted_at_once() {
        for (body, expected) in [
            (json!({}), Priority::Interactive),
            (json!({"service_tier": null, "priority": 0}), Priority::Interactive),
            (json!({"service_tier": "auto"}), Priority::Interactive),
            (json!({"service_tier": "priority"}), Priority::Interactive),
            (json!({"service_tier": "flex"}), Priority::Batch),
            (json!({"priority": 1}), Priority::Batch),
        ] {
            assert_eq!(parse(body.clone()).unwrap().0.priority, expected, "{body}");
        }
    }

    #[test]
    fn nulls_and_values_without_effect_pass() {
        let body = json!({"n": null, "stop": "x", "user": "u", "metadata": {"a": "b"}, "service_tier": "auto",
            "store": false, "modalities": ["text"], "response_format": {"type": "text"}, "tools": [],
            "tool_choice": "none", "parallel_tool_calls": true, "logprobs": true, "top_logprobs": 2, "top_k": -1,
            "stream": true, "stream_options": {"include_usage": true}});
        let said =
            json!({"verbosity": "medium", "prompt_cache_retention": "in_memory", "reasoning_effort": "none"});
        assert_eq!(parse(said).unwrap().0.thinking, Some(false));
        let (request, delivery) = parse(body).unwrap();
        assert_eq!(delivery, Delivery::Stream { include_usage: true });
        assert_eq!((request.n, request.logprobs, request.stop), (1, Some(2), vec!["x".to_owned()]));
    }
}
