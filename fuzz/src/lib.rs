//! What each target does with its bytes: the doors of the parsers ([`doors`], which the tests of lyceum-service run with
//! random bytes too) and of requests' bodies.

pub mod doors;

use std::path::PathBuf;
use std::sync::OnceLock;

/// A folder of this process, in memory where there is such a place.
pub fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let shared = PathBuf::from("/dev/shm");
        let base = if shared.is_dir() { shared } else { std::env::temp_dir() };
        let folder = base.join(format!("lyceum-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        folder
    })
}

#[cfg(feature = "requests")]
pub fn chat(bytes: &[u8]) {
    let _ = lyceum_api::bodies::check("/v1/chat/completions", bytes);
}

#[cfg(feature = "requests")]
pub fn responses(bytes: &[u8]) {
    let _ = lyceum_api::bodies::check("/v1/responses", bytes);
}
