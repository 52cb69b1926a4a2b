//! A tokenizer from `tokenizer.json`, with what `tokenizer_config.json` adds to it.

use super::sentencepiece::{SPACE, byte_of};
use super::{Body, Joins, Parts, Piece, Tokenizer, byte_level};
use crate::LanguageError;
use crate::tokenizer::gguf::TOKENS_MAX;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A `tokenizer.json` is at most this big, in bytes.
pub const JSON_BYTES_MAX: usize = 256 << 20;

/// How the tokens of a file are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spelling {
    byte_level: bool,
    /// `▁` is a space.
    spaces: bool,
    byte_fallback: bool,
    first_space_is_added: bool,
    other: bool,
}

impl Tokenizer {
    /// The tokenizer of a `tokenizer.json`. `config` is the model's `tokenizer_config.json`, which names its
    /// special tokens. Truncation and padding that the file asks for are left out: nothing is cut silently.
    ///
    /// # Errors
    /// A file that the `tokenizers` library does not read, or special tokens that are not in it.
    pub fn from_json(json: &[u8], config: Option<&Value>) -> Result<Self, LanguageError> {
        if json.len() > JSON_BYTES_MAX {
            return Err(LanguageError::bound(
                format!("tokenizer.json of {} bytes", json.len()),
                JSON_BYTES_MAX,
            ));
        }
        let mut tokenizer = read(json)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(library)?;
        let processor = serde_json::to_value(tokenizer.get_post_processor()).map_err(|error| {
            LanguageError::Tokenizer(format!("the post-processor cannot be read: {error}"))
        })?;
        check_processor(&processor)?;
        let spelling = spelling(&tokenizer)?;
        let pieces = pieces(&tokenizer, spelling)?;
        let (prefix, suffix) = affixes(&tokenizer)?;
        let added = tokenizer.get_added_vocabulary().clone();
        let joins = match spelling {
            Spelling { other: true, .. } => Joins::Library,
            Spelling { byte_level: true, .. } => Joins::Bytes,
            Spelling { spaces: true, first_space_is_added: true, .. } => Joins::BytesAfterSpace,
            Spelling { spaces: true, .. } => Joins::Bytes,
            _ => Joins::Library,
        };
        let body = Body::Pipeline(Box::new(tokenizer));
        let mut tokenizer = Tokenizer::assemble(Parts { body, added, pieces, joins, prefix, suffix });
        if let Some(config) = config {
            tokenizer.bos = tokenizer.named(config, "bos_token")?;
            tokenizer.unk = tokenizer.named(config, "unk_token")?;
            tokenizer.ends = tokenizer.named(config, "eos_token")?.into_iter().collect();
        }
        Ok(tokenizer)
    }

