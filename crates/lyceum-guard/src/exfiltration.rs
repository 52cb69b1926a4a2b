//! Addresses that carry a text away: a model that was talked into it writes a picture whose address holds what it was
//! told in confidence, and whoever shows the answer fetches it without being asked.
//!
//! What fetches itself (Markdown's pictures and reference definitions, `src=` in HTML, `url(` in CSS) is judged strictly:
//! any data in query, path or host that a picture has no use for. A link waits for a click, and people share links
//! with queries, so there only what was encoded to go unseen is taken. Hosts that an operator trusts are never
//! found. The fragment stays with the browser and is not read.

use crate::recogniser::{Candidate, Passage, Recogniser};
use crate::{Finding, GuardError, Kind};
use std::sync::Arc;

mod payload;

use payload::Payload;

/// Names of a query that pictures have: sizes, versions, forms.
const PICTURE_NAMES: &[&str] = &[
    "auto",
    "branch",
    "color",
    "crop",
    "dpr",
    "event",
    "ext",
    "fit",
    "fm",
    "format",
    "h",
    "height",
    "label",
    "logo",
    "logocolor",
    "quality",
    "raw",
    "s",
    "size",
    "style",
    "theme",
    "v",
    "ver",
    "version",
    "w",
    "width",
];

/// Finds them.
#[derive(Clone, Debug, Default)]
pub struct Exfiltration {
    trusted: Arc<[String]>,
}

impl Exfiltration {
    /// `trusted`: hosts that may be told anything, `example.com`; one that begins with a dot stands for what lies under it.
    pub fn new(trusted: impl IntoIterator<Item = String>) -> Self {
        Self { trusted: trusted.into_iter().map(|host| host.to_ascii_lowercase()).collect() }
    }

    /// Everything in a whole text, in order; addresses with places that are still to be filled (`?q={{notes}}`) too,
    /// which texts that come in have.
    pub fn find_whole(&self, text: &str) -> Vec<Finding> {
        let mut candidates = Vec::new();
        self.read(Passage::new(text, 0), &mut candidates);
        let (mut at, mut chars) = (0, 0);
        let mut count_to = |to: usize| {
            chars += text[at..to].chars().count();
            at = to;
            chars
        };
        let finding = |c: Candidate| Finding {
            kind: c.kind,
            start: count_to(c.bytes.start),
            end: count_to(c.bytes.end),
            bytes: c.bytes,
            score: c.score,
            why: c.why,
        };
        candidates.into_iter().map(finding).collect()
    }

    fn read(&self, passage: Passage<'_>, found: &mut Vec<Candidate>) {
        let text = passage.text();
        let mut at = passage.from();
        while let Some(slashes) = next_slashes(text, at) {
            at = slashes + 2;
            let Some(start) = begin(text, passage.from(), slashes) else { continue };
            let place = Place::of(passage.before(start));
            let end = slashes + end(&text[slashes..]);
            at = at.max(end);
            let Some(url) = Url::parse(&text[slashes + 2..end]) else { continue };
            if self.trusts(&url.host) {
                continue;
            }
            if let Some((score, why)) = judge(&url, place) {
                found.push(Candidate { kind: Kind::ExfiltrationUrl, bytes: start..end, score, why });
            }
        }
    }

    fn trusts(&self, host: &str) -> bool {
        self.trusted.iter().any(|trusted| match trusted.strip_prefix('.') {
            Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
            None => host == trusted,
        })
    }
}

impl Recogniser for Exfiltration {
    fn name(&self) -> &'static str {
        "data_exfiltration"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::ExfiltrationUrl]
    }

    fn find(&self, passage: Passage<'_>, found: &mut Vec<Candidate>) -> Result<(), GuardError> {
        self.read(passage, found);
        Ok(())
    }
}

/// What happens to an address where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Fetched when it is shown.
    Fetched,
    /// Followed by a person.
    Followed,
}

impl Place {
    /// By what stands before an address.
    fn of(before: &str) -> Self {
        let before = before.trim_end_matches(['<', '"', '\'', ' ', '\t']).trim_end_matches("&quot;");
        if let Some(text) = before.strip_suffix("](") {
            // `![…](`: of the last opening bracket that is not closed again.
            let mut depth = 0;
            for (i, c) in text.char_indices().rev() {
                match c {
                    ']' => depth += 1,
                    '[' if depth == 0 => {
                        return if text[..i].ends_with('!') { Place::Fetched } else { Place::Followed };
                    }
                    '[' => depth -= 1,
                    _ => {}
                }
            }
            // The text of the link is longer than what is remembered.
            return Place::Fetched;
        }
        let tail: String = before
            .chars()
            .rev()
            .take(16)
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let ends = |wanted: &str| {
            tail.chars().zip(wanted.chars().rev()).filter(|(a, b)| a == b).count() == wanted.len()
        };
        let fetches = [
            "src=",
            "srcset=",
            "background=",
            "poster=",
            "url(",
            "]:",
            "image=",
            "thumbnail=",
            "<object data=",
        ];
        if fetches.iter().any(|wanted| ends(&wanted.replace(' ', ""))) {
            Place::Fetched
        } else {
            Place::Followed
        }
    }
}

