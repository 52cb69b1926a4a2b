//! Methods that look inside the model: gradients, relevance, and what each layer adds to a logit, one layer a turn on the
//! engine's thread ([`lyceum_explain::language`]).

use super::super::device::{CancelOnDrop, EngineDevice};
use super::super::{MethodChoice, QuantityName, refused, run};
use super::places::{self, Placed};
use super::target::Target;
use super::text::Prompt;
use super::{Asked, How};
use crate::generation::Speaker;
use crate::language::Language;
use crate::meter::Share;
use crate::{Service, ServiceError};
use lyceum_explain::language::{LanguageMethod, LanguageQuestion, attribute};
use lyceum_explain::{Explanation, Method, Quantity, Term};
use lyceum_models::causal_lm::Sections;
use lyceum_types::control::Control;
use lyceum_types::limits;
use std::sync::Arc;
use std::time::Instant;

/// What is asked, as the mathematics has it.
#[derive(Clone)]
pub(super) struct Inside {
    question: LanguageQuestion,
}

/// The method of a name, where it looks inside.
pub(super) fn method(choice: &MethodChoice) -> Option<LanguageMethod> {
    Some(match choice {
        MethodChoice::Named(Method::GradientInput) => LanguageMethod::GradientInput,
        MethodChoice::Named(Method::IntegratedGradients { n_steps }) => {
            LanguageMethod::IntegratedGradients { n_steps: *n_steps }
        }
        MethodChoice::Named(Method::Relevance { epsilon }) => LanguageMethod::Relevance { epsilon: *epsilon },
        MethodChoice::DirectLogit => LanguageMethod::DirectLogit,
        _ => return None,
    })
}

/// Reads a question: tokens, their parts, the rows of the target.
///
/// # Errors
/// Words that have no place among the tokens; a quantity that the method does not explain; more tokens than memory is
/// given for.
pub(super) fn read(
    language: &Arc<Language>,
    (prompt, target): (&Prompt, &Target),
    (method, quantity): (LanguageMethod, Option<QuantityName>),
    (max_passes, seed): (u64, u64),
) -> Result<How, ServiceError> {
    let quantity = match quantity {
        None => method.quantity(),
        Some(QuantityName::Logit) => Quantity::Logit,
        Some(QuantityName::Probability) => Quantity::Probability,
        Some(QuantityName::LogProbability) => Quantity::LogProbability,
    };
    if !method.explains(quantity) {
        let message = format!("{} follows sums: it explains the logit", method.name());
        return Err(ServiceError::invalid("quantity", "unsupported_quantity", message));
    }
    let Placed { mut ids, mut of_token } = places::find(language, prompt)?;
    let first = ids.len();
    let said = target.tokens();
    // The last token is what a row says, and is not read.
    ids.extend(&said[..said.len() - 1]);
    of_token.resize(ids.len(), None);
    // The row that says a token of the answer is the one before it.
    let terms = target.terms().into_iter().map(|term| Term { row: first + term.row - 1, ..term }).collect();
    let output = &language.model.shape.output;
    let never = Speaker::Language(language.clone()).never();
    let target = lyceum_explain::Target::new(terms, quantity, output).and_then(|t| t.among_others(never));
    let adapter = language.added.as_ref().map(|added| added.adapter.clone());
    let sections = Sections::new(language.model.clone(), adapter, [1, ids.len()])
        .map_err(|error| ServiceError::invalid("prompt", "context_length_exceeded", error.to_string()))?;
    let bytes = 4 * ids.len() * (sections.width() * (sections.n_layers() + 1) + sections.held_a_token());
    if bytes > limits::EXPLAIN_BYTES_MAX {
        let message = format!(
            "{} tokens take about {} MB on the way back through this model, more than {} MB: send fewer, or use leave_one_out",
            ids.len(),
            bytes >> 20,
            limits::EXPLAIN_BYTES_MAX >> 20,
        );
        return Err(ServiceError::invalid("prompt", "too_many_tokens", message));
    }
    let target = target.map_err(refused)?;
    let n_parts = prompt.n_parts();
    let question = LanguageQuestion { sections, ids, target, of_token, n_parts, method, max_passes, seed };
    Ok(How::Inside(Box::new(Inside { question })))
}

/// Makes the explanation; a caller that leaves stops it before its next layer.
pub(super) async fn explain(
    service: &Service,
    asked: &Asked,
    inside: &Inside,
    share: Share,
) -> Result<Explanation, ServiceError> {
    let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
    let cancel = CancelOnDrop(control.clone());
    let mut device = EngineDevice::new(service.engine().clone(), share);
    let question = inside.question.clone();
    let found = run(move || attribute(&question, &mut device, &control)).await?;
    drop(cancel);
    Ok(Explanation { terms: asked.target.terms(), ..found })
}
