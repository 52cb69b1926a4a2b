//! Texts to token ids and back: one token a character, one a byte, a trained byte-level BPE, or a
//! `tokenizer.json`.
//!
//! Special tokens (`<unk>`, `<bos>`, `<eos>`) stand after the vocabulary and are never read from a text: the
//! characters `<eos>` in an input are those five characters. What a vocabulary cannot express is refused, or
//! becomes `<unk>` where training declared it; never anything else.

use super::error::PrepareError;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

/// Texts to ids and back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Tokenizer {
    kind: Kind,
    unk: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
}

#[derive(Clone, Debug)]
enum Kind {
    Char {
        characters: Vec<char>,
        ids: HashMap<char, u32>,
    },
    Byte,
    /// A `tokenizer.json`; `byte_level`: each token stands for bytes.
    File {
        tokenizer: Box<tokenizers::Tokenizer>,
        byte_level: bool,
    },
}

/// The special tokens a task needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Specials {
    /// Character tokenizers: a character that training did not have becomes `<unk>` instead of an error.
    pub unk: bool,
    pub bos: bool,
    pub eos: bool,
}

/// What a manifest keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Stored {
    Char { characters: String, unk: Option<u32>, bos: Option<u32>, eos: Option<u32> },
    Byte { bos: Option<u32>, eos: Option<u32> },
    File { tokenizer: serde_json::Value, bos: Option<u32>, eos: Option<u32> },
}

