//! Sentences: what a model of names reads at once, and so what waits in a stream.
//!
//! A sentence ends behind `.`, `!`, `?`, `…` or their full-width twins where white space follows, and at a line's end. A dot of a
//! title, an initial, a number or an abbreviation ends none (`abbreviation`), and neither does the single line break behind it,
//! because the name behind it would be read without what says that it is one.
//!
//! Where a sentence would be longer than [`SENTENCE_BYTES_MAX`] it is read in windows, which overlap: what is found in the last
//! [`CANDIDATE_BYTES_MAX`] bytes of one is found by the next, which begins there between two words, so that a name at the end
//! of a window is whole in one of the two. Like those of [`segment`](crate::segment), cuts depend on the text alone.

use crate::abbreviation::{self, Follows};
use crate::segment::{CANDIDATE_BYTES_MAX, Piece};

/// The most bytes of a sentence, so the most characters that wait for it.
pub const SENTENCE_BYTES_MAX: usize = 1024;

/// Cuts a text that grows. All places are relative to the end of the last sentence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sentences {
    /// Bytes that were looked at.
    at: usize,
}

impl Sentences {
    /// The next sentence of `pending`, which begins where the last one ended and is what it was before, with more after it;
    /// `None`: its end has not come.
    pub fn next(&mut self, pending: &str, is_end: bool) -> Option<Piece> {
        while let Some(c) = pending[self.at..].chars().next() {
            let end = self.at + c.len_utf8();
            if end > SENTENCE_BYTES_MAX {
                return Some(Piece::Full(self.at));
            }
            match mark(pending, self.at, c) {
                Mark::End => return Some(self.cut(end)),
                Mark::Open if !is_end => return None,
                Mark::Open | Mark::Inside => {}
            }
            self.at = end;
        }
        (is_end && !pending.is_empty()).then(|| self.cut(pending.len()))
    }

    /// How much of a window is done: what overlaps the next one is not, which begins behind white space and with no name whose
    /// title was left behind, if there is such a place.
    pub fn done(window: &str) -> usize {
        let mut most = window.len().saturating_sub(CANDIDATE_BYTES_MAX);
        while !window.is_char_boundary(most) {
            most -= 1;
        }
        let is_between = |&(at, c): &(usize, char)| {
            let word = window[..at].trim_end();
            c.is_whitespace()
                && word.strip_suffix('.').is_none_or(|word| abbreviation::before_dot(word).is_none())
        };
        let behind = |(at, c): (usize, char)| at + c.len_utf8();
        let last = |is_place: &dyn Fn(&(usize, char)) -> bool| {
            window[..most].char_indices().rev().find(is_place).map(behind)
        };
        last(&is_between).or_else(|| last(&|(_, c)| c.is_whitespace())).unwrap_or(most)
    }

    /// The first `n` bytes of a window are done; what is left of it goes on.
    pub fn release(&mut self, n: usize) {
        self.at -= n;
    }

    fn cut(&mut self, n: usize) -> Piece {
        *self = Self::default();
        Piece::Block(n)
    }
}

/// What a character is for the sentence that it stands in.
enum Mark {
    Inside,
    End,
    /// The character that tells has not come.
    Open,
}

/// `c` at `at`, by the word in front of it and at most two characters behind it, which lie in what may wait.
fn mark(pending: &str, at: usize, c: char) -> Mark {
    let mut after = pending[at + c.len_utf8()..].chars();
    if c == '\n' {
        return line_end(&pending[..at], after.next());
    }
    let space = match (c, after.next()) {
        ('。' | '！' | '？', _) => return Mark::End,
        ('.' | '!' | '?' | '…', None) => return Mark::Open,
        ('.' | '!' | '?' | '…', Some(next)) if next.is_whitespace() && next != '\n' => next,
        _ => return Mark::Inside,
    };
    let follows = if c == '.' { abbreviation::before_dot(&pending[..at]) } else { None };
    let is_room = at + 1 + space.len_utf8() <= SENTENCE_BYTES_MAX;
    match (follows, after.next()) {
        (Some(Follows::Anything), _) => Mark::Inside,
        (Some(Follows::Small), None) if is_room => Mark::Open,
        (Some(Follows::Small), Some(next)) if is_room && (next.is_lowercase() || next.is_numeric()) => {
            Mark::Inside
        }
        _ => Mark::End,
    }
}

