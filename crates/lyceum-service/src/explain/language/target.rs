//! What of an answer is explained: the log-probabilities of its tokens, or of one text over another in its place.

use super::super::{TargetChoice, TargetShown};
use super::said::Said;
use super::score::Scored;
use crate::ServiceError;
use crate::language::Language;
use lyceum_explain::Term;
use std::ops::Range;

/// What is scored: log-probabilities of tokens of the answer, or of one over another in its place.
pub(super) enum Target {
    /// Those of the answer's tokens in this range; the model made them itself, or reads them.
    Said { tokens: Vec<u32>, range: Range<usize>, is_made: bool },
    /// The last token of `tokens`, over `other` where it stands. Both are read: the other was never made.
    Contrast { tokens: Vec<u32>, other: u32 },
    /// One label of a question among all, or over one other, as whole answers.
    Label { labels: Vec<Vec<u32>>, chosen: usize, not: Option<usize> },
}

impl Target {
    /// Tokens behind the prompt in the longest text.
    pub(super) fn n_tokens(&self) -> usize {
        match self {
            Target::Said { range, .. } => range.end,
            Target::Contrast { tokens, .. } => tokens.len(),
            Target::Label { labels, .. } => labels.iter().map(Vec::len).max().unwrap_or(0),
        }
    }

    /// The answer up to its last token that counts.
    pub(super) fn tokens(&self) -> &[u32] {
        match self {
            Target::Said { tokens, range, .. } => &tokens[..range.end],
            Target::Contrast { tokens, .. } => tokens,
            Target::Label { labels, chosen, .. } => &labels[*chosen],
        }
    }

    /// How many texts make one value.
    pub(super) fn n_texts(&self) -> usize {
        match self {
            Target::Said { .. } => 1,
            Target::Contrast { .. } | Target::Label { not: Some(_), .. } => 2,
            Target::Label { labels, .. } => labels.len(),
        }
    }

    /// The texts whose scores make one value.
    pub(super) fn texts(&self, prompt: &[u32]) -> Vec<Scored> {
        let n_read = |is_made: bool| if is_made { prompt.len() } else { usize::MAX };
        match self {
            Target::Said { tokens, range, is_made } => {
                let text = [prompt, &tokens[..range.end]].concat();
                vec![Scored { text, from: prompt.len() + range.start, n_read: n_read(*is_made) }]
            }
            Target::Contrast { tokens, other } => {
                let place = tokens.len() - 1;
                [tokens[place], *other]
                    .map(|last| {
                        let text = [prompt, &tokens[..place], &[last]].concat();
                        Scored { text, from: prompt.len() + place, n_read: n_read(false) }
                    })
                    .into()
            }
            Target::Label { labels, chosen, not } => {
                let scored = |label: &Vec<u32>| {
                    let text = [prompt, label].concat();
                    Scored { text, from: prompt.len(), n_read: n_read(false) }
                };
                match not {
                    Some(not) => [&labels[*chosen], &labels[*not]].map(scored).into(),
                    None => labels.iter().map(scored).collect(),
                }
            }
        }
    }

    /// The value of the texts' scores, the first of `scores`.
    pub(super) fn value(&self, scores: &[f64]) -> f64 {
        match self {
            Target::Said { .. } => scores[0],
            Target::Contrast { .. } | Target::Label { not: Some(_), .. } => scores[0] - scores[1],
            Target::Label { labels, chosen, .. } => {
                let scores = &scores[..labels.len()];
                let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                scores[*chosen] - highest - scores.iter().map(|log| (log - highest).exp()).sum::<f64>().ln()
            }
        }
    }

    pub(super) fn terms(&self) -> Vec<Term> {
        match self {
            Target::Said { tokens, range, .. } => {
                range.clone().map(|row| Term { row, class: tokens[row] as usize, not: None }).collect()
            }
            Target::Contrast { tokens, other } => {
                let row = tokens.len() - 1;
                vec![Term { row, class: tokens[row] as usize, not: Some(*other as usize) }]
            }
            Target::Label { labels, chosen, .. } => terms_of(&labels[*chosen]),
        }
    }
}

/// The token at which one answer leaves another; None: one begins the other.
pub(super) fn parting(tokens: &[u32], others: &[u32]) -> Option<Target> {
    let place = tokens.iter().zip(others).position(|(token, other)| token != other)?;
    Some(Target::Contrast { tokens: tokens[..=place].to_vec(), other: others[place] })
}

/// The row and token of each token of an answer.
pub(super) fn terms_of(tokens: &[u32]) -> Vec<Term> {
    tokens.iter().enumerate().map(|(row, &id)| Term { row, class: id as usize, not: None }).collect()
}

/// The part of the answer that is explained.
pub(super) fn choose(
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
    let whole = said.characters(said.span.clone());
    let span = match part {
        None => said.span.clone(),
        Some("") => return wrong("target.text is empty".into()),
        Some(part) => match whole.find(part) {
            Some(byte) => {
                let start = said.span.start + whole[..byte].chars().count();
                start..start + part.chars().count()
            }
            None => return wrong(format!("{part:?} does not occur in the completion")),
        },
    };
    let text = said.characters(span.clone());
    let range = said.tokens_of(&span);
    let mut tokens: Vec<u32> = said.tokens.iter().map(|(id, _)| *id).collect();
    let shown = TargetShown::Text {
        text,
        // Within the part that the caller sees.
        span: span.start - said.span.start..span.end - said.span.start,
        not: not.map(str::to_owned),
        part: said.part,
    };
    let Some(not) = not else {
        return Ok((Target::Said { tokens, range, is_made: said.is_made }, shown));
    };
    // The other text where the first stands, as the tokenizer would have written it there.
    let other = said.instead(language, span.start, not)?;
    let pairs = tokens.iter().zip(&other);
    let parts = pairs.enumerate().find(|(_, (id, other))| id != other);
    match parts.map(|(place, (_, other))| (place, *other)) {
        Some((place, other)) if range.contains(&place) => {
            tokens.truncate(place + 1);
            Ok((Target::Contrast { tokens, other }, shown))
        }
        Some(_) => wrong("target.not changes the tokens before target.text: send whole words".into()),
        None => wrong("target.not begins as the target does: they never part".into()),
    }
}
