//! The text of one choice while its tokens come: never half a character, never a stop text, and every reported
//! token with its place in the text.

use super::speaker::{Speaker, SpeakerStream};
use super::{Alternative, Finish, Likely, Options, PromptToken, Token};
use crate::ServiceError;
use crate::drift::language::Answer;
use crate::stops::{Found, StopFinder};
use lyceum_engine::TokenEvent;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Part {
    Prompt,
    Completion,
}

/// The text of one choice while it comes.
pub(super) struct Choice {
    /// Tells the engine that nothing more is wanted.
    pub is_over: Arc<AtomicBool>,
    stream: SpeakerStream,
    stops: Option<StopFinder>,
    /// With how many most likely tokens the text's tokens are reported.
    logprobs: Option<usize>,
    pub prompt_logprobs: Option<usize>,
    pub prompt_tokens: Vec<PromptToken>,
    /// Made and not yet given.
    pub token_ids: Vec<u32>,
    /// Text that is certain and not yet given, and characters certain so far.
    ready: String,
    n_certain: usize,
    /// Characters decoded so far, the held ones too.
    n_decoded: usize,
    tokens: VecDeque<Token>,
    /// Tokens that were made, those of them with a probability, and the sums of its negative logarithm and of the entropy.
    n_made: u64,
    scored: (u64, [f64; 2]),
}

impl Drop for Choice {
    /// Whoever no longer waits for a choice frees its place in the engine.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Choice {
    pub fn new(speaker: &Speaker, options: &Options) -> Self {
        Self {
            is_over: Arc::default(),
            stream: speaker.stream(options.echo, &options.shown),
            stops: Some(StopFinder::new(options.stop.clone())),
            logprobs: options.logprobs,
            prompt_logprobs: options.prompt_logprobs,
            prompt_tokens: Vec::new(),
            token_ids: Vec::new(),
            ready: String::new(),
            n_certain: 0,
            n_decoded: 0,
            tokens: VecDeque::new(),
            n_made: 0,
            scored: (0, [0.0; 2]),
        }
    }

    /// Counts a token that was made.
    pub fn score(&mut self, event: &TokenEvent) {
        self.n_made += 1;
        if let Some(logprobs) = &event.logprobs {
            let (n, [surprise, entropy]) = &mut self.scored;
            *n += 1;
            *surprise -= f64::from(logprobs.chosen);
            *entropy += f64::from(logprobs.entropy);
        }
    }

    /// What the answer was like, now that it is over.
    pub fn was_like(&self, prompt_tokens: u64, finish: Finish) -> Answer {
        let (n, sums) = self.scored;
        let sureness = (n > 0).then(|| sums.map(|sum| sum / n as f64));
        Answer { prompt_tokens, tokens: self.n_made, finish: finish.as_str(), sureness }
    }

    /// Takes a token in; a finish where a stop text is complete.
    pub fn push(
        &mut self,
        speaker: &Speaker,
        event: &TokenEvent,
        part: Part,
    ) -> Result<Option<Finish>, ServiceError> {
        if let Some(n_top) = self.logprobs {
            self.tokens.push_back(token(speaker, event, self.n_decoded, n_top));
        }
        let text = self.stream.push(speaker, event.id)?;
        self.n_decoded += text.chars().count();
        if part == Part::Prompt {
            // Stop texts in the prompt end nothing.
            self.certain(&text);
            return Ok(None);
        }
        Ok(match self.stops.as_mut().map(|stops| stops.push(&text)) {
            Some(Found::Stopped(last)) => {
                self.certain(&last);
                // Tokens that begin in the stop text are not part of the completion.
                let end = self.n_certain;
                self.tokens.retain(|token| token.offset < end);
                Some(Finish::Stop)
            }
            Some(Found::Text(text)) => {
                self.certain(&text);
                None
            }
            None => None,
        })
    }

    /// Nothing more comes: what was held back is part of the text.
    pub fn end(&mut self) {
        let rest = self.stream.finish();
        let Some(mut stops) = self.stops.take() else { return };
        let text = match stops.push(&rest) {
            Found::Text(text) => text + &stops.finish(),
            Found::Stopped(text) => text,
        };
        self.certain(&text);
    }

    fn certain(&mut self, text: &str) {
        self.ready.push_str(text);
        self.n_certain += text.chars().count();
    }

    /// The text that is certain, and the tokens that begin in it.
    pub fn take_ready(&mut self, is_last: bool) -> (String, Vec<Token>) {
        let end = self.n_certain;
        let n = self.tokens.iter().take_while(|token| is_last || token.offset < end).count();
        (std::mem::take(&mut self.ready), self.tokens.drain(..n).collect())
    }
}

fn token(speaker: &Speaker, event: &TokenEvent, offset: usize, n_top: usize) -> Token {
    let (text, bytes) = (speaker.token_text(event.id), speaker.token_bytes(event.id));
    let Some(logprobs) = &event.logprobs else {
        return Token { text, offset, logprob: None, entropy: None, bytes, top: vec![] };
    };
    // The prompt's tokens may have been asked for more.
    let likeliest = &logprobs.top[..n_top.min(logprobs.top.len())];
    let likely =
        |id, logprob| Likely { text: speaker.token_text(id), bytes: speaker.token_bytes(id), logprob };
    let mut top: Vec<Likely> = likeliest.iter().map(|&(id, logprob)| likely(id, logprob)).collect();
    if !likeliest.iter().any(|(id, _)| *id == event.id) {
        top.push(likely(event.id, logprobs.chosen));
    }
    let (logprob, entropy) = (Some(logprobs.chosen), Some(logprobs.entropy));
    Token { text, offset, logprob, entropy, bytes, top }
}

pub(super) fn prompt_token(speaker: &Speaker, event: &TokenEvent, n_top: usize) -> PromptToken {
    let alternatives = event.logprobs.as_ref().map(|logprobs| {
        let of = |id, logprob, rank| Alternative { id, text: speaker.token_text(id), logprob, rank };
        let likeliest = (1..).zip(&logprobs.top).take(n_top).filter(|(_, (id, _))| *id != event.id);
        let others = likeliest.map(|(rank, &(id, logprob))| of(id, logprob, rank));
        std::iter::once(of(event.id, logprobs.chosen, logprobs.rank)).chain(others).collect()
    });
    PromptToken { id: event.id, alternatives }
}