    /// `tokenizer.json` and `tokenizer_config.json` of this tokenizer. The tokens that end an answer beyond the first are
    /// for `generation_config.json`.
    ///
    /// # Errors
    /// A vocabulary that these files cannot say: SentencePiece with scores, or one with a token twice.
    pub fn to_json(&self) -> Result<(Vec<u8>, Value), LanguageError> {
        let Body::Pipeline(tokenizer) = &self.body else {
            let problem =
                "a SentencePiece vocabulary with scores has no merges, which a tokenizer.json needs";
            return Err(LanguageError::Tokenizer(problem.into()));
        };
        let mut written = tokenizer.as_ref().clone();
        let name = |id: u32| {
            written.id_to_token(id).ok_or_else(|| LanguageError::Tokenizer(format!("token {id} has no name")))
        };
        let mut config = serde_json::json!({ "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false });
        for (key, id) in [("bos_token", self.bos), ("eos_token", self.eos()), ("unk_token", self.unk)] {
            if let Some(id) = id {
                config[key] = name(id)?.into();
            }
        }
        if written.get_post_processor().is_none() && !(self.prefix.is_empty() && self.suffix.is_empty()) {
            let step = |id: &u32| {
                Ok::<_, LanguageError>(
                    serde_json::json!({ "SpecialToken": { "id": name(*id)?, "type_id": 0 } }),
                )
            };
            let text =
                |id: &str, segment: u32| serde_json::json!({ "Sequence": { "id": id, "type_id": segment } });
            let around = |texts: Vec<Value>| {
                let before = self.prefix.iter().map(step);
                let behind = self.suffix.iter().map(step);
                before.chain(texts.into_iter().map(Ok)).chain(behind).collect::<Result<Vec<_>, _>>()
            };
            let mut specials = serde_json::Map::new();
            for id in self.prefix.iter().chain(&self.suffix) {
                let token = serde_json::json!({ "id": name(*id)?, "ids": [id], "tokens": [name(*id)?] });
                specials.insert(name(*id)?, token);
            }
            let form = serde_json::json!({ "type": "TemplateProcessing", "single": around(vec![text("A", 0)])?,
                "pair": around(vec![text("A", 0), text("B", 0)])?, "special_tokens": specials });
            let processor: tokenizers::PostProcessorWrapper = serde_json::from_value(form)
                .map_err(|error| LanguageError::Tokenizer(format!("its form of texts: {error}")))?;
            written.with_post_processor(Some(processor));
        }
        let json = written.to_string(false).map_err(library)?.into_bytes();
        let read = Tokenizer::from_json(&json, Some(&config))?;
        let same = read.pieces == self.pieces
            && read.joins == self.joins
            && (read.affixes(), read.bos, read.unk, read.eos())
                == (self.affixes(), self.bos, self.unk, self.eos());
        match same {
            true => Ok((json, config)),
            false => Err(LanguageError::Tokenizer("a tokenizer.json would have other tokens".into())),
        }
    }

    /// The id of a special token that `tokenizer_config.json` names, as a string or as an object with `content`.
    fn named(&self, config: &Value, key: &str) -> Result<Option<u32>, LanguageError> {
        let text = match &config[key] {
            Value::Null => return Ok(None),
            Value::Object(token) => token.get("content").and_then(Value::as_str),
            token => token.as_str(),
        };
        let text =
            text.ok_or_else(|| LanguageError::Tokenizer(format!("{key} is neither a string nor a token")))?;
        match self.token_id(text) {
            Some(id) => Ok(Some(id)),
            None => {
                Err(LanguageError::Tokenizer(format!("{key} is {text:?}, which is not in the vocabulary")))
            }
        }
    }
}

/// The library indexes with what merges claim; a malformed file makes it panic.
fn read(json: &[u8]) -> Result<tokenizers::Tokenizer, LanguageError> {
    serde_json::from_slice::<serde::de::IgnoredAny>(json)
        .map_err(|error| LanguageError::Tokenizer(format!("tokenizer.json is not JSON: {error}")))?;
    match catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(json))) {
        Ok(read) => read.map_err(library),
        Err(_) => Err(LanguageError::Tokenizer("tokenizer.json contradicts itself".into())),
    }
}

/// The library looks up what a form names without asking whether it is there.
fn check_processor(processor: &Value) -> Result<(), LanguageError> {
    let wrong = |what: String| Err(LanguageError::Tokenizer(format!("post_processor: {what}")));
    for step in processor["processors"].as_array().into_iter().flatten() {
        check_processor(step)?;
    }
    for (form, sequences) in [("single", &["A"][..]), ("pair", &["A", "B"])] {
        for piece in processor[form].as_array().into_iter().flatten() {
            let special = piece["SpecialToken"]["id"].as_str();
            if let Some(id) = special.filter(|id| processor["special_tokens"].get(id).is_none()) {
                return wrong(format!("{form} names the token {id:?}, which special_tokens does not have"));
            }
            let sequence = piece["Sequence"]["id"].as_str();
            if let Some(id) = sequence.filter(|id| !sequences.contains(id)) {
                return wrong(format!("{form} names the text {id}, which is not there"));
            }
        }
    }
    Ok(())
}

