//! Names that stand for what was found, and the way back: `<EMAIL_ADDRESS_1>`.
//!
//! A name is good for the texts of one request. What a text says literally is never given as a name, so nothing that
//! a user writes is mistaken for one of ours.

use crate::{Finding, GuardError, Kind, Replace};
use std::collections::{HashMap, HashSet};

/// Values that one request may have.
pub const VALUES_MAX: usize = 10_000;
/// `<`, the longest kind, `_`, a number, `>`: characters that may wait for the end of a name.
pub const NAME_BYTES_MAX: usize = 32;

/// Values by their names. Equal values of one kind have one name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// In the order in which they were given.
    given: Vec<(String, String)>,
    by_value: HashMap<(Kind, String), usize>,
    by_name: HashMap<String, usize>,
    counts: HashMap<Kind, usize>,
    taken: HashSet<String>,
}

/// Says how many there are; never what.
impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("n", &self.given.len()).finish()
    }
}

impl Names {
    /// Names that stand in `text` already are nobody's. Of all texts, before any name is given.
    pub fn avoid(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find('<') {
            rest = &rest[at..];
            if let Some(name) = name_at(rest) {
                self.taken.insert(name.to_owned());
            }
            rest = &rest[1..];
        }
    }

    /// Names for another direction, none of which is one of these.
    #[must_use]
    pub fn beside(&self) -> Names {
        let taken = self.taken.iter().chain(self.by_name.keys()).cloned().collect();
        Names { taken, ..Names::default() }
    }

    /// The name of a value.
    ///
    /// # Errors
    /// There are [`VALUES_MAX`] already.
    pub fn name(&mut self, kind: Kind, value: &str) -> Result<&str, GuardError> {
        if let Some(&i) = self.by_value.get(&(kind, value.to_owned())) {
            return Ok(&self.given[i].0);
        }
        if self.given.len() >= VALUES_MAX {
            return Err(GuardError::TooMany { n_max: VALUES_MAX });
        }
        let count = self.counts.entry(kind).or_default();
        let name = loop {
            *count += 1;
            let name = format!("<{kind}_{count}>");
            if !self.taken.contains(&name) {
                break name;
            }
        };
        let i = self.given.len();
        self.by_value.insert((kind, value.to_owned()), i);
        self.by_name.insert(name.clone(), i);
        self.given.push((name, value.to_owned()));
        Ok(&self.given[i].0)
    }

    /// What a name stands for.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.by_name.get(name).map(|&i| self.given[i].1.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Every name with its value.
    pub fn given(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.given.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// From names and values that were given before; for the way back alone.
impl FromIterator<(String, String)> for Names {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(given: I) -> Self {
        let given: Vec<_> = given.into_iter().collect();
        let by_name = given.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        Names { given, by_name, ..Names::default() }
    }
}

/// Puts a name in the place of each finding.
impl Replace for Names {
    fn replace(&mut self, found: &Finding, text: &str, out: &mut String) -> Result<(), GuardError> {
        out.push_str(self.name(found.kind, text)?);
        Ok(())
    }
}

/// Puts the kind in the place of each finding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redact;

impl Replace for Redact {
    fn replace(&mut self, found: &Finding, _text: &str, out: &mut String) -> Result<(), GuardError> {
        out.extend(["<", found.kind.as_str(), ">"]);
        Ok(())
    }
}

/// Leaves what was found as it is: what is reported is changed by nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep;

impl Replace for Keep {
    fn replace(&mut self, _found: &Finding, text: &str, out: &mut String) -> Result<(), GuardError> {
        out.push_str(text);
        Ok(())
    }
}

/// Whether a byte may stand in a name after its `<`.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'
}

/// The name with which a text begins.
fn name_at(text: &str) -> Option<&str> {
    let n = text.bytes().skip(1).take(NAME_BYTES_MAX).take_while(|byte| is_of_name(*byte)).count();
    (n > 0 && text.as_bytes().get(n + 1) == Some(&b'>')).then(|| &text[..n + 2])
}

/// How a value is written into the text around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Written {
    #[default]
    Plain,
    /// Inside of a string of JSON.
    Json,
}

/// Puts values back in the place of their names, in a text that comes in parts. At most [`NAME_BYTES_MAX`] + 1 bytes
/// wait.
#[derive(Clone, Debug, Default)]
pub struct Restorer {
    waits: String,
    written: Written,
}

impl Restorer {
    pub fn new(written: Written) -> Self {
        Self { waits: String::new(), written }
    }

