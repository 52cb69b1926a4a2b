//! Addresses of mail, networks and services.

use super::{begins_word, candidate, ends_word, is_word};
use crate::context::speaks;
use crate::{Candidate, GuardError, Kind, Passage, Recogniser};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

pub(super) struct Addresses;

impl Recogniser for Addresses {
    fn name(&self) -> &'static str {
        "addresses"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Email, Kind::IpAddress, Kind::MacAddress, Kind::UrlCredentials]
    }

    fn find(&self, passage: Passage<'_>, found: &mut Vec<Candidate>) -> Result<(), GuardError> {
        let (text, from) = (passage.text(), passage.from());
        let bytes = text.as_bytes();
        let mut hex_end = from;
        for at in from..bytes.len() {
            match bytes[at] {
                b'@' => found.extend(email(text, from, at).map(|b| candidate(Kind::Email, b, 1.0, "form"))),
                b':' if text[at..].starts_with("://") => {
                    let why = "a password before the host";
                    let found_here = url(text, from, at);
                    found.extend(found_here.map(|b| candidate(Kind::UrlCredentials, b, 1.0, why)));
                }
                // Each run of hexadecimal digits and their separators is looked at once.
                byte if at >= hex_end && (byte.is_ascii_hexdigit() || byte == b':') => {
                    hex_end = at + text[at..].bytes().take_while(|b| is_of_network(*b)).count();
                    network(passage, at..hex_end, found);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_of_network(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b'-')
}

/// Files are called like this too: `icon@2x.png`.
const NO_DOMAINS: &[&str] =
    &["png", "jpg", "jpeg", "gif", "svg", "webp", "css", "json", "html", "txt", "pdf"];
const LOCAL_BYTES_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 190;

fn email(text: &str, from: usize, at: usize) -> Option<Range<usize>> {
    let is_local = |c: &char| c.is_alphanumeric() || "._%+-'".contains(*c);
    let local: Vec<char> = text[from..at].chars().rev().take(LOCAL_BYTES_MAX).take_while(is_local).collect();
    let n: usize = local.iter().map(|c| c.len_utf8()).sum();
    let local = text[at - n..at].trim_start_matches(['.', '\'', '-', '%', '+']);
    let start = at - local.len();
    if local.is_empty() || local.ends_with('.') || local.contains("..") {
        return None;
    }
    let rest = &text[at + 1..];
    let n: usize = rest
        .chars()
        .take_while(|c| c.is_alphanumeric() || matches!(c, '.' | '-'))
        .map(char::len_utf8)
        .take(DOMAIN_BYTES_MAX)
        .sum();
    let domain = rest[..n].trim_end_matches(['.', '-']);
    let is_label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    let (_, top) = domain.rsplit_once('.')?;
    let is_top = top.len() >= 2
        && (top.chars().all(char::is_alphabetic) || top.starts_with("xn--"))
        && !NO_DOMAINS.contains(&top.to_ascii_lowercase().as_str());
    let end = at + 1 + domain.len();
    // `git@host:path` and `@host@host` are no mail.
    let is_ssh = local == "git" && text[end..].starts_with(':');
    (domain.split('.').all(is_label) && is_top && !is_ssh && !text[end..].starts_with('@'))
        .then_some(start..end)
}

/// Scheme, name, password and host; the path is not part of it.
fn url(text: &str, from: usize, colon: usize) -> Option<Range<usize>> {
    let is_scheme = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-');
    let n = text[from..colon].chars().rev().take(32).take_while(is_scheme).count();
    let rest = &text[colon + 3..];
    let n_authority: usize = rest
        .chars()
        .take_while(|c| !matches!(c, '/' | '?' | '#' | '\\' | '"' | '<' | '>') && !c.is_whitespace())
        .map(char::len_utf8)
        .take(240)
        .sum();
    let authority = rest[..n_authority].trim_end_matches(['.', ',', ')', ';', '\'']);
    let (user, host) = authority.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    let is_variable = password.starts_with(['$', '{', '*', '%']);
    let is_real = n > 0 && !password.is_empty() && !host.is_empty() && !is_variable;
    is_real.then(|| colon - n..colon + 3 + authority.len())
}

/// The addresses that a run of hexadecimal digits, dots, colons and hyphens is or holds.
fn network(passage: Passage<'_>, run: Range<usize>, found: &mut Vec<Candidate>) {
    let text = passage.text();
    if !begins_word(text, run.start) {
        return;
    }
    let end = run.start + text[run.clone()].trim_end_matches(['.', ':', '-']).len();
    let whole = &text[run.start..end];
    let n_colons = whole.bytes().filter(|byte| *byte == b':').count();
    let ends = |end: usize| ends_word(text, end);
    if (2..=7).contains(&n_colons) && ends(end) && ipv6(whole) {
        found.push(candidate(Kind::IpAddress, run.start..end, 0.95, "form and a known prefix"));
    }
    if mac(whole) && ends(end) {
        found.push(candidate(Kind::MacAddress, run.start..end, 0.9, "form"));
    }
    // The address ends before a port, and is no part of a longer number.
    let dotted: &str = whole.split(':').next().unwrap_or_default();
    let stop = run.start + dotted.len();
    let is_apart = !text[..run.start].ends_with(['.', '-', '/', ':']) || text[..run.start].ends_with("//");
    if is_apart && ends(stop) && ipv4(dotted) && !is_version(passage, run.start) {
        found.push(candidate(Kind::IpAddress, run.start..stop, 0.9, "form"));
    }
}

fn ipv4(text: &str) -> bool {
    let is_own = |address: Ipv4Addr| {
        !(address.is_loopback()
            || address.is_unspecified()
            || address.is_broadcast()
            || address.octets()[0] == 0)
    };
    (7..=15).contains(&text.len()) && text.parse().is_ok_and(is_own)
}

/// `1.2.3.4` is also how versions and sections are written.
fn is_version(passage: Passage<'_>, at: usize) -> bool {
    let before = passage.before(at);
    let last: String = before
        .trim_end_matches([' ', '=', ':', '>', '<', '~', '^', '"', '\'', '@'])
        .chars()
        .rev()
        .take_while(|c| is_word(*c) || *c == '.')
        .take(12)
        .collect();
    let last: String = last.chars().rev().collect::<String>().to_lowercase();
    matches!(
        last.trim_end_matches('.'),
        "v" | "ver"
            | "version"
            | "versions"
            | "release"
            | "section"
            | "chapter"
            | "build"
            | "firmware"
            | "kapitel"
    ) || speaks(before, &["firmware", "changelog", "upgrade to", "version"])
}

/// Addresses that the internet knows: global, unique local, link-local, multicast, or all of eight groups.
fn ipv6(text: &str) -> bool {
    let Ok(address) = text.parse::<Ipv6Addr>() else { return false };
    let first = address.segments()[0];
    let is_written = text.split(':').next().is_some_and(|group| group.len() == 4);
    let is_known =
        is_written && matches!(first, 0x2000..=0x3fff | 0xfe80..=0xfebf | 0xfc00..=0xfdff | 0xff00..);
    is_known || address.to_ipv4_mapped().is_some() || (!text.contains("::") && text.len() >= 23)
}

/// Six pairs, or three groups of four as Cisco writes them.
fn mac(text: &str) -> bool {
    let groups = |separator: char, n: usize, width: usize| {
        let groups: Vec<&str> = text.split(separator).collect();
        groups.len() == n
            && groups.iter().all(|group| group.len() == width && group.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let has_letter = text.bytes().any(|byte| byte.is_ascii_alphabetic());
    let is_plain = text.bytes().all(|b| matches!(b, b'0' | b':' | b'-' | b'.'))
        || text.bytes().all(|b| matches!(b, b'f' | b'F' | b':' | b'-' | b'.'));
    let has_digit = text.bytes().any(|byte| byte.is_ascii_digit());
    let is_formed = match text.len() {
        17 => groups(':', 6, 2) || groups('-', 6, 2) && has_letter,
        14 => groups('.', 3, 4) && has_letter && has_digit,
        _ => false,
    };
    is_formed && !is_plain
}
