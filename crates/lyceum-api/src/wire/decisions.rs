//! `POST /v1/decisions`, with the types of PyPI `openai` 3.54 (`DecisionCreateParams`, `Decision`): here the
//! request, [`input`] is what it is about, [`answer`] what comes back.

mod answer;
mod input;

pub use answer::Decision;
pub use input::{InputBody, Part};

use super::explain::{Extras, OptionsBody};
use super::promises::{CertifyBody, PredictionSetBody, promises};
use super::{advisory, model_ref, unsupported};
use crate::error::ApiError;
use input::content;
use lyceum_service::decisions::{ChoiceValue, Kind, Question, Request};
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
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields, expecting = "an object with a type")]
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

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_service::Content;
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
