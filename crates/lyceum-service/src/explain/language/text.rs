//! The words of a prompt to parts that can be left out, and to the tokens that the model reads without them.

use super::super::parts::spans;
use super::super::{Granularity, Parts};
use crate::ServiceError;
use crate::language::Language;
use lyceum_language::template::{Conversation, End, openai_messages};
use lyceum_language::tokenizer::{AddSpecial, Specials, Tokenizer};
use lyceum_language::tools::openai_tools;
use lyceum_types::clock::Timestamp;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// What a chat template is told beside the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// Functions that may be called, in OpenAI's shape.
    pub tools: Vec<Value>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
}

/// A prompt in the words of the caller, cut into parts.
pub(super) struct Prompt {
    source: Source,
    /// Of each part: the text that it is in, and where, in characters.
    parts: Vec<(usize, Range<usize>)>,
    /// Of each text: whether it is cut into parts.
    is_source: Vec<bool>,
}

enum Source {
    Text(String),
    /// Messages as templates read them, those whose content is a text, and the time that a template may tell.
    Conversation {
        messages: Vec<Value>,
        texts: Vec<(usize, String)>,
        frame: Frame,
        /// Of a question about one text: what stands behind it in its message, and is of no part.
        tail: Option<String>,
        now: i64,
    },
}

/// Which parts are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left<'a> {
    Nothing,
    Part(usize),
    /// All but the parts that are true here.
    Only(&'a [bool]),
    All,
}

/// Parts as the caller sees them.
pub(super) enum Pieces {
    Text { text: String, spans: Vec<Range<usize>> },
    Messages { contents: Vec<String>, spans: Vec<(usize, Range<usize>)> },
}

impl Prompt {
    pub(super) fn text(language: &Language, prompt: &str) -> Result<Self, ServiceError> {
        Prompt::of(Source::Text(prompt.to_owned())).not_empty(language, "prompt")
    }

    pub(super) fn conversation(
        language: &Language,
        messages: &[Value],
        frame: &Frame,
    ) -> Result<Self, ServiceError> {
        let Some(template) = &language.words.template else {
            let message = format!(
                "the files of {} have no chat template: send prompt and completion",
                language.version.id()
            );
            return Err(ServiceError::invalid("messages", "unsupported_model", message));
        };
        openai_tools(&frame.tools).map_err(|error| refused("tools", error))?;
        let messages = crate::messages::shaped(messages, template)?;
        let text =
            |(i, message): (usize, &Value)| message["content"].as_str().map(|text| (i, text.to_owned()));
        let texts = messages.iter().enumerate().filter_map(text).collect();
        let (frame, now) = (frame.clone(), Timestamp::now().seconds());
        let source = Source::Conversation { messages, texts, frame, tail: None, now };
        Prompt::of(source).not_empty(language, "messages")
    }

    /// A question about a text, in one message of a user.
    pub(super) fn question(
        language: &Language,
        (text, tail): (&str, &str),
        (variables, now): (&Map<String, Value>, i64),
    ) -> Result<Self, ServiceError> {
        let messages = openai_messages(&[json!({"role": "user", "content": text})]);
        let messages = messages.map_err(|error| refused("input", error))?;
        let frame = Frame { tools: Vec::new(), variables: variables.clone() };
        let (texts, tail) = (vec![(0, text.to_owned())], Some(tail.to_owned()));
        let source = Source::Conversation { messages, texts, frame, tail, now };
        Prompt::of(source).not_empty(language, "input")
    }

    fn of(source: Source) -> Self {
        let mut prompt = Prompt { source, parts: Vec::new(), is_source: Vec::new() };
        prompt.is_source = vec![true; prompt.texts().len()];
        prompt
    }

    fn not_empty(self, language: &Language, param: &str) -> Result<Self, ServiceError> {
        if self.texts().iter().all(|text| text.trim().is_empty()) {
            let message = format!("{param}: there is no text of which a part could be left out");
            return Err(ServiceError::invalid(param, "empty_text", message));
        }
        // What cannot be rendered or written in tokens is said before anything is scored.
        self.tokens(language, Left::Nothing)?;
        Ok(self)
    }

    pub(super) fn texts(&self) -> Vec<&str> {
        match &self.source {
            Source::Text(text) => vec![text],
            Source::Conversation { texts, .. } => texts.iter().map(|(_, text)| text.as_str()).collect(),
        }
    }

    /// Of each part: the text that it is in, and its characters there.
    pub(super) fn spans(&self) -> &[(usize, Range<usize>)] {
        &self.parts
    }

