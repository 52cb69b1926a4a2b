//! Texts to token ids and back, exactly as a model was trained with: from a `tokenizer.json` ([`json`]) or from
//! the vocabulary inside a GGUF file ([`gguf`]).
//!
//! A text becomes ids in four steps: special tokens are found in it (or not, [`Specials`]); what lies between is
//! normalised and cut into words; each word becomes tokens (BPE, WordPiece, or SentencePiece in
//! [`sentencepiece`]); a prefix and suffix such as `<s>` are added ([`AddSpecial`]).
//!
//! A user's text must not forge the special tokens that a chat template writes. [`Guard::protect`]
//! marks them with two characters of Unicode's private use area; [`Specials::Protected`] reads the marks.

mod byte_level;
pub mod gguf;
pub mod json;
mod pre;
mod sentencepiece;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

pub use gguf::{GgufVocabulary, TokenKind};
pub use stream::{Position, TextStream};

use crate::LanguageError;
use sentencepiece::SentencePiece;
use std::borrow::Cow;
use tokenizers::{
    AddedVocabulary, Model, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer,
};

/// Whether ids get the prefix and suffix that the model was trained with (`<s>`, `[CLS]`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddSpecial {
    No,
    Yes,
}

/// What special tokens written in a text mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// They are characters like others. Tokens of the vocabulary that are not special (`<tool_call>` of Qwen 3)
    /// are found all the same.
    AsText,
    /// They are themselves: for texts that a template or a trusted caller wrote.
    Parsed,
    /// They are themselves where [`Guard::protect`] did not mark them.
    Protected,
}

pub(crate) const MARK_BEGIN: char = '\u{F8F0}';
pub(crate) const MARK_END: char = '\u{F8F1}';

/// Texts to ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    body: Body,
    /// Finds all added tokens.
    parsed: AddedVocabulary,
    /// Finds added tokens that are not special.
    as_text: AddedVocabulary,
    /// By id; `None` where an id stands for nothing.
    pieces: Vec<Option<Piece>>,
    joins: Joins,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    bos: Option<u32>,
    /// Tokens that end an answer; the first is `eos`.
    ends: Vec<u32>,
    unk: Option<u32>,
}

#[derive(Debug)]
enum Body {
    /// The `tokenizers` library: byte-level BPE, WordPiece, and whatever a `tokenizer.json` says.
    Pipeline(Box<tokenizers::Tokenizer>),
    SentencePiece(SentencePiece),
}

/// A token with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub id: u32,
    /// Bytes of the text, without the space before a word.
    pub bytes: std::ops::Range<usize>,
    /// It goes on with the word of the token before it.
    pub is_subword: bool,
}

/// What a token stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub bytes: Vec<u8>,
    pub special: bool,
}

/// How tokens become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joins {
    /// Their bytes one after the other.
    Bytes,
    /// Likewise; the first space of a text is not part of it (SentencePiece adds one).
    BytesAfterSpace,
    /// By the library's decoder (WordPiece: spaces depend on what stands beside).
    Library,
}

/// What [`Tokenizer::assemble`] puts together.
pub(crate) struct Parts {
    body: Body,
    added: AddedVocabulary,
    pieces: Vec<Option<Piece>>,
    joins: Joins,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

impl Tokenizer {
    fn assemble(parts: Parts) -> Self {
        let mut as_text = parts.added.clone();
        as_text.set_encode_special_tokens(true);
        let mut parsed = parts.added;
        parsed.set_encode_special_tokens(false);
        Tokenizer {
            body: parts.body,
            parsed,
            as_text,
            pieces: parts.pieces,
            joins: parts.joins,
            prefix: parts.prefix,
            suffix: parts.suffix,
            bos: None,
            ends: Vec::new(),
            unk: None,
        }
    }

