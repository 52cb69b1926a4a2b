//! A text that is changed while it comes: what may still become a finding is held back, everything else goes on.

use crate::analyse::{End, Reader};
use crate::recogniser::CONTEXT_BYTES_MAX;
use crate::{Analyser, Finding, GuardError, Wanted};

/// What stands in a text for what was found.
pub trait Replace {
    /// Adds to `out` what stands for `found`, which reads `text`.
    ///
    /// # Errors
    /// The text must not go on.
    fn replace(&mut self, found: &Finding, text: &str, out: &mut String) -> Result<(), GuardError>;

    /// Sees what stands between findings, in order with them.
    fn pass(&mut self, _text: &str) {}
}

impl<R: Replace + ?Sized> Replace for &mut R {
    fn replace(&mut self, found: &Finding, text: &str, out: &mut String) -> Result<(), GuardError> {
        (**self).replace(found, text, out)
    }

    fn pass(&mut self, text: &str) {
        (**self).pass(text);
    }
}

/// Changes a text that comes in parts. At most [`HELD_BYTES_MAX`](crate::segment::HELD_BYTES_MAX) characters wait, and
/// what comes out does not depend on the cuts.
pub struct Rewriter {
    reader: Reader,
    /// Context, then what waits.
    buffer: String,
    waits_from: usize,
    bytes_dropped: usize,
}

impl Rewriter {
    pub fn new(analyser: &Analyser, wanted: &Wanted) -> Self {
        let reader = Reader::new(analyser.clone(), wanted.clone());
        Self { reader, buffer: String::new(), waits_from: 0, bytes_dropped: 0 }
    }

    /// What can go on now that `text` has come.
    ///
    /// # Errors
    /// A recogniser failed, or `replace` refuses: nothing may go on, and the rewriter is of no further use.
    pub fn push(&mut self, text: &str, replace: &mut impl Replace) -> Result<String, GuardError> {
        self.buffer.push_str(text);
        self.go(End::Later, replace)
    }

    /// Nothing more comes: the rest.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self, replace: &mut impl Replace) -> Result<String, GuardError> {
        self.go(End::Here, replace)
    }

    /// Characters that wait.
    pub fn held(&self) -> usize {
        self.buffer[self.waits_from..].chars().count()
    }

    fn go(&mut self, end: End, replace: &mut impl Replace) -> Result<String, GuardError> {
        let mut out = String::new();
        while let Some(read) = self.reader.next(&self.buffer, self.waits_from, end)? {
            let (mut at, piece_end) = (self.waits_from, self.waits_from + read.n_bytes);
            for found in &read.findings {
                let start = found.bytes.start - self.bytes_dropped;
                let stop = found.bytes.end - self.bytes_dropped;
                replace.pass(&self.buffer[at..start]);
                out.push_str(&self.buffer[at..start]);
                replace.replace(found, &self.buffer[start..stop], &mut out)?;
                at = stop;
            }
            replace.pass(&self.buffer[at..piece_end]);
            out.push_str(&self.buffer[at..piece_end]);
            self.waits_from = piece_end;
        }
        self.drop_read();
        Ok(out)
    }

    /// Only the context of what comes is kept.
    fn drop_read(&mut self) {
        let mut n = self.waits_from.saturating_sub(CONTEXT_BYTES_MAX);
        // In large steps: moving what waits costs as much as it is long.
        if n < 4 * CONTEXT_BYTES_MAX {
            return;
        }
        while !self.buffer.is_char_boundary(n) {
            n -= 1;
        }
        self.buffer.drain(..n);
        self.waits_from -= n;
        self.bytes_dropped += n;
    }
}

/// A whole text, changed.
///
/// # Errors
/// As [`Rewriter::push`].
pub fn rewrite(
    analyser: &Analyser,
    wanted: &Wanted,
    text: &str,
    replace: &mut impl Replace,
) -> Result<String, GuardError> {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for found in analyser.analyse(text, wanted)? {
        replace.pass(&text[at..found.bytes.start]);
        out.push_str(&text[at..found.bytes.start]);
        replace.replace(&found, &text[found.bytes.clone()], &mut out)?;
        at = found.bytes.end;
    }
    out.push_str(&text[at..]);
    Ok(out)
}

/// Keeps a text JSON: what stands for a number outside of a string becomes a string.
#[derive(Clone, Debug, Default)]
pub struct InJson<R> {
    pub replace: R,
    in_string: bool,
    is_escaped: bool,
}

impl<R> InJson<R> {
    pub fn new(replace: R) -> Self {
        Self { replace, in_string: false, is_escaped: false }
    }
}