    pub(super) fn n_parts(&self) -> usize {
        self.parts.len()
    }

    /// With parts in these messages alone.
    ///
    /// # Errors
    /// There are no messages, or one of these has no text.
    pub(super) fn with_sources(mut self, sources: Option<&[usize]>) -> Result<Self, ServiceError> {
        let Some(sources) = sources else { return Ok(self) };
        let Source::Conversation { texts, tail: None, .. } = &self.source else {
            let message = "sources are messages of a conversation: leave it out";
            return Err(ServiceError::invalid("sources", "unsupported_parameter", message));
        };
        self.is_source = vec![false; texts.len()];
        for source in sources {
            let place = texts.iter().position(|(message, text)| message == source && !text.trim().is_empty());
            let Some(place) = place else {
                let message =
                    format!("sources: message {source} is not there, or has no text (they count from 0)");
                return Err(ServiceError::invalid("sources", "invalid_value", message));
            };
            self.is_source[place] = true;
        }
        Ok(self)
    }

    /// The texts of which there are parts.
    fn sources(&self) -> impl Iterator<Item = (usize, &str)> {
        let texts = self.texts().into_iter().enumerate();
        texts.filter(|(i, text)| self.is_source[*i] && !text.is_empty())
    }

    /// Cut as is asked; unasked into sentences, or words where there is one sentence, or paragraphs where there are
    /// more than `most`.
    pub(super) fn cut(
        mut self,
        language: &Language,
        granularity: Option<Granularity>,
        most: usize,
    ) -> Result<Self, ServiceError> {
        self.parts = match granularity {
            Some(Granularity::Message) => self.whole_messages()?,
            Some(granularity) => self.cut_into(language, granularity)?,
            None => match self.cut_into(language, Granularity::Sentence)? {
                one if one.len() == 1 => {
                    let words = self.cut_into(language, Granularity::Word)?;
                    if words.len() > most { one } else { words }
                }
                many if many.len() > most => self.cut_into(language, Granularity::Paragraph)?,
                sentences => sentences,
            },
        };
        Ok(self)
    }

    /// Every message a part.
    fn whole_messages(&self) -> Result<Vec<(usize, Range<usize>)>, ServiceError> {
        if matches!(self.source, Source::Text(_) | Source::Conversation { tail: Some(_), .. }) {
            let message = "message is a part of a conversation: use token, word, sentence or paragraph";
            return Err(ServiceError::invalid("granularity", "unsupported_granularity", message));
        }
        Ok(self.sources().map(|(i, text)| (i, 0..text.chars().count())).collect())
    }

    fn cut_into(
        &self,
        language: &Language,
        granularity: Granularity,
    ) -> Result<Vec<(usize, Range<usize>)>, ServiceError> {
        let mut parts = Vec::new();
        for (i, text) in self.sources() {
            let tokens = tokens_with_spans(&language.words.tokenizer, text, "prompt")?;
            parts.extend(spans(text, &tokens, Some(granularity))?.into_iter().map(|span| (i, span)));
        }
        Ok(parts)
    }

    /// What the model reads before its answer.
    ///
    /// # Errors
    /// The template refuses what is left; nothing is left that a model could begin with.
    pub(super) fn tokens(&self, language: &Language, left: Left<'_>) -> Result<Vec<u32>, ServiceError> {
        let tokenizer = &language.words.tokenizer;
        match &self.source {
            Source::Text(text) => {
                let kept = self.without(0, text, left);
                let ids = tokenizer.encode(&kept, AddSpecial::Yes, Specials::Parsed);
                let ids = ids.map_err(|error| refused("prompt", error))?;
                if !ids.is_empty() {
                    return Ok(ids);
                }
                let begin = tokenizer.bos().or(tokenizer.eos());
                begin.map(|id| vec![id]).ok_or_else(|| {
                    let message =
                        "without the prompt nothing is left, and the model has no token to begin with";
                    ServiceError::invalid("prompt", "empty_text", message)
                })
            }
            Source::Conversation { .. } => {
                let text = self.rendered(language, |i, text| self.without(i, text, left))?;
                let ids = tokenizer.encode(&text, AddSpecial::No, Specials::Protected);
                ids.map_err(|error| refused("messages", error))
            }
        }
    }

