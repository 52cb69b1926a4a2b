//! Why a model answered what it did: an input in the caller's words to attributions in the caller's words.
//!
//! The mathematics asks for one small pass at a time ([`device`]); each runs on the engine's thread between
//! other clients' work, and none starts once the caller is gone. What is explained is the version that serves.
//!
//! Reading order: [`create`], [`parts`] (words to features and back), [`options`] (what may be left out).

mod attention;
mod counterfactual;
mod device;
mod heatmap;
mod influence;
mod kept;
mod language;
mod options;
mod parts;
mod target;

pub use attention::{AttentionShown, Map};
pub use counterfactual::{Change, Changed, Counterfactual, Wish};
pub use heatmap::{colour, heatmap_png, relative};
pub use influence::{InfluenceShown, NAME as TRACIN, RowShown};
pub use kept::Kept;
pub(crate) use language::{Asked as Read, Question as LanguageQuestion, read_question};
pub use language::{CONTEXTCITE, DIRECT_LOGIT, Frame, LEAVE_ONE_OUT, Saying};
pub use lyceum_explain::contextcite::Fit;
pub use lyceum_explain::{
    Attribution, Check, Checks, Explanation, Method, MethodInfo, Of, RandomControl, Steps, Usage,
};
pub use options::{BaselineChoice, Granularity, MethodChoice, Options, QuantityName, SaidPart, TargetChoice};
pub use parts::Parts;
pub use target::TargetShown;

use crate::guard::attacks::{self, Said};
use crate::guard::texts;
use crate::meter::{Counts, Share, metered};
use crate::rates;
use crate::receipts::{self, Place};
use crate::resident::Resident;
use crate::{Content, Language, Payer, Service, ServiceError};
pub(crate) use device::CancelOnDrop;
use device::EngineDevice;
use lyceum_explain::{ExplainError, Request as Question};
use lyceum_store::models::Version;
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::limits;
use lyceum_types::tenancy::Retention;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub struct Request {
    pub model: ModelRef,
    pub what: What,
    pub options: Options,
}

/// What is explained.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The answer of a classifier or regression to this input.
    Input(Content),
    /// Why a language model continues the prompt so.
    Continuation { prompt: String, completion: String },
    /// Why it answers these messages (in OpenAI's shape) so, with what its template was told beside them.
    Conversation { messages: Vec<serde_json::Value>, frame: Frame, saying: Saying },
}

/// An explanation with the words that it is about.
#[derive(Clone, Debug)]
pub struct Explained {
    pub id: String,
    pub created_at: i64,
    /// `name@3`
    pub model: String,
    pub sha256: String,
    pub answer: Answer,
}

#[derive(Clone, Debug)]
pub enum Answer {
    Attributions {
        target: TargetShown,
        baseline: &'static str,
        parts: Parts,
        explanation: Box<Explanation>,
        counterfactual: Option<Counterfactual>,
    },
    /// Weights, which are no explanation.
    Attention(AttentionShown),
    /// Rows of the training file.
    Influence(InfluenceShown),
}

/// Why a masked text is not explained.
pub(crate) const COUNTS: &str = "an explanation counts its characters, and the model would read others";

/// Refuses what the project's guard would change before a model reads it.
async fn guard(service: &Service, project: &Project, what: &What) -> Result<(), ServiceError> {
    match what {
        What::Input(content) => texts::fixed_content(service, project, ("input", content), COUNTS).await,
        What::Continuation { prompt, completion } => {
            let all = [("prompt", prompt), ("completion", completion)];
            let all = all.map(|(param, text)| (param.to_owned(), text.clone()));
            texts::fixed(service, project, all, COUNTS).await
        }
        What::Conversation { messages, frame, saying } => {
            let mut all = Vec::new();
            // Tokens are a model's own, which the guard lets pass as they are where they are explained.
            if let Saying::Text(text) = saying {
                all.push(("completion".to_owned(), text.clone()));
            }
            for tool in &frame.tools {
                texts::strings(tool, &mut |text| all.push(("tools".to_owned(), text.to_owned())));
            }
            for value in frame.variables.values() {
                let param = "chat_template_kwargs";
                texts::strings(value, &mut |text| all.push((param.to_owned(), text.to_owned())));
            }
            texts::conversation("messages", &mut messages.clone(), &mut |param, _, text| {
                all.push((param.to_owned(), std::mem::take(text)));
            });
            texts::fixed(service, project, all, COUNTS).await
        }
    }
}

