//! Where something may lie: a text is cut into what flows on at once and blocks that must be read whole.
//!
//! A *token* is a run of characters that names and numbers are made of. It is *hot* where it holds a digit, an `@`, a
//! colon inside, two slashes in a row, or is very long. A *block* is hot tokens in one line with at most two spaces
//! between them, and what stands between such as `WEST` of an IBAN or a month. Everything that is found lies in one
//! block: ordinary words never wait for more than their own end.
//!
//! Cuts depend on the text alone, never on how much of it has come: [`Segmenter`] reads character by character and
//! answers only what no further text can change.

/// The most bytes (so the most characters, too) that wait for what follows.
pub const HELD_BYTES_MAX: usize = 4096;
/// How long something may be that is found: what is longer begins with a mark (`-----BEGIN`, `eyJ`) and is followed to
/// its end.
pub const CANDIDATE_BYTES_MAX: usize = 256;
/// Spaces between the tokens of one block.
const GAP_CHARS_MAX: usize = 2;
/// A token without digits that is as long may be a key.
const LONG_TOKEN_BYTES: usize = 20;

const PEM_BEGIN: &str = "-----BEGIN";

/// The next piece of a text, by its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Holds nothing.
    Cold(usize),
    /// To be read.
    Block(usize),
    /// A block or a sentence that would be longer than what may wait: to be read, and whoever cut it is told how much of it
    /// is done ([`Segmenter::release`]).
    Full(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    At,
    Colon,
    Other,
    Space,
    Break,
}

fn class(c: char) -> Class {
    match c {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Digit,
        '@' => Class::At,
        ':' => Class::Colon,
        ' ' | '\t' | '\u{a0}' | '\u{202f}' | '\u{2009}' => Class::Space,
        '"' | '{' | '}' | '[' | ']' | '<' | '>' | '|' | ';' | '`' => Class::Break,
        '!'..='~' => Class::Other,
        '\u{c0}'..='\u{24f}' => Class::Letter,
        '\u{2010}'..='\u{2015}' => Class::Other,
        _ => Class::Break,
    }
}

/// A run of characters of names and numbers.
#[derive(Clone, Copy, Debug)]
struct Token {
    start: usize,
    is_hot: bool,
    /// Its last character was a colon.
    after_colon: bool,
    /// Its last character was a slash.
    after_slash: bool,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    start: usize,
    end: usize,
    is_hot: bool,
    /// Nothing joins it any more.
    is_closed: bool,
}

/// Of a key in PEM: how many of its four runs of five hyphens have come, and hyphens since the last other character.
#[derive(Clone, Copy, Debug)]
struct Pem {
    marks: usize,
    hyphens: usize,
}

/// Cuts a text that grows. All places are relative to the end of the last piece.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segmenter {
    /// Bytes that were looked at.
    at: usize,
    token: Option<Token>,
    block: Option<Block>,
    gap: usize,
    pem: Option<Pem>,
}

impl Segmenter {
    /// The next piece of `pending`, which begins where the last piece ended and is what it was before, with more after
    /// it; `None`: what is there waits for more.
    pub fn next(&mut self, pending: &str, is_end: bool) -> Option<Piece> {
        loop {
            if let Some(block) = self.block.filter(|block| block.is_closed) {
                if block.start > 0 {
                    return Some(self.cold(block.start));
                }
                self.block = None;
                if block.is_hot {
                    self.rebase(block.end);
                    return Some(Piece::Block(block.end));
                }
                continue;
            }
            let c = match pending.as_bytes().get(self.at) {
                None => break,
                Some(byte) if byte.is_ascii() => char::from(*byte),
                Some(_) => pending[self.at..].chars().next().expect("a place is a character's: bug"),
            };
            self.take(pending, c);
            let waits_from = self.waits_from();
            if self.at - waits_from >= HELD_BYTES_MAX {
                if waits_from > 0 {
                    return Some(self.cold(waits_from));
                }
                return Some(Piece::Full(self.at));
            }
        }
        if is_end && (self.token.is_some() || self.block.is_some()) {
            self.end_token(pending);
            self.close();
            return self.next(pending, is_end);
        }
        let cold = self.waits_from();
        (cold > 0).then(|| self.cold(cold))
    }

