//! How likely texts are: many sequences through the engine, some at a time, each for its reported tokens alone.

use crate::generation::{self, Speaker};
use crate::language::Language;
use crate::meter::Share;
use crate::{Service, ServiceError};
use lyceum_engine::{Event, Flow, GenerateRequest, Priority};
use lyceum_types::ids::Project;
use lyceum_types::limits;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Texts that are in the engine at once: enough to fill a pass, few beside what others ask.
const AT_ONCE: usize = 8;

/// A text, and the first of its tokens whose log-probability counts. Never 0.
pub(super) struct Scored {
    pub text: Vec<u32>,
    pub from: usize,
    /// The first so many are read; the model made the others, and they have the bits that they had then.
    pub n_read: usize,
}

/// The sum of the log-probabilities (natural) of each text's tokens from `from` on, each given those before it.
///
/// # Errors
/// The engine has no room now; the time is over.
pub(super) async fn all(
    service: &Service,
    project: &Project,
    language: &Arc<Language>,
    texts: Vec<Scored>,
    share: &Share,
) -> Result<Vec<f64>, ServiceError> {
    let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
    let mut scores = Vec::with_capacity(texts.len());
    let mut texts = texts.into_iter();
    // The first is read alone: the others find its beginning.
    let mut n = 1;
    loop {
        let some: Vec<Scored> = texts.by_ref().take(n).collect();
        if some.is_empty() {
            return Ok(scores);
        }
        scores.extend(wave(service, project, language, some, share, deadline).await?);
        n = AT_ONCE;
    }
}

async fn wave(
    service: &Service,
    project: &Project,
    language: &Arc<Language>,
    texts: Vec<Scored>,
    share: &Share,
    deadline: Instant,
) -> Result<Vec<f64>, ServiceError> {
    let n = texts.len();
    let never = Speaker::Language(language.clone()).never();
    let mut admitted = generation::admit(service, project, Priority::Batch, n)?;
    let capacity = texts.iter().map(|scored| scored.text.len() + 2).sum();
    let (sender, mut receiver) = mpsc::channel(capacity);
    for (i, Scored { text, from, n_read }) in texts.into_iter().enumerate() {
        let (sender, share) = (sender.clone(), share.clone());
        let sink = Box::new(move |event| {
            // The work is not over as long as the engine has this.
            let _held = &share;
            if sender.try_send((i, event)).is_err() { Flow::Stop } else { Flow::Continue }
        });
        let request = GenerateRequest {
            adapter: language.added.as_ref().map(|added| added.adapter.clone()),
            never_tokens: never.clone(),
            prompt_logprobs: Some(0),
            reported_from: from,
            n_read: Some(n_read),
            ..GenerateRequest::new(language.model.clone(), text, 0, sink)
        };
        admitted.start(request)?;
    }
    drop(sender);
    let mut scores = vec![0.0; n];
    let mut n_open = n;
    while n_open > 0 {
        let received = timeout_at(deadline, receiver.recv()).await;
        let Some((i, event)) = received.map_err(|_| ServiceError::DeadlinePassed)? else {
            return Err(crate::refused(lyceum_engine::EngineError::Stopped));
        };
        match event {
            Event::Prompt(token) => {
                scores[i] += token.logprobs.map_or(0.0, |logprobs| f64::from(logprobs.chosen));
            }
            Event::Done(_) => {
                share.add_passes(1);
                n_open -= 1;
            }
            Event::Token(_) => {}
            Event::Failed(error) => return Err(crate::refused(error)),
        }
    }
    Ok(scores)
}
