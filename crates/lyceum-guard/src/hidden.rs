//! Characters that a reader does not see and a model reads, and letters that are not what they look like.
//!
//! Instructions have been hidden in the tags block (each ASCII character has an invisible twin there), as runs of
//! variation selectors (one a byte) and of zero-width characters (one a bit), behind controls that turn the order of a
//! line round, and in words whose letters are taken from another script. All of these have honest uses: flags,
//! families of emoji, Persian and Hindi joiners, Arabic in a Latin line. So what stands around a character decides, and each
//! finding says what spoke for it. A text without invisible characters or foreign letters costs one walk over it.
//!
//! [`hidden`] reads whole texts: whether a control is honest depends on letters far from it.

use crate::{Finding, Kind};

/// So many invisible characters in a row write something.
const PAYLOAD_CHARS: usize = 4;

/// Everything in `text` that is hidden, in order.
pub fn hidden(text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    if text.is_ascii() {
        return found;
    }
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let page =
        Page { chars: &chars, len: text.len(), reads_right_to_left: text.chars().any(is_right_to_left) };
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at].1;
        let end = if invisible(c).is_some() {
            let end = page.run(at, |c| invisible(c).is_some());
            page.judge_run(at, end, &mut found);
            end
        } else if c.is_alphabetic() {
            let end = page.run(at, |c| c.is_alphabetic() || is_mark(c));
            if let Some((score, why)) = judge_word(&chars[at..end]) {
                found.push(page.finding(Kind::Homoglyphs, at, end, score, why));
            }
            end
        } else {
            at + 1
        };
        at = end;
    }
    found
}

/// The kinds of characters that show nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Invisible {
    Tag,
    /// Embeddings, overrides and isolates.
    Bidi,
    /// Marks of a direction without a scope.
    DirectionMark,
    Selector,
    Joiner,
    /// A place where a line may break, and the hyphen that shows only there.
    Break,
    /// What has no use between letters at all: word joiners, operators of mathematics, fillers.
    Filler,
}

fn invisible(c: char) -> Option<Invisible> {
    Some(match c {
        '\u{e0000}'..='\u{e007f}' => Invisible::Tag,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Invisible::Bidi,
        '\u{200e}' | '\u{200f}' | '\u{61c}' => Invisible::DirectionMark,
        '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' => Invisible::Selector,
        '\u{200c}' | '\u{200d}' => Invisible::Joiner,
        '\u{200b}' | '\u{ad}' => Invisible::Break,
        '\u{2060}'..='\u{2064}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{180e}' => Invisible::Filler,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => Invisible::Filler,
        _ => return None,
    })
}

/// The text as characters.
struct Page<'a> {
    chars: &'a [(usize, char)],
    len: usize,
    reads_right_to_left: bool,
}

