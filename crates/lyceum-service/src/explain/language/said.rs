//! What a model said, cut into what it thought, what it answered and what it called.
//!
//! An answer that is words alone is read as a text. One with thinking or calls is its tokens, with the marks around both: the
//! same parsers that served it find where each begins and ends.

use super::super::SaidPart;
use super::text::{Frame, tokens_with_spans};
use crate::ServiceError;
use crate::language::Language;
use lyceum_language::reasoning::{Part, ReasoningFormat, ReasoningParser};
use lyceum_language::tokenizer::{AddSpecial, Position, ShowSpecials, Specials, TextStream, Tokenizer};
use lyceum_language::tools::parse::Calls;
use lyceum_language::tools::{Event, ToolFormat, ToolParser, openai_tools};
use std::ops::Range;

/// What was said: words, or tokens with the marks of thinking and calls.
#[derive(Clone, Debug, PartialEq)]
pub enum Saying {
    Text(String),
    Tokens(Vec<u32>),
}

/// An answer, its tokens with their places in characters, and the part of it that is explained.
pub(super) struct Said {
    pub text: String,
    pub tokens: Vec<(u32, Range<usize>)>,
    pub part: SaidPart,
    /// The characters of the part.
    pub span: Range<usize>,
    /// The model made these very tokens; else they are how its tokenizer writes a text.
    pub is_made: bool,
    specials: Specials,
}

impl Said {
    /// Words alone.
    pub(super) fn text(language: &Language, text: &str) -> Result<Self, ServiceError> {
        let tokens = tokens_with_spans(&language.words.tokenizer, text, "completion")?;
        if tokens.is_empty() {
            let message = "completion: the text is empty: there is nothing to explain";
            return Err(ServiceError::invalid("completion", "empty_text", message));
        }
        let span = 0..text.chars().count();
        let (part, specials) = (SaidPart::Content, Specials::AsText);
        Ok(Said { text: text.to_owned(), tokens, part, span, is_made: false, specials })
    }

    /// A part of a whole answer; `prompt` is the text that the model read, which says whether it thinks already.
    ///
    /// # Errors
    /// The answer has no such part, or its place cannot be told.
    pub(super) fn part(
        language: &Language,
        saying: &Saying,
        (frame, prompt): (&Frame, &str),
        part: SaidPart,
    ) -> Result<Self, ServiceError> {
        let tokenizer = &language.words.tokenizer;
        let ids = match saying {
            Saying::Tokens(ids) => ids.clone(),
            Saying::Text(text) => {
                let ids = tokenizer.encode(text, AddSpecial::No, Specials::Parsed);
                ids.map_err(|error| invalid("completion", error.to_string()))?
            }
        };
        let Some(template) = &language.words.template else {
            return Err(invalid("target", "a model without a chat template says texts without parts".into()));
        };
        let tools = openai_tools(&frame.tools).map_err(|error| invalid("tools", error.to_string()))?;
        let format = ToolFormat::of(template.source());
        let show = if tools.is_empty() { ShowSpecials::No } else { ShowSpecials::Only(format.markers()) };
        let (text, tokens) = spelt(tokenizer, ids, show)?;
        let parser = |seed| (!tools.is_empty()).then(|| ToolParser::new(format, &tools, Calls::Any, seed));
        let found = Parts::find(&text, ReasoningFormat::of(template.source(), prompt), parser(0));
        let place = match part {
            SaidPart::Reasoning => found.reasoning,
            SaidPart::Content => found.content,
            SaidPart::Call(n) => found.calls.get(n).cloned(),
        };
        let Some(bytes) = place else {
            let message = format!("the answer has no {}", part.words());
            return Err(ServiceError::invalid("target", "unsupported_target", message));
        };
        let characters = |byte: usize| text[..byte].chars().count();
        let span = characters(bytes.start)..characters(bytes.end);
        let is_made = matches!(saying, Saying::Tokens(_));
        Ok(Said { text, tokens, part, span, is_made, specials: Specials::Parsed })
    }

