//! Why an imported language model says what it says.
//!
//! Methods that score ([`scored`]) leave parts of the prompt out and ask for the answer's log-probability again: one part at a
//! time (leave one out), or random subsets (ContextCite). A part is left out of the words of the caller, before the chat
//! template and the tokenizer, so that the model reads what it would have read had the part never been written. They work on
//! every stored form of the weights and with adapters. Prompts that begin alike are read once, through the engine's kept
//! beginnings, as work of the class that waits for everybody else's.
//!
//! Methods that look inside ([`tape`]) follow gradients or relevance back to the tokens' embeddings, or see what each layer
//! adds to a logit.
//!
//! Reading order: [`read`], [`explain`], [`text`] (words to parts and back), [`target`], [`scored`], [`score`], [`tape`],
//! [`places`].

mod places;
mod question;
pub(super) mod rows;
mod said;
mod score;
mod scored;
mod tape;
mod target;
mod text;

use super::{
    Answer, BaselineChoice, MethodChoice, Options, Parts, QuantityName, SaidPart, TargetShown, What,
};
use crate::language::Language;
use crate::meter::Share;
use crate::{Service, ServiceError};
use lyceum_explain::language::LanguageMethod;
use lyceum_explain::{Method, MethodInfo, contextcite};
use lyceum_types::ids::Project;
use lyceum_types::limits;
use said::Said;
use std::sync::Arc;
use tape::Inside;
use target::Target;
use text::{Left, Prompt};

pub(crate) use question::{Question, read as read_question};
pub use said::Saying;
pub use text::Frame;

/// The names on the wire.
pub const LEAVE_ONE_OUT: &str = "leave_one_out";
pub const CONTEXTCITE: &str = "contextcite";
pub const DIRECT_LOGIT: &str = "direct_logit_attribution";
/// Of the places for explanations, those that one takes which looks inside: its numbers stand in memory.
const PLACES_INSIDE: u32 = limits::EXPLANATIONS_MAX as u32 / 2;

/// A question that has been read: nothing of it is wrong but what only the model can tell.
pub(crate) struct Asked {
    language: Arc<Language>,
    prompt: Prompt,
    target: Target,
    shown: TargetShown,
    how: How,
    seed: u64,
    /// Of the whole prompt and the answer.
    n_tokens: u64,
}

/// The method, with what it needs.
enum How {
    LeaveOneOut,
    ContextCite { n_masks: usize },
    Inside(Box<Inside>),
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
    let (prompt, said) = asked_of(&language, what, options)?;
    let (target, shown) = target::choose(&language, &said, &options.target)?;
    planned(service, language, (prompt, target, shown), options)
}

/// What the model read, and what it said.
fn asked_of(language: &Language, what: &What, options: &Options) -> Result<(Prompt, Said), ServiceError> {
    match what {
        What::Continuation { prompt, completion } => {
            if options.part.is_some() {
                let message = "a text that goes on has no parts: leave target.part out, or send messages";
                return Err(ServiceError::invalid("target", "unsupported_target", message));
            }
            Ok((Prompt::text(language, prompt)?, Said::text(language, completion)?))
        }
        What::Conversation { messages, frame, saying } => {
            let prompt = Prompt::conversation(language, messages, frame)?;
            let said = match (saying, options.part) {
                (Saying::Text(text), None) => Said::text(language, text)?,
                (saying, part) => {
                    let read = prompt.rendered(language, |_, text| text.to_owned())?;
                    Said::part(language, saying, (frame, &read), part.unwrap_or(SaidPart::Content))?
                }
            };
            Ok((prompt, said))
        }
        What::Input(_) => {
            let message =
                format!("{} generates text: send messages (or prompt) and completion", language.version.id());
            Err(ServiceError::invalid("input", "unsupported_model", message))
        }
    }
}

