//! Who finds something: an open set, so a small trait.

use crate::{GuardError, Kind};
use std::ops::Range;

/// How far before a candidate its context may lie, in bytes.
pub const CONTEXT_BYTES_MAX: usize = 96;

/// A piece of text that may hold something, with what stood before it.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    text: &'a str,
    from: usize,
}

impl<'a> Passage<'a> {
    /// `text` from `from` on is what is read; what lies before it was read already and is context.
    pub(crate) fn new(text: &'a str, from: usize) -> Self {
        Self { text, from }
    }

    /// All of it; places of candidates are bytes of this.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Where what is read begins.
    pub fn from(&self) -> usize {
        self.from
    }

    /// What stands before `at`: at most [`CONTEXT_BYTES_MAX`] bytes of whole characters.
    pub fn before(&self, at: usize) -> &'a str {
        let mut begin = at.saturating_sub(CONTEXT_BYTES_MAX);
        while !self.text.is_char_boundary(begin) {
            begin += 1;
        }
        &self.text[begin..at]
    }
}

/// What a recogniser takes for something.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub kind: Kind,
    /// Bytes of the passage's text, at or behind its beginning.
    pub bytes: Range<usize>,
    pub score: f32,
    pub why: &'static str,
}

/// Finds things of some kinds.
///
/// What it finds at a place may depend on the passage from there on, and on what [`Passage::before`] tells; on
/// nothing else, so that a stream's findings are the whole text's.
pub trait Recogniser: Send + Sync {
    /// Its name in errors.
    fn name(&self) -> &'static str;

    /// What it can find.
    fn kinds(&self) -> &'static [Kind];

    /// Adds what it finds.
    ///
    /// # Errors
    /// It could not read the passage: then nothing is known of the text, and nothing may pass.
    fn find(&self, passage: Passage<'_>, found: &mut Vec<Candidate>) -> Result<(), GuardError>;
}

/// The number of a month, by its name or its first letters in English, German, French, Spanish or Italian.
pub(crate) fn month(text: &str) -> Option<u32> {
    const NAMES: [&[&str]; 12] = [
        &["january", "jan", "januar", "janvier", "enero", "gennaio"],
        &["february", "feb", "februar", "février", "febrero", "febbraio"],
        &["march", "mar", "märz", "mars", "marzo"],
        &["april", "apr", "avril", "abril", "aprile"],
        &["may", "mai", "mayo", "maggio"],
        &["june", "jun", "juni", "juin", "junio", "giugno"],
        &["july", "jul", "juli", "juillet", "julio", "luglio"],
        &["august", "aug", "août", "agosto"],
        &["september", "sep", "sept", "septembre", "septiembre", "settembre"],
        &["october", "oct", "oktober", "okt", "octobre", "octubre", "ottobre"],
        &["november", "nov", "novembre", "noviembre"],
        &["december", "dec", "dezember", "dez", "décembre", "diciembre", "dicembre"],
    ];
    let begins = text.bytes().next().is_some_and(|b| b"jfmasondegJFMASONDEG".contains(&b));
    if !begins || !(3..=12).contains(&text.len()) {
        return None;
    }
    let is_it = |name: &&str| name.eq_ignore_ascii_case(text);
    (1..).zip(NAMES).find(|(_, names)| names.iter().any(is_it)).map(|(number, _)| number)
}
