//! `/v1/responses`, as OpenAI's `CreateResponse` and `Response` (with vLLM's `seed`, `top_k`, `min_p`,
//! `repetition_penalty` and `chat_template_kwargs`): here the request; [`items`] are what is said, [`answer`] the
//! answer and its events, `tools` what holds an answer to a form, `pages` how its items are listed.

pub mod answer;
pub mod items;
mod pages;
mod tools;

pub use pages::{InputItems, InputItemsQuery};

use super::explain::{Extras, OptionsBody};
use super::{
    advisory, cache_retention, check_metadata, model_ref, sampling, thinking, tier, unsupported, verbosity,
    within,
};
use crate::error::ApiError;
use lyceum_service::chat::{Calls, Priority, Request};
use lyceum_service::explain::Options;
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tools::{chat_tool_choice, chat_tools, form};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateResponseRequest)]
pub struct Body {
    /// `name`, `name@3` or `name@alias`.
    pub model: String,
    /// A text, or items: messages with texts, calls of functions and what they gave, thoughts of answers before.
    #[schema(value_type = Object)]
    pub input: Value,
    /// What the model is told first; not taken over from `previous_response_id`.
    pub instructions: Option<String>,
    /// Tokens of the answer at most, those of its thoughts too; what the context has room for by default.
    pub max_output_tokens: Option<i64>,
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
    /// The same request with the same seed gives the same words.
    pub seed: Option<i64>,
    /// `format`: `text`, `json_object`, or `json_schema` with its schema.
    #[schema(value_type = Option<Object>)]
    pub text: Option<TextBody>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `auto`, `none`, `required`, or the function to call.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// Whether an answer may have several calls; true by default.
    pub parallel_tool_calls: Option<bool>,
    /// Only `message.output_text.logprobs`.
    pub include: Option<Vec<String>>,
    /// With `include`: also the log-probabilities of the most likely tokens, this many, 0 to 20.
    pub top_logprobs: Option<i64>,
    /// `effort`: `none` or `medium`, for models whose template can be told whether to think.
    pub reasoning: Option<ReasoningBody>,
    /// The kept answer that this one goes on from.
    pub previous_response_id: Option<String>,
    /// Whether the answer is kept, for 30 days; true by default.
    pub store: Option<bool>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// Only `disabled`: what does not fit is refused.
    pub truncation: Option<String>,
    /// Up to 16 pairs, which the answer shows again.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Further variables of the model's chat template.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Beside OpenAI's fields: the answer comes with `explanation`, why it is what it is.
    pub explain: Option<OptionsBody>,
    /// The answer is made while nobody waits: the reply is `queued`, and `GET /v1/responses/{id}` has the rest. Only
    /// with `store`.
    pub background: Option<bool>,
    /// Accepted, without effect.
    pub user: Option<String>,
    /// Accepted, without effect.
    pub safety_identifier: Option<String>,
    /// Accepted, without effect.
    pub prompt_cache_key: Option<String>,
    /// `flex`: when nobody else waits for an answer; `auto`, `default` and `priority`: at once, served as `default`.
    pub service_tier: Option<String>,
    /// Only `in_memory`.
    pub prompt_cache_retention: Option<String>,
    /// Not supported: go on with `previous_response_id`.
    #[schema(value_type = Option<Object>)]
    pub conversation: Option<Value>,
    /// Not supported: no prompts are kept.
    #[schema(value_type = Option<Object>)]
    pub prompt: Option<Value>,
    /// Not supported: no tool is run here.
    #[schema(value_type = Option<Object>)]
    pub max_tool_calls: Option<Value>,
    /// Not supported: what does not fit is refused.
    #[schema(value_type = Option<Object>)]
    pub context_management: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextBody {
    pub format: Option<Value>,
    pub verbosity: Option<String>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResponseReasoningOptions)]
pub struct ReasoningBody {
    pub effort: Option<String>,
    /// Not supported: thoughts are shown whole.
    pub summary: Option<String>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResponseStreamOptions)]