/// Refuses what the project's guard takes for an attack, of a request that is an explanation and nothing else: the words of
/// an answer that is explained beside it were looked through for the answer.
///
/// # Errors
/// An attack; a guard that cannot tell.
pub async fn refuse_attacks(service: &Service, payer: &Payer, request: &Request) -> Result<(), ServiceError> {
    let said = || match &request.what {
        What::Input(content) => attacks::of_content("input", content),
        What::Continuation { prompt, .. } => vec![Said::by_user("prompt", prompt)],
        What::Conversation { messages, .. } => attacks::of_messages(messages),
    };
    attacks::refuse(service, payer, said).await
}

/// Refuses a prompt whose continuation could not be explained, before there is one.
pub async fn require_readable(
    service: &Service,
    project: &Project,
    (model, prompt): (&ModelRef, &str),
    options: &Options,
) -> Result<(), ServiceError> {
    texts::fixed(service, project, [("prompt".to_owned(), prompt.to_owned())], COUNTS).await?;
    let version = service.resolve(project, model).await?;
    if crate::language::is_imported(&version) {
        let language = service.language_of(version).await?;
        // Whatever is said, it is a text, and the target is a part of it.
        let what = What::Continuation { prompt: prompt.to_owned(), completion: "a".into() };
        let options = Options { target: TargetChoice::Likeliest, ..options.clone() };
        language::read(service, language, &what, &options)?;
    }
    Ok(())
}

/// Explains one answer and keeps it for [`find`].
pub async fn create(service: &Service, payer: &Payer, request: Request) -> Result<Explained, ServiceError> {
    let project = &payer.project;
    guard(service, project, &request.what).await?;
    let version = service.resolve(project, &request.model).await?;
    if crate::language::is_imported(&version) {
        let language = service.language_of(version).await?;
        return of_language(service, payer, language, (&request.what, &request.options)).await;
    }
    let resident = service.resident_of(version).await?;
    rates::admit_passes()?;
    let most = Counts { passes: passes_most(&request.options), ..Counts::default() };
    let work = async |share: Share| create_for(service, project, &resident, &request, share).await;
    let payer = &payer.explaining();
    let explained = metered(service.ledger(), payer, &resident.version, most, work).await?;
    keep(service, project, &explained).await?;
    Ok(explained)
}

/// [`create`] for a model that was imported.
pub(crate) async fn of_language(
    service: &Service,
    payer: &Payer,
    language: Arc<Language>,
    (what, options): (&What, &Options),
) -> Result<Explained, ServiceError> {
    let project = &payer.project;
    if options.method == MethodChoice::Tracin {
        return of_lines(service, payer, language, (what, options)).await;
    }
    let asked = language::read(service, language, what, options)?;
    let version = &asked.language().version;
    rates::admit_passes()?;
    let most = Counts { passes: asked.passes_most(options), ..Counts::default() };
    let work = async |share: Share| of_asked(service, project, &asked, share).await;
    metered(service.ledger(), &payer.explaining(), version, most, work).await
}

/// [`of_language`] by the lines that a fine-tuning learnt.
async fn of_lines(
    service: &Service,
    payer: &Payer,
    language: Arc<Language>,
    (what, options): (&What, &Options),
) -> Result<Explained, ServiceError> {
    let project = &payer.project;
    let asked = language::rows::read(service, language, what, options)?;
    let version = &asked.language().version;
    rates::admit_passes()?;
    language::rows::have(service, &asked).await?;
    let most = Counts { passes: passes_most(options), ..Counts::default() };
    let work = async |share: Share| {
        let place = service.explaining.try_acquire();
        let _place = place.map_err(|_| ServiceError::Overloaded { retry_after: Duration::from_secs(1) })?;
        language::rows::follow(service, project, &asked, share).await
    };
    let payer = &payer.explaining();
    let found = metered(service.ledger(), payer, version, most, work).await?;
    let explained = explained(version, Answer::Influence(found));
    keep(service, project, &explained).await?;
    Ok(explained)
}

/// Explains what was read, and keeps it for [`find`].
pub(crate) async fn of_asked(
    service: &Service,
    project: &Project,
    asked: &language::Asked,
    share: Share,
) -> Result<Explained, ServiceError> {
    let place = service.explaining.try_acquire_many(asked.places());
    let _place = place.map_err(|_| ServiceError::Overloaded { retry_after: Duration::from_secs(1) })?;
    share.each_pass_reads(asked.n_tokens());
    let answer = language::explain(service, project, asked, share).await?;
    let explained = explained(&asked.language().version, answer);
    keep(service, project, &explained).await?;
    Ok(explained)
}

/// In memory, until newer ones take its place; not where nothing is to be kept.
async fn keep(service: &Service, project: &Project, explained: &Explained) -> Result<(), ServiceError> {
    if service.retention(project).await? == Retention::Kept {
        service.explanations.keep(project, explained.clone());
        receipts::kept("explanation", &explained.id, Place::Memory, None);
    }
    Ok(())
}

