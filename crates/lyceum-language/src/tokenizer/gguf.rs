//! A tokenizer from the vocabulary inside a GGUF file.
//!
//! The caller reads the file's metadata into [`GgufVocabulary`]; field names are those of the keys
//! `tokenizer.ggml.*`.

use super::sentencepiece::{SPACE, SentencePiece, byte_of};
use super::{Body, Joins, Parts, Piece, Tokenizer, byte_level, pre};
use crate::LanguageError;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, AddedVocabulary, NormalizerWrapper};

/// A vocabulary has at most this many tokens.
pub const TOKENS_MAX: usize = 1 << 22;

/// What a token is (`tokenizer.ggml.token_type`), in the order of the file's numbers from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Normal,
    Unknown,
    Control,
    /// Found in every text before words are cut.
    UserDefined,
    Unused,
    /// SentencePiece's byte fallback, written `<0x0A>`.
    Byte,
}

impl TokenKind {
    /// The kind of a number in the file.
    pub fn of_number(number: i64) -> Option<Self> {
        use TokenKind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        [Normal, Unknown, Control, UserDefined, Unused, Byte].get(usize::try_from(number - 1).ok()?).copied()
    }
}

/// The metadata `tokenizer.ggml.*` of a file; what a file does not say is `None` or empty.
#[derive(Clone, Debug, Default)]
pub struct GgufVocabulary {
    /// `gpt2` (byte-level BPE), `llama` (SentencePiece with scores) or `bert` (WordPiece).
    pub model: String,
    /// The family of a BPE's words (`tokenizer.ggml.pre`).
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    /// Of each token; SentencePiece needs them.
    pub scores: Vec<f32>,
    /// Of each token, or empty: all are normal.
    pub kinds: Vec<TokenKind>,
    /// Two tokens with a space between, best first; BPE needs them.
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub unk: Option<u32>,
    /// BERT's `[CLS]` (`cls_token_id`) and `[SEP]` (`seperator_token_id`, as the key is spelt).
    pub cls: Option<u32>,
    pub sep: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    /// SentencePiece: a space is added where a text begins.
    pub add_space_prefix: Option<bool>,
}

/// How families write the end of a turn; such a control token ends an answer as `eos` does.
const ENDS_OF_TURNS: [&str; 8] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
];

