//! Text as it comes, token by token: never half a character.

use super::{Body, Joins, ShowSpecials, Tokenizer};
use crate::LanguageError;

/// Where a stream of tokens stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// A text begins: the space that SentencePiece adds before its first word is left out.
    Beginning,
    /// Tokens follow others, as an answer follows its prompt.
    Continuation,
}

/// Decodes a stream of tokens. The pieces together are [`Tokenizer::decode`] of all ids.
#[derive(Clone, Debug)]
pub struct TextStream {
    position: Position,
    show: ShowSpecials,
    /// Bytes of a character that is not whole.
    bytes: Vec<u8>,
    /// [`Joins::Library`]: all ids, and how much of their text was given.
    ids: Vec<u32>,
    n_given: usize,
    held: String,
}

impl TextStream {
    pub fn new(position: Position, show: ShowSpecials) -> Self {
        TextStream { position, show, bytes: Vec::new(), ids: Vec::new(), n_given: 0, held: String::new() }
    }

    /// The text that became whole with this token; often empty.
    ///
    /// # Errors
    /// An id that stands for nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, LanguageError> {
        let piece = tokenizer.piece(id).ok_or_else(|| tokenizer.no_such_id(id))?;
        if tokenizer.joins == Joins::Library {
            return self.push_library(tokenizer, id);
        }
        if piece.special && !self.show.shows(&piece.bytes) {
            return Ok(String::new());
        }
        let mut bytes = piece.bytes.as_slice();
        if self.position == Position::Beginning && !piece.special {
            if tokenizer.joins == Joins::BytesAfterSpace {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
            self.position = Position::Continuation;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(take_whole(&mut self.bytes))
    }

    /// What is left at the end: a broken character as U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.bytes)));
        text
    }

    /// Pieces whose spaces depend on their neighbours: the text of all ids, as far as it is longer than before
    /// and does not end within a character.
    fn push_library(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, LanguageError> {
        let Body::Pipeline(library) = &tokenizer.body else { unreachable!("only the library joins so: bug") };
        self.ids.push(id);
        let text = library
            .decode(&self.ids, self.show != ShowSpecials::Yes)
            .map_err(|error| LanguageError::Text(format!("the tokenizer cannot decode it: {error}")))?;
        let new = text.get(self.n_given..).unwrap_or_default();
        if new.ends_with('\u{FFFD}') {
            self.held = new.to_owned();
            return Ok(String::new());
        }
        self.held.clear();
        let new = new.to_owned();
        self.n_given = text.len().max(self.n_given);
        Ok(new)
    }
}

/// Takes all whole characters from the front. Bytes that can never become one are U+FFFD, as
/// [`String::from_utf8_lossy`] has them; a beginning that still can stays.
fn take_whole(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut taken = 0;
    loop {
        match std::str::from_utf8(&bytes[taken..]) {
            Ok(rest) => {
                text.push_str(rest);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let whole = taken + error.valid_up_to();
                text.push_str(std::str::from_utf8(&bytes[taken..whole]).expect("checked above: bug"));
                match error.error_len() {
                    Some(n) => {
                        text.push('\u{FFFD}');
                        taken = whole + n;
                    }
                    None => {
                        bytes.drain(..whole);
                        return text;
                    }
                }
            }
        }
    }
}
