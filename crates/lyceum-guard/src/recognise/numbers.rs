//! Numbers of cards and persons: digits in groups, with their checksums; telephone numbers and dates are looked for
//! from the same groups.

use super::{begins_word, candidate, dates, ends_word, phones};
use crate::checks::{is_day, luhn, mod11_10, verhoeff, weighted};
use crate::context::speaks;
use crate::{Candidate, GuardError, Kind, Passage, Recogniser};
use std::ops::Range;

/// Groups and digits that one number may have.
const GROUPS_MAX: usize = 8;
const DIGITS_MAX: usize = 19;

pub(super) struct Numbers;

impl Recogniser for Numbers {
    fn name(&self) -> &'static str {
        "numbers"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[
            Kind::CreditCard,
            Kind::UsSsn,
            Kind::UkNhs,
            Kind::DeTaxId,
            Kind::PlPesel,
            Kind::NlBsn,
            Kind::BrCpf,
            Kind::InAadhaar,
            Kind::Phone,
            Kind::DateOfBirth,
        ]
    }

    fn find(&self, passage: Passage<'_>, found: &mut Vec<Candidate>) -> Result<(), GuardError> {
        let groups = groups(passage);
        for first in 0..groups.len() {
            if begins(passage.text(), groups[first].start) {
                from(passage, &groups, first, found);
                phones::find(passage, &groups[first..], found);
            }
            dates::find(passage, &groups[first..], found);
        }
        Ok(())
    }
}

/// Runs of digits.
fn groups(passage: Passage<'_>) -> Vec<Range<usize>> {
    let (bytes, mut at, mut groups) = (passage.text().as_bytes(), passage.from(), Vec::new());
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let start = at;
        while at < bytes.len() && bytes[at].is_ascii_digit() {
            at += 1;
        }
        groups.push(start..at);
    }
    groups
}

/// Whether a number may begin here: not inside of a longer one, an amount or a name.
pub(super) fn begins(text: &str, at: usize) -> bool {
    let mut before = text[..at].chars().rev();
    begins_word(text, at)
        && match before.next() {
            Some('.' | ',' | '-' | '/' | ':' | '\\') => !before.next().is_some_and(|c| c.is_ascii_digit()),
            Some('$' | '€' | '£') => false,
            _ => true,
        }
}

/// Whether a number may end here.
pub(super) fn ends(text: &str, at: usize) -> bool {
    let mut after = text[at..].chars();
    ends_word(text, at)
        && match after.next() {
            Some('.' | ',' | '-' | '/' | ':' | '\\') => !after.next().is_some_and(|c| c.is_ascii_digit()),
            Some('%' | '€' | '£' | '$') => false,
            _ => true,
        }
}

/// A number in groups with one kind of separator.
struct Number<'a> {
    passage: Passage<'a>,
    bytes: Range<usize>,
    digits: &'a [u8],
    /// Lengths of its groups.
    shape: &'a [usize],
    /// What separates them.
    separator: Option<char>,
    /// A group as long as its own stands beside it.
    goes_on: bool,
}

impl Number<'_> {
    fn says(&self, words: &[&str]) -> bool {
        speaks(self.passage.before(self.bytes.start), words)
    }

    fn is_one_digit(&self) -> bool {
        self.digits.iter().all(|digit| *digit == self.digits[0])
    }
}

/// Every number that begins with the group `first`.
fn from(passage: Passage<'_>, all: &[Range<usize>], first: usize, found: &mut Vec<Candidate>) {
    let (text, groups) = (passage.text(), &all[first..]);
    let joins =
        |a: &Range<usize>, b: &Range<usize>| a.len() == b.len() && single(&text[a.end..b.start]).is_some();
    let follows_one = first > 0 && joins(&all[first - 1], &all[first]);
    let (mut digits, mut shape, mut separator) = (Vec::with_capacity(DIGITS_MAX), Vec::new(), None);
    for (i, group) in groups.iter().take(GROUPS_MAX).enumerate() {
        if i > 0 {
            let Some(between) = single(&text[groups[i - 1].end..group.start]) else { return };
            if separator.is_some_and(|separator| separator != between) {
                // Only a CPF is written with two kinds.
                if shape != [3, 3, 3] || (separator, between) != (Some('.'), '-') {
                    return;
                }
            } else {
                separator = Some(between);
            }
        }
        if digits.len() + group.len() > DIGITS_MAX {
            return;
        }
        digits.extend(text[group.clone()].bytes().map(|byte| byte - b'0'));
        shape.push(group.len());
        if digits.len() < 8 || !ends(text, group.end) {
            continue;
        }
        let bytes = groups[0].start..group.end;
        let goes_on = follows_one || groups.get(i + 1).is_some_and(|next| joins(group, next));
        let number = Number { passage, bytes, digits: &digits, shape: &shape, separator, goes_on };
        found.extend(ALL.iter().filter_map(|kind| kind(&number)));
    }
}

