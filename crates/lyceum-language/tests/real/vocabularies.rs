//! Real vocabularies give the ids that their own tokenizers give.

use crate::{asset, gguf};
use lyceum_language::tokenizer::{AddSpecial, Specials, Tokenizer};
use std::path::Path;

/// The texts of a `.inp` file and the ids of its `.out` file.
fn expected(vocabulary: &Path) -> Vec<(String, Vec<u32>)> {
    let beside = |end: &str| std::fs::read_to_string(format!("{}.{end}", vocabulary.display())).unwrap();
    let (texts, ids) = (beside("inp"), beside("out"));
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let ids: Vec<Vec<u32>> =
        ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    // After the last text stands its mark and an empty one.
    assert!(
        texts.len() == ids.len() || texts.len() == ids.len() + 1,
        "{} texts, {} lines",
        texts.len(),
        ids.len()
    );
    texts.into_iter().map(str::to_owned).zip(ids).collect()
}

fn check(name: &str) {
    let Some(path) = asset(&format!("vocabularies/ggml-vocab-{name}.gguf")) else { return };
    let tokenizer = Tokenizer::from_gguf(&gguf::vocabulary(&path)).unwrap();
    let mut wrong = Vec::new();
    let cases = expected(&path);
    for (text, ids) in &cases {
        let ours = tokenizer.encode(text, AddSpecial::No, Specials::AsText).unwrap();
        if &ours != ids {
            wrong.push(format!("{text:?}\n  ours     {ours:?}\n  expected {ids:?}"));
        }
        if tokenizer.is_made_of_bytes() {
            assert_eq!(&tokenizer.decode(&ours).unwrap(), text, "{name} does not give the text back");
        }
    }
    assert!(
        wrong.is_empty(),
        "{name}: {} of {} texts differ\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    assert!(cases.len() > 40, "only {} texts", cases.len());
}

#[test]
fn llama_3_agrees() {
    check("llama-bpe");
}

#[test]
fn llama_2_agrees() {
    check("llama-spm");
}

#[test]
fn phi_3_agrees() {
    check("phi-3");
}

#[test]
fn qwen_2_agrees() {
    check("qwen2");
}

#[test]
fn qwen_3_5_agrees() {
    check("qwen35");
}

#[test]
fn gpt_2_agrees() {
    check("gpt-2");
}

#[test]
fn mpt_agrees() {
    check("mpt");
}

#[test]
fn starcoder_agrees() {
    check("starcoder");
}

#[test]
fn refact_agrees() {
    check("refact");
}

#[test]
fn command_r_agrees() {
    check("command-r");
}

#[test]
fn falcon_agrees() {
    check("falcon");
}

#[test]
fn bert_agrees() {
    check("bert-bge");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (name, word) in [("deepseek-llm", "deepseek-llm"), ("nomic-bert-moe", "t5"), ("gemma-4", "gemma4")] {
        let Some(path) = asset(&format!("vocabularies/ggml-vocab-{name}.gguf")) else { return };
        let error = Tokenizer::from_gguf(&gguf::vocabulary(&path)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn smollm2_agrees() {
    let Some(path) = asset("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let tokenizer = Tokenizer::from_gguf(&gguf::vocabulary(&path)).unwrap();
    let encode = |text: &str, specials| tokenizer.encode(text, AddSpecial::Yes, specials).unwrap();
    assert_eq!(encode("The capital of France is", Specials::AsText), [504, 3575, 282, 4649, 314]);
    assert_eq!(encode("<|im_start|>user", Specials::Parsed)[0], 1);
    assert!(encode("<|im_start|>user", Specials::AsText).len() > 3);
    assert_eq!(tokenizer.ends(), [2, 0]);
}
