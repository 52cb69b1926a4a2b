//! The text half of language models: what stands between words and token ids.
//!
//! ```text
//! messages ──template──▶ text ──tokenizer──▶ ids ──▶ (a model, elsewhere) ──▶ ids
//!                                                        ▲ grammar: allowed next tokens
//! events ◀──tools── text ◀──reasoning── text ◀──tokenizer (stream)──────────────┘
//! ```
//!
//! Everything here is a function of what it is handed. This crate knows no tensors, no files, no clock and no
//! HTTP; the caller reads files, says what time it is, and draws ids.

#![forbid(unsafe_code)]

pub mod error;
pub mod grammar;
mod held;
pub mod reasoning;
pub mod template;
pub mod tokenizer;
pub mod tools;

pub use error::LanguageError;