/// The prompt in parts and the method with its settings, within what is allowed.
fn planned(
    service: &Service,
    language: Arc<Language>,
    (prompt, target, shown): (Prompt, Target, TargetShown),
    options: &Options,
) -> Result<Asked, ServiceError> {
    let most = usize::try_from(options.max_passes).unwrap_or(usize::MAX) / target.n_texts();
    let prompt = prompt.with_sources(options.sources.as_deref())?;
    let prompt = prompt.cut(&language, options.granularity, most.saturating_sub(2))?;
    let how = match tape::method(&options.method) {
        Some(method) => {
            let (asked, bounds) = ((method, options.quantity), (options.max_passes, options.seed));
            tape::read(&language, (&prompt, &target), asked, bounds)?
        }
        None => how(options, &prompt, (most, target.n_texts()))?,
    };
    let n_tokens = prompt.tokens(&language, Left::Nothing)?.len() + target.n_tokens();
    if let Some(context) = service.engine().positions_max(&language.model)
        && n_tokens > context
    {
        let message = format!("{n_tokens} tokens are more than the {context} that the model reads");
        return Err(ServiceError::invalid("prompt", "context_length_exceeded", message));
    }
    let n_tokens = n_tokens as u64;
    Ok(Asked { language, prompt, target, shown, how, seed: options.seed, n_tokens })
}

/// Makes the explanation.
pub(crate) async fn explain(
    service: &Service,
    project: &Project,
    asked: &Asked,
    share: Share,
) -> Result<Answer, ServiceError> {
    let explanation = match &asked.how {
        How::LeaveOneOut => scored::leave_one_out(service, project, asked, share).await?,
        How::ContextCite { n_masks } => {
            scored::contextcite(service, project, asked, (*n_masks, share)).await?
        }
        How::Inside(inside) => tape::explain(service, asked, inside, share).await?,
    };
    Ok(Answer::Attributions {
        target: asked.shown.clone(),
        baseline: explanation.baseline,
        parts: asked.prompt.parts(),
        explanation: Box::new(explanation),
        counterfactual: None,
    })
}

impl Asked {
    pub(super) fn language(&self) -> &Arc<Language> {
        &self.language
    }

    /// The most rows that go forward and back: what is put aside for it.
    pub(crate) fn passes_most(&self, options: &Options) -> u64 {
        let (n_parts, n_texts) = (self.prompt.n_parts(), self.target.n_texts());
        let n = match &self.how {
            How::LeaveOneOut => (n_parts + 2) * n_texts,
            How::ContextCite { n_masks } => (n_masks + scored::n_beside(n_parts)) * n_texts,
            How::Inside(inside) => match inside.passes() {
                Some(n) => n,
                None => return super::passes_most(options),
            },
        };
        u64::try_from(n).unwrap_or(u64::MAX)
    }

    /// Tokens of the prompt and the answer: no pass reads more of them.
    pub(super) fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// Places that it takes among the explanations under way.
    pub(crate) fn places(&self) -> u32 {
        match self.how {
            How::LeaveOneOut | How::ContextCite { .. } => 1,
            How::Inside(_) => PLACES_INSIDE,
        }
    }
}

/// The method within its budget: `most` values of the target, each of `each` texts.
fn how(options: &Options, prompt: &Prompt, (most, each): (usize, usize)) -> Result<How, ServiceError> {
    let n_parts = prompt.n_parts();
    let too_many = |what: String, n: usize, fix: &str| {
        let (n, most) = (n * each, options.max_passes);
        let message = format!("{what} need {n} passes, max_passes is {most}: {fix}");
        Err(ServiceError::invalid("max_passes", "too_many_passes", message))
    };
    let MethodChoice::ContextCite { n_samples } = options.method else {
        // Each part once, all parts, none.
        if n_parts + 2 > most {
            let fix = "ask for larger parts (sentence, paragraph), or for more passes";
            let what =
                if n_parts == 1 { "one part, all and none".into() } else { format!("{n_parts} parts") };
            return too_many(what, n_parts + 2, fix);
        }
        return Ok(How::LeaveOneOut);
    };
    let beside = scored::n_beside(n_parts);
    if let Some(n) = n_samples.filter(|&n| n < contextcite::ABLATIONS_MIN) {
        let message = format!("{n} masks tell too little: at least {}", contextcite::ABLATIONS_MIN);
        return Err(ServiceError::invalid("n_samples", "invalid_value", message));
    }
    let n_masks = n_samples.unwrap_or(contextcite::ABLATIONS.min(most.saturating_sub(beside)));
    if n_masks < contextcite::ABLATIONS_MIN || n_masks + beside > most {
        let n_masks = n_masks.max(contextcite::ABLATIONS_MIN);
        return too_many(format!("{n_masks} masks"), n_masks + beside, "ask for fewer masks, or more passes");
    }
    Ok(How::ContextCite { n_masks })
}