impl Tokenizer {
    /// A token for each character that occurs, in Unicode's order.
    pub fn chars<'a>(texts: impl IntoIterator<Item = &'a str>, specials: Specials) -> Self {
        let set: BTreeSet<char> = texts.into_iter().flat_map(str::chars).collect();
        Self::of_chars(set.into_iter().collect()).with_specials(specials)
    }

    /// A token for each of the 256 bytes.
    pub fn bytes(specials: Specials) -> Self {
        Tokenizer { kind: Kind::Byte, unk: None, bos: None, eos: None }
            .with_specials(Specials { unk: false, ..specials })
    }

    /// Byte-level BPE (GPT-2's) with at most `vocab_size` entries, special tokens included. The same texts
    /// give the same tokenizer.
    pub fn train_bpe<'a>(
        texts: impl Iterator<Item = &'a str> + Send,
        vocab_size: usize,
        specials: Specials,
    ) -> Result<Self, PrepareError> {
        let n_specials = usize::from(specials.bos) + usize::from(specials.eos);
        if vocab_size < 256 + n_specials {
            return Err(PrepareError::new(
                "small_vocabulary",
                "tokenizer",
                format!("bpe:{vocab_size} has no room for the 256 bytes and {n_specials} special tokens"),
                format!("ask for bpe:{} or more", 256 + n_specials),
            ));
        }
        type Trained =
            TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
        let mut tokenizer = Trained::new(BPE::default());
        // A space is not added before the first word: decoding gives the text back exactly.
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
        tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size - n_specials)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        tokenizer.train(&mut trainer, texts).map_err(|error| unreadable(&*error))?;
        Self::of_file(tokenizer.into(), specials)
    }

    /// A `tokenizer.json`. `<bos>` and `<eos>` are its own where it has them under a usual name, else added.
    pub fn from_json(bytes: &[u8], specials: Specials) -> Result<Self, PrepareError> {
        let tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| unreadable(&*error))?;
        Self::of_file(tokenizer, specials)
    }

    fn of_chars(characters: Vec<char>) -> Self {
        let ids = characters.iter().enumerate().map(|(id, &c)| (c, id as u32)).collect();
        Tokenizer { kind: Kind::Char { characters, ids }, unk: None, bos: None, eos: None }
    }

    fn of_file(mut tokenizer: tokenizers::Tokenizer, specials: Specials) -> Result<Self, PrepareError> {
        let mut special = |names: &[&str]| -> Result<u32, PrepareError> {
            if let Some(id) = names.iter().find_map(|name| tokenizer.token_to_id(name)) {
                return Ok(id);
            }
            tokenizer
                .add_special_tokens([AddedToken::from(names[0], true)])
                .map_err(|error| unreadable(&*error))?;
            Ok(tokenizer.token_to_id(names[0]).expect("a token just added has an id: bug"))
        };
        let bos = specials.bos.then(|| special(&["<bos>", "<s>", "<|startoftext|>", "[CLS]"])).transpose()?;
        let eos = specials.eos.then(|| special(&["<eos>", "</s>", "<|endoftext|>", "[SEP]"])).transpose()?;
        Ok(Self::from_parts(tokenizer, bos, eos))
    }

    fn from_parts(mut tokenizer: tokenizers::Tokenizer, bos: Option<u32>, eos: Option<u32>) -> Self {
        // Special tokens written in a text are text.
        tokenizer.set_encode_special_tokens(true);
        let byte_level = matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        Tokenizer { kind: Kind::File { tokenizer: Box::new(tokenizer), byte_level }, unk: None, bos, eos }
    }

    fn with_specials(mut self, specials: Specials) -> Self {
        let mut next = match &self.kind {
            Kind::Char { characters, .. } => characters.len() as u32,
            Kind::Byte => 256,
            Kind::File { .. } => unreachable!("a file has its own special tokens: bug"),
        };
        for (wanted, slot) in
            [(specials.unk, &mut self.unk), (specials.bos, &mut self.bos), (specials.eos, &mut self.eos)]
        {
            if wanted {
                *slot = Some(next);
                next += 1;
            }
        }
        self
    }

    /// Ids run from 0 to this, special tokens included.
    pub fn vocab_size(&self) -> usize {
        let specials = [self.unk, self.bos, self.eos].iter().flatten().count();
        match &self.kind {
            Kind::Char { characters, .. } => characters.len() + specials,
            Kind::Byte => 256 + specials,
            Kind::File { tokenizer, .. } => tokenizer.get_vocab_size(true),
        }
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Tokens that mean nothing in an answer, ascending: `<bos>`, `<unk>`, the other special tokens of a file,
    /// and ids that stand for nothing. `<eos>` ends an answer and is not among them.
    pub fn never_said(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = [self.bos, self.unk].into_iter().flatten().collect();
        if let Kind::File { tokenizer, .. } = &self.kind {
            let added = tokenizer.get_added_tokens_decoder();
            ids.extend(added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id));
            ids.extend((0..self.vocab_size() as u32).filter(|&id| tokenizer.id_to_token(id).is_none()));
        }
        ids.retain(|&id| Some(id) != self.eos && (id as usize) < self.vocab_size());
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The `tokenizer.json` of a BPE or file tokenizer.
    pub fn to_json(&self) -> Option<String> {
        match &self.kind {
            Kind::File { tokenizer, .. } => tokenizer.to_string(true).ok(),
            Kind::Char { .. } | Kind::Byte => None,
        }
    }

    /// Ids of a text, without special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, PrepareError> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids)?;
        Ok(ids)
    }

    /// Appends the ids of a text.
    pub fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<(), PrepareError> {
        match &self.kind {
            Kind::Char { characters, ids } => {
                for (at, c) in text.chars().enumerate() {
                    match ids.get(&c).copied().or(self.unk) {
                        Some(id) => out.push(id),
                        None => return Err(unknown_character(c, at, characters.len())),
                    }
                }
            }
            Kind::Byte => out.extend(text.bytes().map(u32::from)),
            Kind::File { tokenizer, .. } => {
                let encoding = tokenizer.encode_fast(text, false).map_err(|error| {
                    PrepareError::new(
                        "not_tokenizable",
                        "text",
                        format!("the tokenizer refuses the text: {error}"),
                        "change the text or the tokenizer",
                    )
                })?;
                out.extend_from_slice(encoding.get_ids());
            }
        }
        Ok(())
    }

    /// As [`encode`](Self::encode), each id with the characters of the text that it stands for. Bytes of one
    /// character have the same span.
    pub fn encode_spans(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, PrepareError> {
        let ids = self.encode(text)?;
        let spans: Vec<Range<usize>> = match &self.kind {
            Kind::Char { .. } => (0..ids.len()).map(|at| at..at + 1).collect(),
            Kind::Byte => {
                let bytes_of = |(at, c): (usize, char)| std::iter::repeat_n(at..at + 1, c.len_utf8());
                text.chars().enumerate().flat_map(bytes_of).collect()
            }
            Kind::File { tokenizer, .. } => {
                let encoding =
                    tokenizer.encode_char_offsets(text, false).map_err(|error| unreadable(&*error))?;
                encoding.get_offsets().iter().map(|&(from, to)| from..to).collect()
            }
        };
        Ok(ids.into_iter().zip(spans).collect())
    }

    /// The bytes a token stands for: none for special tokens; `None` where the tokenizer joins tokens in other
    /// ways than bytes, or has no such id.
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        if Some(id) == self.bos || Some(id) == self.eos {
            return Some(Cow::Borrowed(b""));
        }
        if Some(id) == self.unk {
            return Some(Cow::Borrowed("\u{FFFD}".as_bytes()));
        }
        match &self.kind {
            Kind::Char { characters, .. } => {
                characters.get(id as usize).map(|c| Cow::Owned(c.to_string().into_bytes()))
            }
            Kind::Byte => u8::try_from(id).ok().map(|byte| Cow::Owned(vec![byte])),
            Kind::File { byte_level: false, .. } => None,
            Kind::File { tokenizer, .. } => {
                tokenizer.id_to_token(id).map(|token| Cow::Owned(bytes_of(&token)))
            }
        }
    }

    /// How a token is shown (log-probabilities, `show`): its text, or the special token's name.
    pub fn token_text(&self, id: u32) -> String {
        let special = [(self.unk, "<unk>"), (self.bos, "<bos>"), (self.eos, "<eos>")]
            .into_iter()
            .find_map(|(token, name)| (token == Some(id)).then(|| name.to_owned()));
        match (special, &self.kind) {
            (_, Kind::File { tokenizer, byte_level: false }) => {
                tokenizer.id_to_token(id).unwrap_or_else(|| format!("<{id}>"))
            }
            (Some(name), _) => name,
            (None, _) => match self.token_bytes(id) {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                None => format!("<{id}>"),
            },
        }
    }

    /// The text of ids; special tokens are left out, broken UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = TextStream::default();
        let mut text: String = match &self.kind {
            Kind::File { tokenizer, byte_level: false } => {
                return tokenizer.decode(ids, true).unwrap_or_default();
            }
            _ => ids.iter().map(|&id| stream.push(self, id)).collect(),
        };
        text.push_str(&stream.finish());
        text
    }
}

