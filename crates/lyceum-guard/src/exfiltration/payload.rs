//! What a part of an address carries.

/// In the order of what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Payload {
    Plain,
    /// Several words with spaces between them.
    Words,
    /// `{{notes}}`, `[DATA]`, `<secret>`: to be filled.
    Placeholder,
    /// An e-mail address.
    Personal,
    /// Hexadecimal or Base64 of a text.
    Encoded,
}

/// A shorter one is a word, a hash or an id by chance.
const ENCODED_CHARS_MIN: usize = 16;

impl Payload {
    pub fn of(part: &str) -> Self {
        if part.len() < 3 {
            return Payload::Plain;
        }
        if is_encoded(part) {
            return Payload::Encoded;
        }
        let text = percent_decoded(part);
        if is_encoded(&text) {
            return Payload::Encoded;
        }
        if text.split_once('@').is_some_and(|(user, host)| {
            user.ends_with(|c: char| c.is_ascii_alphanumeric())
                && host.contains('.')
                && !host.starts_with('.')
        }) {
            return Payload::Personal;
        }
        if part.contains(['{', '[', '<']) {
            return Payload::Placeholder;
        }
        let words = text.split([' ', '+', '\n']).filter(|word| word.chars().any(char::is_alphabetic)).count();
        if words >= 3 { Payload::Words } else { Payload::Plain }
    }
}

/// `%41` is `A`; what is no code stays.
fn percent_decoded(part: &str) -> String {
    let bytes = part.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let code = (bytes[i] == b'%').then(|| part.get(i + 1..i + 3)).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether it decodes to a text. Twelve bytes at random are all printable once in 150,000 times; digests and ids do not.
fn is_encoded(part: &str) -> bool {
    part.len() >= ENCODED_CHARS_MIN
        && [hex(part), base64(part)].into_iter().flatten().any(|bytes| {
            let readable = bytes.iter().filter(|b| matches!(b, b' '..=b'~' | b'\n' | b'\t')).count();
            bytes.len() >= ENCODED_CHARS_MIN / 2 && readable * 20 >= bytes.len() * 19 && has_letters(&bytes)
        })
}

/// A digest that is readable by chance, and a number that is, hardly has letters for half of it.
fn has_letters(bytes: &[u8]) -> bool {
    bytes.iter().filter(|b| b.is_ascii_alphabetic() || **b == b' ').count() * 2 >= bytes.len()
}

fn hex(part: &str) -> Option<Vec<u8>> {
    if part.len() % 2 == 1 || !part.is_ascii() {
        return None;
    }
    (0..part.len()).step_by(2).map(|i| u8::from_str_radix(&part[i..i + 2], 16).ok()).collect()
}

/// RFC 4648, both alphabets, padding or none.
fn base64(part: &str) -> Option<Vec<u8>> {
    let part = part.trim_end_matches('=');
    let (mut out, mut bits, mut n_bits) = (Vec::with_capacity(part.len() * 3 / 4), 0_u32, 0);
    for b in part.bytes() {
        let six = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            out.push((bits >> n_bits) as u8);
            bits &= (1 << n_bits) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_known_and_ids_are_not() {
        assert_eq!(base64("aGVsbG8gd29ybGQ=").unwrap(), b"hello world");
        assert_eq!(hex("68656c6c6f").unwrap(), b"hello");
        for (part, expected) in [
            ("dGhlIHBhc3N3b3JkIGlzIHRpZ2Vy", Payload::Encoded),
            ("7468652070617373776f7264206973", Payload::Encoded),
            ("dGhlIHBhc3N3b3JkIGlz%3D", Payload::Encoded),
            ("anna%40example.org", Payload::Personal),
            ("{{notes}}", Payload::Placeholder),
            ("the%20code%20is%207", Payload::Words),
            ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", Payload::Plain),
            ("dQw4w9WgXcQ", Payload::Plain),
            ("550e8400-e29b-41d4-a716-446655440000", Payload::Plain),
            ("documentation-overview-page", Payload::Plain),
            ("20240131235959000000", Payload::Plain),
        ] {
            assert_eq!(Payload::of(part), expected, "{part}");
        }
    }
}