pub struct StreamOptions {
    /// Not supported other than false.
    pub include_obfuscation: Option<bool>,
}

/// A request for an answer; what came before it is not read yet.
#[derive(Debug)]
pub struct Asked {
    /// Without its messages.
    pub request: Request,
    pub instructions: Option<String>,
    /// This request's own items, with ids.
    pub input: Vec<Value>,
    pub previous_response_id: Option<String>,
    pub store: bool,
    pub background: bool,
    pub stream: bool,
    /// The fields that the answer shows as they were asked.
    pub echo: Map<String, Value>,
}

impl Body {
    /// What is to be explained of the answer; taken out before the rest is parsed.
    pub fn why(&mut self) -> Result<Option<(Options, Extras)>, ApiError> {
        let Some(options) = self.explain.take() else { return Ok(None) };
        options.parse("explain.").map(Some)
    }

    pub fn parse(self) -> Result<Asked, ApiError> {
        self.refuse_unsupported()?;
        let model = model_ref(&self.model)?;
        let max_tokens = self
            .max_output_tokens
            .map(|n| within("max_output_tokens", n, 1, limits::MAX_TOKENS_MAX as i64).map(|n| n as usize));
        let thinking = self.thinking()?;
        let (priority, tier) = tier(self.service_tier.as_deref())?;
        let echo = self.echo(tier);
        let request = Request {
            max_tokens: max_tokens.transpose()?,
            sampling: self.sampling()?,
            logprobs: self.logprobs()?,
            template_variables: self.chat_template_kwargs.unwrap_or_default(),
            thinking,
            tools: chat_tools(self.tools.unwrap_or_default())?,
            tool_choice: chat_tool_choice(self.tool_choice)?,
            calls: if self.parallel_tool_calls.unwrap_or(true) { Calls::Any } else { Calls::One },
            form: form(self.text.as_ref().and_then(|text| text.format.as_ref()))?,
            // What nobody waits for gives way.
            priority: if self.background == Some(true) { Priority::Batch } else { priority },
            in_background: self.background == Some(true),
            ..empty(model)
        };
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            let message = "stream_options: only allowed with stream: true";
            return Err(ApiError::field("stream_options", "invalid_value", message));
        }
        Ok(Asked {
            request,
            instructions: self.instructions,
            input: items::parse(self.input)?,
            previous_response_id: self.previous_response_id,
            store: self.store.unwrap_or(true),
            background: self.background.unwrap_or(false),
            stream,
            echo,
        })
    }

    fn sampling(&self) -> Result<lyceum_service::chat::Sampling, ApiError> {
        let fields = sampling::Fields {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            ..sampling::Fields::default()
        };
        fields.parse()
    }

    fn logprobs(&self) -> Result<Option<usize>, ApiError> {
        let mut wanted = false;
        for (i, name) in self.include.iter().flatten().enumerate() {
            if name != "message.output_text.logprobs" {
                let param = format!("include[{i}]");
                return Err(unsupported(&param, "there is message.output_text.logprobs"));
            }
            wanted = true;
        }
        let top = within("top_logprobs", self.top_logprobs.unwrap_or(0), 0, limits::TOP_LOGPROBS_MAX as i64)?;
        if top > 0 && !wanted {
            let message = "top_logprobs: only allowed with include: [\"message.output_text.logprobs\"]";
            return Err(ApiError::field("top_logprobs", "invalid_value", message));
        }
        Ok(wanted.then_some(top as usize))
    }

    fn thinking(&self) -> Result<Option<bool>, ApiError> {
        let Some(reasoning) = &self.reasoning else { return Ok(None) };
        if reasoning.summary.is_some() {
            return Err(unsupported("reasoning.summary", "thoughts are shown whole"));
        }
        thinking("reasoning.effort", reasoning.effort.as_deref())
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
        if self.background == Some(true) && self.store == Some(false) {
            let message = "background: an answer of the background is kept until it is fetched: leave store out or send \
                           true";
            return Err(ApiError::field("background", "invalid_value", message));
        }
        if self.truncation.as_deref().is_some_and(|word| word != "disabled") {
            return Err(unsupported(
                "truncation",
                "what does not fit is refused: leave it out or send disabled",
            ));
        }
        verbosity("text.verbosity", self.text.as_ref().and_then(|text| text.verbosity.as_deref()))?;
        cache_retention(self.prompt_cache_retention.as_deref())?;
        for (param, value, hint) in [
            ("conversation", &self.conversation, "go on with previous_response_id"),
            ("prompt", &self.prompt, "no prompts are kept here: send input and instructions"),
            (
                "max_tool_calls",
                &self.max_tool_calls,
                "it counts calls of tools that a server runs: leave it out",
            ),
            ("context_management", &self.context_management, "what does not fit is refused: leave it out"),
        ] {
            if value.is_some() {
                return Err(unsupported(param, hint));
            }
        }
        let obfuscation = self.stream_options.as_ref().and_then(|options| options.include_obfuscation);
        if obfuscation == Some(true) {
            return Err(unsupported("stream_options.include_obfuscation", "send false"));
        }
        Ok(())
    }

    fn echo(&self, tier: &'static str) -> Map<String, Value> {
        let format = self.text.as_ref().and_then(|text| text.format.clone());
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.clone());
        let no_tools = self.tools.as_ref().is_none_or(Vec::is_empty);
        let tools = self.tools.iter().flatten().map(|tool| {
            let mut shown =
                json!({"type": "function", "description": null, "parameters": null, "strict": false});
            for (key, value) in tool.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                shown[key] = value.clone();
            }
            shown
        });
        let echo = json!({
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": null,
            "metadata": self.metadata.clone().unwrap_or_default(),
            "parallel_tool_calls": self.parallel_tool_calls.unwrap_or(true),
            "previous_response_id": self.previous_response_id,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": effort, "summary": null},
            "safety_identifier": self.safety_identifier,
            "service_tier": tier,
            "store": self.store.unwrap_or(true),
            "temperature": self.temperature,
            "text": {"format": format.unwrap_or_else(|| json!({"type": "text"})), "verbosity": "medium"},
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| match no_tools {
                true => "none".into(),
                false => "auto".into(),
            }),
            "tools": tools.collect::<Vec<Value>>(),
            "top_logprobs": self.top_logprobs.unwrap_or(0),
            "top_p": self.top_p,
            "truncation": "disabled",
            "user": self.user,
        });
        match echo {
            Value::Object(echo) => echo,
            _ => unreachable!("it is an object: bug"),
        }
    }
}