impl GgufVocabulary {
    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Normal)
    }

    fn check(&self) -> Result<(), LanguageError> {
        let bad = |what: String| Err(LanguageError::Tokenizer(what));
        if self.tokens.is_empty() {
            return bad("the vocabulary is empty".into());
        }
        if self.tokens.len() > TOKENS_MAX {
            return Err(LanguageError::bound(
                format!("a vocabulary of {} tokens", self.tokens.len()),
                TOKENS_MAX,
            ));
        }
        if !self.kinds.is_empty() && self.kinds.len() != self.tokens.len() {
            return bad(format!("{} token types for {} tokens", self.kinds.len(), self.tokens.len()));
        }
        for (name, id) in [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("unk", self.unk),
            ("cls", self.cls),
            ("sep", self.sep),
        ] {
            if id.is_some_and(|id| id as usize >= self.tokens.len()) {
                return bad(format!("{name} is token {} of {}", id.unwrap_or_default(), self.tokens.len()));
            }
        }
        Ok(())
    }

    fn added(&self, of_text: fn(&str) -> String) -> Vec<AddedToken> {
        (0u32..)
            .zip(&self.tokens)
            .filter_map(|(id, token)| {
                let (text, special) = match self.kind(id) {
                    TokenKind::Control | TokenKind::Unknown => (token.clone(), true),
                    TokenKind::UserDefined => (of_text(token), false),
                    _ => return None,
                };
                Some(AddedToken::from(text, special).normalized(false))
            })
            .filter(|token| !token.content.is_empty())
            .collect()
    }

    fn pieces(&self, of_normal: fn(&str) -> Vec<u8>) -> Vec<Option<Piece>> {
        let piece = |(id, token): (u32, &String)| {
            let kind = self.kind(id);
            let special = matches!(kind, TokenKind::Control | TokenKind::Unknown);
            let bytes = match kind {
                TokenKind::Control | TokenKind::Unknown => token.clone().into_bytes(),
                TokenKind::Byte => {
                    byte_of(token).map_or_else(|| token.clone().into_bytes(), |byte| vec![byte])
                }
                _ => of_normal(token),
            };
            Some(Piece { bytes, special })
        };
        (0u32..).zip(&self.tokens).map(piece).collect()
    }

    /// Prefix and suffix of a text, where the file does not say: `adds_bos` and none.
    fn affixes(&self, adds_bos: bool) -> Result<(Vec<u32>, Vec<u32>), LanguageError> {
        let affix = |wanted: bool, id: Option<u32>, name: &str| match (wanted, id) {
            (false, _) => Ok(Vec::new()),
            (true, Some(id)) => Ok(vec![id]),
            (true, None) => {
                Err(LanguageError::Tokenizer(format!("add_{name} is set and there is no {name} token")))
            }
        };
        let adds_bos = self.add_bos.unwrap_or(adds_bos && self.bos.is_some());
        Ok((affix(adds_bos, self.bos, "bos")?, affix(self.add_eos.unwrap_or(false), self.eos, "eos")?))
    }

    fn ends(&self) -> Vec<u32> {
        let mut ends: Vec<u32> = [self.eos, self.eot].into_iter().flatten().collect();
        let control = |id: &u32| self.kind(*id) == TokenKind::Control;
        let named = (0u32..).zip(&self.tokens).filter(|(_, token)| ENDS_OF_TURNS.contains(&token.as_str()));
        ends.extend(named.map(|(id, _)| id).filter(control));
        let mut seen = std::collections::HashSet::new();
        ends.retain(|id| seen.insert(*id));
        ends
    }
}

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// A model or pre-tokenizer that is not supported (by name), or metadata that contradicts itself.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self, LanguageError> {
        vocabulary.check()?;
        let parts = match vocabulary.model.as_str() {
            "gpt2" => byte_level_bpe(vocabulary)?,
            "llama" => sentence_piece(vocabulary)?,
            "bert" => word_piece(vocabulary)?,
            other => {
                return Err(LanguageError::Tokenizer(format!(
                    "the tokenizer model {other:?} is not supported; supported are gpt2, llama, bert"
                )));
            }
        };
        let mut tokenizer = Tokenizer::assemble(parts);
        tokenizer.bos = vocabulary.bos;
        tokenizer.unk = vocabulary.unk;
        tokenizer.ends = vocabulary.ends();
        Ok(tokenizer)
    }
}

fn library(error: tokenizers::Error) -> LanguageError {
    LanguageError::Tokenizer(error.to_string())
}

/// Token → id; of equal tokens the first counts.
fn ids_of(tokens: impl Iterator<Item = (u32, String)>) -> Vocab {
    let mut ids = Vocab::default();
    for (id, token) in tokens {
        ids.entry(token).or_insert(id);
    }
    ids
}

fn byte_level_bpe(vocabulary: &GgufVocabulary) -> Result<Parts, LanguageError> {
    let family = pre::family(vocabulary.pre.as_deref().unwrap_or("default"))?;
    let ids = ids_of((0u32..).zip(vocabulary.tokens.iter().cloned()));
    let mut merges: Merges = Vec::with_capacity(vocabulary.merges.len());
    for merge in &vocabulary.merges {
        let Some((left, right)) =
            merge.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty())
        else {
            return Err(LanguageError::Tokenizer(format!("the merge {merge:?} is not two tokens")));
        };
        if !ids.contains_key(&format!("{left}{right}")) {
            return Err(LanguageError::Tokenizer(format!("the merge {merge:?} makes no token")));
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    let model = BPE::builder()
        .vocab_and_merges(ids, merges)
        .ignore_merges(family.ignores_merges)
        .build()
        .map_err(library)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(family.pre_tokenizer()?));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.add_tokens(vocabulary.added(str::to_owned)).map_err(library)?;
    let (prefix, suffix) = vocabulary.affixes(family.adds_bos)?;
    let added = tokenizer.get_added_vocabulary().clone();
    let mut pieces =
        vocabulary.pieces(|token| byte_level::bytes_of(token).unwrap_or_else(|| token.as_bytes().to_vec()));
    // A token that is found in texts as it is written stands for what is written.
    for (id, token) in (0u32..).zip(&vocabulary.tokens) {
        if vocabulary.kind(id) == TokenKind::UserDefined {
            pieces[id as usize] = Some(Piece { bytes: token.clone().into_bytes(), special: false });
        }
    }
    Ok(Parts {
        body: Body::Pipeline(Box::new(tokenizer)),
        added,
        pieces,
        joins: Joins::Bytes,
        prefix,
        suffix,
    })
}

