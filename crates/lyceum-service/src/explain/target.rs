//! Which of the model's numbers is explained: the caller's word for it to an output, and back.

use super::parts::{Read, answers_each_step};
use super::{Method, MethodChoice, Options, QuantityName, TargetChoice};
use crate::ServiceError;
use crate::resident::Resident;
use lyceum_explain::{Quantity, Target, Term, n_steps};
use lyceum_models::batch::Input;
use lyceum_models::prepare::OutputPreparation;
use lyceum_models::prepare::text::Tokenizer;
use std::ops::Range;

/// The target in words.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetShown {
    Label {
        label: String,
        not: Option<String>,
        step: Option<usize>,
    },
    /// A label of a question that a language model was asked; its number, where there were several.
    Choice {
        question: Option<usize>,
        label: String,
        not: Option<String>,
    },
    Output {
        output: String,
    },
    /// Characters of the continuation.
    Text {
        text: String,
        span: Range<usize>,
        not: Option<String>,
    },
}

/// The target, and its words as far as they are known before the model has answered.
pub(super) fn choose(
    resident: &Resident,
    read: &Read,
    options: &Options,
) -> Result<(Target, TargetShown), ServiceError> {
    let wrong = |message: String| Err(ServiceError::invalid("target", "unsupported_target", message));
    let class_quantity = match options.quantity {
        None | Some(QuantityName::Logit) => Quantity::Logit,
        Some(QuantityName::Probability) => Quantity::Probability,
        Some(QuantityName::LogProbability) => Quantity::LogProbability,
    };
    let output = &resident.model.shape.output;
    let (terms, quantity, shown) = match &resident.preparation.output {
        OutputPreparation::Labels { names } | OutputPreparation::StepLabels { names } => {
            let place = |label: &str| match names.iter().position(|name| name == label) {
                Some(place) => Ok(place),
                None => {
                    let message = format!("{label:?} is not a label of the model: {}", names.join(", "));
                    Err(ServiceError::invalid("target.label", "unsupported_target", message))
                }
            };
            let last = match (&read.input, answers_each_step(output)) {
                (Input::Dense { shape, .. }, true) => n_steps(shape) - 1,
                (Input::Tokens(tokens), true) => tokens.time - 1,
                _ => 0,
            };
            let step = |row: usize| answers_each_step(output).then_some(row);
            let (class, not, row) = match &options.target {
                TargetChoice::Likeliest => {
                    let target = Target::likeliest(last, class_quantity, output).map_err(super::refused)?;
                    // Its label comes with the answer.
                    let shown = TargetShown::Label { label: String::new(), not: None, step: step(last) };
                    return Ok((target, shown));
                }
                TargetChoice::Label { label, not, step } => {
                    let not = not.as_deref().map(place).transpose()?;
                    (place(label)?, not, step.unwrap_or(last))
                }
                TargetChoice::Output { .. } | TargetChoice::Text { .. } => {
                    return wrong("this model answers with labels: send target.label".into());
                }
            };
            let shown = TargetShown::Label {
                label: names[class].clone(),
                not: not.map(|not| names[not].clone()),
                step: step(row),
            };
            (vec![Term { row, class, not }], class_quantity, shown)
        }
        OutputPreparation::Values { names, mean, std } => {
            if options.quantity.is_some() {
                return wrong("this model answers with numbers: leave quantity out".into());
            }
            let class = match &options.target {
                TargetChoice::Likeliest => 0,
                TargetChoice::Output { output } => match names.iter().position(|name| name == output) {
                    Some(place) => place,
                    None => {
                        return wrong(format!("{output:?} is not an output: {}", names.join(", ")));
                    }
                },
                _ => return wrong("this model answers with numbers: send target.output".into()),
            };
            let quantity = Quantity::Value { scale: std[class], shift: mean[class] };
            let shown = TargetShown::Output { output: names[class].clone() };
            (vec![Term { row: 0, class, not: None }], quantity, shown)
        }
        OutputPreparation::Tokens => {
            // Relevance follows sums, and a logit is one.
            let sums = matches!(options.method, MethodChoice::Named(Method::Relevance { .. }));
            let quantity = match options.quantity {
                None if !sums => Quantity::LogProbability,
                _ => class_quantity,
            };
            let (terms, shown) = said(resident, read, &options.target)?;
            (terms, quantity, shown)
        }
    };
    let target = Target::new(terms, quantity, output).map_err(super::refused)?;
    let silent = match &resident.preparation.output {
        // As where its tokens are drawn.
        OutputPreparation::Tokens => resident.preparation.tokenizer().map(Tokenizer::never_said),
        _ => None,
    };
    let target = target.among_others(silent.unwrap_or_default()).map_err(super::refused)?;
    Ok((target, shown))
}

impl TargetShown {
    /// With the label of the class that the model chose.
    pub(super) fn resolved(mut self, terms: &[Term], output: &OutputPreparation) -> Self {
        if let (TargetShown::Label { label, .. }, Some(term)) = (&mut self, terms.first())
            && let Some(name) = output.labels().get(term.class)
        {
            label.clone_from(name);
        }
        self
    }
}

/// The tokens of a part of the continuation.
fn said(
    resident: &Resident,
    read: &Read,
    choice: &TargetChoice,
) -> Result<(Vec<Term>, TargetShown), ServiceError> {
    let wrong = |message: String| Err(ServiceError::invalid("target", "unsupported_target", message));
    let Some(completion) = &read.completion else {
        return Err(ServiceError::internal("a continuation was not read", "bug"));
    };
    let (part, not) = match choice {
        TargetChoice::Likeliest => (None, None),
        TargetChoice::Text { text, not } => (text.as_deref(), not.as_deref()),
        _ => return wrong("this model says text: send target.text".into()),
    };
    let whole = 0..completion.text.chars().count();
    let span = match part {
        None => whole,
        Some("") => return wrong("target.text is empty".into()),
        Some(part) => match completion.text.find(part) {
            Some(byte) => {
                let start = completion.text[..byte].chars().count();
                start..start + part.chars().count()
            }
            None => return wrong(format!("{part:?} does not occur in the completion")),
        },
    };
    let within =
        |(_, (_, token)): &(usize, &(u32, Range<usize>))| token.start < span.end && token.end > span.start;
    let tokens: Vec<(usize, u32)> =
        completion.tokens.iter().enumerate().filter(within).map(|(i, (id, _))| (i, *id)).collect();
    let term =
        |&(i, class): &(usize, u32)| Term { row: completion.first_row + i, class: class as usize, not: None };
    let terms = match not {
        None => tokens.iter().map(term).collect(),
        Some(other) => {
            // Up to where they part the two texts are the same tokens; there one is weighed against the other.
            let tokenizer = resident.preparation.tokenizer();
            let tokenizer = tokenizer.ok_or_else(|| ServiceError::internal("no tokenizer", "bug"))?;
            let other = tokenizer.encode(other).map_err(|e| ServiceError::prepare("target.not", e))?;
            let parts = tokens.iter().zip(&other).find(|((_, id), other)| id != *other);
            let Some((token, &other)) = parts else {
                return wrong("target.not begins as the target does: they never part".into());
            };
            vec![Term { not: Some(other as usize), ..term(token) }]
        }
    };
    let text = completion.text.chars().skip(span.start).take(span.len()).collect();
    Ok((terms, TargetShown::Text { text, span, not: not.map(str::to_owned) }))
}