    /// The characters of a span.
    pub(super) fn characters(&self, span: Range<usize>) -> String {
        self.text.chars().skip(span.start).take(span.len()).collect()
    }

    /// The tokens of the answer with another text from this character on.
    pub(super) fn instead(
        &self,
        language: &Language,
        at: usize,
        other: &str,
    ) -> Result<Vec<u32>, ServiceError> {
        let tokenizer = &language.words.tokenizer;
        let text = format!("{}{other}", self.characters(0..at));
        if self.specials == Specials::AsText {
            return Ok(Said::text(language, &text)?.tokens.into_iter().map(|(id, _)| id).collect());
        }
        let encode = |text: &str| {
            let ids = tokenizer.encode(text, AddSpecial::No, self.specials);
            ids.map_err(|error| invalid("target", error.to_string()))
        };
        let whole = encode(&text)?;
        let first = self.tokens_of(&(at..at + 1)).start;
        let own: Vec<u32> = self.tokens[..first].iter().map(|(id, _)| *id).collect();
        if whole.starts_with(&own) || !tokenizer.is_made_of_bytes() {
            return Ok(whole);
        }
        // The model spelt what stands before in its own way, which stays.
        let head = self.characters(self.tokens[first].1.start..at);
        let rest = format!("{head}{other}");
        let ids = encode(&rest)?;
        let spelt: Vec<&[u8]> = ids.iter().filter_map(|&id| tokenizer.token_bytes(id)).collect();
        // Some vocabularies write a space before a text: that is no text that could stand there.
        Ok(if spelt.concat() == rest.as_bytes() { [own, ids].concat() } else { whole })
    }

    /// The tokens that have a character of the span.
    pub(super) fn tokens_of(&self, span: &Range<usize>) -> Range<usize> {
        let touches = |(_, (_, token)): &(usize, &(u32, Range<usize>))| {
            token.start < span.end && token.end > span.start
        };
        let mut found = self.tokens.iter().enumerate().filter(touches).map(|(i, _)| i);
        let first = found.next().unwrap_or(0);
        first..found.next_back().unwrap_or(first) + 1
    }
}

fn invalid(param: &str, message: String) -> ServiceError {
    ServiceError::invalid(param, "invalid_value", format!("{param}: {message}"))
}

/// A text, and its tokens with the characters of each.
type Spelt = (String, Vec<(u32, Range<usize>)>);

/// The text that tokens spell behind a prompt, as it was served.
fn spelt(tokenizer: &Tokenizer, ids: Vec<u32>, show: ShowSpecials) -> Result<Spelt, ServiceError> {
    let mut stream = TextStream::new(Position::Continuation, show);
    let (mut text, mut n, mut tokens) = (String::new(), 0, Vec::with_capacity(ids.len()));
    for id in ids {
        let piece = stream.push(tokenizer, id).map_err(|error| invalid("completion", error.to_string()))?;
        let start = n;
        n += piece.chars().count();
        text.push_str(&piece);
        tokens.push((id, start..n));
    }
    // A character of several tokens is of all of them.
    for i in (1..tokens.len()).rev() {
        let bytes = tokenizer.token_bytes(tokens[i - 1].0).unwrap_or_default();
        let (whole, next) = (std::str::from_utf8(bytes).is_ok(), tokens[i].1.clone());
        if !whole && tokens[i - 1].1.is_empty() && !next.is_empty() {
            tokens[i - 1].1 = next.start..next.start + 1;
        }
    }
    Ok((text, tokens))
}

/// Where the parts of an answer stand, in bytes.
#[derive(Debug, Default, PartialEq)]
struct Parts {
    reasoning: Option<Range<usize>>,
    /// The first words of the answer that are neither thought nor called.
    content: Option<Range<usize>>,
    /// Each from its mark to the end of its arguments.
    calls: Vec<Range<usize>>,
}