/// What cannot be done yet, or makes no sense here.
fn supported(options: &Options) -> Result<(), ServiceError> {
    let cites = matches!(options.method, MethodChoice::ContextCite { .. });
    let leaves_out = matches!(options.method, MethodChoice::Auto | MethodChoice::Named(Method::Ablation));
    let inside = tape::method(&options.method);
    if !cites && !leaves_out && inside.is_none() {
        let message = "language models that were imported are not explained by this method in this version: \
            see GET /v1/models/{model}/explanation_methods";
        return Err(ServiceError::not_implemented("method", message));
    }
    let begins = inside.is_some_and(LanguageMethod::has_baseline);
    let refusal = match (&options.baseline, inside) {
        (BaselineChoice::Auto, _) | (BaselineChoice::Drop, None) => None,
        (BaselineChoice::Zeros, Some(_)) if begins => None,
        (_, None) => Some("parts of a text are left out: send {\"type\": \"drop\"} or nothing"),
        (_, Some(_)) if begins => {
            Some("gradients begin where parts have no embedding: send {\"type\": \"zeros\"} or nothing")
        }
        (_, Some(_)) => Some("this method has no baseline: leave it out"),
    };
    if let Some(message) = refusal {
        return Err(ServiceError::invalid("baseline", "unsupported_baseline", message));
    }
    let logprob = options.quantity == Some(QuantityName::LogProbability);
    if inside.is_none() && options.quantity.is_some() && (cites || !logprob) {
        let message = match cites {
            true => "the log-odds of the answer are fitted: leave quantity out",
            false => "the log-probability of the answer is explained: send logprob or nothing",
        };
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

/// What integrated gradients take of a language model, whose path is cut where it turns (`lyceum_explain::language`).
const PATH_PASSES: &str = "n_steps and 3, n_steps back; else 40, and 13 more for each piece of the path that is halved until it adds up";

/// Every method, and that the others do not explain imported models.
pub(super) fn methods(service: &Service, language: &Language) -> Vec<MethodInfo> {
    let passes = "1 a part of the prompt and 2; twice as many with target.not";
    let mut all = vec![
        MethodInfo { name: LEAVE_ONE_OUT, exact: true, passes, refusal: None },
        cite_info(None),
        logit_info(None),
        rows::info(rows::refusal(service, language)),
    ];
    for method in Method::all().into_iter().filter(|method| *method != Method::Ablation) {
        let works = tape::method(&MethodChoice::Named(method.clone())).is_some();
        let why = (!works).then(|| "not of models that were imported in this version".to_owned());
        let info = method.info(why);
        let passes = match method {
            Method::IntegratedGradients { .. } => PATH_PASSES,
            _ => info.passes,
        };
        all.push(MethodInfo { passes, ..info });
    }
    if language.model.language_config().is_none() {
        let why = format!("{} makes vectors or numbers of texts and says none", language.version.id());
        all.iter_mut().for_each(|method| method.refusal = Some(why.clone()));
    }
    all
}

/// Direct logit attribution in a list of methods.
pub(super) fn logit_info(refusal: Option<String>) -> MethodInfo {
    MethodInfo { name: DIRECT_LOGIT, exact: true, passes: "1, and back through the head", refusal }
}

/// ContextCite in a list of methods.
pub(super) fn cite_info(refusal: Option<String>) -> MethodInfo {
    let passes = "n_samples (64) masks and at most 4; twice as many with target.not";
    MethodInfo { name: CONTEXTCITE, exact: false, passes, refusal }
}

impl From<text::Pieces> for Parts {
    fn from(pieces: text::Pieces) -> Parts {
        match pieces {
            text::Pieces::Text { text, spans } => Parts::Text { text, spans },
            text::Pieces::Messages { contents, spans } => Parts::Messages { contents, spans },
        }
    }
}
