//! `POST /v1/decisions`, with the types of PyPI `openai` 3.54 (`DecisionCreateParams`, `Decision`).

use super::cascades::RoutedBody;
use super::explain::{Extras, OptionsBody};
use super::explanation::explanation;
use super::promises::{
    CalibrationBody, CertificateBody, CertifyBody, OodBody, PredictionSetBody, SetBody, promises,
};
use super::{advisory, model_ref, unsupported};
use crate::error::ApiError;
use base64::Engine as _;
use lyceum_service::Content;
use lyceum_service::decisions::{self, Answer, ChoiceValue, Kind, Question, Request};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecisionRequest)]
pub struct Body {
    pub model: String,
    /// A text, or one user message with one part: text, an image as a data URL, or a JSON object of features.
    pub input: InputBody,
    /// 1 to 400 questions. A trained classifier answers those whose labels are its own; a language model any.
    pub questions: Vec<QuestionBody>,
    /// Ours: a certificate of the input's class.
    pub certify: Option<CertifyBody>,
    /// Ours: the labels that the input may have.
    pub prediction_set: Option<PredictionSetBody>,
    /// Ours: how unlike the training rows the input is.
    pub ood: Option<bool>,
    /// Accepted, without effect.
    pub prompt_cache_key: Option<String>,
    /// Accepted, without effect.
    #[expect(dead_code, reason = "accepted, without effect")]
    pub prompt_cache_options: Option<PromptCacheOptions>,
    /// Accepted, without effect.
    pub safety_identifier: Option<String>,
    /// Also say why: the answer then has an `explanation`.
    pub explain: Option<OptionsBody>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "accepted, without effect")]
