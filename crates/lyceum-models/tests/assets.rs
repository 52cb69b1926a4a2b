//! Golden facts of real models, fetched by `scripts/fetch-assets` (never by a test): without the files each test
//! says what it skipped.

use lyceum_kernels::stored::Stored;
use lyceum_models::Model;
use lyceum_models::batch::{Input, Tokens};
use lyceum_models::causal_lm::{Source, load};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::{Examples, Recording, Tape, Workspace};
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

fn smollm2(quant: Option<Stored>) -> Option<Model> {
    let file = std::fs::File::open(asset("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")?).unwrap();
    let (checkpoint, header) = Checkpoint::gguf(Box::new(file)).unwrap();
    let loaded =
        load(checkpoint, Source::Gguf { header: &header }, quant, Some(2048), &Control::new()).unwrap();
    Some(Model::language(loaded))
}

/// Log-probabilities of the token after each of `ids`.
fn next(model: &Model, ids: &[u32]) -> Vec<Vec<f64>> {
    let mut ws = Workspace::new();
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(1));
    let tokens = Tokens {
        ids: ids.into(),
        lengths: vec![ids.len() as u32],
        n: 1,
        time: ids.len(),
        ..Tokens::default()
    };
    let forward = model.forward(&mut tape, &Input::Tokens(tokens)).unwrap();
    let logits = tape.value(forward.logits);
    let row = |row: &[f32]| {
        let max = row.iter().fold(f32::MIN, |m, &x| m.max(x)) as f64;
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        row.iter().map(|&x| f64::from(x) - max - sum.ln()).collect()
    };
    logits.chunks_exact(logits.len() / ids.len()).map(row).collect()
}

/// The file is Q4_1 with a table in Q8_0; references are f32 over the dequantised numbers.
#[test]
fn smollm2_says_paris() {
    for (quant, tolerance) in [(Some(Stored::F32), 0.02), (None, 0.05)] {
        let Some(model) = smollm2(quant) else { return };
        let found = next(&model, &[504, 3575, 282, 4649, 314]).pop().unwrap();
        for (token, want) in [(7042, -0.258), (260, -2.737), (4528, -4.386)] {
            let got = found[token];
            println!("{quant:?}: token {token}: {got:.4} (reference {want})");
            assert!((got - want).abs() < tolerance, "token {token}: {got}, not {want}");
        }
    }
}
