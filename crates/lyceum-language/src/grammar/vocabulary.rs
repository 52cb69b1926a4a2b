//! A vocabulary as the trie that the grammar walks.

use crate::LanguageError;
use crate::tokenizer::Tokenizer;
use std::collections::HashMap;
use std::sync::Arc;
use toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

/// Longer tokens are never allowed; the trie counts depth in a byte.
const TOKEN_BYTES_MAX: usize = 200;

struct Environment {
    trie: TokTrie,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(bytes)
    }

    /// Greedy tokens are not the tokenizer's own, so none are forced.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

pub(super) fn environment(tokenizer: &Tokenizer, n_logits: usize) -> Result<TokEnv, LanguageError> {
    if !tokenizer.is_made_of_bytes() {
        return Err(LanguageError::Tokenizer(
            "its tokens are not bytes, so no grammar can follow them".into(),
        ));
    }
    if n_logits < tokenizer.vocab_size() {
        return Err(LanguageError::Tokenizer(format!(
            "the model scores {n_logits} tokens and the vocabulary has {}",
            tokenizer.vocab_size()
        )));
    }
    let ends = tokenizer.ends();
    let Some(&eos) = ends.first() else {
        return Err(LanguageError::Tokenizer("no token ends an answer, so no grammar can".into()));
    };
    let mut words = vec![Vec::new(); n_logits];
    // Of tokens with the same bytes the last is the ordinary one: SentencePiece lists its single bytes first.
    let mut of_bytes: HashMap<&[u8], u32> = HashMap::new();
    for id in 0..tokenizer.vocab_size() as u32 {
        let Some(bytes) = tokenizer.token_bytes(id) else { continue };
        if tokenizer.is_special(id) || ends.contains(&id) {
            words[id as usize] = [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat();
        // 0xFF is in no text and marks special tokens.
        } else if !bytes.is_empty()
            && bytes[0] != TokTrie::SPECIAL_TOKEN_MARKER
            && bytes.len() <= TOKEN_BYTES_MAX
        {
            if let Some(other) = of_bytes.insert(bytes, id) {
                words[other as usize].clear();
            }
            words[id as usize] = bytes.to_vec();
        }
    }
    let info = TokRxInfo::new(n_logits as u32, eos);
    let trie = TokTrie::from(&info, &words).with_eos_tokens(ends);
    Ok(Arc::new(Environment { trie }))
}
