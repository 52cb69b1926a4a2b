//! Signing a card and reading a signed one: Ed25519 (RFC 8032) over the canonical JSON of everything but the
//! signature itself.

use crate::ServiceError;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use lyceum_store::{Layout, evidence};
use lyceum_types::card::{Card, canonical};
use serde_json::Value;

/// The member that holds the signature.
const SIGNATURE: &str = "signature";

/// The key of a data folder.
pub struct Signer(SigningKey);

/// A card with its signature, as it is handed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    pub card: Card,
    /// 64 bytes, hexadecimal.
    pub signature: String,
    /// The whole document as it was read or will be written.
    document: Value,
}

impl Signer {
    /// Made at its first use.
    pub fn of(layout: &Layout) -> Result<Self, ServiceError> {
        Ok(Signer(SigningKey::from_bytes(&evidence::signing_key(layout)?)))
    }

    pub fn public_key(&self) -> String {
        hexadecimal(self.0.verifying_key().as_bytes())
    }

    pub(super) fn sign(&self, card: Card) -> Result<Signed, ServiceError> {
        let mut document = serde_json::to_value(&card)
            .map_err(|error| ServiceError::internal("a card cannot be written", error))?;
        let signature = hexadecimal(&self.0.sign(canonical(&document).as_bytes()).to_bytes());
        document[SIGNATURE] = Value::from(signature.clone());
        Ok(Signed { card, signature, document })
    }
}

/// A document of another kind, signed as a card is: with the members `signed_by` and `signature`.
pub fn sign(signer: &Signer, mut document: Value) -> Value {
    document["signed_by"] = serde_json::json!({
        "algorithm": "Ed25519",
        "public_key": signer.public_key(),
        "over": "the canonical JSON (RFC 8785) of this object without its member `signature`",
    });
    document[SIGNATURE] =
        Value::from(hexadecimal(&signer.0.sign(canonical(&document).as_bytes()).to_bytes()));
    document
}

/// Whether the signature of [`sign`] is that of the key which the document names.
///
/// # Errors
/// Why it does not hold.
pub fn check(document: &Value) -> Result<(), String> {
    let mut bare = document.clone();
    let signature = bare.as_object_mut().and_then(|fields| fields.remove(SIGNATURE));
    let signature = signature.as_ref().and_then(Value::as_str).and_then(bytes::<64>);
    let signature = signature.ok_or("signature: not 64 bytes")?;
    let key = document["signed_by"]["public_key"].as_str().and_then(bytes::<32>);
    verified(&key.ok_or("signed_by.public_key: not 32 bytes")?, &bare, &signature)
}

/// Whether a key signed the canonical JSON of a document.
fn verified(key: &[u8; 32], bare: &Value, signature: &[u8; 64]) -> Result<(), String> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| "public_key: it is no key")?;
    key.verify_strict(canonical(bare).as_bytes(), &Signature::from_bytes(signature))
        .map_err(|_| "the signature is not that of these words: something was changed".to_owned())
}

impl Signed {
    /// Reads a card; whether its signature holds is another question.
    ///
    /// # Errors
    /// Text that is no card, with the reason.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let document: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        Self::of_value(document)
    }

    /// As [`parse`](Self::parse).
    pub fn of_value(document: Value) -> Result<Self, String> {
        let mut bare = document.clone();
        let signature = bare.as_object_mut().and_then(|fields| fields.remove(SIGNATURE));
        let Some(Value::String(signature)) = signature else {
            return Err("it has no member `signature` with a text".into());
        };
        let card: Card = serde_json::from_value(bare).map_err(|error| error.to_string())?;
        Ok(Signed { card, signature, document })
    }

    /// Whether the signature is that of the key which the card names.
    ///
    /// # Errors
    /// Why it does not hold.
    pub fn check(&self) -> Result<(), String> {
        let key: [u8; 32] = bytes(&self.card.signed_by.public_key).ok_or("public_key: not 32 bytes")?;
        let signature: [u8; 64] = bytes(&self.signature).ok_or("signature: not 64 bytes")?;
        let mut bare = self.document.clone();
        bare.as_object_mut().and_then(|fields| fields.remove(SIGNATURE));
        verified(&key, &bare, &signature)
    }

    /// Whether this data folder's key signed it.
    pub fn is_signed_by(&self, signer: &Signer) -> bool {
        self.card.signed_by.public_key == signer.public_key() && self.check().is_ok()
    }

    pub fn document(&self) -> &Value {
        &self.document
    }

    pub fn to_json(&self) -> String {
        format!("{:#}\n", self.document)
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut out = [0; N];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_types::card::{FORMAT_VERSION, OBJECT, STATEMENT, Sections, SignedBy};

    fn signed() -> Signed {
        let signer = Signer(SigningKey::from_bytes(&[7; 32]));
        let card = Card {
            object: OBJECT.into(),
            format_version: FORMAT_VERSION,
            model: "digits@1".into(),
            issued_at: "2026-01-01T00:00:00Z".into(),
            issued_by: "lyceum".into(),
            sections: Sections::default(),
            signed_by: SignedBy {
                algorithm: "Ed25519".into(),
                public_key: signer.public_key(),
                over: "all".into(),
                statement: STATEMENT.into(),
            },
        };
        signer.sign(card).unwrap()
    }

    #[test]
    fn order_and_spaces_keep_a_signature_and_every_changed_word_breaks_it() {
        let signed = signed();
        signed.check().unwrap();
        let text = signed.to_json();
        let reordered: Value =
            serde_json::from_str(&canonical(&serde_json::from_str(&text).unwrap())).unwrap();
        Signed::of_value(reordered).unwrap().check().unwrap();
        // Flip one bit of every letter and digit inside the values: either it is no card any more, or it is noticed.
        let mut n_noticed = 0;
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            if !bytes[at].is_ascii_alphanumeric() {
                continue;
            }
            bytes[at] ^= 1;
            // An unreadable card is noticed as well.
            let passes = Signed::parse(&bytes).is_ok_and(|changed| changed.check().is_ok());
            assert!(!passes, "byte {at} of {text}");
            n_noticed += 1;
        }
        assert!(n_noticed > 500);
    }

    #[test]
    fn another_key_is_seen() {
        let other = Signer(SigningKey::from_bytes(&[8; 32]));
        assert!(!signed().is_signed_by(&other));
    }
}
