//! The words of small models in tests: every byte is a token, and two marks of a chat.

use lyceum_language::tokenizer::{GgufVocabulary, TokenKind, Tokenizer};

pub const CHATML: &str = include_str!("../../../../fixtures/language/templates/chatml.jinja");

/// `<|im_end|>` ends a turn.
pub fn tokenizer() -> Tokenizer {
    let byte = |byte: u32| match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => char::from_u32(byte),
        0x00..=0x20 => char::from_u32(0x100 + byte),
        0x7F..=0xA0 => char::from_u32(0x121 + byte - 0x7F),
        _ => char::from_u32(0x143),
    };
    let mut tokens: Vec<String> = (0..256).map(|b| byte(b).unwrap().to_string()).collect();
    let mut kinds = vec![TokenKind::Normal; 256];
    for special in ["<|im_start|>", "<|im_end|>"] {
        tokens.push(special.into());
        kinds.push(TokenKind::Control);
    }
    let vocabulary = GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens,
        kinds,
        eos: Some(257),
        ..GgufVocabulary::default()
    };
    Tokenizer::from_gguf(&vocabulary).unwrap()
}