    /// What a conversation's template makes of it, its texts as `write` gives them, with marks around what must not be
    /// forged; of a text, the text.
    pub(super) fn rendered(
        &self,
        language: &Language,
        write: impl Fn(usize, &str) -> String,
    ) -> Result<String, ServiceError> {
        let (messages, texts, frame, tail, now) = match &self.source {
            Source::Text(text) => return Ok(write(0, text)),
            Source::Conversation { messages, texts, frame, tail, now } => (messages, texts, frame, tail, now),
        };
        let mut messages = messages.clone();
        for (i, (message, text)) in texts.iter().enumerate() {
            messages[*message]["content"] = (write(i, text) + tail.as_deref().unwrap_or_default()).into();
        }
        let template = language.words.template.as_ref();
        let template = template.ok_or_else(|| ServiceError::internal("no chat template", "bug"))?;
        let conversation = Conversation {
            messages: &messages,
            tools: (!frame.tools.is_empty()).then_some(&frame.tools[..]),
            end: End::GenerationPrompt,
            variables: frame.variables.clone(),
            now: *now,
            guard: language.words.tokenizer.guarded(template.source()),
            ..Conversation::default()
        };
        template.render(&conversation).map_err(crate::messages::unwritten)
    }

    /// A text without what is left out of it. (With `All`, also what is of no part; a text that is no source stays.)
    fn without(&self, which: usize, text: &str, left: Left<'_>) -> String {
        let is_out = |part: usize| match left {
            Left::Nothing | Left::All => false,
            Left::Part(out) => part == out,
            Left::Only(kept) => !kept[part],
        };
        if left == Left::All && self.is_source[which] {
            return String::new();
        }
        let own = self.parts.iter().enumerate().filter(|(_, (of, _))| *of == which);
        let out: Vec<&Range<usize>> =
            own.filter(|(part, _)| is_out(*part)).map(|(_, (_, span))| span).collect();
        let stays = |i: usize| !out.iter().any(|span| span.contains(&i));
        text.chars().enumerate().filter(|(i, _)| stays(*i)).map(|(_, c)| c).collect()
    }

    pub(super) fn parts(&self) -> Parts {
        let pieces = match &self.source {
            Source::Text(text) => Pieces::Text {
                text: text.clone(),
                spans: self.parts.iter().map(|(_, span)| span.clone()).collect(),
            },
            Source::Conversation { texts, tail: Some(_), .. } => Pieces::Text {
                text: texts[0].1.clone(),
                spans: self.parts.iter().map(|(_, span)| span.clone()).collect(),
            },
            Source::Conversation { messages, texts, .. } => {
                let content = |message: &Value| message["content"].as_str().unwrap_or_default().to_owned();
                Pieces::Messages {
                    contents: messages.iter().map(content).collect(),
                    spans: self.parts.iter().map(|(i, span)| (texts[*i].0, span.clone())).collect(),
                }
            }
        };
        pieces.into()
    }
}

/// Tokens of a text that nobody may forge special ones in, each with the characters that its bytes are of.
pub(super) fn tokens_with_spans(
    tokenizer: &Tokenizer,
    text: &str,
    param: &str,
) -> Result<Vec<(u32, Range<usize>)>, ServiceError> {
    let ids = tokenizer.encode(text, AddSpecial::No, Specials::AsText);
    let ids = ids.map_err(|error| refused(param, error))?;
    let bytes: Vec<&[u8]> = ids.iter().map(|&id| tokenizer.token_bytes(id).unwrap_or_default()).collect();
    let spelt = bytes.concat();
    // Some vocabularies write a space before a text.
    let Some(before) = spelt.len().checked_sub(text.len()).filter(|&n| spelt[n..] == *text.as_bytes()) else {
        let message = format!(
            "{param}: its tokens do not spell it in this model's vocabulary: parts of it have no place"
        );
        return Err(ServiceError::invalid(param, "unsupported_text", message));
    };
    // The character that each byte is of; behind the last, their number.
    let mut characters = Vec::with_capacity(text.len() + 1);
    for (i, c) in text.chars().enumerate() {
        characters.extend(std::iter::repeat_n(i, c.len_utf8()));
    }
    characters.push(text.chars().count());
    let (mut at, mut tokens) = (0, Vec::with_capacity(ids.len()));
    for (id, bytes) in ids.into_iter().zip(bytes) {
        let (start, end) = (at.max(before) - before, (at + bytes.len()).max(before) - before);
        let last = if end > start { characters[end - 1] + 1 } else { characters[start] };
        tokens.push((id, characters[start]..last));
        at += bytes.len();
    }
    Ok(tokens)
}

/// What the text half refuses, as the fault of a field.
fn refused(param: &str, error: lyceum_language::LanguageError) -> ServiceError {
    ServiceError::invalid(param, "invalid_value", format!("{param}: {error}"))
}
