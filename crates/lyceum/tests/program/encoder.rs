//! The tiny encoders of `fixtures/encoder`, as a user has one.

use safetensors::SafeTensors;
use std::path::Path;

/// A folder in Hugging Face's layout, without what the fixture's test expects.
pub fn folder(to: &Path, fixture: &str) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/encoder");
    let file = std::fs::read(fixtures.join(format!("{fixture}.safetensors"))).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&file).unwrap();
    std::fs::create_dir_all(to).unwrap();
    std::fs::write(to.join("config.json"), &metadata.metadata().as_ref().unwrap()["config"]).unwrap();
    let all = SafeTensors::deserialize(&file).unwrap();
    let weights = all.iter().filter(|(name, _)| !name.starts_with("test."));
    std::fs::write(to.join("model.safetensors"), safetensors::serialize(weights, None).unwrap()).unwrap();
    std::fs::copy(fixtures.join("tokenizer.json"), to.join("tokenizer.json")).unwrap();
}