    /// Ids of a text.
    ///
    /// # Errors
    /// The tokenizer has no way to express the text (a character outside a vocabulary without bytes or `<unk>`).
    pub fn encode(&self, text: &str, add: AddSpecial, specials: Specials) -> Result<Vec<u32>, LanguageError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 4);
        if add == AddSpecial::Yes {
            ids.extend_from_slice(&self.prefix);
        }
        self.encode_into(text, specials, &mut ids)?;
        if add == AddSpecial::Yes {
            ids.extend_from_slice(&self.suffix);
        }
        Ok(ids)
    }

    fn encode_into(&self, text: &str, specials: Specials, out: &mut Vec<u32>) -> Result<(), LanguageError> {
        if text.is_empty() {
            return Ok(());
        }
        let (text, marked) = match specials {
            Specials::Protected => marks_inside(text),
            _ => (Cow::Borrowed(text), false),
        };
        let added = if specials == Specials::AsText { &self.as_text } else { &self.parsed };
        match &self.body {
            Body::Pipeline(tokenizer) => {
                let mut words = added.extract_and_normalize(tokenizer.get_normalizer(), &text);
                if marked {
                    let unmark = |word: &mut tokenizers::NormalizedString| {
                        word.filter(|c| c != MARK_BEGIN);
                        Ok(())
                    };
                    words.normalize(unmark).map_err(inexpressible)?;
                }
                if let Some(pre) = tokenizer.get_pre_tokenizer() {
                    pre.pre_tokenize(&mut words).map_err(inexpressible)?;
                }
                words.tokenize(|word| tokenizer.get_model().tokenize(word.get())).map_err(inexpressible)?;
                push_ids(&words, out);
            }
            Body::SentencePiece(model) => {
                let parts = added.extract_and_normalize::<NormalizerWrapper>(None, &text);
                // The space is added where a text or what follows a special token begins.
                for (part, _, token) in parts.get_splits(OffsetReferential::Original, OffsetType::None) {
                    match token {
                        Some(tokens) => out.extend(tokens.iter().map(|token| token.id)),
                        None if marked => model.encode_into(&part.replace(MARK_BEGIN, ""), out)?,
                        None => model.encode_into(part, out)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Tokens of a text with their places in it, as a token classifier reads them: special tokens written in it are
    /// characters like others, and those that stand around a text ([`affixes`](Self::affixes)) are left out.
    ///
    /// A token goes on with a word where its text lacks the vocabulary's mark of beginnings: of WordPiece, where it
    /// is shorter than what is written (`##ing`), of others where no space stands before it (`transformers`' rules).
    ///
    /// # Errors
    /// The tokenizer keeps no places, or cannot express the text.
    pub fn encode_spans(&self, text: &str) -> Result<Vec<Span>, LanguageError> {
        let Body::Pipeline(tokenizer) = &self.body else {
            return Err(LanguageError::Tokenizer("this vocabulary keeps no places of tokens".into()));
        };
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let mut words = self.as_text.extract_and_normalize(tokenizer.get_normalizer(), text);
        if let Some(pre) = tokenizer.get_pre_tokenizer() {
            pre.pre_tokenize(&mut words).map_err(inexpressible)?;
        }
        words.tokenize(|word| tokenizer.get_model().tokenize(word.get())).map_err(inexpressible)?;
        let encoding = words.into_encoding(None, 0, OffsetType::Byte).map_err(inexpressible)?;
        let pieces = match tokenizer.get_model() {
            tokenizers::ModelWrapper::WordPiece(model) => Some(tokenizer.token_to_id(&model.unk_token)),
            _ => None,
        };
        let all = encoding.get_ids().iter().zip(encoding.get_tokens()).zip(encoding.get_offsets());
        let spans = all.map(|((&id, token), &(start, end))| {
            let inside = || LanguageError::Tokenizer("a token ends inside of a character".into());
            let written = text.get(start..end).ok_or_else(inside)?;
            let (start, whole) = (end - written.trim_start().len(), written.chars().count());
            let is_subword = match pieces {
                Some(unk) => Some(id) != unk && token.chars().count() != whole,
                None => Some(id) != self.unk && text[..start].chars().next_back().is_some_and(|c| c != ' '),
            };
            Ok(Span { id, bytes: start..end, is_subword })
        });
        spans.collect()
    }

    /// The tokens that stand before and behind a text where the model wants them.
    pub fn affixes(&self) -> (&[u32], &[u32]) {
        (&self.prefix, &self.suffix)
    }

    /// A pair of texts for encoders (`[CLS] a [SEP] b [SEP]`): ids, and for each 0 or 1, the segment it is of.
    ///
    /// # Errors
    /// The tokenizer has no form for pairs.
    pub fn encode_pair(&self, a: &str, b: &str) -> Result<(Vec<u32>, Vec<u32>), LanguageError> {
        let Body::Pipeline(tokenizer) = &self.body else {
            return Err(LanguageError::Tokenizer("this vocabulary has no form for pairs of texts".into()));
        };
        if tokenizer.get_post_processor().is_none() {
            return Err(LanguageError::Tokenizer("this tokenizer has no form for pairs of texts".into()));
        }
        let encoding = |text: &str, segment: u32| -> Result<tokenizers::Encoding, LanguageError> {
            let mut ids = Vec::new();
            self.encode_into(text, Specials::AsText, &mut ids)?;
            let tokens =
                ids.into_iter().map(|id| tokenizers::Token::new(id, String::new(), (0, 0))).collect();
            Ok(tokenizers::Encoding::from_tokens(tokens, segment))
        };
        let pair =
            tokenizer.post_process(encoding(a, 0)?, Some(encoding(b, 1)?), true).map_err(inexpressible)?;
        Ok((pair.get_ids().to_vec(), pair.get_type_ids().to_vec()))
    }

    /// The tokens that a text written by a user must not forge, longest first: the special ones, and those others
    /// that `template` writes itself (`<tool_call>` of Qwen 3).
    pub fn guarded(&self, template: &str) -> Guard {
        let added = self.parsed.get_added_tokens_decoder().values();
        let guarded = added.filter(|token| token.special || template.contains(token.content.as_str()));
        let mut texts: Vec<String> = guarded.map(|token| token.content.clone()).collect();
        texts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        Guard(texts)
    }

    /// The text of ids. Special tokens are left out; broken UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// An id that stands for nothing.
    pub fn decode(&self, ids: &[u32]) -> Result<String, LanguageError> {
        self.decode_as(ids, ShowSpecials::No)
    }

    /// As [`decode`](Self::decode), where special tokens can be shown by their names.
    pub fn decode_as(&self, ids: &[u32], show: ShowSpecials) -> Result<String, LanguageError> {
        if let Some(id) = ids.iter().find(|&&id| self.piece(id).is_none()) {
            return Err(self.no_such_id(*id));
        }
        if self.joins == Joins::Library {
            let Body::Pipeline(tokenizer) = &self.body else {
                unreachable!("only the library joins so: bug")
            };
            return tokenizer.decode(ids, show != ShowSpecials::Yes).map_err(inexpressible);
        }
        let mut stream = TextStream::new(Position::Beginning, show);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(self, id)?);
        }
        text.push_str(&stream.finish());
        Ok(text)
    }

    /// The bytes that a token adds to a text; a special token's are its name. `None` where no token has this id.
    /// WordPiece's are those of the piece alone, without the space before it.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.piece(id).map(|piece| piece.bytes.as_slice())
    }

    /// Whether a token is special: it means something to the model and is no text of an answer.
    pub fn is_special(&self, id: u32) -> bool {
        self.piece(id).is_some_and(|piece| piece.special)
    }

    /// The id of a token written so: a special token's name, or the vocabulary's own spelling.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        match &self.body {
            Body::Pipeline(tokenizer) => tokenizer.token_to_id(text),
            Body::SentencePiece(model) => model.token_id(text),
        }
        .or_else(|| self.parsed.get_vocab().get(text).copied())
    }

    /// Ids run from 0 to this; some may stand for nothing.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Whether every token stands for bytes, so that grammars and pieces of text can be told from tokens alone.
    pub fn is_made_of_bytes(&self) -> bool {
        self.joins != Joins::Library
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The first of [`ends`](Self::ends).
    pub fn eos(&self) -> Option<u32> {
        self.ends.first().copied()
    }

    /// Tokens that end an answer: `eos`, and the ends of turns.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    /// Sets the tokens that end an answer, as `generation_config.json` names them.
    ///
    /// # Errors
    /// An id that stands for nothing.
    pub fn with_ends(mut self, ends: &[u32]) -> Result<Self, LanguageError> {
        if let Some(id) = ends.iter().find(|&&id| self.piece(id).is_none()) {
            return Err(self.no_such_id(*id));
        }
        self.ends = ends.to_vec();
        Ok(self)
    }

    fn piece(&self, id: u32) -> Option<&Piece> {
        self.pieces.get(id as usize).and_then(Option::as_ref)
    }

    fn no_such_id(&self, id: u32) -> LanguageError {
        LanguageError::Text(format!("no token has the id {id}; there are {}", self.vocab_size()))
    }
}

