//! Choices under way: events of the engine become pieces of text, are counted, and are settled at their end.

use super::choice::{Choice, Part, prompt_token};
use super::{Finish, Piece, PromptToken, Speaker, Usage};
use crate::ServiceError;
use crate::drift::language::Watcher;
use crate::meter::{Counts, Here};
use crate::rates::Reserved;
use lyceum_engine::Event;
use lyceum_types::ids::ModelRef;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Choices that are being made. Dropping it ends them.
pub struct Running {
    pub(super) speaker: Speaker,
    pub(super) choices: Vec<Choice>,
    /// What each choice continues or answers.
    pub(super) prompt_ids: Vec<Arc<[u32]>>,
    pub(super) echo: bool,
    pub(super) usage: Usage,
    pub(super) n_open: usize,
    /// Tokens of each prompt that had been computed before, told when its first choice begins.
    pub(super) kept: Vec<Arc<AtomicUsize>>,
    /// That of the first choice.
    pub(super) seed: u64,
    /// What the limits hold for it; what it does not use goes back when it ends.
    pub(super) reserved: Option<Reserved>,
    pub(super) receiver: mpsc::Receiver<(usize, Event)>,
    pub(super) deadline: Instant,
    /// Settled when all choices are finished; left when this is dropped before.
    pub(super) guard: Here,
    /// Counts what answers are like.
    pub(super) watcher: Option<Watcher>,
}

impl Running {
    /// `name@3`
    pub fn model(&self) -> String {
        self.speaker.version().id()
    }

    /// The same, as a request names it.
    pub fn reference(&self) -> ModelRef {
        self.speaker.reference()
    }

    /// Says which weights answer.
    pub fn fingerprint(&self) -> String {
        let sha256 = &self.speaker.version().sha256;
        format!("fp_{}", sha256.get(..32).unwrap_or(sha256))
    }

    /// The tokens that a choice continues or answers.
    pub fn prompt_ids(&self, choice: usize) -> &[u32] {
        &self.prompt_ids[choice]
    }

    /// What the model thought of the prompt of a choice; empty unless it was asked for, and whole when the
    /// choice's first token is there.
    pub fn prompt_tokens(&self, choice: usize) -> &[PromptToken] {
        &self.choices[choice].prompt_tokens
    }

    /// The seed of the first choice, asked for or drawn.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Counts that the guard ended the answer.
    pub(crate) fn stopped(&self, error: &ServiceError) {
        self.watcher.iter().for_each(|watcher| watcher.failed(error));
    }

    /// What the model's files recommend.
    pub(crate) fn defaults(&self) -> crate::language::Defaults {
        self.speaker.defaults()
    }

    /// What has been read and made so far.
    pub fn usage(&self) -> Usage {
        let cached_tokens = self.kept.iter().map(|kept| kept.load(Ordering::Relaxed) as u64).sum();
        Usage { cached_tokens, ..self.usage }
    }

    /// The next piece of any choice; `None` when all are finished. The last piece is settled before it is given.
    pub async fn next(&mut self) -> Result<Option<Piece>, ServiceError> {
        let next = self.go_on().await;
        match &next {
            Err(error) => std::mem::take(&mut self.guard).fail(error),
            Ok(_) if self.n_open == 0 => {
                let Usage { prompt_tokens, cached_tokens, completion_tokens } = self.usage();
                std::mem::take(&mut self.guard).finish(Counts {
                    input_tokens: prompt_tokens,
                    cached_tokens,
                    output_tokens: completion_tokens,
                    ..Counts::default()
                });
            }
            Ok(_) => self.guard.note(),
        }
        next
    }

    async fn go_on(&mut self) -> Result<Option<Piece>, ServiceError> {
        while self.n_open > 0 {
            let received = tokio::time::timeout_at(self.deadline, self.receiver.recv()).await;
            let Some((choice, event)) = received.map_err(|_| ServiceError::DeadlinePassed)? else {
                return Err(crate::refused(lyceum_engine::EngineError::Stopped));
            };
            if let Some(piece) = self.take(choice, event)? {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    fn take(&mut self, index: usize, event: Event) -> Result<Option<Piece>, ServiceError> {
        let choice = &mut self.choices[index];
        if choice.is_over.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let finish = match event {
            Event::Prompt(token) => {
                if let Some(n_top) = choice.prompt_logprobs {
                    choice.prompt_tokens.push(prompt_token(&self.speaker, &token, n_top));
                }
                if self.echo {
                    choice.push(&self.speaker, &token, Part::Prompt)?;
                }
                None
            }
            Event::Token(token) => {
                choice.score(&token);
                self.usage.completion_tokens += 1;
                if let Some(reserved) = &mut self.reserved {
                    reserved.used(self.usage.prompt_tokens + self.usage.completion_tokens);
                }
                choice.token_ids.push(token.id);
                choice.push(&self.speaker, &token, Part::Completion)?
            }
            Event::Done(finish) => {
                choice.end();
                Some(match finish {
                    lyceum_engine::Finish::Stop => Finish::Stop,
                    lyceum_engine::Finish::Length => Finish::Length,
                })
            }
            Event::Failed(error) => return Err(crate::refused(error)),
        };
        if finish.is_some() {
            choice.is_over.store(true, Ordering::Relaxed);
            self.n_open -= 1;
            if let (Some(watcher), Some(finish)) = (&self.watcher, finish) {
                let prompt_tokens = self.prompt_ids[index].len() as u64;
                watcher.answered(choice.was_like(prompt_tokens, finish));
            }
        }
        let (text, tokens) = choice.take_ready(finish.is_some());
        if text.is_empty() && tokens.is_empty() && finish.is_none() {
            return Ok(None);
        }
        let token_ids = std::mem::take(&mut choice.token_ids);
        Ok(Some(Piece { choice: index, text, tokens, token_ids, finish }))
    }
}