impl<R: Replace> Replace for InJson<R> {
    fn replace(&mut self, found: &Finding, text: &str, out: &mut String) -> Result<(), GuardError> {
        // A finding holds no quote, so whether this is a string is what it was.
        if self.in_string {
            self.is_escaped = false;
            return self.replace.replace(found, text, out);
        }
        out.push('"');
        self.replace.replace(found, text, out)?;
        out.push('"');
        Ok(())
    }

    fn pass(&mut self, text: &str) {
        self.replace.pass(text);
        for byte in text.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = self.in_string,
                b'"' => self.in_string = !self.in_string,
                _ => {}
            }
        }
    }
}

/// Lets nothing pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Block;

impl Replace for Block {
    fn replace(&mut self, found: &Finding, _text: &str, _out: &mut String) -> Result<(), GuardError> {
        Err(GuardError::Blocked { kinds: vec![found.kind] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::HELD_BYTES_MAX;
    use crate::sentence::SENTENCE_BYTES_MAX;
    use crate::{Candidate, Kind, Names, Passage, Recogniser, Redact};
    use proptest::prelude::*;

    const WANTED: Wanted = Wanted { kinds: None, threshold: 0.3 };

    fn streamed(parts: &[&str]) -> String {
        let (mut rewriter, mut names) = (Rewriter::new(&Analyser::default(), &WANTED), Names::default());
        let mut out = String::new();
        for part in parts {
            out += &rewriter.push(part, &mut names).unwrap();
            assert!(rewriter.held() <= HELD_BYTES_MAX);
        }
        out + &rewriter.finish(&mut names).unwrap()
    }

    fn whole(text: &str) -> String {
        rewrite(&Analyser::default(), &WANTED, text, &mut Names::default()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(120))]
        #[test]
        fn a_stream_is_the_whole_text_however_it_is_cut(
            text in r#"([a-z]{1,8} |a@b\.de|my ssn is |536-90-4399|4111 1111 1111 1111|[ ,.
]|GB82 WEST 1234 5698 7654 32|tel\. |\+49 30 1234567|born on |12 March 1980|é|漢|password=|Tr0ub4dor&3x|-----BEGIN PRIVATE KEY-----
|MIIE|-----END PRIVATE KEY-----|[0-9]{1,4}[ .:-]|eyJhbGciOiJIUzI1NiJ9\.|10\.1\.2\.3){0,40}"#,
            cuts in proptest::collection::vec(0usize..900, 0..40),
        ) {
            let mut cuts: Vec<usize> =
                cuts.into_iter().filter(|&cut| cut < text.len() && text.is_char_boundary(cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            prop_assert_eq!(streamed(&parts), whole(&text));
        }
    }

    /// Knows a name by what stands in front of it, as a model of names does.
    struct Titled;

    impl Recogniser for Titled {
        fn name(&self) -> &'static str {
            "titled"
        }

        fn kinds(&self) -> &'static [Kind] {
            &[Kind::Person]
        }

        fn find(&self, passage: Passage<'_>, found: &mut Vec<Candidate>) -> Result<(), GuardError> {
            let text = &passage.text()[passage.from()..];
            for (at, title) in ["Ms.", "Dr.", "J."].into_iter().flat_map(|title| text.match_indices(title)) {
                let rest = &text[at + title.len()..];
                let Some(name) = rest.strip_prefix([' ', '\n']) else { continue };
                // Two words, where the second is a name too.
                let word = |text: &str| text.find(|c: char| !c.is_alphabetic()).unwrap_or(text.len());
                let mut n = word(name);
                if let Some(second) = name[n..].strip_prefix(" S") {
                    n += 2 + word(second);
                }
                let start = passage.from() + at + title.len() + 1;
                found.push(Candidate {
                    kind: Kind::Person,
                    bytes: start..start + n,
                    score: 1.0,
                    why: "a title",
                });
            }
            found.retain(|candidate| !candidate.bytes.is_empty());
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn names_behind_titles_are_masked_however_a_stream_is_cut(
            text in r"([a-z]{1,6} |(Ms|Dr|J)\.[ \n]Delgado[.,]? |[.!?] |no\. |5 |\n|é ){0,40}",
            cuts in proptest::collection::vec(0usize..400, 0..20),
        ) {
            let mut cuts: Vec<usize> =
                cuts.into_iter().filter(|&cut| cut < text.len() && text.is_char_boundary(cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let analyser = Analyser::of_sentences(vec![Box::new(Titled)]);
            let expected = rewrite(&analyser, &WANTED, &text, &mut Names::default()).unwrap();
            prop_assert!(text.len() > SENTENCE_BYTES_MAX || !expected.contains("Delgado"), "{}", expected);
            let (mut rewriter, mut names) = (Rewriter::new(&analyser, &WANTED), Names::default());
            let mut out = String::new();
            for cut in cuts.windows(2) {
                out += &rewriter.push(&text[cut[0]..cut[1]], &mut names).unwrap();
                prop_assert!(rewriter.held() <= SENTENCE_BYTES_MAX);
            }
            prop_assert_eq!(out + &rewriter.finish(&mut names).unwrap(), expected);
        }
    }

    /// A sentence of two windows and more, with a name at each place about the end of the first.
    #[test]
    fn a_name_at_the_end_of_a_window_is_whole_in_the_next() {
        let analyser = Analyser::of_sentences(vec![Box::new(Titled)]);
        for name in ["Dr. Delgado", "Dr.\nDelgado Smith", "J. Smith"] {
            for n in (700..=1040).step_by(3) {
                let front: String = "some words é ".chars().cycle().take(n).collect();
                let text = format!("{} {name} {}", front.trim_end(), "and more words ".repeat(100));
                let expected = rewrite(&analyser, &WANTED, &text, &mut Redact).unwrap();
                let masked = format!("{}<PERSON> and", &name[..name.find('.').unwrap() + 2]);
                assert!(expected.contains(&masked), "{name:?} behind {n}: {expected}");
                assert_eq!(expected.matches("<PERSON>").count(), 1, "{name:?} behind {n}");
                let mut rewriter = Rewriter::new(&analyser, &WANTED);
                let mut out = String::new();
                for c in text.chars() {
                    out += &rewriter.push(c.encode_utf8(&mut [0; 4]), &mut Redact).unwrap();
                    assert!(rewriter.held() <= SENTENCE_BYTES_MAX);
                }
                assert_eq!(out + &rewriter.finish(&mut Redact).unwrap(), expected, "{name:?} behind {n}");
            }
        }
    }

    #[test]
    fn every_cut_of_a_text_gives_the_same() {
        let text = "Ich, José, born on 12 March 1980, mail jose@example.com, card 4111 1111 1111 1111, tel. +49 30 1234567.";
        let expected = whole(text);
        assert_eq!(
            expected,
            "Ich, José, born on <DATE_OF_BIRTH_1>, mail <EMAIL_ADDRESS_1>, card <CREDIT_CARD_1>, tel. <PHONE_NUMBER_1>."
        );
        let chars: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(streamed(&chars.iter().map(String::as_str).collect::<Vec<_>>()), expected);
        for (cut, _) in text.char_indices() {
            assert_eq!(streamed(&[&text[..cut], &text[cut..]]), expected);
        }
    }

    #[test]
    fn long_texts_without_a_space_are_the_same_in_parts() {
        let text = "{'mail':'a@b.de','n':123456,'card':'4111111111111111',".repeat(400);
        let parts: Vec<&str> =
            text.as_bytes().chunks(17).map(|part| std::str::from_utf8(part).unwrap()).collect();
        let expected = whole(&text);
        assert_eq!(streamed(&parts), expected);
        assert_eq!(expected.matches("<EMAIL_ADDRESS_1>").count(), 400);
        assert_eq!(expected.matches("<CREDIT_CARD_1>").count(), 400);
    }

    #[test]
    fn ordinary_words_wait_for_their_own_end_alone() {
        let mut rewriter = Rewriter::new(&Analyser::default(), &WANTED);
        assert_eq!(rewriter.push("Hello wor", &mut Redact).unwrap(), "Hello ");
        assert_eq!(rewriter.push("ld, 12", &mut Redact).unwrap(), "world, ");
        assert_eq!(rewriter.push(" apples are ", &mut Redact).unwrap(), "12 apples are ");
        assert_eq!(rewriter.held(), 0);
    }

    #[test]
    fn json_stays_json() {
        let text = r#"{"card": 4111111111111111, "to": "a@b.de \" 10.1.2.3", "n": [5555555555554444]}"#;
        let expected =
            r#"{"card": "<CREDIT_CARD>", "to": "<EMAIL_ADDRESS> \" <IP_ADDRESS>", "n": ["<CREDIT_CARD>"]}"#;
        let mut whole = InJson::new(Redact);
        assert_eq!(rewrite(&Analyser::default(), &WANTED, text, &mut whole).unwrap(), expected);
        let (mut rewriter, mut replace) = (Rewriter::new(&Analyser::default(), &WANTED), InJson::new(Redact));
        let parts = text.chars().map(|c| rewriter.push(&c.to_string(), &mut replace).unwrap());
        let streamed: String = parts.collect();
        assert_eq!(streamed + &rewriter.finish(&mut replace).unwrap(), expected);
    }

    #[test]
    fn what_is_blocked_does_not_go_on() {
        let mut rewriter = Rewriter::new(&Analyser::default(), &WANTED);
        assert_eq!(rewriter.push("mail ", &mut Block).unwrap(), "mail ");
        let error = rewriter.push("a@b.de ok then ", &mut Block).unwrap_err();
        assert_eq!(error.to_string(), "the text holds EMAIL_ADDRESS");
    }
}