/// A request that asks for nothing in particular.
fn empty(model: ModelRef) -> Request {
    Request {
        model,
        messages: Vec::new(),
        n: 1,
        max_tokens: None,
        in_background: false,
        sampling: lyceum_service::chat::Sampling::default(),
        stop: Vec::new(),
        stop_ids: Vec::new(),
        logprobs: None,
        template_variables: Map::new(),
        thinking: None,
        tools: Vec::new(),
        tool_choice: None,
        calls: Calls::Any,
        form: None,
        ignore_eos: false,
        priority: lyceum_service::chat::Priority::Interactive,
    }
}

/// How an answer is given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindQuery {
    pub stream: Option<bool>,
    pub starting_after: Option<usize>,
    pub include_obfuscation: Option<bool>,
}

impl FindQuery {
    /// True: as a stream.
    pub fn parse(&self) -> Result<bool, ApiError> {
        let is_stream = self.stream.unwrap_or(false);
        if self.starting_after.is_some() && !is_stream {
            let message = "starting_after: only allowed with stream=true";
            return Err(ApiError::field("starting_after", "invalid_value", message));
        }
        if self.include_obfuscation == Some(true) {
            return Err(unsupported("include_obfuscation", "send false"));
        }
        Ok(is_stream)
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ResponseDeleted)]
pub struct Deleted {
    pub id: String,
    /// `response`
    pub object: &'static str,
    pub deleted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: Value) -> Result<Asked, ApiError> {
        let mut body = json!({"model": "tiny", "input": "a"});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        crate::body::parse::<Body>(body.to_string().as_bytes())?.parse()
    }

    #[test]
    fn what_would_change_the_answer_and_is_not_supported_is_refused_by_name() {
        let many: Map<String, Value> = (0..17).map(|i| (i.to_string(), "".into())).collect();
        for (body, param) in [
            (json!({"background": true, "store": false}), "background"),
            (json!({"truncation": "auto"}), "truncation"),
            (json!({"reasoning": {"effort": "high"}}), "reasoning.effort"),
            (json!({"reasoning": {"summary": "auto"}}), "reasoning.summary"),
            (json!({"text": {"verbosity": "low"}}), "text.verbosity"),
            (json!({"text": {"format": {"type": "grammar"}}}), "text.format.type"),
            (json!({"text": {"format": {"type": "json_schema", "name": "a"}}}), "text.format.schema"),
            (json!({"include": ["reasoning.encrypted_content"]}), "include[0]"),
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (
                json!({"tools": [{"type": "function", "name": "a", "defer_loading": true}]}),
                "tools[0].defer_loading",
            ),
            (json!({"tool_choice": {"type": "file_search"}}), "tool_choice"),
            (json!({"conversation": "conv_1"}), "conversation"),
            (json!({"prompt": {"id": "p"}}), "prompt"),
            (json!({"max_tool_calls": 1}), "max_tool_calls"),
            (json!({"prompt_cache_retention": "24h"}), "prompt_cache_retention"),
            (json!({"max_output_tokens": 0}), "max_output_tokens"),
            (json!({"temperature": 3}), "temperature"),
            (json!({"metadata": many}), "metadata"),
            (json!({"metadata": {"a": "b".repeat(513)}}), "metadata"),
            (json!({"service_tier": "scale"}), "service_tier"),
            (json!({"stream_options": {"include_obfuscation": false}}), "stream_options"),
            (
                json!({"stream": true, "stream_options": {"include_obfuscation": true}}),
                "stream_options.include_obfuscation",
            ),
        ] {
            let error = parse(body.clone()).unwrap_err();
            assert_eq!(error.detail.param.as_deref(), Some(param), "{body}: {}", error.detail.message);
        }
    }

    #[test]
    fn fields_reach_the_chat_in_its_own_shape() {
        let asked = parse(json!({"reasoning": {"effort": "none"}, "include": ["message.output_text.logprobs"],
            "tools": [{"type": "function", "name": "f", "description": null, "parameters": {}, "strict": null}],
            "tool_choice": {"type": "function", "name": "f"}, "seed": 1, "store": false, "user": "u"}))
        .unwrap();
        assert_eq!(
            (asked.request.thinking, asked.request.logprobs, asked.store),
            (Some(false), Some(0), false)
        );
        assert_eq!(
            asked.request.tools,
            [json!({"type": "function", "function": {"name": "f", "parameters": {}}})]
        );
        assert_eq!(asked.request.tool_choice, Some(json!({"type": "function", "function": {"name": "f"}})));
        assert_eq!(asked.echo["tools"][0]["strict"], false);
        let nothing =
            ["conversation", "prompt", "max_tool_calls", "context_management", "prompt_cache_retention"];
        assert!(parse(nothing.iter().map(|field| ((*field).to_owned(), Value::Null)).collect()).is_ok());

        let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]});
        let tools = json!([{"type": "function", "name": "f"}, {"type": "function", "name": "g"}]);
        let asked = parse(json!({"tools": tools, "tool_choice": allowed})).unwrap();
        assert_eq!(
            asked.request.tool_choice,
            Some(json!({"type": "allowed_tools", "allowed_tools": {
                "mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}}))
        );
    }
}