/// The separator where it is one character that numbers are grouped with; all spaces are one.
fn single(text: &str) -> Option<char> {
    let mut chars = text.chars();
    let c = match chars.next()? {
        '\u{a0}' | '\u{202f}' | '\u{2009}' => ' ',
        '\u{2010}'..='\u{2013}' => '-',
        c @ (' ' | '-' | '.' | '/') => c,
        _ => return None,
    };
    chars.next().is_none().then_some(c)
}

type Judge = fn(&Number<'_>) -> Option<Candidate>;

const ALL: &[Judge] = &[card, ssn, nhs, tax_id, pesel, bsn, cpf, aadhaar];

fn found(number: &Number<'_>, kind: Kind, score: f32, why: &'static str) -> Option<Candidate> {
    Some(candidate(kind, number.bytes.clone(), score, why))
}

/// By issuer: what a number begins with and how long it is (ISO/IEC 7812).
fn card(number: &Number<'_>) -> Option<Candidate> {
    let n = number.digits.len();
    if !(12..=19).contains(&n) || number.is_one_digit() {
        return None;
    }
    let is_grouped = match (number.separator, number.shape) {
        (None, [_]) => false,
        (Some(' ' | '-'), [4, 4, 4, 4] | [4, 4, 4, 4, 3] | [4, 6, 5] | [4, 6, 4] | [6, 13]) => true,
        _ => return None,
    };
    let begins = |n: usize| number.digits[..n].iter().fold(0u32, |sum, digit| sum * 10 + u32::from(*digit));
    let (two, three, four) = (begins(2), begins(3), begins(4));
    let is_issued = match n {
        16 => {
            two / 10 == 4
                || matches!(two, 51..=55 | 60 | 62 | 65)
                || matches!(three, 644..=649)
                || matches!(four, 2221..=2720 | 2200..=2204 | 3528..=3589)
        }
        15 => matches!(two, 34 | 37),
        14 => matches!(three, 300..=305) || matches!(two, 36 | 38 | 39),
        17..=19 if two == 62 => true,
        _ => false,
    };
    // Lengths that issuers hardly use, and Maestro, which takes nearly all of them.
    let is_rare = two / 10 == 4 && matches!(n, 13 | 19) || matches!(two, 50 | 56..=69);
    let says = || {
        number.says(&[
            "card",
            "credit",
            "debit",
            "visa",
            "mastercard",
            "maestro",
            "amex",
            "american express",
            "cc",
            "karte",
            "kreditkarte",
            "kartennummer",
            "carte",
            "tarjeta",
            "carta",
            "karta",
            "cartão",
            "kaart",
        ])
    };
    if !(is_issued || is_rare) || !luhn(number.digits) {
        return None;
    }
    match (is_issued, is_grouped || says()) {
        (true, true) => found(number, Kind::CreditCard, 1.0, "issuer, length and Luhn's digit"),
        (true, false) => found(number, Kind::CreditCard, 0.8, "issuer, length and Luhn's digit, no grouping"),
        (false, _) if says() => {
            found(number, Kind::CreditCard, 0.7, "Luhn's digit and context, a rare length")
        }
        (false, _) => None,
    }
}

fn ssn(number: &Number<'_>) -> Option<Candidate> {
    let d = number.digits;
    if d.len() != 9 || number.is_one_digit() {
        return None;
    }
    let value = |range: Range<usize>| d[range].iter().fold(0u32, |sum, digit| sum * 10 + u32::from(*digit));
    let (area, group, serial) = (value(0..3), value(3..5), value(5..9));
    if matches!(area, 0 | 666 | 900..) || group == 0 || serial == 0 {
        return None;
    }
    // Printed on cards of wallets, and never anybody's.
    if matches!((area, group, serial), (78, 5, 1120) | (219, 9, 9999)) {
        return None;
    }
    let says = || {
        number.says(&[
            "ssn",
            "ssns",
            "ss#",
            "social security",
            "social-security",
            "tax id",
            "taxpayer",
            "itin",
        ])
    };
    match (number.shape, number.separator) {
        ([3, 2, 4], Some('-' | ' ')) if says() => {
            found(number, Kind::UsSsn, 1.0, "form, valid area and context")
        }
        ([3, 2, 4], Some('-')) => found(number, Kind::UsSsn, 0.7, "form and valid area"),
        ([3, 2, 4], Some(' ')) => found(number, Kind::UsSsn, 0.4, "form and valid area"),
        ([9], None) if says() => found(number, Kind::UsSsn, 0.8, "valid area and context"),
        _ => None,
    }
}

fn nhs(number: &Number<'_>) -> Option<Candidate> {
    let d = number.digits;
    let is_formed = matches!((number.shape, number.separator), ([10], None) | ([3, 3, 4], Some(' ' | '-')));
    if !is_formed || number.is_one_digit() {
        return None;
    }
    let check = 11 - weighted(&d[..9], &[10, 9, 8, 7, 6, 5, 4, 3, 2], 11);
    if check % 11 != i32::from(d[9]) || check == 10 {
        return None;
    }
    match number.says(&["nhs", "national health", "health service", "patient"]) {
        true => found(number, Kind::UkNhs, 1.0, "check digit and context"),
        false => found(number, Kind::UkNhs, 0.4, "check digit"),
    }
}

/// One digit of the first ten stands there twice or three times, all others once.
fn tax_id(number: &Number<'_>) -> Option<Candidate> {
    let d = number.digits;
    let is_formed =
        matches!((number.shape, number.separator), ([11], None) | ([2, 3, 3, 3], Some(' ' | '/')));
    if !is_formed || d[0] == 0 {
        return None;
    }
    let mut counts = [0; 10];
    for digit in &d[..10] {
        counts[usize::from(*digit)] += 1;
    }
    let repeated: Vec<i32> = counts.into_iter().filter(|n| *n > 1).collect();
    if !matches!(repeated[..], [2 | 3]) || !mod11_10(d) {
        return None;
    }
    let says = number.says(&[
        "steuer-id",
        "steuerid",
        "steuer-identifikationsnummer",
        "steueridentifikationsnummer",
        "identifikationsnummer",
        "idnr",
        "tin",
        "tax id",
        "tax number",
        "steuernummer",
    ]);
    match says {
        true => found(number, Kind::DeTaxId, 1.0, "form, check digit and context"),
        false => found(number, Kind::DeTaxId, 0.6, "form and check digit"),
    }
}

/// The first six digits are a date whose month says the century.
fn pesel(number: &Number<'_>) -> Option<Candidate> {
    let d = number.digits;
    if number.shape != [11] {
        return None;
    }
    let two = |i: usize| u32::from(d[i]) * 10 + u32::from(d[i + 1]);
    let (coded, day) = (two(2), two(4));
    let year = two(0) + [1900, 2000, 2100, 2200, 1800][(coded / 20) as usize];
    let check = weighted(&d[..10], &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3], 10);
    if !is_day(year, coded % 20, day) || (10 - check) % 10 != i32::from(d[10]) {
        return None;
    }
    match number.says(&["pesel", "numer ewidencyjny"]) {
        true => found(number, Kind::PlPesel, 1.0, "date, check digit and context"),
        false => found(number, Kind::PlPesel, 0.5, "date and check digit"),
    }
}