pub struct PromptCacheOptions {
    /// `implicit` or `explicit`.
    pub mode: Option<CacheMode>,
    /// `30m`
    pub ttl: Option<CacheTtl>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    Implicit,
    Explicit,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
pub enum CacheTtl {
    #[serde(rename = "30m")]
    HalfHour,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text, or one message {\"role\": \"user\", \"content\": …}")]
#[schema(as = DecisionInput)]
pub enum InputBody {
    Text(String),
    #[schema(value_type = Vec<Message>)]
    Messages(Vec<Value>),
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecisionMessage)]
pub struct Message {
    /// `message`
    #[serde(rename = "type")]
    pub kind: Option<MessageType>,
    pub role: Role,
    pub content: ContentBody,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    User,
    System,
    Developer,
    Assistant,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or a list of parts")]
#[schema(as = DecisionContent)]
pub enum ContentBody {
    Text(String),
    #[schema(value_type = Vec<Part>)]
    Parts(Vec<Value>),
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", deny_unknown_fields)]
#[schema(as = DecisionPart)]
#[expect(dead_code, reason = "accepted, without effect")]
pub enum Part {
    #[serde(rename = "input_text")]
    Text { text: String, prompt_cache_breakpoint: Option<Breakpoint> },
    /// `image_url` is a base64 data URL; nothing is fetched.
    #[serde(rename = "input_image")]
    Image { image_url: String, detail: Option<Detail>, prompt_cache_breakpoint: Option<Breakpoint> },
    /// The features of one row of a table.
    #[serde(rename = "input_json")]
    Json { data: Value },
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Breakpoint {
    #[serde(rename = "mode")]
    _mode: BreakpointMode,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakpointMode {
    Explicit,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    Low,
    High,
    Auto,
    Original,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = DecisionQuestion)]
pub enum QuestionBody {
    /// The probability of the label that `instructions` or `name` says, or of the positive one of two; of a language
    /// model, that of `yes` beside `no`.
    Predicate { instructions: Instructions, name: Option<String> },
    /// The choices are the labels of a trained model; of a language model, whatever is asked.
    Choice { instructions: Instructions, choices: Vec<ChoiceBody>, name: Option<String> },
    /// The levels, from the lowest to the highest; of a trained model, its labels.
    Score { instructions: Instructions, levels: Vec<LevelBody>, name: Option<String> },
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or a list of parts")]
#[schema(as = DecisionInstructions)]
pub enum Instructions {
    Text(String),
    #[schema(value_type = Vec<Part>)]
    Parts(#[expect(dead_code, reason = "refused, whatever they are")] Vec<Value>),
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecisionChoice)]
pub struct ChoiceBody {
    pub value: ChoiceValueBody,
    pub description: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or a boolean")]
#[schema(as = DecisionChoiceValue)]
pub enum ChoiceValueBody {
    Text(String),
    Bool(bool),
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecisionLevel)]
pub struct LevelBody {
    pub label: String,
    pub description: Option<String>,
}

impl Body {
    pub fn parse(mut self) -> Result<(Request, Extras), ApiError> {
        advisory("prompt_cache_key", self.prompt_cache_key.as_deref())?;
        advisory("safety_identifier", self.safety_identifier.as_deref())?;
        let n = self.questions.len();
        if n == 0 || n > limits::QUESTIONS_MAX {
            let message = format!("questions: {n} questions are not between 1 and {}", limits::QUESTIONS_MAX);
            return Err(ApiError::field("questions", "invalid_value", message));
        }
        let model = model_ref(&self.model)?;
        let input = content(self.input)?;
        let questions =
            self.questions.into_iter().enumerate().map(|(i, question)| parse_question(i, question));
        let questions = questions.collect::<Result<_, _>>()?;
        let explained = self.explain.as_mut().and_then(OptionsBody::take_question);
        let (explain, extras) = match self.explain.map(|options| options.parse("explain.")).transpose()? {
            Some((options, extras)) => (Some(options), extras),
            None => (None, Extras::default()),
        };
        let promises = promises(self.certify, self.prediction_set, self.ood);
        Ok((Request { model, input, questions, explain, explained, promises }, extras))
    }
}

/// One thing is read: what else stands in the input would change an answer, so it is refused here and not dropped.
fn content(input: InputBody) -> Result<Content, ApiError> {
    let messages = match input {
        InputBody::Text(text) => return Ok(Content::Text(text)),
        InputBody::Messages(messages) => messages,
    };
    let [message] = <[Value; 1]>::try_from(messages).map_err(|messages: Vec<Value>| {
        let message = format!("input: {} items; decisions read one user message", messages.len());
        ApiError::field("input", "unsupported_value", message)
    })?;
    let message: Message = reparse("input[0]", &message)?;
    let _ = message.kind;
    if message.role != Role::User {
        let text = "input[0].role: decisions read one message with the role \"user\"";
        return Err(ApiError::field("input[0].role", "unsupported_value", text));
    }
    let parts = match message.content {
        ContentBody::Text(text) => return Ok(Content::Text(text)),
        ContentBody::Parts(parts) => parts,
    };
    let [part] = <[Value; 1]>::try_from(parts).map_err(|parts: Vec<Value>| {
        let message = format!("input[0].content: {} parts; decisions read one", parts.len());
        ApiError::field("input[0].content", "unsupported_value", message)
    })?;
    match reparse("input[0].content[0]", &part)? {
        Part::Text { text, .. } => Ok(Content::Text(text)),
        Part::Image { image_url, .. } => {
            data_url("input[0].content[0].image_url", &image_url).map(Content::File)
        }
        Part::Json { data: Value::Object(row) } => Ok(Content::Row(row)),
        Part::Json { .. } => {
            let param = "input[0].content[0].data";
            Err(ApiError::field(param, "invalid_type", format!("{param}: must be an object of features")))
        }
    }
}

/// A value inside an untagged union, whose errors then have their full path.
fn reparse<T: serde::de::DeserializeOwned>(path: &str, value: &Value) -> Result<T, ApiError> {
    crate::body::parse(value.to_string().as_bytes()).map_err(|mut error: ApiError| {
        let inner = error.detail.param.take();
        let param = inner.map_or(path.to_owned(), |inner| format!("{path}.{inner}"));
        error.detail.message = format!("{path}: {}", error.detail.message);
        error.detail.param = Some(param);
        error
    })
}

/// The bytes of a base64 data URL. Addresses on the network are never fetched.
fn data_url(param: &str, url: &str) -> Result<Vec<u8>, ApiError> {
    let refuse = |why: &str| Err(ApiError::field(param, "invalid_value", format!("{param}: {why}")));
    let Some(rest) = url.strip_prefix("data:") else {
        return refuse("must be a data URL (data:image/png;base64,…); this server fetches no addresses");
    };
    let Some((media_type, data)) = rest.split_once(";base64,") else {
        return refuse("a data URL must say ;base64,");
    };
    if !media_type.starts_with("image/") {
        return refuse("a data URL must begin with data:image/");
    }
    match base64::engine::general_purpose::STANDARD.decode(data) {
        Ok(bytes) => Ok(bytes),
        Err(_) => refuse("the base64 is broken"),
    }
}

fn parse_question(i: usize, body: QuestionBody) -> Result<Question, ApiError> {
    let at = |field: &str| format!("questions[{i}].{field}");
    let bounded = |field: &str, n: usize| {
        if (2..=limits::CHOICES_OF_QUESTION_MAX).contains(&n) {
            return Ok(());
        }
        let param = at(field);
        let message = format!("{param}: {n} are not between 2 and {}", limits::CHOICES_OF_QUESTION_MAX);
        Err(ApiError::field(param, "invalid_value", message))
    };
    let mut descriptions = Vec::new();
    let (instructions, name, kind) = match body {
        QuestionBody::Predicate { instructions, name } => (instructions, name, Kind::Predicate),
        QuestionBody::Choice { instructions, choices, name } => {
            bounded("choices", choices.len())?;
            let read = |choice: ChoiceBody| {
                descriptions.push(choice.description);
                choice.value.into()
            };
            let values: Vec<ChoiceValue> = choices.into_iter().map(read).collect();
            (instructions, name, Kind::Choice(values))
        }
        QuestionBody::Score { instructions, levels, name } => {
            bounded("levels", levels.len())?;
            let read = |level: LevelBody| {
                descriptions.push(level.description);
                level.label
            };
            (instructions, name, Kind::Score(levels.into_iter().map(read).collect()))
        }
    };
    let Instructions::Text(instructions) = instructions else {
        return Err(unsupported(&at("instructions"), "no parts are read here; send a text"));
    };
    advisory(&at("name"), name.as_deref())?;
    Ok(Question { name, instructions, kind, descriptions })
}

impl From<ChoiceValueBody> for ChoiceValue {
    fn from(body: ChoiceValueBody) -> Self {
        match body {
            ChoiceValueBody::Text(text) => ChoiceValue::Text(text),
            ChoiceValueBody::Bool(value) => ChoiceValue::Bool(value),
        }
    }
}

impl From<ChoiceValue> for ChoiceValueBody {
    fn from(value: ChoiceValue) -> Self {
        match value {
            ChoiceValue::Text(text) => ChoiceValueBody::Text(text),
            ChoiceValue::Bool(value) => ChoiceValueBody::Bool(value),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: Value) -> Result<Request, ApiError> {
        Ok(crate::body::parse::<Body>(body.to_string().as_bytes())?.parse()?.0)
    }

    fn with_input(input: Value) -> Value {
        json!({"model": "m", "input": input, "questions": [{"type": "predicate", "instructions": "good"}]})
    }

    fn with_question(question: Value) -> Value {
        json!({"model": "m", "input": "x", "questions": [question]})
    }

    fn refused(body: &Value) -> String {
        let error = parse(body.clone()).unwrap_err();
        assert_eq!(error.status, 400);
        error.detail.param.unwrap_or_else(|| panic!("{body}: {}", error.detail.message))
    }

    #[test]
    fn an_input_is_a_text_a_picture_or_a_row() {
        let input = |value: Value| parse(with_input(value)).unwrap().input;
        let message = |content: Value| json!([{"role": "user", "content": content}]);
        assert_eq!(input(json!("hello")), Content::Text("hello".into()));
        assert_eq!(input(message(json!("hello"))), Content::Text("hello".into()));
        let text =
            json!([{"type": "input_text", "text": "hello", "prompt_cache_breakpoint": {"mode": "explicit"}}]);
        assert_eq!(input(message(text)), Content::Text("hello".into()));
        let image =
            json!([{"type": "input_image", "image_url": "data:image/png;base64,AQI=", "detail": "auto"}]);
        assert_eq!(input(message(image)), Content::File(vec![1, 2]));
        let row = json!([{"type": "input_json", "data": {"age": 3}}]);
        assert_eq!(input(message(row)), Content::Row(json!({"age": 3}).as_object().unwrap().clone()));
    }

    #[test]
    fn what_a_classifier_would_have_to_ignore_is_refused_by_its_path() {
        let message = |content: Value| json!([{"role": "user", "content": content}]);
        for (input, param) in [
            (json!(3), "input"),
            (json!([]), "input"),
            (json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]), "input"),
            (json!([{"role": "system", "content": "a"}]), "input[0].role"),
            (json!([{"role": "user", "content": "a", "extra": 1}]), "input[0].extra"),
            (
                json!([{"type": "function_call", "arguments": "{}", "call_id": "c", "name": "f"}]),
                "input[0].type",
            ),
            (message(json!([])), "input[0].content"),
            (message(json!([{"type": "input_audio"}])), "input[0].content[0]"),
            (
                message(json!([{"type": "input_image", "image_url": "http://169.254.169.254/x.png"}])),
                "input[0].content[0].image_url",
            ),
            (
                message(json!([{"type": "input_image", "image_url": "data:image/png;base64,???"}])),
                "input[0].content[0].image_url",
            ),
            (message(json!([{"type": "input_json", "data": [{"a": 1}]}])), "input[0].content[0].data"),
        ] {
            let found = refused(&with_input(input.clone()));
            assert!(found.starts_with(param), "{input}: {found}");
        }
    }

    #[test]
    fn questions_are_bounded_and_named_by_their_place() {
        for (question, param) in [
            (
                json!({"type": "choice", "instructions": "i", "choices": [{"value": "a"}]}),
                "questions[0].choices",
            ),
            (json!({"type": "score", "instructions": "i", "levels": []}), "questions[0].levels"),
            (json!({"type": "predicate", "instructions": []}), "questions[0].instructions"),
            (json!({"type": "other", "instructions": "i"}), "questions[0]"),
            (json!({"type": "predicate", "instructions": "i", "x": 1}), "questions[0]"),
            (json!({"type": "predicate"}), "questions[0]"),
            (
                json!({"type": "choice", "instructions": "i", "choices": [{"value": 1}, {"value": "b"}]}),
                "questions[0]",
            ),
        ] {
            assert!(refused(&with_question(question.clone())).starts_with(param), "{question}");
        }
        let many = vec![json!({"type": "predicate", "instructions": "good"}); 401];
        assert_eq!(refused(&json!({"model": "m", "input": "x", "questions": many})), "questions");
        assert_eq!(refused(&json!({"model": "m", "input": "x", "questions": []})), "questions");
    }
}
