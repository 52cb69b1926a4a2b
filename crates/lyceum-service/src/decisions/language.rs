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

use super::{Answer, Decision, Kind, Question, Request};
use crate::drift::language::{Answer as Counted, Watcher};
use crate::explain::{self, Explained};
use crate::generation::Speaker;
use crate::guard::texts;
use crate::meter::{Counts, Here, Share};
use crate::{Content, Language, Payer, Service, ServiceError};
use lyceum_engine::{BitMask, CountPrompt, Event, Flow, GenerateRequest, Tenant, TokenMask};
use lyceum_language::reasoning::{Begins, ReasoningFormat};
use lyceum_language::template::{ChatTemplate, Conversation, End, openai_messages};
use lyceum_language::tokenizer::{AddSpecial, Specials};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::limits;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// The variable by which templates are told whether the model thinks first.
const THINKING: &str = "enable_thinking";
/// Sequences of a request that the engine has at once.
const AT_ONCE: usize = 32;

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
    let n_labels: usize = request.questions.iter().map(|question| labels(&question.kind).1.len()).sum();
    if n_labels > limits::LABELS_OF_DECISION_MAX {
        let max = limits::LABELS_OF_DECISION_MAX;
        let message =
            format!("{n_labels} labels are more than the {max} that a language model is asked for at once");
        return Err(ServiceError::invalid("questions", "invalid_value", message));
    }
    let language = language?;
    let context = service.engine().positions_max(&language.model).unwrap_or(usize::MAX);
    let mut questions = request.questions;
    guard(service, &payer.project, &mut questions).await?;
    let reader = language.clone();
    let now = Timestamp::now().seconds();
    let read = move || {
        let reader = Reader { language: &reader, context, text: &text, now };
        let asked = questions.iter().enumerate().map(|(i, question)| reader.read(i, question));
        let asked = asked.collect::<Result<Vec<Asked>, ServiceError>>()?;
        Ok::<_, ServiceError>((questions, asked, text))
    };
    let read = tokio::task::spawn_blocking(read).await;
    let (questions, asked, text) =
        read.map_err(|error| ServiceError::internal("reading questions broke off", error))??;
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
    let watcher = Watcher::of(service, payer, &language.version);
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

/// How likely each label of each question is, in their order.
async fn score(
    service: &Service,
    whose: &Whose<'_>,
    asked: &[Asked],
    share: &Share,
) -> Result<Vec<Scored>, ServiceError> {
    // Further labels of a question find its prompt read by the first.
    let reads = |k: usize| if k == 0 { CountPrompt::Yes } else { CountPrompt::No };
    let of = |asked: &'_ Asked| {
        let (prompt, labels) = (asked.prompt.clone(), asked.labels.clone());
        labels.into_iter().enumerate().map(move |(k, label)| (prompt.clone(), label, reads(k)))
    };
    let labels: Vec<(Arc<[u32]>, Vec<u32>, CountPrompt)> = asked.iter().flat_map(of).collect();
    let mut likely = Vec::with_capacity(labels.len());
    for window in labels.chunks(AT_ONCE) {
        // Dropped with what is under way when a client leaves.
        let start = |(prompt, label, reads): &(Arc<[u32]>, Vec<u32>, CountPrompt)| {
            Scoring::start(service, whose, (prompt, label), (share.clone(), *reads))
        };
        let running: Vec<Scoring> = window.iter().map(start).collect::<Result<_, _>>()?;
        for scoring in running {
            likely.push(scoring.finish().await?);
        }
    }
    Ok(likely)
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

/// Who answers, and for whom.
struct Whose<'a> {
    language: &'a Arc<Language>,
    tenant: Tenant,
}

/// A question as tokens.
struct Asked {
    prompt: Arc<[u32]>,
    /// What the template was told.
    variables: Map<String, Value>,
    /// What follows the prompt, a label each, in the order of the question.
    labels: Vec<Vec<u32>>,
}

/// Makes prompts of questions about one text.
struct Reader<'a> {
    language: &'a Language,
    context: usize,
    text: &'a str,
    now: i64,
}