/// Decodes a stream of tokens: gives text as soon as its characters are whole, so that the pieces together
/// are what [`Tokenizer::decode`] gives for all ids.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    bytes: Vec<u8>,
    /// For tokenizers whose tokens are not bytes: all ids so far and how much of their text was given.
    ids: Vec<u32>,
    n_given: usize,
    held: String,
}

impl TextStream {
    /// The text that became whole with this token; often empty.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if let Some(bytes) = tokenizer.token_bytes(id) {
            self.bytes.extend_from_slice(&bytes);
            return take_whole(&mut self.bytes);
        }
        let Kind::File { tokenizer, byte_level: false } = &tokenizer.kind else {
            return String::new();
        };
        self.ids.push(id);
        let text = tokenizer.decode(&self.ids, true).unwrap_or_default();
        let fresh = text.get(self.n_given..).unwrap_or_default();
        if fresh.ends_with('\u{FFFD}') {
            fresh.clone_into(&mut self.held);
            return String::new();
        }
        self.held.clear();
        let fresh = fresh.to_owned();
        self.n_given = text.len();
        fresh
    }

    /// What is left at the end: a character cut in the middle, as U+FFFD.
    pub fn finish(self) -> String {
        let mut rest = self.held;
        rest.push_str(&String::from_utf8_lossy(&self.bytes));
        rest
    }
}

