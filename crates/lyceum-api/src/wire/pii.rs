//! `/v1/pii/*`, in the shapes of Presidio's analyzer and anonymizer, and of ours where it has none.

use super::{advisory, within};
use crate::error::ApiError;
use lyceum_service::guard::lyceum_guard::operate::{Hash, Operator};
use lyceum_service::guard::lyceum_guard::{Finding, Kind, Wanted};
use lyceum_service::guard::pii::{Aggregation, Anonymized, Given, Looking, Request};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Languages whose words for what follows are known; all of them are looked for in every text.
const LANGUAGES: &[&str] = &["en", "de", "fr", "es", "it", "pt", "nl", "pl"];
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PiiAnalyzeRequest)]
pub struct AnalyzeBody {
    /// A text, or a list of them.
    #[schema(value_type = Object)]
    pub text: Texts,
    /// `en`, `de`, `fr`, `es`, `it`, `pt`, `nl` or `pl`. Words of all of them are known at once.
    pub language: Option<String>,
    /// What is looked for, such as `EMAIL_ADDRESS`; without it everything that is known.
    pub entities: Option<Vec<String>>,
    /// 0 to 1; 0.5 by default: below it a form alone speaks for a finding.
    pub score_threshold: Option<f32>,
    /// Ours: a model of the project that knows names (`PERSON`, `LOCATION`, `ORGANIZATION`, `NRP`, `DATE_TIME`); without
    /// one they are not looked for.
    pub ner_model: Option<String>,
    /// Ours, of `ner_model`: `simple` or `first` (the default), as `transformers` has them.
    pub aggregation_strategy: Option<String>,
    /// Whether each finding comes with `analysis_explanation`.
    pub return_decision_process: Option<bool>,
    /// Has no effect.
    pub correlation_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub enum Texts {
    One(String),
    Many(Vec<String>),
}

/// What an analysis was asked for.
pub struct Analyze {
    pub texts: Vec<String>,
    pub is_list: bool,
    pub looking: Looking,
    pub explains: bool,
}

impl AnalyzeBody {
    pub fn parse(self) -> Result<Analyze, ApiError> {
        advisory("correlation_id", self.correlation_id.as_deref())?;
        let strategy = self.aggregation_strategy.as_deref();
        let asked = (self.entities.as_deref(), named(self.ner_model.as_deref(), strategy)?);
        let looking = looking(self.language.as_deref(), asked, self.score_threshold)?;
        let (texts, is_list) = match self.text {
            Texts::One(text) => (vec![text], false),
            Texts::Many(texts) => (texts, true),
        };
        if texts.len() > limits::PII_TEXTS_MAX {
            let message = format!("text: {} texts are more than {}", texts.len(), limits::PII_TEXTS_MAX);
            return Err(ApiError::field("text", "invalid_value", message));
        }
        Ok(Analyze { texts, is_list, looking, explains: self.return_decision_process.unwrap_or(false) })
    }
}

fn looking(
    language: Option<&str>,
    (entities, (ner_model, aggregation)): (Option<&[String]>, (Option<&str>, Aggregation)),
    score_threshold: Option<f32>,
) -> Result<Looking, ApiError> {
    if let Some(language) = language.filter(|language| !LANGUAGES.contains(language)) {
        let language: String = language.chars().take(16).collect();
        let message = format!("language: {language:?} is none of {}", LANGUAGES.join(", "));
        return Err(ApiError::field("language", "unsupported_language", message));
    }
    let kinds = entities.map(|entities| kinds("entities", entities, ner_model)).transpose()?;
    let threshold = within("score_threshold", score_threshold.unwrap_or(Wanted::THRESHOLD), 0.0, 1.0)?;
    let wanted = Wanted { kinds, threshold };
    Ok(Looking { wanted, ner_model: ner_model.map(str::to_owned), aggregation })
}

/// A model of names, and how it groups tokens.
fn named<'m>(
    ner_model: Option<&'m str>,
    strategy: Option<&str>,
) -> Result<(Option<&'m str>, Aggregation), ApiError> {
    let param = "aggregation_strategy";
    let how = match strategy {
        None => Aggregation::default(),
        Some(_) if ner_model.is_none() => {
            let message = format!("{param}: of a model of names, and none is named in ner_model");
            return Err(ApiError::field(param, "invalid_value", message));
        }
        Some("simple") => Aggregation::Simple,
        Some("first") => Aggregation::First,
        Some("none" | "average" | "max") => {
            let message = format!("{param}: simple and first are what this version has");
            return Err(ApiError::not_implemented(param, message));
        }
        Some(_) => {
            let message = format!("{param}: must be one of: simple first");
            return Err(ApiError::field(param, "invalid_value", message));
        }
    };
    Ok((ner_model, how))
}

