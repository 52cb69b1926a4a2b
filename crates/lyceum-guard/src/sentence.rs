//! Sentences: what a model of names reads at once, and so what waits in a stream.
//!
//! A sentence ends behind `.`, `!`, `?`, `…` or their full-width twins where white space follows, at a line's end, and where it
//! would be longer than [`SENTENCE_BYTES_MAX`]: there behind its last white space, or, without any, in the middle. Like those
//! of [`segment`](crate::segment), cuts depend on the text alone.

use crate::segment::Piece;

/// The most bytes of a sentence, so the most characters that wait for it.
pub const SENTENCE_BYTES_MAX: usize = 1024;

/// Cuts a text that grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sentences;

impl Sentences {
    /// The next sentence of `pending`; `None`: its end has not come.
    pub fn next(&mut self, pending: &str, is_end: bool) -> Option<Piece> {
        let mut space = None;
        let mut chars = pending.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let end = at + c.len_utf8();
            if end > SENTENCE_BYTES_MAX {
                return Some(Piece::Block(space.unwrap_or(at)));
            }
            if c == '\n' || matches!(c, '。' | '！' | '？') {
                return Some(Piece::Block(end));
            }
            if matches!(c, '.' | '!' | '?' | '…')
                && chars.peek().is_some_and(|(_, next)| next.is_whitespace() && *next != '\n')
            {
                return Some(Piece::Block(end));
            }
            if c.is_whitespace() {
                space = Some(end);
            }
        }
        (is_end && !pending.is_empty()).then_some(Piece::Block(pending.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(parts: &[&str]) -> Vec<String> {
        let (mut sentences, mut pending, mut out) = (Sentences, String::new(), Vec::new());
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
        let long = "word ".repeat(500);
        let all = cut(&[&long]);
        assert_eq!(all.concat(), long);
        assert!(all.iter().all(|s| s.len() <= SENTENCE_BYTES_MAX && s.ends_with(' ')), "cut between words");
        assert_eq!(cut(&[&"x".repeat(3000)]).iter().map(String::len).collect::<Vec<_>>(), [1024, 1024, 952]);
    }

    proptest! {
        #[test]
        fn cuts_do_not_depend_on_how_a_text_comes(
            text in r"([a-zé]{1,9}|[.!?…] |\n|漢|。| ){0,80}",
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