    /// The first `n` bytes of a full block are done; what is left of it goes on.
    pub fn release(&mut self, n: usize) {
        self.rebase(n);
        let end = self.token.map_or(self.at, |token| token.start);
        self.block = Some(Block { start: 0, end, is_hot: true, is_closed: false });
    }

    /// Where what waits begins.
    fn waits_from(&self) -> usize {
        let token = self.token.map_or(self.at, |token| token.start);
        self.block.map_or(token, |block| block.start)
    }

    fn cold(&mut self, n: usize) -> Piece {
        self.rebase(n);
        Piece::Cold(n)
    }

    fn rebase(&mut self, n: usize) {
        self.at -= n;
        if let Some(token) = &mut self.token {
            token.start = token.start.saturating_sub(n);
        }
        if let Some(block) = &mut self.block {
            block.start = block.start.saturating_sub(n);
            block.end = block.end.saturating_sub(n);
        }
    }

    fn take(&mut self, pending: &str, c: char) {
        if let Some(pem) = self.pem {
            return self.take_pem(pending, c, pem);
        }
        let class = class(c);
        match class {
            Class::Space | Class::Break => {
                if self.token.is_some() {
                    self.end_token(pending);
                    self.gap = 0;
                }
                if self.pem.is_some() {
                    return; // The character belongs to the key that has begun.
                }
                self.gap += 1;
                if class == Class::Break || self.gap > GAP_CHARS_MAX {
                    self.close();
                }
            }
            _ => {
                let token = self.token.get_or_insert(Token {
                    start: self.at,
                    is_hot: false,
                    after_colon: false,
                    after_slash: false,
                });
                let is_slash = c == '/';
                token.is_hot |= token.after_slash && is_slash
                    || matches!(class, Class::Digit | Class::At)
                    || token.after_colon
                    || self.at - token.start >= LONG_TOKEN_BYTES;
                token.after_colon = class == Class::Colon;
                token.after_slash = is_slash;
            }
        }
        self.at += c.len_utf8();
    }

    /// Inside of a key in PEM everything of its alphabet belongs to it, line ends too.
    fn take_pem(&mut self, pending: &str, c: char, mut pem: Pem) {
        let is_of_it = c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || "+/=-:,\\".contains(c);
        pem.hyphens = if c == '-' { pem.hyphens + 1 } else { 0 };
        let is_mark = pem.hyphens == 5;
        pem.marks += usize::from(is_mark);
        let is_other = is_mark && pem.marks == 2 && {
            let header = self.block.map_or(0, |block| block.start);
            !pending[header..self.at].trim_end_matches('-').ends_with("PRIVATE KEY")
        };
        if is_of_it {
            self.at += c.len_utf8();
        }
        if let Some(block) = &mut self.block {
            block.end = self.at;
        }
        self.pem = Some(pem);
        if !is_of_it || is_other || pem.marks == 4 {
            self.pem = None;
            self.close();
        }
    }

    fn end_token(&mut self, pending: &str) {
        let Some(token) = self.token.take() else { return };
        let text = &pending[token.start..self.at];
        let begins_pem = text.starts_with(PEM_BEGIN);
        if !(token.is_hot || begins_pem || joins(text)) {
            return self.close();
        }
        let new = Block { start: token.start, end: self.at, is_hot: false, is_closed: false };
        let block = self.block.get_or_insert(new);
        block.end = self.at;
        block.is_hot |= token.is_hot || begins_pem;
        if begins_pem {
            self.pem = Some(Pem { marks: 1, hyphens: 0 });
        }
    }

    fn close(&mut self) {
        if let Some(block) = &mut self.block {
            block.is_closed = true;
        }
    }
}