impl Page<'_> {
    fn run(&self, from: usize, is_of_it: impl Fn(char) -> bool) -> usize {
        from + self.chars[from..].iter().take_while(|(_, c)| is_of_it(*c)).count()
    }

    fn at(&self, i: Option<usize>) -> Option<char> {
        i.and_then(|i| self.chars.get(i)).map(|&(_, c)| c)
    }

    fn finding(&self, kind: Kind, start: usize, end: usize, score: f32, why: &'static str) -> Finding {
        let byte = |i: usize| self.chars.get(i).map_or(self.len, |&(byte, _)| byte);
        Finding { kind, start, end, bytes: byte(start)..byte(end), score, why }
    }

    /// A run of invisible characters, `start` to `end`.
    fn judge_run(&self, start: usize, end: usize, found: &mut Vec<Finding>) {
        let kinds: Vec<Invisible> =
            self.chars[start..end].iter().filter_map(|&(_, c)| invisible(c)).collect();
        let count = |wanted: Invisible| kinds.iter().filter(|&&kind| kind == wanted).count();
        let before = self.at(start.checked_sub(1));
        let after = self.at(Some(end));
        let mut add = |kind, score, why| found.push(self.finding(kind, start, end, score, why));
        if count(Invisible::Tag) > 0 {
            if !self.is_flag(start, end, before) {
                add(Kind::TagCharacters, 1.0, "invisible twins of ASCII characters that are no flag");
            }
            return;
        }
        if count(Invisible::Selector) > 1 && count(Invisible::Selector) == kinds.len() {
            return add(
                Kind::VariationSelectors,
                1.0,
                "several variation selectors in a row, which carry bytes",
            );
        }
        // Controls of direction come in runs around a quotation; they are judged one by one.
        if count(Invisible::Bidi) + count(Invisible::DirectionMark) < kinds.len()
            && kinds.len() >= PAYLOAD_CHARS
        {
            return add(Kind::ZeroWidth, 1.0, "many invisible characters in a row, which carry bits");
        }
        for (i, &kind) in kinds.iter().enumerate() {
            let at = start + i;
            let c = self.chars[at].1;
            if let Some((name, score, why)) = self.judge(at, c, kind, before, after) {
                found.push(self.finding(name, at, at + 1, score, why));
            }
        }
    }

    fn judge(
        &self,
        at: usize,
        c: char,
        kind: Invisible,
        before: Option<char>,
        after: Option<char>,
    ) -> Option<(Kind, f32, &'static str)> {
        let previous = self.at(at.checked_sub(1));
        let is_between = |is_it: fn(char) -> bool| before.is_some_and(is_it) && after.is_some_and(is_it);
        match kind {
            Invisible::Tag => None,
            Invisible::Bidi if matches!(c, '\u{202d}' | '\u{202e}') => {
                Some((Kind::BidiControl, 1.0, "shows characters in another order than they are read"))
            }
            Invisible::Bidi if self.reads_right_to_left => None,
            Invisible::Bidi => Some((
                Kind::BidiControl,
                0.9,
                "a control of direction in a text without letters that need it",
            )),
            Invisible::DirectionMark if self.reads_right_to_left => None,
            Invisible::DirectionMark if is_between(char::is_alphabetic) => {
                Some((Kind::BidiControl, 0.7, "a mark of direction inside of a word that does not need it"))
            }
            Invisible::DirectionMark => {
                Some((Kind::BidiControl, 0.3, "a mark of direction in a text without letters that need it"))
            }
            Invisible::Selector if previous.is_some_and(|base| takes_selector(base, c)) => None,
            Invisible::Selector => {
                Some((Kind::VariationSelectors, 0.7, "a variation selector behind what has no variants"))
            }
            Invisible::Joiner if before.is_some_and(joins) || after.is_some_and(joins) => None,
            Invisible::Joiner if c == '\u{200d}' && is_between(is_pictograph) => None,
            Invisible::Break if c == '\u{ad}' => None,
            Invisible::Break if before.is_some_and(breaks_anywhere) || after.is_some_and(breaks_anywhere) => {
                None
            }
            Invisible::Filler if c == '\u{feff}' && at == 0 => None,
            Invisible::Joiner | Invisible::Break | Invisible::Filler if is_between(char::is_alphanumeric) => {
                Some((Kind::ZeroWidth, 0.8, "an invisible character cuts a word"))
            }
            // Editors and web pages leave single ones behind.
            Invisible::Joiner | Invisible::Break => Some((Kind::ZeroWidth, 0.3, "an invisible character")),
            // Hangul's fillers stand for a missing part of a syllable.
            Invisible::Filler if before.is_some_and(is_hangul) || after.is_some_and(is_hangul) => None,
            Invisible::Filler => Some((Kind::ZeroWidth, 0.4, "an invisible character without a use")),
        }
    }

    /// A flag of a part of a country: a black flag, tags that spell one of the three that exist, the end.
    fn is_flag(&self, start: usize, end: usize, before: Option<char>) -> bool {
        let spelled: String = self.chars[start..end]
            .iter()
            .map(|&(_, c)| char::from_u32(u32::from(c) - 0xe0000).unwrap_or('?'))
            .collect();
        before == Some('\u{1f3f4}')
            && matches!(spelled.as_str(), "gbeng\u{7f}" | "gbsct\u{7f}" | "gbwls\u{7f}")
    }
}

