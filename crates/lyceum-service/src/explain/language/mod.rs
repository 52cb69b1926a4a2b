//! Why an imported language model says what it says: parts of the prompt are left out, one at a time, and the answer
//! is scored again (leave one out).
//!
//! A part is left out of the words of the caller, before the chat template and the tokenizer, so that the model reads
//! what it would have read had the part never been written. Works on every stored form of the weights and with
//! adapters: it needs log-probabilities alone. Prompts that begin alike are read once, through the engine's kept
//! beginnings, as work of the class that waits for everybody else's.
//!
//! Reading order: [`explain`], [`text`] (words to parts and back), [`score`].

mod score;
mod text;

use super::{Answer, MethodChoice, Options, Parts, TargetChoice, TargetShown, What};
use crate::language::Language;
use crate::meter::Share;
use crate::{Service, ServiceError};
use lyceum_explain::{Attribution, Checks, Explanation, Method, MethodInfo, Of, Quantity, Term, Usage};
use lyceum_types::ids::Project;
use score::Scored;
use std::ops::Range;
use std::sync::Arc;
use text::{Left, Prompt, Said};

/// The name of the method on the wire.
pub const NAME: &str = "leave_one_out";

/// A question that has been read: nothing of it is wrong but what only the model can tell.
pub(super) struct Asked {
    language: Arc<Language>,
    prompt: Prompt,
    target: Target,
    shown: TargetShown,
    seed: u64,
}

/// What is scored: log-probabilities of tokens of the answer, or of one over another in its place.
enum Target {
    /// Those of the answer's tokens in this range.
    Said { tokens: Vec<u32>, range: Range<usize> },
    /// The last token of `tokens`, over `other` where it stands.
    Contrast { tokens: Vec<u32>, other: u32 },
}

/// Reads a question.
///
/// # Errors
/// What does not fit the model, the prompt or the answer, at its field.
pub(super) fn read(
    service: &Service,
    language: Arc<Language>,
    what: &What,
    options: &Options,
) -> Result<Asked, ServiceError> {
    supported(options)?;
    if language.model.language_config().is_none() {
        let message = format!("{} says no text: there is no answer to explain", language.version.id());
        return Err(ServiceError::invalid("model", "unsupported_model", message));
    }
    let most = usize::try_from(options.max_passes).unwrap_or(usize::MAX);
    let (prompt, completion) = match what {
        What::Continuation { prompt, completion } => (Prompt::text(&language, prompt)?, completion),
        What::Conversation { messages, completion } => {
            (Prompt::conversation(&language, messages)?, completion)
        }
        What::Input(_) => {
            let message =
                format!("{} generates text: send messages (or prompt) and completion", language.version.id());
            return Err(ServiceError::invalid("input", "unsupported_model", message));
        }
    };
    let said = Said::read(&language, completion)?;
    let (target, shown) = target(&language, &said, &options.target)?;
    // Each part once, all parts, none; a contrast is two texts.
    let each = if matches!(target, Target::Contrast { .. }) { 2 } else { 1 };
    let prompt = prompt.cut(&language, options.granularity, (most / each).saturating_sub(2))?;
    let n_passes = each * (prompt.n_parts() + 2);
    if n_passes > most {
        let message = format!(
            "{} parts take {n_passes} passes, max_passes is {most}: ask for larger parts (sentence, paragraph), or for more passes",
            prompt.n_parts()
        );
        return Err(ServiceError::invalid("max_passes", "too_many_passes", message));
    }
    let n_tokens = prompt.tokens(&language, Left::Nothing)?.len() + target.n_tokens();
    if let Some(context) = service.engine().positions_max(&language.model)
        && n_tokens > context
    {
        let message = format!("{n_tokens} tokens are more than the {context} that the model reads");
        return Err(ServiceError::invalid("prompt", "context_length_exceeded", message));
    }
    Ok(Asked { language, prompt, target, shown, seed: options.seed })
}

/// Scores the answer with everything, without each part, and without any.
pub(super) async fn explain(
    service: &Service,
    project: &Project,
    asked: &Asked,
    share: Share,
) -> Result<Answer, ServiceError> {
    let n = asked.prompt.n_parts();
    let lefts = std::iter::once(Left::Nothing).chain((0..n).map(Left::Part)).chain([Left::All]);
    let mut texts = Vec::new();
    for left in lefts {
        let prompt = asked.prompt.tokens(&asked.language, left)?;
        texts.extend(asked.target.texts(&prompt));
    }
    let n_passes = texts.len() as u64;
    let scores = score::all(service, project, &asked.language, texts, &share).await?;
    let each = scores.len() / (n + 2);
    let values: Vec<f64> = scores.chunks_exact(each).map(|scores| asked.target.value(scores)).collect();
    let (output, base) = (values[0], values[n + 1]);
    if !values.iter().all(|value| value.is_finite()) {
        let message = "a token of the answer has no probability where a part is left out".into();
        return Err(ServiceError::Uncomputable { message });
    }
    let attribution = |without: &f64| Attribution { value: output - without, stderr: None };
    let explanation = Explanation {
        method: NAME,
        exact: true,
        quantity: Quantity::LogProbability.name(),
        terms: asked.target.terms(),
        output,
        outputs: Vec::new(),
        base_value: Some(base),
        of: Of::Features,
        attributions: values[1..=n].iter().map(attribution).collect(),
        elements: None,
        checks: Checks::default(),
        baseline: "drop",
        seed: asked.seed,
        usage: Usage { forward_passes: n_passes, backward_passes: 0 },
    };
    Ok(Answer::Attributions {
        target: asked.shown.clone(),
        baseline: "drop",
        parts: asked.prompt.parts(),
        explanation: Box::new(explanation),
        counterfactual: None,
    })
}