fn bsn(number: &Number<'_>) -> Option<Candidate> {
    let d = number.digits;
    let is_formed = matches!(
        (number.shape, number.separator),
        ([8 | 9], None) | ([4, 2, 3] | [3, 3, 3], Some('.' | ' '))
    );
    let nine: [u8; 9] = match d.len() {
        9 => d.try_into().ok()?,
        8 => std::array::from_fn(|i| if i == 0 { 0 } else { d[i - 1] }),
        _ => return None,
    };
    if !is_formed || number.is_one_digit() || weighted(&nine, &[9, 8, 7, 6, 5, 4, 3, 2, -1], 11) != 0 {
        return None;
    }
    match number.says(&["bsn", "burgerservicenummer", "sofinummer", "sofi-nummer", "citizen service number"])
    {
        true => found(number, Kind::NlBsn, 1.0, "eleven test and context"),
        false => found(number, Kind::NlBsn, 0.3, "eleven test"),
    }
}

fn cpf(number: &Number<'_>) -> Option<Candidate> {
    let d = number.digits;
    let is_grouped = number.shape == [3, 3, 3, 2];
    if !(number.shape == [11] || is_grouped) || number.is_one_digit() {
        return None;
    }
    let check = |n: usize| {
        let weights: Vec<i32> = (2..=n as i32 + 1).rev().collect();
        match weighted(&d[..n], &weights, 11) {
            0 | 1 => 0,
            rest => 11 - rest,
        }
    };
    if check(9) != i32::from(d[9]) || check(10) != i32::from(d[10]) {
        return None;
    }
    match is_grouped || number.says(&["cpf", "cadastro de pessoas", "contribuinte"]) {
        true => found(number, Kind::BrCpf, 1.0, "form and both check digits"),
        false => found(number, Kind::BrCpf, 0.5, "both check digits"),
    }
}

fn aadhaar(number: &Number<'_>) -> Option<Candidate> {
    let d = number.digits;
    let is_grouped = matches!((number.shape, number.separator), ([4, 4, 4], Some(' ' | '-')));
    if !(number.shape == [12] || is_grouped) || d[0] < 2 || !verhoeff(d) {
        return None;
    }
    match (number.says(&["aadhaar", "aadhar", "adhaar", "uidai", "uid"]), is_grouped) {
        (true, _) => found(number, Kind::InAadhaar, 1.0, "Verhoeff's digit and context"),
        (false, true) if number.goes_on => None,
        (false, true) => found(number, Kind::InAadhaar, 0.6, "form and Verhoeff's digit"),
        (false, false) => found(number, Kind::InAadhaar, 0.3, "Verhoeff's digit"),
    }
}
