//! What was masked, sealed for its project: nothing of it is kept here, so that zero retention holds, and nobody but
//! the project can have it opened.
//!
//! ```text
//! key    = HKDF-SHA256(the data folder's key, info = lengths and names of tenant and project)
//! sealed = base64url(1 | until, seconds, 8 bytes | nonce, 12 | ChaCha20-Poly1305(names and values, aad = 1 | until))
//! ```

use crate::ServiceError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lyceum_guard::Names;
use lyceum_store::{Layout, evidence};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use std::time::Duration;

/// The form of what is sealed.
const FORM: u8 = 1;
const HEAD_BYTES: usize = 9;
const PURPOSE: &[u8] = b"lyceum: what was masked";

fn key(layout: &Layout, project: &Project) -> Result<LessSafeKey, ServiceError> {
    let bug = |_| ServiceError::internal("deriving a key failed", "bug");
    let master = evidence::sealing_key(layout)?;
    let (tenant, id) = (project.tenant.as_bytes(), project.id.as_bytes());
    let length = (tenant.len() as u64).to_le_bytes();
    let info = [PURPOSE, &length, tenant, id];
    let derived = Salt::new(HKDF_SHA256, &[]).extract(&master);
    let derived = derived.expand(&info, &CHACHA20_POLY1305).map_err(bug)?;
    Ok(LessSafeKey::new(UnboundKey::from(derived)))
}

/// Names and values, to be opened by the same project until then.
pub(super) fn seal(
    layout: &Layout,
    project: &Project,
    names: &Names,
    (now, kept): (Timestamp, Duration),
) -> Result<(String, i64), ServiceError> {
    let failed = |_| ServiceError::internal("sealing failed", "bug");
    let until = now.seconds() + i64::try_from(kept.as_secs()).unwrap_or(i64::MAX / 2);
    let mut head = vec![FORM];
    head.extend(until.to_le_bytes());
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)
        .map_err(|error| ServiceError::internal("drawing a nonce failed", error.to_string()))?;
    let given: Vec<(&str, &str)> = names.given().collect();
    let mut text =
        serde_json::to_vec(&given).map_err(|error| ServiceError::internal("writing names failed", error))?;
    let nonce_of = Nonce::assume_unique_for_key(nonce);
    key(layout, project)?.seal_in_place_append_tag(nonce_of, Aad::from(&head), &mut text).map_err(failed)?;
    let sealed = [head.as_slice(), &nonce, &text].concat();
    Ok((URL_SAFE_NO_PAD.encode(sealed), until))
}

/// What [`seal`] sealed for this project.
///
/// # Errors
/// Something else, another project's (which looks the same), or too old.
pub(super) fn open(
    layout: &Layout,
    project: &Project,
    sealed: &str,
    now: Timestamp,
) -> Result<Names, ServiceError> {
    let wrong = |message: &str| ServiceError::invalid("restore", "invalid_restore", message);
    let strange = || wrong("restore: this was not sealed for this project by POST /v1/pii/anonymize");
    let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| strange())?;
    if bytes.len() < HEAD_BYTES + NONCE_LEN || bytes[0] != FORM {
        return Err(strange());
    }
    let (head, rest) = bytes.split_at(HEAD_BYTES);
    let (nonce, text) = rest.split_at(NONCE_LEN);
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| strange())?;
    let mut text = text.to_vec();
    let opened = key(layout, project)?.open_in_place(nonce, Aad::from(head), &mut text);
    let opened = opened.map_err(|_| strange())?;
    let until = i64::from_le_bytes(head[1..].try_into().expect("eight bytes behind the form: bug"));
    if now.seconds() >= until {
        return Err(wrong("restore: it has expired"));
    }
    let given: Vec<(String, String)> = serde_json::from_slice(opened).map_err(|_| strange())?;
    Ok(given.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_project_opens_it_and_only_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let project = |tenant: &str, id: &str| Project { tenant: tenant.into(), id: id.into() };
        let (now, kept) = (Timestamp::from_millis(1_000_000), Duration::from_secs(60));
        let names: Names = [("<SECRET_1>".to_owned(), "canary".to_owned())].into_iter().collect();
        let (sealed, until) = seal(&layout, &project("a", "bc"), &names, (now, kept)).unwrap();
        assert_eq!(until, 1060);
        let opened = open(&layout, &project("a", "bc"), &sealed, now).unwrap();
        assert_eq!(opened.value("<SECRET_1>"), Some("canary"));
        for other in [project("a", "b"), project("ab", "c"), project("b", "bc")] {
            assert!(open(&layout, &other, &sealed, now).is_err(), "{other:?}");
        }
        let late = Timestamp::from_millis(1_060_000);
        assert!(
            open(&layout, &project("a", "bc"), &sealed, late).unwrap_err().to_string().contains("expired")
        );
        let bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let changed = URL_SAFE_NO_PAD.encode(changed);
            assert!(open(&layout, &project("a", "bc"), &changed, now).is_err(), "byte {at}");
        }
        assert!(!String::from_utf8_lossy(&bytes).contains("canary"));
        let elsewhere = tempfile::tempdir().unwrap();
        assert!(open(&Layout::new(elsewhere.path()), &project("a", "bc"), &sealed, now).is_err());
    }
}
