//! How likely a model says each label: sequences whose tokens are forced, and the log-probabilities that they report.

use super::prompt::Asked;
use crate::generation::Speaker;
use crate::meter::Share;
use crate::{Language, Service, ServiceError};
use lyceum_engine::{BitMask, CountPrompt, Event, Flow, GenerateRequest, Tenant, TokenMask};
use lyceum_types::limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// Sequences of a request that the engine has at once.
const AT_ONCE: usize = 32;

/// Who answers, and for whom.
pub(super) struct Whose<'a> {
    pub(super) language: &'a Arc<Language>,
    pub(super) tenant: Tenant,
}

/// How likely each label of each question is, in their order.
pub(super) async fn score(
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

/// One label that the model is made to say.
struct Scoring {
    receiver: mpsc::Receiver<Event>,
    kept: Arc<AtomicUsize>,
    cancelled: Arc<AtomicBool>,
}

/// What the engine says of a label.
pub(super) struct Scored {
    /// Natural logarithm of the label's probability.
    pub(super) log: f64,
    /// Tokens of the prompt that had been computed before.
    pub(super) n_kept: usize,
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
            // Decided before, by the mask.
            n_read: Some(usize::MAX),
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
///
/// # Errors
/// The model gives none of them a probability.
pub(super) fn softmax(logs: &[f64]) -> Result<Vec<f64>, ServiceError> {
    let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !highest.is_finite() {
        let message = "the model gives none of the labels a probability".to_owned();
        return Err(ServiceError::Uncomputable { message });
    }
    let weights: Vec<f64> = logs.iter().map(|log| (log - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    Ok(weights.into_iter().map(|weight| weight / total).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_shares_and_nothing_possible_is_an_error() {
        let shares = softmax(&[-1000.0, -1000.0 + 3f64.ln()]).unwrap();
        assert!((shares[0] - 0.25).abs() < 1e-12 && (shares[1] - 0.75).abs() < 1e-12);
        assert!(softmax(&[f64::NEG_INFINITY; 2]).is_err());
    }
}