/// Names of entities; some take a model.
pub fn kinds(param: &str, names: &[String], ner_model: Option<&str>) -> Result<Vec<Kind>, ApiError> {
    if names.is_empty() {
        let message =
            format!("{param}: an empty list looks for nothing; leave it out to look for everything");
        return Err(ApiError::field(param, "invalid_value", message));
    }
    let found = names.iter().map(|name| kind(param, name)).collect::<Result<Vec<Kind>, _>>()?;
    if let (Some(kind), None) = (found.iter().find(|kind| kind.takes_a_model()), ner_model) {
        return Err(without_model(param, *kind));
    }
    Ok(found)
}

fn without_model(param: &str, kind: Kind) -> ApiError {
    let message =
        format!("{param}: {kind} takes a model that knows names: import one and name it in ner_model");
    ApiError::not_implemented(param, message)
}

fn kind(param: &str, name: &str) -> Result<Kind, ApiError> {
    let known = || Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    name.parse().map_err(|_| {
        let name: String = name.chars().take(64).collect();
        ApiError::field(param, "unknown_entity", format!("{param}: {name:?} is none of {}", known()))
    })
}

/// A finding, its place in unicode characters.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = PiiFinding)]
pub struct FindingBody {
    pub entity_type: &'static str,
    pub start: usize,
    pub end: usize,
    pub score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analysis_explanation: Option<AnalysisExplanation>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = PiiAnalysisExplanation)]
pub struct AnalysisExplanation {
    /// `pii`, `secrets` or `ner_model`
    pub recognizer: &'static str,
    /// What spoke for it.
    pub textual_explanation: &'static str,
    pub original_score: f32,
    pub score: f32,
}

impl FindingBody {
    pub fn new(found: &Finding, explains: bool) -> Self {
        let score = (f64::from(found.score) * 1000.0).round() as f32 / 1000.0;
        let analysis_explanation = explains.then_some(AnalysisExplanation {
            recognizer: if found.kind.takes_a_model() { "ner_model" } else { found.kind.category().as_str() },
            textual_explanation: found.why,
            original_score: score,
            score,
        });
        let (start, end) = (found.start, found.end);
        Self { entity_type: found.kind.as_str(), start, end, score, analysis_explanation }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PiiAnonymizeRequest)]
pub struct AnonymizeBody {
    pub text: String,
    /// What stands for each entity, and for `DEFAULT`; without it `<ENTITY>`.
    pub anonymizers: Option<BTreeMap<String, OperatorBody>>,
    /// Findings of an analysis; without them the text is analysed.
    pub analyzer_results: Option<Vec<ResultBody>>,
    /// Ours, as in an analysis.
    pub ner_model: Option<String>,
    pub aggregation_strategy: Option<String>,
    pub language: Option<String>,
    pub entities: Option<Vec<String>>,
    pub score_threshold: Option<f32>,
}

