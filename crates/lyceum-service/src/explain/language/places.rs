//! Where the caller's words stand among the tokens that a model reads: the part of each token of a prompt.
//!
//! A template writes the caller's texts between words of its own. Where it writes each is seen by rendering it again with
//! marks in their place; what cannot be found again this way (a template that rewrites a text) is refused, not guessed.

use super::text::{Left, Prompt};
use crate::ServiceError;
use crate::language::Language;
use lyceum_language::tokenizer::{Tokenizer, unmarked};
use std::ops::Range;

/// Around the number of a text, where the text would stand: no tokenizer's own.
const MARKS: [char; 2] = ['\u{F8F5}', '\u{F8F6}'];

/// A prompt's tokens, and the part of each; None: a template's words.
pub(super) struct Placed {
    pub ids: Vec<u32>,
    pub of_token: Vec<Option<u32>>,
}

/// Finds every part.
///
/// # Errors
/// The template rewrites a text, or tokens do not spell the prompt.
pub(super) fn find(language: &Language, prompt: &Prompt) -> Result<Placed, ServiceError> {
    let ids = prompt.tokens(language, Left::Nothing)?;
    let written = prompt.rendered(language, |_, text| text.to_owned())?;
    let written = unmarked(&written);
    let between = prompt.rendered(language, |i, _| format!("{}{i}{}", MARKS[0], MARKS[1]))?;
    let texts = prompt.texts();
    let starts = text_places(&written, &unmarked(&between), &texts).ok_or_else(|| {
        refused("the chat template rewrites a message, so that its words have no place among the tokens")
    })?;
    let parts: Vec<Option<Range<usize>>> = prompt
        .spans()
        .iter()
        .map(|(of, span)| starts[*of].as_ref().map(|place| place.bytes(texts[*of], span)))
        .collect();
    let spans = token_places(&language.words.tokenizer, &ids, written.as_bytes())
        .ok_or_else(|| refused("the tokens do not spell the prompt in this model's vocabulary"))?;
    let part = |span: &Range<usize>| -> Option<u32> {
        // A token belongs where its first letter is.
        let letter = written.as_bytes()[span.clone()].iter().position(|b| !b.is_ascii_whitespace());
        let anchor = span.start + letter.unwrap_or(0);
        let holds = |part: &Option<Range<usize>>| part.as_ref().is_some_and(|part| part.contains(&anchor));
        (!span.is_empty()).then(|| parts.iter().position(holds)).flatten().map(|part| part as u32)
    };
    let of_token = spans.iter().map(part).collect();
    Ok(Placed { ids, of_token })
}

fn refused(why: &str) -> ServiceError {
    let message = format!("{why}: use leave_one_out or contextcite");
    ServiceError::invalid("method", "unsupported_method", message)
}

/// Where a text stands in what was written, without the space that a template cut off it.
#[derive(Debug, PartialEq)]
struct Place {
    /// The first byte.
    start: usize,
    /// Bytes of the text that were cut off before it, and those that are left.
    cut: usize,
    len: usize,
}

impl Place {
    /// The bytes of these characters of the text.
    fn bytes(&self, text: &str, span: &Range<usize>) -> Range<usize> {
        let byte = |i: usize| text.char_indices().nth(i).map_or(text.len(), |(byte, _)| byte);
        let at = |i: usize| self.start + byte(i).saturating_sub(self.cut).min(self.len);
        at(span.start)..at(span.end)
    }
}

/// Where each text stands in `written`, given what stands between them; a text that a template leaves out has no place.
fn text_places(written: &str, between: &str, texts: &[&str]) -> Option<Vec<Option<Place>>> {
    let mut places: Vec<Option<Place>> = texts.iter().map(|_| None).collect();
    let (mut at, mut rest) = (0, between);
    while let Some(begin) = rest.find(MARKS[0]) {
        let words = &rest[..begin];
        at += written[at..].starts_with(words).then_some(words.len())?;
        let number = &rest[begin + MARKS[0].len_utf8()..];
        let end = number.find(MARKS[1])?;
        let which: usize = number[..end].parse().ok()?;
        rest = &number[end + MARKS[1].len_utf8()..];
        let text = *texts.get(which)?;
        // As it is, or without space around it.
        let whole = written[at..].starts_with(text).then_some((0, text.len()));
        let trimmed = text.trim();
        let cut = text.len() - text.trim_start().len();
        let next = rest.find(MARKS[0]).map_or(rest, |next| &rest[..next]);
        let fits = |&(_, len): &(usize, usize)| written[at + len..].starts_with(next);
        let found = whole
            .filter(fits)
            .or_else(|| written[at..].starts_with(trimmed).then_some((cut, trimmed.len())).filter(fits))?;
        // A text that is written twice has its first place.
        let place = Place { start: at, cut: found.0, len: found.1 };
        places[which].get_or_insert(place);
        at += found.1;
    }
    (written[at..] == *rest).then_some(places)
}

/// The bytes of each token; what is not written (a token that begins every text) has none.
fn token_places(tokenizer: &Tokenizer, ids: &[u32], written: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut at = 0;
    let mut places = Vec::with_capacity(ids.len());
    for (i, &id) in ids.iter().enumerate() {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let rest = &written[at..];
        let len = match bytes {
            bytes if rest.starts_with(bytes) => bytes.len(),
            // Some vocabularies write a space before a text.
            [b' ', bytes @ ..] if rest.starts_with(bytes) => bytes.len(),
            _ if i == 0 || at == written.len() => 0,
            _ => return None,
        };
        places.push(at..at + len);
        at += len;
    }
    (at == written.len()).then_some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(i: usize) -> String {
        format!("{}{i}{}", MARKS[0], MARKS[1])
    }

    #[test]
    fn texts_are_found_between_a_templates_words_and_what_is_rewritten_is_not() {
        let between = format!("<s>user: {}<e>user: {}<e>bot:", marked(0), marked(1));
        let place = |start, cut, len| Some(Place { start, cut, len });
        let found = text_places("<s>user: user<e>user: hi <e>bot:", &between, &["user", " hi  "]);
        assert_eq!(found, None, "one space is cut off and one is not");
        let found = text_places("<s>user: user<e>user: hi<e>bot:", &between, &["user", " hi  "]);
        assert_eq!(found, Some(vec![place(9, 0, 4), place(22, 1, 2)]));
        assert_eq!(text_places("<s>user: USER<e>user: hi<e>bot:", &between, &["user", "hi"]), None);
        let dropped = format!("user: {}.", marked(1));
        assert_eq!(text_places("user: b.", &dropped, &["a", "b"]), Some(vec![None, place(6, 0, 1)]));
        let at = Place { start: 22, cut: 1, len: 2 };
        assert_eq!(at.bytes(" hi  ", &(0..2)), 22..23);
        assert_eq!(at.bytes(" hi  ", &(2..5)), 23..24);
    }
}