/// Whether a token without digits may stand inside of something: letters of an IBAN, initials of an id, a month.
fn joins(text: &str) -> bool {
    if text.len() <= 4 && text.bytes().all(|b| b.is_ascii_uppercase()) {
        return true;
    }
    crate::recogniser::month(text.trim_end_matches([',', '.'])).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The pieces of a text that comes in parts; a full block is done but for its last bytes.
    fn pieces(parts: &[&str]) -> Vec<(bool, String)> {
        let (mut segmenter, mut pending, mut out) = (Segmenter::default(), String::new(), Vec::new());
        let mut take = |segmenter: &mut Segmenter, pending: &mut String, is_end| {
            while let Some(piece) = segmenter.next(pending, is_end) {
                let (is_block, n) = match piece {
                    Piece::Cold(n) => (false, n),
                    Piece::Block(n) => (true, n),
                    Piece::Full(n) => {
                        let n = (0..=n - CANDIDATE_BYTES_MAX).rev().find(|&n| pending.is_char_boundary(n));
                        segmenter.release(n.unwrap());
                        (true, n.unwrap())
                    }
                };
                let text: String = pending.drain(..n).collect();
                match out.last_mut() {
                    Some((false, last)) if !is_block => String::push_str(last, &text),
                    _ => out.push((is_block, text)),
                }
            }
            assert!(pending.len() <= HELD_BYTES_MAX);
        };
        for part in parts {
            pending.push_str(part);
            take(&mut segmenter, &mut pending, false);
        }
        take(&mut segmenter, &mut pending, true);
        assert_eq!(pending, "");
        out
    }

    fn blocks(text: &str) -> Vec<String> {
        pieces(&[text]).into_iter().filter(|(is_block, _)| *is_block).map(|(_, text)| text).collect()
    }

    #[test]
    fn blocks_are_what_may_hold_something() {
        assert_eq!(blocks("only words, and nothing: else. USA in May"), [""; 0]);
        assert_eq!(blocks("card 4111 1111 1111 1111 thanks"), ["4111 1111 1111 1111"]);
        assert_eq!(blocks("to GB82 WEST 1234 5698 7654 32, please"), ["GB82 WEST 1234 5698 7654 32,"]);
        assert_eq!(blocks("born 12 March 1980 in Ulm"), ["12 March 1980"]);
        assert_eq!(blocks("a\n1\n2"), ["1", "2"]);
        assert_eq!(blocks("a   1   2"), ["1", "2"]);
        assert_eq!(blocks("{\"a\":\"b@c.de\"}"), ["b@c.de"]);
        assert_eq!(blocks("写给anna@example.com谢谢"), ["anna@example.com"]);
        assert_eq!(blocks("![a](//e.test/?q=abc)"), ["(//e.test/?q=abc)"]);
        assert_eq!(blocks("see https://user:pw@host/ there"), ["https://user:pw@host/"]);
    }

    #[test]
    fn a_private_key_is_one_block_over_its_lines() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKC\nAQEA+/==\n-----END RSA PRIVATE KEY-----";
        assert_eq!(blocks(&format!("so:\n{key}\nand 5")), [key, "5"]);
        let open = "-----BEGIN PRIVATE KEY-----\nMIIE\nAQ==";
        assert_eq!(blocks(&format!("{open}. End")), [open]);
        assert_eq!(blocks("-----BEGIN CERTIFICATE-----\nMIIE"), ["-----BEGIN CERTIFICATE-----"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn pieces_are_the_same_however_a_text_is_cut(
            text in r#"([a-z]{1,8} |[0-9]{1,5}[ .-]|[A-Z]{1,5} |é|漢|@|:|"|\n|  |-----BEGIN |PRIVATE KEY-----|-----END ){0,60}"#,
            cuts in proptest::collection::vec(0usize..400, 0..20),
        ) {
            let mut cuts: Vec<usize> =
                cuts.into_iter().filter(|&cut| cut < text.len() && text.is_char_boundary(cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            let whole = pieces(&[&text]);
            prop_assert_eq!(whole.iter().map(|(_, text)| text.as_str()).collect::<String>(), text.clone());
            prop_assert_eq!(pieces(&parts), whole);
        }
    }

    #[test]
    fn a_block_without_end_is_given_in_parts() {
        let text = "1 ".repeat(10_000);
        let all = pieces(&[&text]);
        assert!(all.len() > 4 && all.iter().all(|(_, piece)| piece.len() <= HELD_BYTES_MAX));
        let parts: Vec<&str> = text.split_inclusive("1 1 1 1 1 1 1").collect();
        assert_eq!(pieces(&parts), all);
    }
}