fn sentence_piece(vocabulary: &GgufVocabulary) -> Result<Parts, LanguageError> {
    let model = SentencePiece::new(vocabulary)?;
    let spaced = |token: &str| token.replace(SPACE, " ");
    let mut added = AddedVocabulary::new();
    let ids = ids_of((0u32..).zip(vocabulary.tokens.iter().map(|token| spaced(token))));
    // Only the ids of the added tokens are asked of it.
    let names =
        BPE::builder().vocab_and_merges(ids, Vec::new()).cache_capacity(0).build().map_err(library)?;
    added.add_tokens::<NormalizerWrapper>(vocabulary.added(spaced), &names, None).map_err(library)?;
    let joins = if model.adds_space() { Joins::BytesAfterSpace } else { Joins::Bytes };
    let (prefix, suffix) = vocabulary.affixes(true)?;
    let pieces = vocabulary.pieces(|token| token.replace(SPACE, " ").into_bytes());
    Ok(Parts { body: Body::SentencePiece(model), added, pieces, joins, prefix, suffix })
}

/// GGUF writes `▁word` for a word's beginning and nothing for its continuation, where BERT's own vocabulary has
/// nothing and `##`.
fn word_piece(vocabulary: &GgufVocabulary) -> Result<Parts, LanguageError> {
    let named = |id: u32, token: &str| match (vocabulary.kind(id), token.strip_prefix(SPACE)) {
        (TokenKind::Control | TokenKind::Unknown, _) => token.to_owned(),
        (_, Some(word)) => word.to_owned(),
        (_, None) => format!("##{token}"),
    };
    let name = |id: Option<u32>, what: &str| -> Result<(String, u32), LanguageError> {
        let id =
            id.ok_or_else(|| LanguageError::Tokenizer(format!("a bert vocabulary without a {what} token")))?;
        Ok((vocabulary.tokens[id as usize].clone(), id))
    };
    let (cls, sep) =
        (name(vocabulary.cls.or(vocabulary.bos), "cls")?, name(vocabulary.sep.or(vocabulary.eos), "sep")?);
    let unk = name(vocabulary.unk, "unk")?;
    let ids = ids_of((0u32..).zip(&vocabulary.tokens).map(|(id, token)| (id, named(id, token))));
    // A vocabulary without capitals was made from lower-case text.
    let cased = (0u32..).zip(&vocabulary.tokens).any(|(id, token)| {
        vocabulary.kind(id) == TokenKind::Normal && token.bytes().any(|byte| byte.is_ascii_uppercase())
    });
    let model = WordPiece::builder().vocab(ids).unk_token(unk.0).build().map_err(library)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, None, !cased))).map_err(library)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(BertProcessing::new(sep.clone(), cls.clone())));
    tokenizer.with_decoder(Some(WordPieceDecoder::default()));
    tokenizer.add_tokens(vocabulary.added(str::to_owned)).map_err(library)?;
    let added = tokenizer.get_added_vocabulary().clone();
    let pieces = vocabulary.pieces(|token| token.strip_prefix(SPACE).unwrap_or(token).as_bytes().to_vec());
    Ok(Parts {
        body: Body::Pipeline(Box::new(tokenizer)),
        added,
        pieces,
        joins: Joins::Library,
        prefix: vec![cls.1],
        suffix: vec![sep.1],
    })
}
