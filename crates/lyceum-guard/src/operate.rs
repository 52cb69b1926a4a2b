//! What may stand in the place of a finding: the operators of Presidio's anonymizer, and our names.

use crate::placeholder::Names;
use crate::{Finding, GuardError, Kind, Replace};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha512};
use std::collections::BTreeMap;

/// What stands there instead.
#[derive(Clone, PartialEq, Eq)]
pub enum Operator {
    /// This text, or `<KIND>`.
    Replace { new_value: Option<String> },
    /// Nothing.
    Redact,
    /// The same characters, so many of them masked.
    Mask { masking_char: char, chars_to_mask: usize, from_end: bool },
    /// HMAC of the value, in hexadecimal: equal values of one key are equal, and without the key nobody can guess them.
    Hash { hash: Hash, key: Vec<u8> },
    /// A name that can be restored.
    Placeholder,
    /// The value itself.
    Keep,
}

impl Operator {
    pub fn as_str(&self) -> &'static str {
        match self {
            Operator::Replace { .. } => "replace",
            Operator::Redact => "redact",
            Operator::Mask { .. } => "mask",
            Operator::Hash { .. } => "hash",
            Operator::Placeholder => "placeholder",
            Operator::Keep => "keep",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hash {
    #[default]
    Sha256,
    Sha512,
}

/// By kind, with one for the rest.
pub struct Operators {
    pub default: Operator,
    pub by_kind: BTreeMap<Kind, Operator>,
    pub names: Names,
}

impl Operators {
    pub fn of(&self, kind: Kind) -> &Operator {
        self.by_kind.get(&kind).unwrap_or(&self.default)
    }
}

impl Replace for Operators {
    fn replace(&mut self, found: &Finding, text: &str, out: &mut String) -> Result<(), GuardError> {
        match self.by_kind.get(&found.kind).unwrap_or(&self.default) {
            Operator::Replace { new_value: Some(new) } => out.push_str(new),
            Operator::Replace { new_value: None } => out.extend(["<", found.kind.as_str(), ">"]),
            Operator::Redact => {}
            Operator::Mask { masking_char, chars_to_mask, from_end } => {
                let n = text.chars().count();
                let masked = (*chars_to_mask).min(n);
                let is_masked = |i: usize| if *from_end { i >= n - masked } else { i < masked };
                out.extend(
                    text.chars().enumerate().map(|(i, c)| if is_masked(i) { *masking_char } else { c }),
                );
            }
            Operator::Hash { hash: Hash::Sha256, key } => {
                let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length: bug");
                push_hex(&mac.chain_update(text).finalize().into_bytes(), out);
            }
            Operator::Hash { hash: Hash::Sha512, key } => {
                let mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes keys of every length: bug");
                push_hex(&mac.chain_update(text).finalize().into_bytes(), out);
            }
            Operator::Placeholder => out.push_str(self.names.name(found.kind, text)?),
            Operator::Keep => out.push_str(text),
        }
        Ok(())
    }
}

fn push_hex(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::rewrite;
    use crate::{Analyser, Wanted};

    fn anonymized(operator: Operator, text: &str) -> String {
        let by_kind = BTreeMap::from([(Kind::Email, operator)]);
        let mut operators = Operators { default: Operator::Keep, by_kind, names: Names::default() };
        rewrite(&Analyser::default(), &Wanted::default(), text, &mut operators).unwrap()
    }

    #[test]
    fn operators_put_in_its_place_what_they_say() {
        let text = "ä a@b.de 8.8.4.4";
        let replace = |new: Option<&str>| Operator::Replace { new_value: new.map(str::to_owned) };
        assert_eq!(anonymized(replace(None), text), "ä <EMAIL_ADDRESS> 8.8.4.4");
        assert_eq!(anonymized(replace(Some("X")), text), "ä X 8.8.4.4");
        assert_eq!(anonymized(Operator::Redact, text), "ä  8.8.4.4");
        let mask = |chars_to_mask, from_end| Operator::Mask { masking_char: '*', chars_to_mask, from_end };
        assert_eq!(anonymized(mask(4, false), text), "ä ****de 8.8.4.4");
        assert_eq!(anonymized(mask(4, true), text), "ä a@**** 8.8.4.4");
        assert_eq!(anonymized(mask(100, true), text), "ä ****** 8.8.4.4");
        assert_eq!(anonymized(Operator::Placeholder, text), "ä <EMAIL_ADDRESS_1> 8.8.4.4");
        assert_eq!(anonymized(Operator::Keep, text), text);
    }

    #[test]
    fn hashes_are_hmacs_of_the_value() {
        // printf %s a@b.de | openssl dgst -sha256 -hmac Jefe
        let hash = Operator::Hash { hash: Hash::Sha256, key: b"Jefe".to_vec() };
        let expected = "502a5297b5cf2c794d93446923d95e52b7f2a0c0f6442b8649b1287fa12e5f7a";
        assert_eq!(anonymized(hash, "a@b.de"), expected);
        let hash = Operator::Hash { hash: Hash::Sha512, key: b"Jefe".to_vec() };
        assert_eq!(anonymized(hash, "a@b.de").len(), 128);
    }
}