/// A word of Latin letters in which others stand for some, or one of the letters that mathematics has.
fn judge_word(word: &[(usize, char)]) -> Option<(f32, &'static str)> {
    let (mut latin, mut like, mut other, mut mathematical) = (0, 0, 0, 0);
    for &(_, c) in word {
        match c {
            _ if is_mark(c) => {}
            '\u{1d400}'..='\u{1d7ff}' => mathematical += 1,
            _ if is_latin(c) => latin += 1,
            _ if looks_latin(c) => like += 1,
            _ => other += 1,
        }
    }
    if mathematical >= PAYLOAD_CHARS {
        return Some((0.6, "a word in mathematical letters"));
    }
    // `µm`, `naïve`, `Москва` and `iPhone'ы` are honest; so is a word that has a letter of its own script.
    (like > 0 && other == 0 && latin >= like && latin + like >= 3)
        .then_some((0.8, "letters of another script inside of a Latin word"))
}

fn is_latin(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}')
}

/// Letters of Cyrillic, Greek and Armenian that look like Latin ones (Unicode's confusables, those of one letter).
fn looks_latin(c: char) -> bool {
    const CYRILLIC: &str = "аеорсухіјѕһԁԛԝӏԍАВЕКМНОРСТХУІЈЅԌԚԜҮ";
    const GREEK: &str = "ονιΑΒΕΖΗΙΚΜΝΟΡΤΥΧ";
    const ARMENIAN: &str = "օսհոցԼՍՕ";
    [CYRILLIC, GREEK, ARMENIAN].iter().any(|letters| letters.contains(c))
}

fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}')
}

fn is_right_to_left(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1eeff}')
}

/// Letters of scripts in which joiners decide how a word is written: Arabic's, Syriac's, India's, Khmer's, Mongolian's.
fn joins(c: char) -> bool {
    matches!(c, '\u{600}'..='\u{7ff}' | '\u{840}'..='\u{dff}' | '\u{f00}'..='\u{109f}' | '\u{1780}'..='\u{18af}' | '\u{fb50}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' | '\u{11000}'..='\u{11fff}')
}

/// Scripts that write no spaces, where a break is written instead: Thai, Lao, Tibetan, Burmese, Khmer, Chinese,
/// Japanese.
fn breaks_anywhere(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{1980}'..='\u{1aaf}' | '\u{2e80}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}')
}

fn is_hangul(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{11ff}' | '\u{3131}'..='\u{318e}' | '\u{ac00}'..='\u{d7ff}')
}

fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{2190}'..='\u{2bff}' | '\u{3030}' | '\u{303d}' | '\u{1f000}'..='\u{1faff}' | '\u{e0020}'..='\u{e007f}')
}

/// Whether one selector behind `base` chooses a form of it.
fn takes_selector(base: char, selector: char) -> bool {
    match selector {
        // As text or as picture: symbols, and the keys of a telephone.
        '\u{fe0e}' | '\u{fe0f}' => {
            is_pictograph(base)
                || matches!(base, '0'..='9' | '#' | '*' | '©' | '®' | '\u{203c}'..='\u{2049}' | '\u{2100}'..='\u{214f}')
                || matches!(base, '\u{3200}'..='\u{32ff}')
        }
        // Forms of ideographs, of mathematical symbols, of Mongolian and Burmese letters.
        _ => {
            breaks_anywhere(base)
                || matches!(base, '\u{1800}'..='\u{18af}' | '\u{2200}'..='\u{22ff}' | '\u{2a00}'..='\u{2aff}' | '\u{f900}'..='\u{faff}' | '\u{a840}'..='\u{a877}' | '\u{ff00}'..='\u{ffef}' | '0')
        }
    }
}

#[cfg(test)]
mod tests;
