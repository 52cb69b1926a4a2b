//! Keys, tokens and passwords: by what they begin with, and what looks random behind a word that says what it is.

use super::candidate;
use crate::{Candidate, GuardError, Kind, Passage, Recogniser};
use std::ops::Range;

pub(super) struct Secrets;

impl Recogniser for Secrets {
    fn name(&self) -> &'static str {
        "secrets"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[
            Kind::AwsAccessKey,
            Kind::AwsSecretKey,
            Kind::GithubToken,
            Kind::SlackToken,
            Kind::ApiKey,
            Kind::GoogleApiKey,
            Kind::StripeKey,
            Kind::Jwt,
            Kind::PrivateKey,
            Kind::Secret,
        ]
    }

    fn find(&self, passage: Passage<'_>, found: &mut Vec<Candidate>) -> Result<(), GuardError> {
        let (text, bytes) = (passage.text(), passage.text().as_bytes());
        let mut at = passage.from();
        while at < bytes.len() {
            if !is_of_key(bytes[at]) {
                // Base64 may begin with these.
                if matches!(bytes[at], b'/' | b'+') && text[..at].ends_with(['=', '"', '\'']) {
                    unmarked(passage, at, found);
                }
                at += 1;
                continue;
            }
            let end = at + bytes[at..].iter().take_while(|byte| is_of_key(**byte)).count();
            let run = at..end;
            if let Some(end) = private_key(text, at) {
                found.push(candidate(Kind::PrivateKey, at..end, 1.0, "marks of a private key"));
                at = end;
                continue;
            }
            if run.len() >= MARKED_BYTES_MIN {
                marked(text, run.clone(), found);
            }
            if text[..at].ends_with(['=', ':', '"', '\'', '`', ' ', '\n']) {
                unmarked(passage, at, found);
            }
            at = end;
        }
        Ok(())
    }
}

/// No published form is shorter.
const MARKED_BYTES_MIN: usize = 16;

