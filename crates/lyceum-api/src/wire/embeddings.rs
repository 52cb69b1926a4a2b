//! `POST /v1/embeddings`, as OpenAI's `CreateEmbeddingRequest` and `CreateEmbeddingResponse`.

use super::{advisory, model_ref, within};
use crate::error::ApiError;
use base64::Engine as _;
use lyceum_service::embeddings::{Embeddings, Request, Text};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EmbeddingRequest)]
pub struct Body {
    /// `name`, `name@3` or `name@alias` of an embedding model.
    pub model: String,
    /// A text, texts, token ids or lists of token ids; at most 2,048. A text longer than the model reads is refused.
    pub input: InputBody,
    /// `float` by default; `base64`: the numbers as little-endian f32.
    pub encoding_format: Option<Format>,
    /// The vector's first numbers only, this many. Where the model scales its vectors to length 1, so is the shorter
    /// one.
    pub dimensions: Option<i64>,
    /// Accepted, without effect.
    pub user: Option<String>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text, texts, token ids or lists of token ids")]
#[schema(as = EmbeddingInput)]
pub enum InputBody {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = EmbeddingFormat)]
pub enum Format {
    Float,
    Base64,
}

impl Body {
    pub fn parse(self) -> Result<(Request, Format), ApiError> {
        advisory("user", self.user.as_deref())?;
        let inputs: Vec<Text> = match self.input {
            InputBody::Text(text) => vec![Text::Words(text)],
            InputBody::Tokens(ids) if !ids.is_empty() => vec![Text::Tokens(ids)],
            InputBody::Tokens(_) => Vec::new(),
            InputBody::Texts(texts) => texts.into_iter().map(Text::Words).collect(),
            InputBody::TokenLists(lists) => lists.into_iter().map(Text::Tokens).collect(),
        };
        if inputs.is_empty() || inputs.len() > limits::EMBEDDING_INPUTS_MAX {
            let (n, max) = (inputs.len(), limits::EMBEDDING_INPUTS_MAX);
            let message = format!("input: {n} texts are not between 1 and {max}");
            return Err(ApiError::field("input", "invalid_value", message));
        }
        let dimensions =
            self.dimensions.map(|n| within("dimensions", n, 1, i64::from(u32::MAX))).transpose()?;
        let model = model_ref(&self.model)?;
        let request = Request { model, inputs, dimensions: dimensions.map(|n| n as usize) };
        Ok((request, self.encoding_format.unwrap_or(Format::Float)))
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingList {
    /// `list`
    pub object: &'static str,
    /// One an input, in their order.
    pub data: Vec<Embedding>,
    /// The version that answered: `name@3`.
    pub model: String,
    pub usage: EmbeddingUsage,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Embedding {
    /// `embedding`
    pub object: &'static str,
    pub index: usize,
    pub embedding: Vector,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = EmbeddingVector)]
pub enum Vector {
    Floats(Vec<f32>),
    /// Little-endian f32.
    Base64(String),
}

#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingUsage {
    pub prompt_tokens: u64,
    pub total_tokens: u64,
}

impl EmbeddingList {
    pub fn new(made: Embeddings, format: Format) -> Self {
        let vector = |numbers: Vec<f32>| match format {
            Format::Float => Vector::Floats(numbers),
            Format::Base64 => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
                Vector::Base64(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
        };
        let one = |(index, numbers)| Embedding { object: "embedding", index, embedding: vector(numbers) };
        EmbeddingList {
            object: "list",
            data: made.vectors.into_iter().enumerate().map(one).collect(),
            model: made.model,
            usage: EmbeddingUsage { prompt_tokens: made.n_tokens, total_tokens: made.n_tokens },
        }
    }
}
