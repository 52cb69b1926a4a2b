//! SentencePiece's BPE with scores (Kudo & Richardson 2018), as Llama 2 and Gemma use it: characters are merged
//! pair by pair, always the pair whose union has the highest score, the leftmost of equals; what is in no
//! vocabulary becomes its bytes.

use super::gguf::{GgufVocabulary, TokenKind};
use crate::LanguageError;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

/// The space inside tokens, U+2581.
pub(super) const SPACE: &str = "▁";

#[derive(Debug)]
pub(super) struct SentencePiece {
    /// Tokens that text can become: not control tokens, not bytes.
    ids: HashMap<Box<str>, u32>,
    scores: Vec<f32>,
    bytes: Box<[Option<u32>; 256]>,
    unk: Option<u32>,
    adds_space: bool,
    /// No token has a space after another character, so that no token reaches over a word's beginning and each
    /// word can be merged alone.
    words_are_apart: bool,
}

/// Characters `from..to` of the text, in a list from left to right; empty once merged into its left neighbour.
struct Symbol {
    from: usize,
    to: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that make a token together.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both; a pair whose symbols have changed since has another length.
    n_bytes: usize,
}

impl SentencePiece {
    pub(super) fn new(vocabulary: &GgufVocabulary) -> Result<Self, LanguageError> {
        if vocabulary.scores.len() != vocabulary.tokens.len() {
            return Err(LanguageError::Tokenizer(format!(
                "{} scores for {} tokens",
                vocabulary.scores.len(),
                vocabulary.tokens.len()
            )));
        }
        let mut ids = HashMap::with_capacity(vocabulary.tokens.len());
        let mut bytes = Box::new([None; 256]);
        for (id, token) in (0u32..).zip(&vocabulary.tokens) {
            match vocabulary.kind(id) {
                TokenKind::Byte => {
                    let byte = byte_of(token).ok_or_else(|| {
                        LanguageError::Tokenizer(format!("token {id} is said to be a byte and is {token:?}"))
                    })?;
                    bytes[byte as usize] = Some(id);
                }
                TokenKind::Control | TokenKind::Unknown => {}
                // Of equal tokens the first counts.
                _ => {
                    ids.entry(token.clone().into_boxed_str()).or_insert(id);
                }
            }
        }
        if let Some(score) = vocabulary.scores.iter().find(|score| score.is_nan()) {
            return Err(LanguageError::Tokenizer(format!("a token's score is {score}")));
        }
        let apart = |token: &str| !token.trim_start_matches(SPACE).contains(SPACE);
        let words_are_apart = ids.keys().all(|token| apart(token));
        Ok(SentencePiece {
            words_are_apart,
            ids,
            // −0 and 0 are one score.
            scores: vocabulary.scores.iter().map(|score| score + 0.0).collect(),
            bytes,
            unk: vocabulary.unk,
            adds_space: vocabulary.add_space_prefix.unwrap_or(true),
        })
    }

    pub(super) fn adds_space(&self) -> bool {
        self.adds_space
    }

    pub(super) fn token_id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub(super) fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<(), LanguageError> {
        if text.is_empty() {
            return Ok(());
        }
        let mut spaced = String::with_capacity(text.len() + text.len() / 4 + SPACE.len());
        if self.adds_space {
            spaced.push_str(SPACE);
        }
        for (i, part) in text.split(' ').enumerate() {
            if i > 0 {
                spaced.push_str(SPACE);
            }
            spaced.push_str(part);
        }
        if !self.words_are_apart {
            return self.encode_word(&spaced, out);
        }
        // Where a word has come before, its ids are in `out` already.
        let mut known: HashMap<&str, Range<usize>> = HashMap::new();
        let mut rest = spaced.as_str();
        while !rest.is_empty() {
            let word = &rest[..word_end(rest)];
            rest = &rest[word.len()..];
            if let Some(range) = known.get(word) {
                out.extend_from_within(range.clone());
                continue;
            }
            let from = out.len();
            self.encode_word(word, out)?;
            known.insert(word, from..out.len());
        }
        Ok(())
    }

    fn encode_word(&self, word: &str, out: &mut Vec<u32>) -> Result<(), LanguageError> {
        let symbols = self.merge(word);
        let mut at = Some(0);
        while let Some(i) = at {
            let symbol = &symbols[i];
            self.push_symbol(&word[symbol.from..symbol.to], out)?;
            at = symbol.next;
        }
        Ok(())
    }

    fn merge(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (from, c))| Symbol {
                from,
                to: from + c.len_utf8(),
                previous: i.checked_sub(1),
                next: Some(i + 1),
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut pairs = BinaryHeap::with_capacity(symbols.len());
        for right in 1..symbols.len() {
            pairs.extend(self.pair(text, &symbols, right - 1, right));
        }
        while let Some(pair) = pairs.pop() {
            let (left, right) = (&symbols[pair.left], &symbols[pair.right]);
            let stale = left.from == left.to
                || right.from == right.to
                || right.to - left.from != pair.n_bytes
                || left.next != Some(pair.right);
            if stale {
                continue;
            }
            let (to, next) = (right.to, right.next);
            symbols[pair.right].from = to;
            symbols[pair.left].to = to;
            symbols[pair.left].next = next;
            if let Some(next) = next {
                symbols[next].previous = Some(pair.left);
                pairs.extend(self.pair(text, &symbols, pair.left, next));
            }
            if let Some(previous) = symbols[pair.left].previous {
                pairs.extend(self.pair(text, &symbols, previous, pair.left));
            }
        }
        symbols
    }

    fn pair(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Pair> {
        let (from, to) = (symbols[left].from, symbols[right].to);
        let id = *self.ids.get(&text[from..to])?;
        Some(Pair { score: self.scores[id as usize], left, right, n_bytes: to - from })
    }

    fn push_symbol(&self, text: &str, out: &mut Vec<u32>) -> Result<(), LanguageError> {
        if let Some(&id) = self.ids.get(text) {
            out.push(id);
            return Ok(());
        }
        for byte in text.bytes() {
            let id = self.bytes[byte as usize].or(self.unk).ok_or_else(|| {
                LanguageError::Text(format!(
                    "the vocabulary has neither {text:?}, nor its bytes, nor an unknown token"
                ))
            })?;
            out.push(id);
        }
        Ok(())
    }
}

/// Bytes of the first word: spaces, then what is none.
fn word_end(text: &str) -> usize {
    let spaces = text.len() - text.trim_start_matches(SPACE).len();
    text[spaces..].find(SPACE).map_or(text.len(), |end| spaces + end)
}

/// `<0x0A>` is byte 10.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}