fn library(error: tokenizers::Error) -> LanguageError {
    LanguageError::Tokenizer(error.to_string())
}

fn spelling(tokenizer: &tokenizers::Tokenizer) -> Result<Spelling, LanguageError> {
    let decoder = serde_json::to_value(tokenizer.get_decoder())
        .map_err(|error| LanguageError::Tokenizer(format!("the decoder cannot be read: {error}")))?;
    let mut spelling = Spelling::default();
    read_decoder(&decoder, &mut spelling);
    Ok(spelling)
}

fn read_decoder(decoder: &Value, spelling: &mut Spelling) {
    match decoder["type"].as_str() {
        Some("Sequence") => {
            for step in decoder["decoders"].as_array().into_iter().flatten() {
                read_decoder(step, spelling);
            }
        }
        Some("ByteLevel") => spelling.byte_level = true,
        Some("ByteFallback") => spelling.byte_fallback = true,
        Some("Fuse") => {}
        Some("Replace") if decoder["pattern"]["String"] == SPACE && decoder["content"] == " " => {
            spelling.spaces = true;
        }
        Some("Metaspace") if decoder["replacement"] == SPACE => {
            spelling.spaces = true;
            spelling.first_space_is_added |= decoder["prepend_scheme"] != "never";
        }
        Some("Strip") if decoder["content"] == " " && decoder["start"] == 1 && decoder["stop"] == 0 => {
            spelling.first_space_is_added = true;
        }
        _ => spelling.other = true,
    }
}

fn pieces(
    tokenizer: &tokenizers::Tokenizer,
    spelling: Spelling,
) -> Result<Vec<Option<Piece>>, LanguageError> {
    let added = tokenizer.get_added_tokens_decoder();
    let vocabulary = tokenizer.get_vocab(true);
    let n = vocabulary.values().map(|&id| id as usize + 1).max().unwrap_or(0);
    if n == 0 {
        return Err(LanguageError::Tokenizer("the vocabulary is empty".into()));
    }
    if n > TOKENS_MAX {
        return Err(LanguageError::bound(format!("a vocabulary of {n} tokens"), TOKENS_MAX));
    }
    let mut pieces = vec![None; n];
    for (token, id) in vocabulary {
        let piece = match added.get(&id) {
            // A special token's name is shown as it is written; others are spelt like the rest.
            Some(token) if token.special || spelling.byte_level => {
                Piece { bytes: token.content.clone().into_bytes(), special: token.special }
            }
            Some(token) => Piece { bytes: spelling.bytes_of(&token.content), special: false },
            None => Piece { bytes: spelling.bytes_of(&token), special: false },
        };
        pieces[id as usize] = Some(piece);
    }
    Ok(pieces)
}

impl Spelling {
    fn bytes_of(self, token: &str) -> Vec<u8> {
        if self.byte_level {
            return byte_level::bytes_of(token).unwrap_or_else(|| token.as_bytes().to_vec());
        }
        if let Some(byte) = byte_of(token).filter(|_| self.byte_fallback) {
            return vec![byte];
        }
        if self.spaces {
            return token.replace(SPACE, " ").into_bytes();
        }
        token.strip_prefix("##").unwrap_or(token).as_bytes().to_vec()
    }
}

/// What the post-processor puts around a text: seen by processing one token that is no id.
fn affixes(tokenizer: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), LanguageError> {
    const TEXT: u32 = u32::MAX;
    let text = tokenizers::Token::new(TEXT, "x".into(), (0, 1));
    let encoding = tokenizers::Encoding::from_tokens(vec![text], 0);
    let processed = tokenizer.post_process(encoding, None, true).map_err(library)?;
    let ids = processed.get_ids();
    let Some(at) = ids.iter().position(|&id| id == TEXT) else {
        return Err(LanguageError::Tokenizer("the post-processor drops the text".into()));
    };
    Ok((ids[..at].to_vec(), ids[at + 1..].to_vec()))
}
