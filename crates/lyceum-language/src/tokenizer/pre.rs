//! How each family cuts a text into words before BPE, by the name that a GGUF file gives in
//! `tokenizer.ggml.pre`.
//!
//! The expressions are the families' own, as their `tokenizer.json` have them (GPT-2's from Radford et al. 2019,
//! `cl100k` and `o200k` from OpenAI's tiktoken). Several expressions are applied one after the other, each to the
//! pieces that the one before left; what none matches is a piece too.

use crate::LanguageError;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

pub(super) struct Family {
    names: &'static [&'static str],
    expressions: &'static [&'static str],
    /// A word that is a token is not made from merges.
    pub ignores_merges: bool,
    /// Where the file does not say whether a text begins with `bos`.
    pub adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const FAMILIES: &[Family] = &[
    Family {
        names: &["gpt-2", "phi-2", "roberta-bpe", "modern-bert", "mpt", "olmo"],
        expressions: &[GPT2],
        ignores_merges: false,
        adds_bos: false,
    },
    Family {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        expressions: &[DIGIT, GPT2],
        ignores_merges: false,
        adds_bos: false,
    },
    Family {
        names: &["llama-bpe", "llama3", "llama-v3"],
        expressions: &[LLAMA3],
        ignores_merges: true,
        adds_bos: true,
    },
    Family { names: &["smaug-bpe", "dbrx"], expressions: &[LLAMA3], ignores_merges: false, adds_bos: false },
    Family {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2"],
        expressions: &[QWEN2],
        ignores_merges: false,
        adds_bos: false,
    },
    Family { names: &["qwen35"], expressions: &[QWEN35], ignores_merges: false, adds_bos: false },
    Family { names: &["tekken"], expressions: &[TEKKEN], ignores_merges: true, adds_bos: true },
    Family { names: &["gpt-4o", "llama4"], expressions: &[O200K], ignores_merges: false, adds_bos: false },
    Family {
        names: &["falcon"],
        expressions: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
        ignores_merges: false,
        adds_bos: false,
    },
    Family {
        names: &["default"],
        expressions: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignores_merges: false,
        adds_bos: false,
    },
];

/// The family of this name.
///
/// # Errors
/// A name that is not known: another family's words would give wrong ids without a sign of it.
pub(super) fn family(name: &str) -> Result<&'static Family, LanguageError> {
    FAMILIES.iter().find(|family| family.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
        LanguageError::Tokenizer(format!(
            "the pre-tokenizer {name:?} is not supported; supported are {}",
            known.join(", ")
        ))
    })
}

impl Family {
    pub(super) fn pre_tokenizer(&self) -> Result<PreTokenizerWrapper, LanguageError> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::with_capacity(self.expressions.len() + 1);
        for expression in self.expressions {
            let pattern = SplitPattern::Regex((*expression).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| LanguageError::Tokenizer(format!("{expression}: {error}")))?;
            steps.push(split.into());
        }
        steps.push(ByteLevel::new(false, true, false).into());
        Ok(Sequence::new(steps).into())
    }
}
