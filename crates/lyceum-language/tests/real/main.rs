//! What needs real vocabularies and templates: `scripts/fetch-assets vocabularies smollm2 tokenizers`. Without
//! them each test says `skipped: asset …`.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

mod gguf;
mod grammars;
mod json;
mod templates;
mod vocabularies;

use std::path::PathBuf;

/// The file of an asset, or a word that it is absent.
fn asset(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("LYCEUM_ASSETS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/assets")),
        PathBuf::from,
    );
    let file = folder.join(path);
    if !file.exists() {
        eprintln!(
            "skipped: asset {path} (scripts/fetch-assets {})",
            path.split('/').next().unwrap_or_default()
        );
        return None;
    }
    Some(file)
}