/// What keys are written with; dots of a JWT are looked at apart.
fn is_of_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// From the header to the footer, or as far as there is something that may be a key.
fn private_key(text: &str, at: usize) -> Option<usize> {
    let behind = text[at..].strip_prefix("-----BEGIN")?;
    let header: usize = behind.chars().take(60).take_while(|c| *c != '-').map(char::len_utf8).sum();
    let is_private = behind[..header].ends_with("PRIVATE KEY") && behind[header..].starts_with("-----");
    let body = at + 10 + header + 5;
    is_private.then(|| match text[body..].find("-----END") {
        Some(footer) => {
            let behind = body + footer + 8;
            text[behind..].find("-----").map_or(text.len(), |n| behind + n + 5)
        }
        None => text.len(),
    })
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// Forms that their makers publish: what it begins with, of what the rest is, how long that is.
type Form = (Kind, &'static str, fn(u8) -> bool, std::ops::RangeInclusive<usize>);

const FORMS: &[Form] = &[
    (Kind::AwsAccessKey, "AKIA", |b| b.is_ascii_uppercase() || b.is_ascii_digit(), 16..=16),
    (Kind::AwsAccessKey, "ASIA", |b| b.is_ascii_uppercase() || b.is_ascii_digit(), 16..=16),
    (Kind::AwsAccessKey, "ABIA", |b| b.is_ascii_uppercase() || b.is_ascii_digit(), 16..=16),
    (Kind::AwsAccessKey, "ACCA", |b| b.is_ascii_uppercase() || b.is_ascii_digit(), 16..=16),
    (Kind::GithubToken, "ghp_", is_alphanumeric, 36..=36),
    (Kind::GithubToken, "gho_", is_alphanumeric, 36..=36),
    (Kind::GithubToken, "ghu_", is_alphanumeric, 36..=36),
    (Kind::GithubToken, "ghs_", is_alphanumeric, 36..=36),
    (Kind::GithubToken, "ghr_", is_alphanumeric, 36..=76),
    (Kind::GithubToken, "github_pat_", |b| b.is_ascii_alphanumeric() || b == b'_', 82..=82),
    (Kind::SlackToken, "xoxb-", is_of_key, 20..=200),
    (Kind::SlackToken, "xoxp-", is_of_key, 20..=200),
    (Kind::SlackToken, "xoxa-", is_of_key, 20..=200),
    (Kind::SlackToken, "xoxr-", is_of_key, 20..=200),
    (Kind::SlackToken, "xoxs-", is_of_key, 20..=200),
    (Kind::SlackToken, "xapp-", is_of_key, 20..=200),
    (Kind::GoogleApiKey, "AIza", is_of_key, 35..=35),
    (Kind::GoogleApiKey, "GOCSPX-", is_of_key, 28..=28),
    (Kind::StripeKey, "sk_live_", is_alphanumeric, 16..=200),
    (Kind::StripeKey, "sk_test_", is_alphanumeric, 16..=200),
    (Kind::StripeKey, "rk_live_", is_alphanumeric, 16..=200),
    (Kind::StripeKey, "rk_test_", is_alphanumeric, 16..=200),
    (Kind::StripeKey, "whsec_", is_alphanumeric, 24..=200),
    (Kind::ApiKey, "sk-", is_of_key, 20..=220),
    (Kind::ApiKey, "hf_", is_alphanumeric, 34..=40),
    (Kind::ApiKey, "gsk_", is_alphanumeric, 40..=60),
    (Kind::ApiKey, "glpat-", is_of_key, 20..=40),
    (Kind::ApiKey, "npm_", is_alphanumeric, 36..=36),
];

fn marked(text: &str, run: Range<usize>, found: &mut Vec<Candidate>) {
    let key = &text[run.clone()];
    for (kind, begin, is_of_rest, lengths) in FORMS {
        let Some(rest) = key.strip_prefix(begin) else { continue };
        let is_formed = lengths.contains(&rest.len()) && rest.bytes().all(is_of_rest);
        // Names are written with hyphens and underscores too; hardly one has just this length.
        let is_of_one_length = lengths.start() == lengths.end();
        let n_digits = rest.bytes().filter(u8::is_ascii_digit).count();
        let looks_random =
            entropy(rest) >= 2.5 && (is_of_one_length || n_digits >= if *begin == "sk-" { 2 } else { 1 });
        if is_formed && looks_random {
            found.push(candidate(*kind, run.clone(), 1.0, "what its maker lets it begin with, and length"));
            return;
        }
    }
    if key.starts_with("eyJ") {
        found.extend(
            jwt(text, run.start).map(|bytes| candidate(Kind::Jwt, bytes, 1.0, "three parts, two of JSON")),
        );
    }
}

/// Header and payload are JSON objects (`{"` is `eyJ` in base64url), then the signature.
fn jwt(text: &str, start: usize) -> Option<Range<usize>> {
    let part = |from: usize| from + text[from..].bytes().take_while(|byte| is_of_key(*byte)).count();
    let header = part(start);
    if text.as_bytes().get(header) != Some(&b'.') || !text[header + 1..].starts_with("eyJ") {
        return None;
    }
    let payload = part(header + 1);
    if header - start < 10 || payload - header < 10 {
        return None;
    }
    match text.as_bytes().get(payload) {
        Some(b'.') => Some(start..part(payload + 1)),
        // It goes on behind what may wait.
        None => Some(start..payload),
        _ => None,
    }
}

/// Words before a value that say what it is; `true`: a person may have chosen it.
const NAMES: &[(&str, bool)] = &[
    ("password", true),
    ("passwd", true),
    ("passwort", true),
    ("passphrase", true),
    ("pwd", true),
    ("contraseña", true),
    ("secret", false),
    ("secret_key", false),
    ("token", false),
    ("api_key", false),
    ("apikey", false),
    ("api-key", false),
    ("api key", false),
    ("accesskey", false),
    ("secretkey", false),
    ("access_key", false),
    ("access key", false),
    ("auth_key", false),
    ("private_key", false),
    ("client_secret", false),
    ("credential", false),
    ("credentials", false),
    ("bearer", false),
];

/// A value that looks random, where what stands before it says that it is a secret.
fn unmarked(passage: Passage<'_>, start: usize, found: &mut Vec<Candidate>) {
    let text = passage.text();
    let Some((name, is_chosen)) = named(passage.before(start)) else { return };
    // A value goes on to the next space, quote or bracket.
    let is_of_value = |c: char| c.is_ascii_graphic() && !"\"'`<>(){}[],;".contains(c);
    let n: usize = text[start..].chars().take(256).take_while(|c| is_of_value(*c)).map(char::len_utf8).sum();
    let value = text[start..start + n].trim_end_matches(['.', ':', '!', '?', ',']);
    if value.len() < 8 || value.contains("://") {
        return;
    }
    let has = |is: fn(&u8) -> bool| value.bytes().any(|byte| is(&byte));
    let is_mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
    let bytes = start..start + value.len();
    let is_aws = value.len() == 40
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'+' | b'='))
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase);
    if is_aws && is_mixed && entropy(value) >= 4.0 && is_of_aws(passage.before(start)) {
        found.push(candidate(Kind::AwsSecretKey, bytes, 0.95, "length, randomness and context"));
        return;
    }
    let is_random = match is_chosen {
        true => is_mixed && entropy(value) >= 2.5,
        false => is_mixed && value.len() >= 16 && entropy(value) >= 3.0,
    };
    let is_assigned_to_itself = value.to_ascii_lowercase().contains(name);
    if is_random && !is_assigned_to_itself {
        found.push(candidate(Kind::Secret, bytes, 0.75, "looks random, and context"));
    }
}

fn is_of_aws(before: &str) -> bool {
    let lower = before.to_lowercase();
    lower.contains("aws") || lower.contains("secret_access_key") || lower.contains("secretaccesskey")
}

/// The name to which a value is given: `api_key = `, `"password": "`, `Authorization: Bearer `, `the token is `.
fn named(before: &str) -> Option<(&'static str, bool)> {
    let head = before.trim_end_matches(['"', '\'', '`', ' ', '\n']);
    let ends = |text: &str, name: &str| {
        let at = text.len().checked_sub(name.len());
        at.is_some_and(|at| text.as_bytes()[at..].eq_ignore_ascii_case(name.as_bytes()))
    };
    let stem = head.trim_end_matches([':', '=', '>']);
    let stem = match stem.len() < head.len() || ends(head, "bearer") {
        true => stem,
        false => head.strip_suffix(" is").or_else(|| head.strip_suffix(" ist"))?,
    };
    let stem = stem.trim_end_matches(['"', '\'', '`', ' ', '*']);
    // `aws_secret_access_key` and `db.password` are names that end with one of these.
    NAMES.iter().find(|(name, _)| ends(stem, name)).copied()
}

/// Shannon's entropy of the bytes, in bits for each.
fn entropy(text: &str) -> f32 {
    let mut counts = [0u32; 128];
    for byte in text.bytes() {
        counts[usize::from(byte & 127)] += 1;
    }
    let n = text.len() as f32;
    counts.iter().filter(|n| **n > 0).map(|&count| -(count as f32 / n) * (count as f32 / n).log2()).sum()
}
