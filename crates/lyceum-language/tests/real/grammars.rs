//! On SmolLM2's vocabulary, what a model that knows nothing says under a schema parses and validates.

use crate::{asset, gguf};
use lyceum_language::grammar::{Constraint, GrammarCompiler};
use lyceum_language::tokenizer::{AddSpecial, Specials, Tokenizer};
use serde_json::{Value, json};

#[test]
fn answers_of_smollm2s_vocabulary_follow_a_schema() {
    let Some(path) = asset("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let tokenizer = Tokenizer::from_gguf(&gguf::vocabulary(&path)).unwrap();
    let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size()).unwrap();
    let schema = json!({"type": "object", "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 6}, "maxItems": 3},
    }, "required": ["city", "days"], "additionalProperties": false});
    let grammar = compiler.compile(&Constraint::JsonSchema { schema, strict: true }, None).unwrap();
    let mut words = vec![0u32; tokenizer.vocab_size().div_ceil(32)];
    let mut state = 9u64;
    let mut n_whole = 0;
    for _ in 0..40 {
        let mut matcher = grammar.matcher();
        let mut ids = Vec::new();
        while !matcher.is_finished() && ids.len() < 200 {
            matcher.allowed(&mut words).unwrap();
            let allowed: Vec<u32> = (0..tokenizer.vocab_size() as u32)
                .filter(|&id| {
                    words[id as usize / 32] >> (id % 32) & 1 == 1 && !tokenizer.ends().contains(&id)
                })
                .collect();
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let id = allowed[(state >> 33) as usize % allowed.len()];
            matcher.accept(id).unwrap();
            ids.push(id);
        }
        if !matcher.is_finished() {
            continue;
        }
        n_whole += 1;
        let answer: Value = serde_json::from_str(&tokenizer.decode(&ids).unwrap()).unwrap();
        assert!(answer["city"].as_str().unwrap().chars().count() <= 12, "{answer}");
        let days = answer["days"].as_array().unwrap();
        assert!(
            days.len() <= 3 && days.iter().all(|day| (0..=6).contains(&day.as_i64().unwrap())),
            "{answer}"
        );
        assert_eq!(answer.as_object().unwrap().len(), 2);
    }
    assert!(n_whole > 30, "only {n_whole} of 40 came to an end");
    // What the model would say in its own tokens is allowed.
    let ids =
        tokenizer.encode(r#"{"city": "Paris", "days": [1, 2]}"#, AddSpecial::No, Specials::AsText).unwrap();
    let mut matcher = grammar.matcher();
    ids.iter().for_each(|&id| matcher.accept(id).unwrap());
    assert!(matcher.is_finished());
}