/// The most rows that go forward and back.
pub(crate) fn passes_most(options: &Options) -> u64 {
    // And one that asks again: with a counterfactual's row, or for the label whose loss is followed.
    options.max_passes.saturating_mul(2).saturating_add(1)
}

async fn create_for(
    service: &Service,
    project: &Project,
    resident: &Arc<Resident>,
    request: &Request,
    share: Share,
) -> Result<Explained, ServiceError> {
    match request.options.method {
        MethodChoice::Tracin => {
            let place = service.explaining.try_acquire();
            let _place =
                place.map_err(|_| ServiceError::Overloaded { retry_after: Duration::from_secs(1) })?;
            let place = (service, project);
            let found = influence::follow(place, resident, &request.what, &request.options, share);
            Ok(explained(&resident.version, Answer::Influence(found.await?)))
        }
        _ => explain(service, resident, &request.what, &request.options, ("input", share)).await,
    }
}

/// Looks at a request for the background as [`create`] would, without a pass: words, target, method and baseline fit
/// the model. Returns the version that will be explained.
///
/// # Errors
/// What [`create`] would refuse before its first pass.
pub async fn check(service: &Service, project: &Project, request: &Request) -> Result<Version, ServiceError> {
    guard(service, project, &request.what).await?;
    let version = service.resolve(project, &request.model).await?;
    if crate::language::is_imported(&version) {
        let language = service.language_of(version.clone()).await?;
        if request.options.method == MethodChoice::Tracin {
            language::rows::read(service, language, &request.what, &request.options)?;
        } else {
            language::read(service, language, &request.what, &request.options)?;
        }
        return Ok(version);
    }
    let resident = service.resident_of(version.clone()).await?;
    refuse_parts(&request.options)?;
    let read = parts::read(&resident, &request.what, &request.options, "input")?;
    let (target, _) = target::choose(&resident, &read, &request.options)?;
    let subject = lyceum_explain::Subject::new(resident.model.clone(), read.input, target, read.groups)
        .map_err(refused)?;
    if matches!(request.options.method, MethodChoice::Attention { .. }) {
        attention::refuse_settings(&request.options)?;
    } else {
        let method = options::method(&resident, &subject, &request.options.method)?;
        method.check_model(&resident.model).map_err(refused)?;
        options::baseline(&resident, &method, &request.options.baseline)?;
    }
    Ok(version)
}

/// The answer to an input with its explanation, from the same passes; kept for [`find`].
pub(crate) async fn answer_and_explain(
    service: &Service,
    project: &Project,
    resident: &Arc<Resident>,
    (content, options): (&Content, &Options),
    (path, share): (&str, Share),
) -> Result<(Vec<f32>, Explained), ServiceError> {
    let what = What::Input(content.clone());
    let explained = explain(service, resident, &what, options, (path, share)).await?;
    let outputs = match &explained.answer {
        Answer::Attributions { explanation, .. } => explanation.outputs.clone(),
        Answer::Attention(_) | Answer::Influence(_) => {
            let message = "attention is no explanation: ask for it at POST /v1/explanations";
            return Err(ServiceError::invalid("explain.method", "unsupported_method", message));
        }
    };
    keep(service, project, &explained).await?;
    Ok((outputs, explained))
}

