//! `POST /tokenize` and `POST /detokenize`, in vLLM's shape.

use super::model_ref;
use crate::error::ApiError;
use lyceum_service::tokens::{AddSpecial, End, Messages, Request, Source, Tokens};
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeRequest {
    /// `name`, `name@3` or `name@alias` of any model that reads texts.
    pub model: String,
    /// A text; or `messages`.
    pub prompt: Option<String>,
    /// A conversation, which the model's chat template turns into a text; or `prompt`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub messages: Option<Vec<Value>>,
    /// Whether the tokens that the model's texts begin and end with are added: true by default for a prompt, false for
    /// messages, whose template writes them. Models that were trained here have none.
    pub add_special_tokens: Option<bool>,
    /// With `messages`: whether the assistant's turn begins; true by default.
    pub add_generation_prompt: Option<bool>,
    /// With `messages`: whether the last one goes on; then without `add_generation_prompt`.
    pub continue_final_message: Option<bool>,
    /// With `messages`: further variables of the template.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// With `messages`: functions that the template describes.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// Whether each token is also given as a text.
    pub return_token_strs: Option<bool>,
}

impl TokenizeRequest {
    /// The request, and whether tokens are given as texts too.
    pub fn parse(self) -> Result<(Request, bool), ApiError> {
        let with_texts = self.return_token_strs.unwrap_or(false);
        let add = |by_default: bool| match self.add_special_tokens.unwrap_or(by_default) {
            true => AddSpecial::Yes,
            false => AddSpecial::No,
        };
        let model = model_ref(&self.model)?;
        let alone = |param: &str, is_there: bool| match is_there {
            true => {
                let message = format!("{param}: only allowed with messages");
                Err(ApiError::field(param, "invalid_value", message))
            }
            false => Ok(()),
        };
        match (self.prompt, self.messages) {
            (Some(prompt), None) => {
                alone("add_generation_prompt", self.add_generation_prompt.is_some())?;
                alone("continue_final_message", self.continue_final_message.is_some())?;
                alone("chat_template_kwargs", self.chat_template_kwargs.is_some())?;
                alone("tools", self.tools.is_some())?;
                Ok((Request { model, source: Source::Text(prompt), add: add(true) }, with_texts))
            }
            (None, Some(messages)) => {
                let n = messages.len();
                if n == 0 || n > limits::MESSAGES_MAX {
                    let message = format!("messages: {n} are not between 1 and {}", limits::MESSAGES_MAX);
                    return Err(ApiError::field("messages", "invalid_value", message));
                }
                let tools = self.tools.unwrap_or_default();
                if tools.len() > limits::TOOLS_MAX {
                    let message = format!("tools: {} are more than {}", tools.len(), limits::TOOLS_MAX);
                    return Err(ApiError::field("tools", "invalid_value", message));
                }
                let end = end(self.add_generation_prompt, self.continue_final_message)?;
                let variables = self.chat_template_kwargs.unwrap_or_default();
                let source = Source::Messages(Messages { messages, tools, end, variables });
                Ok((Request { model, source, add: add(false) }, with_texts))
            }
            (Some(_), Some(_)) => {
                let message = "messages: send a prompt or messages, not both";
                Err(ApiError::field("messages", "invalid_value", message))
            }
            (None, None) => {
                let message = "prompt: send a prompt or messages";
                Err(ApiError::field("prompt", "missing_required_parameter", message))
            }
        }
    }
}

fn end(begins: Option<bool>, goes_on: Option<bool>) -> Result<End, ApiError> {
    match (begins, goes_on.unwrap_or(false)) {
        (Some(true), true) => {
            let message = "continue_final_message: not together with add_generation_prompt";
            Err(ApiError::field("continue_final_message", "invalid_value", message))
        }
        (_, true) => Ok(End::ContinueFinalMessage),
        (Some(false), false) => Ok(End::AfterMessages),
        (_, false) => Ok(End::GenerationPrompt),
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Tokenization {
    pub count: usize,
    /// The longest sequence of the model.
    pub max_model_len: u64,
    pub tokens: Vec<u32>,
    /// What each token is as a text, where it was asked for; parts of characters are U+FFFD.
    pub token_strs: Option<Vec<String>>,
}

impl Tokenization {
    pub fn new(tokens: Tokens, with_texts: bool) -> Self {
        Tokenization {
            count: tokens.ids.len(),
            max_model_len: tokens.context,
            tokens: tokens.ids,
            token_strs: with_texts.then_some(tokens.texts),
        }
    }
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetokenizeRequest {
    /// `name`, `name@3` or `name@alias` of any model that reads texts.
    pub model: String,
    pub tokens: Vec<u32>,
}

impl DetokenizeRequest {
    pub fn parse(self) -> Result<(ModelRef, Vec<u32>), ApiError> {
        if self.tokens.len() > limits::DETOKENIZE_IDS_MAX {
            let (n, max) = (self.tokens.len(), limits::DETOKENIZE_IDS_MAX);
            return Err(ApiError::field(
                "tokens",
                "invalid_value",
                format!("tokens: {n} are more than {max}"),
            ));
        }
        Ok((model_ref(&self.model)?, self.tokens))
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Detokenization {
    /// Special tokens stand in it by their names.
    pub prompt: String,
}