/// Whether decoding shows special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowSpecials {
    No,
    Yes,
    /// Only these, such as the markers of tool calls
    /// ([`ToolFormat::markers`](crate::tools::ToolFormat::markers)).
    Only(&'static [&'static str]),
}

impl ShowSpecials {
    fn shows(self, special: &[u8]) -> bool {
        match self {
            ShowSpecials::No => false,
            ShowSpecials::Yes => true,
            ShowSpecials::Only(names) => names.iter().any(|name| name.as_bytes() == special),
        }
    }
}

fn push_ids(words: &PreTokenizedString, out: &mut Vec<u32>) {
    for (_, _, tokens) in words.get_splits(OffsetReferential::Original, OffsetType::None) {
        out.extend(tokens.iter().flatten().map(|token| token.id));
    }
}

fn inexpressible(error: tokenizers::Error) -> LanguageError {
    LanguageError::Text(format!("the tokenizer refuses it: {error}"))
}

/// Tokens that a user's text must not forge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard(Vec<String>);

impl Guard {
    /// The text with each guarded token between marks. Marks that were in it are taken out first, so none is
    /// forged.
    pub fn protect<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        if text.contains([MARK_BEGIN, MARK_END]) {
            text = Cow::Owned(text.replace([MARK_BEGIN, MARK_END], ""));
        }
        if !self.0.iter().any(|token| text.contains(token.as_str())) {
            return text;
        }
        let mut out = String::with_capacity(text.len() + 16);
        let mut rest = text.as_ref();
        while let Some(c) = rest.chars().next() {
            if let Some(token) = self.0.iter().find(|token| rest.starts_with(token.as_str())) {
                out.extend([MARK_BEGIN]);
                out.push_str(token);
                out.extend([MARK_END]);
                rest = &rest[token.len()..];
            } else {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        Cow::Owned(out)
    }
}

/// A text without its marks, for people to read.
pub fn unmarked(text: &str) -> Cow<'_, str> {
    match text.contains([MARK_BEGIN, MARK_END]) {
        true => Cow::Owned(text.replace([MARK_BEGIN, MARK_END], "")),
        false => Cow::Borrowed(text),
    }
}

/// Moves each mark into the token that it stands before (`|<s>|` becomes `<|s>`), where it breaks the token
/// until it is taken out of the words. Marks that a template tore from their tokens break the text where they
/// are. Says whether there is any.
fn marks_inside(text: &str) -> (Cow<'_, str>, bool) {
    if !text.contains([MARK_BEGIN, MARK_END]) {
        return (Cow::Borrowed(text), false);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            MARK_BEGIN => match chars.next() {
                Some(next) if next != MARK_BEGIN && next != MARK_END => {
                    out.push(next);
                    out.push(MARK_BEGIN);
                }
                _ => out.push(MARK_BEGIN),
            },
            MARK_END => out.push(MARK_BEGIN),
            c => out.push(c),
        }
    }
    (Cow::Owned(out), true)
}