/// Presidio's operators `replace`, `redact`, `mask`, `hash` and `keep`, and `placeholder`, which can be brought back.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PiiOperator)]
pub struct OperatorBody {
    #[serde(rename = "type")]
    pub kind: String,
    /// Of `replace`.
    pub new_value: Option<String>,
    /// Of `mask`: one character.
    pub masking_char: Option<String>,
    /// Of `mask`.
    pub chars_to_mask: Option<usize>,
    /// Of `mask`.
    pub from_end: Option<bool>,
    /// Of `hash`: `sha256` (the default) or `sha512`.
    pub hash_type: Option<String>,
    /// Of `hash`: without a key, values of a few digits are found by trying all of them.
    pub key: Option<String>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = PiiAnalyzerResult)]
pub struct ResultBody {
    pub entity_type: String,
    pub start: usize,
    pub end: usize,
    pub score: Option<f32>,
}

impl AnonymizeBody {
    pub fn parse(self) -> Result<Request, ApiError> {
        let findings = match &self.analyzer_results {
            None => {
                let strategy = self.aggregation_strategy.as_deref();
                let asked = (self.entities.as_deref(), named(self.ner_model.as_deref(), strategy)?);
                Given::Found(looking(self.language.as_deref(), asked, self.score_threshold)?)
            }
            Some(results) => {
                let alone = [
                    ("entities", self.entities.is_some()),
                    ("ner_model", self.ner_model.is_some()),
                    ("aggregation_strategy", self.aggregation_strategy.is_some()),
                    ("score_threshold", self.score_threshold.is_some()),
                ];
                if let Some((param, _)) = alone.iter().find(|(_, is_there)| *is_there) {
                    let message =
                        format!("{param}: not together with analyzer_results, which are the findings");
                    return Err(ApiError::field(*param, "invalid_value", message));
                }
                Given::Spans(spans(results)?)
            }
        };
        let mut by_kind = BTreeMap::new();
        let mut default = Operator::Replace { new_value: None };
        for (name, body) in self.anonymizers.into_iter().flatten() {
            let operator = body.parse(&name)?;
            match name.as_str() {
                "DEFAULT" => default = operator,
                name => drop(by_kind.insert(kind("anonymizers", name)?, operator)),
            }
        }
        let is_modelled =
            matches!(&findings, Given::Spans(_) | Given::Found(Looking { ner_model: Some(_), .. }));
        if let Some(kind) = by_kind.keys().find(|kind| kind.takes_a_model() && !is_modelled) {
            return Err(without_model("anonymizers", *kind));
        }
        Ok(Request { text: self.text, findings, default, by_kind })
    }
}

/// In their order; of those that lie over each other the surest, then the longest.
fn spans(results: &[ResultBody]) -> Result<Vec<(Kind, usize, usize)>, ApiError> {
    if results.len() > limits::PII_RESULTS_MAX {
        let message =
            format!("analyzer_results: {} are more than {}", results.len(), limits::PII_RESULTS_MAX);
        return Err(ApiError::field("analyzer_results", "invalid_value", message));
    }
    let mut all = Vec::with_capacity(results.len());
    for (i, result) in results.iter().enumerate() {
        let kind = kind(&format!("analyzer_results[{i}].entity_type"), &result.entity_type)?;
        let length = result.end.saturating_sub(result.start);
        all.push((result.score.unwrap_or(1.0), length, kind, result.start, result.end));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(a.3.cmp(&b.3)));
    let mut kept: BTreeMap<usize, (Kind, usize)> = BTreeMap::new();
    for (_, _, kind, start, end) in all {
        let before = kept.range(..=start).next_back().is_some_and(|(_, (_, other))| *other > start);
        let behind = kept.range(start..).next().is_some_and(|(other, _)| *other < end);
        if !before && !behind {
            kept.insert(start, (kind, end));
        }
    }
    Ok(kept.into_iter().map(|(start, (kind, end))| (kind, start, end)).collect())
}

