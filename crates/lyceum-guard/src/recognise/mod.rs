//! What Lyceum knows to find, by what it looks at: [`numbers`] digits in groups, [`codes`] letters and digits,
//! [`addresses`] of mail, networks and services, [`secrets`].

mod addresses;
mod codes;
mod crypto;
mod dates;
mod numbers;
mod phones;
mod secrets;
#[cfg(test)]
mod tests;

use crate::{Analyser, Candidate, Kind, Recogniser};
use std::ops::Range;

/// Every recogniser of this crate.
pub fn all() -> Vec<Box<dyn Recogniser>> {
    vec![
        Box::new(addresses::Addresses),
        Box::new(numbers::Numbers),
        Box::new(codes::Codes),
        Box::new(secrets::Secrets),
    ]
}

impl Default for Analyser {
    fn default() -> Self {
        Analyser::new(all())
    }
}

fn candidate(kind: Kind, bytes: Range<usize>, score: f32, why: &'static str) -> Candidate {
    Candidate { kind, bytes, score, why }
}

/// Whether a name or number may begin at `at`: no letter, digit or underscore before it.
fn begins_word(text: &str, at: usize) -> bool {
    !text[..at].chars().next_back().is_some_and(is_word)
}

/// Whether one may end at `at`.
fn ends_word(text: &str, at: usize) -> bool {
    !text[at..].chars().next().is_some_and(is_word)
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}
