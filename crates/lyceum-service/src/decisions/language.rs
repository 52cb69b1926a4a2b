//! Questions that a language model answers from its probabilities; nothing is drawn.
//!
//! ```text
//! P   = the model's chat template over one user message: the text, the instructions, the labels
//! l   = a label; t_1 … t_n its tokens where they follow P
//! L_l = Σ_i ln p(t_i | P, t_1 … t_{i-1})
//! p_l = e^{L_l} / Σ_k e^{L_k}                    over the question's labels, in f64
//! ```
//!
//! So `p_l` is how likely the model says `l`, should it say one of the labels. Where the tokens of one label begin
//! another's (`1` and `10` of a model that reads digits), every label of the question is followed by the token that
//! ends an answer, which makes them exclude each other.
//!
//! Each label is a sequence of its own in the engine whose tokens are forced; what is read are the model's
//! log-probabilities, which no mask changes. Sequences of a request share what they begin with: the text before all.

mod prompt;
mod score;

pub(super) use prompt::user_message;

use super::{Answer, Decision, Kind, Question, Request};
use crate::drift::language::{Answer as Counted, Watcher};
use crate::explain::{self, Explained};
use crate::generation::Speaker;
use crate::guard::texts;
use crate::meter::{Counts, Here};
use crate::{Content, Language, Payer, Service, ServiceError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::limits;
use prompt::{Asked, Reader, labels, tail};
use score::{Scored, Whose, score, softmax};
use std::sync::Arc;

pub(super) async fn create(
    service: &Service,
    payer: &Payer,
    request: Request,
) -> Result<Decision, ServiceError> {
    let language = of_texts(service, &payer.project, &request.model).await;
    by(service, payer, language, request).await
}

/// Answers by this model; what is wrong with the request comes before what is wrong with the model.
pub(super) async fn by(
    service: &Service,
    payer: &Payer,
    language: Result<Arc<Language>, ServiceError>,
    request: Request,
) -> Result<Decision, ServiceError> {
    refuse_what_needs_a_classifier(&request)?;
    let Content::Text(text) = request.input else {
        let message = "a language model reads texts: send a text";
        return Err(ServiceError::unsupported("input", "unsupported_input", message));
    };
    refuse_too_many_labels(&request.questions)?;
    let language = language?;
    let context = service.engine().positions_max(&language.model).unwrap_or(usize::MAX);
    let mut questions = request.questions;
    guard(service, &payer.project, &mut questions).await?;
    let now = Timestamp::now().seconds();
    let (questions, asked, text) = read(language.clone(), context, (text, now), questions).await?;
    let why = match &request.explain {
        None => None,
        Some(options) => {
            let which = which(request.explained, questions.len())?;
            let why = Why { text: &text, number: request.explained, now, options };
            // What cannot be explained whatever the answer is, is refused before there is one.
            let read = why.read(service, &language, (&questions[which], &asked[which]), 0)?;
            Some((why, which, read.passes_most(options)))
        }
    };
    let mut decision = Decision {
        model: language.version.id(),
        answers: Vec::with_capacity(questions.len()),
        input_tokens: 0,
        cached_tokens: 0,
        explanation: None,
        promised: crate::robustness::Promised::default(),
        cascade: None,
    };
    let passes = why.as_ref().map_or(0, |(_, _, passes)| *passes);
    if why.is_some() {
        crate::rates::admit_passes()?;
    }
    let watcher = Watcher::of(service, payer, &language.version).await?;
    let most = Counts { passes, ..most(&asked) };
    let here = Here(Some(service.ledger().open(payer, &language.version, most).await?));
    let share = here.share();
    let whose = Whose { language: &language, tenant: payer.tenant() };
    let work = async {
        let likely = score(service, &whose, &asked, &share).await?;
        let Some((why, which, _)) = &why else { return Ok((likely, None)) };
        let before: usize = asked[..*which].iter().map(|asked| asked.labels.len()).sum();
        let own = &likely[before..before + asked[*which].labels.len()];
        let asked = (&questions[*which], &asked[*which]);
        let read = why.read(service, &language, asked, answered(&questions[*which].kind, own))?;
        let explained = explain::of_asked(service, &payer.project, &read, share.clone()).await?;
        Ok((likely, Some(explained)))
    };
    let done: Result<(Vec<Scored>, Option<Explained>), ServiceError> = work.await;
    let (likely, explanation) = match done {
        Ok(done) => done,
        Err(error) => {
            here.fail(&error);
            return Err(error);
        }
    };
    decision.explanation = explanation;
    let mut likely = likely.into_iter();
    for (question, asked) in questions.into_iter().zip(&asked) {
        let scored: Vec<Scored> = likely.by_ref().take(asked.labels.len()).collect();
        let logs: Vec<f64> = scored.iter().map(|scored| scored.log).collect();
        let shares = softmax(&logs)?;
        if let Some(watcher) = &watcher {
            watcher.answered(counted(asked, &shares));
        }
        decision.answers.push((question.name, answer(question.kind, &shares)));
        let n_labels: usize = asked.labels.iter().map(Vec::len).sum();
        decision.input_tokens += (asked.prompt.len() + n_labels) as u64;
        // Further labels find the prompt computed by the first: that is no saving of the request's.
        decision.cached_tokens += scored.first().map_or(0, |scored| scored.n_kept as u64);
    }
    let Decision { input_tokens, cached_tokens, .. } = decision;
    let passes = share.tally().map_or(0, |tally| tally.counted().passes);
    here.finish(Counts { input_tokens, cached_tokens, passes, ..Counts::default() });
    Ok(decision)
}

fn refuse_too_many_labels(questions: &[Question]) -> Result<(), ServiceError> {
    let n_labels: usize = questions.iter().map(|question| labels(&question.kind).1.len()).sum();
    let max = limits::LABELS_OF_DECISION_MAX;
    if n_labels > max {
        let message =
            format!("{n_labels} labels are more than the {max} that a language model is asked for at once");
        return Err(ServiceError::invalid("questions", "invalid_value", message));
    }
    Ok(())
}

/// The questions as tokens, read off the server's threads.
async fn read(
    language: Arc<Language>,
    context: usize,
    (text, now): (String, i64),
    questions: Vec<Question>,
) -> Result<(Vec<Question>, Vec<Asked>, String), ServiceError> {
    let work = move || {
        let reader = Reader { language: &language, context, text: &text, now };
        let asked = questions.iter().enumerate().map(|(i, question)| reader.read(i, question));
        let asked = asked.collect::<Result<Vec<Asked>, ServiceError>>()?;
        Ok((questions, asked, text))
    };
    let read = tokio::task::spawn_blocking(work).await;
    read.map_err(|error| ServiceError::internal("reading questions broke off", error))?
}

/// A decision as drift counts it: the likeliest label's tokens, and how sure it is among the labels.
fn counted(asked: &Asked, shares: &[f64]) -> Counted {
    let likeliest = crate::predict::argmax(shares);
    let nats = |share: f64| if share > 0.0 { -share.ln() } else { 0.0 };
    Counted {
        prompt_tokens: asked.prompt.len() as u64,
        tokens: asked.labels.get(likeliest).map_or(0, Vec::len) as u64,
        finish: "decision",
        sureness: shares
            .get(likeliest)
            .map(|&share| [nats(share), shares.iter().map(|&share| share * nats(share)).sum()]),
    }
}

/// The question whose answer is explained.
fn which(named: Option<usize>, n_questions: usize) -> Result<usize, ServiceError> {
    let refuse =
        |message: String| Err(ServiceError::invalid("explain.target", "unsupported_target", message));
    match named {
        Some(which) if which < n_questions => Ok(which),
        Some(which) => refuse(format!("there is no question {which}: there are {n_questions}, from 0")),
        None if n_questions == 1 => Ok(0),
        None => refuse(format!(
            "{n_questions} questions have {n_questions} answers: send target.question, the number of one, from 0"
        )),
    }
}

/// The label that is explained where none is named: what a predicate tells the probability of, or the likeliest.
fn answered(kind: &Kind, scored: &[Scored]) -> usize {
    match kind {
        Kind::Predicate => 0,
        _ => crate::predict::argmax(&scored.iter().map(|scored| scored.log).collect::<Vec<f64>>()),
    }
}

/// Who wants to know why, of one of the questions.
struct Why<'a> {
    text: &'a str,
    number: Option<usize>,
    now: i64,
    options: &'a explain::Options,
}