impl Reader<'_> {
    fn read(&self, i: usize, question: &Question) -> Result<Asked, ServiceError> {
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
pub(super) fn user_message(text: &str, question: &Question) -> String {
    format!("{text}{}", tail(question, &labels(&question.kind).1))
}

/// The labels of a question, and the field that has them. A predicate is one of `yes` and `no`.
fn labels(kind: &Kind) -> (&'static str, Vec<&str>) {
    match kind {
        Kind::Predicate => ("instructions", vec!["yes", "no"]),
        Kind::Choice(values) => ("choices", values.iter().map(super::ChoiceValue::as_label).collect()),
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
fn tail(question: &Question, labels: &[&str]) -> String {
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

/// One label that the model is made to say.
struct Scoring {
    receiver: mpsc::Receiver<Event>,
    kept: Arc<AtomicUsize>,
    cancelled: Arc<AtomicBool>,
}

struct Scored {
    /// Natural logarithm of the label's probability.
    log: f64,
    /// Tokens of the prompt that had been computed before.
    n_kept: usize,
}

impl Drop for Scoring {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Scoring {
    fn start(
        service: &Service,
        whose: &Whose<'_>,
        (prompt, label): (&Arc<[u32]>, &[u32]),
        (share, reads): (Share, CountPrompt),
    ) -> Result<Self, ServiceError> {
        let metered = share.metered(reads);
        let (sender, receiver) = mpsc::channel(label.len() + 2);
        let (kept, cancelled) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let sink = Box::new(move |event| {
            let _held = &share;
            match sender.try_send(event) {
                Ok(()) => Flow::Continue,
                Err(_) => Flow::Stop,
            }
        });
        let forced = Forced { label: label.to_vec(), at: 0 };
        let speaker = Speaker::Language(whose.language.clone());
        let sequence = GenerateRequest {
            adapter: speaker.adapter(),
            tenant: whose.tenant,
            never_tokens: speaker.never(),
            logprobs: Some(0),
            mask: Some(Box::new(forced)),
            kept: Some(kept.clone()),
            metered,
            cancelled: Some(cancelled.clone()),
            ..GenerateRequest::new(speaker.model().clone(), prompt.to_vec(), label.len(), sink)
        };
        service.engine().generate(sequence).map_err(crate::refused)?;
        Ok(Scoring { receiver, kept, cancelled })
    }

    async fn finish(mut self) -> Result<Scored, ServiceError> {
        let stopped = || crate::refused(lyceum_engine::EngineError::Stopped);
        let mut log = 0.0;
        loop {
            let received = tokio::time::timeout(limits::REQUEST_TIMEOUT, self.receiver.recv()).await;
            match received.map_err(|_| ServiceError::DeadlinePassed)?.ok_or_else(stopped)? {
                Event::Token(token) => {
                    let logprobs = token.logprobs.ok_or_else(|| {
                        ServiceError::internal("a token without the probability that was asked for", "bug")
                    })?;
                    log += f64::from(logprobs.chosen);
                }
                Event::Done(_) => return Ok(Scored { log, n_kept: self.kept.load(Ordering::Relaxed) }),
                Event::Failed(error) => return Err(crate::refused(error)),
                Event::Prompt(_) => {}
            }
        }
    }
}

/// Allows the next token of a label and no other.
struct Forced {
    label: Vec<u32>,
    at: usize,
}

impl TokenMask for Forced {
    fn allowed(&mut self, out: &mut BitMask) -> Result<(), String> {
        self.label.get(self.at).map(|&id| out.allow(id)).ok_or_else(|| "the label is said".into())
    }

    fn accept(&mut self, _token: u32) -> Result<(), String> {
        self.at += 1;
        Ok(())
    }
}

/// Probabilities among the labels.
fn softmax(logs: &[f64]) -> Result<Vec<f64>, ServiceError> {
    let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !highest.is_finite() {
        let message = "the model gives none of the labels a probability".to_owned();
        return Err(ServiceError::Uncomputable { message });
    }
    let weights: Vec<f64> = logs.iter().map(|log| (log - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    Ok(weights.into_iter().map(|weight| weight / total).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_overlap_where_one_begins_another() {
        assert!(overlap(&[vec![1, 2], vec![3], vec![1]]) && overlap(&[vec![4], vec![4]]));
        assert!(!overlap(&[vec![1, 2], vec![1, 3], vec![2, 1]]));
    }

    #[test]
    fn probabilities_are_shares_and_nothing_possible_is_an_error() {
        let shares = softmax(&[-1000.0, -1000.0 + 3f64.ln()]).unwrap();
        assert!((shares[0] - 0.25).abs() < 1e-12 && (shares[1] - 0.75).abs() < 1e-12);
        assert!(softmax(&[f64::NEG_INFINITY; 2]).is_err());
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