/// A line's end behind `line`: it ends no sentence where a line was wrapped behind a dot that ends none.
fn line_end(line: &str, next: Option<char>) -> Mark {
    let word = line.trim_end_matches([' ', '\t', '\r']).strip_suffix('.');
    match (word.and_then(abbreviation::before_dot), next) {
        (None, _) => Mark::End,
        (Some(_), None) => Mark::Open,
        (Some(Follows::Anything), Some(next)) if !next.is_whitespace() => Mark::Inside,
        (Some(Follows::Small), Some(next)) if next.is_lowercase() || next.is_numeric() => Mark::Inside,
        _ => Mark::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(parts: &[&str]) -> Vec<String> {
        let (mut sentences, mut pending, mut out) = (Sentences::default(), String::new(), Vec::new());
        let mut take = |pending: &mut String, is_end| {
            while let Some(piece) = sentences.next(pending, is_end) {
                let n = match piece {
                    Piece::Full(n) => {
                        let done = Sentences::done(&pending[..n]);
                        assert!(done > 0 && n - done >= CANDIDATE_BYTES_MAX, "{done} of {n}");
                        sentences.release(done);
                        done
                    }
                    Piece::Block(n) | Piece::Cold(n) => n,
                };
                out.push(pending.drain(..n).collect());
            }
            assert!(pending.len() <= SENTENCE_BYTES_MAX);
        };
        for part in parts {
            pending.push_str(part);
            take(&mut pending, false);
        }
        take(&mut pending, true);
        out
    }

    #[test]
    fn sentences_end_where_readers_end_them() {
        assert_eq!(
            cut(&["Ann left. Bob, 3.5 km away, did not!\nWhy? 谁。"]),
            ["Ann left.", " Bob, 3.5 km away, did not!\n", "Why?", " 谁。"]
        );
        assert_eq!(
            cut(&["It is. It was... Why? \"No.\" Yes."]),
            ["It is.", " It was...", " Why?", " \"No.\" Yes."]
        );
        let long = "word ".repeat(500);
        let all = cut(&[&long]);
        assert_eq!(all.concat(), long);
        assert!(all.iter().all(|s| s.len() <= SENTENCE_BYTES_MAX && s.ends_with(' ')), "cut between words");
        assert_eq!(
            cut(&[&"x".repeat(3000)]).iter().map(String::len).collect::<Vec<_>>(),
            [768, 768, 768, 696]
        );
    }

    #[test]
    fn titles_initials_and_abbreviations_stay_with_what_follows_them() {
        for whole in [
            "The keys are with Ms. Delgado on Elm St. 7.",
            "Dear Mrs. Thompson, dear DR. OKAFOR, dear mr. smith.",
            "Lt. Col. J. R. R. Tolkien, (B. 1892) and J.-P. Sartre, É. Zola, E\u{301}. Zola met А. С. Пушкин.",
            "Frau Prof. Dr. med. Sabine Vogel, geb. Krause, wohnt Lindenstr. 14 bzw. Tel. 030.",
            "Am 3. Mai kam z. B. Hr. Weber, d. h. Fam. Weber, zum 1. FC Köln.",
            "M. Dupont, Mme. Laurent, Mlle. Petit et MM. Roux n'habitent plus bd. Voltaire.",
            "El Sr. García, la Sra. López y D. Carlos viven en Avda. Constitución núm. 5.",
            "Sig. Rossi, dhr. Jansen, ks. Nowak.",
            "See fig. 3, e.g. Anna, i.e. no. 5, vs. Bob et al. 2020, etc. and so on.",
            "1. Anna Kowalska",
        ] {
            assert_eq!(cut(&[whole]), [whole]);
        }
        // What is no abbreviation, and what is one where a sentence begins.
        assert_eq!(cut(&["I said no. Bob left."]), ["I said no.", " Bob left."]);
        assert_eq!(cut(&["Tea, etc.  then"]), ["Tea, etc.", "  then"]);
        assert_eq!(cut(&["It is Bob's. Ann ran 5m. Go. The drama. It is 1999. End"]).len(), 6);
        // A line that was wrapped behind one, and lines that were not.
        for whole in ["Dr.\nAnna", "Dr. \r\nAnna", "J.\nR.\nSmith", "No.\n5"] {
            assert_eq!(cut(&[whole]), [whole]);
        }
        assert_eq!(cut(&["Dr.\n\nAnna"]), ["Dr.\n", "\n", "Anna"]);
        assert_eq!(cut(&["Dr.\r\n\r\nAnna"]), ["Dr.\r\n", "\r\n", "Anna"]);
        assert_eq!(cut(&["Tea, etc.\nAnna\nDr.\n"]), ["Tea, etc.\n", "Anna\n", "Dr.\n"]);
    }

    #[test]
    fn abbreviations_wait_no_longer_than_other_words() {
        for word in ["Dr. ", "Dr.\n", "no.\n", "no. ", "no.\u{3000}", "12. ", "J. "] {
            for shift in 0..8 {
                let text = "x".repeat(shift) + " " + &word.repeat(1500);
                let chars: Vec<String> = text.chars().map(String::from).collect();
                let all = cut(&chars.iter().map(String::as_str).collect::<Vec<_>>());
                assert_eq!(all, cut(&[&text]));
                assert!(all.iter().all(|s| s.len() <= SENTENCE_BYTES_MAX));
            }
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_depend_on_how_a_text_comes(
            text in r"([a-zé]{1,9}|[.!?…] |\r?\n|漢|。| |Dr\.[ \n]|\(?[A-ZÉ]\. |e\.g\. |no\.|[Ss]tr\. |[0-9]{1,3}\. |geb\.|'s\.){0,120}",
            cuts in proptest::collection::vec(0usize..400, 0..20),
        ) {
            let mut cuts: Vec<usize> =
                cuts.into_iter().filter(|&cut| cut < text.len() && text.is_char_boundary(cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            let whole = cut(&[&text]);
            prop_assert_eq!(whole.concat(), text.clone());
            prop_assert_eq!(cut(&parts), whole);
        }
    }
}
