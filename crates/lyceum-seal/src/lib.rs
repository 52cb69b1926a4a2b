//! The sealed form of bytes, and files that are plain or sealed without their readers and writers knowing which.
//!
//! Reading order: [`sealed`] (what a sealed document is), [`Contents`] (a file's plain bytes at any place), [`KeyedPath`] (a
//! path with the key that seals it: who reads or writes what a project keeps holds one instead of a path), [`lines`]
//! (files that grow line by line). This crate knows keys and bytes; who has which key is the store's.

#![forbid(unsafe_code)]

mod contents;
pub mod lines;
mod place;
pub mod sealed;

pub use contents::{Contents, Reader};
pub use place::KeyedPath;
pub use sealed::{ProjectKey, SealError};

/// Small letters and digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `None`: it is not hexadecimal.
pub fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}