impl Why<'_> {
    fn read(
        &self,
        service: &Service,
        language: &Arc<Language>,
        (question, asked): (&Question, &Asked),
        answered: usize,
    ) -> Result<explain::Read, ServiceError> {
        let (_, names) = labels(&question.kind);
        let question = explain::LanguageQuestion {
            text: self.text,
            tail: &tail(question, &names),
            variables: &asked.variables,
            now: self.now,
            labels: &asked.labels,
            names,
            number: self.number,
            answered,
        };
        explain::read_question(service, language.clone(), &question, self.options)
    }
}

/// A language model reads what is asked as well. Labels are what it answers with, so they stay.
async fn guard(service: &Service, project: &Project, questions: &mut [Question]) -> Result<(), ServiceError> {
    let why = "the answer is one of them";
    let fixed: Vec<(String, String)> = questions
        .iter()
        .enumerate()
        .flat_map(|(i, question)| {
            let (field, labels) = labels(&question.kind);
            labels.into_iter().map(move |label| (format!("questions[{i}].{field}"), label.to_owned()))
        })
        .collect();
    texts::fixed(service, project, fixed, why).await?;
    let mut all = Vec::new();
    for (i, question) in questions.iter_mut().enumerate() {
        all.push((format!("questions[{i}].instructions"), &mut question.instructions));
        let described = question.descriptions.iter_mut().flatten();
        all.extend(described.map(|text| (format!("questions[{i}].descriptions"), text)));
    }
    texts::plain(service, project, all).await
}