    /// What can go on now that `text` has come.
    pub fn push(&mut self, names: &Names, text: &str) -> String {
        if names.is_empty() {
            return text.to_owned();
        }
        self.waits.push_str(text);
        let (mut out, mut at) = (String::with_capacity(text.len()), 0);
        while let Some(start) = self.waits[at..].find('<').map(|n| at + n) {
            out.push_str(&self.waits[at..start]);
            let rest = &self.waits[start..];
            if let Some(name) = name_at(rest) {
                match names.value(name) {
                    Some(value) => self.written.push(value, &mut out),
                    None => out.push_str(name),
                }
                at = start + name.len();
            } else if rest.len() <= NAME_BYTES_MAX && rest.bytes().skip(1).all(is_of_name) {
                self.waits.drain(..start);
                return out;
            } else {
                out.push('<');
                at = start + 1;
            }
        }
        out.push_str(&self.waits[at..]);
        self.waits.clear();
        out
    }

    /// Nothing more comes: the rest.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.waits)
    }
}

impl Written {
    fn push(self, value: &str, out: &mut String) {
        if self == Written::Plain {
            return out.push_str(value);
        }
        for c in value.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => out.push(c),
            }
        }
    }
}

/// A whole text with its values back.
pub fn restore(names: &Names, text: &str, written: Written) -> String {
    let mut restorer = Restorer::new(written);
    restorer.push(names, text) + &restorer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::rewrite;
    use crate::{Analyser, Wanted};
    use proptest::prelude::*;

    fn mask(text: &str) -> (String, Names) {
        let mut names = Names::default();
        names.avoid(text);
        let masked = rewrite(&Analyser::default(), &Wanted::default(), text, &mut names).unwrap();
        (masked, names)
    }

    #[test]
    fn equal_values_have_one_name_and_come_back() {
        let text = "a@b.de wrote to c@d.de and a@b.de from 8.8.4.4";
        let (masked, names) = mask(text);
        assert_eq!(
            masked,
            "<EMAIL_ADDRESS_1> wrote to <EMAIL_ADDRESS_2> and <EMAIL_ADDRESS_1> from <IP_ADDRESS_1>"
        );
        assert_eq!(restore(&names, &masked, Written::Plain), text);
        assert_eq!(format!("{names:?}"), "Names { n: 3 }");
    }

    #[test]
    fn a_name_that_a_user_wrote_is_not_given() {
        let text = "<EMAIL_ADDRESS_1> is not a@b.de";
        let (masked, names) = mask(text);
        assert_eq!(masked, "<EMAIL_ADDRESS_1> is not <EMAIL_ADDRESS_2>");
        assert_eq!(restore(&names, &masked, Written::Plain), text);
    }

    #[test]
    fn names_of_two_directions_differ() {
        let (_, names) = mask("a@b.de <EMAIL_ADDRESS_2>");
        let mut out = names.beside();
        assert_eq!(out.name(Kind::Email, "c@d.de").unwrap(), "<EMAIL_ADDRESS_3>");
        assert_eq!(out.name(Kind::Iban, "x").unwrap(), "<IBAN_CODE_1>");
    }

    #[test]
    fn names_of_nobody_stay() {
        let (_, names) = mask("a@b.de");
        for text in ["<EMAIL_ADDRESS_2> <", "<EMAIL_ADDRESS_", "a < b > c", "<<EMAIL", "<EMAIL_ADDRESS_1 >"] {
            assert_eq!(restore(&names, text, Written::Plain), text);
        }
        assert_eq!(restore(&names, "<<EMAIL_ADDRESS_1>>", Written::Plain), "<a@b.de>");
    }

    #[test]
    fn values_are_strings_of_json_in_json() {
        let names: Names = [("<SECRET_1>".to_owned(), "a\"\\\n\u{1}".to_owned())].into_iter().collect();
        assert_eq!(restore(&names, "{\"a\":\"<SECRET_1>\"}", Written::Json), r#"{"a":"a\"\\\n\u0001"}"#);
    }

    #[test]
    fn the_longest_name_fits() {
        let longest = Kind::ALL.iter().map(|kind| kind.as_str().len()).max().unwrap();
        assert!(longest + "<_10000>".len() <= NAME_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn values_come_back_however_a_text_is_cut(
            text in "(<EMAIL_ADDRESS_[12]>|[a-z <>_A-Z1]{0,8}){0,12}",
            cuts in proptest::collection::vec(0usize..200, 0..20),
        ) {
            let (_, names) = mask("a@b.de");
            let whole = restore(&names, &text, Written::Plain);
            prop_assert_eq!(&whole, &text.replace("<EMAIL_ADDRESS_1>", "a@b.de"));
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut < text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (mut restorer, mut out) = (Restorer::default(), String::new());
            for cut in cuts.windows(2) {
                out += &restorer.push(&names, &text[cut[0]..cut[1]]);
                prop_assert!(restorer.waits.len() <= NAME_BYTES_MAX + 1);
            }
            prop_assert_eq!(out + &restorer.finish(), whole);
        }
    }
}
