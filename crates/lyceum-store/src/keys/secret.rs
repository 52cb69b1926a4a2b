//! The secret of a key: random, shown once, known afterwards by its sha256 and its last four characters.

use crate::StoreError;
use crate::tenancy::admin_keys;
use sha2::{Digest, Sha256};

/// The longest secret that is looked up.
pub(crate) const SECRET_CHARS_MAX: usize = 128;

/// A secret `sk-…` with 192 random bits. It has no `Debug` that shows it.
pub struct KeySecret(String);

impl KeySecret {
    pub(crate) fn generate(prefix: &str) -> Result<Self, StoreError> {
        let mut bytes = [0u8; 24];
        getrandom::fill(&mut bytes).map_err(|e| StoreError::Random(e.to_string()))?;
        Ok(Self(bytes.iter().fold(prefix.to_owned(), |text, byte| text + &format!("{byte:02x}"))))
    }

    /// The text to show to its owner, once.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySecret(sk-…)")
    }
}

/// What may be shown of a secret: its kind and its last four characters.
pub(crate) fn hint(secret: &KeySecret) -> String {
    let text = secret.reveal();
    let kind = if text.starts_with(admin_keys::PREFIX) { "sk-admin-" } else { "sk-" };
    format!("{kind}...{}", &text[text.len() - 4..])
}

/// What is kept of a secret, and what stands for it in memory.
pub fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}
