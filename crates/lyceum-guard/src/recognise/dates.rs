//! Dates of birth: a date, and before it a word that says what it is. Dates alone are nobody's.

use super::{begins_word, candidate, ends_word};
use crate::checks::is_day;
use crate::context::speaks;
use crate::recogniser::month;
use crate::{Candidate, Kind, Passage};
use std::ops::Range;

const WORDS: &[&str] = &[
    "born",
    "birth",
    "birthday",
    "birthdate",
    "date of birth",
    "dob",
    "d.o.b",
    "geboren",
    "geb",
    "geburtsdatum",
    "geburtstag",
    "né",
    "née",
    "naissance",
    "nacido",
    "nacida",
    "nací",
    "nacimiento",
    "nato",
    "nata",
    "nascita",
    "nascido",
    "nascida",
    "nascimento",
    "geboortedatum",
    "urodzony",
    "urodzona",
    "urodzenia",
];

/// A date that begins with the first group, or with a month before it.
pub(super) fn find(passage: Passage<'_>, groups: &[Range<usize>], found: &mut Vec<Candidate>) {
    let text = passage.text();
    let date = numeric(text, groups).or_else(|| day_month_year(text, groups)).or_else(|| {
        let (start, month) = month_before(&text[passage.from()..groups[0].start])?;
        month_day_year(text, groups, month).map(|end| passage.from() + start..end)
    });
    let Some(bytes) = date else { return };
    if begins_word(text, bytes.start)
        && ends_word(text, bytes.end)
        && speaks(passage.before(bytes.start), WORDS)
    {
        found.push(candidate(Kind::DateOfBirth, bytes, 0.85, "a date, and context"));
    }
}

fn number(text: &str, group: &Range<usize>) -> Option<u32> {
    if group.len() > 4 { None } else { text[group.clone()].parse().ok() }
}

/// A year of somebody who may live.
fn year(text: &str, group: &Range<usize>) -> Option<u32> {
    match (group.len(), number(text, group)?) {
        (4, year @ 1890..=2099) => Some(year),
        (2, year) => Some(1900 + year),
        _ => None,
    }
}

/// `12.03.1980`, `3/12/80`, `1980-03-12`
fn numeric(text: &str, groups: &[Range<usize>]) -> Option<Range<usize>> {
    let [a, b, c, ..] = groups else { return None };
    let (first, second) = (&text[a.end..b.start], &text[b.end..c.start]);
    let is_one = matches!(first, "." | "/" | "-" | ". ") && first == second;
    if !is_one || b.len() > 2 {
        return None;
    }
    let middle = number(text, b)?;
    let is_date = if a.len() == 4 {
        c.len() <= 2 && is_day(year(text, a)?, middle, number(text, c)?)
    } else {
        let (year, first) = (year(text, c)?, number(text, a)?);
        a.len() <= 2 && (is_day(year, middle, first) || is_day(year, first, middle))
    };
    is_date.then_some(a.start..c.end)
}

/// `12 March 1980`, `12. März 1980`, `1st May 1980`
fn day_month_year(text: &str, groups: &[Range<usize>]) -> Option<Range<usize>> {
    let [a, b, ..] = groups else { return None };
    if a.len() > 2 || b.len() != 4 || b.start - a.end > 20 {
        return None;
    }
    let between = text[a.end..b.start].trim_start_matches(['.', 's', 't', 'n', 'd', 'r', 'h']);
    let between = between.trim_matches([' ', ',', '\u{a0}']);
    let number_of_month = month(between.trim_matches('.'))?;
    is_day(year(text, b)?, number_of_month, number(text, a)?).then_some(a.start..b.end)
}

/// The month with which a text ends, and where its name begins.
fn month_before(text: &str) -> Option<(usize, u32)> {
    /// Longer than the longest name.
    const BYTES: usize = 16;
    let text = text.trim_end_matches([' ', '\u{a0}']);
    let mut begin = text.len().saturating_sub(BYTES);
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    let letters = text[begin..].trim_end_matches('.').chars().rev().take_while(|c| c.is_alphabetic());
    let n: usize = letters.map(char::len_utf8).sum();
    let end = text.trim_end_matches('.').len();
    month(&text[end - n..end]).map(|number| (end - n, number))
}

/// `March 12, 1980`, from the day on.
fn month_day_year(text: &str, groups: &[Range<usize>], month: u32) -> Option<usize> {
    let [a, b, ..] = groups else { return None };
    let between = text[a.end..b.start].trim_start_matches(['s', 't', 'n', 'd', 'r', 'h']);
    let is_formed = a.len() <= 2 && b.len() == 4 && matches!(between, ", " | " " | ",");
    (is_formed && is_day(year(text, b)?, month, number(text, a)?)).then_some(b.end)
}
