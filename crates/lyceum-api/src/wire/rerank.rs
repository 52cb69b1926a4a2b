//! `POST /v1/rerank`, in the shape that Cohere, Jina and vLLM share.

use super::{advisory, model_ref, within};
use crate::error::ApiError;
use lyceum_service::rerank::{Ranked, Request};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RerankRequest)]
pub struct Body {
    /// `name`, `name@3` or `name@alias` of a cross-encoder with one number a pair.
    pub model: String,
    pub query: String,
    /// Texts, or objects with `text`; at most 2,048. A pair longer than the model reads is refused.
    pub documents: Vec<Document>,
    /// The best of them, this many; all by default.
    pub top_n: Option<i64>,
    /// Whether each result has its document; false by default.
    pub return_documents: Option<bool>,
    /// Accepted, without effect.
    pub user: Option<String>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text, or an object with a text")]
#[schema(as = RerankDocument)]
pub enum Document {
    Text(String),
    Object(TextDocument),
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RerankTextDocument)]
pub struct TextDocument {
    pub text: String,
}

impl Body {
    /// The request, and whether documents are given back.
    pub fn parse(self) -> Result<(Request, bool), ApiError> {
        advisory("user", self.user.as_deref())?;
        let n = self.documents.len();
        if n == 0 || n > limits::RERANK_DOCUMENTS_MAX {
            let message = format!("documents: {n} are not between 1 and {}", limits::RERANK_DOCUMENTS_MAX);
            return Err(ApiError::field("documents", "invalid_value", message));
        }
        if self.query.is_empty() {
            return Err(ApiError::field("query", "invalid_value", "query: there is nothing to look for"));
        }
        let top_n =
            self.top_n.map(|n| within("top_n", n, 1, limits::RERANK_DOCUMENTS_MAX as i64)).transpose()?;
        let text = |document| match document {
            Document::Text(text) | Document::Object(TextDocument { text }) => text,
        };
        let request = Request {
            model: model_ref(&self.model)?,
            query: self.query,
            documents: self.documents.into_iter().map(text).collect(),
            top_n: top_n.map(|n| n as usize),
        };
        Ok((request, self.return_documents.unwrap_or(false)))
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Reranking {
    pub id: String,
    /// The version that answered: `name@3`.
    pub model: String,
    /// The best first.
    pub results: Vec<RerankResult>,
    pub usage: RerankUsage,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RerankResult {
    /// The document's place in the request.
    pub index: usize,
    /// 0 to 1: the logistic function of the model's number.
    pub relevance_score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<TextDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RerankUsage {
    pub prompt_tokens: u64,
    pub total_tokens: u64,
}

impl Reranking {
    /// `documents`: those of the request, where they are given back.
    pub fn new(id: String, ranked: Ranked, documents: Option<&[String]>) -> Self {
        let of = |index: usize| documents.map(|all| TextDocument { text: all[index].clone() });
        let results = ranked.results.iter().map(|scored| RerankResult {
            index: scored.index,
            relevance_score: scored.relevance,
            document: of(scored.index),
        });
        Reranking {
            id,
            model: ranked.model,
            results: results.collect(),
            usage: RerankUsage { prompt_tokens: ranked.n_tokens, total_tokens: ranked.n_tokens },
        }
    }
}
