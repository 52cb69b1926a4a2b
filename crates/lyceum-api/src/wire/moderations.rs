//! `POST /v1/moderations`, as OpenAI's `CreateModerationRequest` and `CreateModerationResponse`, with categories of our own.

use super::model_ref;
use crate::error::ApiError;
use lyceum_service::moderations::{Found, Judged, Moderation, Request, Risk};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What OpenAI's models answer for and no model here does.
const ELSEWHERE: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ModerationRequest)]
pub struct Body {
    /// A text, at most 2,048 texts with one result each, or content parts with one result for all of them.
    pub input: InputBody,
    /// `name`, `name@3` or `name@alias` of a classifier of prompt injections with two labels; by default the one that the
    /// server is set up with.
    pub model: Option<String>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text, texts, or content parts of type text")]
#[schema(as = ModerationInput)]
pub enum InputBody {
    Text(String),
    Texts(Vec<String>),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields, expecting = "an object with a type")]
#[schema(as = ModerationPart)]
pub enum Part {
    Text {
        text: String,
    },
    /// Refused: no guard looks at pictures.
    ImageUrl {
        #[serde(rename = "image_url")]
        #[schema(value_type = Object)]
        _image_url: serde::de::IgnoredAny,
    },
}

impl Body {
    pub fn parse(self) -> Result<Request, ApiError> {
        let inputs: Vec<Vec<String>> = match self.input {
            InputBody::Text(text) => vec![vec![text]],
            InputBody::Texts(texts) => texts.into_iter().map(|text| vec![text]).collect(),
            InputBody::Parts(parts) => {
                let text = |(i, part)| match part {
                    Part::Text { text } => Ok(text),
                    Part::ImageUrl { .. } => {
                        let field = format!("input[{i}]");
                        Err(super::unsupported(&field, "no guard looks at pictures: send its texts"))
                    }
                };
                vec![parts.into_iter().enumerate().map(text).collect::<Result<_, _>>()?]
            }
        };
        let n = inputs.iter().flatten().count();
        if n == 0 || n > limits::MODERATION_INPUTS_MAX {
            let message = format!("input: {n} texts are not between 1 and {}", limits::MODERATION_INPUTS_MAX);
            return Err(ApiError::field("input", "invalid_value", message));
        }
        let bytes: usize = inputs.iter().flatten().map(String::len).sum();
        if bytes > limits::MODERATION_BYTES_MAX {
            let max = limits::MODERATION_BYTES_MAX;
            let message = format!("input: {bytes} bytes of text are more than {max}");
            return Err(ApiError::field("input", "context_length_exceeded", message));
        }
        Ok(Request { model: self.model.as_deref().map(model_ref).transpose()?, inputs })
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModerationResponse)]
pub struct Answer {
    /// `modr-…`
    pub id: String,
    /// The classifier that answered, `name@3`; `lyceum-guard` where none is set up and rules alone did.
    pub model: String,
    pub results: Vec<JudgedBody>,
    /// Categories that have no answer: no model here knows OpenAI's, and prompt injections need a classifier.
    pub not_evaluated: Vec<&'static str>,
    pub usage: ModerationUsage,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModerationResult)]
pub struct JudgedBody {
    /// Whether any category is true.
    pub flagged: bool,
    /// `prompt_injection`, `hidden_unicode`, `data_exfiltration`, `pii`, `secrets`.
    pub categories: BTreeMap<&'static str, bool>,
    /// 0 to 1: the highest of the input's findings; a probability for prompt injections.
    pub category_scores: BTreeMap<&'static str, f64>,
    /// `["text"]` for each.
    pub category_applied_input_types: BTreeMap<&'static str, Vec<&'static str>>,
    /// What was found and where.
    pub findings: Vec<FindingBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModerationFinding)]
pub struct FindingBody {
    pub category: &'static str,
    /// `TAG_CHARACTERS`, `EXFILTRATION_URL`, `EMAIL_ADDRESS`, …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The content part; 0 where the input is a text.
    pub part: usize,
    /// Unicode characters of its text.
    pub char_start: usize,
    pub char_end: usize,
    pub score: f64,
    pub why: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModerationUsage {
    /// Tokens that the classifier read.
    pub prompt_tokens: u64,
    pub total_tokens: u64,
}

impl Answer {
    pub fn new(id: String, moderation: Moderation) -> Self {
        let answered: Vec<Risk> =
            moderation.results.first().map_or(Vec::new(), |first| first.scores.iter().map(|s| s.0).collect());
        let missing = Risk::ALL.into_iter().filter(|risk| !answered.contains(risk)).map(Risk::as_str);
        Answer {
            id,
            model: moderation.model.unwrap_or_else(|| "lyceum-guard".to_owned()),
            not_evaluated: missing.chain(ELSEWHERE).collect(),
            results: moderation.results.into_iter().map(JudgedBody::new).collect(),
            usage: ModerationUsage { prompt_tokens: moderation.n_tokens, total_tokens: moderation.n_tokens },
        }
    }
}

impl JudgedBody {
    fn new(judged: Judged) -> Self {
        let each = || judged.scores.iter().map(|&(risk, score)| (risk.as_str(), (risk, score)));
        let categories: BTreeMap<&'static str, bool> =
            each().map(|(name, (risk, score))| (name, score >= risk.threshold())).collect();
        JudgedBody {
            flagged: categories.values().any(|&is_it| is_it),
            categories,
            category_scores: each().map(|(name, (_, score))| (name, score)).collect(),
            category_applied_input_types: each().map(|(name, _)| (name, vec!["text"])).collect(),
            findings: judged.found.into_iter().map(FindingBody::new).collect(),
        }
    }
}

impl FindingBody {
    fn new(found: Found) -> Self {
        FindingBody {
            category: found.risk.as_str(),
            kind: found.kind,
            part: found.part,
            char_start: found.chars.start,
            char_end: found.chars.end,
            score: found.score,
            why: found.why,
        }
    }
}