/// As [`create`] for a model that is at hand; errors of the input name the place `path`.
pub(crate) async fn explain(
    service: &Service,
    resident: &Arc<Resident>,
    what: &What,
    options: &Options,
    (path, share): (&str, Share),
) -> Result<Explained, ServiceError> {
    if options.method == MethodChoice::Tracin {
        let message = "row influence is asked for alone, at POST /v1/explanations";
        return Err(ServiceError::invalid("method", "unsupported_method", message));
    }
    refuse_parts(options)?;
    if matches!(options.method, MethodChoice::Attention { .. }) {
        attention::refuse_settings(options)?;
    }
    let place = service.explaining.try_acquire();
    let _place = place.map_err(|_| ServiceError::Overloaded { retry_after: Duration::from_secs(1) })?;
    let read = parts::read(resident, what, options, path)?;
    share.each_pass_reads(read.tokens.1.len() as u64);
    let (target, shown) = target::choose(resident, &read, options)?;
    let subject = lyceum_explain::Subject::new(resident.model.clone(), read.input, target, read.groups)
        .map_err(refused)?;
    let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
    let cancel = CancelOnDrop(control.clone());
    let mut device = EngineDevice::new(service.engine().clone(), share.clone());
    let answer = match &options.method {
        MethodChoice::Attention { rollout } => {
            let (rollout, spans) = (*rollout, read.tokens);
            let maps = run(move || lyceum_explain::attention::maps(&subject, &mut device, &control)).await?;
            Answer::Attention(attention::shown(maps, rollout, spans)?)
        }
        _ => {
            let method = options::method(resident, &subject, &options.method)?;
            let (baseline, name) = options::baseline(resident, &method, &options.baseline)?;
            let question = Question {
                subject,
                method,
                baseline,
                evaluate: options.evaluate.clone(),
                max_passes: options.max_passes,
                seed: options.seed,
            };
            let found = run(move || lyceum_explain::attribute(&question, &mut device, &control));
            let explanation = Box::new(found.await?);
            let target = shown.resolved(&explanation.terms, &resident.preparation.output);
            let counterfactual = match (&options.counterfactual, what) {
                (None, _) => None,
                (Some(wish), What::Input(content)) => {
                    let left = options.max_passes.saturating_sub(explanation.usage.forward_passes);
                    let outputs = &explanation.outputs;
                    Some(
                        counterfactual::search(service, resident, content, outputs, wish, (left, share))
                            .await?,
                    )
                }
                (Some(_), What::Continuation { .. } | What::Conversation { .. }) => {
                    let message = "a continuation has no columns to change: leave counterfactual out";
                    return Err(ServiceError::invalid("counterfactual", "unsupported_model", message));
                }
            };
            Answer::Attributions { target, baseline: name, parts: read.parts, explanation, counterfactual }
        }
    };
    drop(cancel);
    Ok(explained(&resident.version, answer))
}

/// Models that were trained here neither think aloud nor call.
fn refuse_parts(options: &Options) -> Result<(), ServiceError> {
    match options.part {
        None => Ok(()),
        Some(_) => {
            let message = "what this model says has no parts: leave target.part out";
            Err(ServiceError::invalid("target", "unsupported_target", message))
        }
    }
}

fn explained(version: &Version, answer: Answer) -> Explained {
    Explained {
        id: format!("expl_{}", uuid::Uuid::now_v7().simple()),
        created_at: Timestamp::now().seconds(),
        model: version.id(),
        sha256: version.sha256.clone(),
        answer,
    }
}

/// Aggregation is small, but waits for passes: it has a thread of its own.
async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExplainError> + Send + 'static,
) -> Result<T, ServiceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::internal("an explanation failed", error))?.map_err(refused)
}

/// An explanation by its id, as long as it is kept: a process keeps its newest
/// [`EXPLANATIONS_KEPT_MAX`](limits::EXPLANATIONS_KEPT_MAX).
pub fn find(service: &Service, project: &Project, id: &str) -> Result<Explained, ServiceError> {
    let missing = || ServiceError::NotFound { what: "explanation", id: id.to_owned() };
    service.explanations.find(project, id).ok_or_else(missing)
}

/// Every method with what it costs, and why it cannot explain this model where it cannot.
pub async fn methods(
    service: &Service,
    project: &Project,
    model: &ModelRef,
) -> Result<(Version, Vec<MethodInfo>), ServiceError> {
    let version = service.resolve(project, model).await?;
    if crate::language::is_imported(&version) {
        let language = service.language_of(version.clone()).await?;
        return Ok((version, language::methods(service, &language)));
    }
    let resident = service.resident_of(version.clone()).await?;
    let infos = Method::all().into_iter().map(|method| {
        let refusal = method.check_model(&resident.model).err().map(|error| error.to_string());
        method.info(refusal)
    });
    let mut infos: Vec<MethodInfo> = infos.collect();
    infos.push(language::rows::info(influence::refusal(service, &resident)));
    infos.push(language::cite_info(Some(options::CITES.into())));
    infos.push(language::logit_info(Some(options::LOGITS.into())));
    Ok((version, infos))
}

/// What the mathematics says instead of an explanation.
fn refused(error: ExplainError) -> ServiceError {
    let message = error.to_string();
    match error {
        ExplainError::Unsupported { .. } => ServiceError::invalid("method", "unsupported_method", message),
        ExplainError::Request { param, .. } => ServiceError::invalid(param, "invalid_value", message),
        ExplainError::TooManyPasses { .. } => ServiceError::invalid("max_passes", "too_many_passes", message),
        ExplainError::Stopped(_) => ServiceError::DeadlinePassed,
        ExplainError::Device(message) => ServiceError::NotReady { message },
        ExplainError::NotFinite { .. } => ServiceError::Uncomputable { message },
        ExplainError::Nn(lyceum_nn::NnError::NoRelevance { .. }) => {
            ServiceError::NotImplemented { param: "method".into(), message }
        }
        ExplainError::Nn(error) => ServiceError::internal("an explanation failed", error),
    }
}