/// Where two slashes stand from `at` on; browsers read `\` as `/`.
fn next_slashes(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let is_slash = |b: &u8| matches!(b, b'/' | b'\\');
    (at..bytes.len().saturating_sub(1)).find(|&i| is_slash(&bytes[i]) && is_slash(&bytes[i + 1]))
}

/// Where the address begins whose `//` stands at `slashes`; None: it is none that is fetched over a network.
fn begin(text: &str, from: usize, slashes: usize) -> Option<usize> {
    let before = &text[from..slashes];
    let Some(scheme) = before.strip_suffix(':') else {
        // `//host/path` takes the page's scheme; `https://a//b` and a comment are none.
        let is_begin = before.chars().next_back().is_none_or(|c| "(\"'=<".contains(c));
        return (is_begin && (from > 0 || !before.is_empty())).then_some(slashes);
    };
    let letters = scheme.bytes().rev().take_while(u8::is_ascii_alphanumeric).count();
    let start = scheme.len() - letters;
    let is_network =
        ["http", "https", "ws", "wss", "ftp"].iter().any(|s| scheme[start..].eq_ignore_ascii_case(s));
    is_network.then_some(from + start)
}

/// The length of the address that `rest` begins with: to what no address has, or the bracket that closes its place.
fn end(rest: &str) -> usize {
    let mut depth = 0_usize;
    for (i, c) in rest.char_indices() {
        match c {
            '"' | '\'' | '`' | '>' | '|' => return i + usize::from(c == '>' && rest[..i].contains('<')),
            _ if c.is_whitespace() || c.is_control() => return i,
            '(' => depth += 1,
            ')' if depth == 0 => return i,
            ')' => depth -= 1,
            _ => {}
        }
    }
    rest.trim_end_matches(['.', ',', ';', ':', '!', '?']).len()
}

/// The parts of an address that are sent.
struct Url<'a> {
    /// In lower case, without user and port.
    host: String,
    path: &'a str,
    query: &'a str,
}

impl<'a> Url<'a> {
    fn parse(rest: &'a str) -> Option<Self> {
        let rest = rest.trim_start_matches(['/', '\\']);
        let sent = rest.split('#').next().unwrap_or(rest);
        let (place, query) = sent.split_once('?').unwrap_or((sent, ""));
        let cut = place.find(['/', '\\']).unwrap_or(place.len());
        let (authority, path) = place.split_at(cut);
        let host = authority.rsplit('@').next().unwrap_or(authority);
        let host = host.split(':').next().unwrap_or(host).trim_end_matches('.').to_ascii_lowercase();
        (!host.is_empty()).then_some(Url { host, path, query })
    }
}

/// What speaks against an address.
fn judge(url: &Url<'_>, place: Place) -> Option<(f32, &'static str)> {
    let labels = url.host.split('.').map(Payload::of);
    let segments = url.path.split(['/', '\\']).map(Payload::of);
    let pairs = || {
        url.query.split(['&', ';']).filter(|pair| !pair.is_empty()).map(|pair| match pair.split_once('=') {
            Some((name, value)) => (name, value),
            None => ("", pair),
        })
    };
    let values = pairs().map(|(_, value)| Payload::of(value));
    let most = labels.chain(segments).chain(values).max().unwrap_or(Payload::Plain);
    match (place, most) {
        (_, Payload::Encoded) => return Some((0.9, "an address that carries an encoded text")),
        (_, Payload::Personal) => return Some((0.8, "an address that carries an e-mail address")),
        (Place::Fetched, Payload::Placeholder) => {
            return Some((0.8, "an address with a place for data, which is fetched"));
        }
        (Place::Fetched, Payload::Words) => {
            return Some((0.8, "an address that carries words, which is fetched"));
        }
        (Place::Followed, _) => return None,
        (Place::Fetched, Payload::Plain) => {}
    }
    let is_of_pictures = |name: &str| PICTURE_NAMES.iter().any(|known| name.eq_ignore_ascii_case(known));
    let is_more = |(name, value): (&str, &str)| {
        let most = if is_of_pictures(name) { 24 } else { 2 };
        value.len() > most && !(value.len() <= 12 && value.bytes().all(|b| b.is_ascii_digit()))
    };
    if pairs().any(is_more) {
        return Some((0.7, "an address that carries data in its query, which is fetched"));
    }
    let is_long = url.host.split('.').any(|label| label.len() >= 40);
    is_long.then_some((0.7, "an address that carries data in its host, which is fetched"))
}

#[cfg(test)]
mod tests;