impl Parts {
    fn find(text: &str, format: Option<ReasoningFormat>, tools: Option<ToolParser>) -> Self {
        let mut found = Parts::default();
        let mut answer = 0..text.len();
        if let Some(format) = format {
            let mut parser = ReasoningParser::new(format);
            let (mut thought, mut said) = (String::new(), String::new());
            for part in parser.push(text).into_iter().chain(parser.finish()) {
                match part {
                    Part::Reasoning(words) => thought.push_str(&words),
                    Part::Content(words) => said.push_str(&words),
                }
            }
            // Behind its mark, where the model wrote one.
            let opened = text.find(format.open).map_or(0, |at| at + format.open.len());
            let from = if text.trim_start().starts_with(format.open) { opened } else { 0 };
            if !thought.is_empty() {
                found.reasoning = place(text, from, &thought);
            }
            answer = if text.ends_with(&said) { text.len() - said.len()..text.len() } else { 0..0 };
        }
        let said = &text[answer.clone()];
        let Some(mut parser) = tools else {
            found.content = (!said.trim().is_empty()).then_some(answer);
            return found;
        };
        // What is certain after each character.
        let ends = said.char_indices().map(|(at, c)| at + c.len_utf8());
        let mut done = 0;
        let mut take = |events: Vec<Event>, end: usize, found: &mut Parts| {
            for event in events {
                match event {
                    Event::Content(words) => {
                        let Some(place) = place(said, done, &words) else { continue };
                        done = place.end;
                        let place = answer.start + place.start..answer.start + place.end;
                        match &mut found.content {
                            Some(content) if content.end == place.start => content.end = place.end,
                            None if !words.trim().is_empty() => found.content = Some(place),
                            _ => {}
                        }
                    }
                    Event::Call(_) => {
                        let space = said[done..end].len() - said[done..end].trim_start().len();
                        found.calls.push(answer.start + done + space..answer.start + end);
                        done = end;
                    }
                }
            }
        };
        let mut last = 0;
        for end in ends {
            take(parser.push(&said[last..end]), end, &mut found);
            last = end;
        }
        take(parser.finish(), said.len(), &mut found);
        found
    }
}

fn place(text: &str, from: usize, words: &str) -> Option<Range<usize>> {
    let start = from + text.get(from..)?.find(words)?;
    Some(start..start + words.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_language::reasoning::Begins;
    use serde_json::json;

    fn parts(text: &str, thinks: bool, calls: bool) -> (Option<&str>, Option<&str>, Vec<&str>) {
        let format = ReasoningFormat { open: "<think>", close: "</think>", begins: Begins::Outside };
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object",
            "properties": {"a": {"type": "integer"}}}}});
        let tools = openai_tools(&[tool]).unwrap();
        let parser = calls.then(|| ToolParser::new(ToolFormat::Hermes, &tools, Calls::Any, 0));
        let found = Parts::find(text, thinks.then_some(format), parser);
        let of = |range: Range<usize>| &text[range];
        (found.reasoning.map(of), found.content.map(of), found.calls.into_iter().map(of).collect())
    }

    #[test]
    fn thinking_answers_and_calls_are_found_where_they_stand() {
        let call = |n: usize| {
            format!("<tool_call>\n{{\"name\": \"f\", \"arguments\": {{\"a\": {n}}}}}\n</tool_call>")
        };
        assert_eq!(parts("think", true, false), (None, Some("think"), vec![]));
        let text = "<think>\nthink why\n</think>\n\nBecause.";
        assert_eq!(parts(text, true, false), (Some("think why"), Some("Because."), vec![]));
        assert_eq!(parts(text, false, false).1, Some(text));
        let text = format!("<think>t</think>So: {}\n{}", call(1), call(22));
        let (thought, said, calls) = parts(&text, true, true);
        assert_eq!((thought, said.map(str::trim), calls.len()), (Some("t"), Some("So:"), 2), "{calls:?}");
        for (call, n) in calls.iter().zip(["{\"a\": 1}", "{\"a\": 22}"]) {
            assert!(call.starts_with("<tool_call>") && call.contains(n), "{call}");
        }
        assert!(!calls[0].contains("22"));
        assert_eq!(parts("no call", true, true), (None, Some("no call"), vec![]));
    }
}
