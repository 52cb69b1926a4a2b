//! Ids that mix letters and digits: accounts, persons, wallets. Each begins where a word begins.

use super::{begins_word, candidate, crypto, ends_word};
use crate::checks::{days, mod97};
use crate::context::speaks;
use crate::{Candidate, GuardError, Kind, Passage, Recogniser};
use std::ops::Range;

pub(super) struct Codes;

impl Recogniser for Codes {
    fn name(&self) -> &'static str {
        "codes"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Iban, Kind::UkNino, Kind::FrNir, Kind::EsNif, Kind::EsNie, Kind::ItFiscalCode, Kind::Crypto]
    }

    fn find(&self, passage: Passage<'_>, found: &mut Vec<Candidate>) -> Result<(), GuardError> {
        let (text, bytes) = (passage.text(), passage.text().as_bytes());
        let mut at = passage.from();
        while at < bytes.len() {
            if !bytes[at].is_ascii_alphanumeric() {
                at += 1;
                continue;
            }
            let end = at + bytes[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            if begins_word(text, at) {
                from(passage, at..end, found);
            }
            at = end;
        }
        Ok(())
    }
}

/// Everything that begins with the word.
fn from(passage: Passage<'_>, word: Range<usize>, found: &mut Vec<Candidate>) {
    let text = passage.text();
    let first = text.as_bytes()[word.start];
    let mut add = |bytes: Option<Range<usize>>, kind: Kind, score: f32, words: &[&str], why| {
        let Some(bytes) = bytes else { return };
        let says = score < 1.0 && speaks(passage.before(bytes.start), words);
        found.push(candidate(kind, bytes, if says { 1.0 } else { score }, why));
    };
    if first.is_ascii_alphabetic() {
        add(iban(text, word.start), Kind::Iban, 1.0, &[], "length of its country and mod 97");
        let words = &["nino", "national insurance", "ni number", "ni no"];
        add(nino(text, word.start), Kind::UkNino, 0.6, words, "form and valid letters");
        let nie = nie(text, word.clone());
        add(nie, Kind::EsNie, 0.8, &["nie", "extranjero", "extranjería"], "form and check letter");
        add(fiscal_code(text, word.clone()), Kind::ItFiscalCode, 1.0, &[], "form, date and check letter");
    } else {
        let words = &["dni", "nif", "documento nacional", "identidad", "identificación fiscal"];
        add(nif(text, word.clone()), Kind::EsNif, 0.7, words, "form and check letter");
        let words = &["nir", "sécurité sociale", "sécu", "insee", "social security"];
        add(nir(text, word.start), Kind::FrNir, 0.9, words, "form and key");
    }
    if let Some(wallet) = crypto::find(&text[word.clone()]) {
        let why = "checksum of its address";
        add(Some(word), Kind::Crypto, wallet, &["wallet", "address", "ethereum", "eth", "bitcoin"], why);
    }
}

/// Up to `n` letters and digits with single spaces or hyphens between, in upper case, and where each ends.
fn spaced(text: &str, at: usize, n: usize) -> Vec<(u8, usize)> {
    let (mut out, mut last_is_space) = (Vec::with_capacity(n), false);
    for (i, c) in text[at..].char_indices() {
        if out.len() == n {
            break;
        }
        match c {
            _ if c.is_ascii_alphanumeric() => {
                out.push((c.to_ascii_uppercase() as u8, at + i + 1));
                last_is_space = false;
            }
            ' ' | '-' | '\u{a0}' | '\u{202f}' if !last_is_space => last_is_space = true,
            _ => break,
        }
    }
    out
}

/// The whole of `n` characters, where it ends a word.
fn whole(text: &str, at: usize, n: usize) -> Option<(Vec<u8>, usize)> {
    let spaced = spaced(text, at, n);
    let end = spaced.get(n.checked_sub(1)?)?.1;
    ends_word(text, end).then(|| (spaced.into_iter().map(|(byte, _)| byte).collect(), end))
}

/// Lengths of IBANs by country (the SWIFT registry).
const IBAN_LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NL", 18),
    (b"NO", 15),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"SA", 24),
    (b"SC", 31),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
];

fn iban(text: &str, at: usize) -> Option<Range<usize>> {
    let head = text.as_bytes().get(at..at + 4)?;
    let is_headed = head[..2].iter().all(u8::is_ascii_alphabetic) && head[2..].iter().all(u8::is_ascii_digit);
    if !is_headed {
        return None;
    }
    let country = [head[0].to_ascii_uppercase(), head[1].to_ascii_uppercase()];
    let (_, n) = IBAN_LENGTHS.iter().find(|(code, _)| **code == country)?;
    let (code, end) = whole(text, at, *n)?;
    (mod97(code[4..].iter().chain(&code[..4]).copied()) == Some(1)).then_some(at..end)
}

