//! What each target does with its bytes: the doors of the parsers ([`doors`], which the tests of lyceum-service run with
//! random bytes too) and of requests' bodies.

#![forbid(unsafe_code)]

pub mod doors;

use std::path::PathBuf;
use std::sync::OnceLock;

/// For doors that catch what another library panics at: libFuzzer's hook ends the process at every panic, this one only
/// at those that nobody catches.
pub fn only_panics_that_escape() {
    std::panic::set_hook(Box::new(|_| {}));
}

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
