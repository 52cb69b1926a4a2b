//! A question about a text as tokens: the prompt through the model's chat template, and what each label adds to it.

use crate::decisions::{ChoiceValue, Kind, Question};
use crate::{Language, ServiceError};
use lyceum_language::reasoning::{Begins, ReasoningFormat};
use lyceum_language::template::{ChatTemplate, Conversation, End, openai_messages};
use lyceum_language::tokenizer::{AddSpecial, Specials};
use lyceum_types::limits;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The variable by which templates are told whether the model thinks first.
const THINKING: &str = "enable_thinking";

/// A question as tokens.
pub(super) struct Asked {
    pub(super) prompt: Arc<[u32]>,
    /// What the template was told.
    pub(super) variables: Map<String, Value>,
    /// What follows the prompt, a label each, in the order of the question.
    pub(super) labels: Vec<Vec<u32>>,
}

/// Makes prompts of questions about one text.
pub(super) struct Reader<'a> {
    pub(super) language: &'a Language,
    /// Positions that the model has.
    pub(super) context: usize,
    pub(super) text: &'a str,
    pub(super) now: i64,
}

impl Reader<'_> {
    /// The question with this number as tokens.
    ///
    /// # Errors
    /// Labels that cannot be told apart, a model that cannot be asked, what does not fit its context.
    pub(super) fn read(&self, i: usize, question: &Question) -> Result<Asked, ServiceError> {
        let (field, labels) = labels(&question.kind);
        let param = format!("questions[{i}].{field}");
        check_labels(&param, &labels)?;
        let words = &self.language.words;
        let Some(template) = words.template.as_ref() else {
            let id = self.language.version.id();
            let message =
                format!("the files of {id} have no chat template, through which questions are asked");
            return Err(ServiceError::invalid("model", "unsupported_model", message));
        };
        let (rendered, variables) =
            self.render(template, &format!("{}{}", self.text, tail(question, &labels)))?;
        let tokenizer = &words.tokenizer;
        let encode = |text: &str| {
            let ids = tokenizer.encode(text, AddSpecial::No, Specials::Protected);
            ids.map_err(|error| ServiceError::invalid("input", "invalid_value", error.to_string()))
        };
        let prompt = encode(&rendered)?;
        let guard = tokenizer.guarded(template.source());
        let follow = |label: &&str| {
            let whole = encode(&format!("{rendered}{}", guard.protect(label)))?;
            match whole.strip_prefix(&prompt[..]) {
                Some(label) if !label.is_empty() => Ok(label.to_vec()),
                _ => {
                    let message = format!("{label:?} and what stands before it are one token of this model");
                    Err(ServiceError::invalid(&param, "unsupported_label", message))
                }
            }
        };
        let mut follows = labels.iter().map(follow).collect::<Result<Vec<Vec<u32>>, ServiceError>>()?;
        if overlap(&follows) {
            let Some(end) = tokenizer.eos() else {
                let message =
                    "the tokens of one label begin another's, and this model has no token that ends it";
                return Err(ServiceError::invalid(param, "unsupported_label", message));
            };
            follows.iter_mut().for_each(|label| label.push(end));
        }
        let longest = follows.iter().map(Vec::len).max().unwrap_or(0);
        if prompt.len() + longest > self.context {
            let message = format!(
                "this model's context length is {} tokens, but the text with question {i} and its longest label \
                 has {}: shorten them",
                self.context,
                prompt.len() + longest
            );
            return Err(ServiceError::invalid("input", "context_length_exceeded", message));
        }
        Ok(Asked { prompt: prompt.into(), variables, labels: follows })
    }

    fn render(
        &self,
        template: &ChatTemplate,
        message: &str,
    ) -> Result<(String, Map<String, Value>), ServiceError> {
        let refused = |error: lyceum_language::LanguageError| {
            ServiceError::invalid("input", "template_refused", error.to_string())
        };
        let messages = openai_messages(&[json!({"role": "user", "content": message})]).map_err(refused)?;
        let mut variables = Map::new();
        if template.mentions(THINKING) {
            variables.insert(THINKING.into(), false.into());
        }
        let conversation = Conversation {
            messages: &messages,
            end: End::GenerationPrompt,
            variables: variables.clone(),
            now: self.now,
            guard: self.language.words.tokenizer.guarded(template.source()),
            ..Conversation::default()
        };
        let rendered = template.render(&conversation).map_err(refused)?;
        let thinks = ReasoningFormat::of(template.source(), &rendered);
        if thinks.is_some_and(|format| format.begins == Begins::Inside) {
            let id = self.language.version.id();
            let message = format!("{id} thinks before it answers, and its template cannot be told not to");
            return Err(ServiceError::invalid("model", "unsupported_model", message));
        }
        Ok((rendered, variables))
    }
}

/// What a user says to a language model that is asked.
pub(in crate::decisions) fn user_message(text: &str, question: &Question) -> String {
    format!("{text}{}", tail(question, &labels(&question.kind).1))
}

/// The labels of a question, and the field that has them. A predicate is one of `yes` and `no`.
pub(super) fn labels(kind: &Kind) -> (&'static str, Vec<&str>) {
    match kind {
        Kind::Predicate => ("instructions", vec!["yes", "no"]),
        Kind::Choice(values) => ("choices", values.iter().map(ChoiceValue::as_label).collect()),
        Kind::Score(levels) => ("levels", levels.iter().map(String::as_str).collect()),
    }
}

fn check_labels(param: &str, labels: &[&str]) -> Result<(), ServiceError> {
    for (i, label) in labels.iter().enumerate() {
        let what = match *label {
            label if labels[..i].contains(&label) => "occurs twice",
            label if label.trim() != label || label.is_empty() => "is empty or has space around it",
            label if label.chars().any(char::is_control) => "has more than one line",
            label if label.chars().count() > limits::LABEL_CHARS_MAX => "is too long for a label",
            _ => continue,
        };
        let shown: String = label.chars().take(64).collect();
        return Err(ServiceError::invalid(param, "unsupported_label", format!("{shown:?} {what}")));
    }
    Ok(())
}

/// What the model is asked, behind the text: that stands first, so that all questions about it begin alike.
pub(super) fn tail(question: &Question, labels: &[&str]) -> String {
    let how = match question.kind {
        Kind::Score(_) => {
            "Answer with exactly one of these levels, from the lowest to the highest, and nothing else:"
        }
        _ => "Answer with exactly one of these, and nothing else:",
    };
    let mut message = format!("\n\n{}\n\n{how}", question.instructions);
    for (i, label) in labels.iter().enumerate() {
        message += &format!("\n- {label}");
        if let Some(Some(description)) = question.descriptions.get(i) {
            message += &format!(": {description}");
        }
    }
    message
}

/// Whether the tokens of one begin another's.
fn overlap(labels: &[Vec<u32>]) -> bool {
    let mut sorted: Vec<&Vec<u32>> = labels.iter().collect();
    sorted.sort();
    sorted.windows(2).any(|pair| pair[1].starts_with(pair[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_overlap_where_one_begins_another() {
        assert!(overlap(&[vec![1, 2], vec![3], vec![1]]) && overlap(&[vec![4], vec![4]]));
        assert!(!overlap(&[vec![1, 2], vec![1, 3], vec![2, 1]]));
    }

    #[test]
    fn labels_are_lines_of_their_own() {
        let refused = |labels: &[&str]| check_labels("questions[0].choices", labels).is_err();
        assert!(!refused(&["a", "b c"]));
        for bad in [["a", "a"], ["", "a"], [" a", "b"], ["a\nb", "c"]] {
            assert!(refused(&bad), "{bad:?}");
        }
    }
}
