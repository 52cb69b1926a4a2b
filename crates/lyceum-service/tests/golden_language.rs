//! Golden facts of real language models, fetched by `scripts/fetch-assets smollm2 corpora` (never by a test): without
//! the files each test says what it skipped.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use lyceum_kernels::stored::Stored;
use lyceum_language::tokenizer::{AddSpecial, Specials};
use lyceum_models::batch::{Input, Tokens};
use lyceum_nn::{Examples, Recording, Tape, Workspace};
use lyceum_service::language::open::{self, Layout, Opened};
use lyceum_types::control::Control;
use std::path::PathBuf;

/// A file of an asset, or None with a line that says so.
fn asset(path: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/assets");
    let root = std::env::var("LYCEUM_ASSETS").unwrap_or(default.into());
    let found = PathBuf::from(root).join(path);
    if found.exists() {
        return Some(found);
    }
    println!("skipped: asset {path} is not here; scripts/fetch-assets fetches it");
    None
}

fn smollm2(quant: Option<Stored>) -> Option<Opened> {
    let path = asset("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")?;
    Some(open::gguf(&path, Layout { quant, context: Some(2048) }, &Control::new()).unwrap())
}

/// Log-probabilities of the token after each of `ids`.
fn next(opened: &Opened, ids: &[u32]) -> Vec<Vec<f64>> {
    let mut ws = Workspace::new();
    let model = &opened.model;
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(1));
    let forward = model.forward(&mut tape, &Input::Tokens(Tokens::single(ids))).unwrap();
    let logits = tape.value(forward.logits);
    let row = |row: &[f32]| {
        let max = row.iter().fold(f32::MIN, |m, &x| m.max(x)) as f64;
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        row.iter().map(|&x| f64::from(x) - max - sum.ln()).collect()
    };
    logits.chunks_exact(logits.len() / ids.len()).map(row).collect()
}

/// The file is Q4_1 with a table in Q8_0; the references are f32 over the dequantised numbers.
#[test]
fn smollm2_says_paris() {
    for (quant, tolerance) in [(Some(Stored::F32), 0.02), (None, 0.05)] {
        let Some(opened) = smollm2(quant) else { return };
        let ids =
            opened.words.tokenizer.encode("The capital of France is", AddSpecial::Yes, Specials::AsText);
        let ids = ids.unwrap();
        assert_eq!(ids, [504, 3575, 282, 4649, 314]);
        let found = next(&opened, &ids).pop().unwrap();
        for (token, want) in [(7042, -0.258), (260, -2.737), (4528, -4.386)] {
            let got = found[token];
            println!("{quant:?}: token {token}: {got:.4} (reference {want})");
            assert!((got - want).abs() < tolerance, "token {token}: {got}, not {want}");
        }
    }
}

/// Moby-Dick, characters 30,000 to 32,500, the first 512 tokens: perplexity 28.63.
#[test]
fn perplexity_is_the_references_in_every_stored_form() {
    let Some(book) = asset("corpora/moby-dick.txt") else { return };
    let text: String = std::fs::read_to_string(book).unwrap().chars().skip(30_000).take(2_500).collect();
    let mut exact: Option<Vec<f64>> = None;
    for (quant, most) in
        [(Some(Stored::F32), 0.3), (Some(Stored::Bf16), 0.3), (None, 0.3), (Some(Stored::Q8_0), 0.3)]
    {
        let Some(opened) = smollm2(quant) else { return };
        let mut ids = opened.words.tokenizer.encode(&text, AddSpecial::No, Specials::AsText).unwrap();
        ids.truncate(512);
        let rows = next(&opened, &ids);
        let said: Vec<f64> = ids[1..].iter().zip(&rows).map(|(&id, row)| row[id as usize]).collect();
        let perplexity = (-said.iter().sum::<f64>() / said.len() as f64).exp();
        let exact = exact.get_or_insert_with(|| said.clone());
        let mean = said.iter().zip(&*exact).map(|(a, b)| (a - b).abs()).sum::<f64>() / said.len() as f64;
        println!("{quant:?}: perplexity {perplexity:.3}, mean difference to f32 {mean:.4}");
        assert!(mean < 0.05, "{quant:?}: {mean}");
        assert!((perplexity - 28.63).abs() < most, "{quant:?}: {perplexity}");
    }
}