fn nino(text: &str, at: usize) -> Option<Range<usize>> {
    let head = text.as_bytes().get(at..at + 2)?;
    let is_valid = head.iter().all(|letter| letter.is_ascii_uppercase() && !b"DFIQUV".contains(letter))
        && head[1] != b'O'
        && ![b"BG", b"GB", b"KN", b"NK", b"NT", b"TN", b"ZZ"].contains(&&[head[0], head[1]]);
    if !is_valid {
        return None;
    }
    let (code, end) = whole(text, at, 9)?;
    let is_formed = code[2..8].iter().all(u8::is_ascii_digit) && (b'A'..=b'D').contains(&code[8]);
    (is_formed && text.as_bytes()[end - 1].is_ascii_uppercase()).then_some(at..end)
}

/// The letter that stands behind a Spanish number.
fn check_letter(number: u32) -> u8 {
    b"TRWAGMYFPDXBNJZSQVHLCKE"[(number % 23) as usize]
}

/// A word of digits and, in it or behind one hyphen, a letter.
fn digits_and_letter(text: &str, digits: Range<usize>, n: usize) -> Option<(u32, u8, usize)> {
    let number = text.get(digits.start..digits.start + n)?;
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let rest = &text[digits.start + n..];
    let hyphen = usize::from(rest.starts_with('-'));
    let letter = rest.as_bytes().get(hyphen)?.to_ascii_uppercase();
    let end = digits.start + n + hyphen + 1;
    (letter.is_ascii_uppercase() && ends_word(text, end)).then_some((number.parse().ok()?, letter, end))
}

fn nif(text: &str, word: Range<usize>) -> Option<Range<usize>> {
    let (number, letter, end) = digits_and_letter(text, word.clone(), 8)?;
    (letter == check_letter(number)).then_some(word.start..end)
}

fn nie(text: &str, word: Range<usize>) -> Option<Range<usize>> {
    let first = text.as_bytes()[word.start].to_ascii_uppercase();
    let lead = u32::from(first.checked_sub(b'X')?);
    if lead > 2 {
        return None;
    }
    let hyphen = usize::from(text[word.start + 1..].starts_with('-'));
    let (number, letter, end) = digits_and_letter(text, word.start + 1 + hyphen..word.end, 7)?;
    (letter == check_letter(lead * 10_000_000 + number)).then_some(word.start..end)
}

/// Three letters of each name, year, month and day, place, check letter. Digits may be written as letters where two
/// persons would share a code.
fn fiscal_code(text: &str, word: Range<usize>) -> Option<Range<usize>> {
    const MONTHS: &[u8] = b"ABCDEHLMPRST";
    const AS_LETTERS: &[u8] = b"LMNPQRSTUV";
    /// What a character counts for at odd places, 0 and A first.
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    if word.len() != 16 {
        return None;
    }
    let code: Vec<u8> = text[word.clone()].bytes().map(|byte| byte.to_ascii_uppercase()).collect();
    let digit = |i: usize| match code[i] {
        byte @ b'0'..=b'9' => Some(u32::from(byte - b'0')),
        byte => AS_LETTERS.iter().position(|letter| *letter == byte).map(|digit| digit as u32),
    };
    let letters = [0, 1, 2, 3, 4, 5, 8, 11, 15];
    if !letters.iter().all(|&i| code[i].is_ascii_uppercase()) {
        return None;
    }
    [6, 7, 9, 10, 12, 13, 14].iter().try_for_each(|&i| digit(i).map(drop))?;
    let month = MONTHS.iter().position(|letter| *letter == code[8])? as u32 + 1;
    // Forty is added for women.
    let day = (digit(9)? * 10 + digit(10)?) % 40;
    if !(1..=days(2000, month)?).contains(&day) {
        return None;
    }
    let value = |byte: u8| u32::from(if byte.is_ascii_digit() { byte - b'0' } else { byte - b'A' });
    let sum: u32 = (code[..15].iter().enumerate())
        .map(|(i, &byte)| if i % 2 == 0 { ODD[value(byte) as usize] } else { value(byte) })
        .sum();
    (sum % 26 == u32::from(code[15] - b'A')).then_some(word)
}

/// Sex, year, month, department (2A and 2B are Corsica's), commune, order, and the key over them.
fn nir(text: &str, at: usize) -> Option<Range<usize>> {
    if !matches!(text.as_bytes()[at], b'1' | b'2') {
        return None;
    }
    let (code, end) = whole(text, at, 15)?;
    let corsica: u64 = match code[6] {
        b'A' => 1_000_000,
        b'B' => 2_000_000,
        _ => 0,
    };
    let is_corsican = corsica > 0 && code[5] == b'2';
    let digits: Vec<u8> =
        code.iter().enumerate().map(|(i, &byte)| if i == 6 && is_corsican { b'0' } else { byte }).collect();
    let digits =
        std::str::from_utf8(&digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    let (number, key): (u64, u64) = (digits[..13].parse().ok()?, digits[13..].parse().ok()?);
    let month: u32 = digits[3..5].parse().ok()?;
    let is_month = matches!(month, 1..=12 | 20 | 30..=42 | 50..=99);
    (is_month && key == 97 - (number - corsica) % 97).then_some(at..end)
}