/// Takes all characters that are whole; bytes that can never become one turn into U+FFFD.
fn take_whole(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut start = 0;
    loop {
        match std::str::from_utf8(&bytes[start..]) {
            Ok(whole) => {
                text.push_str(whole);
                start = bytes.len();
                break;
            }
            Err(error) => {
                let whole = start + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[start..whole]));
                start = whole;
                match error.error_len() {
                    None => break,
                    Some(n) => {
                        text.push('\u{FFFD}');
                        start += n;
                    }
                }
            }
        }
    }
    bytes.drain(..start);
    text
}

/// The bytes of a byte-level token: GPT-2 writes printable bytes as themselves and byte number `n` of the
/// others as the character 256 + n.
fn bytes_of(token: &str) -> Vec<u8> {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut bytes = Vec::with_capacity(token.len());
    for c in token.chars() {
        let code = c as u32;
        let byte = match u8::try_from(code) {
            Ok(byte) if printable(byte) => Some(byte),
            _ => code.checked_sub(256).and_then(|n| (0..=255u8).filter(|&b| !printable(b)).nth(n as usize)),
        };
        match byte {
            Some(byte) => bytes.push(byte),
            // An added token in plain writing.
            None => bytes.extend(c.to_string().bytes()),
        }
    }
    bytes
}

fn unknown_character(c: char, at: usize, n_characters: usize) -> PrepareError {
    PrepareError::new(
        "unknown_character",
        "text",
        format!(
            "character {:?} (U+{:04X}) at position {at} is not among the {n_characters} characters of the training text",
            c, c as u32
        ),
        "remove it, or train with unseen = \"other\" or with tokenizer = \"byte\"",
    )
}

fn unreadable(error: &(dyn std::error::Error + Send + Sync)) -> PrepareError {
    PrepareError::new(
        "bad_tokenizer",
        "tokenizer",
        format!("the tokenizer cannot be read or trained: {error}"),
        "give a tokenizer.json of the tokenizers library, or char, byte or bpe:N",
    )
}

impl From<Tokenizer> for Stored {
    fn from(tokenizer: Tokenizer) -> Self {
        let Tokenizer { kind, unk, bos, eos } = tokenizer;
        match kind {
            Kind::Char { characters, .. } => {
                Stored::Char { characters: characters.into_iter().collect(), unk, bos, eos }
            }
            Kind::Byte => Stored::Byte { bos, eos },
            Kind::File { tokenizer, .. } => Stored::File {
                tokenizer: serde_json::to_value(&*tokenizer).expect("a tokenizer serialises: bug"),
                bos,
                eos,
            },
        }
    }
}

impl TryFrom<Stored> for Tokenizer {
    type Error = PrepareError;

    fn try_from(stored: Stored) -> Result<Self, PrepareError> {
        Ok(match stored {
            Stored::Char { characters, unk, bos, eos } => {
                Tokenizer { unk, bos, eos, ..Self::of_chars(characters.chars().collect()) }
            }
            Stored::Byte { bos, eos } => Tokenizer { kind: Kind::Byte, unk: None, bos, eos },
            Stored::File { tokenizer, bos, eos } => {
                let bytes = serde_json::to_vec(&tokenizer).expect("a JSON value serialises: bug");
                let tokenizer =
                    tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| unreadable(&*error))?;
                Self::from_parts(tokenizer, bos, eos)
            }
        })
    }
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        Stored::from(self.clone()) == Stored::from(other.clone())
    }
}

#[cfg(test)]
mod tests;
