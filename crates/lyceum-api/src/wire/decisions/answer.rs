//! The answers to the questions, with what was promised and explained of them.

use super::ChoiceValueBody;
use crate::wire::cascades::RoutedBody;
use crate::wire::explain::Extras;
use crate::wire::explanation::explanation;
use crate::wire::promises::{CalibrationBody, CertificateBody, OodBody, SetBody};
use lyceum_service::decisions::{self, Answer};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct Decision {
    /// The version that answered: `name@3`.
    pub model: String,
    /// In the order of the questions.
    pub answers: Vec<AnswerBody>,
    pub usage: DecisionUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub explanation: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction_set: Option<SetBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ood: Option<OodBody>,
    /// Of a version whose probabilities are calibrated; where it is missing they are as training left them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationBody>,
    /// Of a cascade: which member answered, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cascade: Option<RoutedBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = DecisionAnswer)]
pub enum AnswerBody {
    Predicate {
        name: Option<String>,
        probability: f64,
    },
    Choice {
        name: Option<String>,
        choice: ChoiceValueBody,
        /// The probability of `choice`.
        confidence: f64,
        probabilities: Vec<ChoiceProbability>,
    },
    Score {
        name: Option<String>,
        /// The mean of the levels' values under their probabilities.
        score: f64,
        /// The probability of the most likely level.
        confidence: f64,
        probabilities: Vec<ScoreProbability>,
    },
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DecisionChoiceProbability)]
pub struct ChoiceProbability {
    pub value: ChoiceValueBody,
    pub probability: f64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DecisionScoreProbability)]
pub struct ScoreProbability {
    pub label: String,
    /// The place of the level, from 0.
    pub value: usize,
    pub probability: f64,
}

/// Tokens of texts; pictures and rows have none.
#[derive(Debug, Serialize, ToSchema)]
pub struct DecisionUsage {
    pub input_tokens: u64,
    pub input_tokens_details: InputTokensDetails,
    pub output_tokens: u64,
    pub output_tokens_details: OutputTokensDetails,
    pub total_tokens: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct InputTokensDetails {
    pub cache_write_tokens: u64,
    pub cached_tokens: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OutputTokensDetails {
    pub reasoning_tokens: u64,
}

impl Decision {
    pub fn new(decision: decisions::Decision, extras: Extras) -> Self {
        let explanation = decision.explanation.as_ref().map(|e| explanation(e, extras));
        let (input_tokens, cached_tokens) = (decision.input_tokens, decision.cached_tokens);
        let certificate = decision.promised.certificates.and_then(|mut all| all.pop());
        let prediction_set = decision.promised.sets.and_then(|mut all| all.pop());
        Self {
            certificate: certificate.map(CertificateBody::from),
            prediction_set: prediction_set.map(SetBody::from),
            calibration: decision.promised.calibration.map(CalibrationBody::from),
            ood: decision.promised.strange.and_then(|mut all| all.pop()).map(OodBody::from),
            model: decision.model,
            answers: decision.answers.into_iter().map(answer_body).collect(),
            usage: DecisionUsage {
                input_tokens,
                input_tokens_details: InputTokensDetails { cache_write_tokens: 0, cached_tokens },
                output_tokens: 0,
                output_tokens_details: OutputTokensDetails { reasoning_tokens: 0 },
                total_tokens: input_tokens,
            },
            explanation,
            cascade: decision.cascade.map(RoutedBody::from),
        }
    }
}

fn answer_body((name, answer): (Option<String>, Answer)) -> AnswerBody {
    match answer {
        Answer::Predicate { probability } => AnswerBody::Predicate { name, probability },
        Answer::Choice { choice, confidence, probabilities } => AnswerBody::Choice {
            name,
            choice: choice.into(),
            confidence,
            probabilities: probabilities
                .into_iter()
                .map(|(value, probability)| ChoiceProbability { value: value.into(), probability })
                .collect(),
        },
        Answer::Score { score, confidence, probabilities } => AnswerBody::Score {
            name,
            score,
            confidence,
            probabilities: probabilities
                .into_iter()
                .enumerate()
                .map(|(value, (label, probability))| ScoreProbability { label, value, probability })
                .collect(),
        },
    }
}
