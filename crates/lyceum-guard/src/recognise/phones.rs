//! Telephone numbers: international ones by country code and length, national ones by form or by what is said
//! before them. Conservative: a number that could as well be something else is none.

use super::candidate;
use super::numbers::ends;
use crate::context::speaks;
use crate::{Candidate, Kind, Passage};
use std::ops::Range;

const GROUPS_MAX: usize = 7;

/// Said of numbers in groups alone: functions are called too.
const WEAK_WORDS: &[&str] = &["call", "call me", "text me", "dial", "ring", "reach me at", "contact number"];

const WORDS: &[&str] = &[
    "phone",
    "phones",
    "telephone",
    "tel",
    "tel.",
    "mobile",
    "cell",
    "cellphone",
    "fax",
    "whatsapp",
    "telefon",
    "telefonnummer",
    "handy",
    "mobil",
    "rufnummer",
    "téléphone",
    "portable",
    "appelez",
    "appelle",
    "teléfono",
    "móvil",
    "llama",
    "llámame",
    "telefono",
    "cellulare",
    "telefone",
    "celular",
    "telefoon",
    "telefonu",
];

/// Country codes with the fewest and most digits of a national number (ITU-T E.164 and national plans).
const COUNTRIES: &[(&str, usize, usize)] = &[
    ("1", 10, 10),
    ("7", 10, 10),
    ("20", 8, 10),
    ("27", 9, 9),
    ("30", 10, 10),
    ("31", 9, 9),
    ("32", 8, 9),
    ("33", 9, 9),
    ("34", 9, 9),
    ("36", 8, 9),
    ("39", 8, 11),
    ("40", 9, 9),
    ("41", 9, 9),
    ("43", 7, 12),
    ("44", 9, 10),
    ("45", 8, 8),
    ("46", 7, 9),
    ("47", 8, 8),
    ("48", 9, 9),
    ("49", 7, 11),
    ("51", 8, 9),
    ("52", 10, 10),
    ("54", 10, 11),
    ("55", 10, 11),
    ("56", 9, 9),
    ("57", 10, 10),
    ("60", 8, 10),
    ("61", 9, 9),
    ("62", 8, 12),
    ("63", 10, 10),
    ("64", 8, 10),
    ("65", 8, 8),
    ("66", 8, 9),
    ("81", 9, 10),
    ("82", 8, 10),
    ("84", 9, 10),
    ("86", 10, 11),
    ("90", 10, 10),
    ("91", 10, 10),
    ("92", 9, 10),
    ("94", 9, 9),
    ("98", 10, 10),
    ("212", 9, 9),
    ("216", 8, 8),
    ("233", 9, 9),
    ("234", 8, 10),
    ("254", 9, 9),
    ("351", 9, 9),
    ("352", 6, 9),
    ("353", 7, 9),
    ("354", 7, 7),
    ("358", 6, 11),
    ("359", 8, 9),
    ("370", 8, 8),
    ("371", 8, 8),
    ("372", 7, 8),
    ("380", 9, 9),
    ("385", 8, 9),
    ("386", 8, 8),
    ("420", 9, 9),
    ("421", 9, 9),
    ("852", 8, 8),
    ("880", 9, 10),
    ("886", 8, 9),
    ("966", 8, 9),
    ("971", 8, 9),
    ("972", 8, 9),
];

/// The telephone number that begins with the first group.
pub(super) fn find(passage: Passage<'_>, groups: &[Range<usize>], found: &mut Vec<Candidate>) {
    let text = passage.text();
    let lead = text[passage.from()..groups[0].start].chars().next_back();
    let start = match lead {
        Some('+' | '(') => groups[0].start - 1,
        _ => groups[0].start,
    };
    // `(+49) 30`
    let is_international = lead == Some('+') || text[..groups[0].start].ends_with("(+");
    let mut says = None;
    let mut best = None;
    let (mut digits, mut shape) = (String::new(), Vec::new());
    for (i, group) in groups.iter().take(GROUPS_MAX).enumerate() {
        if i > 0 && !separates(&text[groups[i - 1].end..group.start]) {
            break;
        }
        digits.push_str(&text[group.clone()]);
        shape.push(group.len());
        if digits.len() > 15 {
            break;
        }
        if digits.len() < 7 || !ends(text, group.end) {
            continue;
        }
        let trunk = usize::from(text[start..group.end].contains("(0)"));
        let form = match is_international {
            true => international(&digits, trunk).map(|score| if i == 0 { score - 0.1 } else { score }),
            false => national(&digits, &shape, text, groups),
        };
        let (says, hints) = *says.get_or_insert_with(|| {
            (speaks(passage.before(start), WORDS), speaks(passage.before(start), WEAK_WORDS))
        });
        let says = says || hints && i > 0;
        let score = match (form, says) {
            (Some(_), true) => Some(0.95),
            (Some(score), false) => Some(score),
            (None, true) if !is_international && digits.len() <= 12 => {
                Some(if digits.starts_with('0') { 0.8 } else { 0.6 })
            }
            (None, _) => None,
        };
        best = score.map(|score| (group.end, score)).or(best);
    }
    let Some((end, score)) = best else { return };
    let why = match is_international {
        true => "country code and length",
        false => "national form, or context",
    };
    found.push(candidate(Kind::Phone, start..end, score, why));
}

/// At most two of the characters that phone numbers are written with, or a `(0)` between.
fn separates(text: &str) -> bool {
    let n = text.chars().count();
    (1..=2).contains(&n)
        && text
            .chars()
            .all(|c| matches!(c, ' ' | '-' | '.' | '/' | '(' | ')' | '\u{a0}' | '\u{202f}' | '\u{2011}'))
}

fn international(digits: &str, trunk: usize) -> Option<f32> {
    let country = COUNTRIES.iter().find(|(code, ..)| digits.starts_with(code));
    match country {
        Some((code, fewest, most)) => {
            let national = digits.len() - code.len() - trunk;
            (*fewest..=*most).contains(&national).then_some(0.9)
        }
        None => (!digits.starts_with('0') && (9..=14).contains(&digits.len())).then_some(0.6),
    }
}

/// Forms that hardly anything else has: North America's, France's pairs, British mobiles.
fn national(digits: &str, shape: &[usize], text: &str, groups: &[Range<usize>]) -> Option<f32> {
    let between = |i: usize| &text[groups[i].end..groups[i + 1].start];
    let d = digits.as_bytes();
    let has_area = |at: usize| d[at] >= b'2' && d[at + 3] >= b'2';
    match shape {
        [3, 3, 4] if has_area(0) => match (between(0), between(1)) {
            (") " | ")" | ")-", "-" | " " | ".") if text[..groups[0].start].ends_with('(') => Some(0.7),
            ("-", "-") => Some(0.6),
            (".", ".") => Some(0.5),
            _ => None,
        },
        [1, 3, 3, 4] if d[0] == b'1' && has_area(1) && between(0) != "." && between(1) == between(2) => {
            Some(0.6)
        }
        [2, 2, 2, 2, 2] if d[0] == b'0' && d[1] != b'0' && between(0) == between(3) => Some(0.5),
        [5, 6] if digits.starts_with("07") && between(0) == " " => Some(0.5),
        _ => None,
    }
}