impl OperatorBody {
    fn parse(self, of: &str) -> Result<Operator, ApiError> {
        let param = |field: &str| format!("anonymizers.{of}.{field}");
        let wrong = |field: &str, code, message: &str| {
            Err(ApiError::field(param(field), code, format!("{}: {message}", param(field))))
        };
        let allowed: &[&str] = match self.kind.as_str() {
            "replace" => &["new_value"],
            "mask" => &["masking_char", "chars_to_mask", "from_end"],
            "hash" => &["hash_type", "key"],
            "redact" | "keep" | "placeholder" => &[],
            "encrypt" => {
                let message = "encrypt: not yet; placeholder is what can be brought back here";
                return Err(ApiError::not_implemented(param("type"), message));
            }
            _ => {
                let message = "it is none of replace, redact, mask, hash, keep, placeholder";
                return wrong("type", "invalid_value", message);
            }
        };
        let given = [
            ("new_value", self.new_value.is_some()),
            ("masking_char", self.masking_char.is_some()),
            ("chars_to_mask", self.chars_to_mask.is_some()),
            ("from_end", self.from_end.is_some()),
            ("hash_type", self.hash_type.is_some()),
            ("key", self.key.is_some()),
        ];
        if let Some((field, _)) = given.iter().find(|(field, is_there)| *is_there && !allowed.contains(field))
        {
            return wrong(field, "invalid_value", "it is a setting of another operator");
        }
        Ok(match self.kind.as_str() {
            "replace" => Operator::Replace { new_value: self.new_value },
            "redact" => Operator::Redact,
            "keep" => Operator::Keep,
            "placeholder" => Operator::Placeholder,
            "mask" => {
                let masking = self.masking_char.as_deref().unwrap_or("*");
                let mut chars = masking.chars();
                let (Some(masking_char), None) = (chars.next(), chars.next()) else {
                    return wrong("masking_char", "invalid_value", "it is not one character");
                };
                let chars_to_mask = self.chars_to_mask.unwrap_or(usize::MAX);
                Operator::Mask { masking_char, chars_to_mask, from_end: self.from_end.unwrap_or(false) }
            }
            _ => {
                let hash = match self.hash_type.as_deref() {
                    None | Some("sha256") => Hash::Sha256,
                    Some("sha512") => Hash::Sha512,
                    Some(_) => return wrong("hash_type", "invalid_value", "it is neither sha256 nor sha512"),
                };
                match self.key {
                    Some(key) if key.len() >= limits::HASH_KEY_BYTES_MIN => {
                        Operator::Hash { hash, key: key.into_bytes() }
                    }
                    _ => {
                        let message = "a hash needs a key of 16 bytes or more: without one, values of a few digits are \
                                       found by trying all of them";
                        return wrong("key", "missing_required_parameter", message);
                    }
                }
            }
        })
    }
}

/// What stands in the new text, its place in unicode characters.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PiiAnonymizedItem)]
pub struct ItemBody {
    pub entity_type: &'static str,
    pub start: usize,
    pub end: usize,
    pub text: String,
    pub operator: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PiiAnonymized)]
pub struct AnonymizedBody {
    pub text: String,
    pub items: Vec<ItemBody>,
    /// Where there are placeholders: what `POST /v1/pii/deanonymize` brings them back by, for this project alone. The
    /// server keeps nothing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
    /// Until when, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_expires_at: Option<i64>,
}

impl From<Anonymized> for AnonymizedBody {
    fn from(made: Anonymized) -> Self {
        let item = |item: lyceum_service::guard::pii::Item| ItemBody {
            entity_type: item.kind.as_str(),
            start: item.start,
            end: item.end,
            text: item.text,
            operator: item.operator,
        };
        let (restore, restore_expires_at) = made.restore.unzip();
        Self {
            text: made.text,
            items: made.items.into_iter().map(item).collect(),
            restore,
            restore_expires_at,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PiiDeanonymizeRequest)]
pub struct DeanonymizeBody {
    /// A text with placeholders, such as what a model said of an anonymous one.
    pub text: String,
    /// What `POST /v1/pii/anonymize` gave.
    pub restore: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PiiDeanonymized)]
pub struct Deanonymized {
    pub text: String,
}
