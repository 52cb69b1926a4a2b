//! Why a language model answers a question of `/v1/decisions` with this label, and not with that one.
//!
//! What is explained is what the decision tells: the logarithm of a label's share among the labels, or, over one other
//! label, the difference of the two, in which the rest of them does not count. The parts are those of the text that the
//! question is about; its own words stay.

use super::target::{self, Target};
use super::text::Prompt;
use super::{Asked, Options, QuantityName, TargetShown, planned, supported, tape};
use crate::explain::TargetChoice;
use crate::language::Language;
use crate::{Service, ServiceError};
use lyceum_explain::Quantity;
use serde_json::{Map, Value};
use std::sync::Arc;

/// A question that was asked.
pub(crate) struct Question<'a> {
    pub text: &'a str,
    /// What stands behind the text: instructions and labels.
    pub tail: &'a str,
    /// What the template was told, and when.
    pub variables: &'a Map<String, Value>,
    pub now: i64,
    /// The tokens of each label, which follow the prompt, and its name.
    pub labels: &'a [Vec<u32>],
    pub names: Vec<&'a str>,
    /// Its number, where several were asked.
    pub number: Option<usize>,
    /// The label that is explained where none is named.
    pub answered: usize,
}

/// Reads what is asked about a question.
///
/// # Errors
/// What does not fit the model, the text or the labels, at its field.
pub(crate) fn read(
    service: &Service,
    language: Arc<Language>,
    question: &Question<'_>,
    options: &Options,
) -> Result<Asked, ServiceError> {
    supported(options)?;
    if options.part.is_some() {
        let message = "a decision is one label, which has no parts: leave target.part out";
        return Err(ServiceError::invalid("target", "unsupported_target", message));
    }
    let (chosen, not) = question.wished(&options.target)?;
    let labels = question.labels;
    // A logit is one token's: that of the label, or where two part.
    let quantity = options.quantity.or_else(|| {
        let follows_sums = tape::method(&options.method)?.quantity() == Quantity::Logit;
        follows_sums.then_some(QuantityName::Logit)
    });
    let target = match (quantity == Some(QuantityName::Logit), not) {
        (false, _) => Target::Label { labels: labels.to_vec(), chosen, not },
        (true, None) => {
            Target::Said { tokens: labels[chosen].clone(), range: 0..labels[chosen].len(), is_made: false }
        }
        (true, Some(not)) => target::parting(&labels[chosen], &labels[not])
            .ok_or_else(|| ServiceError::internal("labels that exclude each other never part", "bug"))?,
    };
    let name = |label: usize| question.names[label].to_owned();
    let shown = TargetShown::Choice { question: question.number, label: name(chosen), not: not.map(name) };
    let prompt =
        Prompt::question(&language, (question.text, question.tail), (question.variables, question.now))?;
    planned(service, language, (prompt, target, shown), options)
}

impl Question<'_> {
    /// The places of the label that is explained and of the one that it is held against.
    fn wished(&self, target: &TargetChoice) -> Result<(usize, Option<usize>), ServiceError> {
        let wrong = |message: String| Err(ServiceError::invalid("target", "unsupported_target", message));
        let (label, not) = match target {
            TargetChoice::Likeliest => (None, None),
            TargetChoice::Label { label, not, step: None } => (Some(label), not.as_ref()),
            // Against another, whatever the answer is.
            TargetChoice::Text { text: None, not } => (None, not.as_ref()),
            _ => {
                return wrong(
                    "a question is answered with one of its labels: send target.label, target.not".into(),
                );
            }
        };
        let place = |label: &String| match self.names.iter().position(|name| name == label) {
            Some(place) => Ok(place),
            None => {
                let all: Vec<String> = self.names.iter().map(|name| format!("{name:?}")).collect();
                let message = format!("{label:?} is none of the question's labels: {}", all.join(", "));
                Err(ServiceError::invalid("target", "unsupported_target", message))
            }
        };
        let chosen = label.map(place).transpose()?.unwrap_or(self.answered);
        let not = not.map(place).transpose()?;
        if not == Some(chosen) {
            return wrong(format!("{:?} is held against itself", self.names[chosen]));
        }
        Ok((chosen, not))
    }
}