impl Asked {
    pub(super) fn language(&self) -> &Arc<Language> {
        &self.language
    }
}

impl Target {
    /// Tokens behind the prompt in the longest text.
    fn n_tokens(&self) -> usize {
        match self {
            Target::Said { range, .. } => range.end,
            Target::Contrast { tokens, .. } => tokens.len(),
        }
    }

    /// The texts whose scores make one value.
    fn texts(&self, prompt: &[u32]) -> Vec<Scored> {
        match self {
            Target::Said { tokens, range } => {
                let text = [prompt, &tokens[..range.end]].concat();
                vec![Scored { text, from: prompt.len() + range.start }]
            }
            Target::Contrast { tokens, other } => {
                let place = tokens.len() - 1;
                [tokens[place], *other]
                    .map(|last| {
                        let text = [prompt, &tokens[..place], &[last]].concat();
                        Scored { text, from: prompt.len() + place }
                    })
                    .into()
            }
        }
    }

    fn value(&self, scores: &[f64]) -> f64 {
        match self {
            Target::Said { .. } => scores[0],
            Target::Contrast { .. } => scores[0] - scores[1],
        }
    }

    fn terms(&self) -> Vec<Term> {
        match self {
            Target::Said { tokens, range } => {
                range.clone().map(|row| Term { row, class: tokens[row] as usize, not: None }).collect()
            }
            Target::Contrast { tokens, other } => {
                let row = tokens.len() - 1;
                vec![Term { row, class: tokens[row] as usize, not: Some(*other as usize) }]
            }
        }
    }
}

/// The part of the answer that is explained.
fn target(
    language: &Language,
    said: &Said,
    choice: &TargetChoice,
) -> Result<(Target, TargetShown), ServiceError> {
    let wrong = |message: String| Err(ServiceError::invalid("target", "unsupported_target", message));
    let (part, not) = match choice {
        TargetChoice::Likeliest => (None, None),
        TargetChoice::Text { text, not } => (text.as_deref(), not.as_deref()),
        _ => return wrong("this model says text: send target.text".into()),
    };
    let span = match part {
        None => 0..said.text.chars().count(),
        Some("") => return wrong("target.text is empty".into()),
        Some(part) => match said.text.find(part) {
            Some(byte) => {
                let start = said.text[..byte].chars().count();
                start..start + part.chars().count()
            }
            None => return wrong(format!("{part:?} does not occur in the completion")),
        },
    };
    let text: String = said.text.chars().skip(span.start).take(span.len()).collect();
    let range = said.tokens_of(&span);
    let mut tokens: Vec<u32> = said.tokens.iter().map(|(id, _)| *id).collect();
    let shown = TargetShown::Text { text, span: span.clone(), not: not.map(str::to_owned) };
    let Some(not) = not else { return Ok((Target::Said { tokens, range }, shown)) };
    // The other text where the first stands, as the tokenizer would have written it there.
    let before: String = said.text.chars().take(span.start).collect();
    let other = Said::read(language, &format!("{before}{not}"))?;
    let pairs = tokens.iter().zip(&other.tokens);
    let parts = pairs.enumerate().find(|(_, (id, (other, _)))| *id != other);
    match parts.map(|(place, (_, (other, _)))| (place, *other)) {
        Some((place, other)) if range.contains(&place) => {
            tokens.truncate(place + 1);
            Ok((Target::Contrast { tokens, other }, shown))
        }
        Some(_) => wrong("target.not changes the tokens before target.text: send whole words".into()),
        None => wrong("target.not begins as the target does: they never part".into()),
    }
}

/// What cannot be done yet, or makes no sense here.
fn supported(options: &Options) -> Result<(), ServiceError> {
    if !matches!(options.method, MethodChoice::Auto | MethodChoice::Named(Method::Ablation)) {
        let message =
            format!("of language models that were imported only {NAME} is explained in this version");
        return Err(ServiceError::not_implemented("method", message));
    }
    if !matches!(options.baseline, super::BaselineChoice::Auto | super::BaselineChoice::Drop) {
        let message = "parts of a text are left out: send {\"type\": \"drop\"} or nothing";
        return Err(ServiceError::invalid("baseline", "unsupported_baseline", message));
    }
    if !matches!(options.quantity, None | Some(super::QuantityName::LogProbability)) {
        let message = "the log-probability of the answer is explained: send logprob or nothing";
        return Err(ServiceError::invalid("quantity", "unsupported_quantity", message));
    }
    if !options.evaluate.is_empty() {
        let message = "measures of faithfulness are not taken for imported models in this version";
        return Err(ServiceError::not_implemented("evaluate", message));
    }
    if options.counterfactual.is_some() {
        let message = "a text has no columns to change: leave counterfactual out";
        return Err(ServiceError::invalid("counterfactual", "unsupported_model", message));
    }
    Ok(())
}

/// Every method, and that the others do not explain imported models.
pub(super) fn methods() -> Vec<MethodInfo> {
    let passes = "1 a part of the prompt and 2; twice as many with target.not";
    let own = MethodInfo { name: NAME, exact: true, passes, refusal: None };
    let others = Method::all().into_iter().filter(|method| *method != Method::Ablation);
    let why = || Some("not of models that were imported in this version".to_owned());
    std::iter::once(own).chain(others.map(|method| method.info(why()))).collect()
}

impl From<text::Pieces> for Parts {
    fn from(pieces: text::Pieces) -> Parts {
        match pieces {
            text::Pieces::Text { text, spans } => Parts::Text { text, spans },
            text::Pieces::Messages { contents, spans } => Parts::Messages { contents, spans },
        }
    }
}
