//! Sentences: what a model of names reads at once, and so what waits in a stream.
//!
//! A sentence ends behind `.`, `!`, `?`, `…` or their full-width twins where white space follows, at a line's end, and where it
//! would be longer than [`SENTENCE_BYTES_MAX`]: there behind its last white space, or, without any, in the middle. A dot of a title,
//! an initial, a number or an abbreviation ends none (`abbreviation`), because the name behind it would be read without what says
//! that it is one. Like those of [`segment`](crate::segment), cuts depend on the text alone.

use crate::abbreviation::{self, Follows};
use crate::segment::Piece;

/// The most bytes of a sentence, so the most characters that wait for it.
pub const SENTENCE_BYTES_MAX: usize = 1024;

/// Cuts a text that grows. All places are relative to the end of the last sentence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sentences {
    /// Bytes that were looked at.
    at: usize,
    /// Behind the last white space of them.
    space: Option<usize>,
}

impl Sentences {
    /// The next sentence of `pending`, which begins where the last one ended and is what it was before, with more after it;
    /// `None`: its end has not come.
    pub fn next(&mut self, pending: &str, is_end: bool) -> Option<Piece> {
        while let Some(c) = pending[self.at..].chars().next() {
            let end = self.at + c.len_utf8();
            if end > SENTENCE_BYTES_MAX {
                return Some(self.cut(self.space.unwrap_or(self.at)));
            }
            match mark(pending, self.at, c) {
                Mark::End => return Some(self.cut(end)),
                Mark::Open if !is_end => return None,
                Mark::Open | Mark::Inside => {}
            }
            if c.is_whitespace() {
                self.space = Some(end);
            }
            self.at = end;
        }
        (is_end && !pending.is_empty()).then(|| self.cut(pending.len()))
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
    let space = match (c, after.next()) {
        ('\n' | '。' | '！' | '？', _) => return Mark::End,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(parts: &[&str]) -> Vec<String> {
        let (mut sentences, mut pending, mut out) = (Sentences::default(), String::new(), Vec::new());
        let mut take = |pending: &mut String, is_end| {
            while let Some(Piece::Block(n)) = sentences.next(pending, is_end) {
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
        assert_eq!(cut(&[&"x".repeat(3000)]).iter().map(String::len).collect::<Vec<_>>(), [1024, 1024, 952]);
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
        assert_eq!(cut(&["Dr.\nAnna"]), ["Dr.\n", "Anna"]);
    }

    #[test]
    fn abbreviations_wait_no_longer_than_other_words() {
        for word in ["Dr. ", "no. ", "no.\u{3000}", "12. ", "J. "] {
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
            text in r"([a-zé]{1,9}|[.!?…] |\n|漢|。| |Dr\. |\(?[A-ZÉ]\. |e\.g\. |no\.|[Ss]tr\. |[0-9]{1,3}\. |geb\.|'s\.){0,120}",
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
