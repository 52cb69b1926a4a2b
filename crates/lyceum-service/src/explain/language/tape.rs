//! Methods that look inside the model: gradients, relevance, and what each layer adds to a logit, one layer a turn on the
//! engine's thread ([`lyceum_explain::language`]).

use super::super::device::{CancelOnDrop, EngineDevice};
use super::super::{MethodChoice, QuantityName, refused, run};
use super::places::{self, Placed};
use super::target::{self, Target};
use super::text::Prompt;
use super::{Asked, How};
use crate::generation::Speaker;
use crate::language::Language;
use crate::meter::Share;
use crate::{Service, ServiceError};
use lyceum_explain::language::{Choice, LanguageMethod, LanguageQuestion, attribute, attribute_choice};
use lyceum_explain::{Explanation, Method, Quantity, Steps, Term};
use lyceum_models::causal_lm::Sections;
use lyceum_types::control::Control;
use lyceum_types::limits;
use std::sync::Arc;
use std::time::Instant;

/// What is asked, as the mathematics has it.
#[derive(Clone)]
pub(super) enum Inside {
    Answer(LanguageQuestion),
    /// One label of a question over others.
    Label(Choice),
}

impl Inside {
    /// The rows that go forward and back, where that is known before.
    pub(super) fn passes(&self) -> Option<usize> {
        let (question, n_texts) = match self {
            Inside::Answer(question) => (question, 1),
            Inside::Label(choice) => (choice.labels.first()?, choice.labels.len()),
        };
        let of_one = match question.method {
            LanguageMethod::GradientInput
            | LanguageMethod::Relevance { .. }
            | LanguageMethod::DirectLogit => 2,
            // What is served, both ends, and each node there and back.
            LanguageMethod::IntegratedGradients { n_steps: Steps::Fixed(n) } => {
                n.saturating_mul(2).saturating_add(3)
            }
            LanguageMethod::IntegratedGradients { n_steps: Steps::Refined } => return None,
        };
        Some(n_texts.saturating_mul(of_one))
    }
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
    let placed = places::find(language, prompt)?;
    let asked = (method, max_passes, seed);
    let question = |tokens: &[u32], terms: Vec<Term>, quantity| {
        let of = Said { tokens, terms, quantity };
        question(language, (&placed, prompt.n_parts()), of, asked)
    };
    let Target::Label { labels, chosen, not } = target else {
        let question = question(target.tokens(), target.terms(), quantity)?;
        within_memory(std::slice::from_ref(&question))?;
        return Ok(How::Inside(Box::new(Inside::Answer(question))));
    };
    // Over one other, the rest leaves the difference of log-probabilities.
    let probability = quantity == Quantity::Probability;
    let (asked, chosen, not): (Vec<&Vec<u32>>, _, _) = match not {
        Some(not) if !probability => (vec![&labels[*chosen], &labels[*not]], 0, Some(1)),
        not => (labels.iter().collect(), *chosen, *not),
    };
    let of = |label: &&Vec<u32>| question(label, target::terms_of(label), Quantity::LogProbability);
    let labels = asked.iter().map(of).collect::<Result<Vec<_>, ServiceError>>()?;
    within_memory(&labels)?;
    Ok(How::Inside(Box::new(Inside::Label(Choice { labels, chosen, not, probability }))))
}

/// What an answer says: its tokens up to the last that counts, and which of them count.
struct Said<'a> {
    tokens: &'a [u32],
    terms: Vec<Term>,
    quantity: Quantity,
}

fn question(
    language: &Arc<Language>,
    (placed, n_parts): (&Placed, usize),
    said: Said<'_>,
    (method, max_passes, seed): (LanguageMethod, u64, u64),
) -> Result<LanguageQuestion, ServiceError> {
    let (mut ids, mut of_token) = (placed.ids.clone(), placed.of_token.clone());
    let first = ids.len();
    // The last token is what a row says, and is not read.
    ids.extend(&said.tokens[..said.tokens.len() - 1]);
    of_token.resize(ids.len(), None);
    // The row that says a token of the answer is the one before it.
    let terms = said.terms.into_iter().map(|term| Term { row: first + term.row - 1, ..term }).collect();
    let output = &language.model.shape.output;
    let never = Speaker::Language(language.clone()).never();
    let target = lyceum_explain::Target::new(terms, said.quantity, output);
    let target = target.and_then(|target| target.among_others(never)).map_err(refused)?;
    let adapter = language.added.as_ref().map(|added| added.adapter.clone());
    let sections = Sections::new(language.model.clone(), adapter, [1, ids.len()])
        .map_err(|error| ServiceError::invalid("prompt", "context_length_exceeded", error.to_string()))?;
    Ok(LanguageQuestion { sections, ids, target, of_token, n_parts, method, max_passes, seed })
}

/// What is held between the layers must fit, of all labels at once.
fn within_memory(questions: &[LanguageQuestion]) -> Result<(), ServiceError> {
    let each = |question: &LanguageQuestion| {
        let sections = &question.sections;
        4 * question.ids.len() * (sections.width() * (sections.n_layers() + 1) + sections.held_a_token())
    };
    let bytes: usize = questions.iter().map(each).sum();
    if bytes <= limits::EXPLAIN_BYTES_MAX {
        return Ok(());
    }
    let n_tokens: usize = questions.iter().map(|question| question.ids.len()).sum();
    let message = format!(
        "{n_tokens} tokens take about {} MB on the way back through this model, more than {} MB: send fewer, or use \
         leave_one_out",
        bytes >> 20,
        limits::EXPLAIN_BYTES_MAX >> 20,
    );
    Err(ServiceError::invalid("prompt", "too_many_tokens", message))
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
    let inside = inside.clone();
    let work = move || match &inside {
        Inside::Answer(question) => attribute(question, &mut device, &control),
        Inside::Label(choice) => attribute_choice(choice, &mut device, &control),
    };
    let found = run(work).await?;
    drop(cancel);
    Ok(Explanation { terms: asked.target.terms(), ..found })
}