/// The most that is read. Labels are made by the engine, so they cost what is made where a client leaves.
fn most(asked: &[Asked]) -> Counts {
    let output_tokens = asked.iter().flat_map(|asked| &asked.labels).map(|label| label.len() as u64).sum();
    let prompts: u64 = asked.iter().map(|asked| asked.prompt.len() as u64).sum();
    Counts { input_tokens: prompts + output_tokens, output_tokens, ..Counts::default() }
}

fn refuse_what_needs_a_classifier(request: &Request) -> Result<(), ServiceError> {
    let promises = &request.promises;
    let asked = [
        ("certify", promises.certify.is_some()),
        ("prediction_set", promises.prediction_set.is_some()),
        ("ood", promises.ood != crate::robustness::OodAsked::No),
    ];
    match asked.iter().find(|(_, is_asked)| *is_asked) {
        None => Ok(()),
        Some((param, _)) => {
            let message = "this takes a classifier that Lyceum trained: leave it out";
            Err(ServiceError::unsupported(*param, "unsupported_model", message))
        }
    }
}

async fn of_texts(
    service: &Service,
    project: &Project,
    model: &ModelRef,
) -> Result<Arc<Language>, ServiceError> {
    match Speaker::find(service, project, model).await? {
        Speaker::Language(language) => Ok(language),
        Speaker::Trained(resident) => {
            let message = format!("{} continues texts and answers no questions", resident.version.id());
            Err(ServiceError::invalid("model", "unsupported_model", message))
        }
    }
}

fn answer(kind: Kind, probabilities: &[f64]) -> Answer {
    let plan = match kind {
        // `yes` stands first.
        Kind::Predicate => super::Plan::Predicate(0),
        Kind::Choice(values) => super::Plan::Choice(values.into_iter().zip(0..).collect()),
        Kind::Score(levels) => super::Plan::Score(levels.into_iter().zip(0..).collect()),
    };
    super::answer(plan, probabilities)
}
